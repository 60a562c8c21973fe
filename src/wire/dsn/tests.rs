//! Reports compared with expected text, parsed by mail-parser, and built from hostile input.

use mail_parser::MessageParser;
use mail_parser::MimeHeaders;
use mail_parser::PartType;
use proptest::prelude::*;

use crate::wire::classify::Category;
use crate::wire::classify::Cause;
use crate::wire::dsn::Built;
use crate::wire::dsn::Kind;
use crate::wire::dsn::Original;
use crate::wire::dsn::Report;
use crate::wire::dsn::ReportRecipient;
use crate::wire::dsn::wants;
use crate::wire::smtp::transaction::Ret;

const MESSAGE: &[u8] = b"From: <a@x.test>\r\nTo: <b@y.test>\r\nSubject: Hello\r\n\
    Message-ID: <1@x.test>\r\n\r\nHow are you?\r\n";
const PLAIN: Built = Built { eight_bit: false, smtputf8: false };

fn original<'a>(slices: &'a [&'a [u8]]) -> Original<'a> {
    Original { slices, ret: None, full_bytes_max: 10_000, smtputf8: false }
}

const RECIPIENT: ReportRecipient<'static> = ReportRecipient {
    mailbox: "b@y.test",
    orcpt: Some("rfc822;B+2Bb@y.test"),
    status: (5, 1, 1),
    category: Category::BadMailbox,
    reply: Some("550 5.1.1 <b@y.test>: Recipient address rejected: User unknown in local table"),
    cause: None,
    remote_mta: Some("mx.y.test"),
    last_attempt_ms: Some(1_795_230_600_000),
    will_retry_until_ms: Some(1_795_634_999_000),
};

fn report<'a>(
    kind: Kind,
    recipients: &'a [ReportRecipient<'a>],
    original: Original<'a>,
) -> Report<'a> {
    Report {
        kind,
        reporting_mta: "mx.example",
        from: "MAILER-DAEMON@mx.example",
        to: "a@x.test",
        id: "06AB3CDEFGHJK",
        now_ms: 1_795_230_660_000,
        arrival_ms: 1_795_230_540_000,
        envid: Some("QQ+2B1"),
        received_from: Some("client.x.test"),
        recipients,
        original,
    }
}

fn written(report: &Report<'_>) -> (String, Built) {
    let mut out = b"before".to_vec();
    let built = report.write(&mut out);
    let out = out.strip_prefix(b"before").expect("earlier output is kept").to_vec();
    check_lines(&out);
    assert!(built.eight_bit || out.is_ascii());
    assert!(built.eight_bit || !built.smtputf8);
    (String::from_utf8_lossy(&out).into_owned(), built)
}

fn check_lines(out: &[u8]) {
    assert!(out.ends_with(b"\r\n"));
    let text = String::from_utf8_lossy(out);
    for line in text.split("\r\n") {
        assert!(!line.contains(['\r', '\n', '\0']), "{line:?}");
    }
    assert!(out.split(|b| *b == b'\n').all(|line| line.len() <= 999));
}

/// The header fields, and the text of the three parts, as mail-parser reads them.
fn parsed(text: &[u8]) -> (Vec<String>, [String; 3], [String; 3]) {
    let message = MessageParser::default().parse(text).expect("a message");
    let PartType::Multipart(parts) = &message.root_part().body else { panic!("no multipart") };
    assert_eq!(parts.len(), 3, "{}", String::from_utf8_lossy(text));
    let kinds = [0, 1, 2].map(|place| {
        let part = message.part(parts[place]).expect("a part");
        let kind = part.content_type().expect("a type");
        format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or(""))
    });
    let bodies = [0, 1, 2].map(|place| {
        let part = message.part(parts[place]).expect("a part");
        let (start, end) = (part.raw_body_offset() as usize, part.raw_end_offset() as usize);
        String::from_utf8_lossy(&text[start..end]).into_owned()
    });
    let names = message.headers().iter().map(|field| field.name().to_owned()).collect();
    (names, kinds, bodies)
}

