//! A scripted name server, mail servers that record commands, and a Ringpost between them.

use std::collections::HashMap;
use std::collections::HashSet;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use hickory_proto::op::Message;
use hickory_proto::op::MessageType;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
use hickory_proto::rr::RData;
use hickory_proto::rr::Record;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::rdata::MX;
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::rdata::TLSA;
use hickory_proto::rr::rdata::TXT;
use ringpost::net::tls_server::provider;
use rustls::ServerConfig;
use rustls::ServerConnection;
use rustls::StreamOwned;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;

use crate::relay_tls::certificates::Authority;
use crate::relay_tls::certificates::Folder;
use crate::relay_tls::certificates::certificate_of;
use crate::relay_tls::certificates::client_config;
use crate::relay_tls::certificates::connect;
use crate::support::ALLOW_LOOPBACK;
use crate::support::PATIENCE;
use crate::support::Server;
use crate::support::Setup;
use crate::support::stuffed;

/// The records of a name server.
#[derive(Default)]
pub struct Zone {
    records: HashMap<(String, RecordType), Vec<RData>>,
    /// Names whose validation fails.
    bogus: HashSet<String>,
    /// Names without a signature.
    unsigned: HashSet<String>,
}

impl Zone {
    fn add(mut self, owner: &str, kind: RecordType, data: RData) -> Zone {
        self.records.entry((owner.to_owned(), kind)).or_default().push(data);
        self
    }

    pub fn host(self, owner: &str, address: SocketAddr) -> Zone {
        let IpAddr::V4(address) = address.ip() else { panic!("an IPv4 address") };
        self.add(owner, RecordType::A, RData::A(A(address)))
    }

    pub fn mx(self, owner: &str, host: &str) -> Zone {
        self.add(owner, RecordType::MX, RData::MX(MX::new(10, name(host))))
    }

    pub fn tlsa(self, (host, port): (&str, u16), certificate: &str) -> Zone {
        let certificate = certificate_of(certificate);
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &certificate);
        let tlsa = TLSA::new(3.into(), 0.into(), 1.into(), digest.as_ref().to_vec());
        self.add(&format!("_{port}._tcp.{host}"), RecordType::TLSA, RData::TLSA(tlsa))
    }

    pub fn txt(self, owner: &str, text: &str) -> Zone {
        self.add(owner, RecordType::TXT, RData::TXT(TXT::new(vec![text.to_owned()])))
    }

    pub fn bogus(mut self, owner: &str) -> Zone {
        self.bogus.insert(owner.to_owned());
        self
    }

    pub fn unsigned(mut self, owner: &str) -> Zone {
        self.unsigned.insert(owner.to_owned());
        self
    }

    /// Serves the records until the test process ends. Answers have AD unless they are `unsigned`.
    pub fn serve(self) -> SocketAddr {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("bound");
        let address = udp.local_addr().expect("bound");
        thread::spawn(move || {
            let mut room = [0; 4096];
            loop {
                let Ok((bytes, from)) = udp.recv_from(&mut room) else { continue };
                let query =
                    Message::from_vec(&room[..bytes]).expect("the resolver sends valid questions");
                let reply = self.reply(&query).to_vec().expect("encoded");
                // The client may have gone.
                let _ = udp.send_to(&reply, from);
            }
        });
        address
    }

    fn reply(&self, query: &Message) -> Message {
        let question = &query.queries[0];
        let owner = question.name.to_ascii().to_lowercase();
        let owner = owner.trim_end_matches('.');
        let found = self.records.get(&(owner.to_owned(), question.query_type));
        let known = self.records.keys().any(|(name, _)| name == owner);
        let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
        reply.metadata.message_type = MessageType::Response;
        reply.metadata.recursion_desired = true;
        reply.metadata.recursion_available = true;
        reply.metadata.authentic_data = !self.unsigned.contains(owner);
        reply.queries = query.queries.clone();
        match found {
            _ if self.bogus.contains(owner) => {
                reply.metadata.response_code = ResponseCode::ServFail;
                reply.metadata.authentic_data = false;
            }
            Some(found) => {
                let record = |data: &RData| Record::from_rdata(name(owner), 60, data.clone());
                reply.answers = found.iter().map(record).collect();
            }
            None => {
                if !known {
                    reply.metadata.response_code = ResponseCode::NXDomain;
                }
                let soa = SOA::new(name("ns.test"), name("root.test"), 1, 3600, 600, 86_400, 30);
                reply.authorities.push(Record::from_rdata(name("test"), 60, RData::SOA(soa)));
            }
        }
        reply
    }
}

