//! The stub resolver: MX, A, AAAA, TXT and TLSA lookups through recursive name servers.
//!
//! Owner:    the shard. A `Resolver` is a handle that is cheap to clone; each shard has its own cache,
//!           so nothing is shared or locked.
//! Promise:  a negative answer and a failed lookup are never confused. Only NXDOMAIN, an empty answer
//!           and a null MX are final, and only from a server that can know; timeouts, SERVFAIL,
//!           REFUSED, mismatched answers and loops are temporary (`DnsFault::is_final`). A waiting
//!           future may be dropped at any time without effect on others that wait for the lookup.
//! Order:    cache, then a lookup already in flight, then a slot among `in_flight_max`, then the
//!           servers in turn: UDP, TCP if truncated, without EDNS if the server refuses it.
//! Bounds:   `CacheBounds` for the cache, with answers of at most `ANSWER_BYTES_CACHED_MAX` (4 KiB) on
//!           the wire; `in_flight_max` lookups in flight and `WAITING_PER_SLOT` (4) times as many
//!           waiting for a slot, beyond which a lookup fails with `Busy`; `CNAMES_MAX` (8) aliases. A
//!           lookup waits at most `timeout` for a slot and takes at most `attempts + 1` times that.
//! Forgery:  every query has a new socket connected to its server: a random port, a random id, and
//!           the kernel drops datagrams from other addresses. An answer with another id or question
//!           is discarded, and the wait continues. This costs five system calls and a descriptor for
//!           each query, once per domain and TTL; shared sockets would save two, but give a forger
//!           more time to hit an open port.
//!
//! ```text
//! name      valid names                        query     questions as bytes, and outcomes
//! answer    parses answers                     exchange  one query to one server
//! lookup    the servers in turn, aliases       flight    shares lookups among callers
//! cache     outcomes until they expire         context   the state of a resolver and its servers
//! handle    the interface of the resolver      blocking  for commands without a shard
//! settings  settings, and /etc/resolv.conf     fault     why a lookup returned no records
//! ```

mod answer;
mod blocking;
mod cache;
mod context;
mod exchange;
mod fault;
mod flight;
mod handle;
mod lookup;
mod name;
mod query;
mod settings;

pub use blocking::BlockingResolver;
pub use context::ResolverFigures;
pub use fault::DnsFault;
pub use handle::Addresses;
pub use handle::Family;
pub use handle::MxAnswer;
pub use handle::Resolver;
pub use handle::TlsaAnswer;
pub use handle::TxtAnswer;
pub use settings::CacheBounds;
pub use settings::ResolverSettings;
pub use settings::name_servers;