const HEADER_NAMES: [&str; 10] = [
    "Date",
    "From",
    "To",
    "Subject",
    "Message-ID",
    "In-Reply-To",
    "References",
    "Auto-Submitted",
    "MIME-Version",
    "Content-Type",
];

#[test]
fn the_text_of_a_failure_report() {
    let slices = [&MESSAGE[..20], &MESSAGE[20..]];
    let (text, built) = written(&report(Kind::Failed, &[RECIPIENT], original(&slices)));
    let expected = "\
Date: Sat, 21 Nov 2026 03:11:00 +0000
From: Mail Delivery System <MAILER-DAEMON@mx.example>
To: <a@x.test>
Subject: Undeliverable: your message could not be delivered
Message-ID: <06AB3CDEFGHJK@mx.example>
In-Reply-To: <1@x.test>
References: <1@x.test>
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
\tboundary=\"=_0.06AB3CDEFGHJK\"


--=_0.06AB3CDEFGHJK
Content-Description: Notification
Content-Type: text/plain; charset=us-ascii

This is the mail system at mx.example.

Your message could not be delivered to the following address. Delivery will
not be retried.

  <b@y.test>
    The mail server mx.y.test said:
      550 5.1.1 <b@y.test>: Recipient address rejected: User unknown in
      local table
    The address does not seem to exist.
    Please check the spelling, or ask the recipient for the correct address.

Your message:
  Subject:  Hello
  Received: Sat, 21 Nov 2026 03:09:00 +0000

Details for mail administrators and your message are attached.

--=_0.06AB3CDEFGHJK
Content-Description: Delivery report
Content-Type: message/delivery-status

Original-Envelope-Id: QQ+1
Reporting-MTA: dns; mx.example
Received-From-MTA: dns; client.x.test
Arrival-Date: Sat, 21 Nov 2026 03:09:00 +0000

Original-Recipient: rfc822; B+b@y.test
Final-Recipient: rfc822; b@y.test
Action: failed
Status: 5.1.1
Remote-MTA: dns; mx.y.test
Diagnostic-Code: smtp; 550 5.1.1 <b@y.test>: Recipient address rejected:
  User unknown in local table
Last-Attempt-Date: Sat, 21 Nov 2026 03:10:00 +0000

--=_0.06AB3CDEFGHJK
Content-Description: Message
Content-Type: message/rfc822

From: <a@x.test>
To: <b@y.test>
Subject: Hello
Message-ID: <1@x.test>

How are you?

--=_0.06AB3CDEFGHJK--
";
    assert_eq!(text, expected.replace('\n', "\r\n"));
    assert_eq!(built, PLAIN);
    let (names, kinds, bodies) = parsed(text.as_bytes());
    assert_eq!(names, HEADER_NAMES);
    assert_eq!(kinds, ["text/plain", "message/delivery-status", "message/rfc822"]);
    assert_eq!(bodies[2].as_bytes(), MESSAGE);
}

