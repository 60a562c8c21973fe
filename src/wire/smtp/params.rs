//! The arguments of MAIL and RCPT: a path and parameters (RFC 5321 s4.1.2).
//!
//! Promise:  each parameter is validated and stored, or the whole command is refused. An extension
//!           that was not announced is refused: 555 5.5.4.
//! Cost:     one pass; stored texts are copied once, into the arena of the transaction.

use bumpalo::Bump;

use crate::wire::dsn::NOTIFY_NEVER;
use crate::wire::dsn::NOTIFY_WORDS;
use crate::wire::mail::AddressFault;
use crate::wire::mail::address;
use crate::wire::smtp::reply::Reply;
use crate::wire::smtp::transaction::BodyType;
use crate::wire::smtp::transaction::MailParams;
use crate::wire::smtp::transaction::Recipient;
use crate::wire::smtp::transaction::Ret;
use crate::wire::smtp::transaction::Transaction;
use crate::wire::smtp::xtext;

/// Characters of an ENVID (RFC 3461 s4.4).
pub const ENVID_BYTES_MAX: usize = 100;
/// Characters of an ORCPT (RFC 3461 s4.2) and of an AUTH (RFC 4954 s5).
pub const ORCPT_BYTES_MAX: usize = 500;
/// Digits of a SIZE (RFC 1870 s3).
const SIZE_DIGITS_MAX: usize = 20;

/// The state of the session, as far as it decides which parameters are allowed.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    /// The client greeted with EHLO or LHLO; otherwise no parameters are allowed.
    pub parameters: bool,
    pub requiretls: bool,
    /// Bytes of a message; 0 for no limit.
    pub size_max: u64,
}

pub(super) const TOO_BIG: Reply = Reply::new(552, (5, 3, 4), "Message exceeds the size limit");
const SENDER_NEEDS_UTF8: Reply = Reply::new(553, (5, 6, 7), "Sender address needs SMTPUTF8");
const RECIPIENT_NEEDS_UTF8: Reply =
    Reply::new(553, (5, 6, 7), "Recipient address needs MAIL with SMTPUTF8");
const UNGREETED: Reply = Reply::new(555, (5, 5, 4), "Parameters require EHLO");
const SYNTAX: Reply = Reply::new(501, (5, 5, 4), "Bad parameter syntax");
const TWICE: Reply = Reply::new(501, (5, 5, 4), "Parameter given twice");
const NEEDS_TLS: Reply = Reply::new(530, (5, 7, 10), "REQUIRETLS requires TLS");

/// Parses the text after `MAIL FROM:` into `tx`.
pub fn read_mail(text: &[u8], allowed: Allowed, tx: &mut Transaction<'_>) -> Result<(), Reply> {
    let (sender, rest) = address::parse_reverse_path(text, tx.arena)
        .map_err(|fault| bad_address(fault, (5, 1, 7)))?;
    let mut params = MailParams::default();
    let mut seen = Seen::default();
    each_parameter(rest, allowed, |key, value| {
        let bit = mail_parameter(key, value, (allowed, tx.arena), &mut params)?;
        seen.once(bit)
    })?;
    if sender.is_utf8() && !params.smtputf8 {
        return Err(SENDER_NEEDS_UTF8);
    }
    tx.sender = Some(sender);
    tx.params = params;
    Ok(())
}

/// Parses the text after `RCPT TO:`.
pub fn read_recipient<'t>(
    text: &[u8],
    allowed: Allowed,
    tx: &Transaction<'t>,
) -> Result<Recipient<'t>, Reply> {
    let (mailbox, rest) = address::parse_forward_path(text, tx.arena)
        .map_err(|fault| bad_address(fault, (5, 1, 3)))?;
    let utf8 = tx.params.smtputf8;
    if mailbox.is_utf8() && !utf8 {
        return Err(RECIPIENT_NEEDS_UTF8);
    }
    let mut recipient = Recipient { mailbox, notify: 0, orcpt: None };
    let mut seen = Seen::default();
    each_parameter(rest, allowed, |key, value| {
        if key.eq_ignore_ascii_case(b"NOTIFY") {
            recipient.notify = value.and_then(read_notify).ok_or_else(|| bad_value(key))?;
            return seen.once(1);
        }
        if key.eq_ignore_ascii_case(b"ORCPT") {
            let valid =
                value.filter(|value| is_orcpt(value, utf8)).ok_or_else(|| bad_value(key))?;
            recipient.orcpt = Some(keep(valid, tx.arena).ok_or_else(|| bad_value(key))?);
            return seen.once(2);
        }
        Err(unknown(key))
    })?;
    Ok(recipient)
}

