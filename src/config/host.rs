//! What the config depends on besides the file: the host name, the ports, the environment.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

/// Variables with this prefix belong to Ringpost.
pub const PREFIX: &str = "RINGPOST_";

/// The variable that names the config file.
pub const CONFIG_VARIABLE: &str = "RINGPOST_CONFIG";

/// Where systemd places credentials of the unit `ringpost.service`, for commands that do not run in
/// the unit.
const CREDENTIALS_USUAL: &str = "/run/credentials/ringpost.service";

/// What `load` must know of the machine and the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// The host name of the system, fully qualified if known.
    pub hostname: String,
    /// This process cannot bind lower ports.
    pub ports_from: u16,
    pub environment: Environment,
}

/// The environment variables that concern the config.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// Those with `PREFIX`, by name. A value that is not UTF-8 is `None`.
    pub variables: Vec<(Arc<str>, Option<String>)>,
    /// `$RINGPOST_CONFIG`.
    config_file: Option<PathBuf>,
    /// `$CREDENTIALS_DIRECTORY`.
    credentials: Option<PathBuf>,
}

impl Environment {
    /// The environment of this process.
    pub fn of_process() -> Environment {
        Environment::new(std::env::vars_os())
    }

    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Environment {
        let mut environment = Environment::default();
        for (name, value) in variables {
            match name.to_str() {
                Some("CREDENTIALS_DIRECTORY") => environment.credentials = Some(value.into()),
                Some(CONFIG_VARIABLE) => environment.config_file = Some(value.into()),
                Some(name) if name.starts_with(PREFIX) => {
                    environment.variables.push((name.into(), value.into_string().ok()));
                }
                _ => {}
            }
        }
        environment.variables.sort();
        environment
    }

    /// The config file for commands without `--config`.
    pub fn config_file(&self) -> Option<PathBuf> {
        self.config_file.clone()
    }

    /// The file of a systemd credential. It need not exist.
    pub fn credential(&self, name: &str) -> PathBuf {
        let usual = || PathBuf::from(CREDENTIALS_USUAL);
        self.credentials.clone().unwrap_or_else(usual).join(name)
    }
}
