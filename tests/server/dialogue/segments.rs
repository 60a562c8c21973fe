//! Random pipelined dialogues over random TCP segments. The segmentation must change neither the
//! replies nor the stored messages.
//!
//! Cuts are placed by the grammar: inside each command line, at each edge of a chunk, at the
//! server's buffer sizes and one byte before and after. Uniformly random cuts seldom hit the
//! boundary between a command and a counted body.

use std::ops::Range;

use proptest::prelude::Just;
use proptest::prelude::ProptestConfig;
use proptest::prelude::Strategy;
use proptest::prelude::any;
use proptest::prop_oneof;
use proptest::test_runner::TestCaseError;
use proptest::test_runner::TestRunner;
use ringpost::base::limits::CHUNK_BYTES;
use ringpost::base::limits::COMMAND_BYTES_MAX;

use crate::dialogue::Peer;
use crate::dialogue::machine::MachinePeer;
use crate::dialogue::script::Dialogue;
use crate::dialogue::script::Settings;
use crate::dialogue::socket::Servers;
use crate::support::stuffed;

/// Body text that would create messages if it were read as commands.
const COMMANDS: &[u8] = b"RSET\r\nMAIL FROM:<evil@x.test>\r\nRCPT TO:<b@y.test>\r\n\
    BDAT 4 LAST\r\nevilDATA\r\nevil\r\n.\r\n..\r\nBDAT 0 LAST\r\nNOOP\r\nQUIT\r\n";

/// A message, possibly reset before its end, or a command between messages.
#[derive(Clone, Debug)]
enum Part {
    Data { bytes: usize, from: usize },
    Chunks { chunks: Vec<usize>, end: ChunksEnd, from: usize, binary: bool },
    Noop,
}

#[derive(Clone, Copy, Debug)]
enum ChunksEnd {
    Last,
    /// `BDAT 0 LAST`.
    EmptyLast,
    Rset,
}

/// The position of the next cut.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// At a boundary of the grammar, this many boundaries further on.
    Mark(usize),
    /// After this many bytes.
    Bytes(usize),
}

#[derive(Clone, Debug)]
struct Case {
    lmtp: bool,
    recipients: usize,
    parts: Vec<Part>,
    cuts: Vec<Cut>,
}

/// The input that the client sends before it waits, and the expected replies.
#[derive(Default)]
struct Group {
    bytes: Vec<u8>,
    marks: Vec<usize>,
    replies: Vec<String>,
}

impl Group {
    fn line(&mut self, line: &str) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(line.as_bytes());
        self.bytes.extend_from_slice(b"\r\n");
        let end = self.bytes.len();
        self.marks.extend([start + 1, start + 3, start + line.len() / 2, start + line.len()]);
        self.marks.extend([end - 1, end]);
    }

    fn body(&mut self, body: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(body);
        let end = self.bytes.len();
        self.marks.extend([start + 1, start + body.len() / 2]);
        self.marks.extend(end.saturating_sub(5).max(start)..=end);
    }

    fn expects(&mut self, reply: &str) {
        self.replies.push(reply.to_owned());
    }
}

/// The groups of a dialogue, and the messages that must be stored.
#[derive(Default)]
struct Plan {
    groups: Vec<Group>,
    kept: Vec<Vec<u8>>,
}

impl Plan {
    fn of(case: &Case) -> Plan {
        let mut plan = Plan { groups: vec![Group::default()], kept: Vec::new() };
        plan.last().line(if case.lmtp { "LHLO c.test" } else { "EHLO c.test" });
        plan.last().expects("250 ");
        plan.groups.push(Group::default());
        for part in &case.parts {
            plan.add(case, part);
        }
        plan.last().line("NOOP");
        plan.last().expects("250 2.0.0");
        plan
    }

    fn last(&mut self) -> &mut Group {
        self.groups.last_mut().expect("a plan starts with one group")
    }

