//! TLS for outgoing connections, built from the settings as one immutable snapshot.
//!
//! Owner:    shared by all shards as `Arc<TlsClient>`.
//! Promise:  the server is verified before we send application data, in full and resumed handshakes.
//!           `Any` accepts every certificate whose key the server holds, and reports what a check of
//!           the name would have found.
//! Resuming: `Any` and `Name` have separate session caches; a session is never resumed under another
//!           check. DANE always does a full handshake, because records may change.
//! Bounds:   `SESSIONS_KEPT_MAX` hosts for each check; the oldest is dropped.
//! Locks:    rustls guards each session cache with a lock that is held for a copy, once per handshake.

use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::Error;
use rustls::RootCertStore;
use rustls::SupportedProtocolVersion;
use rustls::client::ClientSessionMemoryCache;
use rustls::client::ClientSessionStore;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::version::TLS12;
use rustls::version::TLS13;

use crate::net::certificate;
use crate::net::certificate::Notes;
use crate::net::certificate::TlsCause;
use crate::net::certificate::TlsProblem;
use crate::net::certificate::TlsProblems;
use crate::net::server_verifier::Judge;
use crate::net::server_verifier::PeerCheck;
use crate::net::server_verifier::Verifier;
use crate::net::tls_fault::TlsFault;
use crate::net::tls_server::provider;
use crate::wire::tls::TlsVersion;

/// Hosts with a cached session for each check; a few KiB each. Full: the oldest is dropped, and its
/// next handshake is a full one.
pub const SESSIONS_KEPT_MAX: usize = 1024;

/// Usual locations of the system's CA certificates. The first that exists is used.
const ROOT_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The TLS settings of outgoing connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsClientSettings {
    /// PEM file of trusted CA certificates; `None`: those of the system.
    pub roots: Option<PathBuf>,
    pub min_version: TlsVersion,
    /// Resume earlier sessions with the host.
    pub resumes: bool,
}

impl Default for TlsClientSettings {
    fn default() -> TlsClientSettings {
        TlsClientSettings { roots: None, min_version: TlsVersion::Tls12, resumes: true }
    }
}

/// TLS for outgoing connections.
#[derive(Debug)]
pub struct TlsClient {
    judge: Judge,
    any: Arc<ClientConfig>,
    name: Arc<ClientConfig>,
    https: Arc<ClientConfig>,
    name_sessions: Arc<ClientSessionMemoryCache>,
    warnings: Vec<TlsProblem>,
}

impl TlsClient {
    /// Reads the CA certificates. A configured file must be valid. Without CA certificates of the
    /// system only `PeerCheck::Name` fails, and a warning says so.
    pub fn build(settings: &TlsClientSettings) -> Result<Arc<TlsClient>, TlsProblems> {
        let provider = Arc::new(provider());
        let mut notes = Notes::default();
        let roots = roots(settings.roots.as_deref(), &mut notes);
        if !notes.faults.is_empty() {
            return Err(TlsProblems(notes.faults));
        }
        let algorithms = provider.signature_verification_algorithms;
        let judge = Judge { roots: Arc::new(roots), algorithms };
        let client = TlsClient::with(settings, &provider, judge, notes.warnings);
        client.map(Arc::new).map_err(|error| {
            let cause = TlsCause::Refused(error);
            TlsProblems(vec![TlsProblem { file: PathBuf::new(), cause }])
        })
    }

