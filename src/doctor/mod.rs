//! `ringpost doctor` examines the machine, `ringpost topology` shows which CPU would run what.
//!
//! Promise:  changes nothing, needs no running server and no root; a value that only root can read is
//!           reported as not readable. The only write is to an unlinked file in the spool's folder, to
//!           measure the disk.
//! Bounds:   every part runs on a thread of its own and has `examine::TIME_MAX` to finish; a part that
//!           hangs (a dead NFS server, a stuck disk) becomes a finding.
//! Reads:    `/proc`, `/sys` and `/etc` below a root of the caller's choice, so that tests can provide
//!           a machine.
//!
//! ```text
//! subject   the machine and the configuration under examination
//! report    all findings as text and as JSON, and the exit code
//! examine   runs the parts in parallel, within their time
//! kernel  machine  memory  network  clock  names  ports      parts
//! spool  device  mount  sync                                 parts: the disk
//! hardware  interrupts, queues and nodes of devices
//! topology  drawing          nodes, cores, shards, partitions, interrupts
//! ```

pub mod clock;
pub mod device;
pub mod drawing;
pub mod examine;
pub mod hardware;
pub mod kernel;
pub mod machine;
pub mod memory;
pub mod mount;
pub mod names;
pub mod network;
pub mod ports;
pub mod report;
pub mod spool;
pub mod subject;
pub mod sync;
pub mod topology;

pub use examine::doctor;
pub use report::EXIT_ERROR;
pub use topology::topology;
