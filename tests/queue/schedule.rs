//! The schedule on disk: filing, the readers, leftovers, and the model store of the simulation.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::model_store::ModelStore;
use crate::queue_rig::HEAD;
use crate::queue_rig::NOW_MS;
use crate::queue_rig::Rig;
use crate::queue_rig::envelope;
use crate::queue_rig::recipients;
use ringpost::base::MessageId;
use ringpost::base::Wall;
use ringpost::queue::Job;
use ringpost::queue::Partition;
use ringpost::queue::QueueFault;
use ringpost::queue::SharedBody;
use ringpost::queue::admin::audit::audit;
use ringpost::queue::admin::inspect;
use ringpost::queue::admin::inspect::FiledPlace;
use ringpost::queue::admin::operate;
use ringpost::queue::admin::operate::Carried;
use ringpost::queue::admin::operate::Operation;
use ringpost::queue::admin::select::summary;
use ringpost::queue::commit::settle::Filing;
use ringpost::queue::commit::settle::JobChange;
use ringpost::queue::commit::settle::JobRecord;
use ringpost::queue::commit::settle::Settlement;
use ringpost::queue::record::family::FAMILIES;
use ringpost::queue::record::family::Family;
use ringpost::queue::record::job::Filed;
use ringpost::queue::record::job::Indexes;
use ringpost::queue::record::key;
use ringpost::queue::record::key::BacklogKey;
use ringpost::queue::record::key::DueKey;
use ringpost::queue::record::key::FlowKey;
use ringpost::queue::record::key::JobKey;
use ringpost::queue::record::ledger::Tally;
use ringpost::queue::record::rows::Row;
use ringpost::queue::record::rows::rows_of;
use ringpost::queue::store::families::handle;
use ringpost::queue::store::jobs::free_job_numbers;
use ringpost::queue::store::jobs::jobs_of;
use ringpost::queue::store::records::AFTER_ALL;
use ringpost::queue::store::records::Records;
use ringpost::queue::store::records::Walk;
use ringpost::queue::store::schedule::JobMail;
use ringpost::queue::store::schedule::KeysRead;
use ringpost::queue::store::schedule::MESSAGE_HELD_BYTES_MAX;
use ringpost::queue::store::schedule::Messages;
use ringpost::queue::store::schedule::Rest;
use ringpost::queue::store::schedule::count_before;
use ringpost::queue::store::schedule::due_keys;
use ringpost::queue::store::schedule::find_flows;
use ringpost::queue::store::schedule::flow_keys;
use ringpost::queue::store::schedule::read_job;

const NOW: Wall = Wall::from_ms(NOW_MS);
const DEADLINE_MS: u64 = NOW_MS + 3_600_000;
const CHECKED: [Family; 7] = [
    Family::Envelope,
    Family::Head,
    Family::Body,
    Family::Job,
    Family::Due,
    Family::Backlog,
    Family::Default,
];

fn flow(destination: u64, class: u8) -> FlowKey {
    FlowKey { destination, tenant: 7, class }
}

fn filed(destination: u64) -> Option<Filed> {
    Some(Filed { flow: flow(destination, 0), deadline_ms: DEADLINE_MS })
}

fn file(rig: &Rig, filings: &[Filing]) -> bool {
    rig.run(rig.committer.file(filings.into())).expect("it is written")
}

fn settle(rig: &Rig, (id, job): JobKey, change: JobChange, delivered: u64) -> bool {
    rig.run(rig.committer.settle(settlement((id, job), change, delivered))).expect("it is written")
}

fn settlement((id, job): JobKey, change: JobChange, delivered: u64) -> Arc<Settlement> {
    Arc::new(Settlement {
        events: Default::default(),
        id,
        job,
        change,
        reports: Vec::new(),
        tally: Tally { delivered, ..Tally::default() },
        is_order: false,
        keep_until_ms: None,
        envelope: None,
    })
}

fn record(number: u16, due_ms: u64, filed: Option<Filed>, indexes: &[u32]) -> JobRecord {
    let stored: Vec<u8> = indexes.iter().flat_map(|index| index.to_be_bytes()).collect();
    let recipients = Indexes::Stored(&stored);
    let job = Job { number, filed, recipients, ..Job::fresh(due_ms, 0) };
    JobRecord::new(&job).expect("it can be encoded")
}