    fn with(
        settings: &TlsClientSettings,
        provider: &Arc<CryptoProvider>,
        judge: Judge,
        warnings: Vec<TlsProblem>,
    ) -> Result<TlsClient, Error> {
        let sessions = || Arc::new(ClientSessionMemoryCache::new(SESSIONS_KEPT_MAX));
        let config = |check: PeerCheck, sessions: Arc<ClientSessionMemoryCache>| {
            let verifier = Arc::new(Verifier { judge: judge.clone(), check });
            let mut config = config(settings.min_version, provider, verifier)?;
            config.resumption = match settings.resumes {
                true => Resumption::store(sessions),
                false => Resumption::disabled(),
            };
            Ok::<_, Error>(Arc::new(config))
        };
        let name_sessions = sessions();
        let any = config(PeerCheck::Any, sessions())?;
        let name = config(PeerCheck::Name, Arc::clone(&name_sessions))?;
        let mut https = ClientConfig::clone(&name);
        // rustls does not verify the certificate of a resumed session.
        https.resumption = Resumption::disabled();
        https.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsClient { judge, any, name, https: Arc::new(https), name_sessions, warnings })
    }

    /// Whether there are CA certificates to verify servers with.
    pub fn has_roots(&self) -> bool {
        !self.judge.roots.is_empty()
    }

    /// Problems that do not prevent the use of TLS.
    pub fn warnings(&self) -> &[TlsProblem] {
        &self.warnings
    }

    /// The configuration for HTTPS, with verified servers.
    pub fn https_config(&self) -> Result<&Arc<ClientConfig>, TlsFault> {
        if self.has_roots() { Ok(&self.https) } else { Err(TlsFault::NoRoots) }
    }

    pub(super) fn judge(&self) -> &Judge {
        &self.judge
    }

    pub(super) fn config_for(&self, check: &PeerCheck) -> Result<Arc<ClientConfig>, TlsFault> {
        match check {
            PeerCheck::Any => Ok(Arc::clone(&self.any)),
            PeerCheck::Name if !self.has_roots() => Err(TlsFault::NoRoots),
            PeerCheck::Name => Ok(Arc::clone(&self.name)),
            PeerCheck::Dane { .. } => {
                let mut config = ClientConfig::clone(&self.any);
                config.resumption = Resumption::disabled();
                let verifier = Verifier { judge: self.judge.clone(), check: check.clone() };
                config.dangerous().set_certificate_verifier(Arc::new(verifier));
                Ok(Arc::new(config))
            }
        }
    }

    /// Drops the sessions of a host whose certificate is no longer valid.
    pub(super) fn forget(&self, name: &ServerName<'static>) {
        self.name_sessions.remove_tls12_session(name);
        while self.name_sessions.take_tls13_ticket(name).is_some() {}
    }
}

