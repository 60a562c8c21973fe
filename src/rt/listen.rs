//! Listening sockets: bound with plain system calls, accepted from on their shard.
//!
//! Owner:    a socket may be bound on any thread (as root, before privileges are dropped). A
//!           `Listener` belongs to one shard.
//! Promise:  a connection leaves the kernel only in the call that returns it, so a dropped `accept`
//!           loses none. `stop` first accepts all queued connections, because the kernel resets
//!           them when a listening socket is shut down.
//! Bounds:   `backlog` connections wait in the kernel, and after `stop` the same number here.
//!           Without descriptors or memory `accept` returns a fault every 100 ms.

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

/// Pause of `accept` after descriptors or memory have run out: the kernel would return the same
/// error at once.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// The parameters of a listening socket.
#[derive(Debug)]
pub struct ListenSpec {
    pub address: SocketAddr,
    /// Connections that the kernel queues; at most `net.core.somaxconn`.
    pub backlog: u32,
    /// Each shard has a socket of its own on this address (SO_REUSEPORT).
    pub reuse_port: bool,
    /// An IPv6 socket does not accept IPv4 connections. Required if both families have sockets of
    /// their own.
    pub v6_only: bool,
    /// A socket that another process has bound, instead of `address`.
    pub inherited: Option<OwnedFd>,
}

/// Binds and listens. May be called on any thread, before privileges are dropped.
pub fn bind_socket(spec: ListenSpec) -> Result<OwnedFd, IoFault> {
    let backlog = spec.backlog;
    let socket = reserve_socket(spec)?;
    start_listening(&socket, backlog)?;
    Ok(socket)
}

/// Starts listening on a socket of `reserve_socket`.
pub fn start_listening(socket: &OwnedFd, backlog: u32) -> Result<(), IoFault> {
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    Ok(socket2::SockRef::from(socket).listen(backlog)?)
}

/// Binds without listening. Connections queued in a listening socket are reset when it is closed.
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
    // After a restart old connections in TIME_WAIT still occupy the port.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(spec.reuse_port)?;
    socket.bind(&spec.address.into())?;
    Ok(socket.into())
}

/// A listening socket on its shard. One task calls `accept`.
pub struct Listener {
    socket: Socket,
    /// Connections that `stop` has accepted and `accept` has not returned yet.
    queued: RefCell<VecDeque<(Socket, SocketAddr)>>,
    stopped: Cell<bool>,
    /// The last `accept` had no descriptor or memory.
    resting: Cell<bool>,
    waiting: Cell<Option<Waker>>,
}

impl Listener {
    /// `bind_socket`, then `from_socket`.
    pub fn bind(spec: ListenSpec) -> Result<Listener, IoFault> {
        bind_socket(spec).map(Listener::from_socket)
    }

    /// Uses a socket of `bind_socket` on this shard.
    pub fn from_socket(socket: OwnedFd) -> Listener {
        Listener {
            socket: Socket::from(socket),
            queued: RefCell::new(VecDeque::new()),
            stopped: Cell::new(false),
            resting: Cell::new(false),
            waiting: Cell::new(None),
        }
    }

    /// The next connection. After `stop`: the queued ones, then `IoFault::Stopped`.
    ///
    /// `NoFiles`, `NoFilesSystem`, `NoMemory` and `Aborted` are temporary: count them and call
    /// again.
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

    /// Stops listening without losing a queued connection. The kernel resets a client that connects
    /// between the last accept and the shutdown; it has not seen a banner.
    pub fn stop(&self) {
        if self.stopped.replace(true) {
            return;
        }
        // Without a free descriptor the remaining connections cannot be accepted and are reset.
        while let Ok(Some(accepted)) = self.try_accept() {
            self.queued.borrow_mut().push_back(accepted);
        }
        // For a socket of another process the shutdown may fail. Nothing is accepted from it
        // afterwards in either case.
        let _ = self.socket.shutdown(Shutdown::Read);
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    /// The address of the socket.
    pub fn local(&self) -> Result<SocketAddr, IoFault> {
        self.socket.local_addr()?.as_socket().ok_or(IoFault::Io(libc::EAFNOSUPPORT))
    }

    /// A connection, if the kernel has one queued.
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

    /// Waits until `try_accept` may find a connection. Dropping the future loses nothing: glommio's
    /// own accept is a ring operation, and a connection that it has accepted is lost with the
    /// future.
    ///
    /// glommio polls for readiness only for a stream, once, when the stream is created. So each
    /// wait creates a stream from a duplicate of the socket. Its first read completes when the
    /// socket is readable, with ENOTCONN, as every read from a listening socket does.
    async fn readable(&self) -> Result<(), IoFault> {
        let duplicate = self.socket.as_fd().try_clone_to_owned();
        let duplicate = duplicate.map_err(|error| self.rest_after(error.into()))?;
        // SAFETY: the descriptor is open, and the stream becomes its only owner.
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

    /// Makes the next `accept` pause if `fault` would only be repeated.
    fn rest_after(&self, fault: IoFault) -> IoFault {
        let lasting = [IoFault::NoFiles, IoFault::NoFilesSystem, IoFault::NoMemory];
        self.resting.set(lasting.contains(&fault));
        fault
    }
}
