//! Tests of the queue on a real disk, through its public interface.
//!
//! One binary, because each links RocksDB. Run one part with `cargo test --test queue commit::`.

mod commit;
mod damage;
mod events;
mod faults;
#[path = "../support/model_store.rs"]
mod model_store;
mod on_shard;
#[path = "../queue_rig/mod.rs"]
mod queue_rig;
mod recover;
mod schedule;
mod schema;
mod settle;
mod spool;
