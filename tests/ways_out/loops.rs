//! Mail exchangers that are ourselves (RFC 5321 s5.1).

use crate::kit::Out;
use crate::kit::PATIENCE;
use crate::kit::a;
use crate::kit::mx;
use crate::kit::name_server;
use crate::kit::outcome;
use crate::kit::reply;
use crate::kit::route;
use crate::support::receiver::Receiver;

/// Nobody listens at port 25 of it.
const NOBODY: [u8; 4] = [127, 0, 0, 77];
const ONLY_US: &str = "its mail exchangers are this server";

#[test]
fn mail_is_not_sent_to_ourselves_nor_behind_us() {
    let good = Receiver::start(&[], |_| None);
    let mut records = vec![
        // We are the best: nobody is left.
        mx("best.test", 10, "MX.ringpost.test"),
        mx("best.test", 20, "trap.test"),
        // By the name that a source has.
        mx("source.test", 10, "out-1.ringpost.test"),
        // One is as good as we are, one is worse.
        mx("backup.test", 5, "good.test"),
        mx("backup.test", 10, "mx.ringpost.test"),
        mx("backup.test", 10, "trap.test"),
        mx("backup.test", 20, "trap.test"),
        // Not us, though it ends alike.
        mx("other.test", 10, "amx.ringpost.test"),
        // Where a proxy goes out is another machine.
        mx("proxied.test", 10, "out-2.ringpost.test"),
        // Nor is it us at another port.
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
    // The last one has no MX at all, and is ourselves.
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
    // The route's operator may mend it.
    out.submit(&["x@routed.test"]);
    let attempt = out.attempt("x@routed.test");
    assert_eq!(outcome(&attempt), "deferred", "{attempt}");
    assert!(reply(&attempt).contains(ONLY_US), "{attempt}");
    // The last host that was tried is told: nobody behind us was.
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
