//! Reload: the config file is read again, and keys that may change while running are replaced.
//!
//! Owner:    an actor of the control runtime, which carries out one reload after the other, for
//!           SIGHUP and `ringpost reload` alike. Reading files and building TLS block, so each
//!           reload runs on a blocking thread.
//! Promise:  a file with faults changes nothing. Keys that need a restart are named.
//! Bounds:   `REQUESTS_MAX` reloads wait. Full: SIGHUP is dropped, since a reload that has not begun
//!           reads the file as it is now; `ringpost reload` is refused as busy.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use crate::config;
use crate::config::Config;
use crate::config::HostFacts;
use crate::control::assemble::assemble;
use crate::observe::Observed;
use crate::observe::label::ReloadOutcome;
use crate::observe::log;
use crate::observe::log::Record;
use crate::operations::OpFault;
use crate::operations::server::Reloaded;
use crate::shard::CommandSender;

const REQUESTS_MAX: usize = 4;

/// Hears of each config that came into force.
pub type OnChange = Box<dyn Fn(&Config) + Send>;

/// What a reload needs to know and to reach.
pub struct Reloader {
    pub file: Option<PathBuf>,
    pub host: HostFacts,
    pub config: Arc<Config>,
    pub shards: Vec<CommandSender>,
    pub observed: Arc<Observed>,
    pub on_change: OnChange,
}

type Answer = Result<Reloaded, OpFault>;

/// Asks the actor.
#[derive(Clone)]
pub struct ReloadHandle {
    /// None: a signal, which hears no answer.
    requests: mpsc::Sender<Option<oneshot::Sender<Answer>>>,
    config: watch::Receiver<Arc<Config>>,
}

impl ReloadHandle {
    /// For a signal.
    pub fn request(&self) {
        // See the bounds.
        let _ = self.requests.try_send(None);
    }

    pub async fn reload(&self) -> Answer {
        let (sender, answer) = oneshot::channel();
        let busy =
            || OpFault::away("busy", "too many reloads at once").hint("try again").retry_after(1);
        self.requests.try_send(Some(sender)).map_err(|_| busy())?;
        answer.await.unwrap_or_else(|_| Err(OpFault::bug()))
    }

    /// The config in force.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow())
    }
}

/// The actor, to be spawned on the control runtime, and its handle.
pub fn actor(reloader: Reloader) -> (ReloadHandle, impl Future<Output = ()> + Send) {
    let (requests, waiting) = mpsc::channel(REQUESTS_MAX);
    let (publisher, config) = watch::channel(Arc::clone(&reloader.config));
    (ReloadHandle { requests, config }, serve(reloader, waiting, publisher))
}

async fn serve(
    reloader: Reloader,
    mut waiting: mpsc::Receiver<Option<oneshot::Sender<Answer>>>,
    publisher: watch::Sender<Arc<Config>>,
) {
    let reloader = Arc::new(Mutex::new(reloader));
    while let Some(request) = waiting.recv().await {
        let reloading = Arc::clone(&reloader);
        // The config is replaced in one step, so a panic leaves nothing half done.
        let reload = move || {
            let mut reloader = reloading.lock().unwrap_or_else(PoisonError::into_inner);
            (reloader.reload(), Arc::clone(&reloader.config))
        };
        let answer = match spawn_blocking(reload).await {
            Ok((answer, config)) => {
                publisher.send_replace(config);
                answer
            }
            Err(_) => Err(OpFault::bug()),
        };
        if let Some(caller) = request {
            // A caller that has given up needs no answer.
            let _ = caller.send(answer);
        }
    }
}

impl Reloader {
    fn reload(&mut self) -> Answer {
        log::reopen();
        let done = self.try_reload();
        let outcome = match &done {
            Ok(_) => ReloadOutcome::Done,
            Err(fault) => {
                let faults: Vec<String> =
                    fault.faults.iter().map(|fault| fault.text.clone()).collect();
                Record::ReloadRefused { faults: &faults }.emit();
                ReloadOutcome::Refused
            }
        };
        self.observed.process.reloads_total.add(outcome, 1);
        done
    }

    fn try_reload(&mut self) -> Answer {
        let Some(file) = &self.file else {
            // The embedded default cannot change; its certificates can.
            return self.put_in_force(Config::clone(&self.config), Reloaded::default());
        };
        let text = std::fs::read_to_string(file)
            .map_err(|cause| refused(&[format!("{}: {cause}", file.display())]))?;
        let loaded = config::load(&text, &file.display().to_string(), &self.host)
            .map_err(|faults| refused(&faults))?;
        let mut reloaded = Reloaded::default();
        for warning in &loaded.warnings {
            Record::Warning { what: &warning.without_hint(), remedy: &warning.hint }.emit();
            reloaded.warnings.push(warning.to_string());
        }
        let (next, changes) = config::reloaded(&self.config, &loaded.config);
        reloaded.changed = changes.live.iter().map(ToString::to_string).collect();
        reloaded.needs_restart = changes.needs_restart.iter().map(ToString::to_string).collect();
        self.put_in_force(next, reloaded)
    }

