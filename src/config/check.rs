//! From text to config: syntax, names, values, relations.
//!
//! Promise:  all that is wrong is reported at once, in the order of the file; a fault is reported once
//!           and does not bring others with it.

use crate::config::fault::Fault;
use crate::config::fault::Refusal;
use crate::config::fault::nearest;
use crate::config::file;
use crate::config::file::Table;
use crate::config::file::Written;
use crate::config::key::SectionDoc;
use crate::config::kind::Spelled;
use crate::config::model::Config;
use crate::config::model::SECTIONS;
use crate::config::reading::Reading;
use crate::config::relation;
use crate::config::value::Hostname;

/// What `load` has to know of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// The host name of the system, qualified if it is known so.
    pub hostname: String,
    /// Lower ports cannot be bound by this process.
    pub ports_from: u16,
}

/// A good file.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub config: Config,
    /// What works but is probably not wanted.
    pub warnings: Vec<Fault>,
}

/// Reads the text of a config file; `name` is what faults call it.
pub fn load(text: &str, name: &str, host: &HostFacts) -> Result<Loaded, Vec<Fault>> {
    let parsed = file::parse(text);
    let hostname = Hostname::spell(&host.hostname).ok();
    let stand_in = || "localhost".to_owned();
    let mut reading = Reading::new(
        name,
        &parsed.table,
        hostname.map_or_else(stand_in, |hostname| hostname.to_string()),
    );
    reading.torn = !parsed.broken.is_empty();
    for (line, refusal) in parsed.broken {
        reading.refuse_at("", Some(line), refusal);
    }
    let mut read = None;
    if parsed.whole {
        check_names("", &parsed.table, &mut reading);
        read = Config::read(&mut reading);
    }
    // A key on a broken line stands at its default, which proves no contradiction.
    if let Some(config) = &read
        && !reading.torn
    {
        relation::check(config, host, &mut reading);
    }
    let (faults, warnings) = reading.end();
    match read {
        Some(config) if faults.is_empty() => Ok(Loaded { config, warnings }),
        _ => Err(faults),
    }
}

/// The config without a file.
pub fn embedded(host: &HostFacts) -> Config {
    load("", "embedded defaults", host)
        .expect("the defaults contradict neither bounds nor relations")
        .config
}

/// Notes each key that does not exist and each section of a wrong shape.
fn check_names(section: &str, table: &Table, reading: &mut Reading<'_>) {
    for (name, value) in &table.entries {
        let path = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
        match SECTIONS.iter().find(|doc| doc.path == path) {
            Some(doc) if doc.repeated => check_repeated(doc, value, reading),
            Some(doc) => match value.table() {
                Some(table) => check_names(doc.path, table, reading),
                None => refuse_shape(doc, &path, value, reading),
            },
            None if key_exists(section, name) => {}
            None => refuse_name(section, section, name, value, reading),
        }
    }
}

fn check_repeated(doc: &SectionDoc, value: &Written, reading: &mut Reading<'_>) {
    if value.list().is_empty() {
        return refuse_shape(doc, doc.path, value, reading);
    }
    for (place, element) in value.list().iter().enumerate() {
        let path = format!("{}[{}]", doc.path, place + 1);
        let Some(table) = element.table() else {
            refuse_shape(doc, &path, element, reading);
            continue;
        };
        for (name, value) in &table.entries {
            if doc.key(name).is_none() {
                refuse_name(doc.path, &path, name, value, reading);
            }
        }
    }
}

/// Notes that a value stands where a section should.
fn refuse_shape(doc: &SectionDoc, path: &str, value: &Written, reading: &mut Reading<'_>) {
    let (several, hint) = match doc.repeated {
        true => ("list of sections", format!("write [[{}]] and its keys below", doc.path)),
        false => ("section", format!("write [{}] and its keys below", doc.path)),
    };
    let what = format!("{} stands where a {several} is expected", value.shown());
    reading.refuse_at(path, Some(value.line), Refusal::new(what, hint));
    mark_keys(doc, path, reading);
}

/// All keys of a section stand at their defaults because it was refused.
fn mark_keys(doc: &SectionDoc, path: &str, reading: &mut Reading<'_>) {
    for key in doc.keys {
        reading.mark_refused(format!("{path}.{}", key.name));
    }
}

/// Notes an unknown name in a section that is written as `path`.
fn refuse_name(section: &str, path: &str, name: &str, value: &Written, reading: &mut Reading<'_>) {
    let what = match section.is_empty() && (value.table().is_some() || !value.list().is_empty()) {
        true => "unknown section",
        false => "unknown key",
    };
    let within = |name: &str| match path {
        "" => name.to_owned(),
        _ => format!("{path}.{name}"),
    };
    let names = names_in(section);
    let all_keys = || SECTIONS.iter().flat_map(|doc| doc.keys);
    let elsewhere = || {
        let near = nearest(name, all_keys().map(|key| key.name));
        all_keys().find(|key| key.name == name || Some(key.name) == near)
    };
    let hint = if let Some(near) = nearest(name, names.iter().copied()) {
        let meant = within(near);
        if let Some(doc) = SECTIONS.iter().find(|doc| doc.path == meant) {
            mark_keys(doc, &meant, reading);
        }
        reading.mark_refused(meant);
        format!("did you mean {near}?")
    } else if let Some(key) = elsewhere() {
        reading.mark_refused(key.path.to_owned());
        format!("did you mean {}?", key.path)
    } else {
        format!("known here are {}", names.join(", "))
    };
    reading.refuse_at(&within(name), Some(value.line), Refusal::new(what, hint));
}

fn key_exists(section: &str, name: &str) -> bool {
    SECTIONS.iter().any(|doc| doc.path == section && doc.key(name).is_some())
}

/// The names that may stand in a section, keys and sections within it.
fn names_in(section: &str) -> Vec<&'static str> {
    let inner = SECTIONS.iter().filter_map(|doc| match section {
        "" => Some(doc.path).filter(|path| !path.contains('.')),
        _ => doc.path.strip_prefix(section)?.strip_prefix('.'),
    });
    let own = SECTIONS.iter().filter(|doc| doc.path == section);
    own.flat_map(|doc| doc.keys).map(|key| key.name).chain(inner).collect()
}
