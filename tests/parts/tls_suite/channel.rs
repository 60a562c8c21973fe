//! A channel over a stream whose other end is a client in memory.

use std::collections::VecDeque;
use std::pin::pin;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use ringpost::base::Chunk;
use ringpost::base::ChunkPool;
use ringpost::base::limits::CHUNK_BYTES;
use ringpost::net::Channel;
use ringpost::net::TlsFault;
use ringpost::net::Transport;
use rustls::ClientConnection;
use rustls::version::TLS12;
use rustls::version::TLS13;

use crate::tls_suite::kit::Ours;
use crate::tls_suite::kit::hear;
use crate::tls_suite::kit::heard;
use crate::tls_suite::kit::spoken;
use crate::tls_suite::kit::tell;

/// How the stream of a test ends.
#[derive(Debug, PartialEq)]
pub enum Fault {
    End,
    Deadline,
    Tls(TlsFault),
}

impl From<TlsFault> for Fault {
    fn from(fault: TlsFault) -> Fault {
        Fault::Tls(fault)
    }
}

/// A stream that delivers the client's bytes in pieces, and passes written bytes to the client.
struct Peer {
    client: Option<ClientConnection>,
    to_server: VecDeque<u8>,
    from_server: Vec<u8>,
    piece: usize,
    at_end: Fault,
    /// The largest number of chunks in use while the stream waited for bytes.
    chunks_while_waiting: usize,
}

impl Peer {
    fn new(client: Option<ClientConnection>, piece: usize) -> Peer {
        Peer {
            client,
            to_server: VecDeque::new(),
            from_server: Vec::new(),
            piece,
            at_end: Fault::End,
            chunks_while_waiting: 0,
        }
    }

    fn client(&mut self) -> &mut ClientConnection {
        self.client.as_mut().expect("this peer speaks TLS")
    }
}

impl Transport for Peer {
    type Fault = Fault;

    fn is_end(fault: &Fault) -> bool {
        *fault == Fault::End
    }

    async fn read(&mut self, pool: &ChunkPool, chunk: Option<Chunk>) -> Result<Chunk, Fault> {
        self.chunks_while_waiting = self.chunks_while_waiting.max(pool.chunks_out());
        if let Some(client) = &mut self.client {
            self.to_server.extend(spoken(client));
        }
        if self.to_server.is_empty() {
            return Err(std::mem::replace(&mut self.at_end, Fault::End));
        }
        let mut chunk = match chunk {
            Some(chunk) => chunk,
            None => pool.try_take().ok_or(Fault::Deadline)?,
        };
        let count = self.piece.min(self.to_server.len()).min(chunk.room().len());
        let bytes: Vec<u8> = self.to_server.drain(..count).collect();
        chunk.fill_from(&bytes);
        Ok(chunk)
    }

    async fn write(&mut self, mut bytes: Vec<u8>) -> (Result<(), Fault>, Vec<u8>) {
        match &mut self.client {
            // A failed client sends an alert with its next bytes.
            Some(client) => drop(hear(client, &bytes)),
            None => self.from_server.extend(&bytes),
        }
        bytes.clear();
        (Ok(()), bytes)
    }
}

/// The peer is always ready, so one poll is enough.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the future must not wait"),
    }
}

#[test]
fn a_plain_channel_becomes_tls_in_place() {
    let ours = Ours::new();
    for (version, piece) in [(&TLS13, 64 << 10), (&TLS13, 1), (&TLS12, 300)] {
        let pool = ChunkPool::new(3);
        let mut channel = Channel::plain(Peer::new(None, piece));
        channel.stream_mut().to_server.extend(b"S");
        let chunk = now(channel.read(&pool, None)).expect("plain text");
        assert_eq!(chunk.bytes(), b"S");
        pool.give(chunk);
        let (sent, bytes) = now(channel.write(b"220 go\r\n".to_vec()));
        assert_eq!((sent, bytes.is_empty(), bytes.capacity()), (Ok(()), true, 8));
        assert_eq!(channel.stream().from_server, b"220 go\r\n");
        assert!(!channel.is_tls() && channel.tls_facts().is_none());

        channel.stream_mut().client = Some(ours.client(&[version]));
        channel.start_tls(&ours.server).expect("a session");
        now(channel.handshake(&pool, None)).expect("a handshake");
        assert!(channel.is_tls() && channel.tls_facts().is_some());
        assert_eq!(pool.chunks_out(), 0, "an idle channel holds no chunk");

        tell(channel.stream_mut().client(), b"EHLO x\r\n");
        let mut got = now(channel.read(&pool, None)).expect("words");
        while got.bytes() != b"EHLO x\r\n" {
            got = now(channel.read(&pool, Some(got))).expect("more bytes");
        }
        pool.give(got);
        let (sent, bytes) = now(channel.write(b"250 hello\r\n".to_vec()));
        assert_eq!((sent, bytes.is_empty(), bytes.capacity()), (Ok(()), true, 11));
        assert_eq!(heard(channel.stream_mut().client()), b"250 hello\r\n");
        assert_eq!(pool.chunks_out(), 0);
        assert_eq!(channel.stream().chunks_while_waiting, 0, "no chunk is held while waiting");

        now(channel.close()).expect("a goodbye");
        let state = channel.stream_mut().client().process_new_packets().expect("no fault");
        assert!(state.peer_has_closed());
    }
}

