//! Outgoing TLS with the built binary: fallbacks, enforced policies, and the log records.

#[allow(dead_code)]
#[path = "../../parts/tls_suite/kit.rs"]
mod certificates;
mod kit;

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use ringpost::base::limits::STS_FETCH_MS_MAX;

use crate::relay_tls::certificates::Authority;
use crate::relay_tls::kit::Relay;
use crate::relay_tls::kit::Sink;
use crate::relay_tls::kit::Tls;
use crate::relay_tls::kit::Web;
use crate::relay_tls::kit::Zone;
use crate::relay_tls::kit::assert_waits;
use crate::relay_tls::kit::facts;
use crate::support::Setup;
use crate::support::is_root;

/// A route to a sink by its name, with a TLS mode.
fn route(domain: &str, sink: &Sink, more: &str) -> String {
    let port = sink.port();
    format!(
        "[[route]]\nname = \"{}\"\nrecipient_domain = [\"{domain}\"]\n\
         next = \"smtp:mx.{domain}:{port}\"\n{more}\n",
        domain.replace('.', "-")
    )
}

#[test]
fn opportunistic_tls_falls_back_and_is_remembered() {
    let authority = Authority::new("Ours");
    let broken = Sink::start(Tls::Broken);
    let other = Sink::start(Tls::with(&authority.issue(&["other.test"])));
    let plain = Sink::start(Tls::None);
    let mut zone = Zone::default();
    let mut routes = String::new();
    for (domain, sink) in [("broken.test", &broken), ("other.test", &other), ("plain.test", &plain)]
    {
        zone = zone.host(&format!("mx.{domain}"), sink.address);
        routes += &route(domain, sink, "");
    }
    let relay = Relay::start(authority, zone, &routes);
    let first = relay.send("a@broken.test");
    assert_eq!(facts(&first), "delivered | - | may, tls is broken");
    assert_eq!((broken.heard("clear STARTTLS"), broken.heard("clear MAIL")), (1, 1));
    let second = relay.send("b@broken.test");
    assert_eq!(facts(&second), "delivered | - | may, tls is broken");
    assert_eq!((broken.heard("clear STARTTLS"), broken.heard("clear MAIL")), (1, 2));
    let any = relay.send("a@other.test");
    assert_eq!(facts(&any), "delivered | unverified: issued for another name | may");
    assert_eq!((other.heard("tls MAIL"), other.heard("clear MAIL")), (1, 0));
    assert_eq!(facts(&relay.send("a@plain.test")), "delivered | - | may");
}

#[test]
fn required_tls_is_enforced() {
    let authority = Authority::new("Ours");
    let broken = Sink::start(Tls::Broken);
    let plain = Sink::start(Tls::None);
    let good = Sink::start(Tls::with(&authority.issue(&["mx.good.test"])));
    let other = Sink::start(Tls::with(&authority.issue(&["mx.elsewhere.test"])));
    let stranger = Authority::new("A stranger").issue(&["mx.stranger.test"]);
    let stranger = Sink::start(Tls::with(&stranger));
    let rows = [
        ("broken.test", &broken, "must"),
        ("plain.test", &plain, "must"),
        ("good.test", &good, "verify"),
        ("other.test", &other, "verify"),
        ("lax.test", &other, "must"),
        ("stranger.test", &stranger, "verify"),
        ("never.test", &good, "none"),
    ];
    let mut zone = Zone::default();
    let mut routes = String::new();
    for (domain, sink, mode) in rows {
        zone = zone.host(&format!("mx.{domain}"), sink.address);
        routes += &route(domain, sink, &format!("tls = \"{mode}\""));
    }
    let relay = Relay::start(authority, zone, &routes);
    let reasons = [
        ("broken.test", "the TLS handshake failed"),
        ("plain.test", "does not offer STARTTLS"),
        ("other.test", "not valid for name"),
        ("stranger.test", "UnknownIssuer"),
    ];
    for (domain, reason) in reasons {
        let attempt = relay.send(&format!("a@{domain}"));
        assert_waits(&attempt, "TLS is required (destination)");
        assert_waits(&attempt, reason);
    }
    for sink in [&broken, &plain, &other, &stranger] {
        assert_eq!((sink.heard("clear MAIL"), sink.heard("tls MAIL")), (0, 0));
    }
    assert_eq!(facts(&relay.send("a@good.test")), "delivered | verified | verify");
    let lax = relay.send("a@lax.test");
    assert_eq!(facts(&lax), "delivered | unverified: issued for another name | must");
    assert_eq!(facts(&relay.send("a@never.test")), "delivered | - | none");
}