#[test]
fn the_text_of_a_delay_report_for_two_recipients() {
    let unreachable = ReportRecipient {
        mailbox: "c@z.test",
        orcpt: None,
        status: (4, 4, 1),
        category: Category::Timeout,
        reply: None,
        cause: Some(Cause::ConnectTimeout.text()),
        remote_mta: None,
        ..RECIPIENT
    };
    let busy = ReportRecipient { status: (4, 3, 2), reply: Some("450 Busy"), ..RECIPIENT };
    let recipients = [busy, unreachable];
    let (text, built) = written(&report(Kind::Delayed, &recipients, original(&[MESSAGE])));
    let (names, kinds, bodies) = parsed(text.as_bytes());
    assert_eq!((names.len(), built), (10, PLAIN));
    assert_eq!(kinds, ["text/plain", "message/delivery-status", "text/rfc822-headers"]);
    let person = "\
This is the mail system at mx.example.

Your message has not been delivered to the following addresses yet. You do
not need to send it again: delivery will be retried.

  <b@y.test>
    The mail server mx.y.test said:
      450 Busy
    Delivery will be retried until Wed, 25 Nov 2026 19:29:59 +0000.

  <c@z.test>
    The remote server could not be reached in time.
    Delivery will be retried until Wed, 25 Nov 2026 19:29:59 +0000.
";
    assert!(bodies[0].starts_with(&person.replace('\n', "\r\n")), "{}", bodies[0]);
    let second = "\
Will-Retry-Until: Wed, 25 Nov 2026 19:29:59 +0000

Final-Recipient: rfc822; c@z.test
Action: delayed
Status: 4.4.1
Diagnostic-Code: x-ringpost; The remote server could not be reached in time.
Last-Attempt-Date: Sat, 21 Nov 2026 03:10:00 +0000
Will-Retry-Until: Wed, 25 Nov 2026 19:29:59 +0000
";
    assert!(bodies[1].contains(&second.replace('\n', "\r\n")), "{}", bodies[1]);
    assert!(bodies[2].starts_with("From: <a@x.test>\r\n"));
    assert!(bodies[2].ends_with("Message-ID: <1@x.test>\r\n"), "{:?}", bodies[2]);
}

#[test]
fn a_success_report_returns_only_the_header() {
    for kind in [Kind::Delivered, Kind::Relayed, Kind::Expanded] {
        let done = ReportRecipient { status: (2, 0, 0), reply: Some("250 Ok"), ..RECIPIENT };
        let recipients = [done];
        let (text, _) = written(&report(kind, &recipients, original(&[MESSAGE])));
        let (_, kinds, bodies) = parsed(text.as_bytes());
        assert_eq!(kinds[2], "text/rfc822-headers");
        assert!(bodies[1].contains(&format!("Action: {}\r\nStatus: 2.0.0\r\n", kind.label())));
        assert!(!bodies[1].contains("Will-Retry"));
    }
}

#[test]
fn the_part_of_the_original_that_is_returned() {
    let full = original(&[MESSAGE]);
    let rows = [
        ("all", full, "message/rfc822"),
        ("RET=FULL", Original { ret: Some(Ret::Full), ..full }, "message/rfc822"),
        ("RET=HDRS", Original { ret: Some(Ret::Headers), ..full }, "text/rfc822-headers"),
        ("too long", Original { full_bytes_max: 20, ..full }, "text/rfc822-headers"),
        ("bare LF", Original { slices: &[b"A: b\r\n\r\nc\n"], ..full }, "text/rfc822-headers"),
        ("no header", Original { slices: &[b"\r\nc\r\n"], ..full }, "message/rfc822"),
        ("nothing", Original { slices: &[], ..full }, "message/rfc822"),
    ];
    for (name, original, kind) in rows {
        let (text, built) = written(&report(Kind::Failed, &[RECIPIENT], original));
        let (_, kinds, _) = parsed(text.as_bytes());
        assert_eq!((kinds[2].as_str(), built), (kind, PLAIN), "{name}");
    }
}

#[test]
fn originals_in_8bit_and_utf8() {
    let body = ["A: b\r\n\r\n\u{fc}\r\n".as_bytes()];
    let header = ["A: \u{fc}\r\n\r\nb\r\n".as_bytes()];
    let body = original(&body);
    let header = original(&header);
    let utf8 = |original| Original { smtputf8: true, ..original };
    let built = |eight_bit, smtputf8| Built { eight_bit, smtputf8 };
    let rows = [
        ("body", body, 1000, "message/rfc822", built(true, false)),
        ("body left out", body, 0, "text/rfc822-headers", PLAIN),
        ("body, SMTPUTF8", utf8(body), 1000, "message/rfc822", built(true, false)),
        ("header, invalid", header, 1000, "message/rfc822", built(true, false)),
        ("header", utf8(header), 1000, "message/global", built(true, true)),
        ("header only", utf8(header), 0, "message/global-headers", built(true, true)),
    ];
    for (name, original, full_bytes_max, kind, expected) in rows {
        let original = Original { full_bytes_max, ..original };
        let (text, built) = written(&report(Kind::Failed, &[RECIPIENT], original));
        let (_, kinds, bodies) = parsed(text.as_bytes());
        assert_eq!((kinds[2].as_str(), built), (kind, expected), "{name}");
        assert_eq!(kinds[1], "message/delivery-status", "{name}");
        assert!(bodies[0].is_ascii() && bodies[1].is_ascii());
        assert_eq!(text.contains("\r\nContent-Transfer-Encoding: 8bit\r\n"), built.eight_bit);
    }
}

