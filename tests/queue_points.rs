//! Faults injected where the store answers, with the crate `fail`. Failpoints belong to the whole
//! process, so these tests have a file of their own: `cargo test --features failpoints`.

#![cfg(feature = "failpoints")]

mod queue_rig;

use std::path::Path;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;
use std::time::Instant;

use queue_rig::HEAD;
use queue_rig::NOW_MS;
use queue_rig::Rig;
use queue_rig::copy_folder;
use queue_rig::envelope;
use queue_rig::pattern;
use queue_rig::recipients;
use ringpost::base::MessageId;
use ringpost::base::Wall;
use ringpost::base::limits::CHUNK_BYTES;
use ringpost::base::limits::COMMIT_BATCH_MESSAGES_MAX;
use ringpost::base::limits::COMMIT_HUNG_MS;
use ringpost::queue::CommitFault;
use ringpost::queue::Finish;
use ringpost::queue::Hang;
use ringpost::queue::Job;
use ringpost::queue::Notice;
use ringpost::queue::SharedBody;
use ringpost::queue::Spool;
use ringpost::queue::SpoolFault;
use ringpost::queue::SpoolOptions;
use ringpost::queue::admin::audit::audit;
use ringpost::queue::admin::inspect;
use ringpost::queue::admin::inspect::ListFilter;
use ringpost::queue::admin::select::Wanted;
use ringpost::queue::admin::select::summary;
use ringpost::queue::commit::settle::Filing;
use ringpost::queue::commit::settle::JobChange;
use ringpost::queue::commit::settle::JobRecord;
use ringpost::queue::commit::settle::Settlement;
use ringpost::queue::record::event_log;
use ringpost::queue::record::family;
use ringpost::queue::record::family::FAMILIES;
use ringpost::queue::record::job::Filed;
use ringpost::queue::record::key;
use ringpost::queue::record::key::DueKey;
use ringpost::queue::record::key::FlowKey;
use ringpost::queue::record::ledger::MENDING_KEY;
use ringpost::queue::record::ledger::Tally;
use ringpost::queue::record::lost::Lost;
use ringpost::queue::store::schedule::due_keys;

const ALL: ListFilter = ListFilter { limit: usize::MAX, after: None };

/// A batch that failed on a full disk and is in the log all the same: the next start finds records and
/// rows that belong together.
#[test]
fn a_failed_batch_that_is_in_the_log_all_the_same_leaves_no_wrong_count() {
    let scenario = fail::FailScenario::setup();
    let flow = FlowKey { destination: 1, tenant: 2, class: 0 };
    let filed = Some(Filed { flow, deadline_ms: NOW_MS + 9 });
    let record = |due_ms, filed| {
        JobRecord::new(&Job { filed, ..Job::fresh(due_ms, 2) }).expect("it can be encoded")
    };
    for order in ["file", "again", "again, filed", "end", "accept"] {
        let folder = tempfile::tempdir().unwrap();
        let rig = Rig::open(folder.path());
        let id = rig.stored(b"mail");
        let again = |change, delivered| {
            rig.committer.settle(Arc::new(Settlement {
                events: Default::default(),
                id,
                job: 0,
                change,
                reports: Vec::new(),
                tally: Tally { delivered, ..Tally::default() },
                is_order: false,
                keep_until_ms: None,
                envelope: None,
            }))
        };
        let carry_out = || match order {
            "file" => rig.run(rig.committer.file([Filing { job: (id, 0), filed }].into())),
            "again" => rig.run(again(JobChange::Again(record(NOW_MS + 5, None)), 0)),
            "again, filed" => rig.run(again(JobChange::Again(record(NOW_MS + 5, filed)), 0)),
            "end" => rig.run(again(JobChange::End, 2)),
            _ => rig.run(rig.store(b"more")).map(|_| true),
        };
        fail::cfg("commit::error_after_write", "1*return(enospc)").unwrap();
        assert_eq!(carry_out(), Err(CommitFault::SpoolFull), "{order}");
        // As a kill would leave it: the log has the batch, and nobody was told.
        let copy = tempfile::tempdir().unwrap();
        copy_folder(folder.path(), copy.path());
        let queued = match order {
            "end" => 0,
            "accept" => 4,
            _ => 2,
        };
        let spool = Spool::open(SpoolOptions::new(copy.path(), NOW_MS)).expect("it opens");
        assert_eq!(spool.recovered()[0].notices, [], "{order}");
        let audited = audit(&spool).expect("it can be read");
        assert!(audited.is_clean(), "{order}: {audited:?}");
        assert_eq!(audited.sum.queued, queued, "{order}");
        let summed = summary(&spool, 10).expect("it can be read").recipients;
        assert_eq!(summed, queued, "{order}");
        let partition = &*spool.partitions()[0];
        let due = due_keys(partition, DueKey::FIRST, Wall::from_ms(u64::MAX), 10).unwrap();
        assert_eq!(due.keys.len() as u64, queued / 2, "{order}: one row by time for each job");
    }
    scenario.teardown();
}

