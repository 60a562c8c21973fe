//! The config as meant: plain values, no options where a default exists.
//!
//! Promise:  this file, and `delivery::model` for the delivering half, is the one place where a key
//!           exists. Its name, kind, default, bounds, manual and whether a reload changes it stand
//!           together; the rest is made from them.
//! Relations between keys are judged in `relation`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::base::limits::BODY_LINE_BYTES_MAX;
use crate::base::limits::CHUNK_BYTES;
use crate::base::limits::COMMIT_BATCH_BYTES_MAX;
use crate::base::limits::STREAM_CHUNKS_IN_FLIGHT_MAX;
use crate::config::delivery::model::DeliveryConfig;
use crate::config::delivery::model::DeliveryTimeoutsConfig;
use crate::config::delivery::model::DestinationConfig;
use crate::config::delivery::model::DestinationDefaults;
use crate::config::delivery::model::PoolConfig;
use crate::config::delivery::model::ResolverConfig;
use crate::config::delivery::model::RouteConfig;
use crate::config::delivery::model::SourceConfig;
use crate::config::file;
use crate::config::key::Changes;
use crate::config::key::Part;
use crate::config::key::Section;
use crate::config::key::SectionDoc;
use crate::config::key::Standard::Follows;
use crate::config::key::Standard::Is;
use crate::config::key::Standard::Required;
use crate::config::key::Standard::Unset;
use crate::config::key::section;
use crate::config::reading::Reading;
use crate::config::value::ClientCertificates;
use crate::config::value::CoreSet;
use crate::config::value::DomainPattern;
use crate::config::value::Hostname;
use crate::config::value::Label;
use crate::config::value::LineEnding;
use crate::config::value::LogFormat;
use crate::config::value::LogLevel;
use crate::config::value::LogOutput;
use crate::config::value::MonitorListen;
use crate::config::value::Partitions;
use crate::config::value::Protocol;
use crate::config::value::ReplyText;
use crate::config::value::Stream;
use crate::config::value::TlsMode;
use crate::config::value::TlsVersion;

/// Milliseconds, in which durations are bounded.
const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

const KIB: u64 = 1 << 10;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// A body can only move if a session can have its chunks in flight and one to receive into.
pub const BODY_MEMORY_MIN: u64 = (CHUNK_BYTES * (STREAM_CHUNKS_IN_FLIGHT_MAX + 1)) as u64;

/// A partition must be able to hold one full batch.
pub const QUEUE_MEMORY_MIN: u64 = COMMIT_BATCH_BYTES_MAX as u64;

