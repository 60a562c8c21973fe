//! Crash tests: the process dies by kill -9 under load, at random times and at every named point,
//! again and again on the same spool; afterwards acknowledged = recovered.
//!
//! The fates of all messages are kept in the test (`support::ledger`); after each death the spool
//! is opened as a start does and compared with them. `RINGPOST_TEST_CRASH_KILLS` says how many random
//! kills there are, `RINGPOST_TEST_CRASH_SEED` where they begin. Without the feature `failpoints` only the
//! random ones run.

use crate::support;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use ringpost::queue::Access;
use ringpost::queue::admin::inspect;
use ringpost::queue::record::key;

#[cfg(feature = "failpoints")]
use crate::relay_crash::FILING_FAILPOINTS;
#[cfg(feature = "failpoints")]
use crate::relay_crash::RELAY_FAILPOINTS;
#[cfg(feature = "failpoints")]
use crate::relay_crash::VITAL_FAILPOINTS;
use crate::support::Client;
use crate::support::PATIENCE;
use crate::support::Server;
use crate::support::Setup;
use crate::support::events;
use crate::support::ledger::Audit;
use crate::support::ledger::Ledger;
use crate::support::ledger::MailState;
use crate::support::ledger::Reading;
use crate::support::ledger::open;
use crate::support::ledger::without_header;
use crate::support::load::Load;
use crate::support::load::Plan;
use crate::support::load::Random;
use crate::support::load::Shape;
use crate::support::load::send;
use crate::support::number_from;

/// Bodies under way when the server is killed.
const STREAMS: usize = 4;
const CLIENTS: usize = 5;
const KILLS: usize = 30;
const SIGABRT: i32 = 6;

/// Little memory, so that flushes, new logs and blob files happen between two deaths. As many
/// partitions on every machine, so that each point is met as often.
const CONFIG: &str = "[queue]\nmemory = \"16MiB\"\nmin_free_space = \"0\"\npartitions = 2\n";
/// What is passed hundreds of times may take long on a slow disk.
const POINTS_PATIENCE: Duration = PATIENCE.saturating_mul(4);

/// Points that are met while mail comes in, with the number of times they may be passed before.
const SERVING: &[(&str, usize)] = &[
    ("stream::before_write", 40),
    ("stream::after_write", 40),
    ("commit::before_batch", 400),
    ("commit::before_write", 300),
    ("commit::after_write", 300),
    ("commit::before_ring", 400),
    ("commit::after_ring", 400),
];

/// Points that are met when a spool is made.
const MAKING: &[&str] = &[
    "spool::before_partition",
    "spool::after_partition",
    "spool::before_meta",
    "spool::after_meta",
];

/// Points that are met at a start after a crash.
const RECOVERING: &[&str] = &[
    "recover::before_sweep",
    "recover::after_sweep",
    "recover::before_scan",
    "recover::before_sync",
];

/// Points that are met at a start that finds a damaged record.
const QUARANTINING: &[&str] =
    &["quarantine::before_file", "quarantine::after_file", "quarantine::after_removal"];

/// Points that make the store answer with a fault, for the action `return`.
const STORE_FAULTS: &[&str] = &[
    "stream::error",
    "commit::error",
    "commit::error_after_write",
    "rescue::error",
    "mending::error",
];

/// Points of the tests of sessions, policies and views.
const ELSEWHERE: &[&str] = &[
    "commit::hung_ms",
    "dial::descriptors",
    "gate::answer",
    "gate::ask",
    "session::panic",
    "sts::connect",
    "task::resolve",
    "view::question",
    "view::survey",
];

/// One test at a time: the machine is small, and a starved load proves less.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn seed(test: &str) -> u64 {
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let seed = number_from("RINGPOST_TEST_CRASH_SEED", || now().as_millis() as u64);
    println!("{test}: RINGPOST_TEST_CRASH_SEED={seed}");
    seed
}

fn kills() -> usize {
    number_from("RINGPOST_TEST_CRASH_KILLS", || KILLS as u64) as usize
}

/// A spool that outlives its servers, and what was sent to it.
struct Field {
    folder: tempfile::TempDir,
    ledger: Arc<Ledger>,
    random: Random,
    kills: usize,
    kept_in_doubt: usize,
}

