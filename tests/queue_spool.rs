//! Opening a spool: what is refused, by name and with a remedy, and what is completed.

mod queue_rig;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::pin::Pin;

use queue_rig::NOW_MS;
use queue_rig::Rig;
use queue_rig::pattern;
use ringpost::base::MessageId;
use ringpost::queue::Access;
use ringpost::queue::CommitFault;
use ringpost::queue::Committed;
use ringpost::queue::Spool;
use ringpost::queue::SpoolFault;
use ringpost::queue::SpoolOptions;
use ringpost::queue::Want;
use ringpost::queue::reclaim::reclaim;

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
        ids.extend(rig.run_all(storing).into_iter().map(|done| done.unwrap().id));
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