/// `smtps:` routes: implicit TLS with various certificates, and a server without TLS.
#[test]
fn tls_may_start_before_the_greeting() {
    let authority = Authority::new("Ours");
    let good = Sink::implicit(&authority.issue(&["mx.good.test"]));
    let user = Sink::implicit(&authority.issue(&["mx.user.test"]));
    let other = Sink::implicit(&authority.issue(&["mx.elsewhere.test"]));
    let plain = Sink::start(Tls::None);
    let folder = tempfile::tempdir().expect("a folder");
    let password = folder.path().join("password");
    std::fs::write(&password, "secret\n").expect("the folder is writable");
    let login = format!("auth_user = 'us'\nauth_password_file = {password:?}");
    let rows = [
        ("good.test", &good, "tls = \"verify\""),
        // No verification is required, so a certificate for another name is accepted; clear text is
        // not.
        ("lax.test", &other, ""),
        ("may.test", &other, "tls = \"may\""),
        ("user.test", &user, &*login),
        ("other.test", &other, "tls = \"verify\""),
        ("plain.test", &plain, ""),
    ];
    let mut zone = Zone::default();
    let mut routes = String::new();
    for (domain, sink, more) in rows {
        zone = zone.host(&format!("mx.{domain}"), sink.address);
        routes += &route(domain, sink, more).replace("smtp:", "smtps:");
    }
    // The same server does not answer without TLS.
    routes += &route("clear.test", &good, "");
    routes += "[delivery.timeouts]\ngreeting = \"2s\"\n";
    zone = zone.host("mx.clear.test", good.address);
    let relay = Relay::start(authority, zone, &routes);
    assert_eq!(facts(&relay.send("a@good.test")), "delivered | verified | verify");
    for domain in ["lax.test", "may.test"] {
        let attempt = relay.send(&format!("a@{domain}"));
        assert_eq!(facts(&attempt), "delivered | unverified: issued for another name | must");
    }
    assert_eq!(facts(&relay.send("a@user.test")), "delivered | verified | must");
    assert_eq!(user.heard("tls AUTH PLAIN AHVzAHNlY3JldA=="), 1);
    assert_eq!((good.heard("tls MAIL"), good.heard("tls STARTTLS")), (1, 0));
    let attempt = relay.send("a@other.test");
    assert_waits(&attempt, "TLS is required (destination)");
    assert_waits(&attempt, "not valid for name");
    let attempt = relay.send("a@plain.test");
    assert_waits(&attempt, "the TLS handshake failed");
    assert_eq!(plain.heard("clear"), 0, "nothing was sent in clear text");
    // A server that waits for a handshake sends no greeting.
    assert_eq!(relay.send("a@clear.test")["outcome"], "deferred");
    assert_eq!(good.heard("clear"), 0);
}

