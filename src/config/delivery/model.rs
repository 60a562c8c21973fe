//! The sections about delivery. As in `config::process`, a key is declared here only.

use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::base::Class;
use crate::config::delivery::domain::DomainMatch;
use crate::config::delivery::header::HeaderMatch;
use crate::config::delivery::header::LabelField;
use crate::config::delivery::header::LabelValue;
use crate::config::delivery::next_hop::RouteNext;
use crate::config::delivery::value::NameServer;
use crate::config::delivery::value::OwnAddress;
use crate::config::delivery::value::PoolMember;
use crate::config::delivery::value::RecipientAddress;
use crate::config::delivery::value::Stripes;
use crate::config::file;
use crate::config::key::Standard::Follows;
use crate::config::key::Standard::Is;
use crate::config::key::Standard::Required;
use crate::config::key::Standard::Unset;
use crate::config::kind::Spelled;
use crate::config::name::Hostname;
use crate::config::name::Label;
use crate::config::process::ServerConfig;
use crate::config::reading::Reading;
use crate::config::section::Section;
use crate::config::section::section;
use crate::config::section::standard;
use crate::config::section::text_of;
use crate::config::units::DAY_MS;
use crate::config::units::HOUR_MS;
use crate::config::units::MIB;
use crate::config::units::MINUTE_MS;
use crate::config::units::SECOND_MS;
use crate::config::units::TIB;
use crate::config::value::CredentialFile;
use crate::config::value::OutboundTls;
use crate::wire::proxy_url::Proxy;

section! {
    /// Delivery: retries, bounces, and limits of all destinations together.
    pub struct DeliveryConfig at "delivery" {
        /// Whether mail is delivered. If false, mail is accepted and stays queued.
        enabled: bool = Is("true"), Restart;
        /// The delays before the second, third and later attempts. The last delay repeats until
        /// `max_age`.
        retry_schedule: Vec<Duration> = Is("['5m', '10m', '20m', '40m', '1h', '2h', '3h', '4h']"),
            Live, 100 => 7 * DAY_MS;
        /// The random variation of each delay in percent, so that mail that failed together is not
        /// retried together.
        retry_jitter: u8 = Is("10"), Live, 0 => 50;
        /// How long delivery is attempted before the mail bounces. A route can override this.
        max_age: Duration = Is("'5d'"), Live, SECOND_MS => 60 * DAY_MS;
        /// The age of queued mail at which its sender is notified, once, of the delay. 0 disables the
        /// notification.
        delay_warning: Duration = Is("'4h'"), Live, 0 => 60 * DAY_MS;
        /// The address in the From field of bounces. Their envelope sender is always empty.
        bounce_from: OwnAddress = Is("'MAILER-DAEMON'"), Live;
        /// The address to notify of mail that can be neither delivered nor bounced. If not set, nobody
        /// is notified.
        postmaster: Option<OwnAddress> = Unset("'postmaster@example.com'"), Live;
        /// The largest message that a bounce quotes in full. Of a larger one it quotes only the header.
        bounce_body_max: u64 = Is("'64KB'"), Live, 0 => 64 * MIB;
        /// Bounces created per minute, so that a flood of undeliverable mail causes no flood of bounces.
        /// Further bounces are created later.
        bounce_rate: u32 = Is("1000"), Live, 1 => 1_000_000;
        /// The EHLO name of sources without one of their own. The source address should resolve to it.
        ehlo_name: Hostname = Follows(
            "`server.hostname`",
            "'mail.example.com'",
            |reading| file::quote(&own_hostname(reading)),
        ), Live;
        /// The pool for mail whose route names none. If not set, the system chooses the source address.
        pool: Option<Label> = Unset("'shared'"), Live;
        /// The header field that names the campaign, for routes and the log; "" for none. Any sender
        /// can write this field. Values are cut at 200 bytes.
        campaign_header: LabelField = Is("'X-Campaign'"), Live;
        /// Whether the IPv6 addresses of a host are tried before its IPv4 addresses.
        prefer_ipv6: bool = Is("false"), Live;
        /// The file with the CA certificates (PEM) that servers are verified against. If not set, those
        /// of the system.
        tls_roots: Option<PathBuf> = Unset("'/etc/ssl/certs/ca-certificates.crt'"), Restart;
        /// Whether servers must match their TLSA records (DANE). Requires `resolver.trust_ad`.
        dane: bool = Is("true"), Live;
        /// Whether published MTA-STS policies are enforced. Policies are stored in the folder `mta-sts`
        /// of the spool and survive restarts.
        mta_sts: bool = Is("true"), Live;
        /// The port from which MTA-STS policies are fetched. Change it for tests only.
        mta_sts_port: u16 = Is("443"), Live, 1 => 65_535;
        /// Networks of private or own addresses to which mail may be delivered by MX records. Without
        /// an entry here, an exchanger is not used if its address belongs to this server or is
        /// loopback, private (10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, fc00::/7), link-local,
        /// carrier-grade NAT, multicast or unspecified; mail for which no other exchanger is left
        /// bounces. Servers named by a route are always used. An address on which this server listens
        /// is never used.
        allow_networks: Vec<IpNet> = Is("[]"), Live;
        /// Mail exchangers that one attempt tries, in order of preference.
        mx_hosts_max: usize = Is("5"), Live, 1 => 100;
        /// Files of rules for the replies of remote servers. The first rule that matches decides on the
        /// category of a reply, and may slow down or suspend further mail. Rules of these files come
        /// before the built-in ones. One rule per line, fields separated by bars:
        /// "421 | * | too many messages | rate-limited | slow | slow 50% 10m source". The fields are
        /// reply codes, provider, words, category, advice, and optionally an action: "slow 50% 10m
        /// source", "suspend 2h source" or "suspend 30m destination". A provider is defined by a line
        /// "@isp | .isp.example"; `ringpost route test --reply` shows which rule matches, and
        /// `ringpost destination show` the latest actions with the replies that caused them.
        reply_rules: Vec<PathBuf> = Is("[]"), Live;
        /// Connections to all destinations together. When all are in use, mail waits.
        connections_max: u32 = Is("1000"), Restart, 1 => 1_000_000;
        /// Memory for queued mail, in units of 672 bytes, over all cores; at least 8 MiB per core. Mail
        /// beyond it waits on disk.
        jobs_in_memory_max: usize = Is("100000"), Restart, 100 => 100_000_000;
    }
}

