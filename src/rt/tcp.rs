//! Connected streams over TCP and Unix sockets: reads fill chunks, writes take owned buffers.
//!
//! Owner:    one task of one shard. The stream's deadline limits all its waits.
//! Promise:  a waiting read holds no chunk of the pool. Every future may be dropped while it waits;
//!           if a write was in progress or a read was given a chunk, the connection can only be
//!           closed afterwards.
//! Bounds:   one receive or send call per poll, into at most one chunk; `SLICES_PER_SEND` slices.
//!
//! SIGPIPE must be ignored, as the Rust runtime does: one of glommio's sends does not set
//! MSG_NOSIGNAL.

use std::future::poll_fn;
use std::io;
use std::io::IoSlice;
use std::mem::ManuallyDrop;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::IntoRawFd;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use futures_io::AsyncRead;
use futures_io::AsyncWrite;
use glommio::net::TcpStream;
use socket2::Socket;

use crate::base::chunk::Chunk;
use crate::base::chunk::ChunkPool;
use crate::rt::fault::IoFault;
use crate::rt::task;
use crate::rt::timer::Deadline;

/// Slices of one send call; the kernel accepts 1,024.
const SLICES_PER_SEND: usize = 64;
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;

/// One connection. Dropping it closes it; data that the kernel has accepted is still sent.
pub struct Stream {
    pub(in crate::rt) tcp: TcpStream,
    deadline: Deadline,
}

