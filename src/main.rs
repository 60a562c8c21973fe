//! Arguments -> config -> `boot::run` -> exit code.

use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clap::Subcommand;
use ringpost::boot;
use ringpost::boot::Hostname;
use ringpost::boot::run::ServeOptions;
use ringpost::boot::run::serve;
use ringpost::config;
use ringpost::config::Config;
use ringpost::config::HostFacts;
use ringpost::control::client;
use ringpost::control::client::QueueCommand;

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
    /// Ask a running server whether it is well; exit code 0 when it is.
    Health {
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum QueueArguments {
    /// Messages, oldest first.
    List {
        /// How many at most.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Only those after this one: the last id of the page before.
        #[arg(long, value_name = "ID")]
        after: Option<String>,
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

impl From<QueueArguments> for QueueCommand {
    fn from(arguments: QueueArguments) -> QueueCommand {
        match arguments {
            QueueArguments::List { limit, after } => QueueCommand::List { limit, after },
            QueueArguments::Show { id } => QueueCommand::Show { id },
            QueueArguments::Stats => QueueCommand::Stats,
            QueueArguments::Cat { id } => QueueCommand::Cat { id },
            QueueArguments::Delete { ids } => QueueCommand::Delete { ids },
        }
    }
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
            with_config(config, |loaded| client::queue(&loaded.config, &command.into(), json))
        }
        Command::Health { config } => with_config(config, |loaded| client::health(&loaded.config)),
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
            what: warning.what.clone(),
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

fn with_config(file: Option<PathBuf>, act: impl FnOnce(Loaded) -> ExitCode) -> ExitCode {
    let host = HostFacts { hostname: Hostname::read(Path::new("/")).name };
    let Some(path) = file else {
        let config = config::embedded(&host);
        let name = "the embedded default".to_owned();
        return act(Loaded { config, warnings: Vec::new(), name, file: None, host });
    };
    let name = path.display().to_string();
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(cause) => return told(&[format!("{name}: {cause}")]),
    };
    match config::load(&text, &name, &host) {
        Ok(config::Loaded { config, warnings }) => {
            act(Loaded { config, warnings, name, file: Some(path), host })
        }
        Err(faults) => told(&faults),
    }
}

fn told(faults: &[impl std::fmt::Display]) -> ExitCode {
    for fault in faults {
        eprintln!("ringpost: {fault}");
    }
    ExitCode::FAILURE
}