/// Faults at every point where the store can answer with one, with the crate `fail`.
#[test]
fn an_injected_fault_is_answered_and_the_bytes_are_gone() {
    let scenario = fail::FailScenario::setup();
    for (point, kind, len, expected) in [
        ("commit::error", "eio", 100, CommitFault::Failed),
        ("commit::error", "enospc", 100, CommitFault::SpoolFull),
        ("commit::error", "enospc", 5 * CHUNK_BYTES, CommitFault::SpoolFull),
        ("stream::error", "enospc", 5 * CHUNK_BYTES, CommitFault::SpoolFull),
        ("stream::error", "eio", 5 * CHUNK_BYTES, CommitFault::Failed),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let rig = Rig::open(folder.path());
        rig.stored(b"before");
        fail::cfg(point, &format!("1*return({kind})")).unwrap();
        let fault = rig.run(rig.store(&pattern(len, 1))).unwrap_err();
        assert_eq!(fault, expected, "{point} {kind}");
        fail::remove(point);
        let after = rig.run(rig.store(b"after"));
        assert_eq!(after.is_ok(), expected == CommitFault::SpoolFull, "{point} {kind}");
        rig.close();
        let rig = Rig::open(folder.path());
        let found = &rig.spool.recovered()[0];
        assert_eq!(found.messages, 1 + after.is_ok() as u64, "{point} {kind}");
        assert_eq!((found.repaired, found.quarantined), (0, 0), "{:?}", found.notices);
    }
    scenario.teardown();
}

