//! The notation of a proxy for outgoing connections.
//!
//! Promise:  a password written here is refused, and quoted in no message.

use std::net::IpAddr;
use std::net::SocketAddr;

use crate::config::fault::Refusal;
use crate::config::kind::Spelled;
use crate::wire::proxy_url::Proxy;

/// SOCKS (RFC 1928 s3).
const PORT_SOCKS: u16 = 1080;

impl Spelled for Proxy {
    fn spelling() -> String {
        "`\"socks5://host:port\"` or `\"haproxy://host:port\"`, with the IP address of the host"
            .to_owned()
    }

    fn spell(text: &str) -> Result<Proxy, Refusal> {
        let Some((scheme, rest)) = text.split_once("://") else {
            let hint = "write it as \"socks5://192.0.2.1:1080\" or \"haproxy://192.0.2.1:2525\"";
            return Err(Refusal::new("the value is not a proxy", hint));
        };
        let host = rest.strip_suffix('/').unwrap_or(rest);
        if host.contains('@') {
            let hint = match scheme {
                "haproxy" => "remove the part before the @; the PROXY protocol has no login",
                _ => "set proxy_user and proxy_password_file instead",
            };
            return Err(Refusal::new("user and password must not be part of the value", hint));
        }
        match scheme {
            "socks5" => spell_address(host, Some(PORT_SOCKS))
                .map(|address| Proxy::Socks5 { address, login: None }),
            "haproxy" => spell_address(host, None).map(|address| Proxy::Haproxy { address }),
            "socks" | "socks5h" | "socks4" | "socks4a" => {
                let what = format!("{scheme}:// is not supported");
                Err(Refusal::new(what, "write \"socks5://\"; names are always resolved locally"))
            }
            _ => {
                let hint = "start with \"socks5://\" or \"haproxy://\"";
                Err(Refusal::new("the type of the proxy is unknown", hint))
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
            let hint = format!("add the port, as \"haproxy://{host}:2525\"");
            return Err(Refusal::new(format!("\"{host}\" has no port"), hint));
        }
        _ => {
            // The host is not quoted: it may be a login without its @.
            let hint = "write it as \"192.0.2.1:1080\" or \"[2001:db8::1]:1080\"; names are not \
                        accepted, so that mail does not depend on DNS for the proxy";
            return Err(Refusal::new("the host is not an IP address with a port", hint));
        }
    };
    if address.port() == 0 || address.ip().is_unspecified() || address.ip().is_multicast() {
        let what = format!("\"{host}\" is not a reachable address");
        return Err(Refusal::new(what, "write the address and port on which the proxy listens"));
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies() {
        let login = "set proxy_user and proxy_password_file instead";
        let rows: [(&str, Result<&str, &str>); 14] = [
            ("socks5://192.0.2.1:1080", Ok("socks5://192.0.2.1:1080")),
            ("socks5://192.0.2.1", Ok("socks5://192.0.2.1:1080")),
            ("socks5://[2001:db8::1]", Ok("socks5://[2001:db8::1]:1080")),
            ("socks5://[2001:db8::1]:9/", Ok("socks5://[2001:db8::1]:9")),
            ("haproxy://127.0.0.1:2525", Ok("haproxy://127.0.0.1:2525")),
            ("haproxy://127.0.0.1", Err("add the port, as \"haproxy://127.0.0.1:2525\"")),
            ("haproxy://u:secret@127.0.0.1:1", Err("remove the part before the @")),
            ("socks5://proxy.test:1080", Err("write it as \"192.0.2.1:1080\"")),
            ("socks5://u:secret@1.2.3.4:9", Err(login)),
            ("socks4://1.2.3.4:9", Err("write \"socks5://\"")),
            ("http://u:secret@1.2.3.4:9", Err(login)),
            ("u:secret@1.2.3.4:9", Err("write it as \"socks5://192.0.2.1:1080\"")),
            ("socks5://1.2.3.4:0", Err("write the address and port")),
            ("socks5://0.0.0.0:9", Err("write the address and port")),
        ];
        for (text, expected) in rows {
            match (Proxy::spell(text), expected) {
                (Ok(proxy), Ok(expected)) => assert_eq!(proxy.to_string(), expected, "{text}"),
                (Err(bad), Err(hint)) => {
                    assert!(bad.hint.starts_with(hint), "{text}: {bad:?}");
                    assert!(!format!("{bad:?}").contains("secret"), "{text}: {bad:?}");
                }
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }
}
