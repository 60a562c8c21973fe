//! TLS and AUTH between the source and the sink: STARTTLS, TLS at once, resumption, verification,
//! passwords.

use std::process::Output;

use ringpost::base::clock;
use ringpost::net::self_signed;
use serde_json::Value;
use tempfile::TempDir;

use crate::PATIENCE;
use crate::Sink;
use crate::errors;
use crate::source_to;

const NAME: &str = "mx.load.test";
/// `us` and `secret`.
const PLAIN: &str = "> AUTH PLAIN AHVzAHNlY3JldA==";

/// A sink with a certificate for `NAME`.
struct Secure {
    sink: Sink,
    certificate: String,
    _folder: TempDir,
}

impl Secure {
    fn start(flag: &str) -> Secure {
        let folder = tempfile::tempdir().expect("a folder is made");
        let pair = self_signed(NAME, folder.path(), clock::wall_ms()).expect("it is made");
        let [certificate, key] =
            [&pair.certificate, &pair.key].map(|path| path.display().to_string());
        let words = ["-v", flag, "--certificate", &certificate, "--key", &key];
        Secure { sink: Sink::start(&words), certificate, _folder: folder }
    }

    fn source(&self, words: &[&str]) -> (Output, Value) {
        let output = source_to(self.sink.address(), &[words, &["-t", "a@b.test"]].concat());
        let told = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output, told)
    }

    /// The commands up to and including the next QUIT.
    fn session(&self) -> Vec<String> {
        let mut commands = Vec::new();
        while commands.last().is_none_or(|last| last != "> QUIT") {
            let line = self.sink.lines.recv_timeout(PATIENCE).expect("the session ends with QUIT");
            commands.extend(line.starts_with('>').then_some(line));
        }
        commands
    }
}

#[test]
fn starttls_resumes_sessions_and_authenticates() {
    let sink = Secure::start("--starttls");
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
    let sink = Secure::start("--tls");
    let (output, told) = sink.source(&["-d", "-s", "2", "-m", "20", "-l", "100000", "--tls"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!((&told["accepted"], &told["tls_handshakes"]), (&20.into(), &2.into()), "{told}");
    assert!(sink.session().iter().all(|line| line != "> STARTTLS"));
}

#[test]
fn certificates_are_verified_on_request() {
    let sink = Secure::start("--starttls");
    let verify = ["--starttls", "--tls-verify", "--tls-roots", &sink.certificate, "--sni"];
    for (name, is_good) in [(NAME, true), ("other.load.test", false)] {
        let (output, told) = sink.source(&[&verify[..], &[name]].concat());
        assert_eq!(output.status.success(), is_good, "{output:?}");
        assert_eq!(told["first_fault"].is_null(), is_good, "{told}");
        assert_eq!(told["tls_handshakes"], u64::from(is_good), "{told}");
    }
    let (output, _) = sink.source(&["--starttls", "--tls-verify", "--tls-roots", "/no/such"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(errors(&output).contains("/no/such"), "{output:?}");
}

#[test]
fn a_password_is_not_sent_in_clear_text() {
    let sink = Secure::start("--starttls");
    let (output, _) = sink.source(&["--auth", "us:secret"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(errors(&output).contains("--starttls|--tls"), "{output:?}");
    assert!(sink.sink.lines.try_recv().is_err(), "nothing was sent");
}
