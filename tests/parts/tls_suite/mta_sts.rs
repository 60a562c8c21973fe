//! Fetching an MTA-STS policy from an arbitrary web server.

use std::io::Read;
use std::io::Write;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use ringpost::control::sts::web::FetchFault;
use ringpost::control::sts::web::HttpFault;
use ringpost::control::sts::web::fetch_policy;
use ringpost::handoff::sts::StsWanted;
use ringpost::net::CertificateFault;
use ringpost::net::StsMode;
use ringpost::net::StsPolicy;
use ringpost::net::TlsClient;
use ringpost::net::TlsServer;
use ringpost::net::mta_sts::StsPolicyFault;
use rustls::ServerConnection;
use rustls::StreamOwned;

use crate::tls_suite::kit::Authority;
use crate::tls_suite::kit::Folder;
use crate::tls_suite::kit::NOW_MS;
use crate::tls_suite::kit::our_client;
use crate::tls_suite::kit::settings;

const POLICY: &str = "version: STSv1\r\nmode: enforce\r\nmx: *.theirs.test\r\nmax_age: 86400\r\n";
const PLAIN: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n";

/// How a server ends its response.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Goodbye,
    Cut,
}

/// Answers the request of one client, and returns the request.
fn serve(server: &TlsServer, answer: &str, end: End) -> (SocketAddr, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("bound");
    let (config, answer) = (Arc::clone(server.config()), answer.to_owned());
    let served = thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client connects");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
        let session = ServerConnection::new(config).expect("a session");
        let mut stream = StreamOwned::new(session, stream);
        let mut request = Vec::new();
        let mut room = [0; 4096];
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read(&mut room) {
                Ok(count @ 1..) => request.extend_from_slice(&room[..count]),
                _ => return request,
            }
        }
        // The client closes when it has read enough.
        let _ = stream.write_all(answer.as_bytes());
        if end == End::Goodbye {
            stream.conn.send_close_notify();
        }
        let _ = stream.flush();
        request
    });
    (address, served)
}

fn fetch(client: &TlsClient, at: SocketAddr, more: &[IpAddr]) -> Result<StsPolicy, FetchFault> {
    fetch_from(client, at.port(), more.iter().copied().chain([at.ip()]).collect())
}