fn partition(rig: &Rig) -> &Partition {
    &rig.spool.partitions()[0]
}

/// All keys and values of a family.
fn dump(store: &impl Records, family: Family) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    let walked = store.walk(family, &[], AFTER_ALL, |key, value| {
        rows.push((key.to_vec(), value.to_vec()));
        Walk::Next
    });
    walked.expect("it can be read");
    rows
}

/// Each job has the rows of its record, and there are no others.
fn check_rows(store: &impl Records) {
    let mut expected = BTreeSet::new();
    for (job_key, record) in dump(store, Family::Job) {
        let job = Job::decode(&record).expect("a job");
        expected.extend(rows_of(key::job_of(&job_key).expect("a key"), job.schedule()));
    }
    let due = dump(store, Family::Due).into_iter().map(|(row, _)| key::due_of(&row).map(Row::Due));
    let backlog = dump(store, Family::Backlog);
    let backlog = backlog.into_iter().map(|(row, _)| key::backlog_of(&row).map(Row::Backlog));
    let found: BTreeSet<Row> = due.chain(backlog).map(|row| row.expect("a row")).collect();
    assert_eq!(found, expected);
}

/// What flush and compaction make of the families of the schedule.
fn compact(rig: &Rig) {
    let db = partition(rig).db();
    for family in FAMILIES {
        let family = db.cf_handle(family).expect("it is there");
        db.flush_cf(family).expect("it is flushed");
        db.compact_range_cf(family, None::<&[u8]>, None::<&[u8]>);
    }
    assert_eq!(partition(rig).background_errors(), 0);
}

#[test]
fn a_filed_job_leaves_the_schedule_by_time_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let job = (rig.stored(b"filed"), 0);
    let other = (rig.stored(b"not filed"), 0);
    let due = |rig: &Rig, now| due_keys(partition(rig), DueKey::FIRST, now, 10).unwrap();
    assert_eq!(due(&rig, NOW).keys.len(), 2);
    let syncs = || rig.thread.handle().counts().syncs.load(Ordering::Relaxed);
    let before = syncs();
    assert!(file(&rig, &[Filing { job, filed: filed(1) }]));
    assert_eq!(syncs(), before, "it is not synced");
    let left = due(&rig, NOW);
    assert_eq!(left.keys, [DueKey { at_ms: NOW_MS, job: other }]);
    assert_eq!(left.rest, Rest::Later { at_ms: DEADLINE_MS }, "its deadline is still by time");
    let row = BacklogKey { flow: flow(1, 0), due: DueKey { at_ms: NOW_MS, job } };
    let in_flow = flow_keys(partition(&rig), flow(1, 0).start(), NOW, 10).unwrap();
    assert_eq!(in_flow, KeysRead { keys: vec![row], rest: Rest::Nothing });
    check_rows(partition(&rig));
    // Filed again under the same flow, under another one, and with another time in its flow.
    assert!(file(&rig, &[Filing { job, filed: filed(1) }]));
    assert!(file(&rig, &[Filing { job, filed: filed(2) }]));
    check_rows(partition(&rig));
    let again = JobChange::Again(record(0, NOW_MS + 5, filed(2), &[0, 1]));
    assert!(settle(&rig, job, again, 0));
    check_rows(partition(&rig));
    let read = flow_keys(partition(&rig), flow(2, 0).start(), NOW, 10).unwrap();
    assert_eq!(read, KeysRead { keys: vec![], rest: Rest::Later { at_ms: NOW_MS + 5 } });
    // A restart finds all of it sound.
    rig.close();
    let rig = Rig::open(folder.path());
    assert_eq!(rig.spool.recovered()[0].notices, []);
    assert!(file(&rig, &[Filing { job, filed: None }]));
    let times: Vec<u64> = due(&rig, Wall::from_ms(u64::MAX)).keys.iter().map(|r| r.at_ms).collect();
    assert_eq!(times, [NOW_MS, NOW_MS + 5]);
    assert_eq!(dump(partition(&rig), Family::Backlog), []);
    assert!(settle(&rig, job, JobChange::End, 2));
    assert!(!file(&rig, &[Filing { job, filed: filed(1) }]), "it has ended");
    assert!(!file(&rig, &[Filing { job: other, filed: filed(1) }, Filing { job, filed: None }]));
    check_rows(partition(&rig));
    compact(&rig);
    check_rows(partition(&rig));
    assert!(audit(&rig.spool).unwrap().is_clean());
}

