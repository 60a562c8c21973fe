//! TLS of a listener, built from its settings as one immutable snapshot.
//!
//! Owner:    shared by all shards as `Arc<TlsServer>`. A reload builds a new snapshot, and each shard
//!           swaps its `Arc`; running handshakes finish with the old one.
//! Promise:  every certificate of a snapshot is usable. All faults of the settings are reported at
//!           once, and a failed build changes nothing.
//! Choice:   by SNI: the exact name, then a wildcard for the first label, then the first certificate
//!           of the settings. Of several for one name (RSA and ECDSA), the first that the client
//!           supports. If the client supports none, the handshake ends with `handshake_failure`.
//! Locks:    rustls guards the ticket key and the session cache with locks that are held for a copy,
//!           once per handshake; the data path takes neither.
//! Resuming: each build creates new ticket keys, so that a session from before a change of the client
//!           certificate settings cannot be resumed after it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::SignatureScheme;
use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::server::ClientHello;
use rustls::server::ResolvesServerCert;
use rustls::server::ServerSessionMemoryCache;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::version::TLS12;
use rustls::version::TLS13;

use crate::net::certificate;
use crate::net::certificate::CertificateFacts;
use crate::net::certificate::Loaded;
use crate::net::certificate::Notes;
use crate::net::certificate::TlsCause;
use crate::net::certificate::TlsProblem;
use crate::net::certificate::TlsProblems;
use crate::net::client_certificate::AskOnly;
use crate::wire::tls::ClientCertificates;
use crate::wire::tls::TlsVersion;

/// Cached sessions for resumption without tickets. Full: the oldest is dropped, and its peer makes a
/// full handshake.
pub const SESSIONS_KEPT_MAX: usize = 4096;

/// Tickets sent after a TLS 1.3 handshake. Mail clients keep one per destination.
const TICKETS_PER_HANDSHAKE: usize = 1;

/// The TLS settings of one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// Certificate chain and key; the first pair is the default for unknown names.
    pub certificates: Vec<(PathBuf, PathBuf)>,
    pub min_version: TlsVersion,
    /// Resumption with tickets. Otherwise sessions are resumed from memory.
    pub tickets: bool,
    pub client_certificates: ClientCertificates,
    pub client_ca: Option<PathBuf>,
}

/// One listener's TLS, ready for connections.
#[derive(Debug)]
pub struct TlsServer {
    config: Arc<ServerConfig>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    certificates: Vec<CertificateFacts>,
    warnings: Vec<TlsProblem>,
}

impl TlsServer {
    /// Reads every file of the settings. Returns all faults, if any.
    pub fn build(settings: &TlsSettings, now_ms: u64) -> Result<Arc<TlsServer>, TlsProblems> {
        let provider = Arc::new(provider());
        let mut notes = Notes::default();
        let loaded = load_all(settings, &provider, now_ms, &mut notes);
        let verifier = verifier(settings, &provider, &mut notes);
        if !notes.faults.is_empty() {
            return Err(TlsProblems(notes.faults));
        }
        let certificates: Vec<_> = loaded.iter().map(|loaded| loaded.facts.clone()).collect();
        let resolver = Arc::new(ByName::new(loaded));
        let config = config(settings, provider, verifier.clone(), resolver)
            .map_err(|error| problem(TlsCause::Refused(error)))?;
        let warnings = notes.warnings;
        Ok(Arc::new(TlsServer { config: Arc::new(config), verifier, certificates, warnings }))
    }

    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// Verifies client certificates; `None` if none are requested.
    pub fn verifier(&self) -> Option<&Arc<dyn ClientCertVerifier>> {
        self.verifier.as_ref()
    }

    /// In the order of the settings.
    pub fn certificates(&self) -> &[CertificateFacts] {
        &self.certificates
    }

    /// Problems that do not prevent the use of TLS.
    pub fn warnings(&self) -> &[TlsProblem] {
        &self.warnings
    }
}

/// The cryptography provider, passed to every builder; no global default is set.
pub fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

fn load_all(
    settings: &TlsSettings,
    provider: &CryptoProvider,
    now_ms: u64,
    notes: &mut Notes,
) -> Vec<Loaded> {
    if settings.certificates.is_empty() {
        notes.note(Path::new(""), TlsCause::NoCertificateConfigured);
    }
    let pairs = settings.certificates.iter();
    pairs
        .filter_map(|(chain, key)| certificate::load(chain, key, provider, now_ms, notes))
        .collect()
}

