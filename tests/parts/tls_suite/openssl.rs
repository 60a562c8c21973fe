//! The client and the server against OpenSSL, over real sockets.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use ringpost::base::Chunk;
use ringpost::base::ChunkPool;
use ringpost::net::CertificateFault;
use ringpost::net::Channel;
use ringpost::net::PeerCheck;
use ringpost::net::TlsClient;
use ringpost::net::TlsFacts;
use ringpost::net::TlsServer;
use ringpost::net::Transport;
use ringpost::net::Verdict;

use crate::tls_suite::channel::Fault;
use crate::tls_suite::channel::now;
use crate::tls_suite::kit::Authority;
use crate::tls_suite::kit::Folder;
use crate::tls_suite::kit::NOW_MS;
use crate::tls_suite::kit::our_client;
use crate::tls_suite::kit::settings;

const HOST: &str = "mail.ours.test";

/// `openssl s_server`, which returns each line reversed.
struct Server {
    process: Child,
    port: u16,
}

impl Server {
    fn start(certificate: &Path, key: &Path, options: &[&str]) -> Server {
        let mut process = Command::new("openssl")
            .args(["s_server", "-accept", "127.0.0.1:0", "-rev", "-cert"])
            .arg(certificate)
            .arg("-key")
            .arg(key)
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl is installed");
        let mut lines = BufReader::new(process.stdout.take().expect("the stream is piped")).lines();
        let accept = lines.by_ref().map_while(Result::ok).find(|line| line.starts_with("ACCEPT"));
        let accept = accept.expect("openssl listens");
        let port = accept.rsplit(':').next().and_then(|port| port.parse().ok());
        // It stops if its output is not read.
        std::thread::spawn(move || lines.for_each(drop));
        Server { process, port: port.expect("openssl prints the port") }
    }

    fn connect(&self) -> Channel<Socket> {
        let stream =
            TcpStream::connect(("127.0.0.1", self.port)).expect("openssl accepts connections");
        let patience = Some(Duration::from_secs(20));
        stream.set_read_timeout(patience).expect("a deadline");
        Channel::plain(Socket { stream, piece: 64 << 10 })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().expect("the child is ours");
        self.process.wait().expect("the child ends");
    }
}

/// A blocking socket, so that one poll is enough.
struct Socket {
    stream: TcpStream,
    piece: usize,
}

impl Transport for Socket {
    type Fault = Fault;

    fn is_end(fault: &Fault) -> bool {
        *fault == Fault::End
    }

    async fn read(&mut self, pool: &ChunkPool, chunk: Option<Chunk>) -> Result<Chunk, Fault> {
        let mut chunk = chunk.or_else(|| pool.try_take()).ok_or(Fault::Deadline)?;
        let room = self.piece.min(chunk.room().len());
        match self.stream.read(&mut chunk.room()[..room]) {
            Ok(0) => {
                pool.give(chunk);
                Err(Fault::End)
            }
            Ok(count) => {
                chunk.advance(count);
                Ok(chunk)
            }
            Err(_) => {
                pool.give(chunk);
                Err(Fault::Deadline)
            }
        }
    }

    async fn write(&mut self, mut bytes: Vec<u8>) -> (Result<(), Fault>, Vec<u8>) {
        let written = self.stream.write_all(&bytes).map_err(|_| Fault::End);
        bytes.clear();
        (written, bytes)
    }
}

/// A handshake and a few lines; returns the negotiated facts.
fn converse(
    server: &Server,
    client: &Arc<TlsClient>,
    check: PeerCheck,
    piece: usize,
) -> Result<TlsFacts, Fault> {
    let pool = ChunkPool::new(2);
    let mut channel = server.connect();
    channel.stream_mut().piece = piece;
    channel.start_tls_client(client, HOST, check)?;
    now(channel.handshake(&pool, None))?;
    for round in 0..3 {
        let line: String = (0..2000).map(|n| char::from(b'a' + ((n + round) % 26) as u8)).collect();
        now(channel.write(format!("{line}\n").into_bytes())).0?;
        let mut got = Vec::new();
        while got.last() != Some(&b'\n') {
            let chunk = now(channel.read(&pool, None))?;
            got.extend(chunk.bytes());
            pool.give(chunk);
        }
        let back: String = line.chars().rev().collect();
        assert_eq!(got, format!("{back}\n").into_bytes());
    }
    assert_eq!(pool.chunks_out(), 0);
    now(channel.close())?;
    Ok(channel.tls_facts().expect("the handshake is done").clone())
}

