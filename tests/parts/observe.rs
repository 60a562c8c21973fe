//! The log as a whole: records through `tracing`, lanes and the log thread to an output that may be
//! stuck, fail, or be moved away. And the `/metrics` page as Prometheus judges it.

use std::fs;
use std::io;
use std::io::Read;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use ringpost::base::MessageId;
use ringpost::base::PartitionId;
use ringpost::base::PublicId;
use ringpost::base::ShardId;
use ringpost::base::SpoolNumber;
use ringpost::base::Wall;
use ringpost::monitor::destinations::Load;
use ringpost::monitor::destinations::Loads;
use ringpost::monitor::metrics;
use ringpost::observe::Histograms;
use ringpost::observe::Observed;
use ringpost::observe::Stage;
use ringpost::observe::label::AttemptCategory;
use ringpost::observe::label::AttemptOutcome;
use ringpost::observe::log;
use ringpost::observe::log::Level;
use ringpost::observe::log::LogSettings;
use ringpost::observe::log::Record;
use ringpost::observe::log::journal::Journal;
use ringpost::observe::log::subscriber::LineSubscriber;
use ringpost::observe::log::value::Form;
use ringpost::observe::log::writer::Output;
use ringpost::observe::log::writer::start_writer;
use ringpost::observe::observed::CertificateExpiry;
use tracing::Dispatch;
use tracing::dispatcher::with_default;

/// Long enough for any machine; only a test that fails waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// An output that keeps what it is given, and fails when told to.
#[derive(Clone, Default)]
struct Paper {
    text: Arc<Mutex<Vec<u8>>>,
    is_broken: Arc<AtomicBool>,
}

impl Paper {
    fn lines(&self) -> Vec<String> {
        let text = self.text.lock().expect("no panic").clone();
        String::from_utf8(text).expect("text").lines().map(str::to_owned).collect()
    }
}

impl Write for Paper {
    /// A broken one takes half of what it is given, and fails at the next write.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut text = self.text.lock().expect("no panic");
        if !self.is_broken.load(Ordering::Relaxed) {
            text.extend_from_slice(bytes);
            return Ok(bytes.len());
        }
        if text.last().is_some_and(|last| *last != b'\n') {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let half = bytes.len().div_ceil(2);
        text.extend_from_slice(&bytes[..half]);
        Ok(half)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn on_paper(form: Form, level: Level) -> (Arc<Journal>, Dispatch, Paper) {
    let paper = Paper::default();
    let journal = Journal::new(form, level);
    start_writer(&journal, Output::Other(Box::new(paper.clone()))).expect("a thread");
    let dispatch = Dispatch::new(LineSubscriber::new(Arc::clone(&journal)));
    (journal, dispatch, paper)
}

fn accepted(helo: &str) -> Record<'_> {
    Record::Accepted {
        id: PublicId {
            local: MessageId::from_u64(0x0123_4567_89AB_CDEF),
            spool: SpoolNumber::from_bits(1),
        },
        partition: PartitionId(3),
        peer: IpAddr::from([192, 0, 2, 17]),
        port: 40_123,
        helo,
        protocol: "ESMTPS",
        tls: Some("TLSv1.3"),
        cipher: Some("TLS13_AES_256_GCM_SHA384"),
        from: "bounce+12345@news.sender.test",
        to: "somebody@mailbox.test",
        tenant: None,
        recipients: 3,
        size: 4096,
        body: "8BITMIME",
        message_id: Some("<20261121.1234567.abcdef@news.sender.test>"),
        body_us: 812,
        commit_us: 3_911,
        total_us: 5_120,
    }
}

/// Until it is so.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::yield_now();
    }
}

