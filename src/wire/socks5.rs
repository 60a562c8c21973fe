//! The client side of SOCKS 5 (RFC 1928): CONNECT, with user name and password (RFC 1929).
//!
//! Promise:  no byte after the proxy's last reply is read: it belongs to the server behind the
//!           proxy. Each reply is checked as soon as possible, so that a peer with another protocol
//!           is not waited for.
//! Bounds:   262 bytes of a reply.
//! Calls:    `next`, then the step, in a loop.
//!
//! ```text
//! Method -> [Login] -> Reply -> Address -> Done
//! any    -> a fault; close the connection
//! ```

use std::fmt;
use std::net::SocketAddr;

use thiserror::Error;

use crate::wire::proxy::push_ip;

/// Bytes of the longest user name and of the longest password (RFC 1929 s2).
pub const LOGIN_BYTES_MAX: usize = 255;
/// Bytes of the longest read: an address with its port.
pub const READ_BYTES_MAX: usize = 255 + 2;

const VERSION: u8 = 5;
const LOGIN_VERSION: u8 = 1;
const METHOD_NONE: u8 = 0;
const METHOD_LOGIN: u8 = 2;
const METHOD_NO_OTHER: u8 = 0xFF;
const COMMAND_CONNECT: u8 = 1;
const ADDRESS_V4: u8 = 1;
const ADDRESS_NAME: u8 = 3;
const ADDRESS_V6: u8 = 4;

/// User name and password for the proxy.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ProxyLogin {
    pub user: Box<str>,
    pub password: Box<str>,
}

impl fmt::Debug for ProxyLogin {
    /// Without the password: the output may be logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyLogin").field("user", &self.user).finish_non_exhaustive()
    }
}

/// The driver's next task. Exactly one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socks5Step {
    /// Write `out` unless it is empty, read exactly this many bytes, and `feed` them.
    Read(usize),
    /// The connection to the destination is established.
    Done,
}

/// Why the connection was not established.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Socks5Fault {
    /// The first byte of the reply is the version.
    #[error("not a SOCKS 5 proxy (version {0} in its reply)")]
    NotSocks5(u8),
    #[error("no acceptable authentication method; check user and password in `proxy`")]
    NoMethod,
    #[error("authentication method {0} was chosen but not offered")]
    UnknownMethod(u8),
    #[error("user name or password refused")]
    LoginRefused,
    #[error("malformed reply to the login")]
    BadLoginAnswer,
    #[error("unknown address type {0} in its reply")]
    BadAddress(u8),
    /// The proxy did not connect.
    #[error("{0}")]
    Refused(Refusal),
}

/// The reply codes (RFC 1928 s6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("general failure")]
    General,
    #[error("connection not allowed by the rules of the proxy")]
    NotAllowed,
    #[error("network unreachable")]
    NetworkUnreachable,
    #[error("host unreachable")]
    HostUnreachable,
    #[error("connection refused")]
    ConnectionRefused,
    #[error("TTL expired")]
    TtlExpired,
    #[error("the proxy does not support CONNECT")]
    NoSuchCommand,
    #[error("the proxy does not support this address family")]
    NoSuchAddressType,
    #[error("unknown reply code {0}")]
    Unknown(u8),
}

impl Refusal {
    fn of(code: u8) -> Refusal {
        match code {
            1 => Refusal::General,
            2 => Refusal::NotAllowed,
            3 => Refusal::NetworkUnreachable,
            4 => Refusal::HostUnreachable,
            5 => Refusal::ConnectionRefused,
            6 => Refusal::TtlExpired,
            7 => Refusal::NoSuchCommand,
            8 => Refusal::NoSuchAddressType,
            code => Refusal::Unknown(code),
        }
    }

    /// Whether the destination is unreachable, rather than the proxy at fault.
    pub fn is_of_destination(self) -> bool {
        matches!(
            self,
            Refusal::NetworkUnreachable
                | Refusal::HostUnreachable
                | Refusal::ConnectionRefused
                | Refusal::TtlExpired
        )
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Method,
    Login,
    Reply,
    /// The length of a host name.
    NameLength,
    /// An address and its port, which are ignored.
    Address(usize),
    Done,
}

/// One connection through a proxy.
#[derive(Debug)]
pub struct Socks5<'l> {
    to: SocketAddr,
    login: Option<&'l ProxyLogin>,
    state: State,
}

