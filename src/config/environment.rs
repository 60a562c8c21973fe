//! Keys from the environment: `RINGPOST_SERVER_HOSTNAME` sets `server.hostname`.
//!
//! Promise:  the environment overrides the file, which overrides the defaults. Names are derived from
//!           the declarations. A variable that names no key is a fault, except those that Kubernetes and
//!           Docker set for a service named after us.
//!
//! The number in `RINGPOST_LISTENER_2_ADDRESS` is the place of the section in the file; the next free
//! number adds a section.

use std::sync::Arc;

use crate::config::fault::Place;
use crate::config::fault::Refusal;
use crate::config::fault::nearest;
use crate::config::file::Plain;
use crate::config::file::Table;
use crate::config::file::Written;
use crate::config::host::CONFIG_VARIABLE;
use crate::config::host::Environment;
use crate::config::host::PREFIX;
use crate::config::key::Key;
use crate::config::key::SectionDoc;

/// Variables with our prefix that set no key: name, and meaning for the manual.
pub const OTHER_VARIABLES: &[(&str, &str)] =
    &[(CONFIG_VARIABLE, "the config file, if `--config` is not given")];

/// Variables with this prefix belong to the test suite and are ignored.
const TEST_PREFIX: &str = "RINGPOST_TEST_";

/// A variable that cannot be used.
pub struct Unusable {
    pub name: Arc<str>,
    pub refusal: Refusal,
}

/// A variable, and the key that it sets.
struct Setting<'e> {
    section: &'static SectionDoc,
    /// The number of a repeated section, from 1; 0 otherwise.
    number: usize,
    key: &'static Key,
    name: &'e Arc<str>,
    text: &'e str,
}

/// The variable of a key. `number` stands for the number of a repeated section.
pub fn variable(section: &SectionDoc, number: &str, key: &Key) -> String {
    let path = upper(section.path);
    let name = key.name.to_ascii_uppercase();
    match section.repeated {
        true => format!("{PREFIX}{path}_{number}_{name}"),
        false => format!("{PREFIX}{path}_{name}"),
    }
}

/// Puts the variables into the table of the file.
pub fn overlay(
    root: &mut Table,
    environment: &Environment,
    sections: &'static [SectionDoc],
) -> Vec<Unusable> {
    let mut unusable = Vec::new();
    let mut settings = Vec::new();
    for (name, text) in &environment.variables {
        let refused = |refusal| Unusable { name: Arc::clone(name), refusal };
        if name.starts_with(TEST_PREFIX) {
            continue;
        }
        match (setting(name, text.as_deref().unwrap_or(""), sections), text) {
            (None, text) if is_service_link(name, text.as_deref()) => {}
            (None, _) => unusable.push(refused(unknown(name, sections))),
            (Some(_), None) => {
                unusable.push(refused(Refusal::new("is not UTF-8", "set it to a UTF-8 text")));
            }
            (Some(setting), Some(_)) => settings.push(setting),
        }
    }
    // New sections are added in the order of their numbers.
    settings.sort_by_key(|setting| setting.number);
    for setting in settings {
        if let Err(refusal) = set(root, &setting) {
            unusable.push(Unusable { name: Arc::clone(setting.name), refusal });
        }
    }
    unusable
}

/// Whether Kubernetes or Docker has set the variable for a service whose name begins with ours.
fn is_service_link(name: &str, text: Option<&str>) -> bool {
    let is_link =
        |text: &str| ["tcp://", "udp://", "sctp://"].iter().any(|one| text.starts_with(one));
    let of_port = |protocol| name.contains("_PORT_") && name.contains(protocol);
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || ["_TCP", "_UDP", "_SCTP"].into_iter().any(of_port)
        || name.ends_with("_PORT") && text.is_some_and(is_link)
}

fn upper(path: &str) -> String {
    path.replace('.', "_").to_ascii_uppercase()
}

fn setting<'e>(
    name: &'e Arc<str>,
    text: &'e str,
    sections: &'static [SectionDoc],
) -> Option<Setting<'e>> {
    let bare = name.strip_prefix(PREFIX)?;
    sections.iter().find_map(|section| {
        let rest = bare.strip_prefix(&*upper(section.path))?.strip_prefix('_')?;
        let (number, word) = match section.repeated {
            false => (0, rest),
            true => {
                let (number, word) = rest.split_once('_')?;
                let is_plain = !number.starts_with(['0', '+']);
                (number.parse().ok().filter(|_| is_plain)?, word)
            }
        };
        let key = section.keys.iter().find(|key| key.name.to_ascii_uppercase() == word)?;
        Some(Setting { section, number, key, name, text })
    })
}

