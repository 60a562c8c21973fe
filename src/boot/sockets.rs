//! Binds the listening sockets before privileges are dropped.
//!
//! Order:    `bind` as root; then `Bound::listen`, once the number of shards is known: the kernel
//!           spreads connections over all listening sockets, and closing one resets its connections.
//! Promise:  each shard has its own SO_REUSEPORT socket for each address; port 0 is resolved once, to
//!           the same port for all shards. Each error names address, cause and remedy.
//! Beware:   the kernel tears down the rings of a killed process some time after the process is gone,
//!           and only then closes their sockets. So a busy address is tried again for a while.

use std::net::SocketAddr;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::config::Config;
use crate::config::MonitorListen;
use crate::config::kind::Choice;
use crate::monitor::thread::MonitorListener;
use crate::rt::IoFault;
use crate::rt::ListenSpec;
use crate::rt::reserve_socket;
use crate::rt::start_listening;

/// Connections that the kernel queues before they are accepted; at most `net.core.somaxconn`.
pub const BACKLOG: u32 = 4096;

/// How long to wait for the sockets of a killed predecessor.
const RELEASE_MAX: Duration = Duration::from_secs(2);
const RELEASE_RETRY: Duration = Duration::from_millis(20);

/// One shard's sockets, one for each address of each listener.
pub type ShardSockets = Vec<OwnedFd>;

/// All sockets.
pub struct Bound {
    /// For each shard, in the order of `addresses`.
    pub shards: Vec<ShardSockets>,
    /// The bound addresses.
    pub addresses: Vec<BoundAddress>,
    /// A failure to bind does not stop the start: mail does not depend on this listener.
    pub monitor: Option<MonitorListener>,
}

/// A bound address, with the names of its protocol and TLS mode.
#[derive(Clone, Debug)]
pub struct BoundAddress {
    pub address: SocketAddr,
    pub protocol: &'static str,
    pub tls: &'static str,
}

impl Bound {
    /// Starts listening on the sockets of the first `shards` shards and closes the others.
    pub fn listen(&mut self, shards: usize) -> Result<(), Vec<String>> {
        self.shards.truncate(shards);
        for sockets in &self.shards {
            for (socket, bound) in sockets.iter().zip(&self.addresses) {
                start_listening(socket, BACKLOG).map_err(|fault| {
                    vec![format!("cannot listen on {}: {fault}; {}", bound.address, remedy(fault))]
                })?;
            }
        }
        Ok(())
    }
}

/// Binds all sockets without listening yet. The errors list every mail address that cannot be bound.
pub fn bind(config: &Config, shards: usize) -> Result<Bound, Vec<String>> {
    let mut faults = Vec::new();
    let end = Instant::now() + RELEASE_MAX;
    let mut bound = Bound {
        shards: (0..shards).map(|_| Vec::new()).collect(),
        addresses: Vec::new(),
        monitor: None,
    };
    for listener in &config.listeners {
        for wanted in &listener.address {
            let about = (listener.protocol.as_str(), listener.tls.as_str());
            let free = retry_while_in_use(end, || probe(*wanted));
            if let Err(fault) = free.and_then(|()| bind_all(*wanted, about, &mut bound)) {
                faults.push(format!("cannot listen on {wanted}: {fault}; {}", remedy(fault)));
            }
        }
    }
    if let MonitorListen::At(address) = config.monitor.listen {
        let monitor = retry_while_in_use(end, || Ok(TcpListener::bind(address)?));
        let bound_monitor = monitor.map_err(|fault: IoFault| {
            let advice = match fault {
                IoFault::AddressInUse => {
                    "free it, or set monitor.listen to another port or to \"off\""
                }
                other => remedy(other),
            };
            format!("{fault}; {advice}")
        });
        bound.monitor = Some(MonitorListener { address, bound: bound_monitor });
    }
    if faults.is_empty() { Ok(bound) } else { Err(faults) }
}

