//! Paths: the stored spellings, refusals by cause, and round trips.

use super::*;
use proptest::prelude::*;

/// Parses a path that is all of `text`, and returns the stored text.
fn forward(text: &str) -> Result<String, AddressFault> {
    let arena = Bump::new();
    let (mailbox, rest) = parse_forward_path(text.as_bytes(), &arena)?;
    assert_eq!(rest, b"", "{text}");
    let kept = mailbox.as_str();
    assert_eq!(Mailbox::from_stored(kept), Some(mailbox), "{kept} is read back");
    let parts = [mailbox.local(), if mailbox.domain().is_empty() { "" } else { "@" }];
    assert_eq!([parts.concat().as_str(), mailbox.domain()].concat(), kept);
    assert_eq!(mailbox.is_utf8(), !kept.is_ascii(), "{kept}");
    Ok(kept.to_owned())
}

#[test]
fn valid_paths_are_stored_in_one_spelling() {
    let local_64 = "l".repeat(64);
    let label = "d".repeat(63);
    let domain_189 = format!("{}.{label}.{}", label, "d".repeat(61));
    let longest = format!("{local_64}@{domain_189}");
    let rows = [
        ("plain", "a@b.test", "a@b.test"),
        ("domain in capitals", "John.Doe@EXAMPLE.Test", "John.Doe@example.test"),
        ("one label", "root@localhost", "root@localhost"),
        ("all of atext", "a!#$%&'*+-/=?^_`{|}~z@b.test", "a!#$%&'*+-/=?^_`{|}~z@b.test"),
        ("digits and hyphens", "1@2.3-4.x--y", "1@2.3-4.x--y"),
        ("quoted space", "\"a b\"@c.test", "\"a b\"@c.test"),
        ("quoted dots and brackets", "\"..<a>@b,\"@C.test", "\"..<a>@b,\"@c.test"),
        ("escapes", "\"a\\\"\\\\\\@\"@c.test", "\"a\\\"\\\\\\@\"@c.test"),
        ("empty quotes", "\"\"@c.test", "\"\"@c.test"),
        ("one hop of route", "@x.test:a@b.test", "a@b.test"),
        ("a long route", "@x.test,@y.test:a@b.test", "a@b.test"),
        ("IPv4 literal", "a@[192.0.2.1]", "a@[192.0.2.1]"),
        ("IPv6 literal", "a@[ipV6:2001:DB8::1]", "a@[IPv6:2001:db8::1]"),
        ("IPv6 with IPv4", "a@[IPv6:::ffff:192.0.2.1]", "a@[IPv6:::ffff:192.0.2.1]"),
        ("bare postmaster", "PostMaster", "PostMaster"),
        ("UTF-8 local part", "j\u{fc}rgen@b.test", "j\u{fc}rgen@b.test"),
        ("UTF-8 quoted", "\"j \u{fc}\"@b.test", "\"j \u{fc}\"@b.test"),
        ("UTF-8 domain", "a@B\u{dc}cher.Test", "a@b\u{fc}cher.test"),
        ("A-label stays", "a@XN--BCHER-KVA.test", "a@xn--bcher-kva.test"),
        ("A-label beside a U-label", "a@xn--bcher-kva.\u{fc}.test", "a@b\u{fc}cher.\u{fc}.test"),
        ("composed by IDNA", "a@bu\u{308}cher.test", "a@b\u{fc}cher.test"),
        ("the longest", &longest, &longest),
    ];
    for (name, inner, kept) in rows {
        assert_eq!(forward(&format!("<{inner}>")), Ok(kept.to_owned()), "{name}");
    }
}

