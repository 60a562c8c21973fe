//! `ringpost-load run`: a scenario from its file, against a server of its own, with a verdict.
//!
//! Promise:  exit code 0 when every recipient that was accepted is accounted for and every
//!           expectation holds, 1 when not, 2 when the scenario cannot be run as it was asked for.
//! Left:     nothing, where all is well. Where it is not, the folder of the server with its log,
//!           its configuration and its spool.
//!
//! ```text
//! library    the scenarios that come with the program
//! scenario   what a file says                      config    what the server is told
//! drive      the run under way                     server    its process
//! account    what became of every recipient        sinks     where mail goes, over several lives
//! figures    what was found, and what was expected idle      sessions that say nothing
//! tied       a server that ends with the run
//! ```

mod account;
mod config;
mod drive;
mod figures;
mod idle;
mod library;
mod scenario;
mod server;
mod sinks;
pub mod tied;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ringpost::boot::signals;

use crate::ledger::Ledger;
use crate::ledger::Sent;
use crate::report::Hdr;
use crate::report::Live;
use crate::report::Outputs;
use crate::report::Record;
use crate::report::Stage;
use crate::report::Verdict;
use crate::run::account::Account;
use crate::run::drive::Drive;
use crate::run::drive::Ended;
use crate::run::drive::Stop;
use crate::run::drive::Target;
use crate::run::figures::END_TO_END;
use crate::run::figures::Figures;
use crate::run::scenario::Scale;
use crate::run::scenario::Scenario;
use crate::run::server::Server;
use crate::run::sinks::Harvest;
use crate::run::sinks::Place;
use crate::source::Report;
use crate::source::shape::read_time;

const SCALE_MAX: f64 = 1000.0;

/// What is to be run.
#[derive(Args, Debug)]
pub struct RunOptions {
    /// One of those that `--list` shows, or a file.
    #[arg(value_name = "SCENARIO", required_unless_present = "list")]
    scenario: Option<String>,
    /// Show the scenarios that come with this program.
    #[arg(long)]
    list: bool,
    /// Multiply all counts of messages and all times by this: 0.01 takes seconds where 1 takes as
    /// long as it takes on a machine that is to be measured.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    scale: f64,
    /// The program of the server; the `ringpost` beside this one if it is left out.
    #[arg(long, value_name = "FILE", conflicts_with = "server")]
    ringpost: Option<PathBuf>,
    /// Load this server, which runs already and sends mail on to the sinks, where the scenario does
    /// nothing else with it. Say by --sink where they are to listen.
    #[arg(long, value_name = "HOST:PORT")]
    server: Option<String>,
    /// Have a sink listen here instead of where its scenario says.
    #[arg(long = "sink", value_name = "NAME=PLACE")]
    sinks: Vec<String>,
    /// Keep the queue in a new folder in this one; its disk is what is measured. The folder for
    /// temporary files if it is left out, which may lie in memory.
    #[arg(long, value_name = "FOLDER")]
    spool: Option<PathBuf>,
    /// How long mail may stay in the queue when all sources have ended, instead of what the
    /// scenario says.
    #[arg(long, value_name = "TIME", value_parser = read_time)]
    deadline: Option<Duration>,
    /// Keep the server's folder also where all is well.
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    outputs: Outputs,
}

