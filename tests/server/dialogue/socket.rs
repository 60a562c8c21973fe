//! The real server as a peer: the built binary behind a socket.
//!
//! Dialogues with the same session limits share a server. Each combination of listener settings
//! (protocol, TLS, XCLIENT, line ends, size) is a listener of its own.
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::net::IpAddr;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use ringpost::net::tls_server::provider;
use rustls::ClientConfig;
use rustls::ClientConnection;
use rustls::DigitallySignedStruct;
use rustls::SignatureScheme;
use rustls::StreamOwned;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::danger::ServerCertVerified;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::UnixTime;
use tempfile::TempDir;

use crate::dialogue::Peer;
use crate::dialogue::script::Dialogue;
use crate::dialogue::script::Settings;
use crate::support::Server;
use crate::support::Setup;
use crate::support::control_get;

/// Time limit for a reply. A healthy server answers in milliseconds.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The settings that all listeners of a server share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SessionLimits {
    recipients: u32,
    messages: u32,
    commands: u32,
    errors: u32,
}

/// The settings of one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ListenerSettings {
    lmtp: bool,
    tls: bool,
    starttls: bool,
    tls_required: bool,
    xclient: bool,
    normalise: bool,
    size_max: u64,
}

fn limits_of(settings: &Settings) -> SessionLimits {
    SessionLimits {
        recipients: settings.recipients_max,
        // A higher number could never be reached, and the config refuses it.
        messages: settings.messages_max.min(settings.commands_max),
        commands: settings.commands_max,
        errors: settings.errors_max,
    }
}

fn listener_of(settings: &Settings) -> ListenerSettings {
    ListenerSettings {
        lmtp: settings.lmtp,
        tls: settings.tls,
        starttls: settings.starttls && !settings.tls,
        tls_required: settings.tls_required,
        xclient: settings.xclient,
        normalise: settings.normalise,
        size_max: settings.size_max,
    }
}

struct RunningServer {
    server: Server,
    listeners: Vec<ListenerSettings>,
    _folder: TempDir,
}

/// The servers for a set of dialogues.
pub struct Servers(BTreeMap<SessionLimits, RunningServer>);

impl Servers {
    pub fn build(dialogues: &[&Dialogue]) -> Servers {
        let mut plans: BTreeMap<SessionLimits, Vec<ListenerSettings>> = BTreeMap::new();
        for dialogue in dialogues {
            let listeners = plans.entry(limits_of(&dialogue.settings)).or_default();
            let listener = listener_of(&dialogue.settings);
            if !listeners.contains(&listener) {
                listeners.push(listener);
            }
        }
        let starting: Vec<_> = plans
            .into_iter()
            .map(|(limits, listeners)| {
                std::thread::spawn(move || (limits, RunningServer::start(limits, listeners)))
            })
            .collect();
        Servers(starting.into_iter().map(|one| one.join().expect("the server starts")).collect())
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn connect(&self, settings: &Settings) -> SocketPeer {
        let running = &self.0[&limits_of(settings)];
        let wanted = listener_of(settings);
        let number = running.listeners.iter().position(|listener| *listener == wanted);
        let address =
            running.server.smtp[number.expect("the servers were started for this dialogue")];
        SocketPeer::connect(address, settings.tls, running.server.folder.join("spool/control.sock"))
    }

    /// Errors and panics in the logs, which no client notices.
    pub fn logged_errors(&self) -> String {
        let logs = self.0.values().map(|running| running.server.log_text());
        let lines: Vec<String> = logs
            .flat_map(|log| log.lines().map(str::to_owned).collect::<Vec<_>>())
            .filter(|line| line.contains("panicked") || line.contains("\"level\":\"error\""))
            .collect();
        lines.join("\n")
    }
}

impl RunningServer {
    fn start(limits: SessionLimits, listeners: Vec<ListenerSettings>) -> RunningServer {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let SessionLimits { recipients, messages, commands, errors } = limits;
        let config = format!(
            "[limits]\nrecipients_per_message = {recipients}\nmessages_per_session = {messages}\n\
             commands_per_session = {commands}\nerrors_per_session = {errors}\n\
             [relay]\nnetworks = [\"127.0.0.0/8\", \"192.0.2.0/24\"]\n\
             refuse_recipients = [\"refused.test\"]\n[queue]\nsync = false\npartitions = 1\n"
        );
        let mut tables = String::new();
        for listener in &listeners {
            let tls = match (listener.tls, listener.starttls) {
                (true, _) => "implicit",
                (false, true) => "starttls",
                (false, false) => "none",
            };
            let protocol = if listener.lmtp { "lmtp" } else { "smtp" };
            let required = listener.tls_required;
            let size = listener.size_max;
            write!(
                tables,
                "[[listener]]\naddress = \"127.0.0.1:0\"\nprotocol = \"{protocol}\"\n\
                 tls = \"{tls}\"\ntls_required = {required}\nsize_max = {size}\n"
            )
            .expect("writing to a string");
            if listener.xclient {
                tables.push_str("xclient_from = [\"127.0.0.1\"]\n");
            }
            if listener.normalise {
                tables.push_str("line_ending = \"normalise\"\ntrusted_from = [\"127.0.0.1\"]\n");
            }
        }
        let setup = Setup { config, listeners: Some(tables), ..Setup::default() };
        let server = Server::start(folder.path(), &setup);
        assert_eq!(server.smtp.len(), listeners.len(), "one address for each listener");
        RunningServer { server, listeners, _folder: folder }
    }
}

enum Line {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    Gone,
}

/// One connection to a real server.
pub struct SocketPeer {
    line: Line,
    control: PathBuf,
    input: Vec<u8>,
    kept: Vec<String>,
}

impl SocketPeer {
    fn connect(address: SocketAddr, tls: bool, control: PathBuf) -> SocketPeer {
        let stream = TcpStream::connect(address).expect("the server accepts connections");
        stream.set_nodelay(true).expect("the stream is a TCP socket");
        stream.set_read_timeout(Some(WAIT_MAX)).expect("the timeout is not zero");
        stream.set_write_timeout(Some(WAIT_MAX)).expect("the timeout is not zero");
        let line = Line::Plain(stream);
        let mut peer = SocketPeer { line, control, input: Vec::new(), kept: Vec::new() };
        if tls {
            peer.start_tls();
        }
        peer
    }

