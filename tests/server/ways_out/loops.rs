//! Mail exchangers that are this server (RFC 5321 s5.1).

use crate::support::receiver::Receiver;
use crate::ways_out::kit::Out;
use crate::ways_out::kit::PATIENCE;
use crate::ways_out::kit::a;
use crate::ways_out::kit::aaaa;
use crate::ways_out::kit::mx;
use crate::ways_out::kit::name_server;
use crate::ways_out::kit::outcome;
use crate::ways_out::kit::reply;
use crate::ways_out::kit::route;

/// An address without a listener on port 25.
const NOBODY: [u8; 4] = [127, 0, 0, 77];
const ONLY_US: &str = "this server is the most preferred mail exchanger of the domain";

#[test]
fn mail_is_not_sent_to_ourselves_or_to_worse_exchangers() {
    let good = Receiver::start(&[], |_| None);
    let mut records = vec![
        // This server is the best exchanger: none is left.
        mx("best.test", 10, "MX.ringpost.test"),
        mx("best.test", 20, "trap.test"),
        // By the EHLO name of a source.
        mx("source.test", 10, "out-1.ringpost.test"),
        // One exchanger is as good as this server, one is worse.
        mx("backup.test", 5, "good.test"),
        mx("backup.test", 10, "mx.ringpost.test"),
        mx("backup.test", 10, "trap.test"),
        mx("backup.test", 20, "trap.test"),
        // Another server, although the names end alike.
        mx("other.test", 10, "amx.ringpost.test"),
        // A source with a proxy is another machine.
        mx("proxied.test", 10, "out-2.ringpost.test"),
        // Another port is another server.
        mx("port.test", 10, "mx.ringpost.test"),
    ];
    for host in ["good.test", "amx.ringpost.test", "out-2.ringpost.test", "trap.test"] {
        records.push(a(host, NOBODY));
    }
    records.push(a("mx.ringpost.test", [127, 0, 0, 1]));
    let servers = name_server(records);
    let reports = Receiver::start(&[], |_| None);
    let mut config = format!("[resolver]\nservers = ['{servers}']\n");
    config.push_str("[[source]]\nname = 'one'\nipv4 = '127.0.0.1'\n");
    config.push_str("ehlo_name = 'out-1.ringpost.test'\n");
    config.push_str("[[source]]\nname = 'two'\nproxy = 'socks5://127.0.0.1:1'\n");
    config.push_str("ehlo_name = 'out-2.ringpost.test'\n");
    config.push_str(&route("routed.test", "mx:best.test"));
    config.push_str(&route("port.test", &format!("mx:port.test:{}", good.address.port())));
    config.push_str(&route("sender.test", &format!("smtp:{}", reports.address)));
    let out = Out::start("2s", "", &config);
    // The last domain has no MX, and its address is this server.
    for domain in ["best.test", "source.test", "mx.ringpost.test"] {
        let to = format!("x@{domain}");
        out.submit(&[&to]);
        let attempt = out.attempt(&to);
        assert_eq!(outcome(&attempt), "bounced", "{attempt}");
        assert!(reply(&attempt).contains(ONLY_US), "{attempt}");
    }
    let told = reports.await_for("a@sender.test", 3, PATIENCE);
    for report in &told {
        let text = String::from_utf8_lossy(&report.text);
        assert!(text.contains("Status: 5.4.6"), "{text}");
    }
    // The operator may correct the route, so it is not permanent.
    out.submit(&["x@routed.test"]);
    let attempt = out.attempt("x@routed.test");
    assert_eq!(outcome(&attempt), "deferred", "{attempt}");
    assert!(reply(&attempt).contains(ONLY_US), "{attempt}");
    // The last host tried is reported: no worse exchanger was tried.
    for (domain, host) in [
        ("backup.test", "good.test"),
        ("other.test", "amx.ringpost.test"),
        ("proxied.test", "out-2.ringpost.test"),
    ] {
        let to = format!("x@{domain}");
        out.submit(&[&to]);
        let attempt = out.attempt(&to);
        assert_eq!(outcome(&attempt), "deferred", "{attempt}");
        let said = format!("connecting to {host}[127.0.0.77:25]: connection refused");
        assert_eq!(reply(&attempt), said, "{attempt}");
    }
    out.submit(&["x@port.test"]);
    good.await_for("x@port.test", 1, PATIENCE);
    assert_eq!(outcome(&out.attempt("x@port.test")), "delivered");
}

