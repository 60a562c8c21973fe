//! Keeps threads on CPUs and their memory on a NUMA node.
//!
//! Each function concerns the calling thread and the threads it starts later.

use std::io;

use crate::boot::cores::CoresFault;
use crate::boot::topology::CPUS_MAX;

/// Words of the node mask that `set_mempolicy` takes: 1,024 nodes.
const NODE_MASK_WORDS: usize = 16;

/// Keeps the calling thread, and those it starts, on `cpus`.
pub fn keep_current_thread_on(cpus: &[usize]) -> Result<(), CoresFault> {
    let fault = |cause: String| CoresFault::NotPinned { cpus: cpus.to_vec(), cause };
    if cpus.iter().any(|cpu| *cpu >= CPUS_MAX) {
        return Err(fault(format!("CPUs are counted up to {CPUS_MAX}")));
    }
    // SAFETY: `cpu_set_t` is an array of integers, for which all zeroes is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for cpu in cpus {
        // SAFETY: `set` is valid, and `cpu` was checked to lie within its bits.
        unsafe { libc::CPU_SET(*cpu, &mut set) };
    }
    // SAFETY: `set` outlives the call, and its size is the one given. 0 is the calling thread.
    let failed = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) };
    if failed != 0 { Err(fault(io::Error::last_os_error().to_string())) } else { Ok(()) }
}

/// What became of a request to keep memory on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryPlace {
    /// New pages of this thread come from the node while it has any.
    Node,
    /// The kernel knows no nodes, or a seccomp filter forbids to ask. Since the thread is pinned,
    /// pages still come from its node by default.
    Default,
}

/// Asks that new memory of the calling thread, and of those it starts, comes from `node`. It is a
/// preference and no bond: a full node must not end the process while another has memory.
pub fn prefer_memory_of(node: usize) -> MemoryPlace {
    let bits = u64::BITS as usize;
    let mut mask = [0_u64; NODE_MASK_WORDS];
    let Some(word) = mask.get_mut(node / bits) else {
        return MemoryPlace::Default;
    };
    *word = 1 << (node % bits);
    // SAFETY: the mask outlives the call and is as long as the number of bits given says; the
    // call changes nothing but where the kernel takes this thread's future pages from.
    let failed = unsafe {
        libc::syscall(
            libc::SYS_set_mempolicy,
            libc::MPOL_PREFERRED,
            mask.as_ptr(),
            NODE_MASK_WORDS * bits,
        )
    };
    if failed == 0 { MemoryPlace::Node } else { MemoryPlace::Default }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;
    use std::path::Path;

    use crate::boot::topology::Topology;

    #[test]
    fn a_thread_is_pinned_and_its_memory_kept_near() {
        let topology = Topology::read(Path::new("/"));
        let cpu = topology.cpus.last().copied().expect("there is one");
        let thread = std::thread::spawn(move || {
            keep_current_thread_on(&[cpu.cpu]).expect("the CPU is allowed");
            prefer_memory_of(cpu.node);
            let status = fs::read_to_string("/proc/thread-self/status").expect("readable");
            assert!(status.contains(&format!("Cpus_allowed_list:\t{}\n", cpu.cpu)), "{status}");
        });
        thread.join().expect("it was pinned");
        assert!(keep_current_thread_on(&[CPUS_MAX]).is_err());
        assert!(keep_current_thread_on(&[]).is_err(), "no CPU at all is refused");
        assert_eq!(prefer_memory_of(CPUS_MAX), MemoryPlace::Default);
    }
}
