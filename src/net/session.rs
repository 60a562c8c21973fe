//! One TLS connection as a machine: bytes in, bytes out, nothing else.
//!
//! Owner:    the session it belongs to.
//! Promise:  what `absorb` yields is what the peer encrypted, in order and whole records only; the
//!           end is clean only after `close_notify`. A broken connection stays broken, and its
//!           alert is in `out` for the driver to send.
//! Memory:   rustls is driven through its unbuffered interface: records are decrypted where they
//!           lie in the driver's memory. Kept between calls: the part of a record that has come
//!           (`PENDING_BYTES_MAX`) and plaintext that had no room (a record or two). Both are
//!           given back to the allocator once empty, so an idle connection holds no buffer.
//! Bounds:   `INPUT_BYTES_MAX` per call, so that one call is some 50 us of decryption;
//!           `HANDSHAKE_BYTES_MAX` until the handshake is done.

use std::fmt;
use std::sync::Arc;

use rustls::AlertDescription;
use rustls::CertificateError;
use rustls::CipherSuite;
use rustls::CommonState;
use rustls::HandshakeKind;
use rustls::ProtocolVersion;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::ConnectionState;
use rustls::unbuffered::EncodeError;
use rustls::unbuffered::EncryptError;
use rustls::unbuffered::UnbufferedStatus;
use rustls::unbuffered::WriteTraffic;

use crate::base::fault::Blame;
use crate::base::fault::Retry;
use crate::base::limits::CHUNK_BYTES;
use crate::net::client::ClientCertificate;
use crate::net::tls::TlsServer;
use crate::net::tls::take_asked_for;
use crate::net::tls_client::CertificateFault;
use crate::net::tls_client::ClientSide;
use crate::net::tls_client::PeerCheck;
use crate::net::tls_client::ServerCertificate;
use crate::net::tls_client::TlsClient;

/// Ciphertext taken by one call. More is left for the next call.
pub const INPUT_BYTES_MAX: usize = CHUNK_BYTES;

/// Ciphertext of a handshake, client certificates included. More: the connection is closed.
pub const HANDSHAKE_BYTES_MAX: usize = 64 << 10;

const HEADER_BYTES: usize = 5;
const RECORD_BODY_BYTES_MAX: usize = (16 << 10) + 2048;

/// Ciphertext that is held between calls once the handshake is done.
pub const PENDING_BYTES_MAX: usize = HEADER_BYTES + RECORD_BODY_BYTES_MAX;

/// Plaintext bytes of a record, and the most that a record adds: header, nonce, tag, type.
const FRAGMENT_BYTES: usize = 16 << 10;
const RECORD_EXTRA_BYTES: usize = HEADER_BYTES + 8 + 16 + 1;

/// What a finished handshake has settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// The name of the IANA registry, as RFC 8314 s4.3 wants it in Received.
    pub cipher: &'static str,
    /// The name that the client asked for, or that we asked for.
    pub server_name: Option<Box<str>>,
    pub resumed: bool,
    /// What a client has shown us; nothing when we are the client.
    pub client: ClientCertificate,
    /// Whom we talk to when we are the client. Boxed: sessions of our own server lack it.
    pub server: Option<Box<ServerCertificate>>,
}

/// Why a TLS connection carries nothing any more.
#[derive(Clone, Debug, PartialEq)]
pub enum TlsFault {
    /// The peer said `close_notify`: the clean end.
    Closed,
    /// The connection ended without `close_notify`; what was sent may have been cut by anybody.
    Truncated,
    /// The peer does not speak TLS, speaks it wrongly, or shares no version or cipher with us.
    Protocol(rustls::Error),
    /// The peer gave up and told why.
    Alert(AlertDescription),
    HandshakeTooLong,
    /// No TLSA record matches what the server has shown (RFC 7672 s2.2).
    TlsaMismatch,
    /// A certificate for the name is demanded, and no authority is there to vouch for one.
    NoRoots,
    /// The host cannot be named in a handshake.
    BadHost,
    /// More was sent than a key may encrypt.
    KeysWornOut,
    /// No chunk was free for the plaintext.
    NoChunk,
}

impl TlsFault {
    pub fn blame(&self) -> Blame {
        match self {
            TlsFault::NoChunk => Blame::Us,
            TlsFault::NoRoots => Blame::Operator,
            _ => Blame::Peer,
        }
    }

