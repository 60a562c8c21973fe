//! A blocking resolver for commands, which have no shard and perhaps no io_uring. Same queries and same
//! parsing of answers.
//!
//! Bounds:   one name server, and `timeout` for each name and type, including aliases. No cache and no
//!           retries, except over TCP if truncated and without EDNS if refused.

use std::io;
use std::io::Read;
use std::io::Write;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::net::UdpSocket;
use std::time::Duration;
use std::time::Instant;

use crate::net::resolver::answer;
use crate::net::resolver::answer::Answer;
use crate::net::resolver::answer::CNAMES_MAX;
use crate::net::resolver::answer::Reading;
use crate::net::resolver::answer::Said;
use crate::net::resolver::exchange::DATAGRAM_BYTES;
use crate::net::resolver::exchange::FOREIGN_MAX;
use crate::net::resolver::exchange::framed;
use crate::net::resolver::exchange::left;
use crate::net::resolver::exchange::whole_message;
use crate::net::resolver::fault::DnsFault;
use crate::net::resolver::name;
use crate::net::resolver::query::Datum;
use crate::net::resolver::query::Kind;
use crate::net::resolver::query::Query;
use crate::net::resolver::query::QueryOptions;
use crate::net::resolver::query::Question;
use crate::net::resolver::settings::ResolverSettings;
use crate::rt::IoFault;

/// Queries one name server and blocks.
#[derive(Clone, Copy, Debug)]
pub struct BlockingResolver {
    server: SocketAddr,
    timeout: Duration,
    edns_bytes: u16,
}

impl BlockingResolver {
    /// `timeout` is for each name and type.
    pub fn new(server: SocketAddr, timeout: Duration) -> BlockingResolver {
        BlockingResolver { server, timeout, edns_bytes: ResolverSettings::default().edns_bytes }
    }

    /// The addresses of a host; empty if it has none or does not exist.
    pub fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, DnsFault> {
        let mut addresses = Vec::new();
        for kind in [Kind::A, Kind::Aaaa] {
            addresses.extend(self.find(host, kind)?.iter().filter_map(|datum| match datum {
                Datum::V4(address) => Some(IpAddr::V4(*address)),
                Datum::V6(address) => Some(IpAddr::V6(*address)),
                _ => None,
            }));
        }
        Ok(addresses)
    }

    /// The names of an address; empty if it has none.
    pub fn names(&self, address: IpAddr) -> Result<Vec<Box<str>>, DnsFault> {
        let name = |datum: Datum| match datum {
            Datum::Name(name) => Some(name),
            _ => None,
        };
        let data = self.find(&reverse(address), Kind::Ptr)?;
        Ok(data.into_iter().filter_map(name).collect())
    }

    fn find(&self, name: &str, kind: Kind) -> Result<Vec<Datum>, DnsFault> {
        let until = Instant::now() + self.timeout;
        let mut question = Question { name: name::checked(name).ok_or(DnsFault::BadName)?, kind };
        let mut aliases = 0;
        loop {
            match self.ask(&question, until)?.said {
                Said::Records(data) => return Ok(data),
                Said::NoName | Said::NoRecords => return Ok(Vec::new()),
                Said::Alias(target, hops) => {
                    aliases += hops;
                    if aliases > CNAMES_MAX {
                        return Err(DnsFault::CnameLoop);
                    }
                    question.name = target;
                }
            }
        }
    }

    fn ask(&self, question: &Question, until: Instant) -> Result<Answer, DnsFault> {
        let mut options = QueryOptions { edns_bytes: Some(self.edns_bytes), authentic: false };
        let mut reading = self.ask_udp(question, options, until)?;
        if reading == Reading::NoEdns {
            options.edns_bytes = None;
            reading = self.ask_udp(question, options, until)?;
        }
        if reading == Reading::Truncated {
            reading = self.ask_tcp(question, options, until)?;
        }
        reading.answer()
    }

    fn ask_udp(
        &self,
        question: &Question,
        options: QueryOptions,
        until: Instant,
    ) -> Result<Reading, DnsFault> {
        let query = Query::new(question, options).ok_or(DnsFault::BadName)?;
        let any = match self.server {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let socket = UdpSocket::bind((any, 0)).map_err(fault)?;
        socket.connect(self.server).map_err(fault)?;
        socket.send(&query.bytes).map_err(fault)?;
        let mut room = [0; DATAGRAM_BYTES];
        for _ in 0..FOREIGN_MAX {
            socket.set_read_timeout(Some(left(until)?)).map_err(fault)?;
            let bytes = match socket.recv(&mut room) {
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
                received => received.map_err(fault)?,
            };
            match answer::read(&query, &room[..bytes]) {
                Reading::Foreign => {}
                reading => return Ok(reading),
            }
        }
        Err(DnsFault::Mismatched)
    }

    fn ask_tcp(
        &self,
        question: &Question,
        options: QueryOptions,
        until: Instant,
    ) -> Result<Reading, DnsFault> {
        let query = Query::new(question, options).ok_or(DnsFault::BadName)?;
        let mut stream = TcpStream::connect_timeout(&self.server, left(until)?).map_err(fault)?;
        stream.set_write_timeout(Some(left(until)?)).map_err(fault)?;
        stream.write_all(&framed(&query)?).map_err(fault)?;
        let (mut received, mut room) = (Vec::new(), [0; DATAGRAM_BYTES]);
        loop {
            if let Some(message) = whole_message(&received) {
                return Ok(answer::read(&query, message));
            }
            stream.set_read_timeout(Some(left(until)?)).map_err(fault)?;
            match stream.read(&mut room) {
                Ok(0) => return Err(DnsFault::Unreachable),
                Ok(bytes) => received.extend_from_slice(&room[..bytes]),
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(fault(cause)),
            }
        }
    }
}

fn fault(cause: io::Error) -> DnsFault {
    match cause.kind() {
        // Both occur when a socket timeout expires.
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => DnsFault::Timeout,
        _ => IoFault::from(cause).into(),
    }
}

/// RFC 1035 s3.5, RFC 3596 s2.5.
fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let octets = address.octets();
            let nibbles = octets.iter().rev().flat_map(|octet| [octet & 15, octet >> 4]);
            nibbles.map(|nibble| format!("{nibble:x}.")).collect::<String>() + "ip6.arpa"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_turned_around() {
        let rows = [
            ("192.0.2.25", "25.2.0.192.in-addr.arpa"),
            (
                "2001:db8::25",
                "5.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa",
            ),
        ];
        for (address, name) in rows {
            assert_eq!(reverse(address.parse().expect("an address")), name);
        }
    }
}
