//! Passwords from files.
//!
//! Promise:  a password is in no message, and in the config only as the name of its file. A file that
//!           every user of the machine can read is a warning.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;

use crate::config::Config;
use crate::config::CredentialFile;

/// Bytes of a password. A longer file is not that of a password.
const PASSWORD_BYTES_MAX: usize = 1024;

/// Whether files with passwords are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrets {
    Read,
    /// Passwords are left empty, for commands that do not send mail.
    Withhold,
}

/// The password in a file, on one line.
pub fn password(file: &CredentialFile, secrets: Secrets) -> Result<String, String> {
    if secrets == Secrets::Withhold {
        return Ok(String::new());
    }
    let path = file.path().display();
    let refused = |cause: std::io::Error| format!("{path}: {cause}");
    // A pipe would block the start, and a device may have no end.
    if !fs::metadata(file.path()).map_err(refused)?.is_file() {
        return Err(format!("{path}: is not a regular file; write the password into one"));
    }
    let mut text = String::new();
    let opened = fs::File::open(file.path()).map_err(refused)?;
    opened.take(PASSWORD_BYTES_MAX as u64 + 3).read_to_string(&mut text).map_err(refused)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    match line.len() {
        1..=PASSWORD_BYTES_MAX if !line.contains(char::is_control) => Ok(line.to_owned()),
        _ => Err(format!(
            "{path}: contains no password; write one line of up to {PASSWORD_BYTES_MAX} bytes"
        )),
    }
}

/// Password files that every user can read, with the remedy.
pub fn warnings(config: &Config) -> Vec<(String, String)> {
    let routes = config.routes.iter().filter_map(|route| route.auth_password_file.as_ref());
    let proxies = config.sources.iter().filter_map(|source| source.proxy_password_file.as_ref());
    routes.chain(proxies).filter_map(readable_by_all).collect()
}

fn readable_by_all(file: &CredentialFile) -> Option<(String, String)> {
    let mode = fs::metadata(file.path()).ok()?.permissions().mode();
    let path = file.path().display();
    (mode & 0o004 != 0).then(|| {
        let what = format!("{path}: every user of this machine can read the password");
        (what, format!("run: chmod 600 {path}"))
    })
}
