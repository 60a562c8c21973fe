//! DNS: whether the name servers answer, the host name resolves, and the source addresses have
//! forward-confirmed reverse DNS.
//!
//! Bounds:   `QUESTION_MAX` for each query, `ADDRESSES_MAX` addresses, and no query starts after
//!           `ALL_MAX`.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::time::Duration;
use std::time::Instant;

use crate::boot::check;
use crate::boot::check::Finding;
use crate::boot::proc::text_of;
use crate::config::Config;
use crate::config::delivery::relation::DANE_IS_INERT;
use crate::config::delivery::relation::DANE_REMEDY;
use crate::config::delivery::relation::dane_is_inert;
use crate::doctor::subject::Subject;
use crate::net::BlockingResolver;
use crate::net::DnsFault;
use crate::net::resolver::name_servers;

const QUESTION_MAX: Duration = Duration::from_secs(2);
/// A query that is running then still ends within the time limit of `examine`.
const ALL_MAX: Duration = Duration::from_secs(8);
const ADDRESSES_MAX: usize = 32;
const SLOW: &str = "the name servers are slow; run the doctor again";
/// Addresses reserved for documentation: connecting a UDP socket to one sends nothing and shows the
/// local address that the kernel would use.
const FAR_AWAY: [&str; 2] = ["192.0.2.1:25", "[2001:db8::1]:25"];

pub fn examine(subject: &Subject) -> Vec<Finding> {
    let config = &subject.config;
    let servers = servers(subject);
    let until = Instant::now() + ALL_MAX;
    let hostname = config.server.hostname.as_str();
    let answers: Vec<(SocketAddr, Result<Vec<IpAddr>, DnsFault>)> = std::thread::scope(|scope| {
        let asked: Vec<_> = servers
            .iter()
            .map(|server| {
                let resolver = BlockingResolver::new(*server, QUESTION_MAX);
                (*server, scope.spawn(move || resolver.addresses(hostname)))
            })
            .collect();
        let joined = asked
            .into_iter()
            .map(|(server, thread)| (server, thread.join().unwrap_or(Err(DnsFault::Abandoned))));
        joined.collect()
    });
    let mut findings = vec![judge_dane(config), judge_servers(&answers)];
    let Some((server, addresses)) =
        answers.iter().find_map(|(server, answer)| Some((*server, answer.as_ref().ok()?)))
    else {
        return findings;
    };
    let resolver = BlockingResolver::new(server, QUESTION_MAX);
    findings.push(judge_name(hostname, addresses));
    for (address, ehlo_name) in sources(config).into_iter().take(ADDRESSES_MAX) {
        if Instant::now() > until {
            let seen = format!("no time left to check {address} and the addresses after it");
            findings.push(check::REVERSE.note(seen, SLOW));
            break;
        }
        findings.push(confirm(resolver, address, &ehlo_name, until));
    }
    findings
}

fn servers(subject: &Subject) -> Vec<SocketAddr> {
    let configured = &subject.config.resolver.servers;
    match configured.is_empty() {
        false => configured.iter().map(|server| server.0).collect(),
        true => {
            let text = text_of(&subject.root, "etc/resolv.conf");
            name_servers(&text)
        }
    }
}

fn judge_dane(config: &Config) -> Finding {
    match (dane_is_inert(config), config.delivery.dane) {
        (true, _) => check::DANE.note(format!("delivery.dane {DANE_IS_INERT}"), DANE_REMEDY),
        (false, true) => check::DANE.ok("DNSSEC validation by the name servers is trusted"),
        (false, false) => check::DANE.ok("delivery.dane is off"),
    }
}

fn judge_servers(answers: &[(SocketAddr, Result<Vec<IpAddr>, DnsFault>)]) -> Finding {
    let told = |(server, answer): &(SocketAddr, Result<_, DnsFault>)| {
        answer.as_ref().err().map(|fault| format!("{server}: {fault}"))
    };
    let silent: Vec<String> = answers.iter().filter_map(told).collect();
    let remedy =
        "set resolver.servers to working recursive name servers, preferably on this machine";
    match silent.len() {
        0 => check::RESOLVER.ok(format!("{} name servers answer", answers.len())),
        all if all == answers.len() => check::RESOLVER.error(silent.join("; "), remedy),
        _ => check::RESOLVER.warn(silent.join("; "), remedy),
    }
}

