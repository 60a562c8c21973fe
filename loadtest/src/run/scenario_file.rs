//! Scenario files: TOML becomes a `Scenario`.
//!
//! Promise:  errors are reported before anything starts, with their line: an unknown key, sink, source,
//!           flag or figure, and steps that make no sense in their order.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;
use toml::Table;
use toml::Value;

use crate::run::figures::check_name;
use crate::run::scenario::Action;
use crate::run::scenario::Expectation;
use crate::run::scenario::Fate;
use crate::run::scenario::IdlePart;
use crate::run::scenario::Scale;
use crate::run::scenario::Scenario;
use crate::run::scenario::SinkPart;
use crate::run::scenario::SourcePart;
use crate::run::scenario::Step;
use crate::run::scenario::some_time;
use crate::sink::behaviour_file;

/// How long mail may stay in the queue after the sources have ended, by default.
const DEADLINE: Duration = Duration::from_secs(120);
/// Sections and keys that the run sets itself.
const OWN_KEYS: [(&str, &str); 4] =
    [("server", "spool"), ("log", "output"), ("log", "format"), ("control", "socket")];
/// Prefixes of figures, which cannot be names of parts.
const RESERVED: [&str; 2] = ["server", "total"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    purpose: String,
    expected: String,
    must_not: String,
    #[serde(default, deserialize_with = "some_time")]
    deadline: Option<Duration>,
    #[serde(default)]
    duplicates_per_cut_max: u64,
    #[serde(default)]
    config: Table,
    #[serde(default)]
    sink: Vec<Spanned<SinkPart>>,
    #[serde(default)]
    source: Vec<Spanned<SourcePart>>,
    #[serde(default)]
    idle: Vec<Spanned<IdlePart>>,
    #[serde(default)]
    step: Vec<Spanned<Step>>,
    #[serde(default)]
    expect: Vec<Spanned<Expectation>>,
}

/// Reads a file; the error names the line.
pub fn read(text: &str) -> Result<Scenario, String> {
    let file: File = toml::from_str(text).map_err(|fault| {
        let line = fault.span().map_or(1, |span| line_of(text, span));
        format!("line {line}: {}", fault.message().lines().next().unwrap_or_default())
    })?;
    check_config(&file.config)?;
    let mut names = Names::default();
    let mut scenario = Scenario {
        purpose: file.purpose,
        expected: file.expected,
        must_not: file.must_not,
        deadline: file.deadline.unwrap_or(DEADLINE),
        duplicates_per_cut_max: file.duplicates_per_cut_max,
        config: file.config,
        sinks: each(text, file.sink, |sink| names.add(&sink.name).and_then(|()| check_sink(sink)))?,
        sources: each(text, file.source, |source| {
            names.add(&source.name)?;
            check_source(source).map_err(|why| format!("source `{}`: {why}", source.name))
        })?,
        idle: each(text, file.idle, |idle| names.add(&idle.name))?,
        steps: Vec::new(),
        expectations: Vec::new(),
    };
    if scenario.sources.is_empty() {
        return Err("there is no [[source]]".to_owned());
    }
    scenario.steps = each(text, file.step, |step| check_step(&step.action, &scenario))?;
    check_steps(&scenario)?;
    let own = each(text, file.expect, |expectation| check_expectation(expectation, &scenario))?;
    scenario.expectations = scenario.sources.iter().flat_map(expectations_of).chain(own).collect();
    Ok(scenario)
}

/// Checks each part; an error names its line.
fn each<T>(
    text: &str,
    parts: Vec<Spanned<T>>,
    mut check: impl FnMut(&T) -> Result<(), String>,
) -> Result<Vec<T>, String> {
    let checked = parts.into_iter().map(|part| {
        let line = line_of(text, part.span());
        let part = part.into_inner();
        check(&part).map(|()| part).map_err(|why| format!("line {line}: {why}"))
    });
    checked.collect()
}

/// The expectations for which `expect` of a source is short.
fn expectations_of(source: &SourcePart) -> Vec<Expectation> {
    let name = &source.name;
    let every = |fate: &str, words: &str| Expectation {
        figure: format!("{name}.{fate}"),
        of: Some(format!("{name}.planned")),
        none_too: false,
        equals: Some(1.0),
        at_least: None,
        at_most: None,
        that: format!("every message of `{name}` {words}"),
    };
    let accepted = source.expect.map(|_| every("accepted", "is accepted"));
    let arrived = (source.expect == Some(Fate::Arrived)).then(|| every("arrived", "arrives"));
    accepted.into_iter().chain(arrived).collect()
}

