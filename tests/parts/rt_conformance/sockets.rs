//! Listening and connecting.

use std::cell::Cell;
use std::io::Read;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::net::UdpSocket;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use ringpost::rt;
use ringpost::rt::IoFault;
use ringpost::rt::ListenSpec;
use ringpost::rt::Listener;
use ringpost::rt::Stream;
use ringpost::rt::task;
use ringpost::rt::timer;
use socket2::Domain;
use socket2::Socket;
use socket2::Type;

use crate::rt_conformance::LONG;
use crate::rt_conformance::LOOPBACK;
use crate::rt_conformance::check_child;
use crate::rt_conformance::listen;
use crate::rt_conformance::on_shard;
use crate::rt_conformance::pair;
use crate::rt_conformance::poll_and_drop;
use crate::rt_conformance::set_limit;
use crate::rt_conformance::shard_alone;

/// glommio's accept is a ring operation: dropping it loses the connection.
#[test]
fn a_dropped_accept_loses_no_connection() {
    const CLIENTS: usize = 300;
    on_shard(|| async {
        let listener = Rc::new(Listener::bind(listen()).expect("bound"));
        let address = listener.local().expect("the listener has an address");
        let clients = thread::spawn(move || {
            let greeted = |number: usize| {
                if number.is_multiple_of(3) {
                    thread::sleep(Duration::from_micros(700));
                }
                let mut client = TcpStream::connect(address).expect("connected");
                client.set_read_timeout(Some(LONG)).expect("a limit");
                let mut greeting = [0; 2];
                client.read_exact(&mut greeting).map(|()| greeting == *b"hi").unwrap_or(false)
            };
            (0..CLIENTS).filter(|number| greeted(*number)).count()
        });
        let (mut served, mut dropped, start) = (0, 0, timer::now());
        while served < CLIENTS && start.elapsed() < LONG {
            let mut next = poll_and_drop(listener.accept()).await;
            if next.is_none() {
                let limit = Duration::from_micros(300);
                next = timer::timeout(limit, listener.accept()).await.ok();
            }
            match next {
                Some(accepted) => {
                    let (mut stream, _) = accepted.expect("accepted");
                    stream.write(b"hi".to_vec()).await.0.expect("sent");
                    served += 1;
                }
                None => dropped += 1,
            }
        }
        assert_eq!(served, CLIENTS, "connections were lost");
        assert_eq!(clients.join().expect("the clients end"), CLIENTS);
        assert!(dropped > 20, "only {dropped} accepts were dropped");
    });
}

/// The same with a connection that arrives between the kernel's answer and the drop.
#[test]
fn an_accept_dropped_when_it_could_complete_loses_no_connection() {
    on_shard(|| async {
        let listener = Listener::bind(listen()).expect("bound");
        let address = listener.local().expect("the listener has an address");
        for round in 0..20 {
            let mut accepting = Box::pin(listener.accept());
            assert!(poll_and_drop(accepting.as_mut()).await.is_none());
            timer::sleep(Duration::from_millis(3)).await;
            // This blocks the shard: the future is not polled again before it is dropped.
            let client = TcpStream::connect(address).expect("connected");
            thread::sleep(Duration::from_millis(1));
            drop(accepting);
            let next = timer::timeout(Duration::from_secs(2), listener.accept()).await;
            let accepted = next.map(|accepted| accepted.expect("accepted").1);
            assert_eq!(accepted, Ok(client.local_addr().expect("bound")), "round {round}");
        }
    });
}

