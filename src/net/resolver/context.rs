//! The state of one shard's resolver: settings, cache, name servers, lookups in flight, figures. A name
//! server is up or down, with or without EDNS.

use std::cell::Cell;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use std::time::Instant;

use crate::base::chunk::ChunkPool;
use crate::net::resolver::cache::Cache;
use crate::net::resolver::fault::DnsFault;
use crate::net::resolver::flight::InFlight;
use crate::net::resolver::query::Outcome;
use crate::net::resolver::query::Question;
use crate::net::resolver::settings::ResolverSettings;
use crate::rt::gate::Gate;

/// Chunks for TCP answers that are being received. Without a free one a read waits.
const TCP_CHUNKS_MAX: usize = 8;

/// Counters and gauges of a resolver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResolverFigures {
    /// Lookups answered from the cache.
    pub hits: u64,
    /// Lookups that joined one in flight.
    pub joined: u64,
    /// Lookups started.
    pub lookups: u64,
    /// Lookups that failed for want of a slot.
    pub busy: u64,
    /// Queries sent over UDP.
    pub questions: u64,
    /// Queries repeated over TCP.
    pub tcp: u64,
    /// Datagrams that did not match the query.
    pub foreign: u64,
    /// Lookups in flight.
    pub in_flight: usize,
    /// Entries in the cache.
    pub cached: usize,
    /// Memory of the cache in bytes.
    pub cached_bytes: usize,
}

/// The state of a shard's resolver.
pub(super) struct Context {
    pub(super) settings: ResolverSettings,
    pub(super) chunks: ChunkPool,
    pub(super) servers: Servers,
    pub(super) cache: RefCell<Cache>,
    pub(super) in_flight: Rc<InFlight>,
    pub(super) gate: Rc<Gate>,
    figures: Cell<ResolverFigures>,
    trust_ad: Cell<bool>,
}

impl Context {
    pub(super) fn new(settings: ResolverSettings) -> Context {
        let places = settings.in_flight_max.max(1);
        Context {
            chunks: ChunkPool::new(TCP_CHUNKS_MAX),
            servers: Servers::new(&settings.servers),
            cache: RefCell::new(Cache::new(settings.cache)),
            in_flight: Rc::default(),
            gate: Gate::new(places),
            figures: Cell::default(),
            trust_ad: Cell::new(settings.trust_ad),
            settings,
        }
    }

    pub(super) fn trusts_ad(&self) -> bool {
        self.trust_ad.get()
    }

    /// Clears the cache on a change, because cached answers were judged by the old setting.
    pub(super) fn set_trust_ad(&self, trust_ad: bool) {
        if self.trust_ad.replace(trust_ad) != trust_ad {
            self.cache.borrow_mut().clear();
        }
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut ResolverFigures)) {
        let mut figures = self.figures.get();
        change(&mut figures);
        self.figures.set(figures);
    }

    pub(super) fn figures(&self) -> ResolverFigures {
        let cache = self.cache.borrow();
        let (cached, cached_bytes) = (cache.len(), cache.bytes());
        ResolverFigures {
            in_flight: self.in_flight.len(),
            cached,
            cached_bytes,
            ..self.figures.get()
        }
    }

    pub(super) fn keep(
        &self,
        question: Question,
        outcome: &Outcome,
        (ttl, now): (Duration, Instant),
    ) {
        self.cache.borrow_mut().keep(question, outcome.clone(), (now + ttl, now));
    }
}

/// Consecutive timeouts after which a server counts as down. Not one: a recursive server is silent
/// while a domain's own servers are, and datagrams get lost.
const TIMEOUTS_MAX: u32 = 3;
/// How long a server that is down is asked last.
const DOWN: Duration = Duration::from_secs(30);
/// How long a server that refused EDNS is asked without it.
const PLAIN: Duration = Duration::from_secs(3600);

pub(super) struct Servers {
    list: Vec<Server>,
}

pub(super) struct Server {
    pub(super) address: SocketAddr,
    timeouts: Cell<u32>,
    down_until: Cell<Option<Instant>>,
    plain_until: Cell<Option<Instant>>,
}

impl Servers {
    pub(super) fn new(addresses: &[SocketAddr]) -> Servers {
        let server = |address: &SocketAddr| Server {
            address: *address,
            timeouts: Cell::new(0),
            down_until: Cell::new(None),
            plain_until: Cell::new(None),
        };
        Servers { list: addresses.iter().map(server).collect() }
    }

    /// The servers in the order to ask them: as configured, those that are down last.
    pub(super) fn in_order(&self, now: Instant) -> Vec<&Server> {
        let mut order: Vec<&Server> = self.list.iter().collect();
        order.sort_by_key(|server| server.is_down(now));
        order
    }
}

impl Server {
    pub(super) fn takes_edns(&self, now: Instant) -> bool {
        self.plain_until.get().is_none_or(|until| until <= now)
    }

    pub(super) fn refused_edns(&self, now: Instant) {
        self.plain_until.set(Some(now + PLAIN));
    }

    /// Records a reply.
    pub(super) fn replied(&self) {
        self.timeouts.set(0);
        self.down_until.set(None);
    }

    /// Records a timeout or an unreachable server.
    pub(super) fn timed_out(&self, fault: DnsFault, now: Instant) {
        let timeouts = self.timeouts.get().saturating_add(1);
        self.timeouts.set(timeouts);
        if timeouts >= TIMEOUTS_MAX || fault == DnsFault::Unreachable {
            self.down_until.set(Some(now + DOWN));
        }
    }

    fn is_down(&self, now: Instant) -> bool {
        self.down_until.get().is_some_and(|until| until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(servers: &Servers, now: Instant) -> Vec<u16> {
        servers.in_order(now).iter().map(|server| server.address.port()).collect()
    }

    #[test]
    fn the_dead_are_asked_last_for_a_while() {
        let addresses = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let (servers, now) = (Servers::new(&addresses), Instant::now());
        let first = &servers.list[0];
        assert_eq!(ports(&servers, now), [1, 2, 3]);
        first.timed_out(DnsFault::Timeout, now);
        first.timed_out(DnsFault::Timeout, now);
        assert_eq!(ports(&servers, now), [1, 2, 3], "twice may be chance");
        first.timed_out(DnsFault::Timeout, now);
        assert_eq!(ports(&servers, now), [2, 3, 1]);
        assert_eq!(ports(&servers, now + DOWN), [1, 2, 3]);
        first.replied();
        assert_eq!(ports(&servers, now), [1, 2, 3]);
        servers.list[1].timed_out(DnsFault::Unreachable, now);
        assert_eq!(ports(&servers, now), [1, 3, 2], "nobody listens there");
    }

    #[test]
    fn edns_is_spared_for_a_while() {
        let (servers, now) = (Servers::new(&[([127, 0, 0, 1], 53).into()]), Instant::now());
        let server = &servers.list[0];
        assert!(server.takes_edns(now));
        server.refused_edns(now);
        assert!(!server.takes_edns(now));
        assert!(server.takes_edns(now + PLAIN));
    }
}