/// Parses one parameter of MAIL and returns its bit.
fn mail_parameter<'t>(
    key: &[u8],
    value: Option<&[u8]>,
    (allowed, arena): (Allowed, &'t Bump),
    params: &mut MailParams<'t>,
) -> Result<u8, Reply> {
    let bad = || bad_value(key);
    if key.eq_ignore_ascii_case(b"SIZE") {
        let size = value
            .filter(|value| value.len() <= SIZE_DIGITS_MAX)
            .and_then(read_decimal)
            .ok_or_else(bad)?;
        if allowed.size_max != 0 && size > allowed.size_max {
            return Err(TOO_BIG);
        }
        params.size = Some(size);
        return Ok(1);
    }
    if key.eq_ignore_ascii_case(b"BODY") {
        params.body = value.and_then(BodyType::from_label).ok_or_else(bad)?;
        return Ok(2);
    }
    if key.eq_ignore_ascii_case(b"SMTPUTF8") {
        params.smtputf8 = true;
        return value.is_none().then_some(4).ok_or_else(bad);
    }
    if key.eq_ignore_ascii_case(b"RET") {
        params.ret = Some(value.and_then(Ret::from_label).ok_or_else(bad)?);
        return Ok(8);
    }
    if key.eq_ignore_ascii_case(b"ENVID") {
        let valid = value.filter(|value| value.len() <= ENVID_BYTES_MAX && xtext::is_xtext(value));
        params.envid = Some(valid.and_then(|value| keep(value, arena)).ok_or_else(bad)?);
        return Ok(16);
    }
    if key.eq_ignore_ascii_case(b"AUTH") {
        let valid = value.filter(|value| is_auth(value));
        params.auth = Some(valid.and_then(|value| keep(value, arena)).ok_or_else(bad)?);
        return Ok(32);
    }
    if key.eq_ignore_ascii_case(b"REQUIRETLS") {
        if !allowed.requiretls {
            return Err(NEEDS_TLS);
        }
        params.requiretls = true;
        return value.is_none().then_some(64).ok_or_else(bad);
    }
    Err(unknown(key))
}

/// The parameters of a command so far, one bit each.
#[derive(Default)]
struct Seen(u8);

impl Seen {
    fn once(&mut self, bit: u8) -> Result<(), Reply> {
        if self.0 & bit != 0 {
            return Err(TWICE);
        }
        self.0 |= bit;
        Ok(())
    }
}

/// Calls `on_parameter` for each ` KEY` and ` KEY=value` of `text`.
fn each_parameter(
    text: &[u8],
    allowed: Allowed,
    mut on_parameter: impl FnMut(&[u8], Option<&[u8]>) -> Result<(), Reply>,
) -> Result<(), Reply> {
    if text.is_empty() {
        return Ok(());
    }
    if text[0] != b' ' {
        return Err(SYNTAX);
    }
    for word in text.split(|byte| *byte == b' ').filter(|word| !word.is_empty()) {
        let (key, value) = match memchr::memchr(b'=', word) {
            Some(equals) => (&word[..equals], Some(&word[equals + 1..])),
            None => (word, None),
        };
        if !is_keyword(key) || !value.is_none_or(is_value) {
            return Err(SYNTAX);
        }
        if !allowed.parameters {
            return Err(UNGREETED);
        }
        on_parameter(key, value)?;
    }
    Ok(())
}

/// `esmtp-keyword` of RFC 5321 s4.1.2.
fn is_keyword(key: &[u8]) -> bool {
    key.first().is_some_and(u8::is_ascii_alphanumeric)
        && key.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
}

