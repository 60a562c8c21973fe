//! What is sent: bodies that all are parts of one block of text, or texts from files; a head with
//! the id of each message; and whom it is from and to.
//!
//! Sums:     the id of a message ends with a checksum, so that the sink knows its body again. Bodies
//!           of one length differ in the number that their last line ends with: what a relay gives to
//!           the wrong one is seen.
//! Cost:     the sum of a body is made once for as long as the length stays the same, and continued
//!           with the number.
//!
//! Owner:    one `Pattern` for all shards, which does not change; a `Draft` for each session, whose
//!           memory serves one message after the other.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use ringpost::base::clock;
use ringpost::outbound::transfer::BodySource;
use ringpost::outbound::transfer::BodyUnreadable;
use ringpost::wire::mail::date;

use crate::ledger;
use crate::ledger::hash_of;
use crate::ledger::sum;
use crate::ledger::sum::BodySum;
use crate::source::domains::Domains;
use crate::source::eml;
use crate::source::eml::Text;
use crate::source::header::HeaderLine;
use crate::source::options::Options;
use crate::source::random::Die;
use crate::source::random::Random;
use crate::source::sizes::Sizes;

/// As smtp-source has them.
const LINE: &[u8] =
    b"XXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX\r\n";
/// Lines of the block that bodies are made of, so that it goes into one write.
const BLOCK_LINES: usize = 800;
const BLOCK: usize = BLOCK_LINES * LINE.len();
/// What the last line of a body ends with: a number of so many digits, and CRLF. Shorter bodies have
/// no number.
const TAIL: usize = 22;
const TAIL_DIGITS: usize = TAIL - 2;

/// What messages are made of.
#[derive(Args, Clone, Debug, Default)]
pub struct ContentOptions {
    /// Bytes of bodies as a distribution: 4k, uniform:1k-100k, lognormal:p50=8k,p99=200k, or a mix
    /// with weights, 4k*80,64k-99k*15,lognormal:p50=1M/p99=9M*5.
    #[arg(long, value_name = "SIZES", value_parser = Sizes::parse,
          conflicts_with_all = ["length", "file", "eml"])]
    pub sizes: Option<Sizes>,
    /// Senders in these domains, by weight: a.test*50,b.test*20; or @FILE with `domain weight`
    /// lines.
    #[arg(long, value_name = "DOMAINS", value_parser = Domains::parse)]
    pub from_domains: Option<Domains>,
    /// Recipients likewise, each drawn by itself.
    #[arg(long, value_name = "DOMAINS", value_parser = Domains::parse)]
    pub to_domains: Option<Domains>,
    /// A header line, as often as wanted: 'Name: value', with %n for the number of the message and
    /// %r for its first recipient.
    #[arg(long = "header", value_name = "LINE", value_parser = HeaderLine::parse)]
    pub headers: Vec<HeaderLine>,
    /// Send the .eml files of this folder by turns.
    #[arg(long, value_name = "FOLDER", conflicts_with = "file")]
    pub eml: Option<PathBuf>,
    /// Draws other sizes, domains and times: runs with the same seed send the same.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub seed: u64,
}

/// How messages are made.
pub struct Pattern {
    /// Names this run in the header of every message.
    run: String,
    from: String,
    to: String,
    from_domains: Option<Domains>,
    to_domains: Option<Domains>,
    /// So many domains below that of `to` by turns.
    domains: u64,
    recipients: u64,
    numbered: bool,
    headers: Vec<HeaderLine>,
    content: Content,
    form: HeadForm,
    /// The same in every head.
    fixed: Vec<u8>,
    random: Random,
}

