//! Every fixed limit: its unit, its reason, and the reaction when it is reached. Limits that an
//! operator can set are in `config::model`; their bounds are here.

/// Bytes of one chunk. Large enough that a body of 25 MB takes 400 store entries, small enough that
/// a thousand sessions receiving bodies use 64 MB.
pub const CHUNK_BYTES: usize = 64 << 10;

/// Chunks that a pool keeps for reuse. Further returned chunks are freed.
pub const CHUNKS_IDLE_MAX: usize = 256;

/// Chunks of one body on their way to the store. Full: the session stops reading, which slows its
/// client (TCP).
pub const STREAM_CHUNKS_IN_FLIGHT_MAX: usize = 2;

/// Bytes of a command line with its CRLF. RFC 5321 s4.5.3.1.4 requires 512 plus extensions; LIMITS,
/// ORCPT, ENVID and UTF-8 addresses fit in 4096. Longer: 500 5.5.2.
pub const COMMAND_BYTES_MAX: usize = 4096;

/// Bytes of an arena that a session keeps for the next transaction: enough for a few recipients. A
/// larger arena is freed.
pub const ARENA_KEPT_BYTES_MAX: usize = 4 << 10;

/// Bytes of one transaction for each recipient that the config allows: address, parameters and list
/// entry, with room to grow. More: 452 4.5.3 for each further recipient.
pub const ARENA_BYTES_PER_RECIPIENT: usize = 2 << 10;

/// Bytes of all transactions of one shard, in addition to `ARENA_KEPT_BYTES_MAX` for each session.
/// More: 452 4.3.1 for recipients of transactions larger than `ARENA_KEPT_BYTES_MAX`.
pub const ARENAS_BYTES_MAX: usize = 64 << 20;

/// Bytes of a header block with its blank line, and number of its fields. The block stays in memory
/// until it is complete; a typical one has a few thousand bytes. More: 552 5.3.4.
pub const HEAD_BYTES_MAX: usize = 128 << 10;
pub const HEAD_FIELDS_MAX: u32 = 2000;

/// Bytes of the name of a header field: no line is longer (RFC 5322 s2.1.1). A longer word at the
/// start of a line ends the header block.
pub const FIELD_NAME_BYTES_MAX: usize = 998;

/// Requests of other threads queued for one shard. Full: the next shard; then the sender waits for
/// `SUBMIT_WAIT_MS`, then 452.
pub const SUBMIT_LANE_MAX: usize = 1024;
pub const SUBMIT_WAIT_MS: u64 = 1000;

/// Senders waiting for room in a lane. More: 452 at once.
pub const SUBMIT_WAITERS_MAX: usize = 1024;

/// Messages and body bytes of one batch of other threads. More: 552.
pub const SUBMIT_BATCH_MESSAGES_MAX: usize = 1000;
pub const SUBMIT_BATCH_BYTES_MAX: usize = 32 << 20;

/// Submissions of other threads in progress on one shard, and queued chunks of each: 64 MiB in total.
/// More submissions wait in the lane; more chunks: the sender waits.
pub const SUBMISSIONS_UNDER_WAY_MAX: usize = 256;
pub const UPLOAD_CHUNKS_MAX: usize = 4;

/// Memory of such requests for one shard, queued and in progress, in bytes: header blocks and the
/// maximum of chunks. Enough for 256 streams or 1,024 small messages. More: as for
/// `SUBMIT_LANE_MAX`.
pub const SUBMIT_BYTES_MAX: u64 = 64 << 20;

/// Total milliseconds for which a shard waits for the chunks of one such submission. The sender has the
/// whole body, or receives it with deadlines of its own. Longer: the submission is refused.
pub const UPLOAD_WAIT_MS_MAX: u64 = 10 * 60_000;

/// Unanswered questions to other threads, of one shard and in one pool. Full: the default answer.
pub const ASKS_PER_SHARD_MAX: usize = 1024;
pub const ASKS_PER_POOL_MAX: usize = 2048;

/// Bytes of a body line. RFC 5321 s4.5.3.1.6 says 1000; generators ignore it, so this bound only
/// keeps one line from being a whole message to downstream relays. It is not enforced by default.
pub const BODY_LINE_BYTES_MAX: usize = 1000;

/// Bytes of a refused body or chunk that are read and dropped. More: the session is closed.
pub const SWALLOW_BYTES_MAX: u64 = 256 << 20;

