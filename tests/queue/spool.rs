//! Opening a spool: what is refused, by name and with a remedy, and what is completed.

use crate::queue_rig;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::pin::Pin;

use crate::queue_rig::NOW_MS;
use crate::queue_rig::Rig;
use crate::queue_rig::pattern;
use ringpost::base::MessageId;
use ringpost::base::PublicId;
use ringpost::base::SpoolNumber;
use ringpost::queue::Access;
use ringpost::queue::CommitFault;
use ringpost::queue::Committed;
use ringpost::queue::Job;
use ringpost::queue::Notice;
use ringpost::queue::Spool;
use ringpost::queue::SpoolFault;
use ringpost::queue::SpoolOptions;
use ringpost::queue::Want;
use ringpost::queue::admin::audit::audit;
use ringpost::queue::admin::inspect;
use ringpost::queue::admin::inspect::ListFilter;
use ringpost::queue::admin::select::Wanted;
use ringpost::queue::commit::settle::Filing;
use ringpost::queue::record::family::BACKLOG;
use ringpost::queue::record::family::FAMILIES;
use ringpost::queue::record::family::Layout;
use ringpost::queue::record::job::Filed;
use ringpost::queue::record::key;
use ringpost::queue::record::key::FlowKey;
use ringpost::queue::record::outer::Kind;
use ringpost::queue::record::outer::Writer;
use ringpost::queue::record::stream::StreamMark;
use ringpost::queue::store::reclaim::reclaim;
use ringpost::queue::store::schedule::Messages;
use ringpost::queue::store::schedule::read_job;

const ALL: ListFilter = ListFilter { limit: usize::MAX, after: None };

fn options(path: &Path, partitions: Option<u8>) -> SpoolOptions {
    SpoolOptions {
        partitions,
        partitions_new: 2,
        memory_bytes: 8 << 20,
        ..SpoolOptions::new(path, NOW_MS)
    }
}

fn fault_of(options: SpoolOptions) -> SpoolFault {
    let Err(fault) = Spool::open(options) else { panic!("the spool opened") };
    assert!(!fault.to_string().is_empty() && !fault.remedy().is_empty());
    fault
}

#[test]
fn a_spool_is_made_once_and_keeps_its_partitions() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/spool");
    assert_eq!(Spool::open(options(&path, None)).unwrap().partitions().len(), 2);
    assert_eq!(Spool::open(options(&path, Some(2))).unwrap().partitions().len(), 2);
    let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o700);
    let fault = fault_of(options(&path, Some(3)));
    assert!(matches!(fault, SpoolFault::PartitionCount { has: 2, asked: 3, .. }), "{fault}");
}

