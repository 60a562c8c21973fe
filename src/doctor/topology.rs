//! `ringpost topology`: which core would run what.
//!
//! Promise:  the same plan and placement as a start of the server, from the same code; the partitions
//!           are those of the spool if it exists.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use crate::base::id::PARTITIONS_MAX;
use crate::boot::cores::CoresFault;
use crate::boot::cores::Plan;
use crate::boot::proc::field_of;
use crate::boot::proc::text_of;
use crate::boot::topology::Topology;
use crate::config::Config;
use crate::config::Partitions;
use crate::doctor::drawing;
use crate::doctor::drawing::Map;
use crate::doctor::drawing::Node;
use crate::doctor::drawing::Place;
use crate::doctor::drawing::Role;
use crate::doctor::hardware::devices;
use crate::handoff::Placement;
use crate::queue::partitions_in;

/// Prints the map of this machine.
pub fn topology(config: &Config, as_json: bool) -> ExitCode {
    match map(Path::new("/"), config) {
        Ok(map) if as_json => println!("{:#}", json!(map)),
        Ok(map) => print!("{}", drawing::draw(&map)),
        Err(fault) => {
            eprintln!("ringpost: {fault}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// The map of the machine below `root` under `config`.
pub fn map(root: &Path, config: &Config) -> Result<Map, CoresFault> {
    let mut plan = Plan::new(&config.server.cores, &Topology::read(root))?;
    let found = partitions_in(&config.server.spool).ok().flatten().map(usize::from);
    let partitions = match (found, config.queue.partitions) {
        (Some(count), _) => count,
        (None, Partitions::Count(count)) => count,
        (None, Partitions::Auto) => plan.shards.len().clamp(1, PARTITIONS_MAX),
    };
    // As at start: a shard without a partition does not run.
    plan.shards.truncate(partitions);
    let placement = Placement::deal(partitions, plan.shards.len());
    let online = Topology::read_online(root);
    let role = |cpu: usize| match plan.shards.iter().find(|place| place.cpu == cpu) {
        Some(place) => {
            let home = placement.of_shard(place.shard);
            let partitions = home.iter().map(|partition| partition.0).collect();
            Role::Shard { number: place.shard.0, partitions }
        }
        None if plan.spare.contains(&cpu) => Role::Spare,
        None => Role::Unused,
    };
    Ok(Map {
        nodes: online.nodes().into_iter().map(|node| memory_of(root, node)).collect(),
        cpus: online.cpus.into_iter().map(|cpu| Place { cpu, role: role(cpu.cpu) }).collect(),
        devices: devices(root),
        partitions,
        spool_exists: found.is_some(),
    })
}

/// Total and free memory of a node; without NUMA support, those of the machine.
fn memory_of(root: &Path, node: usize) -> Node {
    let own = text_of(root, &format!("sys/devices/system/node/node{node}/meminfo"));
    let (text, prefix) = match own.is_empty() {
        true => (text_of(root, "proc/meminfo"), String::new()),
        false => (own, format!("Node {node} ")),
    };
    let bytes = |key: &str| field_of(&text, &format!("{prefix}{key}:")).unwrap_or(0) << 10;
    Node { node, memory_bytes: bytes("MemTotal"), free_bytes: bytes("MemFree") }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;

    use crate::config::HostFacts;
    use crate::config::load;

    fn put(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("made");
        fs::write(path, text).expect("written");
    }

    /// A machine whose siblings are numbered after all first threads.
    fn machine(root: &Path, nodes: usize, cores: usize, threads: usize) {
        let firsts = nodes * cores;
        let last = firsts * threads - 1;
        put(root, "proc/self/status", &format!("Cpus_allowed_list:\t0-{last}\n"));
        put(root, "sys/devices/system/cpu/online", &format!("0-{last}\n"));
        for node in 0..nodes {
            let lists = (0..threads).map(|thread| {
                let first = thread * firsts + node * cores;
                format!("{first}-{}", first + cores - 1)
            });
            let folder = format!("sys/devices/system/node/node{node}");
            let list = lists.collect::<Vec<_>>().join(",");
            put(root, &format!("{folder}/cpulist"), &list);
            let memory =
                format!("Node {node} MemTotal:  33554432 kB\nNode {node} MemFree:  16777216 kB\n");
            put(root, &format!("{folder}/meminfo"), &memory);
        }
        for cpu in 0..=last {
            let siblings = (0..threads).map(|thread| (thread * firsts + cpu % firsts).to_string());
            let list = siblings.collect::<Vec<_>>().join(",");
            put(
                root,
                &format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"),
                &list,
            );
        }
    }

    fn card(root: &Path, node: usize, interrupts: &[(u32, &str)]) {
        put(root, "sys/class/net/eth0/device/numa_node", &format!("{node}\n"));
        let mut table = "      CPU0\n".to_owned();
        for (number, cpus) in interrupts {
            put(root, &format!("sys/class/net/eth0/queues/rx-{number}/rps_cpus"), "0\n");
            put(root, &format!("sys/class/net/eth0/device/msi_irqs/{number}"), "msix\n");
            put(root, &format!("proc/irq/{number}/smp_affinity_list"), cpus);
            table += &format!(" {number}:  12  PCI-MSIX  1-edge  eth0-rx-{number}\n");
        }
        put(root, "proc/interrupts", &table);
    }

    fn drawn(root: &Path, cores: &str, partitions: &str) -> String {
        let spool = root.join("spool");
        let text = format!(
            "[server]\nhostname = \"mx.test\"\ncores = \"{cores}\"\nspool = \"{}\"\n\
             [queue]\npartitions = {partitions}\n",
            spool.display()
        );
        let facts =
            HostFacts { hostname: "mx.test".to_owned(), ports_from: 1024, ..HostFacts::default() };
        let config = load(&text, "test", &facts).expect("it is right").config;
        drawing::draw(&map(root, &config).expect("its cores are there"))
    }

    #[test]
    fn one_socket_is_drawn() {
        let root = tempfile::tempdir().expect("a folder for the test");
        machine(root.path(), 1, 2, 1);
        card(root.path(), 0, &[(33, "1\n"), (34, "0\n")]);
        // A second card, without a cable.
        put(root.path(), "sys/class/net/eth1/device/numa_node", "0\n");
        put(root.path(), "sys/class/net/eth1/operstate", "down\n");
        let expected = "\
node 0  32.0 GiB memory, 16.0 free
  core 0  cpu 0  shard 0  partitions 0 2    irq eth0-rx-34
  core 1  cpu 1  shard 1  partitions 1      irq eth0-rx-33

eth0  node 0, 2 receive and 0 send queues, 2 interrupts on cpu 0-1

3 partitions in a new spool; commit and control threads share the cores of the shards
";
        assert_eq!(drawn(root.path(), "auto", "3"), expected);
    }

    #[test]
    fn two_sockets_with_siblings_are_drawn() {
        let root = tempfile::tempdir().expect("a folder for the test");
        machine(root.path(), 2, 2, 2);
        card(root.path(), 1, &[(40, "6-7\n")]);
        let expected = "\
node 0  32.0 GiB memory, 16.0 free
  core 0  cpu 0  unused
          cpu 4  unused
  core 1  cpu 1  unused
          cpu 5  unused
node 1  32.0 GiB memory, 16.0 free
  core 2  cpu 2  shard 0  partitions 0 2
          cpu 6  commit and control threads irq eth0-rx-40
  core 3  cpu 3  shard 1  partitions 1 3
          cpu 7  commit and control threads irq eth0-rx-40

eth0  node 1, 1 receive and 0 send queues, 1 interrupts on cpu 6-7

4 partitions in a new spool
";
        assert_eq!(drawn(root.path(), "numa:1", "4"), expected);
        let auto = drawn(root.path(), "auto", "\"auto\"");
        assert!(auto.contains("core 0  cpu 0  shard 0  partitions 0\n"), "{auto}");
        assert!(auto.contains("          cpu 4  commit and control threads\n"), "{auto}");
        assert!(auto.contains("core 3  cpu 3  shard 3  partitions 3\n"), "{auto}");
    }

    #[test]
    fn four_nodes_are_drawn_and_far_cards_named() {
        let root = tempfile::tempdir().expect("a folder for the test");
        machine(root.path(), 4, 2, 1);
        card(root.path(), 3, &[(50, "7\n")]);
        let text = drawn(root.path(), "0-3", "2");
        assert_eq!(text.matches("\nnode ").count() + 1, 4, "{text}");
        assert!(text.contains("cpu 1  shard 1  partitions 1\n"), "{text}");
        assert!(text.contains("cpu 2  unused\n"), "the spool has two partitions: {text}");
        assert!(text.contains("eth0 is on node 3, where no shard runs"), "{text}");
        let facts =
            HostFacts { hostname: "mx.test".to_owned(), ports_from: 1024, ..HostFacts::default() };
        let config = load("[server]\ncores = \"numa:9\"\n", "test", &facts).expect("right").config;
        assert!(matches!(map(root.path(), &config), Err(CoresFault::NoSuchNode { node: 9, .. })));
        let config = load("[server]\ncores = \"numa:2\"\n", "test", &facts).expect("right").config;
        let map = json!(map(root.path(), &config).expect("its cores are there"));
        assert_eq!(map["cpus"][4]["runs"], "shard");
        assert_eq!(map["nodes"][3]["memory_bytes"], 32_u64 << 30);
        assert_eq!(map["devices"][0]["interrupts"][0]["cpus"][0], 7);
    }
}
