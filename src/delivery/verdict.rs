//! What the answer to an attempt means: for the log, and for reports to senders.

use std::net::IpAddr;

use crate::handoff::frame::Answer;
use crate::wire::classify::Category;
use crate::wire::classify::Cause;
use crate::wire::classify::Classified;
use crate::wire::classify::Classifier;
use crate::wire::classify::RemoteReply;
use crate::wire::dsn::Kind;

/// RFC 3464 s2.3.5: a name, or an address as a domain literal.
pub fn mta_name(host: &str) -> Option<String> {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => Some(format!("[{address}]")),
        Ok(IpAddr::V6(address)) => Some(format!("[IPv6:{address}]")),
        // The path of a Unix socket means nothing to others.
        Err(_) => Some(host.to_owned()).filter(|host| !host.is_empty() && !host.contains('/')),
    }
}

/// RFC 3464 s2.3.4: the class must fit the kind of the report, whatever the server sent. A failure may
/// be a temporary error that lasted (s2.3.3).
pub fn status_of(kind: Kind, (class, subject, detail): (u8, u16, u16)) -> (u8, u16, u16) {
    match kind {
        Kind::Failed if class == 4 => (4, subject, detail),
        Kind::Failed => (5, subject, detail),
        Kind::Delayed => (4, subject, detail),
        Kind::Delivered | Kind::Relayed | Kind::Expanded => (2, subject, detail),
    }
}

/// Our own explanation. There may be none beside the reply of a server.
pub fn cause_text(answer: &Answer) -> Option<String> {
    match (answer.cause, answer.remote) {
        (None, true) => None,
        (None, false) => Some(answer.text.to_string()),
        (Some(cause), false) if !answer.text.is_empty() => {
            Some(format!("{} ({})", cause.text(), answer.text))
        }
        (Some(cause), _) => Some(cause.text().to_owned()),
    }
}

/// What the rules say of an answer that begins with a reply code.
pub fn classify(rules: &Classifier, answer: &Answer, host: &str) -> Classified {
    let (code, text) = match answer.text.split_at_checked(3) {
        Some((code, rest)) => (code.parse().unwrap_or(0), rest.get(1..).unwrap_or("")),
        None => (0, &*answer.text),
    };
    // Without an enhanced code only the class is set, so the text decides.
    let enhanced = Some(answer.status).filter(|status| status.1 != 0 || status.2 != 0);
    let host = Some(host).filter(|host| !host.is_empty());
    rules.classify(&RemoteReply { code, enhanced, text, host })
}

pub fn category_of(rules: &Classifier, answer: &Answer, host: &str) -> Category {
    match answer.cause {
        Some(cause) => Cause::verdict(cause).category,
        None => classify(rules, answer, host).verdict.category,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::wire::classify::RulesFile;

    #[test]
    fn a_status_fits_its_report() {
        let rows = [
            (Kind::Failed, (5, 1, 1), (5, 1, 1)),
            (Kind::Failed, (4, 4, 7), (4, 4, 7)),
            (Kind::Failed, (2, 0, 0), (5, 0, 0)),
            (Kind::Delayed, (5, 0, 0), (4, 0, 0)),
            (Kind::Relayed, (5, 0, 0), (2, 0, 0)),
        ];
        for (kind, said, told) in rows {
            assert_eq!(status_of(kind, said), told, "{kind:?} {said:?}");
        }
    }

    #[test]
    fn who_said_what_is_kept_apart() {
        let said =
            Answer { status: (4, 3, 0), text: "451 4.3.0 later".into(), remote: true, cause: None };
        assert_eq!(cause_text(&said), None);
        let expired = Answer { cause: Some(Cause::Expired), ..said.clone() };
        assert_eq!(cause_text(&expired).as_deref(), Some(Cause::Expired.text()));
        let rules = Classifier::built_in();
        assert_eq!(category_of(&rules, &expired, ""), Category::Expired);
        let ours = Answer::ours(Cause::NoDomain, "x.test: none");
        let text = "The domain does not exist. (x.test: none)";
        assert_eq!(cause_text(&ours).as_deref(), Some(text));
        let full = Answer { status: (5, 0, 0), text: "550 mailbox full".into(), ..said };
        assert_eq!(category_of(&rules, &full, ""), Category::QuotaFull);
        // The operator's rules come first.
        let (name, text) = ("own", "550 | * | mailbox full | policy | follow");
        let own = Classifier::with(&[RulesFile { name, text }]).expect("the rule is valid");
        assert_eq!(category_of(&own, &full, ""), Category::Policy);
        assert_eq!(category_of(&own, &expired, ""), Category::Expired);
    }

    #[test]
    fn servers_are_named_as_dns_has_them() {
        let rows = [
            ("mx.test", Some("mx.test")),
            ("192.0.2.1", Some("[192.0.2.1]")),
            ("::1", Some("[IPv6:::1]")),
            ("unix:/run/lmtp", None),
            ("", None),
        ];
        for (host, name) in rows {
            assert_eq!(mta_name(host).as_deref(), name);
        }
    }
}
