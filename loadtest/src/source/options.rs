//! What the source is told: the flags of Postfix's smtp-source with the same meaning, and ours.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use ringpost::boot::Hostname;
use ringpost::boot::host::Needs;

use crate::report::Outputs;
use crate::source::message::ContentOptions;
use crate::source::place::Place;
use crate::source::schedule::MESSAGES_MAX;
use crate::source::secure::SecureOptions;
use crate::source::shape::RATE_MAX;
use crate::source::shape::ShapeOptions;

/// Of kernel buffers, for -T.
const WINDOW_BYTES_MAX: usize = 1 << 30;
/// One address has no more ports to one server.
const SESSIONS_MAX: usize = 1 << 16;
/// Descriptors beside those of connections: rings, files, streams.
const OTHER_FILES: u64 = 256;

/// See smtp-source(1) for the flags of one letter.
#[derive(Args, Clone, Debug)]
#[command(disable_help_flag = true)]
pub struct Options {
    /// Connect by IPv4 only.
    #[arg(short = '4', conflicts_with = "ipv6")]
    pub ipv4: bool,
    /// Connect by IPv6 only.
    #[arg(short = '6')]
    pub ipv6: bool,
    /// Go on when a message is refused; it is counted.
    #[arg(short = 'A')]
    pub go_on: bool,
    /// Show how many messages were sent.
    #[arg(short = 'c')]
    pub counter: bool,
    /// Try so often to connect.
    #[arg(short = 'C', value_name = "COUNT", default_value_t = 1)]
    pub connects: u32,
    /// Send the next message over the same connection.
    #[arg(short = 'd')]
    pub keep: bool,
    /// The sender; foo@ and the name of -M if it is left out.
    #[arg(short = 'f', value_name = "FROM")]
    pub from: Option<String>,
    /// Send this file's header and body.
    #[arg(short = 'F', value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Bytes of the body.
    #[arg(short = 'l', value_name = "BYTES", default_value_t = 80)]
    pub length: usize,
    /// Speak LMTP.
    #[arg(short = 'L')]
    pub lmtp: bool,
    /// How many messages to send; one if neither this nor a time or shape says so.
    #[arg(short = 'm', value_name = "COUNT")]
    pub messages: Option<u64>,
    /// Who we say we are, here and in the default addresses; the name of this machine if it is left
    /// out.
    #[arg(short = 'M', value_name = "NAME")]
    pub hostname: Option<String>,
    /// Put a number before each recipient.
    #[arg(short = 'N')]
    pub number: bool,
    /// Say no EHLO and send no header, as very old clients do. Without its header a message cannot be
    /// accounted for by a sink.
    #[arg(short = 'o', conflicts_with_all = ["headers", "subject", "lmtp"])]
    pub old: bool,
    /// Recipients of each message; they are numbered if there are several.
    #[arg(short = 'r', value_name = "COUNT", default_value_t = 1)]
    pub recipients: usize,
    /// Wait up to so many seconds between messages, at random.
    #[arg(short = 'R', value_name = "SECONDS")]
    pub random_wait: Option<f64>,
    /// Connections at the same time.
    #[arg(short = 's', value_name = "COUNT", default_value_t = 1)]
    pub sessions: usize,
    /// The subject.
    #[arg(short = 'S', value_name = "TEXT")]
    pub subject: Option<String>,
    /// The recipient; foo@ and the name of -M if it is left out.
    #[arg(short = 't', value_name = "TO")]
    pub to: Option<String>,
    /// Bytes of the kernel's buffers for each connection, which bound the TCP window.
    #[arg(short = 'T', value_name = "BYTES")]
    pub window: Option<usize>,
    /// Tell of each connection and message as it ends.
    #[arg(short = 'v')]
    pub verbose: bool,
    /// Wait so many seconds between messages.
    #[arg(short = 'w', value_name = "SECONDS", conflicts_with = "random_wait")]
    pub wait: Option<f64>,

    /// Begin so many messages each second, however the server answers. Latencies are counted from
    /// when a message was to begin.
    #[arg(long, value_name = "PER-SECOND")]
    pub rate: Option<f64>,
    /// Recipients in so many domains by turns: `-t a@b.test` with 2 is a@0.b.test and a@1.b.test.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub domains: u64,
    /// Threads that send.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub cores: usize,
    /// Do not send commands together where the server allows it.
    #[arg(long)]
    pub no_pipelining: bool,
    /// Send bodies by DATA although the server offers BDAT.
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
    /// Write to this file what became of each message.
    #[arg(long, value_name = "FILE")]
    pub sent: Option<PathBuf>,
    /// Print this.
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,

    /// host[:port], also with `inet:` before it, or unix:path. The port is 25 if it is left out.
    #[arg(value_name = "SERVER")]
    pub server: String,
}

impl Options {
    /// Where to connect.
    pub fn place(&self) -> Result<Place, String> {
        Place::find(&self.server, |address| match address {
            SocketAddr::V4(_) => !self.ipv6,
            SocketAddr::V6(_) => !self.ipv4,
        })
    }

