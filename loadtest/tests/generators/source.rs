//! The source against a small server on a thread: what it sends and when, the latency of messages that
//! were due during a stall, and the fate of each message.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use socket2::Domain;
use socket2::Socket;
use socket2::Type;

use crate::errors;
use crate::figures;
use crate::interrupt;
use crate::load;
use crate::source_to;

/// The server, and the messages that it received.
struct Server {
    address: String,
    stalls_at: u64,
    refuses: &'static str,
    messages: Mutex<Vec<Vec<String>>>,
}

impl Server {
    /// Stalls once for `STALL` after this number of messages; refuses some recipients.
    fn start(stalls_at: u64, refuses: &'static str) -> Arc<Server> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        let server = Arc::new(Server { address, stalls_at, refuses, messages: Mutex::default() });
        let accepting = Arc::clone(&server);
        thread::spawn(move || accepting.serve(&listener));
        server
    }

    fn serve(self: Arc<Server>, listener: &TcpListener) {
        for stream in listener.incoming() {
            let serving = Arc::clone(&self);
            let stream = stream.expect("a client comes");
            stream.set_nodelay(true).expect("it is connected");
            let input = stream.try_clone().expect("there are descriptors");
            // A client that goes away ends its session.
            thread::spawn(move || serving.session(input, stream));
        }
    }

