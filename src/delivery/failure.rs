//! Why a connection could not be made, or broke.

use crate::handoff::frame::Answer;
use crate::handoff::frames::OurLimit;
use crate::rt::IoFault;
use crate::wire::classify::Cause;
use crate::wire::smtp::client_reply::read_enhanced;

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
    Ours(OurLimit),
    /// The source or its proxy does not work. The destination is not to blame, but its mail does not
    /// stay in memory until an operator has repaired it.
    WayOut,
}

/// What this server lacked for an operation with this fault.
pub const fn lack_of(fault: IoFault) -> OurLimit {
    match fault {
        IoFault::NoLocalPort | IoFault::AddressInUse => OurLimit::Ports,
        IoFault::NoMemory | IoFault::NoChunk => OurLimit::Memory,
        _ => OurLimit::Descriptors,
    }
}

/// What is told of mail for which there was no connection. The words of a server are told as such, so
/// that they are judged as any reply of a server.
pub fn answer_to(kind: FailureKind, text: &str) -> Answer {
    match kind {
        FailureKind::Refused => {
            let status = status_of(text);
            Answer { status, text: text.into(), remote: true, cause: None }
        }
        _ => Answer::ours(cause_of(kind), text),
    }
}

/// The enhanced code behind the code of a reply, or the class of this code.
fn status_of(reply: &str) -> (u8, u16, u16) {
    let code = reply.get(..3).and_then(|digits| digits.parse().ok()).unwrap_or(400);
    let words = reply.get(4..).unwrap_or("").as_bytes();
    read_enhanced(code, words).map_or(((code / 100) as u8, 0, 0), |(enhanced, _)| enhanced)
}

/// The cause that the sender is told.
const fn cause_of(kind: FailureKind) -> Cause {
    match kind {
        FailureKind::Resolve => Cause::DnsFailed,
        FailureKind::Connect | FailureKind::Greeting | FailureKind::Refused => Cause::Unreachable,
        FailureKind::Timeout => Cause::ConnectTimeout,
        FailureKind::Tls => Cause::TlsFailed,
        FailureKind::Protocol => Cause::ProtocolError,
        FailureKind::Lost => Cause::ConnectionLost,
        FailureKind::Ours(_) | FailureKind::WayOut => Cause::OurFault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_server_that_refuses_us_are_told() {
        for (reply, status) in [
            ("554 5.7.1 listed", (5, 7, 1)),
            ("554-5.7.1 listed / 554 5.7.1 see there", (5, 7, 1)),
            ("554 go away", (5, 0, 0)),
            ("421 5.7.1 class of another", (4, 0, 0)),
            ("450 1.2.3.4 is no code", (4, 0, 0)),
            ("554", (5, 0, 0)),
        ] {
            let answer = answer_to(FailureKind::Refused, reply);
            assert_eq!((answer.status, &*answer.text), (status, reply));
            assert!(answer.remote && answer.cause.is_none());
        }
        let ours = answer_to(FailureKind::Connect, "connection refused");
        assert_eq!((ours.remote, ours.cause), (false, Some(Cause::Unreachable)));
    }
}
