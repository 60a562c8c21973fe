//! The source against a server that speaks TLS: STARTTLS and TLS from the start, names, resumption,
//! verification, and logging in.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use ringpost::base::ChunkPool;
use ringpost::base::clock;
use ringpost::net::Channel;
use ringpost::net::ClientCertificates;
use ringpost::net::MinVersion;
use ringpost::net::SocketFault;
use ringpost::net::TlsServer;
use ringpost::net::TlsSettings;
use ringpost::net::self_signed;
use ringpost::rt;
use ringpost::rt::ListenSpec;
use ringpost::rt::Listener;
use ringpost::rt::ShardSpec;
use ringpost::rt::Stream;
use ringpost::rt::task;

/// A session that is over is told within so long.
const PATIENCE: Duration = Duration::from_secs(30);
const NAME: &str = "mx.load.test";
/// `us`, `secret`.
const PLAIN: &str = "AUTH PLAIN AHVzAHNlY3JldA==";

/// What a session was told, and by whom it was asked for.
#[derive(Clone, Debug, Default)]
struct Heard {
    commands: Vec<String>,
    name: Option<String>,
    resumed: bool,
}

/// A server on a shard of its own, which lives as long as the test.
struct Server {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
    certificate: PathBuf,
    _folder: tempfile::TempDir,
}

/// How a server talks.
#[derive(Clone)]
struct Manner {
    tls: Arc<TlsServer>,
    implicit: bool,
    /// AUTH is offered without TLS too, and only as LOGIN.
    in_clear: bool,
    pool: Rc<ChunkPool>,
}

impl Server {
    fn start(implicit: bool, in_clear: bool) -> Server {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let now = clock::wall_ms();
        let pair = self_signed(NAME, folder.path(), now).expect("it is made");
        let settings = TlsSettings {
            certificates: vec![(pair.certificate.clone(), pair.key)],
            min_version: MinVersion::Tls12,
            tickets: true,
            client_certificates: ClientCertificates::None,
            client_ca: None,
        };
        let tls = TlsServer::build(&settings, now).expect("it is good");
        let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
        let (told, bound) = mpsc::channel();
        let hearing = Arc::clone(&heard);
        let main = move || async move {
            let address = SocketAddr::from(([127, 0, 0, 1], 0));
            let spec = ListenSpec {
                address,
                backlog: 64,
                reuse_port: false,
                v6_only: false,
                inherited: None,
            };
            let socket = rt::bind_socket(spec).expect("a port is free");
            let socket = std::net::TcpListener::from(socket);
            told.send(socket.local_addr().expect("it is bound")).expect("it is waited for");
            let listener = Listener::from_socket(socket.into());
            let manner = Manner { tls, implicit, in_clear, pool: Rc::new(ChunkPool::new(64)) };
            while let Ok((stream, _)) = listener.accept().await {
                let (manner, hearing) = (manner.clone(), Arc::clone(&hearing));
                task::spawn(async move {
                    let mut heard = Heard::default();
                    // A client that goes away ends its session.
                    let _ = manner.talk(stream, &mut heard).await;
                    hearing.lock().expect("nobody panics with it").push(heard);
                });
            }
        };
        rt::start(ShardSpec::new("tls-server", None), main).expect("a shard starts");
        let address = bound.recv().expect("it is bound");
        Server { address, heard, certificate: pair.certificate, _folder: folder }
    }

    fn source(&self, words: &[&str]) -> (Output, serde_json::Value) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringpost-load"));
        command.arg("source").args(words).arg("--json").arg(self.address.to_string());
        let output = command.output().expect("the binary runs");
        let told = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output, told)
    }

    fn heard(&self) -> Vec<Heard> {
        self.heard.lock().expect("nobody panics with it").clone()
    }

    /// What was heard, once so many sessions are over: here each ends a moment after its client.
    fn await_heard(&self, sessions: usize) -> Vec<Heard> {
        let end = Instant::now() + PATIENCE;
        loop {
            let heard = self.heard();
            if heard.len() >= sessions {
                return heard;
            }
            assert!(Instant::now() < end, "{sessions} sessions: {heard:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Manner {
    async fn talk(&self, stream: Stream, heard: &mut Heard) -> Result<(), SocketFault> {
        let mut channel = Channel::plain(stream);
        if self.implicit {
            self.shake_hands(&mut channel, heard).await?;
        }
        channel.write(b"220 here\r\n".to_vec()).await.0?;
        let (mut input, mut in_body) = (Vec::new(), false);
        loop {
            let chunk = channel.read(&self.pool, None).await?;
            input.extend_from_slice(chunk.bytes());
            self.pool.give(chunk);
            while let Some(end) = input.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = input.drain(..=end).collect();
                let line = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
                if in_body && line != "." {
                    continue;
                }
                in_body = line == "DATA";
                let answer = self.answer(&line, channel.is_tls());
                heard.commands.push(line);
                channel.write(answer.into()).await.0?;
                match heard.commands.last().map(String::as_str) {
                    Some("STARTTLS") => self.shake_hands(&mut channel, heard).await?,
                    Some("QUIT") => return channel.close().await,
                    _ => {}
                }
            }
        }
    }

    async fn shake_hands(
        &self,
        channel: &mut Channel<Stream>,
        heard: &mut Heard,
    ) -> Result<(), SocketFault> {
        channel.start_tls(&self.tls)?;
        channel.handshake(&self.pool, None).await?;
        let facts = channel.tls_facts().expect("the handshake is done");
        heard.name = facts.server_name.as_deref().map(str::to_owned);
        heard.resumed = facts.resumed;
        Ok(())
    }

    fn answer(&self, line: &str, is_tls: bool) -> &'static str {
        match line.split(' ').next().unwrap_or_default() {
            "EHLO" if is_tls => "250-here\r\n250 AUTH PLAIN LOGIN\r\n",
            "EHLO" if self.in_clear => "250-here\r\n250 AUTH LOGIN\r\n",
            "EHLO" => "250-here\r\n250 STARTTLS\r\n",
            "STARTTLS" => "220 go\r\n",
            "AUTH" if line == PLAIN => "235 ok\r\n",
            "AUTH" if line == "AUTH LOGIN" => "334 VXNlcm5hbWU6\r\n",
            "dXM=" => "334 UGFzc3dvcmQ6\r\n",
            "c2VjcmV0" => "235 ok\r\n",
            // A wrong password.
            "AUTH" | "d3Jvbmc=" => "535 no\r\n",
            "DATA" => "354 go\r\n",
            "QUIT" => "221 bye\r\n",
            _ => "250 ok\r\n",
        }
    }
}