    fn session(&self, input: impl Read, mut out: impl Write) -> std::io::Result<()> {
        let mut lines = BufReader::new(input).lines();
        out.write_all(b"220 here\r\n")?;
        let mut message = Vec::new();
        while let Some(line) = lines.next().transpose()? {
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_owned();
            match &*verb {
                // The offers depend on the name of the client.
                "EHLO" if line.contains("8bit") => {
                    out.write_all(b"250-here\r\n250-8BITMIME\r\n250 PIPELINING\r\n")?;
                }
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
    source_to(&server.address, words)
}

#[test]
fn every_message_is_sent_once_and_as_asked() {
    let server = Server::start(0, "");
    let words = "-d -s 7 -m 40 -l 1000 -r 2 -N -f a@b.test -t to@c.test --domains 4 --cores 2";
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

/// An unwritable file is an error before the run; a low soft limit of open files is raised.
#[test]
fn errors_are_reported_before_the_run() {
    let server = Server::start(0, "");
    let output = source(&["--sent", "/no/such/folder/sent"], &server);
    assert_eq!(output.status.code(), Some(2));
    assert!(errors(&output).contains("--sent: /no/such"), "{output:?}");
    assert_eq!(server.messages().len(), 0);
    let load = env!("CARGO_BIN_EXE_ringpost-load");
    let line = format!("ulimit -Sn 40; exec {load} source -d -s 60 -m 60 {}", server.address);
    let output = Command::new("sh").args(["-c", &line]).output().expect("there is a shell");
    assert!(output.status.success(), "60 connections have 60 descriptors: {output:?}");
}

/// The seconds start before the first message, so that the last second is never too short.
#[test]
fn the_seconds_cover_the_whole_run() {
    let server = Server::start(0, "");
    let figures = figures(&source(&["-d", "-m", "20"], &server));
    let last = figures["intervals"].as_array().and_then(|all| all.last()).expect("there is one");
    let number = |value: &serde_json::Value| value.as_f64().expect("a number");
    let end = number(&last["start"]) + number(&last["seconds"]);
    assert!(end > number(&figures["seconds"]) + 1e-6, "{figures}");
}

#[test]
fn at_a_rate_a_stall_is_seen_by_all_that_were_to_begin_meanwhile() {
    let closed = Server::start(50, "");
    let output = source(&["-d", "-s", "2", "-m", "200"], &closed);
    let p90 = figures(&output)["message_us"]["p90"].as_u64().expect("it is told");
    assert!(p90 < 300_000, "two messages of 200 wait, which hardly shows: {output:?}");

    let open = Server::start(50, "");
    let output = source(&["-d", "-s", "2", "-m", "200", "--rate", "200"], &open);
    let figures = figures(&output);
    let p90 = figures["message_us"]["p90"].as_u64().expect("it is told");
    // 120 of the 200 were to begin while nothing was answered, the first of them 600 ms before.
    assert!(p90 > 300_000, "{figures}");
    assert!(figures["seconds"].as_f64() >= Some(0.99), "no faster than asked: {figures}");
}

#[test]
fn refusals_are_counted_and_reported() {
    let server = Server::start(0, "9");
    let words = ["-A", "-s", "1", "-m", "10", "-N", "-t", "x@y.test"];
    let output = source(&words, &server);
    assert_eq!(output.status.code(), Some(1));
    let figures = figures(&output);
    assert_eq!((&figures["accepted"], &figures["refused"]), (&9.into(), &1.into()));
    // Refused messages do not improve the latency.
    let count = |of: &str| &figures[of]["count"];
    assert_eq!((count("message_us"), count("refused_or_lost_us")), (&9.into(), &1.into()));
    let seconds = figures["intervals"].as_array().expect("there are seconds");
    assert_eq!(seconds.iter().filter_map(|one| one["us"]["count"].as_u64()).sum::<u64>(), 9);
    let first = figures["first_fault"].as_str().expect("it is told");
    assert!(first.contains("9x@y.test") && first.contains("550"), "{first}");
    // Without -A the run ends there.
    let server = Server::start(0, "x");
    let output = source(&["-m", "1000", "-t", "x@y.test"], &server);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(server.messages().len(), 0);
}

/// The numbers and times of the id header, by number.
fn ids(server: &Server) -> Vec<(u64, u64)> {
    let messages = server.messages();
    let ids = messages.iter().map(|message| {
        let id = message.iter().find_map(|line| line.strip_prefix("X-Loadtest-Id: "));
        let parts: Vec<&str> = id.expect("each has an id").split('-').collect();
        let number = |place: usize| parts[place].parse().expect("a number");
        (number(1), number(2))
    });
    let mut ids: Vec<_> = ids.collect();
    ids.sort_unstable();
    ids
}

fn now_us() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("it is later than 1970").as_micros() as u64
}

#[test]
fn every_message_says_when_it_was_to_begin() {
    let server = Server::start(10, "");
    let before = now_us();
    let output = source(&["-d", "-s", "3", "-m", "40", "--rate", "200", "--cores", "2"], &server);
    assert!(output.status.success(), "{output:?}");
    let ids = ids(&server);
    assert!((before..=now_us()).contains(&ids[0].1), "{before} {:?}", ids[0]);
    for (number, (found, at_us)) in ids.iter().enumerate() {
        // A server that stalls changes nothing. The clock is read once; sums are rounded.
        let expected = ids[0].1 + number as u64 * 5000;
        assert_eq!(*found, number as u64);
        assert!(at_us.abs_diff(expected) <= 1, "{number}: {at_us}, not {expected}");
    }
}

#[test]
fn a_ramp_and_steps_begin_by_their_formula_and_are_figured_apart() {
    let server = Server::start(0, "");
    // 100 t + 200 t^2.
    let ramp = ["-d", "-s", "20", "--ramp", "100..300:500ms"];
    let output = source(&ramp, &server);
    assert!(output.status.success(), "{output:?}");
    let begun = ids(&server);
    assert_eq!(begun.len(), 100, "100 * 0.5 + 200 * 0.25");
    let half = ((100.0_f64.powi(2) + 800.0 * 50.0).sqrt() - 100.0) / 400.0 * 1e6;
    assert!((begun[50].1 - begun[0].1).abs_diff(half as u64) <= 1, "{:?}", begun[50]);

    let server = Server::start(0, "");
    let steps = ["-d", "-s", "20", "--steps", "50x400ms,200x400ms"];
    let output = source(&steps, &server);
    let told = figures(&output);
    let accepted = |step: &str| told[format!("step_{step}/s_us")]["count"].as_u64();
    assert_eq!((accepted("1_at_50"), accepted("2_at_200")), (Some(20), Some(80)), "{told}");
    assert_eq!(told["planned"], 100);
    let begun = ids(&server);
    assert!((begun[21].1 - begun[20].1).abs_diff(5000) <= 1, "{begun:?}");
    assert!((begun[20].1 - begun[0].1).abs_diff(400_000) <= 1, "{begun:?}");
}

#[test]
fn overdue_messages_at_the_end_count_as_late() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("sent");
    let server = Server::start(20, "");
    let sent = path.to_str().expect("a path of letters");
    let words = "-d -s 2 --rate 10000 --duration 300ms --sent";
    let words: Vec<&str> = words.split(' ').chain([sent]).collect();
    let output = source(&words, &server);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = figures(&output);
    let of = |name: &str| told[name].as_u64().expect("it is told");
    assert_eq!((of("planned"), of("late")), (3000, of("not_sent")), "{told}");
    assert_eq!(of("accepted") + of("late"), 3000, "{told}");
    // The 20th stalls until the end; then 1,000 overdue messages are sent.
    assert!((1000..=1100).contains(&of("accepted")), "{told}");
    assert_eq!(server.messages().len() as u64, of("accepted"));
    let text = std::fs::read_to_string(&path).expect("it was written");
    let run = told["run"].as_str().expect("it has a name");
    let (accepted, late) = (of("accepted"), of("late"));
    let head = format!("ringpost-load sent 1\nrun {run}\nrecipients 1\n");
    assert_eq!(text, format!("{head}{accepted} accepted\n{late} not-sent\n"));
}

#[test]
fn a_time_ends_a_closed_loop() {
    let server = Server::start(0, "");
    let output = source(&["-d", "-s", "2", "--duration", "300ms"], &server);
    assert!(output.status.success(), "{output:?}");
    let told = figures(&output);
    assert!(told["accepted"].as_u64() > Some(0) && told["accepted"] == told["planned"], "{told}");
    assert!(told["seconds"].as_f64() >= Some(0.3), "{told}");
    assert_eq!(server.messages().len() as u64, told["accepted"].as_u64().expect("it is told"));
}

#[test]
fn each_message_has_a_fate() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("sent");
    let server = Server::start(0, "9");
    let sent = path.to_str().expect("a path of letters");
    let words = ["-A", "-d", "-s", "3", "-m", "15", "-N", "-t", "x@y.test", "--sent", sent];
    assert_eq!(source(&words, &server).status.code(), Some(1));
    let text = std::fs::read_to_string(&path).expect("it was written");
    assert!(text.ends_with("recipients 1\n8 accepted\n1 refused\n6 accepted\n"), "{text}");
}

#[test]
fn files_are_sent_in_turn() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let put = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("there is room");
    };
    put("a.eml", "Subject: plain\n\n.dot\rend");
    put("b.eml", &format!("Subject: caf\u{e9}\r\n\r\n{}", "y".repeat(3000)));
    let eml = folder.path().to_str().expect("a path of letters");
    for (name, says_8bit) in [("8bit.test", true), ("plain.test", false)] {
        let server = Server::start(0, "");
        let words = ["-d", "-m", "4", "-M", name, "--eml", eml, "--header", "X-To: %r #%n"];
        let output = source(&words, &server);
        assert!(output.status.success(), "{output:?}");
        let messages = server.messages();
        for (number, message) in messages.iter().enumerate() {
            let expected = number % 2 == 1 && says_8bit;
            assert_eq!(message[0].ends_with(" BODY=8BITMIME"), expected, "{}", message[0]);
            let line = format!("X-To: foo@{name} #{number}");
            assert!(message.contains(&line), "{message:?}");
        }
        let behind = |message: &[String], line: &str| {
            let at = message.iter().position(|one| one == line).expect("it is sent");
            message[at + 1..].to_vec()
        };
        assert_eq!(behind(&messages[2], "Subject: plain"), ["", "..dot", "end"]);
        assert_eq!(behind(&messages[3], "Subject: caf\u{e9}").concat(), "y".repeat(3000));
    }
}

