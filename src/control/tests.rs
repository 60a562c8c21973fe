//! The control socket over a real unix socket, with shards that answer when the test wants.

use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use axum::body::to_bytes;
use axum::http::HeaderMap;
use axum::http::HeaderValue;
use axum::http::header;
use http_body_util::BodyExt;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::base::MessageId;
use crate::config::HostFacts;
use crate::config::embedded;
use crate::control::content;
use crate::control::reload;
use crate::control::reload::Reloader;
use crate::control::router::problem;
use crate::control::router::router;
use crate::control::server::Control;
use crate::control::server::ControlParts;
use crate::control::server::Patience;
use crate::control::socket;
use crate::handoff::Placement;
use crate::observe::Observed;
use crate::operations;
use crate::operations::FaultKind;
use crate::operations::Input;
use crate::operations::Method;
use crate::operations::OpFault;
use crate::queue::QueueFault;
use crate::queue::Spool;
use crate::queue::SpoolOptions;
use crate::queue::admin::operate::Carried;
use crate::queue::admin::pauses::Pauses;
use crate::shard::ShardRequest;
use crate::shard::delivering::OperateAnswer;
use crate::shard::inbox;
use crate::shard::inbox::Inbox;
use crate::shard::inbox::InboxItem;

/// Long enough for any machine.
const LONG: Duration = Duration::from_secs(60);

/// A control socket with one shard, of which the test holds the inbox.
struct Rig {
    _folder: TempDir,
    socket: PathBuf,
    control: Arc<Control>,
    shard: Inbox,
    runtime: Runtime,
    end: Option<oneshot::Sender<()>>,
    serving: JoinHandle<std::io::Result<()>>,
}

enum Operators {
    Us,
    Nobody,
}