#[test]
fn international_addresses_are_not_encoded() {
    let far = ReportRecipient {
        mailbox: "j\u{fc}rgen@b\u{fc}cher.test",
        orcpt: Some("utf-8;j\u{fc}rgen@y.test"),
        ..RECIPIENT
    };
    let recipients = [far];
    let (text, built) = written(&report(Kind::Failed, &recipients, original(&[MESSAGE])));
    let (_, kinds, bodies) = parsed(text.as_bytes());
    assert_eq!(built, Built { eight_bit: true, smtputf8: true });
    assert_eq!(kinds, ["text/plain", "message/global-delivery-status", "message/rfc822"]);
    assert!(bodies[0].contains("  <j\u{fc}rgen@b\u{fc}cher.test>\r\n"));
    assert!(bodies[1].contains("Original-Recipient: utf-8; j\u{fc}rgen@y.test\r\n"));
    assert!(bodies[1].contains("Final-Recipient: utf-8; j\u{fc}rgen@b\u{fc}cher.test\r\n"));

    let sender =
        Report { to: "\u{e9}@x.test", ..report(Kind::Failed, &[RECIPIENT], original(&[MESSAGE])) };
    let (text, built) = written(&sender);
    assert_eq!(built, Built { eight_bit: true, smtputf8: true });
    assert!(text.contains("\r\nTo: <\u{e9}@x.test>\r\n"));
    assert_eq!(parsed(text.as_bytes()).1[1], "message/delivery-status");
}

#[test]
fn an_invalid_orcpt_or_envid_is_left_out() {
    for orcpt in ["", "rfc822", ";a", "rfc822;a+0D+0Ab", "rfc 822;a", "rfc822;+"] {
        let odd = ReportRecipient { orcpt: Some(orcpt), ..RECIPIENT };
        let recipients = [odd];
        let report = Report {
            envid: Some("a+0D+0AX: y"),
            ..report(Kind::Failed, &recipients, original(&[MESSAGE]))
        };
        let (text, _) = written(&report);
        assert!(!text.contains("Original-Recipient") && !text.contains("Original-Envelope-Id"));
    }
}

#[test]
fn the_boundary_occurs_in_no_message() {
    let tricks =
        "A: b\r\n\r\n--=_0.06AB3CDEFGHJK--\r\n=_1.06AB3CDEFGHJK\r\n--=_2.06AB3CDEFGHJKx\r\n";
    let (head, tail) = tricks.as_bytes().split_at(15);
    let (text, _) = written(&report(Kind::Failed, &[RECIPIENT], original(&[head, tail])));
    assert!(text.contains("boundary=\"=_3.06AB3CDEFGHJK\""));
    let (_, _, bodies) = parsed(text.as_bytes());
    assert_eq!(bodies[2], tricks);
    let flood: String = (0..20_000).map(|n| format!("=_{n}.06AB3CDEFGHJK\r\n")).collect();
    let slices = [b"A: b\r\n\r\n", flood.as_bytes()];
    let whole = Original { full_bytes_max: usize::MAX, ..original(&slices) };
    let (text, _) = written(&report(Kind::Failed, &[RECIPIENT], whole));
    assert!(text.contains("boundary=\"=_20000.06AB3CDEFGHJK\""));
    let (text, _) = written(&report(Kind::Failed, &[RECIPIENT], original(&[MESSAGE])));
    // A report about one of our reports has another id; the same id would do, too.
    let (again, _) = written(&report(Kind::Failed, &[RECIPIENT], original(&[text.as_bytes()])));
    assert_eq!(parsed(again.as_bytes()).2[2], text);
}