#[test]
fn tlsa_records_are_enforced() {
    let authority = Authority::new("Ours");
    // DANE needs no trusted authority.
    let stranger = Authority::new("A stranger");
    let pair = stranger.issue(&["whoever.test"]);
    let sink = Sink::start(Tls::with(&pair));
    let plain = Sink::start(Tls::None);
    let other = stranger.issue(&["whoever.test"]).0;
    let domains = ["match.test", "mismatch.test", "bogus.test", "insecure.test", "unsigned.test"];
    let mut zone = Zone::default();
    let mut routes = String::new();
    for domain in domains {
        zone = zone.host(&format!("mx.{domain}"), sink.address);
        routes += &route(domain, &sink, "");
    }
    zone = zone.host("mx.plain.test", plain.address);
    routes += &route("plain.test", &plain, "");
    let port = sink.port();
    let zone = zone
        .tlsa(("mx.match.test", port), &pair.0)
        .tlsa(("mx.mismatch.test", port), &other)
        .bogus(&format!("_{port}._tcp.mx.bogus.test"))
        .tlsa(("mx.insecure.test", port), &other)
        .unsigned(&format!("_{port}._tcp.mx.insecure.test"))
        .bogus(&format!("_{port}._tcp.mx.unsigned.test"))
        .unsigned("mx.unsigned.test")
        .tlsa(("mx.plain.test", plain.port()), &pair.0);
    let relay = Relay::start(authority, zone, &routes);
    assert_eq!(facts(&relay.send("a@match.test")), "delivered | dane | dane");
    assert_waits(&relay.send("a@mismatch.test"), "TLS is required (dane)");
    assert_waits(&relay.send("a@bogus.test"), "fail DNSSEC validation");
    assert_waits(&relay.send("a@plain.test"), "TLS is required (dane)");
    assert_eq!((plain.heard("clear MAIL"), sink.heard("tls MAIL")), (0, 1));
    // Unsigned records are ignored, and if the host's address is unsigned they are not even looked
    // up (RFC 7672 s2.2.2).
    for domain in ["insecure.test", "unsigned.test"] {
        let attempt = relay.send(&format!("a@{domain}"));
        assert_eq!(facts(&attempt), "delivered | unverified: unknown issuer | may", "{domain}");
    }
}

#[test]
fn signed_and_unsigned_domains_share_no_connection() {
    if !is_root("a mail server on port 25") {
        return;
    }
    let authority = Authority::new("Ours");
    let stranger = Authority::new("A stranger");
    let pair = stranger.issue(&["whoever.test"]);
    let renewed = stranger.issue(&["whoever.test"]);
    let good = Sink::on_port_25(Ipv4Addr::new(127, 84, 1, 1), Tls::with(&pair));
    let stale = Sink::on_port_25(Ipv4Addr::new(127, 84, 1, 2), Tls::with(&renewed));
    let zone = Zone::default()
        .host("mx.good.test", good.address)
        .tlsa(("mx.good.test", 25), &pair.0)
        .host("mx.stale.test", stale.address)
        .tlsa(("mx.stale.test", 25), &pair.0)
        .mx("signed.test", "mx.good.test")
        .mx("left.test", "mx.stale.test")
        .mx("loose.test", "mx.stale.test")
        .unsigned("loose.test");
    let relay = Relay::start(authority, zone, "");
    assert_eq!(facts(&relay.send("a@signed.test")), "delivered | dane | dane");
    // An attacker who can forge the MX need not forge the TLSA records, so they are not looked up.
    let loose = relay.send("a@loose.test");
    assert_eq!(facts(&loose), "delivered | unverified: unknown issuer | may");
    assert_waits(&relay.send("a@left.test"), "TLS is required (dane)");
    assert_eq!(facts(&relay.send_requiring_tls("b@loose.test")), "deferred | - | -");
    assert_eq!((stale.heard("tls MAIL"), stale.heard("clear MAIL")), (1, 0));
}

