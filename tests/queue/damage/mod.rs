//! Damage to every kind of file of a partition, judged by a record that damage cannot touch.
//!
//! One spool is made with mail in every state, in tables, blob files and a log. Of a copy of it one
//! file is damaged: a bit is flipped near its head, in its middle or near its foot, it is cut in
//! half, or removed. Then the spool is opened. What was served must not be offered again; what
//! was not must be offered, or be told: by an audit that is not clean, and by an error.
//!
//! Each run damages two files of each kind; `RINGPOST_TEST_DAMAGE_SEED` chooses others.
//! `RINGPOST_TEST_DAMAGE=all` damages every file, in many places. It takes a quarter of an hour.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;

use rocksdb::FlushOptions;

use crate::queue_rig::NOW_MS;
use crate::queue_rig::Rig;
use crate::queue_rig::copy_folder;
use crate::queue_rig::envelope;
use crate::queue_rig::pattern;
use crate::queue_rig::recipients;
use ringpost::base::MessageId;
use ringpost::queue::Job;
use ringpost::queue::Notice;
use ringpost::queue::Spool;
use ringpost::queue::SpoolOptions;
use ringpost::queue::admin::audit::audit;
use ringpost::queue::admin::inspect;
use ringpost::queue::commit::settle::JobChange;
use ringpost::queue::commit::settle::JobRecord;
use ringpost::queue::commit::settle::Settlement;
use ringpost::queue::notice::Loudness;
use ringpost::queue::record::family::FAMILIES;
use ringpost::queue::record::job::Indexes;
use ringpost::queue::record::ledger::Tally;

const ROUNDS: u64 = 3;
const MESSAGES_PER_ROUND: u64 = 40;
const RECIPIENTS: [&str; 3] = ["a@example.test", "b@example.test", "c@example.test"];

/// What is known of a message outside of the spool.
struct Known {
    body: Vec<u8>,
    /// Recipients that have no end yet.
    open: BTreeSet<u32>,
}

type Record = BTreeMap<MessageId, Known>;

/// Which family a table belongs to, and all other files by their kind.
type Kinds = BTreeMap<String, String>;

fn settle(rig: &Rig, id: MessageId, job: u16, change: JobChange, delivered: u64) {
    let tally = Tally { delivered, ..Tally::default() };
    let settlement = Settlement {
        events: Default::default(),
        id,
        job,
        change,
        reports: Vec::new(),
        tally,
        is_order: false,
        keep_until_ms: None,
        envelope: None,
    };
    assert!(rig.run(rig.committer.settle(Arc::new(settlement))).expect("it is written"));
}

fn job(number: u16, due_ms: u64, attempts: u32, indexes: &[u32], seed: u64) -> JobRecord {
    let stored: Vec<u8> = indexes.iter().flat_map(|index| index.to_be_bytes()).collect();
    let reply = text(300, seed);
    let job = Job {
        number,
        attempts,
        last_reply: &reply,
        recipients: Indexes::Stored(&stored),
        ..Job::fresh(due_ms, 0)
    };
    JobRecord::new(&job).expect("it can be encoded")
}

/// Text that does not shrink much.
fn text(len: usize, seed: u64) -> String {
    pattern(len, seed).iter().map(|byte| char::from(b'0' + byte % 64)).collect()
}

fn store(rig: &Rig, seed: u64) -> (MessageId, Known) {
    // Within the table, in a blob file, and in several chunks.
    let len = [300, 3000, 700, 5000, 90_000][seed as usize % 5];
    let body = pattern(len, seed);
    let mut writing = rig.committer.body(NOW_MS).expect("there is room");
    rig.run(rig.push(&mut writing, &body)).expect("it is taken");
    let list = recipients(&RECIPIENTS);
    let trace = text(1500, seed);
    let envelope = envelope(list.as_recipients());
    let writing = writing.finish(trace.as_bytes(), &envelope, NOW_MS);
    let id = rig.run(writing).expect("it is stored").id.local;
    (id, Known { body, open: (0..3).collect() })
}

