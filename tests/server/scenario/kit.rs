//! Shared by these scenarios: servers with any config, commands, certificates, HTTP.

use std::fs;
use std::io::Read;
use std::io::Write;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use crate::scenario::process::Process;
use crate::support::Client;
use crate::support::PATIENCE;
use crate::support::Reply;

pub const RINGPOST: &str = env!("CARGO_BIN_EXE_ringpost");

/// A config in parts, each with a default.
#[derive(Clone)]
pub struct Plan {
    /// Further keys of `[server]`.
    pub server: String,
    pub listeners: String,
    pub log: String,
    /// Whether monitoring is on.
    pub http: bool,
    /// Its address; a free one by default.
    pub http_at: Option<SocketAddr>,
    pub spool: Option<PathBuf>,
    /// All other sections.
    pub rest: String,
    pub environment: Vec<(&'static str, String)>,
    /// A prefix of the command line.
    pub wrapper: Vec<&'static str>,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            server: String::new(),
            listeners: "[[listener]]\naddress = \"127.0.0.1:0\"\n".to_owned(),
            log: "format = \"json\"\nlevel = \"debug\"".to_owned(),
            http: false,
            http_at: None,
            spool: None,
            rest: String::new(),
            environment: Vec::new(),
            wrapper: Vec::new(),
        }
    }
}

impl Plan {
    /// A config with one listener with these keys, and these sections.
    pub fn of(listener: &str, rest: &str) -> Plan {
        let listeners = format!("[[listener]]\naddress = \"127.0.0.1:0\"\n{listener}\n");
        Plan { listeners, rest: rest.to_owned(), ..Plan::default() }
    }

    pub fn text(&self, folder: &Path, http: Option<SocketAddr>) -> String {
        let spool = self.spool.clone().unwrap_or_else(|| folder.join("spool"));
        let http = http.map_or_else(|| "off".to_owned(), |at| at.to_string());
        let Plan { server, listeners, log, rest, .. } = self;
        // Most tests examine the queue. Tests of delivery change this in their plan.
        let delivery = match rest.contains("[delivery]") {
            true => "",
            false => "[delivery]\nenabled = false\n",
        };
        // These tests do not cut the power, so a sync for each message is not needed.
        format!(
            "[server]\nhostname = \"mx.ringpost.test\"\nspool = {spool:?}\n{server}\n[log]\n{log}\n\
             [monitor]\nlisten = \"{http}\"\n{listeners}\n{rest}\n{delivery}"
        )
    }
}

/// A server with a folder of its own.
pub struct Rig {
    pub server: Process,
    pub http: Option<SocketAddr>,
    pub plan: Plan,
    pub folder: TempDir,
}

impl Rig {
    pub fn start(plan: &Plan) -> Rig {
        Rig::start_in(new_folder(), plan)
    }

    pub fn start_in(folder: TempDir, plan: &Plan) -> Rig {
        let http = plan.http_at.or_else(|| plan.http.then(free_address));
        fs::write(folder.path().join("ringpost.toml"), plan.text(folder.path(), http))
            .expect("the folder is writable");
        let server = Process::start(&mut serve_command(folder.path(), plan));
        let mut rig = Rig { server, http, plan: plan.clone(), folder };
        rig.server.smtp = rig.await_listeners();
        rig
    }

