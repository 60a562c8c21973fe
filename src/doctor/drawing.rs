//! The map of a machine: what runs on each CPU, the memory of the nodes, and the devices. As text it has
//! one line for each CPU, below its node and core.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde::Serialize;

use crate::boot::topology::Cpu;
use crate::boot::topology::CpuList;
use crate::doctor::hardware::Device;

const GIB: f64 = (1_u64 << 30) as f64;
/// The width of the column of roles; interrupts follow.
const ROLE_CHARS: usize = 26;

/// What a CPU runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "runs", rename_all = "lowercase")]
pub enum Role {
    Shard {
        #[serde(rename = "shard")]
        number: u16,
        partitions: Vec<u8>,
    },
    /// Commit threads of the node, and the control plane.
    Spare,
    /// Outside of the affinity mask, or not in `server.cores`.
    Unused,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    #[serde(flatten)]
    pub cpu: Cpu,
    #[serde(flatten)]
    pub role: Role,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    pub node: usize,
    pub memory_bytes: u64,
    pub free_bytes: u64,
}

/// The machine, and what the server would run on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Map {
    pub partitions: usize,
    /// Whether `partitions` is that of an existing spool, or of a new one.
    pub spool_exists: bool,
    /// All online CPUs, by node and number.
    pub cpus: Vec<Place>,
    pub nodes: Vec<Node>,
    pub devices: Vec<Device>,
}

/// The map as text.
pub fn draw(map: &Map) -> String {
    let mut text = String::new();
    for Node { node, memory_bytes, free_bytes } in &map.nodes {
        let (total, free) = (*memory_bytes as f64 / GIB, *free_bytes as f64 / GIB);
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
    let has_spare = map.cpus.iter().any(|place| place.role == Role::Spare);
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
    let mut here: Vec<_> = map.cpus.iter().filter(|place| place.cpu.node == node).collect();
    here.sort_by_key(|place| (place.cpu.core, place.cpu.cpu));
    let widest = map.cpus.iter().map(|place| place.cpu.cpu).max().unwrap_or(0);
    let digits = widest.to_string().len();
    let mut last = None;
    for Place { cpu, role } in here {
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
        let runs_shard = |place: &Place| matches!(place.role, Role::Shard { .. });
        map.cpus.iter().any(|place| place.cpu.node == node && runs_shard(place))
    };
    device.node.is_some_and(|node| !near(node))
}

fn line(text: &mut String, what: std::fmt::Arguments<'_>) {
    writeln!(text, "{what}").expect("writing to a String cannot fail");
}
