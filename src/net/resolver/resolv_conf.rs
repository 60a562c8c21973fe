//! Reads servers, timeout and attempts from `/etc/resolv.conf`. Search lists are ignored.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::SocketAddrV6;
use std::time::Duration;

use crate::net::resolver::settings::ResolverSettings;

const PORT: u16 = 53;
/// The C library uses three.
const SERVERS_MAX: usize = 8;
const TIMEOUT_SECONDS_MAX: u64 = 30;
const ROUNDS_MAX: u32 = 5;

impl ResolverSettings {
    /// The settings in the text of `/etc/resolv.conf`. As in the C library, lines that cannot be read
    /// are skipped, and without a server the one of this machine is used.
    pub fn from_resolv_conf(text: &str) -> ResolverSettings {
        let mut settings = ResolverSettings::default();
        let mut rounds = 2;
        for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => settings.servers.extend(words.next().and_then(server)),
                Some("options") => {
                    words.for_each(|option| take_option(option, &mut settings, &mut rounds));
                }
                _ => {}
            }
        }
        settings.servers.truncate(SERVERS_MAX);
        if settings.servers.is_empty() {
            settings.servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT));
        }
        // In resolv.conf an attempt is a round over all servers.
        settings.attempts = rounds * settings.servers.len() as u32;
        settings
    }
}

fn server(word: &str) -> Option<SocketAddr> {
    let Some((address, scope)) = word.split_once('%') else {
        return word.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, PORT));
    };
    // Only numeric scopes are supported, not interface names.
    let (address, scope) = (address.parse::<Ipv6Addr>().ok()?, scope.parse().ok()?);
    Some(SocketAddrV6::new(address, PORT, 0, scope).into())
}

fn take_option(option: &str, settings: &mut ResolverSettings, rounds: &mut u32) {
    match option.split_once(':') {
        None if option == "trust-ad" => settings.trust_ad = true,
        Some(("timeout", seconds)) => {
            if let Ok(seconds) = seconds.parse::<u64>() {
                settings.timeout = Duration::from_secs(seconds.clamp(1, TIMEOUT_SECONDS_MAX));
            }
        }
        Some(("attempts", count)) => {
            if let Ok(count) = count.parse::<u32>() {
                *rounds = count.clamp(1, ROUNDS_MAX);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_options_are_read() {
        type Row<'a> = (&'a str, &'a str, &'a [&'a str], u64, u32, bool);
        let rows: &[Row] = &[
            ("empty", "", &["127.0.0.1:53"], 2, 2, false),
            (
                "usual",
                "# made by hand\nsearch example.com\nnameserver 192.0.2.1\nnameserver 2001:db8::1\n",
                &["192.0.2.1:53", "[2001:db8::1]:53"],
                2,
                4,
                false,
            ),
            (
                "options",
                "nameserver\t192.0.2.1 \noptions edns0 timeout:3 attempts:3 trust-ad\n",
                &["192.0.2.1:53"],
                3,
                3,
                true,
            ),
            ("out of bounds", "options timeout:0 attempts:99", &["127.0.0.1:53"], 1, 5, false),
            ("scope", "nameserver fe80::1%2", &["[fe80::1%2]:53"], 2, 2, false),
            ("interface", "nameserver fe80::1%eth0", &["127.0.0.1:53"], 2, 2, false),
            (
                "nonsense",
                "nameserver\nnameserver x\noptions timeout:x :",
                &["127.0.0.1:53"],
                2,
                2,
                false,
            ),
            ("commented out", ";nameserver 192.0.2.1", &["127.0.0.1:53"], 2, 2, false),
        ];
        for (row, text, servers, seconds, attempts, trust_ad) in rows {
            let settings = ResolverSettings::from_resolv_conf(text);
            let want: Vec<SocketAddr> =
                servers.iter().map(|server| server.parse().expect("an address")).collect();
            assert_eq!(settings.servers, want, "{row}");
            assert_eq!(settings.timeout, Duration::from_secs(*seconds), "{row}");
            assert_eq!(settings.attempts, *attempts, "{row}");
            assert_eq!(settings.trust_ad, *trust_ad, "{row}");
        }
    }
}
