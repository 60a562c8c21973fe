//! The command line of the source: common flags of Postfix's smtp-source with the same meaning, and our
//! own.

use std::path::PathBuf;

use clap::Args;
use clap::builder::RangedU64ValueParser;
use clap::value_parser;
use ringpost::boot::host::Needs;

use crate::flags;
use crate::report::Outputs;
use crate::source::header::HeaderLine;
use crate::source::schedule::MESSAGES_MAX;
use crate::source::secure::SecureOptions;
use crate::source::shape::ShapeOptions;
use crate::source::sizes::Sizes;
use crate::source::weights::Domains;
use crate::source::weights::read_domains;

/// The number of ports of one address.
const SESSIONS_MAX: u64 = 1 << 16;
/// File descriptors for rings, files and streams.
const OTHER_FILES: u64 = 256;

/// Flags of one letter are those of smtp-source(1).
#[derive(Args, Clone, Debug)]
#[command(disable_help_flag = true)]
pub struct Options {
    /// Continue after a refused message; it is counted.
    #[arg(short = 'A')]
    pub go_on: bool,
    /// Reuse the connection for the next message.
    #[arg(short = 'd')]
    pub keep: bool,
    /// The sender. Default: foo@ and the name of -M.
    #[arg(short = 'f', value_name = "FROM", value_parser = read_address)]
    pub from: Option<String>,
    /// Send the header and body of this file.
    #[arg(short = 'F', value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Size of the body.
    #[arg(short = 'l', value_name = "BYTES", default_value_t = 80)]
    pub length: u64,
    /// Speak LMTP.
    #[arg(short = 'L')]
    pub lmtp: bool,
    /// Number of messages. Default: 1, or unlimited with --duration, --ramp or --steps.
    #[arg(short = 'm', value_name = "COUNT", value_parser = value_parser!(u64).range(..=MESSAGES_MAX))]
    pub messages: Option<u64>,
    /// The name in EHLO and in default addresses. Default: the name of this machine.
    #[arg(short = 'M', value_name = "NAME", value_parser = read_name)]
    pub hostname: Option<String>,
    /// Prepend a number to each recipient.
    #[arg(short = 'N')]
    pub number: bool,
    /// Recipients per message; several recipients are numbered.
    #[arg(short = 'r', value_name = "COUNT", default_value_t = 1, value_parser = flags::count::<u64>())]
    pub recipients: u64,
    /// Number of simultaneous connections.
    #[arg(short = 's', value_name = "COUNT", default_value_t = 1,
          value_parser = RangedU64ValueParser::<usize>::new().range(1..=SESSIONS_MAX))]
    pub sessions: usize,
    /// The subject.
    #[arg(short = 'S', value_name = "TEXT", value_parser = flags::read_line)]
    pub subject: Option<String>,
    /// The recipient. Default: foo@ and the name of -M.
    #[arg(short = 't', value_name = "TO", value_parser = read_address)]
    pub to: Option<String>,

    #[command(flatten)]
    pub shape: ShapeOptions,
    /// Use this number of recipient domains in turn: `-t a@b.test` with 2 means a@0.b.test and
    /// a@1.b.test.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = flags::count::<u64>(),
          conflicts_with = "to_domains")]
    pub domains: u64,
    /// Number of threads.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = flags::count::<usize>())]
    pub cores: usize,
    /// Do not pipeline commands.
    #[arg(long)]
    pub no_pipelining: bool,
    /// Send bodies with DATA even if the server offers BDAT.
    #[arg(long)]
    pub no_chunking: bool,
    /// Distribution of body sizes: 4k, 1k-100k, lognormal:p50=8k,p99=200k, or a weighted mix such as
    /// 4k*80,64k-99k*15,1M*5.
    #[arg(long, value_name = "SIZES", value_parser = Sizes::parse,
          conflicts_with_all = ["length", "file", "eml"])]
    pub sizes: Option<Sizes>,
    /// Sender domains by weight: a.test*50,b.test*20.
    #[arg(long, value_name = "DOMAINS", value_parser = read_domains)]
    pub from_domains: Option<Domains>,
    /// Recipient domains by weight, drawn for each recipient.
    #[arg(long, value_name = "DOMAINS", value_parser = read_domains)]
    pub to_domains: Option<Domains>,
    /// Add a header line, 'Name: value'. %n is the number of the message, %r its first recipient.
    /// Can be repeated.
    #[arg(long = "header", value_name = "LINE", value_parser = HeaderLine::parse)]
    pub headers: Vec<HeaderLine>,
    /// Send the .eml files of this folder in turn.
    #[arg(long, value_name = "FOLDER", conflicts_with = "file")]
    pub eml: Option<PathBuf>,
    /// Seed for sizes, domains and times. Runs with the same seed send the same mail.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    pub secure: SecureOptions,
    #[command(flatten)]
    pub outputs: Outputs,
    /// Write the fate of each message to this file, for `ringpost-load ledger`.
    #[arg(long, value_name = "FILE")]
    pub sent: Option<PathBuf>,
    /// Print help.
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,

    /// [inet:]host[:port]. The default port is 25.
    #[arg(value_name = "SERVER")]
    pub server: String,
}

impl Options {
    /// The number of messages that ends the run, if a number does.
    pub fn count(&self) -> Option<u64> {
        let shape = &self.shape;
        let is_timed = shape.duration.is_some() || shape.ramp.is_some() || shape.steps.is_some();
        self.messages.or((!is_timed).then_some(1))
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
}

/// A text that can be between the <> of an envelope. `<>` is the null sender.
fn read_address(text: &str) -> Result<String, String> {
    // A quoted local part may contain spaces.
    let is_quoted = text.starts_with('"');
    let is_bad = |one: char| one.is_control() || "<>".contains(one) || one == ' ' && !is_quoted;
    match text {
        "<>" => Ok(String::new()),
        _ if text.contains(is_bad) => Err("an address must not contain spaces, < or >".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

/// A text that can be the name in EHLO.
fn read_name(text: &str) -> Result<String, String> {
    match !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(text.to_owned()),
        false => Err("the name is not valid".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::parse;
    use crate::flags::parse_text;

    #[test]
    fn flags_of_smtp_source_are_accepted() {
        let all: Options = parse_text(
            "-d -s 100 -m 40000 -l 4096 -f a@x.test -t b@y.test -c -N -r 3 127.0.0.1:2600",
        )
        .expect("all are known");
        let numbers = (all.sessions, all.messages, all.length, all.recipients);
        assert_eq!(numbers, (100, Some(40000), 4096, 3));
        assert!(all.keep && all.outputs.live && all.number);
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
            assert_eq!(
                parse_text::<Options>(words).map(|all| all.count()),
                Ok(expected),
                "{words}"
            );
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
            "--rate 5 --steps 1x3s h",
            "--poisson h",
            "-m 4294967297 h",
            "--auth a:b h",
            "--to-domains x.test --domains 2 h",
        ] {
            let words = bad.split(' ').map(str::to_owned);
            assert!(parse::<Options>(words).is_err(), "{bad}");
        }
    }
}
