//! The `tracing` subscriber: one record becomes one line in the calling thread's lane.
//!
//! Owner:    each thread has one line buffer, one time stamp and one lane, made on first use (or
//!           by `log::set_shard`) and given up when the thread ends.
//! Promise:  writing a line takes no lock and makes no allocation once the buffer has grown, and
//!           no syscall but the one that wakes a sleeping log thread.
//! Bounds:   a lane per thread; spans are not recorded.
//!
//! Our own records arrive whole (see the `Debug` of `Record`). Records of foreign crates, also those
//! of the `log` crate, become a record named `foreign`; only their warnings and errors are shown
//! unless the level is `debug`.

use std::cell::RefCell;
use std::fmt;
use std::fmt::Write;
use std::sync::Arc;

use tracing::Metadata;
use tracing::Subscriber;
use tracing::field::Field;
use tracing::field::Visit;
use tracing::level_filters::LevelFilter;
use tracing::span;
use tracing::subscriber::Interest;
use tracing_log::NormalizeEvent;

use crate::base::ShardId;
use crate::base::clock::wall_ms;
use crate::observe::log::Record;
use crate::observe::log::lane::LaneEntry;
use crate::observe::log::record::Level;
use crate::observe::log::record::TARGET;
use crate::observe::log::value::Escaping;
use crate::observe::log::value::Form;
use crate::observe::log::value::Value;
use crate::observe::log::writer::Journal;

/// Bytes of a shard's lane: about 2,500 lines, a sixth of a second at full speed, while the log
/// thread comes by every `POLL_MS`.
const SHARD_LANE_BYTES: usize = 1 << 20;

/// Bytes of any other thread's lane.
const OTHER_LANE_BYTES: usize = 128 << 10;

thread_local! {
    static LINE_BUFFER: RefCell<LineBuffer> = const { RefCell::new(LineBuffer::new()) };
}

/// What a thread writes its lines with.
struct LineBuffer {
    shard: Option<ShardId>,
    stamp: Stamp,
    line: String,
    /// With the number of the journal it leads to.
    lane: Option<(u64, LaneEntry)>,
}

impl LineBuffer {
    const fn new() -> LineBuffer {
        LineBuffer { shard: None, stamp: Stamp::new(), line: String::new(), lane: None }
    }

    fn lane_to(&mut self, journal: &Journal) -> &mut LaneEntry {
        if self.lane.as_ref().is_none_or(|(number, _)| *number != journal.number()) {
            let bytes = if self.shard.is_some() { SHARD_LANE_BYTES } else { OTHER_LANE_BYTES };
            self.lane = Some((journal.number(), journal.open_lane(bytes)));
        }
        let (_, lane) = self.lane.as_mut().expect("it was just opened");
        lane
    }

    fn send(&mut self, journal: &Journal) -> bool {
        let line = std::mem::take(&mut self.line);
        let is_in = self.lane_to(journal).push(line.as_bytes());
        self.line = line;
        is_in
    }
}

/// Makes this thread a shard's for its log lines, and opens its lane.
pub(crate) fn enter_shard(shard: ShardId, journal: Option<&Journal>) {
    LINE_BUFFER.with_borrow_mut(|buffer| {
        buffer.shard = Some(shard);
        buffer.lane = None;
        if let Some(journal) = journal {
            buffer.lane_to(journal);
        }
    });
}

/// The subscriber. One per process, except in tests.
pub struct LineSubscriber {
    journal: Arc<Journal>,
}

impl LineSubscriber {
    pub fn new(journal: Arc<Journal>) -> LineSubscriber {
        LineSubscriber { journal }
    }

    fn write_line(&self, buffer: &mut LineBuffer, event: &tracing::Event<'_>) {
        let form = self.journal.form();
        let level = level_of(event.metadata());
        buffer.line.clear();
        write_head(&mut buffer.line, &mut buffer.stamp, form, (level, buffer.shard));
        if event.metadata().target() == TARGET {
            event.record(&mut Ours { line: &mut buffer.line, form });
        } else {
            write_foreign(&mut buffer.line, form, event);
        }
        write_tail(&mut buffer.line, form);
        if buffer.send(&self.journal) {
            self.journal.wake(level);
        }
    }
}

