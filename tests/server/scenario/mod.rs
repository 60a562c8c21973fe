//! Scenarios of users and attackers: the built binary, real sockets, real clients.
//!
//! A test that needs a program or privilege (swaks, openssl, python3, curl, root) fails with its
//! name if it is missing.

mod bodies;
mod clients;
mod commands;
mod events;
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
mod timing;
mod tls;
mod watching;