fn name(text: &str) -> Name {
    Name::from_ascii(format!("{text}.")).expect("a name")
}

/// The TLS of a mail server.
#[derive(Clone)]
pub enum Tls {
    /// Not offered.
    None,
    /// Offered, but the handshake fails.
    Broken,
    With(Arc<ServerConfig>),
    /// From the first byte on.
    Implicit(Arc<ServerConfig>),
}

impl Tls {
    pub fn with(pair: &(String, String)) -> Tls {
        Tls::With(server_config(pair))
    }
}

fn server_config((certificate, key): &(String, String)) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate_of(certificate)], key);
    Arc::new(config.expect("a pair"))
}

/// A mail server that accepts everything and records each command, prefixed with `tls` or `clear`.
/// It ends with the test process.
pub struct Sink {
    pub address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone)]
struct Post {
    tls: Tls,
    requiretls: bool,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Sink {
    pub fn start(tls: Tls) -> Sink {
        Sink::at(("127.0.0.1", 0), tls, false)
    }

    /// Implicit TLS only, with AUTH.
    pub fn implicit(pair: &(String, String)) -> Sink {
        Sink::at(("127.0.0.1", 0), Tls::Implicit(server_config(pair)), false)
    }

    pub fn with_requiretls(tls: Tls) -> Sink {
        Sink::at(("127.0.0.1", 0), tls, true)
    }

    /// On port 25, at an address of its own.
    pub fn on_port_25(address: Ipv4Addr, tls: Tls) -> Sink {
        Sink::at((&address.to_string(), 25), tls, false)
    }

    fn at(address: (&str, u16), tls: Tls, requiretls: bool) -> Sink {
        let listener = TcpListener::bind(address).expect("bound");
        let address = listener.local_addr().expect("bound");
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let post = Post { tls, requiretls, heard: Arc::clone(&heard) };
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, post) = (stream.expect("accepted"), post.clone());
                // The client may close in the middle.
                thread::spawn(move || post.receive(stream).unwrap_or(()));
            }
        });
        Sink { address, heard }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn heard(&self, words: &str) -> usize {
        let heard = self.heard.lock().expect("no panics");
        heard.iter().filter(|line| line.starts_with(words)).count()
    }
}

impl Post {
    fn receive(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        if let Tls::Implicit(config) = &self.tls {
            let session = ServerConnection::new(Arc::clone(config)).expect("a session");
            let mut stream = StreamOwned::new(session, stream);
            stream.write_all(b"220 sink.test\r\n")?;
            return self.converse(&mut BufReader::new(stream), "tls").map(drop);
        }
        stream.write_all(b"220 sink.test\r\n")?;
        let mut reader = BufReader::new(stream);
        if !self.converse(&mut reader, "clear")? {
            return Ok(());
        }
        match &self.tls {
            Tls::With(config) => {
                let session = ServerConnection::new(Arc::clone(config)).expect("a session");
                let stream = StreamOwned::new(session, reader.into_inner());
                self.converse(&mut BufReader::new(stream), "tls").map(drop)
            }
            _ => {
                // The client speaks first in a handshake.
                let _ = reader.get_mut().read(&mut [0; 1])?;
                reader.get_mut().write_all(b"this is no TLS at all\r\n")
            }
        }
    }

