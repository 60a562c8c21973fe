//! Outgoing proxies: SOCKS 5 and the PROXY protocol, working and in each kind of failure.

use std::fs;
use std::io;
use std::io::Read;
use std::io::Write;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use ringpost::wire::proxy;
use ringpost::wire::proxy::ProxyHeader;
use socket2::Domain;
use socket2::Socket;
use socket2::Type;

use crate::support::ClosedPort;
use crate::support::receiver::Receiver;
use crate::ways_out::kit::Out;
use crate::ways_out::kit::PATIENCE;
use crate::ways_out::kit::a;
use crate::ways_out::kit::mx;
use crate::ways_out::kit::name_server;
use crate::ways_out::kit::outcome;
use crate::ways_out::kit::reply;
use crate::ways_out::kit::route;

/// The behaviour of a SOCKS proxy.
#[derive(Clone, Copy)]
enum How {
    /// Connects to the destination.
    Relay,
    /// Connects after user name and password.
    Login,
    /// Answers the greeting with these bytes.
    Greet(&'static [u8]),
    /// Accepts the greeting, then answers CONNECT with these bytes.
    Answer(&'static [u8]),
    /// Repeats these bytes for ever.
    Endless(&'static [u8]),
    /// The correct reply, slowly, byte by byte.
    Drip,
    Silent,
    SilentOnConnect,
    CloseOnConnect,
}

/// The address of the proxy, and its record of logins and destinations.
fn socks(how: How) -> (SocketAddr, Arc<Mutex<Vec<SocketAddr>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
    let address = listener.local_addr().expect("the socket is bound");
    let asked: Arc<Mutex<Vec<SocketAddr>>> = Arc::default();
    let kept = Arc::clone(&asked);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let kept = Arc::clone(&kept);
            // Ends when the client gives up.
            thread::spawn(move || talk_socks(stream, how, &kept));
        }
    });
    (address, asked)
}

fn talk_socks(mut stream: TcpStream, how: How, asked: &Mutex<Vec<SocketAddr>>) -> io::Result<()> {
    let [version, count] = bytes(&mut stream)?;
    assert_eq!(version, 5);
    let mut methods = vec![0; usize::from(count)];
    stream.read_exact(&mut methods)?;
    match how {
        How::Greet(said) => return stream.write_all(said),
        How::Endless(said) => loop {
            stream.write_all(said)?;
        },
        How::Silent => return rest(&mut stream),
        How::Drip => {
            for byte in b"\x05\0\x05\0\0\x01\0\0\0\0\0\0" {
                thread::sleep(Duration::from_millis(300));
                stream.write_all(&[*byte])?;
            }
            return rest(&mut stream);
        }
        How::Login => {
            assert!(methods.contains(&2), "{methods:?}");
            stream.write_all(&[5, 2])?;
            let mut login = [0; 11];
            stream.read_exact(&mut login)?;
            if login != *b"\x01\x02us\x06s@cret" {
                return stream.write_all(&[1, 1]);
            }
            stream.write_all(&[1, 0])?;
        }
        _ => stream.write_all(&[5, 0])?,
    }
    let [version, command, _, kind] = bytes(&mut stream)?;
    assert_eq!((version, command), (5, 1));
    let ip = match kind {
        1 => IpAddr::from(bytes::<4>(&mut stream)?),
        4 => IpAddr::from(bytes::<16>(&mut stream)?),
        kind => panic!("unexpected address type {kind}"),
    };
    let to = SocketAddr::new(ip, u16::from_be_bytes(bytes(&mut stream)?));
    asked.lock().expect("no panics").push(to);
    match how {
        How::Answer(said) => return stream.write_all(said),
        How::SilentOnConnect => return rest(&mut stream),
        How::CloseOnConnect => return Ok(()),
        _ => {}
    }
    let mut onward = TcpStream::connect(to)?;
    let mut greeting = [0; 512];
    let count = onward.read(&mut greeting)?;
    // The server's greeting arrives together with the reply.
    let answer = [b"\x05\0\0\x01\x7f\0\0\x01\x12\x34", &greeting[..count]].concat();
    stream.write_all(&answer)?;
    splice(stream, onward)
}

fn bytes<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut room = [0; N];
    stream.read_exact(&mut room)?;
    Ok(room)
}

/// Sends nothing until the client closes.
fn rest(stream: &mut TcpStream) -> io::Result<()> {
    io::copy(stream, &mut io::sink()).map(drop)
}

