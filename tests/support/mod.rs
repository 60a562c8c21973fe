//! Shared by the tests of the built binary: a server on ephemeral ports, a plain SMTP client, a
//! ledger.
//!
//! Each test file uses only a part of this, so unused items are allowed.
#![allow(dead_code)]

pub mod clock;
pub mod disk;
pub mod events;
pub mod ledger;
pub mod load;
pub mod nameserver;
pub mod receiver;

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Output;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use socket2::Domain;
use socket2::Socket;
use socket2::Type;

/// Time limit for anything that a test waits for. A healthy server needs far less.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running server: the built binary on loopback, with ports chosen by the kernel.
pub struct Server {
    pub child: Child,
    pub folder: PathBuf,
    pub smtp: Vec<SocketAddr>,
    pub log: Arc<Mutex<Vec<String>>>,
    /// In a lock, so that threads can share a server.
    starting: Mutex<mpsc::Receiver<Line>>,
    readers: Vec<JoinHandle<()>>,
}

/// The parameters of a server.
#[derive(Clone, Default)]
pub struct Setup {
    /// Config text after the standard part.
    pub config: String,
    /// Keys of `[server]`.
    pub server: String,
    /// Replaces the standard `[[listener]]`.
    pub listeners: Option<String>,
    pub environment: Vec<(String, String)>,
    pub spool: Option<PathBuf>,
    /// A prefix of the command line, such as `strace ...`.
    pub wrapper: Vec<String>,
}

pub const BINARY: &str = env!("CARGO_BIN_EXE_ringpost");

/// A key of `[delivery]` for tests whose mail exchangers are on this machine.
pub const ALLOW_LOOPBACK: &str = "allow_networks = [\"127.0.0.0/8\", \"::1\"]";

pub const LISTENER: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\n";

impl Server {
    /// Starts a server and waits until it listens. Panics with its log if it does not.
    pub fn start(folder: &Path, setup: &Setup) -> Server {
        match Server::try_start(folder, setup) {
            Ok(server) => server,
            Err(log) => panic!("the server did not start:\n{log}"),
        }
    }

    pub fn try_start(folder: &Path, setup: &Setup) -> Result<Server, String> {
        let mut server = Server::spawn(folder, setup);
        server.await_start()?;
        Ok(server)
    }

    /// Starts a server without waiting.
    pub fn spawn(folder: &Path, setup: &Setup) -> Server {
        let config = write_config(folder, setup);
        let mut words = setup.wrapper.clone();
        words.push(BINARY.to_owned());
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .envs(setup.environment.clone())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary can be run");
        let log = Arc::new(Mutex::new(Vec::new()));
        let (started, starting) = mpsc::channel();
        let out = child.stdout.take().expect("stdout is piped");
        let err = child.stderr.take().expect("stderr is piped");
        let readers =
            vec![follow(out, Arc::clone(&log), Some(started)), follow(err, Arc::clone(&log), None)];
        Server {
            child,
            folder: folder.to_path_buf(),
            smtp: Vec::new(),
            log,
            starting: starting.into(),
            readers,
        }
    }

    /// Waits until the server listens. The error is the log of a server that has ended or hangs.
    pub fn await_start(&mut self) -> Result<(), String> {
        loop {
            match self
                .starting
                .get_mut()
                .expect("no test panics with the lock")
                .recv_timeout(PATIENCE)
            {
                Ok(Line::Listening(address)) => self.smtp.push(address),
                Ok(Line::Started) => return Ok(()),
                Err(_) => {
                    // The log explains the failure; the exit status does not matter.
                    let _ = self.child.kill();
                    let _ = self.child.wait();
                    return Err(self.whole_log());
                }
            }
        }
    }

    /// The log without the mail records, after the server has ended.
    pub fn whole_log(&mut self) -> String {
        for reader in self.readers.drain(..) {
            // A reader ends with its pipe. If it has panicked, the log contains what it read.
            let _ = reader.join();
        }
        self.log_brief()
    }

    /// Runs `ringpost queue ...` with this server's config.
    pub fn queue(&self, words: &[&str]) -> Output {
        queue(&self.folder, words)
    }