/// Sets a key. A section of a wrong shape in the file is left for its own fault.
fn set(root: &mut Table, setting: &Setting<'_>) -> Result<(), Refusal> {
    let place = Place::Variable(Arc::clone(setting.name));
    let new = |plain| Written { place: place.clone(), plain };
    let mut table = root;
    let mut parts = setting.section.path.split('.').peekable();
    while let Some(part) = parts.next() {
        let is_list = setting.section.repeated && parts.peek().is_none();
        let count = table.find(part).map_or(0, |found| found.list().len());
        if is_list && setting.number > count + 1 {
            let what = format!("{} {} would leave a gap", setting.section.path, setting.number);
            let hint = format!("number them without gaps; the next is {}", count + 1);
            return Err(Refusal::new(what, hint));
        }
        let empty = match is_list {
            true => Plain::List(Vec::new()),
            false => Plain::Table(Table::default()),
        };
        table = match &mut table.entry(part, || new(empty)).plain {
            Plain::Table(inner) if !is_list => inner,
            Plain::List(list) if is_list => {
                if setting.number > list.len() {
                    list.push(new(Plain::Table(Table::default())));
                }
                match &mut list[setting.number - 1].plain {
                    Plain::Table(inner) => inner,
                    _ => return Ok(()),
                }
            }
            _ => return Ok(()),
        };
    }
    let mut value = new((setting.key.from_text)(setting.text)?);
    value.place_all(&place);
    table.set(setting.key.name, value);
    Ok(())
}