fn splice(one: TcpStream, other: TcpStream) -> io::Result<()> {
    let (mut from, mut to) = (one.try_clone()?, other.try_clone()?);
    thread::spawn(move || {
        let copied = io::copy(&mut from, &mut to);
        // The other direction may have ended first.
        let _ = to.shutdown(std::net::Shutdown::Write);
        copied
    });
    let (mut from, mut to) = (other, one);
    io::copy(&mut from, &mut to)?;
    to.shutdown(std::net::Shutdown::Write)
}

/// A source for one case, in a pool of its own.
fn source(name: &str, keys: &str) -> String {
    format!(
        "[[source]]\nname = '{name}'\n{keys}\n[[pool]]\nname = '{name}'\nsources = ['{name}']\n"
    )
}

fn by(name: &str, next: &str) -> String {
    format!("{}pool = '{name}'\n", route(&format!("{name}.test"), next))
}

#[test]
fn mail_goes_out_by_socks() {
    let receiver = Receiver::start(&["PIPELINING"], |_| None);
    let (open, asked) = socks(How::Relay);
    let (login, _) = socks(How::Login);
    let next = format!("smtp:{}", receiver.address);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("password");
    fs::write(&file, "s@cret\n").expect("the folder is writable");
    let user = format!("proxy_user = 'us'\nproxy_password_file = '{}'", file.display());
    let rows = [
        ("open", format!("proxy = 'socks5://{open}'")),
        ("login", format!("proxy = 'socks5://{login}'\n{user}")),
        // A login that the proxy does not ask for is not sent.
        ("unasked", format!("proxy = 'socks5://{open}'\nipv4 = '192.0.2.1'\n{user}")),
    ];
    let config = rows.each_ref().map(|(name, keys)| source(name, keys) + &by(name, &next));
    let out = Out::start("3s", "", &config.concat());
    for (name, _) in &rows {
        let to = format!("x@{name}.test");
        out.submit(&[&to]);
        receiver.await_for(&to, 1, PATIENCE);
        let attempt = out.attempt(&to);
        assert_eq!(outcome(&attempt), "delivered", "{attempt}");
        assert_eq!(attempt["address"], receiver.address.to_string(), "{attempt}");
    }
    assert_eq!(*asked.lock().expect("no panics"), [receiver.address; 2]);
    assert!(!out.server.log_text().contains("s@cret"), "a password is in the log");
}

