//! Recovery: what crashes and damage leave behind is swept, repaired or moved, never a stop.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use rocksdb::WriteBatch;

use crate::queue_rig::HEAD;
use crate::queue_rig::NOW_MS;
use crate::queue_rig::Rig;
use crate::queue_rig::copy_folder;
use crate::queue_rig::envelope;
use crate::queue_rig::pattern;
use crate::queue_rig::recipients;
use ringpost::base::MessageId;
use ringpost::base::PublicId;
use ringpost::base::limits::CHUNK_BYTES;
use ringpost::queue::Access;
use ringpost::queue::Job;
use ringpost::queue::Notice;
use ringpost::queue::Partition;
use ringpost::queue::Recovered;
use ringpost::queue::Spool;
use ringpost::queue::SpoolFault;
use ringpost::queue::SpoolOptions;
use ringpost::queue::admin::audit::audit;
use ringpost::queue::admin::inspect;
use ringpost::queue::admin::inspect::ListFilter;
use ringpost::queue::admin::select::Wanted;
use ringpost::queue::record::job::Filed;
use ringpost::queue::record::key;
use ringpost::queue::record::key::BacklogKey;
use ringpost::queue::record::key::DueKey;
use ringpost::queue::record::key::FlowKey;
use ringpost::queue::record::ledger::MENDING_KEY;
use ringpost::queue::record::lost::Lost;
use ringpost::queue::record::stream::StreamMark;

fn reopen(path: &Path) -> Spool {
    Spool::open(SpoolOptions { memory_bytes: 16 << 20, ..SpoolOptions::new(path, NOW_MS) })
        .expect("a start never stops on what it finds")
}

fn sums(found: &Recovered) -> [u64; 4] {
    [found.messages, found.swept, found.repaired, found.quarantined]
}

fn moved(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path.join("quarantine")).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.ends_with(".why"));
    names.sort();
    names
}

/// Plants what `plant` writes beside three sound messages, starts again, and compares.
fn check(
    name: &str,
    expected: [u64; 4],
    plant: impl FnOnce(&Partition, MessageId, &mut WriteBatch),
) {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    rig.stored(b"first");
    let middle = rig.stored(&pattern(200_000, 5));
    rig.stored(b"last");
    let partition = &rig.spool.partitions()[0];
    let mut batch = WriteBatch::default();
    plant(partition, middle, &mut batch);
    partition.db().write(batch).unwrap();
    rig.close();
    let spool = reopen(folder.path());
    let found = &spool.recovered()[0];
    assert_eq!(sums(found), expected, "{name}: {:#?}", found.notices);
    let told = found.quarantined + found.repaired;
    assert_eq!(found.notices.len() as u64, told, "{name}: everything is told");
    assert_eq!(moved(folder.path()).len() as u64, found.quarantined, "{name}");
    assert_eq!(spool.partitions()[0].messages(), expected[0]);
    drop(spool);
    let again = sums(&reopen(folder.path()).recovered()[0]);
    assert_eq!(again, [expected[0], 0, 0, 0], "{name}: the second start finds all well");
    // What the repairs wrote goes through flush and compaction without a complaint.
    let spool = reopen(folder.path());
    let db = spool.partitions()[0].db();
    for family in ringpost::queue::record::family::FAMILIES {
        let family = db.cf_handle(family).unwrap();
        db.flush_cf(family).unwrap();
        db.compact_range_cf(family, None::<&[u8]>, None::<&[u8]>);
    }
    assert_eq!(spool.recovered()[0].notices, [], "{name}");
}

fn stray() -> MessageId {
    MessageId::from_u64(u64::MAX / 2)
}

#[test]
fn sound_messages_stay_as_they_are() {
    check("nothing planted", [3, 0, 0, 0], |_, _, _| ());
}

#[test]
fn an_unfinished_transfer_is_swept() {
    check("stream mark and chunks", [3, 1, 0, 0], |partition, _, batch| {
        let families = partition.families();
        let mut mark = Vec::new();
        StreamMark { started_ms: 1 }.encode(&mut mark);
        batch.put_cf(families.stream, key::of_id(stray()), mark);
        for chunk in 0..5 {
            batch.put_cf(families.body, key::of_body(stray(), chunk), pattern(CHUNK_BYTES, 6));
        }
    });
    check("chunks at the end without a mark", [3, 1, 0, 0], |partition, _, batch| {
        for chunk in 3..5 {
            let chunk = key::of_body(stray(), chunk);
            batch.put_cf(partition.families().body, chunk, pattern(CHUNK_BYTES, 6));
        }
    });
    check("mark of a finished message", [3, 0, 1, 0], |partition, middle, batch| {
        batch.put_cf(partition.families().stream, key::of_id(middle), b"whatever");
    });
}

