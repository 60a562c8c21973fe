//! How a value looks in a log line: as text (`key=value`) or as JSON.
//!
//! Promise:  whatever a peer sent, a value stays inside its field and its line. Control bytes,
//!           line ends, quotes, backslashes and the characters that turn the reading direction
//!           are escaped, the same way in both forms; text that could be misread is quoted.
//! Bounds:   `VALUE_BYTES_MAX` of a value are shown; a longer one ends in `...`.

use std::fmt;
use std::fmt::Display;
use std::fmt::Write;
use std::net::IpAddr;
use std::net::SocketAddr;

use crate::base::PartitionId;
use crate::base::PublicId;
use crate::base::ShardId;

/// Bytes of one value in a line. Longer than any address or reply; keeps a hostile Message-ID
/// from filling the lane.
pub const VALUE_BYTES_MAX: usize = 1024;

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Text,
    Json,
}

/// A value of a field of a record.
pub trait Value {
    fn write<W: Write>(&self, out: &mut W, form: Form) -> fmt::Result;

    /// Whether the whole field is left out.
    fn is_absent(&self) -> bool {
        false
    }
}

impl Value for &str {
    fn write<W: Write>(&self, out: &mut W, form: Form) -> fmt::Result {
        if form == Form::Text && is_plain(self) {
            return out.write_str(self);
        }
        out.write_char('"')?;
        Escaping::new(out).write_str(self)?;
        out.write_char('"')
    }
}

/// A cause: any fault that can say what happened. Always quoted.
impl Value for &dyn Display {
    fn write<W: Write>(&self, out: &mut W, _: Form) -> fmt::Result {
        out.write_char('"')?;
        write!(Escaping::new(out), "{self}")?;
        out.write_char('"')
    }
}

impl<V: Value> Value for Option<V> {
    fn write<W: Write>(&self, out: &mut W, form: Form) -> fmt::Result {
        match self {
            Some(value) => value.write(out, form),
            None => out.write_str("null"),
        }
    }

    fn is_absent(&self) -> bool {
        self.as_ref().is_none_or(Value::is_absent)
    }
}

/// A list is a JSON array, or one quoted text with commas.
impl<S: AsRef<str>> Value for &[S] {
    fn write<W: Write>(&self, out: &mut W, form: Form) -> fmt::Result {
        let (open, between, close) = match form {
            Form::Text => ("\"", ", ", "\""),
            Form::Json => ("[\"", "\",\"", "\"]"),
        };
        if self.is_empty() {
            return out.write_str(if form == Form::Json { "[]" } else { "\"\"" });
        }
        out.write_str(open)?;
        for (place, item) in self.iter().enumerate() {
            out.write_str(if place > 0 { between } else { "" })?;
            Escaping::new(out).write_str(item.as_ref())?;
        }
        out.write_str(close)
    }
}

macro_rules! shown_bare {
    ($($type:ty),*) => {$(
        impl Value for $type {
            fn write<W: Write>(&self, out: &mut W, _: Form) -> fmt::Result {
                write!(out, "{self}")
            }
        }
    )*};
}

macro_rules! shown_as_word {
    ($($type:ty),*) => {$(
        impl Value for $type {
            fn write<W: Write>(&self, out: &mut W, form: Form) -> fmt::Result {
                match form {
                    Form::Text => write!(out, "{self}"),
                    Form::Json => write!(out, "\"{self}\""),
                }
            }
        }
    )*};
}

shown_bare!(u8, u16, u32, u64, usize, i32, bool, ShardId, PartitionId);
shown_as_word!(IpAddr, SocketAddr, PublicId);

/// Passes text on with everything escaped that could break a field, within `VALUE_BYTES_MAX`.
pub struct Escaping<'a, W> {
    out: &'a mut W,
    bytes_left: usize,
    is_cut: bool,
}

impl<'a, W: Write> Escaping<'a, W> {
    pub fn new(out: &'a mut W) -> Escaping<'a, W> {
        Escaping { out, bytes_left: VALUE_BYTES_MAX, is_cut: false }
    }

    /// The front of `text` that may still be shown.
    fn within_bounds<'t>(&mut self, text: &'t str) -> &'t str {
        if text.len() <= self.bytes_left {
            self.bytes_left -= text.len();
            return text;
        }
        let mut end = self.bytes_left;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.bytes_left = 0;
        &text[..end]
    }
}

