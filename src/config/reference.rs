//! The manual, made from the declarations of `model`: a reference page and a sample file.
//!
//! Promise:  the sample holds every key, commented out, so that as it stands it means the embedded
//!           defaults. A test compares both texts with those in `docs/`.

use std::fmt::Write;

use crate::config::key::Key;
use crate::config::key::Reload;
use crate::config::key::SectionDoc;
use crate::config::key::Standard;
use crate::config::model::SECTIONS;

const REFERENCE_HEAD: &str = "\
# Config reference

Made by `ringpost config reference`; do not edit it by hand.

The config file is TOML. Every key has a default, so that a file holds only what differs; `ringpost
check` reports all faults of a file at once. Unknown keys are faults.

* A duration is numbers with units `d`, `h`, `m`, `s`, `ms`, `us`: `\"5m\"`, `\"1h30m\"`, `\"250ms\"`.
* A size is a number with `KB`, `MB`, `GB`, `TB` (thousands) or `KiB`, `MiB`, `GiB`, `TiB` (1024), or
  plain bytes: `\"25MB\"`, `\"64KiB\"`, `512`.
* A list of one may be written without brackets.

On SIGHUP the file is read again. Keys marked *live* change at once for new sessions; the others keep
their values until a restart, and the server says so. A file with faults changes nothing.
";

const SAMPLE_HEAD: &str = "\
# A sample config for Ringpost, made by `ringpost config sample`.
#
# Every key is commented out and shows its default, so that this file as it stands means the same as
# no file at all. Keys marked [live] are taken over on SIGHUP, the others need a restart.
";

/// The reference page, in Markdown.
pub fn reference() -> String {
    let mut page = REFERENCE_HEAD.to_owned();
    for section in SECTIONS {
        let header = header(section);
        write_line(&mut page, &format!("\n## `{header}`\n\n{}", paragraph(section.about)));
        for key in section.keys {
            write_line(&mut page, &format!("\n### `{}`\n\n{}\n", key.path, paragraph(key.doc)));
            for fact in facts(key) {
                write_line(&mut page, &format!("* {fact}"));
            }
        }
    }
    page
}

/// The sample file, in TOML.
pub fn sample() -> String {
    let mut file = SAMPLE_HEAD.to_owned();
    for section in SECTIONS {
        file.push('\n');
        comment(&mut file, section.about);
        let required = |key: &Key| matches!(key.standard, Standard::Required(_));
        let mark = if section.keys.iter().any(required) { "#" } else { "" };
        write_line(&mut file, &format!("{mark}{}", header(section)));
        for key in section.keys {
            file.push('\n');
            comment(&mut file, key.doc);
            comment(&mut file, &sample_note(key));
            write_line(&mut file, &format!("#{} = {}", key.name, shown(key)));
        }
    }
    file
}

fn header(section: &SectionDoc) -> String {
    match section.repeated {
        true => format!("[[{}]]", section.path),
        false => format!("[{}]", section.path),
    }
}

/// The lines of the reference below a key's text.
fn facts(key: &Key) -> Vec<String> {
    let mut facts = vec![format!("Written as: {}", (key.written)())];
    facts.push(match key.standard {
        Standard::Is(_) => format!("Default: `{}`", shown(key)),
        Standard::Follows(how, _, _) => format!("Default: {how}"),
        Standard::Unset(_) => format!("Default: not set; for example `{}`", shown(key)),
        Standard::Required(_) => format!("Required; for example `{}`", shown(key)),
    });
    facts.extend(range(key).map(|range| format!("Range: {range}")));
    facts.push(match key.reload {
        Reload::Live => "Reload: live".to_owned(),
        Reload::Restart => "Reload: needs a restart".to_owned(),
    });
    facts
}

/// The last line of comment above a key of the sample.
fn sample_note(key: &Key) -> String {
    let mut parts = Vec::new();
    parts.extend(range(key).map(|range| format!("[{range}]")));
    if key.reload == Reload::Live {
        parts.push("[live]".to_owned());
    }
    match key.standard {
        Standard::Is(_) => {}
        Standard::Follows(how, _, _) => parts.push(format!("Default: {}.", how.replace('`', ""))),
        Standard::Unset(_) => parts.push("Not set by default; for example:".to_owned()),
        Standard::Required(_) => parts.push("Required; for example:".to_owned()),
    }
    parts.join(" ")
}

fn range(key: &Key) -> Option<String> {
    key.bounds.map(|(low, high)| format!("{} to {}", (key.show)(low), (key.show)(high)))
}

/// The default or the example, with the quotes that people use.
fn shown(key: &Key) -> String {
    let (Standard::Is(text)
    | Standard::Follows(_, text, _)
    | Standard::Unset(text)
    | Standard::Required(text)) = key.standard;
    text.replace('\'', "\"")
}

fn lines(doc: &str) -> impl Iterator<Item = &str> {
    doc.lines().map(str::trim).filter(|line| !line.is_empty())
}

fn paragraph(doc: &str) -> String {
    lines(doc).collect::<Vec<_>>().join("\n")
}

fn comment(file: &mut String, doc: &str) {
    for line in lines(doc) {
        write_line(file, &format!("# {line}"));
    }
}

fn write_line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a String takes all that is written");
}
