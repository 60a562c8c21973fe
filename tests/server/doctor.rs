//! `ringpost doctor` and `ringpost topology`, run on the machine of the test.

use std::fs;
use std::net::TcpListener;
use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::process::Output;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

/// The checks of `doctor` have 15 s in total.
const PATIENCE: Duration = Duration::from_secs(25);

fn ringpost(words: &[&str], config: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringpost"));
    command.args(words).arg("--config").arg(config);
    command.output().expect("the process runs")
}

/// A config with a silent name server, and with this port.
fn config(folder: &Path, server: &UdpSocket, port: u16) -> std::path::PathBuf {
    let path = folder.join("ringpost.toml");
    let text = format!(
        "[server]\nhostname = \"mx.example.test\"\nspool = \"{}\"\n\
         [[listener]]\naddress = [\"127.0.0.1:{port}\"]\n\
         [resolver]\nservers = [\"{}\"]\n[monitor]\nlisten = \"off\"\n",
        folder.join("spool").display(),
        server.local_addr().expect("bound"),
    );
    fs::write(&path, text).expect("written");
    path
}

fn level(report: &Value, id: &str) -> String {
    let findings = report["findings"].as_array().expect("a list");
    let finding = findings.iter().find(|finding| finding["id"] == id);
    finding.unwrap_or_else(|| panic!("no {id} in {report:#}"))["level"]
        .as_str()
        .expect("text")
        .to_owned()
}

#[test]
fn doctor_finds_problems_and_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let config = config(folder.path(), &silent, port);
    let began = Instant::now();
    let out = ringpost(&["doctor", "--json"], &config);
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    assert_eq!(out.status.code(), Some(2), "{}", String::from_utf8_lossy(&out.stderr));
    let report: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(level(&report, "name-servers"), "error");
    assert_eq!(level(&report, "listeners"), "error");
    assert_eq!(level(&report, "spool"), "ok");
    assert_eq!(level(&report, "io-uring"), "ok");
    for finding in report["findings"].as_array().expect("a list") {
        let file = finding["file"].as_str().expect("text");
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(file).is_file(), "{file}");
        let has_remedy = finding["remedy"].as_str().is_some_and(|text| !text.is_empty());
        assert_eq!(has_remedy, finding["level"] != "ok", "{finding}");
    }
    let left: Vec<_> = fs::read_dir(folder.path()).expect("readable").collect();
    assert_eq!(left.len(), 1, "only the config exists: {left:?}");
    drop(taken);
    let text = ringpost(&["doctor"], &config);
    let text = String::from_utf8(text.stdout).expect("text");
    assert!(text.contains("is free\n") && text.contains("sync-latency"), "{text}");
}

#[test]
fn an_unreadable_config_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let path = folder.path().join("ringpost.toml");
    fs::write(&path, "[server]\ncoers = 1\n").expect("written");
    assert_eq!(ringpost(&["doctor"], &path).status.code(), Some(2));
    assert_eq!(ringpost(&["topology"], &path).status.code(), Some(2));
}

#[test]
fn topology_places_a_shard_on_each_configured_core() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let config = config(folder.path(), &silent, 2525);
    let out = ringpost(&["topology", "--json"], &config);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let map: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let cpus = map["cpus"].as_array().expect("a list");
    let shards = cpus.iter().filter(|cpu| cpu["runs"] == "shard").count() as u64;
    assert!(shards >= 1);
    assert_eq!(map["partitions"], shards, "a new spool has one for each");
    let text = String::from_utf8(ringpost(&["topology"], &config).stdout).expect("text");
    assert!(text.starts_with("node 0  ") && text.contains("shard 0  partitions 0"), "{text}");
}
