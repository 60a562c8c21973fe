//! Behaviour files (TOML): see `loadtest/behaviours` for the keys.
//!
//! Promise:  an unknown key, an invalid rate, or a moment at which the recipient is not known yet is
//!           an error with its line. An entry without keys accepts all mail.

use std::ops::Range;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use crate::random::LogNormal;
use crate::sink::behaviour::Behaviour;
use crate::sink::behaviour::Behaviours;
use crate::sink::behaviour::DELAY_SECONDS_MAX;
use crate::sink::behaviour::Moment;
use crate::sink::behaviour::Spread;

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

/// At which moments an entry may act.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moments {
    All,
    OfRecipient,
}

/// The behaviours of this text of several lines, of the built-in file `providers`, or of the file of this
/// path.
pub fn find(text: &str) -> Result<Behaviours, String> {
    const PROVIDERS: &str = include_str!("../../behaviours/providers.toml");
    let (from, text) = match text {
        "providers" => ("the behaviour `providers`", PROVIDERS.to_owned()),
        text if text.contains('\n') => ("`behaviour`", text.to_owned()),
        path => {
            let read = std::fs::read_to_string(path);
            (path, read.map_err(|cause| format!("{path}: {cause}"))?)
        }
    };
    read(&text).map_err(|why| format!("{from}, {why}"))
}

/// Reads a file; the error names the line.
fn read(text: &str) -> Result<Behaviours, String> {
    let file: File = toml::from_str(text).map_err(|fault| {
        let line = fault.span().map_or(1, |span| line_of(text, span));
        format!("line {line}: {}", fault.message())
    })?;
    let mut all = Behaviours::default();
    if let Some(entry) = file.default {
        let line = line_of(text, entry.span());
        let entry = entry.into_inner();
        if !entry.names.is_empty() {
            return Err(format!("line {line}: `match` belongs to [[domain]]"));
        }
        all.default = Some(all.all.len());
        all.all.push(behaviour(text, entry, Moments::All)?);
    }
    for entry in file.domain {
        let line = line_of(text, entry.span());
        let mut entry = entry.into_inner();
        let names = std::mem::take(&mut entry.names);
        if names.is_empty() {
            return Err(format!("line {line}: `match` is missing, as in [\"*.example\"]"));
        }
        let place = all.all.len();
        all.all.push(behaviour(text, entry, Moments::OfRecipient)?);
        for name in names {
            add_name(&mut all, &name, place).map_err(|why| format!("line {line}: {why}"))?;
        }
    }
    Ok(all)
}

fn add_name(all: &mut Behaviours, name: &str, place: usize) -> Result<(), String> {
    let lower = name.to_ascii_lowercase();
    let (map, key) = match lower.strip_prefix("*.") {
        Some(suffix) => (&mut all.below, suffix),
        None => (&mut all.exact, &*lower),
    };
    if key.is_empty() || key.contains(['*', '@', ' ']) {
        return Err(format!("`{name}` is neither a domain nor *.domain"));
    }
    match map.insert(key.as_bytes().into(), place) {
        Some(_) => Err(format!("`{name}` is matched twice")),
        None => Ok(()),
    }
}

fn behaviour(text: &str, entry: Entry, moments: Moments) -> Result<Behaviour, String> {
    let at_line = |span: Range<usize>, why: &str| format!("line {}: {why}", line_of(text, span));
    let check = |span: Range<usize>, at: Moment| match moments {
        Moments::OfRecipient if !at.knows_the_recipient() => {
            Err(at_line(span, "the recipient is not known yet; only [default] may act here"))
        }
        _ => Ok(()),
    };
    let rate = |span: Range<usize>, rate: f64| match (0.0..=1.0).contains(&rate) {
        true => Ok(rate),
        false => Err(at_line(span, "`rate` must be from 0 to 1")),
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
        let bad = "`greylist_seconds` must be from 0 to 1000000";
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
        // Sums of fractions are not exact.
        if same.map(|(_, rate, _)| rate).sum::<f64>() > 1.000_001 {
            return Err(at_line(span, "the rates at this moment add up to more than 1"));
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
        return Err("a delay must be from 0 to 3600000 ms");
    }
    match all {
        [Some(ms), None, None, None, None] => Ok(Spread::Constant(ms)),
        [None, Some(least), Some(most), None, None] if least <= most => {
            Ok(Spread::Uniform(least, most))
        }
        [None, None, None, Some(p50), Some(p99)] if 0.0 < p50 && p50 <= p99 => {
            Ok(Spread::LogNormal(LogNormal::new(p50, p99)))
        }
        _ => Err("a delay has `ms`, or `min_ms` <= `max_ms`, or `p50_ms` <= `p99_ms`"),
    }
}

/// A reply of one line or several, each with its code and CRLF.
fn whole_reply(text: &str) -> Result<Box<[u8]>, &'static str> {
    let bad = "a reply has lines such as `452-4.2.2 one` and ends with `452 4.2.2 two`";
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let code = lines.first().and_then(|line| line.get(..3)).ok_or(bad)?;
    if !matches!(code.as_bytes(), [b'4' | b'5', b'0'..=b'9', b'0'..=b'9']) {
        // After any other code the client would count a message as delivered that no ledger has.
        return Err("a reply must refuse: its code is from 400 to 599");
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
