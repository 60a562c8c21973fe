//! Text for people: fields, times, and strings that peers sent.

use std::fmt::Display;

use serde::Serialize;

use crate::operations::OpFault;
use crate::wire::mail::date;

/// Prints a result as JSON or as text.
pub fn print<T: Serialize>(value: &T, json: bool, text: impl FnOnce(&T)) -> Result<(), OpFault> {
    match json {
        true => {
            let shown = serde_json::to_string_pretty(value);
            println!("{}", shown.map_err(|cause| OpFault::other("output", cause.to_string()))?);
        }
        false => text(value),
    }
    Ok(())
}

/// One line of a list of facts.
pub fn field(name: &str, value: impl Display) {
    println!("{name}: {}", plain(&value.to_string()));
}

/// As `field`, unless there is no value.
pub fn field_if(name: &str, value: Option<impl Display>) {
    if let Some(value) = value {
        field(name, value);
    }
}

/// Escapes control characters: what a peer sent must not drive the terminal.
pub fn plain(text: &str) -> String {
    text.trim_end().chars().flat_map(printable).collect()
}

fn printable(letter: char) -> impl Iterator<Item = char> {
    let escaped = letter.is_control().then(|| letter.escape_default());
    let kept = escaped.is_none().then_some(letter);
    escaped.into_iter().flatten().chain(kept)
}

pub fn time(ms: u64) -> String {
    date::rfc3339(ms)
}

pub fn sender(sender: Option<&str>) -> &str {
    sender.filter(|sender| !sender.is_empty()).unwrap_or("<>")
}