enum Content {
    Lines { sizes: Sizes, block: Box<[u8]> },
    Texts(Vec<Text>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum HeadForm {
    None,
    /// The text has a head of its own.
    Id,
    Full,
}

/// A message as it is sent, but for its body.
#[derive(Default)]
pub struct Draft {
    /// And behind it the tail of the body, which is different in each message.
    pub head: Vec<u8>,
    /// Of bodies of so many bytes, without their tails.
    sum: Option<(u64, BodySum)>,
    /// Empty is the null reverse-path.
    pub sender: String,
    pub recipients: Vec<String>,
}

impl Pattern {
    pub fn new(options: &Options, run: &str) -> Result<Pattern, String> {
        let content = &options.content;
        let subject = options.subject.as_deref();
        if subject.is_some_and(|subject| subject.contains(['\r', '\n'])) {
            return Err("-S: a subject is one line".to_owned());
        }
        let mut fixed = Vec::new();
        if let Some(subject) = subject {
            fixed.extend_from_slice(format!("Subject: {subject}\r\n").as_bytes());
        }
        fixed.extend_from_slice(b"Date: ");
        date::rfc5322(clock::wall_ms(), &mut fixed);
        fixed.extend_from_slice(b"\r\n");
        let body = Content::new(options)?;
        let form = match &body {
            _ if options.old => HeadForm::None,
            Content::Texts(_) => HeadForm::Id,
            Content::Lines { .. } => HeadForm::Full,
        };
        let from = if options.from() == "<>" { "" } else { options.from() };
        Ok(Pattern {
            run: run.to_owned(),
            from: from.to_owned(),
            to: options.to().to_owned(),
            from_domains: content.from_domains.clone(),
            to_domains: content.to_domains.clone(),
            domains: options.domains,
            recipients: options.recipients as u64,
            numbered: options.number,
            headers: content.headers.clone(),
            content: body,
            form,
            fixed,
            random: Random::new(content.seed),
        })
    }

    /// Makes message `number`, which is to begin at `at_us`, in microseconds since 1970.
    pub fn draw(&self, number: u64, at_us: u64, draft: &mut Draft) -> Body<'_> {
        self.name_sender(number, &mut draft.sender);
        draft.recipients.resize_with(self.recipients as usize, String::new);
        for (place, name) in draft.recipients.iter_mut().enumerate() {
            self.name_recipient(number, place as u64, name);
        }
        let body = self.content.body(self.random, number);
        let tail = self.tail_of(number);
        let tail = &tail[TAIL - body.tail..];
        let sum = match &self.content {
            _ if self.form == HeadForm::None => 0,
            Content::Texts(texts) => self.text(texts, number).sum,
            Content::Lines { .. } => body.sum(tail, &mut draft.sum),
        };
        let Draft { head, sender, recipients, .. } = draft;
        head.clear();
        self.write_head((number, at_us, sum), sender, &recipients[0], head);
        head.extend_from_slice(tail);
        body
    }

    fn tail_of(&self, number: u64) -> [u8; TAIL] {
        let mut tail = *LINE.last_chunk().expect("a line is longer");
        if self.form != HeadForm::None {
            let mut left = number;
            for digit in tail[..TAIL_DIGITS].iter_mut().rev() {
                *digit = b'0' + (left % 10) as u8;
                left /= 10;
            }
        }
        tail
    }

    fn text<'t>(&self, texts: &'t [Text], number: u64) -> &'t Text {
        &texts[(number % texts.len() as u64) as usize]
    }

    /// Whether the head has bytes beyond ASCII.
    fn has_8bit_head(&self) -> bool {
        !self.fixed.is_ascii() || !self.headers.iter().all(HeaderLine::is_ascii)
    }

    /// Whether message `number` has.
    pub fn is_8bit(&self, number: u64) -> bool {
        let text = match &self.content {
            Content::Texts(texts) => self.text(texts, number).is_8bit,
            Content::Lines { .. } => false,
        };
        text || self.form != HeadForm::None && self.has_8bit_head()
    }

    /// Lines of files that were too long.
    pub fn broken_lines(&self) -> usize {
        match &self.content {
            Content::Texts(texts) => texts.iter().map(|text| text.broken).sum(),
            Content::Lines { .. } => 0,
        }
    }

    fn name_sender(&self, number: u64, name: &mut String) {
        name.clear();
        match &self.from_domains {
            // Reports have no sender, wherever others are from.
            Some(domains) if !self.from.is_empty() => {
                name.push_str(local_part(&self.from));
                name.push('@');
                name.push_str(domains.choose(self.random, Die::From, number));
            }
            _ => name.push_str(&self.from),
        }
    }

    fn name_recipient(&self, number: u64, place: u64, name: &mut String) {
        use std::fmt::Write;
        let of_all = number.wrapping_mul(self.recipients).wrapping_add(place);
        name.clear();
        // As smtp-source counts: with -N up from 1 through the run, else down to the last recipient
        // of the message, which has no number.
        let prefix = match self.numbered {
            true => Some(of_all + 1),
            false => Some(self.recipients - place).filter(|left| *left > 1),
        };
        let written = prefix.map_or(Ok(()), |prefix| write!(name, "{prefix}"));
        let written = written.and_then(|()| match (&self.to_domains, self.to.rsplit_once('@')) {
            (Some(domains), _) => {
                let domain = domains.choose(self.random, Die::To, of_all);
                write!(name, "{}@{domain}", local_part(&self.to))
            }
            (None, Some((local, domain))) if self.domains > 1 => {
                write!(name, "{local}@{}.{domain}", number % self.domains)
            }
            _ => name.write_str(&self.to),
        });
        written.expect("a String takes every write");
    }

    fn write_head(
        &self,
        (number, at_us, body_sum): (u64, u64, u32),
        from: &str,
        to: &str,
        head: &mut Vec<u8>,
    ) {
        if self.form == HeadForm::None {
            return;
        }
        let run = &self.run;
        head.extend_from_slice(ledger::HEADER);
        head.push(b' ');
        let begin = head.len();
        let id = write!(head, "{run}-{number}-{at_us}");
        id.expect("a Vec takes every write");
        let mark = if self.recipients == 1 { sum::mark_of(hash_of(to.as_bytes())) } else { 0 };
        let sum = sum::of_message(&head[begin..], body_sum) ^ mark;
        write!(head, "-{sum:08x}\r\n").expect("a Vec takes every write");
        for line in &self.headers {
            line.push(number, to, head);
        }
        if self.form == HeadForm::Full {
            let named = write!(
                head,
                "From: <{from}>\r\nTo: <{to}>\r\nMessage-ID: <{run}.{number}@load.invalid>\r\n"
            );
            named.expect("a Vec takes every write");
            head.extend_from_slice(&self.fixed);
            head.extend_from_slice(b"\r\n");
        }
    }
}

