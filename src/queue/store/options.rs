//! The options of RocksDB, each with its reason; measured on 4 KB messages unless said otherwise.
//!
//! Bounds:   the memtables of all partitions together stay within the budget of the spool, block
//!           cache and open files within the constants below.

use rocksdb::BlockBasedIndexType;
use rocksdb::BlockBasedOptions;
use rocksdb::Cache;
use rocksdb::ColumnFamilyDescriptor;
use rocksdb::DBCompressionType;
use rocksdb::DBRecoveryMode;
use rocksdb::InfoLogger;
use rocksdb::LogLevel;
use rocksdb::Options;
use rocksdb::WriteBufferManager;

use crate::base::PartitionId;
use crate::queue::notice::Loudness;
use crate::queue::notice::Notice;
use crate::queue::notice::OnNotice;
use crate::queue::record::family::BACKLOG;
use crate::queue::record::family::BODY;
use crate::queue::record::family::DUE;
use crate::queue::record::family::EVENT;
use crate::queue::record::family::HEAD;

/// Bytes of blocks kept for all partitions: indexes and filters of a few thousand files. Bodies
/// are read once, by delivery, and need no cache of ours beside the page cache.
pub const BLOCK_CACHE_BYTES: usize = 16 << 20;

/// Files that one partition keeps open. More are opened and closed as they are needed.
pub const OPEN_FILES_MAX: i32 = 128;

/// A value of the body family from this size on goes to a blob file, which compaction leaves alone.
pub const BLOB_BYTES_MIN: u64 = 1 << 10;

/// Least and most memory of one body memtable. Small ones flush all the time; larger ones than
/// this only make a restart replay more.
const BODY_BUFFER_BYTES_MIN: usize = 1 << 20;
const BODY_BUFFER_BYTES_MAX: usize = 64 << 20;

/// Files of one family that no compaction has merged yet.
const L0_FILES_MAX: i32 = 36;

/// The same of `event`.
const EVENT_L0_FILES_MAX: i32 = 64;

/// Bytes that wait for compaction.
const COMPACTION_DEBT_BYTES_MAX: usize = 256 << 30;

/// Neighbouring rows of a table of the schedule; if half of them are removals, it is compacted.
const REMOVALS_WINDOW: usize = 4096;

/// Memory that the partitions of a spool share.
#[derive(Clone)]
pub struct StoreMemory {
    cache: Cache,
    buffers: WriteBufferManager,
    body_buffer_bytes: usize,
}

impl StoreMemory {
    /// `memory_bytes` for the memtables of all `partitions` together.
    pub fn new(memory_bytes: usize, partitions: u8) -> StoreMemory {
        let share = memory_bytes / partitions.max(1) as usize;
        StoreMemory {
            cache: Cache::new_lru_cache(BLOCK_CACHE_BYTES),
            // It does not stall: a stall that waits for another, idle partition's memory would
            // never end. The bound itself is two memtables per family; this flushes early.
            buffers: WriteBufferManager::new_write_buffer_manager(memory_bytes, false),
            // Two body memtables and the small families make up the share.
            body_buffer_bytes: (share / 8 * 3).clamp(BODY_BUFFER_BYTES_MIN, BODY_BUFFER_BYTES_MAX),
        }
    }
}

/// How the write-ahead log is read at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogRecovery {
    /// A torn end is normal after a crash and ends the log. Damage before the end is not, and is
    /// refused, so that it is reported: PointInTime, RocksDB's default, would silently drop all
    /// that follows a flipped bit, acknowledged or not.
    Strict,
    /// After `Strict` refused: everything readable. `recover` finds the holes that this leaves.
    Salvage,
}

/// Options of the database as a whole.
pub fn database(
    memory: &StoreMemory,
    recovery: LogRecovery,
    partition: PartitionId,
    on_notice: OnNotice,
) -> Options {
    let mut options = Options::default();
    options.set_wal_recovery_mode(match recovery {
        LogRecovery::Strict => DBRecoveryMode::TolerateCorruptedTailRecords,
        LogRecovery::Salvage => DBRecoveryMode::SkipAnyCorruptedRecord,
    });
    // All families of a message reach SST files together, so a flush frees its log at once, and
    // no family can be ahead of another should the log be lost.
    options.set_atomic_flush(true);
    // The default, made explicit: a write is in the log's file before the call returns.
    options.set_manual_wal_flush(false);
    // fdatasync: the log is preallocated, its size and extents are all that the sync needs.
    options.set_use_fsync(false);
    // One thread writes; the machinery for several costs it CPU.
    options.set_allow_concurrent_memtable_write(false);
    options.set_enable_pipelined_write(false);
    options.set_enable_write_thread_adaptive_yield(false);
    // Large streams are not synced by us; without this the first sync after one would wait for
    // all of its bytes.
    options.set_wal_bytes_per_sync(1 << 20);
    // The same for files that a flush or a compaction writes.
    options.set_bytes_per_sync(1 << 20);
    // The log is flushed away by full memtables long before; this bounds what a restart replays
    // should the small families fill slowly.
    options.set_max_total_wal_size(memory.body_buffer_bytes as u64 * 4);
    options.set_write_buffer_manager(&memory.buffers);
    options.set_max_open_files(OPEN_FILES_MAX);
    // One flush and one compaction at a time; the cores belong to the shards.
    options.set_max_background_jobs(2);
    // No statistics thread, no dumps.
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    // Files are opened when they are needed, not all at start.
    options.set_skip_stats_update_on_db_open(true);
    // Rewritten past this; the default of 1 GB makes old spools slow to open.
    options.set_max_manifest_file_size(16 << 20);
    options.set_keep_log_file_num(1);
    options.set_info_logger(logger(partition, on_notice));
    options
}

