//! Source addresses that a provider blocks or slows down: the others go on.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use crate::support::receiver::Receiver;
use crate::support::receiver::Taken;
use crate::ways_out::kit::Out;
use crate::ways_out::kit::PATIENCE;
use crate::ways_out::kit::route;

const RULES: &str = "450 | * | black moon | policy | follow | suspend 2h source\n";

const BAD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));
const GOOD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 3));

/// A provider that mail reaches from a bad and a good address.
struct Provider {
    out: Out,
    receiver: Receiver,
    /// Replies to the bad address.
    replies: Arc<AtomicUsize>,
    /// Messages submitted so far.
    sent: usize,
    _folder: tempfile::TempDir,
}

impl Provider {
    /// Answers the first `most` of such commands so, if they come from the bad address.
    fn start(commands: &'static [&'static str], reply: &'static str, most: usize) -> Provider {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let rules = folder.path().join("own.rules");
        std::fs::write(&rules, RULES).expect("the file is writable");
        let replies = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&replies);
        let receiver = Receiver::start_by_peer(&[], move |peer, line| {
            // Messages take a moment, so that both addresses are used.
            if line.starts_with("DATA") {
                thread::sleep(Duration::from_millis(5));
            }
            let is_meant = peer == BAD && commands.iter().any(|one| line.starts_with(one));
            let answers = is_meant && count.fetch_add(1, Ordering::SeqCst) < most;
            answers.then(|| reply.to_owned())
        });
        let delivery = format!("pool = 'both'\nreply_rules = ['{}']", rules.display());
        let source = |name, address| format!("[[source]]\nname = '{name}'\nipv4 = '{address}'\n");
        let config = format!(
            "window_start = 8\nback_off_first = '1h'\n{}[[pool]]\nname = 'both'\n\
             sources = ['bad', 'good']\n{}{}",
            route("b.test", &format!("smtp:{}", receiver.address)),
            source("bad", BAD),
            source("good", GOOD)
        );
        let out = Out::start("2s", &delivery, &config);
        Provider { out, receiver, replies, sent: 0, _folder: folder }
    }

    fn submit(&mut self, count: usize) {
        let to = (self.sent..self.sent + count).map(|number| format!("r{number}@b.test"));
        to.for_each(|to| drop(self.out.submit(&[&to])));
        self.sent += count;
    }

    fn shown(&self) -> Value {
        let address = self.receiver.address.to_string();
        let shown = self.out.ringpost(&["destination", "show", &address, "--json"]);
        let mut shown: Value = serde_json::from_str(&shown).expect("JSON");
        shown["destinations"][0].take()
    }

    /// Sends mail until this is said of the source.
    fn await_source(&mut self, name: &str, is_said: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            self.submit(4);
            let shown = self.shown();
            let sources = shown["sources"].as_array().into_iter().flatten();
            if sources.clone().any(|one| one["source"] == name && is_said(one)) {
                return shown;
            }
            assert!(Instant::now() < end, "{shown:#}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn taken_from(&self, peer: IpAddr) -> Vec<Taken> {
        self.receiver.taken().into_iter().filter(|taken| taken.peer == peer).collect()
    }

    /// Mail that is submitted now goes from the good address, and none from the bad one.
    fn only_the_good_one_sends(&mut self, replies: usize) {
        let (bad, good) = (self.taken_from(BAD).len(), self.taken_from(GOOD).len());
        self.submit(40);
        let end = Instant::now() + PATIENCE;
        while self.taken_from(GOOD).len() < good + 40 {
            assert!(Instant::now() < end, "{:#}", self.shown());
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(self.taken_from(BAD).len(), bad, "{:#}", self.shown());
        assert_eq!(self.replies.load(Ordering::SeqCst), replies, "it was tried again");
        let shown = self.shown();
        assert_eq!(shown["state"], "open", "{shown:#}");
    }
}

fn has_no_connections(source: &Value) -> bool {
    source["connections"] == 0
}

#[test]
fn a_source_that_a_rule_suspends_leaves_its_share_to_the_others() {
    let mut provider = Provider::start(&["RCPT"], "450 4.7.1 once in a black moon", usize::MAX);
    let suspended = |one: &Value| one["binding"]["kind"] == "suspended" && has_no_connections(one);
    let shown = provider.await_source("bad", suspended);
    assert_eq!(shown["evidence"][0]["reply"], "450 4.7.1 once in a black moon", "{shown:#}");
    let replies = provider.replies.load(Ordering::SeqCst);
    provider.only_the_good_one_sends(replies);
}

#[test]
fn a_source_that_a_provider_refuses_leaves_its_share_to_the_others() {
    let mut provider =
        Provider::start(&["EHLO", "HELO"], "554 5.7.1 we do not know you", usize::MAX);
    let rests = |one: &Value| one["binding"]["kind"] == "backing-off" && has_no_connections(one);
    provider.await_source("bad", rests);
    let replies = provider.replies.load(Ordering::SeqCst);
    provider.only_the_good_one_sends(replies);
}

/// A reply that asks for less lowers the window of the source that it came to.
#[test]
fn each_source_has_a_window_of_its_own() {
    let mut provider = Provider::start(&["MAIL"], "421 4.7.0 too much mail", 1);
    let window = |shown: &Value, name: &str| {
        let sources = shown["sources"].as_array().into_iter().flatten();
        let mut windows = sources.filter(|one| one["source"] == name).map(|one| &one["window"]);
        windows.next().and_then(Value::as_u64).unwrap_or_default()
    };
    let shown = provider.await_source("bad", |one| one["window"].as_u64() < Some(8));
    assert_eq!(window(&shown, "bad"), 6, "a quarter of 8 less: {shown:#}");
    assert!(window(&shown, "good") >= 8, "{shown:#}");
    assert!(shown["window"].as_u64() >= Some(8), "of the destination: {shown:#}");
}
