//! SMTP dialogues, written as text (`tests/dialogues/*.txt`, format in `script`) and played to a
//! server.
//!
//! Each is played three times: line by line, byte by byte, and in the largest groups that RFC 2920
//! allows. A server implements `Peer`: `machine` is the sans-I/O one, `socket` the built binary.
//! Random dialogues are in `segments`.

mod machine;
mod script;
mod segments;
mod socket;

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;

use proptest::prelude::ProptestConfig;
use proptest::prop_assert_eq;
use proptest::proptest;

use crate::dialogue::machine::MachinePeer;
use crate::dialogue::script::Dialogue;
use crate::dialogue::script::Feed;
use crate::dialogue::script::Item;
use crate::dialogue::script::Settings;
use crate::dialogue::socket::Servers;

/// A server under test.
pub trait Peer {
    fn send(&mut self, bytes: &[u8]);
    /// The next complete reply with all its lines; `None` if there is no further reply.
    fn receive_reply(&mut self) -> Option<String>;
    /// Whether the server has closed.
    fn is_closed(&mut self) -> bool;
    /// The client side of a TLS handshake.
    fn start_tls(&mut self);
    /// The body of the last stored message, and the number of messages; `None` if unknown.
    fn kept(&mut self) -> Option<(usize, Vec<u8>)> {
        None
    }
    /// The bodies of all messages, in the order of their replies.
    fn all_kept(&mut self) -> Vec<Vec<u8>>;
    /// Waits until the server has read all input, or has closed.
    fn wait_until_read(&mut self) {}
    /// Ends the client's side; returns a reply that still arrives.
    fn finish(&mut self) -> Option<String> {
        self.receive_reply()
    }
}

/// Plays the client's side of `dialogue`; the error says where the server deviates.
fn play(dialogue: &Dialogue, feed: Feed, peer: &mut dyn Peer) -> Result<(), String> {
    let greeting = peer.receive_reply().ok_or("no greeting")?;
    if !greeting.starts_with("220 ") {
        return Err(format!("the greeting is {greeting:?}"));
    }
    let mut held = Held::default();
    for (line, item) in &dialogue.items {
        let at = |what: String| format!("line {line}: {what}");
        match item {
            Item::Send(bytes) => {
                if feed != Feed::Groups || held.group_ended {
                    held.flush(feed, peer)?;
                }
                held.bytes.extend_from_slice(bytes);
                held.group_ended = ends_group(bytes);
            }
            Item::Expect(reply) => held.expected.push((*line, reply.clone())),
            Item::StartTls => {
                held.flush(feed, peer)?;
                peer.start_tls();
            }
            Item::Closed => {
                held.flush(feed, peer)?;
                if !peer.is_closed() {
                    return Err(at("the session is still open".into()));
                }
            }
            Item::Kept(body) => {
                held.flush(feed, peer)?;
                if let Some((_, kept)) = peer.kept().filter(|(_, kept)| kept != body) {
                    return Err(at(format!("kept {:?}", kept.escape_ascii().to_string())));
                }
            }
            Item::Messages(count) => {
                held.flush(feed, peer)?;
                if let Some((kept, _)) = peer.kept().filter(|(kept, _)| kept != count) {
                    return Err(at(format!("{kept} messages were stored")));
                }
            }
        }
    }
    held.flush(feed, peer)?;
    match peer.finish() {
        Some(reply) => Err(format!("an unexpected reply: {reply:?}")),
        None => Ok(()),
    }
}

/// Unsent input of the client, and the replies expected after it.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    expected: Vec<(usize, script::Expected)>,
    group_ended: bool,
}

