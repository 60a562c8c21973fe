//! The config of a command.

use std::path::Path;
use std::path::PathBuf;

use crate::boot::host::ports_from;
use crate::boot::hostname;
use crate::boot::privileges;
use crate::boot::run::ServeOptions;
use crate::config;
use crate::config::Config;
use crate::config::Environment;
use crate::config::HostFacts;
use crate::config::Origin;
use crate::operations::FaultKind;
use crate::operations::OpFault;

/// A config without errors.
pub struct Loaded {
    pub config: Config,
    pub warnings: Vec<config::Fault>,
    /// Where the value of each key came from.
    pub origins: Vec<Origin>,
    pub name: String,
    file: Option<PathBuf>,
    host: HostFacts,
}

impl From<Loaded> for ServeOptions {
    fn from(loaded: Loaded) -> ServeOptions {
        let Loaded { config, warnings, file, host, .. } = loaded;
        ServeOptions { config, file, host, warnings }
    }
}

/// Reads the config file and the environment, or reports all errors.
pub fn load(file: Option<PathBuf>) -> Result<Loaded, OpFault> {
    let root = Path::new("/");
    let host = HostFacts {
        hostname: hostname::read(root),
        ports_from: ports_from(root),
        environment: Environment::of_process(),
    };
    let file = file.or_else(|| host.environment.config_file());
    let (name, text) = match &file {
        Some(path) => {
            let name = path.display().to_string();
            let text = std::fs::read_to_string(path)
                .map_err(|cause| OpFault::usage("no_config", format!("{name}: {cause}")))?;
            (name, text)
        }
        None => (config::DEFAULTS.to_owned(), String::new()),
    };
    let config::Loaded { config, warnings, origins } =
        config::load(&text, &name, &host).map_err(|faults| invalid(&faults))?;
    Ok(Loaded { config, warnings, origins, name, file, host })
}

/// As `load`, for a command that opens the spool: root acts as its owner.
pub fn load_for_spool(file: Option<PathBuf>) -> Result<Loaded, OpFault> {
    let loaded = load(file)?;
    privileges::act_as_owner(&loaded.config.server.spool)
        .map_err(|fault| OpFault::new(FaultKind::Denied, "not_owner", fault.to_string()))?;
    Ok(loaded)
}

/// All errors of a config, one per line.
pub fn invalid(faults: &[impl ToString]) -> OpFault {
    let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
    OpFault::usage("config_invalid", lines.join("\n"))
}