section! {
    /// Timeouts of outgoing connections. After a timeout the connection is closed and the mail is
    /// retried. The defaults are those of RFC 5321 s4.5.3.2.
    pub struct DeliveryTimeoutsConfig at "delivery.timeouts" {
        /// For connecting to a host, over all of its addresses, including a proxy.
        connect: Duration = Is("'30s'"), Live, 100 => HOUR_MS;
        /// For the TLS handshake.
        tls_handshake: Duration = Is("'30s'"), Live, 100 => HOUR_MS;
        /// For the greeting.
        greeting: Duration = Is("'5m'"), Live, 100 => HOUR_MS;
        /// For the reply to EHLO, HELO, LHLO and STARTTLS.
        ehlo: Duration = Is("'5m'"), Live, 100 => HOUR_MS;
        /// For the reply to MAIL and RSET.
        mail: Duration = Is("'5m'"), Live, 100 => HOUR_MS;
        /// For the reply to RCPT.
        rcpt: Duration = Is("'5m'"), Live, 100 => HOUR_MS;
        /// For the reply to DATA.
        data_init: Duration = Is("'2m'"), Live, 100 => HOUR_MS;
        /// For the server to read the next part of a body.
        data_block: Duration = Is("'3m'"), Live, 100 => HOUR_MS;
        /// For the reply to the end of a body. If this timeout is too short, mail may be delivered twice.
        data_end: Duration = Is("'10m'"), Live, 100 => DAY_MS;
        /// For the reply to QUIT. The mail is already delivered by then.
        quit: Duration = Is("'5s'"), Live, 100 => HOUR_MS;
    }
}

section! {
    /// DNS.
    pub struct ResolverConfig at "resolver" {
        /// The name servers, in order of preference. If empty, those of /etc/resolv.conf.
        servers: Vec<NameServer> = Is("[]"), Restart;
        /// How long to wait for one answer.
        timeout: Duration = Is("'5s'"), Restart, 100 => MINUTE_MS;
        /// How often a query is sent before it fails.
        attempts: u32 = Is("3"), Restart, 1 => 20;
        /// Cached answers of all cores together. An answer is cached for its TTL.
        cache_entries: usize = Is("100000"), Restart, 100 => 100_000_000;
        /// Memory for cached answers of all cores together. When this or `cache_entries` is reached,
        /// the least recently used answers are evicted.
        cache_memory: u64 = Is("'64MiB'"), Restart, MIB => TIB;
        /// Whether the "authenticated data" flag (AD) of answers is trusted. Set this only if the name
        /// servers validate DNSSEC and are reached over a safe path, such as loopback.
        trust_ad: bool = Is("false"), Live;
    }
}

