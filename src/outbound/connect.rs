//! Connecting to one host: which of its addresses, in which order, directly or through a proxy.
//!
//! Owner:    the calling worker.
//! Promise:  a dead address or a dead family delays the connection only briefly (in the spirit of
//!           RFC 8305): the next attempt begins when the previous one has failed, or in parallel after
//!           `CONNECT_ATTEMPT_DELAY_MS` without an answer.
//! Bounds:   `ADDRESSES_MAX` addresses. One attempt at a time per family, or one in all through a
//!           proxy, because a slow destination must not get more connections than it allows. All
//!           attempts share one time limit; those that follow each other get equal parts of it.
//! Drops:    attempts that lost are dropped in place, which closes their sockets; `rt` promises that
//!           this is safe.

use std::fmt;
use std::future::Future;
use std::future::poll_fn;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use crate::base::fault::Blame;
use crate::base::limits::CONNECT_ATTEMPT_DELAY_MS;
use crate::net::AddressRule;
use crate::net::Barred;
use crate::net::ProxyFault;
use crate::net::Vantage;
use crate::net::proxied;
use crate::outbound::destination::FailureKind;
use crate::route::Source;
use crate::rt;
use crate::rt::IoFault;
use crate::rt::Stream;
use crate::rt::timer;
use crate::wire::proxy_url::Proxy;

/// Addresses of one host that are tried.
pub const ADDRESSES_MAX: usize = 4;

/// Why an address was not connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialFault {
    Io(IoFault),
    Proxy(ProxyFault),
    /// The source has no address of its family.
    NoFamily,
}

impl DialFault {
    pub fn kind(&self) -> FailureKind {
        match self {
            DialFault::Io(IoFault::TimedOut) => FailureKind::Timeout,
            // No pause mends it: mail waits elsewhere, and its sender's operator hears why.
            DialFault::Io(IoFault::AddressNotOurs | IoFault::Denied) => FailureKind::WayOut,
            DialFault::Io(fault) => match fault.blame() {
                Blame::Us | Blame::Operator => FailureKind::Ours,
                _ => FailureKind::Connect,
            },
            DialFault::Proxy(fault) if fault.is_own_limit() => FailureKind::Ours,
            DialFault::Proxy(fault) if fault.is_timeout() => FailureKind::Timeout,
            DialFault::Proxy(fault) if fault.is_of_destination() => FailureKind::Connect,
            DialFault::Proxy(_) | DialFault::NoFamily => FailureKind::WayOut,
        }
    }

    /// Whether no other host could be connected to either.
    pub fn is_of_all(&self) -> bool {
        matches!(self, DialFault::Proxy(fault) if fault.is_of_all())
    }
}

impl fmt::Display for DialFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DialFault::Io(fault) => fault.fmt(f),
            DialFault::Proxy(fault) => fault.fmt(f),
            DialFault::NoFamily => f.write_str("the source has no address of this address family"),
        }
    }
}

/// Connects to an address, as the source goes out.
pub async fn dial(
    source: Option<&Source>,
    to: SocketAddr,
    limit: Duration,
) -> Result<Stream, DialFault> {
    // Tests take away descriptors here.
    fail::fail_point!("dial::descriptors", |_| Err(DialFault::Io(IoFault::NoFiles)));
    let Some(source) = source else {
        return rt::connect(to, None, limit).await.map_err(DialFault::Io);
    };
    let from = source.address_for(to.ip()).map_err(|_| DialFault::NoFamily)?;
    let from = from.map(|ip| SocketAddr::new(ip, 0));
    match (&source.proxy, from) {
        (None, from) => rt::connect(to, from, limit).await.map_err(DialFault::Io),
        (Some(Proxy::Socks5 { address, login }), _) => {
            let stream = proxied::by_socks5(*address, login.as_ref(), to, limit).await;
            stream.map_err(DialFault::Proxy)
        }
        (Some(Proxy::Haproxy { .. }), None) => Err(DialFault::NoFamily),
        (Some(Proxy::Haproxy { address }), Some(from)) => {
            let stream = proxied::by_proxy_protocol(*address, from, to, limit).await;
            stream.map_err(DialFault::Proxy)
        }
    }
}