    fn add(&mut self, case: &Case, part: &Part) {
        match part {
            Part::Noop => {
                self.last().line("NOOP");
                self.last().expects("250 2.0.0");
            }
            Part::Data { bytes, from } => {
                self.envelope(case, false);
                self.last().line("DATA");
                self.last().expects("354 ");
                // RFC 2920 s3.1: the client waits for the 354.
                self.groups.push(Group::default());
                let mut body = text(*from, *bytes);
                self.last().body(&stuffed(&body));
                if !body.is_empty() && !body.ends_with(b"\r\n") {
                    body.extend_from_slice(b"\r\n");
                }
                self.message(case, body);
            }
            Part::Chunks { chunks, end, from, binary } => {
                self.envelope(case, *binary);
                let bytes = chunks.iter().sum();
                let body = if *binary { filler(*from, bytes) } else { text(*from, bytes) };
                let mut at = 0;
                for (number, count) in chunks.iter().enumerate() {
                    let is_last = number + 1 == chunks.len() && matches!(end, ChunksEnd::Last);
                    let group = self.last();
                    group.line(&format!("BDAT {count}{}", if is_last { " LAST" } else { "" }));
                    group.body(&body[at..at + count]);
                    at += count;
                    if !is_last {
                        group.expects(&format!("250 2.0.0 Ok: {count} octets"));
                    }
                }
                match end {
                    ChunksEnd::Last => self.message(case, body),
                    ChunksEnd::EmptyLast => {
                        self.last().line("BDAT 0 LAST");
                        self.message(case, body);
                    }
                    ChunksEnd::Rset => {
                        self.last().line("RSET");
                        self.last().expects("250 2.0.0");
                    }
                }
            }
        }
    }

    fn envelope(&mut self, case: &Case, binary: bool) {
        let parameter = if binary { " BODY=BINARYMIME" } else { "" };
        self.last().line(&format!("MAIL FROM:<a@x.test>{parameter}"));
        self.last().expects("250 2.1.0");
        for number in 0..case.recipients {
            self.last().line(&format!("RCPT TO:<b{number}@y.test>"));
            self.last().expects("250 2.1.5");
        }
    }

    fn message(&mut self, case: &Case, body: Vec<u8>) {
        let replies = if case.lmtp { case.recipients } else { 1 };
        (0..replies).for_each(|_| self.last().expects("250 2.0.0 Ok: queued as"));
        self.kept.push(body);
    }
}

/// Starts neither with an LF nor with a space, which would look like a continued trace header.
fn filler(from: usize, bytes: usize) -> Vec<u8> {
    let mut body: Vec<u8> = COMMANDS.iter().copied().cycle().skip(from).take(bytes).collect();
    if let Some(first) = body.first_mut().filter(|byte| matches!(byte, b'\n' | b' ')) {
        *first = b'x';
    }
    body
}

/// Like `filler`, but obeys the CRLF rule: it does not end with a CR.
fn text(from: usize, bytes: usize) -> Vec<u8> {
    let mut body = filler(from, bytes);
    if let Some(last) = body.last_mut().filter(|byte| **byte == b'\r') {
        *last = b'x';
    }
    body
}

/// Sends the groups in the segments of the case, and checks each reply and all stored messages.
fn play(case: &Case, peer: &mut dyn Peer) -> Result<(), String> {
    let plan = Plan::of(case);
    let greeting = peer.receive_reply().ok_or("no greeting")?;
    expect(&greeting, "220 ")?;
    for group in &plan.groups {
        let mut start = 0;
        for end in ends(group, &case.cuts) {
            peer.send(&group.bytes[start..end]);
            // Otherwise the kernel may join two segments.
            peer.wait_until_read();
            start = end;
        }
        for reply in &group.replies {
            let said = peer.receive_reply().ok_or_else(|| format!("no reply, not {reply:?}"))?;
            expect(&said, reply)?;
        }
    }
    if let Some(reply) = peer.finish() {
        return Err(format!("an unexpected reply: {reply:?}"));
    }
    let kept = peer.all_kept();
    if kept.len() != plan.kept.len() {
        return Err(format!("{} messages were stored, not {}", kept.len(), plan.kept.len()));
    }
    match kept.iter().zip(&plan.kept).position(|(kept, sent)| kept != sent) {
        Some(number) => {
            let (kept, sent) = (kept[number].len(), plan.kept[number].len());
            Err(format!("message {number} differs: {kept} bytes of {sent}"))
        }
        None => Ok(()),
    }
}

fn expect(said: &str, reply: &str) -> Result<(), String> {
    let last = said.trim_end().rsplit("\r\n").next().unwrap_or(said);
    if last.starts_with(reply) { Ok(()) } else { Err(format!("{said:?}, not {reply:?}")) }
}

/// The ends of the segments of a group. After the cuts of the case, the rest is one segment.
fn ends(group: &Group, cuts: &[Cut]) -> Vec<usize> {
    let mut marks = group.marks.clone();
    marks.sort_unstable();
    marks.dedup();
    let whole = group.bytes.len();
    let mut ends = Vec::new();
    let mut at = 0;
    for cut in cuts {
        let end = match cut {
            Cut::Bytes(bytes) => at + bytes,
            Cut::Mark(skipped) => {
                let next = marks.partition_point(|mark| *mark <= at);
                marks.get(next + skipped).copied().unwrap_or(whole)
            }
        };
        if end >= whole {
            break;
        }
        ends.push(end);
        at = end;
    }
    ends.push(whole);
    ends
}