const FLOW: FlowKey = FlowKey { destination: 1, tenant: 2, class: 0 };

fn filed_job() -> Vec<u8> {
    let filed = Some(Filed { flow: FLOW, deadline_ms: NOW_MS + 9 });
    let mut record = Vec::new();
    Job { filed, ..Job::fresh(NOW_MS, 2) }.encode(&mut record).unwrap();
    record
}

#[test]
fn what_is_missing_is_made_again() {
    check("job", [3, 0, 2, 0], |partition, middle, batch| {
        batch.delete_cf(partition.families().job, key::of_job(middle, 0));
        batch.single_delete_cf(partition.families().due, key::of_due(NOW_MS, middle, 0));
        batch.put_cf(partition.families().due, key::of_due(NOW_MS + 5, middle, 0), []);
    });
    check("schedule entry", [3, 0, 1, 0], |partition, middle, batch| {
        batch.single_delete_cf(partition.families().due, key::of_due(NOW_MS, middle, 0));
    });
    check("schedule entry too many", [3, 0, 1, 0], |partition, _, batch| {
        batch.put_cf(partition.families().due, key::of_due(7, stray(), 0), []);
    });
    check("both rows of a filed job", [3, 0, 3, 0], |partition, middle, batch| {
        // The row by time of a job that was not filed is one too many.
        batch.put_cf(partition.families().job, key::of_job(middle, 0), filed_job());
    });
    check("a row of the backlog too many", [3, 0, 1, 0], |partition, middle, batch| {
        let due = DueKey { at_ms: NOW_MS, job: (middle, 0) };
        let row = key::of_backlog(BacklogKey { flow: FLOW, due });
        batch.put_cf(partition.families().backlog, row, []);
    });
    check("the other row of a filed job", [3, 0, 1, 0], |partition, middle, batch| {
        let families = partition.families();
        batch.put_cf(families.job, key::of_job(middle, 0), filed_job());
        batch.single_delete_cf(families.due, key::of_due(NOW_MS, middle, 0));
        batch.put_cf(families.due, key::of_due(NOW_MS + 9, middle, 0), []);
    });
}

#[test]
fn what_cannot_be_understood_is_moved() {
    check("garbage for an envelope", [3, 0, 0, 1], |partition, _, batch| {
        batch.put_cf(partition.families().envelope, key::of_id(stray()), b"garbage");
    });
    check("a key that is no id", [3, 0, 0, 1], |partition, _, batch| {
        batch.put_cf(partition.families().envelope, b"what", b"garbage");
    });
    check("a schedule key of another length", [3, 0, 0, 1], |partition, _, batch| {
        batch.put_cf(partition.families().due, b"what", b"");
    });
    check("a backlog key of another length", [3, 0, 0, 1], |partition, _, batch| {
        batch.put_cf(partition.families().backlog, b"what", b"");
    });
    check("a chunk key of another length", [3, 0, 0, 1], |partition, _, batch| {
        batch.put_cf(partition.families().body, [0xff; 3], b"x");
    });
    // Whom the job was for nobody knows: envelope and body go with it, and nobody is tried again.
    check("garbage for a job", [2, 0, 1, 4], |partition, middle, batch| {
        // Its old schedule entry is of no job now.
        batch.put_cf(partition.families().job, key::of_job(middle, 0), b"garbage");
        batch.single_delete_cf(partition.families().due, key::of_due(NOW_MS, middle, 0));
        batch.put_cf(partition.families().due, key::of_due(NOW_MS + 5, middle, 0), []);
    });
    check("a job without envelope", [3, 0, 0, 1], |partition, _, batch| {
        let mut job = Vec::new();
        Job::fresh(9, 1).encode(&mut job).unwrap();
        batch.put_cf(partition.families().job, key::of_job(stray(), 0), job);
        batch.put_cf(partition.families().due, key::of_due(9, stray(), 0), []);
    });
    // Envelope, head, body and job are four records.
    check(
        "a flipped bit in the version of an envelope",
        [2, 0, 0, 4],
        |partition, middle, batch| {
            let families = partition.families();
            let key = key::of_id(middle);
            let mut record = partition.db().get_cf(families.envelope, key).unwrap().unwrap();
            record[0] ^= 1;
            batch.single_delete_cf(families.envelope, key);
            batch.put_cf(families.envelope, key, record);
        },
    );
    check("a missing chunk", [2, 0, 0, 4], |partition, middle, batch| {
        batch.single_delete_cf(partition.families().body, key::of_body(middle, 1));
    });
    check("a missing head", [2, 0, 0, 3], |partition, middle, batch| {
        batch.single_delete_cf(partition.families().head, key::of_id(middle));
    });
    check("a changed head", [2, 0, 0, 4], |partition, middle, batch| {
        let families = partition.families();
        let key = key::of_id(middle);
        let mut head = partition.db().get_cf(families.head, key).unwrap().unwrap();
        head[5] ^= 1;
        batch.single_delete_cf(families.head, key);
        batch.put_cf(families.head, key, head);
    });
    check("a changed chunk", [2, 0, 0, 4], |partition, middle, batch| {
        let families = partition.families();
        let key = key::of_body(middle, 1);
        let mut chunk = partition.db().get_cf(families.body, key).unwrap().unwrap();
        chunk[100] ^= 1;
        batch.single_delete_cf(families.body, key);
        batch.put_cf(families.body, key, chunk);
    });
}

