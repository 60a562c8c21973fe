//! What the doctor looks at: a name for each, why it matters, and the file that is about it.
//!
//! Promise:  an id never changes its meaning, for scripts match on it. Each file exists; a test
//!           compares.

/// One thing that is looked at.
#[derive(Debug, PartialEq, Eq)]
pub struct Knob {
    pub id: &'static str,
    pub why: &'static str,
    /// Below `tuning/`.
    pub file: &'static str,
}

macro_rules! knobs {
    ($($name:ident = $id:literal, $file:literal, $why:literal;)+) => {
        $(pub const $name: &Knob = &Knob { id: $id, why: $why, file: $file };)+

        /// All of them, in the order in which they are printed.
        pub const ALL: &[&Knob] = &[$($name),+];
    };
}

knobs! {
    KERNEL = "kernel", "io-uring.md", "older kernels lack operations and fixes of io_uring";
    IO_URING = "io-uring", "io-uring.md", "every socket and every wait of a shard goes by io_uring";
    MEMLOCK = "memlock", "memlock.md", "rings and their buffers are locked memory";
    OPEN_FILES = "open-files", "nofile.md", "each connection and each file of the store is one";
    CORES = "cores", "cores.md", "a shard runs on each core that the config names";
    QUOTA = "cpu-quota", "cores.md", "a shard that has used up the quota stands still until the next period";
    SMT = "smt", "smt", "two shards on one physical core share it";
    GOVERNOR = "governor", "governor", "a core that sleeps or clocks down answers late";
    NUMA = "numa-balancing", "numa", "the kernel unmaps pages to see who touches them, but shards are pinned";
    RECLAIM = "zone-reclaim", "numa", "memory is freed on this node while another has plenty";
    HUGE_PAGES = "huge-pages", "huge-pages", "huge pages make sparse memory dense, and their making stalls";
    OVERCOMMIT = "overcommit", "sysctl", "the store reserves more than it touches";
    SWAP = "swap", "sysctl", "a swapped shard stands still for all its sessions";
    DIRTY = "dirty-pages", "sysctl", "what is written back at once delays the syncs behind it";
    CGROUP_MEMORY = "memory-limit", "memory.md", "past it the kernel ends the process";
    MEMORY = "memory", "memory.md", "bodies, write buffers and backlog must fit";
    BACKLOG = "somaxconn", "backlog.md", "connections past it are dropped, and clients try again after a second";
    SYN_BACKLOG = "syn-backlog", "backlog.md", "half-open connections past it are dropped or cost cookies";
    PORTS_OUT = "port-range", "sysctl", "each connection to a host takes a port of the source address for a minute after its end";
    BUFFERS = "socket-buffers", "sysctl", "over a long way the buffer bounds the rate of a connection";
    QUEUES = "nic-queues", "network-queues", "packets of one queue are handled on one core";
    IRQS = "nic-interrupts", "interrupts", "interrupts on one core slow the shard that runs there";
    USER = "user", "rights.md", "a server that stays root has more to lose";
    SPOOL = "spool", "rights.md", "the spool holds everybody's mail";
    QUARANTINE = "quarantine", "README.md", "mail in quarantine is neither delivered nor returned";
    SPACE = "free-space", "filesystem.md", "a full spool refuses mail";
    FILE_SYSTEM = "file-system", "filesystem.md", "a 250 promises that the file system keeps what was synced";
    MOUNT = "mount-options", "filesystem.md", "options can make a sync a lie, or reads into writes";
    DEVICE_CACHE = "write-cache", "disk-queues", "a cache that loses its content with the power loses mail";
    DEVICE_QUEUE = "disk-queue", "disk-queues", "a scheduler orders requests that a solid disk orders better";
    SYNC = "sync-latency", "disk.md", "every 250 waits for one sync";
    CLOCK = "clock", "clock.md", "retries, TLS and the dates of mail go by it";
    RESOLVER = "name-servers", "names.md", "without names no mail is delivered";
    HOST_NAME = "host-name", "names.md", "other servers distrust a greeting whose name does not resolve";
    REVERSE = "reverse-name", "names.md", "the large providers refuse addresses without a forward-confirmed name";
    DANE = "dane", "names.md", "DANE is enforced only with DNSSEC-validated answers";
    LISTEN = "listeners", "rights.md", "the server starts only if it can bind all its ports";
    UNANSWERED = "unanswered", "README.md", "what hangs here hangs the server too";
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::path::Path;

    #[test]
    fn each_knob_has_its_own_id_and_a_file() {
        let tuning = Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning");
        for (place, knob) in ALL.iter().enumerate() {
            assert!(!ALL[..place].iter().any(|other| other.id == knob.id), "{} twice", knob.id);
            assert!(
                tuning.join(knob.file).is_file(),
                "{}: tuning/{} is missing",
                knob.id,
                knob.file
            );
        }
    }
}
