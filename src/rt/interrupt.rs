//! Interrupting: ending another thread's sleep in the kernel from outside.
//!
//! Why:      glommio goes to sleep with runnable tasks when its preempt timer ends before it has
//!           run the first of them, and nothing that belongs to a task can be woken before that
//!           task has run once. A signal ends `io_uring_enter` with EINTR, which glommio takes for
//!           a wake; it looks at its tasks again.
//! Promise:  a interrupt changes nothing but that: the handler does nothing, and a thread that has left,
//!           or whose number was given to another thread of this process, is not harmed.

use std::io;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering;

use crate::rt::host::RtFault;

/// By default ignored by the kernel, so that a stray one is harmless too; nobody else uses it here.
const SIGNAL: i32 = libc::SIGURG;

/// Which thread there is to interrupt.
#[derive(Clone, Default)]
pub(in crate::rt) struct Sleeper {
    /// 0 before it has come and after it has left.
    thread: Arc<AtomicI32>,
}

impl Sleeper {
    /// The calling thread may be interrupted from now on.
    pub(in crate::rt) fn enter(&self) {
        // SAFETY: the call has no arguments and cannot fail.
        let thread = unsafe { libc::gettid() };
        self.thread.store(thread, Ordering::Release);
    }

    pub(in crate::rt) fn leave(&self) {
        self.thread.store(0, Ordering::Release);
    }

    pub(in crate::rt) fn interrupt(&self) {
        let thread = self.thread.load(Ordering::Acquire);
        if thread != 0 {
            // SAFETY: plain numbers; a thread that has ended is an error, which nobody minds.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, SIGNAL) };
        }
    }
}

/// Makes interrupts arrive. Once for the process, before the first shard.
pub(in crate::rt) fn prepare() -> Result<(), RtFault> {
    static PREPARED: OnceLock<Result<(), RtFault>> = OnceLock::new();
    PREPARED.get_or_init(install).clone()
}

extern "C" fn nothing(_signal: i32) {}

fn install() -> Result<(), RtFault> {
    let handler: extern "C" fn(i32) = nothing;
    // SAFETY: an all-zero sigaction is a valid one: no flags (above all not SA_RESTART, which would
    // let the thread sleep on), an empty mask. The handler touches nothing.
    let installed = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        libc::sigaction(SIGNAL, &action, std::ptr::null_mut())
    };
    match installed {
        0 => Ok(()),
        _ => Err(RtFault::of_call("sigaction", &io::Error::last_os_error())),
    }
}
