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
use std::io;
use std::str::FromStr;

use crate::base::ShardId;
use crate::base::fault::Blame;
use crate::boot::topology::CPUS_MAX;
use crate::boot::topology::Cpu;
use crate::boot::topology::CpuList;
use crate::boot::topology::Topology;
use crate::boot::topology::parse_cpu_list;

/// Cores of a node for each one that is left spare when there are no hardware siblings. Of the CPU of a
/// message the commit thread and its store are a quarter
/// (tuning/CAPACITY.md); one core in eight would be full while shards idle.
const CORES_PER_SPARE: usize = 4;
/// Nodes of fewer cores leave none.
const SPARING_CORES_MIN: usize = 8;

const NODE_MASK_WORDS: usize = 16;

/// `cores` of the configuration: `auto`, `0-7,16`, `numa:0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoreChoice {
    Auto,
    List(Vec<usize>),
    Numa(usize),
}

impl FromStr for CoreChoice {
    type Err = CoresFault;

    fn from_str(text: &str) -> Result<CoreChoice, CoresFault> {
        let fault = || CoresFault::Unreadable { text: text.to_owned() };
        if text == "auto" {
            return Ok(CoreChoice::Auto);
        }
        if let Some(node) = text.strip_prefix("numa:") {
            return node.parse().map(CoreChoice::Numa).map_err(|_| fault());
        }
        parse_cpu_list(text).filter(|cpus| !cpus.is_empty()).map(CoreChoice::List).ok_or_else(fault)
    }
}

/// Why no plan can be made. All are the operator's to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoresFault {
    Unreadable { text: String },
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
            CoresFault::Unreadable { text } => {
                write!(f, "cores = \"{text}\": write \"auto\", CPUs as \"0-7,16\", or \"numa:0\"")
            }
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
    pub fn new(choice: &CoreChoice, topology: &Topology) -> Result<Plan, CoresFault> {
        if topology.cpus.is_empty() {
            return Err(CoresFault::NothingAllowed);
        }
        let (sharded, usable) = match choice {
            CoreChoice::Auto => (pick(&topology.cpus), topology.cpus.clone()),
            CoreChoice::List(list) => (listed(list, topology)?, topology.cpus.clone()),
            CoreChoice::Numa(node) => {
                let usable: Vec<Cpu> =
                    topology.cpus.iter().filter(|cpu| cpu.node == *node).copied().collect();
                if usable.is_empty() {
                    return Err(CoresFault::NoSuchNode { node: *node, nodes: topology.nodes() });
                }
                (pick(&usable), usable)
            }
        };
        let shards_max = match (choice, topology.quota_millis) {
            (CoreChoice::List(_), _) | (_, None) => usize::MAX,
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

/// Pins the calling thread to one CPU.
pub fn pin_current_thread(cpu: usize) -> Result<(), CoresFault> {
    let pinned =
        cpu < CPUS_MAX && core_affinity::set_for_current(core_affinity::CoreId { id: cpu });
    if pinned {
        return Ok(());
    }
    let cause = io::Error::last_os_error().to_string();
    Err(CoresFault::NotPinned { cpus: vec![cpu], cause })
}

/// Keeps the calling thread, and those it starts, on `cpus`.
pub fn keep_current_thread_on(cpus: &[usize]) -> Result<(), CoresFault> {
    let fault = |cause: String| CoresFault::NotPinned { cpus: cpus.to_vec(), cause };
    if cpus.iter().any(|cpu| *cpu >= CPUS_MAX) {
        return Err(fault(format!("CPUs are counted up to {CPUS_MAX}")));
    }
    // SAFETY: `cpu_set_t` is an array of integers, for which all zeroes is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for cpu in cpus {
        // SAFETY: `set` is valid, and `cpu` was checked to lie within its bits.
        unsafe { libc::CPU_SET(*cpu, &mut set) };
    }
    // SAFETY: `set` outlives the call, and its size is the one given. 0 is the calling thread.
    let failed = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) };
    if failed != 0 { Err(fault(io::Error::last_os_error().to_string())) } else { Ok(()) }
}

/// What became of a request to keep memory on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryPlace {
    /// New pages of this thread come from the node while it has any.
    Node,
    /// The kernel knows no nodes, or a seccomp filter forbids to ask. Since the thread is pinned,
    /// pages still come from its node by default.
    Default,
}