#[test]
fn quarantine_keeps_the_bytes_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let partition = &rig.spool.partitions()[0];
    let family = partition.families().envelope;
    partition.db().put_cf(family, key::of_id(stray()), b"garbage").unwrap();
    rig.close();
    drop(reopen(folder.path()));
    let name = format!("p00-envelope-{}", key::hex(&key::of_id(stray())));
    let quarantine = folder.path().join("quarantine");
    assert_eq!(fs::read(quarantine.join(format!("{name}.rec"))).unwrap(), b"garbage");
    let why = fs::read_to_string(quarantine.join(format!("{name}.why"))).unwrap();
    assert!(why.contains("checksum") && why.contains("\"bytes\":7"), "{why}");
    let spool = reopen(folder.path());
    assert_eq!(inspect::stats(&spool).unwrap().in_quarantine, 1);
}

fn newest_log(partition: &Path) -> PathBuf {
    let entries = fs::read_dir(partition).unwrap().map(|entry| entry.unwrap().path());
    let mut logs: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "log")).collect();
    logs.sort();
    logs.pop().expect("there is a log")
}

fn ids(spool: &Spool) -> Vec<MessageId> {
    let rows =
        inspect::list(spool, ListFilter { limit: usize::MAX, after: None }, &Wanted::default())
            .unwrap();
    let local = |row: inspect::ListRow| row.id.parse::<PublicId>().expect("it is an id").local;
    rows.into_iter().map(local).collect()
}

/// A spool of `count` messages that are in the log only, with the length of the log after each.
fn logged(folder: &Path, count: u64) -> (Vec<MessageId>, Vec<u64>, PathBuf) {
    let rig = Rig::open(folder);
    let log = newest_log(&folder.join("p00"));
    let (mut ids, mut lens) = (Vec::new(), Vec::new());
    for seed in 0..count {
        ids.push(rig.stored(&pattern(3000, seed)));
        lens.push(fs::metadata(&log).unwrap().len());
    }
    rig.close();
    (ids, lens, log)
}

/// What there must be is known from outside of the database: mail that went with the log shows to
/// who only looks, is told at the next start, and stays told until someone has dealt with it.
#[test]
fn mail_that_went_with_the_log_is_missed() {
    let folder = tempfile::tempdir().unwrap();
    let (all, _, log) = logged(folder.path(), 6);
    fs::remove_file(log).unwrap();
    let lost = 2 * all.len() as i64;
    let look = SpoolOptions { access: Access::Inspect, ..SpoolOptions::new(folder.path(), NOW_MS) };
    let looked = audit(&Spool::open(look).unwrap()).unwrap();
    assert_eq!((looked.adds_up, looked.sum.difference), (false, lost), "{looked:?}");
    for start in ["first", "second"] {
        let audited = audit(&reopen(folder.path())).unwrap();
        let sum = audited.sum;
        assert_eq!((sum.difference, sum.quarantined), (0, lost as u64), "{start}: {audited:?}");
        assert_eq!((audited.in_quarantine, audited.is_clean()), (1, false), "{start}");
    }
    for file in fs::read_dir(folder.path().join("quarantine")).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    assert!(audit(&reopen(folder.path())).unwrap().is_clean(), "someone has dealt with it");
}

