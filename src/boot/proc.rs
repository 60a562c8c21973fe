//! Reads single values from files of `/proc`, `/sys` and `/etc` below a root of the caller's choice.

use std::fs;
use std::path::Path;

/// The text of a file; empty if it cannot be read.
pub(crate) fn text_of(root: &Path, file: &str) -> String {
    fs::read_to_string(root.join(file)).unwrap_or_default()
}

/// The number that is all of a file.
pub(crate) fn number_of(root: &Path, file: &str) -> Option<u64> {
    text_of(root, file).trim().parse().ok()
}

/// The first number after `key` in a text of `key: value` lines.
pub(crate) fn field_of(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}
