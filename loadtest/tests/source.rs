//! The source against a small server on a thread: what it sends, and that a server which stalls is
//! seen to stall by every message that was to begin meanwhile.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::process::Command;
use std::process::Output;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

/// What the server does, and what it was told.
struct Server {
    address: String,
    stalls_at: u64,
    refuses: &'static str,
    messages: Mutex<Vec<Vec<String>>>,
}

impl Server {
    /// Stalls once for `STALL`, when it has taken so many messages; refuses some recipients.
    fn start(stalls_at: u64, refuses: &'static str) -> Arc<Server> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        let server = Arc::new(Server { address, stalls_at, refuses, messages: Mutex::default() });
        let accepting = Arc::clone(&server);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let serving = Arc::clone(&accepting);
                // A client that goes away ends its session.
                thread::spawn(move || serving.session(stream.expect("a client comes")));
            }
        });
        server
    }

    fn session(&self, stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut out = stream.try_clone()?;
        let mut lines = BufReader::new(stream).lines();
        out.write_all(b"220 here\r\n")?;
        let mut message = Vec::new();
        while let Some(line) = lines.next().transpose()? {
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_owned();
            match &*verb {
                "EHLO" => out.write_all(b"250-here\r\n250 PIPELINING\r\n")?,
                "RCPT" if !self.refuses.is_empty() && line.contains(self.refuses) => {
                    out.write_all(b"550 5.1.1 no\r\n")?;
                }
                "MAIL" | "RCPT" => {
                    message.push(line);
                    out.write_all(b"250 ok\r\n")?;
                }
                "DATA" if message.len() < 2 => {
                    message.clear();
                    out.write_all(b"554 no recipients\r\n")?;
                }
                "DATA" => {
                    out.write_all(b"354 go\r\n")?;
                    let body = lines.by_ref().map_while(Result::ok).take_while(|line| line != ".");
                    message.extend(body);
                    self.take(std::mem::take(&mut message));
                    out.write_all(b"250 taken\r\n")?;
                }
                "QUIT" => return out.write_all(b"221 bye\r\n"),
                _ => out.write_all(b"250 ok\r\n")?,
            }
        }
        Ok(())
    }

    /// All sessions wait while one of them stalls.
    fn take(&self, message: Vec<String>) {
        let mut messages = self.messages.lock().expect("nobody panics with it");
        messages.push(message);
        if messages.len() as u64 == self.stalls_at {
            thread::sleep(STALL);
        }
    }

    fn messages(&self) -> Vec<Vec<String>> {
        self.messages.lock().expect("nobody panics with it").clone()
    }
}

const STALL: Duration = Duration::from_millis(600);

fn source(words: &[&str], server: &Server) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringpost-load"));
    command.arg("source").args(words).arg(&server.address).output().expect("the binary runs")
}

fn figures(output: &Output) -> serde_json::Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.trim()).unwrap_or_else(|_| panic!("{text}{output:?}"))
}

#[test]
fn every_message_is_sent_once_and_as_asked() {
    let server = Server::start(0, "");
    let words =
        "-d -s 7 -m 40 -l 1000 -r 2 -N -f a@b.test -t to@c.test --domains 4 --json --cores 2";
    let output = source(&words.split(' ').collect::<Vec<_>>(), &server);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(figures(&output)["accepted"], 40);
    let messages = server.messages();
    let mut recipients: Vec<&str> =
        messages.iter().flatten().filter_map(|line| line.strip_prefix("RCPT TO:")).collect();
    recipients.sort_unstable();
    recipients.dedup();
    assert_eq!((messages.len(), recipients.len()), (40, 80), "all are different");
    let of_3 = recipients.iter().filter(|one| one.ends_with("to@3.c.test>")).count();
    assert_eq!(of_3, 20, "domains take turns");
    for message in &messages {
        let body: usize =
            message.iter().skip_while(|line| !line.is_empty()).skip(1).map(|l| l.len() + 2).sum();
        assert_eq!(body, 1000);
    }
}

#[test]
fn at_a_rate_a_stall_is_seen_by_all_that_were_to_begin_meanwhile() {
    let closed = Server::start(50, "");
    let output = source(&["-d", "-s", "2", "-m", "200", "--json"], &closed);
    let p90 = figures(&output)["message_us"]["p90"].as_u64().expect("it is told");
    assert!(p90 < 300_000, "two messages of 200 wait, which hardly shows: {output:?}");

    let open = Server::start(50, "");
    let output = source(&["-d", "-s", "2", "-m", "200", "--rate", "200", "--json"], &open);
    let figures = figures(&output);
    let p90 = figures["message_us"]["p90"].as_u64().expect("it is told");
    // 120 of the 200 were to begin while nothing was answered, the first of them 600 ms before.
    assert!(p90 > 300_000, "{figures}");
    assert!(figures["seconds"].as_f64() >= Some(0.99), "no faster than asked: {figures}");
}

#[test]
fn refusals_are_counted_and_told() {
    let server = Server::start(0, "9");
    let words = ["-A", "-s", "1", "-m", "10", "-N", "-t", "x@y.test", "--json"];
    let output = source(&words, &server);
    assert_eq!(output.status.code(), Some(1));
    let figures = figures(&output);
    assert_eq!((&figures["accepted"], &figures["refused"]), (&9.into(), &1.into()));
    let first = figures["first_fault"].as_str().expect("it is told");
    assert!(first.contains("9x@y.test") && first.contains("550"), "{first}");
    // Without -A it ends there.
    let server = Server::start(0, "x");
    let output = source(&["-m", "1000", "-t", "x@y.test"], &server);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(server.messages().len(), 0);
}
