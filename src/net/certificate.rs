//! Reads and checks certificates and keys on disk.
//!
//! Promise:  every fault names the file, the cause and the remedy. All files are checked before any is
//!           refused, so that an operator can correct all faults at once.
//! Bounds:   `PEM_BYTES_MAX` per file.
//! Time:     the caller passes the time. An expired certificate is only a warning, because mail
//!           encrypted with an expired certificate is better than mail in cleartext.

use std::fmt;
use std::fs;
use std::io;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

use rustls::InconsistentKeys;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem;
use rustls::pki_types::pem::PemObject;
use rustls::sign::CertifiedKey;
use webpki::EndEntityCert;
use x509_cert::der::Decode;
use x509_cert::time::Validity;

use crate::net::x509::parts_of;

/// Bytes of one PEM file. A chain is a few KiB, a bundle of all public CAs 250 KiB. Larger files are
/// refused.
pub const PEM_BYTES_MAX: u64 = 1 << 20;

/// Days before expiry at which the warnings begin. A renewal that is this late has failed more than
/// once.
pub const EXPIRY_WARNING_DAYS: u64 = 14;

const DAY_S: u64 = 24 * 60 * 60;

/// A certificate with its key, ready for use.
#[derive(Debug)]
pub struct Loaded {
    pub key: CertifiedKey,
    pub facts: CertificateFacts,
}

/// Facts about a certificate for the start table and the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    pub path: PathBuf,
    /// The host names in lower case; `*.example.com` for a wildcard.
    pub names: Vec<Box<str>>,
    /// End of validity, in seconds since 1970.
    pub not_after_s: u64,
}

/// A problem of the TLS settings, with the file concerned.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsProblem {
    pub file: PathBuf,
    pub cause: TlsCause,
}

/// All problems, in the order of the settings.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsProblems(pub Vec<TlsProblem>);

/// Why TLS cannot work as configured, or what weakens it.
#[derive(Clone, Debug, PartialEq)]
pub enum TlsCause {
    Unreadable(io::ErrorKind),
    NotAFile,
    TooLarge,
    BrokenPem,
    NoCertificate,
    NoKey,
    EncryptedKey,
    BadCertificate,
    BadKey,
    KeyMismatch {
        key: PathBuf,
    },
    BadClientCa,
    NoClientCa,
    NoCertificateConfigured,
    Unwritable(io::ErrorKind),
    CannotMake,
    Refused(rustls::Error),
    Expired {
        days: u64,
    },
    ExpiresSoon {
        days: u64,
    },
    NotYetValid,
    NoNames,
    KeyReadableByOthers,
    UnusedClientCa,
    /// No CA certificates, so no server can be verified.
    NoRoots,
    /// Some CA certificates cannot be parsed; the others are used.
    BadRoots {
        count: usize,
    },
}

impl TlsCause {
    /// Whether TLS works nevertheless.
    fn is_warning(&self) -> bool {
        matches!(
            self,
            TlsCause::Expired { .. }
                | TlsCause::ExpiresSoon { .. }
                | TlsCause::NotYetValid
                | TlsCause::NoNames
                | TlsCause::KeyReadableByOthers
                | TlsCause::UnusedClientCa
                | TlsCause::NoRoots
                | TlsCause::BadRoots { .. }
        )
    }

    /// What the operator can do.
    pub fn remedy(&self) -> &'static str {
        match self {
            TlsCause::Unreadable(io::ErrorKind::NotFound) => {
                "correct the path in the configuration"
            }
            TlsCause::Unreadable(io::ErrorKind::PermissionDenied) => {
                "make the file readable for the user of the server"
            }
            TlsCause::Unreadable(_) => "make the file readable",
            TlsCause::NotAFile => "set the path of a file, not of a folder or a device",
            TlsCause::TooLarge => "set the path of a PEM file",
            TlsCause::BrokenPem => "export the file as PEM again; it may be truncated or edited",
            TlsCause::NoCertificate => "put the certificate and its chain into the file, as PEM",
            TlsCause::NoKey => "put the private key into the file, as PEM (PKCS#8, PKCS#1 or SEC1)",
            TlsCause::EncryptedKey => {
                "remove the passphrase: openssl pkey -in KEY -out NEW, then chmod 600"
            }
            TlsCause::BadCertificate => "use an X.509 version 3 certificate",
            TlsCause::BadKey => {
                "use an RSA (2048 bits or more), ECDSA P-256/384/521 or Ed25519 key"
            }
            TlsCause::KeyMismatch { .. } => {
                "set the key of this certificate; put the server's own certificate first in the chain"
            }
            TlsCause::BadClientCa => "put only X.509 CA certificates into the file, as PEM",
            TlsCause::NoClientCa => "set client_ca to the CAs that issue client certificates",
            TlsCause::NoCertificateConfigured => "configure at least one certificate and key",
            TlsCause::Unwritable(_) => "give the user of the server write access",
            TlsCause::CannotMake => "set a host name of letters, digits, dots and hyphens",
            TlsCause::Refused(_) => "this is a bug; please report it",
            TlsCause::Expired { .. } | TlsCause::ExpiresSoon { .. } => {
                "renew the certificate, then reload with SIGHUP"
            }
            TlsCause::NotYetValid => "check the clock of this machine",
            TlsCause::NoNames => {
                "get a certificate with the host names as subject alternative names"
            }
            TlsCause::KeyReadableByOthers => "chmod 600",
            TlsCause::UnusedClientCa => "set client_certificates, or remove client_ca",
            TlsCause::NoRoots => {
                "install the package ca-certificates; until then mail that requires `verify` waits"
            }
            TlsCause::BadRoots { .. } => {
                "remove the entries that are not X.509 certificates; the others are used"
            }
        }
    }
}

