//! Connection counts: open connections in all, per address and per network, and new connections of
//! an address per minute.
//!
//! Owner:    each shard writes its own counters and reads those of all shards. There is no lock, and
//!           no counter that two cores write.
//! Promise:  an admitted connection is counted until its `Admission` is dropped, also when its session
//!           panics. Shards that admit at the same instant may exceed a limit by one connection each.
//! Bounds:   each shard has a table of fixed size. Addresses share counters by a keyed hash in two
//!           rows, and the smaller counter counts: a count may be too high after two collisions,
//!           never too low, and a client cannot provoke a collision.

use std::hash::BuildHasher;
use std::hash::RandomState;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

const ROW_SLOTS: usize = 1 << 14;
const ROWS: usize = 2;
/// Seconds over which the rate of connections is counted.
const WINDOW_SECONDS: u64 = 60;

/// The configured limits. Zero means no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    pub connections: u32,
    pub per_address: u32,
    pub per_network: u32,
    pub per_address_per_minute: u32,
    pub network_bits_v4: u8,
    pub network_bits_v6: u8,
}

/// No limits.
pub const UNLIMITED: ConnectionLimits = ConnectionLimits {
    connections: 0,
    per_address: 0,
    per_network: 0,
    per_address_per_minute: 0,
    network_bits_v4: 32,
    network_bits_v6: 128,
};

/// The limit that a connection would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooMany {
    InAll,
    PerAddress,
    PerNetwork,
    PerMinute,
}

impl TooMany {
    pub fn name(self) -> &'static str {
        match self {
            TooMany::InAll => "connections",
            TooMany::PerAddress => "connections_per_address",
            TooMany::PerNetwork => "connections_per_network",
            TooMany::PerMinute => "connection_rate_per_address",
        }
    }

    /// The text of the reply `421 4.7.0`.
    pub fn text(self) -> &'static str {
        match self {
            TooMany::InAll => "Too many connections, try again later",
            TooMany::PerAddress => "Too many connections from your address, try again later",
            TooMany::PerNetwork => "Too many connections from your network, try again later",
            TooMany::PerMinute => "You are connecting too fast, try again later",
        }
    }
}

/// The counters of one shard: that shard writes them, all shards read them.
struct ShardCounts {
    open: AtomicU32,
    addresses: Box<[AtomicU32]>,
    networks: Box<[AtomicU32]>,
    /// The minute in the upper half, the connections of that minute in the lower.
    arrivals: Box<[AtomicU64]>,
}

