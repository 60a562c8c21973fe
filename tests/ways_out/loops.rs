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

const LATER: &str = "451 4.3.0 not now";

#[test]
fn mail_is_not_sent_to_ourselves_nor_behind_us() {
    let good = Receiver::start(&[], |line| line.contains("later@").then(|| LATER.to_owned()));
    let port = good.address.port();
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
    ];
    records.push(a("good.test", [127, 0, 0, 1]));
    records.push(a("amx.ringpost.test", [127, 0, 0, 1]));
    records.push(a("mx.ringpost.test", [127, 0, 0, 1]));
    records.push(a("trap.test", [127, 0, 0, 1]));
    let servers = name_server(records);
    let reports = Receiver::start(&[], |_| None);
    let mut config = format!("[resolver]\nservers = ['{servers}']\n");
    config.push_str("[[source]]\nname = 'one'\nipv4 = '127.0.0.1'\n");
    config.push_str("ehlo_name = 'out-1.ringpost.test'\n");
    for domain in ["best.test", "source.test", "backup.test", "other.test", "mx.ringpost.test"] {
        config.push_str(&route(domain, &format!("mx:{domain}:{port}")));
    }
    config.push_str(&route("sender.test", &format!("smtp:{}", reports.address)));
    let out = Out::start("2s", "", &config);
    // The last one has no MX at all, and is ourselves.
    for domain in ["best.test", "source.test", "mx.ringpost.test"] {
        let to = format!("x@{domain}");
        out.submit(&[&to]);
        let attempt = out.attempt(&to);
        assert_eq!(outcome(&attempt), "bounced", "{attempt}");
        assert!(reply(&attempt).contains("its mail exchangers are this server"), "{attempt}");
    }
    let told = reports.await_for("a@sender.test", 3, PATIENCE);
    for report in &told {
        let text = String::from_utf8_lossy(&report.text);
        assert!(text.contains("Status: 5.4.6"), "{text}");
    }
    for to in ["x@backup.test", "x@other.test"] {
        out.submit(&[to]);
        good.await_for(to, 1, PATIENCE);
        assert_eq!(outcome(&out.attempt(to)), "delivered");
    }
    out.submit(&["later@backup.test"]);
    let attempt = out.attempt("later@backup.test");
    assert_eq!((outcome(&attempt), reply(&attempt)), ("deferred", LATER));
    assert_eq!(attempt["host"], "good.test");
}
