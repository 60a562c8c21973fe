//! Recovery: what crashes and damage leave behind is swept, repaired or moved, never a stop.

mod queue_desk;

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use rocksdb::WriteBatch;

use queue_desk::Desk;
use queue_desk::NOW_MS;
use queue_desk::envelope;
use queue_desk::pattern;
use queue_desk::recipients;
use ringpost::base::MessageId;
use ringpost::base::limits::CHUNK_BYTES;
use ringpost::queue::Job;
use ringpost::queue::Notice;
use ringpost::queue::Partition;
use ringpost::queue::Recovered;
use ringpost::queue::Spool;
use ringpost::queue::SpoolOptions;
use ringpost::queue::inspect;
use ringpost::queue::inspect::ListFilter;
use ringpost::queue::key;
use ringpost::queue::schema::StreamMark;

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
    let desk = Desk::open(folder.path());
    desk.stored(b"first");
    let middle = desk.stored(&pattern(200_000, 5));
    desk.stored(b"last");
    let partition = &desk.spool.partitions()[0];
    let mut batch = WriteBatch::default();
    plant(partition, middle, &mut batch);
    partition.db().write(batch).unwrap();
    desk.close();
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
    for family in ringpost::queue::schema::FAMILIES {
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
    check("a chunk key of another length", [3, 0, 0, 1], |partition, _, batch| {
        batch.put_cf(partition.families().body, [0xff; 3], b"x");
    });
    check("garbage for a job", [3, 0, 2, 1], |partition, middle, batch| {
        // The job is made again; its old schedule entry is of no job now.
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
    // Envelope, body and job are three records.
    check("an envelope of another version", [2, 0, 0, 3], |partition, middle, batch| {
        let families = partition.families();
        let key = key::of_id(middle);
        let mut record = partition.db().get_cf(families.envelope, key).unwrap().unwrap();
        record[0] = 2;
        batch.single_delete_cf(families.envelope, key);
        batch.put_cf(families.envelope, key, record);
    });
    check("a missing chunk", [2, 0, 0, 3], |partition, middle, batch| {
        batch.single_delete_cf(partition.families().body, key::of_body(middle, 1));
    });
    check("a changed chunk", [2, 0, 0, 3], |partition, middle, batch| {
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
    let desk = Desk::open(folder.path());
    let partition = &desk.spool.partitions()[0];
    let family = partition.families().envelope;
    partition.db().put_cf(family, key::of_id(stray()), b"garbage").unwrap();
    desk.close();
    drop(reopen(folder.path()));
    let name = format!("p00-envelope-{}", key::hex(&key::of_id(stray())));
    let quarantine = folder.path().join("quarantine");
    assert_eq!(fs::read(quarantine.join(format!("{name}.rec"))).unwrap(), b"garbage");
    let why = fs::read_to_string(quarantine.join(format!("{name}.why"))).unwrap();
    assert!(why.contains("version 103") && why.contains("\"bytes\":7"), "{why}");
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

fn ids(spool: &Spool) -> Vec<String> {
    let rows = inspect::list(spool, ListFilter { limit: usize::MAX, after: None }).unwrap();
    rows.into_iter().map(|row| row.id).collect()
}

/// A spool of `count` messages that are in the log only, with the length of the log after each.
fn logged(folder: &Path, count: u64) -> (Vec<String>, Vec<u64>, PathBuf) {
    let desk = Desk::open(folder);
    let log = newest_log(&folder.join("p00"));
    let (mut ids, mut lens) = (Vec::new(), Vec::new());
    for seed in 0..count {
        ids.push(desk.stored(&pattern(3000, seed)).to_string());
        lens.push(fs::metadata(&log).unwrap().len());
    }
    desk.close();
    (ids, lens, log)
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
        assert_eq!(spool.recovered()[0].quarantined, 0, "a torn end is no damage");
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
    assert_eq!(moved(folder.path()).len(), 1, "a copy of the log");
}

/// Pages of the log that never came to the disk, as a power cut leaves them: all that follows each
/// hole is read, and the partition opens whatever the holes hit.
#[test]
fn holes_in_the_log_never_cost_the_partition() {
    let folder = tempfile::tempdir().unwrap();
    let desk = Desk::open(folder.path());
    let before = desk.stored(b"written before").to_string();
    desk.close();
    let desk = Desk::open(folder.path());
    let log = newest_log(&folder.path().join("p00"));
    for seed in 0..60 {
        let bytes = [300, 900, 3000, 12_000, 40_000, 200_000][seed as usize % 6];
        desk.stored(&pattern(bytes, seed));
    }
    let whole = fs::read(&log).unwrap();
    desk.close();
    let mut dice = 0x9E37_79B9_7F4A_7C15_u64;
    let mut roll = |below: u64| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        (dice % below) as usize
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
    let desk = Desk::open(folder.path());
    let name = fs::read_to_string(folder.path().join("p00/CURRENT")).unwrap();
    let manifest = Path::new("p00").join(name.trim());
    let db = desk.spool.partitions()[0].db();
    let families = ringpost::queue::schema::FAMILIES;
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
        stored.push(desk.stored(&pattern(300, seed)).to_string());
        let before = tempfile::tempdir().unwrap();
        copy_folder(folder.path(), before.path());
        db.flush_cfs_opt(&families, &rocksdb::FlushOptions::default()).unwrap();
        let new = fs::read(folder.path().join(&manifest)).unwrap();
        let end = old.len().next_multiple_of(PAGE);
        if new.len() <= end || new[..old.len()] != old {
            continue;
        }
        for lost in [old.len()..end, end..new.len()] {
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
    desk.close();
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
    let desk = Desk::open(folder.path());
    desk.stored(b"in the partition");
    desk.close();
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

/// Flipped bits in the list of files are no torn end: the partition is kept whole, elsewhere.
#[test]
fn a_flipped_bit_in_the_list_of_files_cuts_nothing_off() {
    let folder = tempfile::tempdir().unwrap();
    let desk = Desk::open(folder.path());
    desk.stored(b"in the partition");
    desk.close();
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
    let rows: [(&str, Spoil); 3] = [
        ("CURRENT is gone", |p| fs::remove_file(p.join("CURRENT")).unwrap()),
        ("CURRENT is garbage", |p| fs::write(p.join("CURRENT"), "nonsense").unwrap()),
        ("manifest is garbage", |p| {
            let name = fs::read_to_string(p.join("CURRENT")).unwrap();
            fs::write(p.join(name.trim()), [7; 4000]).unwrap();
        }),
    ];
    for (name, spoil) in rows {
        let folder = tempfile::tempdir().unwrap();
        let options = |now_ms| SpoolOptions {
            partitions: Some(2),
            memory_bytes: 16 << 20,
            ..SpoolOptions::new(folder.path(), now_ms)
        };
        let desk = Desk::with(options(NOW_MS));
        desk.stored(b"in the first partition");
        desk.close();
        spoil(&folder.path().join("p00"));
        let spool = Spool::open(options(NOW_MS + 1)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let found = &spool.recovered()[0];
        assert!(
            found.notices.iter().any(|notice| notice.to_string().contains("does not open")),
            "{name}: {:?}",
            found.notices
        );
        let aside = format!("p00-{}", NOW_MS + 1);
        assert_eq!(moved(folder.path()), std::slice::from_ref(&aside), "{name}");
        assert!(newest_log(&folder.path().join("quarantine").join(aside)).exists(), "{name}");
        drop(spool);
        Desk::with(options(NOW_MS + 2)).stored(b"mail goes on");
    }
}

#[test]
fn a_missing_reason_never_hides_a_message() {
    let folder = tempfile::tempdir().unwrap();
    let desk = Desk::open(folder.path());
    let many: Vec<String> = (0..50).map(|n| format!("user{n}@example.test")).collect();
    let names: Vec<&str> = many.iter().map(String::as_str).collect();
    let body = desk.committer.body(NOW_MS).unwrap();
    let list = recipients(&names);
    let id = desk.run(body.finish(&envelope(list.as_recipients()), NOW_MS)).unwrap().id;
    let partition = &desk.spool.partitions()[0];
    // Half of the recipients have a job of their own, and the other half's is damaged.
    let half: Vec<u8> = (0..25u32).flat_map(|index| index.to_be_bytes()).collect();
    let mut record = Vec::new();
    let job = Job {
        number: 1,
        recipients: ringpost::queue::schema::Indexes::Stored(&half),
        ..Job::fresh(NOW_MS + 9, 0)
    };
    job.encode(&mut record).unwrap();
    let families = partition.families();
    partition.db().put_cf(families.job, key::of_job(id, 1), record).unwrap();
    partition.db().put_cf(families.job, key::of_job(id, 0), b"garbage").unwrap();
    desk.close();
    let spool = reopen(folder.path());
    let jobs = inspect::show(&spool, id).unwrap().jobs;
    assert_eq!(jobs[0].recipients, (25..50).collect::<Vec<u32>>());
    assert_eq!(jobs[1].recipients, (0..25).collect::<Vec<u32>>());
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
