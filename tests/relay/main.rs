//! Mail to hostile receivers: each state of a session fails in each way, and then does not.
//!
//! For all of them: nothing is lost; nothing arrives twice but where the answer to a whole body was
//! lost, and then the log says so; who was refused for good is told once and nobody else is; the
//! queue is empty in the end; no receiver is called without measure; a healthy one beside them does
//! not wait.

#[path = "../support/mod.rs"]
mod support;

mod bodies;
mod idle;
mod labels;
mod login;
mod order;
mod receiver;
mod rig;
mod sink;
mod states;
