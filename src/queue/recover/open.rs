//! Opening a partition: repairs the database, recovers the mail, corrects the ledger.
//!
//! Ledger:   if mail is missing, in quarantine or back in the queue, the ledger is corrected on disk
//!           too, and the next start reports nothing. A record in quarantine makes the audit fail
//!           until an operator removes it.

use rocksdb::WriteBatch;

use crate::base::MessageId;
use crate::queue::cause::Cause;
use crate::queue::fault::QueueFault;
use crate::queue::fault::SpoolFault;
use crate::queue::notice::Notice;
use crate::queue::record::family;
use crate::queue::record::ledger::LEDGER_KEY;
use crate::queue::record::ledger::Ledger;
use crate::queue::record::ledger::MENDING_KEY;
use crate::queue::record::ledger::Miscount;
use crate::queue::record::lost::Lost;
use crate::queue::record::outer::RecordFault;
use crate::queue::recover::pass;
use crate::queue::store::copies::CopiedLedger;
use crate::queue::store::event_log;
use crate::queue::store::found::Depth;
use crate::queue::store::found::Recovered;
use crate::queue::store::partition::Partition;
use crate::queue::store::partition::PartitionStart;
use crate::queue::store::quarantine;
use crate::queue::store::quarantine::Suspect;
use crate::queue::store::query::Queued;
use crate::queue::store::repair::Opened;
use crate::queue::store::repair::open_database;
use crate::queue::store::repair::open_for_reading;
use crate::queue::store::repair::rescue_or_set_aside;
use crate::queue::store::spec::Access;
use crate::queue::store::spec::PartitionSpec;

/// Repairs in one start. On a full disk each of them drops one table.
const REPAIRS_MAX: u32 = 8;

/// Opens a partition. If it may be written, repairs the effects of a crash or of damage.
pub fn open(spec: &PartitionSpec) -> Result<(Partition, Recovered), SpoolFault> {
    let path = spec.path();
    if !path.is_dir() {
        return Err(SpoolFault::PartitionMissing { path });
    }
    let mut found = Recovered::default();
    let copies = spec.copies();
    let copied = copies.counted().map_err(|cause| SpoolFault::io(copies.folder(), cause))?;
    let mut started = match spec.access {
        Access::Inspect => Started {
            partition: Partition::over(spec, open_for_reading(spec)?, copied),
            depth: Depth::Look,
            lost: Lost::default(),
        },
        Access::Serve => Started::new(spec, open_database(spec, &mut found)?, copied),
    };
    let mut repairs = 0;
    while let Err(fault) = started.recover(spec, &mut found) {
        match fault {
            QueueFault::Store(why)
                if repairs < REPAIRS_MAX && is_damage(&started.partition, &why) =>
            {
                repairs += 1;
                let lost = started.lost;
                // The database must be closed before it is repaired.
                drop(started);
                found.forget_counts();
                let opened = rescue_or_set_aside(spec, why, &mut found)?;
                started = Started {
                    partition: Partition::over(spec, opened.db, copied),
                    depth: opened.depth,
                    lost: lost.union(opened.lost),
                };
            }
            fault => return Err(stopped(spec, fault)),
        }
    }
    let Started { mut partition, depth, lost } = started;
    let ledger = open_ledger(&partition, spec, copied, lost, &mut found)?;
    if depth == Depth::All && found.not_moved == 0 {
        // All records were read and checked.
        let cleared = partition.copies().clear_suspicion();
        cleared.map_err(|cause| SpoolFault::io(partition.copies().folder(), cause))?;
    }
    let given = (ledger.newest > 0).then(|| MessageId::from_u64(ledger.newest));
    partition.begin(PartitionStart {
        newest: found.newest.max(given),
        messages: found.messages,
        body_bytes: found.body_bytes,
        quarantined: found.quarantined,
    });
    Ok((partition, found))
}

/// An open partition before recovery.
struct Started {
    partition: Partition,
    depth: Depth,
    lost: Lost,
}

impl Started {
    fn new(spec: &PartitionSpec, opened: Opened, copied: CopiedLedger) -> Started {
        let partition = Partition::over(spec, opened.db, copied);
        let suspected = partition.copies().suspicion().is_some();
        // `open_ledger` reports an unreadable ledger.
        let known = known_lost(&partition).unwrap_or_default();
        let mut lost = opened.lost.union(known).union(partition.copies().lost());
        if is_behind_its_counts(&partition) {
            // A truncated log looks like one with a torn end, but batches are missing.
            lost = lost.union(Lost::BATCHES);
        }
        let depth = if suspected || lost.any() { Depth::All } else { opened.depth };
        Started { partition, depth, lost }
    }

    fn recover(&self, spec: &PartitionSpec, found: &mut Recovered) -> Result<(), QueueFault> {
        pass::run(&self.partition, spec, self.depth, self.lost, found)?;
        if self.partition.is_writable() {
            // If the newest events cannot be read, the database is damaged.
            event_log::next_number(&self.partition)?;
        }
        Ok(())
    }
}