/// The kernel resets queued connections when a listening socket is shut down or closed.
#[test]
fn stopping_returns_the_queued_connections() {
    on_shard(|| async {
        let listener = Listener::bind(listen()).expect("bound");
        let address = listener.local().expect("the listener has an address");
        let mut clients: Vec<_> =
            (0..20).map(|_| TcpStream::connect(address).expect("connected")).collect();
        listener.stop();
        listener.stop();
        for _ in 0..20 {
            let (mut stream, _) = listener.accept().await.expect("queued before the stop");
            stream.write(b"x".to_vec()).await.0.expect("sent");
        }
        assert_eq!(listener.accept().await.err(), Some(IoFault::Stopped));
        assert_eq!(listener.accept().await.err(), Some(IoFault::Stopped));
        for client in &mut clients {
            client.set_read_timeout(Some(LONG)).expect("a limit");
            assert_eq!(client.read(&mut [0]).expect("not reset"), 1);
        }
        let late = rt::connect(address, None, LONG).await.err();
        assert_eq!(late, Some(IoFault::Refused), "the listener is closed");
    });
}

#[test]
fn stopping_ends_a_waiting_accept() {
    on_shard(|| async {
        let listener = Rc::new(Listener::bind(listen()).expect("bound"));
        let stopped = Rc::new(Cell::new(None));
        let (accepting, telling) = (Rc::clone(&listener), Rc::clone(&stopped));
        task::spawn(async move { telling.set(accepting.accept().await.err()) });
        timer::sleep(Duration::from_millis(30)).await;
        listener.stop();
        assert_eq!(task::drained(Duration::from_secs(5)).await, 0, "the task has not ended");
        assert_eq!(stopped.get(), Some(IoFault::Stopped));
    });
}

#[test]
fn one_of_several_sockets_on_a_port_stops_without_loss() {
    on_shard(|| async {
        let first = Listener::bind(listen()).expect("bound");
        let address = first.local().expect("the listener has an address");
        let second =
            Listener::bind(ListenSpec { address, ..listen() }).expect("the address is shared");
        let clients: Vec<_> =
            (0..40).map(|_| TcpStream::connect(address).expect("connected")).collect();
        first.stop();
        let mut accepted = Vec::new();
        while let Ok((stream, _)) = first.accept().await {
            accepted.push(stream);
        }
        let of_first = accepted.len();
        while accepted.len() < clients.len() {
            let limit = Duration::from_secs(5);
            let next = timer::timeout(limit, second.accept()).await.expect("no connection is lost");
            accepted.push(next.expect("accepted").0);
        }
        assert!(
            of_first > 0 && of_first < clients.len(),
            "the kernel used both sockets: {of_first}"
        );
        let taken = ListenSpec { address, reuse_port: false, ..listen() };
        assert_eq!(Listener::bind(taken).err(), Some(IoFault::AddressInUse));
    });
}

#[test]
fn an_inherited_socket_is_used() {
    on_shard(|| async {
        let bound = TcpListener::bind(LOOPBACK).expect("bound as by another process");
        let address = bound.local_addr().expect("the listener has an address");
        let inherited = Some(bound.into());
        let listener =
            Listener::bind(ListenSpec { inherited, ..listen() }).expect("the socket is usable");
        assert_eq!(listener.local(), Ok(address));
        let client = rt::connect(address, None, LONG).await.expect("connected");
        let (_, peer) = listener.accept().await.expect("accepted");
        assert_eq!(client.local(), Ok(peer));
    });
}

#[test]
fn ipv6_has_a_socket_of_its_own() {
    on_shard(|| async {
        let address = "[::]:0".parse().expect("an address");
        let Ok(listener) = Listener::bind(ListenSpec { address, ..listen() }) else {
            eprintln!("skipped: this machine has no IPv6");
            return;
        };
        let port = listener.local().expect("the listener has an address").port();
        let (six, four) = (format!("[::1]:{port}"), format!("127.0.0.1:{port}"));
        let to = |address: String| rt::connect(address.parse().expect("one"), None, LONG);
        let client = to(six).await.expect("connected");
        assert_eq!(Ok(listener.accept().await.expect("accepted").1), client.local());
        assert_eq!(to(four).await.err(), Some(IoFault::Refused));
    });
}

