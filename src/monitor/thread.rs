//! The monitor thread: a current-thread runtime that serves monitoring and nothing else.
//!
//! Promise:  mail does not depend on the port: while another process holds it, mail is served, the
//!           log says so once, and binding is retried every `BIND_RETRY`.

use std::io;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::monitor::scrape;
use crate::monitor::scrape::Shelves;
use crate::observe::Observed;
use crate::observe::log::Record;

/// How often binding is retried.
const BIND_RETRY: Duration = Duration::from_secs(2);

/// The address of monitoring.
pub struct MonitorListener {
    pub address: SocketAddr,
    /// Why the address is not bound yet. Binding is retried: mail does not depend on it.
    pub bound: Result<TcpListener, String>,
}

/// What the monitor thread serves. The socket is bound before privileges are dropped.
pub struct MonitorParts {
    pub listener: MonitorListener,
    pub observed: Arc<Observed>,
    /// Where each shard publishes its destinations.
    pub destinations: Shelves,
    /// Runs first on the thread: keeps it off the shards' cores.
    pub on_start: Arc<dyn Fn() + Send + Sync>,
}

/// Starts the thread. It runs until the process ends.
pub fn start(parts: MonitorParts) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("monitor".to_owned()).spawn(move || {
        (parts.on_start)();
        let serving = serve(parts.listener, parts.observed, parts.destinations);
        if let Err(fault) = runtime.block_on(serving) {
            let what = format!("monitoring ended: {fault}");
            Record::Warning {
                what: &what,
                remedy: "mail is not affected; restart the server to restore it",
            }
            .emit();
        }
    })?;
    Ok(())
}

async fn serve(
    listener: MonitorListener,
    observed: Arc<Observed>,
    destinations: Shelves,
) -> io::Result<()> {
    let bound = match listener.bound {
        Ok(bound) => {
            bound.set_nonblocking(true)?;
            tokio::net::TcpListener::from_std(bound)?
        }
        Err(cause) => bind_later(listener.address, &cause).await,
    };
    scrape::serve(bound, observed, destinations).await
}

/// Reports once that the address is not available, and retries until it is.
async fn bind_later(address: SocketAddr, cause: &str) -> tokio::net::TcpListener {
    let action = "mail is served; binding is retried every 2 s";
    Record::HttpNotServed { address, cause: &cause, action }.emit();
    loop {
        tokio::time::sleep(BIND_RETRY).await;
        if let Ok(listener) = tokio::net::TcpListener::bind(address).await {
            Record::HttpServed { address }.emit();
            return listener;
        }
    }
}
