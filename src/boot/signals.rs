//! Signals, received by one thread and passed on as values.
//!
//! Order:    `block` comes before the first other thread: a thread inherits the mask, and a signal
//!           is delivered to any thread that does not block it. Then `listen` starts the only
//!           thread that waits for them. `BlockedSignals` is the proof that this order was kept.
//! Promise:  no code runs in a signal handler, so none can deadlock on a held lock. The first TERM
//!           or INT requests a drain; the second ends the process at once, without loss of
//!           acknowledged mail. A write to a closed socket returns an error instead of SIGPIPE.
//! Bounds:   `SIGNALS_WAITING_MAX` signals can wait. When full, HUP and USR1 are dropped, because one
//!           of the kind already waits; TERM ends the process, because the main thread is stuck.

use std::io;
use std::mem::MaybeUninit;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::SyncSender;
use std::sync::mpsc::TrySendError;
use std::sync::mpsc::sync_channel;
use std::thread;

/// Signals received and not yet taken by the main thread.
pub const SIGNALS_WAITING_MAX: usize = 16;

/// The shell's convention for the exit code of a process that a signal ended: 128 plus its number.
const EXIT_BY_SIGNAL: i32 = 128;

const TAKEN: [Signal; 4] = [Signal::Term, Signal::Int, Signal::Hup, Signal::Usr1];

/// The signals with a meaning for the running server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Drain and end (systemd, docker stop).
    Term,
    /// Drain and end (Ctrl-C).
    Int,
    /// Reload the configuration and reopen the log file.
    Hup,
    /// Reopen the log file after its rotation.
    Usr1,
}

impl Signal {
    fn number(self) -> i32 {
        match self {
            Signal::Term => libc::SIGTERM,
            Signal::Int => libc::SIGINT,
            Signal::Hup => libc::SIGHUP,
            Signal::Usr1 => libc::SIGUSR1,
        }
    }

    fn ends(self) -> bool {
        matches!(self, Signal::Term | Signal::Int)
    }
}

/// Proof that the signals are blocked in this thread, and so in all threads that it starts.
#[derive(Debug)]
pub struct BlockedSignals {
    set: libc::sigset_t,
}