fn fetch_from(
    client: &TlsClient,
    port: u16,
    addresses: Vec<IpAddr>,
) -> Result<StsPolicy, FetchFault> {
    let domain = "theirs.test".into();
    let wanted = StsWanted { domain, id: "1".into(), port, addresses: Ok(addresses) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(fetch_policy(client, &wanted))
}

/// The fault without its text from other libraries.
fn kind(fault: FetchFault) -> FetchFault {
    match fault {
        FetchFault::Http(HttpFault::Broken(_)) => broken(),
        fault => fault,
    }
}

fn broken() -> FetchFault {
    FetchFault::Http(HttpFault::Broken("".into()))
}

#[test]
fn a_policy_is_fetched_or_the_cause_is_returned() {
    let authority = Authority::new("Known");
    let folder = Folder::new();
    let client = our_client(&folder, &authority.pem());
    let pair = folder.pair("web", &authority.issue(&["mta-sts.theirs.test"]));
    let server = TlsServer::build(&settings(vec![pair]), NOW_MS).expect("the settings are valid");
    let length = POLICY.len();
    let (half, rest) = POLICY.split_at(20);
    let chunks = format!("14;x=y\r\n{half}\r\n{:x}\r\n{rest}\r\n", rest.len());
    let page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n";
    let status = |fault| Err(FetchFault::Http(fault));
    let long = format!("{PLAIN}\r\n{}", "mx: a.test\r\n".repeat(6000));
    let rows: [(&str, String, End, Result<(), FetchFault>); 15] = [
        ("a length", format!("{PLAIN}Content-Length: {length}\r\n\r\n{POLICY}"), End::Cut, Ok(())),
        ("until the goodbye", format!("{PLAIN}\r\n{POLICY}"), End::Goodbye, Ok(())),
        ("HTTP/1.0", format!("{PLAIN}\r\n{POLICY}").replace("1.1", "1.0"), End::Goodbye, Ok(())),
        (
            "chunks",
            format!("{PLAIN}Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n"),
            End::Cut,
            Ok(()),
        ),
        (
            "a charset",
            format!("HTTP/1.1 200 OK\r\ncontent-type: Text/Plain; charset=utf-8\r\n\r\n{POLICY}"),
            End::Goodbye,
            Ok(()),
        ),
        ("cut before the goodbye", format!("{PLAIN}\r\n{POLICY}"), End::Cut, Err(broken())),
        (
            "cut inside the length",
            format!("{PLAIN}Content-Length: 1000\r\n\r\n{POLICY}"),
            End::Goodbye,
            Err(broken()),
        ),
        (
            "cut inside the chunks",
            format!("{PLAIN}Transfer-Encoding: chunked\r\n\r\n{chunks}"),
            End::Goodbye,
            Err(broken()),
        ),
        (
            "a redirect",
            "HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1/\r\n\r\n".to_owned(),
            End::Goodbye,
            status(HttpFault::Status(302)),
        ),
        (
            "not there",
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
            End::Goodbye,
            status(HttpFault::Status(404)),
        ),
        ("a page", page.to_owned(), End::Goodbye, status(HttpFault::NotPlainText)),
        (
            "no type",
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{POLICY}"),
            End::Goodbye,
            status(HttpFault::NotPlainText),
        ),
        ("a long policy", long, End::Goodbye, status(HttpFault::TooLong)),
        (
            "a long head",
            format!("{PLAIN}X: {}\r\n\r\n{POLICY}", "x".repeat(64 << 10)),
            End::Goodbye,
            Err(broken()),
        ),
        (
            "no policy",
            format!("{PLAIN}Content-Length: 2\r\n\r\nhi"),
            End::Goodbye,
            Err(FetchFault::Policy(StsPolicyFault::BadLine)),
        ),
    ];
    for (case, answer, end, expected) in rows {
        let (address, served) = serve(&server, &answer, end);
        let fetched = fetch(&client, address, &[]);
        let request = served.join().expect("no panics");
        let request = String::from_utf8_lossy(&request).to_ascii_lowercase();
        assert!(request.starts_with("get /.well-known/mta-sts.txt http/1.1\r\n"), "{case}");
        assert!(request.contains("\r\nhost: mta-sts.theirs.test\r\n"), "{case}: {request}");
        if let Ok(policy) = &fetched {
            assert_eq!((policy.mode, policy.max_age_s), (StsMode::Enforce, 86_400), "{case}");
            assert!(policy.matches("mx.theirs.test"), "{case}");
        }
        assert_eq!(fetched.map(drop).map_err(kind), expected, "{case}");
    }
    let (address, served) = serve(&server, "220 mail.theirs.test ESMTP\r\n", End::Goodbye);
    assert_eq!(fetch(&client, address, &[]).map_err(kind), Err(broken()));
    served.join().expect("no panics");
}

#[test]
fn no_request_is_sent_to_a_server_with_another_name() {
    let authority = Authority::new("Known");
    let folder = Folder::new();
    let client = our_client(&folder, &authority.pem());
    let stranger = Authority::new("A stranger");
    let rows = [
        (&authority, "www.theirs.test", CertificateFault::OtherName),
        (&stranger, "mta-sts.theirs.test", CertificateFault::UnknownIssuer),
    ];
    for (issuer, name, expected) in rows {
        let pair = folder.pair(name, &issuer.issue(&[name]));
        let server =
            TlsServer::build(&settings(vec![pair]), NOW_MS).expect("the settings are valid");
        let (address, served) = serve(&server, POLICY, End::Goodbye);
        match fetch(&client, address, &[]) {
            Err(FetchFault::Tls(fault)) => assert_eq!(fault.certificate(), Some(expected)),
            other => panic!("{other:?}"),
        }
        assert_eq!(served.join().expect("no panics"), b"", "{name}");
    }
}

#[test]
fn a_further_address_is_tried_and_a_missing_one_is_reported() {
    let authority = Authority::new("Known");
    let folder = Folder::new();
    let client = our_client(&folder, &authority.pem());
    let pair = folder.pair("web", &authority.issue(&["mta-sts.theirs.test"]));
    let server = TlsServer::build(&settings(vec![pair]), NOW_MS).expect("the settings are valid");
    let answer = format!("{PLAIN}\r\n{POLICY}");
    let (address, served) = serve(&server, &answer, End::Goodbye);
    // No listener at that address and port.
    let dead = IpAddr::V4(Ipv4Addr::new(127, 99, 99, 99));
    assert!(fetch(&client, address, &[dead]).is_ok());
    served.join().expect("no panics");
    // A shard names no address that must not be connected to.
    assert_eq!(fetch_from(&client, address.port(), Vec::new()), Err(FetchFault::NoAddress));
    let refused = fetch(&client, SocketAddr::new(dead, address.port()), &[]);
    assert!(matches!(refused, Err(FetchFault::Connect(_))), "{refused:?}");
}
