//! What the sink is told: the flags of Postfix's smtp-sink with the same meaning, and ours.

use std::collections::BTreeMap;
use std::fs;
use std::fs::OpenOptions;
use std::path::Path;
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
use crate::sink::Settings;
use crate::sink::behaviour::Behaviours;
use crate::sink::dump::Dump;
use crate::sink::place;
use crate::sink::place::Family;
use crate::sink::stage::Orders;
use crate::sink::stage::Refusal;
use crate::sink::stage::Stage;

/// Of smtp-sink's flags these are left to other programs.
const NO_CHROOT: &str = "-R: the sink does not change its root; start it by `chroot`";
const NO_USER: &str = "-u: the sink does not change its user; start it by `runuser -u USER`, and \
                       for ports below 1024 let the user have them (net.ipv4.ip_unprivileged_port_start)";
const SECONDS_MAX: f64 = 1e6;

/// See smtp-sink(1) for the flags of one letter.
#[derive(Args, Clone, Debug)]
#[command(disable_help_flag = true)]
pub struct Options {
    /// Listen by IPv4 only.
    #[arg(short = '4', conflicts_with = "ipv6")]
    pub ipv4: bool,
    /// Listen by IPv6 only.
    #[arg(short = '6')]
    pub ipv6: bool,
    /// Do not announce 8BITMIME.
    #[arg(short = '8')]
    pub no_8bitmime: bool,
    /// Do not announce AUTH.
    #[arg(short = 'a')]
    pub no_auth: bool,
    /// Wait so long after the answer to DATA, then end with 550 and read nothing more.
    #[arg(short = 'A', value_name = "SECONDS")]
    pub abort: Option<f64>,
    /// What is said to what -r refuses.
    #[arg(short = 'b', value_name = "REPLY", default_value = "450 4.3.0 Error: command failed")]
    pub soft_reply: String,
    /// What is said to what -f refuses.
    #[arg(short = 'B', value_name = "REPLY", default_value = "500 5.3.0 Error: command failed")]
    pub hard_reply: String,
    /// Show running counters.
    #[arg(short = 'c')]
    pub counter: bool,
    /// Do not announce XCLIENT.
    #[arg(short = 'C')]
    pub no_xclient: bool,
    /// Write each message to a file of its own: a strftime pattern, and a number behind it.
    #[arg(short = 'd', value_name = "TEMPLATE", conflicts_with = "dump_all")]
    pub dump_each: Option<String>,
    /// Append the messages to files: a strftime pattern.
    #[arg(short = 'D', value_name = "TEMPLATE")]
    pub dump_all: Option<String>,
    /// Do not announce ESMTP.
    #[arg(short = 'e')]
    pub no_esmtp: bool,
    /// Do not announce ENHANCEDSTATUSCODES.
    #[arg(short = 'E')]
    pub no_enhanced: bool,
    /// Refuse these commands for good (-B). This implies -p.
    #[arg(short = 'f', value_name = "COMMANDS")]
    pub hard: Vec<String>,
    /// Do not announce XFORWARD.
    #[arg(short = 'F')]
    pub no_xforward: bool,
    /// Who we say we are.
    #[arg(short = 'h', value_name = "NAME", default_value = "smtp-sink")]
    pub hostname: String,
    /// Wait so long before the first read of a body.
    #[arg(short = 'H', value_name = "SECONDS")]
    pub hold: Option<f64>,
    /// Speak LMTP.
    #[arg(short = 'L')]
    pub lmtp: bool,
    /// Connections at the same time; others wait in the kernel. smtp-sink has 256 where this is
    /// not given.
    #[arg(short = 'm', value_name = "COUNT", default_value_t = 20_000)]
    pub connections: usize,
    /// End after so many messages.
    #[arg(short = 'M', value_name = "COUNT")]
    pub messages: Option<u64>,
    /// End after so many sessions.
    #[arg(short = 'n', value_name = "COUNT")]
    pub sessions: Option<u64>,
    /// Do not announce DSN.
    #[arg(short = 'N')]
    pub no_dsn: bool,
    /// Do not announce PIPELINING.
    #[arg(short = 'p')]
    pub no_pipelining: bool,
    /// Greet as a Cisco PIX. This implies -e.
    #[arg(short = 'P')]
    pub pix: bool,
    /// End the connection without a word at these commands.
    #[arg(short = 'q', value_name = "COMMANDS")]
    pub drop: Vec<String>,
    /// End the connection with 421 at these commands.
    #[arg(short = 'Q', value_name = "COMMANDS")]
    pub leave: Vec<String>,
    /// Refuse these commands for now (-b). This implies -p.
    #[arg(short = 'r', value_name = "COMMANDS")]
    pub soft: Vec<String>,
    #[arg(short = 'R', value_name = "FOLDER", hide = true)]
    pub root: Option<String>,
    /// Log these commands, on standard error.
    #[arg(short = 's', value_name = "COMMANDS")]
    pub logged: Vec<String>,
    /// Put this before each message that -d or -D writes; C escapes are read.
    #[arg(short = 'S', value_name = "TEXT", default_value = "")]
    pub start: String,
    /// How long a command or an answer may take.
    #[arg(short = 't', value_name = "SECONDS", default_value_t = 100.0)]
    pub timeout: f64,
    /// Bytes of the receive buffer, and so the TCP window.
    #[arg(short = 'T', value_name = "BYTES")]
    pub window: Option<usize>,
    #[arg(short = 'u', value_name = "USER", hide = true)]
    pub user: Option<String>,
    /// Show the conversations, on standard error.
    #[arg(short = 'v', action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Wait so long before the answer to DATA.
    #[arg(short = 'w', value_name = "SECONDS")]
    pub data_wait: Option<f64>,
    /// Wait before the answer to a command; with odds, for a random multiple.
    #[arg(short = 'W', value_name = "COMMAND:SECONDS[:ODDS]")]
    pub waits: Vec<String>,

