//! `ringpost doctor` and `ringpost topology`: what the machine is like, and where the config would
//! place what.
//!
//! Promise:  nothing is changed, no server need run, and root is not needed: what only root may see
//!           is said to be unseen. The one trace is a file in the spool's folder that has no name
//!           while it is written, to measure the disk.
//! Bounds:   every part runs on a thread of its own and has `examine::PATIENCE` to answer; a part
//!           that hangs (a dead NFS server, a stuck disk) becomes a finding.
//! Reads:    `/proc`, `/sys` and `/etc` below a root of the caller's choice, so that tests bring
//!           machines of their own.
//!
//! ```text
//! knob      what can be found, why it matters, which file of tuning/ is about it
//! finding   one thing seen, with its level; how all are printed; the exit code
//! examine   the parts side by side, within their time
//! kernel  machine  memory  network  clock  names  ports      parts
//! spool  device  mount  sync                                 parts: the disk
//! hardware  interrupts, queues and nodes of devices
//! topology  drawing   nodes, cores, shards, partitions, interrupts
//! ```

pub mod clock;
pub mod device;
pub mod drawing;
pub mod examine;
pub mod finding;
pub mod hardware;
pub mod kernel;
pub mod knob;
pub mod machine;
pub mod map;
pub mod memory;
pub mod mount;
pub mod names;
pub mod network;
pub mod ports;
pub mod spool;
pub mod subject;
pub mod sync;
pub mod topology;

pub use examine::doctor;
pub use finding::EXIT_ERROR;
pub use topology::topology;
