//! A certificate authority, its certificates, and a client, all in memory.

use std::fs;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::CertifiedIssuer;
use rcgen::DnType;
use rcgen::IsCa;
use rcgen::KeyPair;
use rcgen::SignatureAlgorithm;
use ringpost::net::ClientCertificates;
use ringpost::net::TlsClient;
use ringpost::net::TlsClientSettings;
use ringpost::net::TlsFault;
use ringpost::net::TlsServer;
use ringpost::net::TlsSession;
use ringpost::net::TlsSettings;
use ringpost::net::TlsVersion;
use ringpost::net::tls_server::provider;
use rustls::ClientConfig;
use rustls::ClientConnection;
use rustls::RootCertStore;
use rustls::SupportedProtocolVersion;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;

/// 2027-01-01, so that tests do not depend on the current date. The certificates are valid at this
/// time and today.
pub const NOW_MS: u64 = 1_798_761_600_000;

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(vec![]).expect("an empty list of names is valid");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        Authority(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// The PEM texts of a certificate for `names` and of its key.
    pub fn issue(&self, names: &[&str]) -> (String, String) {
        self.issue_as(names, &rcgen::PKCS_ECDSA_P256_SHA256, |_| {})
    }

    pub fn issue_as(
        &self,
        names: &[&str],
        algorithm: &'static SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        let mut params = CertificateParams::new(names).expect("the names are valid");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "the subject");
        change(&mut params);
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let certificate = params.signed_by(&key, &*self.0).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }
}

/// The files of one test.
pub struct Folder(pub TempDir);

impl Folder {
    pub fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a temporary folder"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, text).expect("the file is written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("the mode is set");
        path
    }

    /// Writes the PEM texts of a certificate and a key under `name`.
    pub fn pair(&self, name: &str, (certificate, key): &(String, String)) -> (PathBuf, PathBuf) {
        (self.write(&format!("{name}.crt"), certificate), self.write(&format!("{name}.key"), key))
    }
}

pub fn settings(certificates: Vec<(PathBuf, PathBuf)>) -> TlsSettings {
    TlsSettings {
        certificates,
        min_version: TlsVersion::Tls12,
        tickets: true,
        client_certificates: ClientCertificates::None,
        client_ca: None,
    }
}

/// A server for `mail.ours.test`, and the authority that issued its certificate.
pub struct Ours {
    pub server: Arc<TlsServer>,
    pub authority: Authority,
    pub folder: Folder,
}

impl Ours {
    pub fn new() -> Ours {
        Ours::with(|_, _| {})
    }

    pub fn with(change: impl FnOnce(&mut TlsSettings, &Folder)) -> Ours {
        let authority = Authority::new("Authority of ours");
        let folder = Folder::new();
        let pair = folder.pair("mail", &authority.issue(&["mail.ours.test"]));
        let mut settings = settings(vec![pair]);
        change(&mut settings, &folder);
        let server = TlsServer::build(&settings, NOW_MS).expect("the settings are valid");
        Ours { server, authority, folder }
    }

    pub fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConnection {
        connect(Arc::new(client_config(&self.authority, versions, None)), "mail.ours.test")
    }
}

pub fn client_config(
    trusted: &Authority,
    versions: &[&'static SupportedProtocolVersion],
    identity: Option<(String, String)>,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(certificate_of(&trusted.pem())).expect("a root");
    let builder = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(versions)
        .expect("the versions are supported")
        .with_root_certificates(roots);
    match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
            builder.with_client_auth_cert(vec![certificate_of(&certificate)], key).expect("a pair")
        }
    }
}

pub fn certificate_of(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
}

pub fn connect(config: Arc<ClientConfig>, name: &str) -> ClientConnection {
    let name = ServerName::try_from(name.to_owned()).expect("a server name");
    ClientConnection::new(config, name).expect("a client")
}

/// The bytes that the client has to send now.
pub fn spoken(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).expect("a Vec takes every write");
    }
    bytes
}

/// Passes `bytes` to the client and processes them.
pub fn hear(client: &mut ClientConnection, mut bytes: &[u8]) -> Result<(), rustls::Error> {
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).expect("a slice is readable");
        client.process_new_packets()?;
    }
    Ok(())
}

pub fn heard(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    match client.reader().read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
    }
    bytes
}

pub fn tell(client: &mut ClientConnection, mut words: &[u8]) {
    while !words.is_empty() {
        let count = client.writer().write(words).expect("the client accepts bytes");
        assert!(count > 0, "the client's buffer is full");
        words = &words[count..];
    }
}

/// Feeds `bytes` in pieces with `room` bytes of room per call; returns the plaintext.
pub fn feed(
    session: &mut TlsSession,
    bytes: &[u8],
    (piece, room): (usize, usize),
    out: &mut Vec<u8>,
) -> Result<Vec<u8>, TlsFault> {
    let mut plaintext = Vec::new();
    let mut space = vec![0; room];
    for piece in bytes.chunks(piece) {
        let mut piece = piece.to_vec();
        let mut at = 0;
        loop {
            let absorbed = session.absorb(&mut piece[at..], &mut space, out)?;
            plaintext.extend_from_slice(&space[..absorbed.produced]);
            at += absorbed.consumed;
            if at == piece.len() && absorbed.produced < space.len() {
                break;
            }
        }
    }
    Ok(plaintext)
}

/// Exchanges bytes until both sides have keys.
pub fn handshake(
    session: &mut TlsSession,
    client: &mut ClientConnection,
    piece: usize,
) -> Result<(), TlsFault> {
    for _ in 0..10 {
        let mut out = Vec::new();
        let said = spoken(client);
        let result = feed(session, &said, (piece, 64 << 10), &mut out);
        // A failed client sends an alert next, which the session reads in this loop.
        let _ = hear(client, &out);
        assert_eq!(result?, b"", "no application data yet");
        if !session.is_handshaking() && !client.is_handshaking() && !client.wants_write() {
            return Ok(());
        }
    }
    panic!("the handshake does not end");
}

/// A client that trusts the certificates in `pem`.
pub fn our_client(folder: &Folder, pem: &str) -> Arc<TlsClient> {
    let roots = Some(folder.write("roots.pem", pem));
    let settings = TlsClientSettings { roots, ..TlsClientSettings::default() };
    TlsClient::build(&settings).expect("the roots are valid")
}

/// Exchanges bytes between a client and a server session until neither has more to send. Returns
/// the client's fault, or the server's if the client has none.
pub fn talk(
    client: &mut TlsSession,
    server: &mut TlsSession,
    piece: usize,
) -> Result<(), TlsFault> {
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    client.absorb(&mut [], &mut [], &mut to_server)?;
    let mut refused = Ok(());
    while !to_server.is_empty() {
        let heard = feed(server, &to_server, (piece, 64 << 10), &mut to_client);
        if let Err(fault) = heard {
            refused = Err(fault);
        }
        to_server.clear();
        let answered = feed(client, &to_client, (piece, 64 << 10), &mut to_server);
        to_client.clear();
        if let Err(fault) = answered {
            // The alert informs the server.
            let _ = feed(server, &to_server, (piece, 64 << 10), &mut to_client);
            return Err(fault);
        }
    }
    refused
}