    /// Offer STARTTLS.
    #[arg(long)]
    pub starttls: bool,
    /// Speak TLS from the first byte.
    #[arg(long, conflicts_with = "starttls")]
    pub tls: bool,
    /// The certificates (PEM). One is made for the time of the run if none are given.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub certificate: Option<PathBuf>,
    /// Their key (PEM).
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub key: Option<PathBuf>,
    /// Do not announce CHUNKING.
    #[arg(long)]
    pub no_chunking: bool,
    /// Do not announce SMTPUTF8.
    #[arg(long)]
    pub no_smtputf8: bool,
    /// Treat domains as this TOML file says; see `loadtest/behaviours`.
    #[arg(long, value_name = "FILE")]
    pub behaviour: Option<PathBuf>,
    /// Begin all random with this.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
    /// Threads that serve.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub cores: usize,
    /// Write what came there, for `ringpost-load ledger`.
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<PathBuf>,
    /// Memory of the ledger of each thread.
    #[arg(long, value_name = "BYTES", default_value_t = LEDGER_BYTES_MAX)]
    pub ledger_bytes: usize,
    #[command(flatten)]
    pub outputs: Outputs,
    /// End when the standard input does; `compare` holds it.
    #[arg(long, hide = true)]
    pub with_input: bool,
    /// Print this.
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,

    /// [inet:][HOST]:PORT, where HOST may be a network (127.0.1.0/26) and PORT a range (2600-2699);
    /// several, and at last how many connections the kernel may keep waiting.
    #[arg(value_name = "PLACE... [BACKLOG]", required = true)]
    pub places: Vec<String>,
}

impl Options {
    /// What a sink is to be.
    pub fn settings(&self) -> Result<Settings, String> {
        self.check()?;
        let (places, backlog) = self.places_and_backlog()?;
        let behaviours = match &self.behaviour {
            Some(path) => Some(Arc::new(read_behaviours(path)?)),
            None => None,
        };
        let dump = Dump::new(self.dump_each.as_deref(), self.dump_all.as_deref(), &self.start)?;
        let seconds = Duration::from_secs_f64;
        Ok(Settings {
            places,
            backlog,
            cores: self.cores,
            connections_max: self.connections,
            messages_max: self.messages,
            sessions_max: self.sessions,
            window_bytes: self.window,
            hostname: self.hostname.clone(),
            greeting: self.greeting(),
            lmtp: self.lmtp,
            enhanced: !self.no_enhanced,
            offers: self.offers(),
            tls: self.tls_server()?,
            tls_first: self.tls,
            orders: self.orders()?,
            soft_reply: line(&self.soft_reply),
            hard_reply: line(&self.hard_reply),
            abort: self.abort.map(seconds),
            hold: self.hold.map(seconds),
            timeout: seconds(self.timeout),
            verbose: self.verbose > 0,
            behaviours,
            dump,
            seed: self.seed,
            ledger_bytes_max: self.ledger_bytes,
            live: if self.counter { Live::Never } else { self.outputs.live() },
        })
    }

