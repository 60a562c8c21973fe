//! Listening sockets: bound by plain calls, accepted from on their shard.
//!
//! Owner:    a socket may be bound anywhere (as root, before privileges are dropped); a `Listener`
//!           belongs to one shard.
//! Promise:  a connection is taken out of the kernel only by a call that hands it out at once, so
//!           a dropped `accept` loses none. `stop` first takes what the kernel has queued, for the
//!           kernel resets what waits in a listening socket that is shut down.
//! Bounds:   `backlog` connections wait in the kernel, and after `stop` as many here. When
//!           descriptors or memory end, `accept` says so once every 100 ms.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::fd::FromRawFd;
use std::os::fd::IntoRawFd;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;

use futures_io::AsyncRead;
use glommio::net::TcpStream;
use socket2::Domain;
use socket2::Protocol;
use socket2::Socket;
use socket2::Type;

use crate::rt::fault::IoFault;
use crate::rt::task;
use crate::rt::tcp::Stream;
use crate::rt::timer;

/// How long `accept` rests after descriptors or memory have ended: they do not come back at once,
/// and the kernel answers without waiting.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// What to listen on.
#[derive(Debug)]
pub struct ListenSpec {
    pub address: SocketAddr,
    /// Connections that the kernel keeps for us; it cuts this to `net.core.somaxconn`.
    pub backlog: u32,
    /// Whether every shard has a socket of its own on this address.
    pub reuse_port: bool,
    /// Whether an IPv6 socket refuses IPv4. Wanted where each has a socket of its own.
    pub v6_only: bool,
    /// A socket that was bound by another process, instead of `address`.
    pub inherited: Option<OwnedFd>,
}

/// Binds and listens. Plain calls: to be made by any thread, before privileges are dropped.
pub fn bind_socket(spec: ListenSpec) -> Result<OwnedFd, IoFault> {
    let backlog = spec.backlog;
    let socket = reserve_socket(spec)?;
    start_listening(&socket, backlog)?;
    Ok(socket)
}

/// Has the kernel take connections for a socket of `reserve_socket`.
pub fn start_listening(socket: &OwnedFd, backlog: u32) -> Result<(), IoFault> {
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    Ok(socket2::SockRef::from(socket).listen(backlog)?)
}

/// Binds, and does not listen yet: a connection that the kernel gave to a socket is reset when that
/// is closed.
pub fn reserve_socket(spec: ListenSpec) -> Result<OwnedFd, IoFault> {
    if let Some(inherited) = spec.inherited {
        let socket = Socket::from(inherited);
        socket.set_cloexec(true)?;
        socket.set_nonblocking(true)?;
        return Ok(socket.into());
    }
    let domain = Domain::for_address(spec.address);
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(spec.v6_only)?;
    }
    // After a restart the port is still taken by connections that are closing.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(spec.reuse_port)?;
    socket.bind(&spec.address.into())?;
    Ok(socket.into())
}

/// A listening socket on its shard. One task accepts.
pub struct Listener {
    socket: Socket,
    /// Taken out of the kernel by `stop`, not yet handed out.
    queued: RefCell<VecDeque<(Socket, SocketAddr)>>,
    stopped: Cell<bool>,
    /// The last accept found no descriptor or no memory.
    resting: Cell<bool>,
    waiting: Cell<Option<Waker>>,
}

impl Listener {
    /// `bind_socket` and `from_socket` in one.
    pub fn bind(spec: ListenSpec) -> Result<Listener, IoFault> {
        bind_socket(spec).map(Listener::from_socket)
    }

    /// Accepts from a socket of `bind_socket`, on this shard.
    pub fn from_socket(socket: OwnedFd) -> Listener {
        Listener {
            socket: Socket::from(socket),
            queued: RefCell::new(VecDeque::new()),
            stopped: Cell::new(false),
            resting: Cell::new(false),
            waiting: Cell::new(None),
        }
    }

    /// The next connection. After `stop`: those that were queued, then `IoFault::Stopped`.
    ///
    /// `NoFiles`, `NoFilesSystem`, `NoMemory` and `Aborted` pass: count them and call again.
    pub async fn accept(&self) -> Result<(Stream, SocketAddr), IoFault> {
        task::yield_if_needed().await;
        if self.resting.take() {
            timer::sleep(ACCEPT_REST).await;
        }
        loop {
            let queued = self.queued.borrow_mut().pop_front();
            if let Some((socket, peer)) = queued {
                return Ok((Stream::from_socket(socket), peer));
            }
            if self.stopped.get() {
                return Err(IoFault::Stopped);
            }
            match self.try_accept() {
                Ok(Some((socket, peer))) => return Ok((Stream::from_socket(socket), peer)),
                Ok(None) => self.readable().await?,
                Err(fault) => return Err(self.rest_after(fault)),
            }
        }
    }

    /// Stops listening, without losing a connection that the kernel has queued. A client that
    /// connects in the instant between is reset by the kernel; it has seen no banner.
    pub fn stop(&self) {
        if self.stopped.replace(true) {
            return;
        }
        // Out of descriptors the rest is reset, for it cannot be held.
        while let Ok(Some(accepted)) = self.try_accept() {
            self.queued.borrow_mut().push_back(accepted);
        }
        // A socket of another process may not be ours to shut down, or not listen any more: either
        // way nothing is accepted from it again.
        let _ = self.socket.shutdown(Shutdown::Read);
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    /// The address that clients connect to.
    pub fn local(&self) -> Result<SocketAddr, IoFault> {
        self.socket.local_addr()?.as_socket().ok_or(IoFault::Io(libc::EAFNOSUPPORT))
    }

    /// A queued connection; none when the kernel has none.
    fn try_accept(&self) -> Result<Option<(Socket, SocketAddr)>, IoFault> {
        loop {
            // accept4 with SOCK_CLOEXEC.
            match self.socket.accept() {
                Ok((socket, peer)) => {
                    let peer = peer.as_socket().ok_or(IoFault::Io(libc::EAFNOSUPPORT))?;
                    return Ok(Some((socket, peer)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until `try_accept` may find something. Dropping this loses nothing, for it takes
    /// nothing: glommio's own accept is a ring operation, and a connection that it has taken goes
    /// with the future.
    ///
    /// glommio waits for readiness only on behalf of a stream, and arms it once when the stream is
    /// made: so each wait makes one, of a duplicate that it may close. Its first read is due when
    /// the socket is readable, and then says ENOTCONN, as every read from a listening socket does.
    async fn readable(&self) -> Result<(), IoFault> {
        let duplicate = self.socket.as_fd().try_clone_to_owned();
        let duplicate = duplicate.map_err(|error| self.rest_after(error.into()))?;
        // SAFETY: the descriptor is open and given away here, to be closed by the stream alone.
        let mut probe = unsafe { TcpStream::from_raw_fd(duplicate.into_raw_fd()) };
        poll_fn(|cx| {
            if self.stopped.get() {
                return Poll::Ready(());
            }
            self.waiting.set(Some(cx.waker().clone()));
            Pin::new(&mut probe).poll_read(cx, &mut []).map(|_| ())
        })
        .await;
        self.waiting.take();
        Ok(())
    }

    /// Makes the next `accept` rest when `fault` would only come again.
    fn rest_after(&self, fault: IoFault) -> IoFault {
        let lasting = [IoFault::NoFiles, IoFault::NoFilesSystem, IoFault::NoMemory];
        self.resting.set(lasting.contains(&fault));
        fault
    }
}
