//! The errors of sockets, named by cause.

use std::error::Error;
use std::fmt;
use std::io;

use crate::base::fault::Blame;
use crate::base::fault::Retry;

/// Why a socket did not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoFault {
    /// The peer has closed its side.
    Closed,
    /// The deadline has passed.
    TimedOut,
    /// The deadline has passed while the pool was empty.
    NoChunk,
    /// The connection was broken off.
    Reset,
    /// Nobody listens there.
    Refused,
    /// There is no way there.
    Unreachable,
    /// The listener was stopped.
    Stopped,
    /// This process has no descriptor left.
    NoFiles,
    /// The system has no descriptor left.
    NoFilesSystem,
    /// The kernel has no memory for it.
    NoMemory,
    /// The peer was gone before its connection was accepted.
    Aborted,
    /// The address to bind is taken.
    AddressInUse,
    /// The address to bind is none of this machine's.
    AddressNotOurs,
    /// Connecting, and no local port is free for it, or no local address of its family.
    NoLocalPort,
    /// The address, port or file needs privileges.
    Denied,
    /// Connecting, and a firewall forbids it, here or on the way.
    Prohibited,
    /// There is no such socket in the file system.
    NoSuchFile,
    /// Something that has no name here: the errno.
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

    /// What an error of connecting by IP means, where some errnos say other things than elsewhere.
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
            IoFault::NoChunk => "no memory for what came in within the time",
            IoFault::Reset => "connection reset",
            IoFault::Refused => "connection refused",
            IoFault::Unreachable => "network or host unreachable",
            IoFault::Stopped => "not listening any more",
            IoFault::NoFiles => "too many open files in this process",
            IoFault::NoFilesSystem => "too many open files in the system",
            IoFault::NoMemory => "the kernel is out of memory",
            IoFault::Aborted => "the peer was gone before it was accepted",
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
    fn connecting_and_binding_mean_other_things_by_one_errno() {
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
