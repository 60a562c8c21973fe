//! A scenario: what is run, why, and what is expected of it, as its file says.
//!
//! Promise:  whatever is wrong with a file is told before anything is started, with its line: an
//!           unknown key, a sink or source that is not there, a flag that its program does not know,
//!           a figure that no run has.
//! Scale:    counts and times are those of a real machine; `Scale` makes them smaller. Rates, sizes,
//!           connections and the deadline stay, for they are what a scenario is about.

use std::ops::Range;
use std::time::Duration;

use clap::Args;
use clap::Parser;
use serde::Deserialize;
use toml::Spanned;
use toml::Table;
use toml::Value;

use crate::run::figures;
use crate::sink;
use crate::sink::behaviour::Behaviours;
use crate::source;
use crate::source::shape::read_time;

/// How long mail may stay in the queue when nothing is sent any more, unless it is told.
const DEADLINE: Duration = Duration::from_secs(120);
/// A run with less time proves nothing.
const TIME_MIN: Duration = Duration::from_millis(500);
/// What a run decides by itself, by section and key.
const OWN_KEYS: [(&str, &str); 4] =
    [("server", "spool"), ("log", "output"), ("log", "format"), ("control", "socket")];
/// Names that figures begin with, so that nothing else is called so.
const RESERVED: [&str; 2] = ["server", "total"];

/// By how much a run is smaller than its scenario.
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

/// A file that has been read and checked.
#[derive(Debug)]
pub struct Scenario {
    pub purpose: String,
    pub expected: String,
    pub must_not: String,
    pub deadline: Duration,
    /// Copies that each kill of the server, and each stop of a sink, may bring once more.
    pub duplicates_per_cut_max: u64,
    pub config: Table,
    pub sinks: Vec<SinkPart>,
    pub sources: Vec<SourcePart>,
    pub idle: Vec<IdlePart>,
    pub steps: Vec<Step>,
    pub expectations: Vec<Expectation>,
}

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

/// Where mail goes to.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SinkPart {
    pub name: String,
    /// As `ringpost-load sink` takes them.
    #[serde(default = "anywhere")]
    pub at: Vec<String>,
    /// Recipient domains that are routed here.
    #[serde(default)]
    pub domains: Vec<String>,
    /// Numbered domains, by turns over the addresses.
    pub spread: Option<Spread>,
    /// Text of a behaviour file, or the name of one.
    pub behaviour: Option<String>,
    /// Nobody listens, until a step starts it.
    #[serde(default)]
    pub down: bool,
    /// Other keys of its routes.
    #[serde(default)]
    pub route: Table,
    /// Flags of `ringpost-load sink`.
    #[serde(default)]
    pub options: Table,
}

/// `0.many.test` and so on, as `--domains` of a source makes them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    pub domain: String,
    pub count: usize,
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

/// Who sends.
#[derive(Clone, Debug)]
pub struct SourcePart {
    pub name: String,
    /// Since the run began.
    pub begin: Duration,
    pub messages: Option<u64>,
    pub duration: Option<Duration>,
    pub rate: Option<f64>,
    /// Flags of `ringpost-load source`, as words.
    words: Vec<String>,
}

/// Connections that greet and then say nothing.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdlePart {
    pub name: String,
    pub sessions: u64,
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

/// What is done on the way.
#[derive(Clone, Debug)]
pub struct Step {
    /// Not before this time of the run.
    pub at: Duration,
    pub action: Action,
}

#[derive(Clone, Debug)]
pub enum Action {
    /// SIGKILL.
    Kill,
    /// SIGTERM, and the end of the drain.
    Terminate,
    /// With these keys instead of those of the scenario.
    Start(Table),
    /// To be done while the server is down: it shows what the accounts do not miss.
    DeleteSpool,
    StopSink(usize),
    /// With this behaviour instead of the one before.
    StartSink(usize, Option<String>),
    /// Until all sources have ended.
    AwaitSources,
    /// Until so many copies came to the sink.
    AwaitArrivals(usize, u64),
    AwaitEmptyQueue,
}

impl Action {
    pub fn touches_server(&self) -> bool {
        matches!(self, Action::Kill | Action::Terminate | Action::Start(_) | Action::DeleteSpool)
            || matches!(self, Action::AwaitEmptyQueue)
    }
}

