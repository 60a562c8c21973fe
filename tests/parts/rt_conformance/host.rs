//! The requirements on the host, and resources that must be freed.

use std::io::Write;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

use ringpost::base::chunk::ChunkPool;
use ringpost::rt;
use ringpost::rt::ListenSpec;
use ringpost::rt::Listener;
use ringpost::rt::RtFault;
use ringpost::rt::ShardSpec;
use ringpost::rt::Stream;
use ringpost::rt::task;
use ringpost::rt::timer;

use crate::rt_conformance::LONG;
use crate::rt_conformance::as_child;
use crate::rt_conformance::check_child;
use crate::rt_conformance::listen;
use crate::rt_conformance::pair;
use crate::rt_conformance::poll_and_drop;
use crate::rt_conformance::resident_bytes;
use crate::rt_conformance::set_limit;
use crate::rt_conformance::shard_alone;
use crate::rt_conformance::some_cpu;
use crate::rt_conformance::spec;
use crate::rt_conformance::tasks::yield_now;

#[test]
fn a_low_memlock_limit_is_reported() {
    check_child("memlock");
}

pub(crate) fn child_memlock() {
    set_limit(libc::RLIMIT_MEMLOCK, 64 << 10);
    let low = RtFault::MemlockTooLow { limit: 64 << 10, least: 512 << 10 };
    assert_eq!(rt::check_host(), Err(low.clone()));
    assert!(low.to_string().contains("65536") && low.remedy().contains("LimitMEMLOCK"));
    let refused = rt::start(ShardSpec::new("poor", None), || async {});
    assert_eq!(refused.err(), Some(low));
    set_limit(libc::RLIMIT_MEMLOCK, 2 << 20);
    assert_eq!(rt::check_host(), Ok(()));
}

#[test]
fn a_forbidden_io_uring_is_reported() {
    check_child("seccomp EPERM");
    check_child("seccomp ENOSYS");
}

pub(crate) fn child_seccomp(errno: i32, fault: &RtFault) {
    let row = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let refusal = libc::SECCOMP_RET_ERRNO | errno as u32;
    let mut filter = [
        row((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0, 0, 0),
        row((libc::BPF_JMP | libc::BPF_JEQ) as u16, 0, 1, libc::SYS_io_uring_setup as u32),
        row((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, refusal),
        row((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its filter live until the call, which copies them, returns.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program), 0);
    }
    assert_eq!(rt::check_host().as_ref(), Err(fault));
    let refused = rt::start(ShardSpec::new("forbidden", None), || async {});
    assert_eq!(refused.err().as_ref(), Some(fault));
}

#[test]
fn a_missing_core_is_reported() {
    let refused = rt::start(ShardSpec::new("nowhere", Some(100_000)), || async {});
    assert_eq!(refused.err(), Some(RtFault::NoSuchCpu { cpu: 100_000 }));
}

#[test]
fn a_shard_runs_on_its_core() {
    let cpu = some_cpu();
    let (give, take) = mpsc::channel();
    let placed = ShardSpec { cpu: Some(cpu), ..spec("placed") };
    let shard = rt::start(placed, move || async move {
        // SAFETY: only returns the number of the core.
        give.send(unsafe { libc::sched_getcpu() }).expect("the test waits for this");
    });
    assert_eq!(shard.expect("a shard starts here").join(), Ok(0));
    assert_eq!(take.recv(), Ok(cpu as i32));
}

/// glommio never frees a cancelled task, nor a wrongly armed wait that is dropped.
#[test]
fn tasks_and_dropped_waits_leak_nothing() {
    check_child("memory");
}

pub(crate) fn child_memory() {
    shard_alone(|| async {
        let pool = ChunkPool::new(4);
        let listener = Listener::bind(listen()).expect("bound");
        let address = listener.local().expect("the listener has an address");
        let (mut near, _far) = pair().await;
        let mut after_warming = 0;
        for round in 0..6 {
            for _ in 0..20_000 {
                task::spawn(async {
                    let held = [0_u8; 500];
                    yield_now().await;
                    std::hint::black_box(&held);
                });
                near.deadline().set_in(LONG);
                assert!(poll_and_drop(near.read(&pool, None)).await.is_none());
                assert!(poll_and_drop(timer::sleep(LONG)).await.is_none());
                task::yield_if_needed().await;
            }
            for _ in 0..1_000 {
                assert!(poll_and_drop(listener.accept()).await.is_none());
                let mut accepting = pin!(listener.accept());
                assert!(poll_and_drop(accepting.as_mut()).await.is_none());
                let client = rt::connect(address, None, LONG).await.expect("connected");
                let (stream, _) = accepting.await.expect("accepted");
                client.abort();
                stream.abort();
            }
            assert_eq!(task::drained(LONG).await, 0);
            if round == 1 {
                after_warming = resident_bytes();
            }
        }
        let grown = resident_bytes().saturating_sub(after_warming);
        assert!(grown < 4 << 20, "80,000 tasks and waits leaked {grown} bytes");
        let open = std::fs::read_dir("/proc/self/fd").expect("proc is mounted").count();
        assert!(open < 64, "{open} descriptors are open");
    });
}

#[test]
fn a_stream_is_small() {
    let bytes = size_of::<Stream>();
    assert!(bytes <= 192, "a stream has grown to {bytes} bytes");
}

/// `cargo test --release --test parts -- rt_conformance -- --ignored --nocapture idle`
#[test]
#[ignore = "a measurement: the memory of an idle connection"]
fn idle_connections_are_measured() {
    let output = as_child("idle");
    print!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn child_idle() {
    const CONNECTIONS: usize = 9_500;
    set_limit(libc::RLIMIT_NOFILE, 1 << 20);
    shard_alone(|| async {
        let pool = Rc::new(ChunkPool::new(16));
        let listener = Listener::bind(ListenSpec { backlog: 4096, ..listen() }).expect("bound");
        let address = listener.local().expect("the listener has an address");
        let mut clients = Vec::with_capacity(CONNECTIONS);
        let before = resident_bytes();
        for _ in 0..CONNECTIONS {
            clients.push(TcpStream::connect(address).expect("connected"));
            let (mut stream, _) = listener.accept().await.expect("accepted");
            let pool = Rc::clone(&pool);
            task::spawn(async move {
                stream.deadline().set_in(Duration::from_secs(300));
                let _ = stream.write(b"220 hello\r\n".to_vec()).await;
                while let Ok(chunk) = stream.read(&pool, None).await {
                    pool.give(chunk);
                    stream.deadline().set_in(Duration::from_secs(300));
                }
            });
        }
        timer::sleep(Duration::from_millis(300)).await;
        let each = (resident_bytes() - before) / CONNECTIONS;
        println!("{CONNECTIONS} idle connections: {each} bytes of resident memory each");
        println!("a Stream is {} bytes; chunks out: {}", size_of::<Stream>(), pool.chunks_out());
        let start = Instant::now();
        for client in &mut clients {
            client.write_all(b"NOOP\r\n").expect("sent");
        }
        timer::sleep(Duration::from_millis(300)).await;
        println!(
            "idle again after some data: {} bytes each, {:?}",
            (resident_bytes() - before) / CONNECTIONS,
            start.elapsed()
        );
        assert!(each < 3 << 10, "{each} bytes for each idle connection");
        std::hint::black_box(clients[0].as_raw_fd());
        clients.clear();
        assert_eq!(task::drained(LONG).await, 0);
    });
}