impl ShardCounts {
    fn new() -> ShardCounts {
        ShardCounts {
            open: AtomicU32::new(0),
            addresses: (0..ROWS * ROW_SLOTS).map(|_| AtomicU32::new(0)).collect(),
            networks: (0..ROWS * ROW_SLOTS).map(|_| AtomicU32::new(0)).collect(),
            arrivals: (0..ROWS * ROW_SLOTS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

/// The counters of all shards. Created at start, shared by all shards.
pub struct SharedCounts {
    shards: Vec<ShardCounts>,
    keys: [RandomState; ROWS],
}

impl SharedCounts {
    pub fn new(shards: usize) -> Arc<SharedCounts> {
        let shards = (0..shards).map(|_| ShardCounts::new()).collect();
        Arc::new(SharedCounts { shards, keys: [RandomState::new(), RandomState::new()] })
    }

    fn slots(&self, key: &(IpAddr, u8)) -> [usize; ROWS] {
        let mut slots = [0; ROWS];
        for (row, slot) in slots.iter_mut().enumerate() {
            *slot = row * ROW_SLOTS + self.keys[row].hash_one(key) as usize % ROW_SLOTS;
        }
        slots
    }

    fn open(&self) -> u32 {
        self.shards.iter().map(|shard| shard.open.load(Ordering::Relaxed)).sum()
    }

    fn count(&self, slots: [usize; ROWS], column: impl Fn(&ShardCounts, usize) -> u32) -> u32 {
        slots
            .iter()
            .map(|slot| self.shards.iter().map(|shard| column(shard, *slot)).sum())
            .min()
            .unwrap_or(0)
    }
}

/// The handle of one shard.
#[derive(Clone)]
pub struct ConnectionCounter {
    counts: Arc<SharedCounts>,
    shard: usize,
}

impl ConnectionCounter {
    pub fn new(counts: Arc<SharedCounts>, shard: usize) -> ConnectionCounter {
        assert!(shard < counts.shards.len(), "every shard has its counters");
        ConnectionCounter { counts, shard }
    }

    /// Counts the connection, or returns the limit that it would exceed.
    pub fn try_admit(
        self: &Rc<ConnectionCounter>,
        peer: IpAddr,
        limits: &ConnectionLimits,
        now_ms: u64,
    ) -> Result<Admission, TooMany> {
        let counts = &*self.counts;
        let peer = peer.to_canonical();
        let address = counts.slots(&(peer, 255));
        let network = counts.slots(&network_of(peer, limits));
        let minute = now_ms / 1000 / WINDOW_SECONDS;
        let arrivals = counts.count(address, |shard, slot| {
            let packed = shard.arrivals[slot].load(Ordering::Relaxed);
            if packed >> 32 == minute { packed as u32 } else { 0 }
        });
        self.note_arrival(address, minute);
        let counts = [
            (counts.open(), limits.connections, TooMany::InAll),
            (
                counts.count(address, |s, slot| s.addresses[slot].load(Ordering::Relaxed)),
                limits.per_address,
                TooMany::PerAddress,
            ),
            (
                counts.count(network, |s, slot| s.networks[slot].load(Ordering::Relaxed)),
                limits.per_network,
                TooMany::PerNetwork,
            ),
            (arrivals, limits.per_address_per_minute, TooMany::PerMinute),
        ];
        for (count, limit, crowded) in counts {
            if limit > 0 && count >= limit {
                return Err(crowded);
            }
        }
        Ok(Admission::new(self, address, network))
    }

    /// Refused connections count as well, so that a client that keeps trying stays refused.
    fn note_arrival(&self, address: [usize; ROWS], minute: u64) {
        for slot in address {
            let cell = &self.counts.shards[self.shard].arrivals[slot];
            let packed = cell.load(Ordering::Relaxed);
            let count = if packed >> 32 == minute { packed as u32 } else { 0 };
            cell.store(minute << 32 | u64::from(count.saturating_add(1)), Ordering::Relaxed);
        }
    }

    fn shift(&self, address: [usize; ROWS], network: [usize; ROWS], by: i32) {
        let shard = &self.counts.shards[self.shard];
        add(&shard.open, by);
        for slot in address {
            add(&shard.addresses[slot], by);
        }
        for slot in network {
            add(&shard.networks[slot], by);
        }
    }
}

/// A counted connection. Dropping it ends the count.
pub struct Admission {
    counter: Rc<ConnectionCounter>,
    address: [usize; ROWS],
    network: [usize; ROWS],
}

impl Admission {
    fn new(
        counter: &Rc<ConnectionCounter>,
        address: [usize; ROWS],
        network: [usize; ROWS],
    ) -> Admission {
        counter.shift(address, network, 1);
        Admission { counter: Rc::clone(counter), address, network }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.counter.shift(self.address, self.network, -1);
    }
}

/// Each counter has one writer, so a load and a store are enough for an addition.
fn add(cell: &AtomicU32, by: i32) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add_signed(by), Ordering::Relaxed);
}

fn network_of(peer: IpAddr, limits: &ConnectionLimits) -> (IpAddr, u8) {
    match peer {
        IpAddr::V4(v4) => {
            let bits = limits.network_bits_v4.min(32);
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            (IpAddr::V4((v4.to_bits() & mask).into()), bits)
        }
        IpAddr::V6(v6) => {
            let bits = limits.network_bits_v6.min(128);
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            (IpAddr::V6((v6.to_bits() & mask).into()), bits)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ConnectionLimits = ConnectionLimits {
        connections: 5,
        per_address: 2,
        per_network: 3,
        per_address_per_minute: 0,
        network_bits_v4: 24,
        network_bits_v6: 56,
    };

    fn counters() -> (Rc<ConnectionCounter>, Rc<ConnectionCounter>) {
        let counts = SharedCounts::new(2);
        (
            Rc::new(ConnectionCounter::new(Arc::clone(&counts), 0)),
            Rc::new(ConnectionCounter::new(counts, 1)),
        )
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("a test address")
    }

    #[test]
    fn each_limit_counts_over_all_shards() {
        let (one, two) = counters();
        let try_from = |counter: &Rc<ConnectionCounter>, peer: &str| {
            counter.try_admit(address(peer), &LIMITS, 0)
        };
        let first = try_from(&one, "192.0.2.1").ok();
        let second = try_from(&two, "::ffff:192.0.2.1").ok();
        assert!(first.is_some() && second.is_some());
        assert_eq!(try_from(&one, "192.0.2.1").err(), Some(TooMany::PerAddress));
        let third = try_from(&one, "192.0.2.2").ok();
        assert_eq!(try_from(&two, "192.0.2.3").err(), Some(TooMany::PerNetwork));
        let rest = [try_from(&two, "2001:db8::1").ok(), try_from(&one, "198.51.100.7").ok()];
        assert_eq!(try_from(&one, "203.0.113.1").err(), Some(TooMany::InAll));
        drop((first, third, rest));
        assert!(try_from(&two, "192.0.2.1").is_ok(), "a closed connection is not counted");
    }

    #[test]
    fn an_address_is_refused_for_the_rest_of_the_minute() {
        let (one, two) = counters();
        let limits = ConnectionLimits { per_address_per_minute: 3, ..LIMITS };
        let knock = |counter: &Rc<ConnectionCounter>, ms| {
            counter.try_admit(address("::1"), &limits, ms).err()
        };
        assert_eq!([knock(&one, 0), knock(&two, 1), knock(&one, 2)], [None, None, None]);
        assert_eq!(knock(&two, 59_000), Some(TooMany::PerMinute));
        assert_eq!(knock(&two, 60_000), None, "a new minute");
    }

    #[test]
    fn networks_are_cut_at_their_bits() {
        for (name, peer, bits, cut) in [
            ("v4 /24", "192.0.2.77", 24, "192.0.2.0"),
            ("v4 /0", "192.0.2.77", 0, "0.0.0.0"),
            ("v4 /32", "192.0.2.77", 32, "192.0.2.77"),
            ("v6 /56", "2001:db8:1:2ff::1", 56, "2001:db8:1:200::"),
        ] {
            let limits =
                ConnectionLimits { network_bits_v4: bits, network_bits_v6: bits, ..LIMITS };
            assert_eq!(network_of(address(peer), &limits).0, address(cut), "{name}");
        }
    }
}