#[test]
fn one_record_is_one_line_in_either_form() {
    for form in [Form::Text, Form::Json] {
        let (journal, dispatch, paper) = on_paper(form, Level::Info);
        with_default(&dispatch, || {
            accepted("evil\r\n2026-01-01T00:00:00.000Z error forged").emit();
            log::set_shard(ShardId(5));
            accepted("host.test").emit();
            Record::SessionOpened { peer: ([192, 0, 2, 1], 25).into(), protocol: "ESMTP" }.emit();
        });
        assert!(journal.flush(PATIENCE));
        let lines = paper.lines();
        assert_eq!(lines.len(), 2, "{lines:?}");
        match form {
            Form::Text => {
                let (time, rest) = lines[1].split_once(' ').expect("a time");
                assert_eq!(time.len(), "2026-11-21T03:29:50.123Z".len());
                let front = "info shard=5 accepted id=028T5CY4TQKFF0001 partition=3 peer=192.0.2.17 \
                             port=40123 helo=host.test protocol=ESMTPS tls=TLSv1.3 ";
                assert!(rest.starts_with(front), "{rest}");
                assert!(rest.ends_with(" body_us=812 commit_us=3911 total_us=5120"), "{rest}");
                assert!(lines[0].contains(r#"helo="evil\r\n2026-"#), "{}", lines[0]);
            }
            Form::Json => {
                let line: serde_json::Value = serde_json::from_str(&lines[1]).expect("JSON");
                assert_eq!(line["shard"], 5);
                assert_eq!(line["level"], "info");
                assert_eq!(line["record"], "accepted");
                assert_eq!(line["size"], 4096);
                let line: serde_json::Value = serde_json::from_str(&lines[0]).expect("JSON");
                assert_eq!(line["helo"], "evil\r\n2026-01-01T00:00:00.000Z error forged");
            }
        }
        journal.close();
    }
}

#[test]
fn foreign_records_are_shown_from_warnings_on() {
    let (journal, dispatch, paper) = on_paper(Form::Json, Level::Info);
    with_default(&dispatch, || {
        tracing::info!("chatter");
        tracing::warn!(count = 2, name = "a\nb", "ring {}", "is \"low\"");
        let _span = tracing::error_span!("ignored").entered();
    });
    assert!(journal.flush(PATIENCE));
    let lines = paper.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line: serde_json::Value = serde_json::from_str(&lines[0]).expect("JSON");
    assert_eq!(line["record"], "foreign");
    assert_eq!(line["target"], "parts::observe");
    assert_eq!(line["message"], "ring is \"low\"");
    assert_eq!(line["name"], "a\nb");
    journal.close();
}

#[test]
fn a_stuck_pipe_stalls_nobody_and_the_drops_are_told() {
    let (mut reader, pipe) = io::pipe().expect("a pipe");
    let journal = Journal::new(Form::Text, Level::Info);
    let writer = start_writer(&journal, Output::Other(Box::new(pipe))).expect("a thread");
    let dispatch = Dispatch::new(LineSubscriber::new(Arc::clone(&journal)));
    // Nobody reads. The pipe and the lane fill up; every call still comes back.
    let mut emitted = 0;
    with_default(&dispatch, || {
        while journal.lines_dropped() < 1_000 {
            accepted("host.test").emit();
            emitted += 1;
        }
    });
    assert!(!journal.flush(Duration::from_millis(50)), "the writer is stuck in the pipe");
    journal.close();
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("text");
    writer.join().expect("it ended");
    let (dropped, whole): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.contains(" log_dropped lines="));
    assert!(whole.iter().all(|line| line.ends_with(" total_us=5120")), "lines stay whole");
    let told: u64 = dropped
        .iter()
        .filter_map(|line| line.rsplit('=').next())
        .map(|count| count.parse::<u64>().expect("a number"))
        .sum();
    assert_eq!(dropped.len(), 1, "one line tells of all: {dropped:?}");
    assert_eq!(told, journal.lines_dropped());
    assert_eq!(whole.len() as u64 + told, emitted, "each line is written or counted");
}

#[test]
fn a_sleeping_log_thread_is_woken_by_a_line() {
    let (journal, dispatch, paper) = on_paper(Form::Text, Level::Info);
    with_default(&dispatch, || {
        for sessions in 1..=50 {
            Record::Draining { sessions }.emit();
            wait_until("the line is written", || paper.lines().len() as u64 == sessions);
            // Every other time late enough for the log thread to have gone to sleep.
            thread::sleep(Duration::from_millis(sessions % 2 * 15));
        }
    });
    journal.close();
}

#[test]
fn an_output_that_fails_and_recovers_loses_only_what_is_counted() {
    let (journal, dispatch, paper) = on_paper(Form::Text, Level::Info);
    with_default(&dispatch, || {
        accepted("before.test").emit();
        assert!(journal.flush(PATIENCE));
        paper.is_broken.store(true, Ordering::Relaxed);
        accepted("during.test").emit();
        wait_until("the loss is counted", || journal.lines_dropped() == 1);
        paper.is_broken.store(false, Ordering::Relaxed);
        accepted("after.test").emit();
        wait_until("the loss is told", || {
            paper.lines().iter().any(|line| line.ends_with("log_dropped lines=1"))
        });
    });
    let lines = paper.lines();
    assert!(lines[0].contains("before.test") && lines[0].ends_with("total_us=5120"));
    assert!(!lines[1].ends_with("total_us=5120"), "cut off");
    let after = lines.iter().find(|line| line.contains("after.test")).expect("it is there");
    assert!(after.starts_with("20") && after.ends_with("total_us=5120"), "on its own line");
    journal.close();
}

#[test]
fn threads_keep_their_order_and_their_lines_outlive_them() {
    const LINES: u64 = 5_000;
    let (journal, dispatch, paper) = on_paper(Form::Json, Level::Info);
    thread::scope(|scope| {
        for shard in 0..4 {
            let dispatch = dispatch.clone();
            scope.spawn(move || {
                with_default(&dispatch, || {
                    log::set_shard(ShardId(shard));
                    for sessions in 0..LINES {
                        Record::Draining { sessions }.emit();
                    }
                });
            });
        }
    });
    assert!(journal.flush(PATIENCE));
    let mut next = [0; 4];
    for line in paper.lines() {
        let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        let next = &mut next[line["shard"].as_u64().expect("a number") as usize];
        assert_eq!(line["sessions"], *next);
        *next += 1;
    }
    assert_eq!(next, [LINES; 4]);
    journal.close();
}

#[test]
fn a_fifo_without_a_reader_does_not_hold_the_start_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("fifo");
    let made = Command::new("mkfifo").arg(&path).status().expect("coreutils");
    assert!(made.success());
    let journal = Journal::new(Form::Text, Level::Info);
    start_writer(&journal, Output::file(&path).expect("it opens at once")).expect("a thread");
    with_default(&Dispatch::new(LineSubscriber::new(Arc::clone(&journal))), || {
        Record::Draining { sessions: 1 }.emit();
    });
    assert!(journal.flush(PATIENCE), "one line fits into the pipe");
    journal.close();
}

