//! Signals under load: SIGTERM, a second SIGTERM, SIGSTOP and SIGCONT, SIGHUP. No acknowledged mail
//! is lost, and the process ends, pauses or continues as it should.

use std::fs;
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::support::Client;
use crate::support::PATIENCE;
use crate::support::Server;
use crate::support::Setup;
use crate::support::ledger::Ledger;
use crate::support::ledger::Mail;
use crate::support::ledger::MailState;
use crate::support::ledger::Reading;
use crate::support::ledger::SILENCE;
use crate::support::load::Load;
use crate::support::load::Plan;
use crate::support::load::Shape;
use crate::support::stuffed;

const SECOND: Duration = Duration::from_secs(1);

/// Tolerance for the effect of a signal on a busy machine.
const SLACK: Duration = Duration::from_secs(10);

/// A server with its clients.
struct Scene {
    folder: tempfile::TempDir,
    ledger: Arc<Ledger>,
    setup: Setup,
}

impl Scene {
    fn new(shutdown_timeout: &str) -> Scene {
        Scene {
            folder: tempfile::tempdir().expect("a temporary folder"),
            ledger: Arc::default(),
            setup: Setup {
                server: format!("shutdown_timeout = {shutdown_timeout:?}"),
                config: "[queue]\nmin_free_space = \"0\"\n".to_owned(),
                ..Setup::default()
            },
        }
    }

    fn start(&self) -> Server {
        Server::start(self.folder.path(), &self.setup)
    }

    fn load(&self, server: &Server, shapes: &'static [Shape]) -> Load {
        let plan = Plan { clients: 4, seed: 11, shapes, remover: None };
        let load = Load::start(server.address(), &self.ledger, plan);
        load.await_acknowledged(50);
        load
    }

    #[track_caller]
    fn audit(&self, when: &str) {
        let spool = self.folder.path().join("spool");
        let audit = self.ledger.audit_stopped(&spool, Reading::Everything);
        println!("{when}: {audit}; refusals: {:?}", self.ledger.replies());
        audit.assert_sound(when);
        assert!(audit.recovered > 0, "{when}: mail was queued");
    }

    /// A client that has sent half a body.
    fn half_a_message(&self, server: &Server) -> HalfSent {
        let mail = self.ledger.begin(100_000, 1);
        let mut client = greeted(server);
        client.expect(&format!("MAIL FROM:<{}>", mail.sender()), 250);
        let to = mail.recipients().next().expect("one recipient");
        client.expect(&format!("RCPT TO:<{to}>"), 250);
        client.expect("DATA", 354);
        let wire = stuffed(&mail.body());
        let (sent, rest) = wire.split_at(wire.len() / 2);
        client.send(sent).expect("the peer reads");
        HalfSent { client, mail, rest: rest.to_vec() }
    }
}

struct HalfSent {
    client: Client,
    mail: Mail,
    rest: Vec<u8>,
}

fn greeted(server: &Server) -> Client {
    let mut client = server.connect();
    client.greet().expect("a greeting");
    client
}

/// Whether a port refuses connections, within the slack.
fn refuses(server: &Server) -> bool {
    let end = Instant::now() + SLACK;
    while Instant::now() < end {
        if TcpStream::connect(server.address()).is_err() {
            return true;
        }
        thread::sleep(Duration::from_millis(10));
    }
    false
}

#[test]
fn sigterm_drains_under_load() {
    let scene = Scene::new("20s");
    let mut server = scene.start();
    let load = scene.load(&server, Shape::ALL);
    let mut silent = server.connect();
    assert_eq!(silent.reply().expect("a greeting").code, 220);
    let mut idle: Vec<Client> = (0..3).map(|_| greeted(&server)).collect();
    let mut announced = greeted(&server);
    announced.expect("MAIL FROM:<somebody@ledger.test>", 250);
    let mut half = scene.half_a_message(&server);

    let begun = Instant::now();
    server.signal("TERM");
    for client in idle.iter_mut().chain([&mut silent]) {
        let reply = client.reply().expect("an idle session gets a reply");
        assert_eq!(reply.code, 421, "{}", reply.text);
        assert!(client.reply().is_err(), "the idle session is closed");
    }
    assert!(begun.elapsed() < SLACK, "at once, not after {:?}", begun.elapsed());
    assert!(refuses(&server), "new connections are refused");
    assert_eq!(server.child.try_wait().expect("the child is ours"), None, "a body is in progress");

    scene.ledger.note(half.mail, MailState::InDoubt);
    half.client.send(&half.rest).expect("the peer reads");
    let reply = half.client.reply().expect("a body in progress is completed");
    assert_eq!(reply.code, 250, "{}", reply.text);
    scene.ledger.note_reply(half.mail, &reply.text);
    let end = half.client.reply().expect("then the session is closed");
    assert_eq!(end.code, 421, "{}", end.text);

    let status = server.wait(20 * SECOND + SLACK);
    load.stop();
    // The last log lines are read shortly after the server has ended.
    let log = server.whole_log();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(
        log.contains("\"record\":\"draining\"") && log.contains("\"record\":\"stopped\""),
        "{log}"
    );
    scene.audit("SIGTERM");
}

