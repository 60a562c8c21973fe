//! Arguments -> config -> `boot::run` -> exit code.

use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use clap::Parser;
use clap::Subcommand;
use ringpost::base::clock::wall_ms;
use ringpost::boot;
use ringpost::boot::Hostname;
use ringpost::boot::host::ports_from;
use ringpost::boot::run::ServeOptions;
use ringpost::boot::run::serve;
use ringpost::config;
use ringpost::config::Config;
use ringpost::config::HostFacts;
use ringpost::control::client;
use ringpost::control::client::QueueCommand;
use ringpost::control::orders;
use ringpost::control::orders::DestinationCommand;
use ringpost::control::orders::Selection;
use ringpost::control::route;
use ringpost::control::route::RouteTest;
use ringpost::doctor;
use ringpost::outbound::reroute;
use ringpost::queue::operate::Operation;
use ringpost::queue::select::Wanted;

/// A mail transfer agent for bulk and transactional sending.
#[derive(Parser)]
#[command(name = "ringpost", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Take mail until told to end.
    Serve {
        /// The config file; without it, a default for trying things out on loopback.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Read a config file and say everything that is wrong with it.
    Check {
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Print what can be configured.
    Config {
        #[command(subcommand)]
        page: ConfigPage,
    },
    /// Look into the queue, of a running server or of a stopped one.
    Queue {
        /// The config file that the server runs with.
        #[arg(long, value_name = "FILE", global = true)]
        config: Option<PathBuf>,
        /// Machine-readable output.
        #[arg(long, global = true)]
        json: bool,
        #[command(subcommand)]
        command: QueueArguments,
    },
    /// Prove that every accepted recipient was delivered, was returned or is queued. The exit code
    /// is 0 if the counts add up and the quarantine is empty.
    Audit {
        /// The config file that the server runs with.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Machine-readable output.
        #[arg(long)]
        json: bool,
    },
    /// Tell what a message waits for right now.
    Why {
        id: String,
        /// The config file that the server runs with.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Machine-readable output.
        #[arg(long)]
        json: bool,
    },
    /// Look at where mail goes, and stop or start it.
    Destination {
        /// The config file that the server runs with.
        #[arg(long, value_name = "FILE", global = true)]
        config: Option<PathBuf>,
        /// Machine-readable output.
        #[arg(long, global = true)]
        json: bool,
        #[command(subcommand)]
        command: DestinationArguments,
    },
    /// Try out where mail would go.
    Route {
        #[command(subcommand)]
        command: RouteArguments,
    },
    /// Examine this machine and change nothing; exit code 0 when all is well, 1 with warnings, 2
    /// with errors.
    Doctor {
        /// The config file that the server runs with.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Machine-readable output.
        #[arg(long)]
        json: bool,
    },
    /// Draw which core runs what, and where memory and interrupts are.
    Topology {
        /// The config file that the server runs with.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Machine-readable output.
        #[arg(long)]
        json: bool,
    },
    /// Ask a running server whether it is well; exit code 0 when it is.
    Health {
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum QueueArguments {
    /// What waits, by recipient domain: how much, how old, how it stands.
    Summary {
        /// How many domains at most.
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Messages, oldest first.
    List {
        /// How many at most.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Only those after this one: the last id of the page before.
        #[arg(long, value_name = "ID")]
        after: Option<String>,
        #[command(flatten)]
        filter: Filter,
    },
    /// Keep messages from being tried.
    Hold(Meant),
    /// Let messages go that are held.
    Release(Meant),
    /// Try messages now that wait for their next attempt.
    Retry(Meant),
    /// Send messages another way than their route says, at once, until it is undone.
    Reroute {
        #[command(flatten)]
        meant: Meant,
        /// The way, as in `next` of a route, such as smtp:relay.example.com:25; "default" is where
        /// the route says.
        #[arg(long, value_name = "NEXTHOP", value_parser = way)]
        to: Way,
    },
    /// Give messages up; their senders are told.
    Bounce {
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Everything that is known of a message.
    Show { id: String },
    /// The spool in numbers.
    Stats,
    /// A message as it would be delivered.
    Cat { id: String },
    /// Remove messages for good.
    Delete {
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

#[derive(Args)]
struct Filter {
    /// Only with a recipient of this domain that is still to be reached.
    #[arg(long, value_name = "DOMAIN")]
    recipient_domain: Option<String>,
    /// Only from this envelope sender; `<>` is the null sender.
    #[arg(long, value_name = "ADDRESS")]
    sender: Option<String>,
    /// Only what is held.
    #[arg(long)]
    held: bool,
    /// Only what was received longer ago than this: 30m, 2h, 1d.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    older_than: Option<Duration>,
}

/// Where `reroute` sends; none is where the route says.
#[derive(Clone)]
struct Way(Option<Box<str>>);

fn way(text: &str) -> Result<Way, String> {
    match text {
        "default" => Ok(Way(None)),
        text => reroute::spelled(text).map(|spelled| Way(Some(spelled))),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    config::units::parse_duration(text)
        .map_err(|refusal| format!("{}; {}", refusal.what, refusal.hint))
}

impl From<Filter> for Wanted {
    fn from(filter: Filter) -> Wanted {
        let before = |age: Duration| wall_ms().saturating_sub(age.as_millis() as u64);
        Wanted {
            recipient_domain: filter.recipient_domain,
            sender: filter.sender,
            held: filter.held,
            received_before_ms: filter.older_than.map(before),
        }
    }
}

/// Messages by id, by domain, or all.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct Meant {
    ids: Vec<String>,
    /// All with a recipient of this domain that is still to be reached.
    #[arg(long, value_name = "DOMAIN")]
    recipient_domain: Option<String>,
    /// All that is in the queue.
    #[arg(long)]
    all: bool,
}

impl From<Meant> for Selection {
    fn from(meant: Meant) -> Selection {
        match meant.ids.is_empty() {
            false => Selection::These(meant.ids),
            true => Selection::Wanted(Wanted {
                recipient_domain: meant.recipient_domain,
                ..Wanted::default()
            }),
        }
    }
}

#[derive(Subcommand)]
enum DestinationArguments {
    /// Destinations that mail goes to, those with the most first.
    List {
        /// How many at most.
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// All that is known of one: by its destination, a host of it, or its domain.
    Show { destination: String },
    /// Begin nothing more there, and keep what comes, until it is resumed; a restart is no end.
    Pause { destination: String },
    /// End a pause.
    Resume { destination: String },
}

impl From<DestinationArguments> for DestinationCommand {
    fn from(arguments: DestinationArguments) -> DestinationCommand {
        match arguments {
            DestinationArguments::List { limit } => DestinationCommand::List { limit },
            DestinationArguments::Show { destination } => DestinationCommand::Show { destination },
            DestinationArguments::Pause { destination } => {
                DestinationCommand::Pause { destination }
            }
            DestinationArguments::Resume { destination } => {
                DestinationCommand::Resume { destination }
            }
        }
    }
}

impl From<QueueArguments> for QueueCommand {
    fn from(arguments: QueueArguments) -> QueueCommand {
        match arguments {
            QueueArguments::Summary { limit } => QueueCommand::Summary { limit },
            QueueArguments::List { limit, after, filter } => {
                QueueCommand::List { limit, after, wanted: filter.into() }
            }
            QueueArguments::Hold(meant) => ordered(Operation::Hold, meant),
            QueueArguments::Release(meant) => ordered(Operation::Release, meant),
            QueueArguments::Retry(meant) => ordered(Operation::Retry, meant),
            QueueArguments::Reroute { meant, to: Way(to) } => {
                ordered(Operation::Reroute(to), meant)
            }
            QueueArguments::Bounce { ids } => QueueCommand::Operate {
                operation: Operation::Bounce,
                selection: Selection::These(ids),
            },
            QueueArguments::Show { id } => QueueCommand::Show { id },
            QueueArguments::Stats => QueueCommand::Stats,
            QueueArguments::Cat { id } => QueueCommand::Cat { id },
            QueueArguments::Delete { ids } => QueueCommand::Delete { ids },
        }
    }
}

fn ordered(operation: Operation, meant: Meant) -> QueueCommand {
    QueueCommand::Operate { operation, selection: meant.into() }
}

#[derive(Subcommand)]
enum RouteArguments {
    /// Tell which route decides on a recipient and why, and the next hop, destination and source.
    Test {
        /// The recipient's address.
        #[arg(value_name = "RCPT")]
        recipient: String,
        /// The envelope sender; without it the null sender.
        #[arg(long, value_name = "ADDRESS")]
        from: Option<String>,
        /// The listener that the mail comes in by.
        #[arg(long, value_name = "NAME")]
        listener: Option<String>,
        /// The tenant that the mail belongs to, as `network.tenant` names it.
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        /// Its campaign, as the header of `delivery.campaign_header` says.
        #[arg(long, value_name = "NAME")]
        campaign: Option<String>,
        /// A header of it, as 'X-Pool: gold'. May be given several times.
        #[arg(long = "header", value_name = "HEADER")]
        headers: Vec<String>,
        /// The config file.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Machine-readable output.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
enum ConfigPage {
    /// The manual of every key, as Markdown.
    Reference,
    /// A config file with every key at its default.
    Sample,
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    if !matches!(command, Command::Serve { .. }) {
        boot::signals::end_with_the_reader();
    }
    match command {
        Command::Serve { config } => with_config(config, |loaded| serve(loaded.into())),
        Command::Check { config } => with_config(config, |loaded| {
            for warning in &loaded.warnings {
                println!("warning: {warning}");
            }
            match ringpost::control::assemble::check(&loaded.config) {
                Ok(()) => println!("{}: all is well", loaded.name),
                Err(faults) => return told(&faults),
            }
            ExitCode::SUCCESS
        }),
        Command::Config { page } => {
            match page {
                ConfigPage::Reference => print!("{}", config::reference()),
                ConfigPage::Sample => print!("{}", config::sample()),
            }
            ExitCode::SUCCESS
        }
        Command::Queue { config, json, command } => {
            with_spool(config, |loaded| client::queue(&loaded.config, &command.into(), json))
        }
        Command::Route { command } => {
            let RouteArguments::Test {
                recipient,
                from,
                listener,
                tenant,
                campaign,
                headers,
                config,
                json,
            } = command;
            let asked = RouteTest { recipient, sender: from, listener, tenant, campaign, headers };
            with_config(config, |loaded| route::test(&loaded.config, &asked, json))
        }
        Command::Audit { config, json } => {
            with_spool(config, |loaded| client::audit(&loaded.config, json))
        }
        Command::Why { id, config, json } => {
            with_spool(config, |loaded| orders::why(&loaded.config, &id, json))
        }
        Command::Destination { config, json, command } => {
            with_spool(config, |loaded| orders::destination(&loaded.config, &command.into(), json))
        }
        Command::Doctor { config, json } => match load(config) {
            Ok(loaded) => doctor::doctor(&loaded.config, json),
            // 1 would be a warning.
            Err(_) => ExitCode::from(doctor::EXIT_ERROR),
        },
        Command::Topology { config, json } => {
            with_config(config, |loaded| doctor::topology(&loaded.config, json))
        }
        Command::Health { config } => with_spool(config, |loaded| client::health(&loaded.config)),
    }
}

/// A config that was read without faults.
struct Loaded {
    config: Config,
    warnings: Vec<config::Fault>,
    name: String,
    file: Option<PathBuf>,
    host: HostFacts,
}

impl From<Loaded> for ServeOptions {
    fn from(loaded: Loaded) -> ServeOptions {
        let warnings = loaded.warnings.iter().map(|warning| boot::Finding {
            level: boot::Level::Warn,
            what: warning.without_hint(),
            remedy: warning.hint.clone(),
        });
        ServeOptions {
            warnings: warnings.collect(),
            config: loaded.config,
            file: loaded.file,
            host: loaded.host,
        }
    }
}

/// As `with_config`, for a command that looks into the spool: as its owner where root runs it.
fn with_spool(file: Option<PathBuf>, act: impl FnOnce(Loaded) -> ExitCode) -> ExitCode {
    with_config(file, |loaded| match boot::privileges::act_as_owner(&loaded.config.server.spool) {
        Ok(()) => act(loaded),
        Err(fault) => told(&[fault]),
    })
}

fn with_config(file: Option<PathBuf>, act: impl FnOnce(Loaded) -> ExitCode) -> ExitCode {
    load(file).map_or_else(|failed| failed, act)
}

/// Reads a config file, or tells all that is wrong with it.
fn load(file: Option<PathBuf>) -> Result<Loaded, ExitCode> {
    let root = Path::new("/");
    let host = HostFacts { hostname: Hostname::read(root).name, ports_from: ports_from(root) };
    let Some(path) = file else {
        let config = config::embedded(&host);
        let name = "the embedded default".to_owned();
        return Ok(Loaded { config, warnings: Vec::new(), name, file: None, host });
    };
    let name = path.display().to_string();
    let text =
        std::fs::read_to_string(&path).map_err(|cause| told(&[format!("{name}: {cause}")]))?;
    let config::Loaded { config, warnings } =
        config::load(&text, &name, &host).map_err(|faults| told(&faults))?;
    Ok(Loaded { config, warnings, name, file: Some(path), host })
}

fn told(faults: &[impl std::fmt::Display]) -> ExitCode {
    for fault in faults {
        eprintln!("ringpost: {fault}");
    }
    ExitCode::FAILURE
}