/// Runs it and tells how that went. `false`: something was lost, or not as it is expected.
pub fn run(options: &RunOptions) -> Result<bool, String> {
    if options.list {
        print!("{}", library::list()?);
        return Ok(true);
    }
    let (name, mut scenario) = library::find(options.scenario.as_deref().unwrap_or_default())?;
    let named = |why: String| format!("{name}: {why}");
    options.check(&scenario).map_err(named)?;
    scenario.deadline = options.deadline.unwrap_or(scenario.deadline);
    let program = if options.server.is_none() { Some(options.program()?) } else { None };
    let settings = settings(&scenario, options);
    let record = Record::begin(&format!("run {name}"), &options.outputs, settings);
    if !options.outputs.json {
        print!("{}", head(&name, &scenario));
    }
    let folder = Folder::make(options)?;
    let is_well = match drive(options, &scenario, program, &folder) {
        Ok(findings) => {
            let record = findings.weigh(record);
            options.outputs.tell(&record)?;
            record.verdicts.iter().all(|verdict| verdict.holds)
        }
        Err(Stop::Refused(why)) => {
            folder.remove()?;
            return Err(named(why));
        }
        Err(Stop::Broken(why)) => {
            eprintln!("ringpost-load: {name}: {why}");
            false
        }
    };
    match is_well && !options.keep || options.server.is_some() {
        true => folder.remove()?,
        false => eprintln!("the server's folder is left: {}", folder.path.display()),
    }
    if !options.outputs.json {
        println!("{name}: {}", if is_well { "all is well" } else { "FAILED" });
    }
    Ok(is_well)
}

/// The run itself. Server and sinks have ended when it returns; of a run that is broken off the
/// sources may go on until the process ends, which is next.
fn drive<'s>(
    options: &RunOptions,
    scenario: &'s Scenario,
    program: Option<PathBuf>,
    folder: &Folder,
) -> Result<Findings<'s>, Stop> {
    let blocked = signals::block().and_then(signals::listen);
    let signals = blocked.map_err(|cause| Stop::Refused(format!("signals: {cause}")))?;
    let sinks = options.start_sinks(scenario).map_err(Stop::Refused)?;
    let target = match (program, &options.server) {
        (Some(program), _) => Target::Ours(Server::new(program, folder.path.clone())),
        (None, server) => {
            Target::other(server.as_deref().unwrap_or_default()).map_err(Stop::Refused)?
        }
    };
    let mut drive = Drive::new(scenario, Scale(options.scale), (target, sinks), &signals);
    let live = if scenario.sources.len() == 1 { options.outputs.live() } else { Live::Never };
    let ended = drive.run(live)?;
    let harvests = drive.sinks.drain(..).map(Place::harvest).collect::<Result<_, _>>();
    let harvests = harvests.map_err(Stop::Broken)?;
    let (cuts, came_before_last_cut) = (drive.cuts, drive.came_before_last_cut);
    Ok(Findings { scenario, ended, harvests, cuts, came_before_last_cut })
}

impl RunOptions {
    fn check(&self, scenario: &Scenario) -> Result<(), String> {
        self.outputs.check()?;
        if !(self.scale > 0.0 && self.scale <= SCALE_MAX) {
            return Err(format!("--scale: it is more than 0 and at most {SCALE_MAX}"));
        }
        if self.server.is_some() {
            let allows = scenario.allows_other_servers();
            allows.map_err(|why| {
                format!("--server: this scenario needs one of its own, for {why}")
            })?;
        }
        for place in &self.sinks {
            let (name, _) = place.split_once('=').unwrap_or((place, ""));
            if scenario.sink(name).is_none() || !place.contains('=') {
                let known: Vec<&str> = scenario.sinks.iter().map(|sink| &*sink.name).collect();
                let known = known.join(", ");
                return Err(format!("--sink {place}: write NAME=PLACE, of the sinks {known}"));
            }
        }
        Ok(())
    }

    fn start_sinks(&self, scenario: &Scenario) -> Result<Vec<Place>, String> {
        let mut sinks = Vec::new();
        for sink in &scenario.sinks {
            let own = |place: &String| {
                let (name, at) = place.split_once('=')?;
                (name == sink.name).then(|| at.to_owned())
            };
            let at: Vec<String> = self.sinks.iter().filter_map(own).collect();
            sinks.push(Place::start(sink, (!at.is_empty()).then_some(&*at))?);
        }
        Ok(sinks)
    }