/// The fast variant of a power cut: the log ends anywhere, inside a record too.
#[test]
fn a_log_cut_anywhere_keeps_every_message_before_the_cut() {
    let folder = tempfile::tempdir().unwrap();
    let (all, lens, log) = logged(folder.path(), 6);
    let whole = fs::read(&log).unwrap();
    let last = lens[lens.len() - 1];
    for cut in (lens[0]..=last).step_by(997).chain(lens.iter().map(|len| len - 1)) {
        let copy = tempfile::tempdir().unwrap();
        copy_folder(folder.path(), copy.path());
        let log = copy.path().join("p00").join(log.file_name().unwrap());
        fs::write(&log, &whole[..cut as usize]).unwrap();
        let spool = reopen(copy.path());
        let whole_before = lens.iter().filter(|len| **len <= cut).count();
        assert_eq!(ids(&spool), all[..whole_before], "cut at {cut} of {last}");
        // A torn end is no damage; but what was acknowledged is missing, and that is told.
        let is_told = u64::from(whole_before < all.len());
        let found = &spool.recovered()[0];
        assert_eq!(found.quarantined, is_told, "cut at {cut}: {:?}", found.notices);
        let audited = audit(&spool).unwrap();
        assert_eq!((audited.adds_up, audited.in_quarantine), (true, is_told), "cut at {cut}");
    }
}

#[test]
fn a_flipped_bit_in_the_log_costs_no_message_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    let (all, lens, log) = logged(folder.path(), 40);
    let mut bytes = fs::read(&log).unwrap();
    bytes[lens[2] as usize + 500] ^= 1;
    fs::write(&log, bytes).unwrap();
    let spool = reopen(folder.path());
    let kept = ids(&spool);
    assert!(kept.iter().all(|id| all.contains(id)));
    assert_eq!(kept[..3], all[..3], "what is before the damage");
    assert_eq!(kept.last(), all.last(), "what is far behind it");
    // The log is read in blocks of 32 KiB; the damaged block is lost, and no more.
    assert!(kept.len() >= 40 - 12, "{} of 40 kept", kept.len());
    let notices = &spool.recovered()[0].notices;
    assert!(notices.iter().any(|notice| notice.to_string().contains("log is damaged")));
    let moved = moved(folder.path());
    assert!(moved[0].starts_with("p00-log-"), "{moved:?}");
    assert!(moved[1].starts_with("p00-recipients-"), "a record of those missing: {moved:?}");
    let lost = 2 * (40 - kept.len());
    let told = format!("{lost} recipients are missing");
    assert!(notices.iter().any(|notice| notice.to_string().contains(&told)), "{notices:?}");
}

/// Pages of the log that never came to the disk, as a power cut leaves them: all that follows each
/// hole is read, and the partition opens whatever the holes hit.
#[test]
fn holes_in_the_log_never_cost_the_partition() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let before = rig.stored(b"written before");
    rig.close();
    let rig = Rig::open(folder.path());
    let log = newest_log(&folder.path().join("p00"));
    for seed in 0..60 {
        let bytes = [300, 900, 3000, 12_000, 40_000, 200_000][seed as usize % 6];
        rig.stored(&pattern(bytes, seed));
    }
    let whole = fs::read(&log).unwrap();
    rig.close();
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut roll = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below) as usize
    };
    const PAGE: usize = 4096;
    for trial in 0..60 {
        let copy = tempfile::tempdir().unwrap();
        copy_folder(folder.path(), copy.path());
        let mut bytes = whole.clone();
        for _ in 0..=roll(6) {
            let pages = [1, 1, 2, 3, 8, 16, 24][roll(7)];
            let first = roll((bytes.len() / PAGE) as u64) * PAGE;
            let last = (first + pages * PAGE).min(bytes.len());
            bytes[first..last].fill(0);
        }
        if roll(2) == 0 {
            bytes.truncate(roll(bytes.len() as u64));
        }
        fs::write(copy.path().join("p00").join(log.file_name().unwrap()), &bytes).unwrap();
        let spool = reopen(copy.path());
        let told = &spool.recovered()[0].notices;
        let aside = told.iter().find(|notice| matches!(notice, Notice::SetAside { .. }));
        assert_eq!(aside, None, "trial {trial}");
        assert_eq!(ids(&spool).first(), Some(&before), "trial {trial}");
    }
}

