//! The parts of a log line around a record: time, level and shard before it, the end after it.

use std::fmt::Write;

use crate::base::ShardId;
use crate::base::clock::wall_ms;
use crate::observe::log::record::Level;
use crate::observe::log::record::Record;
use crate::observe::log::value::Form;
use crate::observe::log::value::Value;

/// Writes time, level and shard.
pub(super) fn write_head(
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

pub(super) fn write_tail(line: &mut String, form: Form) {
    line.push_str(if form == Form::Json { "}\n" } else { "\n" });
}

/// A record as a complete line, for the lines of the log thread itself.
pub(super) fn line_of(record: &Record<'_>, form: Form) -> String {
    let mut line = String::new();
    write_head(&mut line, &mut Stamp::new(), form, (record.level(), None));
    record.write(&mut line, form).expect("a String takes everything");
    write_tail(&mut line, form);
    line
}

/// RFC 3339 in UTC with milliseconds. The text without milliseconds is cached for a second.
pub(super) struct Stamp {
    second: Option<u64>,
    text: String,
}

impl Stamp {
    pub(super) const fn new() -> Stamp {
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
