//! One file for each policy: `mta-sts/DOMAIN` in the spool.
//!
//! Form:     a line of JSON, and a line with its CRC-32C in hex. Mode 0600.
//! Promise:  a file is written beside its place, synced and renamed, so that a crash leaves the old
//!           or the new one. A file that cannot be read is skipped, reported and left as it is.
//! Bounds:   `STS_POLICIES_MAX` files are read, each of `FILE_BYTES_MAX`.

use std::fs;
use std::fs::DirBuilder;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

use crate::base::limits::STS_POLICIES_MAX;
use crate::net::StsPolicy;
use crate::net::mta_sts::POLICY_BYTES_MAX;
use crate::net::mta_sts::StsFetched;

const FOLDER: &str = "mta-sts";
/// Not a valid name of a domain.
const FRESH: &str = ".new";
const FORMAT: u32 = 1;
/// A policy, whose line ends are two bytes each in JSON, and what is beside it.
const FILE_BYTES_MAX: u64 = 2 * POLICY_BYTES_MAX as u64 + 4096;

/// A domain and the policy for its file; none: the file is removed.
pub type Change = (Arc<str>, Option<Arc<StsFetched>>);

/// The valid policies, and the reasons why files were skipped.
#[derive(Default)]
pub struct StoredPolicies {
    pub policies: Vec<(Arc<str>, StsFetched)>,
    pub passed_over: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    domain: Box<str>,
    id: Box<str>,
    fetched_ms: u64,
    used_ms: u64,
    policy: String,
}

/// Where the policies of a spool are.
pub fn folder_of(spool: &Path) -> PathBuf {
    spool.join(FOLDER)
}

/// Reads all policies that are valid at `now_ms`.
pub fn read(folder: &Path, now_ms: u64) -> StoredPolicies {
    let mut found = StoredPolicies::default();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return found,
        Err(cause) => {
            found.passed_over.push(format!("{}: {cause}", folder.display()));
            return found;
        }
    };
    for entry in entries {
        let path = match entry {
            Ok(entry) if entry.file_name() == FRESH => continue,
            Ok(entry) => entry.path(),
            Err(cause) => {
                found.passed_over.push(format!("{}: {cause}", folder.display()));
                continue;
            }
        };
        if found.policies.len() == STS_POLICIES_MAX {
            found.passed_over.push(format!("{}: too many policies", path.display()));
            break;
        }
        match read_one(&path, now_ms) {
            Ok((_, fetched)) if now_ms >= fetched.expires_ms() => {
                // Expired. A file that cannot be removed is read again at the next start.
                let _ = fs::remove_file(&path);
            }
            Ok(policy) => found.policies.push(policy),
            Err(cause) => found.passed_over.push(format!("{}: {cause}", path.display())),
        }
    }
    found
}

fn read_one(path: &Path, now_ms: u64) -> io::Result<(Arc<str>, StsFetched)> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    // Opening a pipe would wait for its other end.
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(invalid("not a file"));
    }
    let mut text = String::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    let (json, sum) = text.split_once('\n').ok_or_else(|| invalid("truncated"))?;
    if u32::from_str_radix(sum.trim_end(), 16).ok() != Some(crc32c::crc32c(json.as_bytes())) {
        return Err(invalid("damaged"));
    }
    let stored: Stored = serde_json::from_str(json)?;
    let is_ours = stored.format == FORMAT
        && is_name(&stored.domain)
        && path.file_name().is_some_and(|name| name == &*stored.domain);
    if !is_ours {
        return Err(invalid("not a policy of this version"));
    }
    let policy = StsPolicy::parse(stored.policy.as_bytes());
    let policy = Arc::new(policy.map_err(|fault| invalid(&fault.to_string()))?);
    // A clock that was ahead must not extend a policy.
    let fetched_ms = stored.fetched_ms.min(now_ms);
    let used_ms = stored.used_ms.min(now_ms);
    Ok((stored.domain.into(), StsFetched { id: stored.id, policy, fetched_ms, used_ms }))
}

/// Writes and removes files as `changes` say. Stops at the first failure.
pub fn write(folder: &Path, changes: &[Change]) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    for (domain, fetched) in changes.iter().filter(|(domain, _)| is_name(domain)) {
        match fetched {
            Some(fetched) => write_one(folder, domain, fetched)?,
            None => match fs::remove_file(folder.join(&**domain)) {
                Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
                _ => {}
            },
        }
    }
    File::open(folder)?.sync_all()
}

