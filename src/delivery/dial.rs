//! Connecting to one host: which of its addresses, in which order, directly or through a proxy.
//!
//! Owner:    the task of the connection.
//! Promise:  a dead address or a dead family delays the connection only briefly (in the spirit of
//!           RFC 8305): the next attempt begins when the previous one has failed, or in parallel after
//!           `CONNECT_ATTEMPT_DELAY_MS` without an answer.
//! Bounds:   `ADDRESSES_MAX` addresses. One attempt at a time per family, or one in all through a
//!           proxy, because a slow destination must not get more connections than it allows. All
//!           attempts share one time limit; those that follow each other get equal parts of it.
//! Rule:     an address from the DNS is dialled only if `net::AddressRule` allows it.
//! Drops:    losing attempts are dropped in place, which closes their sockets; `rt` promises that this
//!           is safe.

use std::fmt;
use std::future::Future;
use std::future::poll_fn;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use crate::base::limits::CONNECT_ATTEMPT_DELAY_MS;
use crate::delivery::failure::FailureKind;
use crate::delivery::failure::lack_of;
use crate::handoff::frames::OurLimit;
use crate::net::AddressRule;
use crate::net::Barred;
use crate::net::ProxyFault;
use crate::net::Vantage;
use crate::net::proxied;
use crate::route::Source;
use crate::rt;
use crate::rt::IoFault;
use crate::rt::Stream;
use crate::rt::timer;
use crate::wire::proxy_url::Proxy;

/// Addresses tried per host.
pub const ADDRESSES_MAX: usize = 4;

/// Why a connection to an address failed.
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
            // Only an operator can repair these.
            DialFault::Io(IoFault::AddressNotOurs | IoFault::Denied) => FailureKind::WayOut,
            DialFault::Io(fault) if fault.is_own_limit() => FailureKind::Ours(lack_of(*fault)),
            DialFault::Io(_) => FailureKind::Connect,
            DialFault::Proxy(fault) if fault.is_own_limit() => {
                FailureKind::Ours(OurLimit::Descriptors)
            }
            DialFault::Proxy(fault) if fault.is_timeout() => FailureKind::Timeout,
            DialFault::Proxy(fault) if fault.is_of_destination() => FailureKind::Connect,
            DialFault::Proxy(_) | DialFault::NoFamily => FailureKind::WayOut,
        }
    }

    /// Whether a connection to any other host would fail too.
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

/// Connects to an address from the source, or through its proxy.
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

/// The addresses in the order to try them: the families alternate, the preferred one first.
pub fn interleave(first: &[IpAddr], second: &[IpAddr]) -> Vec<IpAddr> {
    let pairs = (0..ADDRESSES_MAX).flat_map(|place| [first.get(place), second.get(place)]);
    pairs.flatten().copied().take(ADDRESSES_MAX).collect()
}

/// Removes the addresses of a host that the rule forbids; if one is this server, all of them. Returns
/// one that the rule forbids.
pub fn remove_barred(
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

/// The result of a race.
pub struct Race<T, E> {
    pub won: Option<(SocketAddr, T)>,
    /// In the order of their failures.
    pub failed: Vec<(SocketAddr, E)>,
}

/// Which addresses are tried in parallel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parallel {
    /// One of each family.
    Families,
    /// None.
    Nothing,
}

impl Parallel {
    /// A proxy has its own routes to both families.
    pub fn of(source: Option<&Source>) -> Parallel {
        match source.is_some_and(|source| source.proxy.is_some()) {
            true => Parallel::Nothing,
            false => Parallel::Families,
        }
    }

    /// Whether one address is tried only after the other has failed.
    fn follows(self, one: SocketAddr, other: SocketAddr) -> bool {
        self == Parallel::Nothing || one.is_ipv4() == other.is_ipv4()
    }
}

/// Tries the addresses until one connects, none is left, or the time is over. Addresses that there was
/// no time for are in neither list.
pub async fn race<T, E, F>(
    addresses: &[SocketAddr],
    limit: Duration,
    parallel: Parallel,
    dial: impl Fn(SocketAddr, Duration) -> F,
) -> Race<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let end = timer::now() + limit;
    let mut waiting = addresses.to_vec();
    let mut running: Vec<(SocketAddr, Pin<Box<F>>)> = Vec::with_capacity(1);
    let mut failed = Vec::new();
    loop {
        let left = end.saturating_duration_since(timer::now());
        if !left.is_zero()
            && let Some(place) = next_free(&waiting, &running, parallel)
        {
            let address = waiting.remove(place);
            let behind = waiting.iter().filter(|one| parallel.follows(**one, address)).count();
            let own = left / (behind as u32 + 1);
            running.push((address, Box::pin(dial(address, own))));
        }
        if running.is_empty() {
            return Race { won: None, failed };
        }
        let ended = match next_free(&waiting, &running, parallel).is_some() {
            true => {
                let delay = Duration::from_millis(CONNECT_ATTEMPT_DELAY_MS);
                timer::timeout(delay, next_end(&mut running)).await.ok()
            }
            // Each attempt has its own time limit.
            false => Some(next_end(&mut running).await),
        };
        match ended {
            Some((address, Ok(stream))) => return Race { won: Some((address, stream)), failed },
            Some((address, Err(fault))) => failed.push((address, fault)),
            None => {}
        }
    }
}

/// The first address that does not have to wait for a running attempt.
fn next_free<F>(
    waiting: &[SocketAddr],
    running: &[(SocketAddr, F)],
    parallel: Parallel,
) -> Option<usize> {
    waiting.iter().position(|one| !running.iter().any(|(other, _)| parallel.follows(*one, *other)))
}

/// Waits for the first attempt that ends, and removes it.
async fn next_end<F: Future>(
    running: &mut Vec<(SocketAddr, Pin<Box<F>>)>,
) -> (SocketAddr, F::Output) {
    poll_fn(|cx| {
        for place in 0..running.len() {
            let (address, attempt) = &mut running[place];
            if let Poll::Ready(ended) = attempt.as_mut().poll(cx) {
                let address = *address;
                drop(running.remove(place));
                return Poll::Ready((address, ended));
            }
        }
        Poll::Pending
    })
    .await
}

/// The failure of a Unix socket, which belongs to the server behind it.
pub fn unix_kind(fault: IoFault) -> FailureKind {
    match fault {
        IoFault::TimedOut => FailureKind::Timeout,
        fault if fault.is_own_limit() => FailureKind::Ours(lack_of(fault)),
        _ => FailureKind::Connect,
    }
}

/// Why a connection to a Unix socket failed, and what to do.
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
mod tests;