/// Messages in one commit batch. Full: the rest waits for the next batch, one sync later.
pub const COMMIT_BATCH_MESSAGES_MAX: usize = 512;

/// Body bytes in one commit batch. Bounds the memory of the batch and the length of one write.
pub const COMMIT_BATCH_BYTES_MAX: usize = 4 << 20;

/// Bytes of messages that are committed together, all or nothing. The batch holds a second copy in
/// memory. More: 552.
pub const FINISH_ALL_BYTES_MAX: usize = 64 << 20;

/// Jobs waiting for a commit thread. Full: later callers queue; the client's 250 is delayed.
pub const COMMIT_WAITERS_MAX: usize = 4096;

/// Low-priority settlements in the commit lane, such as the retries of a whole destination that is
/// down; the same number of splits. Full: they wait in a queue of their own, so that new mail and
/// delivered mail do not wait behind them.
pub const SETTLES_IN_LANE_MAX: usize = COMMIT_WAITERS_MAX / 4;

/// Milliseconds that a commit thread may take for one batch. A slow disk answers within seconds,
/// and clients wait a minute or more for the reply to DATA. Longer: the disk counts as hung, and
/// new mail is answered 451 until the batch is written.
pub const COMMIT_HUNG_MS: u64 = 30_000;

/// Lookups of routes of one shard that are out, quick and slow ones, each 12 KiB: its task, and two
/// queries (the exchangers, and the record of MTA-STS beside them) with a task and 4 KiB for the answer
/// each. Full: mail to domains that are not known waits until some have ended.
pub const LOOKUPS_OUT_MAX: usize = 1024;

/// DNS queries of one shard in flight, each a descriptor: those of the lookups above, and those of
/// connections that are opened. Full: they wait for a slot, and are begun again if none comes.
pub const QUERIES_OUT_MAX: usize = 2 * LOOKUPS_OUT_MAX + 256;

/// Destinations of one owner shard. Full: an idle one is dropped for a new one; if none is idle,
/// the job stays on disk.
pub const DESTINATIONS_MAX: usize = 65_536;

/// Milliseconds after which a destination without work is dropped, with its window and its
/// counters.
pub const DESTINATION_IDLE_MS: u64 = 10 * 60_000;

/// Bytes that a message counts in its sender's share in addition to its size: about the cost of the
/// dialogue.
pub const TURN_BYTES: u64 = 32 << 10;

/// Bytes of reports to senders on one shard that are not stored yet, with what is read to quote it.
/// Further reports wait, and their jobs with them.
pub const REPORT_BYTES_MAX: usize = 8 << 20;

/// Milliseconds that a transfer may take in all, and for each KiB of the message besides. After that
/// the connection is closed and the mail is tried again: a server that reads or replies drop by drop
/// must not keep a connection for days.
pub const TRANSFER_MS_MAX: u64 = 30 * 60_000;
pub const TRANSFER_MS_PER_KIB: u64 = 1000;

/// Milliseconds without an answer after which an address of the host's other family is tried in
/// parallel (RFC 8305 s5). The next address of the same family is tried after the one before has
/// failed.
pub const CONNECT_ATTEMPT_DELAY_MS: u64 = 250;

/// Milliseconds without a new connection after a failed one, doubled for each further failure in a
/// row.
pub const CONNECT_HOLD_FIRST_MS: u64 = 250;
pub const CONNECT_HOLD_MAX_MS: u64 = 8_000;

/// Milliseconds of pause after a destination has answered 421, doubled each time, halved after a
/// window of successes.
pub const THROTTLE_FIRST_MS: u64 = 1_000;
pub const THROTTLE_MAX_MS: u64 = 60_000;

/// Milliseconds for which a token of a shared rate is valid. The rate counts it for that much
/// longer.
pub const TOKEN_MS: u64 = 250;

/// Milliseconds after which a shard asks again for tokens.
pub const TOKEN_ASK_MS: u64 = 100;

/// The same after it was told that there are none until later: others may give some back.
pub const TOKEN_NONE_MS: u64 = 1000;

/// Milliseconds of the present pace that the stored count of a rate is ahead of the messages sent,
/// and milliseconds after which a changed count is written.
pub const RESERVE_MS: u64 = 4_000;
pub const SAVE_INTERVAL_MS: u64 = 2_000;

/// Seconds for which a rule for replies may slow down or suspend.
pub const ACTION_S_MAX: u64 = 7 * 86_400;