impl fmt::Display for TlsCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsCause::Unreadable(io::ErrorKind::NotFound) => f.write_str("no such file"),
            TlsCause::Unreadable(kind) => write!(f, "cannot be read: {kind}"),
            TlsCause::NotAFile => f.write_str("is not a file"),
            TlsCause::TooLarge => write!(f, "is larger than {PEM_BYTES_MAX} bytes"),
            TlsCause::BrokenPem => f.write_str("is not valid PEM"),
            TlsCause::NoCertificate => f.write_str("contains no certificate"),
            TlsCause::NoKey => f.write_str("contains no private key"),
            TlsCause::EncryptedKey => f.write_str("the private key is encrypted with a passphrase"),
            TlsCause::BadCertificate => f.write_str("the certificate cannot be parsed"),
            TlsCause::BadKey => f.write_str("the private key is invalid or of an unsupported type"),
            TlsCause::KeyMismatch { key } => {
                write!(f, "the key in {} belongs to another certificate", key.display())
            }
            TlsCause::BadClientCa => f.write_str("a CA certificate for clients cannot be parsed"),
            TlsCause::NoClientCa => {
                f.write_str("client_ca is not set, so client certificates cannot be verified")
            }
            TlsCause::NoCertificateConfigured => f.write_str("no certificate is configured"),
            TlsCause::Unwritable(kind) => write!(f, "cannot be written: {kind}"),
            TlsCause::CannotMake => {
                f.write_str("no self-signed certificate can be created for this host name")
            }
            TlsCause::Refused(error) => write!(f, "the TLS library refuses the settings: {error}"),
            TlsCause::Expired { days: 0 } => f.write_str("the certificate expired today"),
            TlsCause::Expired { days } => write!(f, "the certificate expired {days} days ago"),
            TlsCause::ExpiresSoon { days } => write!(f, "the certificate expires in {days} days"),
            TlsCause::NotYetValid => f.write_str("the certificate is not valid yet"),
            TlsCause::NoNames => {
                f.write_str("the certificate has no host names, so SNI never selects it")
            }
            TlsCause::KeyReadableByOthers => {
                f.write_str("the private key is readable by other users")
            }
            TlsCause::UnusedClientCa => {
                f.write_str("client_ca is set, but client_certificates is off")
            }
            TlsCause::NoRoots => {
                f.write_str("no trusted CA certificates were found, so no server can be verified")
            }
            TlsCause::BadRoots { count } => {
                write!(f, "{count} CA certificates cannot be parsed")
            }
        }
    }
}

impl fmt::Display for TlsProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.as_os_str().is_empty() {
            write!(f, "{}: ", self.file.display())?;
        }
        write!(f, "{} ({})", self.cause, self.cause.remedy())
    }
}