impl<'l> Socks5<'l> {
    /// Starts a connection. User name and password must be 1 to `LOGIN_BYTES_MAX` bytes long.
    pub fn new(to: SocketAddr, login: Option<&'l ProxyLogin>, out: &mut Vec<u8>) -> Socks5<'l> {
        let fits = |text: &str| (1..=LOGIN_BYTES_MAX).contains(&text.len());
        let is_good = login.is_none_or(|login| fits(&login.user) && fits(&login.password));
        assert!(is_good, "the length of user name and password fits in one byte");
        match login {
            None => out.extend_from_slice(&[VERSION, 1, METHOD_NONE]),
            // A proxy that knows our address may accept us without a login.
            Some(_) => out.extend_from_slice(&[VERSION, 2, METHOD_NONE, METHOD_LOGIN]),
        }
        Socks5 { to, login, state: State::Method }
    }

    pub fn next(&self) -> Socks5Step {
        match self.state {
            State::Method | State::Login => Socks5Step::Read(2),
            State::Reply => Socks5Step::Read(4),
            State::NameLength => Socks5Step::Read(1),
            State::Address(bytes) => Socks5Step::Read(bytes),
            State::Done => Socks5Step::Done,
        }
    }

    /// Takes exactly the bytes that `next` asked for, and appends the next message to `out`.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), Socks5Fault> {
        assert_eq!(self.next(), Socks5Step::Read(input.len()), "as many bytes as requested");
        match (self.state, input) {
            (State::Method, [VERSION, method]) => self.on_method(*method, out)?,
            (State::Login, [LOGIN_VERSION, 0]) => self.say_connect(out),
            (State::Login, [LOGIN_VERSION, _]) => return Err(Socks5Fault::LoginRefused),
            (State::Login, _) => return Err(Socks5Fault::BadLoginAnswer),
            (State::Reply, [VERSION, 0, _, kind]) => {
                self.state = match *kind {
                    ADDRESS_V4 => State::Address(4 + 2),
                    ADDRESS_V6 => State::Address(16 + 2),
                    ADDRESS_NAME => State::NameLength,
                    kind => return Err(Socks5Fault::BadAddress(kind)),
                };
            }
            // Some proxies send no address when they refuse.
            (State::Reply, [VERSION, code, ..]) => {
                return Err(Socks5Fault::Refused(Refusal::of(*code)));
            }
            (State::NameLength, [length]) => self.state = State::Address(usize::from(*length) + 2),
            (State::Address(_), _) => self.state = State::Done,
            (_, bytes) => return Err(Socks5Fault::NotSocks5(bytes.first().copied().unwrap_or(0))),
        }
        Ok(())
    }

    /// Whether CONNECT was sent. After that, silence may be caused by the destination.
    pub fn has_asked(&self) -> bool {
        !matches!(self.state, State::Method | State::Login)
    }

    fn on_method(&mut self, method: u8, out: &mut Vec<u8>) -> Result<(), Socks5Fault> {
        match (method, self.login) {
            (METHOD_NONE, _) => self.say_connect(out),
            (METHOD_LOGIN, Some(login)) => {
                out.push(LOGIN_VERSION);
                for text in [&login.user, &login.password] {
                    out.push(text.len() as u8);
                    out.extend_from_slice(text.as_bytes());
                }
                self.state = State::Login;
            }
            (METHOD_NO_OTHER, _) => return Err(Socks5Fault::NoMethod),
            (method, _) => return Err(Socks5Fault::UnknownMethod(method)),
        }
        Ok(())
    }

    fn say_connect(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[VERSION, COMMAND_CONNECT, 0]);
        let kind = if self.to.is_ipv4() { ADDRESS_V4 } else { ADDRESS_V6 };
        out.push(kind);
        push_ip(self.to.ip(), out);
        out.extend_from_slice(&self.to.port().to_be_bytes());
        self.state = State::Reply;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUR: &str = "192.0.2.7:25";
    const SIX: &str = "[2001:db8::1]:587";
    const CONNECT_FOUR: &[u8] = b"\x05\x01\0\x01\xc0\0\x02\x07\0\x19";

    fn login() -> ProxyLogin {
        ProxyLogin { user: "us".into(), password: "secret".into() }
    }

    /// The bytes sent to a proxy with these replies, the result, and the number of bytes left.
    fn run(
        to: &str,
        login: Option<&ProxyLogin>,
        mut answers: &[u8],
    ) -> (Vec<u8>, Option<Result<(), Socks5Fault>>, usize) {
        let mut said = Vec::new();
        let mut machine = Socks5::new(to.parse().expect("an address"), login, &mut said);
        loop {
            let bytes = match machine.next() {
                Socks5Step::Read(bytes) => bytes,
                Socks5Step::Done => return (said, Some(Ok(())), answers.len()),
            };
            assert!((1..=READ_BYTES_MAX).contains(&bytes));
            let Some((answer, rest)) = answers.split_at_checked(bytes) else {
                return (said, None, answers.len());
            };
            answers = rest;
            if let Err(fault) = machine.feed(answer, &mut said) {
                return (said, Some(Err(fault)), answers.len());
            }
        }
    }

