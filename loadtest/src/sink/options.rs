//! The command line of the sink: common flags of Postfix's smtp-sink with the same meaning, and our own.

use std::fs;
use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use clap::Args;
use ringpost::net;
use ringpost::net::ClientCertificates;
use ringpost::net::MinVersion;
use ringpost::net::TlsServer;
use ringpost::net::TlsSettings;

use crate::ledger::LEDGER_BYTES_MAX;
use crate::report::Live;
use crate::report::Outputs;
use crate::sink::behaviour::Behaviours;
use crate::sink::behaviour_file;
use crate::sink::place;
use crate::sink::place::Family;
use crate::sink::settings::Settings;

/// Connections that the kernel queues by default.
const BACKLOG: u32 = 1024;
const SECONDS_MAX: f64 = 1e6;
const SOFT_REPLY: &str = "450 4.3.0 Error: command failed";
const HARD_REPLY: &str = "500 5.3.0 Error: command failed";

/// Flags of one letter are those of smtp-sink(1).
#[derive(Args, Clone, Debug)]
#[command(disable_help_flag = true)]
pub struct Options {
    /// Listen on IPv4 only.
    #[arg(short = '4', conflicts_with = "ipv6")]
    pub ipv4: bool,
    /// Listen on IPv6 only.
    #[arg(short = '6')]
    pub ipv6: bool,
    /// Do not announce 8BITMIME.
    #[arg(short = '8')]
    pub no_8bitmime: bool,
    /// Do not announce AUTH.
    #[arg(short = 'a')]
    pub no_auth: bool,
    /// Show running counters.
    #[arg(short = 'c')]
    pub counter: bool,
    /// Do not announce ESMTP.
    #[arg(short = 'e')]
    pub no_esmtp: bool,
    /// Reject these commands with 500: connect, ehlo, mail, rcpt, data, and `.` for the end of a
    /// body, separated by commas.
    #[arg(short = 'f', value_name = "COMMANDS", value_delimiter = ',')]
    pub hard: Vec<String>,
    /// The name in the greeting.
    #[arg(short = 'h', value_name = "NAME", default_value = "smtp-sink")]
    pub hostname: String,
    /// Speak LMTP.
    #[arg(short = 'L')]
    pub lmtp: bool,
    /// Maximum number of simultaneous connections; the kernel queues the others.
    #[arg(short = 'm', value_name = "COUNT", default_value_t = 20_000)]
    pub connections: usize,
    /// Stop after this number of messages.
    #[arg(short = 'M', value_name = "COUNT")]
    pub messages: Option<u64>,
    /// Stop after this number of sessions.
    #[arg(short = 'n', value_name = "COUNT")]
    pub sessions: Option<u64>,
    /// Do not announce PIPELINING.
    #[arg(short = 'p')]
    pub no_pipelining: bool,
    /// Disconnect without a reply at these commands.
    #[arg(short = 'q', value_name = "COMMANDS", value_delimiter = ',')]
    pub drop: Vec<String>,
    /// Reject these commands with 450.
    #[arg(short = 'r', value_name = "COMMANDS", value_delimiter = ',')]
    pub soft: Vec<String>,
    /// Timeout for reading a command and for writing a reply.
    #[arg(short = 't', value_name = "SECONDS", default_value_t = 100.0)]
    pub timeout: f64,
    /// Print the SMTP dialogue on standard error.
    #[arg(short = 'v')]
    pub verbose: bool,
    /// Delay the reply to DATA.
    #[arg(short = 'w', value_name = "SECONDS")]
    pub data_wait: Option<f64>,

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
    /// Delay, refuse and limit mail by domain as this TOML file says; see `loadtest/behaviours`.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["hard", "soft", "drop", "data_wait"])]
    pub behaviour: Option<PathBuf>,
    /// Seed of the random numbers of behaviours.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
    /// Number of threads.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub cores: usize,
    /// Write the messages received to this file, for `ringpost-load ledger`.
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<PathBuf>,
    /// Maximum memory of each thread's ledger.
    #[arg(long, value_name = "BYTES", default_value_t = LEDGER_BYTES_MAX)]
    pub ledger_bytes: usize,
    #[command(flatten)]
    pub outputs: Outputs,
    /// Stop at the end of standard input; `compare` uses this.
    #[arg(long, hide = true)]
    pub with_input: bool,
    /// Print help.
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,

    /// [inet:][HOST]:PORT, where HOST may be a network (127.0.1.0/26) and PORT a range (2600-2699).
    /// Give one or more, then optionally the length of the kernel's queue.
    #[arg(value_name = "ADDRESS... [BACKLOG]", required = true)]
    pub places: Vec<String>,
}