/// The part of a body that was written before the disk was full goes away without a restart, even
/// if the first try to remove it meets the full disk too.
#[test]
fn what_a_full_disk_cut_short_is_removed_once_there_is_room() {
    let scenario = fail::FailScenario::setup();
    for (name, point, faults) in [
        ("a chunk, then its abort", "stream::error", "2*return(enospc)"),
        ("the last write", "commit::error", "1*return(enospc)"),
        ("the last write, and a message after it", "commit::error", "2*return(enospc)"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let rig = Rig::open(folder.path());
        let mut body = rig.committer.body(NOW_MS).unwrap();
        rig.run(rig.push(&mut body, &pattern(2 * CHUNK_BYTES, 1))).unwrap();
        let streams = || inspect::stats(&rig.spool).unwrap().partitions[0].streams;
        while streams() == 0 {
            std::thread::yield_now();
        }

        fail::cfg(point, faults).unwrap();
        let outcome = rig.run(async {
            rig.push(&mut body, &pattern(2 * CHUNK_BYTES, 2)).await?;
            body.finish(HEAD, &envelope(Default::default()), NOW_MS).await
        });
        assert_eq!(outcome.map(|_| ()), Err(CommitFault::SpoolFull), "{name}");
        if faults.starts_with('2') && point == "commit::error" {
            assert_eq!(rig.run(rig.store(b"refused")).unwrap_err(), CommitFault::SpoolFull);
        }
        // A promise comes after all that was asked for before it, the removal too.
        rig.stored(b"first there is room for");
        rig.stored(b"and another");
        fail::remove(point);
        assert_eq!(streams(), 0, "{name}: the mark is gone");
        let partition = &rig.spool.partitions()[0];
        let chunks =
            partition.db().iterator_cf(partition.families().body, rocksdb::IteratorMode::Start);
        assert_eq!(chunks.count(), 2, "{name}: the chunks of the two messages are all there are");
        assert_eq!(inspect::list(&rig.spool, ALL, &Wanted::default()).unwrap().len(), 2, "{name}");
        assert_eq!(rig.pool.chunks_out(), 0, "{name}");
        rig.close();
        let rig = Rig::open(folder.path());
        let found = &rig.spool.recovered()[0];
        assert_eq!((found.messages, found.swept, found.repaired, found.quarantined), (2, 0, 0, 0));
    }
    scenario.teardown();
}

/// Messages that were refused together are removed together: none of them has a mark by which
/// recovery would know that it was never promised.
#[test]
fn nothing_comes_back_of_many_messages_that_a_full_disk_refused() {
    const MANY: usize = 3 * COMMIT_BATCH_MESSAGES_MAX;
    let scenario = fail::FailScenario::setup();
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    fail::cfg("commit::error", "1*return(enospc)").unwrap();
    let (ids, outcome) = finish_many(&rig, MANY);
    assert_eq!(rig.run(outcome), Err(CommitFault::SpoolFull));
    fail::remove("commit::error");
    // The write may be in the log all the same.
    let partition = &rig.spool.partitions()[0];
    let envelope = partition.families().envelope;
    for id in &ids {
        partition.db().put_cf(envelope, key::of_id(*id), b"left").unwrap();
    }
    let event = partition.families().event;
    partition.db().put_cf(event, event_log::key_of(MANY as u64 - 1), b"left").unwrap();
    rig.stored(b"there is room again");
    let rows = partition.db().iterator_cf(event, rocksdb::IteratorMode::Start);
    assert_eq!(rows.count(), 1, "nothing is left of their events");
    let rows = partition.db().iterator_cf(envelope, rocksdb::IteratorMode::Start);
    assert_eq!(rows.count(), 1, "of {MANY} refused messages nothing is left");
    rig.close();
    scenario.teardown();
}

/// The answer to a commit, to be polled by hand.
type Finishing<'a> = Pin<Box<dyn Future<Output = Result<(), CommitFault>> + 'a>>;

/// The ids of so many messages with one body, and the answer to their being finished together.
fn finish_many(rig: &Rig, count: usize) -> (Vec<MessageId>, Finishing<'_>) {
    let shared = SharedBody::new(b"body".to_vec().into());
    let bodies: Vec<_> =
        (0..count).map(|_| rig.committer.body_of(&shared, NOW_MS).unwrap()).collect();
    let ids = bodies.iter().map(|body| body.id().local).collect();
    let finishing = async move {
        let list = recipients(&["one@example.test"]);
        let all = bodies.into_iter().map(|body| Finish {
            body,
            head: HEAD,
            envelope: envelope(list.as_recipients()),
            due_ms: NOW_MS,
        });
        rig.committer.finish_all(all.collect()).await.map(|_| ())
    };
    (ids, Box::pin(finishing))
}

/// All of them are removed in the next batch, not one a batch.
#[test]
fn many_messages_that_were_refused_while_the_disk_hung_are_removed_at_once() {
    const MANY: usize = 40;
    let scenario = fail::FailScenario::setup();
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    fail::cfg("commit::before_write", "pause").unwrap();
    let (_, mut hanging) = finish_many(&rig, MANY);
    assert!(poll_once(&mut hanging).is_none());
    await_batch(&rig);
    assert_eq!(poll_once(&mut hanging), Some(Err(CommitFault::Hung)));
    // The batch ends, and the next one waits.
    fail::cfg("commit::before_batch", "pause").unwrap();
    fail::remove("commit::before_write");
    while rig.committer.pump() == 0 {
        std::thread::yield_now();
    }
    let under_way = rig.committer.waiting();
    fail::remove("commit::before_batch");
    assert_eq!(under_way, MANY, "each removal is on its way");
    while rig.committer.waiting() > 0 {
        rig.committer.pump();
        std::thread::yield_now();
    }
    assert_eq!(inspect::list(&rig.spool, ALL, &Wanted::default()).unwrap(), [], "none is left");
    drop(hanging);
    rig.close();
    scenario.teardown();
}

/// Polls once; `None` while it waits.
fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    let mut context = Context::from_waker(Waker::noop());
    match Pin::new(future).poll(&mut context) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}

/// So many seconds from now, as if a shard's ticks had come so late.
fn in_seconds(count: u64) -> Instant {
    Instant::now() + Duration::from_secs(count)
}

/// Waits until the commit thread is within a batch, and stands still there.
fn await_batch(rig: &Rig) -> Hang {
    let end = Instant::now() + Duration::from_secs(20);
    for second in 0.. {
        if let Some(hang) = rig.committer.watch(in_seconds(second)) {
            return hang;
        }
        assert!(Instant::now() < end, "the batch is never begun");
        std::thread::yield_now();
    }
    unreachable!("it ends by the assertion")
}

