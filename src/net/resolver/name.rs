//! Names as text: lower case, no dot at the end, letters, digits, `-` and `_` in every label.

use std::rc::Rc;

use hickory_proto::rr::Name;

/// RFC 1035 s2.3.4: 255 bytes on the wire are 253 characters.
const NAME_CHARS_MAX: usize = 253;
const LABEL_CHARS_MAX: usize = 63;

/// The name in lower case without a trailing dot, or `None` if it is not a valid DNS name. Names in
/// other scripts must be in A-label form.
pub(super) fn checked(name: &str) -> Option<Rc<str>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let fits = name.len() <= NAME_CHARS_MAX && name.split('.').all(is_label);
    fits.then(|| name.to_ascii_lowercase().into())
}

fn is_label(label: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=LABEL_CHARS_MAX).contains(&label.len()) && label.bytes().all(known)
}

/// A checked name in wire format.
pub(super) fn to_wire(name: &str) -> Option<Name> {
    let mut wire = Name::from_labels(name.split('.').map(str::as_bytes)).ok()?;
    wire.set_fqdn(true);
    Some(wire)
}

/// A name from the wire as text; the root is empty. `None` for a name that `checked` would refuse.
pub(super) fn to_text(wire: &Name) -> Option<Rc<str>> {
    if wire.is_root() {
        return Some("".into());
    }
    let mut text = String::with_capacity(NAME_CHARS_MAX);
    for label in wire {
        // A dot within a label would look like two labels.
        let label = std::str::from_utf8(label).ok().filter(|label| is_label(label))?;
        text.push_str(label);
        text.push('.');
    }
    checked(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_without_the_last_dot() {
        let long = ["a".repeat(63).as_str(); 4].join(".");
        let rows: &[(&str, &str, Option<&str>)] = &[
            ("plain", "example.com", Some("example.com")),
            ("dot at the end", "example.com.", Some("example.com")),
            ("upper case", "Example.COM", Some("example.com")),
            ("underscores", "_25._tcp.mx.test", Some("_25._tcp.mx.test")),
            ("253 characters", &long[..253], Some(&long[..253])),
            ("254 characters", &long[..254], None),
            ("label of 64", &"a".repeat(64), None),
            ("empty", "", None),
            ("root", ".", None),
            ("two dots", "a..b", None),
            ("two dots at the end", "a.b..", None),
            ("dot in front", ".a", None),
            ("blank", "a b.test", None),
            ("escape", "a\\.b.test", None),
            ("other script", "b\u{fc}cher.test", None),
            ("address literal", "[192.0.2.1]", None),
        ];
        for (row, name, want) in rows {
            assert_eq!(checked(name).as_deref(), *want, "{row}");
        }
    }

    #[test]
    fn the_wire_keeps_a_name() {
        for name in ["example.com", "_25._tcp.mx.test", "test"] {
            let wire = to_wire(name).expect("a checked name");
            assert_eq!(to_text(&wire).as_deref(), Some(name));
        }
        let dotted = Name::from_labels([b"a.b".as_slice(), b"test"]).expect("a name");
        assert_eq!(to_text(&dotted), None);
        assert_eq!(to_text(&Name::root()).as_deref(), Some(""));
    }
}
