//! How a proxy that mail goes out by is written.
//!
//! Promise:  a password is in no message, whatever is wrong with the value it stands in.

use std::net::IpAddr;
use std::net::SocketAddr;

use crate::config::fault::Refusal;
use crate::config::kind::Spelled;
use crate::wire::proxy_url::Proxy;
use crate::wire::socks5::LOGIN_BYTES_MAX;
use crate::wire::socks5::ProxyLogin;

/// SOCKS (RFC 1928 s3).
const PORT_SOCKS: u16 = 1080;

impl Spelled for Proxy {
    fn spelling() -> String {
        "`\"socks5://host:port\"`, `\"socks5://user:password@host:port\"` or \
         `\"haproxy://host:port\"`, with the host's IP address"
            .to_owned()
    }

    fn spell(text: &str) -> Result<Proxy, Refusal> {
        let Some((scheme, rest)) = text.split_once("://") else {
            let hint = "write it as \"socks5://192.0.2.1:1080\" or \"haproxy://192.0.2.1:2525\"";
            return Err(Refusal::new("it is not written as a proxy", hint));
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (login, host) = match rest.rsplit_once('@') {
            Some((login, host)) => (Some(login), host),
            None => (None, rest),
        };
        match (scheme, login) {
            ("socks5", login) => Ok(Proxy::Socks5 {
                address: spell_address(host, Some(PORT_SOCKS))?,
                login: login.map(spell_login).transpose()?,
            }),
            ("haproxy", None) => Ok(Proxy::Haproxy { address: spell_address(host, None)? }),
            ("haproxy", Some(_)) => {
                let hint = "leave out what stands before the @; the proxy is to know us by address";
                Err(Refusal::new("the PROXY protocol knows no login", hint))
            }
            ("socks" | "socks5h" | "socks4" | "socks4a", _) => {
                let what = format!("{scheme}:// is not supported");
                Err(Refusal::new(what, "write \"socks5://\": names are looked up here anyway"))
            }
            _ => {
                // What stands before :// may be a part of a login.
                let hint = "begin with \"socks5://\" or \"haproxy://\"";
                Err(Refusal::new("it is a proxy of no kind that there is", hint))
            }
        }
    }
}

fn spell_address(host: &str, standard: Option<u16>) -> Result<SocketAddr, Refusal> {
    let bare = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
    let address = match (host.parse::<SocketAddr>(), bare.parse::<IpAddr>(), standard) {
        (Ok(address), ..) => address,
        (_, Ok(ip), Some(port)) => SocketAddr::new(ip, port),
        (_, Ok(_), None) => {
            let hint = format!("add its port, as \"haproxy://{host}:2525\"");
            return Err(Refusal::new(format!("\"{host}\" has no port"), hint));
        }
        _ => {
            // It is not shown, for it may be a login that lacks its @.
            let what = "its host is not an IP address with a port";
            let hint = "write it as \"192.0.2.1:1080\" or \"[2001:db8::1]:1080\": mail is not to \
                        hang on the name of a proxy";
            return Err(Refusal::new(what, hint));
        }
    };
    if address.port() == 0 || address.ip().is_unspecified() || address.ip().is_multicast() {
        let what = format!("nobody can be reached at \"{host}\"");
        return Err(Refusal::new(what, "write the address and the port that the proxy listens at"));
    }
    Ok(address)
}

fn spell_login(login: &str) -> Result<ProxyLogin, Refusal> {
    let hint = "write it as \"socks5://user:password@host:port\", with % and two digits for what \
                has a meaning there, as \"%40\" for @";
    let part = |text: &str, name: &str| {
        let plain = decoded(text).filter(|plain| (1..=LOGIN_BYTES_MAX).contains(&plain.len()));
        plain.map(String::into_boxed_str).ok_or_else(|| {
            let what = format!("its {name} is empty, too long or badly written");
            Refusal::new(what, hint)
        })
    };
    let Some((user, password)) = login.split_once(':') else {
        return Err(Refusal::new("it has a user without a password", hint));
    };
    Ok(ProxyLogin { user: part(user, "user")?, password: part(password, "password")? })
}

/// RFC 3986 s2.1.
fn decoded(text: &str) -> Option<String> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            plain.push(*first);
            continue;
        }
        let (digits, behind) = rest.split_first_chunk::<2>()?;
        let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
        plain.push((high? * 16 + low?) as u8);
        rest = behind;
    }
    String::from_utf8(plain).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies() {
        let rows: [(&str, Result<&str, &str>); 19] = [
            ("socks5://192.0.2.1:1080", Ok("socks5://192.0.2.1:1080")),
            ("socks5://192.0.2.1", Ok("socks5://192.0.2.1:1080")),
            ("socks5://[2001:db8::1]", Ok("socks5://[2001:db8::1]:1080")),
            ("socks5://u:p@[2001:db8::1]:9/", Ok("socks5://[2001:db8::1]:9 u p")),
            ("socks5://u%40x:p:%25%3A@1.2.3.4:9", Ok("socks5://1.2.3.4:9 u@x p:%:")),
            ("haproxy://127.0.0.1:2525", Ok("haproxy://127.0.0.1:2525")),
            ("haproxy://127.0.0.1", Err("add its port, as \"haproxy://127.0.0.1:2525\"")),
            ("haproxy://u:secret@127.0.0.1:1", Err("leave out what stands before the @")),
            ("socks5://proxy.test:1080", Err("write it as \"192.0.2.1:1080\"")),
            ("socks5://u:secret@proxy.test", Err("write it as \"192.0.2.1:1080\"")),
            ("socks5://secret@1.2.3.4:9", Err("write it as \"socks5://user:password@host")),
            ("socks5://u:@1.2.3.4:9", Err("write it as \"socks5://user:password@host")),
            ("socks5://u:secret%4@1.2.3.4:9", Err("write it as \"socks5://user:password@host")),
            ("socks5://u:secret%zz@1.2.3.4:9", Err("write it as \"socks5://user:password@host")),
            ("socks4://1.2.3.4:9", Err("write \"socks5://\"")),
            ("http://u:secret@1.2.3.4:9", Err("begin with \"socks5://\" or")),
            ("u:secret@1.2.3.4:9", Err("write it as \"socks5://192.0.2.1:1080\"")),
            ("socks5://1.2.3.4:0", Err("write the address and the port")),
            ("socks5://0.0.0.0:9", Err("write the address and the port")),
        ];
        for (text, expected) in rows {
            match (Proxy::spell(text), expected) {
                (Ok(proxy), Ok(expected)) => {
                    let shown = match &proxy {
                        Proxy::Socks5 { login: Some(login), .. } => {
                            format!("{proxy} {} {}", login.user, login.password)
                        }
                        _ => proxy.to_string(),
                    };
                    assert_eq!(shown, expected, "{text}");
                }
                (Err(bad), Err(hint)) => {
                    assert!(bad.hint.starts_with(hint), "{text}: {bad:?}");
                    assert!(!format!("{bad:?}").contains("secret"), "{text}: {bad:?}");
                }
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
        let long = format!("socks5://u:{}@1.2.3.4:9", "x".repeat(LOGIN_BYTES_MAX + 1));
        assert!(Proxy::spell(&long).is_err());
    }
}
