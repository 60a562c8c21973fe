//! Every fixed limit: its unit, its reason, and what happens when it is reached.
//! Limits that an operator may set are in `config::model`; these are their bounds and the rest.

/// Bytes of one chunk. Large enough that a 25 MB body is 400 store entries, small enough that a
/// thousand sessions in their bodies hold 64 MB.
pub const CHUNK_BYTES: usize = 64 << 10;

/// Chunks that a pool keeps for reuse; more are freed when they come back.
pub const CHUNKS_IDLE_MAX: usize = 256;

/// Chunks of one body that may be on their way to the store. Full: the session waits, and so does
/// its sender (TCP).
pub const STREAM_CHUNKS_IN_FLIGHT_MAX: usize = 2;

/// Bytes of a command line with its CRLF. RFC 5321 s4.5.3.1.4 asks for 512 and more for
/// extensions; LIMITS, ORCPT, ENVID and UTF-8 addresses make 4096 safe. Longer: 500 5.5.2.
pub const COMMAND_BYTES_MAX: usize = 4096;

/// Bytes of an arena that a session keeps from one transaction to the next: what one with a few
/// recipients takes. A larger one is freed.
pub const ARENA_KEPT_BYTES_MAX: usize = 4 << 10;

/// Bytes of one transaction for each recipient that the config allows: an address, its parameters
/// and its place in the list, with room to grow. More: 452 4.5.3 for each further recipient.
pub const ARENA_BYTES_PER_RECIPIENT: usize = 2 << 10;

/// Bytes of all transactions of one shard, beside `ARENA_KEPT_BYTES_MAX` for each session. More:
/// 452 4.3.1 for recipients of a transaction that has more than these already.
pub const ARENAS_BYTES_MAX: usize = 64 << 20;

/// Bytes of a body line. RFC 5321 s4.5.3.1.6 says 1000; generators ignore it, so this bound only
/// keeps one line from being a whole message to downstream relays. It is not enforced by default.
pub const BODY_LINE_BYTES_MAX: usize = 1000;

/// Bytes of a refused body or chunk that are read and dropped. More: the session is closed.
pub const SWALLOW_BYTES_MAX: u64 = 256 << 20;

/// Messages in one commit batch. Full: the rest waits for the next batch, one sync later.
pub const COMMIT_BATCH_MESSAGES_MAX: usize = 512;

/// Body bytes in one commit batch. Bounds the memory of the batch and the length of one write.
pub const COMMIT_BATCH_BYTES_MAX: usize = 4 << 20;

/// Bytes of messages that are committed together, all or nothing. They are in memory twice for as
/// long as the batch takes. More are refused (552).
pub const FINISH_ALL_BYTES_MAX: usize = 64 << 20;

/// Work waiting for a commit thread. Full: who brings more stands in line.
pub const COMMIT_WAITERS_MAX: usize = 4096;

/// Settlements among it of what was not sent, such as the retries of a whole destination that is down, and
/// as many splits.
/// Full: they stand in a line of their own, so that new mail and mail just sent do not wait behind
/// them.
pub const SETTLES_IN_LANE_MAX: usize = COMMIT_WAITERS_MAX / 4;

/// Milliseconds that a commit thread may need for one batch. A disk that is merely slow answers
/// within seconds, and clients wait for the reply to their data for a minute or more. Longer: the disk
/// counts as hung, new mail is answered 451 until the batch is written.
pub const COMMIT_HUNG_MS: u64 = 30_000;

/// Destinations that one owner shard knows. An idle one is forgotten for a new one; when none is idle,
/// the job waits on disk.
pub const DESTINATIONS_MAX: usize = 65_536;

/// Milliseconds after which a destination without work is forgotten, with its window and its counters.
pub const DESTINATION_IDLE_MS: u64 = 10 * 60_000;

/// Connections to all destinations of one shard. Full: destinations wait for their turn; the last quarter is
/// kept for destinations that have none.
pub const DESTINATION_CONNECTIONS_MAX: usize = 8192;

/// Messages over one connection after which it is closed while a destination without any waits for room.
pub const TURN_MESSAGES: u32 = 10;

/// What a message costs its sender's turn besides its bytes: about what the dialogue takes.
pub const TURN_BYTES: u64 = 32 << 10;

/// Milliseconds for which a job belongs to its owner shard. After that the home shard issues it
/// again: frames are lost only with a shard, so this needs to be safe rather than short.
pub const JOB_LEASE_MS: u64 = 30 * 60_000;

/// Milliseconds of lease that a job needs to be started; a transfer that lasts longer is broken
/// off before its last byte. This is what keeps two owners from delivering one job.
pub const JOB_TRANSFER_MS_MAX: u64 = 15 * 60_000;

/// Jobs that one home shard has leased out. Full: the rest stays in the ready list.
pub const JOB_LEASES_MAX: usize = 262_144;

/// Milliseconds between two looks for leases that run out in the queue of one destination.
pub const LEASE_SWEEP_MS: u64 = 10_000;

/// Milliseconds for which a job waits on disk when its destination has as many as it may. Spread up to
/// twice as long.
pub const DESTINATION_FULL_MS: u64 = 30_000;