    /// Its addresses, in the order of the config, from its log in either format.
    fn await_listeners(&mut self) -> Vec<SocketAddr> {
        let log_file = self.folder.path().join("log");
        let end = Instant::now() + PATIENCE;
        loop {
            let file = fs::read_to_string(&log_file).unwrap_or_default();
            let text = format!("{}\n{file}", self.server.log_text());
            if text.lines().any(|line| word_of(line, "record") == Some("started")) {
                return text
                    .lines()
                    .filter(|line| word_of(line, "record") == Some("listening"))
                    .filter_map(|line| word_of(line, "address")?.parse().ok())
                    .collect();
            }
            let ended = self.server.child.try_wait().expect("the child is ours");
            assert!(ended.is_none(), "the server ended:\n{text}");
            assert!(Instant::now() < end, "the server does not start:\n{text}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.server.smtp[0]
    }

    /// A client after the greeting and EHLO.
    pub fn client(&self) -> Client {
        let mut client = self.server.connect();
        client.greet().expect("a healthy server greets");
        client
    }

    /// A client after the greeting and EHLO, with another source address by XCLIENT.
    pub fn client_from(&self, peer: &str) -> Client {
        let mut client = self.server.connect();
        let family = if peer.contains(':') { "TCP6" } else { "TCP4" };
        let ours = if peer.contains(':') { "::1" } else { "127.0.0.1" };
        client.send(format!("PROXY {family} {peer} {ours} 4321 25\r\n").as_bytes()).expect("sent");
        client.greet().expect("a healthy server greets");
        client
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("ringpost.toml")
    }

    /// Writes another config for the same server, spool and HTTP address.
    pub fn rewrite(&self, plan: &Plan) {
        let text = plan.text(self.folder.path(), self.http);
        fs::write(self.config(), text).expect("the folder is writable");
    }

    /// Runs `ringpost queue`, which must succeed, and returns its output.
    pub fn queue(&self, words: &[&str]) -> Vec<u8> {
        let out = self.try_queue(words);
        let told = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "queue {words:?}: {told}\n{}", self.server.log_text());
        out.stdout
    }

    pub fn try_queue(&self, words: &[&str]) -> Output {
        let mut command = Command::new(RINGPOST);
        command.arg("queue").arg("--config").arg(self.config()).args(words);
        command.output().expect("the binary can be run")
    }

    pub fn queue_json(&self, words: &[&str]) -> Value {
        let all = [words, &["--json"]].concat();
        serde_json::from_slice(&self.queue(&all)).expect("the output is JSON")
    }

    pub fn messages(&self) -> u64 {
        self.queue_json(&["stats"])["messages"].as_u64().expect("a number")
    }

    /// The Received field of a stored message, and its body.
    pub fn cat(&self, id: &str) -> (String, Vec<u8>) {
        let mut message = self.queue(&["cat", id]);
        assert!(message.starts_with(b"Received: "), "{id} has no Received field");
        let ends: Vec<usize> =
            memchr::memmem::find_iter(&message, b"\r\n").map(|at| at + 2).collect();
        let end = ends.iter().find(|end| !matches!(message.get(**end), Some(b' ' | b'\t')));
        let body = message.split_off(*end.expect("the Received field ends"));
        (String::from_utf8(message).expect("the Received field is UTF-8"), body)
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        http_get(self.http.expect("the plan has HTTP on"), path)
    }

    /// A counter or gauge of `/metrics` with its labels, summed over shards.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics");
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let wanted = samples.filter_map(|line| {
            let (sample, value) = line.rsplit_once(' ')?;
            let bare = sample.split('{').next()?;
            (sample == name || bare == name).then(|| value.parse::<f64>().expect("a number"))
        });
        wanted.sum()
    }

    /// Waits until a counter or gauge has this value. Counters are updated after the reply, and
    /// gauges at the next tick of their shard.
    pub fn await_metric(&self, name: &str, wanted: f64) {
        let end = Instant::now() + PATIENCE;
        loop {
            let value = self.metric(name);
            if value == wanted {
                return;
            }
            assert!(Instant::now() < end, "{name} is {value}, not {wanted}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends SIGHUP and waits for the result, which is the returned log line.
    pub fn reload(&self, outcome: &str) -> String {
        let before = self.count_records(outcome);
        self.server.signal("HUP");
        let end = Instant::now() + PATIENCE;
        while self.count_records(outcome) <= before {
            assert!(Instant::now() < end, "no `{outcome}` in:\n{}", self.server.log_text());
            thread::sleep(Duration::from_millis(5));
        }
        let log = self.server.log_text();
        let line = log.lines().rfind(|line| word_of(line, "record") == Some(outcome));
        line.expect("the line was found").to_owned()
    }

    fn count_records(&self, name: &str) -> usize {
        let log = self.server.log_text();
        log.lines().filter(|line| word_of(line, "record") == Some(name)).count()
    }

    /// Waits until the log has a record of this name, and returns it.
    pub fn await_record(&self, name: &str) -> Value {
        let line = self.server.wait_for_log(&format!("\"record\":\"{name}\""));
        serde_json::from_str(&line).expect("the log is JSON")
    }
}

pub fn serve_command(folder: &Path, plan: &Plan) -> Command {
    let mut words = plan.wrapper.clone();
    words.push(RINGPOST);
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg("serve").arg("--config").arg(folder.join("ringpost.toml"));
    command.envs(plan.environment.clone()).current_dir(folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A folder that other users may enter, because the server of a test may run as another user.
pub fn new_folder() -> TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let all = fs::Permissions::from_mode(0o755);
    fs::set_permissions(folder.path(), all).expect("the folder is writable");
    folder
}

/// The value of a key in a log line in either format. The name of the record has no key in the text
/// format.
fn word_of<'l>(line: &'l str, key: &str) -> Option<&'l str> {
    if let Some((_, rest)) = line.split_once(&format!("\"{key}\":\"")) {
        return rest.split('"').next();
    }
    if line.starts_with('{') {
        return None;
    }
    let mut words = line.split(' ').filter(|word| !word.is_empty());
    match key {
        "record" => words.find(|word| ["started", "listening"].contains(word)),
        _ => words.find_map(|word| word.strip_prefix(key)?.strip_prefix('=')),
    }
}

/// A free port on an address that no other test uses. It stays free, because ports for other
/// purposes are on other addresses.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let own = Ipv4Addr::new(127, 128 | high, low, NEXT.fetch_add(1, Ordering::Relaxed));
    let listener = TcpListener::bind((own, 0)).expect("the address has a free port");
    listener.local_addr().expect("the socket is bound")
}

pub fn http_get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("the control thread listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("the timeout is not zero");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .expect("the peer reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("the server answers");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, body.to_owned())
}