impl Field {
    fn new(seed: u64) -> Field {
        Field {
            folder: tempfile::tempdir().expect("there is a place for temporary files"),
            ledger: Arc::default(),
            random: Random::new(seed),
            kills: 0,
            kept_in_doubt: 0,
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn spool(&self) -> PathBuf {
        self.path().join("spool")
    }

    fn setup(&self, failpoints: &str) -> Setup {
        let environment = vec![("FAILPOINTS".to_owned(), failpoints.to_owned())];
        Setup { config: CONFIG.to_owned(), environment, ..Setup::default() }
    }

    fn start(&self, failpoints: &str) -> Server {
        Server::start(self.path(), &self.setup(failpoints))
    }

    fn load(&mut self, server: &Server) -> Load {
        let plan = Plan {
            clients: CLIENTS,
            seed: self.random.below(usize::MAX) as u64,
            shapes: Shape::ALL,
            remover: Some(self.path().to_owned()),
        };
        Load::start(server.address(), &self.ledger, plan)
    }

    #[track_caller]
    fn audit(&mut self, reading: Reading, when: &str) -> Audit {
        let audit = self.ledger.audit_stopped(&self.spool(), reading);
        audit.assert_sound(when);
        events::assert_agree_in(&self.spool(), when);
        self.kept_in_doubt += audit.kept_in_doubt;
        audit
    }

    /// The last look: every body once more, and what all of it came to.
    #[track_caller]
    fn close(mut self, name: &str) {
        let audit = self.audit(Reading::Everything, name);
        println!(
            "{name}: {} kills, {audit}; unanswered but kept, in all: {}; refusals: {:?}",
            self.kills,
            self.kept_in_doubt,
            self.ledger.replies(),
        );
        assert!(audit.recovered > 0, "{name}: a test without mail proves nothing");
    }

    /// Starts a server that has to die of a failpoint before it listens.
    #[track_caller]
    fn die_at_start(&mut self, failpoints: &str) {
        let mut server = Server::spawn(self.path(), &self.setup(failpoints));
        let status = server.wait(PATIENCE);
        assert_eq!(status.signal(), Some(SIGABRT), "{failpoints}: {}", server.whole_log());
        self.kills += 1;
    }
}

#[test]
fn acknowledged_mail_survives_kill_9_at_any_time() {
    let _alone = alone();
    let mut field = Field::new(seed("kill -9"));
    for kill in 0..kills() {
        let mut server = field.start("");
        let load = field.load(&server);
        load.await_acknowledged(1);
        thread::sleep(Duration::from_millis(field.random.below(350) as u64));
        server.kill();
        load.stop();
        field.kills += 1;
        if kill % 4 == 3 {
            // And once more while it puts right what the first kill left.
            let mut server = Server::spawn(field.path(), &field.setup(""));
            thread::sleep(Duration::from_millis(field.random.below(120) as u64));
            server.kill();
            field.kills += 1;
        }
        field.audit(Reading::Fresh, &format!("kill {kill}"));
    }
    field.close("kill -9");
}

#[test]
fn the_audit_sees_every_kind_of_fault() {
    let _alone = alone();
    for (name, crime, expected) in [
        ("nothing", None, [0, 0, 0, 0]),
        ("an acknowledged message removed behind its back", Some(0), [1, 0, 0, 0]),
        ("a body that is not the one sent", Some(1), [0, 1, 0, 0]),
        ("a message that was refused", Some(2), [0, 0, 0, 1]),
        ("a message that nobody sent", Some(3), [0, 1, 0, 0]),
    ] {
        let field = Field::new(1);
        let mut server = field.start("");
        let mut client = server.connect();
        client.greet().expect("a greeting");
        let mut random = Random::new(1);
        for _ in 0..3 {
            send(&mut client, &field.ledger, Shape::Small, &mut random).expect("it is taken");
        }
        let (mail, id) = field.ledger.some_acknowledged(1, 1)[0];
        match crime {
            Some(0) => assert!(server.queue(&["delete", &id.to_string()]).status.success()),
            Some(1) => {
                let forged = field.ledger.begin(500, 1);
                let to = forged.recipients().next().expect("one recipient");
                let body = mail.body();
                let reply = client.submit(&forged.sender(), &to, &body).expect("a reply");
                field.ledger.note_reply(forged, &reply.text);
            }
            Some(2) => field.ledger.note(mail, MailState::Refused),
            Some(3) => {
                let reply = client.submit("s99@ledger.test", "r@ledger.test", b"x: y\r\n\r\n");
                assert_eq!(reply.expect("a reply").code, 250);
            }
            _ => (),
        }
        server.kill();
        let found = field.ledger.audit_stopped(&field.spool(), Reading::Everything);
        let lists = [&found.lost, &found.unknown, &found.duplicates, &found.premature];
        assert_eq!(lists.map(Vec::len), expected, "{name}: {found:?}");
    }
}

#[cfg(feature = "failpoints")]
mod at_named_points {
    use super::*;

    #[test]
    fn every_point_is_in_one_of_the_tables() {
        let serving = SERVING.iter().map(|(name, _)| name);
        let tables = serving.chain(MAKING).chain(RECOVERING).chain(QUARANTINING);
        let relaying = RELAY_FAILPOINTS.iter().chain(FILING_FAILPOINTS).chain(VITAL_FAILPOINTS);
        let tables = tables.chain(relaying).chain(STORE_FAULTS).chain(ELSEWHERE);
        let listed: BTreeSet<String> = tables.map(|name| (*name).to_owned()).collect();
        let mut found = BTreeSet::new();
        find_points(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        assert_eq!(listed, found);
    }

    /// Collects the texts of the form `"stage::name"` in all source files.
    fn find_points(folder: &Path, found: &mut BTreeSet<String>) {
        let is_point = |text: &&str| {
            let is_word = |word: &str| {
                !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
            };
            text.split_once("::").is_some_and(|(stage, name)| is_word(stage) && is_word(name))
        };
        for entry in fs::read_dir(folder).expect("a folder of the source") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                find_points(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = fs::read_to_string(&path).expect("a source file is UTF-8");
                found.extend(text.split('"').filter(is_point).map(str::to_owned));
            }
        }
    }

    #[test]
    fn acknowledged_mail_survives_a_stop_at_every_point_of_serving() {
        let _alone = alone();
        let mut field = Field::new(seed("points of serving"));
        for round in 0..(kills() / KILLS).max(1) * 2 {
            for (name, passes_max) in SERVING {
                // The first round stops early, the second anywhere.
                let passes = field.random.below(if round == 0 { 3 } else { *passes_max });
                let failpoints = format!("{name}={passes}*off->return");
                let mut server = field.start(&failpoints);
                let load = field.load(&server);
                let status = server.wait(POINTS_PATIENCE);
                load.stop();
                assert_eq!(status.signal(), Some(SIGABRT), "{failpoints}");
                field.kills += 1;
                field.audit(Reading::Fresh, &failpoints);
            }
        }
        field.close("points of serving");
    }

    #[test]
    fn a_spool_whose_making_was_cut_short_is_completed() {
        let _alone = alone();
        for name in MAKING {
            for passes in 0..2 {
                let mut field = Field::new(1);
                let failpoints = format!("{name}={passes}*off->return");
                let mut server = Server::spawn(field.path(), &field.setup(&failpoints));
                // There may be one partition only, and there is one file of meta.
                let status = match server.await_start() {
                    Ok(()) if passes > 0 => {
                        server.kill();
                        continue;
                    }
                    Ok(()) => panic!("{failpoints}: it was never met"),
                    Err(_) => server.wait(PATIENCE),
                };
                assert_eq!(status.signal(), Some(SIGABRT), "{failpoints}");
                let mut server = field.start("");
                let load = field.load(&server);
                load.await_acknowledged(20);
                server.kill();
                load.stop();
                field.audit(Reading::Everything, &failpoints);
            }
        }
    }

    /// One life under load with bodies under way; whether the kill left any of them.
    fn kill_with_streams(field: &mut Field) {
        let mut server = field.start("");
        let under_way = begin_streams(&server, STREAMS);
        await_streams(&server, STREAMS as u64);
        let load = field.load(&server);
        load.await_acknowledged(100);
        // Stopped first: the client that deletes mail would open the dead server's spool, and so
        // recover it before the test does.
        load.stop();
        server.kill();
        drop(under_way);
        field.kills += 1;
        let stats = inspect::stats(&open(&field.spool(), Access::Inspect)).expect("figures");
        let streams: u64 = stats.partitions.iter().map(|partition| partition.streams).sum();
        assert_eq!(streams, STREAMS as u64, "every body under way is in the log");
    }

    #[test]
    fn a_recovery_that_was_cut_short_is_done_again() {
        let _alone = alone();
        let mut field = Field::new(seed("points of recovery"));
        for name in RECOVERING {
            kill_with_streams(&mut field);
            let failpoints = format!("{name}={}*off->return", field.random.below(2));
            field.die_at_start(&failpoints);
            field.die_at_start(&format!("{name}=return"));
            field.audit(Reading::Fresh, &failpoints);
            let spool = open(&field.spool(), Access::Serve);
            let found = &spool.recovered()[0];
            assert_eq!((found.swept, found.repaired), (0, 0), "{name}: {:?}", found.notices);
        }
        field.close("points of recovery");
    }

    #[test]
    fn a_quarantine_that_was_cut_short_loses_no_bytes() {
        let _alone = alone();
        let mut field = Field::new(seed("points of quarantine"));
        for name in QUARANTINING {
            let mut server = field.start("");
            let load = field.load(&server);
            load.await_acknowledged(50);
            server.kill();
            load.stop();
            field.kills += 1;
            field.audit(Reading::Fresh, name);
            let victims = field.ledger.some_acknowledged(3, 0);
            damage(&field, &victims);
            let passes = field.random.below(2);
            field.die_at_start(&format!("{name}={passes}*off->return"));
            field.die_at_start(&format!("{name}=return"));
            field.audit(Reading::Fresh, name);
            for (mail, id) in victims {
                let key = format!("{:016x}", id.local.as_u64());
                let file = |family| {
                    let names = format!("p{:02}-{family}-{key}.rec", id.local.partition().0);
                    field.spool().join("quarantine").join(names)
                };
                assert_eq!(fs::read(file("envelope")).ok().as_deref(), Some(JUNK), "{name}: {id}");
                // The header is a record of its own.
                let text = mail.body();
                let body = fs::read(file("body")).ok();
                assert_eq!(body.as_deref(), Some(without_header(&text)), "{name}: {id}");
                assert!(file("head").is_file(), "{name}: {id}");
            }
        }
        field.close("points of quarantine");
    }

    #[test]
    fn a_store_that_fails_is_never_answered_with_250() {
        let _alone = alone();
        let mut field = Field::new(seed("failing store"));
        for (name, reply) in [("commit::error", "451"), ("stream::error", "451")] {
            let passes = field.random.below(50);
            let failpoints = format!("{name}={passes}*off->return(eio)");
            let mut server = field.start(&failpoints);
            let load = field.load(&server);
            let status = server.wait(POINTS_PATIENCE);
            load.stop();
            let log = server.whole_log();
            assert_eq!(status.code(), Some(75), "{failpoints}: {log}");
            assert!(log.contains("\"record\":\"commit_failed\""), "{failpoints}: {log}");
            assert!(field.ledger.refusals(reply) > 0, "{failpoints}: it was told at once");
            field.audit(Reading::Fresh, &failpoints);
        }
        for name in ["commit::error", "stream::error"] {
            let before = field.ledger.refusals("452 4.3.1");
            let failpoints = format!("{name}=10*off->40*return(enospc)->off");
            let mut server = field.start(&failpoints);
            let load = field.load(&server);
            while field.ledger.refusals("452 4.3.1") < before + 10 {
                thread::sleep(Duration::from_millis(1));
            }
            load.await_acknowledged(200);
            server.kill();
            load.stop();
            field.kills += 1;
            field.audit(Reading::Fresh, &failpoints);
        }
        field.close("failing store");
    }
}

const JUNK: &[u8] = b"\x01Eno envelope at all";

/// Overwrites the envelopes, as a fault of the disk or of another version would.
fn damage(field: &Field, victims: &[(support::ledger::Mail, ringpost::base::PublicId)]) {
    let spool = open(&field.spool(), Access::Serve);
    for (mail, id) in victims {
        let partition = spool.partition_of(id.local).expect("its partition is open");
        let family = partition.families().envelope;
        partition.db().put_cf(family, key::of_id(id.local), JUNK).expect("it is written");
        field.ledger.note(*mail, MailState::Damaged);
    }
}

/// Waits until a part of some body lies in the store.
fn await_streams(server: &Server, count: u64) {
    let end = Instant::now() + PATIENCE;
    loop {
        let stats = Command::new(env!("CARGO_BIN_EXE_ringpost"))
            .args(["queue", "stats", "--json", "--config"])
            .arg(server.folder.join("ringpost.toml"))
            .output()
            .expect("the binary runs");
        let stats: serde_json::Value = serde_json::from_slice(&stats.stdout).unwrap_or_default();
        let partitions = stats["partitions"].as_array().cloned().unwrap_or_default();
        let streams = partitions.iter().filter_map(|partition| partition["streams"].as_u64());
        if streams.sum::<u64>() >= count {
            return;
        }
        assert!(Instant::now() < end, "no body is streamed: {stats}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Bodies of which half was sent. The answer keeps their connections open.
fn begin_streams(server: &Server, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = server.connect();
        client.greet().expect("a greeting");
        client.expect("MAIL FROM:<stream@ledger.test>", 250);
        client.expect("RCPT TO:<stream@ledger.test>", 250);
        client.expect("DATA", 354);
        client.send(&b"half a body and no end\r\n".repeat(20_000)).expect("it is read");
        clients.push(client);
    }
    clients
}
