//! The sink as a process: dialogues over raw sockets, clients of other projects, our source, and the
//! ledger of lost, duplicated and alien mail.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::process::Output;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use crate::PATIENCE;
use crate::Sink;
use crate::errors;
use crate::figures;
use crate::load;
use crate::source_to;

impl Sink {
    /// Delays replies at this moment of a behaviour file.
    fn delaying(at: &str, ms: u32, words: &[&str]) -> Sink {
        let folder = tempfile::tempdir().expect("a folder is made");
        let file = folder.path().join("behaviour.toml");
        let text = format!("[default]\ndelay = [{{ at = \"{at}\", ms = {ms} }}]\n");
        std::fs::write(&file, text).expect("it is written");
        // The file is read before the sink listens.
        Sink::start(&[words, &["--behaviour", file.to_str().expect("a path of text")]].concat())
    }

    fn connect(&self) -> Client {
        Client::connect(self.address())
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(address: &str) -> Client {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time may be set");
        Client(BufReader::new(stream))
    }

    fn say(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).expect("it is taken");
    }

    /// One reply, of one line or several.
    fn hear(&mut self) -> String {
        let mut all = String::new();
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).expect("it answers") == 0 {
                return all + "=closed";
            }
            all += &line;
            if line.as_bytes().get(3) != Some(&b'-') {
                return all;
            }
        }
    }

    /// `> ` is sent with CRLF, `~ ` without; `< ` is the start of the reply, `= closed` the end.
    fn talk(&mut self, dialogue: &str) {
        for line in dialogue.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (mark, text) = line.split_at(2);
            let text = text.replace("\\r", "\r").replace("\\n", "\n");
            match mark {
                "> " => self.say(&(text + "\r\n")),
                "~ " => self.say(&text),
                "< " => {
                    let heard = self.hear();
                    assert!(heard.starts_with(&text), "`{text}` was expected: {heard}");
                }
                "= " => {
                    let mut rest = String::new();
                    // A reset is an end as well.
                    let _ = self.0.read_to_string(&mut rest);
                    assert_eq!(rest, "", "nothing is said any more");
                }
                _ => panic!("{line}"),
            }
        }
    }
}

fn source(sink: &Sink, words: &str) -> Output {
    source_to(sink.address(), &words.split(' ').collect::<Vec<_>>())
}

fn has(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    found.is_ok_and(|found| found.status.success())
}

#[test]
fn one_write_or_many_the_dialogue_is_the_same() {
    let sink = Sink::start(&["-h", "here"]);
    let mut client = sink.connect();
    client.talk(
        r"
        < 220 here ESMTP
        > RCPT TO:<b@y.test>
        < 503
        > EHLO there
        < 250-here
        > DATA
        < 503
        > MAIL FROM:<a@x.test>
        < 250
        > DATA
        < 554
        > MAIL FROM:<a@x.test>
        < 503
        > RCPT TO:<b@y.test>
        < 250
        > BDAT 10
        ~ 0123456789
        < 250
        > BDAT 3 LAST
        ~ 012
        < 250
        ~ MAIL FROM:<>\r\nRCPT TO:<c@y.test>\r\nDATA\r\nX-Loadtest-Id: r-1\r\n\r\n..\r
        ~ \n.\r\nNOOP\r\nAUTH PLAIN AGEAYg==\r\nNONSENSE\r\nBDAT 4 LAST\r\nQUITVRFY x\r\n
        < 250
        < 250
        < 354
        < 250
        < 250
        < 235
        < 500
        < 503
        < 252
        > QUIT
        < 221
        = closed
        ",
    );
    let told = sink.stop();
    assert_eq!((&told["counts"]["messages"], &told["counts"]["quits"]), (&2.into(), &1.into()));
    assert_eq!((&told["ledger"]["distinct"], &told["ledger"]["nameless"]), (&1.into(), &1.into()));
}

