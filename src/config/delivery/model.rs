//! The sections of delivery, as meant. As in `config::model`, a key is declared here only.

use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::delivery::header::HeaderMatch;
use crate::config::delivery::header::LabelField;
use crate::config::delivery::header::LabelValue;
use crate::config::delivery::value::DomainMatch;
use crate::config::delivery::value::NameServer;
use crate::config::delivery::value::Next;
use crate::config::delivery::value::OwnAddress;
use crate::config::delivery::value::PoolMember;
use crate::config::delivery::value::Stripes;
use crate::config::file;
use crate::config::key::Section;
use crate::config::key::Standard::Follows;
use crate::config::key::Standard::Is;
use crate::config::key::Standard::Required;
use crate::config::key::Standard::Unset;
use crate::config::key::section;
use crate::config::kind::Spelled;
use crate::config::model::ServerConfig;
use crate::config::reading::Reading;
use crate::config::value::Hostname;
use crate::config::value::Label;
use crate::config::value::OutboundTls;
use crate::wire::proxy_url::Proxy;

/// Milliseconds, in which durations are bounded.
const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

section! {
    /// Sending mail on: how long it is tried, what senders are told, how much at once.
    pub struct DeliveryConfig at "delivery" {
        /// Whether mail is delivered. Without it mail is taken and kept.
        enabled: bool = Is("true"), Restart;
        /// How long a recipient waits after each failed attempt. The last one is repeated until
        /// `max_age`.
        retry_schedule: Vec<Duration> = Is("['5m', '10m', '20m', '40m', '1h', '2h', '3h', '4h']"),
            Live, 100 => 7 * DAY;
        /// By how much, in percent, a wait is made shorter or longer at random, so that what failed
        /// together is not tried together.
        retry_jitter: u8 = Is("10"), Live, 0 => 50;
        /// How long delivery is tried before the mail is returned. A route may say otherwise.
        max_age: Duration = Is("'5d'"), Live, SECOND => 60 * DAY;
        /// After how long a sender is told, once, that mail still waits. 0 turns it off.
        delay_warning: Duration = Is("'4h'"), Live, 0 => 60 * DAY;
        /// Who bounces are from, as their From field says. Their envelope sender is always empty.
        bounce_from: OwnAddress = Is("'MAILER-DAEMON'"), Live;
        /// Who is told of mail that can neither be delivered nor returned. Nobody if not set.
        postmaster: Option<OwnAddress> = Unset("'postmaster@example.com'"), Live;
        /// How much of a returned message is quoted; of a longer one only the header.
        bounce_body_max: u64 = Is("'64KB'"), Live, 0 => 64 * MIB;
        /// Bounces made in a minute, so that a flood of bad mail makes no flood of bounces. The
        /// others are made later.
        bounce_rate: usize = Is("1000"), Live, 1 => 1_000_000;
        /// The name in EHLO, for sources that have none of their own. The address that mail is sent
        /// from should resolve to it.
        ehlo_name: Hostname = Follows(
            "`server.hostname`",
            "'mail.example.com'",
            |reading| file::quote(&own_hostname(reading)),
        ), Live;
        /// The pool for mail whose route names none. If not set the system chooses the address.
        pool: Option<Label> = Unset("'shared'"), Live;
        /// The header field that names the campaign, for routes and the log; "" for none. Any sender
        /// can write it. Values are cut after 200 bytes.
        campaign_header: LabelField = Is("'X-Campaign'"), Live;
        /// Whether a host's IPv6 addresses are tried before its IPv4 addresses.
        prefer_ipv6: bool = Is("false"), Live;
        /// PEM of the authorities that may vouch for servers. If not set, those of the system.
        tls_roots: Option<PathBuf> = Unset("'/etc/ssl/certs/ca-certificates.crt'"), Restart;
        /// Whether hosts are held to their TLSA records (DANE). Only where `resolver.trust_ad`.
        dane: bool = Is("true"), Live;
        /// Whether the MTA-STS policies that domains publish are enforced. Policies are stored in
        /// the folder `mta-sts` of the spool and survive restarts.
        mta_sts: bool = Is("true"), Live;
        /// The port that MTA-STS policies are fetched from. Another one is for tests.
        mta_sts_port: usize = Is("443"), Live, 1 => 65_535;
        /// Mail exchangers that one attempt tries, the best first.
        mx_hosts_max: usize = Is("5"), Live, 1 => 100;
        /// Connections to all destinations together. More: the mail waits.
        connections_max: usize = Is("1000"), Restart, 1 => 1_000_000;
        /// Jobs kept in memory. The others wait on disk.
        jobs_in_memory_max: usize = Is("100000"), Restart, 100 => 100_000_000;
    }
}

