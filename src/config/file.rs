//! The file: TOML text becomes a tree of plain values, each with its place.
//!
//! Promise:  only this file knows the TOML library. A syntax error on one `key = value` line does not
//!           hide later errors: the line is skipped, up to `SYNTAX_FAULTS_MAX` times.

use std::ops::Range;

use toml_edit::Document;
use toml_edit::Item;
use toml_edit::TableLike;
use toml_edit::TomlError;
use toml_edit::Value;

use crate::config::fault::Place;
use crate::config::fault::Refusal;

/// Broken lines that are skipped. After one more, the rest of the file is not read.
const SYNTAX_FAULTS_MAX: usize = 20;

/// Characters of a value that a message quotes.
const SHOWN_MAX: usize = 60;

/// A value and where it is set.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    pub place: Place,
    pub plain: Plain,
}

/// A TOML value.
#[derive(Clone, Debug, PartialEq)]
pub enum Plain {
    Text(String),
    Whole(i64),
    Fraction(f64),
    Flag(bool),
    Moment(String),
    List(Vec<Written>),
    Table(Table),
}

/// The keys of a table in the order of the file. The line of a value is that of its key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    pub entries: Vec<(String, Written)>,
}

/// A file, and the lines that could not be read.
#[derive(Debug, Default)]
pub struct Parsed {
    pub table: Table,
    /// Number and reason of each line that is not TOML.
    pub broken: Vec<(usize, Refusal)>,
    /// Whether `table` lacks only values, so that the rest can be checked.
    pub whole: bool,
}

impl Table {
    pub fn find(&self, name: &str) -> Option<&Written> {
        self.entries.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Sets a key, whether or not the table has it.
    pub fn set(&mut self, name: &str, value: Written) {
        self.entries.retain(|(key, _)| key != name);
        self.entries.push((name.to_owned(), value));
    }

    /// The value of a key, which is added if the table lacks it.
    pub fn entry(&mut self, name: &str, new: impl FnOnce() -> Written) -> &mut Written {
        let found = self.entries.iter().position(|(key, _)| key == name);
        let at = found.unwrap_or(self.entries.len());
        if found.is_none() {
            self.entries.push((name.to_owned(), new()));
        }
        &mut self.entries[at].1
    }
}

impl Written {
    pub fn table(&self) -> Option<&Table> {
        match &self.plain {
            Plain::Table(table) => Some(table),
            _ => None,
        }
    }

    /// Gives the value, and all values within it, a place.
    pub fn place_all(&mut self, place: &Place) {
        self.place = place.clone();
        match &mut self.plain {
            Plain::List(list) => list.iter_mut().for_each(|one| one.place_all(place)),
            Plain::Table(table) => {
                table.entries.iter_mut().for_each(|(_, one)| one.place_all(place));
            }
            _ => {}
        }
    }

    /// The elements of a list; empty for any other value.
    pub fn list(&self) -> &[Written] {
        match &self.plain {
            Plain::List(list) => list,
            _ => &[],
        }
    }

    /// The systemd credential that the value names.
    pub fn credential(&self) -> Option<&str> {
        match &self.plain {
            Plain::Text(text) => text.strip_prefix("credential:"),
            _ => None,
        }
    }

