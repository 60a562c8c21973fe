//! The control runtime: everything that people and programs ask of a running server.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use crate::base::fault::end_process;
use crate::control::admin::Admin;
use crate::control::sts::StsFetcher;

/// What the control thread serves.
pub struct ControlParts {
    pub socket: PathBuf,
    pub admin: Arc<Admin>,
    pub sts: StsFetcher,
    /// Runs first on the thread: keep it off the shards' cores.
    pub on_start: Box<dyn FnOnce() + Send>,
}

/// Starts the thread. It lives as long as the process.
pub fn start(parts: ControlParts) -> io::Result<()> {
    parts.admin.listen(&parts.socket)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("control".to_owned()).spawn(move || {
        (parts.on_start)();
        runtime.block_on(fetch_policies(parts.sts));
    })?;
    Ok(())
}

/// In a task of its own, so that a bug in it is seen at once.
async fn fetch_policies(sts: StsFetcher) {
    if let Err(panic) = tokio::spawn(sts.run()).await {
        end_process(format_args!("the task that fetches MTA-STS policies panicked: {panic}"));
    }
}
