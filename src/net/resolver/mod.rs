//! The resolver: names to exchangers, addresses, texts and TLSA records, by asking recursive
//! name servers.
//!
//! Owner:    the shard. A `Resolver` is a handle that clones cheaply; each shard has a cache of
//!           its own, so nothing is shared and nothing is locked.
//! Promise:  what is not so and what could not be learnt are never mixed up. Only NXDOMAIN, an
//!           empty answer and a null MX are final, and only from a server that may know; silence,
//!           SERVFAIL, REFUSED, answers to other questions and loops defer (`DnsFault::is_final`).
//!           A wait may be dropped at any time; the others that wait for the same lookup lose
//!           nothing by it.
//! Order:    cache, then a lookup already under way, then a place among `in_flight_max`, then
//!           servers in turn: UDP, TCP when cut, without EDNS when that is refused.
//! Bounds:   `CacheBounds`: answers of at most `ANSWER_BYTES_CACHED_MAX` (4 KiB) on the wire each, and
//!           the memory of all;
//!           `in_flight_max` lookups under way and `WAITING_PER_PLACE` (4) times as many waiting
//!           for a place, past which a lookup is `Busy` at once; `CNAMES_MAX` (8) aliases;
//!           a lookup takes at most `timeout` for a place and `attempts + 1` times that to ask.
//! Forgery:  every question goes out of a fresh socket, connected to its server: a random port, a
//!           random id, and the kernel drops what comes from elsewhere. An answer with another id
//!           or question is thrown away, and the wait goes on. That costs five system calls and a
//!           descriptor a question, once for each domain and TTL; sharing sockets would save two
//!           and let a forger try one port for as long as it lives.
//!
//! ```text
//! name      -> question                text that DNS can hold
//! query     question <-> bytes out
//! answer    bytes in -> what they say of the question, or that they say nothing of it
//! exchange  one question, one server
//! lookup    servers in turn, aliases
//! flight    who waits for which lookup
//! blocking  the same without a shard
//! cache     what is known, for how long        servers   who is down, who has no EDNS
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
mod outcome;
mod query;
mod resolv_conf;
mod servers;
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