impl Options {
    /// Checks the options and resolves addresses, certificates and files.
    pub fn settings(&self) -> Result<Settings, String> {
        self.check()?;
        let (places, backlog) = self.places_and_backlog()?;
        Ok(Settings {
            places,
            backlog,
            cores: self.cores,
            connections_max: self.connections,
            messages_max: self.messages,
            sessions_max: self.sessions,
            hostname: self.hostname.clone(),
            lmtp: self.lmtp,
            offers: self.offers(),
            tls: self.tls_server()?,
            tls_first: self.tls,
            timeout: Duration::from_secs_f64(self.timeout),
            verbose: self.verbose,
            behaviours: self.behaviours()?.map(Arc::new),
            seed: self.seed,
            ledger_bytes_max: self.ledger_bytes,
            live: if self.counter { Live::Never } else { self.outputs.live() },
        })
    }

    /// Checks before the run that the file of --ledger can be written.
    pub fn check_ledger(&self) -> Result<(), String> {
        let Some(path) = &self.ledger else { return Ok(()) };
        let opened = OpenOptions::new().create(true).append(true).open(path);
        opened.map(drop).map_err(|cause| format!("--ledger: {}: {cause}", path.display()))
    }

    fn check(&self) -> Result<(), String> {
        let bad = |why: &str| Err(why.to_owned());
        match self {
            _ if self.cores == 0 => bad("--cores: must be at least 1"),
            _ if self.connections == 0 => bad("-m: must be at least 1"),
            _ if self.messages == Some(0) => bad("-M: must be at least 1"),
            _ if self.sessions == Some(0) => bad("-n: must be at least 1"),
            _ if self.hostname.contains(['\r', '\n']) => bad("-h: a name is one line"),
            _ if !(self.timeout > 0.0 && self.timeout <= SECONDS_MAX) => {
                bad("-t: must be more than 0 and at most 1000000 seconds")
            }
            _ => Ok(()),
        }
    }

    fn places_and_backlog(&self) -> Result<(Vec<SocketAddr>, u32), String> {
        let family = match (self.ipv4, self.ipv6) {
            (true, _) => Family::V4,
            (_, true) => Family::V6,
            _ => Family::Any,
        };
        let last = self.places.last().and_then(|last| last.parse().ok());
        let words = &self.places[..self.places.len() - usize::from(last.is_some())];
        if words.is_empty() {
            return Err("no address to listen on; give one before the backlog".into());
        }
        Ok((place::read(words, family)?, last.unwrap_or(BACKLOG)))
    }

    /// From the file of --behaviour, or from -f, -q, -r and -w, which are short for one.
    fn behaviours(&self) -> Result<Option<Behaviours>, String> {
        if let Some(path) = &self.behaviour {
            let text = fs::read_to_string(path);
            let text = text.map_err(|cause| format!("{}: {cause}", path.display()))?;
            let read = behaviour_file::read(&text);
            return read.map(Some).map_err(|why| format!("{}: {why}", path.display()));
        }
        let (mut replies, mut drops) = (String::new(), String::new());
        let of_replies = [("-r", &self.soft, SOFT_REPLY), ("-f", &self.hard, HARD_REPLY)];
        for (flag, commands, text) in of_replies {
            for command in commands {
                let at = moment(flag, command)?;
                replies += &format!("{{ at = \"{at}\", rate = 1.0, text = \"{text}\" }},");
            }
        }
        for command in &self.drop {
            drops += &format!("{{ at = \"{}\", rate = 1.0 }},", moment("-q", command)?);
        }
        let mut text = format!("[default]\nreply = [{replies}]\ndrop = [{drops}]\n");
        if let Some(seconds) = self.data_wait {
            text += &format!("delay = [{{ at = \"data\", ms = {:.1} }}]\n", seconds * 1000.0);
        } else if replies.is_empty() && drops.is_empty() {
            return Ok(None);
        }
        behaviour_file::read(&text).map(Some).map_err(|why| format!("-f, -q, -r, -w: {why}"))
    }

