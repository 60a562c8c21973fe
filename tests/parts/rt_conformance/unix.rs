//! Unix sockets, and reads of an exact length.

use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use ringpost::base::chunk::ChunkPool;
use ringpost::rt;
use ringpost::rt::IoFault;
use ringpost::rt::task;
use ringpost::rt::timer;
use socket2::Domain;
use socket2::SockAddr;
use socket2::Socket;
use socket2::Type;

use crate::rt_conformance::LONG;
use crate::rt_conformance::half;
use crate::rt_conformance::on_shard;

#[test]
fn exactly_the_requested_bytes_are_read() {
    on_shard(|| async {
        let pool = ChunkPool::new(1);
        let (mut near, mut far) = half().await;
        near.deadline().set_in(LONG);
        far.write_all(b"abcde and more").expect("sent");
        let mut room = [0; 5];
        near.read_exact(&mut room).await.expect("the bytes arrive");
        assert_eq!(room, *b"abcde");
        let chunk = near.read(&pool, None).await.expect("the rest");
        assert_eq!(chunk.bytes(), b" and more");
        pool.give(chunk);
        near.read_exact(&mut []).await.expect("an empty read completes");
        // In pieces, and then too few bytes.
        task::spawn(async move {
            for byte in b"12345678" {
                timer::sleep(Duration::from_millis(5)).await;
                far.write_all(&[*byte]).expect("sent");
            }
            timer::sleep(Duration::from_millis(300)).await;
        });
        near.read_exact(&mut room).await.expect("the bytes arrive");
        assert_eq!(room, *b"12345");
        near.deadline().set_in(Duration::from_millis(100));
        assert_eq!(near.read_exact(&mut room).await, Err(IoFault::TimedOut));
        near.deadline().set_in(LONG);
        assert_eq!(near.read_exact(&mut room).await, Err(IoFault::Closed));
    });
}

#[test]
fn a_unix_socket_works_like_a_tcp_stream() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).expect("bound");
    on_shard(|| async move {
        let pool = ChunkPool::new(1);
        let mut near = rt::connect_unix(&path, LONG).await.expect("connected");
        let (mut far, _) = listener.accept().expect("accepted");
        near.deadline().set_in(LONG);
        near.write(b"hello".to_vec()).await.0.expect("sent");
        let mut room = [0; 5];
        far.read_exact(&mut room).expect("the bytes arrive");
        assert_eq!(room, *b"hello");
        far.write_all(b"hi").expect("sent");
        let chunk = near.read(&pool, None).await.expect("the bytes arrive");
        assert_eq!(chunk.bytes(), b"hi");
        pool.give(chunk);
        near.write_parts(&[b"a", b"bc"]).await.expect("sent");
        far.read_exact(&mut room[..3]).expect("the bytes arrive");
        assert_eq!(room[..3], *b"abc");
        drop(far);
        assert_eq!(near.read(&pool, None).await.err(), Some(IoFault::Closed));
    });
}

#[test]
fn unix_sockets_fail_with_the_cause() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    drop(UnixListener::bind(path("stale")).expect("bound"));
    let full = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
    full.bind(&SockAddr::unix(path("full")).expect("a short path")).expect("bound");
    full.listen(0).expect("listening");
    let (missing, stale, crowded) = (path("missing"), path("stale"), path("full"));
    let long = path(&"x".repeat(200));
    on_shard(|| async move {
        let fault = async |path| rt::connect_unix(path, LONG).await.err();
        assert_eq!(fault(&missing).await, Some(IoFault::NoSuchFile));
        assert_eq!(fault(&stale).await, Some(IoFault::Refused));
        assert!(matches!(fault(&long).await, Some(IoFault::Io(_))));
        let _first = rt::connect_unix(&crowded, LONG).await.expect("the queue has room for one");
        let limit = Duration::from_millis(100);
        let start = timer::now();
        let second = rt::connect_unix(&crowded, limit).await.err();
        assert_eq!(second, Some(IoFault::TimedOut));
        assert!(start.elapsed() >= limit);
        task::spawn(async move {
            timer::sleep(Duration::from_millis(100)).await;
            full.accept().expect("the first connection");
            timer::sleep(Duration::from_millis(200)).await;
        });
        rt::connect_unix(&crowded, LONG).await.expect("the queue has room again");
    });
}