#[test]
fn flags_refuse_and_disconnect_as_in_smtp_sink() {
    let rows: [(&[&str], &str); 5] = [
        (&[], "< 220\n> AUTH LOGIN\n< 334\n> *\n< 501\n> NOOP\n< 250"),
        (&["-r", "RCPT"], "< 220\n> MAIL FROM:<>\n< 250\n> RCPT TO:<a>\n< 450 4.3.0"),
        (
            &["-f", "."],
            concat!(
                "< 220\n> MAIL FROM:<>\n< 250\n> RCPT TO:<a>\n< 250\n> DATA\n< 354\n> .\n< 500\n",
                "> MAIL FROM:<>\n< 250",
            ),
        ),
        (&["-q", "MAIL"], "< 220\n> MAIL FROM:<>\n= closed"),
        (&["-r", "CONNECT"], "< 450\n= closed"),
    ];
    for (flags, dialogue) in rows {
        let sink = Sink::start(flags);
        sink.connect().talk(dialogue);
        assert_eq!(sink.stop()["counts"]["messages"], 0, "{flags:?}");
    }
}

#[test]
fn input_after_a_delayed_command_is_processed() {
    let sink = Sink::start(&["-w", "1"]);
    sink.connect().talk(
        "< 220\n~ MAIL FROM:<>\\r\\nRCPT TO:<a>\\r\\nDATA\\r\\nx\\r\\n.\\r\\nNOOP\\r\\n\n\
         < 250\n< 250\n< 354\n< 250\n< 250",
    );
    assert_eq!(sink.stop()["counts"]["messages"], 1);
}

#[test]
fn lmtp_answers_for_each_recipient() {
    let sink = Sink::start(&["-L", "-M", "1"]);
    sink.connect().talk(
        "< 220\n> EHLO x\n< 500\n> LHLO x\n< 250\n> MAIL FROM:<>\n< 250\n> RCPT TO:<a>\n< 250\n\
         > RCPT TO:<b>\n< 250\n> DATA\n< 354\n> .\n< 250\n< 250",
    );
    let told = sink.end();
    assert_eq!((&told["counts"]["messages"], &told["counts"]["copies"]), (&1.into(), &2.into()));
}

#[test]
fn lmtp_refuses_a_whole_chunk_for_each_recipient() {
    let sink = Sink::start(&["-L", "-r", "DATA"]);
    let to = "> MAIL FROM:<>\n< 250\n> RCPT TO:<a>\n< 250\n> RCPT TO:<b>\n< 250\n";
    let dialogue = format!("< 220\n> LHLO x\n< 250\n{to}> BDAT 1 LAST\n~ x\n< 45\n< 45\n");
    let next = format!("{to}> BDAT 1\n~ x\n< 45\n> RSET\n< 250\n> QUIT\n< 221\n= closed");
    sink.connect().talk(&(dialogue + &next));
    assert_eq!(sink.stop()["counts"]["messages"], 0);
}

#[test]
fn a_copy_in_the_ledger_is_answered_though_the_sink_is_stopped() {
    // It stops when the message is in the ledger, long before the delayed reply.
    let sink = Sink::delaying("end", 60_000, &["-M", "1"]);
    let begin = Instant::now();
    sink.connect().talk(
        "< 220\n> EHLO x\n< 250\n> MAIL FROM:<>\n< 250\n> RCPT TO:<a>\n< 250\n> DATA\n< 354\n\
         ~ X-Loadtest-Id: r-0-1\\r\\n\\r\\n.\\r\\n\n< 250\n< 421\n= closed",
    );
    assert_eq!(sink.end()["ledger"]["distinct"], 1);
    assert!(begin.elapsed() < Duration::from_secs(30), "it has not waited");
}

#[test]
fn errors_are_reported_before_the_run() {
    let sink = Sink::start(&["--cores", "2"]);
    let (file, place) = ("no-such-folder/x", sink.address());
    for (words, told) in [
        (&["--cores", "2", place][..], "ss -ltnp"),
        (&["--cores", "1", place], "ss -ltnp"),
        (&["--ledger", file, "127.0.0.1:0"], file),
    ] {
        let output = load(&["sink"]).args(words).output().expect("the binary runs");
        let line = errors(&output);
        assert!(output.status.code() == Some(2) && line.contains(told), "{words:?}: {line}");
    }
    sink.stop();
}