    #[test]
    fn connections_are_requested() {
        let six = b"\x05\x01\0\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x02\x4b";
        let hello: &[u8] = b"\x05\x01\0";
        let both: &[u8] = b"\x05\x02\0\x02";
        let name = b"\x01\x02us\x06secret";
        let v4: &[u8] = b"\x05\0\x05\0\0\x01\0\0\0\0\0\0";
        let v6 = [b"\x05\0\x05\0\0\x04", &[7; 18][..]].concat();
        let named: &[u8] = b"\x05\0\x05\0\0\x03\x02ab\0\x19";
        let logged_in = [b"\x05\x02\x01\0", &v4[2..]].concat();
        type Row<'r> = (&'r str, &'r str, bool, &'r [u8], Vec<u8>);
        let rows: [Row<'_>; 6] = [
            ("v4", FOUR, false, v4, [hello, CONNECT_FOUR].concat()),
            ("v6", SIX, false, &v6, [hello, six].concat()),
            ("answered by name", FOUR, false, named, [hello, CONNECT_FOUR].concat()),
            ("an empty name", FOUR, false, b"\x05\0\x05\0\0\x03\0\0\x19", {
                [hello, CONNECT_FOUR].concat()
            }),
            ("login", FOUR, true, &logged_in, [both, name, CONNECT_FOUR].concat()),
            ("login not wanted", FOUR, true, v4, [both, CONNECT_FOUR].concat()),
        ];
        let user = login();
        for (case, to, with_login, answers, expected) in rows {
            let login = with_login.then_some(&user);
            assert_eq!(run(to, login, answers), (expected, Some(Ok(())), 0), "{case}");
            for at in 0..answers.len() {
                assert_eq!(run(to, login, &answers[..at]).1, None, "{case}, cut at {at}");
            }
            let more = [answers, b"220 mx.test\r\n"].concat();
            assert_eq!(run(to, login, &more).2, 13, "{case}: the greeting is left alone");
        }
    }

    #[test]
    fn each_fault_has_its_name() {
        use Socks5Fault::*;
        let refused = |refusal| Refused(refusal);
        let rows: [(&[u8], bool, Socks5Fault); 21] = [
            (b"HTTP/1.1 400 Bad Request\r\n", false, NotSocks5(b'H')),
            (b"\x04\0", false, NotSocks5(4)),
            (b"\x05\xff", false, NoMethod),
            (b"\x05\xff", true, NoMethod),
            (b"\x05\x02", false, UnknownMethod(2)),
            (b"\x05\x01", true, UnknownMethod(1)),
            (b"\x05\x02\x01\x01", true, LoginRefused),
            (b"\x05\x02\x01\xff", true, LoginRefused),
            (b"\x05\x02\x05\0", true, BadLoginAnswer),
            (b"\x05\0\0\x5a\0\0", false, NotSocks5(0)),
            (b"\x05\0\x05\x01\0\x01", false, refused(Refusal::General)),
            (b"\x05\0\x05\x02\0\x01", false, refused(Refusal::NotAllowed)),
            (b"\x05\0\x05\x03\0\x01", false, refused(Refusal::NetworkUnreachable)),
            (b"\x05\0\x05\x04\0\x01", false, refused(Refusal::HostUnreachable)),
            (b"\x05\0\x05\x05\0\x01", false, refused(Refusal::ConnectionRefused)),
            // It need not name an address then.
            (b"\x05\0\x05\x06\xff\0", false, refused(Refusal::TtlExpired)),
            (b"\x05\0\x05\x07\0\x01", false, refused(Refusal::NoSuchCommand)),
            (b"\x05\0\x05\x08\0\x01", false, refused(Refusal::NoSuchAddressType)),
            (b"\x05\0\x05\x2a\0\x01", false, refused(Refusal::Unknown(42))),
            (b"\x05\0\x05\0\0\x02", false, BadAddress(2)),
            (b"\x05\0\x05\0\0\0", false, BadAddress(0)),
        ];
        let user = login();
        for (answers, with_login, expected) in rows {
            let (_, end, _) = run(FOUR, with_login.then_some(&user), answers);
            assert_eq!(end, Some(Err(expected)), "{answers:?}");
        }
        let of_destination = |code| Refusal::of(code).is_of_destination();
        assert!((3..=6).all(of_destination));
        assert!([1, 2, 7, 8, 9, 255].into_iter().all(|code| !of_destination(code)));
    }

    #[test]
    fn a_password_is_not_printed() {
        let mut out = Vec::new();
        let user = login();
        let machine = Socks5::new(FOUR.parse().expect("an address"), Some(&user), &mut out);
        assert!(!format!("{machine:?}").contains("secret"));
    }

    #[test]
    fn has_asked_is_true_after_connect() {
        let mut out = Vec::new();
        let mut machine = Socks5::new(FOUR.parse().expect("an address"), None, &mut out);
        assert!(!machine.has_asked());
        machine.feed(b"\x05\0", &mut out).expect("no login");
        assert!(machine.has_asked());
    }
}
