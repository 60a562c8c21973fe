//! The command line of the source: common flags of Postfix's smtp-source with the same meaning, and our
//! own.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use ringpost::boot::host::Needs;
use ringpost::boot::hostname;

use crate::report::Outputs;
use crate::source::content::ContentOptions;
use crate::source::place::Place;
use crate::source::schedule::MESSAGES_MAX;
use crate::source::secure::SecureOptions;
use crate::source::shape::RATE_MAX;
use crate::source::shape::ShapeOptions;

/// The number of ports of one address.
const SESSIONS_MAX: usize = 1 << 16;
/// File descriptors for rings, files and streams.
const OTHER_FILES: u64 = 256;

/// Flags of one letter are those of smtp-source(1).
#[derive(Args, Clone, Debug)]
#[command(disable_help_flag = true)]
pub struct Options {
    /// Use IPv4 only.
    #[arg(short = '4', conflicts_with = "ipv6")]
    pub ipv4: bool,
    /// Use IPv6 only.
    #[arg(short = '6')]
    pub ipv6: bool,
    /// Continue after a refused message; it is counted.
    #[arg(short = 'A')]
    pub go_on: bool,
    /// Show the number of messages sent.
    #[arg(short = 'c')]
    pub counter: bool,
    /// Number of connection attempts.
    #[arg(short = 'C', value_name = "COUNT", default_value_t = 1)]
    pub connects: u32,
    /// Reuse the connection for the next message.
    #[arg(short = 'd')]
    pub keep: bool,
    /// The sender. Default: foo@ and the name of -M.
    #[arg(short = 'f', value_name = "FROM")]
    pub from: Option<String>,
    /// Send the header and body of this file.
    #[arg(short = 'F', value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Size of the body.
    #[arg(short = 'l', value_name = "BYTES", default_value_t = 80)]
    pub length: usize,
    /// Speak LMTP.
    #[arg(short = 'L')]
    pub lmtp: bool,
    /// Number of messages. Default: 1, or unlimited with --duration, --ramp or --steps.
    #[arg(short = 'm', value_name = "COUNT")]
    pub messages: Option<u64>,
    /// The name in EHLO and in default addresses. Default: the name of this machine.
    #[arg(short = 'M', value_name = "NAME")]
    pub hostname: Option<String>,
    /// Prepend a number to each recipient.
    #[arg(short = 'N')]
    pub number: bool,
    /// Recipients per message; several recipients are numbered.
    #[arg(short = 'r', value_name = "COUNT", default_value_t = 1)]
    pub recipients: usize,
    /// Wait a random time up to this between messages.
    #[arg(short = 'R', value_name = "SECONDS")]
    pub random_wait: Option<f64>,
    /// Number of simultaneous connections.
    #[arg(short = 's', value_name = "COUNT", default_value_t = 1)]
    pub sessions: usize,
    /// The subject.
    #[arg(short = 'S', value_name = "TEXT")]
    pub subject: Option<String>,
    /// The recipient. Default: foo@ and the name of -M.
    #[arg(short = 't', value_name = "TO")]
    pub to: Option<String>,
    /// Log each connection and each message.
    #[arg(short = 'v')]
    pub verbose: bool,
    /// Wait this long between messages.
    #[arg(short = 'w', value_name = "SECONDS", conflicts_with = "random_wait")]
    pub wait: Option<f64>,

    /// Send at this rate, however fast the server answers. Latencies count from the time at which a
    /// message was due.
    #[arg(long, value_name = "PER-SECOND")]
    pub rate: Option<f64>,
    /// Use this number of recipient domains in turn: `-t a@b.test` with 2 means a@0.b.test and
    /// a@1.b.test.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub domains: u64,
    /// Number of threads.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub cores: usize,
    /// Do not pipeline commands.
    #[arg(long)]
    pub no_pipelining: bool,
    /// Send bodies with DATA even if the server offers BDAT.
    #[arg(long)]
    pub no_chunking: bool,
    #[command(flatten)]
    pub outputs: Outputs,
    #[command(flatten)]
    pub shape: ShapeOptions,
    #[command(flatten)]
    pub content: ContentOptions,
    #[command(flatten)]
    pub secure: SecureOptions,
    /// Write the fate of each message to this file, for `ringpost-load ledger`.
    #[arg(long, value_name = "FILE")]
    pub sent: Option<PathBuf>,
    /// Print help.
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,

    /// [inet:]host[:port] or unix:path. The default port is 25.
    #[arg(value_name = "SERVER")]
    pub server: String,
}

impl Options {
    /// The address of the server.
    pub fn place(&self) -> Result<Place, String> {
        Place::find(&self.server, |address| match address {
            SocketAddr::V4(_) => !self.ipv6,
            SocketAddr::V6(_) => !self.ipv4,
        })
    }

    /// With default names filled in.
    pub fn complete(mut self) -> Options {
        let name = self.hostname.take().unwrap_or_else(|| hostname::read(Path::new("/")));
        let own = || Some(format!("foo@{name}"));
        self.from = self.from.or_else(own);
        self.to = self.to.or_else(own);
        self.hostname = Some(name);
        self
    }

    pub fn from(&self) -> &str {
        self.from.as_deref().unwrap_or_default()
    }

    pub fn to(&self) -> &str {
        self.to.as_deref().unwrap_or_default()
    }

    /// The number of messages that ends the run, if a number does.
    pub fn count(&self) -> Option<u64> {
        let shape = &self.shape;
        let is_timed = shape.duration.is_some() || shape.ramp.is_some() || shape.steps.is_some();
        self.messages.or((!is_timed).then_some(1))
    }

