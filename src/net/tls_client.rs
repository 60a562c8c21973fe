//! What it takes to speak TLS to other servers, built from settings as one immutable snapshot.
//!
//! Owner:    nobody; `Arc<TlsClient>` is shared, by all shards or one each.
//! Promise:  a check is made before the first word of ours is sent, on full handshakes and on
//!           resumed ones. `Any` takes every certificate whose key the server holds, and tells
//!           what a check of its name would have said.
//! Resuming: sessions are kept for `Any` and `Name` apart; a session of one check is never resumed
//!           under another. Under DANE every handshake is a full one, for the records may change.
//! Bounds:   `SESSIONS_KEPT_MAX` hosts for each check; the oldest is forgotten.
//! Locks:    rustls guards each session cache by a lock that is held for a copy, once per
//!           handshake; with a `TlsClient` per shard nobody else takes it.

use std::fmt;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::CertificateError;
use rustls::ClientConfig;
use rustls::CommonState;
use rustls::DigitallySignedStruct;
use rustls::Error;
use rustls::HandshakeKind;
use rustls::RootCertStore;
use rustls::SignatureScheme;
use rustls::SupportedProtocolVersion;
use rustls::client::ClientSessionMemoryCache;
use rustls::client::ClientSessionStore;
use rustls::client::Resumption;
use rustls::client::UnbufferedClientConnection;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::danger::ServerCertVerified;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::crypto::verify_tls12_signature;
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::SignatureVerificationAlgorithm;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::UnixTime;
use rustls::version::TLS12;
use rustls::version::TLS13;
use webpki::RawPublicKeyEntity;

use crate::net::certificate;
use crate::net::certificate::Notes;
use crate::net::certificate::TlsCause;
use crate::net::certificate::TlsProblem;
use crate::net::certificate::TlsProblems;
use crate::net::client::issuer_of;
use crate::net::client::parts_of;
use crate::net::client::subject_of;
use crate::net::dane::Shown;
use crate::net::dane::TlsaRecord;
use crate::net::session::TlsFault;
use crate::net::tls::MinVersion;
use crate::net::tls::provider;

/// Hosts whose sessions are kept for each check; a few KiB each. Full: the oldest is forgotten,
/// and its next handshake is a full one.
pub const SESSIONS_KEPT_MAX: usize = 1024;

/// Where systems keep the public authorities. The first that exists is read.
const ROOT_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The TLS settings of outgoing connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsClientSettings {
    /// PEM of the authorities that are trusted; `None` for those of the system.
    pub roots: Option<PathBuf>,
    pub min_version: MinVersion,
    /// Begin where an earlier session with the host has ended, if it allows that.
    pub resumes: bool,
}

impl Default for TlsClientSettings {
    fn default() -> TlsClientSettings {
        TlsClientSettings { roots: None, min_version: MinVersion::Tls12, resumes: true }
    }
}

/// What a server has to prove before it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerCheck {
    /// Nothing but that it holds the key of what it shows.
    Any,
    /// That a public authority vouches for it under the host's name.
    Name,
    /// That its TLSA records vouch for it. DANE-TA takes the host's name or that of the next hop,
    /// which is `None` when the way from there to the host was not secure (RFC 7672 s3.2.2).
    Dane { records: Arc<[TlsaRecord]>, next_hop: Option<Arc<str>> },
}

/// Whom we talk to, for the log and for reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerCertificate {
    pub subject: Box<str>,
    pub issuer: Box<str>,
    pub verdict: Verdict,
}

/// How far a server has proven who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A public authority vouches for the host's name.
    Name,
    /// A TLSA record vouches for it.
    Dane,
    /// It has not; and nobody had asked it to.
    Unproven(CertificateFault),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Name => f.write_str("verified"),
            Verdict::Dane => f.write_str("dane"),
            Verdict::Unproven(fault) => write!(f, "unverified: {fault}"),
        }
    }
}

/// Why a certificate does not prove the host's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CertificateFault {
    Expired,
    NotYetValid,
    OtherName,
    UnknownIssuer,
    Revoked,
    BadSignature,
    BadEncoding,
    /// We know of no authority.
    NoRoots,
    Other,
}