/// What an attempt made of a message: nothing, a later try, some or all recipients served.
fn attempt(rig: &Rig, seed: u64, id: MessageId, known: &mut Known) {
    let later = NOW_MS + 1000 * seed;
    match seed % 4 {
        0 => (),
        1 => settle(rig, id, 0, JobChange::Again(job(0, later, 1, &[0, 1, 2], seed)), 0),
        2 if seed % 8 == 2 => {
            settle(rig, id, 0, JobChange::Again(job(0, later, 1, &[2], seed)), 2);
            known.open = [2].into();
        }
        2 => {
            let parts = vec![job(1, NOW_MS, 0, &[0], seed), job(2, NOW_MS, 0, &[1, 2], seed)];
            settle(rig, id, 0, JobChange::Split(parts), 0);
            settle(rig, id, 1, JobChange::End, 1);
            known.open = [1, 2].into();
        }
        _ => {
            settle(rig, id, 0, JobChange::End, 3);
            known.open.clear();
        }
    }
}

/// Makes the spool. Mail of each round is attempted in the next one, so that what an attempt writes
/// is in another table than what it replaces.
fn prepare(folder: &Path) -> (Record, Kinds) {
    let rig = Rig::open(folder);
    let db = rig.spool.partitions()[0].db();
    let families: Vec<_> = FAMILIES.iter().map(|name| db.cf_handle(name).unwrap()).collect();
    for family in &families {
        db.set_options_cf(*family, &[("disable_auto_compactions", "true")]).unwrap();
    }
    let mut record = Record::new();
    let mut fresh: Vec<(u64, MessageId)> = Vec::new();
    for round in 0..=ROUNDS {
        for (seed, id) in std::mem::take(&mut fresh) {
            attempt(&rig, seed, id, record.get_mut(&id).unwrap());
        }
        // What is not flushed stays in the log: the last attempts, and some new mail.
        let count = if round < ROUNDS { MESSAGES_PER_ROUND } else { 12 };
        for seed in round * MESSAGES_PER_ROUND..round * MESSAGES_PER_ROUND + count {
            let (id, known) = store(&rig, seed);
            fresh.push((seed, id));
            record.insert(id, known);
        }
        // A stream under way, of which nothing is promised.
        let mut body = rig.committer.body(NOW_MS).unwrap();
        rig.run(rig.push(&mut body, &pattern(150_000, round))).unwrap();
        std::mem::forget(body);
        if round < ROUNDS {
            db.flush_cfs_opt(&families, &FlushOptions::default()).unwrap();
        }
        if round == 1 {
            // So that there are tables on two levels.
            for family in &families {
                db.compact_range_cf(*family, None::<&[u8]>, None::<&[u8]>);
            }
        }
    }
    let tables = db.live_files().unwrap().into_iter();
    let mut kinds: Kinds = tables
        .map(|file| (file.name.trim_start_matches('/').to_owned(), file.column_family_name))
        .collect();
    rig.spool.copy_lists().unwrap();
    for entry in fs::read_dir(folder.join("p00")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let kind = match name.as_str() {
            "LOCK" | "IDENTITY" | "LOG" => continue,
            name if name.ends_with(".sst") => continue,
            name if name.ends_with(".blob") => "blob",
            name if name.ends_with(".log") => "log",
            name if name.starts_with("MANIFEST") => "MANIFEST",
            name if name.starts_with("OPTIONS") => "OPTIONS",
            _ => "CURRENT",
        };
        kinds.insert(name, kind.to_owned());
    }
    (record, kinds)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Harm {
    Flip(f64),
    Cut,
    Remove,
}

impl Harm {
    fn apply(self, path: &Path) {
        let mut bytes = fs::read(path).unwrap();
        match self {
            Harm::Flip(_) if bytes.is_empty() => (),
            Harm::Flip(part) => {
                // Near the ends rather than at them: the very last bytes may be padding.
                let last = bytes.len() - 1;
                let margin = (last / 2).min(9);
                let place = ((last as f64 * part) as usize).clamp(margin, last - margin);
                bytes[place] ^= 4;
                fs::write(path, bytes).unwrap();
            }
            Harm::Cut => fs::write(path, &bytes[..bytes.len() / 2]).unwrap(),
            Harm::Remove => fs::remove_file(path).unwrap(),
        }
    }
}

const HARMS: [Harm; 5] =
    [Harm::Flip(0.0), Harm::Flip(0.5), Harm::Flip(1.0), Harm::Cut, Harm::Remove];

/// Recipients that damage to one file may keep from being served, and those that it may have
/// served twice.
fn bounds(kind: &str, harm: Harm) -> (usize, usize) {
    let block = matches!(harm, Harm::Flip(part) if part < 0.9);
    let table = 3 * 2 * MESSAGES_PER_ROUND as usize;
    match kind {
        "CURRENT" | "OPTIONS" | "MANIFEST" => (0, 0),
        // The ledger has its copy; schedules are made of jobs; streams promise nothing; no mail depends
        // on events.
        "default" | "due" | "stream" | "event" => (0, 0),
        // A block of 16 KB holds about ten heads of this size.
        "head" if block => (3 * 12, 0),
        "envelope" | "head" | "job" | "body" => (table, 0),
        "blob" if harm == Harm::Flip(0.5) => (3, 0),
        "blob" => (table, 0),
        // What lies in the log alone: twelve messages, and the attempts of the last round.
        "log" => (3 * 12, 3 * MESSAGES_PER_ROUND as usize),
        kind => panic!("no bound for {kind}"),
    }
}

/// What was told at all starts of one spool.
type Told = Arc<Mutex<Vec<Notice>>>;

fn options(path: &Path, told: &Told) -> SpoolOptions {
    let told = Arc::clone(told);
    SpoolOptions {
        memory_bytes: 16 << 20,
        on_notice: Arc::new(move |notice| told.lock().unwrap().push(notice)),
        ..SpoolOptions::new(path, NOW_MS)
    }
}

/// Recipients that are offered for delivery, by message. `None`: a body cannot be read, as its
/// delivery would find too.
fn offered(spool: &Spool, record: &Record) -> Option<BTreeMap<MessageId, BTreeSet<u32>>> {
    let mut offered = BTreeMap::new();
    for (id, known) in record {
        let Ok(details) = inspect::show(spool, *id) else { continue };
        let pieces: Result<Vec<_>, _> = inspect::cat(spool, *id).ok()?.collect();
        assert_eq!(pieces.ok()?[1..].concat(), known.body, "{id:?} is offered with another body");
        let mut recipients = BTreeSet::new();
        for index in details.jobs.iter().flat_map(|job| job.recipients.clone()) {
            assert!(recipients.insert(index), "{id:?}: recipient {index} is in two jobs");
        }
        offered.insert(*id, recipients);
    }
    Some(offered)
}

/// Damages a copy of the spool, uses it, and judges. Answers what was found wrong.
fn judge(whole: &Path, record: &Record, file: &str, kind: &str, harm: Harm) -> Result<(), String> {
    let copy = tempfile::tempdir().unwrap();
    copy_folder(whole, copy.path());
    harm.apply(&copy.path().join("p00").join(file));
    let told = Told::default();
    // What no start reads is met later, and the start after that deals with it.
    let mut starts = 1;
    while !works(Rig::with(options(copy.path(), &told)), record) {
        starts += 1;
        if starts > 3 {
            return Err(format!("it never works: {:#?}", told.lock().unwrap()));
        }
    }
    let spool = Spool::open(options(copy.path(), &told)).expect("it was opened before");
    let found = offered(&spool, record).ok_or("a body cannot be read")?;
    let none = BTreeSet::new();
    let (mut missing, mut again) = (0, 0);
    for (id, known) in record {
        let offered = found.get(id).unwrap_or(&none);
        missing += known.open.difference(offered).count();
        again += offered.difference(&known.open).count();
    }
    // What the store says of itself is not for the operator.
    let mut notices = told.lock().unwrap().clone();
    notices.retain(|notice| !matches!(notice, Notice::Store { .. }));
    let is_told = notices.iter().any(|notice| notice.loudness() == Loudness::Error);
    let audited = audit(&spool).expect("it can be read");
    let told =
        format!("{starts} starts, {missing} missing, {again} again, {audited:?}, {notices:#?}");
    let (missing_max, again_max) = bounds(kind, harm);
    if missing > missing_max || again > again_max {
        return Err(format!("more than {missing_max} missing or {again_max} again: {told}"));
    }
    if !audited.adds_up {
        return Err(format!("the audit does not add up after recovery: {told}"));
    }
    if missing + again > 0 && (!is_told || audited.is_clean()) {
        return Err(format!("nobody was told: {told}"));
    }
    println!("{kind} {file} {harm:?}: {starts} starts, {missing} missing, {again} again");
    Ok(())
}

/// Whether all mail that is offered can be read, new mail is taken, and compactions succeed.
fn works(rig: Rig, record: &Record) -> bool {
    let is_readable = offered(&rig.spool, record).is_some();
    let is_taken = rig.run(rig.store(b"mail goes on")).is_ok();
    let partition = &rig.spool.partitions()[0];
    for family in FAMILIES {
        let family = partition.db().cf_handle(family).unwrap();
        // What this finds shows in the count of errors.
        let _ = partition.db().flush_cf(family);
        partition.db().compact_range_cf(family, None::<&[u8]>, None::<&[u8]>);
    }
    let is_sound = partition.background_errors() == 0;
    let goes_on = rig.run(rig.store(b"and on")).is_ok();
    rig.close();
    is_readable && is_taken && is_sound && goes_on
}

fn random_below(state: &mut u64, below: usize) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state % below as u64) as usize
}

