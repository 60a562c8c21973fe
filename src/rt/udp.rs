//! UDP sockets with one peer.
//!
//! Owner:    one task of one shard. The socket's deadline limits all its waits.
//! Promise:  a datagram leaves the kernel only in the call that returns it, so a dropped `receive`
//!           loses none (glommio's own is a ring operation and does). The kernel drops datagrams of
//!           other senders.
//! Bounds:   the socket's queue in the kernel; further datagrams are dropped.

use std::future::poll_fn;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::IntoRawFd;
use std::pin::Pin;

use futures_io::AsyncRead;
use glommio::net::TcpStream;
use socket2::Domain;
use socket2::Protocol;
use socket2::Socket;
use socket2::Type;

use crate::rt::fault::IoFault;
use crate::rt::task;
use crate::rt::timer::Deadline;

/// A socket with one peer. Unless it was bound, the kernel chooses a random port.
pub struct UdpSocket {
    /// glommio waits for readiness only for a stream. Its read is a poll and a plain `recv`, which
    /// work for a datagram socket as well.
    udp: TcpStream,
    deadline: Deadline,
}

impl UdpSocket {
    /// A new socket that is connected to `peer`, from `source` if given (its port may be 0).
    pub fn connect(peer: SocketAddr, source: Option<SocketAddr>) -> Result<UdpSocket, IoFault> {
        let kind = Type::DGRAM.nonblocking();
        let socket = Socket::new(Domain::for_address(peer), kind, Some(Protocol::UDP))?;
        if let Some(source) = source {
            socket.bind(&source.into())?;
        }
        socket.connect(&peer.into())?;
        // SAFETY: the descriptor is open, and the stream becomes its only owner.
        let udp = unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) };
        Ok(UdpSocket { udp, deadline: Deadline::new() })
    }

    /// The deadline of all waits of this socket; not set at first.
    pub fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    /// Sends one datagram without waiting. `NoMemory` if the kernel has no room. An ICMP error of
    /// an earlier datagram may be returned here as `Refused`.
    pub fn send(&self, datagram: &[u8]) -> Result<(), IoFault> {
        match self.socket().send_with_flags(datagram, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Err(IoFault::NoMemory),
            Err(error) => Err(error.into()),
        }
    }

    /// Receives one datagram into `room` and returns its length. A longer one is truncated.
    pub async fn receive(&mut self, room: &mut [u8]) -> Result<usize, IoFault> {
        // A read into an empty buffer would drop a datagram.
        assert!(!room.is_empty(), "the buffer has room");
        task::yield_if_needed().await;
        poll_fn(|cx| {
            let polled = Pin::new(&mut self.udp).poll_read(cx, room);
            self.deadline.limit(cx, polled)
        })
        .await
    }

    /// Our own address.
    pub fn local(&self) -> Result<SocketAddr, IoFault> {
        self.socket().local_addr()?.as_socket().ok_or(IoFault::Io(libc::EAFNOSUPPORT))
    }

    /// The socket, for calls that glommio does not have.
    fn socket(&self) -> ManuallyDrop<Socket> {
        // SAFETY: the descriptor is open as long as `udp`, and the result is used only within the
        // borrow of `self`. It is never dropped and so does not close the descriptor.
        ManuallyDrop::new(unsafe { Socket::from_raw_fd(self.udp.as_raw_fd()) })
    }
}
