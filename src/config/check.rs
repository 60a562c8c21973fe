//! From text and environment to a config: syntax, names, values, relations.
//!
//! Promise:  all faults are reported at once, in the order of the file. One mistake is one fault.

use crate::config::environment;
use crate::config::environment::Unusable;
use crate::config::fault::Fault;
use crate::config::fault::Place;
use crate::config::fault::Refusal;
use crate::config::fault::nearest;
use crate::config::file;
use crate::config::file::Table;
use crate::config::file::Written;
use crate::config::host::Environment;
use crate::config::host::HostFacts;
use crate::config::key::SectionDoc;
use crate::config::kind::Spelled;
use crate::config::model::Config;
use crate::config::model::SECTIONS;
use crate::config::origin::Origin;
use crate::config::reading::Reading;
use crate::config::relation;
use crate::config::value::Hostname;

/// What faults call the config without a file.
pub const DEFAULTS: &str = "built-in defaults";

/// A config without faults.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub config: Config,
    /// Settings that work but are probably mistakes.
    pub warnings: Vec<Fault>,
    /// Where each value came from.
    pub origins: Vec<Origin>,
}

/// Reads the text of a config file and the environment. Faults call the file `name`.
pub fn load(text: &str, name: &str, host: &HostFacts) -> Result<Loaded, Vec<Fault>> {
    let mut parsed = file::parse(text);
    let unusable = environment::overlay(&mut parsed.table, &host.environment, SECTIONS);
    let hostname = Hostname::spell(&host.hostname).ok();
    let stand_in = || "localhost".to_owned();
    let mut reading = Reading::new(
        name,
        &parsed.table,
        hostname.map_or_else(stand_in, |hostname| hostname.to_string()),
        &host.environment,
    );
    reading.torn = !parsed.broken.is_empty();
    for (line, refusal) in parsed.broken {
        reading.refuse_at("", Place::Line(line), refusal);
    }
    for Unusable { name, refusal } in unusable {
        reading.refuse_at("", Place::Variable(name), refusal);
    }
    let mut read = None;
    if parsed.whole {
        check_names("", &parsed.table, &mut reading);
        read = Config::read(&mut reading);
    }
    // A key on a broken line has its default, which contradicts nothing.
    if let Some(config) = &read
        && !reading.torn
    {
        relation::check(config, host, &mut reading);
    }
    let origins = std::mem::take(&mut reading.origins);
    let (faults, warnings) = reading.end();
    match read {
        Some(config) if faults.is_empty() => Ok(Loaded { config, warnings, origins }),
        _ => Err(faults),
    }
}

/// The defaults, without a file and without the environment.
pub fn embedded(host: &HostFacts) -> Config {
    let host = HostFacts { environment: Environment::default(), ..host.clone() };
    load("", DEFAULTS, &host).expect("the defaults contradict neither bounds nor relations").config
}

/// Notes unknown keys and sections of a wrong shape.
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

/// Notes that a value was found instead of a section.
fn refuse_shape(doc: &SectionDoc, path: &str, value: &Written, reading: &mut Reading<'_>) {
    let (several, hint) = match doc.repeated {
        true => ("list of sections", format!("write [[{}]] with its keys below", doc.path)),
        false => ("section", format!("write [{}] with its keys below", doc.path)),
    };
    let what = format!("{} is not a {several}", value.shown());
    reading.refuse_at(path, value.place.clone(), Refusal::new(what, hint));
    mark_keys(doc, path, reading);
}

/// All keys of a refused section have their defaults.
fn mark_keys(doc: &SectionDoc, path: &str, reading: &mut Reading<'_>) {
    for key in doc.keys {
        reading.mark_refused(format!("{path}.{}", key.name));
    }
}

/// Notes an unknown name in a section whose path is `path`.
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
        format!("known names: {}", names.join(", "))
    };
    reading.refuse_at(&within(name), value.place.clone(), Refusal::new(what, hint));
}

fn key_exists(section: &str, name: &str) -> bool {
    SECTIONS.iter().any(|doc| doc.path == section && doc.key(name).is_some())
}

/// The keys of a section, and the sections within it.
fn names_in(section: &str) -> Vec<&'static str> {
    let inner = SECTIONS.iter().filter_map(|doc| match section {
        "" => Some(doc.path).filter(|path| !path.contains('.')),
        _ => doc.path.strip_prefix(section)?.strip_prefix('.'),
    });
    let own = SECTIONS.iter().filter(|doc| doc.path == section);
    own.flat_map(|doc| doc.keys).map(|key| key.name).chain(inner).collect()
}
