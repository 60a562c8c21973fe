//! The self-signed certificate of a server without a configured one.
//!
//! Promise:  the same certificate at every start, for peers that remember it; a new one if the host
//!           name has changed, if the certificate expires soon, or if it does not match its key.
//! Files:    `self-signed.crt` and `self-signed.key` (mode 0600) in a folder of mode 0700. Each is
//!           written to a temporary file, synced and renamed. After a crash between the two renames
//!           the pair does not match, and the next start creates a new one.

use std::fs;
use std::fs::DirBuilder;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rcgen::CertificateParams;
use rcgen::DistinguishedName;
use rcgen::DnType;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::KeyPair;
use rcgen::date_time_ymd;

use crate::net::certificate;
use crate::net::certificate::Notes;
use crate::net::certificate::TlsCause;
use crate::net::certificate::TlsProblem;
use crate::net::tls_server;

/// Validity of a self-signed certificate in days. Only limits the use of a stolen key, because peers
/// do not verify the certificate.
pub const SELF_SIGNED_DAYS: u64 = 730;

/// Days before expiry at which a start creates a new certificate.
pub const REMAKE_DAYS: u64 = 30;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// The paths of the certificate, and whether this call created it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfSigned {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub made: bool,
}

/// A self-signed certificate for `hostname`, kept in `folder` (`<spool>/tls`).
pub fn self_signed(hostname: &str, folder: &Path, now_ms: u64) -> Result<SelfSigned, TlsProblem> {
    let certificate = folder.join("self-signed.crt");
    let key = folder.join("self-signed.key");
    if is_good(&certificate, &key, hostname, now_ms) {
        return Ok(SelfSigned { certificate, key, made: false });
    }
    let (certificate_pem, key_pem) = make(hostname, now_ms)
        .ok_or_else(|| TlsProblem { file: certificate.clone(), cause: TlsCause::CannotMake })?;
    let unwritable = |file: &Path| {
        let file = file.to_path_buf();
        move |error: io::Error| TlsProblem { file, cause: TlsCause::Unwritable(error.kind()) }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(unwritable(folder))?;
    replace(&key, key_pem.as_bytes(), 0o600).map_err(unwritable(&key))?;
    replace(&certificate, certificate_pem.as_bytes(), 0o644).map_err(unwritable(&certificate))?;
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(unwritable(folder))?;
    Ok(SelfSigned { certificate, key, made: true })
}

fn is_good(certificate: &Path, key: &Path, hostname: &str, now_ms: u64) -> bool {
    let mut notes = Notes::default();
    let Some(loaded) =
        certificate::load(certificate, key, &tls_server::provider(), now_ms, &mut notes)
    else {
        return false;
    };
    let names = &loaded.facts.names;
    names.len() == 1
        && names[0].eq_ignore_ascii_case(hostname)
        && loaded.facts.not_after_s > (now_ms + REMAKE_DAYS * DAY_MS) / 1000
        && !notes.warnings.iter().any(|warning| warning.cause == TlsCause::NotYetValid)
}

/// Certificate and key as PEM; `None` if the host name is not valid in a certificate.
fn make(hostname: &str, now_ms: u64) -> Option<(String, String)> {
    let mut params = CertificateParams::new(vec![hostname.to_ascii_lowercase()]).ok()?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, hostname);
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    // A day early, for peers whose clock is behind.
    let (year, month, day) = date_of(now_ms.saturating_sub(DAY_MS))?;
    params.not_before = date_time_ymd(year, month, day);
    let (year, month, day) = date_of(now_ms.saturating_add(SELF_SIGNED_DAYS * DAY_MS))?;
    params.not_after = date_time_ymd(year, month, day);
    let key = KeyPair::generate().ok()?;
    let certificate = params.self_signed(&key).ok()?;
    Some((certificate.pem(), key.serialize_pem()))
}

/// Year, month and day in UTC.
fn date_of(at_ms: u64) -> Option<(i32, u8, u8)> {
    let at = Timestamp::from_millisecond(i64::try_from(at_ms).ok()?).ok()?;
    let date = at.to_zoned(TimeZone::UTC).date();
    Some((date.year().into(), u8::try_from(date.month()).ok()?, u8::try_from(date.day()).ok()?))
}

fn replace(path: &Path, text: &[u8], mode: u32) -> io::Result<()> {
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}
