//! Ringpost as its users and its attackers meet it: the built binary, real sockets, real clients.
//!
//! Whatever a test needs of the machine (swaks, openssl, python3, curl, root) it names when it is
//! missing, and fails.

mod bodies;
mod clients;
mod commands;
mod hostile;
mod kit;
mod limits;
mod lines;
mod logs;
mod operators;
mod policy;
mod privileges;
mod process;
mod refusals;
mod reload;
mod starved;
#[path = "../support/mod.rs"]
mod support;
mod timing;
mod tls;
mod watching;
