//! The run of a scenario from start to verdict.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ringpost::boot::signals;

use crate::flags::read_folder;
use crate::flags::read_time;
use crate::report::Outputs;
use crate::report::Record;
use crate::run::drive::Drive;
use crate::run::drive::Stop;
use crate::run::drive::Target;
use crate::run::findings::Findings;
use crate::run::library;
use crate::run::scenario::Scale;
use crate::run::scenario::Scenario;
use crate::run::server::Server;
use crate::run::sinks::Place;

const SCALE_MAX: f64 = 1000.0;

#[derive(Args, Debug)]
pub struct RunOptions {
    /// The name of a built-in scenario (see --list), or a file.
    #[arg(value_name = "SCENARIO", required_unless_present = "list")]
    scenario: Option<String>,
    /// List the built-in scenarios.
    #[arg(long)]
    list: bool,
    /// Multiply message counts and times by this factor. Full-size scenarios take up to an hour; 0.01
    /// takes seconds.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    scale: f64,
    /// The server's program. Default: `ringpost` beside this program.
    #[arg(long, value_name = "FILE", conflicts_with = "server")]
    ringpost: Option<PathBuf>,
    /// Test this running server, which must route to the sinks of --sink. Only for scenarios that
    /// neither stop nor inspect the server.
    #[arg(long, value_name = "HOST:PORT")]
    server: Option<String>,
    /// The address of a sink, instead of the one in the scenario.
    #[arg(long = "sink", value_name = "NAME=ADDRESS")]
    sinks: Vec<String>,
    /// Create the spool in this folder, whose disk is measured. Default: the folder for temporary
    /// files, which may be in memory.
    #[arg(long, value_name = "FOLDER", value_parser = read_folder)]
    spool: Option<PathBuf>,
    /// How long mail may stay in the queue after all sources have ended. Default: set by the scenario.
    #[arg(long, value_name = "TIME", value_parser = read_time)]
    deadline: Option<Duration>,
    /// Keep the server's folder after success.
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    outputs: Outputs,
}

/// Runs the scenario and prints the verdict. `false`: an expectation does not hold.
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
    let record = Record::begin(&format!("run {name}"), options.outputs.machine(), settings);
    if !options.outputs.json {
        print!("{}", head(&name, &scenario));
    }
    let folder = Folder::make(options)?;
    let is_well = match drive(options, &scenario, program, &folder) {
        Ok(findings) => {
            let record = findings.complete(record);
            options.outputs.write(&record)?;
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
        false => eprintln!("the server's folder is kept: {}", folder.path.display()),
    }
    if !options.outputs.json {
        println!("{name}: {}", if is_well { "passed" } else { "FAILED" });
    }
    Ok(is_well)
}

/// The run itself. Server and sinks have ended when it returns. If the run fails early, sources may
/// continue until the process exits, which is next.
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
    let live = scenario.sources.len() == 1 && options.outputs.live();
    let ended = drive.run(live)?;
    let mut sinks = std::mem::take(&mut drive.sinks);
    sinks.iter_mut().try_for_each(Place::stop).map_err(Stop::Broken)?;
    let (cuts, came_before_last_cut) = (drive.cuts, drive.came_before_last_cut);
    Ok(Findings { scenario, ended, sinks, cuts, came_before_last_cut })
}

impl RunOptions {
    fn check(&self, scenario: &Scenario) -> Result<(), String> {
        self.outputs.check()?;
        if !(self.scale > 0.0 && self.scale <= SCALE_MAX) {
            return Err(format!("--scale: must be more than 0 and at most {SCALE_MAX}"));
        }
        if self.server.is_some() {
            let allows = scenario.allows_other_servers();
            allows.map_err(|why| format!("--server: this scenario needs its own server: {why}"))?;
        }
        for place in &self.sinks {
            let (name, _) = place.split_once('=').unwrap_or((place, ""));
            if scenario.sink(name).is_none() || !place.contains('=') {
                let known: Vec<&str> = scenario.sinks.iter().map(|sink| &*sink.name).collect();
                let known = known.join(", ");
                return Err(format!("--sink {place}: write NAME=ADDRESS; the sinks are {known}"));
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
                "{}: no such program; build the server or use --ringpost",
                program.display()
            )),
        }
    }
}

/// The folder of the server.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn make(options: &RunOptions) -> Result<Folder, String> {
        let parent = options.spool.clone().unwrap_or_else(env::temp_dir);
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

/// Printed above the figures.
fn head(name: &str, scenario: &Scenario) -> String {
    let Scenario { purpose, expected, must_not, .. } = scenario;
    format!("{name}: {purpose}\n  expected: {expected}\n  must not show: {must_not}\n")
}

/// The settings in the record.
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
