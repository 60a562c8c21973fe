//! How the kernel tells a shard of completions: when the shard next calls it.
//!
//! Why:      by default the kernel interrupts the core that a shard runs on for each completion that
//!           another core has caused, as a peer or a network card does. A shard looks for completions
//!           only between its tasks, so the interrupt brings nothing forward; on a virtual machine it
//!           costs both cores some microseconds for each message. `IORING_SETUP_COOP_TASKRUN` asks
//!           for none. glommio has no option for it.
//! How:      `build.rs` has the linker lead glommio's call here (`--wrap`). Each package that makes a
//!           program of this needs that `build.rs`: without it a program links only where unused code
//!           is left out, and has rings as glommio makes them.
//! Promise:  a shard that sleeps is woken as before. One that computes without a call hears of a
//!           completion at the next tick of its core at the latest, which is when glommio's timer
//!           would interrupt it too. So rings are made without the flag where the kernel has cores
//!           without a tick (`nohz_full`), and before Linux 5.19, which does not know it.

use std::ffi::c_int;
use std::ffi::c_uint;
use std::ffi::c_void;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

const IORING_SETUP_COOP_TASKRUN: u32 = 1 << 8;

/// Rings of this process that were made with the flag.
static COOPERATIVE: AtomicU64 = AtomicU64::new(0);

/// What `struct io_uring_params` begins with.
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

// SAFETY: the name is the linker's for what stands in for `io_uring_queue_init_params`, and the
// arguments are those of liburing.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_io_uring_queue_init_params(
    entries: c_uint,
    ring: *mut c_void,
    params: *mut Params,
) -> c_int {
    // SAFETY: the caller gives a ring to fill and parameters that it has set, as liburing demands;
    // both are passed on as they are, but for a flag. A call that failed has left nothing behind, so
    // that it may be made again.
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

    /// The first number of the kernel's release, and the second.
    fn kernel() -> (u32, u32) {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("it is there");
        let mut numbers = release.split(['.', '-']).map(|word| word.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }

    #[test]
    fn rings_of_a_shard_are_cooperative() {
        let shard = crate::rt::start(ShardSpec::new("ring", None), || async {});
        shard.expect("a shard starts").join().expect("it ends in order");
        let made = COOPERATIVE.load(Ordering::Relaxed);
        assert_eq!(made > 0, kernel() >= (5, 19) && !is_tickless(), "{made} rings");
    }

    #[test]
    fn a_refusal_is_told_as_it_is() {
        // liburing's struct is smaller, and nothing of it is used where making a ring failed.
        let mut ring = MaybeUninit::<[u64; 64]>::zeroed();
        let mut params = MaybeUninit::<[u64; 64]>::zeroed();
        // SAFETY: both places are larger than what is read and written there.
        let made = unsafe {
            __wrap_io_uring_queue_init_params(
                0,
                ring.as_mut_ptr().cast(),
                params.as_mut_ptr().cast(),
            )
        };
        assert_eq!(made, -libc::EINVAL, "a ring has entries");
        // SAFETY: it was zeroed, and all bytes are numbers.
        let flags = unsafe { params.assume_init() }[1] as u32;
        assert_eq!(flags, 0, "it was asked again as it was asked first");
    }
}