#[test]
fn damage_to_any_file_costs_little_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (record, kinds) = prepare(folder.path());
    let mut by_kind: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (file, kind) in &kinds {
        by_kind.entry(kind).or_default().push(file);
    }
    // The families behind `event` are empty.
    for kind in
        FAMILIES.into_iter().take(8).chain(["blob", "log", "MANIFEST", "CURRENT", "OPTIONS"])
    {
        assert!(by_kind.contains_key(kind), "no file of {kind} was made: {kinds:?}");
    }
    let is_all = std::env::var("RINGPOST_TEST_DAMAGE").is_ok_and(|wanted| wanted == "all");
    let seed = std::env::var("RINGPOST_TEST_DAMAGE_SEED").ok().and_then(|seed| seed.parse().ok());
    let mut state = seed.unwrap_or(0x9E37_79B9_7F4A_7C15);
    let mut cases: Vec<(&str, &str, Harm)> = Vec::new();
    for (kind, files) in by_kind {
        if is_all {
            let flips = (0..=20).map(|part| Harm::Flip(f64::from(part) / 20.0));
            let harms: Vec<Harm> = flips.chain([Harm::Cut, Harm::Remove]).collect();
            let each = files.iter().flat_map(|file| harms.iter().map(|harm| (kind, *file, *harm)));
            cases.extend(each);
        } else {
            // One flip and one cut or loss, each of some file of the kind.
            for harms in [&HARMS[..3], &HARMS[3..]] {
                let file = files[random_below(&mut state, files.len())];
                cases.push((kind, file, harms[random_below(&mut state, harms.len())]));
            }
        }
    }
    let mut wrong = Vec::new();
    for (kind, file, harm) in &cases {
        let judged = std::panic::catch_unwind(|| judge(folder.path(), &record, file, kind, *harm));
        match judged {
            Ok(Ok(())) => (),
            Ok(Err(cause)) => wrong.push(format!("{kind} {file} {harm:?}: {cause}")),
            Err(_) => wrong.push(format!("{kind} {file} {harm:?}: it panicked, see above")),
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n\n"));
}
