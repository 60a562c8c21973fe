//! The requirements of a shard on the host: checks, and a remedy for each fault.
//!
//! Promise:  io_uring is probed with one system call before glommio, which would panic or exit,
//!           uses it. A sysctl and a seccomp filter that forbid io_uring are told apart.

use std::io;

use glommio::BuilderErrorKind;
use glommio::GlommioError;
use glommio::ReactorErrorKind;
use thiserror::Error;

/// glommio does not start with a lower limit.
const MEMLOCK_BYTES_MIN: u64 = 512 << 10;
/// `IORING_FEAT_POLL_32BITS`, present since Linux 5.9.
const FEATURE_OF_5_9: u32 = 1 << 6;
/// Size of `struct io_uring_params` in bytes, and the index of `features` in words.
const PARAMS_WORDS: usize = 30;
const PARAMS_FEATURES: usize = 5;

/// Why a shard cannot run.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RtFault {
    /// The kernel was built without io_uring, or a seccomp filter returns ENOSYS.
    #[error("this kernel has no io_uring (ENOSYS)")]
    IoUringMissing,
    #[error("io_uring is disabled by kernel.io_uring_disabled={sysctl}")]
    IoUringDisabled { sysctl: u32 },
    #[error("io_uring is forbidden by a seccomp filter or a security module")]
    IoUringForbidden,
    /// Linux before 5.9.
    #[error("this kernel's io_uring is too old")]
    KernelTooOld,
    #[error("the memlock limit is {limit} bytes, and a shard needs {least}")]
    MemlockTooLow { limit: u64, least: u64 },
    /// `RLIMIT_NOFILE` or `fs.file-max`.
    #[error("no file descriptor left for an io_uring")]
    NoFiles,
    #[error("the kernel has no memory for an io_uring")]
    NoMemory,
    #[error("core {cpu} does not exist or may not be used")]
    NoSuchCpu { cpu: usize },
    /// Any other failed system call.
    #[error("{call}: {}", io::Error::from_raw_os_error(*.errno))]
    Os { call: &'static str, errno: i32 },
    /// The shard's thread ended with a panic.
    #[error("the shard died: {what}")]
    Died { what: String },
}

/// Checks whether the host can run a shard. Called before each start of one.
pub fn check_host() -> Result<(), RtFault> {
    probe_io_uring()?;
    let (limit, least) = (memlock_limit(), MEMLOCK_BYTES_MIN);
    if limit < least { Err(RtFault::MemlockTooLow { limit, least }) } else { Ok(()) }
}

/// The fault that a glommio error stands for.
pub(in crate::rt) fn fault_of(error: GlommioError<()>) -> RtFault {
    match error {
        GlommioError::ReactorError(ReactorErrorKind::MemLockLimit(limit, least)) => {
            RtFault::MemlockTooLow { limit, least }
        }
        GlommioError::BuilderError(BuilderErrorKind::NonExistentCpus { cpu }) => {
            RtFault::NoSuchCpu { cpu }
        }
        GlommioError::IoError(error) => RtFault::of_call("io_uring_setup", &error),
        other => RtFault::Died { what: other.to_string() },
    }
}

impl RtFault {
    /// The fault of a failed system call.
    pub(in crate::rt) fn of_call(call: &'static str, error: &io::Error) -> RtFault {
        match error.raw_os_error().unwrap_or(0) {
            libc::EMFILE | libc::ENFILE => RtFault::NoFiles,
            libc::ENOMEM => RtFault::NoMemory,
            errno => RtFault::Os { call, errno },
        }
    }

