//! Watches the shards of a source or a sink: wakes an executor that sleeps although it has work, and
//! warns if that does not help.

use std::time::Duration;

use ringpost::rt::ShardThread;
use ringpost::rt::Watchdog;

/// A longer stall makes the figures invalid.
const STALL_MAX: Duration = Duration::from_secs(2);

/// Watches until the return value is dropped.
pub fn watch(shards: &[ShardThread]) -> Result<Watchdog, String> {
    let heartbeats = shards.iter().map(ShardThread::heartbeat).collect();
    let on_stall = |shard: &str| {
        eprintln!(
            "ringpost-load: {shard} did not run for {} s: the machine is too busy and the figures are \
             not valid",
            STALL_MAX.as_secs()
        );
    };
    Watchdog::start(heartbeats, STALL_MAX, on_stall)
        .map_err(|fault| format!("{fault}: {}", fault.remedy()))
}
