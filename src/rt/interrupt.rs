//! Interrupts: ends another thread's sleep in the kernel.
//!
//! Why:      glommio falls asleep with runnable tasks when its preempt timer fires before it has
//!           run the first of them, and a task cannot be woken before it has run once. A signal
//!           ends `io_uring_enter` with EINTR, which glommio treats as a wake: it checks its tasks
//!           again.
//! Promise:  an interrupt has no other effect. The handler does nothing, and a signal to a thread
//!           that has ended, or whose id was reused within this process, is harmless.

use std::io;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering;

use crate::rt::host::RtFault;

/// Ignored by default, so a stray signal is harmless. Nothing else in this process uses it.
const SIGNAL: i32 = libc::SIGURG;

/// The thread to interrupt.
#[derive(Clone, Default)]
pub(in crate::rt) struct Sleeper {
    /// 0 before `enter` and after `leave`.
    thread: Arc<AtomicI32>,
}

impl Sleeper {
    /// Allows interrupts of the calling thread.
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
            // SAFETY: plain integers; for a thread that has ended the call returns an error, which
            // is ignored.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, SIGNAL) };
        }
    }
}

/// Installs the signal handler. Called once per process, before the first shard.
pub(in crate::rt) fn prepare() -> Result<(), RtFault> {
    static PREPARED: OnceLock<Result<(), RtFault>> = OnceLock::new();
    PREPARED.get_or_init(install).clone()
}

extern "C" fn nothing(_signal: i32) {}

fn install() -> Result<(), RtFault> {
    let handler: extern "C" fn(i32) = nothing;
    // SAFETY: an all-zero sigaction is valid: an empty mask and no flags. SA_RESTART must not be
    // set, because it would let the thread sleep on. The handler accesses nothing.
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
