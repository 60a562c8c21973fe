//! Smarthosts over real TLS: authentication, and connections that are closed while idle.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use rustls::ServerConfig;
use rustls::ServerConnection;
use rustls::StreamOwned;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use crate::relay::rig::Faults;
use crate::relay::rig::queue_text;
use crate::relay::rig::start_server;
use crate::relay::rig::submit;
use crate::support::PATIENCE;

/// `\0us\0secret` in base64.
const PLAIN: &str = "AUTH PLAIN AHVzAHNlY3JldA==";

const OFFERED: &str = "250-smarthost.test\r\n250 AUTH PLAIN LOGIN";
const PIPED: &str = "250-smarthost.test\r\n250-PIPELINING\r\n250 X-CLOSES";
const CHUNKED: &str = "250-smarthost.test\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 X-CLOSES";

/// The offers of a smarthost, and its replies to AUTH; the last one is repeated.
struct Smarthost {
    address: SocketAddr,
    /// All lines from clients, in all sessions.
    lines: Arc<Mutex<Vec<String>>>,
}

impl Smarthost {
    fn start(
        number: u8,
        offers: &'static [&'static str],
        answers: &'static [&'static str],
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 79, 0, number), 0))
            .expect("loopback has a free port");
        let address = listener.local_addr().expect("the socket is bound");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&lines);
        let config = tls();
        thread::spawn(move || {
            for (count, stream) in listener.incoming().flatten().enumerate() {
                let offer = offers[count.min(offers.len() - 1)];
                let answer = *answers.get(count).or(answers.last()).unwrap_or(&"503 no");
                let (heard, config) = (Arc::clone(&heard), Arc::clone(&config));
                // A session may end with an error; the recorded lines show it.
                thread::spawn(move || serve(stream, config, &heard, (offer, answer)));
            }
        });
        Smarthost { address, lines }
    }

    fn count(&self, start: &str) -> usize {
        let lines = self.lines.lock().expect("no session panics with the lock");
        lines.iter().filter(|line| line.starts_with(start)).count()
    }
}

fn tls() -> Arc<ServerConfig> {
    let own = rcgen::generate_simple_self_signed(vec!["smarthost.test".to_owned()]);
    let own = own.expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(own.signing_key.serialize_pem().as_bytes());
    let config =
        ServerConfig::builder_with_provider(Arc::new(ringpost::net::tls_server::provider()))
            .with_safe_default_protocol_versions()
            .expect("the TLS versions are supported")
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key.expect("a key"));
    Arc::new(config.expect("the key belongs to the certificate"))
}

fn serve(
    mut stream: TcpStream,
    config: Arc<ServerConfig>,
    heard: &Mutex<Vec<String>>,
    (offer, answer): (&str, &str),
) -> std::io::Result<()> {
    stream.write_all(b"220 smarthost.test\r\n")?;
    let mut one = [0; 1];
    let mut clear = Vec::new();
    // Byte by byte, because the bytes after STARTTLS belong to TLS.
    while !clear.ends_with(b"STARTTLS\r\n") {
        stream.read_exact(&mut one)?;
        clear.push(one[0]);
        if clear.ends_with(b"\r\n") && clear.starts_with(b"EHLO") {
            clear.clear();
            stream.write_all(b"250-smarthost.test\r\n250-AUTH PLAIN\r\n250 STARTTLS\r\n")?;
        }
    }
    stream.write_all(b"220 go\r\n")?;
    let session = ServerConnection::new(config).expect("the config is valid");
    let mut stream = BufReader::new(StreamOwned::new(session, stream));
    let mut in_body = false;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let line = line.trim_end();
        heard.lock().expect("no session panics with the lock").push(line.to_owned());
        let reply = match line {
            "." => "250 kept",
            _ if in_body => continue,
            "DATA" => "354 go",
            "QUIT" => "221 bye",
            _ if line.starts_with("BDAT") => {
                let size = line.split(' ').nth(1).and_then(|size| size.parse().ok());
                stream.read_exact(&mut vec![0; size.expect("a size")])?;
                heard.lock().expect("no session panics with the lock").push(".".to_owned());
                "250 kept"
            }
            _ if line.starts_with("EHLO") => offer,
            _ if line.starts_with("AUTH") => answer,
            _ => "250 ok",
        };
        in_body = line == "DATA";
        stream.get_mut().write_all(format!("{reply}\r\n").as_bytes())?;
        if reply == "250 kept" && offer.contains("X-CLOSES") {
            stream.get_mut().conn.send_close_notify();
            return stream.get_mut().flush();
        }
    }
}