#[test]
fn both_versions_work_and_are_resumed() {
    let authority = Authority::new("Known");
    let folder = Folder::new();
    let ecdsa = folder.pair("ecdsa", &authority.issue(&[HOST]));
    let rsa = &rcgen::PKCS_RSA_SHA256;
    let rsa = folder.pair("rsa", &authority.issue_as(&[HOST], rsa, |_| {}));
    let table: [(&str, _, &[&str], &str); 5] = [
        ("1.3", &ecdsa, &["-tls1_3"], "TLSv1.3"),
        ("1.2", &ecdsa, &["-tls1_2"], "TLSv1.2"),
        ("1.3, RSA", &rsa, &["-tls1_3"], "TLSv1.3"),
        ("1.2, RSA, no tickets", &rsa, &["-tls1_2", "-no_ticket"], "TLSv1.2"),
        (
            "1.2, one cipher",
            &rsa,
            &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"],
            "TLSv1.2",
        ),
    ];
    for (case, pair, options, version) in table {
        let server = Server::start(&pair.0, &pair.1, options);
        // A new client, because sessions of the last server are of no use.
        let client = our_client(&folder, &authority.pem());
        for (round, piece) in [64 << 10, 1, 1448].into_iter().enumerate() {
            let facts = converse(&server, &client, PeerCheck::Name, piece).expect(case);
            assert_eq!(facts.version, version, "{case}");
            assert!(!facts.resumed || round > 0, "{case}");
            assert!(facts.resumed || round == 0, "{case}: round {round} is resumed");
            assert_eq!(
                facts.server.expect("the server has a certificate").verdict,
                Verdict::Name,
                "{case}"
            );
        }
    }
}

#[test]
fn a_version_1_certificate_passes_without_verification() {
    let folder = Folder::new();
    let client = our_client(&folder, &Authority::new("Known").pem());
    for kind in ["rsa:2048", "ec"] {
        let (key, request) = (folder.path().join("v1.key"), folder.path().join("v1.csr"));
        let certificate = folder.path().join("v1.crt");
        let curve: &[&str] =
            if kind == "ec" { &["-pkeyopt", "ec_paramgen_curve:P-256"] } else { &[] };
        openssl(&["req", "-new", "-nodes", "-newkey", kind, "-subj", "/O=Old/CN=v1"], |command| {
            command.args(curve).arg("-keyout").arg(&key).arg("-out").arg(&request)
        });
        openssl(&["x509", "-req", "-days", "30"], |command| {
            command.arg("-in").arg(&request).arg("-signkey").arg(&key).arg("-out").arg(&certificate)
        });
        for version in ["-tls1_2", "-tls1_3"] {
            let server = Server::start(&certificate, &key, &[version]);
            let facts = converse(&server, &client, PeerCheck::Any, 64 << 10).expect(version);
            let shown = facts.server.expect("the server has a certificate");
            assert!(matches!(shown.verdict, Verdict::Unproven(_)), "{version}");
            assert!(shown.issuer.contains("O=Old"), "{version}: {}", shown.issuer);
            let fault = converse(&server, &client, PeerCheck::Name, 64 << 10).expect_err(version);
            let Fault::Tls(fault) = fault else { panic!("{version}: {fault:?}") };
            assert!(fault.certificate().is_some(), "{version}: {fault}");
        }
    }
}

fn openssl(arguments: &[&str], more: impl FnOnce(&mut Command) -> &mut Command) {
    let mut command = Command::new("openssl");
    command.args(arguments).stderr(Stdio::null());
    assert!(more(&mut command).status().expect("openssl is installed").success());
}

