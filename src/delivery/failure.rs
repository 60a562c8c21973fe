//! Why a connection could not be made, or broke.

/// Decides what the failure means for the destination and for the mail that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    Resolve,
    Connect,
    Timeout,
    Tls,
    Greeting,
    /// The server refuses the session. The text is its reply.
    Refused,
    Protocol,
    Lost,
    /// This server lacks a descriptor, memory, a port or a lookup. Says nothing of the destination.
    Ours,
    /// The source or its proxy does not work. The destination is not to blame, but its mail does not
    /// stay in memory until an operator has repaired it.
    WayOut,
}

/// A failed connection. The text is for operators.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'a> {
    pub kind: FailureKind,
    pub text: &'a str,
    /// The host that failed. Empty: the failure says nothing of any host.
    pub host: &'a str,
}
