//! Tests of the whole server: each starts `ringpost` as a process and talks to it over loopback.
//!
//! One binary, because each links RocksDB. Run one part with `cargo test --test server container::`.

mod container;
mod crash;
mod dialogue;
mod doctor;
mod drain;
mod full_disk;
mod power_cut;
#[path = "../queue_rig/mod.rs"]
mod queue_rig;
mod rates;
mod relay;
mod relay_bounce;
mod relay_crash;
mod relay_parts;
mod relay_tls;
mod scenario;
#[path = "../support/mod.rs"]
mod support;
mod ways_out;
