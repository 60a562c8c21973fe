//! Lists of named sections: unique names, and references to names.

use crate::config::fault::Refusal;
use crate::config::fault::nearest;
use crate::config::name::Label;
use crate::config::reading::Reading;
use crate::config::reading::find;
use crate::config::section::Section;

/// Whether no element of the list was refused.
pub fn is_whole<T: Section>(list: &[T], reading: &Reading<'_>) -> bool {
    let written = find(reading.root, T::DOC.path).map_or(0, |written| written.list().len());
    written == list.len()
}

/// Names within a list must be unique.
pub fn check_names<'c>(
    path: &str,
    names: impl Iterator<Item = &'c Label>,
    reading: &mut Reading<'_>,
) {
    let names: Vec<&Label> = names.collect();
    for (place, name) in names.iter().enumerate() {
        if let Some(first) = names[..place].iter().position(|other| other == name) {
            let keys = [place, first].map(|place| format!("{path}[{}].name", place + 1));
            let hint = format!("{} has the same name; names must be unique", keys[1]);
            reading.contradiction(
                &[&keys[0], &keys[1]],
                format!("\"{name}\" is the name of two {path}s"),
                hint,
            );
        }
    }
}

/// A refusal if `name` is not known.
pub fn unknown<'c>(
    thing: &str,
    name: &Label,
    known: impl Iterator<Item = &'c Label>,
) -> Option<Refusal> {
    let mut known: Vec<&str> = known.map(Label::as_str).collect();
    known.dedup();
    if known.contains(&name.as_str()) {
        return None;
    }
    let hint = match nearest(name.as_str(), known.iter().copied()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None if known.is_empty() => format!("add a [[{thing}]] with this name"),
        None => format!("known names: {}", known.join(", ")),
    };
    Some(Refusal::new(format!("there is no {thing} \"{name}\""), hint))
}