/// A channel after its handshake.
fn secured(ours: &Ours, pool: &ChunkPool, piece: usize) -> Channel<Peer> {
    let mut channel = Channel::plain(Peer::new(Some(ours.client(&[&TLS13])), piece));
    channel.start_tls(&ours.server).expect("a session");
    now(channel.handshake(pool, None)).expect("a handshake");
    channel
}

#[test]
fn a_body_fills_chunk_after_chunk() {
    let ours = Ours::new();
    let body: Vec<u8> = (0..500_000_u32).map(|n| (n % 253) as u8).collect();
    for piece in [64 << 10, 1448, 30_000] {
        let pool = ChunkPool::new(2);
        let mut channel = secured(&ours, &pool, piece);
        let mut got: Vec<u8> = Vec::new();
        for part in body.chunks(60_000) {
            let whole = got.len() + part.len();
            tell(channel.stream_mut().client(), part);
            let said = spoken(channel.stream_mut().client());
            channel.stream_mut().to_server.extend(said);
            let mut chunk: Option<Chunk> = None;
            while got.len() + chunk.as_ref().map_or(0, Chunk::len) < whole {
                match chunk.take_if(|chunk| chunk.is_full()) {
                    Some(full) => {
                        got.extend(full.bytes());
                        pool.give(full);
                    }
                    None => {
                        let more = now(channel.read(&pool, chunk)).expect("more of the body");
                        chunk = Some(more);
                    }
                }
            }
            let last = chunk.expect("the part ends with a chunk");
            got.extend(last.bytes());
            pool.give(last);
        }
        assert!(got == body, "pieces of {piece}: {} of {}", got.len(), body.len());
        assert_eq!(pool.chunks_out(), 0);
        assert!(!channel.has_input());
    }
}

#[test]
fn an_end_is_distinguished_from_a_truncation() {
    let ours = Ours::new();
    let pool = ChunkPool::new(4);
    let table = [
        ("goodbye", true, Fault::End, Fault::Tls(TlsFault::Closed)),
        ("cut", false, Fault::End, Fault::Tls(TlsFault::Truncated)),
        ("late", false, Fault::Deadline, Fault::Deadline),
    ];
    for (case, goodbye, at_end, expected) in table {
        let mut channel = secured(&ours, &pool, 1000);
        tell(channel.stream_mut().client(), b"half a mess");
        if goodbye {
            channel.stream_mut().client().send_close_notify();
        }
        let chunk = now(channel.read(&pool, None)).expect(case);
        assert_eq!(chunk.bytes(), b"half a mess", "{case}");
        channel.stream_mut().at_end = at_end;
        let fault = now(channel.read(&pool, Some(chunk))).expect_err(case);
        assert_eq!(fault, expected, "{case}");
        assert_eq!(pool.chunks_out(), 0, "{case}");
    }
}

