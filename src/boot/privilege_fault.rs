//! Why the server cannot take, or give up, the rights that it needs; each text names the remedy.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why the server does not start with, or without, the rights it has.
#[derive(Debug)]
pub enum PrivilegeFault {
    NoSuchUser { user: String },
    NoSuchGroup { group: String },
    AccountUnreadable { name: String, cause: io::Error },
    IsRoot { user: String },
    ThreadsRun { count: usize },
    Refused { step: &'static str, cause: io::Error },
    Capabilities { step: &'static str, cause: String },
    NotDropped { what: String },
    NoFolder { path: PathBuf, cause: io::Error },
    NotOwner { path: PathBuf, owner: u32, user: String },
    NotWritable { path: PathBuf, barrier: PathBuf, user: String, cause: io::Error },
}

impl fmt::Display for PrivilegeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PrivilegeFault::NoSuchUser { user } => write!(
                f,
                "there is no user `{user}`; create it (`useradd --system --shell \
                 /usr/sbin/nologin {user}`) or change server.user"
            ),
            PrivilegeFault::NoSuchGroup { group } => write!(
                f,
                "there is no group `{group}`; create it (`groupadd --system {group}`) or change \
                 server.group"
            ),
            PrivilegeFault::AccountUnreadable { name, cause } => {
                write!(f, "`{name}` could not be looked up ({cause}); check /etc/nsswitch.conf")
            }
            PrivilegeFault::IsRoot { user } => write!(
                f,
                "`{user}` has the user id of root; set server.user to an unprivileged user, so that \
                 a bug in the server does not endanger the machine"
            ),
            PrivilegeFault::ThreadsRun { count } => {
                write!(
                    f,
                    "{count} threads already run; privileges must be dropped before other threads start"
                )
            }
            PrivilegeFault::Refused { step, cause } => write!(
                f,
                "{step} was refused ({cause}); a container that starts the server as root must \
                 keep CAP_SETUID and CAP_SETGID, or start the server as an unprivileged user"
            ),
            PrivilegeFault::Capabilities { step, cause } => {
                write!(f, "capabilities: {step} failed ({cause})")
            }
            PrivilegeFault::NotDropped { what } => {
                write!(f, "privileges were dropped, but {what}; the server does not start")
            }
            PrivilegeFault::NoFolder { path, cause } => write!(
                f,
                "{} cannot be used ({cause}); it must be a folder, not a link, or the server must \
                 be able to create it",
                path.display()
            ),
            PrivilegeFault::NotOwner { path, owner, user } => write!(
                f,
                "{path} belongs to the user with id {owner}, not to `{user}`; stop any other \
                 program that uses it, then `chown -R {user}: {path}`",
                path = path.display()
            ),
            PrivilegeFault::NotWritable { path, barrier, user, cause } => write!(
                f,
                "`{user}` may not write to {} ({cause} at {}); grant access (`chown`, `chmod`), or \
                 choose another path",
                path.display(),
                barrier.display()
            ),
        }
    }
}

impl std::error::Error for PrivilegeFault {}
