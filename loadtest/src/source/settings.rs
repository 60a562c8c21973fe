//! What stands in the record of a run about how it was asked for.
//!
//! Promise:  the command line is there whole, so that the same can be run again, but for a password.

use std::collections::BTreeMap;

use crate::source::options::Options;

/// What a reader must know to run the same again.
pub fn settings(options: &Options) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::from([
        ("command line".to_owned(), command_line(words())),
        ("server".to_owned(), options.server.clone()),
        ("sessions".to_owned(), options.sessions.to_string()),
        ("recipients".to_owned(), options.recipients.to_string()),
        ("domains".to_owned(), options.domains.to_string()),
        ("cores".to_owned(), options.cores.to_string()),
        ("connections kept".to_owned(), options.keep.to_string()),
        ("protocol".to_owned(), if options.lmtp { "LMTP" } else { "SMTP" }.to_owned()),
        ("pipelining".to_owned(), (!options.no_pipelining).to_string()),
        ("chunking".to_owned(), (!options.no_chunking).to_string()),
    ]);
    let content = &options.content;
    let file = options.file.as_ref().or(content.eml.as_ref());
    if let Some(file) = file {
        settings.insert("file".to_owned(), file.display().to_string());
    } else if content.sizes.is_none() {
        settings.insert("body bytes".to_owned(), options.length.to_string());
    }
    if let Some(count) = options.count() {
        settings.insert("messages".to_owned(), count.to_string());
    }
    if let Some(rate) = options.rate {
        settings.insert("intended per second".to_owned(), rate.to_string());
    }
    settings
}

/// What is no text is told as far as it is.
fn words() -> impl Iterator<Item = String> {
    std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned())
}

/// Words with blanks or quotes in them are quoted as a shell wants them; no password is told.
fn command_line(words: impl Iterator<Item = String>) -> String {
    let (mut told, mut is_secret) = (Vec::new(), false);
    for word in words {
        let shown = match (is_secret, word.starts_with("--auth=")) {
            (true, _) => "...".to_owned(),
            (false, true) => "--auth=...".to_owned(),
            (false, false) => quoted(&word),
        };
        is_secret = word == "--auth";
        told.push(shown);
    }
    told.join(" ")
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
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn settings_of(words: &str) -> BTreeMap<String, String> {
        let words = std::iter::once("source").chain(words.split(' '));
        settings(&Line::parse_from(words).options)
    }

    #[test]
    fn what_was_not_sent_is_not_told() {
        let of = |words: &str, name: &str| settings_of(words).get(name).cloned();
        assert_eq!(of("-l 9 h", "body bytes").as_deref(), Some("9"));
        for words in ["--sizes 4k,8k h", "-F x h", "--eml x h"] {
            assert_eq!(of(words, "body bytes"), None, "{words}");
        }
        assert_eq!(of("--eml x h", "file").as_deref(), Some("x"));
        assert_eq!(of("--duration 5s h", "messages"), None);
        assert!(of("h", "command line").is_some());
    }

    #[test]
    fn a_command_line_can_be_run_again_and_tells_no_password() {
        for (words, expected) in [
            (
                &["source", "-S", "a b", "--steps", "1x3s", "h"][..],
                "source -S 'a b' --steps 1x3s h",
            ),
            (&["-S", "it's", ""], "-S 'it'\\''s' ''"),
            (&["--auth", "me:secret", "h"], "--auth ... h"),
            (&["--auth=me:secret", "h"], "--auth=... h"),
            (&["--auth-file", "x", "h"], "--auth-file x h"),
        ] {
            let told = command_line(words.iter().map(|word| (*word).to_owned()));
            assert_eq!(told, expected);
        }
    }
}
