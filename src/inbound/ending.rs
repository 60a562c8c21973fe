//! Ends a session: the last reply, the close, and the record of the cause.

use std::borrow::Cow;
use std::time::Duration;

use crate::inbound::session::End;
use crate::inbound::session::Session;
use crate::observe::label::SessionState;
use crate::observe::log::Record;
use crate::wire::smtp::reply::Reply;

/// How long, and how many bytes of, input is read and discarded after the last reply.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 4 << 20;

impl Session {
    /// Sends the last reply, then closes the connection.
    pub(super) async fn part(&mut self, end: End) {
        let last_reply = match end {
            End::TimedOut(SessionState::Write | SessionState::Handshake) => None,
            End::Gone | End::TlsFailed | End::Broken => None,
            End::TimedOut(_) => Some("Timeout, closing the connection"),
            End::TooSlow => Some("Data arrives too slowly, closing the connection"),
            End::Draining => Some("Service shutting down, try again later"),
            End::Closed => Some(""),
        };
        if let Some(state) = timed_out_in(end) {
            self.reception.metrics().sessions_timed_out_total.add(state, 1);
        }
        match last_reply {
            None => self.out.clear(),
            Some("") => {}
            Some(text) => {
                let enhanced = if end == End::Draining { (4, 3, 2) } else { (4, 4, 2) };
                self.server.close(&Reply::new(421, enhanced, text), &mut self.out);
            }
        }
        let may_send_on = matches!(end, End::Closed | End::TooSlow) && !is_goodbye(&self.out);
        if self.flush().await.is_ok() && self.channel.close().await.is_ok() {
            // A peer that has closed its end needs no end of stream.
            let _ = self.channel.stream().shutdown_write();
            if may_send_on {
                self.linger().await;
            }
        }
        self.input.drop_all(&self.reception.pool);
        Record::SessionClosed {
            peer: self.identity.peer(),
            reason: &name(end),
            messages: u64::from(self.accepted),
            commands: u64::from(self.server.commands()),
            errors: u64::from(self.server.errors()),
            bytes: self.bytes_accepted,
        }
        .emit();
    }

    /// Reads and discards what the client still sends. Closing a socket with unread input sends a reset,
    /// which may overtake the reply that explains the close.
    async fn linger(&mut self) {
        let pool = &self.reception.pool;
        let stream = self.channel.stream_mut();
        stream.deadline().set_in(LINGER_TIMEOUT);
        let mut dropped = 0;
        while dropped < LINGER_BYTES_MAX
            && let Ok(chunk) = stream.read(pool, None).await
        {
            dropped += chunk.len();
            pool.give(chunk);
        }
    }
}

fn name(end: End) -> Cow<'static, str> {
    let name = match end {
        End::Closed => "closed",
        End::Gone => "peer-gone",
        End::TimedOut(state) => return format!("timeout-{}", state.name()).into(),
        End::TooSlow => "too-slow",
        End::Draining => "draining",
        End::TlsFailed => "tls-failed",
        End::Broken => "broken",
    };
    name.into()
}

fn timed_out_in(end: End) -> Option<SessionState> {
    match end {
        End::TooSlow => Some(SessionState::Rate),
        End::TimedOut(state) => Some(state),
        End::Closed | End::Gone | End::Draining | End::TlsFailed | End::Broken => None,
    }
}

/// Whether the last reply is that to QUIT, after which clients send nothing.
fn is_goodbye(out: &[u8]) -> bool {
    let last = out.strip_suffix(b"\r\n").unwrap_or(out);
    let start = last.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    last[start..].starts_with(b"221")
}
