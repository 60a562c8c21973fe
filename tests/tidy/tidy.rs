//! The rules of the source tree, checked on every `cargo test`.
//!
//! Everywhere:  a file opens with a `//!` contract; one full path per `use`, so that layers can be
//!              read; no leftovers; the runtime is named only in `src/rt`.
//! In `src`:    a folder imports only folders of a strictly lower layer; a foreign crate is named
//!              only in its home; `unsafe` only in `rt` and `boot`; no `unwrap` outside tests.
//! Reported:    lengths of files and functions. They are printed, they never fail.
//!
//! Rust is cut into code and comments first, so that neither a comment nor a string trips a rule
//! about code, and only a comment trips a rule about markers.

mod circles;

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;

use crate::circles::Crate;

/// Lowest layer first. Folders on one row never import each other.
const LAYERS: &[&[&str]] = &[
    &["base"],
    &["wire", "observe", "rt"],
    &["config", "event", "net", "dkim"],
    &["directory", "route"],
    &["queue"],
    &["handoff"],
    &["submit"],
    &["inbound", "delivery"],
    &["shard"],
    &["operations"],
    &["control"],
    &["api", "web", "monitor"],
    &["boot"],
    &["doctor"],
    &["cli"],
    &["main", "lib"],
];

/// Where a foreign crate may be named. Every dependency is here or in `ANYWHERE`.
const HOMES: &[(&str, &[&str])] = &[
    ("arc_swap", &["handoff", "delivery"]),
    ("atomic_waker", &["rt", "handoff"]),
    ("aws_lc_rs", &["net"]),
    ("axum", &["control", "monitor"]),
    ("bumpalo", &["wire", "inbound"]),
    ("caps", &["boot"]),
    ("clap", &["cli"]),
    ("core_affinity", &["boot"]),
    ("crc32c", &["queue", "control"]),
    ("crc32fast", &["queue"]),
    ("crossbeam", &["handoff", "queue", "observe"]),
    ("futures_io", &["rt"]),
    ("glommio", &["rt"]),
    ("hdrhistogram", &["observe"]),
    ("hickory_proto", &["net"]),
    ("http_body_util", &["control", "cli"]),
    ("hyper", &["control", "cli"]),
    ("hyper_util", &["control", "cli"]),
    ("idna", &["wire"]),
    ("libc", &["rt", "boot", "queue"]),
    ("mail_parser", &["wire"]),
    ("memchr", &["wire"]),
    ("postcard", &["event"]),
    ("rcgen", &["net"]),
    ("rocksdb", &["queue"]),
    ("rustix", &["queue"]),
    ("rustls", &["net"]),
    ("serde_urlencoded", &["cli"]),
    ("siphasher", &["delivery"]),
    ("socket2", &["rt", "boot", "doctor"]),
    ("strsim", &["config"]),
    ("tikv_jemallocator", &["main"]),
    ("tokio", &["control", "monitor", "cli"]),
    ("tokio_rustls", &["control"]),
    ("toml_edit", &["config"]),
    ("tracing", &["observe"]),
    ("tracing_log", &["observe"]),
    ("webpki", &["net"]),
    ("x509_cert", &["net"]),
];

/// Foreign crates that are vocabulary rather than machinery. `base` names not even these.
const ANYWHERE: &[&str] = &["fail", "ipnet", "jiff", "serde", "serde_json", "slab", "thiserror"];

/// Folders whose files may still import each other in circles. The list only becomes shorter.
const CIRCLES_ALLOWED: &[&str] = &[];

const UNSAFE_HOMES: &[&str] = &["rt", "boot"];
const RUNTIME: &str = "glommio";
const LEFTOVER_MACROS: &[&str] = &["todo", "unimplemented", "dbg"];
const LEFTOVER_MARKERS: &[&str] = &["FIXME", "TODO"];
const FILE_LINES_LONG: usize = 400;
const FN_LINES_LONG: usize = 70;

#[test]
fn tidy() {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("tests/tidy lies in it");
    let mut faults = Vec::new();
    for folder in ["src", "tests", "benches", "loadtest"] {
        for file in rust_files(&root.join(folder)) {
            let text = fs::read_to_string(&file).expect("a source file is readable UTF-8");
            let name = file.strip_prefix(root).expect("walked from the root");
            faults.extend(check(name, &text));
            report_lengths(name, &text);
        }
    }
    for source in ["src", "loadtest/src"] {
        faults.extend(circles_of(root, source));
    }
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("the manifest is readable");
    faults.extend(homeless(&manifest));
    assert!(faults.is_empty(), "{} faults\n{}\n", faults.len(), faults.join("\n"));
}

