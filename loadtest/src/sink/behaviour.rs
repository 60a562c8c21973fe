//! How mail for a domain is treated, read from a TOML file.
//!
//! Promise:  a key that is not known, a rate that is none, or a moment at which the recipient is not
//!           known yet is an error that names its line. An entry without keys accepts.
//! Choice:   the exact domain, then the longest `*.suffix`, then `[default]`. A `*.suffix` is for
//!           the domains below it, not for itself. At DATA, and but for LMTP at the end of the body,
//!           the domain of the first recipient speaks for all.
//! Owner:    all shards share one; only the counts of connections change, for a limit holds for the
//!           whole sink.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use crate::sink::random::Random;

/// No delay is longer, whatever a distribution says.
const DELAY_SECONDS_MAX: f64 = 3600.0;
/// How many deviations above the median 99 % lie.
const P99_DEVIATIONS: f64 = 2.326_347_874;

/// A state in which something may happen to mail for a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Moment {
    Connect,
    Ehlo,
    Mail,
    Rcpt,
    Data,
    /// When the body has come.
    End,
}

impl Moment {
    fn knows_the_recipient(self) -> bool {
        matches!(self, Moment::Rcpt | Moment::Data | Moment::End)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    default: Option<Spanned<Entry>>,
    #[serde(default)]
    domain: Vec<Spanned<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(default, rename = "match")]
    names: Vec<String>,
    #[serde(default)]
    delay: Vec<Spanned<DelayEntry>>,
    #[serde(default)]
    reply: Vec<Spanned<ReplyEntry>>,
    #[serde(default)]
    drop: Vec<Spanned<DropEntry>>,
    tarpit_bytes_per_second: Option<u32>,
    connections_max: Option<u32>,
    messages_per_connection_max: Option<u32>,
    greylist_seconds: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DelayEntry {
    at: Moment,
    ms: Option<f64>,
    min_ms: Option<f64>,
    max_ms: Option<f64>,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplyEntry {
    at: Moment,
    rate: f64,
    text: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DropEntry {
    at: Moment,
    rate: f64,
}

/// How long is waited, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Spread {
    Constant(f64),
    Uniform(f64, f64),
    /// Its logarithm is normal, as that of most answers out of a network is.
    LogNormal {
        median: f64,
        deviation: f64,
    },
}

impl Spread {
    fn roll(self, random: &mut Random) -> Duration {
        let ms = match self {
            Spread::Constant(ms) => ms,
            Spread::Uniform(least, most) => least + (most - least) * random.fraction(),
            Spread::LogNormal { median, deviation } => median * (deviation * random.normal()).exp(),
        };
        Duration::from_secs_f64((ms / 1000.0).min(DELAY_SECONDS_MAX))
    }
}

/// What is done to the mail of one entry.
#[derive(Debug, Default)]
pub struct Behaviour {
    delays: Vec<(Moment, Spread)>,
    replies: Vec<(Moment, f64, Box<[u8]>)>,
    drops: Vec<(Moment, f64)>,
    pub tarpit_bytes_per_second: Option<u32>,
    pub connections_max: Option<u32>,
    pub messages_max: Option<u32>,
    pub greylist: Option<Duration>,
    connections: AtomicU32,
}

/// What the random say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fortune<'b> {
    Well,
    /// A whole reply, with its line ends.
    Reply(&'b [u8]),
    Drop,
}

impl Behaviour {
    pub fn delay(&self, moment: Moment, random: &mut Random) -> Duration {
        let own = self.delays.iter().filter(|(at, _)| *at == moment);
        own.map(|(_, spread)| spread.roll(random)).sum()
    }

    pub fn fortune(&self, moment: Moment, random: &mut Random) -> Fortune<'_> {
        for (_, rate) in self.drops.iter().filter(|(at, _)| *at == moment) {
            if random.fraction() < *rate {
                return Fortune::Drop;
            }
        }
        let mut replies = self.replies.iter().filter(|(at, ..)| *at == moment).peekable();
        if replies.peek().is_none() {
            return Fortune::Well;
        }
        // One roll for all of them: rates are shares of the whole.
        let mut left = random.fraction();
        for (_, rate, text) in replies {
            if left < *rate {
                return Fortune::Reply(text);
            }
            left -= rate;
        }
        Fortune::Well
    }

    /// One more connection; `false`, and none more, when there are as many as may be.
    pub fn try_connect(&self) -> bool {
        let most = self.connections_max.unwrap_or(u32::MAX);
        let more = |now: u32| (now < most).then(|| now + 1);
        self.connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    pub fn disconnect(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All entries of a file.
#[derive(Debug, Default)]
pub struct Behaviours {
    all: Vec<Behaviour>,
    exact: HashMap<Box<[u8]>, usize>,
    /// By what stands behind `*.`.
    below: HashMap<Box<[u8]>, usize>,
    default: Option<usize>,
}

impl Behaviours {
    /// Reads a file; the error names the line.
    pub fn read(text: &str) -> Result<Behaviours, String> {
        let file: File = toml::from_str(text).map_err(|fault| {
            let line = fault.span().map_or(1, |span| line_of(text, span));
            format!("line {line}: {}", fault.message())
        })?;
        let mut read = Behaviours::default();
        if let Some(entry) = file.default {
            let line = line_of(text, entry.span());
            let entry = entry.into_inner();
            if !entry.names.is_empty() {
                return Err(format!("line {line}: `match` is for [[domain]]"));
            }
            read.default = Some(read.push(text, entry, Moments::All)?);
        }
        for entry in file.domain {
            let line = line_of(text, entry.span());
            let mut entry = entry.into_inner();
            let names = std::mem::take(&mut entry.names);
            if names.is_empty() {
                return Err(format!("line {line}: `match` is missing, as in [\"*.example\"]"));
            }
            let place = read.push(text, entry, Moments::OfRecipient)?;
            for name in names {
                read.name(&name, place).map_err(|why| format!("line {line}: {why}"))?;
            }
        }
        Ok(read)
    }

    fn name(&mut self, name: &str, place: usize) -> Result<(), String> {
        let lower = name.to_ascii_lowercase();
        let (map, key) = match lower.strip_prefix("*.") {
            Some(suffix) => (&mut self.below, suffix),
            None => (&mut self.exact, &*lower),
        };
        if key.is_empty() || key.contains(['*', '@', ' ']) {
            return Err(format!("`{name}` is neither a domain nor *.domain"));
        }
        match map.insert(key.as_bytes().into(), place) {
            Some(_) => Err(format!("`{name}` is matched twice")),
            None => Ok(()),
        }
    }

    fn push(&mut self, text: &str, entry: Entry, moments: Moments) -> Result<usize, String> {
        let behaviour = behaviour(text, entry, moments)?;
        self.all.push(behaviour);
        Ok(self.all.len() - 1)
    }

    /// The place of what is done for a domain, which is written in small letters.
    pub fn find(&self, domain: &[u8]) -> Option<usize> {
        if let Some(place) = self.exact.get(domain) {
            return Some(*place);
        }
        let mut rest = domain;
        while let Some(dot) = memchr::memchr(b'.', rest).filter(|_| !self.below.is_empty()) {
            rest = &rest[dot + 1..];
            if let Some(place) = self.below.get(rest) {
                return Some(*place);
            }
        }
        self.default
    }

    pub fn get(&self, place: usize) -> &Behaviour {
        &self.all[place]
    }

    /// What is done before a recipient is known.
    pub fn default_place(&self) -> Option<usize> {
        self.default
    }
}

/// At which moments an entry may act.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moments {
    All,
    OfRecipient,
}

fn behaviour(text: &str, entry: Entry, moments: Moments) -> Result<Behaviour, String> {
    let at_line = |span: Range<usize>, why: &str| format!("line {}: {why}", line_of(text, span));
    let check = |span: Range<usize>, at: Moment| match moments {
        Moments::OfRecipient if !at.knows_the_recipient() => {
            Err(at_line(span, "no recipient is known by then; only [default] may act there"))
        }
        _ => Ok(()),
    };
    let rate = |span: Range<usize>, rate: f64| match (0.0..=1.0).contains(&rate) {
        true => Ok(rate),
        false => Err(at_line(span, "`rate` is from 0 to 1")),
    };
    let mut behaviour = Behaviour {
        tarpit_bytes_per_second: entry.tarpit_bytes_per_second,
        connections_max: entry.connections_max,
        messages_max: entry.messages_per_connection_max,
        ..Behaviour::default()
    };
    if behaviour.tarpit_bytes_per_second == Some(0) {
        return Err("`tarpit_bytes_per_second` must be more than 0".to_owned());
    }
    if let Some(seconds) = entry.greylist_seconds {
        let lawful = (0.0..=1e6).contains(&seconds);
        let bad = "`greylist_seconds` is from 0 to a million";
        behaviour.greylist = Some(lawful.then(|| Duration::from_secs_f64(seconds)).ok_or(bad)?);
    }
    for delay in entry.delay {
        let (span, delay) = (delay.span(), delay.into_inner());
        check(span.clone(), delay.at)?;
        let spread = spread(&delay).map_err(|why| at_line(span, why))?;
        behaviour.delays.push((delay.at, spread));
    }
    for reply in entry.reply {
        let (span, reply) = (reply.span(), reply.into_inner());
        check(span.clone(), reply.at)?;
        let whole = whole_reply(&reply.text).map_err(|why| at_line(span.clone(), why))?;
        behaviour.replies.push((reply.at, rate(span.clone(), reply.rate)?, whole));
        let same = behaviour.replies.iter().filter(|(at, ..)| *at == reply.at);
        // A little more, for sums of fractions are not exact.
        if same.map(|(_, rate, _)| rate).sum::<f64>() > 1.000_001 {
            return Err(at_line(span, "the rates of this moment are more than 1 together"));
        }
    }
    for drop in entry.drop {
        let (span, drop) = (drop.span(), drop.into_inner());
        check(span.clone(), drop.at)?;
        behaviour.drops.push((drop.at, rate(span, drop.rate)?));
    }
    Ok(behaviour)
}

fn spread(delay: &DelayEntry) -> Result<Spread, &'static str> {
    let DelayEntry { ms, min_ms, max_ms, p50_ms, p99_ms, .. } = *delay;
    let all = [ms, min_ms, max_ms, p50_ms, p99_ms];
    if !all.iter().flatten().all(|ms| (0.0..=DELAY_SECONDS_MAX * 1000.0).contains(ms)) {
        return Err("a delay is from 0 to 3600000 ms");
    }
    match all {
        [Some(ms), None, None, None, None] => Ok(Spread::Constant(ms)),
        [None, Some(least), Some(most), None, None] if least <= most => {
            Ok(Spread::Uniform(least, most))
        }
        [None, None, None, Some(median), Some(p99)] if 0.0 < median && median <= p99 => {
            let deviation = (p99 / median).ln() / P99_DEVIATIONS;
            Ok(Spread::LogNormal { median, deviation })
        }
        _ => Err("a delay has `ms`, or `min_ms` up to `max_ms`, or `p50_ms` up to `p99_ms`"),
    }
}

/// A reply of one line or several, each with its code, and CRLF behind each.
fn whole_reply(text: &str) -> Result<Box<[u8]>, &'static str> {
    let bad = "a reply is lines such as `452-4.2.2 one` and at last `452 4.2.2 two`";
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let code = lines.first().and_then(|line| line.get(..3)).ok_or(bad)?;
    if !matches!(code.as_bytes(), [b'4' | b'5', b'0'..=b'9', b'0'..=b'9']) {
        // With any other the client would take for delivered what is in no ledger.
        return Err("a reply refuses: it begins with a code from 400 to 599");
    }
    for (place, line) in lines.iter().enumerate() {
        let last = place + 1 == lines.len();
        let mark = if last { " " } else { "-" };
        let lawful = line.strip_prefix(code).is_some_and(|rest| rest.starts_with(mark));
        (lawful && !line.contains('\r')).then_some(()).ok_or(bad)?;
    }
    Ok((lines.join("\r\n") + "\r\n").into_bytes().into())
}

fn line_of(text: &str, span: Range<usize>) -> usize {
    text[..span.start.min(text.len())].matches('\n').count() + 1
}

#[cfg(test)]
#[path = "behaviour_tests.rs"]
mod tests;
