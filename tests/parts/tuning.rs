//! `tuning/`: every file has the required sections, and scripts change a machine once, announce
//! changes in a dry run, and undo them. They run on a machine made of plain files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;

use ringpost::boot::check;

const PARTS: [&str; 4] = ["Value:", "Reason:", "Measured:", "Change back:"];
/// Files that are no setting: installed files, files with several settings, helpers.
const OTHERS: [&str; 9] = [
    "90-ringpost.conf",
    "CAPACITY.md",
    "README.md",
    "apply",
    "common.sh",
    "container.toml",
    "ringpost-tuning.service",
    "ringpost.service",
    "seccomp",
];

fn tuning() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning")
}

fn names() -> Vec<String> {
    let entries = fs::read_dir(tuning()).expect("the folder is readable");
    let names = entries.map(|entry| entry.expect("readable").file_name().into_string());
    let mut names: Vec<String> = names.map(|name| name.expect("UTF-8")).collect();
    names.sort();
    names
}

fn put(root: &Path, file: &str, text: &str) {
    let path = root.join(file);
    fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("made");
    fs::write(path, text).expect("written");
}

/// Four CPUs, a card with two queues below a virtio device, an SSD and a hard disk, all with bad
/// settings.
fn machine(root: &Path) {
    for (key, value) in [
        ("net/core/somaxconn", "128"),
        ("net/ipv4/tcp_max_syn_backlog", "512"),
        ("net/ipv4/tcp_tw_reuse", "2"),
        ("net/ipv4/ip_local_port_range", "32768\t60999"),
        ("net/ipv4/tcp_rmem", "4096\t131072\t33554432"),
        ("net/ipv4/tcp_wmem", "4096\t16384\t65536"),
        ("kernel/io_uring_disabled", "0"),
        ("kernel/numa_balancing", "1"),
        ("vm/zone_reclaim_mode", "0"),
        ("vm/swappiness", "60"),
        ("vm/dirty_background_ratio", "10"),
        ("vm/dirty_ratio", "0"),
    ] {
        put(root, &format!("proc/sys/{key}"), &format!("{value}\n"));
    }
    let huge = "sys/kernel/mm/transparent_hugepage";
    put(root, &format!("{huge}/enabled"), "[always] madvise never\n");
    put(root, &format!("{huge}/defrag"), "always defer [madvise] never\n");
    put(root, "sys/devices/system/cpu/online", "0-2,33\n");
    put(root, "sys/devices/system/cpu/smt/control", "on\n");
    put(root, "sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "powersave\n");
    for queue in ["rx-0/rps_cpus", "rx-1/rps_cpus", "tx-0/xps_cpus", "tx-1/xps_cpus"] {
        put(root, &format!("sys/class/net/eth0/queues/{queue}"), "0\n");
    }
    put(root, "sys/class/net/lo/queues/rx-0/rps_cpus", "0\n");
    put(root, "sys/devices/pci/virtio0/numa_node", "0\n");
    symlink("../../../devices/pci/virtio0", root.join("sys/class/net/eth0/device"))
        .expect("linked");
    let mut table = "      CPU0\n".to_owned();
    let lines = ["config", "input.0", "output.0", "input.1", "output.1"];
    for (line, name) in (7..).zip(lines.map(|name| format!("virtio0-{name}"))) {
        put(root, &format!("sys/devices/pci/msi_irqs/{line}"), "msix\n");
        put(root, &format!("proc/irq/{line}/smp_affinity_list"), "0-2,33\n");
        table += &format!("{line:>3}:   1  PCI-MSIX  0-edge  {name}\n");
    }
    // A list of CPUs in which 0 is the first CPU.
    put(root, "proc/irq/10/smp_affinity_list", "0,1\n");
    put(root, "proc/interrupts", &table);
    for (disk, turns) in [("nvme0n1", "0"), ("sda", "1"), ("vda", "1")] {
        put(root, &format!("sys/block/{disk}/device/model"), "x\n");
        put(root, &format!("sys/block/{disk}/queue/rotational"), turns);
        put(root, &format!("sys/block/{disk}/queue/scheduler"), "none [mq-deadline]\n");
        put(root, &format!("sys/block/{disk}/queue/rq_affinity"), "1\n");
    }
}

/// Every file with its text, except the records of the scripts.
fn texts(root: &Path, folder: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() && !path.is_symlink() {
            texts(root, &path, found);
        } else if path.is_file() {
            let name = path.strip_prefix(root).expect("below").display().to_string();
            found.insert(name, fs::read_to_string(&path).expect("text"));
        }
    }
}