    /// The value as messages quote it.
    pub fn shown(&self) -> String {
        let text = match &self.plain {
            Plain::Text(text) => format!("\"{}\"", text.escape_debug()),
            Plain::Whole(number) => number.to_string(),
            Plain::Fraction(number) => number.to_string(),
            Plain::Flag(flag) => flag.to_string(),
            Plain::Moment(moment) => moment.clone(),
            Plain::List(_) => "a list".to_owned(),
            Plain::Table(_) => "a table".to_owned(),
        };
        match text.char_indices().nth(SHOWN_MAX) {
            Some((end, _)) => format!("{}...", &text[..end]),
            None => text,
        }
    }
}

/// Reads a file. Lines that cannot be read are in `broken`.
pub fn parse(text: &str) -> Parsed {
    let mut text = text.strip_prefix('\u{feff}').unwrap_or(text).to_owned();
    let mut parsed = Parsed { whole: true, ..Parsed::default() };
    loop {
        let error = match Document::parse(text.as_str()) {
            Ok(document) => {
                parsed.table = table(document.as_table(), &Lines::of(&text));
                return parsed;
            }
            Err(error) => error,
        };
        let at = error.span().map_or(0, |span| span.start).min(text.len());
        let line = line_around(&text, at).unwrap_or(0..0);
        let written = text[line.clone()].to_owned();
        let number = Lines::of(&text).at(line.start);
        parsed.broken.push((number, syntax_refusal(&error, &written)));
        // Without its header, a section would be read as part of the section before it.
        let header = written.trim_start().starts_with('[');
        parsed.whole &= !header;
        let passable = header || written.contains('=');
        if !passable || parsed.broken.len() == SYNTAX_FAULTS_MAX {
            parsed.whole = false;
            return parsed;
        }
        text.replace_range(line.clone(), &" ".repeat(line.len()));
    }
}

/// Reads one value, such as the default of a key. It has no place.
pub fn parse_value(text: &str) -> Result<Written, Refusal> {
    let parsed = parse(&format!("value = {text}"));
    if let Some((_, refusal)) = parsed.broken.into_iter().next() {
        return Err(refusal);
    }
    let (_, mut value) = parsed.table.entries.into_iter().next().expect("the text sets a key");
    value.place_all(&Place::Unset);
    Ok(value)
}

impl Plain {
    /// The value as TOML, on one line.
    pub fn to_toml(&self) -> String {
        match self {
            Plain::Text(text) => quote(text),
            Plain::Whole(number) => number.to_string(),
            Plain::Fraction(number) => number.to_string(),
            Plain::Flag(flag) => flag.to_string(),
            Plain::Moment(moment) => moment.clone(),
            Plain::List(list) => {
                let list: Vec<String> = list.iter().map(|one| one.plain.to_toml()).collect();
                format!("[{}]", list.join(", "))
            }
            Plain::Table(table) => {
                let fields = table.entries.iter();
                let fields: Vec<String> =
                    fields.map(|(key, one)| format!("{key} = {}", one.plain.to_toml())).collect();
                format!("{{{}}}", fields.join(", "))
            }
        }
    }
}

/// `text` as a TOML value.
pub fn quote(text: &str) -> String {
    Value::from(text).to_string()
}

/// The bytes of the line that contains `at`, without its end. If it is blank, those of the last line
/// before it that is not, because an unfinished value may be noticed on the line after it.
fn line_around(text: &str, mut at: usize) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    loop {
        let start = bytes[..at].iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
        let end = bytes[start..].iter().position(|b| *b == b'\n').map_or(text.len(), |n| start + n);
        if !text[start..end].trim().is_empty() || start == 0 {
            return Some(start..end).filter(|line| !line.is_empty());
        }
        at = start - 1;
    }
}

fn syntax_refusal(error: &TomlError, written: &str) -> Refusal {
    let value = written.split_once('=').map_or("", |(_, value)| value);
    let value = value.split_once(" #").map_or(value, |(value, _)| value).trim();
    let bare = value.starts_with(|first: char| first.is_alphanumeric() || "/.:*".contains(first))
        || value.starts_with("[:");
    if !bare || value.contains('"') || Document::parse(format!("value = {value}")).is_ok() {
        let message = error.message().replace('\n', ", ");
        return Refusal::new(format!("invalid TOML: {message}"), "");
    }
    Refusal::new("invalid TOML: the value needs quotes", format!("write \"{value}\""))
}

/// The starts of lines, to turn an offset into a line number.
struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    fn of(text: &str) -> Lines {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Lines { starts: std::iter::once(0).chain(ends.map(|(end, _)| end + 1)).collect() }
    }

    fn at(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }

    fn of_span(&self, span: Option<Range<usize>>, otherwise: usize) -> usize {
        span.map_or(otherwise, |span| self.at(span.start))
    }
}

fn table(table: &dyn TableLike, lines: &Lines) -> Table {
    let mut entries = Vec::new();
    for (name, item) in table.iter() {
        let span = table.get_key_value(name).and_then(|(key, _)| key.span()).or(item.span());
        let line = lines.of_span(span, 1);
        if let Some(plain) = plain(item, line, lines) {
            entries.push((name.to_owned(), Written { place: Place::Line(line), plain }));
        }
    }
    Table { entries }
}

