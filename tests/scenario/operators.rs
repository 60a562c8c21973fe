//! What operators order and ask: hold, release, retry, bounce, why, pause, with a destination that
//! takes mail, puts it off, or says nothing for as long as the test wants.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use crate::kit::Plan;
use crate::kit::RINGPOST;
use crate::kit::Rig;
use crate::kit::id_of;
use crate::kit::new_folder;
use crate::kit::run;
use crate::kit::text;
use crate::kit::text_of;
use crate::support::PATIENCE;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    Takes,
    PutsOff,
    /// Says nothing to a body until it is told to go on.
    Dawdles,
}

struct Held {
    manner: Manner,
    mail: Vec<String>,
}

/// A destination, for as long as the test lives.
#[derive(Clone)]
pub struct Sink {
    held: Arc<(Mutex<Held>, Condvar)>,
    pub address: SocketAddr,
}

impl Sink {
    pub fn start(manner: Manner) -> Sink {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let held = Held { manner, mail: Vec::new() };
        let address = listener.local_addr().expect("bound");
        let sink = Sink { held: Arc::new((Mutex::new(held), Condvar::new())), address };
        let serving = sink.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let sink = serving.clone();
                // A client that goes away ends its thread.
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

    /// A server that sends everything here, over one connection.
    pub fn plan(&self) -> Plan {
        let rest = format!(
            "[delivery]\nenabled = true\n[[route]]\nnext = \"smtp:{}\"\n\
             [destination]\nconnections_max = 1\nwindow_start = 1\n",
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
    id_of(&rig.client().submit("a@x.test", "b@y.test", body.as_bytes()).expect("it answers"))
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

pub fn await_empty(rig: &Rig) {
    await_some("an empty queue", || (rig.messages() == 0).then_some(()));
}

#[test]
fn what_was_put_off_is_held_released_retried_and_bounced() {
    let sink = Sink::start(Manner::PutsOff);
    let rig = Rig::start(&sink.plan());
    let (kept, hurried, given_up) =
        (submit(&rig, "kept"), submit(&rig, "hurried"), submit(&rig, "given up"));
    for id in [&kept, &hurried, &given_up] {
        let why = await_why(&rig, id, "come back later");
        assert!(why.contains("1 attempt so far") && why.contains("next attempt"), "{why}");
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
    assert!(ask(&rig, &["why", &kept]).contains("It is held"));
    assert!(queue_text(&rig, &["hold", &kept]).contains("was held before"));
    let refused = rig.try_queue(&["retry", &kept]);
    assert!(!refused.status.success() && text_of(&refused).contains("it is held; release it"));
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
    let bounce = sink.await_mail("given up by the postmaster");
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
fn a_line_is_told_and_what_is_in_it_can_be_taken_out() {
    let sink = Sink::start(Manner::Dawdles);
    let rig = Rig::start(&sink.plan());
    let first = submit(&rig, "first");
    await_why(&rig, &first, "It is being sent to");
    let (second, third) = (submit(&rig, "second"), submit(&rig, "third"));
    let why = await_why(&rig, &third, "one message is ahead of it");
    assert!(why.contains("It is in line for"), "{why}");
    assert!(why.contains("limit is 1 connections, and 1 are in use"), "{why}");
    assert!(why.contains(&format!("being sent now: {first}")), "{why}");
    assert!(why.contains("It was not tried yet."), "{why}");

    assert!(queue_text(&rig, &["hold", &second]).ends_with("held\n"), "it is called back");
    await_why(&rig, &third, "nothing is ahead of it");
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
    assert!(mail.len() == 2, "what was deleted is not sent, and nothing twice: {mail:?}");
}

#[test]
fn a_hold_waits_for_the_end_of_an_attempt() {
    let sink = Sink::start(Manner::Dawdles);
    let rig = Rig::start(&sink.plan());
    let id = submit(&rig, "slow");
    await_why(&rig, &id, "It is being sent to");
    assert!(queue_text(&rig, &["hold", &id]).contains("is being sent now"));
    sink.turn(Manner::PutsOff);
    let why = await_why(&rig, &id, "It is held");
    assert!(why.contains("1 attempt so far") && why.contains("not this one"), "{why}");
    sink.turn(Manner::Takes);
    queue_text(&rig, &["release", &id]);
    sink.await_mail("Subject: slow");
    await_empty(&rig);
}

#[test]
fn a_paused_destination_keeps_its_mail() {
    let sink = Sink::start(Manner::Takes);
    let rig = Rig::start(&sink.plan());
    let said = ask(&rig, &["destination", "pause", "127.0.0.1"]);
    assert!(said.contains("paused until it is resumed or the server restarts"), "{said}");
    let id = submit(&rig, "patient");
    let why = await_why(&rig, &id, "paused by an operator");
    assert!(why.contains("cannot be predicted"), "{why}");
    let list: Value =
        serde_json::from_str(&ask(&rig, &["destination", "list", "--json"])).expect("JSON");
    assert_eq!(list[0]["state"], "paused", "{list}");
    assert_eq!(list[0]["queued"], 1, "{list}");
    let site = sink.address.to_string();
    assert!(ask(&rig, &["destination", "list"]).contains("paused"));
    let shown = ask(&rig, &["destination", "show", &site]);
    assert!(shown.contains("queued: 1") && shown.contains("state: paused"), "{shown}");
    let (_, stats) = rig.get("/stats");
    let stats: Value = serde_json::from_str(&stats).expect("JSON");
    assert_eq!(stats["destinations"][0]["state"], "paused", "{stats:#}");
    assert!(sink.mail().is_empty(), "nothing goes there");
    assert!(ask(&rig, &["destination", "resume", "127.0.0.1"]).contains("resumed"));
    sink.await_mail("Subject: patient");
    await_empty(&rig);
    let config = rig.config();
    let out = run(RINGPOST, &["destination", "show", "nowhere", "--config", text(&config)], b"");
    assert!(!out.status.success() && text_of(&out).contains("nowhere"), "{}", text_of(&out));
}

#[test]
fn a_stopped_server_takes_orders_too() {
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
    assert!(why.contains("The server does not run") && why.contains("come back later"), "{why}");
    queue_text(&rig, &["hold", &kept]);
    queue_text(&rig, &["retry", "--recipient-domain", "y.test"]);
    assert!(ask(&rig, &["why", &kept]).contains("It is held"));
    let bounced = rig.try_queue(&["bounce", &kept]);
    assert!(text_of(&bounced).contains("only a running server can bounce"));
    sink.turn(Manner::Takes);
    let folder = std::mem::replace(&mut rig.folder, new_folder());
    drop(rig);
    let rig = Rig::start_in(folder, &plan);
    sink.await_mail("Subject: sent");
    await_some("the end of it", || (rig.messages() == 1).then_some(()));
    assert!(ask(&rig, &["why", &kept]).contains("It is held"), "a hold lasts");
    queue_text(&rig, &["release", &kept]);
    sink.await_mail("Subject: kept");
    await_empty(&rig);
}
