//! The command line in the record of a run, so that the run can be repeated.
//!
//! Promise:  the whole command line, without the password of `--auth`.

use std::collections::BTreeMap;

/// The settings of this process: its command line.
pub fn command_line() -> BTreeMap<String, String> {
    let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    BTreeMap::from([("command line".to_owned(), joined(words))])
}

/// Words that a shell would split are quoted.
fn joined(words: impl Iterator<Item = String>) -> String {
    let (mut shown, mut is_secret) = (Vec::new(), false);
    for word in words {
        shown.push(match (is_secret, word.starts_with("--auth=")) {
            (true, _) => "...".to_owned(),
            (false, true) => "--auth=...".to_owned(),
            (false, false) => quoted(&word),
        });
        is_secret = word == "--auth";
    }
    shown.join(" ")
}

fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=+.,:/@%".contains(&byte);
    match !word.is_empty() && word.bytes().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_complete_but_for_passwords() {
        for (words, expected) in [
            (&["source", "-S", "a b", "--steps", "1x3s"][..], "source -S 'a b' --steps 1x3s"),
            (&["-S", "it's", ""], "-S 'it'\\''s' ''"),
            (&["--auth", "me:secret", "h"], "--auth ... h"),
            (&["--auth=me:secret", "h"], "--auth=... h"),
            (&["--auth-file", "x", "h"], "--auth-file x h"),
        ] {
            assert_eq!(joined(words.iter().map(|word| (*word).to_owned())), expected);
        }
    }
}
