//! Reaching a next hop: through a proxy, over a Unix socket, in spite of unreachable addresses, and
//! not back to this server. The real binary between a client and scripted servers.

mod addresses;
mod backlog;
mod clock;
mod destinations;
mod fallback;
mod kit;
mod limits;
mod loops;
mod needs;
mod own_limits;
mod proxy;
mod reload;
mod replies;
mod slowing;
mod sources;
mod unix;
