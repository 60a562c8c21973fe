//! Messages from files, made fit to be sent: a folder of `.eml` files, or one file.
//!
//! Promise:  every line ends with CRLF and has at most 998 bytes (RFC 5322 s2.1.1), whatever the
//!           file held: a header line is folded where it has a space, others are cut, and never
//!           within a character of UTF-8.
//! Bounds:   `FOLDER_BYTES_MAX`, for all files are held in memory. Full: an error, before the run.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use memchr::memmem;

use crate::ledger::sum::BodySum;

const LINE_BYTES_MAX: usize = 998;
const FOLDER_BYTES_MAX: u64 = 1 << 30;

/// A message as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    pub bytes: Box<[u8]>,
    /// Bytes beyond ASCII are in it: `BODY=8BITMIME` where that is offered.
    pub is_8bit: bool,
    /// Lines that were too long.
    pub broken: usize,
    /// Of its body.
    pub sum: u32,
}

impl Text {
    pub fn read(path: &Path) -> Result<Text, String> {
        let bytes = fs::read(path).map_err(|cause| format!("{}: {cause}", path.display()))?;
        Ok(Text::new(&bytes))
    }

    /// CR, LF and CRLF end a line, and so does the end.
    pub fn new(text: &[u8]) -> Text {
        let text = without_mbox_line(text);
        let mut out = Vec::with_capacity(text.len() + text.len() / 32 + 2);
        let (mut broken, mut in_head, mut rest) = (0, true, text);
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
            let line = &rest[..end.unwrap_or(rest.len())];
            let behind = &rest[line.len()..];
            let end = if behind.starts_with(b"\r\n") { 2 } else { behind.len().min(1) };
            rest = &behind[end..];
            in_head &= !line.is_empty();
            broken += usize::from(line.len() > LINE_BYTES_MAX);
            push_line(line, in_head, &mut out);
        }
        let is_8bit = !out.is_ascii();
        let sum = BodySum::of(body_of(&out));
        Text { bytes: out.into(), is_8bit, broken, sum }
    }
}

/// What stands behind the header, of which there may be no line.
fn body_of(text: &[u8]) -> &[u8] {
    if let Some(body) = text.strip_prefix(b"\r\n") {
        return body;
    }
    memmem::find(text, b"\r\n\r\n").map_or(b"", |end| &text[end + 4..])
}

/// What some programs put before a message that they save.
fn without_mbox_line(text: &[u8]) -> &[u8] {
    match text.starts_with(b"From ") {
        true => {
            let end = text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| at + 1);
            &text[end..]
        }
        false => text,
    }
}

fn push_line(mut line: &[u8], in_head: bool, out: &mut Vec<u8>) {
    while line.len() > LINE_BYTES_MAX {
        let cut = cut_of(line, in_head);
        out.extend_from_slice(&line[..cut]);
        out.extend_from_slice(b"\r\n");
        line = &line[cut..];
        // What follows must be seen to be of the same field.
        if in_head && !line.starts_with(b" ") && !line.starts_with(b"\t") {
            out.push(b' ');
        }
    }
    out.extend_from_slice(line);
    out.extend_from_slice(b"\r\n");
}

/// Where a line that is too long is cut.
fn cut_of(line: &[u8], in_head: bool) -> usize {
    // Room for the space that may have been put before it.
    let most = LINE_BYTES_MAX - usize::from(in_head);
    let is_fold =
        |at: &usize| matches!(line[*at], b' ' | b'\t') && !line[..*at].trim_ascii().is_empty();
    let space = in_head.then(|| (1..=most).rev().find(is_fold)).flatten();
    // A character of UTF-8 has at most three more bytes.
    let is_start = |at: &usize| line[*at] & 0b1100_0000 != 0b1000_0000;
    space.unwrap_or_else(|| (most - 3..=most).rev().find(is_start).unwrap_or(most))
}

/// All `.eml` files of a folder, by their names.
pub fn read_folder(folder: &Path) -> Result<Vec<Text>, String> {
    let told = |cause: std::io::Error| format!("{}: {cause}", folder.display());
    let mut paths: Vec<PathBuf> = Vec::new();
    let mut bytes = 0;
    for entry in fs::read_dir(folder).map_err(told)? {
        let path = entry.map_err(told)?.path();
        let is_eml = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("eml"));
        if is_eml && path.is_file() {
            bytes += fs::metadata(&path).map_err(told)?.len();
            paths.push(path);
        }
    }
    if paths.is_empty() {
        return Err(format!("{}: no .eml file is in this folder", folder.display()));
    }
    if bytes > FOLDER_BYTES_MAX {
        let folder = folder.display();
        return Err(format!(
            "{folder}: its files have {bytes} bytes in all, and 1 GiB is the most: \
                            take some of them away"
        ));
    }
    paths.sort();
    paths.iter().map(|path| Text::read(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(text: &str) -> String {
        String::from_utf8(Text::new(text.as_bytes()).bytes.into()).expect("it was UTF-8")
    }

    #[test]
    fn every_line_gets_its_end() {
        for (text, expected) in [
            ("", ""),
            ("a: b\n\nc\r\nd", "a: b\r\n\r\nc\r\nd\r\n"),
            ("a: b\r\rc\r\n\r\n", "a: b\r\n\r\nc\r\n\r\n"),
            ("\n\r", "\r\n\r\n"),
            ("From me Sat\na: b\n\nx\n", "a: b\r\n\r\nx\r\n"),
        ] {
            assert_eq!(sent(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_body_is_summed_without_its_header() {
        for (text, body) in [
            ("a: b\n\nc\r\nd", "c\r\nd\r\n"),
            ("\nc", "c\r\n"),
            ("a: b", ""),
            ("", ""),
            ("a: b\n\n\nc\n", "\r\nc\r\n"),
        ] {
            assert_eq!(Text::new(text.as_bytes()).sum, BodySum::of(body.as_bytes()), "{text:?}");
        }
    }

    #[test]
    fn long_lines_are_broken_and_nothing_is_lost() {
        let words = "word ".repeat(500);
        let text = format!(
            "Subject: {words}\nX-Long: {}\n\n{}\n{}",
            "y".repeat(2500),
            "z".repeat(1997),
            "\u{20ac}".repeat(700)
        );
        let whole = Text::new(text.as_bytes());
        assert!(whole.is_8bit);
        assert_eq!(whole.broken, 4);
        let out = sent(&text);
        assert!(out.lines().all(|line| line.len() <= LINE_BYTES_MAX));
        let (head, body) = out.split_once("\r\n\r\n").expect("there is a body");
        let unfolded = head.replace("\r\n ", " ");
        assert!(unfolded.starts_with(&format!("Subject: {}", words.trim_end())), "{unfolded}");
        assert!(head.lines().all(|line| line.starts_with(' ') || line.contains(':')), "{head}");
        let joined = body.replace("\r\n", "");
        assert_eq!(joined, format!("{}{}", "z".repeat(1997), "\u{20ac}".repeat(700)));
    }

    #[test]
    fn a_folder_is_read_by_name() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("room");
        assert!(read_folder(folder.path()).expect_err("empty").contains("no .eml"));
        put("b.EML", "a: 2\n\n\u{e9}");
        put("a.eml", "a: 1\n\nx");
        put("c.txt", "not this");
        let texts = read_folder(folder.path()).expect("two files");
        let seen: Vec<_> = texts.iter().map(|text| (text.bytes[3], text.is_8bit)).collect();
        assert_eq!(seen, [(b'1', false), (b'2', true)]);
        assert!(read_folder(&folder.path().join("none")).is_err());
    }
}