section! {
    /// How long a server may take when mail is sent to it. Then the connection is given up and the
    /// mail tried again. The defaults are those of RFC 5321 s4.5.3.2.
    pub struct DeliveryTimeoutsConfig at "delivery.timeouts" {
        /// For the connection to a host to stand, by whichever of its addresses, and also by a proxy.
        connect: Duration = Is("'30s'"), Live, 100 => HOUR;
        /// For the TLS handshake.
        tls_handshake: Duration = Is("'30s'"), Live, 100 => HOUR;
        /// For the greeting.
        greeting: Duration = Is("'5m'"), Live, 100 => HOUR;
        /// For the answer to EHLO, HELO, LHLO and STARTTLS.
        ehlo: Duration = Is("'5m'"), Live, 100 => HOUR;
        /// For the answer to MAIL and RSET.
        mail: Duration = Is("'5m'"), Live, 100 => HOUR;
        /// For the answer to RCPT.
        rcpt: Duration = Is("'5m'"), Live, 100 => HOUR;
        /// For the answer to DATA.
        data_init: Duration = Is("'2m'"), Live, 100 => HOUR;
        /// For the server to take the next part of a body.
        data_block: Duration = Is("'3m'"), Live, 100 => HOUR;
        /// For the answer to the end of a body. Too short a wait sends mail twice.
        data_end: Duration = Is("'10m'"), Live, 100 => DAY;
        /// For the answer to QUIT; the mail is delivered by then.
        quit: Duration = Is("'5s'"), Live, 100 => HOUR;
    }
}

section! {
    /// The name servers that say where mail goes.
    pub struct ResolverConfig at "resolver" {
        /// The servers to ask, in this order. Without any, those of /etc/resolv.conf.
        servers: Vec<NameServer> = Is("[]"), Restart;
        /// For one answer.
        timeout: Duration = Is("'5s'"), Restart, 100 => MINUTE;
        /// How often a question is asked.
        attempts: usize = Is("3"), Restart, 1 => 20;
        /// Answers kept, in all cores together, for as long as each says.
        cache_entries: usize = Is("100000"), Restart, 100 => 100_000_000;
        /// Memory for cached answers, all cores together. When this or `cache_entries` is reached,
        /// answers that were not used recently are evicted.
        cache_memory: u64 = Is("'64MiB'"), Restart, MIB => TIB;
        /// Whether "authenticated" (AD) in an answer is believed. Only for servers that validate
        /// DNSSEC and are reached over a safe way, such as loopback.
        trust_ad: bool = Is("false"), Live;
    }
}