impl Stream {
    /// Takes ownership of a connected or connecting socket, on this shard.
    pub(in crate::rt) fn from_socket(socket: Socket) -> Stream {
        // This fails if the peer has closed already; the first read then returns the fault.
        let _ = socket.set_tcp_nodelay(true);
        // SAFETY: the descriptor is open, and the stream becomes its only owner.
        let tcp = unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) };
        Stream { tcp, deadline: Deadline::new() }
    }

    /// The deadline of all waits of this stream; not set at first.
    pub fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    /// Receives at least one byte, appended to `chunk`, or into a chunk of the pool. While the read
    /// waits without a chunk of the caller it holds none; while the pool is empty it retries at
    /// each tick. On a fault or a drop a chunk of the caller is lost with its bytes.
    pub async fn read(
        &mut self,
        pool: &ChunkPool,
        mut chunk: Option<Chunk>,
    ) -> Result<Chunk, IoFault> {
        let full = chunk.as_ref().is_some_and(Chunk::is_full);
        assert!(!full, "there is no room in the chunk to read into");
        task::yield_if_needed().await;
        poll_fn(|cx| self.poll_read(cx, pool, &mut chunk)).await
    }

    /// Fills `room` completely and reads no further byte.
    pub async fn read_exact(&mut self, room: &mut [u8]) -> Result<(), IoFault> {
        task::yield_if_needed().await;
        let mut filled = 0;
        poll_fn(|cx| {
            while filled < room.len() {
                let polled = Pin::new(&mut self.tcp).poll_read(cx, &mut room[filled..]);
                match ready!(self.deadline.limit(cx, polled))? {
                    0 => return Poll::Ready(Err(IoFault::Closed)),
                    count => filled += count,
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Sends all of `bytes`. The buffer is returned empty, also after a fault.
    pub async fn write(&mut self, mut bytes: Vec<u8>) -> (Result<(), IoFault>, Vec<u8>) {
        task::yield_if_needed().await;
        let mut sent = 0;
        let result = poll_fn(|cx| {
            while sent < bytes.len() {
                sent += ready!(self.poll_send(cx, &[IoSlice::new(&bytes[sent..])]))?;
            }
            Poll::Ready(Ok(()))
        })
        .await;
        bytes.clear();
        (result, bytes)
    }

    /// Sends all `parts` in order. After a fault it is unknown how much was sent.
    pub async fn write_parts(&mut self, parts: &[&[u8]]) -> Result<(), IoFault> {
        task::yield_if_needed().await;
        let mut place = Place::default();
        poll_fn(|cx| {
            loop {
                let rest = place.rest(parts);
                if rest.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                let count = ready!(self.poll_send(cx, &rest))?;
                place.advance(parts, count);
            }
        })
        .await
    }

    /// Shuts down the sending side; the peer reads to the end.
    pub fn shutdown_write(&self) -> Result<(), IoFault> {
        Ok(self.socket().shutdown(Shutdown::Write)?)
    }

    /// Closes at once with a reset; unsent data is dropped.
    pub fn abort(self) {
        // If this fails, the socket is closed normally.
        let _ = self.socket().set_linger(Some(Duration::ZERO));
    }

    /// The peer's address.
    pub fn peer(&self) -> Result<SocketAddr, IoFault> {
        self.socket().peer_addr()?.as_socket().ok_or(IoFault::Io(libc::EAFNOSUPPORT))
    }

    /// Our own address.
    pub fn local(&self) -> Result<SocketAddr, IoFault> {
        self.socket().local_addr()?.as_socket().ok_or(IoFault::Io(libc::EAFNOSUPPORT))
    }

    /// Number of unread bytes: from a client that talks before the banner or after a command that
    /// must be the last.
    pub fn unread_input(&self) -> Result<usize, IoFault> {
        let mut count: libc::c_int = 0;
        // SAFETY: FIONREAD writes one int to `count`, which lives until the call returns.
        let done = unsafe { libc::ioctl(self.tcp.as_raw_fd(), libc::FIONREAD, &mut count) };
        if done < 0 { Err(io::Error::last_os_error().into()) } else { Ok(count as usize) }
    }

    /// Whether a read would return at once: with data, the end of the stream or a fault. Reads
    /// nothing.
    pub fn is_readable(&self) -> bool {
        let mut byte = [MaybeUninit::uninit(); 1];
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        match self.socket().recv_with_flags(&mut byte, flags) {
            Ok(_) => true,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// The socket, for calls that glommio does not have.
    fn socket(&self) -> ManuallyDrop<Socket> {
        // SAFETY: the descriptor is open as long as `tcp`, and the result is used only within the
        // borrow of `self`. It is never dropped and so does not close the descriptor.
        ManuallyDrop::new(unsafe { Socket::from_raw_fd(self.tcp.as_raw_fd()) })
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        pool: &ChunkPool,
        given: &mut Option<Chunk>,
    ) -> Poll<Result<Chunk, IoFault>> {
        let own = given.is_some();
        let Some(mut chunk) = given.take().or_else(|| pool.try_take()) else {
            return self.poll_without_chunk(cx);
        };
        let received = Pin::new(&mut self.tcp).poll_read(cx, chunk.room());
        if let Poll::Ready(Ok(count @ 1..)) = received {
            chunk.advance(count);
            return Poll::Ready(Ok(chunk));
        }
        // A chunk of the pool is returned during the wait; the caller's stays with the future.
        if own {
            *given = Some(chunk);
        } else {
            pool.give(chunk);
        }
        ready!(self.deadline.limit(cx, received))?;
        Poll::Ready(Err(IoFault::Closed))
    }

    /// The pool is empty, which matters only if data has arrived. An empty read tells, without
    /// consuming any.
    fn poll_without_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Chunk, IoFault>> {
        let came = match Pin::new(&mut self.tcp).poll_read(cx, &mut []) {
            Poll::Ready(Ok(_)) => true,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
            Poll::Pending => false,
        };
        if came {
            self.deadline.retry_at_tick(cx);
        }
        match (self.deadline.poll_expired(cx), came) {
            (true, true) => Poll::Ready(Err(IoFault::NoChunk)),
            (true, false) => Poll::Ready(Err(IoFault::TimedOut)),
            (false, _) => Poll::Pending,
        }
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<Result<usize, IoFault>> {
        let sent = match parts {
            // A plain send is cheaper for the kernel than a vectored one.
            [part] => self.socket().send_with_flags(part, SEND_FLAGS),
            parts => self.socket().send_vectored_with_flags(parts, SEND_FLAGS),
        };
        match sent {
            Ok(count) => return Poll::Ready(Ok(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(error.into())),
        }
        // glommio retries once and then waits for buffer space.
        let polled = Pin::new(&mut self.tcp).poll_write(cx, &parts[0]);
        self.deadline.limit(cx, polled)
    }
}

/// The position up to which a list of slices has been sent.
#[derive(Default)]
struct Place {
    slice: usize,
    byte: usize,
}

impl Place {
    /// The unsent rest, up to the slices of one call.
    fn rest<'a>(&self, slices: &[&'a [u8]]) -> Vec<IoSlice<'a>> {
        let tails = slices[self.slice..].iter().enumerate();
        let tails = tails.map(|(place, slice)| match place {
            0 => &slice[self.byte..],
            _ => slice,
        });
        // An empty slice would look like a successful send of 0 bytes.
        let tails = tails.filter(|tail| !tail.is_empty());
        tails.take(SLICES_PER_SEND).map(IoSlice::new).collect()
    }

    /// Records that `count` more bytes were sent.
    fn advance(&mut self, slices: &[&[u8]], count: usize) {
        self.byte += count;
        while self.slice < slices.len() && self.byte >= slices[self.slice].len() {
            self.byte -= slices[self.slice].len();
            self.slice += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sending_continues_at_the_byte_after_the_last() {
        let slices: [&[u8]; 4] = [b"abc", b"", b"defg", b"h"];
        let whole = b"abcdefgh";
        for first in 0..=whole.len() {
            for second in 0..=whole.len() - first {
                let mut place = Place::default();
                place.advance(&slices, first);
                place.advance(&slices, second);
                let rest: Vec<u8> =
                    place.rest(&slices).iter().flat_map(|part| part.to_vec()).collect();
                assert_eq!(rest, &whole[first + second..], "{first} and {second} bytes sent");
            }
        }
    }
}
