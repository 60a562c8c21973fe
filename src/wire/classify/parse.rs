//! The parser of the rules file.
//!
//! Promise:  each line is parsed completely or refused with its number.

use std::ops::RangeInclusive;

use thiserror::Error;

use crate::wire::classify::category::Advice;
use crate::wire::classify::category::Category;
use crate::wire::classify::category::Verdict;
use crate::wire::classify::table::Classifier;
use crate::wire::classify::table::Codes;
use crate::wire::classify::table::Rule;

/// An error in the rules, and its line, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("line {line}: {wrong}")]
pub struct RulesFault {
    pub line: usize,
    pub wrong: Wrong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Wrong {
    #[error("a rule is `codes | provider | words | category | advice`")]
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
    #[error("too many rules")]
    TooMany,
    #[error("the last rule must be `* | * | * | ...`")]
    NoLastRule,
}

const BUILT_IN: &str = include_str!("replies.rules");
const PROVIDERS_MAX: usize = 32;

impl Classifier {
    /// The rules compiled into the program.
    pub fn built_in() -> Classifier {
        Classifier::parse(BUILT_IN).expect("a test parses the built-in rules")
    }

    pub fn parse(text: &'static str) -> Result<Classifier, RulesFault> {
        let mut draft = Draft::default();
        let mut last = 0;
        for (at, line) in text.lines().enumerate() {
            let line_number = at + 1;
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            last = line_number;
            let taken = match line.strip_prefix('@') {
                Some(provider) => draft.take_provider(provider),
                None => draft.take_rule(line),
            };
            taken.map_err(|wrong| RulesFault { line: line_number, wrong })?;
        }
        if !draft.rules.last().is_some_and(|rule| draft.fits_everything(rule)) {
            return Err(RulesFault { line: last, wrong: Wrong::NoLastRule });
        }
        Ok(draft.finish())
    }
}

#[derive(Default)]
struct Draft {
    rules: Vec<Rule>,
    codes: Vec<Codes>,
    words: Vec<&'static str>,
    providers: Vec<&'static str>,
    ends: Vec<(&'static str, u8)>,
}

impl Draft {
    /// Parses `name | .suffix .suffix`.
    fn take_provider(&mut self, line: &'static str) -> Result<(), Wrong> {
        let (name, ends) = line.split_once('|').ok_or(Wrong::ProviderLine)?;
        let name = name.trim();
        if name.is_empty()
            || self.providers.contains(&name)
            || self.providers.len() == PROVIDERS_MAX
        {
            return Err(Wrong::ProviderLine);
        }
        let number = self.providers.len() as u8;
        self.providers.push(name);
        let before = self.ends.len();
        for end in ends.split_ascii_whitespace() {
            if !end.starts_with('.') || end.len() < 2 {
                return Err(Wrong::ProviderLine);
            }
            self.ends.push((end, number));
        }
        if self.ends.len() == before { Err(Wrong::ProviderLine) } else { Ok(()) }
    }

    /// Parses `codes | provider | words | category | advice`.
    fn take_rule(&mut self, line: &'static str) -> Result<(), Wrong> {
        let mut fields = line.split('|').map(str::trim);
        let mut next = || fields.next().ok_or(Wrong::Fields);
        let (codes, provider, words, category, advice) =
            (next()?, next()?, next()?, next()?, next()?);
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
                self.words.push(read_words(one.trim()).ok_or(Wrong::Words)?);
            }
        }
        let verdict = Verdict {
            category: Category::from_label(category.as_bytes()).ok_or(Wrong::Category)?,
            advice: Advice::from_label(advice.as_bytes()).ok_or(Wrong::Advice)?,
        };
        let place = |at: usize| u16::try_from(at).map_err(|_| Wrong::TooMany);
        self.rules.push(Rule {
            codes: place(codes_start)?..place(self.codes.len())?,
            provider,
            words: place(words_start)?..place(self.words.len())?,
            verdict,
        });
        Ok(())
    }

    fn find_provider(&self, name: &str) -> Result<Option<u8>, Wrong> {
        if name == "*" {
            return Ok(None);
        }
        let place = self.providers.iter().position(|known| *known == name);
        place.map(|place| Some(place as u8)).ok_or(Wrong::Provider)
    }

    fn fits_everything(&self, rule: &Rule) -> bool {
        let codes = &self.codes[usize::from(rule.codes.start)..usize::from(rule.codes.end)];
        rule.provider.is_none()
            && rule.words.is_empty()
            && codes.iter().any(|codes| codes.basic.is_none() && codes.enhanced.is_none())
    }

    fn finish(self) -> Classifier {
        Classifier {
            rules: self.rules.into(),
            codes: self.codes.into(),
            words: self.words.into(),
            ends: self.ends.into(),
        }
    }
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
fn read_words(text: &'static str) -> Option<&'static str> {
    let plain = text.bytes().all(|b| matches!(b, b' '..=b'~') && !b.is_ascii_uppercase());
    (plain && !text.is_empty() && !text.contains("  ")).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_named_by_line() {
        let rows = [
            ("too few fields", "* | * | * | other", 1, Wrong::Fields),
            ("too many fields", "* | * | * | other | follow | x", 1, Wrong::Fields),
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
            let found = Classifier::parse(text).map(|_| ());
            assert_eq!(found, Err(RulesFault { line, wrong }), "{name}");
        }
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
