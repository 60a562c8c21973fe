//! The map of a machine: what runs on each CPU, the memory of the nodes, and the devices.

use crate::boot::topology::Cpu;
use crate::doctor::hardware::Device;

/// What a CPU does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    Shard {
        number: u16,
        partitions: Vec<u8>,
    },
    /// Commit threads of the node, and the control thread.
    Spare,
    /// This process may not run there, or the config names other CPUs.
    Unused,
}

/// The machine with the process laid on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    /// All CPUs that are switched on, by node and number.
    pub cpus: Vec<(Cpu, Role)>,
    /// Total and free memory of each node, in bytes.
    pub memory: Vec<(usize, u64, u64)>,
    pub devices: Vec<Device>,
    pub partitions: usize,
    /// Whether the spool is there already, or these are the partitions of a new one.
    pub spool_is_there: bool,
}