impl Subscriber for LineSubscriber {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if metadata.is_event() { Interest::sometimes() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let shown = self.journal.level();
        let level = level_of(metadata);
        let is_ours = metadata.target() == TARGET;
        let foreign_max = if shown < Level::Debug { Level::Warn } else { Level::Debug };
        let is_trace = *metadata.level() == tracing::Level::TRACE;
        metadata.is_event() && !is_trace && level <= shown && (is_ours || level <= foreign_max)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(filter_of(self.journal.level()))
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let written = LINE_BUFFER.try_with(|buffer| {
            // A value that logs while it is being shown finds the buffer taken.
            buffer.try_borrow_mut().map(|mut buffer| self.write_line(&mut buffer, event)).is_ok()
        });
        if written != Ok(true) {
            self.journal.count_lost(1);
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// Our record, which writes itself.
struct Ours<'a> {
    line: &'a mut String,
    form: Form,
}

impl Visit for Ours<'_> {
    fn record_debug(&mut self, _: &Field, record: &dyn fmt::Debug) {
        let written = match self.form {
            Form::Text => write!(self.line, "{record:?}"),
            Form::Json => write!(self.line, "{record:#?}"),
        };
        written.expect("a String takes everything");
    }
}

/// A line of a foreign crate: its fields, whatever they are.
struct Foreign<'a> {
    line: &'a mut String,
    form: Form,
}

impl Visit for Foreign<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if !field.name().starts_with("log.") {
            let value = format_args!("{value:?}");
            write_extra(self.line, self.form, field.name(), &(&value as &dyn fmt::Display));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if !field.name().starts_with("log.") {
            write_extra(self.line, self.form, field.name(), &value);
        }
    }
}

fn write_foreign(line: &mut String, form: Form, event: &tracing::Event<'_>) {
    line.push_str(if form == Form::Json { "\"record\":\"foreign\"" } else { "foreign" });
    let by_log = event.normalized_metadata();
    let target = by_log.as_ref().map_or(event.metadata().target(), |metadata| metadata.target());
    write_extra(line, form, "target", &target);
    event.record(&mut Foreign { line, form });
}

fn write_extra(line: &mut String, form: Form, key: &str, value: &impl Value) {
    line.push_str(if form == Form::Json { ",\"" } else { " " });
    Escaping::new(line).write_str(key).expect("a String takes everything");
    line.push_str(if form == Form::Json { "\":" } else { "=" });
    value.write(line, form).expect("a String takes everything");
}

/// Time, level, shard.
fn write_head(
    line: &mut String,
    stamp: &mut Stamp,
    form: Form,
    (level, shard): (Level, Option<ShardId>),
) {
    let (open, time_end, level_end, shard_key, end) = match form {
        Form::Text => ("", " ", "", " shard=", " "),
        Form::Json => ("{\"time\":\"", "\",\"level\":\"", "\"", ",\"shard\":", ","),
    };
    line.push_str(open);
    stamp.write(line, wall_ms());
    line.push_str(time_end);
    line.push_str(level.name());
    line.push_str(level_end);
    if let Some(shard) = shard {
        line.push_str(shard_key);
        shard.write(line, form).expect("a String takes everything");
    }
    line.push_str(end);
}

fn write_tail(line: &mut String, form: Form) {
    line.push_str(if form == Form::Json { "}\n" } else { "\n" });
}

/// One of our records as a whole line, for the log thread's own lines.
pub(crate) fn line_of(record: &Record<'_>, form: Form) -> String {
    let mut line = String::new();
    write_head(&mut line, &mut Stamp::new(), form, (record.level(), None));
    record.write(&mut line, form).expect("a String takes everything");
    write_tail(&mut line, form);
    line
}

fn level_of(metadata: &Metadata<'_>) -> Level {
    match *metadata.level() {
        tracing::Level::ERROR => Level::Error,
        tracing::Level::WARN => Level::Warn,
        tracing::Level::INFO => Level::Info,
        _ => Level::Debug,
    }
}

fn filter_of(level: Level) -> LevelFilter {
    match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
    }
}

/// RFC 3339 in UTC with milliseconds. All but the milliseconds is kept for a second.
struct Stamp {
    second: Option<u64>,
    text: String,
}

impl Stamp {
    const fn new() -> Stamp {
        Stamp { second: None, text: String::new() }
    }

    fn write(&mut self, line: &mut String, now_ms: u64) {
        let second = now_ms / 1000;
        if self.second != Some(second) {
            self.second = Some(second);
            let whole = jiff::Timestamp::from_second(second as i64).unwrap_or_default();
            self.text.clear();
            write!(self.text, "{whole}").expect("a String takes everything");
            self.text.truncate(self.text.len() - "Z".len());
        }
        line.push_str(&self.text);
        let ms = (now_ms % 1000) as u32;
        line.push('.');
        for power in [100, 10, 1] {
            line.push(char::from(b'0' + (ms / power % 10) as u8));
        }
        line.push('Z');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_rfc_3339_in_utc() {
        let rows = [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_709_210_096_007, "2024-02-29T12:34:56.007Z"),
            (1_709_210_096_999, "2024-02-29T12:34:56.999Z"),
            (1_709_210_095_000, "2024-02-29T12:34:55.000Z"),
        ];
        let mut stamp = Stamp::new();
        for (now_ms, expected) in rows {
            let mut line = String::new();
            stamp.write(&mut line, now_ms);
            assert_eq!(line, expected);
        }
    }
}
