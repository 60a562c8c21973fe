//! The event log: what is true is in it, what is in it can be read once and in order, and its oldest part
//! can go.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use crate::queue_rig::NOW_MS;
use crate::queue_rig::Rig;
use ringpost::base::MessageId;
use ringpost::base::StreamNumber;
use ringpost::base::TenantId;
use ringpost::event::EventList;
use ringpost::event::record::Event;
use ringpost::event::record::Fact;
use ringpost::event::record::Outcome;
use ringpost::event::record::Owner;
use ringpost::queue::Job;
use ringpost::queue::Partition;
use ringpost::queue::SpoolOptions;
use ringpost::queue::commit::settle::JobChange;
use ringpost::queue::commit::settle::JobRecord;
use ringpost::queue::commit::settle::Settlement;
use ringpost::queue::record::event_log::key_of;
use ringpost::queue::record::ledger::Tally;
use ringpost::queue::store::event_log;
use ringpost::queue::store::event_log::Go;
use ringpost::queue::store::event_log::KeptEvents;
use ringpost::queue::store::event_log::Met;

fn owner(id: MessageId) -> Owner {
    Owner { id, tenant: TenantId(7), stream: StreamNumber(3) }
}

fn outcome(recipient: &str) -> Outcome<'_> {
    Outcome { recipient, reply: "250 2.0.0 Ok", is_remote: true, ..Outcome::default() }
}

fn settle(
    rig: &Rig,
    id: MessageId,
    change: JobChange,
    delivered: u64,
    facts: Vec<Fact<'_>>,
) -> bool {
    let mut events = EventList::default();
    facts.into_iter().for_each(|fact| events.push(&Event::new(owner(id), NOW_MS + 5, fact)));
    let settlement = Settlement {
        id,
        job: 0,
        change,
        reports: Vec::new(),
        events,
        tally: Tally { delivered, ..Tally::default() },
        is_order: false,
        keep_until_ms: None,
        envelope: None,
    };
    rig.run(rig.committer.settle(Arc::new(settlement))).expect("it is written")
}

fn deferred(rig: &Rig, id: MessageId) -> bool {
    let again = JobRecord::new(&Job::fresh(NOW_MS + 60_000, 2)).expect("it is short");
    settle(rig, id, JobChange::Again(again), 0, vec![Fact::Deferred(outcome("one@example.test"))])
}

/// What can be read from there on, as `number type`, and `from-to gap`.
fn read(partition: &Partition, from: u64) -> (Vec<String>, u64) {
    let mut found = Vec::new();
    let next = event_log::read(partition, from, |met| {
        match met {
            Met::Gap { from, to } => found.push(format!("{from}-{to} gap")),
            Met::Entry(entry) => {
                let events = ringpost::event::read(entry.events);
                for (number, event) in (entry.first..).zip(events) {
                    let name = event.map_or("unknown", |event| event.fact.name());
                    found.push(format!("{number} {name}"));
                }
            }
        }
        Go::On
    });
    (found, next.expect("it can be read"))
}

fn partition(rig: &Rig) -> &Partition {
    &rig.spool.partitions()[0]
}

#[test]
fn what_is_true_is_in_the_log_once_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let first = rig.stored(b"first");
    let second = rig.stored(b"second");
    assert_eq!(read(partition(&rig), 0), (vec!["0 accepted".into(), "1 accepted".into()], 2));
    let facts = ["one@example.test", "two@example.test"].map(|to| Fact::Delivered(outcome(to)));
    assert!(settle(&rig, first, JobChange::End, 2, facts.to_vec()));
    // A job that has ended settles nothing, and nothing is told of it.
    assert!(!settle(&rig, first, JobChange::End, 2, facts.to_vec()));
    assert!(rig.run(rig.committer.delete(second)).expect("it is written"));
    let all = ["0 accepted", "1 accepted", "2 delivered", "3 delivered", "4 cancelled"];
    assert_eq!(read(partition(&rig), 0), (all.map(String::from).to_vec(), 5));
    // From within an entry the whole entry is shown: who reads skips what it has.
    assert_eq!(read(partition(&rig), 3).0[..2], ["2 delivered", "3 delivered"]);
    assert_eq!(read(partition(&rig), 5), (Vec::new(), 5));
    rig.close();
    let rig = Rig::open(folder.path());
    assert_eq!(read(partition(&rig), 0), (all.map(String::from).to_vec(), 5));
    rig.stored(b"third");
    assert_eq!(read(partition(&rig), 5), (vec!["5 accepted".into()], 6));
}