    /// Reads more input; `false` when the server has closed the connection.
    fn fill(&mut self) -> Result<bool, String> {
        let mut fresh = [0; 4096];
        let read = match &mut self.line {
            Line::Plain(stream) => stream.read(&mut fresh),
            Line::Tls(stream) => stream.read(&mut fresh),
            Line::Gone => Ok(0),
        };
        match read {
            Ok(count) => {
                self.input.extend_from_slice(&fresh[..count]);
                Ok(count > 0)
            }
            Err(fault) if fault.kind() == ErrorKind::ConnectionReset => Ok(false),
            Err(fault) => Err(fault.to_string()),
        }
    }

    /// The lines of the reply at the front of the input, if it is complete.
    fn take_reply(&mut self) -> Option<String> {
        let mut at = 0;
        loop {
            let length = memchr::memmem::find(&self.input[at..], b"\r\n")?;
            let line = &self.input[at..at + length];
            assert!(line.iter().all(|byte| matches!(byte, b' '..=b'~')), "{line:?} is unclean");
            at += length + 2;
            if line.get(3) == Some(&b' ') {
                let reply: Vec<u8> = self.input.drain(..at).collect();
                return Some(String::from_utf8(reply).expect("the text is ASCII"));
            }
        }
    }

    fn note_kept(&mut self, reply: &str) {
        let id =
            reply.split_once("queued as ").and_then(|(_, rest)| rest.split_whitespace().next());
        if let Some(id) = id
            && !self.kept.iter().any(|known| known == id)
        {
            self.kept.push(id.to_owned());
        }
    }
}

impl Peer for SocketPeer {
    fn send(&mut self, bytes: &[u8]) {
        // A server that has closed already gives the reason in its reply.
        let _ = match &mut self.line {
            Line::Plain(stream) => stream.write_all(bytes),
            Line::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
            Line::Gone => Ok(()),
        };
    }

    fn receive_reply(&mut self) -> Option<String> {
        loop {
            if let Some(reply) = self.take_reply() {
                self.note_kept(&reply);
                return Some(reply);
            }
            if !matches!(self.fill(), Ok(true)) {
                return None;
            }
        }
    }

    fn is_closed(&mut self) -> bool {
        self.input.is_empty() && matches!(self.fill(), Ok(false))
    }