impl Content {
    fn new(options: &Options) -> Result<Content, String> {
        if let Some(path) = &options.file {
            return Ok(Content::Texts(vec![Text::read(path)?]));
        }
        if let Some(folder) = &options.content.eml {
            return Ok(Content::Texts(eml::read_folder(folder)?));
        }
        let length = options.length as u64;
        let sizes = options.content.sizes.clone().unwrap_or(Sizes::Uniform(length, length));
        Ok(Content::Lines { sizes, block: block() })
    }

    fn body(&self, random: Random, number: u64) -> Body<'_> {
        match self {
            Content::Texts(texts) => {
                let text = &texts[(number % texts.len() as u64) as usize];
                Body { first: [b"", &text.bytes], block: b"", blocks: 0, tail: 0 }
            }
            Content::Lines { sizes, block } => Body::of_lines(block, sizes.of(random, number)),
        }
    }
}

/// Lines, the last of which lacks its tail, and the first has that of the line before.
fn block() -> Box<[u8]> {
    let mut block = LINE.repeat(BLOCK_LINES);
    block.rotate_right(TAIL);
    block.into()
}

fn local_part(address: &str) -> &str {
    address.rsplit_once('@').map_or(address, |(local, _)| local)
}

/// A body, as parts of what the pattern holds, and a tail that the head holds.
#[derive(Clone, Copy, Debug)]
pub struct Body<'p> {
    first: [&'p [u8]; 2],
    block: &'p [u8],
    blocks: u64,
    /// Bytes of it.
    tail: usize,
}

