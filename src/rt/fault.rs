//! The errors of sockets, named by cause.

use std::io;

use thiserror::Error;

use crate::base::fault::Blame;

/// Why a socket operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IoFault {
    #[error("closed by the peer")]
    Closed,
    /// The deadline has passed.
    #[error("timed out")]
    TimedOut,
    #[error("no receive buffer became free in time")]
    NoChunk,
    #[error("connection reset")]
    Reset,
    #[error("connection refused")]
    Refused,
    #[error("network or host unreachable")]
    Unreachable,
    #[error("no longer listening")]
    Stopped,
    #[error("too many open files in this process")]
    NoFiles,
    #[error("too many open files in the system")]
    NoFilesSystem,
    #[error("the kernel is out of memory")]
    NoMemory,
    #[error("closed by the peer before it was accepted")]
    Aborted,
    #[error("address in use")]
    AddressInUse,
    #[error("not an address of this machine")]
    AddressNotOurs,
    #[error(
        "no local port is free, or no address of its family; widen net.ipv4.ip_local_port_range, \
         or use more sources"
    )]
    NoLocalPort,
    /// The address, port or file requires privileges.
    #[error("permission denied")]
    Denied,
    #[error("forbidden by a firewall, here or on the way")]
    Prohibited,
    #[error("no such file")]
    NoSuchFile,
    /// Any other errno.
    #[error("{}", io::Error::from_raw_os_error(*.0))]
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
