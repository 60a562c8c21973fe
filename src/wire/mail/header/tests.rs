//! Header blocks and summaries, at every split.

use super::*;
use crate::wire::mail::pick::VALUE_BYTES_MAX;

/// Received fields, octets of the block, id, and whether Date, From and Message-ID are present.
type Findings<'a> = (u32, u64, Option<&'a str>, [bool; 3]);

fn findings(scan: &HeaderScan) -> Findings<'_> {
    let has = [scan.has_date(), scan.has_from(), scan.has_message_id()];
    (scan.received_count(), scan.header_bytes(), scan.message_id(), has)
}

#[test]
fn a_block_is_scanned_alike_at_every_split() {
    let cut_id = format!("<{}", "i".repeat(MESSAGE_ID_BYTES_MAX - 1));
    let long_id = format!("Message-ID: <{}@x>\r\n\r\n", "i".repeat(300));
    let long_name = format!("{}: x\r\nDate: y\r\n\r\nbody", "n".repeat(40));
    let rows: &[(&str, &str, Findings<'_>)] = &[
        ("nothing", "", (0, 0, None, [false; 3])),
        ("no header", "\r\nReceived: x\r\n", (0, 2, None, [false; 3])),
        (
            "all of them",
            "Received: a\r\n\tb\r\nRECEIVED: c\r\nDate: d\r\nFrom: e\r\n\
             Message-Id: <f@g>\r\n\r\nReceived: h\r\n",
            (2, 69, Some("<f@g>"), [true; 3]),
        ),
        (
            "a folded id with a comment",
            "Message-ID:\r\n <a@\r\n b> (c)\r\n\r\n",
            (0, 30, Some("<a@b>"), [false, false, true]),
        ),
        (
            "an id without brackets",
            "Message-ID: a@b c\r\n\r\n",
            (0, 21, Some("a@b"), [false, false, true]),
        ),
        (
            "the first id counts",
            "Message-ID: <1>\r\nMessage-ID: <2>\r\n\r\n",
            (0, 36, Some("<1>"), [false, false, true]),
        ),
        (
            "a hostile id",
            "Message-ID: <\u{1b}[2J\u{e9}>\r\n\r\n",
            (0, 24, Some("<?[2J??>"), [false, false, true]),
        ),
        ("an id too long", &long_id, (0, 320, Some(&cut_id), [false, false, true])),
        ("a long name", &long_name, (0, 56, None, [true, false, false])),
        ("a name that starts alike", "Receivedx: a\r\nDates: b\r\n\r\n", (0, 26, None, [false; 3])),
        ("space before the colon", "Received : a\r\n\r\n", (1, 16, None, [false; 3])),
        ("a text without header", "Hello\r\nReceived: a\r\n", (0, 0, None, [false; 3])),
        (
            "a text behind fields",
            "Date: a\r\noops\r\nFrom: b\r\n",
            (0, 9, None, [true, false, false]),
        ),
        ("an mbox line", "From x Sat\r\nFrom: a\r\n", (0, 0, None, [false; 3])),
        ("folding before any field", " x\r\nFrom: a\r\n", (0, 0, None, [false; 3])),
        ("LF alone", "Received: a\nDate: b\n\nFrom: c\n", (1, 21, None, [true, false, false])),
        ("CR in the middle", "From: a\rb\r\n\rDate: c\r\n", (0, 11, None, [false, true, false])),
        ("no blank line", "From: a\r\nDate: b\r\n", (0, 18, None, [true, true, false])),
        ("empty name", ": a\r\nDate: b\r\n", (0, 0, None, [false; 3])),
    ];
    for (name, input, expected) in rows {
        let input = input.as_bytes();
        let mut bytewise = HeaderScan::default();
        input.iter().for_each(|byte| bytewise.feed(&[*byte]));
        assert_eq!(findings(&bytewise), *expected, "{name}, byte by byte");
        for at in 0..=input.len() {
            let mut scan = HeaderScan::default();
            scan.feed(&input[..at]);
            scan.feed(&input[at..]);
            assert_eq!(findings(&scan), *expected, "{name}, split at {at}");
        }
    }
}

/// The values of tenant, pool and subject in this input.
fn picked<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> [Option<String>; 3] {
    let wanted = Arc::new(WantedFields::new(["X-Tenant", "x-pool", "Subject"]));
    let mut scan = HeaderScan::wanting(wanted);
    pieces.into_iter().for_each(|piece| scan.feed(piece));
    [0, 1, 2].map(|place| scan.picked().value(place))
}

#[test]
fn requested_values_are_found_alike_at_every_split() {
    let long = format!("X-Pool: {}\r\nX-Tenant: b\r\n\r\n", "v".repeat(300));
    let cut = "v".repeat(VALUE_BYTES_MAX);
    let long_letter = format!("X-Pool: {}\u{e9}\r\n\r\n", "v".repeat(VALUE_BYTES_MAX - 1));
    let cut_letter = "v".repeat(VALUE_BYTES_MAX - 1);
    let spaces = format!("X-Pool: a{}\r\n\r\n", " ".repeat(300));
    let long_name = format!("{}: x\r\nX-Pool: a\r\n\r\n", "x".repeat(100));
    type Row<'r> = (&'r str, &'r [u8], [Option<&'r str>; 3]);
    let rows: &[Row<'_>] = &[
        ("nothing", b"", [None; 3]),
        (
            "all of them, in any case",
            b"Received: a\r\nx-TENANT: acme\r\nX-POOL:gold\r\nsubject: \t x y \r\n\r\n",
            [Some("acme"), Some("gold"), Some("x y")],
        ),
        (
            "folded",
            b"X-Pool: a\r\n b\r\n\tc \r\nX-Tenant:\r\n  t\r\n\r\n",
            [Some("t"), Some("a b c"), None],
        ),
        ("the first counts", b"X-Pool: a\r\nX-Pool: b\r\n\r\n", [None, Some("a"), None]),
        ("an empty one counts", b"X-Pool:\r\nX-Pool: b\r\n\r\n", [None, Some(""), None]),
        ("only spaces", b"X-Pool: \t \r\n \r\n\r\n", [None, Some(""), None]),
        ("behind the header", b"A: b\r\n\r\nX-Pool: a\r\n", [None; 3]),
        ("after a line that is no field", b"A: b\r\noops\r\nX-Pool: a\r\n", [None; 3]),
        ("no end", b"X-Tenant: a\r\nX-Pool: b", [Some("a"), Some("b"), None]),
        ("LF alone", b"X-Pool: a\n b\n\nSubject: x\n", [None, Some("a b"), None]),
        ("a name that starts alike", b"X-Poole: a\r\nX-Poo: b\r\n\r\n", [None; 3]),
        ("space before the colon", b"X-Pool : a\r\n\r\n", [None, Some("a"), None]),
        (
            "UTF-8",
            "X-Pool: \u{e9}\u{20ac}\r\n\r\n".as_bytes(),
            [None, Some("\u{e9}\u{20ac}"), None],
        ),
        ("8 bit", b"X-Pool: a\xe9b\xff\r\n\r\n", [None, Some("a?b?"), None]),
        ("controls", b"X-Pool: a\x1b[2J\0\x7f\r\n\r\n", [None, Some("a?[2J??"), None]),
        ("too long", long.as_bytes(), [Some("b"), Some(&cut), None]),
        ("cut in a letter", long_letter.as_bytes(), [None, Some(&cut_letter), None]),
        ("many spaces", spaces.as_bytes(), [None, Some("a"), None]),
        ("a long name before", long_name.as_bytes(), [None, Some("a"), None]),
    ];
    for (name, input, expected) in rows {
        let expected = expected.map(|value| value.map(str::to_owned));
        assert_eq!(picked(input.chunks(1)), expected, "{name}, byte by byte");
        for at in 0..=input.len() {
            let (head, tail) = input.split_at(at);
            assert_eq!(picked([head, tail]), expected, "{name}, split at {at}");
        }
    }
}