    /// What is wrong with the peer's certificate, when that is what ended the handshake.
    pub fn certificate(&self) -> Option<CertificateFault> {
        match self {
            TlsFault::Protocol(rustls::Error::InvalidCertificate(cause)) => {
                Some(CertificateFault::of(cause))
            }
            TlsFault::NoRoots => Some(CertificateFault::NoRoots),
            _ => None,
        }
    }

    /// Whether another connection may fare better.
    pub fn retry(&self) -> Retry {
        match self {
            TlsFault::Protocol(_)
            | TlsFault::Alert(_)
            | TlsFault::HandshakeTooLong
            | TlsFault::BadHost => Retry::Never,
            _ => Retry::Later,
        }
    }
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsFault::Closed => f.write_str("closed by the peer"),
            TlsFault::Truncated => f.write_str("ended without close_notify"),
            TlsFault::Protocol(error) => write!(f, "{error}"),
            TlsFault::Alert(alert) => write!(f, "the peer gave up: {alert:?}"),
            TlsFault::HandshakeTooLong => {
                write!(f, "a handshake of more than {HANDSHAKE_BYTES_MAX} bytes")
            }
            TlsFault::TlsaMismatch => f.write_str("no TLSA record matches the certificate"),
            TlsFault::NoRoots => f.write_str("no authority is known that could vouch for it"),
            TlsFault::BadHost => f.write_str("the host has no name for a certificate"),
            TlsFault::KeysWornOut => f.write_str("the keys have encrypted as much as they may"),
            TlsFault::NoChunk => f.write_str("no memory for received data"),
        }
    }
}

impl std::error::Error for TlsFault {}

impl From<rustls::Error> for TlsFault {
    fn from(error: rustls::Error) -> TlsFault {
        match error {
            rustls::Error::AlertReceived(alert) => TlsFault::Alert(alert),
            rustls::Error::EncryptError => TlsFault::KeysWornOut,
            // Said by nobody but our check of TLSA records.
            rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure) => {
                TlsFault::TlsaMismatch
            }
            error => TlsFault::Protocol(error),
        }
    }
}

/// How much one call of `absorb` took and gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Absorbed {
    /// Bytes of `input` that are done with.
    pub consumed: usize,
    /// Bytes of plaintext at the front of `room`.
    pub produced: usize,
}

/// Our side of one connection.
pub struct TlsSession {
    side: Side,
    facts: Option<TlsFacts>,
    asked_for: Option<Box<str>>,
    /// Ciphertext that cannot be decrypted yet.
    pending: Vec<u8>,
    /// Where in `pending` the first record begins that is not whole.
    pending_at: usize,
    held: Held,
    /// 32 bits, for this is memory per connection.
    handshake_bytes: u32,
    peer_closed: bool,
    fault: Option<TlsFault>,
}

impl TlsSession {
    /// A connection that was accepted. The peer speaks first.
    pub fn new(server: &Arc<TlsServer>) -> Result<TlsSession, TlsFault> {
        let connection = UnbufferedServerConnection::new(Arc::clone(server.config()))?;
        Ok(TlsSession::on(Side::Server { connection, server: Arc::clone(server) }))
    }

