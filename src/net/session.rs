//! One TLS connection as a state machine without I/O: bytes in, bytes out.
//!
//! Owner:    the SMTP session or transfer that the connection belongs to.
//! Promise:  `absorb` yields what the peer encrypted, in order and in whole records; the end is clean
//!           only after `close_notify`. A broken connection stays broken; its alert is in `out` for
//!           the caller to send.
//! Memory:   rustls is used through its unbuffered interface: records are decrypted in place, in the
//!           caller's memory. Kept between calls: the received part of a record (18 KiB at most)
//!           and plaintext for which `room` was too small (a record or two). Both are freed once
//!           empty, so an idle connection holds no buffer.
//! Bounds:   `INPUT_BYTES_MAX` per call, about 50 us of decryption; `HANDSHAKE_BYTES_MAX` for the
//!           handshake.

use std::fmt;
use std::sync::Arc;

use rustls::server::UnbufferedServerConnection;

use crate::base::limits::CHUNK_BYTES;
use crate::net::record::Event;
use crate::net::record::Flow;
use crate::net::record::Held;
use crate::net::record::Outgoing;
use crate::net::record::top_up;
use crate::net::record::whole_records;
use crate::net::server_verifier::PeerCheck;
use crate::net::side::ClientSide;
use crate::net::side::Side;
use crate::net::tls_client::TlsClient;
use crate::net::tls_facts::TlsFacts;
use crate::net::tls_fault::HANDSHAKE_BYTES_MAX;
use crate::net::tls_fault::TlsFault;
use crate::net::tls_server::TlsServer;
use crate::net::tls_server::take_requested_name;

/// Ciphertext consumed by one call. The rest is left for the next call.
pub const INPUT_BYTES_MAX: usize = CHUNK_BYTES;

/// The result of one call of `absorb`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Absorbed {
    /// Bytes of `input` consumed.
    pub consumed: usize,
    /// Bytes of plaintext written to the start of `room`.
    pub produced: usize,
}

/// The local side of one TLS connection.
pub struct TlsSession {
    side: Side,
    facts: Option<TlsFacts>,
    requested_name: Option<Box<str>>,
    /// Ciphertext of an incomplete record.
    pending: Vec<u8>,
    /// Offset in `pending` of the first incomplete record.
    pending_at: usize,
    held: Held,
    /// 32 bits to save memory per connection.
    handshake_bytes: u32,
    peer_closed: bool,
    fault: Option<TlsFault>,
}

impl TlsSession {
    /// An accepted connection. The peer sends first.
    pub fn new(server: &Arc<TlsServer>) -> Result<TlsSession, TlsFault> {
        let connection = UnbufferedServerConnection::new(Arc::clone(server.config()))?;
        Ok(TlsSession::on(Side::Server { connection, server: Arc::clone(server) }))
    }

    /// A connection to `host`. We send first: `absorb` without input yields the client hello.
    pub fn to_server(
        client: &Arc<TlsClient>,
        host: &str,
        check: PeerCheck,
    ) -> Result<TlsSession, TlsFault> {
        Ok(TlsSession::on(Side::Client(ClientSide::new(client, host, check)?)))
    }

    fn on(side: Side) -> TlsSession {
        TlsSession {
            side,
            facts: None,
            requested_name: None,
            pending: Vec::new(),
            pending_at: 0,
            held: Held::default(),
            handshake_bytes: 0,
            peer_closed: false,
            fault: None,
        }
    }

    /// Whether this side sends the first message of the handshake.
    pub fn sends_first(&self) -> bool {
        matches!(self.side, Side::Client(_))
    }

    /// The result of the handshake; `None` before its end.
    pub fn facts(&self) -> Option<&TlsFacts> {
        self.facts.as_ref()
    }

    pub fn is_handshaking(&self) -> bool {
        self.facts.is_none()
    }

    /// Whether the peer sent `close_notify` and all plaintext before it was yielded.
    pub fn is_peer_closed(&self) -> bool {
        self.peer_closed && self.held.is_empty()
    }

    /// Whether plaintext waits for room.
    pub fn has_plaintext(&self) -> bool {
        !self.held.is_empty()
    }

    /// Bytes of memory held between calls, for tests and metrics.
    pub fn bytes_held(&self) -> usize {
        self.pending.capacity() + self.held.capacity()
    }

