//! Delivery: dispatch, destinations, connections, transfers, bounces.
//!
//! `scheduler` decides on the owner shard when which job goes over which connection; `destination` is
//! one destination in it; `lease` and `line` are the home shard's side. All four are values without I/O
//! or clock.
//!
//! ```text
//! home         mail stored here: route, split, resolve, lease, post          home shard
//! line         queues of jobs per destination                                home shard
//! lease        which jobs are leased, and which outcome counts               home shard
//! scan         finds due jobs on disk                                        home shard
//! operator     operations on messages                                        home shard
//! settling     from an outcome to one write, with reports to the sender      home shard
//! owner        destinations, their queues and connections                    owner shard
//! scheduler    destination  pace    which job, which connection, and when    owner shard
//! worker       one connection: connect, greet, TLS, one message after another
//! idle         wakes an idle connection
//! stripes      destinations owned by several shards, and their shares        both
//! survey       the largest destinations, for monitoring                      owner shard
//! ```

pub mod destination;
pub mod home;
pub mod idle;
pub mod lease;
pub mod line;
pub mod operator;
pub mod owner;
pub mod pace;
pub mod scan;
pub mod scheduler;
pub mod settling;
pub mod stripes;
pub mod survey;
pub mod worker;