fn judge_name(name: &str, addresses: &[IpAddr]) -> Finding {
    let remedy = "set server.hostname to a full name with an A or AAAA record of this host";
    match addresses.first() {
        _ if !name.contains('.') => {
            check::HOST_NAME.warn(format!("`{name}` is not fully qualified"), remedy)
        }
        None => check::HOST_NAME.warn(format!("{name} has no address"), remedy),
        Some(first) => check::HOST_NAME.ok(format!("{name} resolves to {first}")),
    }
}

/// The source addresses with their EHLO names, except those of proxies.
fn sources(config: &Config) -> Vec<(IpAddr, String)> {
    let name = config.delivery.ehlo_name.as_str();
    let mut found: Vec<(IpAddr, String)> = Vec::new();
    for source in config.sources.iter().filter(|source| source.proxy.is_none()) {
        let name = source.ehlo_name.as_ref().map_or(name, |name| name.as_str());
        let addresses = [source.ipv4.map(IpAddr::V4), source.ipv6.map(IpAddr::V6)];
        found.extend(addresses.into_iter().flatten().map(|address| (address, name.to_owned())));
    }
    if found.is_empty() {
        let own = FAR_AWAY.iter().filter_map(|far| own_address(far));
        found.extend(own.map(|address| (address, name.to_owned())));
    }
    found
}

