//! Sockets, bound while there is still the right to bind them.
//!
//! Promise:  each shard has its own SO_REUSEPORT socket for each address; a port 0 is chosen once
//!           and the same for all shards. Each refusal names address, cause and remedy.

use std::net::SocketAddr;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;

use crate::config::Config;
use crate::config::ControlHttp;
use crate::rt::IoFault;
use crate::rt::ListenSpec;
use crate::rt::bind_socket;

/// Connections that the kernel holds for us; it cuts this to `net.core.somaxconn`.
pub const BACKLOG: u32 = 4096;

/// One shard's sockets, one for each address of each listener.
pub type ShardSockets = Vec<OwnedFd>;

/// Everything that listens.
pub struct Bound {
    /// For each shard, in the order of `addresses`.
    pub shards: Vec<ShardSockets>,
    /// As bound, with the protocol's and TLS's names.
    pub addresses: Vec<BoundAddress>,
    pub http: Option<TcpListener>,
}

#[derive(Clone, Debug)]
pub struct BoundAddress {
    pub address: SocketAddr,
    pub protocol: &'static str,
    pub tls: &'static str,
}

/// Binds everything, or says all that cannot be bound.
pub fn bind(config: &Config, shards: usize) -> Result<Bound, Vec<String>> {
    let mut faults = Vec::new();
    let mut bound = Bound {
        shards: (0..shards).map(|_| Vec::new()).collect(),
        addresses: Vec::new(),
        http: None,
    };
    for listener in &config.listeners {
        for wanted in &listener.address {
            let about = (listener.protocol.as_str(), listener.tls.as_str());
            if let Err(fault) = bind_all(*wanted, about, &mut bound) {
                faults.push(format!("cannot listen on {wanted}: {fault}; {}", remedy(fault)));
            }
        }
    }
    if let ControlHttp::At(address) = config.control.http {
        match TcpListener::bind(address) {
            Ok(http) => bound.http = Some(http),
            Err(cause) => {
                let fault = IoFault::from(cause);
                let advice = match fault {
                    IoFault::AddressInUse => "set control.http to another port or to \"off\"",
                    other => remedy(other),
                };
                faults.push(format!("cannot serve HTTP on {address}: {fault}; {advice}"));
            }
        }
    }
    if faults.is_empty() { Ok(bound) } else { Err(faults) }
}

fn bind_all(
    wanted: SocketAddr,
    (protocol, tls): (&'static str, &'static str),
    bound: &mut Bound,
) -> Result<(), IoFault> {
    probe(wanted)?;
    let mut address = wanted;
    for sockets in &mut bound.shards {
        let socket = bind_socket(ListenSpec {
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

/// With SO_REUSEPORT a second server of the same user would share the port and take half of the
/// connections. A bind without it tells whether anybody is there.
fn probe(wanted: SocketAddr) -> Result<(), IoFault> {
    let spec = ListenSpec {
        address: wanted,
        backlog: 1,
        reuse_port: false,
        v6_only: true,
        inherited: None,
    };
    bind_socket(spec).map(drop)
}

fn remedy(fault: IoFault) -> &'static str {
    match fault {
        IoFault::AddressInUse => {
            "another server listens there (`ss -ltnp` names it); stop it or choose another port"
        }
        IoFault::Denied => "ports below 1024 need root or CAP_NET_BIND_SERVICE",
        IoFault::AddressNotOurs => "this machine has no such address (`ip address` lists them)",
        IoFault::NoFiles | IoFault::NoFilesSystem => "raise the limit of open files",
        _ => "see the cause",
    }
}
