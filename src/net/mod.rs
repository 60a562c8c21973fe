//! The network above the socket: TLS today, resolver and source addresses later.
//!
//! Owner:    a `TlsServer` is an immutable snapshot, shared by all shards as `Arc`; a reload builds
//!           a new one and replaces it as a whole. A `Channel` belongs to one session of one shard.
//! Promise:  plaintext comes out exactly as the peer sent it or not at all, and a connection that
//!           ends without `close_notify` is never taken for a clean end.
//! Bounds:   an idle TLS connection holds its keys and no buffer. What a peer has sent of an
//!           unfinished record (18 KiB at most) is held, and nothing else.
//! Home of:  rustls, webpki, rcgen. No other folder names them.

pub mod certificate;
pub mod client;
pub mod self_signed;
pub mod session;
pub mod socket;
pub mod stream;
pub mod tls;

pub use certificate::CertificateFacts;
pub use certificate::TlsCause;
pub use certificate::TlsProblem;
pub use certificate::TlsProblems;
pub use client::ClientCertificate;
pub use self_signed::SelfSigned;
pub use self_signed::self_signed;
pub use session::TlsFacts;
pub use session::TlsFault;
pub use session::TlsSession;
pub use socket::Socket;
pub use socket::SocketFault;
pub use stream::Channel;
pub use stream::Transport;
pub use tls::ClientCertificates;
pub use tls::MinVersion;
pub use tls::TlsServer;
pub use tls::TlsSettings;