fn state(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    texts(root, root, &mut found);
    found
}

fn apply(root: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(tuning().join("apply"));
    command.args(words).env("TUNING_ROOT", root).env_remove("TUNING_STATE");
    let out = command.output().expect("bash can be run");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out
}

#[test]
fn every_setting_has_the_required_sections() {
    for name in names().iter().filter(|name| !OTHERS.contains(&name.as_str())) {
        let text = fs::read_to_string(tuning().join(name)).expect("text");
        for part in PARTS {
            assert!(text.contains(part), "tuning/{name} lacks {part:?}");
        }
        let is_known = check::ALL.iter().any(|check| check.file == name);
        assert!(is_known || name == "rocksdb.md", "no finding refers to tuning/{name}");
    }
}

#[test]
fn scripts_change_once_and_undo() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let root = folder.path();
    machine(root);
    let before = state(root);

    let told = apply(root, &["--dry-run"]);
    assert_eq!(state(root), before, "a dry run changes nothing");
    let told = String::from_utf8(told.stdout).expect("text");
    for line in [
        "sysctl: /proc/sys/net/core/somaxconn: 128 -> 4096",
        "sysctl: /proc/sys/net/ipv4/ip_local_port_range: 32768 60999 -> 10240 65535",
        "network-queues: /sys/class/net/eth0/queues/rx-1/rps_cpus: 0 -> 2,00000007",
        "network-queues: /sys/class/net/eth0/queues/tx-1/xps_cpus: 0 -> 2,00000002",
        "interrupts: /proc/irq/8/smp_affinity_list: 0-2,33 -> 0",
        "interrupts: /proc/irq/10/smp_affinity_list: 0,1 -> 1",
        "interrupts: /proc/irq/9/smp_affinity_list: 0-2,33 -> 2",
        "interrupts: /proc/irq/11/smp_affinity_list: 0-2,33 -> 33",
        "huge-pages: /sys/kernel/mm/transparent_hugepage/enabled: always -> madvise",
        "disk-queues: /sys/block/nvme0n1/queue/scheduler: mq-deadline -> none",
        "disk-queues: /sys/block/vda/queue/scheduler: mq-deadline -> none",
    ] {
        assert!(told.lines().any(|one| one == line), "{line:?} is missing in\n{told}");
    }

    apply(root, &[]);
    let after = state(root);
    let value = |file: &str| after[file].trim();
    assert_eq!(value("proc/sys/kernel/numa_balancing"), "0");
    assert_eq!(value("sys/devices/system/cpu/cpufreq/policy0/scaling_governor"), "performance");
    assert_eq!(value("proc/irq/8/smp_affinity_list"), "0");
    assert_eq!(value("sys/block/nvme0n1/queue/scheduler"), "none");
    for untouched in [
        "proc/irq/7/smp_affinity_list",
        "proc/sys/vm/dirty_ratio",
        "proc/sys/net/ipv4/tcp_rmem",
        "sys/block/sda/queue/scheduler",
        "sys/class/net/lo/queues/rx-0/rps_cpus",
        "sys/kernel/mm/transparent_hugepage/defrag",
    ] {
        assert_eq!(after[untouched], before[untouched], "{untouched}");
    }

    // As the kernel prints a set of CPUs when it supports more.
    put(root, "sys/class/net/eth0/queues/rx-0/rps_cpus", "00000000,00000002,00000007\n");
    let after = state(root);
    let again = apply(root, &[]);
    let told = String::from_utf8(again.stdout).expect("text");
    let expected = "sysctl: vm/dirty_ratio is set in bytes and left as it is\n";
    assert_eq!(told, expected, "nothing is left to change");
    assert_eq!(state(root), after);

    apply(root, &["--undo", "--dry-run"]);
    assert_eq!(state(root), after, "a dry run undoes nothing");
    apply(root, &["--undo"]);
    let words = |files: &BTreeMap<String, String>| -> BTreeMap<String, String> {
        let known = files.iter().filter(|(file, _)| before.contains_key(*file));
        // The kernel shows all choices and accepts one; plain files keep what was written.
        let chosen = |text: &str| match text.split_once('[').and_then(|(_, s)| s.split_once(']')) {
            Some((chosen, _)) => chosen.to_owned(),
            None => text.split_whitespace().collect::<Vec<_>>().join(" "),
        };
        known.map(|(file, text)| (file.clone(), chosen(text))).collect()
    };
    assert_eq!(words(&state(root)), words(&before));
}