/// The only test that starts the process's own log.
#[test]
fn the_log_file_is_reopened_and_the_level_changes_while_it_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
    let settings = LogSettings { level: Level::Info, form: Form::Text, file: Some(path.clone()) };
    log::start(&settings).expect("the first start");
    assert!(log::start(&settings).is_err(), "there is one log");
    let opened = Record::SessionOpened { peer: ([192, 0, 2, 1], 25).into(), protocol: "ESMTP" };
    opened.emit();
    tracing_log::log::warn!(target: "executor", "from the log crate");
    tracing_log::log::info!(target: "executor", "chatter");
    assert!(log::flush(PATIENCE));
    fs::rename(&path, &moved).expect("moved away");
    Record::Draining { sessions: 1 }.emit();
    assert!(log::flush(PATIENCE));
    log::reopen();
    assert!(log::flush(PATIENCE));
    log::set_level(Level::Debug);
    opened.emit();
    log::set_level(Level::Error);
    Record::Draining { sessions: 2 }.emit();
    assert!(log::flush(PATIENCE));
    let names = |path: &Path| -> Vec<String> {
        let text = fs::read_to_string(path).expect("a log");
        text.lines().map(|line| line.split(' ').skip(2).collect::<Vec<_>>().join(" ")).collect()
    };
    let before = ["foreign target=executor message=\"from the log crate\"", "draining sessions=1"];
    assert_eq!(names(&moved), before);
    assert_eq!(names(&path), ["session_opened peer=192.0.2.1:25 protocol=ESMTP"]);
    assert_eq!(log::lines_dropped(), 0);
}