#[test]
fn accepted_sockets_have_cloexec_and_nodelay() {
    on_shard(|| async {
        let (near, far) = pair().await;
        for (name, stream) in [("connected", &near), ("accepted", &far)] {
            let fd = descriptor_of(stream);
            // SAFETY: only reads a flag of an open descriptor.
            assert_eq!(unsafe { libc::fcntl(fd, libc::F_GETFD) } & libc::FD_CLOEXEC, 1, "{name}");
            assert_ne!(option_of(stream, libc::IPPROTO_TCP, libc::TCP_NODELAY), 0, "{name}");
        }
    });
}

fn option_of(stream: &Stream, level: i32, option: i32) -> i32 {
    let (mut value, mut length) = (0_i32, size_of::<i32>() as u32);
    let place = (&raw mut value).cast();
    // SAFETY: the descriptor is open; the buffer has the given length.
    let asked =
        unsafe { libc::getsockopt(descriptor_of(stream), level, option, place, &mut length) };
    assert_eq!(asked, 0);
    value
}

/// The runtime exposes no descriptors; this finds one by its addresses.
fn descriptor_of(stream: &Stream) -> i32 {
    let (local, peer) = (stream.local().expect("bound"), stream.peer().expect("connected"));
    let is_it = |fd: &i32| {
        // SAFETY: the descriptor may be anything or closed; the socket is forgotten, so nothing is
        // closed.
        let socket = std::mem::ManuallyDrop::new(unsafe {
            <TcpStream as std::os::fd::FromRawFd>::from_raw_fd(*fd)
        });
        socket.local_addr().ok() == Some(local) && socket.peer_addr().ok() == Some(peer)
    };
    (3..20_000).find(is_it).expect("the socket has a low descriptor")
}

#[test]
fn connecting_returns_the_cause_of_a_failure() {
    on_shard(|| async {
        let listener = Listener::bind(listen()).expect("bound");
        let to = listener.local().expect("the listener has an address");
        let here = "127.0.0.77:0".parse().expect("an address");
        let stream = rt::connect(to, Some(here), LONG).await.expect("connected");
        let (_, peer) = listener.accept().await.expect("accepted");
        assert_eq!(peer.ip(), here.ip(), "the source address is the requested one");
        assert_eq!(stream.local(), Ok(peer));
        assert!(!stream.deadline().expired());
        let portless = option_of(&stream, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT);
        assert_eq!(portless, 1, "otherwise 28,000 connections use up a source address");

        // Bound, so that the port is not reused, and not listening.
        let closed = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any: SocketAddr = LOOPBACK.parse().expect("an address");
        closed.bind(&any.into()).expect("bound");
        let nobody = closed.local_addr().ok().and_then(|bound| bound.as_socket());
        let nobody = nobody.expect("the socket has an address");
        let elsewhere = "192.0.2.1:0".parse().expect("an address");
        let rows = [
            ("no listener", nobody, None, IoFault::Refused),
            ("not our address", to, Some(elsewhere), IoFault::AddressNotOurs),
        ];
        for (name, to, source, fault) in rows {
            assert_eq!(rt::connect(to, source, LONG).await.err(), Some(fault), "{name}");
        }
    });
}

/// A full backlog drops connection requests: the only way on loopback to get no answer.
#[test]
fn connecting_ends_at_its_limit() {
    on_shard(|| async {
        let listener = Listener::bind(ListenSpec { backlog: 1, ..listen() }).expect("bound");
        let to = listener.local().expect("the listener has an address");
        let limit = Duration::from_millis(200);
        let mut connected = Vec::new();
        for _ in 0..8 {
            let start = timer::now();
            match rt::connect(to, None, limit).await {
                Ok(stream) => connected.push(stream),
                Err(fault) => {
                    assert_eq!(fault, IoFault::TimedOut);
                    assert!(start.elapsed() >= limit);
                    return;
                }
            }
        }
        panic!("{} connections fit into a backlog of one", connected.len());
    });
}