    pub fn address(&self) -> SocketAddr {
        self.smtp[0]
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.address()).expect("the server accepts connections")
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("the process runs");
        self.child.wait().expect("the child is ours");
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let done = Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(done.expect("kill(1) exists").success());
    }

    /// Waits until the server has ended by itself.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let end = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                return status;
            }
            assert!(Instant::now() < end, "the server does not end:\n{}", self.log_brief());
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn log_text(&self) -> String {
        self.log.lock().expect("no reader panics").join("\n")
    }

    /// The log without the mail records, for the message of a failed test.
    pub fn log_brief(&self) -> String {
        let log = self.log.lock().expect("no reader panics");
        let mail = |line: &&String| {
            !line.contains("\"record\":\"accepted\"") && !line.contains("\"record\":\"refused\"")
        };
        log.iter().filter(mail).cloned().collect::<Vec<_>>().join("\n")
    }

    /// Waits until a log line contains the text.
    pub fn wait_for_log(&self, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let found = {
                let log = self.log.lock().expect("no reader panics");
                log.iter().find(|line| line.contains(text)).cloned()
            };
            if let Some(line) = found {
                return line;
            }
            assert!(Instant::now() < end, "no `{text}` in:\n{}", self.log_brief());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Resident memory in bytes.
    pub fn rss(&self) -> u64 {
        self.memory("VmRSS")
    }

    /// Resident memory in bytes without the pages of files.
    pub fn rss_anon(&self) -> u64 {
        self.memory("RssAnon")
    }

    fn memory(&self, kind: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("the process runs");
        let line = status.lines().find(|line| line.starts_with(kind)).expect("Linux tells it");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("KiB");
        kib * 1024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write_config(folder: &Path, setup: &Setup) -> PathBuf {
    let spool = setup.spool.clone().unwrap_or_else(|| folder.join("spool"));
    let config = folder.join("ringpost.toml");
    // Most tests examine the queue. Tests of delivery change this in their config.
    let delivery = match setup.config.contains("[delivery]") {
        true => "",
        false => "[delivery]\nenabled = false\n",
    };
    let text = format!(
        "[server]\nhostname = \"mx.ringpost.test\"\nspool = {spool:?}\n{}\n\
         [log]\nformat = \"json\"\n[monitor]\nlisten = \"off\"\n{}\n{}\n{delivery}",
        setup.server,
        setup.listeners.as_deref().unwrap_or(LISTENER),
        setup.config,
    );
    fs::write(&config, text).expect("the test folder is writable");
    config
}

/// Runs `ringpost queue ...` with the config of the last server in the folder.
pub fn queue(folder: &Path, words: &[&str]) -> Output {
    Command::new(BINARY)
        .arg("queue")
        .arg("--config")
        .arg(folder.join("ringpost.toml"))
        .args(words)
        .output()
        .expect("the binary can be run")
}

/// Asks the control socket by HTTP; answers status and body.
pub fn control_get(socket: &Path, path: &str) -> (u16, Vec<u8>) {
    let mut stream = UnixStream::connect(socket).expect("the control socket");
    // The body of an HTTP/1.0 response ends with its connection.
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").expect("it is read");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it answers");
    let end = memchr::memmem::find(&answer, b"\r\n\r\n").expect("the head ends") + 4;
    let body = answer.split_off(end);
    let head = String::from_utf8(answer).expect("the head is ASCII");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.expect("a status"), body)
}

enum Line {
    Listening(SocketAddr),
    Started,
}

fn follow(
    stream: impl Read + Send + 'static,
    log: Arc<Mutex<Vec<String>>>,
    mut started: Option<mpsc::Sender<Line>>,
) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { return };
            if let Some(sender) = started.take()
                && let Ok(event) = serde_json::from_str::<serde_json::Value>(&line)
            {
                let line = match event["record"].as_str() {
                    Some("listening") => event["address"]
                        .as_str()
                        .and_then(|at| at.parse().ok())
                        .map(Line::Listening),
                    Some("started") => Some(Line::Started),
                    _ => None,
                };
                // The many lines after the last awaited one are not parsed.
                let more = !matches!(line, Some(Line::Started));
                // Fails if the test no longer waits.
                let _ = line.map(|line| sender.send(line));
                started = more.then_some(sender);
            }
            log.lock().expect("no reader panics").push(line);
        }
    })
}