section! {
    /// A route: where mail goes. This section may occur several times: the first route whose conditions
    /// all match applies. A condition that is not set always matches. Mail that matches no route goes
    /// to the mail exchangers of its domain. `ringpost route test` shows which route applies.
    pub struct RouteConfig at "route" repeated {
        /// The name of the route, for `ringpost route test` and error messages.
        name: Label = Follows(
            "`route-1`, `route-2` and so on, in the order of the file",
            "'route-1'",
            |reading| format!("'route-{}'", reading.number),
        ), Live;
        /// Condition: recipient domains. "example.com" matches only that domain, ".example.com" its
        /// subdomains; in "*mail.example*" a star matches any characters.
        recipient_domain: Vec<DomainMatch> = Is("[]"), Live;
        /// Condition: recipient addresses, in upper or lower case. With `recipient_domain`, both
        /// conditions must match.
        recipient: Vec<RecipientAddress> = Is("[]"), Live;
        /// Condition: domains of the envelope sender, in the same notation. The empty sender of a bounce
        /// has no domain.
        sender_domain: Vec<DomainMatch> = Is("[]"), Live;
        /// Condition: names of the listeners that accepted the mail.
        listener: Vec<Label> = Is("[]"), Live;
        /// Condition: tenants, as named in `network.tenant`.
        tenants: Vec<Label> = Is("[]"), Live;
        /// Condition: campaigns, as named in the header field `delivery.campaign_header`.
        /// Case-sensitive.
        campaigns: Vec<LabelValue> = Is("[]"), Live;
        /// Condition: header fields, at least one of which must be present with its value. "X-Pool: gold"
        /// matches this value, "X-Pool: go*" every value that starts with "go", "X-Pool: *" any value.
        /// Values are case-sensitive; only the first field of a name counts. All routes together may
        /// name 16 fields, including that of the campaign. Mail accepted before a field was named
        /// here has no value for it.
        headers: Vec<HeaderMatch> = Is("[]"), Live;
        /// The next hop.
        /// "mx": the mail exchangers of the recipient's domain. "mx:other.example": those of another
        /// domain. If this server is itself an MX of the domain (by `server.hostname`, or by the EHLO
        /// name of a source without a proxy) and the port is 25, only exchangers with a lower preference
        /// value are tried. The same holds for an exchanger with an address of this server; one with a
        /// private address is not used (see `delivery.allow_networks`). If none remain, the mail
        /// bounces as a loop, or stays queued if the domain is not that of the recipient.
        /// "smtp:host:port,host2:port": these servers, in this order. "smtps:host:port": these servers,
        /// with TLS from the first byte, as on port 465. "lmtp:host:port": these servers, by LMTP;
        /// "lmtp:unix:/run/dovecot/lmtp": LMTP over a Unix socket.
        /// "discard": the mail counts as delivered. "hold": the mail waits for an operator.
        /// "reject:text": the mail bounces with this text.
        next: RouteNext = Required("'smtp:relay.example.com:587'"), Live;
        /// TLS to the next hop, instead of the setting of its destination: "none", "may", "must" (any
        /// certificate) or "verify" (a certificate for the host name). With "smtps:", TLS is always used.
        /// A Unix socket has no TLS.
        tls: Option<OutboundTls> = Unset("'verify'"), Live;
        /// The user name for SMTP authentication at the servers of "smtp:" or "smtps:". Used only with
        /// TLS.
        auth_user: Option<String> = Unset("'ringpost'"), Live;
        /// The file with the password of `auth_user`, on one line.
        auth_password_file: Option<CredentialFile> = Unset("'/etc/ringpost/relay.password'"), Live;
        /// The pool of sources to send from, instead of `delivery.pool`.
        pool: Option<Label> = Unset("'shared'"), Live;
        /// How long delivery is attempted, instead of `delivery.max_age`.
        max_age: Option<Duration> = Unset("'1d'"), Live, SECOND_MS => 60 * DAY_MS;
        /// The class of the mail: "urgent", "normal" or "bulk". The classes of a tenant share each
        /// destination 20 : 5 : 1. A class gains nothing against other tenants. If not set, mail of a
        /// broadcast stream is "bulk" and other mail is "normal".
        class: Option<Class> = Unset("'urgent'"), Live;
        /// Where mail goes when it could not be delivered to the next hop for `fallback_after`: a relay,
        /// in the notation of `next`. A password is sent to it only if a route names the same servers as
        /// its next hop.
        fallback: Option<RouteNext> = Unset("'smtp:fallback.example.com:587'"), Live;
        /// The age at which mail that was tried at least once goes to `fallback`. Other mail goes there
        /// while its destination has failed for so long, but for one message at a time that finds out
        /// whether the destination works again. Mail that only waits, for a rate or for a destination
        /// that is paused, does not.
        fallback_after: Duration = Is("'1h'"), Live, SECOND_MS => 60 * DAY_MS;
    }
}