    fn program(&self) -> Result<PathBuf, String> {
        let beside = || {
            let own = env::current_exe().map_err(|cause| format!("this program: {cause}"))?;
            Ok::<PathBuf, String>(own.with_file_name("ringpost"))
        };
        let program = self.ringpost.clone().map_or_else(beside, Ok)?;
        match program.is_file() {
            true => Ok(program),
            false => Err(format!(
                "{}: there is no such program; build the server, or name it by --ringpost",
                program.display()
            )),
        }
    }
}

/// Where the server lives.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn make(options: &RunOptions) -> Result<Folder, String> {
        let parent = options.spool.clone().unwrap_or_else(env::temp_dir);
        if !parent.is_dir() {
            return Err(format!("--spool: there is no folder {}; make it", parent.display()));
        }
        let parent = fs::canonicalize(&parent).map_err(|cause| told(&parent, &cause))?;
        let path = parent.join(format!("ringpost-run-{}", std::process::id()));
        fs::create_dir(&path).map_err(|cause| told(&path, &cause))?;
        Ok(Folder { path })
    }

    fn remove(&self) -> Result<(), String> {
        fs::remove_dir_all(&self.path).map_err(|cause| told(&self.path, &cause))
    }
}

fn told(path: &Path, cause: &std::io::Error) -> String {
    format!("{}: {cause}", path.display())
}

/// Stands above the figures.
fn head(name: &str, scenario: &Scenario) -> String {
    let Scenario { purpose, expected, must_not, .. } = scenario;
    format!("{name}: {purpose}\n  expected: {expected}\n  must not show: {must_not}\n")
}

/// What a reader must know to run the same again.
fn settings(scenario: &Scenario, options: &RunOptions) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::from([
        ("purpose".to_owned(), scenario.purpose.clone()),
        ("expected".to_owned(), scenario.expected.clone()),
        ("must not show".to_owned(), scenario.must_not.clone()),
        ("scale".to_owned(), options.scale.to_string()),
    ]);
    if let Some(server) = &options.server {
        settings.insert("server".to_owned(), server.clone());
    }
    settings
}

/// All that a run has found.
struct Findings<'s> {
    scenario: &'s Scenario,
    ended: Ended,
    harvests: Vec<Harvest>,
    cuts: u64,
    came_before_last_cut: u64,
}

