//! What the doctor examines: a machine, and a configuration for it.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use crate::boot::cores::CoresFault;
use crate::boot::cores::Plan;
use crate::boot::topology::Topology;
use crate::config::Config;

/// The machine below `root`, and the configuration that is to run on it.
pub struct Subject {
    /// `/`, except in tests.
    pub root: PathBuf,
    pub config: Config,
    pub topology: Topology,
    pub plan: Result<Plan, CoresFault>,
}

impl Subject {
    pub fn new(root: &Path, config: Config) -> Subject {
        let topology = Topology::read(root);
        let plan = Plan::new(&config.server.cores, &topology);
        Subject { root: root.to_path_buf(), config, topology, plan }
    }

    /// The number of shards in the plan; one if there is no valid plan.
    pub fn shards(&self) -> usize {
        self.plan.as_ref().map_or(1, |plan| plan.shards.len())
    }

    /// The spool's folder, or the nearest parent that exists.
    pub fn nearest_to_spool(&self) -> PathBuf {
        nearest(&self.config.server.spool)
    }
}

/// `path`, or the nearest parent that exists.
pub fn nearest(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let existing = absolute.ancestors().find_map(|folder| fs::canonicalize(folder).ok());
    existing.unwrap_or(absolute)
}
