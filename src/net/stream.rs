//! A connection that starts in cleartext and may switch to TLS.
//!
//! Owner:    one session. It owns the transport.
//! Promise:  `read` and `write` work the same with and without TLS: `read` takes a chunk and returns
//!           it with more bytes, `write` takes bytes and returns their empty memory. An idle session
//!           (`read` with `None`) holds no chunk.
//! Pool:     a read needs one chunk, with or without TLS. If none is free for the plaintext, the chunk
//!           of the ciphertext is reused, so that TLS sessions cannot deadlock on the pool.
//!           `TlsFault::NoChunk`: plaintext of an earlier read waits for a chunk; nothing is lost, and
//!           the caller reads again.
//! Ends:     a connection that ends without `close_notify` returns `TlsFault::Truncated`, never a
//!           clean end. `tls_fault` keeps the cause for the log.
//! Waits:    the transport has the deadlines. A dropped `write` leaves a broken TLS connection, so use
//!           a deadline instead of dropping the future. A dropped `read` loses only its chunk, except
//!           while it replies to the handshake.

use std::sync::Arc;

use crate::base::chunk::Chunk;
use crate::base::chunk::ChunkPool;
use crate::net::server_verifier::PeerCheck;
use crate::net::session::TlsSession;
use crate::net::tls_client::TlsClient;
use crate::net::tls_facts::TlsFacts;
use crate::net::tls_fault::TlsFault;
use crate::net::tls_server::TlsServer;

/// A byte stream with owned buffers, like the runtime's TCP stream.
// Futures of a shard never leave their thread, so they need not be `Send`.
#[allow(async_fn_in_trait)]
pub trait Transport {
    /// The error type, which can also hold TLS faults.
    type Fault: From<TlsFault>;

    /// Whether the fault only means that the peer closed the connection.
    fn is_end(fault: &Self::Fault) -> bool;

    /// Appends to `chunk`, or to a chunk of the pool once bytes have arrived. Returns at least one
    /// new byte, or none if the peer closed the connection.
    async fn read(&mut self, pool: &ChunkPool, chunk: Option<Chunk>) -> Result<Chunk, Self::Fault>;

    /// Writes all of `bytes` and returns the empty vector with its memory.
    async fn write(&mut self, bytes: Vec<u8>) -> (Result<(), Self::Fault>, Vec<u8>);
}

/// The connection of a session.
#[derive(Debug)]
pub struct Channel<S> {
    stream: S,
    /// Boxed to save memory per connection: most connections of a relay are in cleartext.
    tls: Option<Box<Tls>>,
}

/// The TLS state of a channel.
#[derive(Debug)]
struct Tls {
    session: TlsSession,
    /// Received ciphertext, and the offset of the part not yet processed.
    input: Option<(Chunk, usize)>,
}

impl<S: Transport> Channel<S> {
    pub fn plain(stream: S) -> Channel<S> {
        Channel { stream, tls: None }
    }

    /// Switches to TLS as the server; call `handshake` next. The caller must have dropped all
    /// unprocessed cleartext input (RFC 3207 s4.2).
    pub fn start_tls(&mut self, server: &Arc<TlsServer>) -> Result<(), S::Fault> {
        assert!(self.tls.is_none(), "TLS is started once");
        self.tls = Some(Box::new(Tls { session: TlsSession::new(server)?, input: None }));
        Ok(())
    }

    /// Switches to TLS as the client of `host`; sends nothing. Call `handshake` next. The caller must
    /// have dropped all cleartext input after the 220 reply.
    pub fn start_tls_client(
        &mut self,
        client: &Arc<TlsClient>,
        host: &str,
        check: PeerCheck,
    ) -> Result<(), S::Fault> {
        assert!(self.tls.is_none(), "TLS is started once");
        let session = TlsSession::to_server(client, host, check)?;
        self.tls = Some(Box::new(Tls { session, input: None }));
        Ok(())
    }

    /// Completes the TLS handshake. On failure the alert has been sent, and the caller closes. `early`
    /// is the part of the handshake that was received with a PROXY header.
    pub async fn handshake(
        &mut self,
        pool: &ChunkPool,
        mut early: Option<Chunk>,
    ) -> Result<(), S::Fault> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        if tls.session.sends_first() && tls.session.is_handshaking() {
            let mut out = Vec::new();
            let result = tls.absorb(&mut [], pool, &mut out);
            let sent = flush(&mut self.stream, out).await;
            result?;
            sent?;
        }
        while tls.session.is_handshaking() {
            let fresh = match early.take() {
                Some(early) => early,
                None => receive(&mut self.stream, tls, pool).await?,
            };
            tls.input = Some((fresh, 0));
            let mut out = Vec::new();
            let result = tls.absorb(&mut [], pool, &mut out);
            let sent = flush(&mut self.stream, out).await;
            result?;
            sent?;
        }
        Ok(())
    }

    /// As `Transport::read`, for plaintext. A given chunk must have room.
    pub async fn read(
        &mut self,
        pool: &ChunkPool,
        chunk: Option<Chunk>,
    ) -> Result<Chunk, S::Fault> {
        match &mut self.tls {
            None => self.stream.read(pool, chunk).await,
            Some(tls) => read_tls(&mut self.stream, tls, pool, chunk).await,
        }
    }

    /// As `Transport::write`, for plaintext.
    pub async fn write(&mut self, mut bytes: Vec<u8>) -> (Result<(), S::Fault>, Vec<u8>) {
        let Some(tls) = &mut self.tls else { return self.stream.write(bytes).await };
        let mut out = Vec::new();
        let encrypted = tls.session.encrypt(&bytes, &mut out);
        bytes.clear();
        match encrypted {
            Ok(()) => (flush(&mut self.stream, out).await, bytes),
            Err(fault) => (Err(fault.into()), bytes),
        }
    }

    /// Sends `close_notify` if TLS is active; the caller then closes the transport.
    pub async fn close(&mut self) -> Result<(), S::Fault> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        let mut out = Vec::new();
        tls.session.close(&mut out);
        flush(&mut self.stream, out).await
    }

    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The result of the handshake; `None` without TLS or before its end.
    pub fn tls_facts(&self) -> Option<&TlsFacts> {
        self.tls.as_ref().and_then(|tls| tls.session.facts())
    }

    /// The TLS fault of this channel, for the log.
    pub fn tls_fault(&self) -> Option<&TlsFault> {
        self.tls.as_ref().and_then(|tls| tls.session.fault())
    }

    /// Whether there is received input that `read` has not returned; ciphertext counts as input.
    pub fn has_input(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_input())
    }

    /// The transport, for deadlines and addresses.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    pub fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }
}

