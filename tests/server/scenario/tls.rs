//! TLS with OpenSSL.

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::ChildStdin;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;
use std::time::Instant;

use crate::scenario::kit::Plan;
use crate::scenario::kit::Rig;
use crate::scenario::kit::certificate;
use crate::scenario::kit::certificate_table;
use crate::scenario::kit::codes;
use crate::scenario::kit::is_closed;
use crate::scenario::kit::new_folder;
use crate::scenario::kit::run;
use crate::scenario::kit::run_well;
use crate::scenario::kit::talk;
use crate::scenario::kit::text;
use crate::scenario::kit::text_of;
use crate::support::PATIENCE;

fn s_client(rig: &Rig, more: &[&str], input: &[u8]) -> std::process::Output {
    let address = rig.address().to_string();
    // Without -ign_eof openssl treats a line that begins with Q as a command.
    let always = ["s_client", "-starttls", "smtp", "-crlf", "-ign_eof", "-connect", &address];
    let words = [&always[..], more].concat();
    run("openssl", &words, input)
}

/// Certificates for two names, in the folder of the spool.
fn two_names(listener: &str, rest: &str) -> Rig {
    let folder = new_folder();
    let mut tables = String::new();
    for name in ["one.test", "two.test"] {
        tables.push_str(&certificate_table(&certificate(folder.path(), name, name)));
    }
    Rig::start_in(folder, &Plan::of(listener, &format!("{rest}\n{tables}")))
}

#[test]
fn the_certificate_is_chosen_by_name_in_both_versions() {
    let rig = two_names("", "");
    let names: [(&[&str], &str); 4] = [
        (&["-servername", "one.test"], "one.test"),
        (&["-servername", "two.test"], "two.test"),
        (&["-servername", "three.test"], "one.test"),
        (&["-noservername"], "one.test"),
    ];
    for (version, shown) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        for (words, subject) in names {
            let said = text_of(&s_client(&rig, &[&[version], words].concat(), b"QUIT\n"));
            assert!(said.contains(&format!("subject=CN = {subject}")), "{words:?}: {said}");
            assert!(said.contains(&format!("New, {shown}")), "{said}");
        }
    }
    for version in ["-tls1_1", "-tls1"] {
        let old = [version, "-cipher", "DEFAULT@SECLEVEL=0"];
        let said = text_of(&s_client(&rig, &old, b"QUIT\n"));
        assert!(
            said.contains("alert protocol version") || said.contains("Cipher is (NONE)"),
            "{said}"
        );
    }
    let strict = two_names("", "[tls]\nmin_version = \"1.3\"\n");
    let said = text_of(&s_client(&strict, &["-tls1_2"], b"QUIT\n"));
    assert!(said.contains("Cipher is (NONE)"), "{said}");
    let said = text_of(&s_client(&strict, &["-tls1_3"], b"QUIT\n"));
    assert!(said.contains("New, TLSv1.3"), "{said}");
}

#[test]
fn sessions_are_resumed() {
    let rig = two_names("", "");
    for version in ["-tls1_2", "-tls1_3"] {
        let file = rig.folder.path().join(format!("session{version}"));
        let name = ["-servername", "two.test"];
        let first = [&[version, "-sess_out", text(&file)], &name[..]].concat();
        let said = text_of(&s_client(&rig, &first, b"NOOP\nQUIT\n"));
        assert!(said.contains("New, TLS"), "{said}");
        assert!(file.exists(), "{version}: no session was given: {said}");
        let again = [&[version, "-sess_in", text(&file)], &name[..]].concat();
        let said = text_of(&s_client(&rig, &again, b"NOOP\nQUIT\n"));
        assert!(said.contains("Reused, TLS"), "{version}: {said}");
    }
}

