//! Whether the event log of a spool agrees with its ledger.

use std::collections::HashSet;
use std::path::Path;

use ringpost::event;
use ringpost::event::record::Fact;
use ringpost::queue::Access;
use ringpost::queue::Partition;
use ringpost::queue::Spool;
use ringpost::queue::SpoolOptions;
use ringpost::queue::record::ledger::Tally;
use ringpost::queue::store::event_log;
use ringpost::queue::store::event_log::Go;
use ringpost::queue::store::event_log::Met;

/// As `assert_agree`, for the spool of a stopped server.
#[track_caller]
pub fn assert_agree_in(path: &Path, when: &str) {
    let mut options = SpoolOptions::new(path, 0);
    options.access = Access::Inspect;
    assert_agree(&Spool::open(options).expect("the spool opens"), when);
}

/// Every recipient that was ever accepted has one event that says so, every end has one, and the log has
/// no other.
#[track_caller]
pub fn assert_agree(spool: &Spool, when: &str) {
    for partition in spool.partitions() {
        assert_partition(partition, when);
    }
}

#[track_caller]
fn assert_partition(partition: &Partition, when: &str) {
    let (mut accepted, mut ended) = (HashSet::new(), HashSet::new());
    let (mut tally, mut attempts) = (Tally::default(), 0_u64);
    let mut twice = Vec::new();
    event_log::read(partition, 0, |met| {
        let entry = match met {
            Met::Entry(entry) => entry,
            Met::Gap { from, to } => panic!("{when}: no events {from} to {to}"),
        };
        for event in event::read(entry.events) {
            let event = event.unwrap_or_else(|| panic!("{when}: an unknown event"));
            let id = event.owner().id;
            let mut end = |index: u32| {
                if !ended.insert((id, index)) {
                    twice.push(format!("{event:?}"));
                }
            };
            match &event.fact {
                Fact::Accepted(one) => {
                    let count = one.recipients.len() as u32;
                    accepted.extend((one.first..one.first + count).map(|index| (id, index)));
                }
                Fact::Delivered(one) => {
                    (tally.delivered, _) = (tally.delivered + 1, end(one.index))
                }
                Fact::Bounced(one) => (tally.bounced, _) = (tally.bounced + 1, end(one.index)),
                Fact::Expired(one) => (tally.expired, _) = (tally.expired + 1, end(one.index)),
                Fact::Cancelled(one) => {
                    tally.cancelled += one.indexes.len() as u64;
                    one.indexes.iter().for_each(|index| end(*index));
                }
                Fact::Deferred(_) | Fact::Held(_) => attempts += 1,
            }
        }
        Go::On
    })
    .unwrap_or_else(|fault| panic!("{when}: {fault}"));
    let ledger = partition.ledger();
    assert_eq!(twice, Vec::<String>::new(), "{when}: ended twice");
    assert!(ended.is_subset(&accepted), "{when}: an end without its beginning");
    assert_eq!((accepted.len() as u64, tally), (ledger.taken, ledger.ended), "{when}: {attempts}");
}