#[test]
fn operations_know_the_rows_of_filed_jobs() {
    for (operation, left) in [
        (Operation::Hold, Some(operate::HELD_DUE_MS)),
        (Operation::Retry, Some(NOW_MS + 9)),
        (Operation::Reroute(Some("smtp:other.test:25".into())), Some(NOW_MS)),
        (Operation::Delete, None),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let rig = Rig::open(folder.path());
        let job = (rig.stored(b"filed"), 0);
        let later = JobChange::Again(record(0, NOW_MS + 50, filed(1), &[0, 1]));
        assert!(settle(&rig, job, later, 0));
        if operation == (Operation::Reroute(Some("smtp:other.test:25".into()))) {
            assert!(settle(&rig, job, JobChange::Again(record(0, NOW_MS, filed(1), &[0, 1])), 0));
        }
        let done = operate::carry_out(&rig.spool, job.0, &operation, NOW_MS + 9);
        assert_eq!(done.expect("it is carried out"), Carried::Done, "{operation:?}");
        assert_eq!(dump(partition(&rig), Family::Backlog), [], "{operation:?}");
        let due = dump(partition(&rig), Family::Due);
        let due: Vec<u64> = due.iter().map(|(row, _)| key::due_of(row).unwrap().at_ms).collect();
        assert_eq!(due, Vec::from_iter(left), "{operation:?}");
        check_rows(partition(&rig));
        if left.is_some() {
            assert!(
                !matches!(operation, Operation::Hold)
                    || !file(&rig, &[Filing { job, filed: filed(1) }])
            );
            assert!(rig.run(rig.committer.delete(job.0)).unwrap());
        }
        check_rows(partition(&rig));
        compact(&rig);
        assert!(audit(&rig.spool).unwrap().is_clean());
    }
}

#[test]
fn flows_are_found_by_seeking_and_read_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let flows = [flow(0, 0), flow(1, 0), flow(1, 2), flow(1, u8::MAX), flow(u64::MAX, u8::MAX)];
    let mut jobs = Vec::new();
    for (n, flow) in (0..).zip(flows) {
        for later in 0..5 {
            let job = (rig.stored(b"mail"), 0);
            let filed = Some(Filed { flow, deadline_ms: DEADLINE_MS });
            let again = record(0, NOW_MS - 100 + n + later, filed, &[0, 1]);
            assert!(settle(&rig, job, JobChange::Again(again), 0));
            jobs.push(job);
        }
    }
    let store = partition(&rig);
    let found = find_flows(store, FlowKey::FIRST, 100).unwrap();
    let first = |(n, flow): (u64, FlowKey)| BacklogKey {
        flow,
        due: DueKey { at_ms: NOW_MS - 100 + n, job: jobs[5 * n as usize] },
    };
    let expected: Vec<BacklogKey> = (0..).zip(flows).map(first).collect();
    assert_eq!(found, expected);
    // As many at a time as are asked for, to the last possible flow.
    let (mut next, mut parts) = (Some(FlowKey::FIRST), Vec::new());
    while let Some(from) = next {
        let part = find_flows(store, from, 2).unwrap();
        next = part.last().filter(|_| part.len() == 2).and_then(|last| last.flow.next());
        parts.extend(part);
    }
    assert_eq!(parts, expected);
    // A flow ends where the next one begins.
    let mut from = flows[1].start();
    let mut keys = Vec::new();
    loop {
        let read = flow_keys(store, from, NOW, 2).unwrap();
        keys.extend(read.keys.iter().map(|row| row.due.job));
        match (read.rest, read.keys.last()) {
            (Rest::More, Some(last)) => from = last.next(),
            (rest, _) => break assert_eq!(rest, Rest::Nothing),
        }
    }
    assert_eq!(keys, jobs[5..10]);
    let early = flow_keys(store, flows[1].start(), Wall::from_ms(NOW_MS - 98), 10).unwrap();
    assert_eq!((early.keys.len(), early.rest), (2, Rest::Later { at_ms: NOW_MS - 97 }));
    let last = flow_keys(store, flows[4].start(), NOW, 10).unwrap();
    assert_eq!((last.keys.len(), last.rest), (5, Rest::Nothing));
    // Operators are told how many are before a job in its flow.
    let place = FiledPlace { job: 0, flow: flows[1], ahead: 3 };
    assert_eq!(inspect::filed(&rig.spool, jobs[8].0).unwrap(), [place]);
    let row = BacklogKey { flow: flows[1], due: DueKey { at_ms: NOW_MS - 96, job: jobs[8] } };
    assert_eq!(count_before(store, row, 2).unwrap(), 2, "as many as are asked for");
    assert_eq!(inspect::filed(&rig.spool, rig.stored(b"not filed")).unwrap(), []);
}

