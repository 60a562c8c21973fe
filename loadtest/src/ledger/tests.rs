//! Tests of ledgers: filled, added up, written, read and compared.

use crate::ledger::seen::RUNS_MAX;

use super::*;

fn sent(fates: &[Fate], recipients: u64) -> Sent {
    let fates = fates.iter().map(|fate| *fate as u8).collect();
    Sent { run: "r".to_owned(), recipients_per_message: recipients, fates, ..Sent::default() }
}

fn ledger(copies: &[(&str, u64, u64)]) -> Ledger {
    let mut ledger = Ledger::default();
    for (place, (run, number, recipient)) in copies.iter().enumerate() {
        let run = ledger.run(run.as_bytes());
        ledger.record((run, *number), *recipient, place as u64, Arrival::Whole);
    }
    ledger
}

#[test]
fn ids_are_read() {
    let id = |number, begun_us| Some(Id { run: b"a.b", number, begun_us, body_sum: None });
    assert_eq!(Id::parse(b" a.b-7 "), id(7, None));
    assert_eq!(Id::parse(b"a.b-7-1700000000000000"), id(7, Some(1_700_000_000_000_000)));
    let told = sum::of_message(b"a.b-7-9", 0xabc);
    let summed = Id { run: b"a.b", number: 7, begun_us: Some(9), body_sum: Some(0xabc) };
    assert_eq!(Id::parse(format!(" a.b-7-9-{told:08x}").as_bytes()), Some(summed));
    let long = [b"x".repeat(65), b"-1".to_vec()].concat();
    let bad: [&[u8]; 14] = [
        b"",
        b"a",
        b"a-",
        b"-1",
        b"a-x",
        b"a-1-",
        b"a-1-x",
        b"a-1-2-3",
        b"a-1-2-",
        b"a-1-2-+0000003",
        b"a-1-2-00000003-4",
        b"a-1--00000003",
        b"a b-1",
        &long,
    ];
    for bad in bad {
        assert_eq!(Id::parse(bad), None, "{}", String::from_utf8_lossy(bad));
    }
    assert_eq!(Id::parse(b"a-99999999999999999999"), None, "more than 64 bits");
}

#[test]
fn every_copy_is_counted() {
    use Fate::Accepted;
    use Fate::NotSent;
    use Fate::Refused;
    use Fate::Unknown;
    let all = sent(&[Accepted, Accepted, Accepted, Refused, Unknown, Unknown, NotSent], 1);
    let seen = [
        ("r", 0, 10),
        ("r", 1, 10),
        ("r", 1, 10),
        // To somebody else.
        ("r", 1, 11),
        ("r", 3, 10),
        ("r", 4, 10),
        ("r", 6, 10),
        // Behind the end, and of another run.
        ("r", 7, 10),
        ("q", 0, 10),
    ];
    let mut ledger = ledger(&seen);
    ledger.nameless = 1;
    let expected = Balance {
        lost: 1,
        duplicated: 1,
        alien: 1 + 1 + 1 + 1 + 1,
        unknown_but_seen: 1,
        refused_but_seen: 1,
        arrived: 2,
        ..Balance::default()
    };
    assert_eq!(ledger.compare(&all), expected);
    let totals = ledger.totals();
    assert_eq!((totals.distinct, totals.again, totals.nameless), (8, 1, 1));
}

#[test]
fn bounces_are_neither_lost_nor_arrived() {
    use Fate::Accepted;
    let all = sent(&[Accepted, Accepted, Accepted, Accepted, Fate::Unknown, Fate::Refused], 1);
    let mut seen = ledger(&[("r", 0, 10), ("r", 1, 10)]);
    let run = seen.run(b"r");
    // Message 1 is here and came back, 2 came back, and 3 did neither.
    for number in [1, 2, 4, 5] {
        seen.bounce((run, number), 10, 7);
    }
    let well = Balance {
        arrived: 2,
        bounced: 1,
        lost: 1,
        bounced_but_seen: 1,
        unknown_but_seen: 1,
        refused_but_seen: 1,
        ..Balance::default()
    };
    assert_eq!(seen.compare(&all), well);
    assert_eq!((seen.totals().bounced, seen.copies), (4, 2));
    // Twice, for a number that was not sent, and for another run.
    seen.bounce((run, 2), 10, 8);
    seen.bounce((run, 9), 10, 8);
    let other = seen.run(b"q");
    seen.bounce((other, 2), 10, 8);
    assert_eq!(seen.compare(&all), Balance { duplicated: 1, alien: 2, ..well });

    let several = sent(&[Accepted, Accepted], 3);
    let mut seen = ledger(&[("r", 0, 1), ("r", 0, 2), ("r", 1, 1)]);
    let run = seen.run(b"r");
    seen.bounce((run, 0), 3, 7);
    seen.bounce((run, 1), 2, 7);
    let whole = Balance { arrived: 3, bounced: 2, lost: 1, ..Balance::default() };
    assert_eq!(seen.compare(&several), whole);
    seen.bounce((run, 1), 3, 7);
    assert!(seen.compare(&several).is_well());
    // A fourth of three.
    seen.bounce((run, 1), 4, 7);
    assert_eq!(seen.compare(&several).alien, 1);
}

#[test]
fn corrupted_copies_have_arrived_and_fail() {
    let all = sent(&[Fate::Accepted, Fate::Accepted], 1);
    let mut seen = ledger(&[("r", 0, 10)]);
    let run = seen.run(b"r");
    seen.record((run, 1), 10, 7, Arrival::Corrupted);
    let expected = Balance { arrived: 2, corrupted: 1, ..Balance::default() };
    assert_eq!(seen.compare(&all), expected);
    assert!(!expected.is_well());
}

