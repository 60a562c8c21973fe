//! Streams and their deadlines.

use std::cell::RefCell;
use std::io::Read;
use std::io::Write;
use std::pin::pin;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use ringpost::base::chunk::ChunkPool;
use ringpost::rt::IoFault;
use ringpost::rt::task;
use ringpost::rt::timer;

use crate::rt_conformance::LATE;
use crate::rt_conformance::LONG;
use crate::rt_conformance::eventually;
use crate::rt_conformance::half;
use crate::rt_conformance::on_shard;
use crate::rt_conformance::pair;
use crate::rt_conformance::poll_and_drop;

#[test]
fn deadlines_fire_in_time_and_never_early() {
    on_shard(|| async {
        let pool = ChunkPool::new(4);
        let (mut near, _far) = pair().await;
        for wait_ms in [0, 1, 30, 120, 333] {
            let wait = Duration::from_millis(wait_ms);
            let mut least = Duration::MAX;
            // On a busy machine one deadline may be late.
            for _ in 0..3 {
                let start = timer::now();
                near.deadline().set_in(wait);
                assert_eq!(near.read(&pool, None).await.err(), Some(IoFault::TimedOut));
                let waited = start.elapsed();
                assert!(waited >= wait, "{wait_ms} ms ended after {waited:?}");
                assert!(near.deadline().expired());
                least = least.min(waited - wait);
                if least <= LATE {
                    break;
                }
            }
            assert!(least <= LATE, "{wait_ms} ms were {least:?} late");
        }
        near.deadline().clear();
        assert!(!near.deadline().expired());
        let quiet = timer::timeout(Duration::from_millis(300), near.read(&pool, None)).await;
        assert_eq!(quiet.err(), Some(timer::Elapsed), "a cleared deadline does not fire");
    });
}

#[test]
fn a_deadline_that_is_set_again_counts_from_then() {
    on_shard(|| async {
        let pool = ChunkPool::new(4);
        let (mut near, mut far) = pair().await;
        task::spawn(async move {
            for _ in 0..4 {
                timer::sleep(Duration::from_millis(150)).await;
                far.write(b"x".to_vec()).await.0.expect("sent");
            }
            timer::sleep(Duration::from_millis(1000)).await;
        });
        let wait = Duration::from_millis(700);
        let mut last = timer::now();
        let mut reads = 0;
        near.deadline().set_in(wait);
        let fault = loop {
            match near.read(&pool, None).await {
                Ok(chunk) => pool.give(chunk),
                Err(fault) => break fault,
            }
            reads += 1;
            last = timer::now();
            near.deadline().set_in(wait);
        };
        assert_eq!((fault, reads), (IoFault::TimedOut, 4));
        assert!(last.elapsed() >= wait, "it fired after {:?}", last.elapsed());
    });
}

/// A drain interrupts idle waits only.
#[test]
fn an_interrupt_ends_idle_waits_only() {
    type Begin = fn(&timer::Deadline);
    let rows: [(&str, Begin, bool); 4] = [
        ("idle", |deadline| deadline.set_idle_in(LONG), true),
        ("not idle", |deadline| deadline.set_in(LONG), false),
        (
            "idle, then set again",
            |deadline| {
                deadline.set_idle_in(LONG);
                deadline.set_in(LONG);
            },
            false,
        ),
        (
            "idle, then cleared",
            |deadline| {
                deadline.set_idle_in(LONG);
                deadline.clear();
            },
            false,
        ),
    ];
    on_shard(move || async move {
        for (name, begin, ends) in rows {
            let pool = ChunkPool::new(4);
            let (mut near, _far) = pair().await;
            begin(near.deadline());
            let mut reading = pin!(near.read(&pool, None));
            assert!(poll_and_drop(reading.as_mut()).await.is_none(), "{name}");
            timer::interrupt_idle();
            let limit = if ends { LONG / 2 } else { Duration::from_millis(60) };
            let waited = timer::timeout(limit, reading).await;
            let ended = matches!(waited, Ok(Err(IoFault::TimedOut)));
            assert_eq!((ended, waited.is_ok()), (ends, ends), "{name}");
        }
    });
}