#[test]
fn a_failing_proxy_is_reported_and_the_host_is_not_blamed() {
    let receiver = Receiver::start(&[], |_| None);
    let closed = ClosedPort::new();
    let nobody = closed.address;
    let proxy_says = |words: &str| format!("the proxy socks5://PROXY of source NAME: {words}");
    let host_says = |words: &str| format!("connecting to HOST via socks5://PROXY: {words}");
    const ANSWER: [&[u8]; 9] = [
        b"\x05\x01\0\x01\0\0\0\0\0\0",
        b"\x05\x02\0\x01\0\0\0\0\0\0",
        b"\x05\x03\0\x01\0\0\0\0\0\0",
        b"\x05\x04\0\x01\0\0\0\0\0\0",
        b"\x05\x05\0\x01\0\0\0\0\0\0",
        b"\x05\x06\0\x01\0\0\0\0\0\0",
        b"\x05\x08\0\x01\0\0\0\0\0\0",
        b"\x05\x63\0\x01\0\0\0\0\0\0",
        b"\x05\0\0\x07what is this",
    ];
    // The category is the destination's only if the destination is unreachable.
    let rows = [
        (
            "login",
            How::Greet(b"\x05\xff"),
            proxy_says("no acceptable authentication method"),
            "other",
        ),
        ("refused", How::Login, proxy_says("user name or password refused"), "other"),
        (
            "unoffered",
            How::Greet(b"\x05\x01"),
            proxy_says("authentication method 1 was chosen but not offered"),
            "other",
        ),
        ("http", How::Greet(b"HTTP/1.1 400\r\n"), proxy_says("not a SOCKS 5 proxy"), "other"),
        ("endless", How::Endless(&[b'x'; 4096]), proxy_says("not a SOCKS 5 proxy"), "other"),
        (
            "closed",
            How::Greet(b""),
            proxy_says("connection lost before the connect request: "),
            "other",
        ),
        ("silent", How::Silent, proxy_says("no reply in time"), "other"),
        ("drip", How::Drip, host_says("no connection to the destination in time"), "timeout"),
        (
            "waits",
            How::SilentOnConnect,
            host_says("no connection to the destination in time"),
            "timeout",
        ),
        (
            "breaks",
            How::CloseOnConnect,
            host_says("connection lost after the connect request"),
            "other",
        ),
        ("general", How::Answer(ANSWER[0]), host_says("general failure"), "other"),
        (
            "rules",
            How::Answer(ANSWER[1]),
            host_says("connection not allowed by the rules"),
            "other",
        ),
        ("network", How::Answer(ANSWER[2]), host_says("network unreachable"), "connection"),
        ("host", How::Answer(ANSWER[3]), host_says("host unreachable"), "connection"),
        ("nobody", How::Answer(ANSWER[4]), host_says("connection refused"), "connection"),
        ("ttl", How::Answer(ANSWER[5]), host_says("TTL expired"), "connection"),
        (
            "family",
            How::Answer(ANSWER[6]),
            host_says("the proxy does not support this address family"),
            "other",
        ),
        ("unknown", How::Answer(ANSWER[7]), host_says("unknown reply code 99"), "other"),
        ("kind", How::Answer(ANSWER[8]), proxy_says("unknown address type 7"), "other"),
        ("down", How::Silent, proxy_says("cannot connect: connection refused"), "other"),
    ];
    // A host for each, because failures count against the host's destination.
    let host_of = |number: usize| {
        SocketAddr::from((Ipv4Addr::new(127, 85, 0, number as u8 + 1), receiver.address.port()))
    };
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("password");
    fs::write(&file, "sesame\n").expect("the folder is writable");
    let login = format!("proxy_user = 'us'\nproxy_password_file = '{}'", file.display());
    let mut config = String::new();
    let mut proxies = Vec::new();
    for (number, (name, how, ..)) in rows.iter().enumerate() {
        let address = if *name == "down" { nobody } else { socks(*how).0 };
        let next = format!("smtp:{}", host_of(number));
        let login = if *name == "refused" { login.as_str() } else { "" };
        config += &source(name, &format!("proxy = 'socks5://{address}'\n{login}"));
        config += &by(name, &next);
        proxies.push(address);
    }
    // Twenty proxies share this process, so even prompt ones need time on a busy machine.
    let out = Out::start("3s", "", &config);
    for (name, ..) in &rows {
        out.submit(&[&format!("x@{name}.test")]);
    }
    for (number, ((name, _, words, category), proxy)) in rows.iter().zip(proxies).enumerate() {
        let attempt = out.attempt(&format!("x@{name}.test"));
        let host = format!("{}[{}]", host_of(number).ip(), host_of(number));
        let words = words.replace("PROXY", &proxy.to_string());
        let words = words.replace("NAME", name).replace("HOST", &host);
        assert_eq!(outcome(&attempt), "deferred", "{name}: {attempt}");
        assert!(reply(&attempt).contains(&words), "{name}: no `{words}` in {attempt}");
        assert_eq!(attempt["category"], *category, "{name}: {attempt}");
    }
    assert!(receiver.taken().is_empty() && receiver.asked("") == 0);
    assert!(!out.server.log_text().contains("sesame"), "a password is in the log");
}

/// A failure that concerns only one host does not prevent attempts at the others.
#[test]
fn after_a_host_that_a_proxy_cannot_reach_the_next_is_tried() {
    let receiver = Receiver::start(&[], |_| None);
    let port = receiver.address.port();
    let dead = Ipv4Addr::new(127, 84, 0, 1);
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
    let proxy = listener.local_addr().expect("the socket is bound");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || -> io::Result<()> {
                bytes::<3>(&mut stream)?;
                stream.write_all(&[5, 0])?;
                let [_, _, _, _, ip @ ..] = bytes::<8>(&mut stream)?;
                let to = SocketAddr::from((ip, u16::from_be_bytes(bytes(&mut stream)?)));
                if to.ip() == dead {
                    return stream.write_all(b"\x05\x04\0\x01\0\0\0\0\0\0");
                }
                stream.write_all(b"\x05\0\0\x01\0\0\0\0\0\0")?;
                splice(stream, TcpStream::connect(to)?)
            });
        }
    });
    let servers = name_server(vec![
        mx("two.test", 10, "dead.test"),
        mx("two.test", 20, "live.test"),
        a("dead.test", dead.octets()),
        a("live.test", [127, 0, 0, 1]),
    ]);
    let config = format!(
        "[resolver]\nservers = ['{servers}']\n{}{}",
        source("two", &format!("proxy = 'socks5://{proxy}'")),
        by("two", &format!("mx:two.test:{port}"))
    );
    let out = Out::start("3s", "", &config);
    out.submit(&["x@two.test"]);
    receiver.await_for("x@two.test", 1, PATIENCE);
    assert_eq!(out.attempt("x@two.test")["host"], "live.test");
}