#[test]
fn each_recipient_counts_by_itself() {
    let all = sent(&[Fate::Accepted, Fate::Accepted, Fate::Accepted], 2);
    let seen =
        [("r", 0, 1), ("r", 0, 2), ("r", 1, 1), ("r", 1, 1), ("r", 2, 1), ("r", 2, 2), ("r", 2, 3)];
    let expected = Balance { lost: 1, duplicated: 1, alien: 1, arrived: 5, ..Balance::default() };
    assert_eq!(ledger(&seen).compare(&all), expected);
}

#[test]
fn ledgers_of_shards_add_up() {
    let all = sent(&vec![Fate::Accepted; 5000], 2);
    let mut shards = [Ledger::default(), Ledger::default(), Ledger::default()];
    for number in 0..5000 {
        for recipient in 1..=2 {
            let shard = &mut shards[(number * 7 + recipient) as usize % 3];
            let run = shard.run(b"r");
            shard.record((run, number), recipient, number, Arrival::Whole);
        }
    }
    let mut sum = Ledger::default();
    shards.into_iter().for_each(|shard| sum.add(shard));
    let balance = sum.compare(&all);
    assert!(balance.is_well(), "{balance:?}");
    assert_eq!((balance.arrived, sum.copies), (10_000, 10_000));
    // The same message once more, on another shard.
    sum.add(ledger(&[("r", 77, 2)]));
    assert_eq!(sum.compare(&all).duplicated, 1);
}

#[test]
fn a_million_messages_fit_and_a_full_ledger_says_so() {
    let mut full = Ledger::new(30_000_000);
    let run = full.run(b"r");
    (0..1_000_000).for_each(|number| full.record((run, number), 5, number, Arrival::Whole));
    assert_eq!(full.unrecorded, 0);
    let mut small = Ledger::new(100_000);
    let run = small.run(b"r");
    (0..10_000).for_each(|number| small.record((run, number), 5, number, Arrival::Whole));
    assert!(small.unrecorded > 0);
    assert!(!small.compare(&sent(&[], 1)).is_well());
    for name in 0..RUNS_MAX as u64 + 1 {
        let run = small.run(format!("run{name}").as_bytes());
        assert_eq!(run.is_none(), name >= RUNS_MAX as u64 - 1, "{name}");
    }
}

#[test]
fn partly_accepted_messages_count_for_their_recipients() {
    let mut all = sent(&[Fate::Refused], 3);
    all.partly.insert(0, 2);
    let weighed = |recipients: &[u64], bounced: &[u64]| {
        let seen: Vec<_> = recipients.iter().map(|recipient| ("r", 0, *recipient)).collect();
        let mut seen = ledger(&seen);
        let run = seen.run(b"r");
        bounced.iter().for_each(|recipient| seen.bounce((run, 0), *recipient, 7));
        let balance = seen.compare(&all);
        let Balance { arrived, bounced, lost, refused_but_seen, .. } = balance;
        (arrived, bounced, lost, refused_but_seen, balance.is_well())
    };
    assert_eq!(weighed(&[1, 2], &[]), (2, 0, 0, 0, true));
    assert_eq!(weighed(&[1], &[2]), (1, 1, 0, 0, true));
    assert_eq!(weighed(&[1], &[]), (1, 0, 1, 0, false));
    assert_eq!(weighed(&[1, 2, 3], &[]), (2, 0, 0, 1, false), "one was refused");
    assert_eq!(weighed(&[], &[1, 2, 3]), (0, 2, 0, 1, false));
}

#[test]
fn files_are_read_as_written() {
    let mut seen = ledger(&[("r", 0, 1), ("r", 0, 2), ("r", 0, 2), ("q", 9_999_999, u64::MAX)]);
    let run = seen.run(b"r");
    seen.bounce((run, 0), 1, 9);
    seen.bounce((run, 3), 1, 9);
    seen.record((run, 1), 7, 9, Arrival::Corrupted);
    seen.notices = 3;
    let mut file = Vec::new();
    seen.write(&mut file).expect("memory accepts all writes");
    let read = Ledger::read(&*file).expect("it was just written");
    assert_eq!((read.copies, read.totals()), (5, seen.totals()));
    let totals = read.totals();
    assert_eq!((totals.distinct, totals.bounced, totals.corrupted), (4, 2, 1));
    let old = Ledger::read("ringpost-load seen 1\nrun r\n7 a 2 99\n".as_bytes());
    assert_eq!(old.expect("a short line is valid").totals().again, 1);
    let mut all = sent(&[Fate::Accepted, Fate::Unknown, Fate::Unknown, Fate::NotSent], 2);
    all.partly.insert(2, 1);
    let file = "ringpost-load sent 1\nrun r\nrecipients 2\n1 accepted\n2 unknown\n1 not-sent\n\
                partly 2 1\n";
    assert_eq!(Sent::read(file.as_bytes()), Ok(all.clone()));
    let mut written = Vec::new();
    all.write(&mut written).expect("memory accepts all writes");
    assert_eq!(String::from_utf8_lossy(&written), file);
    assert_eq!(read.compare(&all), seen.compare(&all));
    for bad in ["", "x\n", "ringpost-load sent 1\nx y\n", "ringpost-load sent 1\n1 gone\n"] {
        let told = Sent::read(bad.as_bytes());
        assert!(told.is_err_and(|why| why.starts_with("line ")), "{bad}");
    }
    for bad in ["1 2 3 4", "run r\n1 2 0 4", "run r\n1 2 3 4 5", "run r\n1 2 3 4 5 x", "run r\n1"] {
        let text = format!("ringpost-load seen 1\n{bad}\n");
        assert!(Ledger::read(text.as_bytes()).is_err(), "{bad}");
    }
}
