//! `ringpost-load run` with the real server: runs that pass, runs that must fail, and the exact errors of
//! invalid scenario files.

use std::fs;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::process::Child;
use std::process::Output;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Pid;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::load;
use crate::server;
use crate::texts;

/// A folder for one scenario.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Bench {
        Bench { folder: TempDir::new().expect("a folder") }
    }

    /// Writes a scenario file with these sections.
    fn file(&self, sections: &str) -> String {
        let path = self.folder.path().join("own.toml");
        let text = format!("purpose = \"p\"\nexpected = \"e\"\nmust_not = \"m\"\n{sections}");
        fs::write(&path, text).expect("the folder is ours");
        path.display().to_string()
    }

    fn run(&self, words: &[&str]) -> Output {
        let mut command = load();
        command.arg("run").args(words).arg("--spool").arg(self.folder.path());
        command.output().expect("the binary runs")
    }

    /// Runs, checks the exit code, and returns the record.
    #[track_caller]
    fn record(&self, words: &[&str], code: i32) -> Value {
        let program = server().display().to_string();
        let words: Vec<&str> =
            words.iter().copied().chain(["--json", "--ringpost", &program]).collect();
        let output = self.run(&words);
        let (out, err) = texts(&output);
        assert_eq!(output.status.code(), Some(code), "{out}{err}");
        serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"))
    }

    #[track_caller]
    fn refuses(&self, words: &[&str], expected: &str) {
        let output = self.run(words);
        let (_, told) = texts(&output);
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert_eq!(told.trim_end(), format!("ringpost-load: {expected}"));
    }

    /// Whether the folder of a server was kept.
    fn is_left(&self) -> bool {
        let mut entries = fs::read_dir(self.folder.path()).expect("it is ours");
        entries.any(|entry| {
            entry
                .is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("ringpost-run-"))
        })
    }
}

fn counts(record: &Value, names: &[&str]) -> Vec<u64> {
    let counts = &record["counts"];
    names.iter().map(|name| counts[name].as_u64().unwrap_or_else(|| panic!("{name}"))).collect()
}

/// The failed expectations.
fn failed(record: &Value) -> Vec<&str> {
    let verdicts = record["verdicts"].as_array().expect("there are verdicts");
    let failed = verdicts.iter().filter(|verdict| verdict["holds"] == false);
    failed.map(|verdict| verdict["that"].as_str().expect("words")).collect()
}

#[test]
fn a_relay_passes_and_leaves_nothing() {
    let bench = Bench::new();
    let record = bench.record(&["relay-one-sink", "--scale", "0.002"], 0);
    assert_eq!(record["kind"], "run relay-one-sink");
    assert_eq!(counts(&record, &["accepted", "arrived", "lost", "stuck"]), [600, 600, 0, 0]);
    assert_eq!(counts(&record, &["duplicated", "alien", "cuts"]), [0, 0, 0]);
    let stages = record["stages"].as_array().expect("a list");
    let end_to_end = stages.iter().find(|stage| stage["name"] == "inbox end to end");
    assert_eq!(end_to_end.expect("it is measured")["us"]["count"], 600);
    assert!(record["verdicts"].as_array().is_some_and(|all| all.len() > 6), "{record}");
    assert!(!bench.is_left());
}

#[test]
fn a_backlog_outlives_a_restart_and_two_kills() {
    let bench = Bench::new();
    // Slow enough that much mail is in the queue at the kill.
    let slow =
        "down = true\nbehaviour = \"\"\"\n[default]\ndelay = [{ at = 'end', ms = 100 }]\n\"\"\"";
    let scenario =
        include_str!("../../scenarios/backlog-restart.toml").replace("down = true", slow);
    let file = bench.folder.path().join("slow.toml");
    fs::write(&file, scenario).expect("the folder is ours");
    let file = file.display().to_string();
    let record = bench.record(&[&file, "--scale", "0.002"], 0);
    assert_eq!(counts(&record, &["accepted", "arrived", "lost", "cuts"]), [1000, 1000, 0, 2]);
    let [duplicated, most, before] = ["duplicated", "copies_max", "came_before_last_cut"]
        .map(|name| counts(&record, &[name])[0]);
    assert!((600..1000).contains(&before), "{before} had come at the second kill");
    // Twenty connections with one message each, and deliveries not settled yet.
    assert!(duplicated < 400 && (1..=3).contains(&most), "{duplicated} duplicates, {most} of one");
}