/// A client that sends given lines and reads replies.
pub struct Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

/// A reply: its code, and all its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    pub text: String,
}

impl Client {
    pub fn connect(address: SocketAddr) -> std::io::Result<Client> {
        Client::over(TcpStream::connect(address)?)
    }

    /// Connects from this address of the machine.
    pub fn connect_from(source: Ipv4Addr, address: SocketAddr) -> std::io::Result<Client> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((source, 0)).into())?;
        socket.connect(&address.into())?;
        Client::over(socket.into())
    }

    fn over(stream: TcpStream) -> std::io::Result<Client> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Client { stream, buffer: Vec::new() })
    }

    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next complete reply, or the error.
    pub fn reply(&mut self) -> std::io::Result<Reply> {
        let mut text = String::new();
        loop {
            let line = self.line()?;
            text.push_str(&line);
            text.push('\n');
            if line.as_bytes().get(3) != Some(&b'-') {
                let code = line.get(..3).and_then(|code| code.parse().ok()).unwrap_or(0);
                return Ok(Reply { code, text });
            }
        }
    }

    fn line(&mut self) -> std::io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 2);
                return Ok(line);
            }
            let mut fresh = [0; 4096];
            let count = self.stream.read(&mut fresh)?;
            if count == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            self.buffer.extend_from_slice(&fresh[..count]);
        }
    }

    /// Sends a command line and reads its reply.
    pub fn ask(&mut self, command: &str) -> std::io::Result<Reply> {
        self.send(format!("{command}\r\n").as_bytes())?;
        self.reply()
    }

    /// As `ask`; panics unless the reply has this code.
    pub fn expect(&mut self, command: &str, code: u16) -> Reply {
        let reply = self.ask(command).unwrap_or_else(|fault| panic!("{command}: {fault}"));
        assert_eq!(reply.code, code, "{command}: {}", reply.text);
        reply
    }

    /// Reads the greeting and sends EHLO.
    pub fn greet(&mut self) -> std::io::Result<()> {
        self.reply()?;
        self.ask("EHLO client.ringpost.test")?;
        Ok(())
    }

    /// A whole transaction by DATA. Returns the reply to the body, or the first refusal.
    pub fn submit(&mut self, from: &str, to: &str, body: &[u8]) -> std::io::Result<Reply> {
        let commands = [
            (format!("MAIL FROM:<{from}>"), 250),
            (format!("RCPT TO:<{to}>"), 250),
            ("DATA".into(), 354),
        ];
        for (command, code) in commands {
            let reply = self.ask(&command)?;
            if reply.code != code {
                return Ok(reply);
            }
        }
        self.send(&stuffed(body))?;
        self.reply()
    }
}

/// The dot-stuffed body with its end marker.
pub fn stuffed(body: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(body.len() + 64);
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
    }
    if !wire.is_empty() && !wire.ends_with(b"\r\n") {
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

/// A port without a listener. The socket stays bound, because otherwise the kernel may give the
/// port to another process.
pub struct ClosedPort {
    pub address: SocketAddr,
    _socket: Socket,
}

impl ClosedPort {
    pub fn new() -> ClosedPort {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).expect("loopback has a free port");
        let address = socket.local_addr().ok().and_then(|bound| bound.as_socket());
        ClosedPort { address: address.expect("the socket is bound"), _socket: socket }
    }
}

/// The number in an environment variable that sizes or seeds a test, or the default.
pub fn number_from(variable: &str, default: impl FnOnce() -> u64) -> u64 {
    let written = std::env::var(variable).ok();
    written.map_or_else(default, |text| text.parse().expect("the variable contains a number"))
}

/// Whether the test runs as root. Prints a message if not.
pub fn is_root(purpose: &str) -> bool {
    let uid = Command::new("id").arg("-u").output().map(|out| out.stdout).unwrap_or_default();
    let root = uid.starts_with(b"0\n");
    if !root {
        println!("SKIPPED: {purpose} requires root");
    }
    root
}