#[test]
fn invalid_paths_are_refused_by_cause() {
    use AddressFault::*;
    let rows = [
        ("no brackets", "a@b.test".to_owned(), Syntax),
        ("nothing", String::new(), Syntax),
        ("no end", "<a@b.test".into(), Syntax),
        ("null", "<>".into(), NullRecipient),
        ("no local part", "<@b.test>".into(), Syntax),
        ("no domain", "<a@>".into(), Syntax),
        ("no at", "<a>".into(), Syntax),
        ("dot in front", "<.a@b.test>".into(), Syntax),
        ("dot behind", "<a.@b.test>".into(), Syntax),
        ("two dots", "<a..a@b.test>".into(), Syntax),
        ("space", "<a b@c.test>".into(), Syntax),
        ("space within brackets", "< a@b.test>".into(), Syntax),
        ("two ats", "<a@b@c.test>".into(), Syntax),
        ("open quote", "<\"a@b.test>".into(), Syntax),
        ("text behind quotes", "<\"a\"b@c.test>".into(), Syntax),
        ("quote within", "<a\"b\"@c.test>".into(), Syntax),
        ("tab in quotes", "<\"a\tb\"@c.test>".into(), Syntax),
        ("escaped tab", "<\"a\\\tb\"@c.test>".into(), Syntax),
        ("escaped UTF-8", "<\"\\\u{fc}\"@c.test>".into(), Syntax),
        ("NUL", "<a\0@b.test>".into(), Syntax),
        ("CR LF", "<a@b.test\r\n>".into(), Syntax),
        ("DEL", "<a\u{7f}@b.test>".into(), Syntax),
        ("trailing dot", "<a@b.test.>".into(), Syntax),
        ("empty label", "<a@b..test>".into(), Syntax),
        ("hyphen in front", "<a@-b.test>".into(), Syntax),
        ("hyphen behind", "<a@b-.test>".into(), Syntax),
        ("hyphen last", "<a@b->".into(), Syntax),
        ("underscore", "<a@b_c.test>".into(), Syntax),
        ("route without address", "<@x.test:>".into(), Syntax),
        ("route without colon", "<@x.test,a@b.test>".into(), Syntax),
        ("route to nowhere", "<@:a@b.test>".into(), Syntax),
        ("route to a literal", "<@[192.0.2.1]x:a@b.test>".into(), Syntax),
        ("route in UTF-8", "<@\u{fc}.test:a@b.test>".into(), Syntax),
        ("local part too long", format!("<{}@b.test>", "a".repeat(65)), LocalTooLong),
        ("quotes too long", format!("<\"{}\"@b.test>", "a".repeat(63)), LocalTooLong),
        ("label too long", format!("<a@{}.test>", "b".repeat(64)), LabelTooLong),
        ("domain too long", format!("<a@{}b>", "b.".repeat(128)), DomainTooLong),
        ("path too long", format!("<{}@{}b>", "a".repeat(64), "b.".repeat(100)), PathTooLong),
        ("route too long", format!("<{}:a@b.test>", ["@r"; 90].join(",")), PathTooLong),
        ("general literal", "<a@[tag:text]>".into(), BadLiteral),
        ("IPv6 without tag", "<a@[::1]>".into(), BadLiteral),
        ("IPv6 with zone", "<a@[IPv6:fe80::1%1]>".into(), BadLiteral),
        ("IPv4 out of range", "<a@[192.0.2.256]>".into(), BadLiteral),
        ("IPv4 with zeros", "<a@[192.0.02.1]>".into(), BadLiteral),
        ("open literal", "<a@[192.0.2.1>".into(), BadLiteral),
        ("text behind a literal", "<a@[192.0.2.1].test>".into(), Syntax),
        ("C1 control", "<a\u{85}@b.test>".into(), NotUtf8),
        ("line separator", "<a\u{2028}@b.test>".into(), NotUtf8),
        ("full-width domain", "<a@\u{ff42}.test>".into(), BadIdna),
        ("full-width at", "<a@b\u{ff20}c.test>".into(), BadIdna),
        ("ideographic trailing dot", "<a@b\u{fc}.test\u{3002}>".into(), BadIdna),
        ("unassigned", "<a@\u{378}.test>".into(), BadIdna),
        ("not a label", "<a@\u{2f800}\u{301}\u{200d}.test>".into(), BadIdna),
        ("false A-label", "<a@xn--zzzzzz99.\u{fc}>".into(), BadIdna),
        ("U-label too long", format!("<a@{}>", "\u{fc}".repeat(70)), BadIdna),
    ];
    for (name, text, fault) in rows {
        assert_eq!(forward(&text), Err(fault), "{name}: {text}");
    }
    let arena = Bump::new();
    for broken in [&b"<\xff@b.test>"[..], b"<a@\xc3.test>", b"<\xc0\x80@b.test>"] {
        let found = parse_forward_path(broken, &arena);
        assert_eq!(found, Err(NotUtf8), "{broken:?}");
    }
}

