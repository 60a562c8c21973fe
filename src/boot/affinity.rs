//! Keeps threads on CPUs and their memory on a NUMA node.
//!
//! Each function concerns the calling thread and the threads it starts later.

use std::io;

use crate::boot::cores::CoresFault;
use crate::boot::topology::CPUS_MAX;

/// Words of the node mask that `set_mempolicy` takes: 1,024 nodes.
const NODE_MASK_WORDS: usize = 16;

/// Restricts the calling thread, and the threads that it starts later, to `cpus`.
pub fn keep_current_thread_on(cpus: &[usize]) -> Result<(), CoresFault> {
    let fault = |cause: String| CoresFault::NotPinned { cpus: cpus.to_vec(), cause };
    if cpus.iter().any(|cpu| *cpu >= CPUS_MAX) {
        return Err(fault(format!("CPU numbers end at {}", CPUS_MAX - 1)));
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

/// The effect of `prefer_memory_of`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryPlace {
    /// New pages of this thread come from the node while it has any.
    Node,
    /// The kernel has no NUMA support, or a seccomp filter forbids the call. New pages still come
    /// from the node of the pinned thread by default.
    Default,
}

/// Prefers `node` for new memory of the calling thread and of the threads that it starts later. Only
/// a preference: a full node must not end the process while another node has memory.
pub fn prefer_memory_of(node: usize) -> MemoryPlace {
    let bits = u64::BITS as usize;
    let mut mask = [0_u64; NODE_MASK_WORDS];
    let Some(word) = mask.get_mut(node / bits) else {
        return MemoryPlace::Default;
    };
    *word = 1 << (node % bits);
    // SAFETY: the mask outlives the call and has as many bits as the call says; the call changes
    // only from which node the kernel takes future pages of this thread.
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
