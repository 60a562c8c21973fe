//! A scenario: the parts of a run, its steps and expectations.
//!
//! Scale:    counts and times are those of a machine under test; `Scale` reduces them. Rates, sizes,
//!           connections and the deadline stay, since the scenario is about them.

use std::time::Duration;

use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error;
use toml::Table;
use toml::Value;

use crate::flags::parse;
use crate::flags::read_time;
use crate::sink;
use crate::source;

/// The minimum duration of a scaled source.
const TIME_MIN: Duration = Duration::from_millis(500);

/// The factor by which a run is smaller than its scenario.
#[derive(Clone, Copy, Debug)]
pub struct Scale(pub f64);

impl Scale {
    pub fn count(self, count: u64) -> u64 {
        ((count as f64 * self.0).round() as u64).max(1)
    }

    pub fn time(self, time: Duration) -> Duration {
        time.mul_f64(self.0)
    }
}

/// A scenario after reading and checking its file.
#[derive(Debug)]
pub struct Scenario {
    pub purpose: String,
    pub expected: String,
    pub must_not: String,
    pub deadline: Duration,
    /// Copies that each kill of the server and each stop of a sink may repeat.
    pub duplicates_per_cut_max: u64,
    pub config: Table,
    pub sinks: Vec<SinkPart>,
    pub sources: Vec<SourcePart>,
    pub idle: Vec<IdlePart>,
    pub steps: Vec<Step>,
    pub expectations: Vec<Expectation>,
}

/// A receiver of mail.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SinkPart {
    pub name: String,
    /// Addresses as for `ringpost-load sink`.
    #[serde(default = "any_port")]
    pub at: Vec<String>,
    /// Recipient domains routed to this sink.
    #[serde(default)]
    pub domains: Vec<String>,
    /// Numbered domains, distributed over the addresses.
    pub spread: Option<Spread>,
    /// The text or the path of a behaviour file.
    pub behaviour: Option<String>,
    /// Does not listen until a step starts it.
    #[serde(default)]
    pub down: bool,
    /// Further keys of its routes.
    #[serde(default)]
    pub route: Table,
    /// Flags of `ringpost-load sink`.
    #[serde(default)]
    pub options: Table,
}

/// `0.many.test` and so on, like `--domains` of a source.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    pub domain: String,
    pub count: usize,
}

/// A sender of mail.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourcePart {
    pub name: String,
    /// Since the begin of the run.
    #[serde(default, deserialize_with = "time")]
    pub begin: Duration,
    pub messages: Option<u64>,
    #[serde(default, deserialize_with = "some_time")]
    pub duration: Option<Duration>,
    pub rate: Option<f64>,
    /// What must happen to every message.
    pub expect: Option<Fate>,
    /// Flags of `ringpost-load source`.
    #[serde(default)]
    options: Table,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// The server accepts it.
    Accepted,
    /// Also a sink.
    Arrived,
}

/// Connections that are idle after EHLO.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdlePart {
    pub name: String,
    pub sessions: u64,
}

/// A step of the run.
#[derive(Clone, Debug, Deserialize)]
pub struct Step {
    /// Not before this time of the run.
    #[serde(default, deserialize_with = "time")]
    pub at: Duration,
    #[serde(flatten)]
    pub action: Action,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Action {
    /// SIGKILL.
    Kill {},
    /// SIGTERM, then wait for the exit.
    Terminate {},
    /// With these keys over those of the scenario.
    Start {
        #[serde(default)]
        config: Table,
    },
    /// While the server is down; tests that the account notices lost mail.
    DeleteSpool {},
    StopSink {
        sink: String,
    },
    /// With this behaviour instead of the current one.
    StartSink {
        sink: String,
        behaviour: Option<String>,
    },
    /// Until all sources have ended.
    AwaitSources {},
    /// Until this number of copies has arrived at the sink.
    AwaitArrivals {
        sink: String,
        count: u64,
    },
    AwaitEmptyQueue {},
}

impl Action {
    fn touches_server(&self) -> bool {
        self.sink().is_none() && !matches!(self, Action::AwaitSources {})
    }

