//! The state of a reading: from the tree of plain values to typed values, collecting faults.
//!
//! Promise:  every fault has the path and the place of the value being read. A refused key has its
//!           default meanwhile, and relations that involve it are not judged.

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;

use crate::config::fault::Fault;
use crate::config::fault::Place;
use crate::config::fault::Refusal;
use crate::config::fault::one_line;
use crate::config::file::Plain;
use crate::config::file::Table;
use crate::config::file::Written;
use crate::config::host::Environment;
use crate::config::origin::Origin;

/// A reading in progress.
#[derive(Debug)]
pub struct Reading<'a> {
    /// The whole file, with the keys from the environment.
    pub root: &'a Table,
    /// The host name of the system, or a stand-in if that is invalid.
    pub hostname: String,
    /// The number of the repeated section being read, from 1.
    pub number: usize,
    /// Lines were skipped: a missing key may have been on them.
    pub torn: bool,
    pub environment: &'a Environment,
    /// Each key with its value.
    pub origins: Vec<Origin>,
    file: Arc<str>,
    path: String,
    place: Place,
    faults: Vec<Fault>,
    warnings: Vec<Fault>,
    places: HashMap<String, Place>,
    refused: HashSet<String>,
}

impl<'a> Reading<'a> {
    pub fn new(
        file: &str,
        root: &'a Table,
        hostname: String,
        environment: &'a Environment,
    ) -> Reading<'a> {
        Reading {
            root,
            hostname,
            number: 1,
            torn: false,
            environment,
            origins: Vec::new(),
            file: file.into(),
            path: String::new(),
            place: Place::Unset,
            faults: Vec::new(),
            warnings: Vec::new(),
            places: HashMap::new(),
            refused: HashSet::new(),
        }
    }

    /// Notes a fault of the value being read.
    pub fn refuse(&mut self, refusal: Refusal) {
        let fault = self.fault(self.path.clone(), self.place.clone(), refusal);
        self.faults.push(fault);
    }

    /// Notes a fault at another place, such as a syntax error.
    pub fn refuse_at(&mut self, key: &str, place: Place, refusal: Refusal) {
        let fault = self.fault(key.to_owned(), place, refusal);
        self.faults.push(fault);
    }

    /// Notes that a key has its default although it was set.
    pub fn mark_refused(&mut self, key: String) {
        self.refused.insert(key);
    }

    /// Notes that keys contradict each other; the fault names the first. A refused key has its default
    /// meanwhile, so it contradicts nothing.
    pub fn contradiction(
        &mut self,
        keys: &[&str],
        what: impl Into<String>,
        hint: impl Into<String>,
    ) {
        if keys.iter().any(|key| self.refused.contains(*key)) {
            return;
        }
        let exact = keys.iter().find_map(|key| self.places.get(*key).cloned());
        let place = exact.unwrap_or_else(|| self.place_of(keys[0]));
        let fault = self.fault(keys[0].to_owned(), place, Refusal::new(what, hint));
        self.faults.push(fault);
    }

    /// Notes a setting that works but is probably a mistake.
    pub fn warn(&mut self, key: &str, what: impl Into<String>, hint: impl Into<String>) {
        let fault = self.fault(key.to_owned(), self.place_of(key), Refusal::new(what, hint));
        self.warnings.push(fault);
    }

    /// The place of a key, or else of its section.
    pub fn place_of(&self, key: &str) -> Place {
        let section = key.rsplit_once('.').map_or("", |(section, _)| section);
        let place = self.places.get(key).or_else(|| self.places.get(section));
        place.cloned().unwrap_or(Place::Unset)
    }

    /// The path of the value being read.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether nothing at or below `path` was refused.
    pub fn is_clean(&self, path: &str) -> bool {
        !self.refused.iter().any(|refused| refused.starts_with(path))
    }

    /// Whether the file or the environment sets the key.
    pub fn is_written(&self, key: &str) -> bool {
        self.places.contains_key(key)
    }

    /// Notes the value of the key `name` of the section being read; `None` if it has none.
    pub fn note_origin(&mut self, name: &str, value: Option<String>, written: Option<&Written>) {
        let path = if self.path.is_empty() { String::new() } else { format!("{}.", self.path) };
        self.origins.push(Origin {
            key: format!("{path}{name}"),
            value,
            file: Arc::clone(&self.file),
            place: written.map_or(Place::Unset, |written| written.place.clone()),
            credential: written.and_then(Written::credential).map(str::to_owned),
        });
    }

    /// Runs `read` for the value `name` below the current path. `Place::Unset` keeps the place.
    pub fn within<T>(&mut self, name: &str, place: Place, read: impl FnOnce(&mut Self) -> T) -> T {
        let (path_len, place_before) = (self.path.len(), self.place.clone());
        if !self.path.is_empty() && !name.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(name);
        if place != Place::Unset {
            self.places.insert(self.path.clone(), place.clone());
            self.place = place;
        }
        let faults_before = self.faults.len();
        let answer = read(self);
        if self.faults.len() > faults_before {
            self.refused.insert(self.path.clone());
        }
        self.path.truncate(path_len);
        self.place = place_before;
        answer
    }

    /// Faults and warnings: those of the file in its order, then those of the environment.
    pub fn end(self) -> (Vec<Fault>, Vec<Fault>) {
        let by_place = |mut faults: Vec<Fault>| {
            faults.sort_by(|one, other| one.place.cmp(&other.place));
            faults
        };
        (by_place(self.faults), by_place(self.warnings))
    }

    fn fault(&self, key: String, place: Place, refusal: Refusal) -> Fault {
        Fault {
            file: Arc::clone(&self.file),
            place,
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