/// The losses that an unfinished earlier start has recorded.
fn known_lost(partition: &Partition) -> Result<Lost, rocksdb::Error> {
    let mending = partition.db().get_pinned_cf(partition.families().default, MENDING_KEY)?;
    Ok(mending.map_or(Lost::default(), |value| Lost::from_bytes(&value)))
}

/// Whether the database is older than the copy of its ledger. The copy is written after the batch that
/// it counts, so this is a sign of damage.
fn is_behind_its_counts(partition: &Partition) -> bool {
    let stored = partition.db().get_pinned_cf(partition.families().default, LEDGER_KEY);
    let stored = stored.ok().flatten().and_then(|record| Ledger::decode(&record).ok());
    let inside = stored.unwrap_or_default();
    inside.or_more(&partition.known_outside()) != inside
}

/// Reads the ledger, merges the counts of its copy, and corrects the ledger after a loss of mail.
fn open_ledger(
    partition: &Partition,
    spec: &PartitionSpec,
    counted: CopiedLedger,
    lost: Lost,
    found: &mut Recovered,
) -> Result<Ledger, SpoolFault> {
    let at = |cause: rocksdb::Error| SpoolFault::store(partition.path(), cause.into_string());
    let default = partition.families().default;
    let stored = partition.db().get_pinned_cf(default, LEDGER_KEY).map_err(at)?;
    let mut unreadable = |why: String| {
        let family = family::DEFAULT;
        found.tell(spec, Notice::Unreadable { partition: spec.id, family, why });
    };
    let known = stored.as_deref().map(Ledger::decode).transpose().unwrap_or_else(|fault| {
        unreadable(format!("the ledger is unreadable, its copy is used: {fault}"));
        None
    });
    if counted == CopiedLedger::Unreadable {
        unreadable("the copy of the ledger cannot be read".to_owned());
    }
    let inside = known.unwrap_or_default();
    let mut ledger = inside.or_more(&partition.known_outside());
    if partition.is_writable() {
        let mending = partition.db().get_pinned_cf(default, MENDING_KEY).map_err(at)?.is_some();
        // Only reported damage is a reason to correct the ledger; otherwise the audit could not fail.
        if known.is_none() || mending || ledger != inside || !found.notices.is_empty() {
            let queued = Queued::count(partition.db().raw_iterator_cf(partition.families().job));
            let queued = queued.map_err(at)?.recipients;
            // The stored ledger matches the stored mail, so the difference is the number of lost ends.
            let ends = match known.is_some() && !lost.includes(family::DEFAULT) {
                true => ledger.ended.total() - inside.ended.total(),
                false => 0,
            };
            tell_miscount(spec, ledger.bring_in_line(queued, ends), found)?;
        }
        if mending || inside != ledger || known.is_some() != stored.is_some() {
            let mut batch = WriteBatch::default();
            batch.put_cf(default, LEDGER_KEY, ledger.encode());
            if found.not_moved == 0 {
                batch.delete_cf(default, MENDING_KEY);
            }
            partition.write(batch).map_err(at)?;
        }
        // Mail is safe without copies; only a loss would be harder to detect. Opening the database
        // wrote a new manifest.
        let copied = [partition.copy_ledger(&ledger), partition.copy_list()];
        for cause in copied.into_iter().filter_map(Result::err) {
            found.tell(spec, Notice::NotCopied { partition: spec.id, why: cause.to_string() });
        }
    }
    // Of a ledger that was lost with its copy.
    ledger.events = ledger.events.max(event_log::next_number(partition).unwrap_or(0));
    partition.set_ledger(ledger, true);
    partition.note_synced(ledger.events);
    Ok(ledger)
}

/// Reports recipients that are back in the queue, or missing although no record of theirs went to
/// quarantine. A note in quarantine makes the audit fail until an operator removes it.
fn tell_miscount(
    spec: &PartitionSpec,
    miscount: Miscount,
    found: &mut Recovered,
) -> Result<(), SpoolFault> {
    let partition = spec.id;
    let Miscount { missing, returned } = miscount;
    let missing = missing.saturating_sub(found.recipients_moved);
    if missing + returned == 0 {
        return Ok(());
    }
    let notice = Notice::Miscounted { partition, missing, returned };
    let (why, folder) = (notice.to_string(), spec.quarantine());
    let (key, now_ms) = (&spec.now_ms.to_be_bytes(), spec.now_ms);
    let suspect = Suspect { partition, family: "recipients", key, why: &why, now_ms };
    quarantine::keep(&folder, &suspect, |_| Ok(0)).map_err(|c| SpoolFault::io(&folder, c))?;
    found.quarantined += 1;
    found.tell(spec, notice);
    Ok(())
}

fn is_damage(partition: &Partition, why: &str) -> bool {
    partition.is_writable() && Cause::of(why) == Cause::Damage
}

/// The fault of a start that recovery could not finish.
fn stopped(spec: &PartitionSpec, fault: QueueFault) -> SpoolFault {
    match fault {
        QueueFault::Store(cause) => SpoolFault::store(spec.path(), cause),
        QueueFault::Record(fault @ RecordFault::Version(_)) => {
            SpoolFault::Foreign { path: spec.path(), cause: fault.to_string() }
        }
        other => SpoolFault::Store { path: spec.path(), cause: other.to_string() },
    }
}