/// Runs a program with this standard input. The program must be installed.
pub fn run(program: &str, words: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn();
    let mut child =
        child.unwrap_or_else(|fault| panic!("{program} is needed ({fault}); see .ci/deps"));
    let mut stdin = child.stdin.take().expect("the stream is piped");
    let input = input.to_vec();
    let feed = thread::spawn(move || {
        // The program may close its standard input before the end.
        let _ = stdin.write_all(&input);
    });
    let out = child.wait_with_output().expect("the child is ours");
    feed.join().expect("the thread does not panic");
    out
}

/// As `run`; the program must succeed. Returns both outputs as one text.
pub fn run_well(program: &str, words: &[&str], input: &[u8]) -> String {
    let out = run(program, words, input);
    let text = text_of(&out);
    assert!(out.status.success(), "{program} {words:?}:\n{text}");
    text
}

pub fn text_of(out: &Output) -> String {
    let (told, warned) =
        (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    format!("{told}{warned}")
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

/// The files of a self-signed certificate for these names.
pub fn certificate(folder: &Path, stem: &str, name: &str) -> (PathBuf, PathBuf) {
    let (certificate, key) =
        (folder.join(format!("{stem}.crt")), folder.join(format!("{stem}.key")));
    let (subject, names) = (format!("/CN={name}"), format!("subjectAltName=DNS:{name}"));
    let kind =
        ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let files = ["-keyout", text(&key), "-out", text(&certificate), "-days", "30"];
    let about = ["-subj", &subject, "-addext", &names];
    run_well("openssl", &[&kind[..], &files[..], &about[..]].concat(), b"");
    (certificate, key)
}

pub fn certificate_table((certificate, key): &(PathBuf, PathBuf)) -> String {
    format!("[[tls.certificate]]\ncertificate = {certificate:?}\nkey = {key:?}\n")
}

/// The code and enhanced code in the last line of a reply.
pub fn codes(reply: &Reply) -> String {
    let last = reply.text.trim_end().lines().next_back().unwrap_or_default();
    let mut words = last.split([' ', '-']);
    let code = words.next().unwrap_or_default();
    match words.next().filter(|word| word.matches('.').count() == 2) {
        Some(enhanced) => format!("{code} {enhanced}"),
        None => code.to_owned(),
    }
}

/// The id in `250 2.0.0 Ok: queued as ID`.
pub fn id_of(reply: &Reply) -> String {
    let id =
        reply.text.split_once("queued as ").and_then(|(_, rest)| rest.split_whitespace().next());
    id.unwrap_or_else(|| panic!("no id in {reply:?}")).to_owned()
}

/// Sends lines one by one, each with the expected codes of the reply.
pub fn talk(client: &mut Client, what: &str, lines: &[(&str, &str)]) -> Reply {
    let mut last = Reply { code: 0, text: String::new() };
    for (line, expected) in lines {
        last = client.ask(line).unwrap_or_else(|fault| panic!("{what}: {line}: {fault}"));
        assert!(codes(&last).starts_with(expected), "{what}: {line}: {expected} != {}", last.text);
    }
    last
}

/// Whether the server closes the connection without a further reply.
pub fn is_closed(client: &mut Client) -> bool {
    matches!(client.reply(), Err(fault) if matches!(
        fault.kind(),
        std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset
    ))
}
