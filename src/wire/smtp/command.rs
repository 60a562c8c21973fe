//! Command lines, split into a verb and its argument. The function of the verb parses the argument.
//!
//! Promise:  every line becomes a command; an unknown verb becomes `Verb::Unknown`. Nothing is
//!           copied or allocated.

/// The known verbs, and those that clients send by mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Helo,
    Ehlo,
    Lhlo,
    Mail,
    Rcpt,
    Data,
    Bdat,
    Rset,
    Noop,
    Vrfy,
    Expn,
    Help,
    Quit,
    StartTls,
    Auth,
    Xclient,
    /// An HTTP method: a web client, or an attempt to make one send mail.
    Http,
    Unknown,
}

/// One command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command<'i> {
    pub verb: Verb,
    /// Without leading and trailing white space.
    pub argument: &'i [u8],
}

impl<'i> Command<'i> {
    /// Parses a line without its CRLF. RFC 5321 s4.1.1: trailing white space and the case of the
    /// verb are ignored.
    pub fn parse(line: &'i [u8]) -> Command<'i> {
        let line = trim_end(line);
        let end = memchr::memchr(b' ', line).unwrap_or(line.len());
        Command { verb: Verb::parse(&line[..end]), argument: trim_start(&line[end..]) }
    }
}

const VERB_BYTES_MAX: usize = 8;

impl Verb {
    /// The verbs that HELP lists.
    pub const KNOWN: &'static str = "HELO EHLO LHLO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT";

    fn parse(word: &[u8]) -> Verb {
        let mut upper = [0; VERB_BYTES_MAX];
        let Some(upper) = upper.get_mut(..word.len()) else { return Verb::Unknown };
        upper.copy_from_slice(word);
        upper.make_ascii_uppercase();
        match &*upper {
            b"MAIL" => Verb::Mail,
            b"RCPT" => Verb::Rcpt,
            b"DATA" => Verb::Data,
            b"BDAT" => Verb::Bdat,
            b"RSET" => Verb::Rset,
            b"EHLO" => Verb::Ehlo,
            b"HELO" => Verb::Helo,
            b"LHLO" => Verb::Lhlo,
            b"QUIT" => Verb::Quit,
            b"NOOP" => Verb::Noop,
            b"VRFY" => Verb::Vrfy,
            b"EXPN" => Verb::Expn,
            b"HELP" => Verb::Help,
            b"AUTH" => Verb::Auth,
            b"STARTTLS" => Verb::StartTls,
            b"XCLIENT" => Verb::Xclient,
            b"GET" | b"POST" | b"PUT" | b"HEAD" | b"PATCH" | b"TRACE" | b"DELETE" | b"CONNECT"
            | b"OPTIONS" => Verb::Http,
            _ => Verb::Unknown,
        }
    }
}

/// The text after `keyword` (in any case) and the spaces that follow it.
///
/// RFC 5321 s3.3 allows no space after `FROM:` and `TO:`. Many scripts send one, and a space is
/// harmless there, so it is accepted.
pub fn after_keyword<'i>(text: &'i [u8], keyword: &[u8]) -> Option<&'i [u8]> {
    let (head, rest) = text.split_at_checked(keyword.len())?;
    head.eq_ignore_ascii_case(keyword).then(|| trim_start(rest))
}

fn trim_start(mut text: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] = text {
        text = rest;
    }
    text
}

fn trim_end(mut text: &[u8]) -> &[u8] {
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_commands() {
        let rows: [(&str, Verb, &str); 14] = [
            ("MAIL FROM:<>", Verb::Mail, "FROM:<>"),
            ("mail  from:<>  ", Verb::Mail, "from:<>"),
            ("rCpT TO:<a@b> NOTIFY=NEVER", Verb::Rcpt, "TO:<a@b> NOTIFY=NEVER"),
            ("DATA", Verb::Data, ""),
            ("DATA \t ", Verb::Data, ""),
            ("StartTls", Verb::StartTls, ""),
            ("STARTTLSX", Verb::Unknown, ""),
            ("", Verb::Unknown, ""),
            ("  ", Verb::Unknown, ""),
            (" MAIL", Verb::Unknown, "MAIL"),
            ("MAIL\tFROM:<>", Verb::Unknown, ""),
            ("GET / HTTP/1.1", Verb::Http, "/ HTTP/1.1"),
            ("M\u{e4}IL", Verb::Unknown, ""),
            ("MAILFROM:<a@b>", Verb::Unknown, ""),
        ];
        for (line, verb, argument) in rows {
            let expected = Command { verb, argument: argument.as_bytes() };
            assert_eq!(Command::parse(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn a_keyword_is_removed() {
        let rows: [(&str, Option<&str>); 5] = [
            ("FROM:<a>", Some("<a>")),
            ("from:  <a>", Some("<a>")),
            ("FROM <a>", None),
            ("FROM :<a>", None),
            ("FR", None),
        ];
        for (text, expected) in rows {
            let rest = after_keyword(text.as_bytes(), b"FROM:");
            assert_eq!(rest, expected.map(str::as_bytes), "{text}");
        }
    }
}