/// A figure of the run, and what it may be.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    pub figure: String,
    /// The bounds are multiples of this one.
    pub of: Option<String>,
    /// That one may be 0, and then this one is to be. Otherwise such a run shows nothing.
    #[serde(default)]
    pub none_too: bool,
    pub equals: Option<f64>,
    pub at_least: Option<f64>,
    pub at_most: Option<f64>,
    /// In words.
    pub that: String,
}

fn anywhere() -> Vec<String> {
    vec!["127.0.0.1:0".to_owned()]
}

impl Scenario {
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
            names.add(&sink.name).and_then(|()| sink.check()).map_err(place)?;
            scenario.sinks.push(sink);
        }
        for source in file.source {
            let place = at(source.span());
            let source = source.into_inner();
            let read = names.add(&source.name).and_then(|()| SourcePart::read(source));
            scenario.sources.push(read.map_err(place)?);
        }
        for idle in file.idle {
            let place = at(idle.span());
            names.add(&idle.get_ref().name).map_err(place)?;
            scenario.idle.push(idle.into_inner());
        }
        if scenario.sources.is_empty() {
            return Err("there is no [[source]], so that nothing would be sent".to_owned());
        }
        for step in file.step {
            let place = at(step.span());
            let step = Step::read(step.into_inner(), &scenario.sinks).map_err(place)?;
            scenario.steps.push(step);
        }
        scenario.check_steps()?;
        for expectation in file.expect {
            let place = at(expectation.span());
            let expectation = expectation.into_inner();
            expectation.check(&scenario).map_err(place)?;
            scenario.expectations.push(expectation);
        }
        Ok(scenario)
    }

    /// Whether a server that runs already will do: nothing is done to it, and nothing of its own is
    /// expected.
    pub fn allows_other_servers(&self) -> Result<(), String> {
        if self.steps.iter().any(|step| step.action.touches_server()) {
            return Err("its steps stop the server or look into it".to_owned());
        }
        let of_server = |figure: &str| figure.starts_with("server.") || !self.idle.is_empty();
        let figures = self.expectations.iter().flat_map(|one| [Some(&one.figure), one.of.as_ref()]);
        match figures.flatten().find(|figure| of_server(figure)) {
            Some(figure) => Err(format!("it expects something of `{figure}`")),
            None => Ok(()),
        }
    }

    pub fn sink(&self, name: &str) -> Option<usize> {
        place_of(&self.sinks, name)
    }

    /// A server is started and stopped by turns, and at the end it runs.
    fn check_steps(&self) -> Result<(), String> {
        let mut runs = true;
        let mut listens: Vec<bool> = self.sinks.iter().map(|sink| !sink.down).collect();
        for (place, step) in self.steps.iter().enumerate() {
            let wrong = |why: &str| Err(format!("step {}: {why}", place + 1));
            match &step.action {
                Action::Kill | Action::Terminate if !runs => {
                    return wrong("the server is down already");
                }
                Action::Start(_) if runs => return wrong("the server runs already"),
                Action::DeleteSpool if runs => return wrong("the server runs: kill it first"),
                Action::AwaitEmptyQueue if !runs => return wrong("the server is down"),
                Action::StopSink(sink) if !listens[*sink] => {
                    return wrong("the sink is down already");
                }
                Action::StartSink(sink, _) if listens[*sink] => {
                    return wrong("the sink listens already");
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
            false => Err("the last step leaves the server down: add one that starts it".to_owned()),
        }
    }
}

impl SinkPart {
    fn check(&self) -> Result<(), String> {
        self.parsed(&self.at).map_err(|why| format!("sink `{}`: {why}", self.name))?;
        if let Some(behaviour) = &self.behaviour {
            read_behaviour(behaviour).map_err(|why| format!("sink `{}`: {why}", self.name))?;
        }
        if self.spread.as_ref().is_some_and(|spread| spread.count == 0) {
            return Err(format!("sink `{}`: `spread` needs one domain at least", self.name));
        }
        Ok(())
    }

    /// The options of the sink, at these places.
    pub fn parsed(&self, places: &[String]) -> Result<sink::options::Options, String> {
        let words = words_of(&self.options)?;
        parse::<sink::options::Options>(words.into_iter().chain(places.iter().cloned()).collect())
    }
}

/// The behaviours of a text, or of the file of that name.
pub fn read_behaviour(text: &str) -> Result<Behaviours, String> {
    const PROVIDERS: &str = include_str!("../../behaviours/providers.toml");
    let (from, text) = match text {
        "providers" => ("the behaviour `providers`".to_owned(), PROVIDERS.to_owned()),
        text if text.contains('\n') => ("`behaviour`".to_owned(), text.to_owned()),
        path => {
            let text = std::fs::read_to_string(path).map_err(|cause| format!("{path}: {cause}"))?;
            (path.to_owned(), text)
        }
    };
    Behaviours::read(&text).map_err(|why| format!("{from}, {why}"))
}

impl SourcePart {
    fn read(entry: SourceEntry) -> Result<SourcePart, String> {
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
        let options = part.parsed(Scale(1.0), "127.0.0.1:25").map_err(place)?;
        options.complete().check().map_err(place)?;
        if part.messages.is_none() && part.duration.is_none() {
            return Err(place("it has no end: give `messages` or `duration`".to_owned()));
        }
        part.name = name;
        Ok(part)
    }

    /// The options of the source. What is refused is counted and ends nothing.
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
        words.extend(self.words.iter().cloned());
        words.push(server.to_owned());
        parse::<source::options::Options>(words)
    }
}

