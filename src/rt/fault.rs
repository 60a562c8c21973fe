//! The errors of sockets, named by cause.

use std::error::Error;
use std::fmt;
use std::io;

use crate::base::fault::Blame;
use crate::base::fault::Retry;

/// Why a socket operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoFault {
    /// The peer closed its side.
    Closed,
    /// The deadline has passed.
    TimedOut,
    /// The deadline has passed while the pool was empty.
    NoChunk,
    /// The connection was reset.
    Reset,
    /// No listener at the address.
    Refused,
    /// No route to the address.
    Unreachable,
    /// The listener was stopped.
    Stopped,
    /// The process has no file descriptor left.
    NoFiles,
    /// The system has no file descriptor left.
    NoFilesSystem,
    /// The kernel is out of memory.
    NoMemory,
    /// The peer closed the connection before it was accepted.
    Aborted,
    /// The address to bind is in use.
    AddressInUse,
    /// The address to bind does not belong to this machine.
    AddressNotOurs,
    /// Connecting: no local port is free, or no local address of the family exists.
    NoLocalPort,
    /// The address, port or file requires privileges.
    Denied,
    /// Connecting: a firewall forbids the connection, here or on the way.
    Prohibited,
    /// The Unix socket does not exist.
    NoSuchFile,
    /// Any other errno.
    Io(i32),
}

impl IoFault {
    /// Who has to act.
    pub fn blame(self) -> Blame {
        match self {
            IoFault::Closed | IoFault::TimedOut | IoFault::Reset | IoFault::Aborted => Blame::Peer,
            IoFault::Refused | IoFault::Unreachable | IoFault::NoSuchFile => Blame::Peer,
            IoFault::Prohibited => Blame::Peer,
            IoFault::NoChunk | IoFault::Stopped | IoFault::Io(_) => Blame::Us,
            IoFault::NoFiles | IoFault::NoFilesSystem | IoFault::NoMemory => Blame::Operator,
            IoFault::AddressInUse | IoFault::AddressNotOurs | IoFault::Denied => Blame::Operator,
            IoFault::NoLocalPort => Blame::Operator,
        }
    }

    /// Whether this machine lacks a descriptor, memory or a port just now: it says nothing of the peer,
    /// and passes when something else ends.
    pub fn is_own_limit(self) -> bool {
        matches!(
            self,
            IoFault::NoFiles
                | IoFault::NoFilesSystem
                | IoFault::NoMemory
                | IoFault::NoChunk
                | IoFault::NoLocalPort
                | IoFault::AddressInUse
        )
    }

    /// The fault of a failed connect by IP, for which some errnos have another meaning.
    pub fn of_connect(error: io::Error) -> IoFault {
        match error.raw_os_error() {
            Some(libc::EADDRNOTAVAIL) => IoFault::NoLocalPort,
            Some(libc::EACCES | libc::EPERM) => IoFault::Prohibited,
            _ => error.into(),
        }
    }

    /// Whether the same call may succeed later.
    pub fn retry(self) -> Retry {
        match self {
            IoFault::Stopped | IoFault::Closed | IoFault::Reset => Retry::Never,
            IoFault::AddressNotOurs | IoFault::Denied | IoFault::Io(_) => Retry::Never,
            _ => Retry::Later,
        }
    }
}

impl From<io::Error> for IoFault {
    fn from(error: io::Error) -> IoFault {
        match error.raw_os_error().unwrap_or(0) {
            libc::ECONNRESET | libc::EPIPE => IoFault::Reset,
            libc::ECONNREFUSED => IoFault::Refused,
            libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN => IoFault::Unreachable,
            libc::ETIMEDOUT => IoFault::TimedOut,
            libc::EMFILE => IoFault::NoFiles,
            libc::ENFILE => IoFault::NoFilesSystem,
            libc::ENOMEM | libc::ENOBUFS => IoFault::NoMemory,
            libc::ECONNABORTED => IoFault::Aborted,
            libc::EADDRINUSE => IoFault::AddressInUse,
            libc::EADDRNOTAVAIL => IoFault::AddressNotOurs,
            libc::EACCES | libc::EPERM => IoFault::Denied,
            libc::ENOENT => IoFault::NoSuchFile,
            errno => IoFault::Io(errno),
        }
    }
}

impl fmt::Display for IoFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IoFault::Closed => "closed by the peer",
            IoFault::TimedOut => "timed out",
            IoFault::NoChunk => "no receive buffer became free in time",
            IoFault::Reset => "connection reset",
            IoFault::Refused => "connection refused",
            IoFault::Unreachable => "network or host unreachable",
            IoFault::Stopped => "no longer listening",
            IoFault::NoFiles => "too many open files in this process",
            IoFault::NoFilesSystem => "too many open files in the system",
            IoFault::NoMemory => "the kernel is out of memory",
            IoFault::Aborted => "closed by the peer before it was accepted",
            IoFault::AddressInUse => "address in use",
            IoFault::AddressNotOurs => "not an address of this machine",
            IoFault::NoLocalPort => {
                "no local port is free, or no address of its family; \
                 widen net.ipv4.ip_local_port_range, or use more sources"
            }
            IoFault::Denied => "permission denied",
            IoFault::Prohibited => "forbidden by a firewall, here or on the way",
            IoFault::NoSuchFile => "no such file",
            IoFault::Io(errno) => return io::Error::from_raw_os_error(*errno).fmt(f),
        })
    }
}

impl Error for IoFault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_errnos_mean_something_else_when_connecting() {
        let rows = [
            (libc::EADDRNOTAVAIL, IoFault::NoLocalPort, IoFault::AddressNotOurs),
            (libc::EACCES, IoFault::Prohibited, IoFault::Denied),
            (libc::EPERM, IoFault::Prohibited, IoFault::Denied),
            (libc::ECONNREFUSED, IoFault::Refused, IoFault::Refused),
        ];
        for (errno, connecting, elsewhere) in rows {
            let error = || io::Error::from_raw_os_error(errno);
            assert_eq!(IoFault::of_connect(error()), connecting, "{errno}");
            assert_eq!(IoFault::from(error()), elsewhere, "{errno}");
        }
    }
}