#[test]
fn pipelined_commands_are_not_timed() {
    let sink = Sink::delaying("rcpt", 50, &[]);
    sink.connect().talk(
        "< 220\n> EHLO x\n< 250\n~ MAIL FROM:<>\\r\\nRCPT TO:<a>\\r\\nDATA\\r\\n\n< 250\n< 250\n\
         < 354\n> .\n< 250\n> QUIT\n< 221\n= closed",
    );
    let told = sink.stop();
    assert_eq!(told["until_MAIL_us"]["count"], 1, "{told}");
    assert!(told["until_DATA_us"].is_null(), "DATA came before the reply to MAIL: {told}");
}

#[test]
fn latencies_are_recorded_by_stage_and_second() {
    let sink = Sink::delaying("rcpt", 200, &[]);
    let mut client = sink.connect();
    client.talk("< 220\n> EHLO x\n< 250\n> MAIL FROM:<>\n< 250");
    std::thread::sleep(Duration::from_millis(400));
    client.talk("> RCPT TO:<a@b.test>\n< 250\n> DATA\n< 354");
    std::thread::sleep(Duration::from_millis(200));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let begun_us = now.expect("it is later").as_micros() - 3_000_000;
    client.say(&format!("X-Loadtest-Id: r-0-{begun_us}\r\n\r\n.\r\n"));
    client.talk("< 250\n> QUIT\n< 221\n= closed");
    let told = sink.stop();
    // What the client took counts from when the sink has written, which on a busy machine may be
    // behind what the client has read already: 100 ms are left for each time.
    let rows = [
        ("until_EHLO", 0),
        ("until_RCPT", 300),
        ("until_DATA", 0),
        ("body", 100),
        ("MAIL_to_dot", 600),
        ("answer", 200),
        ("session", 600),
        ("end_to_end", 3000),
    ];
    for (name, least_ms) in rows {
        let stage = &told[format!("{name}_us")];
        let max = stage["max"].as_u64().unwrap_or_else(|| panic!("{name}: {told}"));
        // Histograms have three digits, and this machine may be slow.
        assert!((least_ms * 999..least_ms * 1000 + 15_000_000).contains(&max), "{name}: {stage}");
    }
    let intervals = told["intervals"].as_array().expect("there are seconds");
    let counts = intervals.iter().filter_map(|one| one["us"]["count"].as_u64());
    assert_eq!(counts.sum::<u64>(), 1, "{told}");
    let busy = told["seconds"].as_f64().expect("it is told");
    let seconds: f64 = intervals.iter().filter_map(|one| one["seconds"].as_f64()).sum();
    assert!((0.35..20.0).contains(&busy) && (busy - seconds).abs() < 0.01, "{told}");
    assert_eq!((&told["kind"], &told["run"]), (&"sink".into(), &"r".into()));
}

#[test]
fn a_delay_holds_only_its_own_command() {
    let sink = Sink::delaying("rcpt", 2000, &[]);
    let mut client = sink.connect();
    client.talk("< 220");
    let begin = Instant::now();
    client.say("MAIL FROM:<>\r\nRCPT TO:<a>\r\n");
    client.talk("< 250 2.1.0");
    let first = begin.elapsed();
    client.talk("< 250 2.1.5");
    assert!(first < Duration::from_millis(1500), "what came before did not wait: {first:?}");
    assert!(begin.elapsed() >= Duration::from_secs(2));
}

#[test]
fn many_addresses_are_one_sink() {
    let sink = Sink::start_at(&["--cores", "2"], &["127.0.1.0/31:0", "127.0.0.1:0"]);
    assert_eq!(sink.addresses.len(), 3);
    for address in &sink.addresses {
        Client::connect(address).talk("< 220\n> QUIT\n< 221\n= closed");
    }
    assert_eq!(sink.stop()["counts"]["connections"], 3);
}

/// A sink with a ledger, to which messages are sent one by one.
struct Kept {
    folder: TempDir,
    sink: Sink,
    client: Client,
}

