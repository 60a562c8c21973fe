//! Operations: hold, release, retry, reroute, bounce, why, pause; with a destination that accepts
//! mail, defers it, or is silent for as long as the test wants.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use crate::scenario::kit::Plan;
use crate::scenario::kit::RINGPOST;
use crate::scenario::kit::Rig;
use crate::scenario::kit::id_of;
use crate::scenario::kit::new_folder;
use crate::scenario::kit::run;
use crate::scenario::kit::text;
use crate::scenario::kit::text_of;
use crate::support::ClosedPort;
use crate::support::PATIENCE;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    Takes,
    PutsOff,
    /// Does not answer the end of a body until the manner changes.
    Dawdles,
}

struct Held {
    manner: Manner,
    mail: Vec<String>,
}

/// A destination, until the test ends.
#[derive(Clone)]
pub struct Sink {
    held: Arc<(Mutex<Held>, Condvar)>,
    pub address: SocketAddr,
}

impl Sink {
    pub fn start(manner: Manner) -> Sink {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let held = Held { manner, mail: Vec::new() };
        let address = listener.local_addr().expect("bound");
        let sink = Sink { held: Arc::new((Mutex::new(held), Condvar::new())), address };
        let serving = sink.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let sink = serving.clone();
                // The thread ends when the client closes.
                thread::spawn(move || sink.serve(stream).ok());
            }
        });
        sink
    }

    pub fn turn(&self, manner: Manner) {
        self.held.0.lock().expect("no thread panics").manner = manner;
        self.held.1.notify_all();
    }

    pub fn mail(&self) -> Vec<String> {
        self.held.0.lock().expect("no thread panics").mail.clone()
    }

    pub fn await_mail(&self, subject: &str) -> String {
        let wanted = || self.mail().into_iter().find(|mail| mail.contains(subject));
        await_some(subject, wanted)
    }

    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut out = stream.try_clone()?;
        let mut lines = BufReader::new(stream).lines();
        out.write_all(b"220 sink.test\r\n")?;
        while let Some(line) = lines.next().transpose()? {
            let word = line.get(..4).unwrap_or("").to_ascii_uppercase();
            let puts_off = self.held.0.lock().expect("no panic").manner == Manner::PutsOff;
            let reply: &[u8] = match word.as_str() {
                "RCPT" if puts_off => b"450 4.2.1 come back later\r\n",
                "DATA" => {
                    out.write_all(b"354 go on\r\n")?;
                    let mut mail = String::new();
                    while let Some(line) = lines.next().transpose()? {
                        if line == "." {
                            break;
                        }
                        mail.push_str(&line);
                        mail.push('\n');
                    }
                    let held = self.held.0.lock().expect("no panic");
                    let dawdles = |held: &mut Held| held.manner == Manner::Dawdles;
                    let mut held = self.held.1.wait_while(held, dawdles).expect("no panic");
                    match held.manner {
                        Manner::PutsOff => b"451 4.3.0 not this one\r\n",
                        _ => {
                            held.mail.push(mail);
                            b"250 2.0.0 thank you\r\n"
                        }
                    }
                }
                "QUIT" => {
                    out.write_all(b"221 bye\r\n")?;
                    return Ok(());
                }
                _ => b"250 2.0.0 well\r\n",
            };
            out.write_all(reply)?;
        }
        Ok(())
    }

    /// A server that sends everything to this sink over one connection.
    pub fn plan(&self) -> Plan {
        let rest = format!(
            "[delivery]\nenabled = true\n[[route]]\nnext = \"smtp:{}\"\n\
             [destination_defaults]\nconnections_max = 1\nwindow_start = 1\n",
            self.address
        );
        Plan { rest, http: true, ..Plan::default() }
    }
}

pub fn await_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what} does not come");
        thread::sleep(Duration::from_millis(20));
    }
}

pub fn submit(rig: &Rig, subject: &str) -> String {
    let body = format!("Subject: {subject}\r\nFrom: <a@x.test>\r\n\r\ntext\r\n");
    id_of(
        &rig.client().submit("a@x.test", "b@y.test", body.as_bytes()).expect("the server answers"),
    )
}