/// Blocks the signals that `listen` receives, and ignores SIGPIPE. To be called first in `main`.
pub fn block() -> io::Result<BlockedSignals> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` fills the set before anything reads it; `sigaddset` and
    // `pthread_sigmask` get that filled set, and the numbers are signals that may be blocked.
    let set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        let mut set = set.assume_init();
        for signal in TAKEN {
            libc::sigaddset(&mut set, signal.number());
        }
        match libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) {
            0 => set,
            errno => return Err(io::Error::from_raw_os_error(errno)),
        }
    };
    // SAFETY: SIG_IGN installs no handler of ours.
    let before = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    if before == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(BlockedSignals { set })
}

/// For commands that print: a closed pipe (`| head`) ends them silently, as is usual. By default Rust
/// ignores SIGPIPE, and printing would panic.
pub fn end_with_the_reader() {
    // SAFETY: SIG_DFL installs no handler of ours, and no other thread runs yet.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Starts the thread that receives the signals. It lives as long as the process.
pub fn listen(blocked: BlockedSignals) -> io::Result<Receiver<Signal>> {
    let (sender, receiver) = sync_channel(SIGNALS_WAITING_MAX);
    let handler = Handler { sender, end_requested: false };
    thread::Builder::new().name("signals".to_owned()).spawn(move || take_all(blocked, handler))?;
    Ok(receiver)
}

fn take_all(blocked: BlockedSignals, mut handler: Handler) {
    loop {
        let mut number = 0;
        // SAFETY: the set was filled by `block` and `number` is a valid place for the answer.
        let errno = unsafe { libc::sigwait(&blocked.set, &mut number) };
        let taken = TAKEN.into_iter().find(|signal| signal.number() == number);
        let (0, Some(signal)) = (errno, taken) else {
            continue;
        };
        if let Answer::EndNow(why) = handler.on_signal(signal) {
            eprintln!("ringpost: {why}; exiting at once, the next start recovers the spool");
            // SAFETY: ends the process without destructors, which could wait for whatever hangs.
            unsafe { libc::_exit(EXIT_BY_SIGNAL + number) };
        }
    }
}

/// Decides what to do with a signal. Makes no system call, so that it can be tested.
struct Handler {
    sender: SyncSender<Signal>,
    end_requested: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Delivered,
    Dropped,
    EndNow(&'static str),
}

impl Handler {
    fn on_signal(&mut self, signal: Signal) -> Answer {
        if signal.ends() && self.end_requested {
            return Answer::EndNow("second termination signal");
        }
        self.end_requested |= signal.ends();
        match (self.sender.try_send(signal), signal.ends()) {
            (Ok(()), _) => Answer::Delivered,
            (Err(_), false) => Answer::Dropped,
            (Err(TrySendError::Full(_)), true) => Answer::EndNow("the main thread is stuck"),
            (Err(TrySendError::Disconnected(_)), true) => {
                Answer::EndNow("the main thread has ended")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::boot::alone;

    #[test]
    fn signals_are_answered() {
        use Answer::Delivered;
        use Answer::EndNow;
        use Signal::Hup;
        use Signal::Int;
        use Signal::Term;
        use Signal::Usr1;
        let again = || EndNow("second termination signal");
        let rows = [
            ("term", vec![Term], vec![Delivered]),
            ("term twice", vec![Term, Term], vec![Delivered, again()]),
            ("int, then term", vec![Int, Term], vec![Delivered, again()]),
            (
                "a reload before the end",
                vec![Hup, Hup, Term],
                vec![Delivered, Delivered, Delivered],
            ),
            (
                "a reload between",
                vec![Term, Hup, Usr1, Int],
                vec![Delivered, Delivered, Delivered, again()],
            ),
        ];
        for (row, signals, answers) in rows {
            let (sender, receiver) = sync_channel(SIGNALS_WAITING_MAX);
            let mut handler = Handler { sender, end_requested: false };
            let got: Vec<Answer> =
                signals.iter().map(|signal| handler.on_signal(*signal)).collect();
            assert_eq!(got, answers, "{row}");
            let delivered = answers.iter().filter(|answer| **answer == Delivered).count();
            assert_eq!(receiver.try_iter().collect::<Vec<_>>(), signals[..delivered], "{row}");
        }
    }

    #[test]
    fn nobody_reads() {
        let (sender, receiver) = sync_channel(1);
        let mut handler = Handler { sender, end_requested: false };
        assert_eq!(handler.on_signal(Signal::Hup), Answer::Delivered);
        assert_eq!(handler.on_signal(Signal::Hup), Answer::Dropped);
        assert_eq!(handler.on_signal(Signal::Term), Answer::EndNow("the main thread is stuck"));
        drop(receiver);
        handler.end_requested = false;
        assert_eq!(handler.on_signal(Signal::Usr1), Answer::Dropped);
        assert_eq!(handler.on_signal(Signal::Int), Answer::EndNow("the main thread has ended"));
    }

    /// Runs in a process of its own, because signals belong to the whole process.
    #[test]
    fn a_process_takes_its_signals() {
        let name = "boot::signals::tests::a_process_takes_its_signals";
        let out = alone::run(name, || {
            let signals = listen(block().expect("signals can be blocked")).expect("it starts");
            // SAFETY: raises signals in this process, which has them blocked in all threads.
            let raise = |number| unsafe { libc::kill(libc::getpid(), number) };
            for signal in [Signal::Usr1, Signal::Hup, Signal::Int] {
                raise(signal.number());
                assert_eq!(signals.recv().expect("the thread lives"), signal);
            }
            raise(libc::SIGPIPE);
            raise(libc::SIGTERM);
            loop {
                thread::park();
            }
        });
        assert_eq!(out.status.code(), Some(EXIT_BY_SIGNAL + libc::SIGTERM), "{out:?}");
        let text = String::from_utf8_lossy(&out.stderr);
        assert!(text.contains("second termination signal"), "{text}");
    }
}
