//! The sections about receiving mail: listeners, relaying, limits, timeouts, TLS.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::base::limits::BODY_LINE_BYTES_MAX;
use crate::base::limits::CHUNK_BYTES;
use crate::base::limits::STREAM_CHUNKS_IN_FLIGHT_MAX;
use crate::config::key::Standard::Follows;
use crate::config::key::Standard::Is;
use crate::config::key::Standard::Required;
use crate::config::key::Standard::Unset;
use crate::config::name::DomainPattern;
use crate::config::name::Label;
use crate::config::name::ReplyText;
use crate::config::section::section;
use crate::config::units::DAY_MS;
use crate::config::units::GIB;
use crate::config::units::HOUR_MS;
use crate::config::units::KIB;
use crate::config::units::MINUTE_MS;
use crate::config::units::SECOND_MS;
use crate::config::units::TIB;
use crate::config::value::CredentialFile;
use crate::config::value::SenderReports;
use crate::config::value::Stream;
use crate::config::value::TlsMode;
use crate::wire::smtp::LineEnding;
use crate::wire::smtp::Protocol;
use crate::wire::tls::ClientCertificates;
use crate::wire::tls::TlsVersion;

/// A session must be able to have its chunks in flight and one to receive into.
pub const BODY_MEMORY_MIN: u64 = (CHUNK_BYTES * (STREAM_CHUNKS_IN_FLIGHT_MAX + 1)) as u64;

section! {
    /// A listener for incoming mail. This section may occur several times. Without any, there is one
    /// listener with the defaults below. If a changed key needs a restart, the whole listener keeps
    /// its old settings until then; only restrictions take effect at once: networks removed from a
    /// trust list, and TLS or client certificates that are now required. A listener removed from the
    /// file keeps listening until the restart, but trusts no network for XCLIENT or line endings.
    pub struct ListenerConfig at "listener" repeated {
        /// The name of the listener, for `route.listener` and `ringpost route test`.
        name: Label = Follows(
            "`listener-1`, `listener-2` and so on, in the order of the file",
            "'listener-1'",
            |reading| format!("'listener-{}'", reading.number),
        ), Restart;
        /// The addresses to listen on.
        address: Vec<SocketAddr> = Is("['127.0.0.1:2525', '[::1]:2525']"), Restart;
        /// "smtp", or "lmtp" (RFC 2033), which sends one reply per recipient after the body.
        protocol: Protocol = Is("'smtp'"), Restart;
        /// "none", "starttls" (offered after EHLO), or "implicit" (TLS from the first byte).
        tls: TlsMode = Is("'starttls'"), Restart;
        /// Whether mail is refused with 530 until TLS is active.
        tls_required: bool = Is("false"), Live;
        /// Whether clients are asked for a certificate: "none", "optional" or "required".
        client_certificates: ClientCertificates = Is("'none'"), Live;
        /// The file with the CA certificates (PEM) that client certificates are verified against.
        client_ca: Option<CredentialFile> = Unset("'/etc/ringpost/client-ca.pem'"), Live;
        /// Networks of load balancers. Connections from them must start with a PROXY header, version 1
        /// or 2, whose address replaces the address of the peer. Other peers must not send one. A
        /// client without an address in the header (UNKNOWN, LOCAL) belongs to no trusted network.
        proxy_from: Vec<IpNet> = Is("[]"), Live;
        /// Networks whose clients may use XCLIENT.
        xclient_from: Vec<IpNet> = Is("[]"), Live;
        /// How a bare CR or LF is treated. "strict" refuses it. "normalise" converts it to CRLF, for
        /// old software in the networks of `trusted_from`; all other clients stay strict. NUL is
        /// always refused. A body with BODY=BINARYMIME may contain all three.
        line_ending: LineEnding = Is("'strict'"), Live;
        /// Networks to which `line_ending = "normalise"` applies.
        trusted_from: Vec<IpNet> = Is("[]"), Live;
        /// Which reports (DSNs) the senders of mail on this listener get: "all", "no-delays" (no delay
        /// warnings) or "none", also where a client asks for them with NOTIFY. Without reports,
        /// failures are found in the log only. Mail that is queued already follows the new setting.
        dsn: SenderReports = Is("'all'"), Live;
        /// The largest message on this listener, instead of `limits.message_size`.
        size_max: Option<u64> = Unset("'100MB'"), Live, KIB => 64 * GIB;
        /// The text at the end of the greeting, `220 hostname ESMTP banner` (or LMTP).
        banner: ReplyText = Is("'Ringpost'"), Live;
        /// How long to wait before the greeting. Clients that send data earlier are refused.
        greeting_delay: Duration = Is("'0s'"), Live, 0 => MINUTE_MS;
    }
}

section! {
    /// Who may send mail to whom through this server. Mail that no rule here allows is refused with
    /// 550 5.7.1.
    pub struct RelayConfig at "relay" {
        /// Networks that may send to any domain. Their mail belongs to no tenant; see `[[network]]`.
        networks: Vec<IpNet> = Is("['127.0.0.0/8', '::1/128']"), Live;
        /// Recipient domains for which mail is accepted from anyone. "example.com" matches only that
        /// domain; ".example.com" matches its subdomains.
        domains: Vec<DomainPattern> = Is("[]"), Live;
        /// Sender domains that are refused from all clients.
        refuse_senders: Vec<DomainPattern> = Is("[]"), Live;
        /// Recipient domains that are refused from all clients. Overrides `domains`.
        refuse_recipients: Vec<DomainPattern> = Is("[]"), Live;
    }
}