#[test]
fn a_waiting_read_holds_no_chunk() {
    on_shard(|| async {
        let pool = Rc::new(ChunkPool::new(2));
        let (mut near, mut far) = pair().await;
        let got = Rc::new(RefCell::new(Vec::new()));
        let (reading, getting) = (Rc::clone(&pool), Rc::clone(&got));
        task::spawn(async move {
            let first = near.read(&reading, None).await.expect("the first bytes");
            assert_eq!(reading.chunks_out(), 1);
            let second = near.read(&reading, Some(first)).await.expect("more bytes");
            getting.borrow_mut().extend_from_slice(second.bytes());
            reading.give(second);
            assert_eq!(near.read(&reading, None).await.err(), Some(IoFault::Closed));
        });
        timer::sleep(Duration::from_millis(30)).await;
        assert_eq!(pool.chunks_out(), 0, "the read waits without a chunk");
        far.write(b"one ".to_vec()).await.0.expect("sent");
        // It waits with the chunk that it was given.
        eventually(|| pool.chunks_out() == 1).await;
        far.write(b"two".to_vec()).await.0.expect("sent");
        eventually(|| pool.chunks_out() == 0).await;
        drop(far);
        assert_eq!(task::drained(LONG).await, 0);
        assert_eq!(task::panics(), 0);
        assert_eq!(*got.borrow(), b"one two");
    });
}

#[test]
fn an_empty_pool_makes_a_read_wait() {
    on_shard(|| async {
        let pool = Rc::new(ChunkPool::new(1));
        let (mut near, mut far) = pair().await;
        let taken = pool.try_take().expect("the only chunk is free");

        near.deadline().set_in(Duration::from_millis(50));
        let fault = near.read(&pool, None).await.err();
        assert_eq!(fault, Some(IoFault::TimedOut), "nothing arrived, so no chunk was missing");

        far.write(b"late".to_vec()).await.0.expect("sent");
        near.deadline().set_in(Duration::from_millis(50));
        assert_eq!(near.read(&pool, None).await.err(), Some(IoFault::NoChunk));

        near.deadline().set_in(LONG);
        let start = timer::now();
        let giving = Rc::clone(&pool);
        task::spawn(async move {
            timer::sleep(Duration::from_millis(40)).await;
            giving.give(taken);
        });
        let chunk = near.read(&pool, None).await.expect("the chunk was returned");
        assert_eq!(chunk.bytes(), b"late");
        assert!(start.elapsed() < Duration::from_secs(5), "it retried after {:?}", start.elapsed());
    });
}

/// Reads wait for readiness and then receive, so a dropped read has consumed nothing.
#[test]
fn a_dropped_read_loses_no_byte() {
    on_shard(|| async {
        let pool = ChunkPool::new(4);
        let (mut near, mut far) = half().await;
        let sender = thread::spawn(move || {
            for number in 0..2000_u32 {
                far.write_all(&number.to_be_bytes()).expect("sent");
                if number.is_multiple_of(16) {
                    thread::sleep(Duration::from_micros(400));
                }
            }
        });
        let (mut got, mut dropped) = (Vec::new(), 0);
        loop {
            match timer::timeout(Duration::from_micros(200), near.read(&pool, None)).await {
                Ok(Ok(chunk)) => {
                    got.extend_from_slice(chunk.bytes());
                    pool.give(chunk);
                }
                Ok(Err(fault)) => break assert_eq!(fault, IoFault::Closed),
                Err(timer::Elapsed) => dropped += 1,
            }
        }
        sender.join().expect("the sending thread ends");
        let sent: Vec<u8> = (0..2000_u32).flat_map(u32::to_be_bytes).collect();
        assert!(got == sent, "{} bytes of {}", got.len(), sent.len());
        assert!(dropped > 10, "only {dropped} reads were dropped");
        assert_eq!(pool.chunks_out(), 0);
    });
}

/// glommio's own read timeout stays armed when its read is dropped, and fails the next one.
#[test]
fn a_dropped_read_leaves_no_deadline_behind() {
    on_shard(|| async {
        let pool = ChunkPool::new(4);
        let (mut near, mut far) = pair().await;
        near.deadline().set_in(Duration::from_millis(40));
        assert!(poll_and_drop(near.read(&pool, None)).await.is_none());
        near.deadline().set_in(LONG);
        timer::sleep(Duration::from_millis(250)).await;
        let quiet = timer::timeout(Duration::from_millis(50), near.read(&pool, None)).await;
        assert_eq!(quiet.err(), Some(timer::Elapsed));
        far.write(b"x".to_vec()).await.0.expect("sent");
        assert_eq!(near.read(&pool, None).await.map(|chunk| chunk.len()), Ok(1));
    });
}