    pub fn sink(&self) -> Option<&str> {
        match self {
            Action::StopSink { sink }
            | Action::StartSink { sink, .. }
            | Action::AwaitArrivals { sink, .. } => Some(sink),
            _ => None,
        }
    }
}

fn time<'d, D: Deserializer<'d>>(input: D) -> Result<Duration, D::Error> {
    read_time(&String::deserialize(input)?).map_err(D::Error::custom)
}

pub fn some_time<'d, D: Deserializer<'d>>(input: D) -> Result<Option<Duration>, D::Error> {
    time(input).map(Some)
}

/// A figure of the run and its bounds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    pub figure: String,
    /// The bounds are multiples of this figure.
    pub of: Option<String>,
    /// Accept 0 for both figures. Otherwise a base of 0 fails the expectation.
    #[serde(default)]
    pub none_too: bool,
    pub equals: Option<f64>,
    pub at_least: Option<f64>,
    pub at_most: Option<f64>,
    /// The expectation in words.
    pub that: String,
}

fn any_port() -> Vec<String> {
    vec!["127.0.0.1:0".to_owned()]
}

impl Scenario {
    /// Whether the scenario can use a running server: no step and no expectation touches the server.
    pub fn allows_other_servers(&self) -> Result<(), String> {
        if self.steps.iter().any(|step| step.action.touches_server()) {
            return Err("its steps stop or inspect the server".to_owned());
        }
        let of_server = |figure: &str| figure.starts_with("server.") || !self.idle.is_empty();
        let figures = self.expectations.iter().flat_map(|one| [Some(&one.figure), one.of.as_ref()]);
        match figures.flatten().find(|figure| of_server(figure)) {
            Some(figure) => Err(format!("it has an expectation on `{figure}`")),
            None => Ok(()),
        }
    }

    pub fn sink(&self, name: &str) -> Option<usize> {
        self.sinks.iter().position(|sink| sink.name == name)
    }
}

impl SinkPart {
    /// The options of the sink at these addresses.
    pub fn parsed(&self, places: &[String]) -> Result<sink::options::Options, String> {
        let words = words_of(&self.options)?;
        parse(words.into_iter().chain(places.iter().cloned()))
    }
}

impl SourcePart {
    /// The options of the source. Refused messages are counted and do not end the run.
    pub fn parsed(&self, scale: Scale, server: &str) -> Result<source::options::Options, String> {
        let mut words = vec!["-A".to_owned()];
        if let Some(messages) = self.messages {
            words.extend(["-m".to_owned(), scale.count(messages).to_string()]);
        }
        if let Some(duration) = self.duration {
            let seconds = scale.time(duration).max(TIME_MIN).as_secs_f64();
            words.extend(["--duration".to_owned(), seconds.to_string()]);
        }
        if let Some(rate) = self.rate {
            words.extend(["--rate".to_owned(), rate.to_string()]);
        }
        words.extend(words_of(&self.options)?);
        words.push(server.to_owned());
        parse(words)
    }
}

/// The command line of a table of flags: `d = true`, `l = 4096`, `header = ["A: 1", "B: 2"]`.
fn words_of(options: &Table) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    for (key, value) in options {
        let flag = if key.chars().count() == 1 { format!("-{key}") } else { format!("--{key}") };
        let values = match value {
            Value::Boolean(false) => continue,
            Value::Boolean(true) => {
                words.push(flag);
                continue;
            }
            Value::Array(values) => values.as_slice(),
            one => std::slice::from_ref(one),
        };
        for value in values {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Integer(_) | Value::Float(_) => value.to_string(),
                _ => return Err(format!("options.{key}: expected a string, a number or true")),
            };
            words.extend([flag.clone(), text]);
        }
    }
    Ok(words)
}
