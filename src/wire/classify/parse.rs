//! The parser of files of rules.
//!
//! Promise:  each line is parsed completely or refused with its number.

use std::ops::RangeInclusive;
use std::time::Duration;

use thiserror::Error;

use crate::base::limits::ACTION_S_MAX;
use crate::wire::classify::category::Action;
use crate::wire::classify::category::Advice;
use crate::wire::classify::category::Category;
use crate::wire::classify::category::Measure;
use crate::wire::classify::category::Scope;
use crate::wire::classify::category::Verdict;
use crate::wire::classify::table::Classifier;
use crate::wire::classify::table::Codes;
use crate::wire::classify::table::Rule;
use crate::wire::classify::table::RuleId;

/// An error in a file of rules, and its line, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{file}: line {line}: {wrong}")]
pub struct RulesFault {
    pub file: Box<str>,
    pub line: usize,
    pub wrong: Wrong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Wrong {
    #[error("a rule is `codes | provider | words | category | advice`, and perhaps ` | action`")]
    Fields,
    #[error("codes are like `550`, `55x`, `x.2.2`, `4xx/x.7.1` or `*`")]
    Codes,
    #[error("no earlier line `@name | suffixes` defines this provider")]
    Provider,
    #[error("a provider is `@name | .suffix .suffix`, at most 32 of them")]
    ProviderLine,
    #[error("words are `*` or printable lower-case text, joined by ` + `")]
    Words,
    #[error("unknown category")]
    Category,
    #[error("unknown advice")]
    Advice,
    #[error("an action is like `slow 50% 10m source` or `suspend 2h destination`, for 1s to 7d")]
    Action,
    #[error("too many rules")]
    TooMany,
    #[error("the last rule must be `* | * | * | ...`")]
    NoLastRule,
}

const BUILT_IN: &str = include_str!("replies.rules");
const BUILT_IN_NAME: &str = "replies.rules";
const PROVIDERS_MAX: usize = 32;

/// A file of an operator.
#[derive(Clone, Copy, Debug)]
pub struct RulesFile<'a> {
    pub name: &'a str,
    pub text: &'a str,
}

impl Classifier {
    /// The rules compiled into the program.
    pub fn built_in() -> Classifier {
        Classifier::with(&[]).expect("a test parses the built-in rules")
    }

    /// The rules of these files in their order, then those compiled into the program. The files know
    /// the providers of the latter.
    pub fn with(files: &[RulesFile<'_>]) -> Result<Classifier, RulesFault> {
        let mut draft = Draft::default();
        draft.take_file(RulesFile { name: BUILT_IN_NAME, text: BUILT_IN })?;
        let built_in = draft.rules.len();
        for file in files {
            draft.take_file(*file)?;
        }
        draft.rules.rotate_left(built_in);
        draft.finish()
    }
}

#[derive(Default)]
struct Draft {
    rules: Vec<Rule>,
    codes: Vec<Codes>,
    words: Vec<Box<str>>,
    providers: Vec<Box<str>>,
    ends: Vec<(Box<str>, u8)>,
    files: Vec<Box<str>>,
}

impl Draft {
    fn take_file(&mut self, RulesFile { name, text }: RulesFile<'_>) -> Result<(), RulesFault> {
        self.files.push(name.into());
        for (at, line) in text.lines().enumerate() {
            let line_number = at + 1;
            let line = line.trim();
            let taken = match line.strip_prefix('@') {
                _ if line.is_empty() || line.starts_with('#') => Ok(()),
                Some(provider) => self.take_provider(provider),
                None => self.take_rule(line, line_number),
            };
            let fault = |wrong| RulesFault { file: name.into(), line: line_number, wrong };
            taken.map_err(fault)?;
        }
        Ok(())
    }

