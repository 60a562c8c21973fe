//! Replays the fuzzers' corpus, and seeded mutations of it, on the stable compiler.
//!
//! An input that a fuzzer finds is added to `tests/fuzz/corpus/<target>/`.

use std::fs;
use std::path::Path;

#[path = "../fuzz/src/lib.rs"]
mod targets;

use targets::Choices;

const MUTATIONS: usize = 50_000;

/// Tokens with a meaning in the protocols; mutations insert them.
const TOKENS: [&[u8]; 32] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b".",
    b"\r\n.\r\n",
    b"\n.\n",
    b"\r\n.\n",
    b"\r.\r",
    b"<",
    b">",
    b"@",
    b"\"",
    b"\\",
    b"[IPv6:::1]",
    b":",
    b",",
    b" ",
    b"\xc3\xbc",
    b"\xff",
    b"xn--",
    b"MAIL FROM:<a@b>\r\n",
    b"RCPT TO:<c@d>\r\n",
    b"DATA\r\n",
    b"BDAT 3 LAST\r\nabc",
    b"BDAT 5\r\nhello",
    b"RSET\r\n",
    b"EHLO x\r\n",
    b"STARTTLS\r\n",
    b"XCLIENT ADDR=192.0.2.1\r\n",
    b" SIZE=1",
    b"99999999999999999999",
];

#[test]
fn session() {
    replay("session", targets::session);
}

#[test]
fn address() {
    replay("address", targets::address);
}

#[test]
fn proxy() {
    replay("proxy", targets::proxy);
}

#[test]
fn dot() {
    replay("dot", targets::dot);
}

#[test]
fn header() {
    replay("header", targets::header);
}

#[test]
fn stored() {
    replay("stored", targets::stored);
}

fn replay(target: &str, check: fn(&[u8])) {
    let seeds = read_corpus(target);
    assert!(seeds.len() >= 12, "the corpus of {target} is complete");
    for (name, seed) in &seeds {
        let _told = Naming(name, seed);
        check(seed);
    }
    let mut choices = Choices::new(0x5EED);
    for _ in 0..MUTATIONS {
        let (name, seed) = &seeds[choices.below(seeds.len())];
        let (_, other) = &seeds[choices.below(seeds.len())];
        let mut mutated = seed.clone();
        for _ in 0..=choices.below(4) {
            mutate(&mut mutated, other, &mut choices);
        }
        let _told = Naming(name, &mutated);
        check(&mutated);
    }
}

fn read_corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).expect("the target has a corpus");
    let mut seeds: Vec<(String, Vec<u8>)> = files
        .map(|file| file.expect("the folder is readable").path())
        .map(|path| (path.display().to_string(), fs::read(&path).expect("the file is readable")))
        .collect();
    seeds.sort();
    seeds
}

fn mutate(bytes: &mut Vec<u8>, other: &[u8], choices: &mut Choices) {
    let at = choices.below(bytes.len() + 1);
    let end = (at + choices.below(16)).min(bytes.len());
    match choices.below(7) {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = choices.next_u64() as u8;
            }
        }
        1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << choices.below(8);
            }
        }
        2 => drop(bytes.drain(at..end)),
        3 => bytes.truncate(at),
        4 => {
            let copy = bytes[at..end].to_vec();
            bytes.splice(at..at, copy);
        }
        5 => {
            let from = choices.below(other.len() + 1);
            bytes.splice(at.., other[from..].iter().copied());
        }
        _ => {
            let token = TOKENS[choices.below(TOKENS.len())];
            bytes.splice(at..at, token.iter().copied());
        }
    }
}

/// Prints the input of a failing check.
struct Naming<'a>(&'a str, &'a [u8]);

impl Drop for Naming<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("input, from {}: b\"{}\"", self.0, self.1.escape_ascii());
        }
    }
}
