//! Network cards and disks with their queues, their NUMA node and the CPUs of their interrupts.
//!
//! Promise:  lists only physical devices in use: no bridges or loop devices, and no network card that
//!           is down or without a cable.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use serde::Serialize;

use crate::boot::proc::text_of;
use crate::boot::topology::parse_cpu_list;

/// Names of administrative interrupts, which do not reflect load.
const QUIET: [&str; 4] = ["config", "admin", "control", "event"];

/// One interrupt and the CPUs that may handle it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interrupt {
    #[serde(rename = "irq")]
    pub number: u32,
    /// As in `/proc/interrupts`: `eth0-rx-0`, `nvme0q3`.
    pub name: String,
    pub cpus: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Card,
    Disk,
}

/// A network card or a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Device {
    #[serde(skip)]
    pub kind: Kind,
    pub name: String,
    /// `None` if the device belongs to no node, or the machine has a single node.
    pub node: Option<usize>,
    pub receive_queues: usize,
    /// For a disk, its hardware queues.
    pub send_queues: usize,
    /// Receive queues whose packets the kernel spreads over cores (RPS).
    #[serde(skip)]
    pub spread_queues: usize,
    pub interrupts: Vec<Interrupt>,
}

/// All cards and disks below `root`, by name.
pub fn devices(root: &Path) -> Vec<Device> {
    let names = interrupt_names(root);
    let cards = entries(&root.join("sys/class/net")).into_iter();
    let cards = cards.filter_map(|folder| device(root, &folder, Kind::Card, &names));
    let disks = entries(&root.join("sys/block")).into_iter();
    let disks = disks.filter_map(|folder| device(root, &folder, Kind::Disk, &names));
    cards.chain(disks).collect()
}

fn device(root: &Path, folder: &Path, kind: Kind, names: &BTreeMap<u32, String>) -> Option<Device> {
    let below = folder.join("device");
    let real = fs::canonicalize(&below).ok()?;
    if kind == Kind::Card && matches!(text_of(folder, "operstate").trim(), "down" | "notpresent") {
        return None;
    }
    let queues = |prefix: &str| {
        let all = entries(&folder.join("queues"));
        all.iter().filter(|queue| name_of(queue).starts_with(prefix)).count()
    };
    let (receive_queues, send_queues) = match kind {
        Kind::Card => (queues("rx-"), queues("tx-")),
        Kind::Disk => (0, entries(&folder.join("mq")).len()),
    };
    let spread = |queue: &PathBuf| {
        let mask = text_of(queue, "rps_cpus");
        mask.bytes().any(|digit| digit.is_ascii_hexdigit() && digit != b'0')
    };
    let spread_queues =
        entries(&folder.join("queues")).iter().filter(|queue| spread(queue)).count();
    Some(Device {
        kind,
        name: name_of(folder),
        node: real.ancestors().find_map(|at| text_of(at, "numa_node").trim().parse().ok()),
        receive_queues,
        send_queues,
        spread_queues,
        interrupts: interrupts(root, &real, names),
    })
}

/// The interrupts of the nearest bus device with any: those of a virtio card belong to its PCI parent.
fn interrupts(root: &Path, real: &Path, names: &BTreeMap<u32, String>) -> Vec<Interrupt> {
    let lines = real.ancestors().map(|at| entries(&at.join("msi_irqs")));
    let lines = lines.into_iter().find(|lines| !lines.is_empty()).unwrap_or_default();
    let mut found: Vec<Interrupt> = lines
        .iter()
        .filter_map(|line| name_of(line).parse().ok())
        .filter_map(|number| Some((number, names.get(&number)?.clone())))
        .filter(|(_, name)| !QUIET.iter().any(|quiet| name.contains(quiet)))
        .map(|(number, name)| Interrupt { number, name, cpus: cpus_of(root, number) })
        .collect();
    found.sort_by_key(|interrupt| interrupt.number);
    found
}

/// The CPU in use if the kernel shows it; otherwise all allowed CPUs.
fn cpus_of(root: &Path, number: u32) -> Vec<usize> {
    let read = |file: &str| {
        let text = text_of(root, &format!("proc/irq/{number}/{file}"));
        parse_cpu_list(&text).filter(|cpus| !cpus.is_empty())
    };
    read("effective_affinity_list").or_else(|| read("smp_affinity_list")).unwrap_or_default()
}

fn interrupt_names(root: &Path) -> BTreeMap<u32, String> {
    let text = text_of(root, "proc/interrupts");
    let lines = text.lines().filter_map(|line| {
        let (number, rest) = line.split_once(':')?;
        Some((number.trim().parse().ok()?, rest.split_whitespace().last()?.to_owned()))
    });
    lines.collect()
}

/// The entries of a folder, sorted by name as text.
pub fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

pub fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