    /// With the names that were left out.
    pub fn complete(mut self) -> Options {
        let name = self.hostname.take().unwrap_or_else(|| Hostname::read(Path::new("/")).name);
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

    /// The count that ends the run, if a count does.
    pub fn count(&self) -> Option<u64> {
        let shape = &self.shape;
        let is_timed = shape.duration.is_some() || shape.ramp.is_some() || shape.steps.is_some();
        self.messages.or((!is_timed).then_some(1))
    }

    /// What is wrong with them, if anything is.
    pub fn check(&self) -> Result<(), String> {
        let bad = |flag: &str, why: &str| Err(format!("{flag}: {why}"));
        match self {
            _ if self.sessions == 0 => bad("-s", "without a connection nothing is sent"),
            _ if self.sessions > SESSIONS_MAX => {
                bad("-s", "65536 is the most; run several sources for more")
            }
            _ if self.recipients == 0 => bad("-r", "a message has at least one recipient"),
            _ if self.connects == 0 => bad("-C", "at least one try is needed"),
            _ if self.cores == 0 => bad("--cores", "at least one thread is needed"),
            _ if self.domains == 0 => bad("--domains", "at least one domain is needed"),
            _ if self.messages.is_some_and(|count| count > MESSAGES_MAX) => {
                bad("-m", "4294967296 is the most; use --duration and several runs")
            }
            _ if !self.hostname.as_deref().is_none_or(is_word) => bad("-M", "that is no name"),
            _ if self.window.is_some_and(|bytes| !(1..=WINDOW_BYTES_MAX).contains(&bytes)) => {
                bad("-T", "it must be more than 0 and at most 1 GiB")
            }
            _ if self.old && !self.secure.is_plain() => {
                bad("-o", "TLS and AUTH need EHLO, which is not said then")
            }
            _ if self.shape.poisson && !self.is_open() => {
                bad("--poisson", "it needs a --rate, a --ramp or --steps")
            }
            _ if self.rate.is_some_and(|rate| !(rate > 0.0 && rate <= RATE_MAX)) => {
                bad("--rate", "it must be more than 0 and at most 1e9")
            }
            _ if !is_address(self.from.as_deref()) || !is_address(self.to.as_deref()) => {
                bad("-f, -t", "that is no address: blanks and <> are around it and not in it")
            }
            _ if [self.wait, self.random_wait]
                .iter()
                .flatten()
                .any(|one| !(0.0..=1e6).contains(one)) =>
            {
                bad("-w, -R", "that is no time to wait")
            }
            _ if self.domains > 1 && !self.to.as_deref().unwrap_or("@").contains('@') => {
                bad("--domains", "the recipient (-t) has no domain")
            }
            _ if self.domains > 1 && self.content.to_domains.is_some() => {
                bad("--domains", "--to-domains names them already")
            }
            _ => self.secure.check(),
        }
    }

    /// Whether the file of --sent can be written, told before the run and not after it.
    pub fn check_sent(&self) -> Result<(), String> {
        let Some(path) = &self.sent else { return Ok(()) };
        let opened = OpenOptions::new().create(true).append(true).open(path);
        opened.map(drop).map_err(|cause| format!("--sent: {}: {cause}", path.display()))
    }

    /// What all sessions want of the machine.
    pub fn needs(&self) -> Needs {
        Needs {
            shards: self.cores.min(self.sessions) as u64,
            open_files: self.sessions as u64 + OTHER_FILES,
            backlog: 0,
            becomes_user: false,
        }
    }

    /// Whether messages begin at times of their own.
    fn is_open(&self) -> bool {
        self.rate.is_some() || self.shape.ramp.is_some() || self.shape.steps.is_some()
    }
}

/// What can stand between the <> of an envelope. `<>` itself is the sender of reports.
fn is_address(text: Option<&str>) -> bool {
    let Some(text) = text.filter(|text| *text != "<>") else { return true };
    // A quoted local part may have blanks in it.
    let is_quoted = text.starts_with('"');
    let is_bad = |one: char| one.is_control() || "<>".contains(one) || one == ' ' && !is_quoted;
    !text.contains(is_bad)
}

/// What EHLO can say.
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
    fn the_flags_of_smtp_source_are_taken() {
        let all =
            options("-d -s 100 -m 40000 -l 4096 -f a@x.test -t b@y.test -c -N -r 3 127.0.0.1:2600");
        assert_eq!(
            (all.sessions, all.messages, all.length, all.recipients),
            (100, Some(40000), 4096, 3)
        );
        assert!(all.keep && all.counter && all.number);
        assert_eq!(all.check(), Ok(()));
        let more = options("-o -T 4096 -v -4 -A -C 3 unix:/run/x");
        assert!(more.old && more.verbose && more.window == Some(4096) && more.connects == 3);
        assert_eq!(more.check(), Ok(()));
    }

    #[test]
    fn addresses_have_our_name_unless_told() {
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
    fn nonsense_is_told() {
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
            "-o --tls h",
            "-T 0 h",
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