#[test]
fn mail_is_refused_while_the_disk_hangs_and_what_was_refused_is_not_kept() {
    let scenario = fail::FailScenario::setup();
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let before = rig.stored(b"before");
    assert_eq!(rig.committer.watch(in_seconds(3600)), None, "no batch is under way");

    fail::cfg("commit::before_write", "pause").unwrap();
    let small = pattern(3000, 1);
    let mut hanging = Box::pin(rig.store(&small));
    assert!(poll_once(&mut hanging).is_none());
    let Hang::Began { ms } = await_batch(&rig) else { panic!("it hangs") };
    assert!(ms >= COMMIT_HUNG_MS, "{ms}");
    assert_eq!(rig.committer.watch(in_seconds(7200)), None, "a hang is told once");
    assert_eq!(poll_once(&mut hanging), Some(Err(CommitFault::Hung)));
    assert!(matches!(rig.committer.body(NOW_MS), Err(CommitFault::Hung)), "nothing new is begun");
    let mut deletion = Box::pin(rig.committer.delete(before));
    assert!(poll_once(&mut deletion).is_none(), "an order is carried out when the disk is back");

    fail::remove("commit::before_write");
    assert_eq!(rig.run(deletion), Ok(true));
    let Some(Hang::Ended { .. }) = rig.committer.watch(Instant::now()) else {
        panic!("the disk is back")
    };
    drop(hanging);
    // What was answered with a fault became durable, and is removed in the batch after.
    let after = rig.stored(b"after");
    rig.stored(b"and one more, behind the removal");
    let there = inspect::list(&rig.spool, ALL, &Wanted::default()).unwrap();
    assert_eq!(there.len(), 2, "{there:?}");
    assert_eq!(rig.body_of(after), b"after");
    assert!(rig.fatal.lock().unwrap().is_empty(), "a hang that ends is no failure");
    assert_eq!((rig.pool.chunks_out(), rig.committer.waiting()), (0, 0));
    let audit = audit(&rig.spool).unwrap();
    assert!(audit.adds_up, "{audit:?}");
    rig.close();
    scenario.teardown();
}

#[test]
fn a_body_under_way_is_refused_while_the_disk_hangs() {
    let scenario = fail::FailScenario::setup();
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let mut body = rig.committer.body(NOW_MS).unwrap();
    rig.run(rig.push(&mut body, &pattern(3 * CHUNK_BYTES, 1))).unwrap();

    fail::cfg("stream::before_write", "pause").unwrap();
    let more = pattern(8 * CHUNK_BYTES, 2);
    let mut pushing = Box::pin(rig.push(&mut body, &more));
    let end = Instant::now() + Duration::from_secs(20);
    let mut second = 0;
    let fault = loop {
        if let Some(done) = poll_once(&mut pushing) {
            break done;
        }
        rig.committer.pump();
        second += 1;
        rig.committer.watch(in_seconds(second));
        assert!(Instant::now() < end, "it waits for a disk that does not answer");
    };
    assert_eq!(fault, Err(CommitFault::Hung));
    drop(pushing);
    drop(body);

    fail::remove("stream::before_write");
    let end = Instant::now() + Duration::from_secs(20);
    while rig.committer.waiting() > 0 {
        rig.committer.pump();
        assert!(Instant::now() < end, "every order is answered");
        std::thread::yield_now();
    }
    rig.committer.watch(Instant::now());
    rig.stored(b"after");
    assert_eq!(inspect::stats(&rig.spool).unwrap().partitions[0].streams, 0);
    assert_eq!(rig.pool.chunks_out(), 0, "every chunk came back");
    rig.close();
    scenario.teardown();
}

/// A stopped spool with two messages, and tables of their own for each.
struct Damaged {
    /// The damaged table of the first message, and its bytes.
    table: PathBuf,
    bytes: Vec<u8>,
    lost: MessageId,
    kept: MessageId,
}

fn damaged(folder: &Path, family: &str) -> Damaged {
    damaged_of(folder, family, [b"in the damaged table", b"in another table...."])
}

fn damaged_of(folder: &Path, family: &str, bodies: [&[u8]; 2]) -> Damaged {
    let rig = Rig::open(folder);
    let db = rig.spool.partitions()[0].db();
    let families = FAMILIES.map(|name| db.cf_handle(name).unwrap());
    for each in families {
        db.set_options_cf(each, &[("disable_auto_compactions", "true")]).unwrap();
    }
    let [lost, kept] = bodies.map(|body| {
        let id = rig.stored(body);
        db.flush_cfs_opt(&families, &rocksdb::FlushOptions::default()).unwrap();
        id
    });
    let tables = db.live_files().unwrap();
    let own = tables.iter().filter(|table| table.column_family_name == family);
    let name = own.map(|table| table.name.clone()).min().expect("it was flushed");
    rig.close();
    let table = folder.join("p00").join(name.trim_start_matches('/'));
    let mut bytes = std::fs::read(&table).unwrap();
    bytes[10] ^= 0x55;
    std::fs::write(&table, &bytes).unwrap();
    Damaged { table, bytes, lost, kept }
}