impl<'p> Body<'p> {
    /// So many bytes of lines: an end of the block, the block as often as needed, and the tail.
    fn of_lines(block: &'p [u8], bytes: u64) -> Body<'p> {
        let Some(bytes) = bytes.checked_sub(TAIL as u64) else {
            // A line feed must not come without what belongs before it.
            let all = if bytes == 1 { &LINE[..1] } else { &LINE[LINE.len() - bytes as usize..] };
            return Body { first: [b"", all], block, blocks: 0, tail: 0 };
        };
        let end = &block[BLOCK - (bytes % BLOCK as u64) as usize..];
        // As above: the first line gets a letter more instead.
        let first: [&[u8]; 2] = match end {
            [b'\n', rest @ ..] => [&LINE[..1], rest],
            _ => [b"", end],
        };
        Body { first, block, blocks: bytes / BLOCK as u64, tail: TAIL }
    }

    /// Without its tail.
    pub fn bytes(&self) -> u64 {
        let first: usize = self.first.iter().map(|piece| piece.len()).sum();
        first as u64 + self.block.len() as u64 * self.blocks
    }

    /// Behind its head, with the tail that stands at the end of that.
    pub fn pieces(self, head: &'p [u8]) -> Pieces<'p> {
        let (head, tail) = head.split_at(head.len() - self.tail);
        Pieces { first: [head, self.first[0], self.first[1]], at: 0, rest: self, tail: Some(tail) }
    }

    /// Its sum; `known` is the sum of such a body without the tail.
    fn sum(self, tail: &[u8], known: &mut Option<(u64, BodySum)>) -> u32 {
        let bytes = self.bytes();
        if known.as_ref().is_none_or(|(length, _)| *length != bytes) {
            let mut sum = BodySum::default();
            // A body of so many bytes is always the same, but for its tail.
            let own = Body { tail: 0, ..self };
            own.pieces(b"").for_each(|piece| sum.add(piece));
            *known = Some((bytes, sum));
        }
        let mut sum = known.as_ref().map(|(_, sum)| sum.clone()).unwrap_or_default();
        sum.add(tail);
        sum.end()
    }
}

/// A message in pieces that are held already.
pub struct Pieces<'p> {
    first: [&'p [u8]; 3],
    at: usize,
    rest: Body<'p>,
    tail: Option<&'p [u8]>,
}

impl<'p> Iterator for Pieces<'p> {
    type Item = &'p [u8];

    fn next(&mut self) -> Option<&'p [u8]> {
        while self.at < self.first.len() {
            let piece = self.first[self.at];
            self.at += 1;
            if !piece.is_empty() {
                return Some(piece);
            }
        }
        let Some(blocks) = self.rest.blocks.checked_sub(1) else {
            return self.tail.take().filter(|tail| !tail.is_empty());
        };
        self.rest.blocks = blocks;
        Some(self.rest.block)
    }
}

impl<'p> BodySource for Pieces<'p> {
    type Piece = &'p [u8];

    async fn next(&mut self) -> Option<Result<&'p [u8], BodyUnreadable>> {
        Iterator::next(self).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn pattern(words: &[&str]) -> Pattern {
        let words = ["x"].iter().chain(words).chain(&["-M", "us.test", "h"]);
        let options = Line::parse_from(words).options.complete();
        options.check().expect("they are lawful");
        Pattern::new(&options, "1a.2b").expect("there is nothing to read")
    }

    fn message(pattern: &Pattern, number: u64) -> (Draft, String) {
        let mut draft = Draft::default();
        let body = pattern.draw(number, 5_000_000, &mut draft);
        let text = body.pieces(&draft.head).collect::<Vec<_>>().concat();
        assert_eq!(text.len() as u64, draft.head.len() as u64 + body.bytes());
        (draft, String::from_utf8(text).expect("all of it is ASCII"))
    }

    #[test]
    fn bodies_have_their_length_and_lawful_lines() {
        let block = block();
        let big = BLOCK as u64;
        let around = |length: u64| length - 1..=length + 1;
        let lengths = (0..=200).chain(around(4096)).chain([100_001]).chain(around(big));
        for length in lengths.chain(around(3 * big + 80)).chain(around(big + 22)) {
            let parts = Body::of_lines(&block, length);
            let tail = &LINE[LINE.len() - parts.tail..];
            assert_eq!(parts.bytes() + parts.tail as u64, length);
            let body = parts.pieces(tail).collect::<Vec<_>>().concat();
            assert_eq!(body.len() as u64, length);
            let mut known = None;
            for _ in 0..2 {
                assert_eq!(parts.sum(tail, &mut known), BodySum::of(&body), "{length}");
            }
            if length == 1 {
                assert_eq!(body, b"X", "there is no room for a line end");
                continue;
            }
            assert!(length == 0 || body.ends_with(b"\r\n"), "{length}");
            let bare = |at: usize| {
                body[at] == b'\n' && (at == 0 || body[at - 1] != b'\r')
                    || body[at] == b'\r' && body.get(at + 1) != Some(&b'\n')
            };
            assert!(!(0..body.len()).any(bare), "{length}");
            assert!(body.split(|byte| *byte == b'\n').all(|line| line.len() <= 80), "{length}");
        }
    }