impl Findings<'_> {
    /// The record with all figures and verdicts.
    fn weigh(mut self, mut record: Record) -> Record {
        let mut figures = Figures::default();
        let mut ledger = Ledger::default();
        for sink in &mut self.harvests {
            ledger.add(std::mem::take(&mut sink.ledger));
        }
        let sent: Vec<Sent> = self.ended.reports.iter().map(Report::sent).collect();
        let parts: Vec<_> = sent.iter().map(|sent| (sent, ledger.compare(sent))).collect();
        let stuck = self.ended.audit.map_or(0, |audit| audit.queued);
        let account = Account::draw(&parts, &ledger, stuck);
        for (place, (sent, balance)) in parts.iter().enumerate() {
            let name = &self.scenario.sources[place].name;
            figures.set(name, "arrived", balance.arrived as f64);
            figures.set(name, "bounced", balance.bounced as f64);
            figures.set(name, "missing", balance.lost as f64);
            let end_to_end = end_to_end(&self.ended.reports[place], sent, &ledger);
            self.add_source(place, end_to_end, &mut figures, &mut record);
        }
        self.add_sinks(&mut figures, &mut record);
        self.add_server(account.accepted, &mut figures);
        for (name, count) in account.counts() {
            figures.set("total", name, count as f64);
            record.counts.insert(name.to_owned(), count);
        }
        record.counts.insert("cuts".to_owned(), self.cuts);
        record.counts.insert("came_before_last_cut".to_owned(), self.came_before_last_cut);
        if self.ended.audit.is_some() {
            let usage = self.ended.usage;
            record.counts.insert("server_cpu_ms".to_owned(), usage.cpu_ms);
            record.counts.insert("server_memory_kb_max".to_owned(), usage.memory_kb_max);
        }
        record.seconds = self.ended.took.as_secs_f64();
        record.per_second = account.arrived as f64 / record.seconds;
        let per_cut = self.scenario.duplicates_per_cut_max;
        record.verdicts = figures::judge_account(&account, self.cuts, per_cut);
        record.verdicts.extend(self.ended.audit.map(|audit| Verdict {
            holds: audit.adds_up,
            that: "the server's own account adds up".to_owned(),
            found: format!("{} taken, {} delivered", audit.taken, audit.delivered),
        }));
        let expected = self.scenario.expectations.iter().map(|one| figures.judge(one));
        record.verdicts.extend(expected);
        record
    }

    fn add_source(
        &mut self,
        place: usize,
        end_to_end: Option<Hdr>,
        figures: &mut Figures,
        record: &mut Record,
    ) {
        let name = &self.scenario.sources[place].name;
        let mut own = record.clone();
        self.ended.reports[place].complete(&mut own);
        for (count, value) in &own.counts {
            // `lost` of a source is what the server did not answer; here it is something else.
            let count = if count == "lost" { "unknown" } else { count };
            figures.set(name, count, *value as f64);
        }
        figures.set(name, "seconds", own.seconds);
        figures.set(name, "per_second", own.per_second);
        let end_to_end = end_to_end.map(|all| Stage { name: END_TO_END.into(), latencies: all });
        own.stages.extend(end_to_end);
        for stage in own.stages {
            figures.set_stage(name, &stage.name, &stage.latencies);
            let told = stage.name.replace('_', " ");
            record
                .stages
                .push(Stage { name: format!("{name} {told}"), latencies: stage.latencies });
        }
        record.first_fault = record.first_fault.take().or(own.first_fault);
        if place == 0 {
            (record.run, record.intervals) = (own.run, own.intervals);
            return;
        }
        record.run += &format!(" {}", own.run);
    }

    fn add_sinks(&mut self, figures: &mut Figures, record: &mut Record) {
        for sink in &mut self.harvests {
            let name = &sink.part.name;
            for (count, value) in &sink.counts {
                figures.set(name, count, value.as_f64().unwrap_or(0.0));
            }
            if let Some(latencies) = sink.end_to_end.take() {
                figures.set_stage(name, END_TO_END, &latencies);
                record.stages.push(Stage { name: format!("{name} end to end"), latencies });
            }
        }
    }

    fn add_server(&self, accepted: u64, figures: &mut Figures) {
        for (idle, end) in self.scenario.idle.iter().zip(&self.ended.crowds) {
            figures.set(&idle.name, "sessions", end.sessions as f64);
            figures.set(&idle.name, "alive", end.alive as f64);
            figures.set(&idle.name, "memory_kb_per_session", end.memory_kb_per_session);
        }
        let Some(audit) = self.ended.audit else { return };
        let usage = self.ended.usage;
        let per_message = |sum: f64| sum / accepted.max(1) as f64;
        let all = [
            ("taken", audit.taken as f64),
            ("delivered", audit.delivered as f64),
            ("bounced", audit.bounced as f64),
            ("queued", audit.queued as f64),
            ("cpu_ms", usage.cpu_ms as f64),
            ("cpu_us_per_message", per_message(usage.cpu_ms as f64 * 1000.0)),
            ("memory_mb", usage.memory_kb as f64 / 1024.0),
            ("memory_mb_max", usage.memory_kb_max as f64 / 1024.0),
            ("written_bytes_per_message", per_message(usage.written_bytes as f64)),
        ];
        all.into_iter().for_each(|(name, figure)| figures.set("server", name, figure));
    }
}

/// From when each message of a source was to begin until it was in a sink, where that is known.
fn end_to_end(report: &Report, sent: &Sent, ledger: &Ledger) -> Option<Hdr> {
    report.begin_us(0)?;
    let mut all = crate::report::latencies();
    ledger.arrivals(&sent.run, |number, first_us| {
        let begun_us = report.begin_us(number).unwrap_or(first_us);
        all.saturating_record(first_us.saturating_sub(begun_us).max(1));
    });
    (!all.is_empty()).then_some(Hdr(all))
}
