//! Mail to faulty receivers: each state of a session fails in each way, and later works.
//!
//! In all cases: nothing is lost; nothing arrives twice unless the reply to a whole body was lost,
//! and then the log says so; a permanent failure is reported once, and only to its sender; the
//! queue is empty in the end; the number of connections is limited; a healthy receiver is not
//! delayed.

mod bodies;
mod idle;
mod labels;
mod login;
mod order;
mod receiver;
mod rig;
mod sink;
mod states;
