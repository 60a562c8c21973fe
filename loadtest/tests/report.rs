//! Records and pages: what a source and a sink write, what `ringpost-load report` shows, and how it
//! refuses other files.

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::path::Path;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use serde_json::Value;

const MESSAGES: u64 = 500;

fn load(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringpost-load"));
    command.args(words).output().expect("the binary runs")
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|cause| panic!("{}: {cause}", path.display()))
}

/// Sends messages from a source to a sink; both write their records into this folder.
fn measure(folder: &Path, name: &str, bytes: &str) {
    let path = |end: &str| folder.join(format!("{name}{end}")).display().to_string();
    let count = MESSAGES.to_string();
    let mut sink = Command::new(env!("CARGO_BIN_EXE_ringpost-load"));
    sink.args(["sink", "-M", &count, "--live", "--output", &path("-sink.json")]);
    sink.args(["--html", &path("-sink.html"), "127.0.0.1:0"]);
    let mut sink = sink.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
    let mut errors = BufReader::new(sink.stderr.take().expect("it is piped"));
    let mut line = String::new();
    errors.read_line(&mut line).expect("it prints its address");
    let address = line.trim().strip_prefix("listening on ").expect("an address");
    let source = load(&[
        "source",
        "-d",
        "-s",
        "4",
        "-m",
        &count,
        "-l",
        bytes,
        "-t",
        "a@b.test",
        "--output",
        &path(".json"),
        "--html",
        &path(".html"),
        address,
    ]);
    assert!(source.status.success(), "{source:?}");
    assert!(sink.wait_with_output().expect("it ends").status.success());
}

/// The page loads no other file.
fn is_self_contained(page: &str) -> bool {
    let own = page.replace("http://www.w3.org/2000/svg", "");
    let refers = ["http:", "https:", "//", "src=", "href=", "url(", "@import", "<script", "<link"];
    page.starts_with("<!DOCTYPE html>")
        && page.ends_with("</html>\n")
        && !refers.iter().any(|reference| own.contains(reference))
}

#[test]
fn runs_are_recorded_shown_again_and_compared() {
    let folder = tempfile::tempdir().expect("a folder is made");
    let at = |name: &str| folder.path().join(name);
    measure(folder.path(), "small", "100");
    measure(folder.path(), "large", "200000");
    let json = |name: &str| -> Value { serde_json::from_str(&text(&at(name))).expect("JSON") };
    let (source, sink) = (json("small.json"), json("small-sink.json"));
    assert_eq!((&source["accepted"], &sink["messages"]), (&MESSAGES.into(), &MESSAGES.into()));
    assert_eq!((&sink["run"], &sink["ledger"]["distinct"]), (&source["run"], &MESSAGES.into()));
    let per_second = sink["intervals"].as_array().expect("seconds").iter();
    let counts = per_second.filter_map(|one| one["us"]["count"].as_u64());
    assert_eq!(counts.sum::<u64>(), MESSAGES, "{sink}");
    for page in ["small.html", "small-sink.html"] {
        assert!(is_self_contained(&text(&at(page))), "{page}");
    }

    // One record again.
    let word = |name: &str| at(name).display().to_string();
    let one = load(&["report", &word("small-sink.json"), "--html", &word("again.html")]);
    assert!(one.status.success(), "{one:?}");
    let shown = String::from_utf8_lossy(&one.stdout);
    assert!(shown.contains("500 messages") && shown.contains("\nend to end "), "{shown}");
    assert!(is_self_contained(&text(&at("again.html"))));

    // Two records side by side.
    let two =
        load(&["report", &word("small.json"), &word("large.json"), "--html", &word("two.html")]);
    let shown = String::from_utf8_lossy(&two.stdout);
    assert!(two.status.success(), "{two:?}");
    let row = |name: &str| {
        let line = shown.lines().find_map(|line| line.strip_prefix(name)).expect(&shown);
        let figures = line
            .split_whitespace()
            .map(|figure| figure.replace(',', "").parse::<f64>().expect(line));
        figures.collect::<Vec<_>>()
    };
    assert_eq!(row("accepted "), [500.0, 500.0, 1.0]);
    let [small, large, ratio] = row("per second")[..] else { panic!("{shown}") };
    assert!((large / small - ratio).abs() < 0.01, "{small} {large} {ratio}");
    let page = text(&at("two.html"));
    assert!(is_self_contained(&page));
    for name in ["small", "large"] {
        assert!(page.contains(&format!("</i>{name}</span>")), "the legend has {name}");
    }
}

#[test]
fn other_files_are_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder is made");
    let path = folder.path().join("x.json");
    fs::write(&path, "{}").expect("it is written");
    let path = path.display().to_string();
    for (words, expected) in [
        (&["report", &path][..], "x.json: not a record"),
        (&["report", "no-such.json"], "no-such.json"),
        (&["sink", "--html", "no-such-folder/x", "127.0.0.1:0"], "no such folder: no-such-folder"),
    ] {
        let output = load(words);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(told.contains(expected), "{told}");
    }
}