#[test]
fn draws_are_the_same_for_a_seed() {
    let run = |seed: &str| {
        let server = Server::start(0, "");
        let words = "-d -s 5 -m 60 --sizes 100*50,1k-4k*50 --to-domains a.test*3,b.test*1";
        let words = words.split(' ').chain(["--from-domains", "c.test,d.test", "--seed", seed]);
        let output = source(&words.collect::<Vec<_>>(), &server);
        assert!(output.status.success(), "{output:?}");
        let messages = server.messages().into_iter().map(|message| {
            let number = |line: &String| line.starts_with("X-Loadtest-Id").then(|| line.clone());
            let id = message.iter().find_map(number).expect("each has an id");
            let number: u64 = id.split('-').nth_back(2).expect("a number").parse().expect("one");
            let size: usize =
                message.iter().skip_while(|line| !line.is_empty()).map(String::len).sum();
            (number, message[0].clone(), message[1].clone(), size)
        });
        let mut messages: Vec<_> = messages.collect();
        messages.sort();
        messages
    };
    let (one, again, other) = (run("1"), run("1"), run("2"));
    assert_eq!(one, again);
    assert_ne!(one, other);
    let to_a = one.iter().filter(|message| message.2.ends_with("@a.test>")).count();
    assert!((30..=58).contains(&to_a), "45 are likely: {to_a}");
    assert!(one.iter().any(|message| message.1.contains("@d.test>")));
    assert!(one.iter().any(|message| message.3 < 100) && one.iter().any(|message| message.3 > 900));
}

