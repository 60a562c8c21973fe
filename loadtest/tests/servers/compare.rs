//! Comparisons of one server, of two builds and of many domains: the figures are consistent, syncs are
//! proven, and nothing is left behind.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::process::Output;

use serde_json::Value;

use crate::load;
use crate::server;
use crate::texts;

fn compare(words: &str, spool: &Path) -> Output {
    let mut command = load();
    command.arg("compare").args(words.split_whitespace()).arg("--spool").arg(spool);
    command.arg("--ringpost").arg(server()).output().expect("the binary runs")
}

fn has_strace() -> bool {
    Command::new("strace").args(["-o", "/dev/null", "true"]).status().is_ok_and(|s| s.success())
}

#[test]
fn one_server_is_measured_and_removed() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the folder is ours");
    let [spool, records] = ["spool", "records"].map(|name| folder.path().join(name));
    [&spool, &records].into_iter().for_each(|path| fs::create_dir(path).expect("it is new"));
    let table = folder.path().join("table.md");
    let words = format!(
        "--peers ringpost --messages 3000 --sessions 4 --rate 600 \
         --turns 1 --length 1000 --json --markdown {} --records {}",
        table.display(),
        records.display()
    );
    let output = compare(&words, &spool);
    let (text, _) = texts(&output);
    assert!(output.status.success(), "{text}{output:?}");
    let told: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{output:?}"));

    let own = &told["standings"][0];
    let turn = &own["turns"][0];
    for part in ["accept", "relay"] {
        assert_eq!(turn[part]["messages"], 3000, "{told}");
        assert!(turn[part]["per_second"].as_f64() > Some(0.0), "{told}");
        // CPU time of fewer messages may be below one tick.
        assert!(turn[part]["cpu_us"].as_f64() > Some(0.0), "{told}");
    }
    assert_eq!(turn["mail"]["accepted"], 9000, "three parts of 3000: {told}");
    for wrong in [
        "failed",
        "unconnected",
        "lost",
        "duplicated",
        "alien",
        "corrupted",
        "bounced",
        "unrecorded",
    ] {
        assert_eq!(turn["mail"][wrong], 0, "{told}");
    }
    assert!(turn["memory_kb"].as_u64() > Some(1000), "{told}");
    let steady = &turn["steady"];
    let (middle, tail) = (steady["end_p50"].as_f64(), steady["end_p99"].as_f64());
    assert!(steady["per_second"] == 600.0 && middle > Some(0.0) && tail >= middle, "{told}");
    let median = &own["medians"]["relayed_per_second"]["median"];
    let ratio = median.as_f64().zip(turn["relay"]["per_second"].as_f64()).map(|(a, b)| a / b);
    assert!(ratio.is_some_and(|ratio| (ratio - 1.0).abs() < 1e-9), "{told}");

    let proof = &own["proof"];
    if has_strace() {
        assert_eq!((&proof["messages"], &proof["synced"]), (&20.into(), &20.into()), "{told}");
        let syncs = proof["syncs_per_message"].as_f64().expect("they are counted");
        assert!(syncs > 0.0 && syncs <= 1.5, "sessions share syncs: {told}");
    } else {
        assert!(proof["fault"].as_str().is_some_and(|why| why.contains("strace")), "{told}");
    }
    let left: Vec<_> = fs::read_dir(&spool).expect("it is ours").flatten().collect();
    assert!(left.is_empty(), "{left:?}{}", String::from_utf8_lossy(&output.stderr));

    // The saved records are like any other.
    let table = fs::read_to_string(table).expect("it is written");
    for line in ["| sessions | 4 |", "| refused or bounced | 0 |", "duplicated or changed | 0 |"] {
        assert!(table.contains(line), "{line}: {table}");
    }
    let report = load().arg("report").arg(records.join("ringpost-1-relay.json")).output();
    let (text, _) = texts(&report.expect("the binary runs"));
    assert!(text.contains("body to reply"), "{text}");
}

#[test]
fn two_builds_are_compared_in_pairs_and_relay_to_many_domains() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the folder is ours");
    let words = format!(
        "--baseline {} --messages 1500 --sessions 4 --turns 2 --length 1000 --domains 70 \
         --no-latency --no-proof",
        server().display()
    );
    let output = compare(&words, folder.path());
    let (text, _) = texts(&output);
    assert!(output.status.success(), "{text}{output:?}");
    let row = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("{name}: {text}")).to_owned()
    };
    assert!(row("      ").contains("Ringpost baseline"), "{text}");
    for name in ["accepted per second", "relayed per second", "CPU per message relayed"] {
        let ratio = row(name).rsplit("  ").next().expect("the last cell").to_owned();
        let median = ratio.split(' ').next().and_then(|median| median.parse::<f64>().ok());
        assert!(median.is_some_and(|median| (0.01..100.0).contains(&median)), "{name}: {text}");
    }
    assert!(row("lost, duplicated or changed").contains(" 0"), "{text}");
    let threads = row("Ringpost: CPU per message relayed, by thread");
    assert!(threads.contains("shard "), "{threads}");
    assert_eq!(fs::read_dir(folder.path()).expect("it is ours").count(), 0, "folders are left");
}

#[test]
fn generators_are_compared_without_a_server() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the folder is ours");
    let output = compare("--generators --messages 3000 --turns 1 --json", folder.path());
    let told: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let own = &told["standings"][0]["turns"][0]["accept"];
    assert_eq!(own["messages"], 3000, "{told}");
    assert!(own["cpu_us"].as_f64() > Some(0.0), "{told}");
    let has_other = Path::new("/usr/sbin/smtp-source").exists();
    let other = &told["standings"][1];
    assert_eq!(other["failure"].is_null(), has_other, "{told}");
    assert_eq!(output.status.success(), has_other, "{told}");
}

#[test]
fn a_requested_server_that_is_missing_is_a_failure() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the folder is ours");
    let output = compare("--peers haraka --haraka /no/such", folder.path());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let (text, _) = texts(&output);
    assert!(
        text.contains("Haraka: failed: not found (/no/such/node_modules/Haraka/bin/haraka)"),
        "{text}"
    );
}

#[test]
fn a_server_that_does_not_start_is_quoted() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the folder is ours");
    let server = folder.path().join("server");
    fs::write(&server, "#!/bin/sh\necho no such thing as $1\nexit 3\n").expect("it is ours");
    let mode = Command::new("chmod").arg("755").arg(&server).status();
    assert!(mode.is_ok_and(|status| status.success()));
    let mut command = load();
    command.args("compare --peers ringpost --messages 1 --turns 1 --ringpost".split(' '));
    let output = command.arg(&server).arg("--spool").arg(folder.path()).output();
    let output = output.expect("the binary runs");
    let (text, _) = texts(&output);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text.contains("Ringpost exited during its start: no such thing as serve"), "{text}");
    assert_eq!(fs::read_dir(folder.path()).expect("it is ours").count(), 1, "folders are left");
}
