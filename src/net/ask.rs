//! One question to one name server by plain blocking calls, for commands beside the server, which
//! have no shard and may not even have io_uring.
//!
//! Promise:  an answer is taken only from the server asked, with the id and the name asked for.
//! Bounds:   one datagram and one wait of `timeout`. A cut answer is read as far as it goes, for
//!           what is asked here fits; nothing is cached.

use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::time::Duration;
use std::time::Instant;

use hickory_proto::op::Message;
use hickory_proto::op::MessageType;
use hickory_proto::op::Query;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
use hickory_proto::rr::RData;
use hickory_proto::rr::RecordType;

/// The largest answer without EDNS.
const ANSWER_BYTES_MAX: usize = 512;

/// Why nothing was learnt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// A name that DNS cannot hold.
    NoName,
    Silent,
    /// The kernel's word: nobody listens there, or there is no way to it.
    Unreachable(io::ErrorKind),
    /// The server's word, such as SERVFAIL.
    Failed(String),
}

/// The addresses of a name; empty if it has none or is not there.
pub fn addresses_of(
    server: SocketAddr,
    name: &str,
    timeout: Duration,
) -> Result<Vec<IpAddr>, Unanswered> {
    let name = Name::from_ascii(name).map_err(|_| Unanswered::NoName)?;
    let mut found = Vec::new();
    for kind in [RecordType::A, RecordType::AAAA] {
        found.extend(ask(server, &name, kind, timeout)?.iter().filter_map(|data| match data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        }));
    }
    Ok(found)
}

/// The names that an address says it has.
pub fn names_of(
    server: SocketAddr,
    address: IpAddr,
    timeout: Duration,
) -> Result<Vec<String>, Unanswered> {
    let name = Name::from_ascii(reverse(address)).map_err(|_| Unanswered::NoName)?;
    let found = ask(server, &name, RecordType::PTR, timeout)?;
    let names = found.iter().filter_map(|data| match data {
        RData::PTR(name) => Some(name.to_ascii().trim_end_matches('.').to_ascii_lowercase()),
        _ => None,
    });
    Ok(names.collect())
}

/// RFC 1035 s3.5, RFC 3596 s2.5.
fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = Ipv4Addr::octets(&address);
            format!("{d}.{c}.{b}.{a}.in-addr.arpa.")
        }
        IpAddr::V6(address) => {
            let octets = Ipv6Addr::octets(&address);
            let nibbles = octets.iter().rev().flat_map(|octet| [octet & 15, octet >> 4]);
            nibbles.map(|nibble| format!("{nibble:x}.")).collect::<String>() + "ip6.arpa."
        }
    }
}

fn ask(
    server: SocketAddr,
    name: &Name,
    kind: RecordType,
    timeout: Duration,
) -> Result<Vec<RData>, Unanswered> {
    let mut name = name.clone();
    name.set_fqdn(true);
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(name.clone(), kind));
    let bytes = query.to_vec().map_err(|_| Unanswered::NoName)?;
    let any = match server {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).map_err(unreachable)?;
    socket.connect(server).map_err(unreachable)?;
    socket.send(&bytes).map_err(unreachable)?;
    let until = Instant::now() + timeout;
    let mut buffer = [0; ANSWER_BYTES_MAX];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Unanswered::Silent);
        }
        socket.set_read_timeout(Some(left)).map_err(unreachable)?;
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => continue,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) => return Err(unreachable(cause)),
        };
        let Ok(answer) = Message::from_vec(&buffer[..length]) else {
            continue;
        };
        let is_ours = answer.metadata.id == query.metadata.id
            && answer.metadata.message_type == MessageType::Response
            && answer.queries.first().is_some_and(|asked| *asked.name() == name);
        if is_ours {
            return read(answer);
        }
    }
}

fn read(answer: Message) -> Result<Vec<RData>, Unanswered> {
    match answer.metadata.response_code {
        ResponseCode::NoError => Ok(answer.answers.into_iter().map(|record| record.data).collect()),
        ResponseCode::NXDomain => Ok(Vec::new()),
        code => Err(Unanswered::Failed(code.to_string())),
    }
}

fn unreachable(cause: io::Error) -> Unanswered {
    Unanswered::Unreachable(cause.kind())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_turned_around() {
        let rows = [
            ("192.0.2.25", "25.2.0.192.in-addr.arpa."),
            (
                "2001:db8::25",
                "5.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.",
            ),
        ];
        for (address, name) in rows {
            assert_eq!(reverse(address.parse().expect("an address")), name);
        }
    }

    #[test]
    fn where_nobody_listens_nothing_is_learnt() {
        // It talks with itself alone, and keeps its port from others.
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let closed = socket.local_addr().expect("bound");
        socket.connect(closed).expect("it knows itself");
        let found = addresses_of(closed, "mx.test", Duration::from_secs(5));
        assert!(matches!(found, Err(Unanswered::Unreachable(_))), "{found:?}");
        let mute = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = mute.local_addr().expect("bound");
        let found = addresses_of(address, "mx.test", Duration::from_millis(50));
        assert_eq!(found, Err(Unanswered::Silent));
    }
}
