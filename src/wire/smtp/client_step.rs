//! The steps, stages and faults of a client session, and its configuration.

use thiserror::Error;

use crate::wire::smtp::client_reply::ReplyFault;
use crate::wire::smtp::reply::Reply;

/// The configuration that all connections to a destination share.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The argument of EHLO: a host name or an address literal.
    pub ehlo_name: String,
    pub lmtp: bool,
    /// Use PIPELINING if the peer offers it.
    pub pipelining: bool,
    /// Use BDAT if the peer offers it.
    pub chunking: bool,
    /// A body of at most this size is sent as one chunk together with MAIL and RCPT, before their
    /// replies: the mail takes one round trip. A peer that refuses all recipients must still read
    /// the chunk (RFC 3030 s4.2); 0 for peers that may not.
    pub chunk_ahead_bytes_max: u64,
    pub tls: TlsUse,
}

/// When to use STARTTLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsUse {
    Never,
    IfOffered,
    /// No mail without TLS.
    Always,
}

/// The command whose reply is awaited. Each has a time limit of its own (RFC 5321 s4.5.3.2). In an
/// outcome, the command that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Greeting,
    /// EHLO, LHLO and HELO.
    Ehlo,
    StartTls,
    /// AUTH and its further lines.
    Auth,
    Mail,
    Rcpt,
    /// DATA, before the body.
    Data,
    /// The end of the body.
    End,
    Rset,
    Quit,
}

/// The encoding of the body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyForm {
    /// Dot-stuffed by `Stuffer`, with the end marker.
    #[default]
    Dot,
    /// Unchanged, `Mail::bytes` bytes. The BDAT command is in `out`.
    Chunk,
}

/// The driver's next task. Exactly one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientStep {
    /// Write `out`, read, `feed`, and call `next` again. Call `fail` when reading fails or takes
    /// longer than the stage allows.
    Read(Stage),
    /// If input follows the reply, `fail` with `Fault::InputBeforeTls` (RFC 3207 s4.2). Otherwise
    /// do the handshake and call `on_tls`, or `fail`.
    StartTls,
    /// The session is idle: call `begin` or `quit`. `out` is empty.
    Ready,
    /// If input has already arrived, feed it and call `next` again: the peer refuses the body.
    /// Otherwise write `out` and the body, and call `on_body_sent`. If writing fails, call
    /// `on_body_broken`; the peer's last reply is then read.
    SendBody(BodyForm),
    /// Call `take_outcomes`, then `next`.
    Done,
    /// Close the connection. `Client::fault` says why; `None` after QUIT.
    Close,
}

/// Why the connection cannot be used any longer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    #[error("the peer closed the connection")]
    Ended,
    #[error("no reply in time at {0:?}")]
    TimedOut(Stage),
    /// The peer replied or read slowly, each time within its limit.
    #[error("the transfer of the message took too long")]
    TooSlow,
    /// The peer refused the session in its greeting, in its answer to EHLO, or with a 421.
    #[error("refused at {stage:?}: {}", .reply.in_one_line())]
    Refused { stage: Stage, reply: Reply },
    #[error("{0}")]
    BadReply(ReplyFault),
    /// A reply that is not valid at this stage.
    #[error("unexpected reply at {stage:?}: {}", .reply.in_one_line())]
    Unexpected { stage: Stage, reply: Reply },
    #[error("the peer sent an unsolicited reply")]
    Unasked,
    /// TLS is required.
    #[error("the peer does not offer STARTTLS")]
    TlsNotOffered,
    /// TLS is required.
    #[error("STARTTLS was refused: {}", .0.in_one_line())]
    TlsRefused(Reply),
    #[error("the TLS handshake failed")]
    TlsFailed,
    #[error("the peer sent clear text after its reply to STARTTLS")]
    InputBeforeTls,
    #[error("a login is configured, but the peer offers neither AUTH PLAIN nor AUTH LOGIN")]
    LoginNotOffered,
    #[error("the peer refused the user name and password: {}", .0.in_one_line())]
    LoginRefused(Reply),
    #[error("the body could not be sent completely")]
    BodyBroken,
}
