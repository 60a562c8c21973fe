//! The command line of the sink: common flags of Postfix's smtp-sink with the same meaning, and our own.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use clap::value_parser;
use ringpost::base::clock;
use ringpost::net;
use ringpost::net::ClientCertificates;
use ringpost::net::TlsServer;
use ringpost::net::TlsSettings;
use ringpost::net::TlsVersion;

use crate::flags;
use crate::report::Outputs;
use crate::sink::behaviour::Behaviour;
use crate::sink::behaviour::Behaviours;
use crate::sink::behaviour::Moment;
use crate::sink::behaviour::Spread;
use crate::sink::behaviour_file;
use crate::sink::place;

/// Connections that the kernel queues by default.
const BACKLOG: u32 = 1024;
const SOFT_REPLY: &[u8] = b"450 4.3.0 Error: command failed\r\n";
const HARD_REPLY: &[u8] = b"500 5.3.0 Error: command failed\r\n";

/// Flags of one letter are those of smtp-sink(1).
#[derive(Args, Clone, Debug)]
#[command(disable_help_flag = true)]
pub struct Options {
    /// Reject these commands with 500: connect, ehlo, mail, rcpt, data, and `.` for the end of a
    /// body, separated by commas.
    #[arg(
        short = 'f',
        value_name = "COMMANDS",
        value_delimiter = ',',
        ignore_case = true,
        hide_possible_values = true
    )]
    pub hard: Vec<Moment>,
    /// The name in the greeting.
    #[arg(short = 'h', value_name = "NAME", default_value = "smtp-sink",
          value_parser = flags::read_line)]
    pub hostname: String,
    /// Speak LMTP.
    #[arg(short = 'L')]
    pub lmtp: bool,
    /// Maximum number of simultaneous connections; the kernel queues the others.
    #[arg(short = 'm', value_name = "COUNT", default_value_t = 20_000,
          value_parser = flags::count::<usize>())]
    pub connections: usize,
    /// Stop after this number of messages.
    #[arg(short = 'M', value_name = "COUNT", value_parser = value_parser!(u64).range(1..))]
    pub messages: Option<u64>,
    /// Do not announce PIPELINING.
    #[arg(short = 'p')]
    pub no_pipelining: bool,
    /// Disconnect without a reply at these commands.
    #[arg(
        short = 'q',
        value_name = "COMMANDS",
        value_delimiter = ',',
        ignore_case = true,
        hide_possible_values = true
    )]
    pub drop: Vec<Moment>,
    /// Reject these commands with 450.
    #[arg(
        short = 'r',
        value_name = "COMMANDS",
        value_delimiter = ',',
        ignore_case = true,
        hide_possible_values = true
    )]
    pub soft: Vec<Moment>,
    /// Timeout for reading a command and for writing a reply.
    #[arg(short = 't', value_name = "TIME", default_value = "100s", value_parser = flags::read_time)]
    pub timeout: Duration,
    /// Print the SMTP dialogue on standard error.
    #[arg(short = 'v')]
    pub verbose: bool,
    /// Delay the reply to DATA.
    #[arg(short = 'w', value_name = "TIME", value_parser = flags::read_time)]
    pub data_wait: Option<Duration>,

    /// Offer STARTTLS.
    #[arg(long)]
    pub starttls: bool,
    /// Start TLS at once, as on port 465.
    #[arg(long, conflicts_with = "starttls")]
    pub tls: bool,
    /// The certificate chain (PEM). Default: a self-signed certificate made for this run.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub certificate: Option<PathBuf>,
    /// The private key (PEM).
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub key: Option<PathBuf>,
    /// Do not announce CHUNKING.
    #[arg(long)]
    pub no_chunking: bool,
    /// Delay, refuse and limit mail by domain as this TOML file says; see `loadtest/behaviours`, whose
    /// file is built in as `providers`.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["hard", "soft", "drop", "data_wait"])]
    pub behaviour: Option<String>,
    /// Seed of the random numbers of behaviours.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
    /// Number of threads.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = flags::count::<usize>())]
    pub cores: usize,
    /// Write the messages received to this file, for `ringpost-load ledger`.
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<PathBuf>,
    #[command(flatten)]
    pub outputs: Outputs,
    /// Print help.
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,

    /// [inet:][HOST]:PORT, where HOST may be a network (127.0.1.0/26). Give one or more, then
    /// optionally the length of the kernel's queue.
    #[arg(value_name = "ADDRESS... [BACKLOG]", required = true)]
    pub places: Vec<String>,
}

/// The options of a sink with everything that they name.
#[derive(Debug)]
pub struct Settings {
    pub options: Options,
    pub places: Vec<SocketAddr>,
    pub backlog: u32,
    pub tls: Option<Arc<TlsServer>>,
    pub behaviours: Option<Behaviours>,
    /// Whether to show each second on stderr.
    pub live: bool,
}