/// `esmtp-value`, with the UTF-8 of RFC 6531 s3.3 (6).
fn is_value(value: &[u8]) -> bool {
    !value.is_empty() && value.iter().all(|byte| matches!(byte, b'!'..=b'<' | b'>'..=b'~' | 0x80..))
}

/// Parses digits. A number that overflows becomes the largest possible one.
pub(super) fn read_decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |sum: u64, digit: &u8| sum.saturating_mul(10).saturating_add((digit - b'0').into());
    Some(digits.iter().fold(0, add))
}

/// RFC 3461 s4.1: NEVER stands alone, the others are a list.
fn read_notify(value: &[u8]) -> Option<u8> {
    let [never, others @ ..] = NOTIFY_WORDS;
    let is = |word: &[u8], known: &str| word.eq_ignore_ascii_case(known.as_bytes());
    if is(value, never.1) {
        return Some(NOTIFY_NEVER);
    }
    value.split(|byte| *byte == b',').try_fold(0, |all, word| {
        let (flag, _) = others.into_iter().find(|(_, known)| is(word, known))?;
        Some(all | flag)
    })
}

/// `addr-type;xtext` of RFC 3461 s4.2; or `utf-8;` with the escapes of RFC 6533 s3 and, under
/// SMTPUTF8, raw UTF-8.
fn is_orcpt(value: &[u8], utf8: bool) -> bool {
    let Some(semicolon) = memchr::memchr(b';', value) else { return false };
    let (kind, text) = (&value[..semicolon], &value[semicolon + 1..]);
    if value.len() > ORCPT_BYTES_MAX || !is_keyword(kind) || text.is_empty() {
        return false;
    }
    if !kind.eq_ignore_ascii_case(b"utf-8") {
        return xtext::is_xtext(text);
    }
    let raw = utf8 && !text.is_ascii();
    (xtext::is_xtext(text) || raw && is_unitext(text)) && has_sound_escapes(text)
}

/// Each `\` starts an `EmbeddedUnicodeChar` of RFC 6533 s3: `\x{`, two to six upper-case
/// hexadecimal digits, `}`. An escaped control character would reach the header of a delivery
/// report.
fn has_sound_escapes(text: &[u8]) -> bool {
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        let Some(escape) = rest[at..].strip_prefix(b"\\x{") else { return false };
        let Some(end) = memchr::memchr(b'}', escape) else { return false };
        let digits = &escape[..end];
        let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'A'..=b'F');
        if !(2..=6).contains(&digits.len()) || !digits.iter().all(is_digit) {
            return false;
        }
        let add = |sum: u32, digit: &u8| sum << 4 | char::from(*digit).to_digit(16).unwrap_or(0);
        let scalar = digits.iter().fold(0, add);
        if char::from_u32(scalar).is_none_or(char::is_control) {
            return false;
        }
        rest = &escape[end + 1..];
    }
    true
}

/// `utf-8-addr-unitext`: xtext without `+`, and UTF-8 without control characters.
fn is_unitext(text: &[u8]) -> bool {
    let visible = |c: char| !c.is_control() && !matches!(c, ' ' | '+' | '=');
    std::str::from_utf8(text).is_ok_and(|text| text.chars().all(visible))
}

fn is_auth(value: &[u8]) -> bool {
    value == b"<>" || value.len() <= ORCPT_BYTES_MAX && xtext::is_xtext(value)
}

fn keep<'t>(value: &[u8], arena: &'t Bump) -> Option<&'t str> {
    std::str::from_utf8(value).ok().map(|text| &*arena.alloc_str(text))
}

#[cold]
fn bad_value(key: &[u8]) -> Reply {
    Reply::composed(501, (5, 5, 4), format!("Bad value for {}", key.escape_ascii()))
}

#[cold]
fn unknown(key: &[u8]) -> Reply {
    let text = format!("Unsupported parameter {}", key.escape_ascii());
    Reply::composed(555, (5, 5, 4), text)
}

#[cold]
fn bad_address(fault: AddressFault, enhanced: (u8, u16, u16)) -> Reply {
    let code = match fault {
        AddressFault::BadIdna | AddressFault::BadLiteral => 553,
        _ => 501,
    };
    Reply::composed(code, enhanced, fault.to_string())
}

#[cfg(test)]
mod tests;
