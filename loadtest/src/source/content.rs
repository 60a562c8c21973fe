//! Options for the content of messages: sizes, addresses, header lines, files.

use std::path::PathBuf;

use clap::Args;

use crate::source::domains::Domains;
use crate::source::header::HeaderLine;
use crate::source::sizes::Sizes;

#[derive(Args, Clone, Debug, Default)]
pub struct ContentOptions {
    /// Distribution of body sizes: 4k, uniform:1k-100k, lognormal:p50=8k,p99=200k, or a weighted mix
    /// such as 4k*80,64k-99k*15,lognormal:p50=1M/p99=9M*5.
    #[arg(long, value_name = "SIZES", value_parser = Sizes::parse,
          conflicts_with_all = ["length", "file", "eml"])]
    pub sizes: Option<Sizes>,
    /// Sender domains by weight: a.test*50,b.test*20.
    #[arg(long, value_name = "DOMAINS", value_parser = Domains::parse)]
    pub from_domains: Option<Domains>,
    /// Recipient domains by weight, drawn for each recipient.
    #[arg(long, value_name = "DOMAINS", value_parser = Domains::parse)]
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
}