/// Every family with its options.
pub fn families<'m>(
    memory: &'m StoreMemory,
    names: &'static [&'static str],
) -> impl Iterator<Item = ColumnFamilyDescriptor> + 'm {
    names.iter().map(|name| {
        let options = match *name {
            BODY => body(memory),
            HEAD => head(memory),
            EVENT => event(memory),
            DUE | BACKLOG => schedule(memory),
            _ => small(memory),
        };
        ColumnFamilyDescriptor::new(*name, options)
    })
}

/// `body`: large values, read once, deleted in the order they came.
fn body(memory: &StoreMemory) -> Options {
    let mut options = small(memory);
    options.set_write_buffer_size(memory.body_buffer_bytes);
    // Bodies stay out of compaction: it moves 12-byte keys and pointers only.
    options.set_enable_blob_files(true);
    options.set_min_blob_size(BLOB_BYTES_MIN);
    // Mail is text; LZ4 halves it for less CPU than writing the other half costs.
    options.set_blob_compression_type(DBCompressionType::Lz4);
    options.set_blob_file_size(256 << 20);
    // A file whose mail is delivered is dropped whole; what a slow destination keeps alive in a
    // half-dead file is moved out by `reclaim`, which knows what it gains. RocksDB's own collection
    // does not: every compaction that meets a live body in an old file writes it again. With a
    // backlog of 200,000 messages of 20 KB (3.8 GB), delivering and accepting a tenth of them wrote
    // 8.6 GB with it (age cutoff 1.0), and writes 0.8 GB without.
    options.set_enable_blob_gc(false);
    options
}

/// `head`: a kilobyte or two, written and read once. Its memtable has room for as many messages as
/// that of the bodies, so that the head of a message delivered soon dies in it too. Heads stay in the
/// tables: blob files of their own would be a second thing for `reclaim` to look after.
fn head(memory: &StoreMemory) -> Options {
    let mut options = small(memory);
    options.set_write_buffer_size((memory.body_buffer_bytes / 2).max(1 << 20));
    options
}

/// `due` and `backlog`: read in order from a cursor, removed from the front.
fn schedule(memory: &StoreMemory) -> Options {
    let mut options = small(memory);
    // A cursor seeks past the removals of rows before it, but the read after a restart begins at the
    // front and steps over each. A table in which removals abound is compacted soon.
    options.add_compact_on_deletion_collector_factory(REMOVALS_WINDOW, REMOVALS_WINDOW / 2, 0.0);
    options
}

/// `event`: written once, read in order, dropped from the oldest end.
fn event(memory: &StoreMemory) -> Options {
    let mut options = small(memory);
    // Leveled, with one rewrite: many small files of L0 become few of 64 MB, which a reader opens
    // and a deletion drops whole. FIFO would leave all of them in L0, and drop what no consumer has
    // read. All levels are LZ4; the bottom one is to be zstd once RocksDB is built with it.
    options.set_level_zero_file_num_compaction_trigger(16);
    options.set_target_file_size_base(64 << 20);
    // Its write stop is that of all families, and mail must not wait for events.
    options.set_level_zero_slowdown_writes_trigger(EVENT_L0_FILES_MAX);
    options.set_level_zero_stop_writes_trigger(EVENT_L0_FILES_MAX);
    options
}

/// Every other family: small values.
fn small(memory: &StoreMemory) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&memory.cache);
    // Indexes and filters count against the cache, so that a backlog of any size has its bound. They
    // are read in parts: the filter of a table of a million rows has 1.2 MB, does not fit into a shard
    // of the cache, and was read again for each lookup.
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_pin_top_level_index_and_filter(true);
    // A lookup of an absent key (due entry, job) reads no block.
    table.set_bloom_filter(10.0, false);
    table.set_block_size(16 << 10);
    // Keys come in nearly rising order: an entry is looked for beside the last one.
    let near = "memtable_insert_with_hint_prefix_extractor=fixed:1";
    let mut options =
        Options::default().get_options_from_string(near).expect("RocksDB has this option");
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size((memory.body_buffer_bytes / 4).max(1 << 20));
    // One is written while the other is flushed. Both full: the commit thread waits, its channel
    // fills, and senders wait. That is the bound on memory.
    options.set_max_write_buffer_number(2);
    // Past these, writes stop until compaction has caught up. The step before, in which RocksDB
    // slows writes by sleeping in them, is left out: our writes never wait within RocksDB.
    options.set_level_zero_slowdown_writes_trigger(L0_FILES_MAX);
    options.set_level_zero_stop_writes_trigger(L0_FILES_MAX);
    options.set_soft_pending_compaction_bytes_limit(COMPACTION_DEBT_BYTES_MAX);
    options.set_hard_pending_compaction_bytes_limit(COMPACTION_DEBT_BYTES_MAX);
    options.set_level_compaction_dynamic_level_bytes(true);
    options
}

/// RocksDB's warnings as notices; the rest of its log is not written at all.
fn logger(partition: PartitionId, on_notice: OnNotice) -> InfoLogger {
    InfoLogger::new_callback_logger(LogLevel::Warn, move |level, line| {
        let loudness = match level {
            LogLevel::Warn => Loudness::Warn,
            LogLevel::Error | LogLevel::Fatal => Loudness::Error,
            LogLevel::Debug | LogLevel::Info | LogLevel::Header => return,
        };
        on_notice(Notice::Store { partition, loudness, line: line.trim().to_owned() });
    })
}