/// The verifier of client certificates if the settings request them.
fn verifier(
    settings: &TlsSettings,
    provider: &Arc<CryptoProvider>,
    notes: &mut Notes,
) -> Option<Arc<dyn ClientCertVerifier>> {
    let requested = settings.client_certificates != ClientCertificates::None;
    match &settings.client_ca {
        None if requested => notes.note(Path::new(""), TlsCause::NoClientCa),
        Some(path) if !requested => notes.note(path, TlsCause::UnusedClientCa),
        None => {}
        Some(path) => match authorities(path, provider) {
            Ok(verifier) => return Some(verifier),
            Err(cause) => notes.note(path, cause),
        },
    }
    None
}

fn authorities(
    path: &Path,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsCause> {
    let mut roots = RootCertStore::empty();
    for authority in certificate::read_certificates(path)? {
        roots.add(authority).map_err(|_| TlsCause::BadClientCa)?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|_| TlsCause::BadClientCa)
}

fn config(
    settings: &TlsSettings,
    provider: Arc<CryptoProvider>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    resolver: Arc<ByName>,
) -> Result<ServerConfig, rustls::Error> {
    let versions: &[&SupportedProtocolVersion] = match settings.min_version {
        TlsVersion::Tls12 => &[&TLS13, &TLS12],
        TlsVersion::Tls13 => &[&TLS13],
    };
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions)?;
    let builder = match (settings.client_certificates, verifier) {
        (ClientCertificates::Required, Some(verifier)) => {
            builder.with_client_cert_verifier(verifier)
        }
        (ClientCertificates::Optional, Some(verifier)) => {
            builder.with_client_cert_verifier(Arc::new(AskOnly(verifier)))
        }
        (ClientCertificates::None, _) => builder.with_no_client_auth(),
        (_, None) => return Err(rustls::Error::General("client_ca was not read".to_owned())),
    };
    let mut config = builder.with_cert_resolver(resolver);
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS_KEPT_MAX);
    config.send_tls13_tickets = TICKETS_PER_HANDSHAKE;
    // A replayed first flight would be a replayed message (RFC 8446 s8).
    config.max_early_data_size = 0;
    if settings.tickets {
        config.ticketer = aws_lc_rs::Ticketer::new()?;
    }
    Ok(config)
}

fn problem(cause: TlsCause) -> TlsProblems {
    TlsProblems(vec![TlsProblem { file: PathBuf::new(), cause }])
}

/// Chooses the certificate for a client.
#[derive(Debug)]
struct ByName {
    all: Vec<Arc<CertifiedKey>>,
    /// Indexes of `all`. A wildcard keeps its leading `*.`.
    names: HashMap<Box<str>, Vec<usize>>,
}

impl ByName {
    fn new(loaded: Vec<Loaded>) -> ByName {
        let mut by_name = ByName { all: Vec::new(), names: HashMap::new() };
        for (place, loaded) in loaded.into_iter().enumerate() {
            for name in loaded.facts.names {
                by_name.names.entry(name).or_default().push(place);
            }
            by_name.all.push(Arc::new(loaded.key));
        }
        by_name
    }

    /// If the client supports none, returns the first, and rustls ends the handshake because there is
    /// no common signature scheme. Without a certificate rustls would send `access_denied`, which
    /// clients and scanners take for a ban instead of trying other ciphers.
    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let named = name.map_or(&[][..], |name| self.named(&name.to_ascii_lowercase()));
        let in_order = named.iter().copied().chain(0..self.all.len());
        in_order
            .map(|place| &self.all[place])
            .find(|key| key.key.choose_scheme(schemes).is_some())
            .or_else(|| self.all.first())
            .cloned()
    }

    /// RFC 6125 s6.4.3: a wildcard stands for exactly one label, the leftmost.
    fn named(&self, name: &str) -> &[usize] {
        if let Some(places) = self.names.get(name) {
            return places;
        }
        let parent = name.split_once('.').map(|(_, parent)| format!("*.{parent}"));
        parent.and_then(|wildcard| self.names.get(wildcard.as_str())).map_or(&[], Vec::as_slice)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        REQUESTED_NAME.set(hello.server_name().map(Box::from));
        self.choose(hello.server_name(), hello.signature_schemes())
    }
}

thread_local! {
    /// The server name of the client hello that this thread processed last. An unbuffered connection
    /// of rustls does not expose the name later, so the certificate resolver stores it here, and the
    /// session takes it as soon as the call returns.
    static REQUESTED_NAME: RefCell<Option<Box<str>>> = const { RefCell::new(None) };
}

/// The server name of the client hello that this thread has just processed.
pub(super) fn take_requested_name() -> Option<Box<str>> {
    REQUESTED_NAME.take()
}
