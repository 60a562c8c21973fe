//! Hosts with unreachable addresses.

use std::io::Write;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use socket2::Domain;
use socket2::Protocol;
use socket2::SockAddr;
use socket2::Socket;
use socket2::Type;

use crate::support::receiver::Receiver;
use crate::ways_out::kit::Out;
use crate::ways_out::kit::PATIENCE;
use crate::ways_out::kit::a;
use crate::ways_out::kit::aaaa;
use crate::ways_out::kit::mx;
use crate::ways_out::kit::name_server;
use crate::ways_out::kit::outcome;
use crate::ways_out::kit::reply;
use crate::ways_out::kit::route;

/// A listener with a full queue: connections to it are not answered while it exists.
struct BlackHole {
    _sockets: Vec<Socket>,
}

impl BlackHole {
    fn at(address: SocketAddr) -> BlackHole {
        let socket = || {
            let kind = Type::STREAM.nonblocking();
            Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP)).expect("a socket")
        };
        let listener = socket();
        listener.bind(&address.into()).expect("the port is free");
        listener.listen(0).expect("the peer listens");
        let mut sockets = vec![listener];
        for _ in 0..4 {
            let client = socket();
            // The connection is in progress, or never completes.
            let _ = client.connect(&SockAddr::from(address));
            sockets.push(client);
        }
        let probe = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300));
        assert!(probe.is_err(), "the queue is full");
        BlackHole { _sockets: sockets }
    }
}

fn took(receiver: &Receiver, out: &Out, to: &str) -> Duration {
    let began = Instant::now();
    out.submit(&[to]);
    receiver.await_for(to, 1, PATIENCE);
    began.elapsed()
}

#[test]
fn an_unreachable_family_costs_a_moment() {
    let receiver = Receiver::start(&[], |_| None);
    let port = receiver.address.port();
    let _hole = BlackHole::at((Ipv6Addr::LOCALHOST, port).into());
    let servers = name_server(vec![
        aaaa("mx.dual.test", Ipv6Addr::LOCALHOST),
        a("mx.dual.test", [127, 0, 0, 1]),
    ]);
    let config = format!(
        "[resolver]\nservers = ['{servers}']\n{}",
        route("dual.test", &format!("smtp:mx.dual.test:{port}"))
    );
    let out = Out::start("20s", "prefer_ipv6 = true", &config);
    let waited = took(&receiver, &out, "x@dual.test");
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    let attempt = out.attempt("x@dual.test");
    assert_eq!(outcome(&attempt), "delivered", "{attempt}");
    assert_eq!(attempt["address"], format!("127.0.0.1:{port}"), "{attempt}");
}

#[test]
fn each_address_is_tried_within_the_time() {
    let receiver = Receiver::start(&[], |_| None);
    let port = receiver.address.port();
    let holes = [[127, 83, 0, 1], [127, 83, 0, 2], [127, 83, 0, 3]];
    let _holes = holes.map(|address| BlackHole::at((address, port).into()));
    let mut records: Vec<_> = holes.map(|address| a("mx.four.test", address)).into();
    records.push(a("mx.four.test", [127, 0, 0, 1]));
    let servers = name_server(records);
    let config = format!(
        "[resolver]\nservers = ['{servers}']\n{}",
        route("four.test", &format!("smtp:mx.four.test:{port}"))
    );
    let out = Out::start("4s", "", &config);
    let waited = took(&receiver, &out, "x@four.test");
    // It was reached within the limit of four seconds, otherwise the mail would not have arrived.
    assert!(waited < Duration::from_secs(8), "{waited:?}");
    assert_eq!(outcome(&out.attempt("x@four.test")), "delivered");
}

#[test]
fn all_failed_addresses_are_reported_within_the_time() {
    let receiver = Receiver::start(&[], |_| None);
    let port = receiver.address.port();
    let _hole = BlackHole::at((Ipv6Addr::LOCALHOST, port).into());
    // The other address has no listener.
    let servers = name_server(vec![
        aaaa("mx.dead.test", Ipv6Addr::LOCALHOST),
        a("mx.dead.test", [127, 83, 1, 1]),
    ]);
    let config = format!(
        "[resolver]\nservers = ['{servers}']\n{}",
        route("dead.test", &format!("smtp:mx.dead.test:{port}"))
    );
    let out = Out::start("1s", "prefer_ipv6 = true", &config);
    out.submit(&["x@dead.test"]);
    // The kernel alone would retry for minutes.
    let began = Instant::now();
    let attempt = out.attempt("x@dead.test");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(outcome(&attempt), "deferred", "{attempt}");
    for said in [
        format!("mx.dead.test[127.83.1.1:{port}]: connection refused"),
        format!("mx.dead.test[[::1]:{port}]: timed out"),
    ] {
        assert!(reply(&attempt).contains(&said), "{said}: {attempt}");
    }
}

#[test]
fn after_a_bad_greeting_the_other_address_is_tried() {
    let good = Receiver::start(&[], |_| None);
    let port = good.address.port();
    let bad = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, port)).expect("the port is free");
    std::thread::spawn(move || {
        // Each connection is closed at once.
        bad.incoming().for_each(drop);
    });
    let servers = name_server(vec![
        aaaa("mx.rude.test", Ipv6Addr::LOCALHOST),
        a("mx.rude.test", [127, 0, 0, 1]),
    ]);
    let config = format!(
        "[resolver]\nservers = ['{servers}']\n{}",
        route("rude.test", &format!("smtp:mx.rude.test:{port}"))
    );
    let out = Out::start("5s", "prefer_ipv6 = true", &config);
    took(&good, &out, "x@rude.test");
    assert_eq!(outcome(&out.attempt("x@rude.test")), "delivered");
}

/// The last host refuses us: the reply is attributed to it, and not to the host before it.
#[test]
fn a_refusing_host_is_reported_by_its_name() {
    const WORDS: &str = "554 5.7.1 we do not know you";
    let rude = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
    let port = rude.local_addr().expect("the socket is bound").port();
    std::thread::spawn(move || {
        for mut stream in rude.incoming().flatten() {
            // The client may have closed already.
            let _ = stream.write_all(format!("{WORDS}\r\n").as_bytes());
        }
    });
    let servers = name_server(vec![
        mx("two.test", 10, "dead.test"),
        mx("two.test", 20, "rude.test"),
        // No listener there.
        a("dead.test", [127, 83, 2, 1]),
        a("rude.test", [127, 0, 0, 1]),
    ]);
    let config = format!(
        "[resolver]\nservers = ['{servers}']\n{}",
        route("two.test", &format!("mx:two.test:{port}"))
    );
    let out = Out::start("2s", "", &config);
    out.submit(&["x@two.test"]);
    let attempt = out.attempt("x@two.test");
    assert_eq!((outcome(&attempt), reply(&attempt)), ("deferred", WORDS), "{attempt}");
    assert_eq!(attempt["host"], "rude.test", "{attempt}");
}