impl CertificateFault {
    pub fn of(cause: &CertificateError) -> CertificateFault {
        match cause {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                CertificateFault::Expired
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                CertificateFault::NotYetValid
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                CertificateFault::OtherName
            }
            CertificateError::UnknownIssuer => CertificateFault::UnknownIssuer,
            CertificateError::Revoked => CertificateFault::Revoked,
            CertificateError::BadSignature => CertificateFault::BadSignature,
            CertificateError::BadEncoding => CertificateFault::BadEncoding,
            _ => CertificateFault::Other,
        }
    }
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CertificateFault::Expired => "expired",
            CertificateFault::NotYetValid => "not valid yet",
            CertificateFault::OtherName => "for another name",
            CertificateFault::UnknownIssuer => "unknown issuer",
            CertificateFault::Revoked => "revoked",
            CertificateFault::BadSignature => "bad signature",
            CertificateFault::BadEncoding => "not understood",
            CertificateFault::NoRoots => "no authorities are known",
            CertificateFault::Other => "not acceptable",
        })
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
    /// Reads the authorities. A file that is named must be good; without one of the system's,
    /// all works but `PeerCheck::Name`, and a warning says so.
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
        // rustls does not look again at the certificate of a session that it resumes.
        https.resumption = Resumption::disabled();
        https.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsClient { judge, any, name, https: Arc::new(https), name_sessions, warnings })
    }

    /// Whether servers can be verified by their names.
    pub fn has_roots(&self) -> bool {
        !self.judge.roots.is_empty()
    }

    /// What works, but not as well as it should.
    pub fn warnings(&self) -> &[TlsProblem] {
        &self.warnings
    }

    /// For HTTPS, with servers that have to prove their names.
    pub fn https_config(&self) -> Result<&Arc<ClientConfig>, TlsFault> {
        if self.has_roots() { Ok(&self.https) } else { Err(TlsFault::NoRoots) }
    }

    fn config_for(&self, check: &PeerCheck) -> Result<Arc<ClientConfig>, TlsFault> {
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

    /// The sessions of a host whose certificate is not good any more are of no use.
    fn forget(&self, name: &ServerName<'static>) {
        self.name_sessions.remove_tls12_session(name);
        while self.name_sessions.take_tls13_ticket(name).is_some() {}
    }
}