/// A proxy that takes the PROXY protocol. It connects from the address in the header, as HAProxy
/// does with `usesrc clientip`, and records the headers.
fn haproxy() -> (SocketAddr, Arc<Mutex<Vec<ProxyHeader>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
    let address = listener.local_addr().expect("the socket is bound");
    let seen: Arc<Mutex<Vec<ProxyHeader>>> = Arc::default();
    let kept = Arc::clone(&seen);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let kept = Arc::clone(&kept);
            // If the destination is unreachable, the proxy closes.
            thread::spawn(move || talk_haproxy(stream, &kept));
        }
    });
    (address, seen)
}

fn talk_haproxy(mut stream: TcpStream, seen: &Mutex<Vec<ProxyHeader>>) -> io::Result<()> {
    let mut input = Vec::new();
    let header = loop {
        input.extend(bytes::<1>(&mut stream)?);
        if let Some(header) = proxy::parse(&input).expect("a header") {
            break header;
        }
    };
    seen.lock().expect("no panics").push(header);
    let ProxyHeader { source: Some(source), destination: Some(to), .. } = header else {
        panic!("{header:?}");
    };
    let onward = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    onward.bind(&source.into())?;
    onward.connect(&to.into())?;
    splice(stream, onward.into())
}

#[test]
fn mail_goes_out_by_a_proxy_that_binds_our_address() {
    let four = Ipv4Addr::new(127, 84, 1, 7);
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
    let server = listener.local_addr().expect("the socket is bound");
    let peers: Arc<Mutex<Vec<IpAddr>>> = Arc::default();
    let kept = Arc::clone(&peers);
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            kept.lock().expect("no panics").push(stream.peer_addr().expect("a peer").ip());
            // Only the source address matters.
            let _ = stream.write_all(b"554 5.7.1 not you\r\n");
        }
    });
    let six = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).expect("loopback has a port");
    let six = six.local_addr().expect("the socket is bound");
    let receiver = Receiver::start(&[], |_| None);
    let closed = ClosedPort::new();
    let nobody = closed.address;
    let (proxy, seen) = haproxy();
    let config = [
        source("good", &format!("ipv4 = '{four}'\nproxy = 'haproxy://{proxy}'")),
        source("down", &format!("ipv4 = '{four}'\nproxy = 'haproxy://{nobody}'")),
        by("good", &format!("smtp:{}", receiver.address)),
        by("down", &format!("smtp:{}", receiver.address)),
        route("peer.test", &format!("smtp:{server}")) + "pool = 'good'\n",
        route("gone.test", &format!("smtp:{nobody}")) + "pool = 'good'\n",
        route("six.test", &format!("smtp:{six}")) + "pool = 'good'\n",
    ];
    let out = Out::start("2s", "", &config.concat());
    out.submit(&["x@good.test"]);
    receiver.await_for("x@good.test", 1, PATIENCE);
    assert_eq!(outcome(&out.attempt("x@good.test")), "delivered");
    match seen.lock().expect("no panics")[..] {
        [ProxyHeader { source: Some(source), destination, .. }] => {
            assert_eq!((source, destination), ((four, 0).into(), Some(receiver.address)));
        }
        ref seen => panic!("{seen:?}"),
    }
    let rows = [
        ("peer", "554 5.7.1 not you".to_owned()),
        // This proxy gives no reason, so the error names it and the host.
        ("gone", format!("{}[{nobody}] via haproxy://{proxy}: ", nobody.ip())),
        ("down", format!("the proxy haproxy://{nobody} of source down: cannot connect")),
        ("six", "the source has no address of this address family".to_owned()),
    ];
    for (name, words) in rows {
        let to = format!("x@{name}.test");
        out.submit(&[&to]);
        let attempt = out.attempt(&to);
        assert_eq!(outcome(&attempt), "deferred", "{name}: {attempt}");
        assert!(reply(&attempt).contains(&words), "{name}: no `{words}` in {attempt}");
    }
    assert_eq!(*peers.lock().expect("no panics"), [IpAddr::V4(four)]);
}
