//! What a comparison is told.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;

use crate::compare::ALL;
use crate::compare::peer::Kind;

/// See each.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Which: ringpost, postfix, exim, opensmtpd, haraka, kumomta. All that are there if it is left
    /// out.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    peers: Vec<String>,
    /// The server `ringpost`; the one beside this program if it is left out.
    #[arg(long, value_name = "FILE")]
    pub ringpost: Option<PathBuf>,
    /// Exim's binary.
    #[arg(long, value_name = "FILE", default_value = "/usr/sbin/exim4")]
    pub exim: PathBuf,
    /// OpenSMTPD's binary.
    #[arg(long, value_name = "FILE", default_value = "/usr/sbin/smtpd")]
    pub opensmtpd: PathBuf,
    /// A folder with `node_modules/Haraka` in it.
    #[arg(long, value_name = "FOLDER", default_value = "/usr/local/lib")]
    pub haraka: PathBuf,
    /// KumoMTA's binary.
    #[arg(long, value_name = "FILE", default_value = "/opt/kumomta/sbin/kumod")]
    pub kumomta: PathBuf,
    /// Sessions at the same time.
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    pub sessions: usize,
    /// Bytes of each body.
    #[arg(long, value_name = "BYTES", default_value_t = 4096)]
    pub length: usize,
    /// How long each part of a turn sends.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    pub seconds: f64,
    /// Send so many messages in each part of a turn, however long that takes.
    #[arg(long, value_name = "COUNT", conflicts_with = "seconds")]
    pub messages: Option<u64>,
    /// Messages each second where latencies are measured. Half of what the server itself relayed in
    /// the same turn if it is left out.
    #[arg(long, value_name = "PER-SECOND")]
    pub rate: Option<f64>,
    /// How often each is measured; medians are shown.
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    pub turns: usize,
    /// Where the queues are to lie, each in a folder of its own that is removed: the disk that is
    /// measured.
    #[arg(long, value_name = "FOLDER", default_value = "/var/tmp")]
    pub spool: PathBuf,
    /// Do not look by strace whether syncs come before the 250.
    #[arg(long)]
    pub no_proof: bool,
    /// Print the outcome as JSON instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Write the outcome as JSON to this file, for `--from`.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Write the table as Markdown to this file.
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Keep the records of each source in this folder, for `ringpost-load report`.
    #[arg(long, value_name = "FOLDER")]
    pub records: Option<PathBuf>,
    /// Measure nothing: show what earlier runs wrote by `--output`, their turns together.
    #[arg(long, value_name = "FILE")]
    pub from: Vec<PathBuf>,
}

impl Options {
    /// What is wrong with them, if anything is.
    pub fn check(&self) -> Result<(), String> {
        let bad = |flag: &str, why: &str| Err(format!("{flag}: {why}"));
        for name in &self.peers {
            if !ALL.iter().any(|kind| kind.key() == name) {
                let known = ALL.map(Kind::key).join(", ");
                return Err(format!("--peers: `{name}` is none of {known}"));
            }
        }
        for (flag, path) in [("--spool", Some(&self.spool)), ("--records", self.records.as_ref())] {
            if let Some(path) = path.filter(|path| !path.is_dir()) {
                return Err(format!("{flag}: there is no folder {}; make it", path.display()));
            }
        }
        match self {
            _ if self.sessions == 0 => bad("--sessions", "without a session nothing is sent"),
            _ if self.messages == Some(0) => bad("--messages", "nothing would be measured"),
            _ if !(0.1..=3600.0).contains(&self.seconds) => {
                bad("--seconds", "from 0.1 to 3600 make sense")
            }
            _ if self.rate.is_some_and(|rate| !(rate > 0.0 && rate.is_finite())) => {
                bad("--rate", "it must be more than 0")
            }
            _ if self.turns == 0 && self.no_proof => bad("--turns", "nothing would be measured"),
            _ => Ok(()),
        }
    }

    /// It is asked for by name.
    pub fn is_named(&self, kind: Kind) -> bool {
        self.peers.iter().any(|name| name == kind.key())
    }

    /// In the order in which they take turns; each turn begins with the next.
    pub fn kinds(&self) -> Vec<Kind> {
        let is_asked = |kind: &Kind| self.peers.is_empty() || self.is_named(*kind);
        ALL.into_iter().filter(is_asked).collect()
    }

    /// The sessions that drive this peer.
    pub fn sessions_for(&self, kind: Kind) -> usize {
        kind.sessions_max().map_or(self.sessions, |most| most.min(self.sessions))
    }

    /// What a reader must know to run the same again.
    pub fn told(&self) -> BTreeMap<String, String> {
        let length = match self.messages {
            Some(count) => ("messages".to_owned(), count.to_string()),
            None => ("seconds".to_owned(), self.seconds.to_string()),
        };
        let rate =
            self.rate.map_or("half of what each relayed".to_owned(), |rate| rate.to_string());
        BTreeMap::from([
            ("sessions".to_owned(), self.sessions.to_string()),
            ("body bytes".to_owned(), self.length.to_string()),
            ("rate for latencies".to_owned(), rate),
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
        assert_eq!(options("").kinds(), ALL);
        let two = options("--peers haraka,ringpost");
        assert_eq!(two.kinds(), [Kind::Ringpost, Kind::Haraka]);
        assert_eq!(two.check(), Ok(()));
        assert_eq!(two.sessions_for(Kind::Ringpost), 50);
        assert!(two.sessions_for(Kind::OpenSmtpd) < 50);
    }

    #[test]
    fn nonsense_is_told() {
        for bad in [
            "--peers sendmail",
            "--spool /no-such-folder",
            "--sessions 0",
            "--messages 0",
            "--seconds 0",
            "--rate 0",
            "--turns 0 --no-proof",
        ] {
            let flag = bad.split(' ').next().expect("a word");
            let why = options(bad).check().expect_err(bad);
            assert!(why.starts_with(flag), "{why}");
        }
    }
}
