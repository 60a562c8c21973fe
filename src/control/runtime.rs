//! The control runtime: two threads for everything that people and programs ask of a running server.
//!
//! Order:    start. `prepare` does all that can fail, before mail is accepted; `start` when the shards run.
//!           Drain. First `drain`: shards are asked no more, reads go on. When the shards have ended,
//!           `end`: no new request is accepted, those in progress get `END_MAX`.
//! Fatal:    a panic in the task that fetches MTA-STS policies.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::base::fault::end_process;
use crate::config::Config;
use crate::control::reload;
use crate::control::reload::ReloadHandle;
use crate::control::reload::Reloader;
use crate::control::router::router;
use crate::control::server::Control;
use crate::control::server::ControlParts;
use crate::control::server::Patience;
use crate::control::socket;
use crate::control::sts::StsFetcher;
use crate::handoff::Placement;
use crate::handoff::Sender;
use crate::observe::Observed;
use crate::observe::log::Record;
use crate::queue::Spool;
use crate::queue::admin::pauses::Pauses;
use crate::shard::ShardRequest;

const THREADS: usize = 2;
/// Threads that read the store and files: more than operations run at a time.
const BLOCKING_THREADS_MAX: usize = 16;
/// Requests in progress at the end get so long.
const END_MAX: Duration = Duration::from_secs(2);

/// The bound socket and the threads, before they serve.
pub struct Prepared {
    listener: UnixListener,
    operators: Vec<u32>,
    runtime: Runtime,
}

/// What the control runtime serves.
pub struct RuntimeParts {
    pub spool: Arc<Spool>,
    pub shards: Vec<Sender<ShardRequest>>,
    pub placement: Placement,
    pub pauses: Arc<Pauses>,
    pub observed: Arc<Observed>,
    pub reloader: Reloader,
    pub sts: StsFetcher,
}

/// The running control plane.
pub struct ControlRuntime {
    runtime: Runtime,
    control: Arc<Control>,
    reload: ReloadHandle,
    end: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

/// Binds the socket and starts the threads. `on_thread_start` runs first on each of them: it keeps them
/// off the shards' cores.
pub fn prepare(
    socket: &Path,
    on_thread_start: Arc<dyn Fn() + Send + Sync>,
) -> io::Result<Prepared> {
    let listener = socket::bind(socket)?;
    let operators = socket::operators(socket)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("control")
        .on_thread_start(move || on_thread_start())
        .enable_all()
        .build()?;
    Ok(Prepared { listener, operators, runtime })
}

/// Serves the socket.
pub fn start(prepared: Prepared, parts: RuntimeParts) -> ControlRuntime {
    let Prepared { listener, operators, runtime } = prepared;
    let RuntimeParts { spool, shards, placement, pauses, observed, reloader, sts } = parts;
    let (reload, reloading) = reload::actor(reloader);
    let control = Control::new(ControlParts {
        spool,
        shards,
        placement,
        patience: Patience::default(),
        pauses,
        observed,
        reload: reload.clone(),
    });
    runtime.spawn(reloading);
    runtime.spawn(fetch_policies(sts));
    let (end, ended) = oneshot::channel();
    let serving = runtime.spawn(serve(listener, operators, Arc::clone(&control), ended));
    ControlRuntime { runtime, control, reload, end, serving }
}

impl ControlRuntime {
    /// Asks for a reload, for SIGHUP.
    pub fn reload(&self) {
        self.reload.request();
    }

    /// The config in force.
    pub fn config(&self) -> Arc<Config> {
        self.reload.config()
    }

    /// The shards are about to end.
    pub fn drain(&self) {
        self.control.drain();
    }

    /// Ends the threads. Reads that hang with their disk are left behind.
    pub fn end(self) {
        let ControlRuntime { runtime, end, serving, .. } = self;
        // Fails where the server has ended by itself.
        let _ = end.send(());
        // Requests that have not ended by then lose their connection.
        let _ = runtime.block_on(async { timeout(END_MAX, serving).await });
        runtime.shutdown_background();
    }
}

async fn serve(
    listener: UnixListener,
    operators: Vec<u32>,
    control: Arc<Control>,
    ended: oneshot::Receiver<()>,
) {
    let drained = async {
        // The sender is dropped only with the process.
        let _ = ended.await;
    };
    if let Err(fault) = socket::serve(listener, operators, router(control), drained).await {
        let what = format!("the control socket ended: {fault}");
        Record::Warning {
            what: &what,
            remedy: "mail is not affected; restart the server to restore it",
        }
        .emit();
    }
}

/// In a task of its own, so that a panic in it is seen at once.
async fn fetch_policies(sts: StsFetcher) {
    if let Err(panic) = tokio::spawn(sts.run()).await
        && panic.is_panic()
    {
        end_process(format_args!("the task that fetches MTA-STS policies panicked: {panic}"));
    }
}