    /// Parses `name | .suffix .suffix`.
    fn take_provider(&mut self, line: &str) -> Result<(), Wrong> {
        let (name, ends) = line.split_once('|').ok_or(Wrong::ProviderLine)?;
        let name = name.trim();
        if name.is_empty()
            || self.providers.iter().any(|known| **known == *name)
            || self.providers.len() == PROVIDERS_MAX
        {
            return Err(Wrong::ProviderLine);
        }
        let number = self.providers.len() as u8;
        self.providers.push(name.into());
        let before = self.ends.len();
        for end in ends.split_ascii_whitespace() {
            if !end.starts_with('.') || end.len() < 2 {
                return Err(Wrong::ProviderLine);
            }
            self.ends.push((end.into(), number));
        }
        if self.ends.len() == before { Err(Wrong::ProviderLine) } else { Ok(()) }
    }

    /// Parses `codes | provider | words | category | advice`, and ` | action` if there is one.
    fn take_rule(&mut self, line: &str, line_number: usize) -> Result<(), Wrong> {
        let mut fields = line.split('|').map(str::trim);
        let mut next = || fields.next().ok_or(Wrong::Fields);
        let (codes, provider, words, category, advice) =
            (next()?, next()?, next()?, next()?, next()?);
        let action =
            fields.next().map(|text| read_action(text).ok_or(Wrong::Action)).transpose()?;
        if fields.next().is_some() {
            return Err(Wrong::Fields);
        }
        let (codes_start, words_start) = (self.codes.len(), self.words.len());
        for alternative in codes.split(',') {
            self.codes.push(read_codes(alternative.trim()).ok_or(Wrong::Codes)?);
        }
        let provider = self.find_provider(provider)?;
        if words != "*" {
            for one in words.split(" + ") {
                self.words.push(read_words(one.trim()).ok_or(Wrong::Words)?.into());
            }
        }
        let verdict = Verdict {
            category: Category::from_label(category.as_bytes()).ok_or(Wrong::Category)?,
            advice: Advice::from_label(advice.as_bytes()).ok_or(Wrong::Advice)?,
        };
        let place = |at: usize| u16::try_from(at).map_err(|_| Wrong::TooMany);
        let line = u32::try_from(line_number).map_err(|_| Wrong::TooMany)?;
        self.rules.push(Rule {
            codes: place(codes_start)?..place(self.codes.len())?,
            provider,
            words: place(words_start)?..place(self.words.len())?,
            verdict,
            action,
            id: RuleId { file: place(self.files.len() - 1)?, line },
        });
        Ok(())
    }

    fn find_provider(&self, name: &str) -> Result<Option<u8>, Wrong> {
        if name == "*" {
            return Ok(None);
        }
        let place = self.providers.iter().position(|known| **known == *name);
        place.map(|place| Some(place as u8)).ok_or(Wrong::Provider)
    }

    fn fits_everything(&self, rule: &Rule) -> bool {
        let codes = &self.codes[usize::from(rule.codes.start)..usize::from(rule.codes.end)];
        rule.provider.is_none()
            && rule.words.is_empty()
            && codes.iter().any(|codes| codes.basic.is_none() && codes.enhanced.is_none())
    }

