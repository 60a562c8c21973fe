//! The durable queue: what stands behind a 250.
//!
//! Owner:    a `Partition` is one RocksDB database. Its one `CommitThread` writes it while mail is
//!           accepted; its home shard holds the `Committer`, which is not `Send`. Reading
//!           (`inspect`) is free from any thread.
//! Promise:  when `Body::finish` answers `Ok`, body, envelope, job and schedule survive a power
//!           cut. When it answers `Err`, nothing was promised; the message may nevertheless be
//!           there after a restart (see *failed* below), never half of it.
//! Bounds:   `base::limits`: `COMMIT_WAITERS_MAX`, `COMMIT_BATCH_*`, `STREAM_CHUNKS_IN_FLIGHT_MAX`,
//!           and the memory budget of `SpoolOptions`.
//! Fatal:    a write that failed for any cause but a full disk. The partition takes no more mail;
//!           it is not tried again, for the kernel may have dropped the dirty pages.
//!
//! # Folder on disk
//!
//! ```text
//! <spool>/ringpost.json         format, number of partitions, number of the spool
//! <spool>/lock                  held (flock) by the one process that writes; its pid as text
//! <spool>/p00 .. p63            one RocksDB each
//! <spool>/p00.new, p00.view     only while a damaged partition is rescued; see `rescue`
//! <spool>/pauses.json           destinations that operators have paused; see `pauses`
//! <spool>/reserve               room kept for the time when the disk is full; see `reserve`
//! <spool>/quarantine/           bytes that could not be understood, each with a `.why` beside it
//! <spool>/copies/               what is known of each partition outside of it; see `copies`
//! ```
//!
//! # Column families (keys fixed-width and big-endian; records versioned, with a CRC at their end)
//!
//! ```text
//! envelope   id                    -> Envelope        written once, and again when it is kept
//! head       id                    -> header block    written once
//! body       id, chunk             -> raw bytes       written once, blob files
//! job        id, job               -> Job             written again at each attempt
//! due        due_ms, id, job       -> nothing         written once per schedule
//! stream     id                    -> StreamMark      a body under way, written once
//! kept       until_ms, id          -> nothing         a message kept after its end
//! event, once, scheduled                              empty so far
//! default    "ledger"              -> Ledger          written with what it counts; see `ledger`
//!            "mending"             -> Lost            recovery is under way; see `lost`
//! ```
//! What is written once is removed with `SingleDelete`, so that a message delivered soon dies in
//! the memtable; `job` and `kept` alone take `Delete`. The two are never mixed in one family
//! (RocksDB calls that undefined).
//!
//! # States of a message, and the one write between two states
//!
//! ```text
//! state      envelope  head  body  job  due  stream  kept   what it is
//! S0 none       -       -     -     -    -     -      -     not here, or not yet
//! S1 stream     -       -    0..k   -    -     x      -     a large body under way; no promise
//! S2 queued     x       x    all    x    x     -      -     promised: the 250 may have been given
//! S3 kept       x       x    all    -    -     -      x     every recipient has its final state
//!
//! S0 -> S1   first chunk + mark           unsynced    Work::Chunk
//! S1 -> S1   next chunk                   unsynced    Work::Chunk
//! S0 -> S2   all chunks, envelope, ...    SYNCED      Work::Finish    a small message, one batch
//!                                                     Work::FinishAll several of them, one batch
//! S1 -> S2   last chunks, envelope, ...,
//!            SingleDelete of the mark     SYNCED      Work::Finish    a large message
//! S1 -> S0   chunks and mark removed      unsynced    Work::Abort     the session ended early
//! S2 -> S0   everything removed           SYNCED      Work::Delete    an operator's order, or its
//!                                                                     sender was answered 451
//! S2 -> S0   the last job has ended       SYNCED      Work::Settle    see `settle`
//! S2 -> S3   the same, to be kept: the
//!            envelope says until when     SYNCED      Work::Settle
//! S3 -> S0   everything removed           SYNCED      Work::Delete    it has expired
//! ```
//! Each arrow is one RocksDB write batch, so a crash leaves a state of the table and nothing
//! between. A synced write also makes every earlier write of its partition durable, for they share
//! one log.
//!
//! # What a crash leaves behind, and who repairs it
//!
//! ```text
//! crash at                          left behind            repaired by
//! before the S0->S1 write           S0                     nobody; the client saw no 250
//! in S1, any point                  S1, k chunks or fewer  recover: the mark's body is swept
//! inside the ->S2 write             S1 or S0, or S2 whole  recover sweeps S1; S2 is kept: the
//!   (log record torn or whole)                             client, unanswered, sends again
//! after the ->S2 sync, before 250   S2                     kept; the client sends again, and the
//!                                                          copy is a duplicate nobody can avoid
//! after the 250                     S2                     nothing to repair
//! inside S1->S0                     S1 or S0               recover
//! inside S2->S0                     S2 or S0               the operator gives the order again
//! ```
//! *failed*: a log write that returned an error may still reach the disk. A message answered 4xx
//! can therefore be in state S2 after a restart. A full disk leaves the partition in use: the
//! remains of the failed batch are removed again by the commit thread, key by key.
//!
//! Recovery also meets what no crash of ours leaves behind: flipped bits and files lost. See
//! `partition` for what is done about each kind of file and what one flipped bit may cost, `rescue`
//! for how a damaged database is read, `recover` for what becomes of the mail in it, and
//! `quarantine`, which loses no bytes.

pub mod audit;
pub mod commit;
pub mod committer;
pub mod copies;
pub mod fault;
pub mod holes;
pub mod inspect;
pub mod jobs;
pub mod key;
pub mod labels;
pub mod lane;
pub mod ledger;
pub mod lost;
pub mod manifest;
pub mod mend;
pub mod message;
pub mod notice;
pub mod operate;
pub mod options;
pub mod partition;
pub mod pauses;
pub mod points;
pub mod quarantine;
pub mod reclaim;
pub mod record;
pub mod recover;
pub mod rescue;
pub mod reserve;
pub mod room;
pub mod schema;
pub mod select;
pub mod settle;
pub mod space;
pub mod spool;
pub mod unsettled;

pub use commit::CommitOptions;
pub use commit::CommitThread;
pub use committer::Body;
pub use committer::Committed;
pub use committer::Committer;
pub use committer::Finish;
pub use committer::Fresh;
pub use committer::Hang;
pub use committer::Keeper;
pub use committer::SharedBody;
pub use fault::CommitFault;
pub use fault::QueueFault;
pub use fault::SpoolFault;
pub use labels::Labels;
pub use lane::CommitHandle;
pub use message::MessageReader;
pub use message::SharedMessageReader;
pub use notice::Notice;
pub use partition::Partition;
pub use reclaim::Reclaimer;
pub use reclaim::Want;
pub use recover::Recovered;
pub use reserve::Reserve;
pub use schema::Envelope;
pub use schema::Job;
pub use schema::Recipient;
pub use schema::Recipients;
pub use schema::RecipientsBuf;
pub use schema::Tls;
pub use space::Space;
pub use space::SpaceFloor;
pub use space::SpaceWatch;
pub use space::space;
pub use spool::Access;
pub use spool::Spool;
pub use spool::SpoolOptions;
pub use spool::partitions_in;