#[test]
fn a_reverse_path_may_be_null_but_not_the_bare_postmaster() {
    let arena = Bump::new();
    let parse = |text: &'static str| parse_reverse_path(text.as_bytes(), &arena);
    assert_eq!(parse("<> SIZE=1"), Ok((ReversePath::Null, &b" SIZE=1"[..])));
    assert_eq!(parse("<postmaster>"), Err(AddressFault::Syntax));
    assert_eq!(parse("< >"), Err(AddressFault::Syntax));
    let (path, rest) = parse("<@x.test:A@B.test> SIZE=1").expect("a valid path");
    let ReversePath::Mailbox(mailbox) = path else { panic!("{path:?}") };
    assert_eq!((mailbox.as_str(), path.is_utf8(), rest), ("A@b.test", false, &b" SIZE=1"[..]));
}

#[test]
fn mailboxes_have_the_expected_properties() {
    let check = |text: &str, expected: [bool; 3], ascii: Option<&str>| {
        let arena = Bump::new();
        let parsed = parse_forward_path(text.as_bytes(), &arena).map(|(mailbox, _)| mailbox);
        let mailbox = parsed.expect("a valid path");
        let found = [mailbox.is_postmaster(), mailbox.is_rerouting(), mailbox.is_utf8()];
        assert_eq!(found, expected, "{text}");
        assert_eq!(mailbox.domain_ascii().as_deref(), ascii, "{text}");
    };
    check("<a@B.test>", [false; 3], Some("b.test"));
    check("<POSTMASTER@b.test>", [true, false, false], Some("b.test"));
    check("<Postmaster>", [true, false, false], Some(""));
    check("<a%c.test@b.test>", [false, true, false], Some("b.test"));
    check("<c.test!a@b.test>", [false, true, false], Some("b.test"));
    check("<\"a@c.test\"@b.test>", [false, true, false], Some("b.test"));
    check("<\"a\\@c.test\"@b.test>", [false, true, false], Some("b.test"));
    check("<@c.test:a@b.test>", [false; 3], Some("b.test"));
    check("<a@b\u{fc}cher.test>", [false, false, true], Some("xn--bcher-kva.test"));
    check("<\u{fc}@b.test>", [false, false, true], Some("b.test"));
    check("<a@[IPv6:::1]>", [false; 3], Some("[IPv6:::1]"));
}

#[test]
fn only_stored_text_is_parsed_again() {
    for text in ["", "a", "a@", "a@B.test", "a@b.test ", "<a@b.test>", "@x:a@b.test", "a\u{85}@b"] {
        assert_eq!(Mailbox::from_stored(text), None, "{text:?}");
    }
}

#[test]
fn a_greeting_is_a_domain_or_a_literal() {
    let long = "a.".repeat(127) + "ab";
    let rows = [
        ("mx.example", true),
        ("localhost", true),
        ("MY_PC", true),
        ("_a.b-c.1", true),
        ("[192.0.2.1]", true),
        ("[IPv6:::1]", true),
        ("192.0.2.1", true),
        (&long[1..], false),
        ("", false),
        (".", false),
        ("a.", false),
        (".a", false),
        ("a..b", false),
        ("-a", false),
        ("a-.b", false),
        ("a b", false),
        ("[::1]", false),
        ("[a]", false),
        ("[192.0.2.1]x", false),
        ("a\0", false),
        ("\u{fc}.test", false),
        (&long, false),
        (&long[2..], true),
    ];
    for (text, valid) in rows {
        assert_eq!(is_domain_or_literal(text.as_bytes()), valid, "{text:?}");
    }
}

#[test]
fn an_ordinary_address_takes_one_allocation() {
    let arena = Bump::with_capacity(64);
    let before = arena.chunk_capacity();
    let text = b"<John.Doe+list@Example.Test>";
    let parsed = parse_forward_path(text, &arena);
    assert!(parsed.is_ok());
    assert_eq!(before - arena.chunk_capacity(), text.len() - 2, "the arena took one copy");
}

proptest! {
        /// Nothing panics, and every accepted path survives a round trip.
    #[test]
    fn any_text_is_a_value(text in "<(@x:)?[a-z.\"\\\\ %\u{fc}\u{4e00}]{0,12}@[\\[a-zA-Z.\\]\u{df}\u{3002}\u{ff0e}-]{0,12}>") {
        let _ = forward(&text).is_ok();
    }

    #[test]
    fn any_domain_settles(domain in "\\PC{1,12}") {
        let _ = forward(&format!("<a@{}>", domain.replace('>', ""))).is_ok();
    }
}
