//! Tests of single parts through the library: runtime, TLS, resolver, configuration, log, tuning files.
//!
//! One binary, because each links RocksDB. Run one part with `cargo test --test parts client_socket::`.

mod client_socket;
mod config_reference;
mod fuzz_corpus;
mod observe;
mod resolver;
mod rt_conformance;
#[path = "../support/mod.rs"]
mod support;
mod tls_suite;
mod tuning;
