//! The state of one shard's resolver: settings, cache, servers, lookups in flight, figures.

use std::cell::Cell;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use std::time::Instant;

use crate::base::chunk::ChunkPool;
use crate::net::resolver::cache::Cache;
use crate::net::resolver::flight::InFlight;
use crate::net::resolver::outcome::Outcome;
use crate::net::resolver::query::Question;
use crate::net::resolver::servers::Servers;
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
