//! Ports: whether the server can bind its addresses.
//!
//! Promise:  a port is bound for a moment without listening, so no client can connect.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;

use socket2::Domain;
use socket2::Protocol;
use socket2::Socket;
use socket2::Type;

use crate::boot::check::Finding;
use crate::boot::check::LISTEN;
use crate::config::Config;
use crate::config::MonitorListen;
use crate::doctor::subject::Subject;

pub fn examine(subject: &Subject) -> Vec<Finding> {
    let config = &subject.config;
    let runs = answers(&config.control.socket);
    addresses(config).into_iter().map(|address| judge(address, bind(address), runs)).collect()
}

/// Whether the server runs, by its control socket, whose folder only its user may enter.
fn answers(socket: &Path) -> Runs {
    match UnixStream::connect(socket) {
        Ok(_) => Runs::Yes,
        Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied => Runs::Unseen,
        Err(_) => Runs::No,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runs {
    Yes,
    No,
    Unseen,
}

fn addresses(config: &Config) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> =
        config.listeners.iter().flat_map(|listener| listener.address.iter().copied()).collect();
    if let MonitorListen::At(address) = config.monitor.listen {
        found.push(address);
    }
    found
}

fn bind(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // As the server does: connections in TIME_WAIT do not prevent binding.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

fn judge(address: SocketAddr, bound: io::Result<()>, runs: Runs) -> Finding {
    let Err(cause) = bound else {
        return LISTEN.ok(format!("{address} is free"));
    };
    match cause.kind() {
        io::ErrorKind::AddrInUse if runs == Runs::Yes => {
            LISTEN.ok(format!("{address} is in use, and the server is running"))
        }
        io::ErrorKind::AddrInUse if runs == Runs::Unseen => LISTEN.note(
            format!("{address} is in use, perhaps by the server: no access to its control socket"),
            "run the doctor as the user of the server, or as root",
        ),
        io::ErrorKind::AddrInUse => LISTEN.error(
            format!("{address} is in use by another program"),
            "find the program with `ss -ltnp`; stop it or choose another port",
        ),
        io::ErrorKind::PermissionDenied => LISTEN.note(
            format!("{address} cannot be tested without the right to bind it"),
            "the systemd unit grants CAP_NET_BIND_SERVICE; run the doctor as root to test this",
        ),
        io::ErrorKind::AddrNotAvailable => LISTEN.error(
            format!("this machine does not have the address {}", address.ip()),
            "correct `address` of the listener; `ip address` lists the addresses",
        ),
        _ => LISTEN.error(format!("{address}: {cause}"), "check `address` of the listener"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::net::TcpListener;

    use crate::boot::check::Level;

    #[test]
    fn a_server_is_known_by_its_socket() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let socket = folder.path().join("control");
        assert_eq!(answers(&socket), Runs::No);
        let listener = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
        assert_eq!(answers(&socket), Runs::Yes);
        drop(listener);
        assert_eq!(answers(&socket), Runs::No, "what a killed server has left");
    }

    #[test]
    fn ports_are_tried() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("bound");
        assert_eq!(judge(address, bind(address), Runs::No).level, Level::Error);
        assert_eq!(judge(address, bind(address), Runs::Yes).level, Level::Ok);
        assert_eq!(judge(address, bind(address), Runs::Unseen).level, Level::Note);
        drop(taken);
        assert_eq!(judge(address, bind(address), Runs::No).level, Level::Ok);
        let foreign = "192.0.2.1:2525".parse().expect("an address");
        assert_eq!(judge(foreign, bind(foreign), Runs::No).level, Level::Error);
        let denied = Err(io::ErrorKind::PermissionDenied.into());
        assert_eq!(judge(foreign, denied, Runs::No).level, Level::Note);
    }
}
