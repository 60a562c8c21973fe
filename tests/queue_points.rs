//! Faults injected where the store answers, with the crate `fail`. Failpoints belong to the whole
//! process, so these tests have a file of their own: `cargo test --features failpoints`.

#![cfg(feature = "failpoints")]

mod queue_desk;

use queue_desk::Desk;
use queue_desk::NOW_MS;
use queue_desk::envelope;
use queue_desk::pattern;
use ringpost::base::limits::CHUNK_BYTES;
use ringpost::queue::CommitFault;
use ringpost::queue::inspect;
use ringpost::queue::inspect::ListFilter;

const ALL: ListFilter = ListFilter { limit: usize::MAX, after: None };

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
        let desk = Desk::open(folder.path());
        desk.stored(b"before");
        fail::cfg(point, &format!("1*return({kind})")).unwrap();
        let fault = desk.run(desk.store(&pattern(len, 1))).unwrap_err();
        assert_eq!(fault, expected, "{point} {kind}");
        fail::remove(point);
        let after = desk.run(desk.store(b"after"));
        assert_eq!(after.is_ok(), expected == CommitFault::SpoolFull, "{point} {kind}");
        desk.close();
        let desk = Desk::open(folder.path());
        let found = &desk.spool.recovered()[0];
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
        let desk = Desk::open(folder.path());
        let mut body = desk.committer.body(NOW_MS).unwrap();
        desk.run(desk.push(&mut body, &pattern(2 * CHUNK_BYTES, 1))).unwrap();
        let streams = || inspect::stats(&desk.spool).unwrap().partitions[0].streams;
        while streams() == 0 {
            std::thread::yield_now();
        }

        fail::cfg(point, faults).unwrap();
        let outcome = desk.run(async {
            desk.push(&mut body, &pattern(2 * CHUNK_BYTES, 2)).await?;
            body.finish(&envelope(Default::default()), NOW_MS).await
        });
        assert_eq!(outcome.map(|_| ()), Err(CommitFault::SpoolFull), "{name}");
        if faults.starts_with('2') && point == "commit::error" {
            assert_eq!(desk.run(desk.store(b"refused")).unwrap_err(), CommitFault::SpoolFull);
        }
        // A promise comes after all that was asked for before it, the removal too.
        desk.stored(b"first there is room for");
        desk.stored(b"and another");
        fail::remove(point);
        assert_eq!(streams(), 0, "{name}: the mark is gone");
        let partition = &desk.spool.partitions()[0];
        let chunks =
            partition.db().iterator_cf(partition.families().body, rocksdb::IteratorMode::Start);
        assert_eq!(chunks.count(), 2, "{name}: the chunks of the two messages are all there are");
        assert_eq!(inspect::list(&desk.spool, ALL).unwrap().len(), 2, "{name}");
        assert_eq!(desk.pool.chunks_out(), 0, "{name}");
        desk.close();
        let desk = Desk::open(folder.path());
        let found = &desk.spool.recovered()[0];
        assert_eq!((found.messages, found.swept, found.repaired, found.quarantined), (2, 0, 0, 0));
    }
    scenario.teardown();
}
