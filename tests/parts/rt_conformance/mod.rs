//! The tests that any backend of `rt` must pass. Each names the defect that it guards against.
//! Tests of glommio's defects were seen to fail with the workaround removed; for races between
//! threads, in most runs.
//!
//! Tests that need a process of their own (limits, filters, memory) run this binary again, with
//! only the test `child` and the part in `RT_CHILD`.

mod host;
mod sockets;
mod streams;
mod tasks;
mod unix;
mod wakes;

use std::future::Future;
use std::future::poll_fn;
use std::net::TcpListener;
use std::net::TcpStream;
use std::panic::Location;
use std::pin::pin;
use std::process::Command;
use std::process::Output;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::mpsc;
use std::task::Poll;
use std::time::Duration;
use std::time::Instant;

use ringpost::rt;
use ringpost::rt::ListenSpec;
use ringpost::rt::Listener;
use ringpost::rt::OnDeath;
use ringpost::rt::RtFault;
use ringpost::rt::ShardSpec;
use ringpost::rt::Stream;
use ringpost::rt::timer;

use crate::rt_conformance::host::child_idle;
use crate::rt_conformance::host::child_memlock;
use crate::rt_conformance::host::child_memory;
use crate::rt_conformance::host::child_seccomp;
use crate::rt_conformance::sockets::child_no_descriptors;
use crate::rt_conformance::tasks::child_death;

pub(crate) const LOOPBACK: &str = "127.0.0.1:0";
pub(crate) const LONG: Duration = Duration::from_secs(20);
/// Tolerance of a deadline.
pub(crate) const LATE: Duration = Duration::from_millis(250);

/// Locked for writing by tests that use all cores, for reading by tests that measure time.
pub(crate) static QUIET: RwLock<()> = RwLock::new(());

pub(crate) fn spec(name: &str) -> ShardSpec {
    let on_death: OnDeath = Box::new(|_| ());
    ShardSpec { on_death, ..ShardSpec::new(name, None) }
}

/// Runs `main` as the main future of a shard and returns its result. A panic in it is passed on.
pub(crate) fn on_shard<F, Fut, T>(main: F) -> T
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let _quiet = QUIET.read().unwrap_or_else(PoisonError::into_inner);
    shard_alone(main)
}

pub(crate) fn shard_alone<F, Fut, T>(main: F) -> T
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let (give, take) = mpsc::channel();
    let shard = rt::start(spec("test"), move || async move {
        give.send(main().await).expect("the test waits for this");
    });
    let left = shard.expect("a shard starts").join().expect("the shard ends normally");
    assert_eq!(left, 0, "every task has ended");
    take.recv().expect("the main future has ended")
}

pub(crate) fn listen() -> ListenSpec {
    let address = LOOPBACK.parse().expect("an address");
    ListenSpec { address, backlog: 512, reuse_port: true, v6_only: true, inherited: None }
}

/// Both ends of a connection on this shard.
pub(crate) async fn pair() -> (Stream, Stream) {
    let listener = Listener::bind(listen()).expect("bound");
    let address = listener.local().expect("the listener has an address");
    let near = rt::connect(address, None, LONG).await.expect("connected");
    let (far, peer) = listener.accept().await.expect("accepted");
    assert_eq!(near.local(), Ok(peer));
    assert_eq!(far.peer(), Ok(peer));
    (near, far)
}

/// A stream whose other end is a plain socket.
pub(crate) async fn half() -> (Stream, TcpStream) {
    let listener = TcpListener::bind(LOOPBACK).expect("bound");
    let address = listener.local_addr().expect("the listener has an address");
    let stream = rt::connect(address, None, LONG).await.expect("connected");
    (stream, listener.accept().expect("accepted").0)
}

/// Polls `future` once and drops it.
pub(crate) async fn poll_and_drop<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Waits until the condition holds: effects that pass through the kernel are delayed on a busy
/// machine.
#[track_caller]
pub(crate) fn eventually(mut is_so: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let caller = Location::caller();
    async move {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < LONG, "timed out at {caller}");
            timer::sleep(Duration::from_millis(2)).await;
        }
    }
}

pub(crate) fn pin_to(cpu: usize) {
    // SAFETY: a zeroed cpu_set_t is an empty set, and the calls only read it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&set), &set), 0);
    }
}

pub(crate) fn some_cpu() -> usize {
    // SAFETY: a zeroed cpu_set_t is an empty set, and the call fills it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        assert_eq!(libc::sched_getaffinity(0, size_of_val(&set), &mut set), 0);
        (0..1024).find(|cpu| libc::CPU_ISSET(*cpu, &set)).expect("this thread may run on some core")
    }
}

pub(crate) fn as_child(part: &str) -> Output {
    let itself = std::env::current_exe().expect("this binary has a path");
    let mut child = Command::new(itself);
    child.args(["--exact", "rt_conformance::child", "--nocapture", "--test-threads=1"]);
    child.env("RT_CHILD", part).output().expect("this binary can be run again")
}

pub(crate) fn check_child(part: &str) {
    let output = as_child(part);
    let said = String::from_utf8_lossy(&output.stdout);
    let cried = String::from_utf8_lossy(&output.stderr);
    // A name that no test has runs nothing, and that too ends well.
    let ran = said.contains("1 passed");
    assert!(output.status.success() && ran, "{part}: {}\n{said}\n{cried}", output.status);
}

#[test]
pub(crate) fn child() {
    match std::env::var("RT_CHILD").as_deref() {
        Ok("memlock") => child_memlock(),
        Ok("seccomp EPERM") => child_seccomp(libc::EPERM, &RtFault::IoUringForbidden),
        Ok("seccomp ENOSYS") => child_seccomp(libc::ENOSYS, &RtFault::IoUringMissing),
        Ok("no descriptors") => child_no_descriptors(),
        Ok("death") => child_death(),
        Ok("memory") => child_memory(),
        Ok("idle") => child_idle(),
        Ok(other) => panic!("unknown part {other}"),
        Err(_) => {}
    }
}

pub(crate) fn set_limit(resource: u32, soft: u64) {
    // SAFETY: the limit is valid for reads and writes during both calls.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        assert_eq!(libc::getrlimit(resource, &mut limit), 0);
        limit.rlim_cur = soft.min(limit.rlim_max);
        assert_eq!(libc::setrlimit(resource, &limit), 0);
    }
}

pub(crate) fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("proc is mounted");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("the second number is the resident set") * 4096
}
