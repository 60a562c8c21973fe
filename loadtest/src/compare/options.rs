//! The command line of a comparison.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::compare::kind::Kind;
use crate::compare::kind::SERVERS;
use crate::flags;

#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The servers: ringpost, postfix, exim, opensmtpd, haraka. Default: all that are
    /// installed.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = read_peer)]
    peers: Vec<Kind>,
    /// The server's program. Default: `ringpost` beside this program.
    #[arg(long, value_name = "FILE")]
    pub ringpost: Option<PathBuf>,
    /// Compare with this other build of Ringpost, in alternating pairs; without --peers, with no other
    /// server.
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    /// The configuration of the baseline, if it needs another one than loadtest/peers/ringpost.
    #[arg(long, value_name = "FILE", requires = "baseline")]
    pub baseline_config: Option<PathBuf>,
    /// Compare our source and sink with Postfix's smtp-source and smtp-sink, without a server.
    #[arg(long, conflicts_with_all = ["peers", "baseline", "domains"])]
    pub generators: bool,
    /// Exim's program.
    #[arg(long, value_name = "FILE", default_value = "/usr/sbin/exim4")]
    pub exim: PathBuf,
    /// OpenSMTPD's program.
    #[arg(long, value_name = "FILE", default_value = "/usr/sbin/smtpd")]
    pub opensmtpd: PathBuf,
    /// The folder that contains `node_modules/Haraka`.
    #[arg(long, value_name = "FOLDER", default_value = "/usr/local/lib")]
    pub haraka: PathBuf,
    /// Number of simultaneous sessions.
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = flags::count::<usize>())]
    pub sessions: usize,
    /// Size of each body.
    #[arg(long, value_name = "BYTES", default_value_t = 4096)]
    pub length: usize,
    /// Duration of each part of a turn.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = flags::read_time)]
    pub seconds: Duration,
    /// Number of messages in each part of a turn, instead of a duration.
    #[arg(long, value_name = "COUNT", conflicts_with = "seconds", value_parser = flags::count::<u64>())]
    pub messages: Option<u64>,
    /// The rate at which latencies are measured. Default: half of the rate that the server relayed in the
    /// same turn.
    #[arg(long, value_name = "PER-SECOND", value_parser = flags::read_positive_rate)]
    pub rate: Option<f64>,
    /// Number of turns; medians are shown.
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    pub turns: usize,
    /// Create the queues in this folder, whose disk is measured. They are removed afterwards.
    #[arg(long, value_name = "FOLDER", default_value = "/var/tmp", value_parser = flags::read_folder)]
    pub spool: PathBuf,
    /// Do not trace with strace whether a sync precedes the 250.
    #[arg(long)]
    pub no_proof: bool,
    /// Do not measure latencies at a steady rate.
    #[arg(long)]
    pub no_latency: bool,
    /// Relay to this number of recipient domains on 64 addresses; Ringpost and Postfix only.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = flags::count::<u64>())]
    pub domains: u64,
    /// Print JSON with all turns instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Write the table as Markdown to this file.
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Save the records of all sources in this folder, for `ringpost-load report`.
    #[arg(long, value_name = "FOLDER", value_parser = flags::read_folder)]
    pub records: Option<PathBuf>,
}

impl Options {
    /// Whether it was requested, so that its absence is a failure.
    pub fn is_named(&self, kind: Kind) -> bool {
        self.peers.contains(&kind)
            || self.baseline.is_some() && kind.is_ringpost()
            || self.generators
    }

    /// What is compared, in order.
    pub fn kinds(&self) -> Vec<Kind> {
        if self.generators {
            return vec![Kind::Generator, Kind::SmtpSource];
        }
        let all = self.peers.is_empty() && self.baseline.is_none();
        let mut kinds: Vec<Kind> =
            SERVERS.into_iter().filter(|kind| all || self.is_named(*kind)).collect();
        if self.baseline.is_some() {
            kinds.insert(1, Kind::Baseline);
        }
        kinds
    }

    /// The number of sessions for this server.
    pub fn sessions_for(&self, kind: Kind) -> usize {
        kind.sessions_max().map_or(self.sessions, |most| most.min(self.sessions))
    }

    /// The settings in the result.
    pub fn settings(&self) -> BTreeMap<String, String> {
        let length = match self.messages {
            Some(count) => ("messages".to_owned(), count.to_string()),
            None => ("seconds".to_owned(), self.seconds.as_secs_f64().to_string()),
        };
        let rate = self.rate.map_or("half of the relayed rate".to_owned(), |rate| rate.to_string());
        BTreeMap::from([
            ("sessions".to_owned(), self.sessions.to_string()),
            ("body bytes".to_owned(), self.length.to_string()),
            ("rate for latencies".to_owned(), rate),
            ("domains".to_owned(), self.domains.to_string()),
            length,
        ])
    }
}

fn read_peer(name: &str) -> Result<Kind, String> {
    let known = || format!("unknown server; known are {}", SERVERS.map(Kind::key).join(", "));
    SERVERS.into_iter().find(|kind| kind.key() == name).ok_or_else(known)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn options(words: &str) -> Options {
        flags::parse_text(words).expect(words)
    }

    #[test]
    fn peers_are_named_or_all() {
        assert_eq!(options("").kinds(), SERVERS);
        let pair = options("--baseline old").kinds();
        assert_eq!(pair, [Kind::Ringpost, Kind::Baseline]);
        assert_eq!(options("--baseline old --peers postfix").kinds().len(), 3);
        assert_eq!(options("--generators").kinds(), [Kind::Generator, Kind::SmtpSource]);
        let two = options("--peers haraka,ringpost");
        assert_eq!(two.kinds(), [Kind::Ringpost, Kind::Haraka]);
        assert_eq!(two.sessions_for(Kind::Ringpost), 50);
        assert!(two.sessions_for(Kind::OpenSmtpd) < 50);
        for bad in ["--peers sendmail", "--spool /no-such-folder", "--sessions 0", "--rate 0"] {
            assert!(flags::parse_text::<Options>(bad).is_err(), "{bad}");
        }
    }
}
