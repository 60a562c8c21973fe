//! The runtime: shards, tasks, time, sockets and wakes. The only importer of glommio.
//!
//! Owner:    everything except `Doorbell`, `Heartbeat` and `Watchdog` belongs to the shard that
//!           created it and never leaves it.
//! Promise:  I/O is expressed as completions. A read returns a filled chunk and holds none while it
//!           waits; a write takes its buffer and returns it. Every future may be dropped at any
//!           time without losing a connection, a descriptor or memory.
//! Bounds:   a connection costs one socket, one slot of the deadline wheel and one armed poll.
//! Fatal:    the death of a shard's main future, of its ticker or of its executor. The caller's
//!           hook is called; by default the process ends.
//!
//! Defects of glommio 0.9.0, and the file that works around each:
//!
//! ```text
//! sleeps although tasks are runnable         ticker     timers set in advance; without one, or if
//!                                                       all failed, `interrupt` ends the sleep
//! a dropped Task leaks                       task       no Task is returned to a caller
//! spawn polls the child at once              task       spawn only queues
//! a panic in a task ends the executor        task       catch_unwind around each poll
//! detached tasks are not run to their end    executor   drains before the main future ends
//! a dropped accept loses the connection      listen     waits for readiness, then accepts
//! set_read_timeout outlives its read         timer      our own deadlines, one slot a connection
//! a dropped UDP receive loses the datagram   udp        waits for readiness, then receives
//! wakes from other threads are slow, and     wake       one coalesced waker in a latency queue
//!   too many abort the process
//! panics or exits where io_uring is missing  host       probes first; returns cause and remedy
//! interrupts a shard for each completion     ring       sets a flag that glommio does not set
//! ```
//!
//! Another backend can replace this folder if it passes `tests/rt_conformance`.

mod connect;
mod context;
pub mod executor;
mod fault;
pub mod gate;
pub mod host;
mod interrupt;
pub mod listen;
mod ring;
pub mod task;
pub mod tcp;
mod ticker;
pub mod timer;
pub mod udp;
pub mod wake;
mod watchdog;
mod wheel;

pub use connect::connect;
pub use connect::connect_unix;
pub use context::OnDeath;
pub use executor::ShardSpec;
pub use executor::ShardThread;
pub use executor::start;
pub use fault::IoFault;
pub use host::RtFault;
pub use host::check_host;
pub use listen::ListenSpec;
pub use listen::Listener;
pub use listen::bind_socket;
pub use listen::reserve_socket;
pub use listen::start_listening;
pub use tcp::Stream;
pub use udp::UdpSocket;
pub use wake::Bell;
pub use wake::doorbell;
pub use watchdog::Heartbeat;
pub use watchdog::Watchdog;