/// A power cut between the manifest's write and its sync: the length is on disk, a page is not.
#[test]
fn a_torn_end_of_the_list_of_files_costs_nothing() {
    const PAGE: usize = 4096;
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let name = fs::read_to_string(folder.path().join("p00/CURRENT")).unwrap();
    let manifest = Path::new("p00").join(name.trim());
    let db = rig.spool.partitions()[0].db();
    let families = ringpost::queue::record::family::FAMILIES;
    let families: Vec<_> = families.iter().map(|family| db.cf_handle(family).unwrap()).collect();
    for family in &families {
        db.set_options_cf(*family, &[("disable_auto_compactions", "true")]).unwrap();
    }
    let (mut told, mut stored) = (0, Vec::new());
    // Until entries have crossed enough ends of pages, and one of a block of 32 KB.
    for seed in 0.. {
        let old = fs::read(folder.path().join(&manifest)).unwrap();
        if old.len() > 9 * PAGE {
            break;
        }
        stored.push(rig.stored(&pattern(300, seed)));
        let before = tempfile::tempdir().unwrap();
        copy_folder(folder.path(), before.path());
        db.flush_cfs_opt(&families, &rocksdb::FlushOptions::default()).unwrap();
        let new = fs::read(folder.path().join(&manifest)).unwrap();
        let end = old.len().next_multiple_of(PAGE);
        if new.len() <= end || new[..old.len()] != old {
            continue;
        }
        for lost in [old.len()..end, end..new.len()] {
            if lost.len() < 3 {
                // So few bytes in a page of their own may well be the entry's.
                continue;
            }
            let mut torn = new.clone();
            torn[lost.clone()].fill(0);
            let copy = tempfile::tempdir().unwrap();
            copy_folder(before.path(), copy.path());
            // Tables are on disk before they are listed.
            let [from, to] = [folder.path(), copy.path()].map(|path| path.join("p00"));
            for table in tables(&from) {
                fs::copy(from.join(&table), to.join(&table)).unwrap();
            }
            fs::write(copy.path().join(&manifest), &torn).unwrap();
            let spool = reopen(copy.path());
            let notices = &spool.recovered()[0].notices;
            assert_eq!(ids(&spool), stored, "{lost:?} of {}: {notices:?}", new.len());
            let kept = notices.iter().find_map(|one| match one {
                Notice::ManifestTorn { folder, .. } => Some(folder),
                _ => None,
            });
            if let Some(kept) = kept {
                let is_kept = |table: &std::path::PathBuf| kept.join(table).is_file();
                assert_eq!(tables(&folder.path().join("p00")).iter().find(|t| !is_kept(t)), None);
            }
            let cut = kept.is_some();
            told += u64::from(cut);
            assert_eq!(notices.len(), usize::from(cut), "{notices:?}");
        }
    }
    assert!(told > 3, "RocksDB opened all but {told} by itself");
    rig.close();
}

/// Tears the end of the list of files as a power cut does: the last page of an entry is missing.
pub fn tear_list(spool: &Path) {
    const PAGE: usize = 4096;
    forget_lists(spool);
    let name = fs::read_to_string(spool.join("p00/CURRENT")).unwrap();
    let manifest = spool.join("p00").join(name.trim());
    let mut bytes = fs::read(&manifest).unwrap();
    let page_end = (bytes.len() + 7).next_multiple_of(PAGE);
    let [low, high] = ((page_end + PAGE - bytes.len() - 7) as u16).to_le_bytes();
    // Its checksum, its length, and that it is whole.
    bytes.extend([1, 2, 3, 4, low, high, 1]);
    bytes.resize(page_end, b'x');
    bytes.resize(page_end + PAGE, 0);
    fs::write(&manifest, bytes).unwrap();
}

/// A second start at the same moment keeps the tables again that the first one has kept.
#[test]
fn tables_that_were_kept_before_are_kept_again() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let id = rig.stored(b"in a table");
    let partition = &rig.spool.partitions()[0];
    partition.db().flush_cf(partition.families().job).unwrap();
    rig.close();
    for start in ["first", "second"] {
        tear_list(folder.path());
        let spool = reopen(folder.path());
        let notices = &spool.recovered()[0].notices;
        let is_cut = notices.iter().any(|one| matches!(one, Notice::ManifestTorn { .. }));
        assert!(is_cut, "{start}: {notices:?}");
        assert_eq!(ids(&spool), [id], "{start}");
    }
}

/// The names of a partition's tables and blob files.
fn tables(partition: &Path) -> Vec<std::path::PathBuf> {
    let paths = fs::read_dir(partition).unwrap().map(|entry| entry.unwrap().path());
    let is_table = |path: &std::path::PathBuf| {
        path.extension().is_some_and(|end| end == "sst" || end == "blob")
    };
    paths.filter(is_table).map(|path| path.file_name().unwrap().into()).collect()
}

