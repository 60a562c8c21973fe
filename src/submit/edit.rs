//! Ordered changes to a header block. Pure.
//!
//! Promise:  edits are applied in order; fields that no edit names keep their bytes and their order.
//!           The block keeps its blank line.
//! Cost:     one pass over the block if no edit changes anything.

use std::ops::Range;

use crate::wire::mail::fields::fields;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Removes every field of these names. In lower case; `x-*` means all names that begin so.
    Strip(&'static [&'static str]),
    /// Removes every Authentication-Results field that this server seems to have written.
    StripResultsOf { authserv_id: String },
    /// Adds a field on top.
    Add { name: &'static str, value: String },
    /// Adds a field on top unless the block has one of this name.
    AddMissing { name: &'static str, value: String },
    /// Replaces the first field of this name and removes the others. Without one it adds a field.
    Rewrite { name: &'static str, value: String },
    /// Adds the blank line that separates header and body, if the block has none.
    EndBlock,
}

/// A part of the block that is being edited.
enum Piece<'b> {
    Kept { name: &'b [u8], bytes: Range<usize> },
    Made { name: &'static str, value: &'b str },
}

impl Piece<'_> {
    fn is_named(&self, name: &str) -> bool {
        match self {
            Piece::Kept { name: own, .. } => own.eq_ignore_ascii_case(name.as_bytes()),
            Piece::Made { name: own, .. } => own.eq_ignore_ascii_case(name),
        }
    }
}

/// Appends the edited block to `out`.
pub fn apply(block: &[u8], edits: &[Edit], out: &mut Vec<u8>) {
    if edits.iter().all(|edit| !changes(block, edit)) {
        return out.extend_from_slice(block);
    }
    let mut pieces: Vec<Piece<'_>> =
        fields(block).map(|field| Piece::Kept { name: field.name, bytes: field.bytes }).collect();
    let fields_end = pieces.last().map_or(0, |piece| match piece {
        Piece::Kept { bytes, .. } => bytes.end,
        Piece::Made { .. } => 0,
    });
    let mut end = &block[fields_end..];
    for edit in edits {
        match edit {
            Edit::Strip(names) => pieces.retain(|piece| match piece {
                Piece::Kept { name, .. } => !matches_any(name, names),
                Piece::Made { name, .. } => !matches_any(name.as_bytes(), names),
            }),
            Edit::StripResultsOf { authserv_id } => pieces.retain(|piece| match piece {
                Piece::Kept { name, bytes } => {
                    !is_result_of(name, &block[bytes.clone()], authserv_id)
                }
                Piece::Made { .. } => true,
            }),
            Edit::Add { name, value } => pieces.insert(0, Piece::Made { name, value }),
            Edit::AddMissing { name, value } => {
                if !pieces.iter().any(|piece| piece.is_named(name)) {
                    pieces.insert(0, Piece::Made { name, value });
                }
            }
            Edit::Rewrite { name, value } => {
                let first = pieces.iter().position(|piece| piece.is_named(name)).unwrap_or(0);
                pieces.retain(|piece| !piece.is_named(name));
                pieces.insert(first, Piece::Made { name, value });
            }
            Edit::EndBlock if !end.is_empty() => {}
            // The last field of a message without a body may have no line end.
            Edit::EndBlock if !block.is_empty() && !block.ends_with(b"\n") => end = b"\r\n\r\n",
            Edit::EndBlock => end = b"\r\n",
        }
    }
    for piece in pieces {
        match piece {
            Piece::Kept { bytes, .. } => out.extend_from_slice(&block[bytes]),
            Piece::Made { name, value } => {
                for part in [name, ": ", value, "\r\n"] {
                    out.extend_from_slice(part.as_bytes());
                }
            }
        }
    }
    out.extend_from_slice(end);
}

/// Whether the edit may change the block.
fn changes(block: &[u8], edit: &Edit) -> bool {
    match edit {
        Edit::Strip(names) => fields(block).any(|field| matches_any(field.name, names)),
        Edit::StripResultsOf { authserv_id } => {
            fields(block).any(|field| is_result_of(field.name, &block[field.bytes], authserv_id))
        }
        Edit::AddMissing { name, .. } => {
            !fields(block).any(|field| field.name.eq_ignore_ascii_case(name.as_bytes()))
        }
        Edit::EndBlock => {
            fields(block).last().map_or(block.is_empty(), |field| field.bytes.end == block.len())
        }
        Edit::Add { .. } | Edit::Rewrite { .. } => true,
    }
}

fn matches_any(name: &[u8], patterns: &[&str]) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(start) => {
            name.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start.as_bytes()))
        }
        None => name.eq_ignore_ascii_case(pattern.as_bytes()),
    })
}