#[test]
fn mail_waits_until_the_smarthost_accepts_the_login() {
    let plain = Smarthost::start(1, &[OFFERED], &["235 welcome"]);
    let refusing = Smarthost::start(2, &[OFFERED], &["535 5.7.8 who?", "454 later", "235 welcome"]);
    let shy = Smarthost::start(3, &["250 smarthost.test", OFFERED], &["235 welcome"]);
    let hosts = [("plain", &plain), ("refusing", &refusing), ("shy", &shy)];
    let folder = tempfile::tempdir().expect("a temporary folder");
    let password = folder.path().join("password");
    std::fs::write(&password, "secret\n").expect("the folder is writable");
    let routes: String = hosts
        .iter()
        .map(|(name, host)| {
            let domain = format!("recipient_domain = ['{name}.test']");
            let next = format!("next = 'smtp:{}'\ntls = 'must'", host.address);
            let auth = format!("auth_user = 'us'\nauth_password_file = {password:?}");
            format!("[[route]]\n{domain}\n{next}\n{auth}\n")
        })
        .collect();
    let (server, _server_folder) = start_server(&routes);
    let mut client = server.connect();
    client.greet().expect("a healthy server greets");
    for (name, _) in hosts {
        submit(&mut client, name, &[format!("x@{name}.test")], b"Subject: x\r\n\r\nx\r\n");
    }
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end && !queue_text(&server).is_empty() {
        thread::sleep(Duration::from_millis(100));
    }
    let mut faults = Faults::default();
    for ((name, host), tries) in hosts.into_iter().zip([1, 3, 1]) {
        let counts = (host.count("MAIL"), host.count("."), host.count(PLAIN));
        faults.check(counts == (1, 1, tries), name, || format!("MAIL, end, AUTH: {counts:?}"));
    }
    let left = queue_text(&server);
    faults.check(left.is_empty(), "queue", || left.clone());
    faults
        .check(!server.log_text().contains("secret"), "log", || "it contains the password".into());
    faults.none_or_panic(&server);
}

#[test]
fn a_closed_idle_tls_connection_costs_no_attempt() {
    let piped = Smarthost::start(4, &[PIPED], &[]);
    let chunked = Smarthost::start(5, &[CHUNKED], &[]);
    let hosts = [("piped", &piped), ("chunked", &chunked)];
    let route = |(name, host): &(&str, &Smarthost)| {
        let next = format!("next = 'smtp:{}'\ntls = 'must'", host.address);
        format!("[[route]]\nrecipient_domain = ['{name}.test']\n{next}\n")
    };
    let (server, _folder) = start_server(&hosts.iter().map(route).collect::<String>());
    let mut client = server.connect();
    client.greet().expect("a healthy server greets");
    for round in 0..3 {
        for (name, _) in hosts {
            let id = format!("{name}-{round}");
            submit(&mut client, &id, &[format!("x@{name}.test")], b"Subject: x\r\n\r\nx\r\n");
        }
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end && !queue_text(&server).is_empty() {
            thread::sleep(Duration::from_millis(20));
        }
    }
    let mut faults = Faults::default();
    let log = server.log_text();
    for (name, host) in hosts {
        let kept = host.count(".");
        faults.check(kept == 3, name, || format!("{kept} arrived"));
        let deferred = log.lines().filter(|line| {
            line.contains(&host.address.to_string()) && line.contains("\"deferred\"")
        });
        let deferred: Vec<&str> = deferred.collect();
        faults.check(deferred.is_empty(), name, || format!("{deferred:?}"));
    }
    faults.none_or_panic(&server);
}