#[test]
fn the_time_cursor_reads_on_from_any_key() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let jobs: Vec<JobKey> = (0..7).map(|_| (rig.stored(b"mail"), 0)).collect();
    let store = partition(&rig);
    let (mut from, mut met) = (DueKey::FIRST, Vec::new());
    loop {
        let read = due_keys(store, from, NOW, 3).unwrap();
        met.extend(read.keys.iter().map(|row| row.job));
        match (read.rest, read.keys.last()) {
            (Rest::More, Some(last)) => from = last.next(),
            (rest, _) => break assert_eq!(rest, Rest::Nothing),
        }
    }
    assert_eq!(met, jobs);
    // The cursor is inclusive: it goes back to exactly one row.
    let row = DueKey { at_ms: NOW_MS, job: jobs[4] };
    let read = due_keys(store, row, NOW, 10).unwrap();
    assert_eq!(read.keys.iter().map(|row| row.job).collect::<Vec<_>>(), jobs[4..]);
    let read = due_keys(store, DueKey::at(NOW_MS + 1), NOW, 10).unwrap();
    assert_eq!(read, KeysRead { keys: vec![], rest: Rest::Nothing });
    let read = due_keys(store, DueKey::FIRST, Wall::from_ms(NOW_MS - 1), 10).unwrap();
    assert_eq!(read, KeysRead { keys: vec![], rest: Rest::Later { at_ms: NOW_MS } });
}

/// The mail of a row. `None`: the record of its job does not have the row, or there is none.
fn read_row(rig: &Rig, row: Row, messages: Messages) -> Result<Option<JobMail>, QueueFault> {
    let read = read_job(partition(rig), row.job(), messages)?;
    let has_row = |mail: &JobMail| {
        let job = Job::decode(&mail.job).expect("`read_job` has decoded it");
        rows_of(mail.key, job.schedule()).any(|own| own == row)
    };
    Ok(read.filter(has_row))
}

#[test]
fn rows_lead_to_mail_to_leftovers_or_to_damage() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let body = |len: usize| crate::queue_rig::pattern(len, 3);
    let long = MESSAGE_HELD_BYTES_MAX as usize - HEAD.len();
    let [small, held, stored] = [10, long, long + 1].map(|len| (rig.stored(&body(len)), 0));
    let damaged = (rig.stored(b"damaged"), 0);
    assert!(file(&rig, &[Filing { job: held, filed: filed(1) }]));
    let due = |at_ms, job| Row::Due(DueKey { at_ms, job });
    let in_flow = |destination, job| {
        Row::Backlog(BacklogKey { flow: flow(destination, 0), due: DueKey { at_ms: NOW_MS, job } })
    };
    let db = partition(&rig).db();
    let mut batch = rocksdb::WriteBatch::default();
    batch.single_delete_cf(handle(db, Family::Body), key::of_body(damaged.0, 0));
    db.write(batch).unwrap();
    let rows = [
        due(NOW_MS, small),
        in_flow(1, held),
        due(DEADLINE_MS, held),
        due(NOW_MS, held),
        in_flow(2, held),
        due(NOW_MS, stored),
        due(NOW_MS, damaged),
        due(NOW_MS, (small.0, 1)),
    ];
    let found = rows.map(|row| read_row(&rig, row, Messages::Hold));
    let whole = |len: usize| [HEAD, &body(len)].concat();
    let texts: Vec<_> = found
        .iter()
        .map(|found| match found {
            Ok(Some(mail)) => Ok(mail.message.as_deref().map(<[u8]>::to_vec)),
            Ok(None) => Err("leftover"),
            Err(QueueFault::Body { .. }) => Err("damaged"),
            Err(other) => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        texts,
        [
            Ok(Some(whole(10))),
            Ok(Some(whole(long))),
            Ok(Some(whole(long))),
            Err("leftover"),
            Err("leftover"),
            Ok(None),
            Err("damaged"),
            Err("leftover"),
        ]
    );
    let mail = read_job(partition(&rig), held, Messages::Leave).unwrap().expect("it is there");
    assert_eq!((mail.key, mail.message), (held, None));
    assert_eq!(Job::decode(&mail.job).map(|job| job.filed), Ok(filed(1)));
    assert_eq!(read_job(partition(&rig), (small.0, 1), Messages::Leave).unwrap(), None);
}

