//! Messages: sender, recipients, a header with the id, and a body.
//!
//! Checksum: the id of a message ends with a checksum of its body for the sink. Bodies of the same length
//!           differ in the number at the end of their last line, so that a body that a relay delivers
//!           with the wrong message is detected.
//! Cost:     the checksum of the common part of a body is computed once per length.
//! Owner:    one immutable `Pattern` for all shards; one `Draft` per session, which is reused.

use std::io::Write;

use ringpost::base::clock;
use ringpost::wire::mail::date;

use crate::ledger;
use crate::ledger::hash_of;
use crate::ledger::sum;
use crate::ledger::sum::BodySum;
use crate::random::Purpose;
use crate::random::Random;
use crate::source::body::Body;
use crate::source::body::LINE;
use crate::source::body::TAIL;
use crate::source::body::TAIL_DIGITS;
use crate::source::body::block;
use crate::source::eml;
use crate::source::eml::Text;
use crate::source::header::HeaderLine;
use crate::source::options::Options;
use crate::source::sizes::Sizes;
use crate::source::weights::Domains;

/// How messages of a run are made.
pub struct Pattern {
    /// The id of the run.
    run: String,
    from: String,
    to: String,
    from_domains: Option<Domains>,
    to_domains: Option<Domains>,
    /// Number of subdomains of the domain of `to`, used in turn.
    domains: u64,
    recipients: u64,
    numbered: bool,
    headers: Vec<HeaderLine>,
    content: Content,
    /// Header lines that are the same in every message.
    fixed: Vec<u8>,
    random: Random,
}

enum Content {
    Lines { sizes: Sizes, block: Box<[u8]> },
    Texts(Vec<Text>),
}

/// A message without its body.
#[derive(Default)]
pub struct Draft {
    /// The header, followed by the tail of the body, which differs in each message.
    pub head: Vec<u8>,
    /// Length and checksum of the last body without its tail.
    sum: Option<(u64, BodySum)>,
    /// Empty: the null reverse-path.
    pub sender: String,
    pub recipients: Vec<String>,
}

impl Pattern {
    /// `hostname`: our name, for default addresses.
    pub fn new(options: &Options, hostname: &str, run: &str) -> Result<Pattern, String> {
        let own = || format!("foo@{hostname}");
        let to = options.to.clone().unwrap_or_else(own);
        if options.domains > 1 && !to.contains('@') {
            return Err("--domains: the recipient (-t) has no domain".to_owned());
        }
        let mut fixed = Vec::new();
        if let Some(subject) = &options.subject {
            fixed.extend_from_slice(format!("Subject: {subject}\r\n").as_bytes());
        }
        fixed.extend_from_slice(b"Date: ");
        date::rfc5322(clock::wall_ms(), &mut fixed);
        fixed.extend_from_slice(b"\r\n");
        Ok(Pattern {
            run: run.to_owned(),
            from: options.from.clone().unwrap_or_else(own),
            to,
            from_domains: options.from_domains.clone(),
            to_domains: options.to_domains.clone(),
            domains: options.domains,
            recipients: options.recipients,
            numbered: options.number,
            headers: options.headers.clone(),
            content: Content::new(options)?,
            fixed,
            random: Random::new(options.seed),
        })
    }