fn plain(item: &Item, line: usize, lines: &Lines) -> Option<Plain> {
    Some(match item {
        Item::None => return None,
        Item::Value(value) => plain_value(value, line, lines),
        Item::Table(inner) => Plain::Table(table(inner, lines)),
        Item::ArrayOfTables(tables) => Plain::List(
            tables
                .iter()
                .map(|inner| Written {
                    place: Place::Line(lines.of_span(inner.span(), line)),
                    plain: Plain::Table(table(inner, lines)),
                })
                .collect(),
        ),
    })
}

fn plain_value(value: &Value, line: usize, lines: &Lines) -> Plain {
    match value {
        Value::String(text) => Plain::Text(text.value().clone()),
        Value::Integer(number) => Plain::Whole(*number.value()),
        Value::Float(number) => Plain::Fraction(*number.value()),
        Value::Boolean(flag) => Plain::Flag(*flag.value()),
        Value::Datetime(moment) => Plain::Moment(moment.value().to_string()),
        Value::InlineTable(inner) => Plain::Table(table(inner, lines)),
        Value::Array(values) => Plain::List(
            values
                .iter()
                .map(|value| {
                    let line = lines.of_span(value.span(), line);
                    Written { place: Place::Line(line), plain: plain_value(value, line, lines) }
                })
                .collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_knows_its_line() {
        let text = "# first\n[a]\nb = 1\nc.d = true\nlist = [\n  \"x\",\n  2.5,\n]\n[[e]]\n\n[[e]]\nf = {g = 1}\n";
        let parsed = parse(text);
        assert!(parsed.whole && parsed.broken.is_empty(), "{:?}", parsed.broken);
        let mut seen = Vec::new();
        collect("", &parsed.table, &mut seen);
        let want = ["a 2", "a.b 3", "a.c 4", "a.c.d 4", "a.list 5", "a.list[] 6", "a.list[] 7"];
        assert_eq!(seen[..7], want);
        assert_eq!(seen[7..], ["e 9", "e[] 9", "e[] 11", "e[].f 12", "e[].f.g 12"]);
    }

    fn collect(path: &str, table: &Table, seen: &mut Vec<String>) {
        for (name, value) in &table.entries {
            collect_value(format!("{path}{name}"), value, seen);
        }
    }

    fn collect_value(path: String, value: &Written, seen: &mut Vec<String>) {
        let Place::Line(line) = value.place else { panic!("{path} is of the file") };
        seen.push(format!("{path} {line}"));
        match &value.plain {
            Plain::Table(inner) => collect(&format!("{path}."), inner, seen),
            Plain::List(values) => {
                values.iter().for_each(|value| collect_value(format!("{path}[]"), value, seen));
            }
            _ => {}
        }
    }

    #[test]
    fn a_broken_line_does_not_hide_the_next() {
        for (name, text, lines, whole) in [
            ("no quotes", "a = b\nc = 1\nd = /x\n", vec![1, 3], true),
            ("a unit without quotes", "a = 5m\nb = 25MB\n", vec![1, 2], true),
            ("a key twice", "a = 1\na = 2\n", vec![2], true),
            ("a value missing", "a =\nb = 1\n", vec![1], true),
            ("a broken header", "a = b\n[c\nd = 1\n", vec![1, 2], false),
            ("no end of quotes", "a = \"x\nb = 1\n", vec![1], true),
        ] {
            let parsed = parse(text);
            let mut found: Vec<usize> = parsed.broken.iter().map(|(line, _)| *line).collect();
            found.sort_unstable();
            assert_eq!((found, parsed.whole), (lines, whole), "{name}: {:?}", parsed.broken);
        }
        let many = "a = b\n".repeat(SYNTAX_FAULTS_MAX + 5);
        assert_eq!(parse(&many).broken.len(), SYNTAX_FAULTS_MAX);
        for text in ["a", "=", "[", "]", "\u{0}", "a = \"\\", "[[a]]\n[a]", "a = [\n1,\n", "\r"] {
            assert!(!parse(text).broken.is_empty(), "{text:?}");
        }
    }
}