impl Kept {
    fn start() -> Kept {
        let folder = tempfile::tempdir().expect("a folder is made");
        let seen = folder.path().join("seen");
        let sink = Sink::start(&["--ledger", seen.to_str().expect("a path of text")]);
        let mut client = sink.connect();
        client.talk("< 220");
        Kept { folder, sink, client }
    }

    fn send(&mut self, to: &str, text: &str) {
        self.client.say(&format!("MAIL FROM:<>\r\nRCPT TO:<{to}>\r\nDATA\r\n"));
        self.client.talk("< 250\n< 250\n< 354");
        self.client.say(&format!("{text}.\r\n"));
        self.client.talk("< 250");
    }

    /// Stops the sink; returns its record and the balance against these fates, which is not well.
    fn weigh(self, fates: &str) -> (Value, Value) {
        let told = self.sink.stop();
        let (code, balance) = weigh(self.folder.path(), "r.1", fates);
        assert_eq!(code, Some(1));
        (told, balance)
    }
}

/// Compares the file `seen` of this folder with these fates of a run.
fn weigh(folder: &Path, run: &str, fates: &str) -> (Option<i32>, Value) {
    let (sent, seen) = (folder.join("sent"), folder.join("seen"));
    let text = format!("ringpost-load sent 1\nrun {run}\n{fates}\n");
    std::fs::write(&sent, text).expect("it is written");
    let output = load(&["ledger", "--json"]).args([sent, seen]).output();
    let output = output.expect("the binary runs");
    (output.status.code(), figures(&output))
}

#[track_caller]
fn check(told: &Value, expected: &[(&str, u64)]) {
    for (name, count) in expected {
        assert_eq!(told[name], *count, "{name}: {told}");
    }
}

#[test]
fn the_ledger_detects_lost_duplicated_and_alien_mail() {
    let mut kept = Kept::start();
    let mut send = |id: &str| {
        kept.send("A@b.test", &format!("Received: by x\r\n{id}\r\nS: x\r\n\r\nbody\r\n"));
    };
    let ids = ["0", "1", "1-1700000000000000", "3", "7"];
    ids.iter().for_each(|id| send(&format!("X-Loadtest-Id: r.1-{id}")));
    send("X-Loadtest-Id: q-0");
    send("X: y");
    let (told, balance) = kept.weigh("recipients 1\n3 accepted\n1 unknown\n1 not-sent");
    assert_eq!(told["end_to_end_us"]["count"], 1, "one of them told its begin: {told}");
    // Alien: one behind the end, one of another run, one without an id.
    check(&balance, &[("lost", 1), ("duplicated", 1), ("alien", 3), ("unknown_but_seen", 1)]);
    check(&balance, &[("arrived", 2)]);
}

/// A delivery status notification as relays send it.
fn report(one: &str, action: &str, id: &str) -> String {
    format!(
        "Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n--b\r\n\r\n\
         Words.\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; x\r\n\
         \r\nFinal-Recipient: rfc822; {one}\r\nAction: {action}\r\nStatus: 5.1.1\r\n\r\n--b\r\n\
         Content-Type: text/rfc822-headers\r\n\r\n{id}\r\nSubject: x\r\n\r\n--b--\r\n"
    )
}

#[test]
fn bounced_corrupted_and_lost_mail_is_told_apart() {
    let mut kept = Kept::start();
    let id = |number: u32| format!("X-Loadtest-Id: r.1-{number}");
    // The sum is that of an empty body.
    let sum = format!("{:08x}", crc32fast::hash(b"r.1-0-5"));
    kept.send("a@b.test", &format!("X-Loadtest-Id: r.1-0-5-{sum}\r\n\r\n"));
    kept.send("a@b.test", &format!("X-Loadtest-Id: r.1-1-5-{sum}\r\n\r\n"));
    kept.send("me@b.test", &report("A@b.test", "failed", &id(2)));
    kept.send("me@b.test", &report("a@b.test", "delayed", &id(3)));
    let (told, balance) = kept.weigh("recipients 1\n4 accepted");
    let ledger = [("distinct", 2), ("corrupted", 1), ("bounced", 1), ("notices", 1)];
    check(&told["ledger"], &ledger);
    check(&told["counts"], &[("reports", 2), ("corrupted", 1)]);
    check(&balance, &[("arrived", 2), ("bounced", 1), ("lost", 1), ("corrupted", 1), ("alien", 0)]);
}