/// Whether a field is an Authentication-Results field of this server (RFC 8601 s2.2):
/// `[CFWS] authserv-id [CFWS version] [CFWS] ;`, where the id is a token or a quoted string.
fn is_result_of(name: &[u8], field: &[u8], authserv_id: &str) -> bool {
    if !name.eq_ignore_ascii_case(b"authentication-results") {
        return false;
    }
    let Some(colon) = field.iter().position(|byte| *byte == b':') else { return false };
    let value = behind_comments(&field[colon + 1..]);
    let (is_quoted, value) = match value.strip_prefix(b"\"") {
        Some(quoted) => (true, quoted),
        None => (false, value),
    };
    let is_end = |byte: &u8| match is_quoted {
        true => *byte == b'"',
        false => byte.is_ascii_whitespace() || matches!(byte, b';' | b'('),
    };
    let id = &value[..value.iter().position(is_end).unwrap_or(value.len())];
    let unescaped = id.iter().filter(|byte| !is_quoted || **byte != b'\\');
    unescaped.map(u8::to_ascii_lowercase).eq(authserv_id.bytes().map(|b| b.to_ascii_lowercase()))
}

/// The value without the space and the comments it begins with.
fn behind_comments(value: &[u8]) -> &[u8] {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(byte) = value.get(at) {
        match byte {
            b'(' => depth += 1,
            b')' if depth > 0 => depth -= 1,
            b'\\' if depth > 0 => at += 1,
            _ if depth > 0 || byte.is_ascii_whitespace() => {}
            _ => break,
        }
        at += 1;
    }
    value.get(at..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(block: &str, edits: &[Edit]) -> String {
        let mut out = b"before|".to_vec();
        apply(block.as_bytes(), edits, &mut out);
        String::from_utf8(out).expect("text").strip_prefix("before|").expect("kept").to_owned()
    }

    #[test]
    fn edits_are_applied_in_their_order() {
        let value = |text: &str| text.to_owned();
        let block = "Bcc: a\r\n b\r\nFrom: c\r\nX-Own-Id: d\r\nbcc: e\r\nTo: f\r\n\r\n";
        let missing = Edit::AddMissing { name: "Date", value: value("now") };
        for (name, block, edits, expected) in [
            ("no edit", block, vec![], block),
            ("nothing to strip", "A: b\r\n\r\n", vec![Edit::Strip(&["bcc"])], "A: b\r\n\r\n"),
            (
                "names and beginnings of names are stripped",
                block,
                vec![Edit::Strip(&["bcc", "x-own-*"])],
                "From: c\r\nTo: f\r\n\r\n",
            ),
            (
                "the last field added is on top",
                "A: b\r\n\r\n",
                vec![
                    Edit::Add { name: "One", value: value("1") },
                    Edit::Add { name: "Two", value: value("2") },
                ],
                "Two: 2\r\nOne: 1\r\nA: b\r\n\r\n",
            ),
            ("a missing field", "A: b\r\n\r\n", vec![missing.clone()], "Date: now\r\nA: b\r\n\r\n"),
            ("a field that is there", "DATE : x\r\n", vec![missing.clone()], "DATE : x\r\n"),
            (
                "a field that was stripped before is missing",
                "Date: x\r\n\r\n",
                vec![Edit::Strip(&["date"]), missing],
                "Date: now\r\n\r\n",
            ),
            (
                "a rewritten field keeps its place",
                block,
                vec![Edit::Rewrite { name: "BCC", value: value("new") }],
                "BCC: new\r\nFrom: c\r\nX-Own-Id: d\r\nTo: f\r\n\r\n",
            ),
            (
                "a field to rewrite is added",
                "A: b\r\n\r\n",
                vec![Edit::Rewrite { name: "C", value: value("d") }],
                "C: d\r\nA: b\r\n\r\n",
            ),
            ("a blank line", "A: b\r\n", vec![Edit::EndBlock], "A: b\r\n\r\n"),
            ("a blank line for no block", "", vec![Edit::EndBlock], "\r\n"),
            ("a blank line that is there", "A: b\n\n", vec![Edit::EndBlock], "A: b\n\n"),
            ("no line end", "A: b", vec![Edit::EndBlock], "A: b\r\n\r\n"),
            ("only a blank line", "\r\n", vec![Edit::EndBlock], "\r\n"),
        ] {
            assert_eq!(edited(block, &edits), expected, "{name}");
        }
    }

    #[test]
    fn results_in_our_name_are_found_in_any_spelling() {
        let forged = Edit::StripResultsOf { authserv_id: "mx.test".to_owned() };
        for (value, is_ours) in [
            (" mx.test; spf=pass", true),
            ("MX.Test 1; spf=pass", true),
            ("\r\n\tmx.test\r\n ; none", true),
            (" (a (nested\\) one) comment) mx.test(x); none", true),
            (" \"mx.\\test\"; none", true),
            (" mx.test", true),
            (" mx.test.other; none", false),
            (" other.test; spf=pass smtp.mailfrom=mx.test", false),
            (" (mx.test; none", false),
            ("", false),
        ] {
            let field = format!("Authentication-Results :{value}\r\n");
            let expected = if is_ours { "" } else { &*field };
            let block = format!("{field}To: a\r\n\r\n");
            let kept = format!("{expected}To: a\r\n\r\n");
            assert_eq!(edited(&block, std::slice::from_ref(&forged)), kept, "{value}");
        }
        let other = "X-Results: mx.test; none\r\n\r\n";
        assert_eq!(edited(other, &[forged]), other, "another field");
    }
}
