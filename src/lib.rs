//! Ringpost: a mail transfer agent for bulk and transactional sending.
//!
//! One process, one executor per core, no locks on the data path.
//!
//! # The path of a message
//!
//! ```text
//! accept    inbound::listener   core A, its own SO_REUSEPORT socket
//! converse  inbound::session    <-> wire::smtp::server     bytes -> Step
//! decide    inbound::gate       Step::Ask(question) -> Verdict, perhaps from another thread
//! submit    submit::incoming    Submission {identity, envelope, header block}, from every way in
//! header    submit::edit        bounded block, ordered edits, trace field, signature
//! body      inbound::data       pooled chunks, dots unstuffed in place, constant memory per session
//! commit    queue::commit       one batch, one sync, then 250                  == durable ==
//! choose    delivery::home      one state per job; delivery::resolve finds its servers
//! hand over handoff::mesh       Frame::Deliver to the owner of the destination
//! schedule  delivery::owner     turns, windows, rates, backoff (never awaits)
//! send      delivery::connection -> transfer <-> wire::smtp::client
//! report    handoff::mesh       Frame::Settle back to the home
//! finish    delivery::settle    -> queue::commit::settle: done | later | bounce, one batch with its sync
//! ```
//!
//! # Layers, lowest first
//!
//! A folder imports only folders of a strictly lower layer; `tests/tidy/tidy.rs` reads the `use` lines
//! and enforces it.
//!
//! ```text
//! L0  base                         ids, limits, clock and other shared types; std only
//! L1  wire  observe  rt            bytes <-> values | log records, metrics | the only importer of glommio
//! L2  config  event  net           TOML and environment -> checked config | durable facts | TLS, DNS
//! L3  directory  route             who sends: tenants, identities | who may relay, and where to
//! L4  queue                        RocksDB
//! L5  handoff                      communication between threads: frames, uploads, questions
//! L6  submit                       submission -> header -> body -> commit, from every way in
//! L7  inbound  delivery            the SMTP server | the sending half
//! L8  shard                        one of each, on one core
//! L9  operations                   requests, results and permissions of all operations; no I/O
//! L10 control                      carries out operations; tokio, on threads of its own
//! L11 monitor                      metrics, health, readiness; a runtime and listener of its own
//! L12 boot                         from a config to running shards
//! L13 doctor                       examines the machine
//! L14 cli                          arguments -> operation -> text or JSON; main is a page
//! ```
//!
//! # Invariants
//!
//! 1. Immutable data may be shared across cores; mutable data has exactly one owner.
//! 2. A 250 after the body survives a power cut: one synced write batch stands before it.
//! 3. Parsing is pure: no I/O, clock or config.
//! 4. Only CRLF ends a line, only CRLF.CRLF ends a body, and only `wire` decides so.
//! 5. Every queue, list and wait has a limit and an answer for the full case.

/// So that the files of `tests/support` that unit tests share name this crate as the tests do.
#[cfg(test)]
extern crate self as ringpost;
#[cfg(test)]
#[path = "../tests/support/model_store.rs"]
mod model_store;

pub mod base;
pub mod boot;
pub mod cli;
pub mod config;
pub mod control;
pub mod delivery;
pub mod directory;
pub mod doctor;
pub mod event;
pub mod handoff;
pub mod inbound;
pub mod monitor;
pub mod net;
pub mod observe;
pub mod operations;
pub mod queue;
pub mod route;
pub mod rt;
pub mod shard;
pub mod submit;
pub mod wire;
