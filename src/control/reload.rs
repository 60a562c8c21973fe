//! Reload: the config file is read again, and what may change while running is replaced.
//!
//! Promise:  a bad file changes nothing. What was changed and needs a restart is named.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config;
use crate::config::Config;
use crate::config::HostFacts;
use crate::config::LogLevel;
use crate::control::assemble::assemble;
use crate::observe::Observed;
use crate::observe::label::ReloadOutcome;
use crate::observe::log;
use crate::observe::log::Level;
use crate::observe::log::Record;
use crate::shard::CommandSender;

/// What a reload needs to know and to reach.
pub struct Reloader {
    pub file: Option<PathBuf>,
    pub host: HostFacts,
    pub config: Config,
    pub shards: Vec<CommandSender>,
    pub observed: Arc<Observed>,
}

impl Reloader {
    /// Carries out one SIGHUP.
    pub fn reload(&mut self) {
        log::reopen();
        let outcome = match self.try_reload() {
            Ok(()) => ReloadOutcome::Done,
            Err(faults) => {
                Record::ReloadRefused { faults: &faults }.emit();
                ReloadOutcome::Refused
            }
        };
        self.observed.process.reloads_total.add(outcome, 1);
    }

    fn try_reload(&mut self) -> Result<(), Vec<String>> {
        let Some(file) = &self.file else {
            // The embedded default cannot change; its certificates can.
            return self.put_in_force(self.config.clone(), &[], &[]);
        };
        let text = std::fs::read_to_string(file)
            .map_err(|cause| vec![format!("{}: {cause}", file.display())])?;
        let loaded = config::load(&text, &file.display().to_string(), &self.host)
            .map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        for warning in &loaded.warnings {
            Record::Warning { what: &warning.without_hint(), remedy: &warning.hint }.emit();
        }
        let (next, changes) = config::reloaded(&self.config, &loaded.config);
        let live: Vec<String> = changes.live.iter().map(ToString::to_string).collect();
        let waiting: Vec<String> = changes.needs_restart.iter().map(ToString::to_string).collect();
        self.put_in_force(next, &live, &waiting)
    }

    fn put_in_force(
        &mut self,
        config: Config,
        live: &[String],
        waiting: &[String],
    ) -> Result<(), Vec<String>> {
        let assembled = assemble(&config)?;
        for (what, remedy) in &assembled.warnings {
            Record::Warning { what, remedy }.emit();
        }
        self.observed.set_certificates(assembled.certificates());
        let policy = Arc::new(assembled.policy);
        let delivery = Arc::new(assembled.delivery);
        for shard in &self.shards {
            if !shard.reload(&policy, &delivery) {
                let what = "a shard did not take the reload; it keeps its old settings";
                Record::Warning { what, remedy: "send SIGHUP again" }.emit();
            }
        }
        log::set_level(level_of(config.log.level));
        self.config = config;
        Record::Reloaded { changed: live }.emit();
        if !waiting.is_empty() {
            Record::NeedsRestart { keys: waiting }.emit();
        }
        Ok(())
    }
}

pub fn level_of(level: LogLevel) -> Level {
    match level {
        LogLevel::Error => Level::Error,
        LogLevel::Warn => Level::Warn,
        LogLevel::Info => Level::Info,
        LogLevel::Debug => Level::Debug,
    }
}