impl Held {
    fn flush(&mut self, feed: Feed, peer: &mut dyn Peer) -> Result<(), String> {
        match feed {
            Feed::Bytes => self.bytes.chunks(1).for_each(|byte| peer.send(byte)),
            Feed::Lines | Feed::Groups if self.bytes.is_empty() => {}
            Feed::Lines | Feed::Groups => peer.send(&self.bytes),
        }
        self.bytes.clear();
        for (line, expected) in self.expected.drain(..) {
            let reply = peer.receive_reply().ok_or(format!("line {line}: no reply"))?;
            expected.judge(&reply).map_err(|why| format!("line {line}: {why} in {reply:?}"))?;
        }
        Ok(())
    }
}

/// Whether the client must wait for the reply to the last of these lines (RFC 2920 s3.1).
fn ends_group(bytes: &[u8]) -> bool {
    let text = bytes.strip_suffix(b"\r\n").unwrap_or(bytes);
    let start = memchr::memrchr(b'\n', text).map_or(0, |at| at + 1);
    let line = text[start..].to_ascii_uppercase();
    let verbs = ["EHLO", "HELO", "LHLO", "DATA", "STARTTLS", "XCLIENT", "AUTH", "QUIT"];
    verbs.iter().any(|verb| line.starts_with(verb.as_bytes()))
}

fn all_dialogues() -> Vec<Dialogue> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogues");
    let mut paths: Vec<_> = fs::read_dir(&folder)
        .expect("the dialogues lie beside the tests")
        .map(|entry| entry.expect("the folder can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    paths.sort();
    let mut all = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).expect("a dialogue is UTF-8 text");
        let file =
            path.file_name().expect("the path is that of a file").to_string_lossy().into_owned();
        all.extend(script::parse(&file, &text));
    }
    all
}