#[test]
fn an_event_repeats_what_its_reader_needs() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let id = rig.stored(b"first");
    let mut seen = 0;
    event_log::read(partition(&rig), 0, |met| {
        let Met::Entry(entry) = met else { panic!("{met:?}") };
        let events: Vec<Event<'_>> = ringpost::event::read(entry.events).flatten().collect();
        let [event] = &events[..] else { panic!("{events:?}") };
        assert_eq!((event.owner().id, event.at_ms()), (id, NOW_MS));
        let Fact::Accepted(accepted) = &event.fact else { panic!("{event:?}") };
        assert_eq!(accepted.recipients, ["one@example.test", "two@example.test"]);
        assert_eq!(accepted.sender, "sender@example.test");
        assert_eq!(accepted.peer, Some("192.0.2.1".parse().unwrap()));
        assert_eq!(accepted.message_id, Some("<1@example.test>"));
        seen += 1;
        Go::On
    })
    .expect("it can be read");
    assert_eq!(seen, 1);
}

#[test]
fn an_event_is_read_once_it_is_durable() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let id = rig.stored(b"first");
    let before = Instant::now();
    assert!(deferred(&rig, id));
    let synced = partition(&rig).events_synced();
    assert!(synced == 1 || before.elapsed() >= Duration::from_millis(500), "it was not synced");
    // Nothing else comes, so that the thread syncs for the event alone.
    while partition(&rig).events_synced() < 2 {
        assert!(before.elapsed() < Duration::from_secs(20), "nobody syncs");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(read(partition(&rig), 1), (vec!["1 deferred".into()], 2));
    // The next sync of another order makes the rest durable.
    assert!(deferred(&rig, id));
    rig.stored(b"second");
    assert_eq!(read(partition(&rig), 2), (vec!["2 deferred".into(), "3 accepted".into()], 4));
}

#[test]
fn a_damaged_entry_is_told_as_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    (0..4).for_each(|_| _ = rig.stored(b"text"));
    let (own, event) = (partition(&rig), partition(&rig).families().event);
    let stored = |number| own.db().get_cf(event, key_of(number)).unwrap().expect("an entry");
    let mut bad = stored(1);
    bad[8] ^= 1;
    own.db().put_cf(event, key_of(1), bad).unwrap();
    let all = ["0 accepted", "1-2 gap", "2 accepted", "3 accepted"];
    assert_eq!(read(own, 0), (all.map(String::from).to_vec(), 4));
}

#[test]
fn the_oldest_files_go_first_and_the_gap_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let flush = |path: &Path| {
        let own = partition(&rig);
        own.db().flush_cf(own.families().event).unwrap_or_else(|fault| panic!("{path:?} {fault}"));
        own.db().compact_range_cf(own.families().event, None::<&[u8]>, None::<&[u8]>);
    };
    (0..3).for_each(|_| _ = rig.stored(b"old"));
    flush(folder.path());
    let drop_oldest = |oldest_ms, bytes_max| {
        let kept = KeptEvents { oldest_ms, bytes_max };
        event_log::drop_oldest(partition(&rig), kept).expect("it can be read")
    };
    let dropped = drop_oldest(NOW_MS, u64::MAX);
    assert_eq!((dropped.for_age, dropped.for_space), (0, 0), "none is older");
    assert!(drop_oldest(NOW_MS + 1, u64::MAX).for_age > 0, "all of the file is");
    rig.stored(b"new");
    assert_eq!(event_log::first_number(partition(&rig)).unwrap(), Some(3));
    assert_eq!(read(partition(&rig), 1), (vec!["1-3 gap".into(), "3 accepted".into()], 4));
    // What was not merged yet stays, however much it is.
    assert_eq!(drop_oldest(0, 0).for_space, 0);
    flush(folder.path());
    let dropped = drop_oldest(0, 0);
    assert!(dropped.for_space > 0 && dropped.left == 0, "{dropped:?}");
    assert_eq!(read(partition(&rig), 0), (vec!["0-4 gap".into()], 4));
    // Numbers go on, also after a restart without any entry.
    rig.close();
    let options =
        SpoolOptions { memory_bytes: 16 << 20, ..SpoolOptions::new(folder.path(), NOW_MS) };
    let rig = Rig::with(options);
    rig.stored(b"again");
    assert_eq!(read(partition(&rig), 4), (vec!["4 accepted".into()], 5));
}