/// A torn end whose cut does not help: the partition is set aside as it was found.
#[test]
fn a_list_of_files_that_was_cut_in_vain_is_kept_as_it_was() {
    const PAGE: usize = 4096;
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    rig.stored(b"in the partition");
    rig.close();
    forget_lists(folder.path());
    let partition = folder.path().join("p00");
    let name = fs::read_to_string(partition.join("CURRENT")).unwrap();
    let manifest = partition.join(name.trim());
    // Nothing of the list is left, so that cutting leaves an empty one.
    let bytes = vec![0; fs::read(&manifest).unwrap().len().max(PAGE)];
    fs::write(&manifest, &bytes).unwrap();
    let spool = reopen(folder.path());
    let notices = &spool.recovered()[0].notices;
    let aside = notices.iter().find_map(|notice| match notice {
        Notice::SetAside { folder, .. } => Some(folder.join(name.trim())),
        _ => None,
    });
    assert_eq!(fs::read(aside.expect("it was set aside")).unwrap(), bytes);
}

/// Removes the copies of lists of files, as a spool of an older Ringpost has none.
fn forget_lists(spool: &Path) {
    for entry in fs::read_dir(spool.join("copies")).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().contains("MANIFEST") {
            fs::remove_file(path).unwrap();
        }
    }
}

/// Flipped bits in the list of files are no torn end: the partition is kept whole, elsewhere.
#[test]
fn a_flipped_bit_in_the_list_of_files_cuts_nothing_off() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    rig.stored(b"in the partition");
    rig.close();
    forget_lists(folder.path());
    let name = fs::read_to_string(folder.path().join("p00/CURRENT")).unwrap();
    let manifest = folder.path().join("p00").join(name.trim());
    let mut bytes = fs::read(&manifest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&manifest, &bytes).unwrap();
    let spool = reopen(folder.path());
    let notices = &spool.recovered()[0].notices;
    let aside = notices.iter().find_map(|notice| match notice {
        Notice::SetAside { folder, .. } => Some(folder.join(name.trim())),
        _ => None,
    });
    assert_eq!(fs::read(aside.expect("it was set aside")).unwrap(), bytes);
}

#[test]
fn a_database_that_does_not_open_is_set_aside_whole() {
    type Spoil = fn(&Path);
    let rows: [(&str, Spoil); 2] = [
        ("manifest is garbage", |p| {
            let name = fs::read_to_string(p.join("CURRENT")).unwrap();
            fs::write(p.join(name.trim()), [7; 4000]).unwrap();
        }),
        ("CURRENT and manifest are gone", |p| {
            let name = fs::read_to_string(p.join("CURRENT")).unwrap();
            fs::remove_file(p.join(name.trim())).unwrap();
            fs::remove_file(p.join("CURRENT")).unwrap();
        }),
    ];
    for (name, spoil) in rows {
        let folder = tempfile::tempdir().unwrap();
        let options = |now_ms| SpoolOptions {
            partitions: Some(2),
            memory_bytes: 16 << 20,
            ..SpoolOptions::new(folder.path(), now_ms)
        };
        let rig = Rig::with(options(NOW_MS));
        rig.stored(b"in the first partition");
        rig.close();
        forget_lists(folder.path());
        spoil(&folder.path().join("p00"));
        let spool = Spool::open(options(NOW_MS + 1)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let found = &spool.recovered()[0];
        assert!(
            found.notices.iter().any(|notice| notice.to_string().contains("cannot be opened")),
            "{name}: {:?}",
            found.notices
        );
        let aside = format!("p00-{}", NOW_MS + 1);
        let moved = moved(folder.path());
        assert_eq!(moved[0], aside, "{name}");
        assert!(moved[1].starts_with("p00-recipients-"), "those missing: {moved:?}");
        let audited = audit(&spool).unwrap();
        assert_eq!((audited.sum.quarantined, audited.in_quarantine), (2, 2), "{name}");
        assert!(newest_log(&folder.path().join("quarantine").join(aside)).exists(), "{name}");
        drop(spool);
        Rig::with(options(NOW_MS + 2)).stored(b"mail goes on");
    }
}

/// Who was in a job that cannot be read may have been served. The rest of the message goes on, and
/// a copy of it says who it was for.
#[test]
fn a_damaged_job_reopens_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let many: Vec<String> = (0..50).map(|n| format!("user{n}@example.test")).collect();
    let names: Vec<&str> = many.iter().map(String::as_str).collect();
    let body = rig.committer.body(NOW_MS).unwrap();
    let list = recipients(&names);
    let id = rig.run(body.finish(HEAD, &envelope(list.as_recipients()), NOW_MS)).unwrap().id.local;
    let partition = &rig.spool.partitions()[0];
    // Half of the recipients have a job of their own, and the other half's is damaged.
    let half: Vec<u8> = (0..25u32).flat_map(|index| index.to_be_bytes()).collect();
    let mut record = Vec::new();
    let job = Job {
        number: 1,
        recipients: ringpost::queue::record::job::Indexes::Stored(&half),
        ..Job::fresh(NOW_MS + 9, 0)
    };
    job.encode(&mut record).unwrap();
    let families = partition.families();
    partition.db().put_cf(families.job, key::of_job(id, 1), record).unwrap();
    partition.db().put_cf(families.job, key::of_job(id, 0), b"garbage").unwrap();
    rig.close();
    let spool = reopen(folder.path());
    let jobs = inspect::show(&spool, id).unwrap().jobs;
    assert_eq!(jobs.len(), 1);
    assert_eq!(jobs[0].recipients, (0..25).collect::<Vec<u32>>());
    let hex = key::hex(&key::of_id(id));
    let copied = ["envelope", "head", "job"].map(|family| match family {
        "job" => format!("p00-job-{hex}0000.rec"),
        family => format!("p00-{family}-{hex}.rec"),
    });
    assert_eq!(moved(folder.path()), copied);
    let audited = audit(&spool).unwrap();
    assert_eq!((audited.adds_up, audited.sum.quarantined, audited.sum.queued), (true, 25, 25));
    assert!(!audited.is_clean());
}