/// Every group of files below `source` that import each other in circles.
fn circles_of(root: &Path, source: &str) -> Vec<String> {
    let texts: Vec<_> = rust_files(&root.join(source))
        .into_iter()
        .map(|file| {
            let text = fs::read_to_string(&file).expect("a source file is readable UTF-8");
            (file.strip_prefix(root).expect("walked from the root").to_owned(), text)
        })
        .collect();
    let files: Vec<_> = texts.iter().map(|(name, text)| File::new(name, text)).collect();
    let circles = Crate::new(Path::new(source), &files).circles();
    circles
        .into_iter()
        .filter(|files| !CIRCLES_ALLOWED.iter().any(|folder| files[0].starts_with(folder)))
        .map(|files| format!("files that import each other in a circle: {}", files.join(", ")))
        .collect()
}

/// Every fault of one file, in the order of its lines.
fn check(name: &Path, text: &str) -> Vec<String> {
    let file = File::new(name, text);
    let mut faults = Vec::new();
    if !text.starts_with("//!") {
        faults.push((0, "no `//!` contract opens the file".to_owned()));
    }
    check_imports(&file, &mut faults);
    check_leftovers(&file, &mut faults);
    if file.folder.is_some() {
        check_layers(&file, &mut faults);
        check_homes(&file, &mut faults);
        check_words(&file, &mut faults);
    } else {
        check_runtime(&file, &mut faults);
    }
    faults.sort();
    let line = |at: usize| text[..at].matches('\n').count() + 1;
    faults.iter().map(|(at, fault)| format!("{}:{}: {fault}", name.display(), line(*at))).collect()
}

type Faults = Vec<(usize, String)>;

/// A file, cut up once for all rules.
struct File<'a> {
    name: &'a Path,
    /// The folder of `src` it lies in, `None` outside of `src`.
    folder: Option<String>,
    code: String,
    comments: String,
    /// Bytes that only a test build compiles.
    tests: Vec<Range<usize>>,
}