/// Milliseconds without an answer after which an address of the host's other family is tried beside
/// (RFC 8305 s5). The next one of a family waits until the one before has failed.
pub const CONNECT_ATTEMPT_DELAY_MS: u64 = 250;

/// Milliseconds without a new connection after a failed one, doubled for each in a row.
pub const CONNECT_HOLD_FIRST_MS: u64 = 250;
pub const CONNECT_HOLD_MAX_MS: u64 = 8_000;

/// Milliseconds of silence after a destination asked for less (421), doubled each time, halved by a
/// window of successes.
pub const THROTTLE_FIRST_MS: u64 = 1_000;
pub const THROTTLE_MAX_MS: u64 = 60_000;

/// Bytes kept of the last error of a destination: what a server says when it refuses us. More is cut off.
pub const DESTINATION_ERROR_BYTES_MAX: usize = 500;

/// Deliveries of one partition that a server may have taken while their settles are not durable: a
/// crash repeats them. The commit lane has so many places of their own for these. More: the
/// connection waits, and gives its job back when the disk stays full.
pub const UNSETTLED_MAX: usize = COMMIT_WAITERS_MAX / 2;

/// Milliseconds for which such a delivery may wait for the store. Some fifty syncs of a usual disk
/// (4 ms), and two of one that takes 100 ms: the one under way when a server has taken the mail, and
/// its own. Longer: as above, so that a slow disk slows delivery before it lets a crash repeat more.
pub const UNSETTLED_MS_MAX: u64 = 200;

/// Bytes of dead bodies in the files of one partition, where they are more than the live ones: about
/// one blob file. More: live bodies are moved out of the oldest files, and these are removed.
pub const DEAD_BODY_BYTES_MAX: u64 = 256 << 20;

/// Live bodies that one such pass moves: some ten seconds of a usual disk, for which no other
/// compaction runs. The rest waits for the next pass, two seconds later.
pub const RECLAIM_MOVE_BYTES_MAX: u64 = 1 << 30;

/// Bytes of the spool's reserve for each partition, beside the memory of its memtables, which a
/// start may have to flush: what opening a partition writes (list of files, options, first block of
/// a log). When the disk is full the reserve is given up, and new mail is refused until it is made
/// again.
pub const RESERVE_PARTITION_BYTES: u64 = 4 << 20;

/// MTA-STS policies in memory and on disk, and their bytes. Full: policies that have expired go
/// first, then those that no mail was sent under, then the others by their last use; those that
/// mail was sent under and that demand TLS go last.
pub const STS_POLICIES_MAX: usize = 20_000;
pub const STS_POLICIES_BYTES_MAX: usize = 32 << 20;

/// Bytes of one policy; real ones have a few hundred. A larger one goes before those in use, so
/// that few domains with large policies cannot displace many.
pub const STS_POLICY_BYTES_USUAL: usize = 4 << 10;

/// Domains whose last fetch failed. Full: the oldest failure is forgotten, and its domain may be
/// asked again.
pub const STS_FAILURES_MAX: usize = 10_000;

/// Requests of all shards to the control plane on their way, and as many that wait for a fetch.
/// Full: the shard asks again; mail without a policy waits.
pub const STS_REQUESTS_MAX: usize = 1024;

/// Policies being fetched, all together and from one network (IPv4 /24, IPv6 /48), so that web
/// servers that never answer cannot hold every place.
pub const STS_FETCHES_MAX: usize = 64;
pub const STS_FETCHES_PER_NETWORK_MAX: usize = 8;

/// Milliseconds for one fetch. RFC 8461 s3.3 suggests a minute; mail waits for this.
pub const STS_FETCH_MS_MAX: u64 = 10_000;

/// Milliseconds for which mail waits for a policy. Longer: the mail is postponed.
pub const STS_WAIT_MS_MAX: u64 = 15_000;

/// Milliseconds for which mail is postponed when a policy could not be asked for. Spread up to
/// twice as long.
pub const STS_POSTPONE_MS: u64 = 15_000;

/// Domains for which one shard has asked the control plane and waits. Full: the next waits.
pub const STS_ASKED_MAX: usize = 256;

/// Buckets of one histogram in `/metrics`, without infinity.
pub const METRIC_BUCKETS_MAX: usize = 20;

/// Destinations with series of their own in `/metrics`. The others are added up under the label
/// value `other`.
pub const METRIC_DESTINATIONS_MAX: usize = 20;

/// Certificates in `/metrics`. Further ones are left out: those that expire last.
pub const METRIC_CERTIFICATES_MAX: usize = 200;

const _: () = assert!(STS_FETCH_MS_MAX < STS_WAIT_MS_MAX);
const _: () = assert!(COMMIT_BATCH_MESSAGES_MAX <= COMMIT_WAITERS_MAX);
const _: () = assert!(COMMAND_BYTES_MAX <= CHUNK_BYTES);
const _: () = assert!(JOB_TRANSFER_MS_MAX + LEASE_SWEEP_MS < JOB_LEASE_MS);
