//! Runs a test in a process of its own, for tests that change the state of the whole process.

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::process::Command;
use std::process::Output;
use std::process::exit;

const CHILD: &str = "RINGPOST_TEST_CHILD";
const PANICKED: i32 = 101;

/// Runs `work` of the test `name` in a process with a single thread and returns its output.
/// The test binary is started again for this one test and then forks: the harness runs tests on
/// threads, and only a forked child has a single thread.
pub(crate) fn run(name: &str, work: impl FnOnce()) -> Output {
    if std::env::var(CHILD).is_ok_and(|child| child == name) {
        fork_and_exit(work);
    }
    let binary = std::env::current_exe().expect("a process has a binary");
    let arguments = ["--exact", name, "--nocapture", "--test-threads=1"];
    let child = Command::new(binary).args(arguments).env(CHILD, name).output();
    child.expect("the binary starts again")
}

fn fork_and_exit(work: impl FnOnce()) -> ! {
    // SAFETY: the only other thread of this process waits for this one, so it holds no lock
    // that the child could need.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let ended = catch_unwind(AssertUnwindSafe(work));
        exit(if ended.is_ok() { 0 } else { PANICKED });
    }
    let mut status = 0;
    // SAFETY: `status` is a valid place for the answer.
    unsafe { libc::waitpid(child, &mut status, 0) };
    exit(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { PANICKED })
}
