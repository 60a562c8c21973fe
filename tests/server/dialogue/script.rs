//! The format of the dialogues.
//!
//! ```text
//! # name                  starts a dialogue; the greeting is read and must be 220
//! ; remark
//! @ key value             a setting of the server, see `Settings::set`
//! > text                  the client sends a line; CRLF is appended
//! >> text                 the client sends these bytes
//! <- text                 the next reply contains this text
//! <! text                 the next reply does not contain this text
//! < text                  the last line of the next reply starts with this text
//! ~ tls                   the client starts TLS
//! = closed                the server has closed
//! = kept text             the last stored message has this body
//! = messages 2            this many messages were stored in the session
//! ```
//!
//! In client input `\r`, `\n`, `\0`, `\\` and `\xNN` are escapes. `\{70 ab}` is `ab` repeated 70
//! times, and may contain escapes.

/// How the client's input is split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    Lines,
    Bytes,
    Groups,
}

/// One dialogue of a file.
#[derive(Debug)]
pub struct Dialogue {
    pub file: String,
    pub name: String,
    pub settings: Settings,
    /// With the line number in the file.
    pub items: Vec<(usize, Item)>,
}

/// One line of a dialogue.
#[derive(Clone, Debug)]
pub enum Item {
    Send(Vec<u8>),
    Expect(Expected),
    StartTls,
    Closed,
    Kept(Vec<u8>),
    Messages(usize),
}

/// The expected properties of a reply.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    last_line: String,
    contains: Vec<String>,
    lacks: Vec<String>,
}

impl Expected {
    pub fn judge(&self, reply: &str) -> Result<(), String> {
        let whole = reply.strip_suffix("\r\n").ok_or("no CRLF at the end")?;
        let last_line = whole.rsplit("\r\n").next().unwrap_or(whole);
        if !last_line.starts_with(&self.last_line) {
            return Err(format!("no {:?}", self.last_line));
        }
        if let Some(missing) = self.contains.iter().find(|text| !reply.contains(&***text)) {
            return Err(format!("no {missing:?}"));
        }
        match self.lacks.iter().find(|text| reply.contains(&***text)) {
            Some(unwanted) => Err(format!("{unwanted:?}")),
            None => Ok(()),
        }
    }
}

/// The configuration of the server.
#[derive(Clone, Debug)]
pub struct Settings {
    pub lmtp: bool,
    pub size_max: u64,
    pub recipients_max: u32,
    pub messages_max: u32,
    pub commands_max: u32,
    pub errors_max: u32,
    pub normalise: bool,
    pub tls: bool,
    pub starttls: bool,
    pub tls_required: bool,
    pub xclient: bool,
    pub pipelining_check: bool,
    /// The dialogue depends on input that arrives together: only for `Feed::Lines`.
    pub whole_only: bool,
    /// The dialogue needs the gate of `MachinePeer`; not for a real server.
    pub machine_only: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            lmtp: false,
            size_max: 1_000_000,
            recipients_max: 100,
            messages_max: 100,
            commands_max: 1000,
            errors_max: 20,
            normalise: false,
            tls: false,
            starttls: true,
            tls_required: false,
            xclient: false,
            pipelining_check: true,
            whole_only: false,
            machine_only: false,
        }
    }
}

impl Settings {
    pub fn feeds(&self) -> Vec<Feed> {
        if self.whole_only {
            return vec![Feed::Lines];
        }
        vec![Feed::Lines, Feed::Bytes, Feed::Groups]
    }

