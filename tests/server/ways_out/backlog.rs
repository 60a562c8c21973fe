//! Mail that cannot leave: what it costs, and whom it holds up.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use ringpost::base::Random;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::ALLOW_LOOPBACK;
use crate::support::Server;
use crate::support::Setup;
use crate::support::clock::Clock;
use crate::support::receiver::Receiver;
use crate::ways_out::kit::ONE_SHARD;
use crate::ways_out::kit::Out;
use crate::ways_out::kit::PATIENCE;
use crate::ways_out::kit::route;

const QUEUE: &str = "[queue]\nmemory = '8MiB'\nsync = false\n";
const DELIVERY: &str = "retry_schedule = ['1s']\nmax_age = '1h'\nbounce_rate = 1000000\n\
                        jobs_in_memory_max = 1000\n";

/// A receiver that answers EHLO once it is told to.
fn closed_until(opens: &Arc<AtomicBool>) -> Receiver {
    let opens = Arc::clone(opens);
    Receiver::start(&[], move |line| {
        while line.starts_with("EHLO") && !opens.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(5));
        }
        None
    })
}

/// Fills the spool of a server that delivers nothing, and starts one that delivers.
fn start_full(
    folder: &TempDir,
    config: &str,
    environment: &[(&str, String)],
    (messages, bytes): (usize, usize),
) -> Server {
    let setup = |delivery: &str| Setup {
        environment: environment
            .iter()
            .map(|(name, value)| (name.to_string(), value.clone()))
            .collect(),
        config: format!("{QUEUE}[delivery]\n{ALLOW_LOOPBACK}\n{delivery}\n{config}"),
        server: ONE_SHARD.to_owned(),
        ..Setup::default()
    };
    let mut server = Server::start(folder.path(), &setup("enabled = false"));
    let mut client = server.connect();
    client.greet().expect("the server greets");
    // Cannot be compressed.
    let mut random = Random::new(1);
    let body: Vec<u8> =
        (0..bytes / 18).flat_map(|_| format!("{:016x}\r\n", random.roll()).into_bytes()).collect();
    for _ in 0..messages {
        let reply = client.submit("a@sender.test", "x@slow.test", &body);
        assert_eq!(reply.expect("the server answers").code, 250);
    }
    server.signal("TERM");
    server.wait(PATIENCE);
    Server::start(folder.path(), &setup(DELIVERY))
}

/// Bytes that the server has read from files and sockets.
fn bytes_read(server: &Server) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/io", server.child.id())).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix("rchar: ")).expect("it is there");
    line.parse().expect("a number")
}

/// In each minute something else is delivered at its second attempt.
#[test]
fn a_backlog_is_not_read_again_while_it_waits() {
    const MESSAGES: usize = 1000;
    const BYTES: usize = 10_000;
    let slow = closed_until(&Arc::default());
    let asked = AtomicUsize::new(0);
    let sink = Receiver::start(&[], move |line| {
        let is_first =
            line.starts_with("RCPT") && asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        is_first.then(|| "451 4.3.0 come again".to_owned())
    });
    let clock = Clock::new();
    let config = format!(
        "[destination_defaults]\ntls = 'none'\nconnections_max = 1\nwindow_start = 1\n{}{}",
        route("slow.test", &format!("smtp:{}", slow.address)),
        route("good.test", &format!("smtp:{}", sink.address)),
    );
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = start_full(&folder, &config, &clock.environment(), (MESSAGES, BYTES));
    let mut client = server.connect();
    client.greet().expect("the server greets");
    let mut read = Vec::new();
    for minute in 0..4 {
        let to = format!("x{minute}@good.test");
        let reply = client.submit("a@sender.test", &to, b"x\r\n").expect("the server answers");
        assert_eq!(reply.code, 250, "{}", reply.text);
        sink.await_for(&to, 1, PATIENCE);
        read.push(bytes_read(&server));
        clock.pass(Duration::from_secs(61));
    }
    let again = read[read.len() - 1] - read[0];
    assert!(again < (MESSAGES * BYTES / 10) as u64, "in each minute so far: {read:?}");
}

#[test]
fn reports_of_mail_that_expires_at_once_need_little_memory() {
    const MESSAGES: usize = 1600;
    const BYTES: usize = 60_000;
    let slow = closed_until(&Arc::default());
    let reports = Receiver::start(&[], |_| None);
    let config = format!(
        "[destination_defaults]\ntls = 'none'\n{}max_age = '1s'\n{}",
        route("slow.test", &format!("smtp:{}", slow.address)),
        route("sender.test", &format!("smtp:{}", reports.address)),
    );
    let folder = tempfile::tempdir().expect("a temporary folder");
    let clock = Clock::new();
    let server = start_full(&folder, &config, &clock.environment(), (MESSAGES, BYTES));
    // Mail of before the start has so long for its first attempt.
    clock.pass(Duration::from_secs(600));
    let (before, mut most) = (server.rss_anon(), 0);
    let end = Instant::now() + PATIENCE;
    while reports.asked("END ") < MESSAGES / 2 {
        assert!(Instant::now() < end, "{} reports", reports.asked("END "));
        most = most.max(server.rss_anon());
        thread::sleep(Duration::from_millis(5));
    }
    assert!(most < before + (80 << 20), "{most} bytes, {before} before");
}

/// Two partitions have mail for a destination with one connection; one of them no longer writes.
#[cfg(feature = "failpoints")]
#[test]
fn a_partition_that_hangs_holds_up_its_own_mail_only() {
    const MESSAGES: usize = 24;
    let opens = Arc::<AtomicBool>::default();
    let (sink, first) = (closed_until(&opens), Receiver::start(&[], |_| None));
    let config = format!(
        "[queue]\npartitions = 2\n[delivery]\n{ALLOW_LOOPBACK}\n\
         [destination_defaults]\ntls = 'none'\nconnections_max = 1\nwindow_start = 1\n{}{}",
        route("good.test", &format!("smtp:{}", sink.address)),
        route("first.test", &format!("smtp:{}", first.address)),
    );
    let hang = [("FAILPOINTS", "settle::before_write=1*sleep(20000)".to_owned())];
    let out = Out::with(ONE_SHARD, config, &hang);
    let partition = |id: &str| {
        let shown = out.ringpost(&["queue", "show", id, "--json"]);
        let shown: Value = serde_json::from_str(&shown).expect("JSON");
        shown["partition"].as_u64().unwrap_or_else(|| panic!("{shown}"))
    };
    let mail: Vec<(String, u64)> = (0..MESSAGES)
        .map(|number| {
            let to = format!("x{number}@good.test");
            let id = out.submit(&[&to]);
            (to, partition(&id))
        })
        .collect();
    // The end of this delivery is not written.
    let id = out.submit(&["x@first.test"]);
    let hung = partition(&id);
    first.await_for("x@first.test", 1, PATIENCE);
    let of = |wanted: bool| mail.iter().filter(move |(_, one)| (*one == hung) == wanted);
    assert!(of(true).count() >= 8 && of(false).count() >= 8, "{mail:?}");
    // More than UNSETTLED_MS_MAX.
    thread::sleep(Duration::from_millis(400));
    opens.store(true, Ordering::Relaxed);
    for (to, _) in of(false) {
        sink.await_for(to, 1, PATIENCE);
    }
    let early: Vec<_> = of(true).filter(|(to, _)| !sink.taken_for(to).is_empty()).collect();
    assert!(early.is_empty(), "the partition writes again: {early:?}");
}
