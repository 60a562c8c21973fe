//! The CPU plan: which CPU runs which shard, and which CPUs are spare for other threads.
//!
//! Promise:  a plan names only CPUs this process may use: those of its affinity mask (taskset,
//!           cpuset cgroups), and not more shards than its CPU quota can run (`docker --cpus`).
//! Bounds:   one shard per CPU at most. The plan is made before the spool is opened, and then
//!           shortened to the number of partitions.
//!
//! How `auto` chooses, on each NUMA node:
//!   1. One shard per physical core, on its first hardware thread. The siblings are spare: a
//!      second shard on the same core adds little, while commit threads mostly wait for the disk.
//!   2. Without siblings, about one core in four is spare, because commits take a fifth to a quarter
//!      of the CPU time of a message. The lowest cores are spare, because interrupts arrive there.
//!      With fewer than eight cores none is spare, and all threads share all cores: one core would be
//!      too large a share.
//!   3. On a machine with one physical core each hardware thread runs a shard: two shards on the
//!      usual virtual machine with two threads.
//!   4. A CPU quota of q allows ceil(q) shards; more would only be throttled in turn.

use std::collections::BTreeMap;
use std::fmt;

use crate::base::ShardId;
use crate::boot::topology::Cpu;
use crate::boot::topology::CpuList;
use crate::boot::topology::Topology;
use crate::config::CoreSet;

/// One core in this many is spare on a node without hardware siblings. The commit thread and the
/// store take a quarter of the CPU time of a message (tuning/CAPACITY.md); one core in eight would be
/// saturated while shards idle.
const CORES_PER_SPARE: usize = 4;
/// Nodes with fewer cores have no spare core.
const SPARING_CORES_MIN: usize = 8;

/// Why no plan can be made. The operator can correct each of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoresFault {
    NotAllowed { cpus: Vec<usize>, allowed: Vec<usize> },
    NamedTwice { cpu: usize },
    NoSuchNode { node: usize, nodes: Vec<usize> },
    NothingAllowed,
    NotPinned { cpus: Vec<usize>, cause: String },
}

impl fmt::Display for CoresFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CoresFault::NotAllowed { cpus, allowed } => write!(
                f,
                "cores: this process may not use CPU {}; choose from {}, or widen its affinity \
                 mask (taskset, AllowedCPUs=, docker --cpuset-cpus)",
                CpuList(cpus),
                CpuList(allowed)
            ),
            CoresFault::NamedTwice { cpu } => {
                write!(f, "cores: CPU {cpu} is listed twice; a CPU runs one shard")
            }
            CoresFault::NoSuchNode { node, nodes } => write!(
                f,
                "cores = \"numa:{node}\": this process may use no CPU of that node; nodes with \
                 usable CPUs: {}",
                CpuList(nodes)
            ),
            CoresFault::NothingAllowed => {
                write!(f, "this process may use no CPU; check its affinity mask")
            }
            CoresFault::NotPinned { cpus, cause } => write!(
                f,
                "a thread could not be pinned to CPU {} ({cause}); the CPU may be offline or no \
                 longer in the cpuset of this process",
                CpuList(cpus)
            ),
        }
    }
}

impl std::error::Error for CoresFault {}

/// The CPU of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardPlace {
    pub shard: ShardId,
    pub cpu: usize,
    pub node: usize,
}

/// Which CPU runs what. Fixed once the first shard runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub shards: Vec<ShardPlace>,
    /// CPUs for commit threads and the control plane, in order; empty on small machines.
    pub spare: Vec<usize>,
    /// Every CPU of the plan with its node.
    nodes: BTreeMap<usize, usize>,
}

impl Plan {
    pub fn new(choice: &CoreSet, topology: &Topology) -> Result<Plan, CoresFault> {
        if topology.cpus.is_empty() {
            return Err(CoresFault::NothingAllowed);
        }
        let (sharded, usable) = match choice {
            CoreSet::Auto => (pick(&topology.cpus), topology.cpus.clone()),
            CoreSet::List(list) => (listed(list, topology)?, topology.cpus.clone()),
            CoreSet::Numa(node) => {
                let usable: Vec<Cpu> =
                    topology.cpus.iter().filter(|cpu| cpu.node == *node).copied().collect();
                if usable.is_empty() {
                    return Err(CoresFault::NoSuchNode { node: *node, nodes: topology.nodes() });
                }
                (pick(&usable), usable)
            }
        };
        let shards_max = match (choice, topology.quota_millis) {
            (CoreSet::List(_), _) | (_, None) => usize::MAX,
            (_, Some(millis)) => (millis.div_ceil(1000) as usize).max(1),
        };
        Ok(Plan::of(sharded, usable, shards_max))
    }