/// The addresses to try, in this order: the families take turns, the preferred one first.
pub fn interleave(first: Vec<IpAddr>, second: Vec<IpAddr>) -> Vec<IpAddr> {
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut all = Vec::with_capacity(ADDRESSES_MAX);
    while all.len() < ADDRESSES_MAX {
        let before = all.len();
        all.extend(first.next());
        all.extend(second.next());
        if all.len() == before {
            break;
        }
    }
    all.truncate(ADDRESSES_MAX);
    all
}

/// Takes out of the addresses of a host those that mail must not be sent to. All of them, where one
/// is this server. Answers one that was taken out.
pub fn take_barred(
    rule: &AddressRule,
    source: Option<&Source>,
    addresses: &mut Vec<SocketAddr>,
) -> Option<(SocketAddr, Barred)> {
    let proxied = source.is_some_and(|source| source.proxy.is_some());
    let from = if proxied { Vantage::Proxy } else { Vantage::Here };
    let judged = addresses.iter().filter_map(|to| Some((*to, rule.judge(*to, from)?)));
    let barred = judged.min_by_key(|(_, barred)| *barred)?;
    match barred.1 {
        Barred::Ours => addresses.clear(),
        Barred::Private => addresses.retain(|to| rule.judge(*to, from).is_none()),
    }
    Some(barred)
}

/// What came of a race.
pub struct Race<T, E> {
    pub won: Option<(SocketAddr, T)>,
    /// In the order in which they failed.
    pub failed: Vec<(SocketAddr, E)>,
}

/// Which addresses are tried beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// One of each family.
    Families,
    /// None: one after the other.
    Nothing,
}

impl Beside {
    /// What a source allows: a proxy has its own ways to the families.
    pub fn of(source: Option<&Source>) -> Beside {
        match source.is_some_and(|source| source.proxy.is_some()) {
            true => Beside::Nothing,
            false => Beside::Families,
        }
    }

    /// Whether one has to wait for the other to fail.
    fn follows(self, one: SocketAddr, other: SocketAddr) -> bool {
        self == Beside::Nothing || one.is_ipv4() == other.is_ipv4()
    }
}

/// Tries the addresses until one of them connects, or none is left, or the time is over: an
/// address that there was no time for is in no list.
pub async fn race<T, E, F>(
    addresses: &[SocketAddr],
    limit: Duration,
    beside: Beside,
    dial: impl Fn(SocketAddr, Duration) -> F,
) -> Race<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let end = timer::now() + limit;
    let mut waiting = addresses.to_vec();
    let mut flying: Vec<(SocketAddr, Pin<Box<F>>)> = Vec::with_capacity(1);
    let mut failed = Vec::new();
    loop {
        let left = end.saturating_duration_since(timer::now());
        if !left.is_zero()
            && let Some(place) = next_free(&waiting, &flying, beside)
        {
            let address = waiting.remove(place);
            let behind = waiting.iter().filter(|one| beside.follows(**one, address)).count();
            let own = left / (behind as u32 + 1);
            flying.push((address, Box::pin(dial(address, own))));
        }
        if flying.is_empty() {
            return Race { won: None, failed };
        }
        let ended = match next_free(&waiting, &flying, beside).is_some() {
            true => {
                let delay = Duration::from_millis(CONNECT_ATTEMPT_DELAY_MS);
                timer::timeout(delay, next_end(&mut flying)).await.ok()
            }
            // Each has a time limit of its own.
            false => Some(next_end(&mut flying).await),
        };
        match ended {
            Some((address, Ok(stream))) => return Race { won: Some((address, stream)), failed },
            Some((address, Err(fault))) => failed.push((address, fault)),
            None => {}
        }
    }
}

/// The first address that need not wait for one that is being tried.
fn next_free<F>(
    waiting: &[SocketAddr],
    flying: &[(SocketAddr, F)],
    beside: Beside,
) -> Option<usize> {
    waiting.iter().position(|one| !flying.iter().any(|(other, _)| beside.follows(*one, *other)))
}

/// The first of the attempts that ends, taken out of them.
async fn next_end<F: Future>(
    flying: &mut Vec<(SocketAddr, Pin<Box<F>>)>,
) -> (SocketAddr, F::Output) {
    poll_fn(|cx| {
        for place in 0..flying.len() {
            let (address, attempt) = &mut flying[place];
            if let Poll::Ready(ended) = attempt.as_mut().poll(cx) {
                let address = *address;
                drop(flying.remove(place));
                return Poll::Ready((address, ended));
            }
        }
        Poll::Pending
    })
    .await
}