pub fn ask(rig: &Rig, words: &[&str]) -> String {
    let config = rig.config();
    let out = run(RINGPOST, &[words, &["--config", text(&config)]].concat(), b"");
    assert!(out.status.success(), "{words:?}: {}\n{}", text_of(&out), rig.server.log_text());
    String::from_utf8(out.stdout).expect("UTF-8")
}

pub fn await_why(rig: &Rig, id: &str, words: &str) -> String {
    let mut last = String::new();
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        last = ask(rig, &["why", id]);
        if last.contains(words) {
            return last;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("{words:?} does not come in\n{last}\n{}", rig.server.log_text());
}

pub fn queue_text(rig: &Rig, words: &[&str]) -> String {
    String::from_utf8(rig.queue(words)).expect("UTF-8")
}

/// Waits for the statistics, which shards update about every second.
fn await_stats(rig: &Rig, what: &str, is_so: impl Fn(&Value) -> bool) {
    await_some(what, || {
        let stats: Value = serde_json::from_str(&rig.get("/stats").1).expect("JSON");
        is_so(&stats).then_some(())
    });
}

pub fn await_empty(rig: &Rig) {
    await_some("an empty queue", || (rig.messages() == 0).then_some(()));
}

#[test]
fn a_deferred_message_is_held_released_retried_and_bounced() {
    let sink = Sink::start(Manner::PutsOff);
    let rig = Rig::start(&sink.plan());
    let (kept, hurried, given_up) =
        (submit(&rig, "kept"), submit(&rig, "hurried"), submit(&rig, "given up"));
    for id in [&kept, &hurried, &given_up] {
        let why = await_why(&rig, id, "come back later");
        assert!(why.contains("1 attempt so far") && why.contains("Next attempt"), "{why}");
    }
    let summary = rig.queue_json(&["summary"]);
    assert_eq!(summary["rows"][0]["domain"], "y.test", "{summary}");
    assert_eq!(summary["rows"][0]["recipients"], 3, "{summary}");
    assert_eq!(summary["rows"][0]["retrying"], 3, "{summary}");
    let reply = summary["rows"][0]["last_reply"].as_str().expect("a reply");
    assert!(reply.contains("come back later"), "{summary}");
    let said = queue_text(&rig, &["summary"]);
    assert!(said.contains("y.test") && said.contains("next in"), "{said}");

    assert!(queue_text(&rig, &["hold", &kept]).contains("held"));
    assert!(ask(&rig, &["why", &kept]).contains("Held: no delivery attempt"));
    assert!(queue_text(&rig, &["hold", &kept]).contains("is held already"));
    let refused = rig.try_queue(&["retry", &kept]);
    assert!(
        !refused.status.success()
            && text_of(&refused).contains("the message is held; release it first")
    );
    let rows: [(&[&str], usize); 6] = [
        (&["list", "--held"], 1),
        (&["list", "--recipient-domain", "Y.test"], 3),
        (&["list", "--recipient-domain", "z.test"], 0),
        (&["list", "--sender", "a@x.test"], 3),
        (&["list", "--sender", "<>"], 0),
        (&["list", "--older-than", "1h"], 0),
    ];
    for (words, count) in rows {
        let listed = rig.queue_json(words);
        assert_eq!(listed.as_array().map(Vec::len), Some(count), "{words:?}: {listed}");
    }

    sink.turn(Manner::Takes);
    assert!(queue_text(&rig, &["retry", &hurried]).contains("due now"));
    sink.await_mail("Subject: hurried");
    assert!(queue_text(&rig, &["bounce", &given_up]).contains("bounced"));
    let bounce = sink.await_mail("bounced by the administrator");
    assert!(bounce.contains("b@y.test"), "{bounce}");
    assert!(sink.mail().iter().all(|mail| !mail.contains("Subject: kept")), "it is held");
    queue_text(&rig, &["release", "--all"]);
    sink.await_mail("Subject: kept");
    await_empty(&rig);
    assert_eq!(sink.mail().len(), 3, "{:?}", sink.mail());
    let gone = rig.try_queue(&["hold", &kept]);
    assert!(!gone.status.success() && text_of(&gone).contains("no such message"));
}

#[test]
fn a_queue_is_explained_and_jobs_in_it_can_be_removed() {
    let sink = Sink::start(Manner::Dawdles);
    let rig = Rig::start(&sink.plan());
    let first = submit(&rig, "first");
    await_why(&rig, &first, "Being sent to");
    let (second, third) = (submit(&rig, "second"), submit(&rig, "third"));
    let why = await_why(&rig, &third, "1 message is ahead");
    assert!(why.contains("Queued for"), "{why}");
    assert!(why.contains("limit is 1 connections; 1 are in use"), "{why}");
    assert!(why.contains(&format!("being sent now: {first}")), "{why}");
    assert!(why.contains("No delivery attempt yet."), "{why}");

    assert!(queue_text(&rig, &["hold", &second]).ends_with("held\n"), "it is called back");
    await_why(&rig, &third, "no message is ahead");
    assert!(queue_text(&rig, &["delete", &third]).contains("deleted"));
    let said = queue_text(&rig, &["hold", &first]);
    assert!(said.contains("is being sent now"), "{said}");
    let facts: Value = serde_json::from_str(&ask(&rig, &["why", &second, "--json"])).expect("JSON");
    assert_eq!(facts["jobs"][0]["state"], "held", "{facts}");

    sink.turn(Manner::Takes);
    sink.await_mail("Subject: first");
    await_some("the end of the first", || (rig.messages() == 1).then_some(()));
    queue_text(&rig, &["release", &second]);
    sink.await_mail("Subject: second");
    await_empty(&rig);
    let mail = sink.mail();
    assert!(mail.len() == 2, "a deleted message is not sent, and none twice: {mail:?}");
}

#[test]
fn a_hold_waits_for_the_end_of_an_attempt() {
    let sink = Sink::start(Manner::Dawdles);
    let rig = Rig::start(&sink.plan());
    let id = submit(&rig, "slow");
    await_why(&rig, &id, "Being sent to");
    assert!(queue_text(&rig, &["hold", &id]).contains("is being sent now"));
    sink.turn(Manner::PutsOff);
    let why = await_why(&rig, &id, "Held: no delivery attempt");
    assert!(why.contains("1 attempt so far") && why.contains("not this one"), "{why}");
    sink.turn(Manner::Takes);
    queue_text(&rig, &["release", &id]);
    sink.await_mail("Subject: slow");
    await_empty(&rig);
}

#[test]
fn a_pending_hold_survives_a_retry_and_a_full_disk() {
    let sink = Sink::start(Manner::Dawdles);
    let mut plan = sink.plan();
    let schedule = "enabled = true\nretry_schedule = [\"2s\"]\nretry_jitter = 0\n";
    plan.rest = plan.rest.replace("enabled = true\n", schedule);
    // The message is written. The hold fails at first, and is written before the next attempt.
    let faults = "commit::error=1*off->1*return(enospc)->off".to_owned();
    plan.environment = vec![("FAILPOINTS", faults)];
    let rig = Rig::start(&plan);
    let id = submit(&rig, "slow");
    await_why(&rig, &id, "Being sent to");
    assert!(queue_text(&rig, &["hold", &id]).contains("is being sent now"));
    assert!(queue_text(&rig, &["retry", &id]).contains("queued for a connection or being sent"));
    sink.turn(Manner::PutsOff);
    await_why(&rig, &id, "Held: no delivery attempt");
    sink.turn(Manner::Takes);
    queue_text(&rig, &["release", &id]);
    sink.await_mail("Subject: slow");
    await_empty(&rig);
    assert_eq!(sink.mail().len(), 1, "once");
}

#[test]
fn a_release_cancels_a_pending_hold() {
    let sink = Sink::start(Manner::Dawdles);
    let rig = Rig::start(&sink.plan());
    let id = submit(&rig, "slow");
    await_why(&rig, &id, "Being sent to");
    queue_text(&rig, &["hold", &id]);
    queue_text(&rig, &["release", &id]);
    sink.turn(Manner::PutsOff);
    await_why(&rig, &id, "not this one");
    sink.turn(Manner::Takes);
    queue_text(&rig, &["retry", &id]);
    sink.await_mail("Subject: slow");
    await_empty(&rig);
}

#[test]
fn a_paused_destination_keeps_its_mail() {
    let sink = Sink::start(Manner::Takes);
    let rig = Rig::start(&sink.plan());
    let said = ask(&rig, &["destination", "pause", "127.0.0.1"]);
    assert!(said.contains("paused until resumed"), "{said}");
    let id = submit(&rig, "patient");
    let why = await_why(&rig, &id, "paused by an operator");
    assert!(why.contains("No estimate"), "{why}");
    let list: Value =
        serde_json::from_str(&ask(&rig, &["destination", "list", "--json"])).expect("JSON");
    assert_eq!(list["destinations"][0]["state"], "paused", "{list}");
    assert_eq!(list["destinations"][0]["queued"], 1, "{list}");
    assert_eq!(list["paused"][0], "127.0.0.1", "{list}");
    let destination = sink.address.to_string();
    assert!(ask(&rig, &["destination", "list"]).contains("paused"));
    let shown = ask(&rig, &["destination", "show", &destination]);
    assert!(shown.contains("queued: 1") && shown.contains("state: paused"), "{shown}");
    await_stats(&rig, "a paused one", |stats| stats["destinations"][0]["state"] == "paused");
    assert!(sink.mail().is_empty(), "nothing is sent there");
    assert!(ask(&rig, &["destination", "resume", "127.0.0.1"]).contains("resumed"));
    sink.await_mail("Subject: patient");
    await_empty(&rig);
    let config = rig.config();
    let out = run(RINGPOST, &["destination", "show", "nowhere", "--config", text(&config)], b"");
    assert!(!out.status.success() && text_of(&out).contains("nowhere"), "{}", text_of(&out));
}

#[test]
fn operations_work_on_a_stopped_server() {
    let sink = Sink::start(Manner::PutsOff);
    let plan = sink.plan();
    let mut rig = Rig::start(&plan);
    let (kept, sent) = (submit(&rig, "kept"), submit(&rig, "sent"));
    for id in [&kept, &sent] {
        await_why(&rig, id, "come back later");
    }
    rig.server.signal("TERM");
    assert!(rig.server.wait(PATIENCE).success(), "{}", rig.server.log_text());
    let why = ask(&rig, &["why", &sent]);
    assert!(why.contains("The server is not running") && why.contains("come back later"), "{why}");
    queue_text(&rig, &["hold", &kept]);
    queue_text(&rig, &["retry", "--recipient-domain", "y.test"]);
    assert!(ask(&rig, &["why", &kept]).contains("Held: no delivery attempt"));
    let bounced = rig.try_queue(&["bounce", &kept]);
    assert!(text_of(&bounced).contains("only a running server can bounce"));
    sink.turn(Manner::Takes);
    let folder = std::mem::replace(&mut rig.folder, new_folder());
    drop(rig);
    let rig = Rig::start_in(folder, &plan);
    sink.await_mail("Subject: sent");
    await_some("the end of it", || (rig.messages() == 1).then_some(()));
    assert!(
        ask(&rig, &["why", &kept]).contains("Held: no delivery attempt"),
        "a hold survives the restart"
    );
    queue_text(&rig, &["release", &kept]);
    sink.await_mail("Subject: kept");
    await_empty(&rig);
}

/// Stops the server, runs `between`, and starts the server in the same folder.
fn restart(mut rig: Rig, plan: &Plan, between: impl FnOnce(&Rig)) -> Rig {
    rig.server.signal("TERM");
    assert!(rig.server.wait(PATIENCE).success(), "{}", rig.server.log_text());
    between(&rig);
    let folder = std::mem::replace(&mut rig.folder, new_folder());
    drop(rig);
    Rig::start_in(folder, plan)
}

fn destinations(rig: &Rig) -> Vec<Value> {
    let list = ask(rig, &["destination", "list", "--json"]);
    let list: Value = serde_json::from_str(&list).expect("JSON");
    list["destinations"].as_array().expect("a list").clone()
}

fn job(rig: &Rig, id: &str) -> Value {
    rig.queue_json(&["show", id])["jobs"][0].clone()
}

#[test]
fn mail_is_rerouted_in_every_state() {
    let (first, other) = (Sink::start(Manner::Dawdles), Sink::start(Manner::Takes));
    let rig = Rig::start(&first.plan());
    let way = format!("smtp:{}", other.address);
    let sending = submit(&rig, "sending");
    await_why(&rig, &sending, "Being sent to");
    let in_line = submit(&rig, "in line");
    await_why(&rig, &in_line, "no message is ahead");

    let said = queue_text(&rig, &["reroute", &in_line, "--to", &way]);
    assert_eq!(said, format!("{in_line}: rerouted\n"));
    other.await_mail("Subject: in line");
    let said = queue_text(&rig, &["reroute", &sending, "--to", &way]);
    assert!(said.contains("is being sent now; rerouted after this attempt"), "{said}");
    first.turn(Manner::PutsOff);
    other.await_mail("Subject: sending");
    await_empty(&rig);

    let (put_off, kept) = (submit(&rig, "put off"), submit(&rig, "kept"));
    for id in [&put_off, &kept] {
        await_why(&rig, id, "come back later");
    }
    queue_text(&rig, &["hold", &kept]);
    let rows = rig.queue_json(&["reroute", "--recipient-domain", "Y.test", "--to", &way]);
    assert!(rows.as_array().is_some_and(|rows| rows.len() == 2), "{rows}");
    other.await_mail("Subject: put off");
    let why = ask(&rig, &["why", &kept]);
    assert!(why.contains(&format!("Rerouted by an operator to {way}")), "{why}");
    assert!(why.contains("Held: no delivery attempt"), "a hold is not changed by a route: {why}");
    assert_eq!(job(&rig, &kept)["rerouted_to"], way.as_str());
    assert!(
        queue_text(&rig, &["reroute", &kept, "--to", &way]).contains("has this next hop already")
    );
    assert!(
        queue_text(&rig, &["reroute", &kept, "--to", "default"])
            .contains("follows the routes again")
    );
    assert!(job(&rig, &kept)["rerouted_to"].is_null());
    assert!(!ask(&rig, &["why", &kept]).contains("Rerouted by an operator"));

    for bad in ["smtp", "carrier:pigeon", "lmtp:nowhere"] {
        let refused = rig.try_queue(&["reroute", &kept, "--to", bad]);
        assert!(!refused.status.success() && text_of(&refused).contains("--to"), "{bad}");
    }
    assert!(first.mail().is_empty(), "nothing was sent on the old route: {:?}", first.mail());
    let user = std::fs::metadata("/proc/self").expect("our own process").uid();
    let changes = [
        format!(r#""queue.reroute","objects":["{in_line}"],"to":"{way}","changed":1,"refused":0"#),
        format!(r#""queue.hold","objects":["{kept}"],"changed":1,"refused":0"#),
        format!(r#""queue.reroute","objects":["{kept}"],"to":"default","changed":1,"refused":0"#),
    ];
    for change in changes {
        let line = rig.server.wait_for_log(&change);
        assert!(line.contains(&format!(r#""record":"operation","actor":"uid:{user}""#)), "{line}");
    }
    assert!(!rig.server.log_text().contains("queue.show"), "reads are not logged");
}

#[test]
fn an_override_survives_retries_and_restarts_and_can_be_set_while_stopped() {
    let (first, other) = (Sink::start(Manner::PutsOff), Sink::start(Manner::PutsOff));
    let plan = first.plan();
    let rig = Rig::start(&plan);
    let way = format!("smtp:{}", other.address);
    let (early, late) = (submit(&rig, "early"), submit(&rig, "late"));
    for id in [&early, &late] {
        await_why(&rig, id, "come back later");
    }
    queue_text(&rig, &["reroute", &early, "--to", &way]);
    // The message is deferred there, too: one attempt by each.
    await_some("the second attempt", || (job(&rig, &early)["attempts"] == 2).then_some(()));
    assert_eq!(job(&rig, &early)["rerouted_to"], way.as_str(), "a retry keeps the override");
    first.turn(Manner::Takes);
    other.turn(Manner::Takes);
    let rig = restart(rig, &plan, |rig| {
        assert_eq!(job(rig, &early)["rerouted_to"], way.as_str(), "a stop keeps the override");
        let said = queue_text(rig, &["reroute", &late, "--to", &way]);
        assert!(said.contains("rerouted"), "{said}");
        let why = ask(rig, &["why", &late]);
        assert!(why.contains(&format!("Rerouted by an operator to {way}")), "{why}");
    });
    other.await_mail("Subject: late");
    queue_text(&rig, &["retry", &early]);
    other.await_mail("Subject: early");
    await_empty(&rig);
    assert!(first.mail().is_empty(), "{:?}", first.mail());
}

#[test]
fn an_override_can_discard_and_hold_mail() {
    let sink = Sink::start(Manner::PutsOff);
    let rig = Rig::start(&sink.plan());
    let (gone, kept) = (submit(&rig, "gone"), submit(&rig, "kept"));
    for id in [&gone, &kept] {
        await_why(&rig, id, "come back later");
    }
    queue_text(&rig, &["reroute", &gone, "--to", "discard"]);
    await_some("the end of it", || (rig.messages() == 1).then_some(()));
    queue_text(&rig, &["reroute", &kept, "--to", "hold"]);
    await_why(&rig, &kept, "Held: no delivery attempt");
    sink.turn(Manner::Takes);
    queue_text(&rig, &["reroute", &kept, "--to", "default"]);
    queue_text(&rig, &["release", &kept]);
    sink.await_mail("Subject: kept");
    await_empty(&rig);
    assert_eq!(sink.mail().len(), 1, "{:?}", sink.mail());
}

#[test]
fn a_pause_survives_a_restart_and_a_damaged_file_does_not_prevent_the_start() {
    let sink = Sink::start(Manner::Takes);
    let plan = sink.plan();
    let rig = Rig::start(&plan);
    ask(&rig, &["destination", "pause", "Elsewhere.test."]);
    ask(&rig, &["destination", "pause", "127.0.0.1"]);
    let id = submit(&rig, "patient");
    await_why(&rig, &id, "paused by an operator");
    let rig = restart(rig, &plan, |_| ());
    await_why(&rig, &id, "paused by an operator");
    let list = ask(&rig, &["destination", "list"]);
    for name in ["127.0.0.1", "elsewhere.test"] {
        assert!(list.contains(&format!("paused by an operator: {name}\n")), "{list}");
    }
    assert!(rig.server.log_text().contains("paused by an operator: 127.0.0.1, elsewhere.test"));
    ask(&rig, &["destination", "resume", "elsewhere.TEST"]);
    rig.server.wait_for_log(r#""destination.resume","objects":["elsewhere.TEST"],"changed":0"#);
    assert!(!ask(&rig, &["destination", "list"]).contains("elsewhere.test"));
    assert!(sink.mail().is_empty(), "nothing is sent there");

    let folder = rig.folder.path().join("spool");
    let rig = restart(rig, &plan, |_| {
        std::fs::write(folder.join("pauses.json"), "{\"format\": 1, \"pau")
            .expect("the folder is writable");
    });
    sink.await_mail("Subject: patient");
    await_empty(&rig);
    let log = rig.server.log_text();
    assert!(log.contains("pauses.json.bad"), "{log}");
    assert!(rig.folder.path().join("spool/pauses.json.bad").exists());
    ask(&rig, &["destination", "pause", "127.0.0.1"]);
    let rig = restart(rig, &plan, |_| ());
    assert!(ask(&rig, &["destination", "list"]).contains("paused by an operator: 127.0.0.1"));
}

#[test]
fn waiting_in_a_queue_is_no_attempt() {
    // The address has no listener.
    let closed = ClosedPort::new();
    let address = closed.address;
    let rest = format!(
        "[delivery]\nenabled = true\n[[route]]\nnext = \"smtp:{address}\"\n\
         [destination_defaults]\nconnections_max = 1\nwindow_start = 1\nfailures_to_back_off = 2\n\
         back_off_first = \"1h\"\n"
    );
    let rig = Rig::start(&Plan { rest, ..Plan::default() });
    ask(&rig, &["destination", "pause", "127.0.0.1"]);
    let ids: Vec<String> = (0..6).map(|n| submit(&rig, &format!("number {n}"))).collect();
    await_some("all jobs in the queue", || {
        destinations(&rig).first().is_some_and(|row| row["queued"] == 6).then_some(())
    });
    ask(&rig, &["destination", "resume", "127.0.0.1"]);
    let attempts = |ids: &[String]| -> u64 {
        ids.iter().map(|id| job(&rig, id)["attempts"].as_u64().expect("a number")).sum()
    };
    await_some("one attempt for each failed connection", || (attempts(&ids) == 2).then_some(()));
    for id in &ids {
        await_some("a time for the next attempt", || {
            let why = ask(&rig, &["why", id]);
            let has_time = ["Next attempt at", "no connection is opened until"];
            has_time.iter().any(|words| why.contains(words)).then_some(())
        });
    }
    assert_eq!(attempts(&ids), 2, "no other attempt");
    let untried = ids.iter().filter(|id| job(&rig, id)["attempts"] == 0);
    for id in untried {
        let why = ask(&rig, &["why", id]);
        assert!(why.contains("No delivery attempt yet"), "{why}");
        // Not before the next attempt at the destination.
        assert!(why.contains("minutes") || why.contains("hours"), "{why}");
    }
}

#[test]
fn the_number_of_stripes_of_a_destination_can_change() {
    let sink = Sink::start(Manner::Takes);
    let plan = |stripes: &str| {
        let rest = format!(
            "[delivery]\nenabled = true\n[[route]]\nnext = \"smtp:{}\"\n\
             [[destination]]\nname = \"sink\"\nmx_host = [\"[127.0.0.1]\"]\n\
             connections_max = 4\nwindow_start = 4\nstripes = {stripes}\n",
            sink.address
        );
        Plan { rest, http: true, ..Plan::default() }
    };
    let rig = Rig::start(&plan("\"all\""));
    ask(&rig, &["destination", "pause", "127.0.0.1"]);
    let count = 24;
    let ids: Vec<String> = (0..count).map(|n| submit(&rig, &format!("number {n}"))).collect();
    let queued = |wanted: u64| {
        let rows = destinations(&rig);
        (rows.len() == 1 && rows[0]["queued"] == wanted).then(|| rows[0].clone())
    };
    let row = await_some("all in line", || queued(count));
    assert_eq!(row["state"], "paused", "{row}");
    let parts = row["stripes"].as_array().cloned().unwrap_or_default();
    if !parts.is_empty() {
        let sum = |key: &str| parts.iter().filter_map(|part| part[key].as_u64()).sum::<u64>();
        assert_eq!(sum("queued"), count, "{row}");
    }
    await_stats(&rig, "one with all mail", |stats| {
        stats["destinations"].as_array().map(Vec::len) == Some(1)
            && stats["destinations"][0]["queued"] == count
            && stats["other_destinations"]["destinations"] == 0
    });
    for id in &ids {
        await_why(&rig, id, "paused by an operator");
    }

    rig.rewrite(&plan("1"));
    rig.reload("reloaded");
    await_some("all in one line", || {
        queued(count).filter(|row| {
            let parts = row["stripes"].as_array().cloned().unwrap_or_default();
            parts.iter().filter(|part| part["queued"] != 0).count() <= 1
        })
    });
    ask(&rig, &["destination", "resume", "127.0.0.1"]);
    for n in 0..count {
        sink.await_mail(&format!("Subject: number {n}\n"));
    }
    await_empty(&rig);
    assert_eq!(sink.mail().len() as u64, count, "nothing twice");
}

/// The disk is slower than the retry wait: the attempt is due before the job's own record is known
/// to be written, and takes place nevertheless.
#[cfg(feature = "failpoints")]
#[test]
fn a_retry_due_before_it_is_written_is_not_delayed() {
    let sink = Sink::start(Manner::PutsOff);
    let mut plan = sink.plan();
    plan.rest = plan.rest.replace(
        "enabled = true\n",
        "enabled = true\nretry_schedule = [\"1500ms\"]\nretry_jitter = 0\n",
    );
    plan.environment = vec![("FAILPOINTS", "again::after_write=1*sleep(4000)".to_owned())];
    let rig = Rig::start(&plan);
    let begin = Instant::now();
    let id = submit(&rig, "soon");
    await_why(&rig, &id, "come back later");
    sink.turn(Manner::Takes);
    sink.await_mail("Subject: soon");
    assert!(begin.elapsed() < Duration::from_secs(30), "only the sweep has found it");
    await_empty(&rig);
}

#[test]
fn release_all_releases_only_held_messages() {
    let sink = Sink::start(Manner::Dawdles);
    let rig = Rig::start(&sink.plan());
    let first = submit(&rig, "first");
    let _waits_in_line = submit(&rig, "second");
    let third = submit(&rig, "third");
    await_why(&rig, &first, "Being sent to");
    queue_text(&rig, &["hold", &third]);
    let said = queue_text(&rig, &["release", "--all"]);
    assert_eq!(said, format!("{third}: released and due now\n"));
    assert_eq!(queue_text(&rig, &["release", "--all"]), "", "nothing is held");
    assert_eq!(queue_text(&rig, &["release", "--recipient-domain", "y.test"]), "");
    sink.turn(Manner::Takes);
    await_empty(&rig);
}

#[test]
fn jobs_in_memory_are_counted() {
    let sink = Sink::start(Manner::Dawdles);
    let rig = Rig::start(&sink.plan());
    for subject in ["first", "second", "third"] {
        submit(&rig, subject);
    }
    rig.await_metric("ringpost_jobs_in_memory", 3.0);
    let named = |metric: &str, rest: &str| {
        format!("ringpost_destination_{metric}{{destination=\"{}\"{rest}}}", sink.address)
    };
    rig.await_metric(&named("jobs", ",state=\"in_flight\""), 1.0);
    rig.await_metric(&named("jobs", ",state=\"queued\""), 2.0);
    assert!(rig.metric(&named("oldest_message_age_seconds", "")) > 0.0);
    assert_eq!(rig.metric("ringpost_destinations"), 1.0);
    sink.turn(Manner::Takes);
    await_empty(&rig);
    rig.await_metric("ringpost_jobs_in_memory", 0.0);
    rig.await_metric(&named("jobs", ",state=\"queued\""), 0.0);
    rig.await_metric("ringpost_attempts_total", 3.0);
    let delivered = "{outcome=\"delivered\",category=\"delivered\"}";
    assert_eq!(rig.metric(&format!("ringpost_attempts_total{delivered}")), 3.0);
    for stage in ["queue_wait", "delivery_transfer", "accept_to_delivered"] {
        assert_eq!(rig.metric(&format!("ringpost_{stage}_seconds_count")), 3.0, "{stage}");
    }
}

#[test]
fn tls_results_with_remote_servers_are_counted() {
    let sink = Sink::start(Manner::Takes);
    let mut plan = sink.plan();
    plan.rest =
        plan.rest.replace("[destination_defaults]\n", "tls = \"must\"\n[destination_defaults]\n");
    let rig = Rig::start(&plan);
    submit(&rig, "in the clear");
    rig.await_metric("ringpost_delivery_tls_results_total{result=\"starttls-not-supported\"}", 1.0);
    rig.await_metric("ringpost_delivery_tls_results_total", 1.0);
    let deferred = "{outcome=\"deferred\",category=\"tls-required\"}";
    rig.await_metric(&format!("ringpost_attempts_total{deferred}"), 1.0);
    assert!(sink.mail().is_empty());
}