impl Rig {
    fn start(operators: Operators, patience: Duration) -> Rig {
        let folder = tempfile::tempdir().expect("a folder");
        let options = SpoolOptions::new(folder.path().join("spool"), 0);
        let spool = Arc::new(Spool::open(options).expect("a new spool"));
        let (commands, requests, seed) = inbox::inbox();
        let observed = Observed::new(1, 1);
        let host =
            HostFacts { hostname: "mx.test".to_owned(), ports_from: 1024, ..HostFacts::default() };
        let (reload, reloading) = reload::actor(Reloader {
            file: None,
            config: Arc::new(embedded(&host)),
            host,
            shards: vec![commands],
            observed: Arc::clone(&observed),
            on_change: Box::new(|_| ()),
        });
        let control = Control::new(ControlParts {
            placement: Placement::deal(spool.partitions().len(), 1),
            pauses: Arc::new(Pauses::read(spool.path()).0),
            spool,
            shards: vec![requests],
            patience: Patience { question: patience, change: patience },
            observed,
            reload,
        });
        let path = folder.path().join("control.sock");
        let listener = socket::bind(&path).expect("it is bound");
        let operators = match operators {
            Operators::Us => socket::operators(&path).expect("it is there"),
            Operators::Nobody => Vec::new(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.spawn(reloading);
        let (end, ended) = oneshot::channel::<()>();
        let ended = async {
            let _ = ended.await;
        };
        let serving =
            runtime.spawn(socket::serve(listener, operators, router(Arc::clone(&control)), ended));
        Rig {
            _folder: folder,
            socket: path,
            control,
            shard: seed.settle(),
            runtime,
            end: Some(end),
            serving,
        }
    }

    /// Sends a request in one piece: the server may answer a head and close while a body is still on
    /// its way. The answer is read from the stream.
    fn send(&self, method: &str, path: &str, body: &str) -> UnixStream {
        let mut stream = UnixStream::connect(&self.socket).expect("it listens");
        stream.set_read_timeout(Some(LONG)).expect("it is no zero");
        let length = body.len();
        let request = format!("{method} {path} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).expect("it is read");
        stream
    }

    /// Of a message that is not there.
    fn id(&self) -> String {
        self.control.spool().public_id(MessageId::from_u64(1)).to_string()
    }

    fn change(&self) -> String {
        format!(r#"{{"operation":"hold","ids":["{}"]}}"#, self.id())
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        Answer::read(self.send(method, path, body))
    }

    /// Waits for the next change of a message that the shard is given.
    fn await_change(&mut self) -> OperateAnswer {
        let end = Instant::now() + LONG;
        loop {
            match self.shard.poll_next(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(InboxItem::Request(ShardRequest::Operate { answer, .. })) => {
                    return answer;
                }
                Poll::Ready(_) => panic!("another request"),
                Poll::Pending => thread::yield_now(),
            }
            assert!(Instant::now() < end, "no request comes");
        }
    }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn read(mut stream: UnixStream) -> Answer {
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("it answers");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Answer {
            status: status.expect("a status"),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }

    /// The code of a problem document.
    fn code(&self) -> String {
        assert!(self.head.contains("content-type: application/problem+json"), "{}", self.head);
        self.json()["code"].as_str().expect("a problem has a code").to_owned()
    }
}

/// Method, path and a body for each operation of the list.
fn requests(id: String) -> impl Iterator<Item = (&'static str, &'static str, String)> {
    operations::ALL.iter().map(move |one| {
        let method = match one.route.method {
            Method::Get => "GET",
            Method::Post => "POST",
        };
        let path = match one.route.input() {
            Input::Path => one.route.path.replace(one.route.parameter().unwrap_or(""), &id),
            Input::Query => format!("{}?limit=5", one.route.path),
            Input::Body => one.route.path.to_owned(),
        };
        (one.name, method, path)
    })
}

#[test]
fn a_caller_without_permission_is_refused_everywhere() {
    let rig = Rig::start(Operators::Nobody, LONG);
    for (name, method, path) in requests(rig.id()) {
        let answer = rig.ask(method, &path, "not even JSON");
        assert_eq!((answer.status, answer.code().as_str()), (403, "denied"), "{name}");
    }
}

#[test]
fn every_operation_has_its_route() {
    let rig = Rig::start(Operators::Us, Duration::from_millis(20));
    for (name, method, path) in requests(rig.id()) {
        let answer = rig.ask(method, &path, "{}");
        if answer.status != 200 {
            let code = answer.code();
            let known = [
                "no_such_message",
                "no_such_destination",
                "no_answer",
                "bad_request",
                "bad_address",
            ];
            assert!(known.contains(&code.as_str()), "{name}: {code}");
        }
        let other = if method == "GET" { "POST" } else { "GET" };
        let answer = rig.ask(other, &path, "{}");
        assert!(answer.status == 405 || other == "GET" && answer.status == 404, "{name}");
    }
    let answer = rig.ask("GET", "/v1/nothing", "");
    assert_eq!((answer.status, answer.code().as_str()), (404, "no_such_route"));
    let answer = rig.ask("GET", "/v1/queue/messages?limit=many", "");
    assert_eq!((answer.status, answer.code().as_str()), (422, "bad_request"));
    let answer = rig.ask("GET", "/v1/queue/messages/not-an-id!", "");
    assert_eq!((answer.status, answer.code().as_str()), (422, "bad_id"));
    assert_eq!(answer.json()["faults"][0]["path"], "id");
}

#[test]
fn each_kind_of_fault_is_a_problem_document() {
    for kind in FaultKind::ALL {
        let fault = OpFault::new(kind, "some_code", "what happened").hint("do this").retry_after(7);
        let response = problem(&fault);
        assert_eq!(response.status().as_u16(), kind.http_status());
        let head = response.headers();
        assert_eq!(head[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(head[header::RETRY_AFTER], "7");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let body = runtime.block_on(to_bytes(response.into_body(), 10_000)).expect("it is whole");
        let told: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(told["type"], "/problems/some_code");
        assert_eq!(told["title"], kind.title());
        assert_eq!(told["status"], kind.http_status());
        assert_eq!(told["detail"], "what happened");
        let read: OpFault = serde_json::from_slice(&body).expect("the CLI reads it");
        assert_eq!(read, fault);
    }
}

#[test]
fn a_shard_that_does_not_answer_is_left_out_or_reported() {
    let rig = Rig::start(Operators::Us, Duration::from_millis(20));
    let list = rig.ask("GET", "/v1/destinations?limit=5", "");
    assert_eq!((list.status, &list.json()["destinations"]), (200, &Value::Array(Vec::new())));
    let pause = rig.ask("POST", "/v1/destinations/a.test/pause", "");
    assert_eq!((pause.status, pause.code().as_str()), (503, "no_answer"));
    assert!(pause.head.contains("retry-after: 1"), "{}", pause.head);
    let change = rig.ask("POST", "/v1/queue/changes", &rig.change());
    assert_eq!(change.status, 200, "{}", change.body);
    assert_eq!(change.json()[0]["fault"]["code"], "no_answer", "{}", change.body);
}

#[test]
fn a_request_that_runs_is_answered_through_a_drain() {
    let mut rig = Rig::start(Operators::Us, LONG);
    let running = rig.send("POST", "/v1/queue/changes", &rig.change());
    let answer = rig.await_change();
    rig.control.drain();
    for (method, path, body) in [
        ("POST", "/v1/queue/changes", rig.change().as_str()),
        ("POST", "/v1/destinations/a.test/pause", ""),
        ("GET", "/v1/destinations?limit=5", ""),
        ("POST", "/v1/server/reload", "{}"),
    ] {
        let refused = rig.ask(method, path, body);
        assert_eq!((refused.status, refused.code().as_str()), (503, "draining"), "{path}");
    }
    assert_eq!(rig.ask("GET", "/v1/queue/stats", "").status, 200, "reads go on");
    rig.end.take().expect("it ends once").send(()).expect("it serves");
    let end = Instant::now() + LONG;
    while UnixStream::connect(&rig.socket).is_ok() {
        assert!(Instant::now() < end, "it still accepts");
        thread::yield_now();
    }
    assert!(!rig.serving.is_finished(), "a request runs");
    answer(Ok(Carried::Done));
    let done = Answer::read(running);
    assert_eq!(done.json()[0]["outcome"], "done", "{}", done.body);
    rig.runtime.block_on(rig.serving).expect("no panic").expect("it ends well");
}

#[test]
fn health_is_answered_beside_operations_that_hold_every_place() {
    let mut rig = Rig::start(Operators::Us, LONG);
    let mut running = Vec::new();
    let mut answers = Vec::new();
    let busy = loop {
        let stats = rig.ask("GET", "/v1/queue/stats", "");
        if stats.status != 200 {
            break stats;
        }
        running.push(rig.send("POST", "/v1/queue/changes", &rig.change()));
        answers.push(rig.await_change());
    };
    assert_eq!((busy.status, busy.code().as_str()), (503, "busy"));
    assert!(busy.head.contains("retry-after: 1"), "{}", busy.head);
    assert_eq!(rig.ask("GET", "/v1/server/health", "").status, 200);
    // A client that goes away does not take its operation along.
    drop(running.pop());
    answers.into_iter().for_each(|answer| answer(Ok(Carried::Done)));
    for stream in running {
        assert_eq!(Answer::read(stream).json()[0]["outcome"], "done");
    }
    let end = Instant::now() + LONG;
    while rig.ask("GET", "/v1/queue/stats", "").status != 200 {
        assert!(Instant::now() < end, "places do not come back");
    }
}

#[test]
fn a_panic_in_a_read_is_a_fault_of_that_request() {
    let rig = Rig::start(Operators::Us, LONG);
    let read = rig.control.read(|_| -> Result<(), OpFault> { panic!("on purpose") });
    assert_eq!(rig.runtime.block_on(read), Err(OpFault::bug()));
    assert_eq!(rig.ask("GET", "/v1/queue/stats", "").status, 200);
}

#[test]
fn a_damaged_message_does_not_end_like_a_whole_one() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build();
    let runtime = runtime.expect("a runtime");
    let pieces = || {
        let damage = QueueFault::Body { chunk: 1, why: "a chunk is missing" };
        vec![Ok(b"one".to_vec()), Err(damage), Ok(b"never".to_vec())].into_iter()
    };
    let plain = HeaderMap::new();
    let mut trailing = HeaderMap::new();
    trailing.insert(header::TE, HeaderValue::from_static("trailers"));
    runtime.block_on(async {
        let cut = content::response(pieces(), &plain).into_body().collect().await;
        assert!(cut.is_err(), "the connection is broken off");
        let whole = content::response(pieces(), &trailing).into_body().collect().await;
        let whole = whole.expect("the fault is in the trailers");
        let fault = whole.trailers().and_then(|trailers| trailers.get(content::FAULT)).cloned();
        assert_eq!(whole.to_bytes(), "one");
        let fault: OpFault =
            serde_json::from_slice(fault.expect("it is there").as_bytes()).expect("JSON");
        assert_eq!(&*fault.code, "damaged");
        let sound = content::response(pieces().take(1), &plain).into_body().collect().await;
        assert_eq!(sound.expect("it is whole").to_bytes(), "one");
    });
}