#[test]
fn what_stands_in_the_way_is_named() {
    type Spoil = fn(&Path);
    let rows: [(&str, Spoil, &str); 7] = [
        ("newer format", |p| put(p, r#"{"format":99,"future":true}"#), "format 99"),
        ("no JSON", |p| put(p, "garbage"), "ringpost.json"),
        ("no text", |p| fs::write(p.join("ringpost.json"), [0xff]).unwrap(), "not text"),
        ("no partitions", |p| put(p, r#"{"format":1,"partitions":0,"created_ms":1}"#), "0 is no"),
        ("too many", |p| put(p, r#"{"format":1,"partitions":65,"created_ms":1}"#), "65 is no"),
        ("missing partition", |p| fs::remove_dir_all(p.join("p01")).unwrap(), "p01"),
        (
            "others may write",
            |p| fs::set_permissions(p, fs::Permissions::from_mode(0o777)).unwrap(),
            "mode 0777",
        ),
    ];
    for (name, spoil, said) in rows {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool");
        drop(Spool::open(options(&path, None)).unwrap());
        spoil(&path);
        let fault = fault_of(options(&path, None));
        assert!(fault.to_string().contains(said), "{name}: {fault}");
    }
    let folder = tempfile::tempdir().unwrap();
    for asked in [0, 65] {
        let fault = fault_of(options(&folder.path().join("none"), Some(asked)));
        assert!(matches!(fault, SpoolFault::PartitionRange { .. }), "{fault}");
    }
    fs::write(folder.path().join("file"), "").unwrap();
    let fault = fault_of(options(&folder.path().join("file"), None));
    assert!(matches!(fault, SpoolFault::Io { .. }), "{fault}");
}

fn put(path: &Path, text: &str) {
    fs::write(path.join("ringpost.json"), text).unwrap();
}

#[test]
fn one_process_at_a_time_and_the_fault_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let fault = fault_of(options(folder.path(), None));
    let SpoolFault::Locked { pid, .. } = &fault else { panic!("{fault}") };
    assert_eq!(*pid, Some(std::process::id()));
    assert!(fault.remedy().contains(&std::process::id().to_string()));
    rig.close();
    Spool::open(options(folder.path(), None)).expect("the lock went with the spool");
}

#[test]
fn looking_makes_nothing_and_needs_no_lock() {
    let folder = tempfile::tempdir().unwrap();
    let look = |path: &Path| SpoolOptions { access: Access::Inspect, ..options(path, None) };
    let fault = fault_of(look(&folder.path().join("none")));
    assert!(matches!(fault, SpoolFault::NoSpool { .. }), "{fault}");
    assert!(!folder.path().join("none").exists());
    let rig = Rig::open(folder.path());
    rig.stored(b"one");
    let spool = Spool::open(look(folder.path())).expect("a second one may look");
    assert_eq!(spool.partitions()[0].messages(), 1);
}

#[test]
fn a_spool_half_made_is_completed() {
    type Undo = fn(&Path);
    let rows: [(&str, Undo); 3] = [
        ("before the meta", |p| fs::remove_file(p.join("ringpost.json")).unwrap()),
        ("before the second partition", |p| {
            fs::remove_file(p.join("ringpost.json")).unwrap();
            fs::remove_dir_all(p.join("p01")).unwrap();
        }),
        ("with an empty partition folder", |p| {
            fs::remove_file(p.join("ringpost.json")).unwrap();
            fs::remove_dir_all(p.join("p01")).unwrap();
            fs::create_dir(p.join("p01")).unwrap();
        }),
    ];
    for (name, undo) in rows {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool");
        let rig = Rig::with(options(&path, Some(2)));
        rig.stored(b"kept");
        rig.close();
        undo(&path);
        let spool = Spool::open(options(&path, None)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(spool.partitions().len(), 2, "{name}");
        assert_eq!(spool.partitions()[0].messages(), 1, "{name}: mail that was there stays");
    }
}

/// Blob files of the first partition, and their bytes.
fn blobs(rig: &Rig) -> BTreeMap<String, u64> {
    let entries = fs::read_dir(rig.spool.partitions()[0].path()).unwrap();
    let blobs = entries
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "blob"));
    blobs
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, entry.metadata().map_or(0, |found| found.len()))
        })
        .collect()
}

/// What the commit thread will answer.
type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, CommitFault>> + 'a>>;

/// A spool of so many messages of 20 KB, all of them in files.
fn backlog(path: &Path, count: usize) -> (Rig, Vec<MessageId>) {
    let rig = Rig::with(SpoolOptions { memory_bytes: 4 << 20, ..SpoolOptions::new(path, NOW_MS) });
    let bodies: Vec<Vec<u8>> = (0..50).map(|seed| pattern(20_000, seed)).collect();
    let mut ids = Vec::new();
    while ids.len() < count {
        let storing: Vec<Answer<'_, Committed>> =
            bodies.iter().map(|body| Box::pin(rig.store(body)) as _).collect();
        ids.extend(rig.run_all(storing).into_iter().map(|done| done.unwrap().id.local));
    }
    rig.spool.partitions()[0].db().flush_cf(rig.spool.partitions()[0].families().body).unwrap();
    (rig, ids)
}

fn delete(rig: &Rig, ids: impl Iterator<Item = MessageId>) {
    let deleting: Vec<Answer<'_, bool>> =
        ids.map(|id| Box::pin(rig.committer.delete(id)) as _).collect();
    for done in rig.run_all(deleting) {
        assert_eq!(done, Ok(true));
    }
}

/// Compactions over all that is stored move no body: a backlog costs what it took to write it.
#[test]
fn a_backlog_is_not_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let (rig, ids) = backlog(folder.path(), 1000);
    let before = blobs(&rig);
    let body_bytes = 1000 * 20_000;
    assert!(before.values().sum::<u64>() < body_bytes * 11 / 10, "{before:?}");
    // Mail out of every file leaves; compactions meet what stays.
    delete(&rig, ids.iter().copied().step_by(10));
    let partition = &rig.spool.partitions()[0];
    let body = partition.families().body;
    partition.db().flush_cf(body).unwrap();
    partition.db().compact_range_cf(body, None::<&[u8]>, None::<&[u8]>);
    reclaim(partition, Want::Routine, u64::MAX).unwrap();
    assert_eq!(blobs(&rig), before);
    assert_eq!(rig.body_of(ids[1]), pattern(20_000, 1));
    rig.close();
}