    /// The remedy, as text for the operator.
    pub fn remedy(&self) -> &'static str {
        match self {
            RtFault::IoUringMissing => {
                "run a kernel with CONFIG_IO_URING=y; in a container, allow io_uring_setup, \
                 io_uring_enter and io_uring_register in its seccomp profile"
            }
            RtFault::IoUringDisabled { sysctl: 1 } => {
                "sysctl -w kernel.io_uring_disabled=0, or put the service's group into \
                 kernel.io_uring_group"
            }
            RtFault::IoUringDisabled { .. } => "sysctl -w kernel.io_uring_disabled=0",
            RtFault::IoUringForbidden => {
                "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp \
                 profile (docker: --security-opt seccomp=...; systemd: \
                 SystemCallFilter=@io-event io_uring_setup) and in SELinux"
            }
            RtFault::KernelTooOld => "run Linux 5.9 or later",
            RtFault::MemlockTooLow { .. } => {
                "raise it: LimitMEMLOCK=64M in the systemd unit, ulimit -l in a shell, \
                 --ulimit memlock in docker"
            }
            RtFault::NoFiles => "raise LimitNOFILE (ulimit -n) or fs.file-max",
            RtFault::NoMemory => "raise LimitMEMLOCK (ulimit -l) or the cgroup's memory limit",
            RtFault::NoSuchCpu { .. } => {
                "choose cores that `nproc --all` counts and `taskset` allows"
            }
            RtFault::Os { .. } => "see the manual page of this call for the error",
            RtFault::Died { .. } => "report this with the preceding output",
        }
    }
}

/// Creates and drops a ring of one entry.
fn probe_io_uring() -> Result<(), RtFault> {
    let mut params = [0_u32; PARAMS_WORDS];
    // SAFETY: the kernel reads and writes one `struct io_uring_params` of 120 bytes by copying,
    // without a requirement on alignment; `params` is as long and outlives the call.
    let made = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1_u32, params.as_mut_ptr()) };
    if made < 0 {
        let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0);
        return Err(why_refused(errno, io_uring_sysctl()));
    }
    // SAFETY: the descriptor was just created and has no other owner.
    unsafe { libc::close(made as i32) };
    let new_enough = params[PARAMS_FEATURES] & FEATURE_OF_5_9 != 0;
    if new_enough { Ok(()) } else { Err(RtFault::KernelTooOld) }
}

/// The cause of a failed `io_uring_setup`. A disabled sysctl returns EPERM, as a filter does.
fn why_refused(errno: i32, sysctl: Option<u32>) -> RtFault {
    match (errno, sysctl) {
        (libc::ENOSYS, _) => RtFault::IoUringMissing,
        (libc::EPERM, Some(sysctl @ 1..)) => RtFault::IoUringDisabled { sysctl },
        (libc::EPERM | libc::EACCES, _) => RtFault::IoUringForbidden,
        (errno, _) => RtFault::of_call("io_uring_setup", &io::Error::from_raw_os_error(errno)),
    }
}

fn io_uring_sysctl() -> Option<u32> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

/// The soft limit; unlimited if it cannot be read.
fn memlock_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `limit` is valid for writes until the call returns.
    unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
    limit.rlim_cur
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_causes_of_a_refused_ring_are_told_apart() {
        let rows = [
            ("no such call", libc::ENOSYS, Some(0), RtFault::IoUringMissing),
            ("sysctl 2", libc::EPERM, Some(2), RtFault::IoUringDisabled { sysctl: 2 }),
            ("sysctl 1", libc::EPERM, Some(1), RtFault::IoUringDisabled { sysctl: 1 }),
            ("filter", libc::EPERM, Some(0), RtFault::IoUringForbidden),
            ("filter, kernel before 6.6", libc::EPERM, None, RtFault::IoUringForbidden),
            ("SELinux", libc::EACCES, None, RtFault::IoUringForbidden),
            ("memlock of old kernels", libc::ENOMEM, None, RtFault::NoMemory),
            ("descriptors", libc::EMFILE, None, RtFault::NoFiles),
        ];
        for (name, errno, sysctl, fault) in rows {
            assert_eq!(why_refused(errno, sysctl), fault, "{name}");
            assert!(!fault.remedy().is_empty() && !fault.to_string().is_empty(), "{name}");
        }
    }
}
