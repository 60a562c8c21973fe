//! TLS and AUTH between our source and our sink: STARTTLS, TLS at once, resumption, verification,
//! passwords.

use std::io::BufRead;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;

use ringpost::base::clock;
use ringpost::net::self_signed;
use tempfile::TempDir;

const NAME: &str = "mx.load.test";
/// `us` and `secret`.
const PLAIN: &str = "> AUTH PLAIN AHVzAHNlY3JldA==";
const PATIENCE: Duration = Duration::from_secs(20);

/// A sink with a certificate for `NAME`.
struct Sink {
    child: Child,
    address: String,
    certificate: PathBuf,
    /// Lines of the dialogue.
    lines: Receiver<String>,
    _folder: TempDir,
}

impl Sink {
    fn start(words: &[&str]) -> Sink {
        let folder = tempfile::tempdir().expect("a folder is made");
        let pair = self_signed(NAME, folder.path(), clock::wall_ms()).expect("it is made");
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringpost-load"));
        command.args(["sink", "-v"]).args(words).arg("--certificate").arg(&pair.certificate);
        command.arg("--key").arg(&pair.key).arg("127.0.0.1:0").stdout(Stdio::null());
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the binary runs");
        let errors = BufReader::new(child.stderr.take().expect("it is piped"));
        let (sender, lines) = mpsc::channel();
        // The thread ends with the sink or the test.
        thread::spawn(move || {
            errors.lines().map_while(Result::ok).try_for_each(|l| sender.send(l))
        });
        let line = lines.recv_timeout(PATIENCE).expect("it prints its address");
        let address = line.strip_prefix("listening on ").expect("an address").to_owned();
        Sink { child, address, certificate: pair.certificate, lines, _folder: folder }
    }

    fn source(&self, words: &[&str]) -> (Output, serde_json::Value) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringpost-load"));
        command.arg("source").args(words).args(["-t", "a@b.test", "--json", &self.address]);
        let output = command.output().expect("the binary runs");
        let told = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output, told)
    }

    /// The commands up to and including the next QUIT.
    fn session(&self) -> Vec<String> {
        let mut commands = Vec::new();
        while commands.last().is_none_or(|last| last != "> QUIT") {
            let line = self.lines.recv_timeout(PATIENCE).expect("the session ends with QUIT");
            commands.extend(line.starts_with('>').then_some(line));
        }
        commands
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // The sink would run until a signal.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn starttls_resumes_sessions_and_authenticates() {
    let sink = Sink::start(&["--starttls"]);
    let words = ["-m", "5", "--starttls", "--sni", NAME, "--auth", "us:secret", "--no-chunking"];
    let (output, told) = sink.source(&words);
    assert!(output.status.success(), "{output:?}");
    assert_eq!((&told["accepted"], &told["tls_handshakes"]), (&5.into(), &5.into()), "{told}");
    assert!(told["tls_resumed"].as_u64() >= Some(3), "each session has a ticket: {told}");
    for _ in 0..5 {
        let commands = sink.session();
        let verbs: Vec<&str> = commands.iter().filter_map(|line| line.split(' ').nth(1)).collect();
        let expected = ["EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "QUIT"];
        assert_eq!((&verbs[..], &*commands[3]), (&expected[..], PLAIN), "{commands:?}");
    }
    let (_, told) = sink.source(&["-m", "3", "--starttls", "--tls-no-resume"]);
    assert_eq!((&told["accepted"], &told["tls_resumed"]), (&3.into(), &0.into()), "{told}");
}

#[test]
fn tls_may_start_at_once() {
    let sink = Sink::start(&["--tls"]);
    let (output, told) = sink.source(&["-d", "-s", "2", "-m", "20", "-l", "100000", "--tls"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!((&told["accepted"], &told["tls_handshakes"]), (&20.into(), &2.into()), "{told}");
    assert!(sink.session().iter().all(|line| line != "> STARTTLS"));
}

#[test]
fn certificates_are_verified_on_request() {
    let sink = Sink::start(&["--starttls"]);
    let roots = sink.certificate.to_str().expect("a path of letters");
    let verify = ["--starttls", "--tls-verify", "--tls-roots", roots, "--sni"];
    for (name, is_good) in [(NAME, true), ("other.load.test", false)] {
        let (output, told) = sink.source(&[&verify[..], &[name]].concat());
        assert_eq!(output.status.success(), is_good, "{output:?}");
        assert_eq!(told["first_fault"].is_null(), is_good, "{told}");
        assert_eq!(told["tls_handshakes"], u64::from(is_good), "{told}");
    }
    let (output, _) = sink.source(&["--starttls", "--tls-verify", "--tls-roots", "/no/such"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("/no/such"), "{output:?}");
}

#[test]
fn a_password_is_sent_in_clear_text_only_on_request() {
    let sink = Sink::start(&[]);
    let (output, _) = sink.source(&["--auth", "us:secret"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("--auth-in-clear"), "{output:?}");
    assert!(sink.lines.try_recv().is_err(), "nothing was sent");
    let (output, _) = sink.source(&["--auth", "us:secret", "--auth-in-clear"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(sink.session()[1], PLAIN);
}
