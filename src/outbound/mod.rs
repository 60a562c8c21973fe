//! The delivering half: dispatch, destinations, connections, transfers, bounces.
//!
//! `scheduler` decides on the owner shard when which job goes over which connection; `destination`
//! is one destination of it; `lease` and `line` are the home shard's side. All four are values without I/O
//! or clock.
//!
//! ```text
//! home       mail stored here: route, split, resolve, lease, post      home shard
//! scan       finding what is due on disk                               home shard
//! reroute    the way that an operator gives a job                      home shard
//! settling   from an outcome to one write, and the sender's reports    home shard
//! bounce     what the sender is told, as messages of their own         home shard
//! owner      destinations, their lines and connections                        owner shard
//! worker     one connection: connect, greet, TLS, one mail after the other
//! connect    the first address of a host that answers, also by a proxy
//! stripes    destinations that several shards own, and their shares          both
//! survey     the largest destinations, for monitoring                         owner shard
//! transfer   one mail over it
//! trust      what is known of other servers' TLS, and what follows    both
//! ```

mod bounce;
mod connect;
pub mod destination;
pub mod home;
pub mod idle;
pub mod lease;
pub mod line;
pub mod operator;
pub mod owner;
pub mod pace;
pub mod reroute;
pub mod scan;
pub mod scheduler;
pub mod settling;
pub mod stripes;
pub mod survey;
pub mod transfer;
pub mod trust;
pub mod worker;