/// The buffer sizes of the server, and one byte more and less.
fn edges() -> impl Strategy<Value = usize> {
    let sizes = [CHUNK_BYTES, CHUNK_BYTES - 4096, 2 * COMMAND_BYTES_MAX, COMMAND_BYTES_MAX];
    (proptest::sample::select(sizes.to_vec()), 0..3_usize).prop_map(|(size, by)| size + by - 1)
}

fn sizes() -> impl Strategy<Value = usize> {
    let range = |range: Range<usize>| range.prop_map(|size| size);
    prop_oneof![
        3 => range(0..12),
        3 => range(12..9_000),
        2 => range(50_000..CHUNK_BYTES + 100),
        1 => Just(59_000),
        3 => edges(),
    ]
}

fn parts() -> impl Strategy<Value = Part> {
    let from = 0..COMMANDS.len();
    let end = prop_oneof![
        4 => Just(ChunksEnd::Last),
        1 => Just(ChunksEnd::EmptyLast),
        1 => Just(ChunksEnd::Rset),
    ];
    let chunks = (proptest::collection::vec(sizes(), 1..5), end, from.clone(), any::<bool>());
    prop_oneof![
        1 => (sizes(), from).prop_map(|(bytes, from)| Part::Data { bytes, from }),
        6 => chunks.prop_map(|(chunks, end, from, binary)| Part::Chunks { chunks, end, from, binary }),
        1 => Just(Part::Noop),
    ]
}

fn cuts() -> impl Strategy<Value = Cut> {
    prop_oneof![
        6 => (0..8_usize).prop_map(Cut::Mark),
        2 => edges().prop_map(Cut::Bytes),
        2 => (1..30_000_usize).prop_map(Cut::Bytes),
    ]
}

fn cases() -> impl Strategy<Value = Case> {
    let parts = proptest::collection::vec(parts(), 1..5);
    let cuts = proptest::collection::vec(cuts(), 0..24);
    (any::<bool>(), 1..3_usize, parts, cuts).prop_map(|(lmtp, recipients, parts, cuts)| Case {
        lmtp,
        recipients,
        parts,
        cuts,
    })
}

fn settings(lmtp: bool) -> Settings {
    Settings { lmtp, ..Settings::default() }
}

/// One server with an SMTP and an LMTP listener.
fn servers() -> Servers {
    let dialogue = |lmtp| Dialogue {
        file: "segments".into(),
        name: "random".into(),
        settings: settings(lmtp),
        items: Vec::new(),
    };
    Servers::build(&[&dialogue(false), &dialogue(true)])
}

/// A regression: this message once lost 16,836 bytes. The first chunk leaves little room in its
/// buffer, and the next command is cut in two.
fn lossy_case(lmtp: bool) -> Case {
    let chunks = vec![59_000, 5_000, 20_000];
    let first = "MAIL FROM:<a@x.test>\r\n".len() + "RCPT TO:<b0@y.test>\r\n".len();
    Case {
        lmtp,
        recipients: 1,
        parts: vec![Part::Chunks { chunks, end: ChunksEnd::Last, from: 0, binary: false }],
        cuts: vec![Cut::Bytes(first), Cut::Bytes("BDAT 59000\r\n".len() + 59_000 + 3)],
    }
}

fn run(cases_max: u32, play: impl Fn(&Case) -> Result<(), String>) {
    let config = ProptestConfig {
        failure_persistence: None,
        // A failing case may wait for a reply until its timeout.
        max_shrink_time: 60_000,
        ..ProptestConfig::with_cases(cases_max)
    };
    let found =
        TestRunner::new(config).run(&cases(), |case| play(&case).map_err(TestCaseError::fail));
    if let Err(found) = found {
        panic!("{found}");
    }
}

#[test]
fn the_segmentation_does_not_affect_the_machine() {
    run(256, |case| play(case, &mut MachinePeer::new(&settings(case.lmtp))));
}

#[test]
fn the_segmentation_does_not_affect_the_server() {
    let servers = servers();
    for lmtp in [false, true] {
        let case = lossy_case(lmtp);
        play(&case, &mut servers.connect(&settings(lmtp))).expect("no byte is lost");
    }
    run(80, |case| play(case, &mut servers.connect(&settings(case.lmtp))));
    assert_eq!(servers.logged_errors(), "", "the server has logged errors");
}