impl<'a> File<'a> {
    fn new(name: &'a Path, text: &str) -> File<'a> {
        let (code, comments) = cut(text);
        let tests = test_ranges(&code);
        File { name, folder: folder_of(name), code, comments, tests }
    }

    fn is_test(&self, at: usize) -> bool {
        let whole = self.name.components().any(|part| {
            let part = Path::new(part.as_os_str()).with_extension("");
            part == Path::new("tests")
        });
        whole || self.tests.iter().any(|range| range.contains(&at))
    }

    /// Whether `super` means the crate root here, outside of an inner module.
    fn lies_at_root(&self) -> bool {
        let depth = self.name.components().count();
        depth == 2 || depth == 3 && self.name.ends_with("mod.rs")
    }
}

fn check_imports(file: &File, faults: &mut Faults) {
    for (at, _) in words(&file.code).filter(|(_, word)| *word == "use") {
        let rest = &file.code[at + "use".len()..];
        let item = rest.split(';').next().unwrap_or("");
        if !rest.starts_with(char::is_whitespace) {
            continue;
        }
        if item.contains('{') {
            faults.push((at, "one full path per `use`, so that layers can be read".to_owned()));
        }
        if matches!(item.trim(), "crate::*" | "ringpost::*") {
            faults.push((at, "a glob of the whole crate hides its layers".to_owned()));
        }
    }
    for (at, _) in file.code.match_indices("super::super") {
        faults.push((at, "`super::super`: write the path from `crate`".to_owned()));
    }
}

fn check_leftovers(file: &File, faults: &mut Faults) {
    for (at, word) in words(&file.code) {
        if LEFTOVER_MACROS.contains(&word) && file.code[at + word.len()..].starts_with('!') {
            faults.push((at, format!("leftover `{word}!`")));
        }
    }
    for (at, word) in words(&file.comments) {
        if LEFTOVER_MARKERS.contains(&word) {
            faults.push((at, format!("leftover marker `{word}`")));
        }
    }
}

fn check_layers(file: &File, faults: &mut Faults) {
    let home = file.folder.as_deref().expect("asked only for files of src");
    let Some(rank) = rank_of(home) else {
        faults.push((0, format!("folder `{home}` is in no layer")));
        return;
    };
    for (at, head) in path_heads(&file.code) {
        let from_root = match head {
            "crate" | "ringpost" => true,
            "super" => file.lies_at_root() && !file.is_test(at),
            _ => false,
        };
        let target = second_segment(&file.code[at + head.len()..]);
        if from_root && target != home && rank_of(target).is_some_and(|other| other >= rank) {
            faults.push((at, format!("`{home}` may not import `{target}`")));
        }
    }
}

fn check_homes(file: &File, faults: &mut Faults) {
    let home = file.folder.as_deref().expect("asked only for files of src");
    for (at, head) in path_heads(&file.code) {
        let homes = HOMES.iter().find(|(name, _)| *name == head).map(|(_, homes)| *homes);
        if homes.is_some_and(|homes| !homes.contains(&home)) {
            let homes = homes.unwrap_or_default().join("`, `");
            faults.push((at, format!("`{head}` is named outside of its home `{homes}`")));
        } else if home == "base" && ANYWHERE.contains(&head) {
            faults.push((at, format!("`base` uses the standard library only, not `{head}`")));
        }
    }
}

fn check_runtime(file: &File, faults: &mut Faults) {
    for (at, _) in path_heads(&file.code).filter(|(_, head)| *head == RUNTIME) {
        faults.push((at, format!("`{RUNTIME}` is named outside of its home `rt`")));
    }
}

fn check_words(file: &File, faults: &mut Faults) {
    let home = file.folder.as_deref().expect("asked only for files of src");
    for (at, word) in words(&file.code) {
        if word == "unsafe" && !UNSAFE_HOMES.contains(&home) {
            faults.push((at, format!("`unsafe` outside of `{}`", UNSAFE_HOMES.join("`, `"))));
        }
        let called = file.code[at + word.len()..].trim_start().starts_with('(');
        if word == "unwrap" && called && !file.is_test(at) {
            faults.push((at, "`unwrap`: handle it, or `expect` with why it holds".to_owned()));
        }
    }
}

/// Dependencies of the manifest that have no home.
fn homeless(manifest: &str) -> Vec<String> {
    let section = manifest.split("\n[dependencies]\n").nth(1).unwrap_or("");
    let section = section.split("\n[").next().unwrap_or("");
    let names = section.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name);
    names
        .map(|name| name.split('.').next().unwrap_or("").trim().replace('-', "_"))
        .filter(|name| !name.starts_with('#') && !ANYWHERE.contains(&name.as_str()))
        .filter(|name| !HOMES.iter().any(|(known, _)| known == name))
        .map(|name| format!("Cargo.toml: `{name}` has no home in tests/tidy/tidy.rs"))
        .collect()
}

fn report_lengths(name: &Path, text: &str) {
    let lines = text.lines().count();
    if lines > FILE_LINES_LONG {
        println!("{}: {lines} lines", name.display());
    }
    let (code, _) = cut(text);
    for (line, length) in function_lengths(&code).filter(|(_, length)| *length > FN_LINES_LONG) {
        println!("{}:{line}: function of {length} lines", name.display());
    }
}

/// First line and number of lines of every function with a body.
fn function_lengths(code: &str) -> impl Iterator<Item = (usize, usize)> {
    words(code).filter(|(_, word)| *word == "fn").filter_map(|(at, _)| {
        let body = item_end(code, at);
        let lines = code[at..body].matches('\n').count() + 1;
        code[at..body].ends_with('}').then(|| (code[..at].matches('\n').count() + 1, lines))
    })
}

/// Code and comments of a Rust text, each as long as the text, with blanks for what it lacks.
/// String and character literals are in neither.
fn cut(text: &str) -> (String, String) {
    let bytes = text.as_bytes();
    let mut code = blank(bytes);
    let mut comments = code.clone();
    let mut at = 0;
    while at < bytes.len() {
        if let Some(end) = comment_end(text, at) {
            comments[at..end].copy_from_slice(&bytes[at..end]);
            at = end;
        } else if let Some(end) = literal_end(text, at) {
            at = end;
        } else {
            code[at] = bytes[at];
            at += 1;
        }
    }
    let whole = |bytes| String::from_utf8(bytes).expect("only whole characters were blanked");
    (whole(code), whole(comments))
}

fn blank(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }).collect()
}