#[test]
fn our_source_is_counted_to_the_last_message() {
    let folder = tempfile::tempdir().expect("a folder is made");
    let seen = folder.path().join("seen");
    let words = ["--cores", "2", "-M", "3000", "--ledger", seen.to_str().expect("a path of text")];
    let sink = Sink::start(&words);
    let output = source(&sink, "-d -s 20 -m 3000 --sizes 1-9k*9,200k*1 -r 2 -N -t to@c.test");
    assert!(output.status.success(), "{output:?}");
    let run = figures(&output)["run"].as_str().expect("it is told").to_owned();
    let told = sink.end();
    assert_eq!((&told["ledger"]["distinct"], &told["ledger"]["again"]), (&6000.into(), &0.into()));
    assert_eq!(told["ledger"]["corrupted"], 0, "{told}");
    let (code, balance) = weigh(folder.path(), &run, "recipients 2\n3000 accepted");
    assert_eq!((code, &balance["arrived"]), (Some(0), &6000.into()), "{balance}");
}

#[test]
fn a_folder_of_mail_comes_whole_by_data_and_by_bdat() {
    let folder = tempfile::tempdir().expect("a folder is made");
    let texts = ["S: a\n\n.dot\n..\n.\nx", "\nno header\n", "S: c\n", "S: d\n\n\n.\n\n"];
    for (name, text) in texts.iter().enumerate() {
        let path = folder.path().join(format!("{name}.eml"));
        std::fs::write(path, text).expect("there is room");
    }
    let words = format!("-d -m 40 -t a@b.test --eml {}", folder.path().display());
    for flag in ["--no-chunking", "--no-pipelining"] {
        let sink = Sink::start(&["-M", "40"]);
        let output = source(&sink, &format!("{words} {flag}"));
        assert!(output.status.success(), "{output:?}");
        let told = sink.end();
        let ledger = &told["ledger"];
        assert_eq!((&ledger["distinct"], &ledger["corrupted"]), (&40.into(), &0.into()), "{told}");
    }
}

#[test]
fn domains_behave_as_the_file_says() {
    let folder = tempfile::tempdir().expect("a folder is made");
    let file = folder.path().join("behaviour.toml");
    let text = r#"
[[domain]]
match = ["0.test"]
reply = [{ at = "rcpt", rate = 1.0, text = "550-5.1.1 no\n550 5.1.1 such user" }]
[[domain]]
match = ["*.1.test"]
reply = [{ at = "end", rate = 0.5, text = "451 4.3.0 later" }]
[[domain]]
match = ["grey.test"]
greylist_seconds = 0.2
[[domain]]
match = ["one.test"]
connections_max = 1
messages_per_connection_max = 1
[[domain]]
match = ["later.test"]
reply = [{ at = "data", rate = 1.0, text = "451 4.3.0 later" }]
[[domain]]
match = ["drop.test"]
drop = [{ at = "data", rate = 1.0 }]
[[domain]]
match = ["slow.test"]
tarpit_bytes_per_second = 50
"#;
    std::fs::write(&file, text).expect("it is written");
    let sink = Sink::start(&["--behaviour", file.to_str().expect("a path of text"), "--seed", "7"]);
    let mail = "> MAIL FROM:<a@x.test>\n< 250\n";
    let body = "> DATA\n< 354\n> .\n";
    let mut client = sink.connect();
    client.talk(&format!("< 220\n{mail}> RCPT TO:<a@0.TEST>\n< 550-5.1.1 no\\r\\n550 5.1.1 such"));
    client.talk("> RCPT TO:<a@grey.test>\n< 451 4.7.1");
    let deadline = Instant::now() + PATIENCE;
    loop {
        client.say("RCPT TO:<a@grey.test>\r\n");
        let heard = client.hear();
        if heard.starts_with("250") {
            break;
        }
        assert!(heard.starts_with("451") && Instant::now() < deadline, "{heard}");
    }
    client.talk(&format!("> RSET\n< 250\n{mail}> RCPT TO:<a@one.test>\n< 250\n{body}< 250"));
    sink.connect().talk(&format!("< 220\n{mail}> RCPT TO:<a@one.test>\n< 421\n= closed"));
    client.talk(&format!("{mail}> RCPT TO:<a@one.test>\n< 421\n= closed"));
    sink.connect().talk(&format!("< 220\n{mail}> RCPT TO:<a@drop.test>\n< 250\n> DATA\n= closed"));
    // RFC 3030 s2: what follows the refused chunk is no message, and is swallowed.
    sink.connect().talk(&format!(
        "< 220\n{mail}> RCPT TO:<a@later.test>\n< 250\n> BDAT 1\n~ x\n< 451\n> BDAT 6 LAST\n\
         ~ QUIT\\r\\n\n< 503\n> NOOP\n< 250\n> QUIT\n< 221\n= closed"
    ));
    let mut slow = sink.connect();
    slow.talk(&format!("< 220\n{mail}"));
    let begin = Instant::now();
    slow.talk("> RCPT TO:<a@slow.test>\n< 250 2.1.5");
    assert!(begin.elapsed() >= Duration::from_millis(250), "14 bytes at 50 a second");
    let output = source(&sink, "-A -d -s 1 -m 400 -t x@a.1.test");
    let found = figures(&output);
    let refused = found["refused"].as_u64().expect("it is told");
    assert!((140..=260).contains(&refused), "half of 400: {found}");
    let told = sink.stop();
    let taken = told["ledger"]["distinct"].as_u64().expect("it is told");
    assert_eq!(taken, 400 - refused, "what was refused is in no ledger");
}

