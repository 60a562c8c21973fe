//! Plans of machines of every shape.

use super::*;

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

fn check(row: &str, choice: &CoreSet, topology: &Topology, shards: &str, spare: &str) {
    let plan = Plan::new(choice, topology).unwrap_or_else(|fault| panic!("{row}: {fault}"));
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
        let plan = Plan::new(&CoreSet::Auto, &machine(1, cores, 1)).expect("it has cores");
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
    let list = |cpus: &[usize]| CoreSet::List(cpus.to_vec());
    let (auto, numa) = (|| CoreSet::Auto, CoreSet::Numa);
    let rows: &[(&str, CoreSet, Topology, &str, &str)] = &[
        ("one CPU", auto(), machine(1, 1, 1), "0", ""),
        ("two cores", auto(), machine(1, 2, 1), "0-1", ""),
        ("two threads of one core", auto(), machine(1, 1, 2), "0-1", ""),
        ("two cores of two threads", auto(), machine(1, 2, 2), "0-1", "2-3"),
        ("seven cores keep none back", auto(), machine(1, 7, 1), "0-6", ""),
        ("eight cores keep two back", auto(), machine(1, 8, 1), "2-7", "0-1"),
        ("nodes are small each", auto(), machine(2, 7, 1), "0-13", ""),
        (
            "the spare ones are spread over the nodes",
            auto(),
            machine(2, 16, 1),
            "4-15,20-31",
            "0-3,16-19",
        ),
        ("two sockets with siblings", auto(), machine(2, 4, 2), "0-7", "8-15"),
        ("a list", list(&[1, 3, 4]), machine(1, 8, 1), "1,3-4", "0,2,5-7"),
        ("siblings of which one is allowed", auto(), halves, "1-3", "5"),
        ("a list of all", list(&[0, 1]), machine(1, 2, 1), "0-1", ""),
        ("one node", numa(1), machine(2, 4, 2), "4-7", "12-15"),
        ("a quota of two and a half", auto(), quota(2500), "0-2", "3-15"),
        ("a quota below one", auto(), quota(200), "0", "1-15"),
        (
            "a quota does not overrule a list",
            list(&[0, 1, 2, 3, 4, 5, 6, 7]),
            quota(1000),
            "0-7",
            "8-15",
        ),
    ];
    for (row, choice, topology, shards, spare) in rows {
        check(row, choice, topology, shards, spare);
    }
}

#[test]
fn refusals() {
    let rows: &[(&str, CoreSet, CoresFault)] = &[
        (
            "outside of the mask",
            CoreSet::List(vec![1, 5]),
            CoresFault::NotAllowed { cpus: vec![5], allowed: vec![0, 1, 2, 3] },
        ),
        ("named twice", CoreSet::List(vec![1, 0, 1]), CoresFault::NamedTwice { cpu: 1 }),
        ("nothing", CoreSet::List(vec![]), CoresFault::NothingAllowed),
        ("no node", CoreSet::Numa(2), CoresFault::NoSuchNode { node: 2, nodes: vec![0, 1] }),
    ];
    for (row, choice, fault) in rows {
        assert_eq!(Plan::new(choice, &machine(2, 2, 1)), Err(fault.clone()), "{row}");
    }
    let nothing = Plan::new(&CoreSet::Auto, &machine(0, 0, 0));
    assert_eq!(nothing, Err(CoresFault::NothingAllowed));
}

#[test]
fn commit_threads_stay_on_their_node() {
    let plan = Plan::new(&CoreSet::Auto, &machine(2, 2, 2)).expect("it has CPUs");
    assert_eq!((plan.commit_cpus(0), plan.commit_cpus(1)), (vec![4, 5], vec![6, 7]));
    assert!(plan.spans_nodes());
    let plan = Plan::new(&CoreSet::List(vec![0, 1]), &machine(2, 2, 1)).expect("it has CPUs");
    assert_eq!((plan.commit_cpus(0), plan.commit_cpus(1)), (vec![0, 1], vec![2, 3]));
    assert_eq!(plan.control_cpus(), [2, 3]);
}

#[test]
fn cpus_without_a_shard_are_spare() {
    let mut plan = Plan::new(&CoreSet::Auto, &machine(1, 4, 1)).expect("it has CPUs");
    plan.keep_shards(9);
    assert_eq!((plan.shards.len(), plan.spare.len()), (4, 0), "there are no more");
    plan.keep_shards(1);
    let on: Vec<usize> = plan.shards.iter().map(|place| place.cpu).collect();
    assert_eq!(
        (on, plan.commit_cpus(0), plan.control_cpus()),
        (vec![0], vec![1, 2, 3], vec![1, 2, 3])
    );
}