    /// Serves one session; `true` if it ends with STARTTLS.
    fn converse<S: Read + Write>(
        &self,
        reader: &mut BufReader<S>,
        way: &str,
    ) -> std::io::Result<bool> {
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(false);
            }
            let line = line.trim_end();
            self.heard.lock().expect("no panics").push(format!("{way} {line}"));
            let verb = line.split([' ', ':']).next().unwrap_or_default();
            let reply = match verb {
                "EHLO" => {
                    let tls = way == "clear" && !matches!(self.tls, Tls::None);
                    let tls = if tls { "250-STARTTLS\r\n" } else { "" };
                    let required = self.requiretls && way == "tls";
                    let required = if required { "250-REQUIRETLS\r\n" } else { "" };
                    let auth = matches!(self.tls, Tls::Implicit(_));
                    let auth = if auth { "250-AUTH PLAIN\r\n" } else { "" };
                    format!("250-sink.test\r\n{tls}{required}{auth}250 8BITMIME\r\n")
                }
                "AUTH" => "235 welcome\r\n".to_owned(),
                "STARTTLS" => "220 go\r\n".to_owned(),
                "DATA" => {
                    reader.get_mut().write_all(b"354 go\r\n")?;
                    while line_of(reader)? != ".\r\n" {}
                    "250 taken\r\n".to_owned()
                }
                "QUIT" => "221 bye\r\n".to_owned(),
                _ => "250 yes\r\n".to_owned(),
            };
            reader.get_mut().write_all(reply.as_bytes())?;
            reader.get_mut().flush()?;
            match verb {
                "STARTTLS" => return Ok(true),
                "QUIT" => return Ok(false),
                _ => {}
            }
        }
    }
}

fn line_of<S: Read>(reader: &mut BufReader<S>) -> std::io::Result<String> {
    let mut line = String::new();
    match reader.read_line(&mut line)? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line),
    }
}

/// A web server with one page, under TLS. It ends with the test process.
pub struct Web {
    pub address: SocketAddr,
    fetches: Arc<AtomicUsize>,
    is_down: Arc<AtomicBool>,
}

impl Web {
    pub fn serve(address: (Ipv4Addr, u16), pair: &(String, String), policy: &str) -> Web {
        Web::serve_after(Duration::ZERO, address, pair, policy)
    }

    /// As `serve`, with a pause before the response. It serves one client at a time.
    pub fn serve_after(
        pause: Duration,
        address: (Ipv4Addr, u16),
        pair: &(String, String),
        policy: &str,
    ) -> Web {
        let config = server_config(pair);
        let listener = TcpListener::bind(address).expect("bound");
        let address = listener.local_addr().expect("bound");
        let length = policy.len();
        let said = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n\
             {policy}"
        );
        let web = Web { address, fetches: Arc::default(), is_down: Arc::default() };
        let (fetches, is_down) = (Arc::clone(&web.fetches), Arc::clone(&web.is_down));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.expect("accepted");
                if is_down.load(Ordering::Acquire) {
                    continue;
                }
                let session = ServerConnection::new(Arc::clone(&config)).expect("a session");
                let mut stream = StreamOwned::new(session, stream);
                let mut room = [0; 4096];
                // The client may refuse the certificate.
                if stream.read(&mut room).is_ok() {
                    thread::sleep(pause);
                    let _ = stream.write_all(said.as_bytes()).and_then(|()| stream.flush());
                    fetches.fetch_add(1, Ordering::AcqRel);
                }
            }
        });
        web
    }

    pub fn fetches(&self) -> usize {
        self.fetches.load(Ordering::Acquire)
    }

    /// Closes all further connections at once.
    pub fn go_down(&self) {
        self.is_down.store(true, Ordering::Release);
    }
}

/// A Ringpost that trusts `authority` and uses that name server.
pub struct Relay {
    pub server: Server,
    authority: Authority,
    setup: Setup,
    folder: Folder,
}

impl Relay {
    pub fn start(authority: Authority, zone: Zone, config: &str) -> Relay {
        Relay::start_with(authority, zone, "", config)
    }

    pub fn start_with(authority: Authority, zone: Zone, delivery: &str, config: &str) -> Relay {
        // One shard, because each has a memory of its own.
        let setup = Setup { server: "cores = \"0\"\n".to_owned(), ..Setup::default() };
        Relay::start_as(authority, zone, (delivery, config), setup)
    }