/// A client certificate issued by this authority.
fn client_certificate(
    folder: &Path,
    authority: &(PathBuf, PathBuf),
    stem: &str,
) -> (PathBuf, PathBuf) {
    let file = |end: &str| folder.join(format!("{stem}.{end}"));
    let (key, request, certificate, extensions) =
        (file("key"), file("csr"), file("crt"), file("ext"));
    fs::write(&extensions, "extendedKeyUsage=clientAuth\nsubjectAltName=DNS:client.test\n")
        .expect("the file is writable");
    let words =
        ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let files = ["-keyout", text(&key), "-out", text(&request), "-subj", "/CN=client.test"];
    run_well("openssl", &[&words[..], &files[..]].concat(), b"");
    let words = ["x509", "-req", "-in", text(&request), "-CA", text(&authority.0), "-CAkey"];
    let more =
        [text(&authority.1), "-CAcreateserial", "-days", "30", "-extfile", text(&extensions)];
    run_well("openssl", &[&words[..], &more[..], &["-out", text(&certificate)]].concat(), b"");
    (certificate, key)
}

#[test]
fn client_certificates_are_requested() {
    let folder = new_folder();
    let ours = certificate(folder.path(), "ca", "Our authority");
    let theirs = certificate(folder.path(), "other-ca", "Another authority");
    let good = client_certificate(folder.path(), &ours, "good");
    let stranger = client_certificate(folder.path(), &theirs, "stranger");
    let server = certificate_table(&certificate(folder.path(), "server", "one.test"));
    let rows = [
        ("none", None, true),
        ("none", Some(&good), true),
        ("optional", None, true),
        ("optional", Some(&good), true),
        ("required", None, false),
        ("required", Some(&good), true),
        ("required", Some(&stranger), false),
    ];
    for wanted in ["none", "optional", "required"] {
        let ca = if wanted == "none" { String::new() } else { format!("client_ca = {:?}", ours.0) };
        let listener = format!("client_certificates = \"{wanted}\"\n{ca}");
        let rig = Rig::start(&Plan::of(&listener, &server));
        for (_, shown, welcome) in rows.iter().filter(|row| row.0 == wanted) {
            for version in ["-tls1_2", "-tls1_3"] {
                let mut words = vec![version];
                if let Some((certificate, key)) = shown {
                    words.extend(["-cert", text(certificate), "-key", text(key)]);
                }
                let said = text_of(&s_client(&rig, &words, b"QUIT\n"));
                let heard = said.contains("221 2.0.0");
                assert_eq!(heard, *welcome, "{wanted} {shown:?} {version}: {said}");
            }
        }
    }
}

/// An interactive `openssl s_client`.
struct Talk {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Talk {
    fn start(rig: &Rig, more: &[&str]) -> Talk {
        let address = rig.address().to_string();
        let mut command = Command::new("openssl");
        command.args(["s_client", "-starttls", "smtp", "-quiet", "-connect", &address]).args(more);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("openssl can be run; see .ci/deps");
        let to = child.stdin.take().expect("the stream is piped");
        let from = BufReader::new(child.stdout.take().expect("the stream is piped"));
        Talk { child, to, from }
    }

