//! What can be written on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::Parser;
use clap::Subcommand;
use clap::ValueEnum;

use crate::base::clock::wall_ms;
use crate::config::units;
use crate::delivery::reroute;
use crate::operations::events::ListEvents;
use crate::operations::queue::ListMessages;
use crate::operations::route_test::TestRoute;

/// A mail transfer agent for bulk and transactional sending.
#[derive(Parser)]
#[command(name = "ringpost", version)]
pub struct Arguments {
    /// Config file of the server; if not given, `$RINGPOST_CONFIG`, else a trial config on loopback.
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run the mail server.
    ///
    /// SIGTERM stops the server once open transactions have finished; SIGHUP reloads the config.
    /// Exit code 0 after a shutdown, 1 if the server cannot start, 75 if the disk failed.
    Serve,
    /// Check a config file and the environment, and report all errors.
    Check(CheckOptions),
    /// Print the config reference or a sample config.
    Config {
        #[command(subcommand)]
        page: ConfigPage,
    },
    /// List, show and change queued messages, on a running or a stopped server.
    Queue {
        #[command(flatten)]
        options: GlobalOptions,
        #[command(subcommand)]
        command: QueueCommand,
    },
    /// Check that every accepted recipient is accounted for: delivered, bounced, expired, cancelled or
    /// queued.
    ///
    /// Exit code 0 if the counts add up and the quarantine is empty, otherwise 1.
    Audit(Options),
    /// Explain why a message is still queued.
    Why {
        /// Message id.
        id: String,
        #[command(flatten)]
        options: Options,
    },
    /// Read the event log: what has become of messages and recipients.
    Events {
        #[command(subcommand)]
        command: EventsCommand,
    },
    /// List, show, pause and resume destinations.
    Destination {
        #[command(flatten)]
        options: GlobalOptions,
        #[command(subcommand)]
        command: DestinationCommand,
    },
    /// Test the routes of a config.
    Route {
        #[command(subcommand)]
        command: RouteCommand,
    },
    /// Reload the config of a running server, as SIGHUP does, and print what changed.
    Reload(Options),
    /// Examine this machine without changing anything.
    ///
    /// Exit code 0 without findings, 1 with warnings, 2 with errors.
    Doctor(Options),
    /// Show CPU cores, shards, memory nodes and interrupts.
    Topology(Options),
    /// Check that a running server accepts and delivers mail.
    ///
    /// Exit code 0 if it does, otherwise 1.
    Health,
}