#[test]
fn senders_get_the_reports_they_requested() {
    const KINDS: [Kind; 5] =
        [Kind::Failed, Kind::Delayed, Kind::Delivered, Kind::Relayed, Kind::Expanded];
    let rows = [
        ("nothing said", 0, [true, true, false, false, false]),
        ("NEVER", 1, [false; 5]),
        ("NEVER and all", 15, [false; 5]),
        ("SUCCESS", 2, [false, false, true, true, true]),
        ("FAILURE", 4, [true, false, false, false, false]),
        ("DELAY", 8, [false, true, false, false, false]),
        ("all", 14, [true; 5]),
    ];
    for (name, notify, expected) in rows {
        assert_eq!(KINDS.map(|kind| wants(notify, kind)), expected, "{name}");
    }
}

/// Hostile text from a server, client or sender.
fn nasty() -> impl Strategy<Value = String> {
    let tricks = prop::sample::select(vec![
        "550 a\r\n\r\n--=_0.06AB3CDEFGHJK--\r\n",
        "\r\nBcc: victim@x.test\r\n\r\n<script>",
        "\n\nStatus: 2.0.0\nAction: delivered",
        "\u{2028}\u{85}\u{b}\u{c}\0\u{7f}\u{1b}[2J",
        "=_0.06AB3CDEFGHJK",
        "\r\n.\r\n",
        "",
    ])
    .prop_map(str::to_owned);
    let noise = prop::collection::vec(any::<u8>(), 0..3000)
        .prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let long = "[a-z \u{4e00}]{0,40}".prop_map(|text| text.repeat(100));
    (prop_oneof![tricks, "\\PC{0,80}".prop_map(String::from), noise, long], any::<bool>())
        .prop_map(|(text, twice)| if twice { text.repeat(2) } else { text })
}

proptest! {
    /// Foreign text adds no field, part or line of its own.
    #[test]
    fn foreign_text_stays_where_it_was_put(
        reply in nasty(), name in nasty(), mailbox in nasty(), body in nasty(), kind in 0_usize..2,
    ) {
        let mailbox = format!("a{mailbox}");
        let recipient = ReportRecipient {
            mailbox: &mailbox,
            orcpt: Some(&name),
            reply: Some(&reply),
            cause: Some(&name),
            remote_mta: Some(&name),
            ..RECIPIENT
        };
        let slices = [b"Subject: x\r\n\r\n", body.as_bytes()];
        let recipients = [recipient];
        let report = Report {
            reporting_mta: &name,
            from: &name,
            to: &mailbox,
            envid: Some(&reply),
            received_from: Some(&reply),
            ..report([Kind::Failed, Kind::Delayed][kind], &recipients, original(&slices))
        };
        let mut out = Vec::new();
        let built = report.write(&mut out);
        check_lines(&out);
        prop_assert!(built.eight_bit || out.is_ascii());
        let head_end = memchr::memmem::find(&out, b"\r\n\r\n").expect("a header ends");
        let head = String::from_utf8_lossy(&out[..head_end]).into_owned();
        let fields = head.split("\r\n").filter(|line| !line.starts_with('\t')).count();
        prop_assert_eq!(fields, 8 + usize::from(built.eight_bit), "{}", head);
        let (_, _, bodies) = parsed(&out);
        prop_assert_eq!(bodies[1].matches("\r\nAction: ").count(), 1);
        prop_assert_eq!(bodies[1].matches("\r\nStatus: ").count(), 1);
        prop_assert_eq!(bodies[1].matches("\r\n\r\n").count(), 1, "{}", bodies[1]);
    }
}