    /// Takes back plaintext that `absorb` has just yielded, to yield it again. Only valid if `absorb`
    /// yielded all it had, that is, if `room` was not full.
    pub(super) fn hold(&mut self, plaintext: &[u8]) {
        assert!(self.held.is_empty(), "held plaintext would be overwritten");
        self.held = Held::new(plaintext);
    }

    /// Why the connection is broken.
    pub fn fault(&self) -> Option<&TlsFault> {
        self.fault.as_ref()
    }

    /// Decrypts `input` in place and writes plaintext to `room`. Appends records for the peer to `out`,
    /// also on failure. Consumes less than all of `input` only if `room` is full or `input` is longer
    /// than `INPUT_BYTES_MAX`; during the handshake `room` may be empty.
    pub fn absorb(
        &mut self,
        input: &mut [u8],
        room: &mut [u8],
        out: &mut Vec<u8>,
    ) -> Result<Absorbed, TlsFault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let limit = input.len().min(INPUT_BYTES_MAX);
        let mut flow = Flow::new(room, out);
        let mut consumed = 0;
        let result = self.absorb_all(&mut input[..limit], &mut consumed, &mut flow);
        let produced = flow.produced();
        match result {
            // Plaintext before the fault is valid; the next call returns the fault.
            Err(fault) if produced == 0 => Err(fault),
            _ => Ok(Absorbed { consumed, produced }),
        }
    }

    /// Encrypts `plaintext` and appends it to `out`. Only after the handshake.
    pub fn encrypt(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), TlsFault> {
        assert!(self.facts.is_some(), "plaintext can only be sent after the handshake");
        if plaintext.is_empty() {
            return Ok(());
        }
        self.send(Outgoing::Plaintext(plaintext), out)
    }

    /// Appends `close_notify` to `out`, so that the peer can distinguish the end from a truncation.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        // RFC 8446 s6.1: `close_notify` is answered even if the peer sent it first.
        let ended = self.fault.take_if(|fault| *fault == TlsFault::Closed);
        if self.facts.is_some() && self.fault.is_none() {
            // If it cannot be sent any more, the connection is closed without it.
            let _ = self.send(Outgoing::CloseNotify, out);
        }
        if ended.is_some() {
            self.fault = ended;
        }
    }

    /// The transport has ended. Returns whether the end was clean or truncated.
    pub fn on_end(&mut self) -> TlsFault {
        if let Some(fault) = &self.fault {
            return fault.clone();
        }
        let fault = if self.peer_closed { TlsFault::Closed } else { TlsFault::Truncated };
        self.fault = Some(fault.clone());
        fault
    }

    fn absorb_all(
        &mut self,
        input: &mut [u8],
        consumed: &mut usize,
        flow: &mut Flow<'_>,
    ) -> Result<(), TlsFault> {
        self.held.move_to(flow);
        while self.wants_more(flow) {
            if self.pending.is_empty() {
                let (done, starved) = self.advance_input(&mut input[*consumed..], flow)?;
                *consumed += done;
                if starved {
                    break;
                }
                continue;
            }
            let starved = self.advance_pending(flow)?;
            if starved && !self.pending.is_empty() {
                let taken = top_up(&mut self.pending, self.pending_at, &input[*consumed..]);
                *consumed += taken;
                if taken == 0 && *consumed < input.len() {
                    // A whole record that rustls does not take would loop for ever.
                    let error =
                        rustls::Error::General("rustls does not take a whole record".to_owned());
                    return Err(self.fail(TlsFault::Protocol(error)));
                }
                if taken == 0 {
                    break;
                }
            }
        }
        if self.peer_closed {
            // RFC 8446 s6.1: what follows a closure alert is ignored.
            *consumed = input.len();
            self.pending = Vec::new();
        }
        self.count_handshake(*consumed)
    }

    /// Whether another step can make progress.
    fn wants_more(&self, flow: &Flow<'_>) -> bool {
        !self.peer_closed
            && (self.facts.is_none() || !flow.is_full() || self.side.state().wants_write())
    }

    /// Processes new input; copies an incomplete record at its end to `pending`.
    fn advance_input(
        &mut self,
        input: &mut [u8],
        flow: &mut Flow<'_>,
    ) -> Result<(usize, bool), TlsFault> {
        // Before rustls sees the records: rustls joins split handshake messages in place.
        let whole = whole_records(input, 0);
        let (done, starved) = self.advance(input, flow)?;
        if !starved {
            return Ok((done, false));
        }
        self.pending = input[done..].to_vec();
        self.pending_at = whole.saturating_sub(done);
        Ok((input.len(), true))
    }

    fn advance_pending(&mut self, flow: &mut Flow<'_>) -> Result<bool, TlsFault> {
        let mut pending = std::mem::take(&mut self.pending);
        let whole = whole_records(&pending, self.pending_at);
        let (done, starved) = self.advance(&mut pending, flow)?;
        if done < pending.len() {
            pending.drain(..done);
            self.pending = pending;
            self.pending_at = whole.saturating_sub(done);
        }
        Ok(starved)
    }

    /// Runs rustls over `records`. Returns the bytes consumed, and whether rustls needs more input.
    fn advance(
        &mut self,
        records: &mut [u8],
        flow: &mut Flow<'_>,
    ) -> Result<(usize, bool), TlsFault> {
        let mut done = 0;
        while self.wants_more(flow) {
            let stepped = self.side.step(&mut records[done..], flow, &mut self.held, None);
            self.note_handshake()?;
            match stepped {
                (discard, Ok(event)) => {
                    done += discard;
                    match event {
                        Event::Again => {}
                        Event::NeedsInput | Event::Sent => return Ok((done, true)),
                        Event::PeerClosed => self.peer_closed = true,
                    }
                }
                (discard, Err(error)) => {
                    done += discard;
                    self.send_alerts(&mut records[done..], flow);
                    return Err(self.fail(error.into()));
                }
            }
        }
        Ok((done, false))
    }

    /// Collects the alerts that rustls wants to send. rustls yields them before it processes more
    /// input, so the broken record is not processed again.
    fn send_alerts(&mut self, records: &mut [u8], flow: &mut Flow<'_>) {
        while self.side.state().wants_write() {
            let (_, event) = self.side.step(records, flow, &mut self.held, None);
            if event.is_err() {
                return;
            }
        }
    }

    fn send(&mut self, outgoing: Outgoing<'_>, out: &mut Vec<u8>) -> Result<(), TlsFault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let mut pending = std::mem::take(&mut self.pending);
        let mut flow = Flow::new(&mut [], out);
        let mut done = 0;
        let result = loop {
            let (discard, event) =
                self.side.step(&mut pending[done..], &mut flow, &mut self.held, Some(outgoing));
            done += discard;
            match event {
                Ok(Event::Again) => {}
                Ok(Event::Sent) => break Ok(()),
                Ok(Event::PeerClosed) => self.peer_closed = true,
                // Both sides have closed.
                Ok(Event::NeedsInput) => break Err(TlsFault::Closed),
                Err(error) => break Err(error.into()),
            }
        };
        if done < pending.len() {
            pending.drain(..done);
            self.pending = pending;
            self.pending_at = self.pending_at.saturating_sub(done);
        } else {
            self.pending_at = 0;
        }
        result.map_err(|fault| self.fail(fault))
    }

    fn note_handshake(&mut self) -> Result<(), TlsFault> {
        if self.facts.is_some() {
            return Ok(());
        }
        if let Some(name) = take_requested_name() {
            self.requested_name = Some(name);
        }
        if !self.side.state().is_handshaking() {
            let settled = self.side.settle(self.requested_name.take());
            self.facts = Some(settled.map_err(|fault| self.fail(fault))?);
        }
        Ok(())
    }

    fn count_handshake(&mut self, bytes: usize) -> Result<(), TlsFault> {
        if self.facts.is_some() {
            return Ok(());
        }
        // A call takes no more than `INPUT_BYTES_MAX`.
        self.handshake_bytes = self.handshake_bytes.saturating_add(bytes as u32);
        if self.handshake_bytes > HANDSHAKE_BYTES_MAX as u32 {
            return Err(self.fail(TlsFault::HandshakeTooLong));
        }
        Ok(())
    }

    fn fail(&mut self, fault: TlsFault) -> TlsFault {
        self.pending = Vec::new();
        self.fault = Some(fault.clone());
        fault
    }
}

impl fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSession")
            .field("facts", &self.facts)
            .field("peer_closed", &self.peer_closed)
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}