    /// A connection to `host`. We speak first: `absorb` without input gives the first words.
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
            asked_for: None,
            pending: Vec::new(),
            pending_at: 0,
            held: Held::default(),
            handshake_bytes: 0,
            peer_closed: false,
            fault: None,
        }
    }

    /// Whether the handshake begins with our words.
    pub fn speaks_first(&self) -> bool {
        matches!(self.side, Side::Client(_))
    }

    /// What the handshake settled; `None` until it is done.
    pub fn facts(&self) -> Option<&TlsFacts> {
        self.facts.as_ref()
    }

    pub fn is_handshaking(&self) -> bool {
        self.facts.is_none()
    }

    /// Whether the peer has said `close_notify` and all that came before it was yielded.
    pub fn is_peer_closed(&self) -> bool {
        self.peer_closed && self.held.is_empty()
    }

    /// Whether plaintext waits for room.
    pub fn has_plaintext(&self) -> bool {
        !self.held.is_empty()
    }

    /// Bytes of memory held between calls, for tests and metrics.
    pub fn bytes_held(&self) -> usize {
        self.pending.capacity() + self.held.bytes.capacity()
    }

    /// Takes back plaintext that `absorb` has just yielded, to yield it again. It was all there
    /// was: the caller gave more room than it has.
    pub(in crate::net) fn hold(&mut self, plaintext: &[u8]) {
        assert!(self.held.is_empty(), "what is held comes before what is given back");
        self.held = Held { bytes: plaintext.to_vec(), at: 0 };
    }

    /// Why the connection is broken.
    pub fn fault(&self) -> Option<&TlsFault> {
        self.fault.as_ref()
    }

    /// Decrypts `input` where it lies and fills `room` from the front. Answers to the peer are
    /// appended to `out`, also when this fails. Less than all of `input` is consumed only when
    /// `room` is full or `input` is longer than `INPUT_BYTES_MAX`; during the handshake `room`
    /// may be empty.
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
        let mut flow = Flow { room, produced: 0, out };
        let mut consumed = 0;
        let result = self.absorb_all(&mut input[..limit], &mut consumed, &mut flow);
        let produced = flow.produced;
        match result {
            // What came before the fault was sent in earnest; the fault is told by the next call.
            Err(fault) if produced == 0 => Err(fault),
            _ => Ok(Absorbed { consumed, produced }),
        }
    }

    /// Encrypts `plaintext` and appends it to `out`. Only after the handshake.
    pub fn encrypt(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), TlsFault> {
        assert!(self.facts.is_some(), "nothing can be said before the handshake is done");
        if plaintext.is_empty() {
            return Ok(());
        }
        self.say(Outgoing::Plaintext(plaintext), out)
    }

    /// Appends `close_notify` to `out`, so that the peer can tell the end from a cut.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        // RFC 8446 s6.1: a peer that has said goodbye first is answered all the same.
        let ended = self.fault.take_if(|fault| *fault == TlsFault::Closed);
        if self.facts.is_some() && self.fault.is_none() {
            // A connection that cannot say goodbye any more is closed without it.
            let _ = self.say(Outgoing::CloseNotify, out);
        }
        if ended.is_some() {
            self.fault = ended;
        }
    }

    /// The transport has ended. Says whether that was the clean end or a cut.
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
                    // A whole record that starves rustls would be asked about for ever.
                    let error = rustls::Error::General("a record is never whole".to_owned());
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

    /// Whether another step may yield something that there is a place for.
    fn wants_more(&self, flow: &Flow<'_>) -> bool {
        !self.peer_closed
            && (self.facts.is_none() || !flow.is_full() || self.side.state().wants_write())
    }

    /// Works on fresh input; what is left of an unfinished record is copied to `pending`.
    fn advance_input(
        &mut self,
        input: &mut [u8],
        flow: &mut Flow<'_>,
    ) -> Result<(usize, bool), TlsFault> {
        // Walked before rustls sees them, for it joins split handshake messages in place.
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

    /// Runs rustls over `records`. Says how many bytes are done with, and whether it needs more.
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
                        Event::Starved | Event::Said => return Ok((done, true)),
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

    /// Takes what rustls wants to tell the peer about its mistake. rustls hands it out before it
    /// looks at any more input, so the broken record is not looked at again.
    fn send_alerts(&mut self, records: &mut [u8], flow: &mut Flow<'_>) {
        while self.side.state().wants_write() {
            let (_, event) = self.side.step(records, flow, &mut self.held, None);
            if event.is_err() {
                return;
            }
        }
    }

    fn say(&mut self, words: Outgoing<'_>, out: &mut Vec<u8>) -> Result<(), TlsFault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let mut pending = std::mem::take(&mut self.pending);
        let mut flow = Flow { room: &mut [], produced: 0, out };
        let mut done = 0;
        let result = loop {
            let (discard, event) =
                self.side.step(&mut pending[done..], &mut flow, &mut self.held, Some(words));
            done += discard;
            match event {
                Ok(Event::Again) => {}
                Ok(Event::Said) => break Ok(()),
                Ok(Event::PeerClosed) => self.peer_closed = true,
                // Both sides have closed; there is nobody to talk to.
                Ok(Event::Starved) => break Err(TlsFault::Closed),
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
        if let Some(name) = take_asked_for() {
            self.asked_for = Some(name);
        }
        if !self.side.state().is_handshaking() {
            let settled = self.side.settle(self.asked_for.take());
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

/// Who we are on a connection. Boxing the client's half would cost an allocation and save nothing:
/// both are of about one size.
enum Side {
    Server { connection: UnbufferedServerConnection, server: Arc<TlsServer> },
    Client(ClientSide),
}

impl Side {
    fn state(&self) -> &CommonState {
        match self {
            Side::Server { connection, .. } => connection,
            Side::Client(client) => client.connection(),
        }
    }

    /// Lets rustls look at `records`, and obeys what it asks for.
    fn step(
        &mut self,
        records: &mut [u8],
        flow: &mut Flow<'_>,
        held: &mut Held,
        words: Option<Outgoing<'_>>,
    ) -> (usize, Result<Event, rustls::Error>) {
        match self {
            Side::Server { connection, .. } => {
                step(connection.process_tls_records(records), flow, held, words)
            }
            Side::Client(client) => {
                step(client.connection_mut().process_tls_records(records), flow, held, words)
            }
        }
    }

    #[cold]
    fn settle(&mut self, asked_for: Option<Box<str>>) -> Result<TlsFacts, TlsFault> {
        let (client, server, asked_for) = match self {
            Side::Server { connection, server } => {
                let chain = connection.peer_certificates();
                let now = server.config().time_provider.current_time();
                let client = now.map(|now| ClientCertificate::judge(chain, server.verifier(), now));
                (client.unwrap_or(ClientCertificate::None), None, asked_for)
            }
            Side::Client(client) => {
                let (host, certificate) = client.settle()?;
                (ClientCertificate::None, Some(Box::new(certificate)), Some(host))
            }
        };
        let state = self.state();
        Ok(TlsFacts {
            version: version_name(state.protocol_version()),
            cipher: cipher_name(state.negotiated_cipher_suite().map(|suite| suite.suite())),
            server_name: asked_for,
            resumed: state.handshake_kind() == Some(HandshakeKind::Resumed),
            client,
            server,
        })
    }
}

/// Where a call puts what it yields.
struct Flow<'a> {
    room: &'a mut [u8],
    produced: usize,
    out: &'a mut Vec<u8>,
}

impl Flow<'_> {
    fn is_full(&self) -> bool {
        self.produced == self.room.len()
    }

    /// Takes as much of `plaintext` as there is room for.
    fn fill_from(&mut self, plaintext: &[u8]) -> usize {
        let room = &mut self.room[self.produced..];
        let count = plaintext.len().min(room.len());
        room[..count].copy_from_slice(&plaintext[..count]);
        self.produced += count;
        count
    }
}

/// Plaintext that had no room.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    /// How much of `bytes` has been yielded.
    at: usize,
}

impl Held {
    fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    fn move_to(&mut self, flow: &mut Flow<'_>) {
        self.at += flow.fill_from(&self.bytes[self.at..]);
        if self.is_empty() {
            *self = Held::default();
        }
    }
}

/// What our side has to say.
#[derive(Clone, Copy)]
enum Outgoing<'a> {
    Plaintext(&'a [u8]),
    CloseNotify,
}

/// What one step of rustls came to.
enum Event {
    Again,
    Starved,
    Said,
    PeerClosed,
}

/// Obeys what rustls asks for. The same for both sides of a connection.
fn step<Side>(
    status: UnbufferedStatus<'_, '_, Side>,
    flow: &mut Flow<'_>,
    held: &mut Held,
    words: Option<Outgoing<'_>>,
) -> (usize, Result<Event, rustls::Error>) {
    let mut discard = status.discard;
    let event = match status.state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            let mut event = Ok(Event::Again);
            while let Some(record) = traffic.next_record() {
                match record {
                    Ok(record) => {
                        discard += record.discard;
                        // Order: nothing may overtake what is held already.
                        let taken =
                            if held.is_empty() { flow.fill_from(record.payload) } else { 0 };
                        held.bytes.extend_from_slice(&record.payload[taken..]);
                    }
                    Err(error) => event = Err(error),
                }
            }
            event
        }
        Ok(ConnectionState::EncodeTlsData(mut record)) => {
            append(flow.out, 0, |room| match record.encode(room) {
                Ok(written) => Ok(written),
                Err(EncodeError::InsufficientSize(size)) => Err(Some(size.required_size)),
                Err(EncodeError::AlreadyEncoded) => Err(None),
            })
            .map(|()| Event::Again)
        }
        Ok(ConnectionState::TransmitTlsData(sent)) => {
            sent.done();
            Ok(Event::Again)
        }
        Ok(ConnectionState::PeerClosed) => Ok(Event::PeerClosed),
        Ok(ConnectionState::WriteTraffic(traffic)) => match words {
            Some(words) => speak(traffic, words, flow.out).map(|()| Event::Said),
            None => Ok(Event::Starved),
        },
        Ok(ConnectionState::ReadEarlyData(_)) => {
            Err(rustls::Error::General("early data was not offered".to_owned()))
        }
        Ok(_) => Ok(Event::Starved),
    };
    (discard, event)
}

