//! Mail that needs an extension goes to a host that offers it.

use std::net::SocketAddr;

use crate::support::ClosedPort;
use crate::support::receiver::Receiver;
use crate::ways_out::kit::Out;
use crate::ways_out::kit::PATIENCE;
use crate::ways_out::kit::outcome;
use crate::ways_out::kit::reply;
use crate::ways_out::kit::route;

/// A host with no other extension than SIZE.
fn poor() -> Receiver {
    Receiver::start(&[], |line| {
        line.starts_with("EHLO").then(|| "250-receiver.test\r\n250 SIZE 2000".to_owned())
    })
}

fn submit(out: &Out, parameters: &str, to: &str, lines: usize) {
    let mut client = out.server.connect();
    client.greet().expect("the server greets");
    client.expect(&format!("MAIL FROM:<a@sender.test>{parameters}"), 250);
    client.expect(&format!("RCPT TO:<{to}>"), 250);
    client.expect("DATA", 354);
    let text = "This line has thirty bytes...\r\n".repeat(lines);
    let reply = client.ask(&format!("Subject: x\r\n\r\n{text}.")).expect("the server answers");
    assert_eq!(reply.code, 250, "{}", reply.text);
}

#[test]
fn a_host_that_lacks_what_a_mail_needs_is_passed_over() {
    let (first, second) = (poor(), poor());
    let rich = Receiver::start(&["SMTPUTF8", "SIZE 100000"], |_| None);
    let closed = ClosedPort::new();
    let hosts = |one: SocketAddr, other: SocketAddr| format!("smtp:{one},{other}");
    let mut config = route("both.test", &hosts(first.address, rich.address));
    config.push_str(&route("poor.test", &hosts(first.address, second.address)));
    config.push_str(&route("down.test", &hosts(first.address, closed.address)));
    config.push_str(&route("sender.test", "discard"));
    let out = Out::start("2s", "", &config);
    submit(&out, "", "plain@both.test", 1);
    first.await_for("plain@both.test", 1, PATIENCE);
    for (parameters, to, lines) in [
        (" BODY=8BITMIME", "eight@both.test", 1),
        (" SMTPUTF8", "h\u{fc}lse@both.test", 1),
        ("", "large@both.test", 100),
    ] {
        submit(&out, parameters, to, lines);
        rich.await_for(to, 1, PATIENCE);
        assert_eq!(outcome(&out.attempt(to)), "delivered", "{to}");
        assert!(first.taken_for(to).is_empty(), "{to}");
    }
    // If all lack it, the mail bounces.
    for (parameters, to, lines, status) in [
        (" BODY=8BITMIME", "eight@poor.test", 1, "5.6.3"),
        (" SMTPUTF8", "h\u{fc}lse@poor.test", 1, "5.6.7"),
        ("", "large@poor.test", 100, "5.3.4"),
    ] {
        submit(&out, parameters, to, lines);
        let attempt = out.attempt(to);
        assert_eq!(outcome(&attempt), "bounced", "{attempt}");
        assert!(reply(&attempt).contains(status), "{attempt}");
    }
    assert!(second.asked("EHLO") > 0, "the second host was asked too");
    // A host that does not answer may offer it later.
    submit(&out, " BODY=8BITMIME", "eight@down.test", 1);
    let attempt = out.attempt("eight@down.test");
    assert_eq!(outcome(&attempt), "deferred", "{attempt}");
    assert!(reply(&attempt).contains("connection refused"), "{attempt}");
    // Other mail still goes to the first host.
    submit(&out, "", "plain@down.test", 1);
    first.await_for("plain@down.test", 1, PATIENCE);
}