/// A page with every kind of metric in it, and with names that need escaping.
fn metrics_page() -> String {
    let observed = Observed::new(2, 3);
    let attempts = &observed.shards[1].metrics.attempts_total;
    attempts.add(AttemptOutcome::Deferred, AttemptCategory::Greylisted, 2);
    observed.set_certificates(vec![CertificateExpiry {
        name: "mail.example.com".into(),
        file: "/etc/ring\"post\\mail.pem".into(),
        not_after_s: 1_900_000_000,
    }]);
    let histograms = Histograms::new(Arc::clone(&observed.shards[0].shelf));
    for stage in Stage::ALL {
        (1..30).for_each(|power| histograms.record(stage, 1 << power));
    }
    let request = observed.histograms.request();
    histograms.publish_if_wanted();
    let merged = observed.histograms.merge(&request);
    let load = Load { queued: 3, in_flight: 1, oldest: Some(Wall::from_ms(1)) };
    let loads = Loads { named: vec![("example.com:25".to_owned(), load)], others: load, known: 7 };
    metrics::page(&observed, &merged, &loads)
}

#[test]
fn prometheus_finds_nothing_to_say_about_the_metrics() {
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match promtool {
        Ok(promtool) => promtool,
        Err(cause) => {
            let user = fs::metadata("/proc/self").expect("Linux has it").uid();
            assert!(user != 0, "promtool: {cause}; `.ci/deps test` installs it");
            println!("promtool is not installed ({cause}); nothing was checked");
            return;
        }
    };
    let page = metrics_page();
    let mut input = promtool.stdin.take().expect("it is piped");
    input.write_all(page.as_bytes()).expect("it reads all");
    drop(input);
    let output = promtool.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.is_empty(), "{said}\n{page}");
}

/// The number of series does not depend on traffic.
#[test]
fn the_number_of_series_is_bounded() {
    let page = metrics_page();
    let series = page.lines().filter(|line| !line.starts_with('#')).count();
    assert!(series < 600, "{series} series of two shards and three partitions");
}

/// `cargo test --release --test parts -- observe -- --ignored --nocapture` shows it.
#[test]
#[ignore = "a measurement"]
fn cost_of_an_accepted_line() {
    const LINES: u32 = 100_000;
    for form in [Form::Text, Form::Json] {
        let folder = tempfile::tempdir().expect("a folder");
        let output = Output::file(&folder.path().join("log")).expect("a file");
        let journal = Journal::new(form, Level::Info);
        start_writer(&journal, output).expect("a thread");
        with_default(&Dispatch::new(LineSubscriber::new(Arc::clone(&journal))), || {
            log::set_shard(ShardId(0));
            let mut spent = Duration::ZERO;
            for _ in 0..LINES / 1_000 {
                let start = Instant::now();
                for _ in 0..1_000 {
                    accepted("mail.sender.test").emit();
                }
                spent += start.elapsed();
                assert!(journal.flush(PATIENCE));
            }
            println!("{form:?}: {} ns a line", (spent / LINES).as_nanos());
            let start = Instant::now();
            for _ in 0..LINES {
                Record::SessionOpened { peer: ([192, 0, 2, 1], 25).into(), protocol: "E" }.emit();
            }
            println!(
                "{form:?}: {} ps a line not shown",
                (start.elapsed() / (LINES / 1000)).as_nanos()
            );
        });
        assert_eq!(journal.lines_dropped(), 0);
        journal.close();
    }
}
