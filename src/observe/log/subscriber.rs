//! The `tracing` subscriber: one record becomes one line in the calling thread's lane.
//!
//! Owner:    each thread has one line buffer, one time stamp and one lane, created on first use (or
//!           by `log::set_shard`) and released when the thread ends.
//! Promise:  writing a line takes no lock, allocates nothing once the buffer has grown, and makes no
//!           syscall except to wake a sleeping log thread.
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
use crate::observe::log::journal::Journal;
use crate::observe::log::lane::LaneEntry;
use crate::observe::log::line::Stamp;
use crate::observe::log::line::write_head;
use crate::observe::log::line::write_tail;
use crate::observe::log::record::Level;
use crate::observe::log::record::TARGET;
use crate::observe::log::value::Escaping;
use crate::observe::log::value::Form;
use crate::observe::log::value::Value;

/// Bytes of a shard's lane: about 2,500 lines, a sixth of a second at full speed. The log thread
/// empties it every `POLL_MS`.
const SHARD_LANE_BYTES: usize = 1 << 20;

/// Bytes of any other thread's lane.
const OTHER_LANE_BYTES: usize = 128 << 10;

thread_local! {
    static LINE_BUFFER: RefCell<LineBuffer> = const { RefCell::new(LineBuffer::new()) };
}

/// The state of a thread for writing lines.
struct LineBuffer {
    shard: Option<ShardId>,
    stamp: Stamp,
    line: String,
    /// With the number of its journal.
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

/// Marks this thread as that of a shard, and opens its lane.
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
            // A value that logs while it is written finds the buffer borrowed.
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