/// The message in the sound table is there, and the other one is told as lost.
fn only_one_is_served(rig: &Rig, kept: MessageId, name: &str) {
    let listed = inspect::list(&rig.spool, ALL, &Wanted::default()).unwrap();
    assert_eq!(listed.len(), 1, "{name}: {listed:?}");
    assert_eq!(listed[0].id, rig.spool.public_id(kept).to_string(), "{name}");
    assert_eq!(rig.body_of(kept), b"in another table....", "{name}");
    assert_eq!(inspect::show(&rig.spool, kept).unwrap().jobs.len(), 1, "{name}");
    let audit = audit(&rig.spool).unwrap();
    assert!(audit.adds_up && audit.in_quarantine > 1, "{name}: {audit:?}");
    assert_eq!((audit.sum.queued, audit.sum.quarantined), (2, 2), "{name}: {audit:?}");
}

/// What the commit thread noted of a table that a compaction could not read.
fn suspect(folder: &Path, table: &Path) {
    let why = format!("Corruption: block checksum mismatch in {}", table.display());
    std::fs::write(folder.join("copies/p00.suspect"), why).unwrap();
}

/// A start that ends between the repair and its record in the database: the next one must not make
/// the repair again, of a database that is sound by now.
#[test]
fn a_repair_that_a_suspicion_asked_for_is_made_once() {
    let scenario = fail::FailScenario::setup();
    for (name, rescue) in [("a table is dropped", "return(enospc)"), ("all is rescued", "off")] {
        let folder = tempfile::tempdir().unwrap();
        let Damaged { table, kept, .. } = damaged(folder.path(), "job");
        suspect(folder.path(), &table);
        fail::cfg("rescue::error", rescue).unwrap();
        fail::cfg("mending::error", "1*return(enospc)").unwrap();
        let options = SpoolOptions::new(folder.path(), NOW_MS);
        if rescue != "off" {
            let fault = Spool::open(options.clone()).err().expect("it is cut short");
            assert!(matches!(fault, SpoolFault::DiskFull { .. }), "{name}: {fault}");
        }
        let spool = Spool::open(options).unwrap_or_else(|fault| panic!("{name}: {fault}"));
        drop(spool);
        fail::remove("rescue::error");
        fail::remove("mending::error");
        let rig = Rig::open(folder.path());
        assert_eq!(rig.spool.recovered()[0].notices, [], "{name}: all is told and done");
        only_one_is_served(&rig, kept, name);
        rig.close();
        let entries = std::fs::read_dir(folder.path().join("quarantine")).unwrap().flatten();
        let folders = entries.filter(|entry| entry.path().is_dir()).count();
        assert_eq!(folders, 1, "{name}: one repair");
    }
    scenario.teardown();
}

/// Before rows are given up, the reserve is.
#[test]
fn no_table_is_dropped_while_the_reserve_is_held() {
    let scenario = fail::FailScenario::setup();
    let folder = tempfile::tempdir().unwrap();
    let Damaged { kept, .. } = damaged(folder.path(), "job");
    let reserve = folder.path().join("reserve");
    std::fs::write(&reserve, "some space").unwrap();
    fail::cfg("rescue::error", "1*return(enospc)").unwrap();
    let rig = Rig::open(folder.path());
    fail::remove("rescue::error");
    let notices = &rig.spool.recovered()[0].notices;
    let is_rebuilt = notices.iter().any(|one| matches!(one, Notice::Rebuilt { .. }));
    assert!(is_rebuilt, "{notices:?}");
    assert_eq!(std::fs::metadata(reserve).unwrap().len(), 0);
    only_one_is_served(&rig, kept, "the reserve is spent");
    rig.close();
    scenario.teardown();
}