#[derive(Args)]
pub struct CheckOptions {
    /// Show every key with its value and where the value came from: default, file and line,
    /// environment variable, or credential.
    #[arg(long)]
    pub show_origin: bool,
    /// Print JSON, with the origin of every value.
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct Options {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// As `Options`, also accepted after the name of a subcommand.
#[derive(Args)]
pub struct GlobalOptions {
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Subcommand)]
pub enum ConfigPage {
    /// Print every key with its default and meaning, as Markdown.
    Reference,
    /// Print a config file with every key at its default.
    Sample,
}

#[derive(Subcommand)]
pub enum QueueCommand {
    /// Summarise the queue by recipient domain: recipients, age, and the last reply.
    Summary {
        /// Show at most this many domains.
        #[arg(long, value_name = "COUNT", default_value_t = 20)]
        limit: usize,
    },
    /// List messages, oldest first.
    List {
        /// Show at most this many messages.
        #[arg(long, value_name = "COUNT", default_value_t = 100)]
        limit: usize,
        /// Start after this message: the last id of the previous page.
        #[arg(long, value_name = "ID")]
        after: Option<String>,
        #[command(flatten)]
        filter: Filter,
    },
    /// Hold messages: no delivery attempts until they are released.
    Hold(Selection),
    /// Release held messages; delivery is attempted now.
    Release(Selection),
    /// Attempt delivery now, without waiting for the next scheduled attempt.
    Retry(Selection),
    /// Override the next hop of queued messages, effective now; undo with `--to default`.
    Reroute {
        #[command(flatten)]
        selection: Selection,
        /// Next hop in the syntax of a route's `next`, such as smtp:relay.example.com:25, or
        /// "default" to follow the routes again.
        #[arg(long, value_name = "NEXTHOP", value_parser = next_hop)]
        to: NextHop,
    },
    /// Stop delivery of messages and return them to their senders as undeliverable.
    Bounce {
        /// Message ids.
        #[arg(value_name = "ID", required = true)]
        ids: Vec<String>,
    },
    /// Show all details of a message.
    Show {
        /// Message id.
        id: String,
    },
    /// Show sizes and counts of the spool.
    Stats,
    /// Print a message as it would be delivered.
    Cat {
        /// Message id.
        id: String,
    },
    /// Delete messages permanently, without notifying their senders.
    Delete {
        /// Message ids.
        #[arg(value_name = "ID", required = true)]
        ids: Vec<String>,
    },
}

#[derive(Args)]
pub struct Filter {
    /// Only messages with an unfinished recipient in this domain.
    #[arg(long, value_name = "DOMAIN")]
    recipient_domain: Option<String>,
    /// Only messages from this envelope sender; `<>` is the null sender.
    #[arg(long, value_name = "ADDRESS")]
    sender: Option<String>,
    /// Only held messages.
    #[arg(long)]
    held: bool,
    /// Only messages received longer ago than this: 30m, 2h, 1d.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    older_than: Option<Duration>,
}

impl From<Filter> for ListMessages {
    fn from(filter: Filter) -> ListMessages {
        let before = |age: Duration| wall_ms().saturating_sub(age.as_millis() as u64);
        ListMessages {
            limit: None,
            after: None,
            recipient_domain: filter.recipient_domain,
            sender: filter.sender,
            held: filter.held,
            received_before_ms: filter.older_than.map(before),
        }
    }
}

/// None: the next hop of the routes.
#[derive(Clone)]
pub struct NextHop(pub Option<Box<str>>);

fn next_hop(text: &str) -> Result<NextHop, String> {
    match text {
        "default" => Ok(NextHop(None)),
        text => reroute::spelled(text).map(|spelled| NextHop(Some(spelled))),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    units::parse_duration(text).map_err(|refusal| format!("{}; {}", refusal.what, refusal.hint))
}

/// Messages by id, by domain, or all.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct Selection {
    /// Message ids.
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,
    /// All messages with an unfinished recipient in this domain.
    #[arg(long, value_name = "DOMAIN")]
    pub recipient_domain: Option<String>,
    /// All queued messages.
    #[arg(long)]
    pub all: bool,
}

#[derive(Subcommand)]
pub enum EventsCommand {
    /// Show the newest events, one a line.
    Tail {
        /// Show at most this many events at first.
        #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 20)]
        lines: usize,
        /// Go on with new events until interrupted.
        #[arg(short, long)]
        follow: bool,
        #[command(flatten)]
        filter: EventFilter,
        #[command(flatten)]
        options: Options,
    },
    /// Print all events of a time, oldest first.
    Export {
        /// Only events from this time on: RFC 3339, or an age such as 30m, 2h, 1d.
        #[arg(long, value_name = "TIME", value_parser = moment)]
        from: Option<u64>,
        /// Only events before this time, in the same form.
        #[arg(long, value_name = "TIME", value_parser = moment)]
        to: Option<u64>,
        #[arg(long, value_enum, default_value_t = ExportFormat::Jsonl)]
        format: ExportFormat,
        #[command(flatten)]
        filter: EventFilter,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// One JSON object a line.
    Jsonl,
    /// Comma-separated values with a line of names.
    Csv,
}

#[derive(Args)]
pub struct EventFilter {
    /// Only these types, separated by commas: accepted, deferred, delivered, bounced, expired,
    /// cancelled, held.
    #[arg(long = "type", value_name = "TYPES")]
    types: Option<String>,
    /// Only events of this message.
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Only events of this recipient; `@example.com` for all of a domain.
    #[arg(long, value_name = "ADDRESS")]
    recipient: Option<String>,
    /// Only messages from this envelope sender; `<>` is the null sender.
    #[arg(long, value_name = "ADDRESS")]
    sender: Option<String>,
    /// Only messages with this tag.
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
}

impl From<EventFilter> for ListEvents {
    fn from(filter: EventFilter) -> ListEvents {
        let EventFilter { types, id, recipient, sender, tag } = filter;
        ListEvents { types, id, recipient, sender, tag, ..ListEvents::default() }
    }
}

/// Milliseconds since 1970.
fn moment(text: &str) -> Result<u64, String> {
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Ok(at.as_millisecond().max(0) as u64);
    }
    let before = |age: Duration| wall_ms().saturating_sub(age.as_millis() as u64);
    duration(text).map(before).map_err(|_| {
        "not a time such as 2026-11-30T20:00:00Z, or an age such as 30m, 2h, 1d".to_owned()
    })
}

#[derive(Subcommand)]
pub enum DestinationCommand {
    /// List the destinations with the most mail.
    List {
        /// Show at most this many destinations.
        #[arg(long, value_name = "COUNT", default_value_t = 50)]
        limit: usize,
    },
    /// Show all details of a destination.
    Show {
        /// Key of the destination, one of its hosts, or a recipient domain.
        destination: String,
    },
    /// Stop new deliveries to a destination; its mail stays queued until resumed. Survives restarts.
    Pause {
        /// Key of the destination, one of its hosts, or a recipient domain.
        destination: String,
    },
    /// Resume deliveries to a paused destination.
    Resume {
        /// Key of the destination, one of its hosts, or a recipient domain.
        destination: String,
    },
}

#[derive(Subcommand)]
pub enum RouteCommand {
    /// Show which route applies to a recipient and why, and the next hop, destination and source.
    Test {
        /// Recipient address.
        #[arg(value_name = "RCPT")]
        recipient: String,
        /// Envelope sender; the null sender if not given.
        #[arg(long, value_name = "ADDRESS")]
        from: Option<String>,
        /// Listener that accepted the mail.
        #[arg(long, value_name = "NAME")]
        listener: Option<String>,
        /// Tenant of the mail, as in `network.tenant`.
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        /// Campaign of the mail, as in the header named by `delivery.campaign_header`.
        #[arg(long, value_name = "NAME")]
        campaign: Option<String>,
        /// A header field of the mail, as 'X-Pool: gold'. Can be repeated.
        #[arg(long = "header", value_name = "HEADER")]
        headers: Vec<String>,
        /// A reply of the remote server, as '421 4.7.0 Try again later': show its category, and
        /// the rule for replies that applies with its action.
        #[arg(long, value_name = "REPLY")]
        reply: Option<String>,
        /// Mail exchanger that sent the reply, for rules of its provider. The first host of the
        /// next hop if not given.
        #[arg(long = "mx", value_name = "HOST", requires = "reply")]
        mx_host: Option<String>,
        #[command(flatten)]
        options: Options,
    },
}

impl RouteCommand {
    pub fn into_parts(self) -> (TestRoute, Options) {
        let RouteCommand::Test {
            recipient,
            from: sender,
            listener,
            tenant,
            campaign,
            headers,
            reply,
            mx_host,
            options,
        } = self;
        let asked =
            TestRoute { recipient, sender, listener, tenant, campaign, headers, reply, mx_host };
        (asked, options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
