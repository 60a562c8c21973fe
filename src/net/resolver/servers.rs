//! The name servers, and what experience says of each.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use crate::net::resolver::fault::DnsFault;

/// Questions in a row without an answer that make a server a dead one. Not the first: a recursive
/// server is silent for as long as somebody's domain is, and datagrams are lost.
const SILENCES_MAX: u32 = 3;
/// A dead server is asked last for so long.
const DOWN: Duration = Duration::from_secs(30);
/// A server that refused EDNS is spared it for so long.
const PLAIN: Duration = Duration::from_secs(3600);

pub(in crate::net::resolver) struct Servers {
    list: Vec<Server>,
}

pub(in crate::net::resolver) struct Server {
    pub(in crate::net::resolver) address: SocketAddr,
    silences: Cell<u32>,
    down_until: Cell<Option<Instant>>,
    plain_until: Cell<Option<Instant>>,
}

impl Servers {
    pub(in crate::net::resolver) fn new(addresses: &[SocketAddr]) -> Servers {
        let server = |address: &SocketAddr| Server {
            address: *address,
            silences: Cell::new(0),
            down_until: Cell::new(None),
            plain_until: Cell::new(None),
        };
        Servers { list: addresses.iter().map(server).collect() }
    }

    /// In the order in which to ask: as configured, the dead ones last.
    pub(in crate::net::resolver) fn in_order(&self, now: Instant) -> Vec<&Server> {
        let mut order: Vec<&Server> = self.list.iter().collect();
        order.sort_by_key(|server| server.is_down(now));
        order
    }
}

impl Server {
    pub(in crate::net::resolver) fn takes_edns(&self, now: Instant) -> bool {
        self.plain_until.get().is_none_or(|until| until <= now)
    }

    pub(in crate::net::resolver) fn refused_edns(&self, now: Instant) {
        self.plain_until.set(Some(now + PLAIN));
    }

    /// It has said something.
    pub(in crate::net::resolver) fn is_alive(&self) {
        self.silences.set(0);
        self.down_until.set(None);
    }

    /// It has not answered, or not to us.
    pub(in crate::net::resolver) fn was_silent(&self, fault: DnsFault, now: Instant) {
        let silences = self.silences.get().saturating_add(1);
        self.silences.set(silences);
        if silences >= SILENCES_MAX || fault == DnsFault::Unreachable {
            self.down_until.set(Some(now + DOWN));
        }
    }

    fn is_down(&self, now: Instant) -> bool {
        self.down_until.get().is_some_and(|until| until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(servers: &Servers, now: Instant) -> Vec<u16> {
        servers.in_order(now).iter().map(|server| server.address.port()).collect()
    }

    #[test]
    fn the_dead_are_asked_last_for_a_while() {
        let addresses = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let (servers, now) = (Servers::new(&addresses), Instant::now());
        let first = &servers.list[0];
        assert_eq!(ports(&servers, now), [1, 2, 3]);
        first.was_silent(DnsFault::Timeout, now);
        first.was_silent(DnsFault::Timeout, now);
        assert_eq!(ports(&servers, now), [1, 2, 3], "twice may be chance");
        first.was_silent(DnsFault::Timeout, now);
        assert_eq!(ports(&servers, now), [2, 3, 1]);
        assert_eq!(ports(&servers, now + DOWN), [1, 2, 3]);
        first.is_alive();
        assert_eq!(ports(&servers, now), [1, 2, 3]);
        servers.list[1].was_silent(DnsFault::Unreachable, now);
        assert_eq!(ports(&servers, now), [1, 3, 2], "nobody listens there");
    }

    #[test]
    fn edns_is_spared_for_a_while() {
        let (servers, now) = (Servers::new(&[([127, 0, 0, 1], 53).into()]), Instant::now());
        let server = &servers.list[0];
        assert!(server.takes_edns(now));
        server.refused_edns(now);
        assert!(!server.takes_edns(now));
        assert!(server.takes_edns(now + PLAIN));
    }
}