/// Rows of `job` are known to be lost, and what is left of the message has no room in quarantine:
/// the next start must not take the missing job for one that was never written.
#[test]
fn a_message_that_cannot_be_moved_is_not_sent_to_all_again() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let id = rig.stored(b"its only job is lost");
    let partition = &rig.spool.partitions()[0];
    let families = partition.families();
    partition.db().delete_cf(families.job, key::of_job(id, 0)).unwrap();
    let mut lost = Lost::default();
    lost.add(ringpost::queue::record::family::JOB);
    partition.db().put_cf(families.default, MENDING_KEY, lost.to_bytes()).unwrap();
    rig.close();
    // Folders stand where the files would be.
    let name = |family: &str| format!("p00-{family}-{}.rec", key::hex(&key::of_id(id)));
    let in_the_way = ["envelope", "head", "body"]
        .map(|family| folder.path().join("quarantine").join(name(family)));
    for blocked in [&in_the_way[..], &in_the_way[1..], &in_the_way[2..]] {
        blocked.iter().for_each(|path| fs::create_dir_all(path).unwrap());
        for start in 0..2 {
            let spool = reopen(folder.path());
            let found = inspect::show(&spool, id).expect("it stays until it can be moved");
            assert_eq!(found.jobs.len(), 0, "start {start}: nobody is tried again");
        }
        blocked.iter().for_each(|path| fs::remove_dir(path).unwrap());
    }
    let spool = reopen(folder.path());
    assert!(inspect::show(&spool, id).is_err(), "it was moved");
    let mut names = ["envelope", "head", "body"].map(name);
    names.sort();
    assert_eq!(moved(folder.path()), names);
}

/// A job that is made again finds the schedule entry of the lost one, and does not write it twice:
/// RocksDB would remove one of the two only.
#[test]
fn a_schedule_entry_is_never_written_twice() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let id = rig.stored(b"its job is lost");
    let partition = &rig.spool.partitions()[0];
    partition.db().delete_cf(partition.families().job, key::of_job(id, 0)).unwrap();
    rig.close();
    let rig = Rig::open(folder.path());
    assert_eq!(sums(&rig.spool.recovered()[0]), [1, 0, 1, 0]);
    let partition = &rig.spool.partitions()[0];
    let (db, due) = (partition.db(), partition.families().due);
    db.flush_cf(due).unwrap();
    let mut batch = WriteBatch::default();
    batch.single_delete_cf(due, key::of_due(NOW_MS, id, 0));
    db.write(batch).unwrap();
    db.flush_cf(due).unwrap();
    db.compact_range_cf(due, None::<&[u8]>, None::<&[u8]>);
    assert_eq!(db.get_cf(due, key::of_due(NOW_MS, id, 0)).unwrap(), None);
}

