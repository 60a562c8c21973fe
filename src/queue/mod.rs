//! The durable queue: it keeps the promise of a 250.
//!
//! Owner:    a `Partition` is one RocksDB database. While mail is accepted, only its `CommitThread`
//!           writes to it; its home shard holds the `Committer`, which is not `Send`. Any thread may
//!           read (`inspect`).
//! Promise:  after `Body::finish` returns `Ok`, head, body, envelope, job and schedule survive a power
//!           cut. After an `Err` there is no promise; the whole message may still exist after a
//!           restart (see *failed* below), but never a part of it.
//! Bounds:   `base::limits`: `COMMIT_WAITERS_MAX`, `COMMIT_BATCH_*`, `FINISH_ALL_BYTES_MAX`,
//!           `STREAM_CHUNKS_IN_FLIGHT_MAX`, and the memory budget of `SpoolOptions`.
//! Fatal:    a write that failed for any cause but a full disk. The partition accepts no more mail;
//!           the write is not retried, because the kernel may have dropped the dirty pages.
//!
//! # Folders, lowest layer first
//!
//! ```text
//! record    keys, records, ledger: bytes, no I/O
//! store     RocksDB, typed operations; repair ladder, rescue, copies, quarantine
//! commit    group commit, from the shard to the synced batch
//! recover   checks and repairs the mail at start; opens partitions
//! admin     inspect, select, operate, audit
//! ```
//!
//! # Folder on disk
//!
//! ```text
//! <spool>/ringpost.json         format, number of partitions, number of the spool
//! <spool>/lock                  held (flock) by the one process that writes; its pid as text
//! <spool>/p00 .. p63            one RocksDB each
//! <spool>/p00.new, p00.view     only while a damaged partition is rescued; see `rescue`
//! <spool>/pauses.json           destinations that operators have paused; see `pauses`
//! <spool>/reserve               disk space reserved for recovery from a full disk; see `reserve`
//! <spool>/quarantine/           invalid records, each with a `.why` file; see `quarantine`
//! <spool>/copies/               counts and file list of each partition; see `copies`
//! ```
//!
//! # Column families (keys fixed-width and big-endian; records versioned, with a CRC at their end)
//!
//! ```text
//! envelope   id                    -> Envelope        written once, and again to keep the message
//! head       id                    -> header block    written once
//! body       id, chunk             -> raw bytes       written once, blob files
//! job        id, job               -> Job             rewritten at each attempt
//! due        at_ms, id, job        -> nothing         the next attempt; of a filed job the deadline
//! backlog    flow, due_ms, id, job -> nothing         filed jobs, by destination, tenant and class
//! stream     id                    -> StreamMark      a body in progress, written once
//! kept       until_ms, id          -> nothing         a message kept after its end
//! event      number                -> events          those of one batch; see `record::event_log`
//! once, scheduled                                     empty so far
//! default    "ledger"              -> Ledger          in the batch that it counts; see `ledger`
//!            "mending"             -> Lost            recovery is in progress; see `lost`
//! ```
//! A key that is written once is removed with `SingleDelete`, so that a message that is delivered soon
//! never leaves the memtable; only `job`, `kept`, `event` and `default` use `Delete`. The two are never
//! mixed in one family: RocksDB ends a compaction with an error where it meets both (`Family::removal`).
//!
//! Events are written in the batch that makes them true, and cost no sync. Those of a batch that is not
//! synced (an attempt that failed for now) are synced with the next one, or after half a second; readers
//! read only what is durable. Entries go by age and size, by files (`store::event_log`).
//!
//! The rows of a job in `due` and `backlog` are a pure function of its record (`record::rows`), and the
//! same batch changes both. A row that belongs to no record is a leftover: a write that failed on a full
//! disk, but reached the log, can put a row twice, and the removal of one uncovers the other. Readers
//! skip such rows, and nothing counts rows.
//!
//! # States of a message, and the one write between two states
//!
//! ```text
//! state      envelope  head  body  job  rows stream  kept   meaning
//! S0 none       -       -     -     -    -     -      -     does not exist
//! S1 stream     -       -    0..k   -    -     x      -     a large body in progress; no promise
//! S2 queued     x       x    all    x    x     -      -     promised: the 250 may be sent
//! S3 kept       x       x    all    -    -     -      x     every recipient has its final state
//!
//! change                                  written     order (`CommitOrder`)
//! S0 -> S1   first chunk + mark           unsynced    Chunk
//! S1 -> S1   next chunk                   unsynced    Chunk
//! S0 -> S2   all chunks, envelope, ...    SYNCED      Finish     a small message, one batch
//!                                                     FinishAll  several of them, one batch
//! S1 -> S2   last chunks, envelope, ...,
//!            SingleDelete of the mark     SYNCED      Finish     a large message
//! S1 -> S0   chunks and mark removed      unsynced    Abort      the session ended early
//! S2 -> S0   everything removed           SYNCED      Delete     by an operator, or after the
//!                                                                client got a 451
//! S2 -> S2   a job changes its rows       unsynced    File       by destination, or by time again
//! S2 -> S0   the last job has ended       SYNCED      Settle     see `commit::settle`
//! S2 -> S3   the same; the envelope gets
//!            an expiry                    SYNCED      Settle
//! S3 -> S0   everything removed           SYNCED      Delete     the expiry has passed
//! ```
//! Each arrow is one RocksDB write batch, so a crash leaves one of these states. A synced write also
//! makes every earlier write of its partition durable, because they share one log.
//!
//! # The state after a crash, and its repair
//!
//! ```text
//! crash                             state after it         repair
//! before the S0->S1 write           S0                     none; no 250 was sent
//! in S1, any point                  S1, k chunks or fewer  recover removes the body
//! inside the ->S2 write             S1 or S0, or S2        recover removes S1; S2 stays, and the
//!   (log record torn or whole)                             client, unanswered, sends again
//! after the ->S2 sync, before 250   S2                     none; the client sends again: the one
//!                                                          duplicate that SMTP cannot avoid
//! after the 250                     S2                     none
//! inside S1->S0                     S1 or S0               recover
//! inside S2->S0                     S2 or S0               the operator repeats the operation
//! ```
//! *failed*: a log write that returned an error may still reach the disk, so a message answered 4xx
//! can be in state S2 after a restart. After a full disk the partition stays in use: the commit
//! thread removes the remains of the failed batch key by key.
//!
//! Recovery also handles damage other than by a crash: flipped bits and lost files. `store::repair`
//! describes the repair of each kind of file and the cost of one flipped bit, `store::rescue` how the
//! rows of a damaged database are read, `recover` what happens to their mail, and `store::quarantine`
//! how all bytes are kept.
//!
//! # Formats
//!
//! Each spool has a format number and each record a version. A server that opens an older spool adds
//! the missing families and rewrites older records, then writes the new format number. A server
//! refuses a spool of a newer format or with a valid record of a newer version, and changes nothing.

