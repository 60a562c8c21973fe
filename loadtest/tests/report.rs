//! Reports as files: what a source and a sink write, what `ringpost-load report` makes of it, and what
//! it says to what is no record.

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
    sink.args(["--html", &path("-sink.html"), "--hgrm", &path("-sink-hgrm")]);
    sink.args(["--interval-log", &path("-sink.hlog"), "127.0.0.1:0"]);
    let mut sink = sink.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
    let mut errors = BufReader::new(sink.stderr.take().expect("it is piped"));
    let mut line = String::new();
    errors.read_line(&mut line).expect("it says where it listens");
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

/// Nothing on the page is fetched from anywhere.
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
    let counts = per_second.filter_map(|one| one["count"].as_u64());
    assert_eq!(counts.sum::<u64>(), MESSAGES, "{sink}");
    for page in ["small.html", "small-sink.html"] {
        assert!(is_self_contained(&text(&at(page))), "{page}");
    }
    check_hgrm(&text(&at("small-sink-hgrm/end-to-end.hgrm")));
    check_log(&text(&at("small-sink.hlog")));

    // One, with all forms again.
    let word = |name: &str| at(name).display().to_string();
    let one = load(&[
        "report",
        &word("small-sink.json"),
        "--hgrm",
        &word("again"),
        "--log",
        &word("again.hlog"),
        "--html",
        &word("again.html"),
    ]);
    assert!(one.status.success(), "{one:?}");
    let shown = String::from_utf8_lossy(&one.stdout);
    assert!(shown.contains("500 messages") && shown.contains("\nend to end "), "{shown}");
    assert_eq!(text(&at("again/end-to-end.hgrm")), text(&at("small-sink-hgrm/end-to-end.hgrm")));
    assert_eq!(text(&at("again.hlog")), text(&at("small-sink.hlog")));

    // Two, side by side.
    let two = load(&[
        "report",
        &word("small.json"),
        &word("large.json"),
        "--html",
        &word("two.html"),
        "--hgrm",
        &word("two"),
    ]);
    let shown = String::from_utf8_lossy(&two.stdout);
    assert!(two.status.success(), "{two:?}");
    let row = |name: &str| {
        let line = shown.lines().find_map(|line| line.strip_prefix(name)).expect(&shown);
        let figures = line.split_whitespace().map(|figure| figure.parse::<f64>().expect(line));
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
    assert!(at("two/1-message.hgrm").is_file() && at("two/2-message.hgrm").is_file());
}

/// The form that the plotters of HdrHistogram read.
fn check_hgrm(text: &str) {
    let mut lines = text.lines();
    let head: Vec<&str> = lines.next().expect("a head").split_whitespace().collect();
    assert_eq!(head, ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]);
    let rows: Vec<Vec<f64>> = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_whitespace().map(|one| one.parse().expect("a number")).collect())
        .collect();
    assert!(rows.len() > 10 && rows.windows(2).all(|pair| pair[0][1] <= pair[1][1]), "{text}");
    let last = rows.last().expect("there are rows");
    assert_eq!((last[1], last[2] as u64, last.len()), (1.0, MESSAGES, 3));
    assert!(text.contains("#[Mean    = ") && text.contains("#[Max     = "), "{text}");
}

/// The form that the viewers of HdrHistogram's logs read.
fn check_log(text: &str) {
    assert!(text.starts_with("#[Histogram log format version 1.3]\n"), "{text}");
    assert!(text.contains("\n#[StartTime: "), "{text}");
    let rows = text.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
    for row in rows {
        let fields: Vec<&str> = row.split(',').collect();
        assert!(fields.len() == 4 && fields[3].starts_with("HISTFAAA"), "{row}");
        assert!(fields[..3].iter().all(|field| field.parse::<f64>().is_ok()), "{row}");
    }
}

#[test]
fn what_is_no_record_is_told_by_name() {
    let folder = tempfile::tempdir().expect("a folder is made");
    let path = folder.path().join("x.json");
    fs::write(&path, "{}").expect("it is written");
    let path = path.display().to_string();
    for (words, expected) in [
        (&["report", &path][..], "x.json: it is no record"),
        (&["report", "no-such.json"], "no-such.json"),
        (&["report", &path, &path, "--log", "y"], "--log: a log is of one record"),
        (&["sink", "--html", "no-such-folder/x", "127.0.0.1:0"], "no folder no-such-folder"),
    ] {
        let output = load(words);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(told.contains(expected), "{told}");
    }
}