/// The programs that the unit starts and stops are in the folder to be copied.
#[test]
fn the_unit_runs_existing_programs() {
    let unit = fs::read_to_string(tuning().join("ringpost-tuning.service")).expect("text");
    let lines = unit.lines().filter_map(|line| {
        line.strip_prefix("ExecStart=").or_else(|| line.strip_prefix("ExecStop="))
    });
    let commands: Vec<Vec<&str>> = lines.map(|line| line.split(' ').collect()).collect();
    assert_eq!(commands.len(), 2, "{unit}");
    let folder = tempfile::tempdir().expect("a folder for the test");
    for words in commands {
        let script = words[0].strip_prefix("/usr/local/share/ringpost/tuning/").expect(words[0]);
        let mut command = Command::new(tuning().join(script));
        let out = command.args(&words[1..]).arg("--dry-run").env("TUNING_ROOT", folder.path());
        assert!(out.output().expect("bash can be run").status.success(), "{words:?}");
    }
}

/// A refused change is reported and not undone. A removed device does not prevent undoing the rest.
#[test]
fn a_refused_change_or_a_removed_device_is_no_obstacle() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let root = folder.path();
    let (governor, refusing) = ("scaling_governor", "sys/devices/system/cpu/cpufreq/policy1");
    let policy = |number| format!("sys/devices/system/cpu/cpufreq/policy{number}/{governor}");
    put(root, &policy(0), "powersave\n");
    put(root, &policy(2), "powersave\n");
    fs::create_dir_all(root.join(refusing)).expect("made");
    // Not even root can write there.
    symlink("/proc/version", root.join(refusing).join(governor)).expect("linked");
    let run = |words: &[&str]| {
        let mut command = Command::new(tuning().join("governor"));
        command.args(words).env("TUNING_ROOT", root).env_remove("TUNING_STATE");
        let out = command.output().expect("bash can be run");
        (out.status.code(), String::from_utf8(out.stderr).expect("text"))
    };
    let (code, said) = run(&[]);
    assert_eq!(code, Some(1));
    assert!(said.contains("policy1/scaling_governor: not accepted"), "{said}");
    fs::remove_file(root.join(policy(2))).expect("the file exists");
    assert_eq!(run(&["--undo"]), (Some(0), String::new()));
    assert_eq!(state(root)[&policy(0)].trim(), "powersave");
    assert!(!root.join("run/ringpost-tuning/governor").exists(), "nothing is left to undo");
}

#[test]
fn an_unknown_option_is_refused() {
    for script in ["huge-pages", "apply"] {
        let mut command = Command::new(tuning().join(script));
        let out = command.arg("--force").output().expect("bash can be run");
        assert_eq!(out.status.code(), Some(2), "{script}");
    }
}

#[test]
fn scripts_pass_shellcheck() {
    let is_bash = |name: &&String| {
        let text = fs::read_to_string(tuning().join(name)).expect("text");
        text.starts_with("#!/bin/bash") || name.ends_with(".sh")
    };
    let scripts: Vec<String> = names().iter().filter(is_bash).cloned().collect();
    assert!(scripts.len() >= 10, "{scripts:?}");
    let mut command = Command::new("shellcheck");
    command.args(["-x", "-P", env!("CARGO_MANIFEST_DIR")]).args(&scripts).current_dir(tuning());
    match command.output() {
        Ok(out) => assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout)),
        Err(cause) => println!("shellcheck is not installed ({cause}); nothing was checked"),
    }
}
