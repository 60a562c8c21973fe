//! Parameters: accepted, refused, and escapes that would hide control characters.

use super::*;

use crate::wire::dsn::NOTIFY_DELAY;
use crate::wire::dsn::NOTIFY_FAILURE;
use crate::wire::dsn::NOTIFY_SUCCESS;

const ALL: Allowed = Allowed { parameters: true, requiretls: true, size_max: 1000 };

#[test]
fn parameters_of_mail_are_kept() {
    let arena = Bump::new();
    let mut tx = Transaction::new_in(&arena);
    let text = "<a@x.test> size=1000 BODY=BINARYMIME SMTPUTF8  RET=HDRS ENVID=q+2B1 \
        AUTH=<> REQUIRETLS";
    read_mail(text.as_bytes(), ALL, &mut tx).expect("all parameters are known");
    let expected = MailParams {
        size: Some(1000),
        body: BodyType::BinaryMime,
        smtputf8: true,
        requiretls: true,
        ret: Some(Ret::Headers),
        envid: Some("q+2B1"),
        auth: Some("<>"),
    };
    assert_eq!(tx.params, expected);
}

#[test]
fn parameters_of_rcpt_are_kept() {
    let arena = Bump::new();
    let mut tx = Transaction::new_in(&arena);
    tx.params.smtputf8 = true;
    let rows: [(&str, u8, Option<&str>); 7] = [
        ("", 0, None),
        (" NOTIFY=never", NOTIFY_NEVER, None),
        (" NOTIFY=SUCCESS,delay", NOTIFY_SUCCESS | NOTIFY_DELAY, None),
        (" NOTIFY=FAILURE,FAILURE", NOTIFY_FAILURE, None),
        (" ORCPT=rfc822;a+2Bb@x", 0, Some("rfc822;a+2Bb@x")),
        (" ORCPT=utf-8;\u{e4}@x NOTIFY=DELAY", NOTIFY_DELAY, Some("utf-8;\u{e4}@x")),
        (" ORCPT=utf-8;\\x{E4}@x", 0, Some("utf-8;\\x{E4}@x")),
    ];
    for (params, notify, orcpt) in rows {
        let text = format!("<b@y.test>{params}");
        let read = read_recipient(text.as_bytes(), ALL, &tx).expect("the argument is well-formed");
        assert_eq!((read.notify, read.orcpt), (notify, orcpt), "{params}");
    }
}

#[test]
fn escapes_hide_no_control_characters() {
    let rows: [(&str, bool); 14] = [
        ("a\\x{E4}@x", true),
        ("\\x{10FFFF}\\x{20}", true),
        ("plain@x", true),
        ("\\x{0D}\\x{0A}Bcc:", false),
        ("a\\x{00}", false),
        ("\\x{7F}", false),
        ("\\x{85}", false),
        ("\\x{000D}", false),
        ("\\x{D800}", false),
        ("\\x{110000}", false),
        ("\\x{e4}", false),
        ("\\x{E4", false),
        ("\\x{}", false),
        ("a\\b", false),
    ];
    for (text, valid) in rows {
        for utf8 in [false, true] {
            let value = format!("utf-8;{text}");
            assert_eq!(is_orcpt(value.as_bytes(), utf8), valid, "{text}, SMTPUTF8: {utf8}");
        }
        let raw = format!("utf-8;\u{fc}{text}");
        assert_eq!(is_orcpt(raw.as_bytes(), true), valid, "{text} among raw UTF-8");
    }
    assert!(!is_orcpt("utf-8;\u{85}\u{fc}".as_bytes(), true), "a raw control character");
    assert!(is_orcpt(b"rfc822;a\\b@x", false), "other types have no escapes");
}

#[test]
fn numbers_are_digits_and_saturate() {
    let rows: [(&str, Option<u64>); 7] = [
        ("0", Some(0)),
        ("0042", Some(42)),
        ("18446744073709551615", Some(u64::MAX)),
        ("99999999999999999999", Some(u64::MAX)),
        ("+1", None),
        ("-1", None),
        ("", None),
    ];
    for (text, number) in rows {
        assert_eq!(read_decimal(text.as_bytes()), number, "{text}");
    }
}