#[test]
fn sessions_are_cut_at_the_shutdown_timeout() {
    let scene = Scene::new("2s");
    let mut server = scene.start();
    let load = scene.load(&server, Shape::SOUND);
    let half = scene.half_a_message(&server);
    let begun = Instant::now();
    server.signal("TERM");
    let status = server.wait(2 * SECOND + SLACK);
    let took = begun.elapsed();
    load.stop();
    assert_eq!(status.code(), Some(0), "{}", server.whole_log());
    assert!(took >= 2 * SECOND, "the body was given its time: {took:?}");
    drop(half);
    scene.audit("SIGTERM with a body that never ends");
}

#[test]
fn a_second_sigterm_ends_at_once() {
    let scene = Scene::new("10m");
    let mut server = scene.start();
    let load = scene.load(&server, Shape::SOUND);
    let half = scene.half_a_message(&server);
    server.signal("TERM");
    server.wait_for_log("\"record\":\"draining\"");
    server.signal("TERM");
    let status = server.wait(SLACK);
    load.stop();
    assert_eq!(status.code(), Some(128 + 15), "{}", server.whole_log());
    drop(half);
    scene.audit("two SIGTERM");
}

#[test]
fn a_stopped_process_continues() {
    // Longer than the watchdog's limit: a stopped process is not stalled.
    for pause in [3, 33] {
        let scene = Scene::new("20s");
        let mut server = scene.start();
        let load = scene.load(&server, Shape::SOUND);
        server.signal("STOP");
        // The length of the pause is what the test varies, so this sleep is needed.
        thread::sleep(Duration::from_secs(pause));
        server.signal("CONT");
        load.await_acknowledged(200);
        thread::sleep(2 * SECOND);
        load.await_acknowledged(50);
        load.stop();
        let mut replies = scene.ledger.replies();
        if Duration::from_secs(pause) > PATIENCE {
            // The clients may time out meanwhile.
            replies.remove(SILENCE);
        }
        assert_eq!(replies.len(), 0, "{replies:?}");
        let log = server.log_brief();
        assert!(!log.contains("\"record\":\"watchdog\""), "{log}");
        server.signal("TERM");
        let status = server.wait(20 * SECOND + SLACK);
        assert_eq!(status.code(), Some(0), "{}", server.whole_log());
        scene.audit(&format!("stopped for {pause} s"));
    }
}

#[test]
fn reloads_under_load_lose_nothing() {
    let scene = Scene::new("20s");
    let mut server = scene.start();
    let config = scene.folder.path().join("ringpost.toml");
    let good = fs::read_to_string(&config).expect("the config exists");
    let load = scene.load(&server, Shape::SOUND);
    let mut reloads = 0;
    for (name, text, event) in [
        ("a limit changed", format!("{good}[limits]\nmessage_size = \"20MB\"\n"), "reloaded"),
        ("not TOML", format!("{good}]["), "reload_refused"),
        ("an unknown key", format!("{good}[limits]\nmesage_size = \"1MB\"\n"), "reload_refused"),
        ("a wrong unit", format!("{good}[limits]\nmessage_size = \"1 day\"\n"), "reload_refused"),
        ("needs a restart", good.replace("[server]", "[server]\ncores = \"0\""), "needs_restart"),
        ("empty", String::new(), "reloaded"),
        ("as it was", good.clone(), "reloaded"),
    ]
    .into_iter()
    .cycle()
    .take(21)
    {
        let event = format!("\"record\":\"{event}\"");
        let told = |server: &Server| server.log_text().matches(&event).count();
        let before = told(&server);
        fs::write(&config, text).expect("the file is writable");
        server.signal("HUP");
        let end = Instant::now() + PATIENCE;
        while told(&server) == before {
            assert!(Instant::now() < end, "{name}: no {event} in\n{}", server.log_brief());
            thread::sleep(Duration::from_millis(5));
        }
        load.await_acknowledged(10);
        reloads += 1;
    }
    load.stop();
    assert_eq!(reloads, 21);
    assert_eq!(scene.ledger.replies().len(), 0, "{:?}", scene.ledger.replies());
    server.signal("TERM");
    let status = server.wait(20 * SECOND + SLACK);
    assert_eq!(status.code(), Some(0), "{}", server.whole_log());
    scene.audit("SIGHUP");
}