const SMTPLIB: &str = r#"
import smtplib, ssl, sys
context = ssl._create_unverified_context()
port, how = int(sys.argv[1].split(":")[1]), sys.argv[2]
if how == "tls":
    client = smtplib.SMTP_SSL("127.0.0.1", port, context=context, timeout=20)
else:
    client = smtplib.SMTP("127.0.0.1", port, timeout=20)
    client.ehlo()
    assert client.has_extn("starttls")
    client.starttls(context=context)
client.ehlo()
assert not client.has_extn("starttls"), "it is not offered twice"
for name in ("pipelining", "8bitmime", "chunking", "smtputf8", "enhancedstatuscodes"):
    assert client.has_extn(name), name
client.login("user", "secret")
for size in (10, 100000):
    text = "X-Loadtest-Id: py-%d\r\nSubject: x\r\n\r\n%s\r\n" % (size, ".dot\r\n" * (size // 6))
    assert client.sendmail("a@x.test", ["b@y.test", "c@y.test"], text) == {}
client.quit()
"#;

#[test]
fn smtplib_sends_under_tls() {
    for (flag, how) in [("--starttls", "starttls"), ("--tls", "tls")] {
        let sink = Sink::start(&[flag]);
        let mut python = Command::new("python3");
        let output = python.args(["-c", SMTPLIB, sink.address(), how]).output();
        let output = output.expect("python3 is needed for this test");
        assert!(output.status.success(), "{how}: {}", String::from_utf8_lossy(&output.stderr));
        let told = sink.stop();
        assert_eq!(told["ledger"]["distinct"], 4, "{told}");
    }
}

#[test]
fn smtp_source_sends_to_it() {
    if !has("smtp-source") {
        eprintln!("SKIPPED: smtp-source (Debian's postfix) is not installed");
        return;
    }
    let sink = Sink::start(&["-M", "200"]);
    let words = ["-s", "5", "-m", "200", "-l", "4096", "-r", "3", "-d"];
    let status = Command::new("smtp-source").args(words).arg(sink.address()).status();
    assert!(status.expect("it runs").success());
    let told = sink.end();
    assert_eq!(
        (&told["counts"]["messages"], &told["counts"]["copies"]),
        (&200.into(), &600.into())
    );
    assert_eq!(told["ledger"]["nameless"], 600, "smtp-source writes no ids");
}