section! {
    /// Where mail goes. May be written several times: the first route of which all conditions hold
    /// decides, and a condition that is left out always holds. Mail that no route is for goes to
    /// the mail exchangers of its domain. `ringpost route test` tells which route decides.
    pub struct RouteConfig at "route" repeated {
        /// Its name, for `ringpost route test` and for messages about the configuration.
        name: Label = Follows(
            "`route-1`, `route-2` and so on, in the order of the file",
            "'route-1'",
            |reading| format!("'route-{}'", reading.number),
        ), Live;
        /// Recipient domains: "example.com" is itself only, ".example.com" is all below it, and in
        /// "*mail.example*" a star stands for any letters.
        recipient_domain: Vec<DomainMatch> = Is("[]"), Live;
        /// Domains of the envelope sender, written alike. The empty sender of a bounce has none.
        sender_domain: Vec<DomainMatch> = Is("[]"), Live;
        /// Names of the listeners that the mail came in by.
        listener: Vec<Label> = Is("[]"), Live;
        /// Tenants, as `network.tenant` names them.
        tenants: Vec<Label> = Is("[]"), Live;
        /// Campaigns, as the header field of `delivery.campaign_header` names them. Case counts.
        campaigns: Vec<LabelValue> = Is("[]"), Live;
        /// Header fields, of which one must be there with its value: "X-Pool: gold" is this value,
        /// "X-Pool: go*" all that begins so, "X-Pool: *" any. Case counts in the value; the first
        /// field of a name counts. At most 16 names in all routes, with that of the
        /// campaign. Mail accepted before a header was named here is treated as without it.
        headers: Vec<HeaderMatch> = Is("[]"), Live;
        /// "mx": the mail exchangers of the recipient's domain. "mx:other.example": those of another.
        /// Where this server is one of them, by `server.hostname` or a name in EHLO of a source that
        /// goes out by no proxy, and the port is 25, only better ones are tried. If there are none the
        /// mail is returned, for it would come back; where the domain is another it waits.
        /// "smtp:host:port,host2:port": these servers, in this order. "smtps:host:port": likewise, under
        /// TLS from the first byte on, as servers on port 465 have it. "lmtp:host:port": likewise, by
        /// LMTP, also over a Unix socket: "lmtp:unix:/run/dovecot/lmtp". "discard": it counts as delivered. "hold": it waits for an operator.
        /// "reject:text": it is returned with this text.
        next: Next = Required("'smtp:relay.example.com:587'"), Live;
        /// TLS to those servers, instead of what their destination says: "none", "may", "must" (with any
        /// certificate) or "verify" (with one for the name of the host). With "smtps:" it is at least
        /// "must"; a Unix socket has none.
        tls: Option<OutboundTls> = Unset("'verify'"), Live;
        /// The user to log in as (AUTH) at the servers of "smtp:" or "smtps:". Only over TLS.
        auth_user: Option<String> = Unset("'ringpost'"), Live;
        /// The file with that user's password, on one line.
        auth_password_file: Option<PathBuf> = Unset("'/etc/ringpost/relay.password'"), Live;
        /// The pool of sources to send from, instead of `delivery.pool`.
        pool: Option<Label> = Unset("'shared'"), Live;
        /// How long delivery is tried, instead of `delivery.max_age`.
        max_age: Option<Duration> = Unset("'1d'"), Live, SECOND => 60 * DAY;
    }
}

section! {
    /// Addresses to send from, in shares. May be written several times.
    pub struct PoolConfig at "pool" repeated {
        /// Its name, for routes.
        name: Label = Required("'shared'"), Live;
        /// Its sources. One of weight 3 sends three times as much as one of weight 1.
        sources: Vec<PoolMember> = Required("['out-1:1']"), Live;
    }
}

section! {
    /// An address to send from. May be written several times. The host, or the `proxy`, must have it.
    pub struct SourceConfig at "source" repeated {
        /// Its name, for `pool.sources` and `ringpost route test`.
        name: Label = Required("'out-1'"), Live;
        /// For servers that have IPv4. Without it they are not reached by IPv4.
        ipv4: Option<Ipv4Addr> = Unset("'192.0.2.25'"), Live;
        /// For servers that have IPv6. Without it they are not reached by IPv6.
        ipv6: Option<Ipv6Addr> = Unset("'2001:db8::25'"), Live;
        /// The name in EHLO, instead of `delivery.ehlo_name`.
        ehlo_name: Option<Hostname> = Unset("'out-1.example.com'"), Live;
        /// The proxy that connections go out by, by its IP address. "haproxy://host:port" is told by
        /// the PROXY protocol (version 2) to connect from `ipv4` or `ipv6`, which it has instead of
        /// this host. "socks5://host:port" (port 1080 if none is written), with "user:password@"
        /// before the host if it asks for them, chooses the address itself: `ipv4` and `ipv6` then
        /// say only over what servers are reached, and without any it is both.
        proxy: Option<Proxy> = Unset("'socks5://192.0.2.9:1080'"), Live;
    }
}