#[test]
fn the_machine_follows_every_dialogue() {
    let dialogues = all_dialogues();
    assert!(dialogues.len() >= 120, "only {} dialogues were found", dialogues.len());
    let mut faults = String::new();
    let mut played = 0;
    for dialogue in &dialogues {
        for feed in dialogue.settings.feeds() {
            let mut peer = MachinePeer::new(&dialogue.settings);
            played += 1;
            if let Err(why) = play(dialogue, feed, &mut peer) {
                let Dialogue { file, name, .. } = dialogue;
                writeln!(faults, "{file}: {name} ({feed:?}): {why}").expect("writing to a string");
            }
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
    println!("{} dialogues, played {played} times", dialogues.len());
}

/// Number of dialogues played at once against real servers.
const CONCURRENT_DIALOGUES: usize = 8;

#[test]
fn the_server_follows_every_dialogue() {
    let dialogues = all_dialogues();
    let (machine_only, real): (Vec<_>, Vec<_>) =
        dialogues.iter().partition(|dialogue| dialogue.settings.machine_only);
    let servers = Servers::build(&real);
    let mut plays = Vec::new();
    for dialogue in &real {
        plays.extend(dialogue.settings.feeds().into_iter().map(|feed| (*dialogue, feed)));
    }
    let next = AtomicUsize::new(0);
    let faults = Mutex::new(String::new());
    thread::scope(|scope| {
        for _ in 0..CONCURRENT_DIALOGUES {
            scope.spawn(|| {
                while let Some((dialogue, feed)) = plays.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut peer = servers.connect(&dialogue.settings);
                    if let Err(why) = play(dialogue, *feed, &mut peer) {
                        let Dialogue { file, name, .. } = dialogue;
                        let mut faults = faults.lock().expect("no thread panics here");
                        writeln!(faults, "{file}: {name} ({feed:?}): {why}").expect("a string");
                    }
                }
            });
        }
    });
    let faults = faults.into_inner().expect("no thread panics here");
    assert!(faults.is_empty(), "\n{faults}");
    assert_eq!(servers.logged_errors(), "", "a server has logged errors");
    let (count, started) = (real.len(), servers.len());
    println!("{count} dialogues on sockets, played {} times to {started} servers", plays.len());
    for dialogue in machine_only {
        println!("sans-I/O server only: {}: {}", dialogue.file, dialogue.name);
    }
}

#[test]
fn a_dialogue_can_fail() {
    let rows = [
        ("wrong code", "> NOOP\n< 550\n"),
        ("wrong enhanced code", "> NOOP\n< 250 2.1.5\n"),
        ("a reply missing", "> NOOP\n< 250\n< 250\n"),
        ("an unexpected reply", "> NOOP\n"),
        ("not closed", "> NOOP\n< 250\n= closed\n"),
        ("missing line", "> EHLO a.test\n<- NOSUCHTHING\n< 250\n"),
        ("excluded line", "> EHLO a.test\n<! PIPELINING\n< 250\n"),
        ("messages", "> NOOP\n< 250\n= messages 1\n"),
        ("body", "> NOOP\n< 250\n= kept something\n"),
    ];
    for (name, text) in rows {
        let dialogues = script::parse(name, &format!("# {name}\n{text}"));
        let mut peer = MachinePeer::new(&dialogues[0].settings);
        assert!(play(&dialogues[0], Feed::Lines, &mut peer).is_err(), "{name} was not detected");
    }
}

/// Pieces of valid and invalid client input, for random sessions.
const PIECES: [&str; 34] = [
    "EHLO a.test\r\n",
    "HELO a.test\r\n",
    "MAIL FROM:<a@x.test>\r\n",
    "MAIL FROM:<> BODY=BINARYMIME SIZE=9\r\n",
    "MAIL FROM:<a@refused.test>\r\n",
    "MAIL FROM:<a@x.test> ENVID=+ FOO=1\r\n",
    "RCPT TO:<b@y.test>\r\n",
    "RCPT TO:<b@y.test> NOTIFY=NEVER ORCPT=rfc822;b@y\r\n",
    "RCPT TO:<b@refused.test>\r\n",
    "DATA\r\n",
    "one\r\n..two\r\n.\r\n",
    ".\r\n",
    "BDAT 5\r\n",
    "BDAT 0 LAST\r\n",
    "BDAT 12 LAST\r\n",
    "BDAT 999999999\r\n",
    "BDAT x\r\n",
    "BDAT\t5\r\n",
    "hello",
    "RSET\r\n",
    "NOOP x\r\n",
    "VRFY a\r\n",
    "HELP\r\n",
    "STARTTLS\r\n",
    "XCLIENT ADDR=192.0.2.1 HELO=q.test\r\n",
    "XCLIENT ADDR=1\r\n",
    "nonsense\r\n",
    "\r\n",
    "\r",
    "\n",
    "\0",
    " ",
    "\u{e4}",
    "QUIT\r\n",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    /// The split of the stream changes neither the replies nor the stored messages.
    #[test]
    fn splits_change_nothing(
        picks in proptest::collection::vec(0..PIECES.len(), 0..40),
        cuts in proptest::collection::vec(1..40_usize, 1..20),
        lmtp: bool,
        greeted: bool,
    ) {
        let settings =
            Settings { lmtp, xclient: true, pipelining_check: false, ..Settings::default() };
        let mut stream = Vec::new();
        if greeted {
            stream.extend_from_slice(if lmtp { b"LHLO" } else { b"EHLO" });
            stream.extend_from_slice(b" a.test\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\n");
        }
        stream.extend(picks.iter().flat_map(|pick| PIECES[*pick].bytes()));
        let mut whole = MachinePeer::new(&settings);
        whole.send(&stream);
        let mut pieces = MachinePeer::new(&settings);
        let mut rest = &stream[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, behind) = rest.split_at(rest.len().min(*cut));
            pieces.send(piece);
            rest = behind;
        }
        // STARTTLS drops the input after it, so from there on a split makes a difference.
        if !whole.has_started_tls() && !pieces.has_started_tls() {
            prop_assert_eq!(whole.said(), pieces.said());
            prop_assert_eq!(whole.kept(), pieces.kept());
        }
    }
}