    fn of(mut sharded: Vec<Cpu>, usable: Vec<Cpu>, shards_max: usize) -> Plan {
        sharded.truncate(shards_max);
        assert!(!sharded.is_empty(), "a topology has at least one CPU");
        let is_spare = |cpu: &&Cpu| !sharded.iter().any(|taken| taken.cpu == cpu.cpu);
        let mut spare: Vec<usize> = usable.iter().filter(is_spare).map(|cpu| cpu.cpu).collect();
        spare.sort_unstable();
        let numbered = sharded.iter().enumerate();
        let shards = numbered
            .map(|(number, cpu)| ShardPlace {
                shard: ShardId(number as u16),
                cpu: cpu.cpu,
                node: cpu.node,
            })
            .collect();
        Plan { shards, spare, nodes: usable.iter().map(|cpu| (cpu.cpu, cpu.node)).collect() }
    }

    /// Keeps the first `count` shards. The CPUs of the others become spare.
    pub fn keep_shards(&mut self, count: usize) {
        let others = self.shards.drain(count.min(self.shards.len())..);
        self.spare.extend(others.map(|place| place.cpu));
        self.spare.sort_unstable();
    }

    /// The CPUs for the commit threads of `node`: the spare CPUs of the node, or all of its CPUs if
    /// none is spare. The kernel schedules the threads among them.
    pub fn commit_cpus(&self, node: usize) -> Vec<usize> {
        let here = |cpu: &usize| self.nodes.get(cpu) == Some(&node);
        let spare: Vec<usize> = self.spare.iter().copied().filter(here).collect();
        if spare.is_empty() { self.nodes.keys().copied().filter(here).collect() } else { spare }
    }

    /// The CPUs for the control plane, the watchdog and the threads of the store.
    pub fn control_cpus(&self) -> Vec<usize> {
        if self.spare.is_empty() {
            self.nodes.keys().copied().collect()
        } else {
            self.spare.clone()
        }
    }

    /// Whether the plan uses several NUMA nodes. On a single node no memory needs to be bound.
    pub fn spans_nodes(&self) -> bool {
        let mut nodes: Vec<usize> = self.nodes.values().copied().collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes.len() > 1
    }
}

/// The CPUs of the shards under `auto`; see the contract of this file.
fn pick(usable: &[Cpu]) -> Vec<Cpu> {
    let mut cores: BTreeMap<(usize, usize), Vec<Cpu>> = BTreeMap::new();
    for cpu in usable {
        cores.entry((cpu.node, cpu.core)).or_default().push(*cpu);
    }
    if cores.len() == 1 {
        return usable.to_vec();
    }
    let mut nodes: BTreeMap<usize, Vec<Cpu>> = BTreeMap::new();
    for ((node, _), threads) in &cores {
        nodes.entry(*node).or_default().push(threads[0]);
    }
    let siblings = cores.values().any(|threads| threads.len() > 1);
    let keeps_none = |count: usize| siblings || count < SPARING_CORES_MIN;
    let share = |count: usize| (count + CORES_PER_SPARE / 2) / CORES_PER_SPARE;
    let spare = |count: usize| if keeps_none(count) { 0 } else { share(count) };
    nodes.values().flat_map(|cores| cores[spare(cores.len())..].to_vec()).collect()
}

fn listed(list: &[usize], topology: &Topology) -> Result<Vec<Cpu>, CoresFault> {
    let mut sorted = list.to_vec();
    sorted.sort_unstable();
    if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(CoresFault::NamedTwice { cpu: twice[0] });
    }
    let numbers = topology.numbers();
    let outside: Vec<usize> = sorted.into_iter().filter(|cpu| !numbers.contains(cpu)).collect();
    if !outside.is_empty() {
        return Err(CoresFault::NotAllowed { cpus: outside, allowed: numbers });
    }
    if list.is_empty() {
        return Err(CoresFault::NothingAllowed);
    }
    Ok(topology.cpus.iter().filter(|cpu| list.contains(&cpu.cpu)).copied().collect())
}

#[cfg(test)]
mod tests;