fn own_address(far: &str) -> Option<IpAddr> {
    let any = if far.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(far).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// Checks that the address has a PTR record whose name resolves to the address.
fn confirm(
    resolver: BlockingResolver,
    address: IpAddr,
    ehlo_name: &str,
    until: Instant,
) -> Finding {
    if is_private(address) {
        return check::REVERSE.note(
            format!("{address} is private; the public address is not known"),
            "check the PTR record of the public address: `dig -x ADDRESS`",
        );
    }
    let names = match resolver.names(address) {
        Ok(names) => names,
        Err(cause) => {
            let seen = format!("the PTR lookup of {address} failed: {cause}");
            return check::REVERSE.warn(seen, "run the doctor again; see the check name-servers");
        }
    };
    let in_time = names.iter().take_while(|_| Instant::now() < until);
    let mut asked = 0;
    let leads_back = in_time
        .inspect(|_| asked += 1)
        .find(|name| resolver.addresses(name).is_ok_and(|found| found.contains(&address)));
    match (names.first(), leads_back) {
        (Some(first), None) if asked < names.len() => {
            let seen = format!("the PTR of {address} is {first}; the forward lookup timed out");
            check::REVERSE.note(seen, SLOW)
        }
        (None, _) => check::REVERSE.warn(
            format!("{address} has no PTR record"),
            "request a PTR record with the EHLO name from the owner of the address range",
        ),
        (Some(first), None) => check::REVERSE.warn(
            format!("the PTR of {address} is {first}, which does not resolve to {address}"),
            format!("add an A or AAAA record for {first} with {address}"),
        ),
        (_, Some(name)) if !name.eq_ignore_ascii_case(ehlo_name) => check::REVERSE.note(
            format!("{address} resolves to {name} and back, but the EHLO name is {ehlo_name}"),
            "set ehlo_name of the source to the PTR name of its address",
        ),
        (_, Some(name)) => check::REVERSE.ok(format!("{address} resolves to {name} and back")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::boot::check::Level;
    use crate::config::HostFacts;
    use crate::config::load;

    #[test]
    fn name_servers_are_judged() {
        let server = SocketAddr::from(([192, 0, 2, 53], 53));
        let (good, bad) = ((server, Ok(vec![])), (server, Err(DnsFault::Timeout)));
        let failed = (server, Err(DnsFault::ServerFailure));
        for (row, answers, level) in [
            ("all answer", vec![good.clone(), good.clone()], Level::Ok),
            ("one is silent", vec![bad.clone(), good], Level::Warn),
            ("none answers", vec![bad, failed], Level::Error),
        ] {
            assert_eq!(judge_servers(&answers).level, level, "{row}");
        }
    }

    #[test]
    fn dane_is_judged() {
        let host =
            HostFacts { hostname: "mx.test".to_owned(), ports_from: 1024, ..HostFacts::default() };
        for (text, level) in [
            ("", Level::Note),
            ("[resolver]\ntrust_ad = true\n", Level::Ok),
            ("[delivery]\ndane = false\n", Level::Ok),
            ("[delivery]\nenabled = false\n", Level::Ok),
        ] {
            let config = load(text, "f", &host).expect("it is good").config;
            let finding = judge_dane(&config);
            assert_eq!(finding.level, level, "{text}");
            let tells = finding.seen.contains("delivery.dane")
                && finding.remedy.contains("resolver.trust_ad = true");
            assert_eq!(tells, level == Level::Note, "{finding:?}");
        }
    }

    #[test]
    fn host_names_are_judged() {
        let address = [IpAddr::from([192, 0, 2, 25])];
        assert_eq!(judge_name("mx.test", &address).level, Level::Ok);
        assert_eq!(judge_name("mx.test", &[]).level, Level::Warn);
        assert_eq!(judge_name("mx", &address).level, Level::Warn);
    }

    fn soon() -> Instant {
        Instant::now() + ALL_MAX
    }

    /// A name as DNS writes it.
    fn labels(name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for label in name.split('.') {
            bytes.push(label.len() as u8);
            bytes.extend_from_slice(label.as_bytes());
        }
        [bytes, vec![0]].concat()
    }

    /// A name server for one address with three names, of which the last leads back.
    fn name_server() -> SocketAddr {
        const HEAD: usize = 12;
        const A: u8 = 1;
        const PTR: u8 = 12;
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = socket.local_addr().expect("bound");
        let serve = move || {
            let mut buffer = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut buffer) {
                // The question ends with its kind and class, behind the zero that ends its name.
                let zero = buffer[HEAD..length].iter().position(|byte| *byte == 0);
                let end = HEAD + zero.expect("a name ends") + 1;
                let (name, kind) = (&buffer[HEAD..end], buffer[end + 1]);
                let answers: Vec<Vec<u8>> = match kind {
                    PTR => ["a.test", "b.test", "mx.test"].map(labels).to_vec(),
                    A if name == labels("mx.test") => vec![vec![192, 0, 2, 25]],
                    _ => Vec::new(),
                };
                // The same id and question; a reply without an error.
                let mut reply = buffer[..end + 4].to_vec();
                reply[2..HEAD].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0]);
                reply[7] = answers.len() as u8;
                for data in answers {
                    // The name asked for, its kind, class IN, a minute.
                    reply.extend_from_slice(&[0xC0, HEAD as u8, 0, kind, 0, 1, 0, 0, 0, 60, 0]);
                    reply.push(data.len() as u8);
                    reply.extend_from_slice(&data);
                }
                socket.send_to(&reply, client).expect("the client is there");
            }
        };
        std::thread::spawn(serve);
        address
    }

    #[test]
    fn names_are_followed_back_until_the_time_is_over() {
        let server = BlockingResolver::new(name_server(), QUESTION_MAX);
        let address = IpAddr::from([192, 0, 2, 25]);
        let found = confirm(server, address, "mx.test", soon());
        assert_eq!(found, check::REVERSE.ok("192.0.2.25 resolves to mx.test and back"));
        assert_eq!(confirm(server, address, "other.test", soon()).level, Level::Note);
        let strange = IpAddr::from([192, 0, 2, 26]);
        assert_eq!(confirm(server, strange, "mx.test", soon()).level, Level::Warn);
        let late = confirm(server, address, "mx.test", Instant::now());
        assert!(late.level == Level::Note && late.seen.ends_with("timed out"), "{late:?}");
    }

    /// See `delivery.ehlo_name`.
    #[test]
    fn the_name_in_ehlo_is_that_of_delivery() {
        let text = "[server]\nhostname = \"mx.test\"\n[delivery]\nehlo_name = \"out.test\"\n\
                    [[source]]\nname = \"a\"\nipv4 = \"192.0.2.1\"\n\
                    [[source]]\nname = \"b\"\nipv4 = \"192.0.2.2\"\nehlo_name = \"b.test\"\n";
        let host = crate::config::HostFacts {
            hostname: "mx.test".to_owned(),
            ports_from: 1024,
            ..HostFacts::default()
        };
        let config = crate::config::load(text, "a test", &host).expect("it has no fault").config;
        let said: Vec<String> = sources(&config).into_iter().map(|(_, name)| name).collect();
        assert_eq!(said, ["out.test", "b.test"]);
    }

    #[test]
    fn private_addresses_cannot_be_confirmed() {
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        let nobody = BlockingResolver::new(nobody, QUESTION_MAX);
        for address in ["10.0.0.1", "127.0.0.1", "fd00::1", "fe80::1"] {
            let address = address.parse().expect("an address");
            assert_eq!(confirm(nobody, address, "mx.test", soon()).level, Level::Note);
        }
    }
}
