//! The rules as a table, and the search for the first match.

use std::ops::Range;
use std::ops::RangeInclusive;

use crate::wire::classify::category::Action;
use crate::wire::classify::category::Advice;
use crate::wire::classify::category::Category;
use crate::wire::classify::category::Verdict;

/// Octets examined of a reply.
const TEXT_BYTES_MAX: usize = 2048;

/// The reply of a remote server.
#[derive(Clone, Copy, Debug)]
pub struct RemoteReply<'a> {
    pub code: u16,
    /// If `None`, the text is searched for an enhanced code.
    pub enhanced: Option<(u8, u16, u16)>,
    /// Without the code. Lines may be joined by any white space.
    pub text: &'a str,
    /// The name of the mail exchanger, which identifies the provider.
    pub host: Option<&'a str>,
}

/// The meaning of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classified {
    pub verdict: Verdict,
    pub action: Option<Action>,
    /// `None` for a 2xx.
    pub rule: Option<RuleId>,
}

/// A rule of the classifier that returned it. See `Classifier::name_of`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RuleId {
    pub(super) file: u16,
    pub(super) line: u32,
}

/// The parsed rules. Immutable, to be shared.
#[derive(Debug)]
pub struct Classifier {
    pub(super) rules: Box<[Rule]>,
    pub(super) codes: Box<[Codes]>,
    pub(super) words: Box<[Box<str>]>,
    /// Suffixes of host names, and the provider of each.
    pub(super) ends: Box<[(Box<str>, u8)]>,
    pub(super) files: Box<[Box<str>]>,
}

/// One rule: ranges and indices in the other columns of the table.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) codes: Range<u16>,
    pub(super) provider: Option<u8>,
    pub(super) words: Range<u16>,
    pub(super) verdict: Verdict,
    pub(super) action: Option<Action>,
    pub(super) id: RuleId,
}

/// One alternative in the codes of a rule. `None` matches anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Codes {
    pub(super) basic: Option<RangeInclusive<u16>>,
    pub(super) enhanced: Option<[RangeInclusive<u16>; 3]>,
}

impl Codes {
    fn fits(&self, code: u16, enhanced: Option<[u16; 3]>) -> bool {
        self.basic.as_ref().is_none_or(|basic| basic.contains(&code))
            && self.enhanced.as_ref().is_none_or(|wanted| {
                enhanced.is_some_and(|had| wanted.iter().zip(had).all(|(w, h)| w.contains(&h)))
            })
    }
}

impl Classifier {
    pub fn classify(&self, reply: &RemoteReply<'_>) -> Classified {
        if (200..300).contains(&reply.code) {
            let verdict = Verdict { category: Category::Delivered, advice: Advice::Follow };
            return Classified { verdict, action: None, rule: None };
        }
        let asked = Asked::new(reply);
        let provider = reply.host.and_then(|host| self.provider(host));
        let rule = self.rules.iter().find(|rule| self.fits(rule, &asked, provider));
        let rule = rule.expect("the last rule matches everything");
        let mut verdict = rule.verdict;
        // A temporary failure says nothing permanent about the address.
        if verdict.advice == Advice::Suppress && reply.code < 500 {
            verdict.advice = Advice::Wait;
        }
        Classified { verdict, action: rule.action, rule: Some(rule.id) }
    }

    /// The file and the line of a rule: `replies.rules:57`.
    pub fn name_of(&self, rule: RuleId) -> String {
        let file = self.files.get(usize::from(rule.file)).map_or("", |file| file);
        format!("{file}:{}", rule.line)
    }

    fn fits(&self, rule: &Rule, asked: &Asked, provider: Option<u8>) -> bool {
        (rule.provider.is_none() || rule.provider == provider)
            && self.codes_of(rule).iter().any(|codes| codes.fits(asked.code, asked.enhanced))
            && self.words_of(rule).iter().all(|words| asked.has(words))
    }

    pub(super) fn codes_of(&self, rule: &Rule) -> &[Codes] {
        &self.codes[usize::from(rule.codes.start)..usize::from(rule.codes.end)]
    }