/// Bytes that this thread has read from files.
fn bytes_read() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/io").unwrap();
    text.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

/// The index and the filter of a table are read in parts. Those of a whole table do not fit into the
/// cache when a backlog is large, and each lookup would read a megabyte again.
#[test]
fn a_lookup_in_a_large_backlog_reads_little() {
    const ROWS: u64 = 1_000_000;
    const LOOKUPS: u64 = 1000;
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::with(SpoolOptions::new(folder.path(), NOW_MS));
    let partition = &rig.spool.partitions()[0];
    let (db, family) = (partition.db(), partition.families().envelope);
    let key = |row: u64| (row * 16).to_be_bytes();
    let mut batch = rocksdb::WriteBatch::default();
    for row in 0..ROWS {
        batch.put_cf(family, key(row), row.to_le_bytes());
        if row % 10_000 == 9999 {
            db.write(std::mem::take(&mut batch)).unwrap();
        }
    }
    db.flush_cf(family).unwrap();
    // Into one table, as compactions of a store that is in use write it.
    let mut options = rocksdb::CompactOptions::default();
    options.set_bottommost_level_compaction(rocksdb::BottommostLevelCompaction::Force);
    db.compact_range_cf_opt(family, None::<&[u8]>, None::<&[u8]>, &options);
    let before = bytes_read();
    for lookup in 0..LOOKUPS {
        let row = lookup * 7919 % ROWS;
        assert_eq!(db.get_cf(family, key(row)).unwrap().unwrap(), row.to_le_bytes());
    }
    let read = (bytes_read() - before) / LOOKUPS;
    assert!(read < 40_000, "{read} bytes for each lookup");
    rig.close();
}

/// What is left alive in files that are mostly dead is moved when space is short, also when
/// the mail was removed by a process before this one.
#[test]
fn the_room_of_removed_mail_comes_back_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (rig, ids) = backlog(folder.path(), 1000);
    let kept = |place: &usize| place % 50 == 3;
    delete(&rig, (0..1000).filter(|place| !kept(place)).map(|place| ids[place]));
    rig.close();
    let rig = Rig::with(SpoolOptions {
        memory_bytes: 4 << 20,
        ..SpoolOptions::new(folder.path(), NOW_MS)
    });
    let partition = &rig.spool.partitions()[0];
    // There is room for a part of it only, so that it takes several passes.
    let free_bytes = 300_000;
    for _ in 0..20 {
        reclaim(partition, Want::Short, free_bytes).unwrap();
    }
    let left: u64 = blobs(&rig).values().sum();
    assert!(left < 20 * 20_000 * 11 / 10, "{left} bytes for 20 messages of 20 KB");
    for place in (0..1000).filter(kept) {
        assert_eq!(rig.body_of(ids[place]), pattern(20_000, place as u64 % 50));
    }
    rig.close();
}

/// The families of a Ringpost that is one format ahead.
const LATER_FAMILIES: [&str; FAMILIES.len() + 1] = {
    let mut all = ["later"; FAMILIES.len() + 1];
    let (these, _) = all.split_at_mut(FAMILIES.len());
    these.copy_from_slice(&FAMILIES);
    all
};
const LATER: Layout = Layout { format: Layout::CURRENT.format + 1, families: &LATER_FAMILIES };

/// `ringpost.json` with another format.
fn with_format(text: &str, old: u32, new: u32) -> String {
    let changed = text.replace(&format!("\"format\": {old}"), &format!("\"format\": {new}"));
    assert_ne!(changed, text, "it has format {old}");
    changed
}

/// Every file below a folder, but for the lock.
fn files_of(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files_of(&path)),
            path if path.ends_with("lock") => (),
            path => drop(found.insert(path.clone(), fs::read(path).unwrap())),
        }
    }
    found
}

