//! CPUs: the configured cores, hardware threads, CPU quota, and NUMA settings.

use crate::boot::check;
use crate::boot::check::Finding;
use crate::boot::cores::Plan;
use crate::boot::proc::number_of;
use crate::boot::proc::text_of;
use crate::boot::topology::CpuList;
use crate::boot::topology::Topology;
use crate::doctor::subject::Subject;

pub fn examine(subject: &Subject) -> Vec<Finding> {
    let Subject { root, topology, .. } = subject;
    let mut findings = Vec::new();
    match &subject.plan {
        Err(fault) => findings.push(check::CORES.error(fault.to_string(), "correct server.cores")),
        Ok(plan) => {
            let cpus: Vec<usize> = plan.shards.iter().map(|place| place.cpu).collect();
            let count = cpus.len();
            let seen = format!("{count} shards on CPU {}", CpuList(&sorted(cpus)));
            findings.push(check::CORES.ok(seen));
            findings.push(smt(plan, topology));
            findings.push(quota(plan, topology.quota_millis));
        }
    }
    let nodes = Topology::read_online(root).nodes().len();
    findings.push(balancing(nodes, number_of(root, "proc/sys/kernel/numa_balancing")));
    findings.push(reclaim(nodes, &text_of(root, "proc/sys/vm/zone_reclaim_mode")));
    findings
}

fn sorted(mut cpus: Vec<usize>) -> Vec<usize> {
    cpus.sort_unstable();
    cpus
}

fn smt(plan: &Plan, topology: &Topology) -> Finding {
    let core_of = |number: usize| {
        let cpu = topology.cpus.iter().find(|cpu| cpu.cpu == number);
        cpu.map_or(number, |cpu| cpu.core)
    };
    let mut cores: Vec<usize> = plan.shards.iter().map(|place| core_of(place.cpu)).collect();
    let shards = cores.len();
    cores.sort_unstable();
    cores.dedup();
    if cores.len() < shards {
        let seen = format!("{shards} shards on {} physical cores", cores.len());
        return check::SMT.note(seen, "with `cores = \"auto\"` each shard gets a physical core");
    }
    let has_siblings = topology.cpus.iter().any(|cpu| cpu.cpu != cpu.core);
    check::SMT.ok(match has_siblings {
        true => {
            "each shard has a physical core; the sibling threads run commit and control threads"
        }
        false => "no sibling threads",
    })
}

fn quota(plan: &Plan, quota_millis: Option<u64>) -> Finding {
    let shards = plan.shards.len() as u64;
    match quota_millis {
        None => check::QUOTA.ok("none"),
        Some(millis) if millis < (shards + 1) * 1000 => check::QUOTA.warn(
            format!(
                "{}.{:03} CPUs for {shards} shards and their commit threads",
                millis / 1000,
                millis % 1000
            ),
            "assign whole CPUs instead of a quota (`AllowedCPUs=`, `docker --cpuset-cpus`)",
        ),
        Some(millis) => check::QUOTA.ok(format!("{} CPUs for {shards} shards", millis / 1000)),
    }
}

fn balancing(nodes: usize, mode: Option<u64>) -> Finding {
    match mode {
        _ if nodes < 2 => check::NUMA.ok("one node"),
        None | Some(0) => check::NUMA.ok(format!("off, on {nodes} nodes")),
        Some(_) => check::NUMA.warn(
            format!("kernel.numa_balancing is on, on {nodes} nodes"),
            "run `tuning/numa`, or `sysctl -w kernel.numa_balancing=0`",
        ),
    }
}

fn reclaim(nodes: usize, mode: &str) -> Finding {
    match mode.trim() {
        _ if nodes < 2 => check::RECLAIM.ok("one node"),
        "" | "0" => check::RECLAIM.ok("off"),
        mode => check::RECLAIM.warn(
            format!("vm.zone_reclaim_mode is {mode}"),
            "run `tuning/numa`, or `sysctl -w vm.zone_reclaim_mode=0`",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::boot::check::Level;
    use crate::boot::topology::Cpu;
    use crate::config::CoreSet;

    #[test]
    fn cores_are_judged() {
        let cpu = |cpu, core| Cpu { cpu, node: 0, core };
        let topology =
            Topology { cpus: vec![cpu(0, 0), cpu(1, 1), cpu(2, 0), cpu(3, 1)], quota_millis: None };
        let plan = |cpus: &[usize]| {
            Plan::new(&CoreSet::List(cpus.to_vec()), &topology).expect("they are there")
        };
        let rows: &[(&str, Finding, Level)] = &[
            ("apart", smt(&plan(&[0, 1]), &topology), Level::Ok),
            ("on one core", smt(&plan(&[0, 2]), &topology), Level::Note),
            ("no quota", quota(&plan(&[0, 1]), None), Level::Ok),
            ("a quota for shards alone", quota(&plan(&[0, 1]), Some(2000)), Level::Warn),
            ("a wide quota", quota(&plan(&[0, 1]), Some(3000)), Level::Ok),
            ("one node", balancing(1, Some(1)), Level::Ok),
            ("two nodes", balancing(2, Some(1)), Level::Warn),
            ("two nodes, off", balancing(2, Some(0)), Level::Ok),
            ("reclaim", reclaim(2, "1\n"), Level::Warn),
            ("no reclaim", reclaim(2, "0\n"), Level::Ok),
        ];
        for (row, finding, level) in rows {
            assert_eq!(finding.level, *level, "{row}: {finding:?}");
        }
    }
}