section! {
    /// A trusted network that sends for a tenant. This section may occur several times. Its clients
    /// may send to any domain, like those of `relay.networks`. If networks overlap, the most specific
    /// one applies; if two are equal, this section overrides `relay.networks`.
    pub struct NetworkConfig at "network" repeated {
        /// The addresses of the clients.
        cidr: Vec<IpNet> = Required("['10.1.0.0/16']"), Live;
        /// The tenant that their mail belongs to: for `route.tenants`, fairness and the log.
        tenant: Label = Required("'acme'"), Live;
        /// The kind of mail: "transactional" or "broadcast".
        stream: Stream = Is("'transactional'"), Live;
    }
}

section! {
    /// Limits, and the reply when each of them is reached.
    pub struct LimitsConfig at "limits" {
        /// The largest message, announced as SIZE. A larger one is refused with 552 5.3.4 at MAIL or
        /// while it is received.
        message_size: u64 = Is("'25MB'"), Live, KIB => 64 * GIB;
        /// Recipients of one message. Further ones get 452 4.5.3. RFC 5321 s4.5.3.1.8 requires at
        /// least 100.
        recipients_per_message: usize = Is("1000"), Live, 1 => 100_000;
        /// Messages in one session. Then the session is closed with 421.
        messages_per_session: usize = Is("100000"), Live, 1 => 1_000_000_000;
        /// Commands in one session. Then the session is closed with 421.
        commands_per_session: usize = Is("1000000"), Live, 10 => 1_000_000_000;
        /// Refused commands in one session. Then the session is closed with 421.
        errors_per_session: usize = Is("20"), Live, 1 => 1_000_000;
        /// Open client connections in total. Further ones get 421.
        connections: usize = Is("20000"), Live, 1 => 10_000_000;
        /// Open connections from one client address. Further ones get 421.
        connections_per_address: usize = Is("100"), Live, 1 => 10_000_000;
        /// Open connections from one client network. Further ones get 421.
        connections_per_network: usize = Is("400"), Live, 1 => 10_000_000;
        /// The prefix length of a client network in IPv4.
        network_prefix_v4: u8 = Is("24"), Live, 8 => 32;
        /// The prefix length of a client network in IPv6.
        network_prefix_v6: u8 = Is("56"), Live, 16 => 128;
        /// New connections per minute from one client address. Further ones get 421.
        connection_rate_per_address: usize = Is("600"), Live, 1 => 10_000_000;
        /// Networks that are exempt from the limits per address and per network.
        exempt_networks: Vec<IpNet> = Is("['127.0.0.0/8', '::1/128']"), Live;
        /// Received fields in one message. More indicate a loop; the message is refused with 554 5.4.6.
        received_count: usize = Is("50"), Live, 10 => 1000;
        /// Bytes of a body line, including CRLF. A message with a longer line is refused with
        /// 554 5.6.0. Not limited by default, because much software ignores RFC 5321 s4.5.3.1.6.
        body_line_length: Option<usize> = Unset("1000"), Live, BODY_LINE_BYTES_MAX as u64 => 1 << 30;
        /// Bytes per second that a client must send on average during a body. A slower one gets 421.
        /// 0 disables the limit.
        min_data_rate: u64 = Is("64"), Live, 0 => GIB;
        /// How long a body may take before `min_data_rate` applies.
        min_data_rate_grace: Duration = Is("'30s'"), Live, SECOND_MS => HOUR_MS;
        /// Memory for message bodies on their way to the queue, shared by all cores. When all of it is
        /// in use, a new body gets 452 4.3.1 and a body in progress waits.
        body_memory: u64 = Is("'128MiB'"), Restart, BODY_MEMORY_MIN => TIB;
    }
}

section! {
    /// Timeouts of incoming sessions. A client that exceeds one gets 421. The defaults are those of
    /// RFC 5321 s4.5.3.2.
    pub struct TimeoutsConfig at "timeouts" {
        /// For the PROXY header of a load balancer.
        proxy_header: Duration = Is("'10s'"), Live, 100 => HOUR_MS;
        /// For the TLS handshake.
        tls_handshake: Duration = Is("'30s'"), Live, 100 => HOUR_MS;
        /// For the first command after the greeting.
        greeting: Duration = Is("'5m'"), Live, 100 => DAY_MS;
        /// For the next command within a mail transaction.
        command: Duration = Is("'5m'"), Live, 100 => DAY_MS;
        /// For the next command outside a mail transaction.
        idle: Duration = Is("'5m'"), Live, 100 => DAY_MS;
        /// For the first bytes of a body.
        data_init: Duration = Is("'2m'"), Live, 100 => HOUR_MS;
        /// For the next bytes of a body.
        data_block: Duration = Is("'3m'"), Live, 100 => HOUR_MS;
        /// For the client to read a reply.
        reply: Duration = Is("'5m'"), Live, 100 => HOUR_MS;
    }
}

section! {
    /// TLS settings of all listeners.
    pub struct TlsConfig at "tls" {
        /// The oldest accepted TLS version, "1.2" or "1.3".
        min_version: TlsVersion = Is("'1.2'"), Live;
        /// Whether clients may resume sessions with tickets.
        session_tickets: bool = Is("true"), Live;
    }
}

section! {
    /// A certificate of the listeners. This section may occur several times: a client gets the
    /// certificate for the name that it asks for (SNI), else the first one. Without any, the server
    /// creates a self-signed certificate at start and keeps it in the spool.
    pub struct CertificateConfig at "tls.certificate" repeated {
        /// The file with the certificate and its chain (PEM).
        certificate: CredentialFile = Required("'/etc/ringpost/mail.example.com.pem'"), Live;
        /// The file with the private key of the certificate (PEM).
        key: CredentialFile = Required("'/etc/ringpost/mail.example.com.key'"), Live;
    }
}