#[test]
fn bytes_arrive_completely_and_in_order() {
    on_shard(|| async {
        let pool = Rc::new(ChunkPool::new(64));
        let (mut near, mut far) = pair().await;
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
        let (sent, bytes_of_parts) = (bytes.clone(), bytes.clone());
        task::spawn(async move {
            let (written, rest) = near.write(sent).await;
            assert_eq!((written, rest.len()), (Ok(()), 0));
            assert!(rest.capacity() >= 3_000_000, "the buffer is returned");
            let parts: Vec<&[u8]> = bytes_of_parts.chunks(20_000).collect();
            assert_eq!(near.write_parts(&parts).await, Ok(()));
            assert_eq!(near.write_parts(&parts).await, Ok(()));
            assert_eq!(near.write_parts(&[b"", b""]).await, Ok(()));
            near.shutdown_write().expect("no more");
            timer::sleep(Duration::from_millis(20)).await;
        });
        let mut got = Vec::new();
        let end = loop {
            match far.read(&pool, None).await {
                Ok(chunk) => {
                    got.extend_from_slice(chunk.bytes());
                    pool.give(chunk);
                }
                Err(fault) => break fault,
            }
        };
        assert_eq!(end, IoFault::Closed);
        assert_eq!(task::drained(LONG).await, 0);
        assert_eq!(task::panics(), 0);
        assert!(got == [&bytes[..], &bytes[..], &bytes[..]].concat(), "{} bytes", got.len());
    });
}

#[test]
fn a_peer_that_does_not_read_makes_the_deadline_expire() {
    on_shard(|| async {
        for vectored in [false, true] {
            let (mut near, _far) = pair().await;
            near.deadline().set_in(Duration::from_millis(100));
            let start = timer::now();
            let fault = if vectored {
                near.write_parts(&[&[0; 60_000][..]; 500]).await
            } else {
                near.write(vec![0; 30_000_000]).await.0
            };
            assert_eq!(fault, Err(IoFault::TimedOut), "vectored: {vectored}");
            assert!(start.elapsed() >= Duration::from_millis(100));
        }
    });
}

#[test]
fn data_and_the_end_are_noticed_without_reading() {
    on_shard(|| async {
        let pool = ChunkPool::new(4);
        let (mut near, mut far) = pair().await;
        assert!(!near.is_readable());
        far.write(b"x".to_vec()).await.0.expect("sent");
        eventually(|| near.is_readable()).await;
        assert_eq!(near.read(&pool, None).await.map(|chunk| chunk.len()), Ok(1));
        assert!(!near.is_readable());
        drop(far);
        eventually(|| near.is_readable()).await;
        let (near, far) = pair().await;
        assert!(!near.is_readable());
        far.abort();
        eventually(|| near.is_readable()).await;
    });
}

#[test]
fn a_reset_is_distinguished_from_an_end() {
    on_shard(|| async {
        let pool = ChunkPool::new(4);
        let (mut near, far) = pair().await;
        far.abort();
        assert_eq!(near.read(&pool, None).await.err(), Some(IoFault::Reset));
        let (written, bytes) = near.write(b"to nobody".to_vec()).await;
        assert_eq!((written, bytes.len()), (Err(IoFault::Reset), 0));

        let (mut near, far) = pair().await;
        drop(far);
        assert_eq!(near.read(&pool, None).await.err(), Some(IoFault::Closed));

        let (near, mut far) = half().await;
        near.abort();
        let reset = far.read(&mut [0]).map_err(|error| error.raw_os_error());
        assert_eq!(reset, Err(Some(libc::ECONNRESET)), "the peer gets a reset");

        let (near, mut far) = half().await;
        near.shutdown_write().expect("no more");
        assert_eq!(far.read(&mut [0]).expect("the end"), 0);
        far.write_all(b"still heard").expect("sent");
        let mut near = near;
        let heard = near.read(&pool, None).await.expect("one half is open");
        assert_eq!(heard.bytes(), b"still heard");
    });
}

#[test]
fn unread_input_is_counted_without_reading_it() {
    on_shard(|| async {
        let pool = ChunkPool::new(4);
        let (mut near, mut far) = half().await;
        assert_eq!(near.unread_input(), Ok(0));
        far.write_all(b"EHLO too early\r\n").expect("sent");
        eventually(|| near.unread_input() == Ok(16)).await;
        assert_eq!(near.read(&pool, None).await.map(|chunk| chunk.len()), Ok(16));
        assert_eq!(near.unread_input(), Ok(0));
        far.write_all(b"more").expect("sent");
        eventually(|| near.unread_input() == Ok(4)).await;
    });
}