fn unknown(name: &str, sections: &'static [SectionDoc]) -> Refusal {
    let bare = name.strip_prefix(PREFIX).unwrap_or(name).to_ascii_lowercase();
    let number = bare.split('_').find(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    let number = number.filter(|number| !number.is_empty()).unwrap_or("1");
    let known: Vec<String> = sections
        .iter()
        .flat_map(|section| section.keys.iter().map(|key| variable(section, number, key)))
        .chain(OTHER_VARIABLES.iter().map(|(name, _)| (*name).to_owned()))
        .map(|name| name[PREFIX.len()..].to_ascii_lowercase())
        .collect();
    let hint = match nearest(&bare, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {PREFIX}{}?", near.to_ascii_uppercase()),
        None => "`ringpost config reference` lists the variables".to_owned(),
    };
    Refusal::new("is not the variable of any key", hint)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;
    use std::time::Duration;

    use crate::config::Fault;
    use crate::config::HostFacts;
    use crate::config::Loaded;
    use crate::config::Partitions;
    use crate::config::embedded;
    use crate::config::file;
    use crate::config::key::Standard;
    use crate::config::load;
    use crate::config::model::SECTIONS;

    use super::*;

    fn facts(variables: &[(&str, &str)]) -> HostFacts {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        HostFacts {
            hostname: "mx.example.net".to_owned(),
            ports_from: 1024,
            environment: Environment::new(variables),
        }
    }

    fn read(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, Vec<Fault>> {
        load(text, "f", &facts(variables))
    }

    fn origin(loaded: &Loaded, key: &str) -> String {
        let found = loaded.origins.iter().find(|origin| origin.key == key);
        found.unwrap_or_else(|| panic!("no {key}")).to_string()
    }

    /// A value in TOML as a person would write it into a variable.
    fn as_variable(toml: &str) -> String {
        match file::parse_value(toml).expect("it is TOML").plain {
            Plain::Text(text) => text,
            Plain::List(list) => {
                let element = |one: &Written| as_variable(&one.plain.to_toml());
                list.iter().map(element).collect::<Vec<_>>().join(", ")
            }
            other => other.to_toml(),
        }
    }

    #[test]
    fn each_key_has_its_variable() {
        let mut names = HashSet::new();
        let defaults = embedded(&facts(&[]));
        for section in SECTIONS {
            for key in section.keys {
                let name = variable(section, "1", key);
                assert!(names.insert(name.clone()), "{name} sets two keys");
                let (Standard::Is(toml)
                | Standard::Follows(_, toml, _)
                | Standard::Unset(toml)
                | Standard::Required(toml)) = key.standard;
                let value = as_variable(toml);
                let number = usize::from(section.repeated);
                let text: Arc<str> = name.as_str().into();
                let found = setting(&text, &value, SECTIONS).expect(&name);
                assert_eq!((found.key.path, found.number), (key.path, number), "{name}");
                if let Standard::Is(_) = key.standard
                    && (!section.repeated || section.path == "listener")
                {
                    let loaded = read("", &[(&name, &value)]).unwrap_or_else(|faults| {
                        panic!("{name}={value}: {faults:?}");
                    });
                    assert_eq!(loaded.config, defaults, "{name}={value} is the default");
                    let path = match section.repeated {
                        true => format!("{}[1].{}", section.path, key.name),
                        false => key.path.to_owned(),
                    };
                    let told = origin(&loaded, &path);
                    assert!(told.ends_with(&format!("  # environment: {name}")), "{told}");
                }
            }
        }
    }

    #[test]
    fn the_environment_overrides_the_file_and_the_file_the_defaults() {
        let text = "[server]\nspool = '/a'\nhostname = 'file.test'\n[[listener]]\nname = 'one'\n\
                    [queue]\npartitions = 2\n";
        let loaded = read(
            text,
            &[
                ("RINGPOST_SERVER_HOSTNAME", "env.test"),
                ("RINGPOST_SERVER_CORES", "0"),
                ("RINGPOST_LISTENER_1_ADDRESS", "127.0.0.1:26, [::1]:26"),
                ("RINGPOST_LISTENER_2_ADDRESS", "[\"127.0.0.1:27\"]"),
                ("RINGPOST_LISTENER_2_TLS_REQUIRED", "true"),
                ("RINGPOST_QUEUE_PARTITIONS", "auto"),
                ("RINGPOST_DELIVERY_TIMEOUTS_QUIT", "7s"),
                ("RINGPOST_RELAY_NETWORKS", ""),
                ("RINGPOST_TEST_ANYTHING", "x"),
                ("RINGPOST_SERVICE_HOST", "10.0.0.1"),
                ("RINGPOST_SERVICE_PORT_SMTP", "25"),
                ("RINGPOST_PORT", "tcp://10.0.0.1:25"),
                ("RINGPOST_PORT_25_TCP_ADDR", "10.0.0.1"),
                ("RINGPOST_CONFIG", "/etc/x.toml"),
                ("PATH", "/bin"),
            ],
        );
        let loaded = loaded.expect("it is good");
        let config = &loaded.config;
        assert_eq!(config.server.hostname.as_str(), "env.test");
        assert_eq!(config.server.spool, Path::new("/a"));
        assert_eq!(config.listeners.len(), 2);
        assert_eq!(
            (config.listeners[0].name.as_str(), config.listeners[0].address.len()),
            ("one", 2)
        );
        assert!(config.listeners[1].tls_required);
        assert_eq!(config.queue.partitions, Partitions::Auto);
        assert_eq!(config.delivery_timeouts.quit, Duration::from_secs(7));
        assert!(config.relay.networks.is_empty());
        for (key, told) in [
            (
                "server.hostname",
                "server.hostname = \"env.test\"  # environment: RINGPOST_SERVER_HOSTNAME",
            ),
            ("server.spool", "server.spool = \"/a\"  # f:2"),
            ("server.user", "server.user is not set  # default"),
            ("log.level", "log.level = \"info\"  # default"),
            ("control.socket", "control.socket = \"/a/control.sock\"  # default"),
            ("listener[1].name", "listener[1].name = \"one\"  # f:5"),
        ] {
            assert_eq!(origin(&loaded, key), told);
        }
        let environment = facts(&[("RINGPOST_CONFIG", "/etc/x.toml")]).environment;
        assert_eq!(environment.config_file().as_deref(), Some(Path::new("/etc/x.toml")));
    }

    #[test]
    fn a_broken_list_is_refused_but_not_the_brackets_of_an_address() {
        let (domains, address) = ("RINGPOST_RELAY_DOMAINS", "RINGPOST_LISTENER_1_ADDRESS");
        for (name, text, is_broken) in [
            (domains, "[\"a.test\", ", true),
            (domains, "['a.test' 'b.test']", true),
            (domains, "[a.test, b.test]", true),
            (domains, "[", true),
            (domains, "[\"a.test\", '.b.test']", false),
            (domains, "a.test, .b.test", false),
            (domains, "[]", false),
            (address, "[::1]:2600, [::]:2601", false),
            (address, "[::1]:2600", false),
        ] {
            let faults = read("", &[(name, text)]).err().unwrap_or_default();
            assert_eq!(faults.len(), usize::from(is_broken), "{text}: {faults:?}");
            if let [fault] = &faults[..] {
                let told = fault.to_string();
                assert!(told.starts_with(&format!("{name}: invalid TOML: ")), "{told}");
                assert!(
                    told.ends_with(
                        "write a TOML list, or elements without quotes, separated by commas"
                    ),
                    "{told}"
                );
            }
        }
    }

    #[test]
    fn a_fault_names_the_variable() {
        let rows: &[(&str, &str, &str)] = &[
            (
                "RINGPOST_SERVER_HOSTNME",
                "a.test",
                "RINGPOST_SERVER_HOSTNME: is not the variable of any key - did you mean \
                 RINGPOST_SERVER_HOSTNAME?",
            ),
            (
                "RINGPOST_LISTENER_3_ADRESS",
                "",
                "RINGPOST_LISTENER_3_ADRESS: is not the variable of any key - did you mean \
                 RINGPOST_LISTENER_3_ADDRESS?",
            ),
            (
                "RINGPOST_LISTENER_ADDRESS",
                "[::1]:25",
                "RINGPOST_LISTENER_ADDRESS: is not the variable of any key - did you mean \
                 RINGPOST_LISTENER_1_ADDRESS?",
            ),
            (
                "RINGPOST_WEATHER",
                "",
                "RINGPOST_WEATHER: is not the variable of any key - `ringpost config reference` \
                 lists the variables",
            ),
            (
                "RINGPOST_LISTENER_3_TLS",
                "none",
                "RINGPOST_LISTENER_3_TLS: listener 3 would leave a gap - number them without \
                 gaps; the next is 1",
            ),
            (
                "RINGPOST_LIMITS_CONNECTIONS",
                "many",
                "RINGPOST_LIMITS_CONNECTIONS: limits.connections: \"many\" is not a whole number",
            ),
            (
                "RINGPOST_RELAY_NETWORKS",
                "10.0.0.0/8,nowhere",
                "RINGPOST_RELAY_NETWORKS: relay.networks[2]: \"nowhere\" is not a network - write \
                 it as \"10.0.0.0/8\", \"2001:db8::/32\" or \"192.0.2.1\"",
            ),
            (
                "RINGPOST_DELIVERY_MAX_AGE",
                "1m",
                "RINGPOST_DELIVERY_MAX_AGE: delivery.retry_schedule: starts with a delay longer \
                 than delivery.max_age: nothing is retried - start with a shorter delay, or raise \
                 delivery.max_age",
            ),
        ];
        for (name, value, expected) in rows {
            let faults = read("", &[(name, value)]).expect_err(name);
            let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
            assert_eq!(told, [*expected]);
        }
        let broken = "[log]\nlevel = 1\n";
        let faults = read(broken, &[("RINGPOST_WEATHER", "")]).expect_err("both");
        assert_eq!(faults.len(), 2, "{faults:?}");
    }

    #[test]
    fn secrets_may_be_credentials_of_the_service_manager() {
        let text = "[[tls.certificate]]\ncertificate = 'a.pem'\nkey = 'credential:mail.key'\n";
        let loaded = read(text, &[("CREDENTIALS_DIRECTORY", "/run/c")]).expect("it is good");
        let certificate = &loaded.config.certificates[0];
        assert_eq!(certificate.key.path(), Path::new("/run/c/mail.key"));
        assert_eq!(certificate.certificate.path(), Path::new("a.pem"));
        let told = "tls.certificate[1].key = \"credential:mail.key\"  # f:3, credential mail.key";
        assert_eq!(origin(&loaded, "tls.certificate[1].key"), told);
        let outside = read(text, &[]).expect("a command need not run in the service");
        let usual = Path::new("/run/credentials/ringpost.service/mail.key");
        assert_eq!(outside.config.certificates[0].key.path(), usual);
        let faults =
            read(&text.replace("mail.key", "../x"), &[]).expect_err("it leaves the folder");
        assert!(faults[0].what.contains("not the name of a credential"), "{faults:?}");
        let key = "RINGPOST_TLS_CERTIFICATE_1_KEY";
        let both = read(text, &[(key, "credential:other")]).expect("it is good");
        assert!(origin(&both, "tls.certificate[1].key").ends_with("KEY, credential other"));
    }
}