    pub fn start_as(
        authority: Authority,
        zone: Zone,
        (delivery, config): (&str, &str),
        setup: Setup,
    ) -> Relay {
        let folder = Folder::new();
        let roots = folder.write("roots.pem", &authority.pem());
        let (certificate, key) = folder.pair("relay", &authority.issue(&["mx.ringpost.test"]));
        let servers = zone.serve();
        let config = format!(
            "[delivery]\n{ALLOW_LOOPBACK}\ntls_roots = {roots:?}\nretry_schedule = [\"1h\"]\n{delivery}\n\
             [resolver]\nservers = [\"{servers}\"]\ntrust_ad = true\n\
             [destination_defaults]\nfailures_to_back_off = 1\nmessages_per_connection = 1\n\
             [[tls.certificate]]\ncertificate = {certificate:?}\nkey = {key:?}\n{config}"
        );
        let setup = Setup { config, ..setup };
        let server = Server::start(folder.path(), &setup);
        Relay { server, authority, setup, folder }
    }

    /// Restarts the server with the same config and spool.
    pub fn restart(&mut self) {
        self.server.signal("TERM");
        assert!(self.server.wait(PATIENCE).success());
        self.server = Server::start(self.folder.path(), &self.setup);
    }

    /// Waits until the spool contains such a file.
    pub fn wait_for_file(&self, name: &str) {
        let path = self.folder.path().join("spool").join(name);
        let end = Instant::now() + PATIENCE;
        while !path.exists() {
            assert!(Instant::now() < end, "no {}", path.display());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a mail to this address, and returns the log record of its first attempt.
    pub fn send(&self, to: &str) -> Value {
        self.submit(to);
        self.attempt(to)
    }

    pub fn submit(&self, to: &str) {
        let mut client = self.server.connect();
        client.greet().expect("greeted");
        let reply = client.submit("", to, b"Subject: x\r\n\r\nx\r\n").expect("answered");
        assert_eq!(reply.code, 250, "{}", reply.text);
    }

    /// As `send`, with REQUIRETLS.
    pub fn send_requiring_tls(&self, to: &str) -> Value {
        let mut plain = self.server.connect();
        plain.greet().expect("greeted");
        plain.expect("STARTTLS", 220);
        let config = client_config(&self.authority, rustls::ALL_VERSIONS, None);
        let session = connect(Arc::new(config), "mx.ringpost.test");
        let mut reader = BufReader::new(StreamOwned::new(session, plain.stream));
        let mut ask = |words: &[u8], code: &str| {
            reader.get_mut().write_all(words).expect("written");
            reader.get_mut().flush().expect("written");
            loop {
                let line = line_of(&mut reader).expect("an answer");
                assert!(line.starts_with(code), "{line}");
                if line.as_bytes()[3] == b' ' {
                    break;
                }
            }
        };
        ask(b"EHLO client.test\r\n", "250");
        ask(b"MAIL FROM:<> REQUIRETLS\r\n", "250");
        ask(format!("RCPT TO:<{to}>\r\n").as_bytes(), "250");
        ask(b"DATA\r\n", "354");
        ask(&stuffed(b"Subject: x\r\n\r\nx\r\n"), "250");
        self.attempt(to)
    }

    /// The log record of the first attempt.
    pub fn attempt(&self, to: &str) -> Value {
        let end = Instant::now() + PATIENCE;
        let wanted = format!("\"to\":\"{to}\"");
        loop {
            let log = self.server.log.lock().expect("no reader panics").clone();
            let is_it =
                |line: &&String| line.contains("\"record\":\"attempt\"") && line.contains(&wanted);
            if let Some(line) = log.iter().find(is_it) {
                return serde_json::from_str(line).expect("JSON");
            }
            assert!(Instant::now() < end, "no attempt for {to}:\n{}", self.server.log_brief());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Outcome, verdict and policy of an attempt, in one line.
pub fn facts(attempt: &Value) -> String {
    let part = |key: &str| attempt[key].as_str().unwrap_or("-").to_owned();
    format!("{} | {} | {}", part("outcome"), part("verdict"), part("tls_policy"))
}

/// Checks that the mail was deferred for this reason.
pub fn assert_waits(attempt: &Value, reason: &str) {
    let reply = attempt["reply"].as_str().unwrap_or_default();
    assert_eq!(attempt["outcome"], "deferred", "{attempt}");
    assert!(reply.contains(reason), "no `{reason}` in `{reply}`");
}