    fn set(&mut self, key: &str, value: &str) -> Option<()> {
        let switch = match value {
            "on" => Some(true),
            "off" => Some(false),
            _ => None,
        };
        match key {
            "protocol" => self.lmtp = choice(value, ("smtp", "lmtp"))?,
            "line_ending" => self.normalise = choice(value, ("strict", "normalise"))?,
            "feed" => self.whole_only = choice(value, ("all", "whole"))?,
            "peer" => self.machine_only = choice(value, ("any", "machine"))?,
            "size_max" => self.size_max = value.parse().ok()?,
            "recipients_max" => self.recipients_max = value.parse().ok()?,
            "messages_max" => self.messages_max = value.parse().ok()?,
            "commands_max" => self.commands_max = value.parse().ok()?,
            "errors_max" => self.errors_max = value.parse().ok()?,
            "tls" => self.tls = switch?,
            "starttls" => self.starttls = switch?,
            "tls_required" => self.tls_required = switch?,
            "xclient" => self.xclient = switch?,
            "pipelining_check" => self.pipelining_check = switch?,
            _ => return None,
        }
        Some(())
    }
}

fn choice(value: &str, (no, yes): (&str, &str)) -> Option<bool> {
    (value == no || value == yes).then_some(value == yes)
}

/// Parses a file of dialogues. Panics at a line that it cannot parse.
pub fn parse(file: &str, text: &str) -> Vec<Dialogue> {
    let mut all: Vec<Dialogue> = Vec::new();
    let mut expected = Expected::default();
    for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
        if line.is_empty() || line.starts_with(';') {
            continue;
        }
        if let Some(name) = line.strip_prefix("# ") {
            let (file, name) = (file.to_owned(), name.to_owned());
            all.push(Dialogue { file, name, settings: Settings::default(), items: Vec::new() });
            continue;
        }
        let read = all.last_mut().and_then(|dialogue| {
            let settings = &mut dialogue.settings;
            let item = parse_line(line, settings, &mut expected)?;
            dialogue.items.extend(item.map(|item| (number, item)));
            Some(())
        });
        assert!(read.is_some(), "{file}:{number}: cannot read {line:?}");
    }
    all
}

/// Parses one line: an item, or a part of the settings or of the next reply.
fn parse_line(
    line: &str,
    settings: &mut Settings,
    expected: &mut Expected,
) -> Option<Option<Item>> {
    let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
    let item = match mark {
        "@" => {
            let (key, value) = rest.split_once(' ')?;
            settings.set(key, value)?;
            return Some(None);
        }
        "<-" => {
            expected.contains.push(rest.to_owned());
            return Some(None);
        }
        "<!" => {
            expected.lacks.push(rest.to_owned());
            return Some(None);
        }
        "<" => {
            expected.last_line = rest.to_owned();
            Item::Expect(std::mem::take(expected))
        }
        ">" => Item::Send([unescape(rest)?, b"\r\n".to_vec()].concat()),
        ">>" => Item::Send(unescape(rest)?),
        "~" if rest == "tls" => Item::StartTls,
        "=" => check(rest)?,
        _ => return None,
    };
    Some(Some(item))
}

fn check(text: &str) -> Option<Item> {
    let (what, value) = text.split_once(' ').unwrap_or((text, ""));
    match what {
        "closed" => Some(Item::Closed),
        "kept" => unescape(value).map(Item::Kept),
        "messages" => value.parse().ok().map(Item::Messages),
        _ => None,
    }
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let escape = &rest[at + 1..];
        let used = match escape.as_bytes().first()? {
            b'r' => push(b'\r', &mut bytes),
            b'n' => push(b'\n', &mut bytes),
            b'0' => push(b'\0', &mut bytes),
            b'\\' => push(b'\\', &mut bytes),
            b'x' => {
                bytes.push(u8::from_str_radix(escape.get(1..3)?, 16).ok()?);
                3
            }
            b'{' => {
                let (inner, _) = escape[1..].split_once('}')?;
                let (times, what) = inner.split_once(' ')?;
                bytes.extend(unescape(what)?.repeat(times.parse().ok()?));
                inner.len() + 2
            }
            _ => return None,
        };
        rest = &escape[used..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Some(bytes)
}

fn push(byte: u8, bytes: &mut Vec<u8>) -> usize {
    bytes.push(byte);
    1
}