/// Makes the section of defaults and the section of destinations from one list of keys.
macro_rules! treatment {
    ($(
        $(#[doc = $doc:literal])+
        $key:ident : $kind:ty = $standard:literal $(, $low:expr => $high:expr)?;
    )+) => {
        section! {
            /// How each destination is treated that no [[destination]] is for. A destination is a domain, or all domains
            /// with the same mail exchangers.
            pub struct DestinationDefaults at "destination_defaults" {
                $( $(#[doc = $doc])+ $key: $kind = Is($standard), Live $(, $low => $high)?; )+
            }
        }

        section! {
            /// How one destination is treated. May be written several times: the first that names the
            /// recipient's domain counts, else the first that names a mail exchanger of it. What is
            /// left out is as in [destination_defaults].
            pub struct DestinationConfig at "destination" repeated {
                /// Its name, for `ringpost route test` and for messages about the configuration.
                name: Label = Required("'example-net'"), Live;
                /// Recipient domains, written as in `route.recipient_domain`, of mail that goes where their MX
        /// records say. A server that a route names is a destination of its own: name it in `mx_host`.
                recipient_domain: Vec<DomainMatch> = Is("[]"), Live;
                /// Names of mail exchangers, written alike: ".example.net" is every host below it.
                /// Servers that a route names count too, also by address, as "[192.0.2.1]".
                mx_host: Vec<DomainMatch> = Is("[]"), Live;
                $( $(#[doc = $doc])+ $key: Option<$kind> = Unset($standard), Live $(, $low => $high)?; )+
            }
        }

        impl DestinationConfig {
            /// What holds for the destination, with all that it leaves out.
            pub fn treatment(&self, standard: &DestinationDefaults) -> DestinationDefaults {
                DestinationDefaults { $( $key: self.$key.unwrap_or(standard.$key), )+ }
            }
        }
    };
}

treatment! {
    /// Connections at once, from all cores together.
    connections_max: usize = "20", 1 => 100_000;
    /// Connections at once to begin with. There are more as they succeed, fewer as they fail.
    window_start: usize = "5", 1 => 100_000;
    /// Messages sent over one connection before it is closed.
    messages_per_connection: usize = "100", 1 => 1_000_000;
    /// Recipients in one transaction. More are sent in several.
    recipients_per_message: usize = "100", 1 => 100_000;
    /// Messages in a second. 0 is without limit.
    messages_per_second: usize = "0", 0 => 10_000_000;
    /// Messages in a minute. 0 is without limit.
    messages_per_minute: usize = "0", 0 => 100_000_000;
    /// Messages in an hour. 0 is without limit.
    messages_per_hour: usize = "0", 0 => 1_000_000_000;
    /// How long a connection is kept for the next message.
    idle_reuse: Duration = "'5s'", 0 => 10 * MINUTE;
    /// Failed connections in a row after which the destination is left alone for a while.
    failures_to_back_off: usize = "5", 1 => 1000;
    /// How long it is left alone the first time; then twice as long each time.
    back_off_first: Duration = "'1m'", 100 => DAY;
    /// How long it is left alone at most.
    back_off_max: Duration = "'1h'", 100 => DAY;
    /// Jobs of the destination kept in memory, and up to a quarter more of tenants that have few there.
    /// The others wait on disk.
    jobs_max: usize = "10000", 1 => 10_000_000;
    /// Cores that share the destination, each with its part of all limits. More than one is for destinations that
    /// one core cannot feed, such as a smarthost. Mail does not change cores then, but each core
    /// keeps connections of its own. "all": every core. "auto": every core, if each can have two
    /// connections and there is no limit on messages; else one. No core gets a part of nothing: a
    /// limit of 3 is shared by 3. The parts are fixed: mail that came in on one core goes by its part
    /// alone, so with a low rate leave it at 1. While a change comes into force, up to 76 minutes with a limit by
    /// the hour and 16 without, the destination gets less, never more.
    stripes: Stripes = "1";
    /// "none", "may" (if the server offers it), "must" (with any certificate) or "verify" (with one
    /// for the name of the host).
    tls: OutboundTls = "'may'";
}

/// A host name that is wrong is reported where it is written, not once more where it is used.
fn own_hostname(reading: &Reading<'_>) -> String {
    let written = reading.text_of(&<ServerConfig as Section>::DOC, "hostname");
    let written = Hostname::spell(&written).map(|name| name.to_string());
    written.unwrap_or_else(|_| reading.hostname.clone())
}