impl Step {
    fn read(entry: StepEntry, sinks: &[SinkPart]) -> Result<Step, String> {
        let StepEntry { action, at, sink, count, behaviour, config } = entry;
        let own = |is: bool, key: &str| {
            is.then_some(()).ok_or(format!("`do = \"{action}\"` has no `{key}`"))
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
                format!("there is no sink `{name}`, only {}", known.join(", "))
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
                    "`{other}` is nothing to do; there are kill, terminate, start, delete-spool, \
                     stop-sink, start-sink, await-sources, await-arrivals, await-empty-queue"
                ));
            }
        };
        if let Action::Start(config) = &action {
            check_config(config)?;
        }
        if let Action::StartSink(_, Some(behaviour)) = &action {
            read_behaviour(behaviour)?;
        }
        let at = at.as_deref().map(read_time).transpose()?.unwrap_or_default();
        Ok(Step { at, action })
    }
}

impl Expectation {
    fn check(&self, scenario: &Scenario) -> Result<(), String> {
        if self.equals.is_none() && self.at_least.is_none() && self.at_most.is_none() {
            return Err(format!("`{}`: give `equals`, `at_least` or `at_most`", self.figure));
        }
        figures::check_name(&self.figure, scenario)?;
        self.of.iter().try_for_each(|of| figures::check_name(of, scenario))
    }
}

/// Names of sinks, sources and idle crowds, each once.
#[derive(Default)]
struct Names(Vec<String>);

impl Names {
    fn add(&mut self, name: &str) -> Result<(), String> {
        let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || !name.chars().all(is_word) {
            return Err(format!("`{name}` is no name: use small letters, digits and -"));
        }
        if RESERVED.contains(&name) || self.0.iter().any(|one| one == name) {
            return Err(format!("`{name}` is taken: sinks and sources have names of their own"));
        }
        self.0.push(name.to_owned());
        Ok(())
    }
}

fn place_of(sinks: &[SinkPart], name: &str) -> Option<usize> {
    sinks.iter().position(|sink| sink.name == name)
}

/// What the run itself decides is not decided by a file.
fn check_config(config: &Table) -> Result<(), String> {
    for (section, key) in OWN_KEYS {
        if config.get(section).and_then(Value::as_table).is_some_and(|own| own.contains_key(key)) {
            return Err(format!("[config.{section}]: `{key}` is chosen by the run; leave it out"));
        }
    }
    Ok(())
}

/// A table of flags as words: `d = true`, `l = 4096`, `header = ["A: 1", "B: 2"]`.
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
                _ => return Err(format!("options.{key}: write a text, a number, or true")),
            };
            words.extend([flag.clone(), text]);
        }
    }
    Ok(words)
}

#[derive(Parser)]
#[command(no_binary_name = true)]
struct Line<T: Args> {
    #[command(flatten)]
    options: T,
}

fn parse<T: Args>(words: Vec<String>) -> Result<T, String> {
    Line::<T>::try_parse_from(words).map(|line| line.options).map_err(|fault| {
        let text = fault.to_string();
        let first = text.lines().next().unwrap_or_default();
        format!("options: {}", first.trim_start_matches("error: "))
    })
}

fn line_of(text: &str, span: Range<usize>) -> usize {
    text[..span.start.min(text.len())].matches('\n').count() + 1
}