    pub(super) fn words_of(&self, rule: &Rule) -> &[Box<str>] {
        &self.words[usize::from(rule.words.start)..usize::from(rule.words.end)]
    }

    /// The provider of a server.
    fn provider(&self, host: &str) -> Option<u8> {
        let host = host.strip_suffix('.').unwrap_or(host).as_bytes();
        let ends_in = |end: &str| {
            let end = end.as_bytes();
            host.eq_ignore_ascii_case(&end[1..])
                || host.len() > end.len()
                    && host[host.len() - end.len()..].eq_ignore_ascii_case(end)
        };
        self.ends.iter().find(|(end, _)| ends_in(end)).map(|(_, provider)| *provider)
    }
}

/// A normalised reply: lower case, single spaces, no enhanced codes.
struct Asked {
    code: u16,
    enhanced: Option<[u16; 3]>,
    text: Vec<u8>,
}

impl Asked {
    fn new(reply: &RemoteReply<'_>) -> Asked {
        let given = reply.enhanced.map(|(class, subject, detail)| [class.into(), subject, detail]);
        let mut asked = Asked { code: reply.code, enhanced: given, text: Vec::new() };
        let head = &reply.text.as_bytes()[..reply.text.len().min(TEXT_BYTES_MAX)];
        let words = head.split(|b| b.is_ascii_whitespace() || b.is_ascii_control());
        for (place, word) in words.filter(|word| !word.is_empty()).enumerate() {
            asked.take_word(place, word);
        }
        asked
    }

    fn take_word(&mut self, place: usize, word: &[u8]) {
        if let Some(code) = enhanced_in(word).filter(|code| code[0] == self.code / 100) {
            // A later number may be a version; qmail and IronPort mark enhanced codes with a `#`.
            if self.enhanced.is_none() && (place == 0 || word.contains(&b'#')) {
                self.enhanced = Some(code);
            }
            return;
        }
        if !self.text.is_empty() {
            self.text.push(b' ');
        }
        self.text.extend(word.iter().map(u8::to_ascii_lowercase));
    }

    fn has(&self, words: &str) -> bool {
        memchr::memmem::find(&self.text, words.as_bytes()).is_some()
    }
}

/// The enhanced code in a word: `5.1.1`, `#5.1.1`, `(#5.1.1)`, `550-5.1.1`.
fn enhanced_in(word: &[u8]) -> Option<[u16; 3]> {
    let start = word.iter().position(u8::is_ascii_digit)?;
    let end = word.iter().rposition(u8::is_ascii_digit)? + 1;
    let (before, word, after) = (&word[..start], &word[start..end], &word[end..]);
    if before.iter().chain(after).any(u8::is_ascii_alphanumeric) {
        return None;
    }
    let word = match word {
        [b'4' | b'5', b'0'..=b'9', b'0'..=b'9', b'-', rest @ ..] => rest,
        _ => word,
    };
    let mut parts = word.split(|b| *b == b'.');
    let mut next = |digits_max: usize| -> Option<u16> {
        let part = parts.next().filter(|part| (1..=digits_max).contains(&part.len()))?;
        part.iter().try_fold(0, |sum, digit| {
            digit.is_ascii_digit().then(|| sum * 10 + u16::from(digit - b'0'))
        })
    };
    let code = [next(1)?, next(3)?, next(3)?];
    (parts.next().is_none() && matches!(code[0], 2 | 4 | 5)).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enhanced_codes_are_found_in_words() {
        let rows = [
            ("5.1.1", Some([5, 1, 1])),
            ("(#5.1.1)", Some([5, 1, 1])),
            ("#4.7.0,", Some([4, 7, 0])),
            ("550-5.7.26", Some([5, 7, 26])),
            ("550-5.7.606", Some([5, 7, 606])),
            ("5.1", None),
            ("5.1.1.1", None),
            ("3.1.1", None),
            ("5.1000.1", None),
            ("v5.1.1", None),
            ("5..1", None),
            ("192.0.2.1", None),
            ("-", None),
        ];
        for (word, code) in rows {
            assert_eq!(enhanced_in(word.as_bytes()), code, "{word}");
        }
    }
}
