//! The network above the socket: TLS in both roles, DANE, MTA-STS, the resolver, proxies.
//!
//! Owner:    a `TlsServer` or `TlsClient` is an immutable snapshot, shared by all shards as `Arc`; a
//!           reload builds a new one. A `Channel` belongs to one session or transfer of one shard, a
//!           `Resolver` to one shard.
//! Promise:  plaintext is delivered exactly as the peer sent it or not at all. A connection that ends
//!           without `close_notify` is never taken for a clean end.
//! Bounds:   an idle TLS connection holds its keys and no buffer, except the received part of an
//!           incomplete record (18 KiB at most). A `Resolver` has its own bounds.
//! Home of:  rustls, webpki, x509-cert, rcgen, aws-lc-rs, hickory-proto. No other folder names them.

pub mod address;
pub mod certificate;
mod client_certificate;
pub mod dane;
pub mod mta_sts;
pub mod proxied;
mod record;
pub mod resolver;
pub mod self_signed;
mod server_verifier;
pub mod session;
mod side;
pub mod socket;
pub mod stream;
pub mod tls_client;
pub mod tls_facts;
pub mod tls_fault;
pub mod tls_memory;
pub mod tls_server;
pub mod transfer;
mod x509;

pub use crate::wire::tls::ClientCertificates;
pub use crate::wire::tls::TlsVersion;
pub use address::AddressRule;
pub use address::Barred;
pub use address::Vantage;
pub use client_certificate::ClientCertificate;
pub use dane::TlsaRecord;
pub use mta_sts::StsMode;
pub use mta_sts::StsPolicy;
pub use proxied::ProxyFault;
pub use resolver::BlockingResolver;
pub use resolver::CacheBounds;
pub use resolver::DnsFault;
pub use resolver::Family;
pub use resolver::Resolver;
pub use resolver::ResolverFigures;
pub use resolver::ResolverSettings;
pub use self_signed::self_signed;
pub use server_verifier::PeerCheck;
pub use session::TlsSession;
pub use socket::Socket;
pub use socket::SocketFault;
pub use stream::Channel;
pub use stream::Transport;
pub use tls_client::TlsClient;
pub use tls_client::TlsClientSettings;
pub use tls_facts::ServerCertificate;
pub use tls_facts::TlsFacts;
pub use tls_facts::Verdict;
pub use tls_fault::CertificateFault;
pub use tls_fault::TlsFault;
pub use tls_memory::BrokenTls;
pub use tls_memory::TlsReports;
pub use tls_memory::TlsResult;
pub use tls_server::TlsServer;
pub use tls_server::TlsSettings;
