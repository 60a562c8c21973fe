//! The hottest paths: set up once, then run any number of times.
//!
//! `guard` counts their instructions and the benches measure their time, so that both measure the same
//! work. No path uses a clock, facts of the machine, or random numbers; its input is made here.

#![allow(dead_code, reason = "each bench uses its part of this")]

pub mod client;
pub mod delivery;
pub mod receive;
pub mod record;

/// One turn of a path. What it answers depends on all the work, so that none is left out.
pub type Path = Box<dyn FnMut() -> u64>;

/// Makes a path ready.
pub type Make = fn() -> Path;

/// The paths under guard, by their names.
pub const GUARDED: &[(&str, Make)] = &[
    ("dialogue", receive::dialogue),
    ("dots", receive::dots),
    ("header", receive::header),
    ("client", client::pipelined_mail),
    ("record", record::envelope_and_job),
    ("home", delivery::home),
    ("schedule", delivery::schedule),
    ("route", delivery::route),
    ("log", delivery::log_line),
];