fn write_one(folder: &Path, domain: &str, fetched: &StsFetched) -> io::Result<()> {
    let json = serde_json::to_string(&Stored {
        format: FORMAT,
        domain: domain.into(),
        id: fetched.id.clone(),
        fetched_ms: fetched.fetched_ms,
        used_ms: fetched.used_ms,
        policy: fetched.policy.text(),
    })?;
    let fresh = folder.join(FRESH);
    let mut file =
        File::options().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(format!("{json}\n{:08x}\n", crc32c::crc32c(json.as_bytes())).as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, folder.join(domain))
}

/// Whether the domain can be a file name: not a path.
fn is_name(domain: &str) -> bool {
    let is_label = |label: &str| {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(known)
    };
    domain.len() <= 253 && domain.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::net::StsMode;

    fn fetched(mx: &str, used_ms: u64) -> StsFetched {
        let policy = StsPolicy { mode: StsMode::Enforce, mx: vec![mx.into()], max_age_s: 100 };
        StsFetched { id: "20261130".into(), policy: Arc::new(policy), fetched_ms: 5000, used_ms }
    }

    fn change(domain: &str, fetched: Option<StsFetched>) -> Change {
        (domain.into(), fetched.map(Arc::new))
    }

    #[test]
    fn what_was_written_is_read() {
        let spool = tempfile::tempdir().expect("a folder");
        let folder = folder_of(spool.path());
        assert!(read(&folder, 0).policies.is_empty(), "a new spool has none");
        let (a, b) = (fetched("mx.a.test", 0), fetched("*.b.test", 7));
        let changes = [
            change("a.test", Some(a.clone())),
            change("b.test", Some(b.clone())),
            change("../evil", Some(a.clone())),
            change("gone.test", None),
        ];
        write(&folder, &changes).expect("it is written");
        let mut found = read(&folder, 6000);
        found.policies.sort_by(|one, other| one.0.cmp(&other.0));
        assert_eq!(found.passed_over, [""; 0]);
        let written: [(Arc<str>, StsFetched); 2] = [("a.test".into(), a), ("b.test".into(), b)];
        assert_eq!(found.policies, written);
        let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode();
        assert_eq!(mode(&folder) & 0o777, 0o700);
        assert_eq!(mode(&folder.join("a.test")) & 0o777, 0o600);
        write(&folder, &[change("a.test", None)]).expect("it is written");
        let ahead = read(&folder, 1000).policies;
        assert_eq!(ahead.len(), 1, "one is gone");
        assert_eq!(ahead[0].1.fetched_ms, 1000, "a clock that was ahead");
        assert!(read(&folder, 105_000).policies.is_empty(), "its time is over");
        assert!(!folder.join("b.test").exists());
    }

    #[test]
    fn what_is_damaged_or_foreign_is_passed_over() {
        let spool = tempfile::tempdir().expect("a folder");
        let folder = folder_of(spool.path());
        let changes = [change("good.test", Some(fetched("mx.test", 0)))];
        write(&folder, &changes).expect("it is written");
        let good = fs::read(folder.join("good.test")).expect("it is there");
        let mut damaged = good.clone();
        let place = damaged.windows(7).position(|word| word == b"mx.test").expect("its host");
        damaged[place] ^= 1;
        fs::write(folder.join("damaged.test"), damaged).expect("it is written");
        fs::write(folder.join("half.test"), &good[..good.len() / 2]).expect("it is written");
        fs::write(folder.join("empty.test"), b"").expect("it is written");
        fs::write(folder.join("renamed.test"), &good).expect("it is written");
        fs::write(folder.join(FRESH), b"cut by a crash").expect("it is written");
        fs::create_dir(folder.join("folder.test")).expect("it is made");
        let good_file = folder.join("good.test");
        std::os::unix::fs::symlink(good_file, folder.join("link.test")).expect("it is made");
        let found = read(&folder, 6000);
        assert_eq!(found.policies.len(), 1);
        assert_eq!(found.passed_over.len(), 6, "{:?}", found.passed_over);
        assert!(folder.join("damaged.test").exists(), "it is left for a look");
    }
}