pub mod admin;
pub mod cause;
pub mod commit;
pub mod fault;
pub mod notice;
pub mod points;
pub mod record;
pub mod recover;
pub mod spool;
mod spool_lock;
mod spool_meta;
pub mod store;

pub use commit::body::Body;
pub use commit::body::Committed;
pub use commit::committer::Committer;
pub use commit::committer::Finish;
pub use commit::committer::Hang;
pub use commit::committer::SharedBody;
pub use commit::keeper::Fresh;
pub use commit::keeper::Keeper;
pub use commit::lane::CommitHandle;
pub use commit::thread::CommitOptions;
pub use commit::thread::CommitThread;
pub use fault::CommitFault;
pub use fault::QueueFault;
pub use fault::SpoolFault;
pub use notice::Notice;
pub use record::envelope::Envelope;
pub use record::envelope::Tls;
pub use record::job::Job;
pub use record::recipients::Recipient;
pub use record::recipients::Recipients;
pub use record::recipients::RecipientsBuf;
pub use record::texts::Labels;
pub use spool::Spool;
pub use spool::SpoolOptions;
pub use spool_meta::partitions_in;
pub use store::found::Recovered;
pub use store::message::MessageReader;
pub use store::message::SharedMessageReader;
pub use store::partition::Partition;
pub use store::reclaim::Reclaimer;
pub use store::reclaim::Want;
pub use store::reserve::Reserve;
pub use store::space::Space;
pub use store::space::SpaceFloor;
pub use store::space::SpaceWatch;
pub use store::space::space;
pub use store::spec::Access;