fn bind_all(
    wanted: SocketAddr,
    (protocol, tls): (&'static str, &'static str),
    bound: &mut Bound,
) -> Result<(), IoFault> {
    let mut address = wanted;
    for sockets in &mut bound.shards {
        let socket = reserve_socket(ListenSpec {
            address,
            backlog: BACKLOG,
            reuse_port: true,
            v6_only: true,
            inherited: None,
        })?;
        let taken = socket2::SockRef::from(&socket.as_fd()).local_addr()?;
        address = taken.as_socket().unwrap_or(address);
        sockets.push(socket);
    }
    bound.addresses.push(BoundAddress { address, protocol, tls });
    Ok(())
}

/// Binds once without SO_REUSEPORT to detect a running server: with it, a second server of the same
/// user would share the port and receive half of the connections.
fn probe(wanted: SocketAddr) -> Result<(), IoFault> {
    let spec = ListenSpec {
        address: wanted,
        backlog: 1,
        reuse_port: false,
        v6_only: true,
        inherited: None,
    };
    reserve_socket(spec).map(drop)
}

/// Repeats `bind` until `end` while the address is in use.
fn retry_while_in_use<T>(
    end: Instant,
    bind: impl Fn() -> Result<T, IoFault>,
) -> Result<T, IoFault> {
    loop {
        match bind() {
            Err(IoFault::AddressInUse) if Instant::now() < end => thread::sleep(RELEASE_RETRY),
            done => return done,
        }
    }
}

fn remedy(fault: IoFault) -> &'static str {
    match fault {
        IoFault::AddressInUse => {
            "another program listens there (`ss -ltnp` shows it); stop it or choose another port"
        }
        IoFault::Denied => "ports below 1024 need root or CAP_NET_BIND_SERVICE",
        IoFault::AddressNotOurs => "this machine does not have that address (see `ip address`)",
        IoFault::NoFiles | IoFault::NoFilesSystem => "raise the limit of open files",
        _ => "check the address and the port",
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn an_address_is_waited_for_but_not_for_long() {
        let answers = |answers: &'static [Result<(), IoFault>], time: Duration| {
            let given = Cell::new(0);
            let took = retry_while_in_use(Instant::now() + time, || {
                given.set(given.get() + 1);
                answers[(given.get() - 1).min(answers.len() - 1)]
            });
            (took, given.get())
        };
        const TAKEN: Result<(), IoFault> = Err(IoFault::AddressInUse);
        const SOON: &[Result<(), IoFault>] = &[TAKEN, TAKEN, Ok(())];
        const NEVER: &[Result<(), IoFault>] = &[TAKEN];
        const ELSEWHERE: &[Result<(), IoFault>] = &[Err(IoFault::AddressNotOurs)];
        let long = Duration::from_secs(3600);
        assert_eq!(answers(SOON, long), (Ok(()), 3));
        assert_eq!(answers(NEVER, Duration::ZERO), (TAKEN, 1));
        let nowhere = (Err(IoFault::AddressNotOurs), 1);
        assert_eq!(answers(ELSEWHERE, long), nowhere, "waiting would not help");
    }

    #[test]
    fn only_the_sockets_of_shards_get_connections() {
        const CONNECTIONS: usize = 32;
        let mut bound = Bound {
            shards: (0..4).map(|_| Vec::new()).collect(),
            addresses: Vec::new(),
            monitor: None,
        };
        let any = "127.0.0.1:0".parse().expect("an address");
        bind_all(any, ("smtp", "none"), &mut bound).expect("a free port");
        let address = bound.addresses[0].address;
        TcpStream::connect(address).expect_err("nothing listens before the shards are known");
        bound.listen(1).expect("the port is ours");
        assert_eq!(bound.shards.len(), 1);
        let clients: Vec<TcpStream> = (0..CONNECTIONS)
            .map(|_| TcpStream::connect(address).expect("one shard listens"))
            .collect();
        let listener = TcpListener::from(bound.shards.remove(0).remove(0));
        // The kernel has finished every handshake: none waits at a socket that is closed.
        let taken = (0..CONNECTIONS).filter(|_| listener.accept().is_ok()).count();
        assert_eq!(taken, clients.len());
    }
}