#[test]
fn published_mta_sts_policies_are_enforced() {
    if !is_root("a mail server on port 25") {
        return;
    }
    let authority = Authority::new("Ours");
    let good = Tls::with(&authority.issue(&["mx.good.test"]));
    let good = Sink::on_port_25(Ipv4Addr::new(127, 83, 1, 1), good);
    let bad = Tls::with(&authority.issue(&["mx.elsewhere.test"]));
    let bad = Sink::on_port_25(Ipv4Addr::new(127, 83, 1, 2), bad);
    let policy =
        |mode: &str, mx: &str| format!("version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: 86400\n");
    // Domain, host, policy.
    let rows = [
        ("strict.test", "mx.good.test", Some(policy("enforce", "mx.good.test"))),
        ("others.test", "mx.good.test", Some(policy("enforce", "mx.other.test"))),
        ("wrong.test", "mx.bad.test", Some(policy("enforce", "*.bad.test"))),
        ("testing.test", "mx.bad.test", Some(policy("testing", "mx.bad.test"))),
        ("free.test", "mx.bad.test", None),
        ("garbled.test", "mx.bad.test", Some("what?".to_owned())),
    ];
    let mut zone =
        Zone::default().host("mx.good.test", good.address).host("mx.bad.test", bad.address);
    let mut port = 0;
    for (number, (domain, host, policy)) in (1..).zip(&rows) {
        zone = zone.mx(domain, host).unsigned(domain);
        let Some(policy) = policy else { continue };
        let name = format!("mta-sts.{domain}");
        let place = (Ipv4Addr::new(127, 83, 2, number), port);
        let address = Web::serve(place, &authority.issue(&[&name]), policy).address;
        port = address.port();
        zone = zone.host(&name, address).txt(&format!("_mta-sts.{domain}"), "v=STSv1; id=1;");
    }
    let relay = Relay::start_with(authority, zone, &format!("mta_sts_port = {port}"), "");
    assert_eq!(facts(&relay.send("a@strict.test")), "delivered | verified | mta-sts");
    // The policy authenticates the name (RFC 8689 s4.2.1), so the server is connected to.
    let required = relay.send_requiring_tls("b@strict.test");
    assert!(required["reply"].as_str().is_some_and(|reply| reply.contains("5.7.30")), "{required}");
    assert_waits(
        &relay.send("a@others.test"),
        "the MTA-STS policy of the domain does not list the host",
    );
    // The mail before and after uses the same hosts on other connections.
    assert_eq!(
        facts(&relay.send("a@free.test")),
        "delivered | unverified: issued for another name | may"
    );
    assert_waits(&relay.send("a@wrong.test"), "TLS is required (mta-sts)");
    let testing = relay.send("a@testing.test");
    let expected = "delivered | unverified: issued for another name | may, mta-sts testing";
    assert_eq!(facts(&testing), expected);
    let garbled = relay.send("a@garbled.test");
    assert_eq!(facts(&garbled), "delivered | unverified: issued for another name | may");
    relay.server.wait_for_log("\"record\":\"sts_not_fetched\"");
    assert_eq!((good.heard("tls MAIL"), bad.heard("tls MAIL")), (1, 3));
}

