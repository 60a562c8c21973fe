//! Log records: `Record::emit` is the only log call. One variant is one line. The table below
//! gives each record its level, name and fields.
//!
//! Promise:  no record holds a body, a password or a whole subject. Every text is escaped (see
//!           `value`), so a peer cannot forge a line.
//! Cost:     one load and one branch when the level is off.
//!
//! Levels: error = someone must act; warn = quality lost; info = the mail log and the life of the
//! process; debug = off in production. Ids come first. A field that is `None` is left out.

use std::fmt;
use std::fmt::Display;
use std::fmt::Write;
use std::net::IpAddr;
use std::net::SocketAddr;

use crate::base::PartitionId;
use crate::base::PublicId;
use crate::observe::log::value::Form;
use crate::observe::log::value::Value;

/// The `tracing` target of our own records. All other targets are foreign crates.
pub const TARGET: &str = "ringpost";

/// The severity of a record. A log level shows records of that level and of all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

impl Level {
    pub const ALL: [Level; 4] = [Level::Error, Level::Warn, Level::Info, Level::Debug];

    pub fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }

    /// The level of that name in the config.
    pub fn from_name(name: &str) -> Option<Level> {
        Level::ALL.into_iter().find(|level| level.name() == name)
    }
}

macro_rules! records {
    (
        $(#[$about:meta])*
        pub enum $record:ident<$life:lifetime> {
            $(
                $(#[$variant_about:meta])*
                $level:ident $name:literal $variant:ident { $($field:ident: $type:ty),* $(,)? }
            )*
        }
    ) => {
        $(#[$about])*
        pub enum $record<$life> {
            $($(#[$variant_about])* $variant { $($field: $type),* },)*
        }

        impl $record<'_> {
            pub fn level(&self) -> Level {
                match self {
                    $($record::$variant { .. } => Level::$level,)*
                }
            }

            pub fn name(&self) -> &'static str {
                match self {
                    $($record::$variant { .. } => $name,)*
                }
            }

            fn write_fields<W: Write>(&self, out: &mut W, form: Form) -> fmt::Result {
                match self {
                    $($record::$variant { $($field),* } => {
                        $(
                            let keys = [
                                concat!(" ", stringify!($field), "="),
                                concat!(",\"", stringify!($field), "\":"),
                            ];
                            write_field(out, form, keys, $field)?;
                        )*
                        Ok(())
                    })*
                }
            }
        }
    };
}

records! {
    /// Everything that Ringpost logs.
    pub enum Record<'a> {
        // The life of the process.

        /// All shards run.
        Info "started" Started { version: &'a str, shards: usize, partitions: usize }
        Info "listening" Listening { address: SocketAddr, protocol: &'a str, tls: &'a str }
        /// The HTTP listener of the control plane cannot be bound yet.
        Error "http_not_served" HttpNotServed {
            address: SocketAddr,
            cause: &'a dyn Display,
            action: &'a str,
        }
        /// A later attempt bound the HTTP listener.
        Info "http_served" HttpServed { address: SocketAddr }
        /// The process exits before it accepts mail.
        Error "start_refused" StartRefused { cause: &'a dyn Display }
        /// A problem of the machine or the config that reduces quality.
        Warn "warning" Warning { what: &'a str, remedy: &'a str }
        Info "reloaded" Reloaded { changed: &'a [String] }
        /// The new config has faults; the old one stays in force.
        Error "reload_refused" ReloadRefused { faults: &'a [String] }
        /// Keys that were changed and only take effect at the next start.
        Warn "needs_restart" NeedsRestart { keys: &'a [String] }
        Info "draining" Draining { sessions: u64 }
        Info "stopped" Stopped { seconds: u64, exit: i32 }
        /// A shard's heartbeat has stopped; the process is about to exit.
        Error "watchdog" Watchdog { stalled_shard: &'a str, silent_ms: u64 }

        /// Somebody changed something at the control socket. `changed` and `refused` count messages,
        /// destinations or keys of the config; `error` is the code of an operation that failed.
        Info "operation" Operation {
            actor: &'a str,
            action: &'a str,
            objects: &'a [String],
            to: Option<&'a str>,
            changed: usize,
            refused: usize,
            error: Option<&'a str>,
        }

        // The mail log.

        /// A message was answered with 250. `to` is the first recipient.
        Info "accepted" Accepted {
            id: PublicId,
            partition: PartitionId,
            peer: IpAddr,
            port: u16,
            helo: &'a str,
            protocol: &'a str,
            tls: Option<&'a str>,
            cipher: Option<&'a str>,
            from: &'a str,
            to: &'a str,
            tenant: Option<&'a str>,
            recipients: usize,
            size: u64,
            body: &'a str,
            message_id: Option<&'a str>,
            body_us: u64,
            commit_us: u64,
            total_us: u64,
        }
        /// A command or a body was answered with 4xx or 5xx.
        Info "refused" Refused {
            peer: IpAddr,
            helo: &'a str,
            from: Option<&'a str>,
            to: Option<&'a str>,
            stage: &'a str,
            reply: &'a str,
        }

        /// The outcome of one attempt for one recipient: delivered, deferred, bounced, expired. The
        /// last four fields are the delays a/b/c/d of Postfix: before it was due, in the queue, connecting
        /// with greeting and TLS, sending.
        Info "attempt" Attempt {
            id: PublicId,
            outcome: &'a str,
            from: &'a str,
            to: &'a str,
            tenant: Option<&'a str>,
            campaign: Option<&'a str>,
            hop: &'a str,
            host: Option<&'a str>,
            address: Option<SocketAddr>,
            tls: Option<&'a str>,
            cipher: Option<&'a str>,
            verdict: Option<&'a str>,
            tls_policy: Option<&'a str>,
            reply: &'a str,
            category: Option<&'a str>,
            attempts: u32,
            next_ms: Option<u64>,
            age_ms: u64,
            before_us: u64,
            wait_us: u64,
            connect_us: u64,
            transfer_us: u64,
        }

        /// A destination begins to rest after failures or by a rule for replies, or works again. Its
        /// mail is not logged one by one meanwhile. `returned` counts the messages that were queued for
        /// a connection and wait again without an attempt.
        Info "destination" Destination {
            destination: &'a str,
            state: &'a str,
            until_ms: Option<u64>,
            failures: u64,
            returned: u64,
            host: Option<&'a str>,
            last_error: Option<&'a str>,
            rule: Option<&'a str>,
        }

        /// A domain announces an MTA-STS policy that could not be fetched.
        Warn "sts_not_fetched" StsNotFetched { domain: &'a str, cause: &'a dyn Display }
        /// A report to the sender of a message, or to the postmaster, was queued.
        Info "reported" Reported {
            id: PublicId,
            of: PublicId,
            kind: &'a str,
            to: &'a str,
            recipients: usize,
            due_ms: u64,
        }
        /// Undeliverable mail for which nobody is notified.
        Info "not_reported" NotReported { id: PublicId, recipients: usize, reason: &'a str }

        // Sessions.

        Debug "session_opened" SessionOpened { peer: SocketAddr, protocol: &'a str }
        Debug "session_closed" SessionClosed {
            peer: SocketAddr,
            reason: &'a str,
            messages: u64,
            commands: u64,
            errors: u64,
            bytes: u64,
        }
        /// A connection was closed before its session began.
        Info "connection_refused" ConnectionRefused { peer: IpAddr, reason: &'a str }
        Info "tls_failed" TlsFailed { peer: IpAddr, cause: &'a dyn Display }
        /// A bug in a session; it was closed with 421.
        Error "session_panicked" SessionPanicked { peer: IpAddr, message: &'a str }
        /// A bug in a task other than a session, such as a delivery. Only this task has ended.
        Error "task_panicked" TaskPanicked { message: &'a str }
        /// No descriptor or memory for another connection; the listener waits.
        Warn "accept_paused" AcceptPaused { reason: &'a str, pause_ms: u64 }

        // The spool.

        Error "commit_failed" CommitFailed {
            partition: PartitionId,
            cause: &'a dyn Display,
            action: &'a str,
        }
        /// The disk has not answered for too long. It may still do so.
        Error "commit_hung" CommitHung { partition: PartitionId, seconds: u64, action: &'a str }
        Info "commit_resumed" CommitResumed { partition: PartitionId, seconds: u64 }
        Error "spool_full" SpoolFull { free_bytes: u64, free_inodes: u64 }
        /// The log of events has reached its share of the disk, or the disk is full: the oldest events
        /// are gone before their time.
        Warn "events_dropped" EventsDropped { partition: PartitionId, bytes: u64 }
        Info "spool_recovered" SpoolRecovered { free_bytes: u64, free_inodes: u64 }
        /// An unreadable record was moved to quarantine with its bytes.
        Error "quarantined" Quarantined {
            partition: PartitionId,
            key: &'a str,
            cause: &'a dyn Display,
            bytes: usize,
        }
        /// The store was found damaged at the start; its unreadable parts are in quarantine.
        Error "store_damaged" StoreDamaged { partition: PartitionId, what: &'a str }
        /// A message of the store itself, such as that it delays writes until a flush is done.
        Debug "store" Store { partition: PartitionId, line: &'a str }
        /// A partition is open again with everything it held.
        Info "recovered" Recovered {
            partition: PartitionId,
            messages: u64,
            swept_streams: u64,
            ms: u64,
        }

        // The log itself.

        Warn "log_dropped" LogDropped { lines: u64 }
        Error "log_not_reopened" LogNotReopened { path: &'a str, cause: &'a dyn Display }
    }
}

impl Record<'_> {
    /// Writes the line, if its level is shown. Never waits; a full lane drops and counts it.
    pub fn emit(&self) {
        match self.level() {
            Level::Error => tracing::event!(target: TARGET, tracing::Level::ERROR, record = ?self),
            Level::Warn => tracing::event!(target: TARGET, tracing::Level::WARN, record = ?self),
            Level::Info => tracing::event!(target: TARGET, tracing::Level::INFO, record = ?self),
            Level::Debug => tracing::event!(target: TARGET, tracing::Level::DEBUG, record = ?self),
        }
    }

    /// Name and fields, as the inside of a line of that form.
    pub fn write<W: Write>(&self, out: &mut W, form: Form) -> fmt::Result {
        if form == Form::Json {
            out.write_str("\"record\":\"")?;
        }
        out.write_str(self.name())?;
        if form == Form::Json {
            out.write_char('"')?;
        }
        self.write_fields(out, form)
    }
}

/// `{:?}` is the text form and `{:#?}` the JSON form: a record passes through `tracing` as
/// one value, and the subscriber writes it straight into the line.
impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = if f.alternate() { Form::Json } else { Form::Text };
        self.write(f, form)
    }
}

/// `keys` are the key with its punctuation, in text and in JSON.
fn write_field<W, V>(out: &mut W, form: Form, keys: [&str; 2], value: &V) -> fmt::Result
where
    W: Write,
    V: Value,
{
    if value.is_absent() {
        return Ok(());
    }
    out.write_str(if form == Form::Text { keys[0] } else { keys[1] })?;
    value.write(out, form)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_written_in_both_forms() {
        let refused = Record::Refused {
            peer: [192, 0, 2, 1].into(),
            helo: "evil\r\nhost",
            from: Some(""),
            to: None,
            stage: "rcpt",
            reply: "550 5.7.1 no",
        };
        let text =
            r#"refused peer=192.0.2.1 helo="evil\r\nhost" from="" stage=rcpt reply="550 5.7.1 no""#;
        assert_eq!(format!("{refused:?}"), text);
        let json = format!("{{{refused:#?}}}");
        let read: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(read["record"], "refused");
        assert_eq!(read["helo"], "evil\r\nhost");
        assert_eq!(read["from"], "");
        assert!(read.get("to").is_none(), "an absent field is left out");
    }

    #[test]
    fn levels_are_ordered_and_named() {
        assert!(Level::Error < Level::Debug);
        for level in Level::ALL {
            assert_eq!(Level::from_name(level.name()), Some(level));
        }
        assert_eq!(Level::from_name("loud"), None);
    }
}