fn config(
    min_version: MinVersion,
    provider: &Arc<CryptoProvider>,
    verifier: Arc<Verifier>,
) -> Result<ClientConfig, Error> {
    let versions: &[&SupportedProtocolVersion] = match min_version {
        MinVersion::Tls12 => &[&TLS13, &TLS12],
        MinVersion::Tls13 => &[&TLS13],
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions)?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// The authorities of the file that is named, or of the system.
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

/// Judges what servers show.
#[derive(Clone, Debug)]
struct Judge {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Judge {
    /// Whether the check is passed, and how far that proves who the server is.
    fn judge(
        &self,
        check: &PeerCheck,
        (leaf, others): (&CertificateDer<'_>, &[CertificateDer<'_>]),
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<Verdict, Error> {
        let shown = Shown { leaf, others, now, algorithms: &self.algorithms };
        match check {
            PeerCheck::Any if self.roots.is_empty() => {
                Ok(Verdict::Unproven(CertificateFault::NoRoots))
            }
            PeerCheck::Any => Ok(match shown.verify(&self.roots, &[name]) {
                Ok(()) => Verdict::Name,
                Err(Error::InvalidCertificate(cause)) => {
                    Verdict::Unproven(CertificateFault::of(&cause))
                }
                Err(_) => Verdict::Unproven(CertificateFault::Other),
            }),
            PeerCheck::Name => shown.verify(&self.roots, &[name]).map(|()| Verdict::Name),
            PeerCheck::Dane { records, next_hop } => {
                let next_hop = next_hop.as_deref().and_then(|name| ServerName::try_from(name).ok());
                let names: Vec<&ServerName<'_>> = [name].into_iter().chain(&next_hop).collect();
                shown.verify_dane(records, &names).map(|()| Verdict::Dane)
            }
        }
    }
}

/// Checks servers during the handshake, so that a failure is told to them by an alert.
#[derive(Debug)]
struct Verifier {
    judge: Judge,
    check: PeerCheck,
}

impl Verifier {
    /// Judges a signature by the key alone. It stands in where webpki cannot read the rest of the
    /// certificate: version 1, or an extension it does not know.
    fn verify_by_key(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
        version: MinVersion,
    ) -> Result<HandshakeSignatureValid, Error> {
        let unreadable = || Error::InvalidCertificate(CertificateError::BadEncoding);
        let parts = parts_of(certificate).ok_or_else(unreadable)?;
        let key = SubjectPublicKeyInfoDer::from(parts.key);
        let key = RawPublicKeyEntity::try_from(&key).map_err(|_| unreadable())?;
        let known = self.judge.algorithms.mapping.iter().find(|(scheme, _)| *scheme == dss.scheme);
        let candidates = known.map_or(&[][..], |(_, candidates)| candidates);
        // Since TLS 1.3 a scheme names its curve; the first candidate is the one it names.
        let count = if version == MinVersion::Tls13 { 1 } else { candidates.len() };
        let good = |candidate: &&dyn SignatureVerificationAlgorithm| {
            key.verify_signature(*candidate, message, dss.signature()).is_ok()
        };
        match candidates.iter().take(count).any(good) {
            true => Ok(HandshakeSignatureValid::assertion()),
            false => Err(CertificateError::BadSignature.into()),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // What `Any` makes of the certificate is asked when the handshake is done.
        if self.check != PeerCheck::Any {
            self.judge.judge(&self.check, (end_entity, intermediates), server_name, now)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.judge.algorithms).or_else(|error| {
            match is_readable(cert) {
                true => Err(error),
                false => self.verify_by_key(message, cert, dss, MinVersion::Tls12),
            }
        })
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.judge.algorithms).or_else(|error| {
            match is_readable(cert) || !allowed_in_tls13(dss.scheme) {
                true => Err(error),
                false => self.verify_by_key(message, cert, dss, MinVersion::Tls13),
            }
        })
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.algorithms.supported_schemes()
    }
}

fn is_readable(certificate: &CertificateDer<'_>) -> bool {
    webpki::EndEntityCert::try_from(certificate).is_ok()
}

/// RFC 8446 s4.2.3: PKCS #1 v1.5 does not sign handshakes any more.
fn allowed_in_tls13(scheme: SignatureScheme) -> bool {
    !matches!(
        scheme,
        SignatureScheme::RSA_PKCS1_SHA1
            | SignatureScheme::RSA_PKCS1_SHA256
            | SignatureScheme::RSA_PKCS1_SHA384
            | SignatureScheme::RSA_PKCS1_SHA512
    )
}

/// Our half of a connection that we have opened.
pub(in crate::net) struct ClientSide {
    connection: UnbufferedClientConnection,
    client: Arc<TlsClient>,
    /// Until the handshake is done.
    expected: Option<Box<Expected>>,
}

struct Expected {
    name: ServerName<'static>,
    check: PeerCheck,
}

impl ClientSide {
    pub fn new(
        client: &Arc<TlsClient>,
        host: &str,
        check: PeerCheck,
    ) -> Result<ClientSide, TlsFault> {
        let config = client.config_for(&check)?;
        let name = name_of(host).ok_or(TlsFault::BadHost)?;
        let connection = UnbufferedClientConnection::new(config, name.clone())?;
        let expected = Some(Box::new(Expected { name, check }));
        Ok(ClientSide { connection, client: Arc::clone(client), expected })
    }

    pub fn connection(&self) -> &CommonState {
        &self.connection
    }

    pub fn connection_mut(&mut self) -> &mut UnbufferedClientConnection {
        &mut self.connection
    }

    /// The host and what it has proven. rustls does not look again at the certificate of a session
    /// that it resumes; this does.
    pub fn settle(&mut self) -> Result<(Box<str>, ServerCertificate), TlsFault> {
        let expected = self.expected.take().expect("a handshake is settled once");
        let Some([leaf, others @ ..]) = self.connection.peer_certificates() else {
            return Err(Error::NoCertificatesPresented.into());
        };
        let resumed = self.connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let verdict = match &expected.check {
            PeerCheck::Name if !resumed => Verdict::Name,
            PeerCheck::Dane { .. } if !resumed => Verdict::Dane,
            check => {
                let verdict =
                    self.client.judge.judge(check, (leaf, others), &expected.name, UnixTime::now());
                verdict.inspect_err(|_| self.client.forget(&expected.name))?
            }
        };
        let certificate =
            ServerCertificate { subject: subject_of(leaf), issuer: issuer_of(leaf), verdict };
        Ok((expected.name.to_str().into(), certificate))
    }
}

/// The name a host is known by in a handshake. An address in brackets is an address.
fn name_of(host: &str) -> Option<ServerName<'static>> {
    let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let literal = literal.map(|address| address.strip_prefix("IPv6:").unwrap_or(address));
    let host = literal.unwrap_or_else(|| host.strip_suffix('.').unwrap_or(host));
    ServerName::try_from(host.to_ascii_lowercase()).ok()
}

#[cfg(test)]
mod tests {
    use std::mem::size_of;

    use rustls::server::UnbufferedServerConnection;

    use super::*;
    use crate::net::session::TlsSession;
    use crate::net::tls::ClientCertificates;
    use crate::net::tls::TlsServer;
    use crate::net::tls::TlsSettings;

    #[test]
    fn hosts_become_names() {
        let table = [
            ("mx.theirs.test", Some("mx.theirs.test")),
            ("MX.Theirs.test.", Some("mx.theirs.test")),
            ("[192.0.2.1]", Some("192.0.2.1")),
            ("[IPv6:2001:db8::1]", Some("2001:db8::1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("_mx.theirs.test", Some("_mx.theirs.test")),
            ("", None),
            (".", None),
            ("m\u{fc}ller.test", None),
            ("a b", None),
        ];
        for (host, expected) in table {
            let name = name_of(host);
            assert_eq!(name.as_ref().map(|name| name.to_str()).as_deref(), expected, "{host}");
        }
    }

    /// Both halves lie in one enum, and idle sessions of a listener are many.
    #[test]
    fn a_client_takes_no_more_room_than_a_server() {
        assert!(size_of::<ClientSide>() <= size_of::<UnbufferedServerConnection>());
    }

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
            min_version: MinVersion::Tls12,
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