fn comment_end(text: &str, at: usize) -> Option<usize> {
    let rest = &text.as_bytes()[at..];
    if rest.starts_with(b"//") {
        return Some(at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()));
    }
    if !rest.starts_with(b"/*") {
        return None;
    }
    let (mut depth, mut end) = (0, 0);
    while end < rest.len() {
        let step = match &rest[end..] {
            [b'/', b'*', ..] => 1,
            [b'*', b'/', ..] => -1,
            _ => 0,
        };
        depth += step;
        end += if step == 0 { 1 } else { 2 };
        if depth == 0 {
            break;
        }
    }
    Some(at + end)
}

/// The end of the string or character literal that starts here. A lifetime is none.
fn literal_end(text: &str, at: usize) -> Option<usize> {
    let rest = &text[at..text.len()];
    match text.as_bytes()[at] {
        b'"' => Some(at + quoted_len(rest, b'"')),
        b'\'' if rest[1..].starts_with('\\') => Some(at + quoted_len(rest, b'\'')),
        b'\'' => {
            let len = rest[1..].chars().next().map_or(0, char::len_utf8) + 1;
            rest[len..].starts_with('\'').then_some(at + len + 1)
        }
        b'r' if !text[..at].ends_with(is_word) || follows_prefix(text, at) => {
            let hashes = rest[1..].bytes().take_while(|byte| *byte == b'#').count();
            let close = format!("\"{}", "#".repeat(hashes));
            let inside = rest[1 + hashes..].strip_prefix('"')?;
            let len = inside.find(&close).map_or(inside.len(), |len| len + close.len());
            Some(at + 1 + hashes + 1 + len)
        }
        _ => None,
    }
}

/// Whether the `r` here belongs to `br"` or `cr"`.
fn follows_prefix(text: &str, at: usize) -> bool {
    let before = &text[..at];
    before.ends_with(['b', 'c']) && !before[..before.len() - 1].ends_with(is_word)
}

fn quoted_len(rest: &str, quote: u8) -> usize {
    let bytes = rest.as_bytes();
    let mut at = 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// Every identifier and keyword, with where it starts.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split(|letter| !is_word(letter))
        .filter(|word| !word.is_empty())
        .map(|word| (word.as_ptr() as usize - text.as_ptr() as usize, word))
}

/// The first segment of every path, and every name that a `use` takes whole.
fn path_heads(code: &str) -> impl Iterator<Item = (usize, &str)> {
    words(code).filter(|(at, word)| {
        let (before, after) = (code[..*at].trim_end(), code[at + word.len()..].trim_start());
        let is_whole = before.ends_with(" use") || before == "use" || before.ends_with("\nuse");
        (after.starts_with("::") || is_whole || before.ends_with("extern crate"))
            && !before
                .strip_suffix("::")
                .is_some_and(|left| left.ends_with(|c| is_word(c) || c == '>'))
    })
}

fn second_segment(rest: &str) -> &str {
    let rest = rest.trim_start().strip_prefix("::").unwrap_or("");
    words(rest).next().filter(|(at, _)| rest[..*at].trim().is_empty()).map_or("", |(_, word)| word)
}

/// What stands behind each `#[cfg(test)]`.
fn test_ranges(code: &str) -> Vec<Range<usize>> {
    let tests = code.match_indices("#[cfg(").filter(|(at, _)| {
        let condition = code[*at..].split(']').next().unwrap_or("");
        words(condition).any(|(_, word)| word == "test") && !condition.contains("not(test")
    });
    tests.map(|(at, _)| at..item_end(code, at)).collect()
}

/// The end of the item at `start`: its closing brace, or the semicolon before any brace.
fn item_end(code: &str, start: usize) -> usize {
    let (mut braces, mut others) = (0_usize, 0_usize);
    for (at, byte) in code.bytes().enumerate().skip(start) {
        match byte {
            b'(' | b'[' => others += 1,
            b')' | b']' => others = others.saturating_sub(1),
            b'{' => braces += 1,
            b'}' => braces = braces.saturating_sub(1),
            _ => {}
        }
        if braces == 0 && others == 0 && matches!(byte, b'}' | b';') {
            return at + 1;
        }
    }
    code.len()
}

fn rank_of(folder: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&folder))
}

