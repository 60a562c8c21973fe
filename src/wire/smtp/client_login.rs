//! SMTP authentication: AUTH PLAIN, or LOGIN where PLAIN is not offered or answered with 504 (RFC
//! 4954, RFC 4616).
//!
//! Promise:  a password appears only in the command that sends it, and only under TLS.

use std::fmt;

use crate::wire::smtp::client_offers::Offers;

/// Bytes of a command line without its CRLF. A longer response waits for its 334 (RFC 4954 s4).
const LINE_BYTES_MAX: usize = 510;

/// User name and password at another server.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub user: Box<str>,
    pub password: Box<str>,
}

impl fmt::Debug for Login {
    /// Without the password: the output may be logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// The next reply expected from the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoginStep {
    /// After AUTH PLAIN alone: 334.
    Plain,
    /// After AUTH PLAIN with its response: 235.
    PlainEnd,
    /// After AUTH LOGIN: 334, which asks for the user name.
    User,
    /// 334, which asks for the password.
    Password,
    /// After the last response: 235.
    End,
}

impl Login {
    /// Starts authentication; `None` if the peer offers no supported method.
    pub(super) fn begin(&self, offers: &Offers, out: &mut Vec<u8>) -> Option<LoginStep> {
        if offers.auth_plain {
            let answer = self.plain();
            if b"AUTH PLAIN ".len() + answer.len() > LINE_BYTES_MAX {
                push_line(&[b"AUTH PLAIN"], out);
                return Some(LoginStep::Plain);
            }
            push_line(&[b"AUTH PLAIN ", &answer], out);
            return Some(LoginStep::PlainEnd);
        }
        Login::begin_login(offers, out)
    }

    fn begin_login(offers: &Offers, out: &mut Vec<u8>) -> Option<LoginStep> {
        offers.auth_login.then(|| {
            push_line(&[b"AUTH LOGIN"], out);
            LoginStep::User
        })
    }

    /// Starts again with the other method after a 504 (RFC 4954 s4), if it is offered and was not
    /// tried.
    pub(super) fn begin_anew(
        step: LoginStep,
        offers: &Offers,
        out: &mut Vec<u8>,
    ) -> Option<LoginStep> {
        match step {
            LoginStep::Plain | LoginStep::PlainEnd => Login::begin_login(offers, out),
            LoginStep::User | LoginStep::Password | LoginStep::End => None,
        }
    }

    /// The response to a 334, and the next step. `None` if the peer asks for more than there is.
    pub(super) fn go_on(&self, step: LoginStep, out: &mut Vec<u8>) -> Option<LoginStep> {
        let (answer, next) = match step {
            LoginStep::Plain => (self.plain(), LoginStep::PlainEnd),
            LoginStep::User => (base64(self.user.as_bytes()), LoginStep::Password),
            LoginStep::Password => (base64(self.password.as_bytes()), LoginStep::End),
            LoginStep::PlainEnd | LoginStep::End => return None,
        };
        push_line(&[&answer], out);
        Some(next)
    }

    fn plain(&self) -> Vec<u8> {
        base64(&[b"\0", self.user.as_bytes(), b"\0", self.password.as_bytes()].concat())
    }
}

fn push_line(parts: &[&[u8]], out: &mut Vec<u8>) {
    for part in parts {
        out.extend_from_slice(part);
    }
    out.extend_from_slice(b"\r\n");
}

/// Base64 (RFC 4648 s4).
fn base64(bytes: &[u8]) -> Vec<u8> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let mut bits = [0; 4];
        bits[1..=three.len()].copy_from_slice(three);
        let bits = u32::from_be_bytes(bits);
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= three.len() { letter } else { b'=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_agrees_with_the_rfc() {
        // RFC 4648 s10.
        let rows = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
            ("\u{0}~\u{7f}\u{fb}\u{ff}", "AH5/w7vDvw=="),
        ];
        for (bytes, text) in rows {
            assert_eq!(String::from_utf8(base64(bytes.as_bytes())), Ok(text.to_owned()));
        }
    }

    #[test]
    fn a_password_is_not_printed() {
        let login = Login { user: "us".into(), password: "secret".into() };
        assert!(!format!("{login:?}").contains("secret"));
    }
}
