//! Health checks, commands and mail while clients exhaust another resource.

use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use std::time::Instant;

use crate::scenario::kit::Plan;
use crate::scenario::kit::RINGPOST;
use crate::scenario::kit::Rig;
use crate::scenario::kit::id_of;
use crate::scenario::kit::run;
use crate::scenario::kit::text;
use crate::scenario::kit::text_of;
use crate::support::PATIENCE;

/// Far less than any timeout for a silent client.
const AT_ONCE: Duration = Duration::from_secs(1);

fn submits(rig: &Rig) {
    let reply =
        rig.client().submit("a@x.test", "b@y.test", b"text\r\n").expect("the server answers");
    assert_eq!(reply.code, 250, "{}", reply.text);
}

#[test]
fn health_is_answered_while_clients_hold_every_connection() {
    let rig = Rig::start(&Plan { http: true, ..Plan::default() });
    let http = rig.http.expect("HTTP is on");
    let connect = |said: &str| {
        let mut stream = TcpStream::connect(http).expect("the peer listens");
        stream.write_all(said.as_bytes()).expect("the peer reads");
        stream
    };
    let idle: Vec<TcpStream> = (0..100).map(|_| connect("")).collect();
    let slow: Vec<TcpStream> = (0..100).map(|_| connect("GET /stats HTTP/1.1\r\nX: ")).collect();
    // The best of three, because the machine may be busy.
    let best = (0..3).map(|_| {
        let began = Instant::now();
        assert_eq!(rig.get("/health"), (200, "ok\n".to_owned()));
        began.elapsed()
    });
    let best = best.min().expect("three");
    assert!(best < AT_ONCE, "it took {best:?}");
    for path in ["/ready", "/metrics", "/stats"] {
        assert_eq!(rig.get(path).0, 200, "{path}");
    }
    // Incomplete requests do not block others, either.
    let asking: Vec<TcpStream> =
        (0..100).map(|_| connect("GET /stats HTTP/1.1\r\nHost: x\r\n\r\n")).collect();
    let began = Instant::now();
    assert_eq!(rig.get("/health").0, 200);
    println!("beside 100 requests: {:?}", began.elapsed());
    drop((idle, slow, asking));
}

#[test]
fn silent_clients_are_disconnected() {
    let rig = Rig::start(&Plan { http: true, ..Plan::default() });
    let http = rig.http.expect("HTTP is on");
    for said in ["", "GET /health HTTP/1.1\r\n"] {
        let mut stream = TcpStream::connect(http).expect("the peer listens");
        stream.write_all(said.as_bytes()).expect("the peer reads");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("the timeout is not zero");
        let read = stream.read(&mut [0; 64]);
        let is_over = match &read {
            Ok(count) => *count == 0,
            Err(cause) => cause.kind() == std::io::ErrorKind::ConnectionReset,
        };
        assert!(is_over, "after {said:?}: {read:?}");
    }
}

#[test]
fn commands_are_answered_beside_silent_control_clients() {
    let rig = Rig::start(&Plan::default());
    submits(&rig);
    let socket = rig.folder.path().join("spool/control.sock");
    let silent: Vec<UnixStream> = (0..100)
        .map(|number| {
            let mut stream = UnixStream::connect(&socket).expect("the peer listens");
            if number % 2 == 0 {
                stream.write_all(b"GET /v1/queue/stats HTTP/1.1\r\nHost").expect("it is sent");
            }
            stream
        })
        .collect();
    let config = rig.config();
    for _ in 0..3 {
        let out = run(RINGPOST, &["health", "--config", text(&config)], b"");
        assert!(out.status.success(), "{}", text_of(&out));
        assert_eq!(rig.messages(), 1);
    }
    drop(silent);
}

/// A slow reader holds its connection and one piece of its answer, and neither a thread nor a place
/// among the running operations.
#[test]
fn commands_are_answered_beside_readers_that_take_nothing() {
    let rig = Rig::start(&Plan::default());
    let body = "a line of mail, which is to be larger than all buffers\r\n".repeat(40_000);
    let reply =
        rig.client().submit("a@x.test", "b@y.test", body.as_bytes()).expect("the server answers");
    let id = id_of(&reply);
    let socket = rig.folder.path().join("spool/control.sock");
    let config = rig.config();
    let unread: Vec<UnixStream> = (0..40)
        .map(|_| {
            let mut stream = UnixStream::connect(&socket).expect("it listens");
            let path = format!("/v1/queue/messages/{id}/content");
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("it is sent");
            let mut first = [0; 15];
            stream.read_exact(&mut first).expect("the answer begins");
            assert_eq!(&first[..8], b"HTTP/1.1");
            stream
        })
        .collect();
    let out = run(RINGPOST, &["health", "--config", text(&config)], b"");
    assert!(out.status.success(), "{}", text_of(&out));
    let (trace, whole) = rig.cat(&id);
    assert!(trace.starts_with("Received: "), "{trace}");
    assert!(whole.ends_with(body.as_bytes()), "a reader that reads gets all of it");
    assert_eq!(rig.messages(), 1);
    drop(unread);
}

#[test]
fn an_http_port_in_use_does_not_stop_mail() {
    let other = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let http_at = other.local_addr().ok();
    let rig = Rig::start(&Plan { http_at, ..Plan::default() });
    let told = rig.await_record("http_not_served");
    assert_eq!(told["level"], "error", "{told}");
    assert_eq!(told["address"].as_str(), http_at.map(|at| at.to_string()).as_deref());
    submits(&rig);
    drop(other);
    rig.await_record("http_served");
    assert_eq!(rig.get("/health").0, 200);
}

/// A failing view does not end the process.
#[test]
fn a_bug_in_a_view_ends_only_the_view() {
    let points = "view::question=1*panic(a bug of the test);view::survey=1*panic(another)";
    let environment = vec![("FAILPOINTS", points.to_owned())];
    let mut rig = Rig::start(&Plan { http: true, environment, ..Plan::default() });
    let config = rig.config();
    let words = ["destination", "list", "--config", text(&config)];
    let out = run(RINGPOST, &words, b"");
    assert!(out.status.success(), "what the other shards say is shown: {}", text_of(&out));
    assert!(rig.server.child.try_wait().expect("it was started here").is_none(), "it has ended");
    let end = Instant::now() + PATIENCE;
    while rig.metric("ringpost_task_panics_total") < 2.0 {
        assert!(Instant::now() < end, "{}", rig.server.log_text());
    }
    rig.await_record("task_panicked");
    submits(&rig);
    assert_eq!(rig.get("/stats").0, 200);
    assert_eq!(rig.metric("ringpost_session_panics_total"), 0.0);
}
