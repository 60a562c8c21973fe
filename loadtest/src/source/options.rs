//! What the source is told: the flags of Postfix's smtp-source with the same meaning, and ours.

use std::net::SocketAddr;
use std::net::ToSocketAddrs;
use std::path::PathBuf;

use clap::Args;

use crate::report::Outputs;

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
    /// The sender.
    #[arg(short = 'f', value_name = "FROM", default_value = "foo@example.com")]
    pub from: String,
    /// Send this file's header and body.
    #[arg(short = 'F', value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Bytes of the body.
    #[arg(short = 'l', value_name = "BYTES", default_value_t = 80)]
    pub length: usize,
    /// Speak LMTP.
    #[arg(short = 'L')]
    pub lmtp: bool,
    /// How many messages to send.
    #[arg(short = 'm', value_name = "COUNT", default_value_t = 1)]
    pub messages: u64,
    /// Who we say we are.
    #[arg(short = 'M', value_name = "NAME", default_value = "localhost")]
    pub hostname: String,
    /// Put a number before each recipient.
    #[arg(short = 'N')]
    pub number: bool,
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
    /// The recipient.
    #[arg(short = 't', value_name = "TO", default_value = "foo@example.com")]
    pub to: String,
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
    /// Print this.
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,

    /// host[:port], also with `inet:` before it. The port is 25 if it is left out.
    #[arg(value_name = "SERVER")]
    pub server: String,
}

impl Options {
    /// Where to connect.
    pub fn address(&self) -> Result<SocketAddr, String> {
        if self.server.starts_with("unix:") {
            return Err(format!("{}: Unix sockets are not supported yet", self.server));
        }
        let place = self.server.strip_prefix("inet:").unwrap_or(&self.server);
        let has_port = place.rsplit_once(':').is_some_and(|(host, _)| {
            !host.contains(':') || host.starts_with('[') && host.ends_with(']')
        });
        let found = match has_port {
            true => place.to_socket_addrs(),
            false => (place.trim_matches(['[', ']']), 25).to_socket_addrs(),
        };
        let found = found.map_err(|cause| format!("{}: {cause}", self.server))?;
        let wanted = |address: &SocketAddr| match address {
            SocketAddr::V4(_) => !self.ipv6,
            SocketAddr::V6(_) => !self.ipv4,
        };
        let family = "it has no address of that family";
        found.into_iter().find(wanted).ok_or_else(|| format!("{}: {family}", self.server))
    }

    /// What is wrong with them, if anything is.
    pub fn check(&self) -> Result<(), String> {
        let bad = |flag: &str, why: &str| Err(format!("{flag}: {why}"));
        match self {
            _ if self.sessions == 0 => bad("-s", "without a connection nothing is sent"),
            _ if self.recipients == 0 => bad("-r", "a message has at least one recipient"),
            _ if self.connects == 0 => bad("-C", "at least one try is needed"),
            _ if self.cores == 0 => bad("--cores", "at least one thread is needed"),
            _ if self.domains == 0 => bad("--domains", "at least one domain is needed"),
            _ if self.rate.is_some_and(|rate| !(rate > 0.0 && rate.is_finite())) => {
                bad("--rate", "it must be more than 0")
            }
            _ if [self.wait, self.random_wait]
                .iter()
                .flatten()
                .any(|one| !(0.0..=1e6).contains(one)) =>
            {
                bad("-w, -R", "that is no time to wait")
            }
            _ if self.domains > 1 && !self.to.contains('@') => {
                bad("--domains", "the recipient (-t) has no domain")
            }
            _ => Ok(()),
        }
    }
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
        assert_eq!((all.sessions, all.messages, all.length, all.recipients), (100, 40000, 4096, 3));
        assert!(all.keep && all.counter && all.number);
        assert_eq!(all.address(), Ok("127.0.0.1:2600".parse().expect("an address")));
        assert_eq!(all.check(), Ok(()));
    }

    #[test]
    fn servers_are_written_as_ever() {
        for (text, expected) in [
            ("127.0.0.1", "127.0.0.1:25"),
            ("inet:127.0.0.1:2525", "127.0.0.1:2525"),
            ("[::1]:2525", "[::1]:2525"),
            ("[::1]", "[::1]:25"),
            ("::1", "[::1]:25"),
        ] {
            let expected: SocketAddr = expected.parse().expect("an address");
            assert_eq!(options(text).address(), Ok(expected), "{text}");
        }
        for bad in ["unix:/a", "-4 [::1]:25", "-6 127.0.0.1"] {
            assert!(options(bad).address().is_err(), "{bad}");
        }
    }

    #[test]
    fn nonsense_is_told() {
        for bad in
            ["-s 0 h", "-r 0 h", "--rate 0 h", "--rate nan h", "-w -1 h", "--domains 2 -t x h"]
        {
            let words = bad.replace("-w -1", "-w=-1");
            assert!(options(&words).check().is_err(), "{bad}");
        }
    }
}
