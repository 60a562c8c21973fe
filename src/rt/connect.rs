//! Outgoing connections over TCP and to Unix sockets.
//!
//! Owner:    the shard that connects. Each connect has a time limit.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use futures_io::AsyncWrite;
use socket2::Domain;
use socket2::Protocol;
use socket2::SockAddr;
use socket2::Socket;
use socket2::Type;

use crate::rt::fault::IoFault;
use crate::rt::tcp::Stream;
use crate::rt::timer;

/// Time between two attempts while the queue of a Unix socket is full.
const UNIX_RETRY: Duration = Duration::from_millis(20);

/// Connects to `to` within `limit`, from `source` if given (its port may be 0). Takes addresses
/// only; names are resolved elsewhere. Clears the deadline of the stream afterwards.
pub async fn connect(
    to: SocketAddr,
    source: Option<SocketAddr>,
    limit: Duration,
) -> Result<Stream, IoFault> {
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(to), kind, Some(Protocol::TCP))?;
    if let Some(source) = source {
        // Lets the kernel choose the port by the whole connection. Otherwise one source address is
        // limited to about 28,000 connections in total.
        bind_without_port(&socket)?;
        socket.bind(&source.into())?;
    }
    if let Err(error) = socket.connect(&to.into())
        && error.raw_os_error() != Some(libc::EINPROGRESS)
    {
        return Err(IoFault::of_connect(error));
    }
    let mut stream = Stream::from_socket(socket);
    stream.deadline().set_in(limit);
    // An empty write waits until the connection attempt ends, and returns its result.
    poll_fn(|cx| match Pin::new(&mut stream.tcp).poll_write(cx, &[]) {
        Poll::Ready(connected) => Poll::Ready(connected.map_err(IoFault::of_connect)),
        Poll::Pending if stream.deadline().poll_expired(cx) => Poll::Ready(Err(IoFault::TimedOut)),
        Poll::Pending => Poll::Pending,
    })
    .await?;
    stream.deadline().clear();
    Ok(stream)
}

/// Connects to the Unix socket at `path` within `limit`.
pub async fn connect_unix(path: &Path, limit: Duration) -> Result<Stream, IoFault> {
    let end = timer::now() + limit;
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    loop {
        match socket.connect(&address) {
            Ok(()) => return Ok(Stream::from_socket(socket)),
            // The queue of the listener is full. Unix sockets have no connect in progress to wait
            // for.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        if timer::now() >= end {
            return Err(IoFault::TimedOut);
        }
        timer::sleep(UNIX_RETRY).await;
    }
}

fn bind_without_port(socket: &Socket) -> Result<(), IoFault> {
    let on: libc::c_int = 1;
    let length = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the option reads one int from the given place, which lives until the call returns.
    let done = unsafe {
        let place = (&raw const on).cast();
        let option = libc::IP_BIND_ADDRESS_NO_PORT;
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, option, place, length)
    };
    if done < 0 { Err(io::Error::last_os_error().into()) } else { Ok(()) }
}
