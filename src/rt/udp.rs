//! Datagrams to and from one peer.
//!
//! Owner:    one task of one shard. The deadline of a socket governs every wait of it.
//! Promise:  a datagram is taken out of the kernel only by a call that hands it out at once, so a
//!           dropped `receive` loses none (glommio's own is a ring operation and does). Datagrams
//!           of anybody but the peer never come out: the kernel filters them.
//! Bounds:   what the kernel queues for a socket; past that it drops.

use std::future::poll_fn;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::IntoRawFd;
use std::pin::Pin;
use std::task::Poll;

use futures_io::AsyncRead;
use glommio::net::TcpStream;
use socket2::Domain;
use socket2::Protocol;
use socket2::Socket;
use socket2::Type;

use crate::rt::fault::IoFault;
use crate::rt::task;
use crate::rt::timer::Deadline;

/// A socket with one peer and, unless it was bound, a port that the kernel has drawn by lot.
pub struct UdpSocket {
    /// glommio waits for readiness only on behalf of a stream. Its read is a poll and a plain
    /// `recv`, which serve a datagram socket as well.
    udp: TcpStream,
    deadline: Deadline,
}

impl UdpSocket {
    /// A fresh socket that talks with `peer` alone, from `source` if given (its port may be 0).
    pub fn connect(peer: SocketAddr, source: Option<SocketAddr>) -> Result<UdpSocket, IoFault> {
        let kind = Type::DGRAM.nonblocking();
        let socket = Socket::new(Domain::for_address(peer), kind, Some(Protocol::UDP))?;
        if let Some(source) = source {
            socket.bind(&source.into())?;
        }
        socket.connect(&peer.into())?;
        // SAFETY: the descriptor is open and given away here, to be closed by the stream alone.
        let udp = unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) };
        Ok(UdpSocket { udp, deadline: Deadline::new() })
    }

    /// Governs every wait of this socket; none at first.
    pub fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    /// Sends one datagram. It never waits: without room in the kernel it is `NoMemory`, and as
    /// good as lost on the way. An earlier datagram that nobody took may be `Refused` here.
    pub fn send(&self, datagram: &[u8]) -> Result<(), IoFault> {
        match self.socket().send_with_flags(datagram, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Err(IoFault::NoMemory),
            Err(error) => Err(error.into()),
        }
    }

    /// Receives one datagram into `room` and answers its length; what does not fit is cut off.
    pub async fn receive(&mut self, room: &mut [u8]) -> Result<usize, IoFault> {
        // A read without room would take a datagram and throw it away.
        assert!(!room.is_empty(), "there is no room to receive into");
        task::yield_if_needed().await;
        poll_fn(|cx| match Pin::new(&mut self.udp).poll_read(cx, room) {
            Poll::Ready(received) => Poll::Ready(received.map_err(IoFault::from)),
            Poll::Pending if self.deadline.poll_expired(cx) => Poll::Ready(Err(IoFault::TimedOut)),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Our own address.
    pub fn local(&self) -> Result<SocketAddr, IoFault> {
        self.socket().local_addr()?.as_socket().ok_or(IoFault::Io(libc::EAFNOSUPPORT))
    }

    /// The socket, for what glommio has no call for.
    fn socket(&self) -> ManuallyDrop<Socket> {
        // SAFETY: the descriptor is open as long as `udp`, and nobody uses what is returned
        // longer than the borrow of `self`; it is not closed, for it is never dropped.
        ManuallyDrop::new(unsafe { Socket::from_raw_fd(self.udp.as_raw_fd()) })
    }
}
