//! Messages from files: a folder of `.eml` files, or one file.
//!
//! Promise:  every line ends with CRLF. Nothing else is changed; long lines stay long.
//! Bounds:   all files are held in memory, `FOLDER_BYTES_MAX` in all. Full: an error before the run.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use memchr::memmem;

use crate::ledger::sum::BodySum;

const FOLDER_BYTES_MAX: u64 = 1 << 30;

/// A message with CRLF line ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    pub bytes: Box<[u8]>,
    /// It has bytes beyond ASCII and needs `BODY=8BITMIME`.
    pub is_8bit: bool,
    /// The checksum of its body.
    pub sum: u32,
}

impl Text {
    pub fn read(path: &Path) -> Result<Text, String> {
        let bytes = fs::read(path).map_err(|cause| format!("{}: {cause}", path.display()))?;
        Ok(Text::new(&bytes))
    }

    /// CR, LF and CRLF end a line, and so does the end of the text.
    pub fn new(text: &[u8]) -> Text {
        let text = without_mbox_line(text);
        let mut out = Vec::with_capacity(text.len() + text.len() / 32 + 2);
        let mut rest = text;
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
            let line = &rest[..end.unwrap_or(rest.len())];
            let behind = &rest[line.len()..];
            let end = if behind.starts_with(b"\r\n") { 2 } else { behind.len().min(1) };
            rest = &behind[end..];
            out.extend_from_slice(line);
            out.extend_from_slice(b"\r\n");
        }
        let is_8bit = !out.is_ascii();
        let sum = BodySum::of(body_of(&out));
        Text { bytes: out.into(), is_8bit, sum }
    }
}

/// The part after the header, which may be empty.
fn body_of(text: &[u8]) -> &[u8] {
    if let Some(body) = text.strip_prefix(b"\r\n") {
        return body;
    }
    memmem::find(text, b"\r\n\r\n").map_or(b"", |end| &text[end + 4..])
}

/// Without the `From ` line of mbox files.
fn without_mbox_line(text: &[u8]) -> &[u8] {
    match text.starts_with(b"From ") {
        true => {
            let end = text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| at + 1);
            &text[end..]
        }
        false => text,
    }
}

/// All `.eml` files of a folder, ordered by name.
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
        return Err(format!("{}: there is no .eml file in this folder", folder.display()));
    }
    if bytes > FOLDER_BYTES_MAX {
        let folder = folder.display();
        return Err(format!("{folder}: its files have {bytes} bytes; the maximum is 1 GiB"));
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