#[test]
fn starttls_asks_for_the_name_resumes_and_logs_in() {
    let server = Server::start(false, false);
    let words = ["-m", "5", "--starttls", "--sni", NAME, "--auth", "us:secret"];
    let (output, told) = server.source(&words);
    assert!(output.status.success(), "{output:?}");
    assert_eq!((&told["accepted"], &told["tls_handshakes"]), (&5.into(), &5.into()), "{told}");
    assert!(told["tls_resumed"].as_u64() >= Some(3), "one gives the ticket of the next: {told}");
    let heard = server.await_heard(5);
    assert_eq!(heard.len(), 5);
    for one in &heard {
        let verbs: Vec<&str> =
            one.commands.iter().filter_map(|line| line.split(' ').next()).collect();
        let expected = ["EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", ".", "QUIT"];
        assert_eq!((one.name.as_deref(), &verbs[..]), (Some(NAME), &expected[..]), "{one:?}");
        assert_eq!(one.commands[3], PLAIN);
    }
    let resumed = heard.iter().filter(|one| one.resumed).count() as u64;
    assert_eq!(told["tls_resumed"], resumed, "both sides say so");

    let (_, told) = server.source(&["-m", "3", "--starttls", "--tls-no-resume"]);
    let counts = (&told["accepted"], &told["tls_resumed"]);
    assert_eq!(counts, (&3.into(), &0.into()), "{told}");
}

#[test]
fn tls_may_come_first() {
    let server = Server::start(true, false);
    let (output, told) = server.source(&["-d", "-s", "2", "-m", "20", "-l", "100000", "--tls"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!((&told["accepted"], &told["tls_handshakes"]), (&20.into(), &2.into()), "{told}");
    let heard = server.await_heard(2);
    assert!(heard.iter().all(|one| one.name.is_none()), "an address is no name");
    assert!(heard.iter().flat_map(|one| &one.commands).all(|line| line != "STARTTLS"));
}

#[test]
fn certificates_are_verified_when_asked() {
    let server = Server::start(false, false);
    let roots = server.certificate.to_str().expect("a path of letters");
    let verify = ["--starttls", "--tls-verify", "--tls-roots", roots, "--sni"];
    for (name, is_good) in [(NAME, true), ("other.load.test", false)] {
        let words: Vec<&str> = verify.iter().copied().chain([name]).collect();
        let (output, told) = server.source(&words);
        assert_eq!(output.status.success(), is_good, "{output:?}");
        assert_eq!(told["first_fault"].is_null(), is_good, "{told}");
        let handshakes = u64::from(is_good);
        assert_eq!(told["tls_handshakes"], handshakes, "{told}");
    }
    let (output, _) = server.source(&["--starttls", "--tls-verify", "--tls-roots", "/no/such"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("/no/such"), "{output:?}");
}

#[test]
fn a_password_is_told_in_the_clear_only_when_asked() {
    let server = Server::start(false, true);
    let (output, _) = server.source(&["--auth", "us:secret"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("--auth-in-clear"), "{output:?}");
    assert!(server.heard().is_empty(), "nobody was talked to");
    let (output, _) = server.source(&["--auth", "us:secret", "--auth-in-clear"]);
    assert!(output.status.success(), "{output:?}");
    let commands = &server.await_heard(1)[0].commands;
    assert_eq!(&commands[1..4], ["AUTH LOGIN", "dXM=", "c2VjcmV0"]);
    let (output, told) = server.source(&["--auth", "us:wrong", "--auth-in-clear"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let fault = told["first_fault"].as_str().expect("it is told");
    assert!(fault.contains("AUTH") && !fault.contains("wrong"), "{fault}");
}