/// Bytes of one file of rules for replies. A longer file is refused.
pub const REPLY_RULES_BYTES_MAX: u64 = 1 << 20;

/// Deliveries of one partition that a remote server may have accepted while their settlements are
/// not durable: a crash repeats them. The commit lane reserves the same number of places for them.
/// More: the connection waits, and returns its job if the disk stays full.
pub const UNSETTLED_MAX: usize = COMMIT_WAITERS_MAX / 2;

/// Milliseconds for which such a delivery may wait for the store. About 50 syncs of a usual disk (4
/// ms), and two of one that takes 100 ms: the current one when the server accepts the mail, and its
/// own. Longer: as above, so that a slow disk slows delivery rather than making a crash repeat
/// more.
pub const UNSETTLED_MS_MAX: u64 = 200;

/// Bytes of dead bodies in the files of one partition, if they exceed the live ones: about one blob
/// file. More: live bodies are moved out of the oldest files, and these files are removed.
pub const DEAD_BODY_BYTES_MAX: u64 = 256 << 20;

/// Bytes of live bodies that one pass moves: about ten seconds of a usual disk, during which no
/// other compaction runs. The rest waits for the next pass, two seconds later.
pub const RECLAIM_MOVE_BYTES_MAX: u64 = 1 << 30;

/// Bytes of the spool's reserve for each partition, in addition to the memory of its memtables,
/// which a start may have to flush: the writes of opening a partition (file list, options, first
/// block of a log). When the disk is full the reserve is released, and new mail is refused until
/// the reserve exists again.
pub const RESERVE_PARTITION_BYTES: u64 = 4 << 20;

/// MTA-STS policies in memory and on disk, and their bytes. Full: expired policies are dropped
/// first, then unused ones, then the others by their last use. Used policies that enforce TLS are
/// dropped last.
pub const STS_POLICIES_MAX: usize = 20_000;
pub const STS_POLICIES_BYTES_MAX: usize = 32 << 20;

/// Bytes of one policy; a typical one has a few hundred. A larger policy is dropped before those in
/// use, so that a few domains with large policies cannot displace many others.
pub const STS_POLICY_BYTES_USUAL: usize = 4 << 10;

/// Domains whose last fetch failed. Full: the oldest failure is dropped, and its domain may be
/// fetched again.
pub const STS_FAILURES_MAX: usize = 10_000;

/// Requests of all shards to the control plane in transit, and the same number waiting for a fetch.
/// Full: the shard repeats the request; mail without a policy waits.
pub const STS_REQUESTS_MAX: usize = 1024;

/// Concurrent fetches of policies, in total and from one network (IPv4 /24, IPv6 /48), so that web
/// servers that never answer cannot take all places.
pub const STS_FETCHES_MAX: usize = 64;
pub const STS_FETCHES_PER_NETWORK_MAX: usize = 8;

/// Milliseconds for one fetch. RFC 8461 s3.3 suggests a minute; mail waits for this.
pub const STS_FETCH_MS_MAX: u64 = 10_000;

/// Milliseconds for which mail waits for a policy. Longer: the mail is deferred.
pub const STS_WAIT_MS_MAX: u64 = 15_000;

/// Milliseconds for which mail is deferred if the policy could not be requested.
pub const STS_POSTPONE_MS: u64 = 15_000;

/// Domains for which one shard waits for an answer of the control plane. Full: the next request
/// waits.
pub const STS_ASKED_MAX: usize = 256;

/// Buckets of one histogram in `/metrics`, without infinity.
pub const METRIC_BUCKETS_MAX: usize = 20;

/// Destinations with series of their own in `/metrics`. The others are added up under the label
/// value `other`.
pub const METRIC_DESTINATIONS_MAX: usize = 20;

/// Certificates in `/metrics`. Further ones are left out: those that expire last.
pub const METRIC_CERTIFICATES_MAX: usize = 200;

const _: () = assert!(SAVE_INTERVAL_MS < RESERVE_MS);
const _: () = assert!(STS_FETCH_MS_MAX < STS_WAIT_MS_MAX);
const _: () = assert!((UPLOAD_CHUNKS_MAX * CHUNK_BYTES) as u64 <= SUBMIT_BYTES_MAX / 2);
const _: () = assert!(COMMIT_BATCH_MESSAGES_MAX <= COMMIT_WAITERS_MAX);
const _: () = assert!(COMMAND_BYTES_MAX <= CHUNK_BYTES);