    /// What a reader must know to run the same again.
    pub fn described(&self) -> BTreeMap<String, String> {
        let is_on = |on: bool| if on { "yes" } else { "no" };
        let refuses = [&self.soft, &self.hard, &self.leave, &self.drop].into_iter().flatten();
        let mut told = BTreeMap::from([
            ("places".to_owned(), self.places.join(" ")),
            ("cores".to_owned(), self.cores.to_string()),
            ("connections at once".to_owned(), self.connections.to_string()),
            ("protocol".to_owned(), if self.lmtp { "LMTP" } else { "SMTP" }.to_owned()),
            ("STARTTLS".to_owned(), is_on(self.starttls).to_owned()),
            ("TLS from the first byte".to_owned(), is_on(self.tls).to_owned()),
            ("chunking".to_owned(), is_on(!self.no_chunking).to_owned()),
            ("pipelining".to_owned(), is_on(!self.no_pipelining).to_owned()),
            ("refuses or drops at".to_owned(), refuses.cloned().collect::<Vec<_>>().join(" ")),
            ("waits".to_owned(), self.waits.join(" ")),
        ]);
        if let Some(file) = &self.behaviour {
            told.insert("behaviour".to_owned(), file.display().to_string());
        }
        told.retain(|_, value| !value.is_empty());
        told
    }

    /// Whether the file of --ledger can be written, told before the run and not after it.
    pub fn check_ledger(&self) -> Result<(), String> {
        let Some(path) = &self.ledger else { return Ok(()) };
        let opened = OpenOptions::new().create(true).append(true).open(path);
        opened.map(drop).map_err(|cause| format!("--ledger: {}: {cause}", path.display()))
    }

    fn check(&self) -> Result<(), String> {
        let bad = |why: &str| Err(why.to_owned());
        let seconds = [self.abort, self.hold, self.data_wait, Some(self.timeout)];
        match self {
            _ if self.root.is_some() => bad(NO_CHROOT),
            _ if self.user.is_some() => bad(NO_USER),
            _ if self.cores == 0 => bad("--cores: at least one thread is needed"),
            _ if self.connections == 0 => bad("-m: at least one connection is needed"),
            _ if self.messages == Some(0) => bad("-M: at least one message is needed"),
            _ if self.sessions == Some(0) => bad("-n: at least one session is needed"),
            _ if self.hostname.contains(['\r', '\n']) => bad("-h: a name is one line"),
            _ if self.timeout <= 0.0 => bad("-t: it must be more than 0"),
            _ if !seconds.iter().flatten().all(|one| (0.0..=SECONDS_MAX).contains(one)) => {
                bad("-A, -H, -t, -w: that is no time to wait")
            }
            _ => {
                check_reply("-b", &self.soft_reply, b'4')?;
                check_reply("-B", &self.hard_reply, b'5')
            }
        }
    }

    fn places_and_backlog(&self) -> Result<(Vec<std::net::SocketAddr>, u32), String> {
        let family = match (self.ipv4, self.ipv6) {
            (true, _) => Family::V4,
            (_, true) => Family::V6,
            _ => Family::Any,
        };
        let last = self.places.last().and_then(|last| last.parse().ok());
        let words = &self.places[..self.places.len() - usize::from(last.is_some())];
        if words.is_empty() {
            return Err("nowhere to listen; give an address and a port before the backlog".into());
        }
        Ok((place::read(words, family)?, last.unwrap_or(BACKLOG)))
    }

    fn orders(&self) -> Result<Orders, String> {
        let mut orders = Orders::default();
        orders.refuse("-r", &self.soft, Refusal::Soft)?;
        orders.refuse("-f", &self.hard, Refusal::Hard)?;
        orders.refuse("-Q", &self.leave, Refusal::Leave)?;
        orders.refuse("-q", &self.drop, Refusal::Drop)?;
        orders.log(&self.logged)?;
        self.waits.iter().try_for_each(|wait| orders.wait(wait))?;
        if let Some(seconds) = self.data_wait {
            orders.wait_at(Stage::Data, seconds, 0)?;
        }
        Ok(orders)
    }

    fn is_plain(&self) -> bool {
        self.no_esmtp || self.pix
    }

    fn greeting(&self) -> String {
        match (self.pix, self.is_plain(), self.lmtp) {
            (true, ..) => "220 ************************************************\r\n".to_owned(),
            (_, true, false) => format!("220 {}\r\n", self.hostname),
            (_, _, true) => format!("220 {} LMTP\r\n", self.hostname),
            _ => format!("220 {} ESMTP\r\n", self.hostname),
        }
    }

