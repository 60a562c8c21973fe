//! The source: sessions that send messages, one after the other or at a given rate.
//!
//! Owner:    one shard per `--cores`, each with its share of the sessions.
//! Promise:  with `--rate`, message n begins at n / rate, whatever happened to the messages before. If no
//!           session is free it begins late, and the delay is part of its latency. The same holds for
//!           ramps, steps and random arrivals. Messages that were due and not sent are counted.
//!
//! ```text
//! command    the run from start to stop    options, secure   the command line
//! plan       what all sessions share       shape, schedule    when each message begins
//! session    sends messages                place      the address of the server
//! message    sender, recipients, header    body, eml  bodies: generated, or from files
//! sizes, weights, header                   parts of a message
//! fates, steps, stages, finished           results
//! ```

mod body;
mod command;
mod eml;
mod fates;
mod finished;
mod header;
mod message;
pub mod options;
mod place;
mod plan;
mod schedule;
mod secure;
mod session;
mod shape;
mod sizes;
pub mod stages;
mod steps;
mod weights;

pub use command::run;
pub use command::send_live;
pub use finished::Finished;
