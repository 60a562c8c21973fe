//! Watches the shards of a source or a sink: an executor that has fallen asleep with work to do is
//! woken, and who measures hears of it if that does not help.

use std::time::Duration;

use ringpost::rt::ShardThread;
use ringpost::rt::Watchdog;

/// A shard that has not run for so long was not measured, nor did it measure.
const STALL_MAX: Duration = Duration::from_secs(2);

/// Until what it answers is dropped.
pub fn watch(shards: &[ShardThread]) -> Result<Watchdog, String> {
    let heartbeats = shards.iter().map(ShardThread::heartbeat).collect();
    let on_stall = |shard: &str| {
        eprintln!(
            "ringpost-load: {shard} did not run for {} s; figures of that time are those of a machine \
             that is too busy",
            STALL_MAX.as_secs()
        );
    };
    Watchdog::start(heartbeats, STALL_MAX, on_stall)
        .map_err(|fault| format!("{fault}: {}", fault.remedy()))
}