    /// The last line of the reply.
    fn ask(&mut self, line: &str) -> String {
        self.to.write_all(format!("{line}\r\n").as_bytes()).expect("the peer reads");
        loop {
            let mut reply = String::new();
            let count = self.from.read_line(&mut reply).expect("openssl prints lines");
            assert!(count > 0, "the connection ended");
            // With -starttls openssl prints the last line of the first EHLO.
            if reply.as_bytes().get(3) == Some(&b' ') && !reply.starts_with("250 LIMITS") {
                return reply;
            }
            if line.starts_with("EHLO") && reply.starts_with("250 ") {
                return reply;
            }
        }
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        // It ends with its server.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_new_certificate_needs_no_restart() {
    let rig = two_names("", "");
    let mut old = Talk::start(&rig, &["-servername", "one.test"]);
    assert!(old.ask("NOOP").starts_with("250"), "the old session works");
    let folder = rig.folder.path();
    let fresh = certificate(folder, "fresh", "one.test");
    let print = |file: &Path| {
        run_well("openssl", &["x509", "-in", text(file), "-noout", "-serial"], b"")
            .trim()
            .to_owned()
    };
    let serial = |rig: &Rig| {
        let said = s_client(rig, &["-servername", "one.test"], b"QUIT\n");
        run_well("openssl", &["x509", "-noout", "-serial"], &said.stdout).trim().to_owned()
    };
    let before = print(&folder.join("one.test.crt"));
    assert_eq!(serial(&rig), before);
    fs::rename(&fresh.0, folder.join("one.test.crt")).expect("both are in one folder");
    fs::rename(&fresh.1, folder.join("one.test.key")).expect("both are in one folder");
    rig.reload("reloaded");
    let after = print(&folder.join("one.test.crt"));
    assert_ne!(before, after);
    // The reload is sent to each shard; a shard that has applied it keeps it.
    let end = Instant::now() + PATIENCE;
    let mut in_a_row = 0;
    while in_a_row < 6 {
        let served = serial(&rig);
        in_a_row = if served == after { in_a_row + 1 } else { 0 };
        assert!(Instant::now() < end, "{served} is served, not {after}");
    }
    assert!(old.ask("NOOP").starts_with("250"), "the old session continues");
    assert!(
        old.ask("MAIL FROM:<a@x.test>").starts_with("503"),
        "and is still under TLS, not greeted"
    );
    // An invalid pair changes nothing.
    fs::write(folder.join("one.test.key"), "no key at all").expect("the file is writable");
    let line = rig.reload("reload_refused");
    assert!(line.contains("one.test.key"), "{line}");
    assert_eq!(serial(&rig), after, "the valid certificate stays");
}

#[test]
fn plain_text_after_starttls_is_dropped() {
    let rig = Rig::start(&Plan::default());
    // In one segment: a pipelining violation.
    let mut client = rig.client();
    client.send(b"STARTTLS\r\nMAIL FROM:<evil@x.test>\r\n").expect("the connection is open");
    assert_eq!(codes(&client.reply().expect("the server answers")), "554 5.5.0");
    assert!(is_closed(&mut client));
    // After the 220: an invalid handshake.
    let mut client = rig.client();
    talk(&mut client, "starttls", &[("STARTTLS", "220")]);
    client.send(b"MAIL FROM:<evil@x.test>\r\n").expect("the connection is open");
    let answer = client.reply();
    assert!(answer.is_err(), "plain text was answered: {answer:?}");
    rig.server.wait_for_log("\"record\":\"tls_failed\"");
    assert_eq!(rig.messages(), 0);
}

const PROXY_THEN_TLS: &str = r#"
import socket, ssl, sys
port, held = int(sys.argv[1]), sys.argv[2].encode() + b"\r\n"
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
tls = context.wrap_bio(incoming, outgoing, server_hostname="mx.ringpost.test")
s = socket.create_connection(("127.0.0.1", port), timeout=30)
def drive(step):
    global held
    while True:
        try:
            done = step()
            s.sendall(outgoing.read())
            return done
        except ssl.SSLWantReadError:
            s.sendall(held + outgoing.read())
            held = b""
            got = s.recv(4096)
            if not got:
                raise SystemExit("the server closed")
            incoming.write(got)
drive(tls.do_handshake)
print(drive(lambda: tls.read(100)).decode())
"#;

/// Load balancers send the header and the client's first flight in one segment.
#[test]
fn a_handshake_may_follow_its_proxy_header_at_once() {
    let rig = Rig::start(&Plan::of("tls = \"implicit\"\nproxy_from = [\"127.0.0.1\"]", ""));
    let port = rig.address().port().to_string();
    let header = "PROXY TCP4 203.0.113.1 127.0.0.1 4321 25";
    let said = run_well("python3", &["-c", PROXY_THEN_TLS, &port, header], b"");
    assert!(said.starts_with("220 mx.ringpost.test"), "{said}");
}
