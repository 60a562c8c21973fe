//! Reads the text files of ledgers.

use std::io::BufRead;

/// Passes the words of each line after the head to `take`; `None` from it is an error.
pub fn read_lines(
    input: impl BufRead,
    head: &str,
    mut take: impl FnMut(&[&str]) -> Option<()>,
) -> Result<(), String> {
    let mut lines = input.lines();
    let first = lines.next().transpose().map_err(|cause| cause.to_string())?;
    if first.as_deref() != Some(head) {
        return Err(format!("line 1: expected `{head}`"));
    }
    for (place, line) in lines.enumerate() {
        let line = line.map_err(|cause| cause.to_string())?;
        let words: Vec<&str> = line.split(' ').collect();
        take(&words).ok_or_else(|| format!("line {}: `{line}` is not an entry", place + 2))?;
    }
    Ok(())
}