#[test]
fn without_descriptors_accept_pauses_and_recovers() {
    check_child("no descriptors");
}

pub(crate) fn child_no_descriptors() {
    shard_alone(|| async {
        let listener = Listener::bind(listen()).expect("bound");
        let address = listener.local().expect("the listener has an address");
        set_limit(libc::RLIMIT_NOFILE, 128);
        let mut client = TcpStream::connect(address).expect("connected");
        let mut held = Vec::new();
        while let Ok(copy) = client.try_clone() {
            held.push(copy);
        }
        let start = timer::now();
        for _ in 0..6 {
            let fault = timer::timeout(LONG, listener.accept()).await.expect("accept returns");
            assert_eq!(fault.err(), Some(IoFault::NoFiles));
        }
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(400), "six faults in {took:?}, without a pause");
        assert_eq!(rt::connect(address, None, LONG).await.err(), Some(IoFault::NoFiles));
        held.clear();
        let (mut stream, _) = listener.accept().await.expect("the connection is still queued");
        stream.write(b"x".to_vec()).await.0.expect("sent");
        assert_eq!(client.read(&mut [0]).expect("not reset"), 1);
    });
}

/// glommio's UDP receive is a ring operation: dropping it loses the datagram.
#[test]
fn a_dropped_receive_loses_no_datagram() {
    on_shard(|| async {
        let peer = UdpSocket::bind(LOOPBACK).expect("bound");
        let to = peer.local_addr().expect("the socket has an address");
        let mut socket = rt::UdpSocket::connect(to, None).expect("connected");
        let from = socket.local().expect("bound by its connect");
        let mut room = [0; 64];
        for round in 0..100u8 {
            assert!(poll_and_drop(socket.receive(&mut room)).await.is_none());
            timer::sleep(Duration::from_millis(1)).await;
            peer.send_to(&[round; 3], from).expect("sent");
            // This blocks the shard: the datagram arrives before the next poll.
            thread::sleep(Duration::from_micros(200));
            let early = poll_and_drop(socket.receive(&mut room)).await;
            let received = match early {
                Some(received) => received,
                None => {
                    socket.deadline().set_in(Duration::from_secs(2));
                    socket.receive(&mut room).await
                }
            };
            assert_eq!(received, Ok(3), "round {round}");
            assert_eq!(room[..3], [round; 3]);
        }
    });
}

#[test]
fn a_datagram_socket_receives_from_its_peer_only() {
    on_shard(|| async {
        let peer = UdpSocket::bind(LOOPBACK).expect("bound");
        let stranger = UdpSocket::bind(LOOPBACK).expect("bound");
        let to = peer.local_addr().expect("the socket has an address");
        let mut socket = rt::UdpSocket::connect(to, None).expect("connected");
        let from = socket.local().expect("bound by its connect");
        socket.send(b"question").expect("sent");
        let mut room = [0; 8];
        assert_eq!(peer.recv_from(&mut room).expect("received"), (8, from));
        stranger.send_to(b"forged", from).expect("sent");
        peer.send_to(b"", from).expect("sent");
        peer.send_to(b"true and longer", from).expect("sent");
        socket.deadline().set_in(LONG);
        assert_eq!(socket.receive(&mut room).await, Ok(0), "an empty datagram is not the end");
        assert_eq!(socket.receive(&mut room).await, Ok(8));
        assert_eq!(&room, b"true and");
        let (limit, start) = (Duration::from_millis(200), timer::now());
        socket.deadline().set_in(limit);
        assert_eq!(socket.receive(&mut room).await, Err(IoFault::TimedOut));
        assert!(start.elapsed() >= limit);
        drop(peer);
        socket.send(b"nobody").expect("sent");
        socket.deadline().set_in(LONG);
        assert_eq!(socket.receive(&mut room).await, Err(IoFault::Refused));
    });
}
