//! Counts of a sink. One thread writes each, any thread may read it.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

macro_rules! tally {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// The counts of one shard.
        #[derive(Debug, Default)]
        pub struct Tally { $($(#[$doc])* pub $name: AtomicU64,)* }

        /// The counts of a sink.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
        pub struct Counts { $($(#[$doc])* pub $name: u64,)* }

        impl Tally {
            pub fn add_to(&self, counts: &mut Counts) {
                $(counts.$name += self.$name.load(Ordering::Relaxed);)*
            }
        }
    };
}

tally! {
    /// Connections accepted.
    connections,
    /// Connections ended.
    sessions,
    /// Sessions ended by QUIT.
    quits,
    /// Messages accepted for at least one recipient.
    messages,
    /// Messages times recipients accepted.
    copies,
    /// Copies whose body differs from the one that was sent.
    corrupted,
    /// Delivery status notifications.
    reports,
    /// Bytes of bodies, refused ones included.
    body_bytes,
    /// 4xx replies.
    soft_refusals,
    /// 5xx replies.
    hard_refusals,
    /// Connections that a behaviour ended, without a reply or with 421.
    broken_off,
    /// Failed attempts to accept a connection, mostly for lack of file descriptors.
    accept_faults,
}

/// Adds to a count that only this thread writes.
pub fn count(one: &AtomicU64, more: u64) {
    one.store(one.load(Ordering::Relaxed) + more, Ordering::Relaxed);
}