    /// The keywords of EHLO, without STARTTLS; `None` if EHLO is unknown.
    fn offers(&self) -> Option<Vec<&'static str>> {
        let all = [
            (!self.no_pipelining, "PIPELINING"),
            (!self.no_8bitmime, "8BITMIME"),
            (!self.no_chunking, "CHUNKING"),
            (true, "SMTPUTF8"),
            (true, "ENHANCEDSTATUSCODES"),
            (true, "DSN"),
            (!self.no_auth, "AUTH PLAIN LOGIN"),
        ];
        let words = all.into_iter().filter(|(offered, _)| *offered).map(|(_, word)| word);
        (!self.no_esmtp).then(|| words.collect())
    }

    fn tls_server(&self) -> Result<Option<Arc<TlsServer>>, String> {
        if !self.tls && !self.starttls {
            return Ok(None);
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now_ms = now.map_or(0, |since| since.as_millis() as u64);
        if let (Some(certificate), Some(key)) = (&self.certificate, &self.key) {
            return build_tls(certificate.clone(), key.clone(), now_ms).map(Some);
        }
        let folder = std::env::temp_dir().join(format!("ringpost-load-{}", std::process::id()));
        let made = net::self_signed(&self.hostname, &folder, now_ms);
        let made = made.map_err(|problem| format!("making a certificate: {problem}"))?;
        let built = build_tls(made.certificate, made.key, now_ms);
        // The files have been read. One that cannot be removed stays in the temporary folder.
        let _ = fs::remove_dir_all(&folder);
        built.map(Some)
    }
}

/// The moment of a behaviour file for a command of smtp-sink.
fn moment(flag: &str, command: &str) -> Result<&'static str, String> {
    Ok(match command.to_ascii_lowercase().as_str() {
        "connect" => "connect",
        "helo" | "ehlo" | "lhlo" => "ehlo",
        "mail" => "mail",
        "rcpt" => "rcpt",
        "data" => "data",
        "." => "end",
        _ => {
            return Err(format!(
                "{flag}: unknown command `{command}`; use connect, ehlo, mail, rcpt, data or ."
            ));
        }
    })
}

fn build_tls(certificate: PathBuf, key: PathBuf, now_ms: u64) -> Result<Arc<TlsServer>, String> {
    let settings = TlsSettings {
        certificates: vec![(certificate, key)],
        min_version: MinVersion::Tls12,
        tickets: true,
        client_certificates: ClientCertificates::None,
        client_ca: None,
    };
    TlsServer::build(&settings, now_ms).map_err(|problems| format!("TLS: {problems}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use crate::sink::behaviour::Action;
    use crate::sink::behaviour::Moment;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn settings(words: &str) -> Result<Settings, String> {
        Line::parse_from(std::iter::once("sink").chain(words.split(' '))).options.settings()
    }

    #[test]
    fn common_flags_of_smtp_sink_are_accepted() {
        let all = settings(
            "-4 -c -8 -a -f RCPT -r mail,DATA -q . -w 2 -h here -t 5 -m 7 -M 8 -n 9 -v -L \
             127.0.0.1:2525 127.0.0.1:26-27 33",
        );
        let all = all.expect("all flags are valid");
        let places: Vec<String> = all.places.iter().map(ToString::to_string).collect();
        assert_eq!(places, ["127.0.0.1:26", "127.0.0.1:27", "127.0.0.1:2525"]);
        assert_eq!((all.backlog, all.connections_max), (33, 7));
        assert_eq!((all.messages_max, all.sessions_max), (Some(8), Some(9)));
        let behaviours = all.behaviours.expect("flags make one");
        let own = behaviours.get(behaviours.find(b"any.test").expect("the default"));
        let action = |moment| own.action(moment, &mut Random::new(1));
        assert_eq!(action(Moment::Rcpt), Action::Reply(b"500 5.3.0 Error: command failed\r\n"));
        assert_eq!(action(Moment::Data), Action::Reply(b"450 4.3.0 Error: command failed\r\n"));
        assert_eq!((action(Moment::End), action(Moment::Ehlo)), (Action::Drop, Action::Proceed));
        let delay = own.delay(Moment::Data, &mut Random::new(1));
        assert_eq!(delay, Duration::from_secs(2));
        let plain = settings("-e 127.0.0.1:25").expect("the flag is valid");
        assert_eq!((plain.offers, plain.backlog), (None, BACKLOG));
        assert!(plain.behaviours.is_none());
    }

    #[test]
    fn invalid_options_are_refused_with_the_reason() {
        for (words, told) in [
            ("unix:/a", "Unix"),
            ("100", "no address"),
            ("-f MIAL :25", "MIAL"),
            ("-w=-1 :25", "-w"),
            ("-t 0 :25", "-t"),
            ("--behaviour no-such-file.toml :25", "no-such-file.toml"),
        ] {
            let why = settings(words).err().unwrap_or_else(|| panic!("{words}"));
            assert!(why.contains(told), "{why}");
        }
    }
}
