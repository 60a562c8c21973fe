//! Rings without an interrupt for each completion.
//!
//! Why:      by default the kernel interrupts a shard's core for each completion that another core
//!           causes, as a peer or a network card does. A shard checks for completions only between
//!           its tasks, so the interrupt makes nothing faster; on a virtual machine it costs both
//!           cores some microseconds for each message. `IORING_SETUP_COOP_TASKRUN` disables it.
//!           glommio has no option for the flag.
//! How:      `build.rs` makes the linker redirect glommio's call to this file (`--wrap`). Each
//!           package that builds a program from this library needs that `build.rs`: without it a
//!           program links only if unused code is discarded, and its rings lack the flag.
//! Promise:  a sleeping shard is woken as before. A shard that computes without a system call
//!           learns of a completion at the next timer tick of its core at the latest, when
//!           glommio's timer would interrupt it too. So the flag is not set where the kernel has
//!           cores without a tick (`nohz_full`), and before Linux 5.19, which does not support it.

use std::ffi::c_int;
use std::ffi::c_uint;
use std::ffi::c_void;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

const IORING_SETUP_COOP_TASKRUN: u32 = 1 << 8;

/// Rings of this process with the flag.
static COOPERATIVE: AtomicU64 = AtomicU64::new(0);

/// The first fields of `struct io_uring_params`.
#[repr(C)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
}

unsafe extern "C" {
    fn __real_io_uring_queue_init_params(
        entries: c_uint,
        ring: *mut c_void,
        params: *mut Params,
    ) -> c_int;
}

// SAFETY: the linker uses this name for the replacement of `io_uring_queue_init_params`, and the
// arguments are those of liburing.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_io_uring_queue_init_params(
    entries: c_uint,
    ring: *mut c_void,
    params: *mut Params,
) -> c_int {
    // SAFETY: the caller passes a ring to fill and parameters that it has set, as liburing
    // requires; both are passed on unchanged except for one flag. A failed call leaves nothing
    // behind, so it may be repeated.
    unsafe {
        let asked = (*params).flags;
        if is_tickless() {
            return __real_io_uring_queue_init_params(entries, ring, params);
        }
        (*params).flags = asked | IORING_SETUP_COOP_TASKRUN;
        let made = __real_io_uring_queue_init_params(entries, ring, params);
        if made != -libc::EINVAL {
            COOPERATIVE.fetch_add(u64::from(made == 0), Ordering::Relaxed);
            return made;
        }
        (*params).flags = asked;
        __real_io_uring_queue_init_params(entries, ring, params)
    }
}

fn is_tickless() -> bool {
    let cores = std::fs::read_to_string("/sys/devices/system/cpu/nohz_full");
    cores.is_ok_and(|cores| !matches!(cores.trim(), "" | "(null)"))
}

#[cfg(test)]
mod tests {
    use std::mem::MaybeUninit;

    use crate::rt::ShardSpec;

    use super::*;

    /// Major and minor number of the kernel's release.
    fn kernel() -> (u32, u32) {
        let release =
            std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("the file exists");
        let mut numbers = release.split(['.', '-']).map(|word| word.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }

    #[test]
    fn rings_of_a_shard_are_cooperative() {
        let shard = crate::rt::start(ShardSpec::new("ring", None), || async {});
        shard.expect("a shard starts").join().expect("the shard ends normally");
        let made = COOPERATIVE.load(Ordering::Relaxed);
        assert_eq!(made > 0, kernel() >= (5, 19) && !is_tickless(), "{made} rings");
    }

    #[test]
    fn a_refusal_is_passed_on() {
        // liburing's struct is smaller, and a failed call does not use it.
        let mut ring = MaybeUninit::<[u64; 64]>::zeroed();
        let mut params = MaybeUninit::<[u64; 64]>::zeroed();
        // SAFETY: both buffers are larger than what is read and written there.
        let made = unsafe {
            __wrap_io_uring_queue_init_params(
                0,
                ring.as_mut_ptr().cast(),
                params.as_mut_ptr().cast(),
            )
        };
        assert_eq!(made, -libc::EINVAL, "a ring needs entries");
        // SAFETY: the buffer was zeroed, and every bit pattern is a valid number.
        let flags = unsafe { params.assume_init() }[1] as u32;
        assert_eq!(flags, 0, "the second call used the original flags");
    }
}