#[test]
fn a_later_format_is_added_on_open_and_refused_unchanged_by_this_one() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::with(options(folder.path(), Some(1)));
    let id = rig.stored(b"mail");
    rig.close();
    let later = || SpoolOptions { layout: LATER, ..options(folder.path(), None) };
    {
        let spool = Spool::open(later()).unwrap_or_else(|fault| panic!("{fault}"));
        let db = spool.partitions()[0].db();
        db.put_cf(db.cf_handle("later").expect("it was added"), b"key", b"value").unwrap();
        assert_eq!(queue_rig::body_of(&spool, id), b"mail");
    }
    let before = files_of(folder.path());
    let fault = fault_of(options(folder.path(), None));
    let (found, known) = (LATER.format, Layout::CURRENT.format);
    let is_newer =
        matches!(fault, SpoolFault::Newer { found: f, known: k, .. } if (f, k) == (found, known));
    assert!(is_newer, "{fault}");
    assert!(files_of(folder.path()) == before, "nothing was changed");
    // As if the later one had died before it wrote the new format.
    let meta = folder.path().join("ringpost.json");
    let text = fs::read_to_string(&meta).unwrap();
    fs::write(&meta, with_format(&text, found, known)).unwrap();
    let before = files_of(folder.path());
    let fault = fault_of(options(folder.path(), None));
    assert!(matches!(fault, SpoolFault::Foreign { .. }), "{fault}");
    assert!(fault.to_string().contains("later"), "{fault}");
    assert!(files_of(folder.path()) == before, "nothing was changed");
    let spool = Spool::open(later()).unwrap_or_else(|fault| panic!("{fault}"));
    let db = spool.partitions()[0].db();
    let value = db.get_cf(db.cf_handle("later").expect("it is there"), b"key").unwrap();
    assert_eq!(value.as_deref(), Some(&b"value"[..]), "and the later one goes on");
    assert_eq!(queue_rig::body_of(&spool, id), b"mail");
}

#[test]
fn a_record_of_a_later_version_stops_the_start_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::with(options(folder.path(), Some(1)));
    let id = rig.stored(b"mail");
    let partition = &rig.spool.partitions()[0];
    let (db, families) = (partition.db(), partition.families());
    let newer = MessageId::from_u64(id.as_u64() + 1);
    let mut record = Vec::new();
    let mut writer = Writer::new(&mut record, Kind { byte: b'E', version: 9 });
    writer.u64(1);
    writer.seal();
    db.put_cf(families.envelope, key::of_id(newer), &record).unwrap();
    // A body under way, which every start removes.
    let mut mark = Vec::new();
    StreamMark { started_ms: 1 }.encode(&mut mark);
    db.put_cf(families.stream, key::of_id(id), &mark).unwrap();
    let rows = |db: &rocksdb::DB| -> Vec<[Box<[u8]>; 2]> {
        let each = FAMILIES.into_iter().filter(|name| *name != "default");
        let each = each.map(|name| db.cf_handle(name).unwrap());
        let each = each.flat_map(|it| db.iterator_cf(it, rocksdb::IteratorMode::Start).flatten());
        each.map(|(key, value)| [key, value]).collect()
    };
    let before = rows(db);
    rig.close();
    let fault = fault_of(options(folder.path(), None));
    assert!(matches!(fault, SpoolFault::Foreign { .. }), "{fault}");
    assert!(fault.to_string().contains("version 9"), "{fault}");
    let none = rocksdb::Options::default();
    let path = folder.path().join("p00");
    let db = rocksdb::DB::open_cf_for_read_only(&none, &path, FAMILIES, false).unwrap();
    assert_eq!(rows(&db), before, "nothing was swept, moved or repaired");
    assert_eq!(fs::read_dir(folder.path().join("quarantine")).unwrap().count(), 0);
}