/// A deleted spool is lost mail: the account must show every message.
#[test]
fn a_deleted_spool_is_reported_as_lost_mail() {
    let bench = Bench::new();
    let file = bench.file(
        "deadline = \"20s\"
        [config.delivery]
        enabled = false
        [[sink]]
        name = \"inbox\"
        domains = [\"*\"]
        [[source]]
        name = \"main\"
        messages = 50
        options = { d = true, s = 5, t = \"to@inbox.test\" }
        [[step]]
        do = \"await-sources\"
        [[step]]
        do = \"kill\"
        [[step]]
        do = \"delete-spool\"
        [[step]]
        do = \"start\"
        config = { delivery = { enabled = true } }
        [[expect]]
        that = \"some arrive\"
        figure = \"main.arrived\"
        of = \"main.planned\"
        at_least = 0.1\n",
    );
    let record = bench.record(&[&file], 1);
    assert_eq!(counts(&record, &["accepted", "arrived", "lost", "stuck"]), [50, 0, 50, 0]);
    assert_eq!(failed(&record), ["nothing is lost", "some arrive"]);
    assert!(bench.is_left(), "the server's log is needed to find the cause");
}

/// Bounced mail is not lost; mail in the queue at the deadline is stuck.
#[test]
fn bounces_are_accounted_for_and_held_mail_is_stuck() {
    let bench = Bench::new();
    let sections = |next: &str, deadline: &str| {
        format!(
            "deadline = \"{deadline}\"
            [config.delivery]
            bounce_rate = 100000
            [[config.route]]
            name = \"nobody\"
            recipient_domain = [\"nobody.test\"]
            next = \"{next}\"
            [[sink]]
            name = \"bounces\"
            domains = [\"senders.test\"]
            [[sink]]
            name = \"inbox\"
            domains = [\"inbox.test\"]
            [[source]]
            name = \"to-nobody\"
            messages = 20
            options = {{ d = true, f = \"from@senders.test\", t = \"to@nobody.test\" }}
            [[source]]
            name = \"to-inbox\"
            messages = 30
            options = {{ d = true, f = \"from@senders.test\", t = \"to@inbox.test\" }}
            [[step]]
            do = \"await-arrivals\"
            sink = \"inbox\"
            count = 30
            [[expect]]
            that = \"each bounces\"
            figure = \"bounces.messages\"
            of = \"to-nobody.accepted\"
            equals = 1
            [[expect]]
            that = \"the others arrive\"
            figure = \"to-inbox.arrived\"
            equals = 30\n"
        )
    };
    let names = ["accepted", "arrived", "bounced", "stuck", "lost", "alien"];
    let record = bench.record(&[&bench.file(&sections("reject:550 5.1.1 nobody", "60s"))], 0);
    assert_eq!(counts(&record, &names), [50, 30, 20, 0, 0, 0]);
    let record = bench.record(&[&bench.file(&sections("hold", "10s"))], 1);
    assert_eq!(counts(&record, &names), [50, 30, 0, 20, 0, 0]);
    assert_eq!(failed(&record), ["nothing is stuck", "each bounces"]);
}

/// Mail of both lives of a sink counts, and nothing bounces while the sink is down.
#[test]
fn a_sink_that_stops_gets_the_rest_after_its_start() {
    let bench = Bench::new();
    let file = bench.file(
        "duplicates_per_cut_max = 100
        [config.delivery]
        retry_schedule = [\"200ms\"]
        [config.destination_defaults]
        back_off_first = \"200ms\"
        back_off_max = \"200ms\"
        [[sink]]
        name = \"inbox\"
        domains = [\"*\"]
        [[source]]
        name = \"main\"
        duration = \"3s\"
        rate = 200
        options = { d = true, s = 5, t = \"to@inbox.test\" }
        [[step]]
        do = \"await-arrivals\"
        sink = \"inbox\"
        count = 50
        [[step]]
        do = \"stop-sink\"
        sink = \"inbox\"
        [[step]]
        do = \"await-sources\"
        [[step]]
        do = \"start-sink\"
        sink = \"inbox\"
        behaviour = \"\"\"
        [default]
        delay = [{ at = 'end', ms = 1 }]
        \"\"\"
        [[expect]]
        that = \"all arrive, those before and those behind\"
        figure = \"main.arrived\"
        of = \"main.planned\"
        equals = 1
        [[expect]]
        that = \"some had to wait\"
        figure = \"main.end_to_end.max_ms\"
        at_least = 200\n",
    );
    let record = bench.record(&[&file], 0);
    assert_eq!(counts(&record, &["accepted", "arrived", "lost", "cuts"]), [600, 600, 0, 1]);
}

#[test]
fn invalid_scenarios_are_refused_with_line_and_remedy() {
    let source = "[[source]]\nname = \"a\"\nmessages = 1\n";
    let rows = [
        (
            "sorce = 1\n".to_owned(),
            "line 4: unknown field `sorce`, expected one of `purpose`, `expected`, `must_not`, \
             `deadline`, `duplicates_per_cut_max`, `config`, `sink`, `source`, `idle`, `step`, \
             `expect`",
        ),
        (
            format!(
                "[[sink]]\nname = \"inbox\"\n{source}[[step]]\ndo = \"start-sink\"\nsink = \"inbix\"\n"
            ),
            "line 9: there is no sink `inbix`; sinks are inbox",
        ),
        (String::new(), "there is no [[source]]"),
        (
            "[[source]]\nname = \"a\"\n".to_owned(),
            "line 4: source `a`: `messages` or `duration` is missing",
        ),
        (
            format!("{source}options = {{ sesions = 1 }}\n"),
            "line 4: source `a`: options: unexpected argument '--sesions' found",
        ),
        (
            format!("{source}[[step]]\ndo = \"kill\"\n"),
            "the server is down after the last step; add a step that starts it",
        ),
        (
            format!("{source}[[step]]\ndo = \"pause\"\n"),
            "line 7: unknown variant `pause`, expected one of `kill`, `terminate`, `start`, \
             `delete-spool`, `stop-sink`, `start-sink`, `await-sources`, `await-arrivals`, \
             `await-empty-queue`",
        ),
        (
            format!("{source}[[step]]\ndo = \"kill\"\ncount = 1\n"),
            "line 7: unknown field `count`, there are no fields",
        ),
        (
            format!("{source}[[expect]]\nthat = \"t\"\nfigure = \"b.x\"\nequals = 1\n"),
            "line 7: `b.x`: there is no `b`; a figure starts with total, server, or the name of a \
             part",
        ),
        (
            format!("[config.server]\nspool = \"x\"\n{source}"),
            "[config.server]: the run sets `spool`; remove it",
        ),
        (
            format!("[[sink]]\nname = \"a\"\n{source}"),
            "line 6: the name `a` is used twice or reserved",
        ),
        (
            format!("[[sink]]\nname = \"b\"\nbehaviour = '''\n[default]\nrate = 1\n'''\n{source}"),
            "line 4: sink `b`: `behaviour`, line 2: unknown field `rate`, expected one of `match`, \
             `delay`, `reply`, `drop`, `tarpit_bytes_per_second`, `connections_max`, \
             `messages_per_connection_max`, `greylist_seconds`",
        ),
    ];
    let bench = Bench::new();
    for (sections, expected) in rows {
        let file = bench.file(&sections);
        bench.refuses(&[&file], &format!("{file}: {expected}"));
    }
}

#[test]
fn impossible_runs_are_refused_before_anything_starts() {
    let bench = Bench::new();
    let rows: [(&[&str], &str); 5] = [
        (&["./no-such.toml"], "./no-such.toml: No such file or directory (os error 2)"),
        (&["tls", "--scale", "0"], "tls: --scale: must be more than 0 and at most 1000"),
        (
            &["backlog-restart", "--server", "127.0.0.1:1"],
            "backlog-restart: --server: this scenario needs its own server: its steps stop or inspect \
             the server",
        ),
        (
            &["tls", "--sink", "x=127.0.0.1:1"],
            "tls: --sink x=127.0.0.1:1: write NAME=ADDRESS; the sinks are inbox",
        ),
        (
            &["tls", "--ringpost", "no/server"],
            "no/server: no such program; build the server or use --ringpost",
        ),
    ];
    for (words, expected) in rows {
        bench.refuses(words, expected);
    }
}

/// A server that exits at once is an error with its output.
#[test]
fn a_server_that_does_not_start_is_quoted() {
    let bench = Bench::new();
    let file =
        bench.file("[config.server]\nspol = \"x\"\n[[source]]\nname = \"a\"\nmessages = 1\n");
    let program = server().display().to_string();
    let output = bench.run(&[&file, "--ringpost", &program]);
    let (_, told) = texts(&output);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("the server did not start") && told.contains("spol"), "{told}");
}

/// A run that lasts until it is stopped, and the address of its server.
fn begin_long(bench: &Bench) -> (Child, SocketAddr) {
    let file = bench.file(
        "[[sink]]
        name = \"inbox\"
        domains = [\"*\"]
        [[source]]
        name = \"main\"
        duration = \"10m\"
        rate = 5
        options = { d = true, t = \"to@inbox.test\" }\n",
    );
    let mut command = load();
    command.arg("run").arg(file).arg("--ringpost").arg(server());
    command.arg("--spool").arg(bench.folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
    let run = command.spawn().expect("the binary runs");
    let log = bench.folder.path().join(format!("ringpost-run-{}/ringpost.log", run.id()));
    let address = await_some("the server starts", || {
        let log = fs::read_to_string(&log).unwrap_or_default();
        let listening = log.lines().find(|line| line.contains(" started ")).and(
            log.lines().find(|line| line.contains(" listening ") && line.contains("protocol=smtp")),
        );
        let mut words = listening?.split(' ');
        words.find_map(|word| word.strip_prefix("address=")).map(str::to_owned)
    });
    (run, address.parse().expect("the log has an address"))
}

#[track_caller]
fn await_some<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < end, "waiting until {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn no_server_outlives_its_run() {
    let bench = Bench::new();
    let (mut run, address) = begin_long(&bench);
    TcpStream::connect(address).expect("the server runs");
    run.kill().and_then(|()| run.wait()).expect("it is ours");
    await_some("the server is gone", || TcpStream::connect(address).err());
}

#[test]
fn an_interrupt_stops_everything_and_leaves_nothing() {
    let bench = Bench::new();
    let (mut run, address) = begin_long(&bench);
    rustix::process::kill_process(Pid::from_child(&run), Signal::TERM).expect("it runs");
    assert_eq!(run.wait().expect("it is ours").code(), Some(2));
    assert!(!bench.is_left());
    // The kernel closes the rings and their sockets after the process has ended.
    await_some("the server is gone", || TcpStream::connect(address).err());
}

#[test]
fn all_scenarios_are_listed_with_their_purpose() {
    let output = Bench::new().run(&["--list"]);
    let (list, _) = texts(&output);
    assert_eq!(list.lines().count(), 13, "{list}");
    assert!(list.lines().all(|line| line.split_whitespace().count() > 5), "{list}");
}
