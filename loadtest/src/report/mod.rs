//! What a run measured: collected on the way, kept as a record, and shown in every form.
//!
//! Owner:    each shard its `Collector`; one thread the seconds of all (`Seconds`); the record is
//!           made when the run is over.
//! Promise:  a latency is kept with three digits, from 1 us to an hour, whatever form it is shown
//!           in: tables, pages and files are all made of the histograms of the record.

mod charts;
mod collector;
pub mod command;
mod hgrm;
mod html;
mod interval_log;
mod machine;
mod outputs;
mod record;
mod seconds;
mod terminal;

pub use collector::Collector;
pub use collector::Latencies;
pub use collector::Stages;
pub use collector::latencies;
pub use machine::Machine;
pub use outputs::Outputs;
pub use record::Hdr;
pub use record::Interval;
pub use record::QUANTILES;
pub use record::Record;
pub use record::Stage;
pub use record::Verdict;
pub use seconds::Live;
pub use seconds::Seconds;
pub use terminal::head_line;
pub use terminal::stage_line;