impl fmt::Display for TlsProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, problem) in self.0.iter().enumerate() {
            let gap = if place == 0 { "" } else { "\n" };
            write!(f, "{gap}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for TlsProblem {}
impl std::error::Error for TlsProblems {}

/// Collects problems while files are read.
#[derive(Debug, Default)]
pub struct Notes {
    pub faults: Vec<TlsProblem>,
    pub warnings: Vec<TlsProblem>,
}

impl Notes {
    pub fn note(&mut self, file: &Path, cause: TlsCause) {
        let list = if cause.is_warning() { &mut self.warnings } else { &mut self.faults };
        list.push(TlsProblem { file: file.to_path_buf(), cause });
    }
}

/// Reads and checks one certificate with its key. `None` if a fault was noted.
pub fn load(
    certificate: &Path,
    key: &Path,
    provider: &CryptoProvider,
    now_ms: u64,
    notes: &mut Notes,
) -> Option<Loaded> {
    let chain = note_err(read_certificates(certificate), certificate, notes);
    let private = note_err(read_key(key), key, notes);
    if let Some(true) = readable_by_others(key) {
        notes.note(key, TlsCause::KeyReadableByOthers);
    }
    let (chain, private) = (chain?, private?);
    let leaf = note_err(leaf_of(certificate, &chain), certificate, notes)?;
    note_validity(&leaf, now_ms, notes);
    let facts = leaf.facts;
    if facts.names.is_empty() {
        notes.note(certificate, TlsCause::NoNames);
    }
    match CertifiedKey::from_der(chain, private, provider) {
        Ok(key) => Some(Loaded { key, facts }),
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            notes.note(certificate, TlsCause::KeyMismatch { key: key.to_path_buf() });
            None
        }
        Err(_) => {
            notes.note(key, TlsCause::BadKey);
            None
        }
    }
}

/// All certificates of a PEM file in order; at least one.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsCause> {
    let text = read(path)?;
    let chain: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&text).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(TlsCause::NoCertificate),
        Ok(chain) => Ok(chain),
        Err(_) => Err(TlsCause::BrokenPem),
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsCause> {
    let text = read(path)?;
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) if is_encrypted(&text) => Err(TlsCause::EncryptedKey),
        Err(pem::Error::NoItemsFound) => Err(TlsCause::NoKey),
        // OpenSSL's old encrypted format has header lines before the base64.
        Err(_) if is_encrypted(&text) => Err(TlsCause::EncryptedKey),
        Err(_) => Err(TlsCause::BrokenPem),
    }
}

fn is_encrypted(text: &[u8]) -> bool {
    let has = |mark: &[u8]| text.windows(mark.len()).any(|window| window == mark);
    has(b"ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED")
}

fn read(path: &Path) -> Result<Vec<u8>, TlsCause> {
    let unreadable = |error: io::Error| TlsCause::Unreadable(error.kind());
    // Before opening, because opening a named pipe would wait for a writer.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(TlsCause::NotAFile);
    }
    let file = fs::File::open(path).map_err(unreadable)?;
    let mut text = Vec::new();
    file.take(PEM_BYTES_MAX + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > PEM_BYTES_MAX {
        return Err(TlsCause::TooLarge);
    }
    Ok(text)
}

fn readable_by_others(path: &Path) -> Option<bool> {
    fs::metadata(path).ok().map(|about| about.permissions().mode() & 0o007 != 0)
}

fn note_err<T>(result: Result<T, TlsCause>, file: &Path, notes: &mut Notes) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(cause) => {
            notes.note(file, cause);
            None
        }
    }
}

/// The facts of the first certificate of a chain.
struct Leaf {
    facts: CertificateFacts,
    /// Start of validity, in seconds since 1970.
    not_before_s: u64,
}

fn leaf_of(path: &Path, chain: &[CertificateDer<'_>]) -> Result<Leaf, TlsCause> {
    let leaf = EndEntityCert::try_from(&chain[0]).map_err(|_| TlsCause::BadCertificate)?;
    let names = leaf.valid_dns_names().map(|name| name.to_ascii_lowercase().into()).collect();
    let parts = parts_of(&chain[0]).ok_or(TlsCause::BadCertificate)?;
    let validity = Validity::from_der(parts.validity).map_err(|_| TlsCause::BadCertificate)?;
    let [not_before_s, not_after_s] =
        [validity.not_before, validity.not_after].map(|time| time.to_unix_duration().as_secs());
    if not_after_s < not_before_s {
        return Err(TlsCause::BadCertificate);
    }
    let facts = CertificateFacts { path: path.to_path_buf(), names, not_after_s };
    Ok(Leaf { facts, not_before_s })
}

fn note_validity(leaf: &Leaf, now_ms: u64, notes: &mut Notes) {
    let now_s = now_ms / 1000;
    let Leaf { facts, not_before_s } = leaf;
    if now_s > facts.not_after_s {
        let days = (now_s - facts.not_after_s) / DAY_S;
        notes.note(&facts.path, TlsCause::Expired { days });
    } else if facts.not_after_s - now_s < EXPIRY_WARNING_DAYS * DAY_S {
        let days = (facts.not_after_s - now_s) / DAY_S;
        notes.note(&facts.path, TlsCause::ExpiresSoon { days });
    }
    if now_s < *not_before_s {
        notes.note(&facts.path, TlsCause::NotYetValid);
    }
}