fn folder_of(name: &Path) -> Option<String> {
    let inside = name.strip_prefix("src").ok()?;
    let first = inside.components().next()?;
    Some(Path::new(first.as_os_str()).with_extension("").display().to_string())
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else {
        return found;
    };
    for entry in entries {
        let path = entry.expect("an entry is readable").path();
        if path.is_dir() && !path.ends_with("target") {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// One row: what it shows, the file, its text, and the faults without the file's name.
type Row = (&'static str, &'static str, &'static str, &'static [&'static str]);

const BITES: &[Row] = &[
    ("no contract", "src/wire/x.rs", "fn f() {}\n", &["1: no `//!` contract opens the file"]),
    (
        "a test without contract",
        "tests/x.rs",
        "\n//! h\n",
        &["1: no `//!` contract opens the file"],
    ),
    ("unknown folder", "src/misc/x.rs", "//! h\n", &["1: folder `misc` is in no layer"]),
    (
        "a folder of the same row",
        "src/inbound/x.rs",
        "//! h\nuse crate::delivery::Worker;\n",
        &["2: `inbound` may not import `delivery`"],
    ),
    (
        "a higher folder, in passing",
        "src/wire/smtp/x.rs",
        "//! h\nfn f() {\n    crate::queue::g();\n}\n",
        &["3: `wire` may not import `queue`"],
    ),
    (
        "a higher folder by super",
        "src/wire/mod.rs",
        "//! h\nuse super::queue::Job;\n",
        &["2: `wire` may not import `queue`"],
    ),
    (
        "the library from the inside",
        "src/boot/x.rs",
        "//! h\nuse ringpost::main::f;\n",
        &["2: `boot` may not import `main`"],
    ),
    (
        "a higher folder in test code",
        "src/base/x.rs",
        "//! h\n#[cfg(test)]\nmod tests {\n    use crate::rt::Task;\n}\n",
        &["4: `base` may not import `rt`"],
    ),
    (
        "a group",
        "src/queue/x.rs",
        "//! h\nuse crate::{wire};\nuse std::{\n    fs,\n    io,\n};\n",
        &[
            "2: one full path per `use`, so that layers can be read",
            "3: one full path per `use`, so that layers can be read",
        ],
    ),
    (
        "a glob",
        "src/shard/x.rs",
        "//! h\nuse crate::*;\n",
        &["2: a glob of the whole crate hides its layers"],
    ),
    (
        "super of super",
        "src/wire/smtp/x.rs",
        "//! h\nuse super::super::mail;\n",
        &["2: `super::super`: write the path from `crate`"],
    ),
    (
        "the runtime outside of rt",
        "src/shard/x.rs",
        "//! h\nuse glommio::Task;\n",
        &["2: `glommio` is named outside of its home `rt`"],
    ),
    (
        "the runtime in a test",
        "tests/x.rs",
        "//! h\nfn f() { ::glommio::spawn(); }\n",
        &["2: `glommio` is named outside of its home `rt`"],
    ),
    (
        "a foreign crate as an attribute, whole, renamed",
        "src/net/x.rs",
        "//! h\n#[bumpalo::main]\nfn f() {}\nuse rocksdb;\nuse caps as c;\n",
        &[
            "2: `bumpalo` is named outside of its home `wire`, `inbound`",
            "4: `rocksdb` is named outside of its home `queue`",
            "5: `caps` is named outside of its home `boot`",
        ],
    ),
    (
        "a foreign crate in base",
        "src/base/x.rs",
        "//! h\nuse jiff::Timestamp;\n",
        &["2: `base` uses the standard library only, not `jiff`"],
    ),
    (
        "unsafe",
        "src/queue/x.rs",
        "//! h\nfn f() { unsafe { g() } }\n",
        &["2: `unsafe` outside of `rt`, `boot`"],
    ),
    (
        "unwrap beside test code",
        "src/net/x.rs",
        "//! h\n#[cfg(test)]\nmod tests { fn f() { a().unwrap() } }\nfn f() { a().unwrap() }\n#[cfg(not(test))]\nfn g() { a().unwrap() }\n",
        &[
            "4: `unwrap`: handle it, or `expect` with why it holds",
            "6: `unwrap`: handle it, or `expect` with why it holds",
        ],
    ),
    (
        "leftover macros",
        "src/net/x.rs",
        "//! h\nfn f() { todo!() }\nfn g() { dbg!(1); unimplemented!() }\n",
        &["2: leftover `todo!`", "3: leftover `dbg!`", "3: leftover `unimplemented!`"],
    ),
    (
        "leftover markers",
        "loadtest/src/x.rs",
        "//! h\n// TODO: later\n/* FIXME */\n",
        &["2: leftover marker `TODO`", "3: leftover marker `FIXME`"],
    ),
    (
        "code behind literals",
        "src/net/x.rs",
        "//! h\nconst A: &[char] = &['\"', '\\'', '{'];\nfn f<'a>(x: &'a str) { x.unwrap() }\nconst R: &str = r#\"\"\"#; use caps::net;\n",
        &[
            "3: `unwrap`: handle it, or `expect` with why it holds",
            "4: `caps` is named outside of its home `boot`",
        ],
    ),
];

const PASSES: &[(&str, &str, &str)] = &[
    (
        "a lower folder",
        "src/inbound/x.rs",
        "//! h\nuse crate::queue::Commit;\nuse crate::base::Chunk;\n",
    ),
    (
        "its own folder",
        "src/queue/x.rs",
        "//! h\nuse crate::queue::store::message;\nuse super::body::Body;\n",
    ),
    ("main starts boot", "src/main.rs", "//! h\nfn main() { ringpost::boot::run(); }\n"),
    (
        "super of a test module",
        "src/wire/mod.rs",
        "//! h\n#[cfg(test)]\nmod tests { use super::queue; }\n",
    ),
    (
        "comments",
        "src/wire/x.rs",
        "//! h\n// use crate::queue; unsafe a.unwrap() todo!() glommio::x\n/* dbg!(1) /* tokio::x */ unsafe */\n",
    ),
    (
        "strings",
        "src/wire/x.rs",
        "//! h\nconst A: &str = \"use crate::queue; \\\" unsafe .unwrap() FIXME todo!()\";\n",
    ),
    ("raw strings", "src/wire/x.rs", "//! h\nconst A: &[u8] = br#\"unsafe \" tokio::x TODO\"#;\n"),
    (
        "a path below a folder",
        "src/inbound/x.rs",
        "//! h\nuse crate::wire::memchr::find;\nuse self::tokio::x;\n",
    ),
    (
        "a local of that name",
        "src/net/x.rs",
        "//! h\nfn f() { let caps = 1; g(caps); unwrap_or(caps); }\n",
    ),
    (
        "the home of a crate",
        "src/rt/x.rs",
        "//! h\nuse glommio::Task;\nfn f() { unsafe { g() } }\n",
    ),
    (
        "unwrap in tests",
        "src/net/x.rs",
        "//! h\n#[cfg(all(test, unix))]\n#[allow(x)]\nmod tests { fn f() { a().unwrap() } }\n",
    ),
    ("unwrap in a tests file", "src/net/tests.rs", "//! h\nfn f() { a().unwrap() }\n"),
    ("unwrap outside of src", "tests/x.rs", "//! h\nfn f() { a().unwrap() }\n"),
    ("captured lifetimes", "src/net/x.rs", "//! h\nfn f<'a>() -> impl Fn() + use<'a> { || {} }\n"),
    (
        "a crate by the home's own name",
        "src/control/x.rs",
        "//! h\nuse tokio::net::TcpListener;\nuse serde_json::Value;\n",
    ),
];

#[test]
fn each_rule_bites() {
    for (row, name, text, wanted) in BITES {
        let wanted: Vec<String> = wanted.iter().map(|fault| format!("{name}:{fault}")).collect();
        assert_eq!(check(Path::new(name), text), wanted, "{row}");
    }
}

#[test]
fn no_rule_bites_what_is_right() {
    for (row, name, text) in PASSES {
        assert_eq!(check(Path::new(name), text), [""; 0], "{row}");
    }
}

#[test]
fn a_dependency_without_a_home_is_found() {
    let manifest = "[package]\n\n[dependencies]\n# a comment = 1\nlibc = \"0.2\"\nserde.version = \"1\"\n\
                    left-pad = { version = \"1\" }\n\n[dev-dependencies]\ntempfile = \"3\"\n";
    assert_eq!(homeless(manifest), ["Cargo.toml: `left_pad` has no home in tests/tidy/tidy.rs"]);
}

#[test]
fn functions_are_measured_by_their_braces() {
    let (code, _) = cut("fn f(a: [u8; 2]) {\n    let s = \"}\";\n}\n\ntrait T {\n    fn g();\n}\n");
    assert_eq!(function_lengths(&code).collect::<Vec<_>>(), [(1, 3)]);
}