    fn finish(self) -> Result<Classifier, RulesFault> {
        if !self.rules.last().is_some_and(|rule| self.fits_everything(rule)) {
            let file = self.files.last().cloned().unwrap_or_default();
            let line = self.rules.last().map_or(0, |rule| rule.id.line as usize);
            return Err(RulesFault { file, line, wrong: Wrong::NoLastRule });
        }
        Ok(Classifier {
            rules: self.rules.into(),
            codes: self.codes.into(),
            words: self.words.into(),
            ends: self.ends.into(),
            files: self.files.into(),
        })
    }
}

/// Parses `slow 50% 10m source` and `suspend 2h destination`.
fn read_action(text: &str) -> Option<Action> {
    let mut words = text.split_ascii_whitespace();
    let measure = match words.next()? {
        "slow" => {
            let percent = words.next()?.strip_suffix('%')?.parse().ok()?;
            (1..100).contains(&percent).then_some(Measure::Slow { percent })?
        }
        "suspend" => Measure::Suspend,
        _ => return None,
    };
    let time = read_time(words.next()?)?;
    let scope = match words.next()? {
        "source" => Scope::Source,
        "destination" => Scope::Destination,
        _ => return None,
    };
    words.next().is_none().then_some(Action { measure, time, scope })
}

/// From a second to a week.
fn read_time(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit_s = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    let is_number = number.bytes().all(|digit| digit.is_ascii_digit());
    let number = number.parse::<u64>().ok().filter(|_| is_number)?;
    let seconds = number.checked_mul(unit_s)?;
    (1..=ACTION_S_MAX).contains(&seconds).then(|| Duration::from_secs(seconds))
}

fn read_codes(text: &str) -> Option<Codes> {
    if text == "*" {
        return Some(Codes { basic: None, enhanced: None });
    }
    let (basic, enhanced) = match text.split_once('/') {
        Some((basic, enhanced)) => (Some(basic), Some(enhanced)),
        None if text.contains('.') => (None, Some(text)),
        None => (Some(text), None),
    };
    let basic = match basic {
        Some(basic) => Some(read_span(basic).filter(|_| basic.len() == 3)?),
        None => None,
    };
    let enhanced = match enhanced {
        Some(enhanced) => Some(read_enhanced(enhanced)?),
        None => None,
    };
    Some(Codes { basic, enhanced })
}

fn read_enhanced(text: &str) -> Option<[RangeInclusive<u16>; 3]> {
    let mut parts = text.split('.');
    let code = [read_span(parts.next()?)?, read_span(parts.next()?)?, read_span(parts.next()?)?];
    parts.next().is_none().then_some(code)
}

/// `5` is that number, `5xx` all numbers of three digits that begin with 5, `x` any number.
fn read_span(text: &str) -> Option<RangeInclusive<u16>> {
    if text == "x" {
        return Some(0..=u16::MAX);
    }
    let digits = text.trim_end_matches('x');
    if digits.is_empty() || text.len() > 3 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let unit = 10_u16.pow((text.len() - digits.len()) as u32);
    let low = digits.parse::<u16>().ok()? * unit;
    Some(low..=low + unit - 1)
}

/// Whether the words are normalised as replies are; others would never match.
fn read_words(text: &str) -> Option<&str> {
    let plain = text.bytes().all(|b| matches!(b, b' '..=b'~') && !b.is_ascii_uppercase());
    (plain && !text.is_empty() && !text.contains("  ")).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::classify::table::RemoteReply;

    #[test]
    fn faults_are_named_by_line() {
        let rows = [
            ("too few fields", "* | * | * | other", 1, Wrong::Fields),
            (
                "too many fields",
                "* | * | * | other | follow | suspend 1s source | x",
                1,
                Wrong::Fields,
            ),
            ("an unknown action", "* | * | * | other | follow | x", 1, Wrong::Action),
            ("two digits", "\n55 | * | * | other | follow", 2, Wrong::Codes),
            ("x in front", "x50 | * | * | other | follow", 1, Wrong::Codes),
            ("two parts", "5.1 | * | * | other | follow", 1, Wrong::Codes),
            ("four parts", "5.1.1.1 | * | * | other | follow", 1, Wrong::Codes),
            ("an empty alternative", "550, | * | * | other | follow", 1, Wrong::Codes),
            ("unknown provider", "* | here | * | other | follow", 1, Wrong::Provider),
            ("a provider without ends", "@here |", 1, Wrong::ProviderLine),
            ("an end without its dot", "@here | a.test", 1, Wrong::ProviderLine),
            ("a provider twice", "@a | .a\n@a | .b", 2, Wrong::ProviderLine),
            ("upper case", "* | * | Spam | spam | follow", 1, Wrong::Words),
            ("no words", "* | * | | spam | follow", 1, Wrong::Words),
            ("words of nothing", "* | * | a +  + b | spam | follow", 1, Wrong::Words),
            ("unknown category", "* | * | * | odd | follow", 1, Wrong::Category),
            ("unknown advice", "* | * | * | other | run", 1, Wrong::Advice),
            ("no end", "# a\n550 | * | * | other | follow\n", 2, Wrong::NoLastRule),
            ("nothing at all", "", 0, Wrong::NoLastRule),
        ];
        for (name, text, line, wrong) in rows {
            let mut draft = Draft::default();
            let read = draft.take_file(RulesFile { name: "a file", text });
            let found = read.and_then(|()| draft.finish()).map(|_| ());
            assert_eq!(found, Err(RulesFault { file: "a file".into(), line, wrong }), "{name}");
        }
    }

    #[test]
    fn actions_are_read_and_shown() {
        for text in [
            "slow 50% 10m source",
            "suspend 2h source",
            "suspend 30m destination",
            "slow 1% 7d source",
        ] {
            assert_eq!(read_action(text).map(|action| action.to_string()).as_deref(), Some(text));
        }
        let shown = |text| read_action(text).map(|action| action.to_string());
        assert_eq!(shown("suspend 120m source").as_deref(), Some("suspend 2h source"));
        for text in [
            "",
            "slow 10m source",
            "slow 100% 10m source",
            "slow 0% 10m source",
            "slow 50 10m source",
            "suspend 10m",
            "suspend 10m here",
            "suspend 0s source",
            "suspend 8d source",
            "suspend +5m source",
            "suspend m source",
            "suspend 5 source",
            "suspend 10m source now",
            "pause 10m source",
        ] {
            assert_eq!(read_action(text), None, "{text}");
        }
    }

    #[test]
    fn the_files_of_an_operator_come_first() {
        let first = "@isp | .isp.test\n\n4xx | isp | slow down | rate-limited | slow | slow 50% 10m source\n";
        let second = "# ours\n550 | google | listed | blocklisted | pause | suspend 2h source\n* | * | slow down | policy | fix\n";
        let files = [
            RulesFile { name: "a.rules", text: first },
            RulesFile { name: "b.rules", text: second },
        ];
        let classifier = Classifier::with(&files).expect("both are valid");
        for (host, code, text, name, action) in [
            ("mx.isp.test", 421, "please slow down", "a.rules:3", Some("slow 50% 10m source")),
            ("mx.b.test", 421, "please slow down", "b.rules:3", None),
            ("gmail-smtp-in.l.google.com", 550, "listed", "b.rules:2", Some("suspend 2h source")),
        ] {
            let reply = RemoteReply { code, enhanced: None, text, host: Some(host) };
            let found = classifier.classify(&reply);
            let rule = found.rule.expect("it is no 2xx");
            assert_eq!(classifier.name_of(rule), name);
            assert_eq!(found.action.map(|action| action.to_string()).as_deref(), action, "{name}");
        }
        let reply = RemoteReply { code: 550, enhanced: None, text: "go away", host: None };
        let rule = classifier.classify(&reply).rule.expect("it is no 2xx");
        assert!(classifier.name_of(rule).starts_with("replies.rules:"));
        let bad = RulesFile { name: "c.rules", text: "\n* | * | * | other" };
        let fault = Classifier::with(&[files[0], bad]).expect_err("a field lacks");
        assert!(fault.to_string().starts_with("c.rules: line 2: a rule is"), "{fault}");
    }

    #[test]
    fn spans_are_read() {
        let rows = [
            ("5", Some(5..=5)),
            ("550", Some(550..=550)),
            ("55x", Some(550..=559)),
            ("5xx", Some(500..=599)),
            ("x", Some(0..=u16::MAX)),
            ("13x", Some(130..=139)),
            ("xx", None),
            ("", None),
            ("1000", None),
            ("-1", None),
        ];
        for (text, span) in rows {
            assert_eq!(read_span(text), span, "{text}");
        }
    }
}
