//! A reading under way: from the tree as written to values, collecting what is wrong.
//!
//! Promise:  every fault carries the path and the line at which the reading stood. A key that was
//!           refused stands at its default meanwhile, and the relations are told so.

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;

use crate::config::fault::Fault;
use crate::config::fault::Refusal;
use crate::config::fault::one_line;
use crate::config::file;
use crate::config::file::Plain;
use crate::config::file::Table;
use crate::config::file::Written;
use crate::config::key::SectionDoc;
use crate::config::key::Standard;
use crate::config::kind::Kind;

/// A reading under way: where it stands, and what it has found.
#[derive(Debug)]
pub struct Reading<'a> {
    /// The whole file.
    pub root: &'a Table,
    /// The system's host name, made fit to be one.
    pub hostname: String,
    /// Which of a repeated section is read, from 1.
    pub number: usize,
    /// Lines were passed over: what is missing may have been on them.
    pub torn: bool,
    file: Arc<str>,
    path: String,
    line: Option<usize>,
    faults: Vec<Fault>,
    warnings: Vec<Fault>,
    lines: HashMap<String, usize>,
    refused: HashSet<String>,
}

impl<'a> Reading<'a> {
    pub fn new(file: &str, root: &'a Table, hostname: String) -> Reading<'a> {
        Reading {
            root,
            hostname,
            number: 1,
            torn: false,
            file: file.into(),
            path: String::new(),
            line: None,
            faults: Vec::new(),
            warnings: Vec::new(),
            lines: HashMap::new(),
            refused: HashSet::new(),
        }
    }

    /// Notes a fault of the value that is being read.
    pub fn refuse(&mut self, refusal: Refusal) {
        let fault = self.fault(self.path.clone(), self.line, refusal);
        self.faults.push(fault);
    }

    /// Notes a fault at a line of its own, such as one of syntax.
    pub fn refuse_at(&mut self, key: &str, line: Option<usize>, refusal: Refusal) {
        let fault = self.fault(key.to_owned(), line, refusal);
        self.faults.push(fault);
    }

    /// Says that a key stands at its default for another reason than that it was left out.
    pub fn mark_refused(&mut self, key: String) {
        self.refused.insert(key);
    }

    /// Notes that keys do not go together, the first of them to be blamed. A key that was refused
    /// holds its default meanwhile, which proves nothing.
    pub fn contradiction(&mut self, keys: &[&str], refusal: Refusal) {
        if keys.iter().any(|key| self.refused.contains(*key)) {
            return;
        }
        let exact = keys.iter().find_map(|key| self.lines.get(*key).copied());
        let line = exact.or_else(|| self.line_of(keys[0]));
        let fault = self.fault(keys[0].to_owned(), line, refusal);
        self.faults.push(fault);
    }

    /// Notes what works but is probably not wanted.
    pub fn warn(&mut self, key: &str, refusal: Refusal) {
        let fault = self.fault(key.to_owned(), self.line_of(key), refusal);
        self.warnings.push(fault);
    }

    /// The line on which a key, or else its section, was written.
    pub fn line_of(&self, key: &str) -> Option<usize> {
        let section = key.rsplit_once('.').map_or("", |(section, _)| section);
        self.lines.get(key).or_else(|| self.lines.get(section)).copied()
    }

    /// Whether nothing at or below `path` was refused.
    pub fn is_clean(&self, path: &str) -> bool {
        !self.refused.iter().any(|refused| refused.starts_with(path))
    }

    /// Whether the file itself holds the key.
    pub fn is_written(&self, key: &str) -> bool {
        self.lines.contains_key(key)
    }

    /// Does `read` with the place set to `name` under where it stands.
    pub fn within<T>(
        &mut self,
        name: &str,
        line: Option<usize>,
        read: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let (path_len, line_before) = (self.path.len(), self.line);
        if !self.path.is_empty() && !name.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(name);
        if let Some(line) = line {
            self.line = Some(line);
            self.lines.insert(self.path.clone(), line);
        }
        let faults_before = self.faults.len();
        let answer = read(self);
        if self.faults.len() > faults_before {
            self.refused.insert(self.path.clone());
        }
        self.path.truncate(path_len);
        self.line = line_before;
        answer
    }

    /// The text of a key as written, or else its default; for defaults that follow from it.
    pub fn text_of(&self, section: &SectionDoc, name: &str) -> String {
        let written = find(self.root, section.path).and_then(Written::table);
        let written = written.and_then(|table| table.find(name));
        let standard = || match section.key(name).map(|key| key.standard) {
            Some(Standard::Is(text)) => file::parse_value(text),
            _ => None,
        };
        match written.cloned().or_else(standard).map(|value| value.plain) {
            Some(Plain::Text(text)) => text,
            _ => String::new(),
        }
    }

    /// Faults and warnings, in the order of the file.
    pub fn end(self) -> (Vec<Fault>, Vec<Fault>) {
        let by_line = |mut faults: Vec<Fault>| {
            faults.sort_by_key(|fault| fault.line.unwrap_or(usize::MAX));
            faults
        };
        (by_line(self.faults), by_line(self.warnings))
    }

    fn fault(&self, key: String, line: Option<usize>, refusal: Refusal) -> Fault {
        Fault {
            file: Arc::clone(&self.file),
            line,
            key: one_line(&key),
            what: one_line(&refusal.what),
            hint: one_line(&refusal.hint),
        }
    }
}

/// The value at a path such as `tls.certificate`.
pub fn find<'a>(root: &'a Table, path: &str) -> Option<&'a Written> {
    let (first, rest) = path.split_once('.').map_or((path, None), |(f, r)| (f, Some(r)));
    let value = root.find(first)?;
    match (rest, &value.plain) {
        (None, _) => Some(value),
        (Some(rest), Plain::Table(table)) => find(table, rest),
        _ => None,
    }
}

/// Reads one key of a section: as written, or else by its default. A refused value is noted, and
/// the default stands in for it so that the rest of the file can be judged.
pub fn read_key<K: Kind>(
    section: &SectionDoc,
    name: &str,
    table: Option<&Table>,
    reading: &mut Reading<'_>,
) -> Option<K> {
    let key = section.key(name).expect("`section!` lists each field as a key");
    let written = table.and_then(|table| table.find(name));
    if let Some(written) = written {
        let read = |reading: &mut Reading<'_>| K::read(written, key.bounds, reading);
        let value = reading.within(name, Some(written.line), read);
        if value.is_some() {
            return value;
        }
    }
    let text = match key.standard {
        Standard::Is(text) => text.to_owned(),
        Standard::Follows(_, _, text) => text(reading),
        Standard::Unset(_) => return K::absent(),
        Standard::Required(example) => {
            let misspelt = !reading.is_clean(&format!("{}.{name}", reading.path));
            if written.is_none() && !misspelt && !reading.torn {
                let hint = format!("write {name} = {}", example.replace('\'', "\""));
                let refusal = Refusal::new("is missing", hint);
                reading.within(name, None, |reading| reading.refuse(refusal));
            }
            return None;
        }
    };
    let Some(standard) = file::parse_value(&text) else {
        let refusal = Refusal::new(format!("has the unreadable default {text}"), "write the key");
        reading.within(name, None, |reading| reading.refuse(refusal));
        return None;
    };
    reading.within(name, None, |reading| K::read(&standard, key.bounds, reading))
}
