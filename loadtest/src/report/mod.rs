//! Results of a run: collected during it, kept as a record, shown as a table or a page.
//!
//! Owner:    each shard has its `Collector`; one thread joins the seconds of all (`Seconds`); the record
//!           is made when the run is over.
//! Promise:  latencies keep three digits, from 1 us to an hour. Tables and pages are made from the
//!           histograms of the record.
//!
//! ```text
//! collector  histograms of one shard         seconds    one histogram per second of all shards
//! record     one run as JSON                 histogram  latencies and their text
//! machine    CPU, memory, disk
//! terminal   tables for a terminal           table      columns of text
//! html       the page                        charts     its pictures
//! rows       figures of several runs         number     how figures are printed
//! outputs    the flags of every run          command    `ringpost-load report`
//! ```

mod charts;
mod collector;
pub mod command;
mod command_line;
mod histogram;
mod html;
mod machine;
mod number;
mod outputs;
mod record;
mod rows;
mod seconds;
pub mod table;
mod terminal;

pub use collector::Collector;
pub(crate) use collector::marks;
pub use command_line::command_line;
pub use histogram::Hdr;
pub use histogram::QUANTILES;
pub use histogram::Stage;
pub use histogram::add_stages;
pub use machine::describe_machine;
pub use number::rounded;
pub use outputs::Outputs;
pub use record::Interval;
pub use record::Record;
pub use record::Verdict;
pub use record::by_name;
pub use seconds::Seconds;
