//! Which core does what, and keeping threads and their memory there.
//!
//! Promise:  a plan names only CPUs this process may use: those of its affinity mask (taskset,
//!           cpuset cgroups), and not more shards than its CPU quota can run (`docker --cpus`).
//! Bounds:   one shard per CPU at most. The plan is made before the spool is looked at, and then
//!           shortened to the partitions there are.
//!
//! How `auto` chooses, on each NUMA node:
//!   1. One shard per physical core, on its first hardware thread. The siblings are spare: a
//!      second shard on the same core adds little, while commit threads mostly wait for the disk.
//!   2. Without siblings, about one core in four is spare, the lowest first, for there the interrupts
//!      arrive: of the CPU time of a message, a fifth to a quarter is commits. Below eight cores none
//!      is: a core is too coarse a share, so that all threads share all of them.
//!   3. A machine of one physical core makes a shard of each of its hardware threads: two shards
//!      on the usual two-thread virtual machine, and one where there is only one.
//!   4. A quota of q CPUs allows ceil(q) shards; more would only be throttled in turns.

use std::collections::BTreeMap;
use std::fmt;

use crate::base::ShardId;
use crate::base::fault::Blame;
use crate::boot::topology::Cpu;
use crate::boot::topology::CpuList;
use crate::boot::topology::Topology;
use crate::config::CoreSet;

/// Cores of a node for each one that is left spare when there are no hardware siblings. Of the CPU of a
/// message the commit thread and its store are a quarter
/// (tuning/CAPACITY.md); one core in eight would be full while shards idle.
const CORES_PER_SPARE: usize = 4;
/// Nodes of fewer cores leave none.
const SPARING_CORES_MIN: usize = 8;

/// Why no plan can be made. All are the operator's to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoresFault {
    NotAllowed { cpus: Vec<usize>, allowed: Vec<usize> },
    NamedTwice { cpu: usize },
    NoSuchNode { node: usize, nodes: Vec<usize> },
    NothingAllowed,
    NotPinned { cpus: Vec<usize>, cause: String },
}

impl CoresFault {
    pub fn blame(&self) -> Blame {
        Blame::Operator
    }
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
                write!(f, "cores: CPU {cpu} is named twice; one CPU serves one shard")
            }
            CoresFault::NoSuchNode { node, nodes } => write!(
                f,
                "cores = \"numa:{node}\": no CPU that this process may use is on that node; \
                 nodes with such CPUs: {}",
                CpuList(nodes)
            ),
            CoresFault::NothingAllowed => {
                write!(f, "no CPU is left to run on; check the affinity mask of this process")
            }
            CoresFault::NotPinned { cpus, cause } => write!(
                f,
                "a thread could not be pinned to CPU {} ({cause}); was it taken offline, or out \
                 of this process' cpuset?",
                CpuList(cpus)
            ),
        }
    }
}

impl std::error::Error for CoresFault {}

/// Where one shard runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardPlace {
    pub shard: ShardId,
    pub cpu: usize,
    pub node: usize,
}

/// Who runs where. Fixed once the first shard runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub shards: Vec<ShardPlace>,
    /// CPUs for commit threads and the control thread; empty on small machines.
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
        let spare = usable.iter().filter(is_spare).map(|cpu| cpu.cpu).collect();
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

    /// Keeps the first so many shards. The CPUs of the others are spare.
    pub fn keep_shards(&mut self, count: usize) {
        let others = self.shards.drain(count.min(self.shards.len())..);
        self.spare.extend(others.map(|place| place.cpu));
        self.spare.sort_unstable();
    }

    /// Where a commit thread that serves `node` may run: on the node's spare CPUs, or on all of
    /// its CPUs when it has none. The kernel moves it among them.
    pub fn commit_cpus(&self, node: usize) -> Vec<usize> {
        let here = |cpu: &usize| self.nodes.get(cpu) == Some(&node);
        let spare: Vec<usize> = self.spare.iter().copied().filter(here).collect();
        if spare.is_empty() { self.nodes.keys().copied().filter(here).collect() } else { spare }
    }

    /// Where the control thread, the watchdog and the store's own threads may run.
    pub fn control_cpus(&self) -> Vec<usize> {
        if self.spare.is_empty() {
            self.nodes.keys().copied().collect()
        } else {
            self.spare.clone()
        }
    }

    /// Whether memory has a place at all. On one node there is nothing to bind.
    pub fn spans_nodes(&self) -> bool {
        let mut nodes: Vec<usize> = self.nodes.values().copied().collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes.len() > 1
    }
}

/// The shards' CPUs under `auto`; see the contract above.
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