/// A partition as format 1 made it, with one message for two.
fn make_format_1(folder: &Path, id: MessageId) {
    for name in ["p00", "quarantine", "copies"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    let path = folder.join("p00");
    let db = rocksdb::DB::open_cf(&options, &path, &FAMILIES[..6]).unwrap();
    let put = |family: &str, key: &[u8], value: &[u8]| {
        db.put_cf(db.cf_handle(family).unwrap(), key, value).unwrap();
    };
    let mut record = Vec::new();
    let mut writer = Writer::new(&mut record, Kind { byte: b'E', version: 1 });
    writer.u64(NOW_MS);
    writer.raw(&[0, 0, 0]);
    writer.u64(0);
    writer.u64(4);
    writer.u32(1);
    writer.u32(crc32fast::hash(b"body"));
    writer.raw(&[4, 192, 0, 2, 1, 0, 25]);
    for text in [Some("s@x.test"), None, None, Some("helo"), Some("smtp"), Some("ESMTP"), None] {
        writer.text("text", text).unwrap();
    }
    writer.bytes("trace", b"Received: by us\r\n").unwrap();
    writer.u32(1);
    writer.raw(&[0]);
    writer.text("mailbox", Some("r@x.test")).unwrap();
    writer.text("orcpt", None).unwrap();
    writer.seal();
    put("envelope", &key::of_id(id), &record);
    put("body", &key::of_body(id, 0), b"body");
    let mut job = Vec::new();
    Job::fresh(NOW_MS, 1).encode(&mut job).unwrap();
    put("job", &key::of_job(id, 0), &job);
    put("due", &key::of_due(NOW_MS, id, 0), b"");
    let mut ledger = Vec::new();
    let mut writer = Writer::new(&mut ledger, Kind { byte: b'L', version: 1 });
    // Taken, delivered, bounced, expired, deleted, quarantined, newest.
    [9, 5, 1, 1, 1, 0, id.as_u64()].into_iter().for_each(|count| writer.u64(count));
    writer.seal();
    put("default", b"ledger", &ledger);
    fs::write(folder.join("copies/p00.counts"), [&ledger[..], &[0; 4034]].concat()).unwrap();
    drop(db);
    fs::write(folder.join("ringpost.json"), r#"{"format":1,"partitions":1,"created_ms":1}"#)
        .unwrap();
}

#[test]
fn a_spool_of_format_1_is_upgraded_when_it_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let id = MessageId::from_u64(NOW_MS << 20);
    make_format_1(folder.path(), id);
    let look = SpoolOptions { access: Access::Inspect, ..options(folder.path(), None) };
    let fault = fault_of(look.clone());
    assert!(matches!(fault, SpoolFault::Older { found: 1, .. }), "{fault}");
    for _ in 0..2 {
        let rig = Rig::with(options(folder.path(), None));
        assert_eq!(rig.spool.recovered()[0].notices, [], "an upgrade is no damage");
        let pieces: Result<Vec<_>, _> = inspect::cat(&rig.spool, id).unwrap().collect();
        assert_eq!(pieces.unwrap(), [&b"Received: by us\r\n"[..], b"body"]);
        let audit = audit(&rig.spool).unwrap();
        assert!(audit.is_clean(), "{audit:?}");
        assert_eq!((audit.sum.taken, audit.sum.ended.cancelled, audit.sum.queued), (9, 1, 1));
        let partition = &rig.spool.partitions()[0];
        let record = partition.db().get_cf(partition.families().envelope, key::of_id(id)).unwrap();
        assert_eq!(record.unwrap()[0], 2, "the envelope has today's version");
        rig.close();
    }
    let spool = Spool::open(look).expect("now it can be looked into");
    assert_eq!(spool.partitions()[0].messages(), 1);
    let rig = Rig::with(options(folder.path(), None));
    assert!(rig.run(rig.committer.delete(id)).unwrap());
    assert!(inspect::show(&rig.spool, id).is_err(), "removed after it was written twice");
    rig.close();
    let rig = Rig::with(options(folder.path(), None));
    assert!(inspect::show(&rig.spool, id).is_err());
    assert!(audit(&rig.spool).unwrap().is_clean());
}

/// A spool of format 2 has no `backlog`, and jobs of version 1.
#[test]
fn a_spool_of_format_2_is_upgraded_when_it_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::with(options(folder.path(), Some(1)));
    let job = (rig.stored(b"mail"), 0);
    rig.close();
    let path = folder.path().join("p00");
    let mut db = rocksdb::DB::open_cf(&rocksdb::Options::default(), &path, FAMILIES).unwrap();
    db.drop_cf(BACKLOG).unwrap();
    let jobs = db.cf_handle("job").unwrap();
    let mut record = db.get_cf(jobs, key::of_job(job.0, 0)).unwrap().expect("it is there");
    record.truncate(record.len() - 4);
    record[0] = 1;
    record.extend_from_slice(&crc32fast::hash(&record).to_be_bytes());
    db.put_cf(jobs, key::of_job(job.0, 0), &record).unwrap();
    drop(db);
    let meta = folder.path().join("ringpost.json");
    fs::write(&meta, with_format(&fs::read_to_string(&meta).unwrap(), 3, 2)).unwrap();
    let look = SpoolOptions { access: Access::Inspect, ..options(folder.path(), None) };
    let fault = fault_of(look.clone());
    assert!(matches!(fault, SpoolFault::Older { found: 2, .. }), "{fault}");
    let rig = Rig::with(options(folder.path(), None));
    assert_eq!(rig.spool.recovered()[0].notices, [], "an upgrade is no damage");
    let flow = FlowKey { destination: 1, tenant: 2, class: 3 };
    let filed = Some(Filed { flow, deadline_ms: NOW_MS + 1 });
    assert!(rig.run(rig.committer.file([Filing { job, filed }].into())).expect("it is written"));
    rig.close();
    let spool = Spool::open(look).expect("now it can be looked into");
    let read = read_job(&*spool.partitions()[0], job, Messages::Leave).unwrap();
    assert_eq!(Job::decode(&read.expect("it is there").job).map(|job| job.filed), Ok(filed));
    assert!(audit(&spool).unwrap().is_clean());
}