/// Checks that steps fit the state of the server and the sinks, and that the server runs at the end.
fn check_steps(scenario: &Scenario) -> Result<(), String> {
    let mut runs = true;
    let mut listens: BTreeMap<&str, bool> =
        scenario.sinks.iter().map(|sink| (&*sink.name, !sink.down)).collect();
    for (place, step) in scenario.steps.iter().enumerate() {
        let wrong = |why: &str| Err(format!("step {}: {why}", place + 1));
        match &step.action {
            Action::Kill {} | Action::Terminate {} if !runs => {
                return wrong("the server is already down");
            }
            Action::Start { .. } if runs => return wrong("the server already runs"),
            Action::DeleteSpool {} if runs => return wrong("the server runs; kill it first"),
            Action::AwaitEmptyQueue {} if !runs => return wrong("the server is down"),
            Action::Kill {} | Action::Terminate {} => runs = false,
            Action::Start { .. } => runs = true,
            Action::StopSink { sink } if listens.insert(sink, false) == Some(false) => {
                return wrong("the sink is already down");
            }
            Action::StartSink { sink, .. } if listens.insert(sink, true) == Some(true) => {
                return wrong("the sink already listens");
            }
            _ => {}
        }
    }
    match runs {
        true => Ok(()),
        false => {
            Err("the server is down after the last step; add a step that starts it".to_owned())
        }
    }
}

fn check_sink(sink: &SinkPart) -> Result<(), String> {
    sink.parsed(&sink.at).map_err(|why| format!("sink `{}`: {why}", sink.name))?;
    if let Some(behaviour) = &sink.behaviour {
        behaviour_file::find(behaviour).map_err(|why| format!("sink `{}`: {why}", sink.name))?;
    }
    if sink.spread.as_ref().is_some_and(|spread| spread.count == 0) {
        return Err(format!("sink `{}`: `spread` needs at least one domain", sink.name));
    }
    Ok(())
}

fn check_source(source: &SourcePart) -> Result<(), String> {
    source.parsed(Scale(1.0), "127.0.0.1:25")?;
    match source.messages.is_none() && source.duration.is_none() {
        true => Err("`messages` or `duration` is missing".to_owned()),
        false => Ok(()),
    }
}

fn check_step(action: &Action, scenario: &Scenario) -> Result<(), String> {
    if let Some(name) = action.sink()
        && scenario.sink(name).is_none()
    {
        let known: Vec<&str> = scenario.sinks.iter().map(|sink| &*sink.name).collect();
        return Err(format!("there is no sink `{name}`; sinks are {}", known.join(", ")));
    }
    match action {
        Action::Start { config } => check_config(config),
        Action::StartSink { behaviour: Some(behaviour), .. } => {
            behaviour_file::find(behaviour).map(drop)
        }
        _ => Ok(()),
    }
}

fn check_expectation(expectation: &Expectation, scenario: &Scenario) -> Result<(), String> {
    if expectation.equals.is_none()
        && expectation.at_least.is_none()
        && expectation.at_most.is_none()
    {
        return Err(format!(
            "`{}`: `equals`, `at_least` or `at_most` is missing",
            expectation.figure
        ));
    }
    check_name(&expectation.figure, scenario)?;
    expectation.of.iter().try_for_each(|of| check_name(of, scenario))
}

/// The names of sinks, sources and idle parts, which must be unique.
#[derive(Default)]
struct Names(Vec<String>);

impl Names {
    fn add(&mut self, name: &str) -> Result<(), String> {
        let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || !name.chars().all(is_word) {
            return Err(format!("`{name}` is not a name; use lower case letters, digits and -"));
        }
        if RESERVED.contains(&name) || self.0.iter().any(|one| one == name) {
            return Err(format!("the name `{name}` is used twice or reserved"));
        }
        self.0.push(name.to_owned());
        Ok(())
    }
}

/// Refuses keys that the run sets itself.
fn check_config(config: &Table) -> Result<(), String> {
    for (section, key) in OWN_KEYS {
        if config.get(section).and_then(Value::as_table).is_some_and(|own| own.contains_key(key)) {
            return Err(format!("[config.{section}]: the run sets `{key}`; remove it"));
        }
    }
    Ok(())
}

fn line_of(text: &str, span: Range<usize>) -> usize {
    text[..span.start.min(text.len())].matches('\n').count() + 1
}