#[test]
fn verification_failures_are_reported() {
    let authority = Authority::new("Known");
    let folder = Folder::new();
    let client = our_client(&folder, &authority.pem());
    let other = folder.pair("other", &authority.issue(&["mx.other.test"]));
    let good = folder.pair("good", &authority.issue(&[HOST]));
    let server = Server::start(&other.0, &other.1, &[]);
    let fault = converse(&server, &client, PeerCheck::Name, 64 << 10).expect_err("another name");
    let Fault::Tls(fault) = fault else { panic!("{fault:?}") };
    assert_eq!(fault.certificate(), Some(CertificateFault::OtherName));
    let facts = converse(&server, &client, PeerCheck::Any, 64 << 10).expect("no verification");
    let verdict = facts.server.expect("the server has a certificate").verdict;
    assert_eq!(verdict, Verdict::Unproven(CertificateFault::OtherName));
    let server = Server::start(&good.0, &good.1, &["-tls1_2", "-cipher", "AES128-SHA"]);
    let fault = converse(&server, &client, PeerCheck::Any, 64 << 10).expect_err("no common cipher");
    let Fault::Tls(fault) = fault else { panic!("{fault:?}") };
    assert_eq!(fault.certificate(), None);
}

/// Our server against `openssl s_client`: whether the handshake succeeded, and openssl's output.
fn serve_once(server: &Arc<TlsServer>, options: &[&str]) -> (Result<(), Fault>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("the socket is bound").to_string();
    let client = Command::new("openssl")
        .args(["s_client", "-connect", &address])
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is installed");
    let (stream, _) = listener.accept().expect("openssl connects");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a deadline");
    let mut channel = Channel::plain(Socket { stream, piece: 64 << 10 });
    channel.start_tls(server).expect("a session");
    let made = now(channel.handshake(&ChunkPool::new(2), None));
    drop(channel);
    let out = client.wait_with_output().expect("openssl ends");
    let [printed, told] =
        [out.stdout, out.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (made.map(drop), format!("{printed}{told}"))
}

#[test]
fn a_client_without_common_parameters_gets_an_alert() {
    let authority = Authority::new("Known");
    let folder = Folder::new();
    let ecdsa = folder.pair("ecdsa", &authority.issue(&[HOST]));
    let rsa = authority.issue_as(&[HOST], &rcgen::PKCS_RSA_SHA256, |_| {});
    let rsa = folder.pair("rsa", &rsa);
    let server = |pair| TlsServer::build(&settings(vec![pair]), NOW_MS).expect("valid settings");
    let (ecdsa, rsa) = (server(ecdsa), server(rsa));
    type Row<'a> = (&'a str, &'a Arc<TlsServer>, &'a [&'a str], bool);
    let rows: [Row<'_>; 8] = [
        ("1.2", &ecdsa, &["-tls1_2"], true),
        ("1.3", &ecdsa, &["-tls1_3"], true),
        ("no cipher of ours", &ecdsa, &["-tls1_2", "-cipher", "AES128-SHA"], false),
        ("no cipher of ours, RSA", &rsa, &["-tls1_2", "-cipher", "AES128-SHA"], false),
        (
            "only RSA ciphers",
            &ecdsa,
            &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256", "-servername", HOST],
            false,
        ),
        (
            "only ECDSA ciphers",
            &rsa,
            &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
            false,
        ),
        ("only RSA signatures, 1.2", &ecdsa, &["-tls1_2", "-sigalgs", "RSA+SHA256"], false),
        ("only RSA signatures, 1.3", &ecdsa, &["-tls1_3", "-sigalgs", "RSA-PSS+SHA256"], false),
    ];
    for (case, server, options, agrees) in rows {
        let (made, told) = serve_once(server, options);
        assert_eq!(made.is_ok(), agrees, "{case}: {made:?}\n{told}");
        // 40 is `handshake_failure` (RFC 8446 s6).
        assert_eq!(told.contains("SSL alert number 40"), !agrees, "{case}:\n{told}");
    }
}