/// A batch that failed on a full disk and is in the log all the same leaves rows that no record has.
/// They are skipped and removed, and neither the audit nor the summary counts them.
#[test]
fn leftover_rows_are_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let [twice, plain] = [(rig.stored(b"put twice"), 0), (rig.stored(b"plain"), 0)];
    assert!(file(&rig, &[Filing { job: twice, filed: filed(1) }]));
    let db = partition(&rig).db();
    // A second put of both rows: the removal of one uncovers the other.
    compact(&rig);
    let rows = [
        Row::Due(DueKey { at_ms: DEADLINE_MS, job: twice }),
        Row::Backlog(BacklogKey { flow: flow(1, 0), due: DueKey { at_ms: NOW_MS, job: twice } }),
    ];
    for row in rows {
        row.with_key(|family, row| db.put_cf(handle(db, family), row, []).unwrap());
    }
    assert!(settle(&rig, twice, JobChange::Again(record(0, NOW_MS + 70, None, &[1])), 1));
    compact(&rig);
    let exists = |row: &Row| row.with_key(|f, key| partition(&rig).get(f, key, |_| ()).unwrap());
    for row in &rows {
        assert!(exists(row).is_some(), "{row:?} was uncovered");
    }
    let count = |rig: &Rig| {
        let audited = audit(&rig.spool).unwrap();
        assert!(audited.is_clean(), "{audited:?}");
        (audited.sum.queued, summary(&rig.spool, 10).unwrap().recipients)
    };
    assert_eq!(count(&rig), (3, 3));
    let found = rows.map(|row| read_row(&rig, row, Messages::Leave));
    assert!(found.iter().all(|found| matches!(found, Ok(None))), "{found:?}");
    // Rows that jobs have stay where they are.
    let own = [Row::Due(DueKey { at_ms: NOW_MS, job: plain }), rows[0], rows[1], rows[1]];
    rig.run(rig.committer.remove_leftovers(own.to_vec())).expect("it is written");
    assert!(rows.iter().all(|row| exists(row).is_none()));
    check_rows(partition(&rig));
    compact(&rig);
    check_rows(partition(&rig));
    assert_eq!(count(&rig), (3, 3));
}

/// The partition and the model, given the same orders, hold the same.
#[test]
fn the_model_store_and_the_partition_agree() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let mut model = ModelStore::default();
    let mut random = Random(0x5eed);
    let mut ids: Vec<MessageId> = Vec::new();
    for step in 0..400 {
        if ids.is_empty() || random.below(6) == 0 {
            ids.push(accept_in_both(&rig, &mut model, random.below(3) * 40_000));
        }
        let id = ids[random.below(ids.len())];
        let jobs = jobs_of(&model, id).unwrap();
        let Some(stored) = jobs.get(random.below(jobs.len().max(1))) else { continue };
        let job = Job::decode(&stored.record).unwrap();
        let own = (id, stored.number);
        let indexes: Vec<u32> = job.recipients.iter().collect();
        let new = [None, filed(1), filed(2)][random.below(3)];
        let due_ms = NOW_MS + random.below(4) as u64;
        match random.below(9) {
            0..3 => {
                let filings = [Filing { job: own, filed: new }];
                assert_eq!(file(&rig, &filings), model.file(&filings));
            }
            3..6 => change_both(&rig, &mut model, own, 0, || {
                JobChange::Again(record(own.1, due_ms, new, &indexes))
            }),
            6 if indexes.len() > 1 => {
                let numbers = free_job_numbers(&model, id, 2).unwrap();
                change_both(&rig, &mut model, own, 0, || {
                    let parts = numbers.iter().zip(indexes.chunks(1));
                    let part = |(n, part): (&u16, &[u32])| record(*n, due_ms, new, part);
                    JobChange::Split(parts.map(part).collect())
                });
            }
            7 => {
                assert!(rig.run(rig.committer.delete(id)).unwrap() && model.delete(id));
            }
            _ => {
                let ended = indexes.len() as u64;
                change_both(&rig, &mut model, own, ended, || JobChange::End);
            }
        }
        if step % 20 == 0 {
            compact(&rig);
        }
        for family in CHECKED {
            assert_eq!(dump(partition(&rig), family), dump(&model, family), "{family:?}, {step}");
        }
        let found = find_flows(partition(&rig), FlowKey::FIRST, 100).unwrap();
        assert_eq!(found, find_flows(&model, FlowKey::FIRST, 100).unwrap());
        check_rows(&model);
    }
    assert!(audit(&rig.spool).unwrap().is_clean());
}

