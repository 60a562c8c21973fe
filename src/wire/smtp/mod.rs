//! SMTP and LMTP as state machines (RFC 5321, RFC 2033). No I/O, no clock, no config file.
//!
//! ```text
//! input --line::cut--> Line --Command::parse--> verb --Server--> Step + replies
//!                                                         |
//!          dot::DotDecoder, counted bytes by LineLaw <---+  bodies, streamed by the driver
//! ```
//!
//! `Client` is the other side: it takes replies and writes commands. `Stuffer` is the inverse of
//! `DotDecoder`.
//!
//! One `Server` lives as long as its connection, one `Transaction` as long as its message. The
//! driver is one `match` over `Step` in a loop; each variant says what the driver must do.
//!
//! The phases of a session, the commands that end them, and the state of the message:
//!
//! ```text
//! Fresh     connected            EHLO               -
//! Ready     greeted              MAIL               -
//! Envelope  MAIL was accepted    DATA, BDAT, RSET   addresses in the transaction
//! Chunks    a BDAT was accepted  BDAT LAST, RSET    the driver has a part of the body
//! Failed    a BDAT was refused   BDAT LAST, RSET    dropped; further chunks are swallowed
//! ```

pub mod bdat;
mod bdat_line;
pub mod capability;
pub mod client;
pub mod client_envelope;
pub mod client_login;
pub mod client_mail;
pub mod client_offers;
pub mod client_reply;
pub mod client_step;
mod client_transfer;
pub mod command;
pub mod dot;
pub mod line;
pub mod line_law;
pub mod params;
pub mod reply;
pub mod server;
mod server_line;
pub mod stuff;
pub mod transaction;
pub mod verb;
pub mod xclient;
pub mod xtext;

pub use client::Client;
pub use client_envelope::Mail;
pub use client_envelope::MailRecipient;
pub use client_mail::Outcome;
pub use client_step::ClientConfig;
pub use client_step::Fault;
pub use client_step::Stage;
pub use client_step::TlsUse;
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
pub use transaction::BodyType;
pub use transaction::Ret;
pub use transaction::Transaction;