/// A Unix socket that cannot be connected to is the server's, or the operator's, who mends both.
pub fn unix_kind(fault: IoFault) -> FailureKind {
    match fault {
        IoFault::TimedOut => FailureKind::Timeout,
        fault if fault.is_own_limit() => FailureKind::Ours,
        _ => FailureKind::Connect,
    }
}

/// Why a Unix socket was not connected to, and what helps.
pub fn unix_text(path: &str, fault: IoFault) -> String {
    let remedy = match fault {
        IoFault::NoSuchFile => "start the LMTP server, or correct the path in the route",
        IoFault::Denied => {
            "give the user of Ringpost access to the folder and write access to the socket"
        }
        IoFault::Refused => "the file exists, but nothing listens: start the LMTP server",
        IoFault::TimedOut => {
            "the LMTP server accepts no connections: check whether it is overloaded"
        }
        IoFault::NoFiles | IoFault::NoFilesSystem => "raise the limit of open files",
        _ => "check that the path is a stream socket of an LMTP server",
    };
    format!("connecting to {path}: {fault}; {remedy}")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::sync::mpsc;

    use super::*;
    use crate::wire::socks5::Refusal;
    use crate::wire::socks5::Socks5Fault;

    #[test]
    fn families_take_turns() {
        let list = |text: &str| -> Vec<IpAddr> {
            text.split_whitespace().map(|one| one.parse().expect("an address")).collect()
        };
        let rows = [
            ("", "", ""),
            ("1.1.1.1", "", "1.1.1.1"),
            ("", "::1 ::2", "::1 ::2"),
            ("1.1.1.1 2.2.2.2", "::1", "1.1.1.1 ::1 2.2.2.2"),
            ("::1", "1.1.1.1 2.2.2.2 3.3.3.3 4.4.4.4", "::1 1.1.1.1 2.2.2.2 3.3.3.3"),
            ("1.1.1.1 2.2.2.2 3.3.3.3", "::1 ::2 ::3", "1.1.1.1 ::1 2.2.2.2 ::2"),
        ];
        for (first, second, expected) in rows {
            assert_eq!(interleave(list(first), list(second)), list(expected), "{first}, {second}");
        }
    }

    #[test]
    fn a_proxy_and_a_host_are_told_apart() {
        let refused = |refusal| ProxyFault::Socks5(Socks5Fault::Refused(refusal));
        let rows = [
            (ProxyFault::Connect(IoFault::Refused), FailureKind::WayOut, true),
            (ProxyFault::Connect(IoFault::TimedOut), FailureKind::WayOut, true),
            (ProxyFault::Lost(IoFault::TimedOut), FailureKind::WayOut, true),
            (ProxyFault::Lost(IoFault::Closed), FailureKind::WayOut, true),
            (ProxyFault::Socks5(Socks5Fault::NoMethod), FailureKind::WayOut, true),
            (ProxyFault::Socks5(Socks5Fault::LoginRefused), FailureKind::WayOut, true),
            (ProxyFault::Socks5(Socks5Fault::NotSocks5(72)), FailureKind::WayOut, true),
            (refused(Refusal::General), FailureKind::WayOut, false),
            (refused(Refusal::NotAllowed), FailureKind::WayOut, false),
            (refused(Refusal::NetworkUnreachable), FailureKind::Connect, false),
            (refused(Refusal::HostUnreachable), FailureKind::Connect, false),
            (refused(Refusal::ConnectionRefused), FailureKind::Connect, false),
            (refused(Refusal::TtlExpired), FailureKind::Connect, false),
            (refused(Refusal::NoSuchAddressType), FailureKind::WayOut, false),
            (ProxyFault::LostAsked(IoFault::TimedOut), FailureKind::Timeout, false),
            (ProxyFault::LostAsked(IoFault::Closed), FailureKind::WayOut, false),
        ];
        for (fault, kind, of_all) in rows {
            let fault = DialFault::Proxy(fault);
            assert_eq!((fault.kind(), fault.is_of_all()), (kind, of_all), "{fault}");
        }
        let own = DialFault::Io(IoFault::Refused);
        assert_eq!((own.kind(), own.is_of_all()), (FailureKind::Connect, false));
        let rows = [
            (IoFault::AddressNotOurs, FailureKind::WayOut),
            (IoFault::Denied, FailureKind::WayOut),
            (IoFault::TimedOut, FailureKind::Timeout),
            // Many connections are open: others end soon.
            (IoFault::NoLocalPort, FailureKind::Ours),
            (IoFault::Prohibited, FailureKind::Connect),
        ];
        for (fault, kind) in rows {
            assert_eq!(DialFault::Io(fault).kind(), kind, "{fault}");
        }
        let no_port = DialFault::Proxy(ProxyFault::Connect(IoFault::NoLocalPort));
        assert_eq!((no_port.kind(), no_port.is_of_all()), (FailureKind::Ours, true));
    }

    /// Attempts that nobody answers: how many were under way, of each family.
    #[derive(Default)]
    struct Silence {
        flying: [Cell<usize>; 2],
        most: [Cell<usize>; 3],
        tried: RefCell<Vec<SocketAddr>>,
    }

    async fn silent(seen: Rc<Silence>, to: SocketAddr, limit: Duration) -> Result<(), ()> {
        let family = &seen.flying[usize::from(to.is_ipv6())];
        family.set(family.get() + 1);
        seen.tried.borrow_mut().push(to);
        let [v4, v6] = [seen.flying[0].get(), seen.flying[1].get()];
        for (most, now) in seen.most.iter().zip([v4, v6, v4 + v6]) {
            most.set(most.get().max(now));
        }
        timer::sleep(limit).await;
        family.set(family.get() - 1);
        Err(())
    }

    #[test]
    fn a_host_sees_one_attempt_of_a_family_and_each_address_has_its_turn() {
        let rows = [
            (Beside::Families, "1.1.1.1 ::1 2.2.2.2 ::2", [1, 1, 2]),
            (Beside::Families, "1.1.1.1 2.2.2.2 3.3.3.3 4.4.4.4", [1, 0, 1]),
            (Beside::Families, "::1 1.1.1.1 2.2.2.2", [1, 1, 2]),
            (Beside::Nothing, "1.1.1.1 ::1 2.2.2.2 ::2", [1, 1, 1]),
        ];
        let addresses = |text: &str| -> Vec<SocketAddr> {
            let list = text.split(' ').map(|one| one.parse::<IpAddr>().expect("an address"));
            list.map(|one| SocketAddr::new(one, 25)).collect()
        };
        let (give, take) = mpsc::channel();
        let main = move || async move {
            for (beside, list, _) in rows {
                let seen: Rc<Silence> = Rc::default();
                let limit = Duration::from_secs(2);
                let dial = |to, limit| silent(Rc::clone(&seen), to, limit);
                let race = race(&addresses(list), limit, beside, dial).await;
                let most = seen.most.each_ref().map(Cell::get);
                give.send((seen.tried.take(), race.failed.len(), most)).expect("it is waited for");
            }
        };
        let shard = rt::start(rt::ShardSpec::new("race", None), main).expect("a shard starts");
        for (beside, list, expected) in rows {
            let (tried, failed, most) = take.recv().expect("each race ends");
            assert_eq!((&tried, failed), (&addresses(list), tried.len()), "{beside:?} {list}");
            assert_eq!(most, expected, "{beside:?} {list}");
        }
        shard.join().expect("it ends in order");
    }

    #[test]
    fn a_unix_socket_comes_with_its_remedy() {
        let rows = [
            (IoFault::NoSuchFile, FailureKind::Connect, "correct the path"),
            (IoFault::Denied, FailureKind::Connect, "write access"),
            (IoFault::Refused, FailureKind::Connect, "start the LMTP server"),
            (IoFault::TimedOut, FailureKind::Timeout, "whether it is overloaded"),
            (IoFault::NoFiles, FailureKind::Ours, "limit of open files"),
            (IoFault::Io(91), FailureKind::Connect, "stream socket"),
        ];
        for (fault, kind, remedy) in rows {
            let text = unix_text("unix:/run/lmtp", fault);
            assert_eq!(unix_kind(fault), kind, "{text}");
            assert!(text.starts_with("connecting to unix:/run/lmtp: "), "{text}");
            assert!(text.contains(remedy), "{text}");
        }
    }
}