#[test]
fn a_damaged_list_of_files_is_mended_from_its_copy() {
    type Spoil = fn(&Path);
    fn manifest(p: &Path) -> PathBuf {
        p.join(fs::read_to_string(p.join("CURRENT")).unwrap().trim())
    }
    let rows: [(&str, Spoil); 6] = [
        ("CURRENT is gone", |p| fs::remove_file(p.join("CURRENT")).unwrap()),
        ("CURRENT is garbage", |p| fs::write(p.join("CURRENT"), "nonsense").unwrap()),
        ("CURRENT names another", |p| fs::write(p.join("CURRENT"), "MANIFEST-000001\n").unwrap()),
        ("the manifest is garbage", |p| fs::write(manifest(p), [7; 4000]).unwrap()),
        ("the manifest is gone", |p| fs::remove_file(manifest(p)).unwrap()),
        ("the manifest is cut in half", |p| {
            let bytes = fs::read(manifest(p)).unwrap();
            fs::write(manifest(p), &bytes[..bytes.len() / 2]).unwrap();
        }),
    ];
    for (name, spoil) in rows {
        let folder = tempfile::tempdir().unwrap();
        let rig = Rig::open(folder.path());
        let id = rig.stored(b"in a table");
        let partition = &rig.spool.partitions()[0];
        let all = ringpost::queue::record::family::FAMILIES
            .map(|name| partition.db().cf_handle(name).unwrap());
        partition.db().flush_cfs_opt(&all, &rocksdb::FlushOptions::default()).unwrap();
        rig.spool.copy_lists().unwrap();
        rig.close();
        spoil(&folder.path().join("p00"));
        let spool = reopen(folder.path());
        let found = &spool.recovered()[0];
        assert_eq!(ids(&spool), [id], "{name}: {:?}", found.notices);
        let told = found.notices.iter().find(|one| matches!(one, Notice::ManifestMended { .. }));
        assert!(told.is_some(), "{name}: {:?}", found.notices);
        assert_eq!((found.notices.len(), found.quarantined), (1, 1), "{name}");
        drop(spool);
        assert_eq!(reopen(folder.path()).recovered()[0].notices, [], "{name}");
    }
}

/// A database of another version is not damaged: it is refused, and nothing in it is changed.
#[test]
fn a_database_of_another_version_is_refused_and_left_alone() {
    for (name, change) in
        [("a family that is not known", true), ("a family that is missing", false)]
    {
        let folder = tempfile::tempdir().unwrap();
        let rig = Rig::open(folder.path());
        let id = rig.stored(b"kept");
        rig.close();
        let partition = folder.path().join("p00");
        let families = ringpost::queue::record::family::FAMILIES;
        {
            let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), &partition, families);
            let mut db = db.unwrap();
            match change {
                true => db.create_cf("of-the-future", &rocksdb::Options::default()).unwrap(),
                false => db.drop_cf("stream").unwrap(),
            }
        }
        let names = || {
            let entries = fs::read_dir(&partition).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let before = names();
        for _ in 0..2 {
            let options = SpoolOptions::new(folder.path(), NOW_MS);
            let fault = Spool::open(options).err().unwrap_or_else(|| panic!("{name}: it opened"));
            assert!(matches!(fault, SpoolFault::Foreign { .. }), "{name}: {fault}");
        }
        assert_eq!(names(), before, "{name}");
        assert_eq!(moved(folder.path()), [""; 0], "{name}");
        // Who knows the family finds the mail.
        if change {
            let mut db = rocksdb::DB::open_cf(
                &rocksdb::Options::default(),
                &partition,
                families.into_iter().chain(["of-the-future"]),
            )
            .unwrap();
            db.drop_cf("of-the-future").unwrap();
            drop(db);
            assert_eq!(ids(&reopen(folder.path())), [id], "{name}");
        }
    }
}

/// A rescue that was cut short between its steps is ended, or begun again.
#[test]
fn a_rescue_that_was_cut_short_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let id = rig.stored(b"kept");
    rig.close();
    let [path, fresh, view] = ["p00", "p00.new", "p00.view"].map(|name| folder.path().join(name));
    for unfinished in [&fresh, &view] {
        fs::create_dir(unfinished).unwrap();
        fs::write(unfinished.join("CURRENT"), "half a database").unwrap();
    }
    assert_eq!(ids(&reopen(folder.path())), std::slice::from_ref(&id), "before the move");
    assert!(!fresh.exists() && !view.exists());
    fs::rename(&path, &fresh).unwrap();
    assert_eq!(ids(&reopen(folder.path())), [id], "between the two moves");
    assert!(path.is_dir() && !fresh.exists());
}