    fn start_tls(&mut self) {
        let Line::Plain(stream) = std::mem::replace(&mut self.line, Line::Gone) else {
            panic!("TLS is already active")
        };
        let name = ServerName::try_from("mx.ringpost.test").expect("the name is valid");
        let session = ClientConnection::new(client_config(), name).expect("the config is valid");
        let mut stream = StreamOwned::new(session, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).expect("the handshake succeeds");
        }
        self.line = Line::Tls(Box::new(stream));
    }

    /// Ends the client's side and returns a reply that still arrives.
    fn finish(&mut self) -> Option<String> {
        let ended = match &mut self.line {
            Line::Plain(stream) => stream.shutdown(Shutdown::Write),
            Line::Tls(stream) => {
                stream.conn.send_close_notify();
                stream.flush().and_then(|()| stream.sock.shutdown(Shutdown::Write))
            }
            Line::Gone => Ok(()),
        };
        // Fails if the server has closed first.
        let _ = ended;
        loop {
            match self.fill() {
                Ok(true) => {}
                Ok(false) => break,
                Err(fault) => return Some(format!("the server keeps the connection: {fault}")),
            }
        }
        let rest = String::from_utf8_lossy(&self.input).into_owned();
        Some(rest).filter(|rest| !rest.is_empty())
    }

    fn kept(&mut self) -> Option<(usize, Vec<u8>)> {
        let body = self.kept.last().map_or_else(Vec::new, |id| stored_body(&self.control, id));
        Some((self.kept.len(), body))
    }

    fn all_kept(&mut self) -> Vec<Vec<u8>> {
        self.kept.iter().map(|id| stored_body(&self.control, id)).collect()
    }

    fn wait_until_read(&mut self) {
        let Line::Plain(stream) = &self.line else { return };
        let (Ok(ours), Ok(theirs)) = (stream.local_addr(), stream.peer_addr()) else { return };
        let end = Instant::now() + WAIT_MAX;
        while !is_all_read(ours, theirs) {
            assert!(Instant::now() < end, "the server does not read its input");
            thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Whether the server has read everything that `client` sent.
fn is_all_read(client: SocketAddr, server: SocketAddr) -> bool {
    let sockets = fs::read_to_string("/proc/net/tcp").expect("/proc/net/tcp is readable");
    let (client, server) = (kernel_address(client), kernel_address(server));
    sockets.lines().all(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (local, remote) = (words.next(), words.next());
        let Some((unsent, unread)) = words.nth(1).and_then(|queues| queues.split_once(':')) else {
            return true;
        };
        let sent = (local, remote) != (Some(&*client), Some(&*server)) || is_zero(unsent);
        let read = (local, remote) != (Some(&*server), Some(&*client)) || is_zero(unread);
        sent && read
    })
}

fn is_zero(hexadecimal: &str) -> bool {
    hexadecimal.bytes().all(|digit| digit == b'0')
}

/// An address in the format of `/proc/net/tcp`.
fn kernel_address(address: SocketAddr) -> String {
    let IpAddr::V4(ip) = address.ip() else { panic!("the tests use IPv4") };
    format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port())
}

/// The body of a message without its Received field, read from the control socket. The socket
/// refuses requests if too many dialogues ask at once, so this retries.
fn stored_body(control: &Path, id: &str) -> Vec<u8> {
    let end = Instant::now() + WAIT_MAX;
    loop {
        if let Some(body) = try_stored_body(control, id) {
            return body;
        }
        assert!(Instant::now() < end, "{id}: the control socket refuses all clients");
        thread::sleep(Duration::from_millis(20));
    }
}

/// `None` if there were too many requests at once.
fn try_stored_body(control: &Path, id: &str) -> Option<Vec<u8>> {
    let (status, mut message) = control_get(control, &format!("/v1/queue/messages/{id}/content"));
    if status == 503 {
        return None;
    }
    assert_eq!(status, 200, "{id}: {}", String::from_utf8_lossy(&message));
    assert!(message.starts_with(b"Received: "), "{id} has no Received field");
    let ends = memchr::memmem::find_iter(&message, b"\r\n").map(|at| at + 2);
    let end = ends.into_iter().find(|end| !matches!(message.get(*end), Some(b' ' | b'\t')));
    Some(message.split_off(end.expect("the Received field ends")))
}

fn client_config() -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()
        .expect("the TLS versions are supported")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAnyCertificate))
        .with_no_client_auth();
    Arc::new(config)
}

/// Accepts self-signed certificates; these tests do not verify identity.
#[derive(Debug)]
struct AcceptAnyCertificate;

impl ServerCertVerifier for AcceptAnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