fn config(
    min_version: TlsVersion,
    provider: &Arc<CryptoProvider>,
    verifier: Arc<Verifier>,
) -> Result<ClientConfig, Error> {
    let versions: &[&SupportedProtocolVersion] = match min_version {
        TlsVersion::Tls12 => &[&TLS13, &TLS12],
        TlsVersion::Tls13 => &[&TLS13],
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions)?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// The CA certificates of the configured file, or of the system.
fn roots(named: Option<&Path>, notes: &mut Notes) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let system = ROOT_FILES.iter().map(Path::new);
    let files: Vec<&Path> = named.map_or_else(|| system.collect(), |path| vec![path]);
    for file in files {
        match certificate::read_certificates(file) {
            Err(TlsCause::Unreadable(io::ErrorKind::NotFound)) if named.is_none() => continue,
            Err(cause) => notes.note(file, cause),
            Ok(certificates) => match roots.add_parsable_certificates(certificates) {
                (_, 0) => {}
                (0, _) => notes.note(file, TlsCause::BadCertificate),
                (_, count) => notes.note(file, TlsCause::BadRoots { count }),
            },
        }
        return roots;
    }
    notes.note(Path::new(""), TlsCause::NoRoots);
    roots
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::session::TlsSession;
    use crate::net::side::ClientSide;
    use crate::net::tls_fault::CertificateFault;
    use crate::net::tls_server::TlsServer;
    use crate::net::tls_server::TlsSettings;
    use crate::wire::tls::ClientCertificates;

    /// Lets both talk until nobody has anything to say.
    fn talk(near: &mut TlsSession, far: &mut TlsSession) -> Result<(), TlsFault> {
        let (mut there, mut back) = (Vec::new(), Vec::new());
        near.absorb(&mut [], &mut [], &mut there)?;
        while !there.is_empty() {
            far.absorb(&mut there, &mut [0; 100], &mut back)?;
            there.clear();
            near.absorb(&mut back, &mut [0; 100], &mut there)?;
            back.clear();
        }
        Ok(())
    }

    #[test]
    fn a_resumed_session_is_judged_again_and_forgotten() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("it is written");
            path
        };
        let key = || rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(vec![]).expect("no names");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root = rcgen::CertifiedIssuer::self_signed(params, key()).expect("an authority");
        let (host, leaf_key) = ("mx.theirs.test", key());
        let leaf = rcgen::CertificateParams::new([host.to_owned()]).expect("a name");
        let leaf = leaf.signed_by(&leaf_key, &root).expect("a certificate");
        let pair = (write("crt", leaf.pem()), write("key", leaf_key.serialize_pem()));
        let settings = TlsSettings {
            certificates: vec![pair],
            min_version: TlsVersion::Tls12,
            tickets: true,
            client_certificates: ClientCertificates::None,
            client_ca: None,
        };
        let server = TlsServer::build(&settings, 0).expect("it is served");
        let roots = Some(write("roots", root.pem()));
        let settings = TlsClientSettings { roots, ..TlsClientSettings::default() };
        let mut client = TlsClient::build(&settings).expect("a client");
        let meet = |client: &Arc<TlsClient>| {
            let mut near = TlsSession::to_server(client, host, PeerCheck::Name)?;
            talk(&mut near, &mut TlsSession::new(&server)?)?;
            Ok::<_, TlsFault>(near.facts().expect("it is settled").resumed)
        };
        assert_eq!((meet(&client), meet(&client)), (Ok(false), Ok(true)));
        let never = TlsClientSettings { resumes: false, ..settings };
        let never = TlsClient::build(&never).expect("a client");
        assert_eq!((meet(&never), meet(&never)), (Ok(false), Ok(false)));
        // What has come to be distrusted meanwhile, as an expired certificate would be.
        let known = Arc::clone(&client.judge.roots);
        let judge = |client: &mut Arc<TlsClient>, roots| {
            Arc::get_mut(client).expect("no session is left").judge.roots = roots;
        };
        let other = rcgen::CertifiedIssuer::self_signed(rcgen::CertificateParams::default(), key());
        let mut strangers = RootCertStore::empty();
        strangers.add(other.expect("another").der().clone()).expect("a root");
        judge(&mut client, Arc::new(strangers));
        let fault = meet(&client).expect_err("nobody vouches for it now");
        // Both authorities bear the name that rcgen gives.
        assert_eq!(fault.certificate(), Some(CertificateFault::BadSignature));
        judge(&mut client, known);
        assert_eq!(meet(&client), Ok(false), "its sessions were forgotten");
    }

    #[test]
    fn roots_are_found_or_missed_aloud() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let missing = folder.path().join("missing.pem");
        let settings = |path: &Path| TlsClientSettings {
            roots: Some(path.to_path_buf()),
            ..TlsClientSettings::default()
        };
        let problems = TlsClient::build(&settings(&missing)).expect_err("a named file must exist");
        assert_eq!(problems.0[0].file, missing);
        let nonsense = folder.path().join("nonsense.pem");
        let text = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&nonsense, text).expect("it is written");
        let problems = TlsClient::build(&settings(&nonsense)).expect_err("nothing to trust");
        assert_eq!(problems.0[0].cause, TlsCause::BadCertificate);

        let provider = Arc::new(provider());
        let algorithms = provider.signature_verification_algorithms;
        let judge = Judge { roots: Arc::new(RootCertStore::empty()), algorithms };
        let settings = TlsClientSettings::default();
        let client = TlsClient::with(&settings, &provider, judge, Vec::new());
        let client = Arc::new(client.expect("a client"));
        let refused = ClientSide::new(&client, "mx.theirs.test", PeerCheck::Name).err();
        assert_eq!(refused, Some(TlsFault::NoRoots), "it is impossible and says so");
        assert!(ClientSide::new(&client, "mx.theirs.test", PeerCheck::Any).is_ok());
        let refused = ClientSide::new(&client, "a b", PeerCheck::Any).err();
        assert_eq!(refused, Some(TlsFault::BadHost));
    }
}