impl Options {
    /// Resolves addresses, certificates and files.
    pub fn settings(&self) -> Result<Settings, String> {
        let backlog = self.places.last().and_then(|last| last.parse().ok());
        let words = &self.places[..self.places.len() - usize::from(backlog.is_some())];
        if words.is_empty() {
            return Err("no address to listen on; give one before the backlog".into());
        }
        Ok(Settings {
            places: place::read(words)?,
            backlog: backlog.unwrap_or(BACKLOG),
            tls: self.tls_server()?,
            behaviours: match &self.behaviour {
                Some(file) => Some(behaviour_file::find(file)?),
                None => self.short_behaviours(),
            },
            live: self.outputs.live(),
            options: self.clone(),
        })
    }

    /// The behaviour for which -f, -q, -r and -w are short.
    fn short_behaviours(&self) -> Option<Behaviours> {
        let mut own = Behaviour::default();
        for (moments, reply) in [(&self.soft, SOFT_REPLY), (&self.hard, HARD_REPLY)] {
            own.replies.extend(moments.iter().map(|at| (*at, 1.0, reply.into())));
        }
        own.drops.extend(self.drop.iter().map(|at| (*at, 1.0)));
        let wait = self.data_wait.map(|wait| Spread::Constant(wait.as_secs_f64() * 1000.0));
        own.delays.extend(wait.map(|wait| (Moment::Data, wait)));
        let is_used = own.replies.len() + own.drops.len() + own.delays.len() > 0;
        is_used.then(|| Behaviours { all: vec![own], default: Some(0), ..Behaviours::default() })
    }

    fn tls_server(&self) -> Result<Option<Arc<TlsServer>>, String> {
        if !self.tls && !self.starttls {
            return Ok(None);
        }
        if let (Some(certificate), Some(key)) = (&self.certificate, &self.key) {
            return build_tls(certificate.clone(), key.clone()).map(Some);
        }
        let folder = std::env::temp_dir().join(format!("ringpost-load-{}", std::process::id()));
        let made = net::self_signed(&self.hostname, &folder, clock::wall_ms());
        let made = made.map_err(|problem| format!("making a certificate: {problem}"))?;
        let built = build_tls(made.certificate, made.key);
        // The files have been read. One that cannot be removed stays in the temporary folder.
        let _ = fs::remove_dir_all(&folder);
        built.map(Some)
    }
}

fn build_tls(certificate: PathBuf, key: PathBuf) -> Result<Arc<TlsServer>, String> {
    let settings = TlsSettings {
        certificates: vec![(certificate, key)],
        min_version: TlsVersion::Tls12,
        tickets: true,
        client_certificates: ClientCertificates::None,
        client_ca: None,
    };
    TlsServer::build(&settings, clock::wall_ms()).map_err(|problems| format!("TLS: {problems}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use crate::sink::behaviour::Action;

    fn settings(words: &str) -> Result<Settings, String> {
        flags::parse_text::<Options>(words).and_then(|options| options.settings())
    }

    #[test]
    fn common_flags_of_smtp_sink_are_accepted() {
        let all = settings(
            "-c -f RCPT -r mail,DATA -q . -w 2 -h here -t 5 -m 7 -M 8 -v -L 127.0.0.1:2525 \
             127.0.0.1:26 33",
        );
        let all = all.expect("all flags are valid");
        let places: Vec<String> = all.places.iter().map(ToString::to_string).collect();
        assert_eq!(places, ["127.0.0.1:26", "127.0.0.1:2525"]);
        assert_eq!((all.backlog, all.options.connections, all.options.messages), (33, 7, Some(8)));
        let behaviours = all.behaviours.expect("flags make one");
        let own = behaviours.get(behaviours.find(b"any.test").expect("the default"));
        let action = |moment| own.action(moment, &mut Random::new(1));
        assert_eq!(action(Moment::Rcpt), Action::Reply(HARD_REPLY));
        assert_eq!(action(Moment::Data), Action::Reply(SOFT_REPLY));
        assert_eq!((action(Moment::End), action(Moment::Ehlo)), (Action::Drop, Action::Proceed));
        let delay = own.delay(Moment::Data, &mut Random::new(1));
        assert_eq!(delay, Duration::from_secs(2));
        let plain = settings("127.0.0.1:25").expect("an address");
        assert!(plain.behaviours.is_none() && plain.backlog == BACKLOG);
    }

    #[test]
    fn invalid_options_are_refused_with_the_reason() {
        for (words, told) in [
            ("unix:/a", "Unix"),
            ("100", "no address"),
            ("-f MIAL :25", "MIAL"),
            ("-t 0 :25", "-t"),
            ("--behaviour no-such-file.toml :25", "no-such-file.toml"),
        ] {
            let why = settings(words).err().unwrap_or_else(|| panic!("{words}"));
            assert!(why.contains(told), "{why}");
        }
    }
}