section! {
    /// A tenant, as named in `network.tenant`. This section may occur several times. Tenants without a
    /// section have the defaults. Rates hold over all destinations and shards. Those per minute, hour and
    /// day also hold over restarts.
    pub struct TenantConfig at "tenant" repeated {
        /// The name of the tenant.
        name: Label = Required("'acme'"), Live;
        /// The share of the tenant at each destination: one with weight 3 sends three times as much as
        /// one with weight 1, if both have mail.
        weight: u32 = Is("1"), Live, 1 => 1000;
        /// Messages per second to all destinations. 0 means no limit.
        messages_per_second: u32 = Is("0"), Live, 0 => 10_000_000;
        /// Messages per minute to all destinations. 0 means no limit.
        messages_per_minute: u32 = Is("0"), Live, 0 => 100_000_000;
        /// Messages per hour to all destinations. 0 means no limit.
        messages_per_hour: u32 = Is("0"), Live, 0 => 1_000_000_000;
        /// Messages per day to all destinations. 0 means no limit.
        messages_per_day: u32 = Is("0"), Live, 0 => 4_000_000_000;
    }
}

section! {
    /// A pool: a weighted set of sources. This section may occur several times.
    pub struct PoolConfig at "pool" repeated {
        /// The name of the pool, for routes.
        name: Label = Required("'shared'"), Live;
        /// The sources, each with an optional weight. A source with weight 3 sends three times as much
        /// as a source with weight 1.
        sources: Vec<PoolMember> = Required("['out-1:1']"), Live;
    }
}

section! {
    /// A source: an address to send from. This section may occur several times. The address must belong
    /// to this host, or to the `proxy`.
    pub struct SourceConfig at "source" repeated {
        /// The name of the source, for `pool.sources` and `ringpost route test`.
        name: Label = Required("'out-1'"), Live;
        /// The IPv4 address. Without it, the source reaches no server over IPv4.
        ipv4: Option<Ipv4Addr> = Unset("'192.0.2.25'"), Live;
        /// The IPv6 address. Without it, the source reaches no server over IPv6.
        ipv6: Option<Ipv6Addr> = Unset("'2001:db8::25'"), Live;
        /// The EHLO name, instead of `delivery.ehlo_name`.
        ehlo_name: Option<Hostname> = Unset("'out-1.example.com'"), Live;
        /// The proxy for outgoing connections, by its IP address. "haproxy://host:port" is told through
        /// the PROXY protocol (version 2) to connect from `ipv4` or `ipv6`, which belong to the proxy.
        /// "socks5://host:port" (default port 1080) chooses the source address itself; `ipv4` and `ipv6`
        /// then only select the address families, and if neither is set both are used.
        proxy: Option<Proxy> = Unset("'socks5://192.0.2.9:1080'"), Live;
        /// The user name for a SOCKS 5 proxy that requires one.
        proxy_user: Option<String> = Unset("'ringpost'"), Live;
        /// The file with the password of `proxy_user`, on one line.
        proxy_password_file: Option<CredentialFile> = Unset("'/etc/ringpost/proxy.password'"), Live;
    }
}

