//! Scenario files: TOML becomes a `Scenario`.
//!
//! Promise:  errors are reported before anything starts, with their line: an unknown key, sink, source,
//!           flag or figure, and steps that make no sense in their order.

use std::ops::Range;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;
use toml::Table;
use toml::Value;

use crate::flags::read_time;
use crate::run::figure_names::check_name;
use crate::run::scenario::Action;
use crate::run::scenario::Expectation;
use crate::run::scenario::IdlePart;
use crate::run::scenario::Scale;
use crate::run::scenario::Scenario;
use crate::run::scenario::SinkPart;
use crate::run::scenario::SourcePart;
use crate::run::scenario::Step;
use crate::run::scenario::words_of;
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
    deadline: Option<Spanned<String>>,
    #[serde(default)]
    duplicates_per_cut_max: u64,
    #[serde(default)]
    config: Table,
    #[serde(default)]
    sink: Vec<Spanned<SinkPart>>,
    #[serde(default)]
    source: Vec<Spanned<SourceEntry>>,
    #[serde(default)]
    idle: Vec<Spanned<IdlePart>>,
    #[serde(default)]
    step: Vec<Spanned<StepEntry>>,
    #[serde(default)]
    expect: Vec<Spanned<Expectation>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceEntry {
    name: String,
    begin: Option<String>,
    messages: Option<u64>,
    duration: Option<String>,
    rate: Option<f64>,
    #[serde(default)]
    options: Table,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StepEntry {
    #[serde(rename = "do")]
    action: String,
    at: Option<String>,
    sink: Option<String>,
    count: Option<u64>,
    behaviour: Option<String>,
    config: Option<Table>,
}

/// Reads a file; the error names the line.
pub fn read(text: &str) -> Result<Scenario, String> {
    let file: File = toml::from_str(text).map_err(|fault| {
        let line = fault.span().map_or(1, |span| line_of(text, span));
        format!("line {line}: {}", fault.message().lines().next().unwrap_or_default())
    })?;
    let at = |span: Range<usize>| {
        let line = line_of(text, span);
        move |why: String| format!("line {line}: {why}")
    };
    let deadline = match &file.deadline {
        None => DEADLINE,
        Some(time) => read_time(time.get_ref()).map_err(at(time.span()))?,
    };
    check_config(&file.config)?;
    let mut names = Names::default();
    let mut scenario = Scenario {
        purpose: file.purpose,
        expected: file.expected,
        must_not: file.must_not,
        deadline,
        duplicates_per_cut_max: file.duplicates_per_cut_max,
        config: file.config,
        sinks: Vec::new(),
        sources: Vec::new(),
        idle: Vec::new(),
        steps: Vec::new(),
        expectations: Vec::new(),
    };
    for sink in file.sink {
        let place = at(sink.span());
        let sink = sink.into_inner();
        names.add(&sink.name).and_then(|()| check_sink(&sink)).map_err(place)?;
        scenario.sinks.push(sink);
    }
    for source in file.source {
        let place = at(source.span());
        let source = source.into_inner();
        let read = names.add(&source.name).and_then(|()| read_source(source));
        scenario.sources.push(read.map_err(place)?);
    }
    for idle in file.idle {
        let place = at(idle.span());
        names.add(&idle.get_ref().name).map_err(place)?;
        scenario.idle.push(idle.into_inner());
    }
    if scenario.sources.is_empty() {
        return Err("there is no [[source]]".to_owned());
    }
    for step in file.step {
        let place = at(step.span());
        let step = read_step(step.into_inner(), &scenario.sinks).map_err(place)?;
        scenario.steps.push(step);
    }
    check_steps(&scenario)?;
    for expectation in file.expect {
        let place = at(expectation.span());
        let expectation = expectation.into_inner();
        check_expectation(&expectation, &scenario).map_err(place)?;
        scenario.expectations.push(expectation);
    }
    Ok(scenario)
}

/// Checks that steps fit the state of the server and the sinks, and that the server runs at the end.
fn check_steps(scenario: &Scenario) -> Result<(), String> {
    let mut runs = true;
    let mut listens: Vec<bool> = scenario.sinks.iter().map(|sink| !sink.down).collect();
    for (place, step) in scenario.steps.iter().enumerate() {
        let wrong = |why: &str| Err(format!("step {}: {why}", place + 1));
        match &step.action {
            Action::Kill | Action::Terminate if !runs => {
                return wrong("the server is already down");
            }
            Action::Start(_) if runs => return wrong("the server already runs"),
            Action::DeleteSpool if runs => return wrong("the server runs; kill it first"),
            Action::AwaitEmptyQueue if !runs => return wrong("the server is down"),
            Action::StopSink(sink) if !listens[*sink] => {
                return wrong("the sink is already down");
            }
            Action::StartSink(sink, _) if listens[*sink] => {
                return wrong("the sink already listens");
            }
            Action::Kill | Action::Terminate => runs = false,
            Action::Start(_) => runs = true,
            Action::StopSink(sink) => listens[*sink] = false,
            Action::StartSink(sink, _) => listens[*sink] = true,
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

fn read_source(entry: SourceEntry) -> Result<SourcePart, String> {
    let name = entry.name;
    let place = |why: String| format!("source `{name}`: {why}");
    let time = |text: Option<String>| text.as_deref().map(read_time).transpose();
    let mut part = SourcePart {
        begin: time(entry.begin).map_err(place)?.unwrap_or_default(),
        messages: entry.messages,
        duration: time(entry.duration).map_err(place)?,
        rate: entry.rate,
        words: words_of(&entry.options).map_err(place)?,
        name: String::new(),
    };
    part.parsed(Scale(1.0), "127.0.0.1:25").map_err(place)?;
    if part.messages.is_none() && part.duration.is_none() {
        return Err(place("`messages` or `duration` is missing".to_owned()));
    }
    part.name = name;
    Ok(part)
}

fn read_step(entry: StepEntry, sinks: &[SinkPart]) -> Result<Step, String> {
    let StepEntry { action, at, sink, count, behaviour, config } = entry;
    let own = |is: bool, key: &str| {
        is.then_some(()).ok_or(format!("`do = \"{action}\"` does not take `{key}`"))
    };
    let of_sink = ["stop-sink", "start-sink", "await-arrivals"].contains(&&*action);
    own(sink.is_none() || of_sink, "sink")?;
    own(count.is_none() || action == "await-arrivals", "count")?;
    own(behaviour.is_none() || action == "start-sink", "behaviour")?;
    own(config.is_none() || action == "start", "config")?;
    let sink = || {
        let name = sink.as_deref().ok_or(format!("`do = \"{action}\"` needs a `sink`"))?;
        place_of(sinks, name).ok_or_else(|| {
            let known: Vec<&str> = sinks.iter().map(|sink| &*sink.name).collect();
            format!("there is no sink `{name}`; sinks are {}", known.join(", "))
        })
    };
    let action = match &*action {
        "kill" => Action::Kill,
        "terminate" => Action::Terminate,
        "start" => Action::Start(config.unwrap_or_default()),
        "delete-spool" => Action::DeleteSpool,
        "stop-sink" => Action::StopSink(sink()?),
        "start-sink" => Action::StartSink(sink()?, behaviour),
        "await-sources" => Action::AwaitSources,
        "await-arrivals" => {
            Action::AwaitArrivals(sink()?, count.ok_or("`await-arrivals` needs a `count`")?)
        }
        "await-empty-queue" => Action::AwaitEmptyQueue,
        other => {
            return Err(format!(
                "unknown step `{other}`; steps are kill, terminate, start, delete-spool, \
                 stop-sink, start-sink, await-sources, await-arrivals, await-empty-queue"
            ));
        }
    };
    if let Action::Start(config) = &action {
        check_config(config)?;
    }
    if let Action::StartSink(_, Some(behaviour)) = &action {
        behaviour_file::find(behaviour)?;
    }
    let at = at.as_deref().map(read_time).transpose()?.unwrap_or_default();
    Ok(Step { at, action })
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

fn place_of(sinks: &[SinkPart], name: &str) -> Option<usize> {
    sinks.iter().position(|sink| sink.name == name)
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