impl Tls {
    /// Decrypts the received ciphertext into `room`; returns the number of bytes. A consumed chunk
    /// returns to the pool.
    fn absorb(
        &mut self,
        room: &mut [u8],
        pool: &ChunkPool,
        out: &mut Vec<u8>,
    ) -> Result<usize, TlsFault> {
        let Some((mut chunk, at)) = self.input.take() else {
            return Ok(self.session.absorb(&mut [], room, out)?.produced);
        };
        let result = self.session.absorb(&mut chunk.bytes_mut()[at..], room, out);
        let at = at + result.as_ref().map_or(chunk.len() - at, |absorbed| absorbed.consumed);
        if at < chunk.len() {
            self.input = Some((chunk, at));
        } else {
            pool.give(chunk);
        }
        Ok(result?.produced)
    }

    /// Decrypts the received ciphertext into `chunk`; returns the number of bytes.
    fn fill(
        &mut self,
        mut chunk: Chunk,
        pool: &ChunkPool,
        out: &mut Vec<u8>,
    ) -> Result<(Chunk, usize), TlsFault> {
        assert!(!chunk.is_full(), "the chunk must have room");
        let produced = self.absorb(chunk.room(), pool, out)?;
        chunk.advance(produced);
        Ok((chunk, produced))
    }

    /// As `fill`, into a chunk of the pool. `None` if there was no plaintext; no chunk is held then.
    fn fill_from_pool(
        &mut self,
        pool: &ChunkPool,
        out: &mut Vec<u8>,
    ) -> Result<Option<Chunk>, TlsFault> {
        let Some(chunk) = pool.try_take() else { return self.absorb_in_place(pool, out) };
        match self.fill(chunk, pool, out)? {
            (chunk, 0) => {
                pool.give(chunk);
                Ok(None)
            }
            (chunk, _) => Ok(Some(chunk)),
        }
    }

    /// As `absorb`, into the chunk of the ciphertext. `None` if there was no plaintext.
    fn absorb_in_place(
        &mut self,
        pool: &ChunkPool,
        out: &mut Vec<u8>,
    ) -> Result<Option<Chunk>, TlsFault> {
        let (mut chunk, at) = self.input.take().ok_or(TlsFault::NoChunk)?;
        // Larger than any result, so that all of the ciphertext is consumed.
        let mut room = vec![0; chunk.len() - at + self.session.bytes_held()];
        let result = self.session.absorb(&mut chunk.bytes_mut()[at..], &mut room, out);
        chunk.truncate(0);
        let produced = result.as_ref().map_or(0, |absorbed| absorbed.produced);
        if produced == 0 {
            pool.give(chunk);
            return result.map(|_| None);
        }
        let plaintext = &room[..produced];
        let kept = chunk.fill_from(plaintext);
        self.session.hold(&plaintext[kept..]);
        Ok(Some(chunk))
    }

    fn has_input(&self) -> bool {
        self.input.is_some() || self.session.has_plaintext()
    }
}

async fn read_tls<S: Transport>(
    stream: &mut S,
    tls: &mut Tls,
    pool: &ChunkPool,
    mut chunk: Option<Chunk>,
) -> Result<Chunk, S::Fault> {
    loop {
        if tls.has_input() {
            let mut out = Vec::new();
            let result = match chunk.take() {
                Some(given) => tls.fill(given, pool, &mut out).map(|(given, count)| match count {
                    0 => {
                        chunk = Some(given);
                        None
                    }
                    _ => Some(given),
                }),
                None => tls.fill_from_pool(pool, &mut out),
            };
            let sent = flush(stream, out).await;
            let filled = result?;
            sent?;
            if let Some(filled) = filled {
                return Ok(filled);
            }
        }
        if tls.session.is_peer_closed() || tls.session.fault().is_some() {
            return Err(tls.session.on_end().into());
        }
        if tls.input.is_none() {
            let fresh = receive(stream, tls, pool).await?;
            tls.input = Some((fresh, 0));
        }
    }
}

/// Waits for ciphertext without holding a chunk.
async fn receive<S: Transport>(
    stream: &mut S,
    tls: &mut Tls,
    pool: &ChunkPool,
) -> Result<Chunk, S::Fault> {
    match stream.read(pool, None).await {
        Ok(fresh) if fresh.is_empty() => Err(tls.session.on_end().into()),
        Ok(fresh) => Ok(fresh),
        Err(fault) if S::is_end(&fault) => Err(tls.session.on_end().into()),
        Err(fault) => Err(fault),
    }
}

async fn flush<S: Transport>(stream: &mut S, out: Vec<u8>) -> Result<(), S::Fault> {
    if out.is_empty() {
        return Ok(());
    }
    stream.write(out).await.0
}
