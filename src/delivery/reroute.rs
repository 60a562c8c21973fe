//! The next hop that an operator sets for a job, in the syntax of a route.
//!
//! Promise:  `way_of` parses every text that `spelled` returned. A text that cannot be parsed, because
//!           another version wrote it, holds the job.

use crate::config::kind::Spelled;
use crate::route::NextHop;
use crate::route::RouteNext;

/// The next hop in its canonical spelling, or why the text is invalid.
pub fn spelled(text: &str) -> Result<Box<str>, String> {
    let next = RouteNext::spell(text).map_err(|fault| match fault.hint.is_empty() {
        true => fault.what,
        false => format!("{}; {}", fault.what, fault.hint),
    })?;
    Ok(next.to_string().into())
}

/// The next hop that was stored with a job.
pub fn way_of(stored: &str) -> RouteNext {
    RouteNext::spell(stored).unwrap_or(RouteNext::To(NextHop::Hold))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_is_read_back_as_it_was_meant() {
        for (written, kept) in [
            ("mx", "mx"),
            ("mx:Other.Example", "mx:other.example"),
            ("mx:other.example:2525", "mx:other.example:2525"),
            ("smtp:a.test", "smtp:a.test:25"),
            ("smtp:a.test:26, [::1]:27", "smtp:a.test:26,[::1]:27"),
            ("lmtp:127.0.0.1:24", "lmtp:127.0.0.1:24"),
            ("lmtp:unix:/run/lmtp", "lmtp:unix:/run/lmtp"),
            ("smtps:a.test", "smtps:a.test:465"),
            ("discard", "discard"),
            ("hold", "hold"),
            ("reject:We do not: send there", "reject:We do not: send there"),
        ] {
            let spelled = spelled(written).expect(written);
            assert_eq!(&*spelled, kept, "{written}");
            let meant = RouteNext::spell(written).expect("it is one");
            assert_eq!(way_of(&spelled), meant, "{written}");
        }
    }

    #[test]
    fn what_is_no_way_is_refused_and_what_was_stored_is_kept() {
        for written in ["", "smtp", "smtp:", "a.test:25", "lmtp:a.test", "mx:127.0.0.1", "hold:x"] {
            let fault = spelled(written).expect_err(written);
            assert!(!fault.is_empty(), "{written}");
        }
        assert_eq!(way_of("carrier pigeon"), RouteNext::To(NextHop::Hold));
    }
}
