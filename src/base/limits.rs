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

/// Bytes of a body line. RFC 5321 s4.5.3.1.6 says 1000; generators ignore it, so this bound only
/// keeps one line from being a whole message to downstream relays. It is not enforced by default.
pub const BODY_LINE_BYTES_MAX: usize = 1000;

/// Bytes of a refused body or chunk that are read and dropped. More: the session is closed.
pub const SWALLOW_BYTES_MAX: u64 = 256 << 20;

/// Messages in one commit batch. Full: the rest waits for the next batch, one sync later.
pub const COMMIT_BATCH_MESSAGES_MAX: usize = 512;

/// Body bytes in one commit batch. Bounds the memory of the batch and the length of one write.
pub const COMMIT_BATCH_BYTES_MAX: usize = 4 << 20;

/// Work waiting for a commit thread. Full: 452 4.3.1 for a new message, a wait for a body.
pub const COMMIT_WAITERS_MAX: usize = 4096;

const _: () = assert!(COMMIT_BATCH_MESSAGES_MAX <= COMMIT_WAITERS_MAX);
const _: () = assert!(COMMAND_BYTES_MAX <= CHUNK_BYTES);
