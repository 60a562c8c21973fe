//! The map of a machine: what runs on each CPU, the memory of the nodes, and the devices.

use crate::boot::topology::Cpu;
use crate::doctor::hardware::Device;

/// What a CPU runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    Shard {
        number: u16,
        partitions: Vec<u8>,
    },
    /// Commit threads of the node, and the control plane.
    Spare,
    /// Outside of the affinity mask, or not in `server.cores`.
    Unused,
}

/// The machine, and what the server would run on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    /// All online CPUs, by node and number.
    pub cpus: Vec<(Cpu, Role)>,
    /// Total and free memory of each node, in bytes.
    pub memory: Vec<(usize, u64, u64)>,
    pub devices: Vec<Device>,
    pub partitions: usize,
    /// Whether `partitions` is that of an existing spool, or of a new one.
    pub spool_exists: bool,
}