    /// Checks the options.
    pub fn check(&self) -> Result<(), String> {
        let bad = |flag: &str, why: &str| Err(format!("{flag}: {why}"));
        match self {
            _ if self.sessions == 0 => bad("-s", "must be at least 1"),
            _ if self.sessions > SESSIONS_MAX => {
                bad("-s", "the maximum is 65536; use several sources for more")
            }
            _ if self.recipients == 0 => bad("-r", "must be at least 1"),
            _ if self.connects == 0 => bad("-C", "must be at least 1"),
            _ if self.cores == 0 => bad("--cores", "must be at least 1"),
            _ if self.domains == 0 => bad("--domains", "must be at least 1"),
            _ if self.messages.is_some_and(|count| count > MESSAGES_MAX) => {
                bad("-m", "the maximum is 4294967296; use several runs for more")
            }
            _ if !self.hostname.as_deref().is_none_or(is_word) => {
                bad("-M", "the name is not valid")
            }
            _ if self.shape.poisson && !self.is_open() => {
                bad("--poisson", "needs --rate, --ramp or --steps")
            }
            _ if self.rate.is_some_and(|rate| !(rate > 0.0 && rate <= RATE_MAX)) => {
                bad("--rate", "must be more than 0 and at most 1e9")
            }
            _ if !is_address(self.from.as_deref()) || !is_address(self.to.as_deref()) => {
                bad("-f, -t", "an address must not contain spaces, < or >")
            }
            _ if [self.wait, self.random_wait]
                .iter()
                .flatten()
                .any(|one| !(0.0..=1e6).contains(one)) =>
            {
                bad("-w, -R", "must be from 0 to 1000000 seconds")
            }
            _ if self.domains > 1 && !self.to.as_deref().unwrap_or("@").contains('@') => {
                bad("--domains", "the recipient (-t) has no domain")
            }
            _ if self.domains > 1 && self.content.to_domains.is_some() => {
                bad("--domains", "cannot be used with --to-domains")
            }
            _ => self.secure.check(),
        }
    }

    /// Checks before the run that the file of --sent can be written.
    pub fn check_sent(&self) -> Result<(), String> {
        let Some(path) = &self.sent else { return Ok(()) };
        let opened = OpenOptions::new().create(true).append(true).open(path);
        opened.map(drop).map_err(|cause| format!("--sent: {}: {cause}", path.display()))
    }

    /// The resources that all sessions need.
    pub fn needs(&self) -> Needs {
        Needs {
            shards: self.cores.min(self.sessions) as u64,
            open_files: self.sessions as u64 + OTHER_FILES,
            backlog: 0,
            becomes_user: false,
        }
    }

    /// Whether messages have a schedule.
    fn is_open(&self) -> bool {
        self.rate.is_some() || self.shape.ramp.is_some() || self.shape.steps.is_some()
    }
}

/// Whether the text can be between the <> of an envelope. `<>` is the null sender.
fn is_address(text: Option<&str>) -> bool {
    let Some(text) = text.filter(|text| *text != "<>") else { return true };
    // A quoted local part may contain spaces.
    let is_quoted = text.starts_with('"');
    let is_bad = |one: char| one.is_control() || "<>".contains(one) || one == ' ' && !is_quoted;
    !text.contains(is_bad)
}

/// Whether the text can be the name in EHLO.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(words: &str) -> Options {
        Line::parse_from(std::iter::once("source").chain(words.split(' '))).options
    }

    #[test]
    fn flags_of_smtp_source_are_accepted() {
        let all =
            options("-d -s 100 -m 40000 -l 4096 -f a@x.test -t b@y.test -c -N -r 3 127.0.0.1:2600");
        assert_eq!(
            (all.sessions, all.messages, all.length, all.recipients),
            (100, Some(40000), 4096, 3)
        );
        assert!(all.keep && all.counter && all.number);
        assert_eq!(all.check(), Ok(()));
        let more = options("-v -4 -A -C 3 unix:/run/x");
        assert!(more.verbose && more.go_on && more.connects == 3);
        assert_eq!(more.check(), Ok(()));
    }

    #[test]
    fn default_addresses_have_our_name() {
        let named = options("-M us.test h").complete();
        assert_eq!((named.from(), named.to()), ("foo@us.test", "foo@us.test"));
        let own = options("-f a@b.test h").complete();
        assert_eq!(own.from(), "a@b.test");
        assert!(own.to().starts_with("foo@") && own.to().len() > 4, "{}", own.to());
    }

    #[test]
    fn a_run_has_an_end() {
        for (words, expected) in [
            ("h", Some(1)),
            ("-m 7 h", Some(7)),
            ("--rate 5 h", Some(1)),
            ("--duration 5s h", None),
            ("--ramp 1..2:3s h", None),
            ("--steps 1x3s -m 2 h", Some(2)),
        ] {
            assert_eq!(options(words).count(), expected, "{words}");
        }
    }

    #[test]
    fn invalid_options_are_refused() {
        for bad in [
            "-s 0 h",
            "-s 65537 h",
            "-r 0 h",
            "-f a\tb h",
            "-f a\r\nRSET h",
            "-t <a@b> h",
            "--rate 0 h",
            "--rate 1e300 h",
            "--rate nan h",
            "-w -1 h",
            "--domains 2 -t x h",
            "--poisson h",
            "-m 4294967297 h",
            "--auth a:b h",
            "--to-domains x.test --domains 2 h",
        ] {
            let words = bad.replace("-w -1", "-w=-1");
            assert!(options(&words).check().is_err(), "{bad}");
        }
    }
}
