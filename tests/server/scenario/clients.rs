//! Common mail clients: swaks, smtplib, msmtp, curl.

use crate::scenario::kit::Plan;
use crate::scenario::kit::Rig;
use crate::scenario::kit::run_well;

const LISTENERS: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\n\
    [[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"implicit\"\n\
    [[listener]]\naddress = \"127.0.0.1:0\"\nprotocol = \"lmtp\"\n";

fn rig() -> Rig {
    Rig::start(&Plan { listeners: LISTENERS.to_owned(), ..Plan::default() })
}

/// `show` of the only stored message whose body contains this text.
fn find(rig: &Rig, marker: &str) -> serde_json::Value {
    let rows = rig.queue_json(&["list"]);
    let ids: Vec<&str> =
        rows.as_array().expect("rows").iter().filter_map(|row| row["id"].as_str()).collect();
    let has = |id: &&&str| String::from_utf8_lossy(&rig.cat(id).1).contains(marker);
    let found: Vec<&&str> = ids.iter().filter(has).collect();
    assert_eq!(found.len(), 1, "messages with {marker}: {found:?} of {ids:?}");
    rig.queue_json(&["show", found[0]])
}

#[test]
fn swaks_delivers() {
    let rig = rig();
    let rows: [(&str, usize, &[&str], &str); 6] = [
        ("plain", 0, &[], "ESMTP"),
        ("starttls", 0, &["--tls"], "ESMTPS"),
        ("implicit", 1, &["--tls-on-connect"], "ESMTPS"),
        ("pipelining", 0, &["--pipeline"], "ESMTP"),
        ("pipelining-tls", 0, &["--pipeline", "--tls"], "ESMTPS"),
        ("lmtp", 2, &["--protocol", "LMTP"], "LMTP"),
    ];
    for (name, listener, more, protocol) in rows {
        let address = rig.server.smtp[listener];
        let (port, subject) = (address.port().to_string(), format!("Subject: swaks-{name}"));
        let words = [
            &["--server", "127.0.0.1", "--port", &port, "--from", "a@x.test", "--to", "b@y.test"],
            &["--header", &subject, "--ehlo", "client.test", "--timeout", "20"][..],
            more,
        ];
        let said = run_well("swaks", &words.concat(), b"");
        assert!(said.contains("queued as"), "{name}: {said}");
        let show = find(&rig, &subject);
        assert_eq!(show["protocol"], protocol, "{name}");
        assert_eq!(show["tls"].is_string(), protocol.ends_with("PS"), "{name}: {show}");
    }
}

const SMTPLIB: &str = r#"
import smtplib, sys
port = int(sys.argv[1])
s = smtplib.SMTP("127.0.0.1", port, local_hostname="client.test", timeout=20)
s.ehlo()
for word in ("smtputf8", "8bitmime", "pipelining", "chunking", "dsn", "size", "starttls"):
    assert s.has_extn(word), word
to = ["b@y.test", "c@z.test", "\u00fcber@b\u00fccher.test"]
body = "Subject: gr\u00fc\u00dfe\r\nX: smtplib-utf8\r\n\r\n.dot\r\n\u00e4\r\n".encode()
assert s.sendmail("j\u00fcrgen@x.test", to, body, ["SMTPUTF8", "BODY=8BITMIME"]) == {}
refused = s.sendmail("a@x.test", ["b@y.test", "c%d@y.test"], b"X: smtplib-some\r\n\r\n")
assert list(refused) == ["c%d@y.test"], refused
try:
    s.sendmail("a@x.test", ["a!b@y.test"], b"X: smtplib-none\r\n\r\n")
    raise SystemExit("a bang path went through")
except smtplib.SMTPRecipientsRefused:
    pass
assert s.noop()[0] == 250 and s.verify("b")[0] == 252
s.starttls()
s.ehlo()
assert not s.has_extn("starttls") and s.has_extn("requiretls")
assert s.sendmail("a@x.test", ["b@y.test"], b"X: smtplib-tls\r\n\r\n", ["REQUIRETLS"]) == {}
s.quit()
"#;

#[test]
fn smtplib_delivers() {
    let rig = rig();
    run_well("python3", &["-c", SMTPLIB, &rig.address().port().to_string()], b"");
    let utf8 = find(&rig, "smtplib-utf8");
    assert_eq!(utf8["smtputf8"], true);
    assert_eq!(utf8["body_type"], "8BITMIME");
    assert_eq!(utf8["sender"], "jürgen@x.test");
    assert_eq!(utf8["protocol"], "UTF8SMTP");
    let to: Vec<_> = utf8["recipients"].as_array().expect("rows").iter().collect();
    assert_eq!(to.len(), 3, "{utf8}");
    assert_eq!(to[2]["mailbox"], "über@bücher.test");
    let (_, body) = rig.cat(utf8["id"].as_str().expect("an id"));
    assert!(body.ends_with("\r\n\r\n.dot\r\nä\r\n".as_bytes()), "{}", body.escape_ascii());
    assert_eq!(find(&rig, "smtplib-some")["recipients"].as_array().map(Vec::len), Some(1));
    let tls = find(&rig, "smtplib-tls");
    assert_eq!(tls["requiretls"], true);
    assert_eq!(rig.messages(), 3, "nothing else was stored");
}

#[test]
fn common_clients_deliver() {
    let rig = rig();
    let port = rig.address().port().to_string();
    let message = "Subject: from a client\r\nX: msmtp\r\n\r\ntext\r\n";
    let common = ["--host=127.0.0.1", "--from=a@x.test", "--domain=client.test"];
    let port_word = format!("--port={port}");
    let tls = ["--tls=on", "--tls-certcheck=off", &port_word, "b@y.test"];
    run_well("msmtp", &[&common[..], &tls[..]].concat(), message.as_bytes());
    assert_eq!(find(&rig, "X: msmtp")["protocol"], "ESMTPS");

    let file = rig.folder.path().join("message");
    std::fs::write(&file, message.replace("msmtp", "curl")).expect("the folder is writable");
    let url = format!("smtp://127.0.0.1:{port}/client.test");
    let words = ["--silent", "--show-error", "--url", &url, "--mail-from", "a@x.test"];
    let more = ["--mail-rcpt", "b@y.test", "--mail-rcpt", "c@y.test", "--upload-file"];
    let tls = ["--ssl-reqd", "--insecure"];
    let words = [&words[..], &more[..], &[crate::scenario::kit::text(&file)], &tls[..]].concat();
    run_well("curl", &words, b"");
    assert_eq!(find(&rig, "X: curl")["recipients"].as_array().map(Vec::len), Some(2));
}