    /// Makes message `number`, which begins at `at_us` microseconds of Unix time.
    pub fn draw(&self, number: u64, at_us: u64, draft: &mut Draft) -> Body<'_> {
        self.name_sender(number, &mut draft.sender);
        draft.recipients.resize_with(self.recipients as usize, String::new);
        for (place, name) in draft.recipients.iter_mut().enumerate() {
            self.name_recipient(number, place as u64, name);
        }
        let body = self.content.body(&self.random, number);
        let tail = tail_of(number);
        let tail = &tail[TAIL - body.tail()..];
        let sum = match &self.content {
            Content::Texts(texts) => self.text(texts, number).sum,
            Content::Lines { .. } => body.sum(tail, &mut draft.sum),
        };
        let Draft { head, sender, recipients, .. } = draft;
        head.clear();
        self.write_head((number, at_us, sum), sender, &recipients[0], head);
        head.extend_from_slice(tail);
        body
    }

    fn text<'t>(&self, texts: &'t [Text], number: u64) -> &'t Text {
        &texts[(number % texts.len() as u64) as usize]
    }

    /// Whether message `number` has bytes beyond ASCII.
    pub fn is_8bit(&self, number: u64) -> bool {
        let text = match &self.content {
            Content::Texts(texts) => self.text(texts, number).is_8bit,
            Content::Lines { .. } => false,
        };
        text || !self.fixed.is_ascii() || !self.headers.iter().all(HeaderLine::is_ascii)
    }

    fn name_sender(&self, number: u64, name: &mut String) {
        name.clear();
        match &self.from_domains {
            // A null sender stays null.
            Some(domains) if !self.from.is_empty() => {
                name.push_str(local_part(&self.from));
                name.push('@');
                name.push_str(domains.choose(self.random.of(Purpose::Sender, number).number()));
            }
            _ => name.push_str(&self.from),
        }
    }

    fn name_recipient(&self, number: u64, place: u64, name: &mut String) {
        use std::fmt::Write;
        let of_all = number.wrapping_mul(self.recipients).wrapping_add(place);
        name.clear();
        // As smtp-source counts: with -N from 1 through the run, otherwise down to the last recipient
        // of the message, which has no number.
        let prefix = match self.numbered {
            true => Some(of_all + 1),
            false => Some(self.recipients - place).filter(|left| *left > 1),
        };
        let written = prefix.map_or(Ok(()), |prefix| write!(name, "{prefix}"));
        let written = written.and_then(|()| match (&self.to_domains, self.to.rsplit_once('@')) {
            (Some(domains), _) => {
                let domain = domains.choose(self.random.of(Purpose::Recipient, of_all).number());
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
            head.extend_from_slice(line.fill(number, to).as_bytes());
        }
        if matches!(self.content, Content::Lines { .. }) {
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
        if let Some(folder) = &options.eml {
            return Ok(Content::Texts(eml::read_folder(folder)?));
        }
        let sizes = options.sizes.clone().unwrap_or_else(|| Sizes::fixed(options.length));
        Ok(Content::Lines { sizes, block: block() })
    }

    fn body(&self, random: &Random, number: u64) -> Body<'_> {
        match self {
            Content::Texts(texts) => {
                let text = &texts[(number % texts.len() as u64) as usize];
                Body::of_text(&text.bytes)
            }
            Content::Lines { sizes, block } => Body::of_lines(block, sizes.of(random, number)),
        }
    }
}

/// The end of the last line of a body: the number of the message.
fn tail_of(number: u64) -> [u8; TAIL] {
    let mut tail = *LINE.last_chunk().expect("a line is longer");
    let mut left = number;
    for digit in tail[..TAIL_DIGITS].iter_mut().rev() {
        *digit = b'0' + (left % 10) as u8;
        left /= 10;
    }
    tail
}

fn local_part(address: &str) -> &str {
    address.rsplit_once('@').map_or(address, |(local, _)| local)
}

#[cfg(test)]
mod tests {
    use super::*;
    fn pattern(words: &[&str]) -> Pattern {
        let words = words.iter().chain(&["h"]).map(|word| (*word).to_owned());
        let options = crate::flags::parse(words).expect("they are lawful");
        Pattern::new(&options, "us.test", "1a.2b").expect("there is nothing to read")
    }

    fn message(pattern: &Pattern, number: u64) -> (Draft, String) {
        let mut draft = Draft::default();
        let body = pattern.draw(number, 5_000_000, &mut draft);
        let text = body.pieces(&draft.head).collect::<Vec<_>>().concat();
        assert_eq!(text.len() as u64, draft.head.len() as u64 + body.bytes());
        (draft, String::from_utf8(text).expect("all of it is ASCII"))
    }

    #[test]
    fn the_header_identifies_the_message() {
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
            "X-Loadtest-Id: 1a.2b-7-5000000-SUM\r\nX-N: 7 8foo@us.test\r\nFrom: <foo@us.test>\r\n\
             To: <8foo@us.test>\r\nMessage-ID: <1a.2b.7@load.invalid>\r\nSubject: hello\r\n"
        );
        assert!(date.ends_with(" +0000\r\n\r\n\r\n"), "{date}");
    }

    #[test]
    fn ids_have_the_checksums_of_their_bodies() {
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
        assert_eq!(message(&pattern, 1).0.sender, "", "a null sender has no domain");
    }
}