/// Makes `Config` from its parts.
macro_rules! config {
    ($( $(#[doc = $doc:literal])+ $field:ident : $part:ty, )+) => {
        /// Everything an operator decides. Immutable; shared as `Arc`.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Config {
            $( $(#[doc = $doc])+ pub $field: $part, )+
        }

        /// All sections, in the order of the manual.
        pub const SECTIONS: &[SectionDoc] = &[$( <$part as Part>::DOC ),+];

        impl Config {
            /// Reads all sections; none only if a fault was noted.
            pub fn read(reading: &mut Reading<'_>) -> Option<Config> {
                $( let $field = <$part as Part>::read(reading); )+
                Some(Config { $( $field: $field?, )+ })
            }

            /// What a running server has after a reload, noting what changed.
            pub fn reload(&self, new: &Config, changes: &mut Changes) -> Config {
                Config { $( $field: self.$field.reload(&new.$field, changes), )+ }
            }
        }
    };
}

config! {
    /// The process.
    server: ServerConfig,
    /// At least one.
    listeners: Vec<ListenerConfig>,
    /// Who may send what through.
    relay: RelayConfig,
    /// Networks whose mail belongs to a tenant; may be none.
    networks: Vec<NetworkConfig>,
    /// How much of everything.
    limits: LimitsConfig,
    /// How long for everything.
    timeouts: TimeoutsConfig,
    /// TLS of all listeners.
    tls: TlsConfig,
    /// May be none: then a self-signed one is made.
    certificates: Vec<CertificateConfig>,
    /// The durable queue.
    queue: QueueConfig,
    /// Sending mail on.
    delivery: DeliveryConfig,
    /// How long the servers that mail is sent to may take.
    delivery_timeouts: DeliveryTimeoutsConfig,
    /// The name servers.
    resolver: ResolverConfig,
    /// Where mail goes; may be none.
    routes: Vec<RouteConfig>,
    /// May be none.
    pools: Vec<PoolConfig>,
    /// May be none.
    sources: Vec<SourceConfig>,
    /// How strangers are treated.
    destination_defaults: DestinationDefaults,
    /// How others are treated; may be none.
    destinations: Vec<DestinationConfig>,
    /// The log.
    log: LogConfig,
    /// The control plane.
    control: ControlConfig,
    /// Monitoring.
    monitor: MonitorConfig,
}

section! {
    /// The process as a whole.
    pub struct ServerConfig at "server" {
        /// The fully qualified name of this host, as it stands in the greeting, the answer to EHLO
        /// and the Received field.
        hostname: Hostname = Follows(
            "the host name of the system",
            "'mail.example.com'",
            |reading| file::quote(&reading.hostname),
        ), Live;
        /// The cores that run a shard each: "auto" for all that the process may use, a list such as
        /// "0-7,16", or "numa:0" for all cores of one NUMA node.
        cores: CoreSet = Is("'auto'"), Restart;
        /// The folder that holds the queue. It is made if it does not exist.
        spool: PathBuf = Is("'./ringpost-data'"), Restart;
        /// The user to become after the ports are bound, if started as root.
        user: Option<String> = Unset("'ringpost'"), Restart;
        /// The group to become; the user's own if not set.
        group: Option<String> = Unset("'ringpost'"), Restart;
        /// How long running sessions may take to end after SIGTERM.
        shutdown_timeout: Duration = Is("'30s'"), Live, 0 => HOUR;
    }
}

section! {
    /// Where mail comes in. May be written several times; without any there is one with the values
    /// below. If a changed key needs a restart, the whole listener keeps its old settings until
    /// then; only restrictions take effect at once: networks removed from a trust list, and TLS or
    /// client certificates that are now required. A listener removed from the file keeps listening
    /// until the restart, but trusts no network for XCLIENT or line endings.
    pub struct ListenerConfig at "listener" repeated {
        /// Its name, for `route.listener` and `ringpost route test`.
        name: Label = Follows(
            "`listener-1`, `listener-2` and so on, in the order of the file",
            "'listener-1'",
            |reading| format!("'listener-{}'", reading.number),
        ), Restart;
        /// The addresses to listen on.
        address: Vec<SocketAddr> = Is("['127.0.0.1:2525', '[::1]:2525']"), Restart;
        /// "smtp", or "lmtp" (RFC 2033), which answers for each recipient after the body.
        protocol: Protocol = Is("'smtp'"), Restart;
        /// "none", "starttls" (offered after EHLO), or "implicit" (from the first byte on).
        tls: TlsMode = Is("'starttls'"), Restart;
        /// Whether mail is refused before TLS stands (530).
        tls_required: bool = Is("false"), Live;
        /// Whether clients are asked for a certificate: "none", "optional" or "required".
        client_certificates: ClientCertificates = Is("'none'"), Live;
        /// The file with the authorities (PEM) that client certificates must come from.
        client_ca: Option<PathBuf> = Unset("'/etc/ringpost/client-ca.pem'"), Live;
        /// Networks of load balancers. A connection from them must begin with a PROXY header, version
        /// 1 or 2, whose address replaces that of the peer; other peers must not send one. A client
        /// whose address is not in the header (UNKNOWN, LOCAL) belongs to no trusted network.
        proxy_from: Vec<IpNet> = Is("[]"), Live;
        /// Networks whose clients may use XCLIENT.
        xclient_from: Vec<IpNet> = Is("[]"), Live;
        /// "strict": a bare CR or LF is refused. "normalise": it becomes CRLF, for old injectors in
        /// the networks of `trusted_from`; all others stay strict. NUL is always refused. Bodies with
        /// BODY=BINARYMIME may contain all three.
        line_ending: LineEnding = Is("'strict'"), Live;
        /// Networks to which `line_ending = "normalise"` applies.
        trusted_from: Vec<IpNet> = Is("[]"), Live;
        /// The largest message here, instead of `limits.message_size`.
        size_max: Option<u64> = Unset("'100MB'"), Live, KIB => 64 * GIB;
        /// The last words of the greeting, `220 hostname ESMTP banner` (or LMTP).
        banner: ReplyText = Is("'Ringpost'"), Live;
        /// How long the greeting is held back. Whoever talks before it is refused.
        greeting_delay: Duration = Is("'0s'"), Live, 0 => MINUTE;
    }
}

section! {
    /// Who may send what through this server. Whatever no rule here allows is refused with 550 5.7.1.
    pub struct RelayConfig at "relay" {
        /// Networks that may send to any domain. Their mail belongs to no tenant; see `[[network]]`.
        networks: Vec<IpNet> = Is("['127.0.0.0/8', '::1/128']"), Live;
        /// Recipient domains that are accepted from anyone: "example.com" is itself only,
        /// ".example.com" is all below it.
        domains: Vec<DomainPattern> = Is("[]"), Live;
        /// Sender domains that are refused, whoever sends.
        refuse_senders: Vec<DomainPattern> = Is("[]"), Live;
        /// Recipient domains that are refused, whoever sends. Wins over `domains`.
        refuse_recipients: Vec<DomainPattern> = Is("[]"), Live;
    }
}

section! {
    /// A trusted network that sends for a tenant. May be written several times. Its clients may send
    /// to any domain, as those of `relay.networks`. Where networks overlap, the most specific one
    /// counts; of two equal ones, the one here counts, not that of `relay.networks`.
    pub struct NetworkConfig at "network" repeated {
        /// The addresses of the clients.
        cidr: Vec<IpNet> = Required("['10.1.0.0/16']"), Live;
        /// The tenant that their mail belongs to: for `route.tenants`, fair queueing and the log.
        tenant: Label = Required("'acme'"), Live;
        /// What they send: "transactional" or "broadcast".
        stream: Stream = Is("'transactional'"), Live;
    }
}

section! {
    /// How much of everything. Each limit has its reply when it is reached.
    pub struct LimitsConfig at "limits" {
        /// The largest message, announced as SIZE. Larger: 552 5.3.4, at MAIL or while it streams.
        message_size: u64 = Is("'25MB'"), Live, KIB => 64 * GIB;
        /// Recipients of one message. More: 452 4.5.3. RFC 5321 s4.5.3.1.8 asks for at least 100.
        recipients_per_message: usize = Is("1000"), Live, 1 => 100_000;
        /// Messages of one session. Then: 421.
        messages_per_session: usize = Is("100000"), Live, 1 => 1_000_000_000;
        /// Commands of one session. Then: 421.
        commands_per_session: usize = Is("1000000"), Live, 10 => 1_000_000_000;
        /// Refused commands of one session. Then: 421.
        errors_per_session: usize = Is("20"), Live, 1 => 1_000_000;
        /// Connections in all. More: 421.
        connections: usize = Is("20000"), Live, 1 => 10_000_000;
        /// Connections of one client address. More: 421.
        connections_per_address: usize = Is("100"), Live, 1 => 10_000_000;
        /// Connections of one client network. More: 421.
        connections_per_network: usize = Is("400"), Live, 1 => 10_000_000;
        /// Bits of an IPv4 address that name its network.
        network_prefix_v4: u8 = Is("24"), Live, 8 => 32;
        /// Bits of an IPv6 address that name its network.
        network_prefix_v6: u8 = Is("56"), Live, 16 => 128;
        /// New connections of one client address in a minute. More: 421.
        connection_rate_per_address: usize = Is("600"), Live, 1 => 10_000_000;
        /// Networks to which the limits per address and per network, and the rate, do not apply.
        exempt_networks: Vec<IpNet> = Is("['127.0.0.0/8', '::1/128']"), Live;
        /// Received fields of a message. More mean a loop: 554 5.4.6.
        received_count: usize = Is("50"), Live, 10 => 1000;
        /// Bytes of a body line with its CRLF. Longer: 554 5.6.0. Not limited if not set, for
        /// generators of mail ignore RFC 5321 s4.5.3.1.6.
        body_line_length: Option<usize> = Unset("1000"), Live, BODY_LINE_BYTES_MAX as u64 => 1 << 30;
        /// Bytes in a second that a client must send on average while it sends a body. Slower: 421.
        /// 0 turns it off.
        min_data_rate: u64 = Is("64"), Live, 0 => GIB;
        /// How long a body may take before `min_data_rate` is judged.
        min_data_rate_grace: Duration = Is("'30s'"), Live, SECOND => HOUR;
        /// Memory for bodies on their way to the queue, shared by all cores. None free: 452 4.3.1
        /// for a new body; one under way waits.
        body_memory: u64 = Is("'128MiB'"), Restart, BODY_MEMORY_MIN => TIB;
    }
}

section! {
    /// How long everything may take. A client that is too slow gets 421. The defaults are those of
    /// RFC 5321 s4.5.3.2.
    pub struct TimeoutsConfig at "timeouts" {
        /// For the PROXY header of a load balancer.
        proxy_header: Duration = Is("'10s'"), Live, 100 => HOUR;
        /// For the TLS handshake.
        tls_handshake: Duration = Is("'30s'"), Live, 100 => HOUR;
        /// For the first command after the greeting.
        greeting: Duration = Is("'5m'"), Live, 100 => DAY;
        /// For the next command while a message is being announced.
        command: Duration = Is("'5m'"), Live, 100 => DAY;
        /// For the next command when no message has been begun.
        idle: Duration = Is("'5m'"), Live, 100 => DAY;
        /// For the first bytes of a body.
        data_init: Duration = Is("'2m'"), Live, 100 => HOUR;
        /// For the next bytes of a body.
        data_block: Duration = Is("'3m'"), Live, 100 => HOUR;
        /// For the client to take a reply.
        reply: Duration = Is("'5m'"), Live, 100 => HOUR;
    }
}

section! {
    /// TLS of all listeners.
    pub struct TlsConfig at "tls" {
        /// The oldest version that is spoken, "1.2" or "1.3".
        min_version: TlsVersion = Is("'1.2'"), Live;
        /// Whether clients may resume sessions by ticket.
        session_tickets: bool = Is("true"), Live;
    }
}

section! {
    /// A certificate. May be written several times: a client gets the one for the name it asks for,
    /// else the first. Without any, a self-signed one is made at start and kept in the spool.
    pub struct CertificateConfig at "tls.certificate" repeated {
        /// The file with the certificate and its chain (PEM).
        certificate: PathBuf = Required("'/etc/ringpost/mail.example.com.pem'"), Live;
        /// The file with its private key (PEM).
        key: PathBuf = Required("'/etc/ringpost/mail.example.com.key'"), Live;
    }
}

section! {
    /// The durable queue.
    pub struct QueueConfig at "queue" {
        /// Parts of the queue, each with a thread that commits: "auto" or a number. It is fixed when
        /// the spool is made; later it must be the same or "auto".
        partitions: Partitions = Is("'auto'"), Restart;
        /// Memory for write buffers, shared by all partitions.
        /// The spool also reserves this much disk space, plus 4 MiB per partition, for a full disk.
        memory: u64 = Is("'64MiB'"), Restart, QUEUE_MEMORY_MIN => TIB;
        /// Space that must stay free on the spool's file system besides the reserve (see `memory`).
        /// Less: 452 4.3.1. Once the reserve is used, twice its size must be free in addition.
        min_free_space: u64 = Is("'256MB'"), Live, 0 => 1024 * TIB;
        /// Inodes that must stay free there. Fewer: 452 4.3.1.
        min_free_inodes: usize = Is("1000"), Live, 0 => 1_000_000_000;
        /// Whether a message is on the disk before it is answered with 250. Without it a power cut
        /// loses accepted mail: for tests only.
        sync: bool = Is("true"), Restart;
    }
}

section! {
    /// The log.
    pub struct LogConfig at "log" {
        /// "text" for people, "json" for machines.
        format: LogFormat = Is("'text'"), Restart;
        /// "stdout", or a file; it is reopened on SIGHUP.
        output: LogOutput = Is("'stdout'"), Restart;
        /// "error", "warn", "info" (a line for each message) or "debug".
        level: LogLevel = Is("'info'"), Live;
    }
}

section! {
    /// The control socket.
    pub struct ControlConfig at "control" {
        /// The socket through which `ringpost queue` talks to a running server.
        socket: PathBuf = Follows(
            "`control.sock` in the spool",
            "'./ringpost-data/control.sock'",
            |reading| {
                let spool = PathBuf::from(reading.text_of(&<ServerConfig as Section>::DOC, "spool"));
                file::quote(&spool.join("control.sock").to_string_lossy())
            },
        ), Restart;
    }
}

section! {
    /// Monitoring over HTTP: metrics, health and readiness.
    pub struct MonitorConfig at "monitor" {
        /// Address and port of the monitoring listener, or "off". Requests are not authenticated, so
        /// listen on the loopback address or behind a proxy.
        listen: MonitorListen = Is("'127.0.0.1:9025'"), Restart;
    }
}