/// Asks that new memory of the calling thread, and of those it starts, comes from `node`. It is a
/// preference and no bond: a full node must not end the process while another has memory.
pub fn prefer_memory_of(node: usize) -> MemoryPlace {
    let bits = u64::BITS as usize;
    let mut mask = [0_u64; NODE_MASK_WORDS];
    let Some(word) = mask.get_mut(node / bits) else {
        return MemoryPlace::Default;
    };
    *word = 1 << (node % bits);
    // SAFETY: the mask outlives the call and is as long as the number of bits given says; the
    // call changes nothing but where the kernel takes this thread's future pages from.
    let failed = unsafe {
        libc::syscall(
            libc::SYS_set_mempolicy,
            libc::MPOL_PREFERRED,
            mask.as_ptr(),
            NODE_MASK_WORDS * bits,
        )
    };
    if failed == 0 { MemoryPlace::Node } else { MemoryPlace::Default }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;
    use std::path::Path;

    /// A machine of `nodes` x `cores` x `threads`, siblings numbered after all first threads, as
    /// the kernel does on most servers.
    fn machine(nodes: usize, cores: usize, threads: usize) -> Topology {
        let firsts = nodes * cores;
        let mut cpus = Vec::new();
        for thread in 0..threads {
            for core in 0..firsts {
                cpus.push(Cpu { cpu: thread * firsts + core, node: core / cores, core });
            }
        }
        cpus.sort_by_key(|cpu| (cpu.node, cpu.cpu));
        Topology { cpus, quota_millis: None }
    }

    fn check(row: &str, choice: &str, topology: &Topology, shards: &str, spare: &str) {
        let choice: CoreChoice = choice.parse().unwrap_or_else(|fault| panic!("{row}: {fault}"));
        let plan = Plan::new(&choice, topology).unwrap_or_else(|fault| panic!("{row}: {fault}"));
        let mut on: Vec<usize> = plan.shards.iter().map(|place| place.cpu).collect();
        on.sort_unstable();
        let mut left = plan.spare.clone();
        left.sort_unstable();
        assert_eq!(
            (CpuList(&on).to_string(), CpuList(&left).to_string()),
            (shards.into(), spare.into()),
            "{row}"
        );
        for (number, place) in plan.shards.iter().enumerate() {
            assert_eq!(usize::from(place.shard.0), number, "{row}");
            assert!(!plan.commit_cpus(place.node).is_empty(), "{row}: commit threads have a place");
        }
        assert!(!plan.control_cpus().is_empty(), "{row}: the control thread has a place");
    }

    /// What `auto` leaves spare carries the commits of the shards it runs: measured shares of the CPU
    /// of a message, accepted and relayed.
    #[test]
    fn commits_never_hold_the_shards_back_by_much() {
        for cores in 8..=128 {
            let plan = Plan::new(&CoreChoice::Auto, &machine(1, cores, 1)).expect("it has cores");
            let (shards, spare) = (plan.shards.len() as f64, plan.spare.len() as f64);
            for (shard_us, commit_us) in [(30.5, 10.5), (64.5, 21.0)] {
                let shared = cores as f64 / (shard_us + commit_us);
                let placed = f64::min(shards / shard_us, spare / commit_us);
                assert!(placed > shared * 0.85, "{cores} cores: {placed} of {shared}");
            }
        }
    }

    #[test]
    fn plans() {
        let halves = Topology {
            cpus: [(1, 0, 1), (5, 0, 1), (2, 1, 2), (3, 1, 3)]
                .map(|(cpu, node, core)| Cpu { cpu, node, core })
                .to_vec(),
            quota_millis: None,
        };
        let quota = |millis| Topology { quota_millis: Some(millis), ..machine(1, 8, 2) };
        let rows: &[(&str, &str, Topology, &str, &str)] = &[
            ("one CPU", "auto", machine(1, 1, 1), "0", ""),
            ("two cores", "auto", machine(1, 2, 1), "0-1", ""),
            ("two threads of one core", "auto", machine(1, 1, 2), "0-1", ""),
            ("two cores of two threads", "auto", machine(1, 2, 2), "0-1", "2-3"),
            ("seven cores keep none back", "auto", machine(1, 7, 1), "0-6", ""),
            ("eight cores keep two back", "auto", machine(1, 8, 1), "2-7", "0-1"),
            ("nodes are small each", "auto", machine(2, 7, 1), "0-13", ""),
            (
                "the spare ones are spread over the nodes",
                "auto",
                machine(2, 16, 1),
                "4-15,20-31",
                "0-3,16-19",
            ),
            ("two sockets with siblings", "auto", machine(2, 4, 2), "0-7", "8-15"),
            ("a list", "1,3-4", machine(1, 8, 1), "1,3-4", "0,2,5-7"),
            ("siblings of which one is allowed", "auto", halves, "1-3", "5"),
            ("a list of all", "0-1", machine(1, 2, 1), "0-1", ""),
            ("one node", "numa:1", machine(2, 4, 2), "4-7", "12-15"),
            ("a quota of two and a half", "auto", quota(2500), "0-2", "3-15"),
            ("a quota below one", "auto", quota(200), "0", "1-15"),
            ("a quota does not overrule a list", "0-7", quota(1000), "0-7", "8-15"),
        ];
        for (row, choice, topology, shards, spare) in rows {
            check(row, choice, topology, shards, spare);
        }
    }

    #[test]
    fn refusals() {
        let rows: &[(&str, CoreChoice, CoresFault)] = &[
            (
                "outside of the mask",
                CoreChoice::List(vec![1, 5]),
                CoresFault::NotAllowed { cpus: vec![5], allowed: vec![0, 1, 2, 3] },
            ),
            ("named twice", CoreChoice::List(vec![1, 0, 1]), CoresFault::NamedTwice { cpu: 1 }),
            ("nothing", CoreChoice::List(vec![]), CoresFault::NothingAllowed),
            ("no node", CoreChoice::Numa(2), CoresFault::NoSuchNode { node: 2, nodes: vec![0, 1] }),
        ];
        for (row, choice, fault) in rows {
            assert_eq!(Plan::new(choice, &machine(2, 2, 1)), Err(fault.clone()), "{row}");
        }
        let nothing = Plan::new(&CoreChoice::Auto, &machine(0, 0, 0));
        assert_eq!(nothing, Err(CoresFault::NothingAllowed));
        for bad in ["", "all", "0-", "3-1", "numa:", "numa:x", "1,,x", "-1", "99999"] {
            assert!(bad.parse::<CoreChoice>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn commit_threads_stay_on_their_node() {
        let plan = Plan::new(&CoreChoice::Auto, &machine(2, 2, 2)).expect("it has CPUs");
        assert_eq!((plan.commit_cpus(0), plan.commit_cpus(1)), (vec![4, 5], vec![6, 7]));
        assert!(plan.spans_nodes());
        let plan =
            Plan::new(&CoreChoice::List(vec![0, 1]), &machine(2, 2, 1)).expect("it has CPUs");
        assert_eq!((plan.commit_cpus(0), plan.commit_cpus(1)), (vec![0, 1], vec![2, 3]));
        assert_eq!(plan.control_cpus(), [2, 3]);
    }

    #[test]
    fn cpus_without_a_shard_are_spare() {
        let mut plan = Plan::new(&CoreChoice::Auto, &machine(1, 4, 1)).expect("it has CPUs");
        plan.keep_shards(9);
        assert_eq!((plan.shards.len(), plan.spare.len()), (4, 0), "there are no more");
        plan.keep_shards(1);
        let on: Vec<usize> = plan.shards.iter().map(|place| place.cpu).collect();
        assert_eq!(
            (on, plan.commit_cpus(0), plan.control_cpus()),
            (vec![0], vec![1, 2, 3], vec![1, 2, 3])
        );
    }

    #[test]
    fn a_thread_is_pinned_and_its_memory_kept_near() {
        let topology = Topology::read(Path::new("/"));
        let cpu = topology.cpus.last().copied().expect("there is one");
        let thread = std::thread::spawn(move || {
            keep_current_thread_on(&[cpu.cpu]).expect("the CPU is allowed");
            pin_current_thread(cpu.cpu).expect("the CPU is allowed");
            prefer_memory_of(cpu.node);
            let status = fs::read_to_string("/proc/thread-self/status").expect("readable");
            assert!(status.contains(&format!("Cpus_allowed_list:\t{}\n", cpu.cpu)), "{status}");
        });
        thread.join().expect("it was pinned");
        assert!(pin_current_thread(CPUS_MAX).is_err());
        assert!(keep_current_thread_on(&[]).is_err(), "no CPU at all is refused");
        assert_eq!(prefer_memory_of(CPUS_MAX), MemoryPlace::Default);
    }
}
