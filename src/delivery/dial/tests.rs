//! The order of attempts, and what their faults mean.

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
        assert_eq!(interleave(&list(first), &list(second)), list(expected), "{first}, {second}");
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
        (IoFault::NoLocalPort, FailureKind::Ours(OurLimit::Ports)),
        (IoFault::Prohibited, FailureKind::Connect),
    ];
    for (fault, kind) in rows {
        assert_eq!(DialFault::Io(fault).kind(), kind, "{fault}");
    }
    let no_port = DialFault::Proxy(ProxyFault::Connect(IoFault::NoLocalPort));
    assert_eq!(
        (no_port.kind(), no_port.is_of_all()),
        (FailureKind::Ours(OurLimit::Descriptors), true)
    );
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
        (Parallel::Families, "1.1.1.1 ::1 2.2.2.2 ::2", [1, 1, 2]),
        (Parallel::Families, "1.1.1.1 2.2.2.2 3.3.3.3 4.4.4.4", [1, 0, 1]),
        (Parallel::Families, "::1 1.1.1.1 2.2.2.2", [1, 1, 2]),
        (Parallel::Nothing, "1.1.1.1 ::1 2.2.2.2 ::2", [1, 1, 1]),
    ];
    let addresses = |text: &str| -> Vec<SocketAddr> {
        let list = text.split(' ').map(|one| one.parse::<IpAddr>().expect("an address"));
        list.map(|one| SocketAddr::new(one, 25)).collect()
    };
    let (give, take) = mpsc::channel();
    let main = move || async move {
        for (parallel, list, _) in rows {
            let seen: Rc<Silence> = Rc::default();
            let limit = Duration::from_secs(2);
            let dial = |to, limit| silent(Rc::clone(&seen), to, limit);
            let race = race(&addresses(list), limit, parallel, dial).await;
            let most = seen.most.each_ref().map(Cell::get);
            give.send((seen.tried.take(), race.failed.len(), most)).expect("it is waited for");
        }
    };
    let shard = rt::start(rt::ShardSpec::new("race", None), main).expect("a shard starts");
    for (parallel, list, expected) in rows {
        let (tried, failed, most) = take.recv().expect("each race ends");
        assert_eq!((&tried, failed), (&addresses(list), tried.len()), "{parallel:?} {list}");
        assert_eq!(most, expected, "{parallel:?} {list}");
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
        (IoFault::NoFiles, FailureKind::Ours(OurLimit::Descriptors), "limit of open files"),
        (IoFault::Io(91), FailureKind::Connect, "stream socket"),
    ];
    for (fault, kind, remedy) in rows {
        let text = unix_text("unix:/run/lmtp", fault);
        assert_eq!(unix_kind(fault), kind, "{text}");
        assert!(text.starts_with("connecting to unix:/run/lmtp: "), "{text}");
        assert!(text.contains(remedy), "{text}");
    }
}