/// The families of an upgrade are added behind a repair too.
#[test]
fn a_spool_of_format_1_with_a_torn_list_of_files_is_upgraded() {
    let folder = tempfile::tempdir().unwrap();
    let id = MessageId::from_u64(NOW_MS << 20);
    make_format_1(folder.path(), id);
    crate::recover::tear_list(folder.path());
    let rig = Rig::with(options(folder.path(), None));
    let notices = &rig.spool.recovered()[0].notices;
    let is_cut = notices.iter().any(|one| matches!(one, Notice::ManifestTorn { .. }));
    assert!(is_cut, "{notices:?}");
    let pieces: Result<Vec<_>, _> = inspect::cat(&rig.spool, id).unwrap().collect();
    assert_eq!(pieces.unwrap(), [&b"Received: by us\r\n"[..], b"body"]);
    rig.stored(b"new mail");
    rig.close();
}

#[test]
fn ids_name_their_spool_whatever_becomes_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool");
    let rig = Rig::with(options(&path, None));
    let local = rig.stored(b"mail");
    let text = rig.committer.public_id(local).to_string();
    assert_eq!(inspect::list(&rig.spool, ALL, &Wanted::default()).unwrap()[0].id, text);
    assert_eq!(inspect::show(&rig.spool, local).unwrap().id, text);
    rig.close();
    type Spoil = fn(&Path);
    let rows: [(&str, Spoil); 3] = [
        ("a restart", |_| ()),
        ("without ringpost.json", |p| fs::remove_file(p.join("ringpost.json")).unwrap()),
        ("a damaged partition", |p| {
            fs::remove_dir_all(p.join("p01")).unwrap();
            fs::create_dir(p.join("p01")).unwrap();
        }),
    ];
    for (name, spoil) in rows {
        spoil(&path);
        let spool = Spool::open(options(&path, None)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(spool.public_id(local).to_string(), text, "{name}");
        let read: PublicId = text.to_lowercase().parse().expect("it is an id");
        assert_eq!(spool.local_id(read).expect("it is of this spool"), local, "{name}");
    }
    let other = Spool::open(options(&folder.path().join("other"), None)).unwrap();
    let number = SpoolNumber::from_bits(other.public_id(local).spool.as_u32() + 1);
    let foreign = PublicId { local, spool: number };
    let fault = other.local_id(foreign).expect_err("it is of another spool").to_string();
    assert!(fault.contains("another spool") && fault.contains(&number.to_string()), "{fault}");
}

/// The settings that jobs are filed under are known after a restart, and a new spool has none.
#[test]
fn a_partition_knows_what_its_jobs_are_filed_under() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let known = |rig: &Rig| rig.spool.partitions()[0].filed_under().expect("it can be read");
    let rig = Rig::open(folder.path());
    assert_eq!(known(&rig), None);
    for fingerprint in [7, u64::MAX] {
        rig.spool.partitions()[0].set_filed_under(fingerprint).expect("it can be written");
    }
    rig.close();
    let rig = Rig::open(folder.path());
    assert_eq!(known(&rig), Some(u64::MAX));
    rig.close();
}