#[test]
fn the_wait_for_a_policy_is_limited() {
    if !is_root("a mail server on port 25") {
        return;
    }
    let authority = Authority::new("Ours");
    let sink = Tls::with(&authority.issue(&["mx.here.test"]));
    let sink = Sink::on_port_25(Ipv4Addr::new(127, 85, 1, 1), sink);
    // The answer comes after the wait has ended, and its policy would defer the mail here.
    let policy = "version: STSv1\nmode: enforce\nmx: mx.else.test\nmax_age: 86400\n";
    let place = (Ipv4Addr::new(127, 85, 2, 1), 0);
    let late = Duration::from_millis(STS_FETCH_MS_MAX + 300);
    let web = Web::serve_after(late, place, &authority.issue(&["mta-sts.slow.test"]), policy);
    let zone = Zone::default()
        .host("mx.here.test", sink.address)
        .mx("slow.test", "mx.here.test")
        .mx("free.test", "mx.here.test")
        .host("mta-sts.slow.test", web.address)
        .txt("_mta-sts.slow.test", "v=STSv1; id=1;");
    let port = web.address.port();
    let relay = Relay::start_with(authority, zone, &format!("mta_sts_port = {port}"), "");
    let begin = Instant::now();
    relay.submit("a@slow.test");
    relay.submit("b@slow.test");
    assert_eq!(facts(&relay.send("a@free.test")), "delivered | verified | may");
    assert_eq!(sink.heard("tls MAIL"), 1, "other mail is not delayed");
    for to in ["a@slow.test", "b@slow.test"] {
        assert_eq!(facts(&relay.attempt(to)), "delivered | verified | may");
    }
    assert!(begin.elapsed() < Duration::from_secs(25), "{:?}", begin.elapsed());
    let begin = Instant::now();
    assert_eq!(facts(&relay.send("c@slow.test")), "delivered | verified | may");
    assert!(begin.elapsed() < Duration::from_secs(8), "a failed fetch is remembered");
    while web.fetches() == 0 {
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(facts(&relay.send("d@slow.test")), "delivered | verified | may");
}

const STRICT: &str = "version: STSv1\nmode: enforce\nmx: mx.strict.test\nmax_age: 86400\n";

/// `strict.test` with its mail server, its policy and its web server.
fn strict(authority: &Authority, net: u8, certificate: &str) -> (Sink, Web, Zone, String) {
    let tls = Tls::with(&authority.issue(&[certificate]));
    let sink = Sink::on_port_25(Ipv4Addr::new(127, net, 1, 1), tls);
    let pair = authority.issue(&["mta-sts.strict.test"]);
    let web = Web::serve((Ipv4Addr::new(127, net, 2, 1), 0), &pair, STRICT);
    let zone = Zone::default()
        .host("mx.strict.test", sink.address)
        .mx("strict.test", "mx.strict.test")
        .unsigned("strict.test")
        .host("mta-sts.strict.test", web.address)
        .txt("_mta-sts.strict.test", "v=STSv1; id=1;");
    let delivery = format!("mta_sts_port = {}", web.address.port());
    (sink, web, zone, delivery)
}

#[test]
fn a_policy_survives_a_restart() {
    if !is_root("a mail server on port 25") {
        return;
    }
    let authority = Authority::new("Ours");
    let (sink, web, zone, delivery) = strict(&authority, 86, "mx.elsewhere.test");
    let mut relay = Relay::start_with(authority, zone, &delivery, "");
    assert_waits(&relay.send("a@strict.test"), "TLS is required (mta-sts)");
    relay.wait_for_file("mta-sts/strict.test");
    web.go_down();
    relay.restart();
    assert_waits(&relay.send("b@strict.test"), "TLS is required (mta-sts)");
    assert_eq!((sink.heard("tls MAIL"), sink.heard("clear MAIL")), (0, 0));
    assert_eq!(web.fetches(), 1);
}

#[test]
fn all_shards_share_one_fetch() {
    if !is_root("a mail server on port 25") {
        return;
    }
    if thread::available_parallelism().is_ok_and(|count| count.get() < 2) {
        println!("SKIPPED: two shards need two processors");
        return;
    }
    let authority = Authority::new("Ours");
    let (sink, web, zone, delivery) = strict(&authority, 87, "mx.strict.test");
    let setup = Setup { server: "cores = \"0,1\"\n".to_owned(), ..Setup::default() };
    let relay = Relay::start_as(authority, zone, (&delivery, ""), setup);
    // The kernel distributes connections; all of them at one shard is as likely as 32 heads in a
    // row.
    for number in 0..32 {
        relay.submit(&format!("a{number}@strict.test"));
    }
    for number in 0..32 {
        let attempt = relay.attempt(&format!("a{number}@strict.test"));
        assert_eq!(facts(&attempt), "delivered | verified | mta-sts");
    }
    let log = relay.server.log_text();
    let took_mail = |partition: &str| {
        let is_it = |line: &str| line.contains("\"accepted\"") && line.contains(partition);
        log.lines().any(is_it)
    };
    assert!(took_mail("\"partition\":0") && took_mail("\"partition\":1"), "{log}");
    assert_eq!((web.fetches(), sink.heard("tls MAIL")), (1, 32));
}

/// If the policy cannot be fetched for a local reason, such as missing descriptors, mail waits.
#[test]
fn mail_waits_if_the_policy_cannot_be_requested() {
    if !is_root("a mail server on port 25") {
        return;
    }
    // The number of failed connects, and the result of the mail.
    let rows = [
        (88, "sts::connect=2*return", "delivered | verified | mta-sts"),
        (89, "sts::connect=return", "deferred | - | -"),
    ];
    thread::scope(|scope| {
        for (net, failpoints, expected) in rows {
            scope.spawn(move || {
                let authority = Authority::new("Ours");
                let (sink, _, zone, delivery) = strict(&authority, net, "mx.strict.test");
                let environment = vec![("FAILPOINTS".to_owned(), failpoints.to_owned())];
                let setup = Setup { environment, ..Setup::default() };
                let relay = Relay::start_as(authority, zone, (&delivery, ""), setup);
                let attempt = relay.send("a@strict.test");
                assert_eq!(facts(&attempt), expected, "{failpoints}");
                assert_eq!(sink.heard("clear MAIL"), 0);
                if expected.starts_with("deferred") {
                    assert_waits(&attempt, "MTA-STS policy of the domain cannot be fetched yet");
                    assert_eq!(attempt["attempts"], 0, "no attempt was made");
                    assert_eq!(sink.heard("tls MAIL"), 0);
                }
            });
        }
    });
}

#[test]
fn requiretls_is_satisfied_or_refused() {
    let authority = Authority::new("Ours");
    let able = Sink::with_requiretls(Tls::with(&authority.issue(&["mx.able.test"])));
    let unable = Sink::start(Tls::with(&authority.issue(&["mx.unable.test"])));
    let unproven = Sink::with_requiretls(Tls::with(&authority.issue(&["mx.elsewhere.test"])));
    let plain = Sink::start(Tls::None);
    let rows = [
        ("able.test", &able, ""),
        ("unable.test", &unable, ""),
        ("unproven.test", &unproven, ""),
        ("plain.test", &plain, ""),
        ("never.test", &able, "tls = \"none\""),
    ];
    let mut zone = Zone::default();
    let mut routes = String::new();
    for (domain, sink, more) in rows {
        zone = zone.host(&format!("mx.{domain}"), sink.address);
        routes += &route(domain, sink, more);
    }
    let zone = zone.mx("guessed.test", "mx.able.test").unsigned("guessed.test");
    let relay = Relay::start(authority, zone, &routes);
    let attempt = relay.send_requiring_tls("a@able.test");
    assert_eq!(facts(&attempt), "delivered | verified | requiretls");
    assert_eq!(able.heard("tls MAIL FROM:<> REQUIRETLS"), 1, "REQUIRETLS is passed on");
    let attempt = relay.send_requiring_tls("a@unable.test");
    assert_eq!(attempt["outcome"], "bounced", "{attempt}");
    assert!(attempt["reply"].as_str().is_some_and(|reply| reply.contains("5.7.30")), "{attempt}");
    let attempt = relay.send_requiring_tls("a@never.test");
    assert_eq!(attempt["outcome"], "bounced", "{attempt}");
    for domain in ["unproven.test", "plain.test"] {
        let attempt = relay.send_requiring_tls(&format!("a@{domain}"));
        assert_waits(&attempt, "TLS is required (requiretls)");
    }
    let attempt = relay.send_requiring_tls("a@guessed.test");
    assert_waits(&attempt, "neither DNSSEC nor MTA-STS secures");
    for sink in [&unable, &unproven, &plain] {
        assert_eq!((sink.heard("tls MAIL"), sink.heard("clear MAIL")), (0, 0));
    }
    // Other mail is delivered there, over connections of its own.
    assert_eq!(facts(&relay.send("b@plain.test")), "delivered | - | may");
}

/// A mail store on a Unix socket that does not support REQUIRETLS accepts one mail.
#[test]
fn delivery_on_the_same_machine_satisfies_requiretls() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("lmtp");
    let listener = UnixListener::bind(&path).expect("the folder is writable");
    let served = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client connects");
        let mut lines = BufReader::new(stream.try_clone().expect("a descriptor")).lines();
        stream.write_all(b"220 store.test LMTP\r\n").expect("written");
        let mut heard = Vec::new();
        while let Some(Ok(line)) = lines.next() {
            let said: &[u8] = match &*line {
                "DATA" => b"354 go\r\n",
                _ if line.starts_with("LHLO") => b"250-store.test\r\n250 8BITMIME\r\n",
                _ if line.starts_with("MAIL") || line.starts_with("RCPT") => b"250 ok\r\n",
                "." => b"250 taken\r\n",
                _ => continue,
            };
            heard.push(line);
            stream.write_all(said).expect("written");
            if said == b"250 taken\r\n" {
                break;
            }
        }
        heard
    });
    let next = format!("lmtp:unix:{}", path.display());
    // A Unix socket has no TLS, whatever the route demands.
    let route = format!(
        "[[route]]\nrecipient_domain = [\"store.test\"]\nnext = \"{next}\"\ntls = \"none\"\n"
    );
    let relay = Relay::start(Authority::new("Ours"), Zone::default(), &route);
    let attempt = relay.send_requiring_tls("a@store.test");
    assert_eq!(facts(&attempt), "delivered | - | none");
    let heard = served.join().expect("no panics");
    assert!(heard.iter().any(|line| line == "MAIL FROM:<>"), "{heard:?}");
}
