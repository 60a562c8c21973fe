//! A connection that is plain now and may be TLS a command later.
//!
//! Owner:    one session. It owns the transport for as long as it lives.
//! Promise:  `read` and `write` mean the same with and without TLS: owned chunks in, the same
//!           chunks out with more in them; owned bytes in, their memory back. While a session is
//!           idle (`read` with `None`), no chunk is held.
//! Pool:     a read needs one chunk, as a plain one does. With none free for the plaintext it goes
//!           into the chunk its ciphertext came in, so that sessions under TLS cannot hold all
//!           chunks and wait for one another. `TlsFault::NoChunk` says that plaintext of an
//!           earlier read waits for a chunk; nothing is lost, ask again.
//! Ends:     a peer that ends the connection without `close_notify` gives `TlsFault::Truncated`,
//!           never a clean end. `tls_fault` keeps the cause for the log.
//! Waits:    deadlines are the transport's. A `write` that was dropped half way leaves a broken
//!           TLS connection behind, so set a deadline instead of racing it. A dropped `read`
//!           loses nothing but the chunk it was given, unless it was answering the handshake.

use std::sync::Arc;

use crate::base::chunk::Chunk;
use crate::base::chunk::ChunkPool;
use crate::net::server_verifier::PeerCheck;
use crate::net::session::TlsSession;
use crate::net::tls_client::TlsClient;
use crate::net::tls_facts::TlsFacts;
use crate::net::tls_fault::TlsFault;
use crate::net::tls_server::TlsServer;

/// A stream of bytes that speaks in completions, as the runtime's TCP stream does.
// A shard's futures never leave their thread, so nothing asks whether they are `Send`.
#[allow(async_fn_in_trait)]
pub trait Transport {
    /// Why the transport failed. It has a place for what TLS finds wrong.
    type Fault: From<TlsFault>;

    /// Whether the fault only says that the peer has ended its side.
    fn is_end(fault: &Self::Fault) -> bool;

    /// Fills `chunk` further, or a chunk of the pool when bytes have come. It never returns
    /// without a byte more than before, except to say in this way that the peer has ended.
    async fn read(&mut self, pool: &ChunkPool, chunk: Option<Chunk>) -> Result<Chunk, Self::Fault>;

    /// Writes all of `bytes`. They come back empty, with their memory.
    async fn write(&mut self, bytes: Vec<u8>) -> (Result<(), Self::Fault>, Vec<u8>);
}

/// What a session reads from and writes to.
#[derive(Debug)]
pub struct Channel<S> {
    stream: S,
    /// Boxed: most connections of a relay are plain, and this is memory per connection.
    tls: Option<Box<Tls>>,
}

/// The TLS half of a channel.
#[derive(Debug)]
struct Tls {
    session: TlsSession,
    /// Ciphertext that has come and was not taken yet, with the place up to which it was.
    input: Option<(Chunk, usize)>,
}

impl<S: Transport> Channel<S> {
    pub fn plain(stream: S) -> Channel<S> {
        Channel { stream, tls: None }
    }

    /// From here on the peer must speak TLS; follow with `handshake`. What came in the clear and
    /// was not acted on must have been dropped by the caller (RFC 3207 s4.2).
    pub fn start_tls(&mut self, server: &Arc<TlsServer>) -> Result<(), S::Fault> {
        assert!(self.tls.is_none(), "TLS is started once");
        self.tls = Some(Box::new(Tls { session: TlsSession::new(server)?, input: None }));
        Ok(())
    }

    /// As `start_tls`, with us as the client of `host`. It sends nothing; follow with `handshake`,
    /// which then begins with our words. What the server said behind its 220 must have been
    /// dropped by the caller: it came in the clear.
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

    /// Ends well once both sides have keys. On failure the alert has been sent; close. `early` is
    /// what of the handshake came along with a PROXY header.
    pub async fn handshake(
        &mut self,
        pool: &ChunkPool,
        mut early: Option<Chunk>,
    ) -> Result<(), S::Fault> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        if tls.session.speaks_first() && tls.session.is_handshaking() {
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

    /// As `Transport::read`, of plaintext. A chunk that is passed must have room.
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

    /// As `Transport::write`, of plaintext.
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

    /// Says goodbye as TLS wants it said; the transport is then the caller's to close.
    pub async fn close(&mut self) -> Result<(), S::Fault> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        let mut out = Vec::new();
        tls.session.close(&mut out);
        flush(&mut self.stream, out).await
    }

    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// What the handshake settled; `None` without TLS and before its end.
    pub fn tls_facts(&self) -> Option<&TlsFacts> {
        self.tls.as_ref().and_then(|tls| tls.session.facts())
    }

    /// What is wrong with TLS on this channel, for the log.
    pub fn tls_fault(&self) -> Option<&TlsFault> {
        self.tls.as_ref().and_then(|tls| tls.session.fault())
    }

    /// Whether input of the peer is here that `read` has not yielded, as far as can be told
    /// without decrypting it.
    pub fn has_input(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_input())
    }

    /// For deadlines, addresses and the end.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    pub fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }
}

impl Tls {
    /// Decrypts what is here into `room`; says how much that gave. A chunk of ciphertext that is
    /// done with goes back to its pool.
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

    /// Decrypts what is here into `chunk`, and says how much that gave.
    fn fill(
        &mut self,
        mut chunk: Chunk,
        pool: &ChunkPool,
        out: &mut Vec<u8>,
    ) -> Result<(Chunk, usize), TlsFault> {
        assert!(!chunk.is_full(), "a chunk without room cannot be filled");
        let produced = self.absorb(chunk.room(), pool, out)?;
        chunk.advance(produced);
        Ok((chunk, produced))
    }

    /// As `fill`, into a chunk of the pool. `None`, and no chunk held, when that gave nothing.
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

    /// As `absorb`, into the chunk that the ciphertext lies in. `None` when it gave no plaintext.
    fn absorb_in_place(
        &mut self,
        pool: &ChunkPool,
        out: &mut Vec<u8>,
    ) -> Result<Option<Chunk>, TlsFault> {
        let (mut chunk, at) = self.input.take().ok_or(TlsFault::NoChunk)?;
        // More than can come out, so that all of the ciphertext is consumed.
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

/// Waits for ciphertext. No chunk is held meanwhile.
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