#[test]
fn a_failed_handshake_reports_the_cause_and_leaks_nothing() {
    let ours = Ours::new();
    let pool = ChunkPool::new(4);
    let table = [
        ("not TLS", b"EHLO x\r\n".to_vec(), true),
        ("closed before the hello", Vec::new(), false),
        ("closed inside the hello", spoken(&mut ours.client(&[&TLS13]))[..100].to_vec(), false),
    ];
    for (case, words, alert) in table {
        let mut channel = Channel::plain(Peer::new(None, 1000));
        channel.stream_mut().to_server.extend(words);
        channel.start_tls(&ours.server).expect("a session");
        let fault = now(channel.handshake(&pool, None)).expect_err(case);
        let told = channel.tls_fault().expect("the cause is stored").clone();
        assert_eq!(fault, Fault::Tls(told.clone()), "{case}");
        assert_eq!(matches!(told, TlsFault::Protocol(_)), alert, "{case}: {told}");
        assert_eq!(told == TlsFault::Truncated, !alert, "{case}: {told}");
        assert_eq!(!channel.stream().from_server.is_empty(), alert, "{case}: the alert is sent");
        assert_eq!(pool.chunks_out(), 0, "{case}");
        let again = now(channel.handshake(&pool, None)).expect_err(case);
        assert_eq!(again, fault, "{case}: it stays broken");
    }
}

#[test]
fn a_broken_channel_does_not_wait_for_more() {
    let ours = Ours::new();
    let pool = ChunkPool::new(4);
    let mut channel = secured(&ours, &pool, 64 << 10);
    tell(channel.stream_mut().client(), b"good\r\n");
    let good = spoken(channel.stream_mut().client());
    tell(channel.stream_mut().client(), b"bad\r\n");
    let mut bad = spoken(channel.stream_mut().client());
    *bad.last_mut().expect("a record") ^= 1;
    channel.stream_mut().to_server.extend(good.iter().chain(&bad));
    let chunk = now(channel.read(&pool, None)).expect("the bytes before the broken record");
    assert_eq!(chunk.bytes(), b"good\r\n");
    pool.give(chunk);
    channel.stream_mut().at_end = Fault::Deadline;
    let fault = now(channel.read(&pool, None)).expect_err("the record is broken");
    assert!(matches!(fault, Fault::Tls(TlsFault::Protocol(_))), "{fault:?}");
    let again = now(channel.read(&pool, None)).expect_err("it stays broken");
    assert_eq!(again, fault, "the channel does not wait for more");
    assert_eq!(pool.chunks_out(), 0);
}

#[test]
fn one_chunk_is_enough_for_a_read() {
    let ours = Ours::new();
    let body: Vec<u8> = (0..400_000_u32).map(|n| (n % 241) as u8).collect();
    for piece in [64 << 10, 40_000, 1448, 7] {
        let pool = ChunkPool::new(1);
        let mut channel = secured(&ours, &pool, piece);
        let body = &body[..body.len().min(piece * 2000)];
        for part in body.chunks(50_000) {
            tell(channel.stream_mut().client(), part);
            let said = spoken(channel.stream_mut().client());
            channel.stream_mut().to_server.extend(said);
        }
        let mut got: Vec<u8> = Vec::new();
        while got.len() < body.len() {
            let chunk = now(channel.read(&pool, None)).expect("more of the body");
            assert!(!chunk.is_empty());
            got.extend(chunk.bytes());
            pool.give(chunk);
        }
        assert!(got == body, "pieces of {piece}");
        assert_eq!(pool.chunks_out(), 0);
    }
}

#[test]
fn an_empty_pool_is_a_fault_and_loses_nothing() {
    let ours = Ours::new();
    let pool = ChunkPool::new(2);
    let mut channel = secured(&ours, &pool, 64 << 10);
    tell(channel.stream_mut().client(), b"MAIL\r\nRCPT\r\n");
    let mut tight = pool.try_take().expect("one chunk is free");
    tight.fill_from(&vec![b'-'; CHUNK_BYTES - 6]);
    let tight = now(channel.read(&pool, Some(tight))).expect("as many bytes as fit");
    assert_eq!(&tight.bytes()[CHUNK_BYTES - 6..], b"MAIL\r\n");
    let other = pool.try_take().expect("the chunk of the ciphertext was returned");
    for _ in 0..2 {
        let fault = now(channel.read(&pool, None)).expect_err("no chunk is free");
        assert_eq!(fault, Fault::Tls(TlsFault::NoChunk));
        assert!(channel.has_input() && channel.tls_fault().is_none());
    }
    pool.give(other);
    let chunk = now(channel.read(&pool, None)).expect("the bytes are still available");
    assert_eq!(chunk.bytes(), b"RCPT\r\n");
}