    #[test]
    fn a_head_names_its_message() {
        let pattern = pattern(&["-S", "hello", "-N", "-l", "2", "--header", "X-N: %n %r"]);
        let (draft, text) = message(&pattern, 7);
        assert_eq!(
            (&*draft.sender, &*draft.recipients),
            ("foo@us.test", &["8foo@us.test".to_owned()][..])
        );
        let (head, date) = text.split_once("Date: ").expect("it has a date");
        let told = ledger::sum::of_message(b"1a.2b-7-5000000", BodySum::of(b"\r\n"))
            ^ sum::mark_of(hash_of(b"8foo@us.test"));
        let head = head.replace(&format!("{told:08x}"), "SUM");
        assert_eq!(
            head,
            "X-Ringpost-Load: 1a.2b-7-5000000-SUM\r\nX-N: 7 8foo@us.test\r\nFrom: <foo@us.test>\r\n\
             To: <8foo@us.test>\r\nMessage-ID: <1a.2b.7@load.invalid>\r\nSubject: hello\r\n"
        );
        assert!(date.ends_with(" +0000\r\n\r\n\r\n"), "{date}");
    }

    #[test]
    fn ids_tell_the_sums_of_their_bodies_which_are_all_different() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("x");
        std::fs::write(&file, "S: x\n\nbody\n").expect("there is room");
        let file = file.to_str().expect("a path of text");
        for words in [
            &["-l", "4096"][..],
            &["-l", "22"],
            &["-l", "1"],
            &["-l", "0"],
            &["--sizes", "1-500k"],
            &["-F", file],
        ] {
            let pattern = pattern(words);
            let mut draft = Draft::default();
            let mut bodies = Vec::new();
            for number in [0, 1, 9, 1234, u64::from(u32::MAX)] {
                let body = pattern.draw(number, 5_000_000, &mut draft);
                let text = body.pieces(&draft.head).collect::<Vec<_>>().concat();
                let id = &text[ledger::HEADER.len()..];
                let line = id.split(|byte| *byte == b'\r').next().expect("a line");
                let end = memchr::memmem::find(&text, b"\r\n\r\n").expect("a header");
                let body = text[end + 4..].to_vec();
                let told = ledger::Id::parse(line).and_then(|id| id.body_sum);
                let mark = sum::mark_of(hash_of(draft.recipients[0].as_bytes()));
                assert_eq!(told, Some(BodySum::of(&body) ^ mark), "{words:?} {number}");
                bodies.push(body);
            }
            bodies.sort();
            bodies.dedup();
            let many = if matches!(words, ["-l", "1" | "0"] | ["-F", _]) { 1 } else { 5 };
            assert_eq!(bodies.len(), many, "{words:?}");
        }
    }

    #[test]
    fn recipients_are_numbered_and_spread() {
        for (words, expected) in [
            (&["-t", "a@b.test"][..], &["a@b.test"][..]),
            (&["-t", "a@b.test", "-r", "3"], &["3a@b.test", "2a@b.test", "a@b.test"]),
            (&["-t", "a@b.test", "-r", "2", "-N"], &["11a@b.test", "12a@b.test"]),
            (&["-t", "a@b.test", "--domains", "3"], &["a@2.b.test"]),
            (&["-t", "a", "--to-domains", "c.test"], &["a@c.test"]),
        ] {
            let (draft, _) = message(&pattern(words), 5);
            assert_eq!(draft.recipients, expected, "{words:?}");
        }
        let pattern = pattern(&["--from-domains", "a.test,b.test", "-f", "<>"]);
        assert_eq!(message(&pattern, 1).0.sender, "", "nobody is from nowhere in particular");
    }

    #[test]
    fn very_old_clients_send_no_head() {
        assert_eq!(message(&pattern(&["-o", "-l", "4"]), 1).1, "XX\r\n");
    }
}
