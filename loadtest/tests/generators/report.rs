//! Records and pages: what a source and a sink write, what `ringpost-load report` shows, and how it
//! refuses other files.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::Sink;
use crate::errors;
use crate::load;
use crate::source_to;

const MESSAGES: u64 = 500;

fn run(words: &[&str]) -> Output {
    load(words).output().expect("the binary runs")
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|cause| panic!("{}: {cause}", path.display()))
}

/// Sends messages from a source to a sink; both write their records into this folder.
fn measure(folder: &Path, name: &str, bytes: &str) {
    let path = |end: &str| folder.join(format!("{name}{end}")).display().to_string();
    let count = MESSAGES.to_string();
    let (record, page) = (path("-sink.json"), path("-sink.html"));
    let sink = Sink::start(&["-M", &count, "--live", "--output", &record, "--html", &page]);
    let flags: Vec<&str> = "-d -s 4 -t a@b.test -m".split(' ').collect();
    let (record, page) = (path(".json"), path(".html"));
    let files = [&count, "-l", bytes, "--output", &record, "--html", &page];
    let source = source_to(sink.address(), &[&flags[..], &files].concat());
    assert!(source.status.success(), "{source:?}");
    assert_eq!(sink.end()["messages"], MESSAGES);
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
    let one = run(&["report", &word("small-sink.json"), "--html", &word("again.html")]);
    assert!(one.status.success(), "{one:?}");
    let shown = String::from_utf8_lossy(&one.stdout);
    assert!(shown.contains("500 messages") && shown.contains("\nend to end "), "{shown}");
    assert!(is_self_contained(&text(&at("again.html"))));

    // Two records side by side.
    let two =
        run(&["report", &word("small.json"), &word("large.json"), "--html", &word("two.html")]);
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
        (&["sink", "--html", "no-such-folder/x", "127.0.0.1:0"], "--html: no-such-folder/x"),
    ] {
        let output = run(words);
        let told = errors(&output);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(told.contains(expected), "{told}");
    }
}
