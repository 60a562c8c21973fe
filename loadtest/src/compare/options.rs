//! The command line of a comparison.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;

use crate::compare::kind::Kind;
use crate::compare::kind::SERVERS;

#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The servers: ringpost, postfix, exim, opensmtpd, haraka. Default: all that are
    /// installed.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    peers: Vec<String>,
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
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    pub sessions: usize,
    /// Size of each body.
    #[arg(long, value_name = "BYTES", default_value_t = 4096)]
    pub length: usize,
    /// Duration of each part of a turn.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    pub seconds: f64,
    /// Number of messages in each part of a turn, instead of a duration.
    #[arg(long, value_name = "COUNT", conflicts_with = "seconds")]
    pub messages: Option<u64>,
    /// The rate at which latencies are measured. Default: half of the rate that the server relayed in the
    /// same turn.
    #[arg(long, value_name = "PER-SECOND")]
    pub rate: Option<f64>,
    /// Number of turns; medians are shown.
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    pub turns: usize,
    /// Create the queues in this folder, whose disk is measured. They are removed afterwards.
    #[arg(long, value_name = "FOLDER", default_value = "/var/tmp")]
    pub spool: PathBuf,
    /// Do not trace with strace whether a sync precedes the 250.
    #[arg(long)]
    pub no_proof: bool,
    /// Do not measure latencies at a steady rate.
    #[arg(long)]
    pub no_latency: bool,
    /// Relay to this number of recipient domains on 64 addresses; Ringpost and Postfix only.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub domains: u64,
    /// Print JSON with all turns instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Write the table as Markdown to this file.
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Save the records of all sources in this folder, for `ringpost-load report`.
    #[arg(long, value_name = "FOLDER")]
    pub records: Option<PathBuf>,
}

impl Options {
    /// Checks the options.
    pub fn check(&self) -> Result<(), String> {
        let bad = |flag: &str, why: &str| Err(format!("{flag}: {why}"));
        for name in &self.peers {
            if !SERVERS.iter().any(|kind| kind.key() == name) {
                let known = SERVERS.map(Kind::key).join(", ");
                return Err(format!("--peers: unknown server `{name}`; known are {known}"));
            }
        }
        for (flag, path) in [("--spool", Some(&self.spool)), ("--records", self.records.as_ref())] {
            if let Some(path) = path.filter(|path| !path.is_dir()) {
                return Err(format!("{flag}: no such folder: {}", path.display()));
            }
        }
        match self {
            _ if self.sessions == 0 => bad("--sessions", "must be at least 1"),
            _ if self.messages == Some(0) => bad("--messages", "must be at least 1"),
            _ if !(0.1..=3600.0).contains(&self.seconds) => {
                bad("--seconds", "must be from 0.1 to 3600")
            }
            _ if self.rate.is_some_and(|rate| !(rate > 0.0 && rate.is_finite())) => {
                bad("--rate", "must be more than 0")
            }
            _ if self.domains == 0 => bad("--domains", "must be at least 1"),
            _ if self.turns == 0 && self.no_proof => bad("--turns", "must be at least 1"),
            _ => Ok(()),
        }
    }

    /// Whether it was requested, so that its absence is a failure.
    pub fn is_named(&self, kind: Kind) -> bool {
        self.peers.iter().any(|name| name == kind.key())
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
            None => ("seconds".to_owned(), self.seconds.to_string()),
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

#[cfg(test)]
pub mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    pub fn options(words: &str) -> Options {
        let words = std::iter::once("compare").chain(words.split_whitespace());
        Line::parse_from(words).options
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
        assert_eq!(two.check(), Ok(()));
        assert_eq!(two.sessions_for(Kind::Ringpost), 50);
        assert!(two.sessions_for(Kind::OpenSmtpd) < 50);
    }

    #[test]
    fn invalid_options_are_refused() {
        for bad in [
            "--peers sendmail",
            "--spool /no-such-folder",
            "--sessions 0",
            "--messages 0",
            "--seconds 0",
            "--rate 0",
            "--domains 0",
            "--turns 0 --no-proof",
        ] {
            let flag = bad.split(' ').next().expect("a word");
            let why = options(bad).check().expect_err(bad);
            assert!(why.starts_with(flag), "{why}");
        }
    }
}