    /// The keywords of EHLO, without STARTTLS; none where EHLO is not known.
    fn offers(&self) -> Option<Vec<&'static str>> {
        if self.is_plain() {
            return None;
        }
        let refuses = !self.hard.is_empty() || !self.soft.is_empty();
        let all = [
            (!self.no_pipelining && !refuses, "PIPELINING"),
            (!self.no_8bitmime, "8BITMIME"),
            (!self.no_chunking, "CHUNKING"),
            (!self.no_smtputf8, "SMTPUTF8"),
            (!self.no_enhanced, "ENHANCEDSTATUSCODES"),
            (!self.no_dsn, "DSN"),
            (!self.no_auth, "AUTH PLAIN LOGIN"),
            (!self.no_xclient, "XCLIENT NAME HELO"),
            (!self.no_xforward, "XFORWARD NAME ADDR PROTO HELO"),
        ];
        Some(all.into_iter().filter(|(offered, _)| *offered).map(|(_, word)| word).collect())
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
        // It has been read; what cannot be removed is a file too many in the folder of such files.
        let _ = fs::remove_dir_all(&folder);
        built.map(Some)
    }
}

/// What the kernel keeps waiting unless it is told.
const BACKLOG: u32 = 1024;

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

fn read_behaviours(path: &Path) -> Result<Behaviours, String> {
    let text = fs::read_to_string(path).map_err(|cause| format!("{}: {cause}", path.display()))?;
    Behaviours::read(&text).map_err(|why| format!("{}: {why}", path.display()))
}

fn check_reply(flag: &str, text: &str, class: u8) -> Result<(), String> {
    let lawful =
        matches!(text.as_bytes(), [first, b'0'..=b'5', b'0'..=b'9', b' ', ..] if *first == class);
    match lawful && !text.contains(['\r', '\n']) {
        true => Ok(()),
        false => Err(format!("{flag}: a reply is one line that begins with {}xx", class as char)),
    }
}

fn line(text: &str) -> Box<[u8]> {
    format!("{text}\r\n").into_bytes().into()
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

    fn settings(words: &[&str]) -> Result<Settings, String> {
        Line::parse_from(std::iter::once(&"sink").chain(words)).options.settings()
    }

    #[test]
    fn the_flags_of_smtp_sink_are_taken() {
        let words = [
            "-4",
            "-c",
            "-8",
            "-a",
            "-C",
            "-F",
            "-N",
            "-f",
            "RCPT",
            "-r",
            "MAIL DATA",
            "-q",
            ".",
            "-Q",
            "RSET",
            "-W",
            "DATA:1:50",
            "-w",
            "2",
            "-b",
            "450 no",
            "-B",
            "554 never",
            "-h",
            "here",
            "-t",
            "5",
            "-m",
            "7",
            "-M",
            "8",
            "-n",
            "9",
            "-T",
            "4096",
            "-S",
            "a\\n",
            "-v",
            "-s",
            "HELO",
            "-L",
            "-E",
            "127.0.0.1:2525",
            "127.0.0.1:26-27",
            "33",
        ];
        let all = settings(&words).expect("they are lawful");
        let places: Vec<String> = all.places.iter().map(ToString::to_string).collect();
        assert_eq!(places, ["127.0.0.1:26", "127.0.0.1:27", "127.0.0.1:2525"]);
        assert_eq!((all.backlog, all.connections_max), (33, 7));
        assert_eq!((all.messages_max, all.sessions_max), (Some(8), Some(9)));
        assert_eq!(all.offers, Some(vec!["CHUNKING", "SMTPUTF8"]));
        assert_eq!(all.orders.refusal(Stage::Rcpt), Refusal::Hard);
        assert_eq!(all.orders.refusal(Stage::Data), Refusal::Soft);
        assert_eq!(&*all.soft_reply, b"450 no\r\n");
        let plain = settings(&["-P", "127.0.0.1:25"]).expect("it is lawful");
        assert_eq!((plain.offers, plain.backlog), (None, BACKLOG));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_sentence() {
        let rows: [(&[&str], &str); 9] = [
            (&["-u", "nobody", ":25"], "runuser"),
            (&["-R", "/", ":25"], "chroot"),
            (&["unix:/a"], "Unix"),
            (&["100"], "nowhere"),
            (&["-b", "550 x", ":25"], "4xx"),
            (&["-f", "MIAL", ":25"], "MIAL"),
            (&["-W", "MAIL", ":25"], "-W"),
            (&["-t", "0", ":25"], "-t"),
            (&["--behaviour", "no-such-file.toml", ":25"], "no-such-file.toml"),
        ];
        for (words, told) in rows {
            let why = settings(words).err().unwrap_or_else(|| panic!("{words:?}"));
            assert!(why.contains(told), "{why}");
        }
    }
}
