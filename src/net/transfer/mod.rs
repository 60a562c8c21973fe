//! The SMTP or LMTP exchange over one connection, as client. Delivery and the load generator use it.
//!
//! ```text
//! connection   the driver of `wire::smtp::Client`: greeting, mails, end
//! body_writer  its part that sends a body
//! timeouts     how long each stage may take
//! peer         what a transport must offer
//! body         where a body comes from
//! watch        who is told of writes and replies
//! ```

pub mod body;
mod body_writer;
pub mod connection;
pub mod peer;
pub mod timeouts;
pub mod watch;

pub use body::BodySource;
pub use body::BodyUnreadable;
pub use connection::Sent;
pub use connection::Transfer;
pub use peer::Peer;
pub use timeouts::ClientTimeouts;
pub use watch::Watch;