fn speak<Side>(
    mut traffic: WriteTraffic<'_, Side>,
    words: Outgoing<'_>,
    out: &mut Vec<u8>,
) -> Result<(), rustls::Error> {
    let wanted = match words {
        Outgoing::Plaintext(text) => {
            text.len() + (text.len() / FRAGMENT_BYTES + 1) * RECORD_EXTRA_BYTES
        }
        Outgoing::CloseNotify => 2 + RECORD_EXTRA_BYTES,
    };
    append(out, wanted, |room| {
        let written = match words {
            Outgoing::Plaintext(text) => traffic.encrypt(text, room),
            Outgoing::CloseNotify => traffic.queue_close_notify(room),
        };
        written.map_err(|error| match error {
            EncryptError::InsufficientSize(size) => Some(size.required_size),
            EncryptError::EncryptExhausted => None,
        })
    })
}

/// Appends what `write` writes into room of `wanted` bytes, or of as many as it then asks for.
fn append(
    out: &mut Vec<u8>,
    wanted: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> Result<(), rustls::Error> {
    let start = out.len();
    let mut wanted = wanted;
    loop {
        out.resize(start + wanted, 0);
        match write(&mut out[start..]) {
            Ok(written) => {
                out.truncate(start + written);
                return Ok(());
            }
            Err(Some(required)) if required > wanted => wanted = required,
            Err(_) => {
                out.truncate(start);
                return Err(rustls::Error::EncryptError);
            }
        }
    }
}

/// Where the first record at or behind `from` begins that is not whole.
fn whole_records(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(len) = record_len(&bytes[at..])
        && at + len <= bytes.len()
    {
        at += len;
    }
    at
}

/// Header and body of the record at the front, once its header has come.
fn record_len(bytes: &[u8]) -> Option<usize> {
    let header = bytes.get(..HEADER_BYTES)?;
    Some(HEADER_BYTES + usize::from(u16::from_be_bytes([header[3], header[4]])))
}

/// Moves what is missing of the record at `at` to `pending`: first its header, then its body, and
/// nothing of the record after it. Says how much that was.
fn top_up(pending: &mut Vec<u8>, at: usize, input: &[u8]) -> usize {
    let here = pending.len() - at;
    // rustls refuses a length that is too large as soon as it sees the header.
    let whole = record_len(&pending[at..]).unwrap_or(HEADER_BYTES);
    let count = whole.saturating_sub(here).min(input.len());
    pending.extend_from_slice(&input[..count]);
    count
}

fn version_name(version: Option<ProtocolVersion>) -> &'static str {
    match version {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLS",
    }
}

fn cipher_name(suite: Option<CipherSuite>) -> &'static str {
    match suite {
        Some(CipherSuite::TLS13_AES_128_GCM_SHA256) => "TLS_AES_128_GCM_SHA256",
        Some(CipherSuite::TLS13_AES_256_GCM_SHA384) => "TLS_AES_256_GCM_SHA384",
        Some(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256) => "TLS_CHACHA20_POLY1305_SHA256",
        Some(suite) => suite.as_str().unwrap_or("unknown"),
        None => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_walked_and_topped_up_one_at_a_time() {
        let bytes = b"\x17\x03\x03\x00\x02ab\x17\x03\x03\x00\x03cde\x17\x03";
        assert_eq!(whole_records(bytes, 0), 15);
        assert_eq!(whole_records(&bytes[..14], 0), 7);
        assert_eq!(whole_records(b"", 0), 0);
        let mut pending = bytes[..3].to_vec();
        assert_eq!(top_up(&mut pending, 0, &bytes[3..]), 2, "the header");
        assert_eq!(top_up(&mut pending, 0, &bytes[5..]), 2, "the body");
        assert_eq!(top_up(&mut pending, 0, &bytes[7..]), 0, "and no more");
        assert_eq!(pending, &bytes[..7]);
    }
}
