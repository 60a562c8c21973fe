//! What is sent: one body for all, and a header with a number for each.

use std::fmt::Write;
use std::fs;
use std::rc::Rc;

use crate::source::options::Options;

/// As smtp-source has them.
const LINE: &[u8] =
    b"XXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX\r\n";

/// Bytes that are sent, shared by whoever sends them.
pub type Piece = Rc<[u8]>;

/// How messages are made.
pub struct Pattern {
    /// Names this run in the header of every message.
    run: String,
    /// The end of the header and the body; all of a message that was given as a file.
    rest: Piece,
    is_file: bool,
    head: String,
}

impl Pattern {
    pub fn new(options: &Options, run: &str) -> Result<Pattern, String> {
        if let Some(path) = &options.file {
            let text = fs::read(path).map_err(|cause| format!("{}: {cause}", path.display()))?;
            let rest = with_line_ends(&text).into();
            return Ok(Pattern { run: run.into(), rest, is_file: true, head: String::new() });
        }
        let subject = options.subject.as_deref().unwrap_or("load");
        if subject.contains(['\r', '\n']) {
            return Err("-S: a subject is one line".to_owned());
        }
        let head =
            format!("From: <{}>\r\nTo: <{}>\r\nSubject: {subject}\r\n", options.from, options.to);
        let body = body(options.length);
        Ok(Pattern {
            run: run.into(),
            rest: [b"\r\n", &*body].concat().into(),
            is_file: false,
            head,
        })
    }

    /// The pieces of message `number`.
    pub fn message(&self, number: u64) -> [Piece; 2] {
        let mut head = String::with_capacity(256);
        let run = &self.run;
        let written = write!(head, "X-Ringpost-Load: {run}-{number}\r\n");
        let written = written.and_then(|()| match self.is_file {
            true => Ok(()),
            false => write!(head, "{}Message-ID: <{run}.{number}@load.invalid>\r\n", self.head),
        });
        written.expect("a String takes every write");
        [head.into_bytes().into(), Rc::clone(&self.rest)]
    }

    /// The recipients of message `number`.
    pub fn recipients(&self, options: &Options, number: u64) -> Vec<String> {
        let to = match options.to.split_once('@').filter(|_| options.domains > 1) {
            Some((local, domain)) => format!("{local}@{}.{domain}", number % options.domains),
            None => options.to.clone(),
        };
        let several = options.recipients > 1;
        (0..options.recipients as u64)
            .map(|place| match (options.number, several) {
                (true, _) => format!("{}{to}", number * options.recipients as u64 + place),
                (false, true) => format!("{place}{to}"),
                (false, false) => to.clone(),
            })
            .collect()
    }
}

/// Lines of X, so many bytes in all.
fn body(length: usize) -> Vec<u8> {
    let mut body = LINE.repeat(length.div_ceil(LINE.len()));
    body.truncate(length);
    if let Some(start) = length.checked_sub(2) {
        // Whatever was cut, the last line has an end.
        body[start..].copy_from_slice(b"\r\n");
        if start > 0 && body[start - 1] == b'\r' {
            body[start - 1] = b'X';
        }
    }
    body
}

/// Every line end as SMTP has it, the last one too.
fn with_line_ends(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 32);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let bare = line.strip_suffix(b"\n").unwrap_or(line);
        out.extend_from_slice(bare.strip_suffix(b"\r").unwrap_or(bare));
        out.extend_from_slice(b"\r\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_have_their_length_and_lawful_lines() {
        for length in [2, 3, 79, 80, 81, 82, 159, 160, 4096, 100_001] {
            let body = body(length);
            assert_eq!(body.len(), length);
            assert!(body.ends_with(b"\r\n"), "{length}");
            let bare = |at: usize| {
                body[at] == b'\n' && (at == 0 || body[at - 1] != b'\r')
                    || body[at] == b'\r' && body.get(at + 1) != Some(&b'\n')
            };
            assert!(!(0..length).any(bare), "{length}");
        }
    }

    #[test]
    fn files_get_line_ends() {
        assert_eq!(with_line_ends(b"a: b\n\nc\r\nd"), b"a: b\r\n\r\nc\r\nd\r\n");
    }
}