#[test]
fn the_dns_leads_mail_neither_to_this_server_nor_to_a_private_network() {
    let sink = Receiver::start(&[], |_| None);
    let v6 = |text: &str| text.parse().expect("an IPv6 address");
    let servers = name_server(vec![
        // An exchanger that is this server, and a worse one.
        mx("self.test", 10, "here.test"),
        mx("self.test", 20, "good.test"),
        // The same without MX records, and behind IPv6 addresses.
        a("implicit.test", [127, 0, 0, 1]),
        mx("mapped.test", 10, "mapped-host.test"),
        aaaa("mapped-host.test", v6("::ffff:127.0.0.1")),
        mx("nat64.test", 10, "nat64-host.test"),
        aaaa("nat64-host.test", v6("64:ff9b::169.254.169.254")),
        mx("private.test", 10, "inside.test"),
        // A private exchanger is passed over, as is one of two addresses.
        mx("mixed.test", 5, "inside.test"),
        mx("mixed.test", 10, "good.test"),
        mx("two.test", 5, "both.test"),
        // Better than this server.
        mx("backup.test", 5, "good.test"),
        mx("backup.test", 10, "here.test"),
        mx("backup.test", 20, "trap.test"),
        a("here.test", [127, 0, 0, 1]),
        a("inside.test", [10, 1, 2, 3]),
        a("both.test", [192, 168, 0, 1]),
        a("both.test", NOBODY),
        a("good.test", NOBODY),
        a("trap.test", NOBODY),
    ]);
    let reports = Receiver::start(&[], |_| None);
    let mut config = format!("[resolver]\nservers = ['{servers}']\n");
    config.push_str(&route("routed.test", "mx:self.test"));
    config.push_str(&route("named.test", &format!("smtp:here.test:{}", sink.address.port())));
    config.push_str(&route("sender.test", &format!("smtp:{}", reports.address)));
    let out = Out::start("2s", "allow_networks = ['127.0.0.77']", &config);
    let refused = [
        ("x@self.test", "the mail exchangers of self.test are", "127.0.0.1"),
        ("x@implicit.test", "the mail exchangers of implicit.test are", "127.0.0.1"),
        ("x@mapped.test", "the mail exchangers of mapped.test are", "::ffff:127.0.0.1"),
        ("x@nat64.test", "the mail exchangers of nat64.test are", "64:ff9b::a9fe:a9fe"),
        ("x@private.test", "the mail exchangers of private.test are", "10.1.2.3"),
        ("x@[10.9.9.9]", "the address is", "10.9.9.9"),
    ];
    for (to, what, address) in refused {
        out.submit(&[to]);
        let attempt = out.attempt(to);
        let said = format!("{what} this server or a private address ({address})");
        assert_eq!((outcome(&attempt), reply(&attempt)), ("bounced", &*said), "{attempt}");
    }
    for report in reports.await_for("a@sender.test", refused.len(), PATIENCE) {
        let text = String::from_utf8_lossy(&report.text);
        assert!(text.contains("Status: 5.4.6"), "{text}");
        // The lines of the report are folded.
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains("this server or a private address"), "{text}");
    }
    // The operator may correct the route.
    out.submit(&["x@routed.test"]);
    let attempt = out.attempt("x@routed.test");
    let said = "the mail exchangers of self.test are this server or a private address (127.0.0.1)";
    assert_eq!((outcome(&attempt), reply(&attempt)), ("deferred", said), "{attempt}");
    for (domain, host) in
        [("mixed.test", "good.test"), ("two.test", "both.test"), ("backup.test", "good.test")]
    {
        let to = format!("x@{domain}");
        out.submit(&[&to]);
        let attempt = out.attempt(&to);
        let said = format!("connecting to {host}[127.0.0.77:25]: connection refused");
        assert_eq!((outcome(&attempt), reply(&attempt)), ("deferred", &*said), "{attempt}");
    }
    // A route that names the host is obeyed.
    out.submit(&["x@named.test"]);
    sink.await_for("x@named.test", 1, PATIENCE);
    assert_eq!(outcome(&out.attempt("x@named.test")), "delivered");
}