/// What an unfinished start knew to be lost is not forgotten for what the next one loses.
#[test]
fn a_table_that_is_dropped_adds_to_earlier_losses() {
    let scenario = fail::FailScenario::setup();
    let folder = tempfile::tempdir().unwrap();
    let Damaged { table, lost, .. } = damaged(folder.path(), family::HEAD);
    {
        let none = rocksdb::Options::default();
        let db = rocksdb::DB::open_cf(&none, folder.path().join("p00"), FAMILIES).unwrap();
        let mut known = Lost::default();
        known.add(family::ENVELOPE);
        db.put_cf(db.cf_handle(family::DEFAULT).unwrap(), MENDING_KEY, known.to_bytes()).unwrap();
    }
    suspect(folder.path(), &table);
    // What is left of the message cannot be moved, so the recovery does not end.
    let name = format!("quarantine/p00-envelope-{}.rec", key::hex(&key::of_id(lost)));
    std::fs::create_dir(folder.path().join(name)).unwrap();
    fail::cfg("rescue::error", "return(enospc)").unwrap();
    let rig = Rig::open(folder.path());
    fail::remove("rescue::error");
    let partition = &rig.spool.partitions()[0];
    let stored = partition.db().get_cf(partition.families().default, MENDING_KEY).unwrap();
    let known = Lost::from_bytes(&stored.expect("the recovery has not ended"));
    assert_eq!(known.names(), [family::ENVELOPE, family::HEAD]);
    rig.close();
    scenario.teardown();
}

/// A dropped table of bodies keeps no space but its own: the files that go on in use lose their second
/// names, by which they would stay for good.
#[test]
fn a_dropped_table_of_bodies_keeps_no_other_mail_on_disk() {
    let scenario = fail::FailScenario::setup();
    let folder = tempfile::tempdir().unwrap();
    let bodies = [pattern(5000, 1), pattern(5000, 2)];
    let all = bodies.each_ref().map(Vec::as_slice);
    let Damaged { table, bytes, kept, .. } = damaged_of(folder.path(), family::BODY, all);
    suspect(folder.path(), &table);
    fail::cfg("rescue::error", "return(enospc)").unwrap();
    let rig = Rig::open(folder.path());
    fail::remove("rescue::error");
    assert_eq!(rig.body_of(kept), bodies[1]);
    let notices = &rig.spool.recovered()[0].notices;
    let dropped = notices.iter().find_map(|notice| match notice {
        Notice::TableDropped { folder, .. } => Some(folder.clone()),
        _ => None,
    });
    let dropped = dropped.unwrap_or_else(|| panic!("{notices:?}"));
    let copy = std::fs::read(dropped.join(table.file_name().unwrap()));
    assert!(copy.is_ok_and(|copy| copy == bytes), "the table is kept as it was");
    let names: Vec<_> =
        std::fs::read_dir(&dropped).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let in_use: Vec<_> =
        names.iter().filter(|name| folder.path().join("p00").join(name).exists()).collect();
    assert_eq!(in_use, [""; 0], "of {names:?}");
    println!("kept: {names:?}");
    rig.close();
    scenario.teardown();
}

/// Where the disk is too full for a second database, the damaged table is dropped in place. Its rows
/// are lost, their messages go to quarantine, and all other mail is served.
#[test]
fn a_damaged_table_on_a_full_disk_costs_its_own_rows() {
    let scenario = fail::FailScenario::setup();
    for family in ["job", "envelope", "head"] {
        let folder = tempfile::tempdir().unwrap();
        let Damaged { table, bytes, kept, .. } = damaged(folder.path(), family);
        fail::cfg("rescue::error", "return(enospc)").unwrap();
        let rig = Rig::open(folder.path());
        fail::remove("rescue::error");
        let notices = &rig.spool.recovered()[0].notices;
        let dropped = notices.iter().find_map(|notice| match notice {
            Notice::TableDropped { folder, .. } => Some(folder.clone()),
            _ => None,
        });
        let dropped = dropped.unwrap_or_else(|| panic!("{family}: {notices:?}"));
        let copy = std::fs::read(dropped.join(table.file_name().unwrap()));
        assert!(copy.is_ok_and(|copy| copy == bytes), "{family}: the table is kept as it was");
        only_one_is_served(&rig, kept, family);
        rig.close();
        let rig = Rig::open(folder.path());
        assert_eq!(rig.spool.recovered()[0].notices, [], "{family}: a second start is as usual");
        only_one_is_served(&rig, kept, family);
        let partition = &rig.spool.partitions()[0];
        for name in FAMILIES {
            let handle = partition.db().cf_handle(name).unwrap();
            partition.db().compact_range_cf(handle, None::<&[u8]>, None::<&[u8]>);
        }
        assert_eq!(partition.background_errors(), 0, "{family}: compactions go on");
        rig.stored(b"new mail is taken");
        rig.close();
    }
    scenario.teardown();
}