impl<W: Write> Write for Escaping<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.is_cut {
            return Ok(());
        }
        let shown = self.within_bounds(text);
        let mut from = 0;
        if !all(shown, is_harmless) {
            for (at, char) in shown.char_indices().filter(|(_, char)| is_escaped(*char)) {
                self.out.write_str(&shown[from..at])?;
                write_escape(self.out, char)?;
                from = at + char.len_utf8();
            }
        }
        self.out.write_str(&shown[from..])?;
        self.is_cut = shown.len() < text.len();
        if self.is_cut { self.out.write_str("...") } else { Ok(()) }
    }
}

/// May stand without quotes in a text line.
fn is_plain(text: &str) -> bool {
    let is_word = |byte: u8| is_harmless(byte) & (byte != b' ') & (byte != b'=');
    (1..=VALUE_BYTES_MAX).contains(&text.len()) && all(text, is_word)
}

/// Whether it holds for each byte. Looks at all of them, so that the compiler takes many at a time.
fn all(text: &str, holds: impl Fn(u8) -> bool) -> bool {
    text.bytes().fold(true, |all, byte| all & holds(byte))
}

fn is_harmless(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte) & (byte != b'"') & (byte != b'\\')
}

/// Control characters, what the quotes need, and what lets a line look like another one: line
/// separators, zero-width characters, and the marks that turn the reading direction.
fn is_escaped(char: char) -> bool {
    char.is_control()
        || matches!(char, '"' | '\\' | '\u{2028}' | '\u{2029}' | '\u{FEFF}')
        || matches!(char, '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

fn write_escape<W: Write>(out: &mut W, char: char) -> fmt::Result {
    match char {
        '"' => out.write_str("\\\""),
        '\\' => out.write_str("\\\\"),
        '\n' => out.write_str("\\n"),
        '\r' => out.write_str("\\r"),
        '\t' => out.write_str("\\t"),
        other => write!(out, "\\u{:04x}", other as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: impl Value, form: Form) -> String {
        let mut out = String::new();
        value.write(&mut out, form).expect("a String takes everything");
        out
    }

    #[test]
    fn text_stays_in_its_field() {
        let rows = [
            ("a word", "a@x.test", "a@x.test"),
            ("nothing", "", "\"\""),
            ("a space", "a b", "\"a b\""),
            ("a key", "id=1", "\"id=1\""),
            ("a quote", "a\"b", "\"a\\\"b\""),
            ("a backslash", "a\\b", "\"a\\\\b\""),
            ("a line", "a\r\nerror forged", "\"a\\r\\nerror forged\""),
            ("an escape sequence", "\x1b[2J\x7f", "\"\\u001b[2J\\u007f\""),
            ("a C1 control", "\u{9b}2J", "\"\\u009b2J\""),
            ("letters", "üñ@x.test", "\"üñ@x.test\""),
            ("turned direction", "a\u{202e}b", "\"a\\u202eb\""),
        ];
        for (name, text, expected) in rows {
            assert_eq!(shown(text, Form::Text), expected, "{name}");
            let json = shown(text, Form::Json);
            let read: String = serde_json::from_str(&json).expect("a JSON string");
            assert_eq!(read, text, "{name}, read back from {json}");
            let cause: &dyn Display = &text;
            assert_eq!(shown(cause, Form::Json), json, "{name} as a cause");
        }
    }

    #[test]
    fn other_values_are_shown_by_their_kind() {
        let address: IpAddr = [192, 0, 2, 1].into();
        assert_eq!(shown(address, Form::Text), "192.0.2.1");
        assert_eq!(shown(address, Form::Json), "\"192.0.2.1\"");
        assert_eq!(shown(7_u64, Form::Json), "7");
        assert!(None::<u64>.is_absent() && !Some(1_u64).is_absent());
        let list: &[&str] = &["a", "b\n"];
        assert_eq!(shown(list, Form::Json), "[\"a\",\"b\\n\"]");
        assert_eq!(shown(list, Form::Text), "\"a, b\\n\"");
        assert_eq!(shown(&[] as &[&str], Form::Json), "[]");
    }

    #[test]
    fn a_long_value_is_cut_between_characters() {
        let long = "ü".repeat(VALUE_BYTES_MAX);
        let text = shown(long.as_str(), Form::Text);
        assert_eq!(text, format!("\"{}...\"", "ü".repeat(VALUE_BYTES_MAX / 2)));
        let cause: &dyn Display = &format_args!("{long}{long}");
        assert_eq!(shown(cause, Form::Text), text);
    }
}