/// Makes the section of defaults and the section of destinations from one list of keys.
macro_rules! treatment {
    ($(
        $(#[doc = $doc:literal])+
        $key:ident : $kind:ty = $standard:literal $(, $low:expr => $high:expr)?;
    )+) => {
        section! {
            /// Defaults for destinations without a section of their own. A destination is a domain, or
            /// all domains with the same mail exchangers.
            pub struct DestinationDefaults at "destination_defaults" {
                $( $(#[doc = $doc])+ $key: $kind = Is($standard), Live $(, $low => $high)?; )+
            }
        }

        section! {
            /// Settings of one destination. This section may occur several times: the first one that
            /// names the recipient's domain applies, else the first one that names one of its mail
            /// exchangers. A key that is not set has its value from [destination_defaults].
            pub struct DestinationConfig at "destination" repeated {
                /// The name of the section, for `ringpost route test` and error messages.
                name: Label = Required("'example-net'"), Live;
                /// Recipient domains whose mail goes to their own mail exchangers, in the notation of
                /// `route.recipient_domain`. A server named by a route is a destination of its own: name it
                /// in `mx_host`.
                recipient_domain: Vec<DomainMatch> = Is("[]"), Live;
                /// Names of mail exchangers, in the same notation: ".example.net" matches every host
                /// below it. Servers named by a route match too, also by address, as "[192.0.2.1]".
                mx_host: Vec<DomainMatch> = Is("[]"), Live;
                $( $(#[doc = $doc])+ $key: Option<$kind> = Unset($standard), Live $(, $low => $high)?; )+
            }
        }

        impl DestinationConfig {
            /// The settings of the destination, with the defaults for keys that are not set.
            pub fn treatment(&self, standard: &DestinationDefaults) -> DestinationDefaults {
                DestinationDefaults { $( $key: self.$key.unwrap_or(standard.$key), )+ }
            }
        }
    };
}

treatment! {
    /// Open connections of all cores together.
    connections_max: u32 = "20", 1 => 100_000;
    /// The initial limit of open connections. It rises with successes and falls with failures.
    window_start: u32 = "5", 1 => 100_000;
    /// Messages sent over one connection before it is closed.
    messages_per_connection: u32 = "100", 1 => 1_000_000;
    /// Recipients in one transaction. A message with more is sent in several transactions.
    recipients_per_message: u32 = "100", 1 => 100_000;
    /// Messages per second. 0 means no limit.
    messages_per_second: u32 = "0", 0 => 10_000_000;
    /// Messages per minute. 0 means no limit. Rates per minute, hour and day hold over restarts.
    messages_per_minute: u32 = "0", 0 => 100_000_000;
    /// Messages per hour. 0 means no limit.
    messages_per_hour: u32 = "0", 0 => 1_000_000_000;
    /// Messages per day. 0 means no limit.
    messages_per_day: u32 = "0", 0 => 4_000_000_000;
    /// Messages per second from each source address. 0 means no limit. While a source has used up its
    /// rate, the other sources of the pool go on. Without a pool, the address that the system chooses
    /// counts as one source.
    source_messages_per_second: u32 = "0", 0 => 10_000_000;
    /// Messages per minute from each source address. 0 means no limit. Rates per minute, hour and day
    /// hold over restarts.
    source_messages_per_minute: u32 = "0", 0 => 100_000_000;
    /// Messages per hour from each source address. 0 means no limit.
    source_messages_per_hour: u32 = "0", 0 => 1_000_000_000;
    /// Messages per day from each source address. 0 means no limit.
    source_messages_per_day: u32 = "0", 0 => 4_000_000_000;
    /// How long an idle connection is kept open for the next message.
    idle_reuse: Duration = "'5s'", 0 => 10 * MINUTE_MS;
    /// Failed connections in a row after which the destination is in backoff: no connection is opened.
    failures_to_back_off: u32 = "5", 1 => 1000;
    /// The length of the first backoff. Each further one is twice as long.
    back_off_first: Duration = "'1m'", 100 => DAY_MS;
    /// The longest backoff.
    back_off_max: Duration = "'1h'", 100 => DAY_MS;
    /// The number of cores that share the destination. Use more than one for a destination that one
    /// core cannot serve, such as a smarthost: each core then sends its own mail over its own
    /// connections. "all": every core. "auto": every core if each can have two connections and no
    /// message rate is limited, else one. Connections and message rates are divided among the cores that
    /// have mail, so that all cores together keep to the limits. At most `connections_max` cores share
    /// a destination.
    stripes: Stripes = "1";
    /// TLS: "none", "may" (if the server offers it), "must" (any certificate) or "verify" (a certificate
    /// for the host name).
    tls: OutboundTls = "'may'";
}

impl Default for DestinationDefaults {
    fn default() -> DestinationDefaults {
        standard()
    }
}

/// An invalid host name is reported where it is set, not again where it is used.
fn own_hostname(reading: &Reading<'_>) -> String {
    let written = text_of(reading, &<ServerConfig as Section>::DOC, "hostname");
    let written = Hostname::spell(&written).map(|name| name.to_string());
    written.unwrap_or_else(|_| reading.hostname.clone())
}
