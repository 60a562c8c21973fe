//! The map of a machine as text: one line for each CPU, below its node and core.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::boot::topology::CpuList;
use crate::doctor::hardware::Device;
use crate::doctor::map::Map;
use crate::doctor::map::Role;

const GIB: f64 = (1_u64 << 30) as f64;
/// The width of the column of roles; interrupts follow.
const ROLE_CHARS: usize = 26;

/// The map as text.
pub fn draw(map: &Map) -> String {
    let mut text = String::new();
    for (node, total, free) in &map.memory {
        let (total, free) = (*total as f64 / GIB, *free as f64 / GIB);
        line(&mut text, format_args!("node {node}  {total:.1} GiB memory, {free:.1} free"));
        draw_cpus(&mut text, map, *node);
    }
    if !map.devices.is_empty() {
        text.push('\n');
    }
    for device in &map.devices {
        line(&mut text, format_args!("{}", told(device)));
    }
    let whose = if map.spool_exists { "the spool" } else { "a new spool" };
    let has_spare = map.cpus.iter().any(|(_, role)| *role == Role::Spare);
    let commits = match has_spare {
        true => "",
        false => "; commit and control threads share the cores of the shards",
    };
    line(&mut text, format_args!("\n{} partitions in {whose}{commits}", map.partitions));
    for device in map.devices.iter().filter(|device| is_far(map, device)) {
        let node = device.node.unwrap_or(0);
        line(&mut text, format_args!("{} is on node {node}, where no shard runs", device.name));
    }
    text
}

fn draw_cpus(text: &mut String, map: &Map, node: usize) {
    let mut here: Vec<_> = map.cpus.iter().filter(|(cpu, _)| cpu.node == node).collect();
    here.sort_by_key(|(cpu, _)| (cpu.core, cpu.cpu));
    let widest = map.cpus.iter().map(|(cpu, _)| cpu.cpu).max().unwrap_or(0);
    let digits = widest.to_string().len();
    let mut last = None;
    for (cpu, role) in here {
        let core = match last == Some(cpu.core) {
            true => " ".repeat("core ".len() + digits),
            false => format!("core {:>digits$}", cpu.core),
        };
        last = Some(cpu.core);
        let lines: Vec<&str> = map
            .devices
            .iter()
            .flat_map(|device| &device.interrupts)
            .filter(|interrupt| interrupt.cpus.contains(&cpu.cpu))
            .map(|interrupt| interrupt.name.as_str())
            .collect();
        let irqs =
            if lines.is_empty() { String::new() } else { format!(" irq {}", lines.join(" ")) };
        let row = format!("  {core}  cpu {:>digits$}  {:<ROLE_CHARS$}{irqs}", cpu.cpu, shown(role));
        line(text, format_args!("{}", row.trim_end()));
    }
}

fn shown(role: &Role) -> String {
    match role {
        Role::Shard { number, partitions } => {
            let partitions: Vec<String> = partitions.iter().map(u8::to_string).collect();
            format!("shard {number}  partitions {}", partitions.join(" "))
        }
        Role::Spare => "commit and control threads".to_owned(),
        Role::Unused => "unused".to_owned(),
    }
}

fn told(device: &Device) -> String {
    let Device { name, node, receive_queues, send_queues, interrupts, .. } = device;
    let cpus: BTreeSet<usize> =
        interrupts.iter().flat_map(|interrupt| interrupt.cpus.iter().copied()).collect();
    let cpus: Vec<usize> = cpus.into_iter().collect();
    let node = node.map_or_else(|| "any node".to_owned(), |node| format!("node {node}"));
    let queues = format!("{receive_queues} receive and {send_queues} send queues");
    format!("{name}  {node}, {queues}, {} interrupts on cpu {}", interrupts.len(), CpuList(&cpus))
}

fn is_far(map: &Map, device: &Device) -> bool {
    let near = |node: usize| {
        map.cpus.iter().any(|(cpu, role)| cpu.node == node && matches!(role, Role::Shard { .. }))
    };
    device.node.is_some_and(|node| !near(node))
}

fn line(text: &mut String, what: std::fmt::Arguments<'_>) {
    writeln!(text, "{what}").expect("writing to a String cannot fail");
}
