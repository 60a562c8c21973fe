//! SMTP and LMTP: bytes become steps (RFC 5321, RFC 2033). No I/O, no clock, no config file.
//!
//! ```text
//! input --line::cut--> Line --Command::parse--> verb --Server--> Step + replies
//!                                                         |
//!          dot::DotDecoder, counted bytes by LineLaw <---+  bodies, streamed by the driver
//! ```
//!
//! The other half, `Client`, is fed replies and gives commands; `Stuffer` is `DotDecoder` backwards.
//!
//! One `Server` lives as long as its connection, one `Transaction` as long as its message. The
//! driver is one `match` over `Step` in a loop; its duties stand at each variant.
//!
//! The phases of a session, what ends each, and what its message has come to:
//!
//! ```text
//! Fresh     connected            EHLO               -
//! Ready     greeted              MAIL               -
//! Envelope  MAIL was accepted    DATA, BDAT, RSET   addresses in the transaction
//! Chunks    a BDAT was kept      BDAT LAST, RSET    part of the body is with the driver
//! Failed    a BDAT was refused   BDAT LAST, RSET    dropped; what follows of it is swallowed
//! ```

pub mod bdat;
pub mod capability;
pub mod client;
pub mod client_login;
pub mod client_mail;
pub mod client_offers;
pub mod client_reply;
pub mod command;
pub mod dot;
pub mod line;
pub mod line_law;
pub mod params;
pub mod reply;
pub mod server;
pub mod stuff;
pub mod transaction;
pub mod verb;
pub mod xclient;
pub mod xtext;

pub use client::BodyForm;
pub use client::Client;
pub use client::ClientConfig;
pub use client::ClientStep;
pub use client::Fault;
pub use client::Stage;
pub use client::TlsUse;
pub use client_mail::Mail;
pub use client_mail::MailRecipient;
pub use client_mail::Outcome;
pub use client_offers::Offers;
pub use dot::DotDecoder;
pub use line::LineEnding;
pub use line::LineFault;
pub use line_law::LineLaw;
pub use reply::Reply;
pub use server::BodyMode;
pub use server::BodyOutcome;
pub use server::Protocol;
pub use server::Question;
pub use server::Server;
pub use server::ServerConfig;
pub use server::Step;
pub use server::Verdict;
pub use stuff::Stuffer;
pub use transaction::BodyType;
pub use transaction::MailParams;
pub use transaction::Notify;
pub use transaction::Recipient;
pub use transaction::Ret;
pub use transaction::Transaction;
pub use xclient::Xclient;