#[test]
fn a_server_that_starts_late_gets_later_messages() {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("there are descriptors");
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    socket.bind(&any.into()).expect("a port is free");
    let address = socket.local_addr().ok().and_then(|at| at.as_socket()).expect("it is bound");
    let messages = Mutex::default();
    let server = Server { address: address.to_string(), stalls_at: 0, refuses: "", messages };
    let server = Arc::new(server);
    let coming = Arc::clone(&server);
    thread::spawn(move || {
        thread::sleep(Duration::from_secs(1));
        socket.listen(16).expect("the port is ours");
        coming.serve(&socket.into());
    });
    let output = source(&["-A", "-d", "-s", "2", "-m", "120", "--rate", "40"], &server);
    let figures = figures(&output);
    let accepted = figures["accepted"].as_u64().expect("it is counted");
    // A second later it would be 80; neither side need begin in time.
    assert!((20..120).contains(&accepted), "{figures:#}");
    assert_eq!(figures["not_sent"], 120 - accepted);
    assert_eq!(server.messages().len() as u64, accepted);
}

fn start(words: &[&str]) -> Child {
    let mut command = load(&["source", "--json"]);
    let command = command.args(words).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the binary runs")
}

#[test]
fn an_interrupted_run_prints_its_result() {
    let server = Server::start(0, "");
    let running = start(&["-d", "--rate", "50", "-m", "100000", &server.address]);
    while server.messages().len() < 5 {
        thread::sleep(Duration::from_millis(10));
    }
    interrupt(&running);
    let output = running.wait_with_output().expect("it ends");
    let figures = figures(&output);
    assert_eq!(output.status.code(), Some(1), "not all was sent");
    assert_eq!(figures["accepted"], server.messages().len());
    assert_eq!(figures["first_fault"], "stopped by a signal", "{figures:#}");
}

#[test]
fn a_signal_ends_a_run_whose_server_is_silent_and_whose_turns_are_far_ahead() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = silent.local_addr().expect("it is bound").to_string();
    let running = start(&["-A", "-s", "20", "--rate", "0.01", "-m", "20", &address]);
    // One session waits for the banner, the others for their turn.
    let _connection = silent.accept().expect("a client comes");
    let begin = Instant::now();
    interrupt(&running);
    let output = running.wait_with_output().expect("it ends");
    assert!(begin.elapsed() < Duration::from_secs(60), "it would have waited for minutes");
    let figures = figures(&output);
    assert_eq!(figures["not_sent"], 20, "{figures:#}");
}