fn accept_in_both(rig: &Rig, model: &mut ModelStore, len: usize) -> MessageId {
    let text: Arc<[u8]> = crate::queue_rig::pattern(len + 1, 9).into();
    let to = recipients(&["one@example.test", "two@example.test"]);
    let to = envelope(to.as_recipients());
    let body = rig.committer.body_of(&SharedBody::new(Arc::clone(&text)), NOW_MS).unwrap();
    let id = rig.run(body.finish(HEAD, &to, NOW_MS)).expect("it is stored").id.local;
    model.accept(id, &to, (HEAD, text), NOW_MS);
    id
}

fn change_both(
    rig: &Rig,
    model: &mut ModelStore,
    job: JobKey,
    delivered: u64,
    change: impl Fn() -> JobChange,
) {
    let found = settle(rig, job, change(), delivered);
    assert_eq!(model.settle(&settlement(job, change(), delivered)), found);
}

#[test]
fn a_power_cut_of_the_model_loses_unsynced_batches_from_the_end() {
    let mut model = ModelStore::default();
    let to = recipients(&["one@example.test", "two@example.test"]);
    let id = MessageId::from_u64(NOW_MS << 20);
    model.accept(id, &envelope(to.as_recipients()), (HEAD, (*b"text").into()), NOW_MS);
    assert_eq!(model.unsynced(), 0, "an accepted message is synced");
    let job = (id, 0);
    let due = |model: &ModelStore| {
        let rows = dump(model, Family::Due).into_iter();
        rows.map(|(row, _)| key::due_of(&row).unwrap().at_ms).collect::<Vec<_>>()
    };
    let again = |at_ms| settlement(job, JobChange::Again(record(0, at_ms, None, &[0, 1])), 0);
    for at_ms in [1, 2, 3] {
        assert!(model.settle(&again(at_ms)));
    }
    assert!(model.file(&[Filing { job, filed: filed(1) }]));
    assert_eq!((model.unsynced(), due(&model)), (4, vec![DEADLINE_MS]));
    for (kept, left) in [(4, DEADLINE_MS), (3, 3), (1, 1), (0, NOW_MS)] {
        let mut cut = model.clone();
        cut.power_cut(kept);
        assert_eq!(due(&cut), [left]);
        check_rows(&cut);
    }
    assert!(model.settle(&settlement(job, JobChange::End, 2)));
    assert_eq!(model.unsynced(), 0, "an end makes all before it durable");
    model.power_cut(0);
    assert_eq!((dump(&model, Family::Job), due(&model)), (vec![], vec![]));
    assert_eq!(model.ledger().ended.delivered, 2);
}

#[test]
#[should_panic(expected = "is put or removed twice")]
fn the_model_refuses_a_row_that_is_put_twice() {
    let row = Row::Due(DueKey { at_ms: 1, job: (MessageId::from_u64(1), 0) });
    let mut model = ModelStore::default();
    model.write(|_, _, batch| {
        row.put(batch);
        row.put(batch);
    });
}

#[test]
#[should_panic(expected = "are not those of its record")]
fn the_model_refuses_a_row_without_a_record() {
    let row = Row::Due(DueKey { at_ms: 1, job: (MessageId::from_u64(1), 0) });
    ModelStore::default().write(|_, _, batch| row.put(batch));
}

/// Xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}
