//! A comparison with a single server: its figures hold together, the proof of its syncs is found, and
//! nothing is left behind.

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use serde_json::Value;

/// The server is built into the same folder: by `cargo test --workspace`, or `cargo build`.
fn server() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_ringpost-load")).with_file_name("ringpost");
    assert!(path.exists(), "{} is not built; use --workspace", path.display());
    path
}

fn compare(words: &str, spool: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringpost-load"));
    command.arg("compare").args(words.split_whitespace()).arg("--spool").arg(spool);
    command.arg("--ringpost").arg(server()).output().expect("the binary runs")
}

fn has_strace() -> bool {
    Command::new("strace").args(["-o", "/dev/null", "true"]).status().is_ok_and(|s| s.success())
}

#[test]
fn one_server_is_measured_and_gone() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the folder is ours");
    let [spool, records] = ["spool", "records"].map(|name| folder.path().join(name));
    [&spool, &records].into_iter().for_each(|path| fs::create_dir(path).expect("it is new"));
    let (kept, table) = (folder.path().join("kept.json"), folder.path().join("table.md"));
    let words = format!(
        "--peers ringpost --messages 3000 --sessions 4 --rate 600 \
         --turns 1 --length 1000 --json --output {} --markdown {} --records {}",
        kept.display(),
        table.display(),
        records.display()
    );
    let output = compare(&words, &spool);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{output:?}");
    let told: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{output:?}"));

    let own = &told["standings"][0];
    let turn = &own["turns"][0];
    for part in ["accept", "relay"] {
        assert_eq!(turn[part]["messages"], 3000, "{told}");
        assert!(turn[part]["per_second"].as_f64() > Some(0.0), "{told}");
        // Of fewer messages it may be less than one of the ticks in which it is counted.
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

    // What was kept says the same again, and a record of it is one like any other.
    let table = fs::read_to_string(table).expect("it is written");
    for line in ["| sessions | 4 |", "| not accepted or sent back | 0 |", "or wrong | 0 |"] {
        assert!(table.contains(line), "{line}: {table}");
    }
    let again = compare(&format!("--json --from {}", kept.display()), &spool);
    let again: Value = serde_json::from_slice(&again.stdout).expect("it is JSON");
    let kept = &again["standings"][0];
    assert_eq!(
        (&kept["turns"][0]["mail"], &kept["proof"]["synced"]),
        (&turn["mail"], &proof["synced"]),
        "{again}"
    );
    // Fractions may lose their last bit on the way through text.
    let rate = |of: &Value| of["medians"]["relayed_per_second"]["median"].as_f64();
    let (before, after) = (rate(own).expect("a rate"), rate(kept).expect("a rate"));
    assert!((after / before - 1.0).abs() < 1e-9, "{again}");
    let mut report = Command::new(env!("CARGO_BIN_EXE_ringpost-load"));
    let report = report.arg("report").arg(records.join("ringpost-1-relay.json")).output();
    let report = report.expect("the binary runs");
    assert!(String::from_utf8_lossy(&report.stdout).contains("body to reply"), "{report:?}");
}

#[test]
fn a_server_that_is_asked_for_and_not_there_is_a_failure() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the folder is ours");
    let output = compare("--peers kumomta --kumomta /no/such/kumod", folder.path());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("KumoMTA: failed: not present (/no/such/kumod)"), "{text}");
}

#[test]
fn a_sink_ends_with_the_input_that_is_held_for_it() {
    let mut sink = Command::new(env!("CARGO_BIN_EXE_ringpost-load"));
    sink.args(["sink", "--with-input", "127.0.0.1:0"]).stdin(Stdio::piped());
    let mut sink = sink.stderr(Stdio::piped()).spawn().expect("the binary runs");
    let mut words = BufReader::new(sink.stderr.take().expect("it is a pipe"));
    let mut line = String::new();
    words.read_line(&mut line).expect("it is text");
    assert!(line.contains("listening on 127.0.0.1:"), "{line}");
    assert!(matches!(sink.try_wait(), Ok(None)), "its input is open");
    drop(sink.stdin.take());
    assert!(sink.wait().expect("it ends").success());
}

#[test]
fn a_server_that_does_not_start_is_told_with_its_words() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the folder is ours");
    let server = folder.path().join("server");
    fs::write(&server, "#!/bin/sh\necho no such thing as $1\nexit 3\n").expect("it is ours");
    let mode = Command::new("chmod").arg("755").arg(&server).status();
    assert!(mode.is_ok_and(|status| status.success()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringpost-load"));
    command.args([
        "compare",
        "--peers",
        "ringpost",
        "--messages",
        "1",
        "--turns",
        "1",
        "--ringpost",
    ]);
    let output = command.arg(&server).arg("--spool").arg(folder.path()).output();
    let output = output.expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text.contains("Ringpost ended at its start: no such thing as serve"), "{text}");
    assert_eq!(fs::read_dir(folder.path()).expect("it is ours").count(), 1, "folders are left");
}