#[test]
fn requested_values_do_not_change_the_other_results() {
    let input = b"Message-ID: <a@b>\r\nReceived: c\r\nDate: d\r\n\r\nx";
    let mut plain = HeaderScan::default();
    plain.feed(input);
    let wanted = Arc::new(WantedFields::new(["message-id", "received"]));
    let mut wanting = HeaderScan::wanting(wanted);
    wanting.feed(input);
    assert_eq!(findings(&plain), findings(&wanting));
    assert_eq!(wanting.picked().value(0).as_deref(), Some("<a@b>"));
    assert_eq!(wanting.picked().value(1).as_deref(), Some("c"));
    assert_eq!(plain.picked().value(0), None);
}

#[test]
fn a_summary_is_decoded_and_bounded() {
    let head = "From: =?utf-8?q?J=C3=BCrgen?= <j@x.test>\r\nTo: a@y.test, B <b@y.test>\r\n\
        Subject: =?utf-8?q?one=0D=0Atwo?=\r\nDate: Sat, 21 Nov 2026 03:10:00 +0100\r\n\
        Message-ID: <1@x.test>\r\n\r\nbody";
    let expected = HeaderSummary {
        from: Some("J\u{fc}rgen <j@x.test>".into()),
        to: Some("a@y.test, B <b@y.test>".into()),
        subject: Some("one??two".into()),
        date: Some("2026-11-21T03:10:00+01:00".into()),
        message_id: Some("<1@x.test>".into()),
    };
    assert_eq!(summary(head.as_bytes()), expected);

    let long = format!("Subject: {}\r\nTo: {}\r\n\r\n", "\u{e9}".repeat(900), "a@b,".repeat(900));
    let found = summary(long.as_bytes());
    assert!(found.subject.is_some_and(|s| s.len() <= SUMMARY_BYTES_MAX));
    assert!(found.to.is_some_and(|s| s.len() <= SUMMARY_BYTES_MAX));
    assert_eq!(summary(b""), HeaderSummary::default());
    assert_eq!(summary(b"no header at all"), HeaderSummary::default());
}