    fn put_in_force(&mut self, config: Config, mut reloaded: Reloaded) -> Answer {
        let assembled = assemble(&config).map_err(|faults| refused(&faults))?;
        for (what, remedy) in &assembled.warnings {
            Record::Warning { what, remedy }.emit();
            reloaded.warnings.push(format!("{what}; {remedy}"));
        }
        self.observed.set_certificates(assembled.certificates());
        let policy = Arc::new(assembled.policy);
        let delivery = Arc::new(assembled.delivery);
        for shard in &self.shards {
            if !shard.reload(&policy, &delivery) {
                let (what, remedy) = ("a shard is busy and keeps its old settings", "reload again");
                Record::Warning { what, remedy }.emit();
                reloaded.warnings.push(format!("{what}; {remedy}"));
            }
        }
        log::set_level(config.log.level);
        self.config = Arc::new(config);
        (self.on_change)(&self.config);
        Record::Reloaded { changed: &reloaded.changed }.emit();
        if !reloaded.needs_restart.is_empty() {
            Record::NeedsRestart { keys: &reloaded.needs_restart }.emit();
        }
        Ok(reloaded)
    }
}

fn refused(faults: &[impl ToString]) -> OpFault {
    let fault = OpFault::usage("config_invalid", "the config has errors; nothing has changed");
    faults.iter().fold(fault, |fault, one| fault.fault("", "invalid", one.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::mpsc as std_mpsc;

    use crate::config::load;

    fn host() -> HostFacts {
        HostFacts { hostname: "mx.test".to_owned(), ports_from: 1024, ..HostFacts::default() }
    }

    /// Two reloads at once are carried out one after the other, and each caller hears its own.
    #[test]
    fn two_reloads_at_once_are_carried_out_in_turn() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ringpost.toml");
        let text = |limit: u32| {
            let spool = folder.path().join("spool");
            format!(
                "[server]\nspool = {spool:?}\n[limits]\nconnections = {limit}\n[[listener]]\naddress = '127.0.0.1:0'\ntls = 'none'\n"
            )
        };
        std::fs::write(&file, text(1000)).expect("it is written");
        let config = load(&text(500), "f", &host()).expect("it is good").config;
        let (entered, first_began) = std_mpsc::channel();
        let (go_on, gate) = std_mpsc::channel::<()>();
        let on_change: OnChange = Box::new(move |config| {
            entered.send(config.limits.connections).expect("the test listens");
            // The second begins only when the first has ended.
            gate.recv().expect("the test sends");
        });
        let (handle, serving) = actor(Reloader {
            file: Some(file.clone()),
            host: host(),
            config: Arc::new(config),
            shards: Vec::new(),
            observed: Observed::new(1, 1),
            on_change,
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build();
        let runtime = runtime.expect("a runtime");
        runtime.spawn(serving);
        let (one, other) = (handle.clone(), handle.clone());
        let one = runtime.spawn(async move { one.reload().await });
        assert_eq!(first_began.recv().expect("it begins"), 1000);
        let other = runtime.spawn(async move { other.reload().await });
        std::fs::write(&file, text(2000)).expect("it is written");
        assert_eq!(handle.config().limits.connections, 500, "in force when its reload has ended");
        assert!(first_began.try_recv().is_err(), "one at a time");
        go_on.send(()).expect("it waits");
        let one = runtime.block_on(one).expect("no panic").expect("it is good");
        assert_eq!(one.changed, ["limits.connections"]);
        assert_eq!(first_began.recv().expect("the second begins"), 2000);
        go_on.send(()).expect("it waits");
        let other = runtime.block_on(other).expect("no panic").expect("it is good");
        assert_eq!(other.changed, ["limits.connections"]);
        handle.request();
        assert_eq!(first_began.recv().expect("the signal's begins"), 2000);
        std::fs::write(&file, "[limits]\nconnections = 'many'\n").expect("it is written");
        go_on.send(()).expect("it waits");
        let refused = runtime.block_on(handle.reload()).expect_err("it is bad");
        assert_eq!(
            (refused.kind, &*refused.code),
            (crate::operations::FaultKind::Usage, "config_invalid")
        );
        assert!(refused.faults[0].text.contains("limits.connections"), "{refused}");
        assert_eq!(handle.config().limits.connections, 2000, "a bad file changes nothing");
    }
}
