//! The control thread: one tokio runtime for everything that is not mail.

use std::io;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::base::fault::end_process;
use crate::control::admin::Admin;
use crate::control::operators;
use crate::control::scrape;
use crate::control::scrape::TopDestinations;
use crate::control::sts::StsFetcher;
use crate::observe::Observed;
use crate::observe::log::Record;
use crate::outbound::survey::DestinationsShelf;

/// Destinations shown in /stats.
const TOP_DESTINATIONS: usize = 20;

/// How often an address that could not be bound is tried again.
const BIND_AGAIN: Duration = Duration::from_secs(2);

/// What the control thread serves. Sockets are bound before privileges are dropped.
pub struct ControlParts {
    pub http: Option<HttpListener>,
    pub socket: PathBuf,
    pub admin: Arc<Admin>,
    pub observed: Arc<Observed>,
    /// Where each shard shows its destinations.
    pub destinations: Vec<Arc<DestinationsShelf>>,
    pub sts: StsFetcher,
    /// Runs first on the thread: keep it off the shards' cores.
    pub on_start: Box<dyn FnOnce() + Send>,
}

/// Where HTTP is served.
pub struct HttpListener {
    pub address: SocketAddr,
    /// Why it is not bound yet. Mail does not depend on it, so that it is tried again.
    pub bound: Result<TcpListener, String>,
}

/// Starts the thread. It lives as long as the process.
pub fn start(parts: ControlParts) -> io::Result<()> {
    parts.admin.listen(&parts.socket)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("control".to_owned()).spawn(move || {
        (parts.on_start)();
        let destinations = parts.destinations;
        let top = Arc::new(move || operators::snapshot_json(&destinations, TOP_DESTINATIONS));
        runtime.block_on(async {
            tokio::spawn(fetch_policies(parts.sts));
            serve(parts.http, parts.observed, top).await;
        });
    })?;
    Ok(())
}

/// In a task of its own, so that a bug in it is seen at once.
async fn fetch_policies(sts: StsFetcher) {
    if let Err(panic) = tokio::spawn(sts.run()).await {
        end_process(format_args!("the task that fetches MTA-STS policies panicked: {panic}"));
    }
}

async fn serve(http: Option<HttpListener>, observed: Arc<Observed>, top: TopDestinations) {
    if let Some(http) = http
        && let Err(fault) = serve_http(http, observed, top).await
    {
        let what = format!("the HTTP side of the control plane ended: {fault}");
        Record::Warning { what: &what, remedy: "mail goes on; restart to have it back" }.emit();
    }
    std::future::pending::<()>().await;
}

async fn serve_http(
    http: HttpListener,
    observed: Arc<Observed>,
    top: TopDestinations,
) -> io::Result<()> {
    let listener = match http.bound {
        Ok(listener) => {
            listener.set_nonblocking(true)?;
            tokio::net::TcpListener::from_std(listener)?
        }
        Err(cause) => bind_at_last(http.address, &cause).await,
    };
    scrape::serve(listener, observed, top).await
}

/// Tells once that the address cannot be had, and tries until it can.
async fn bind_at_last(address: SocketAddr, cause: &str) -> tokio::net::TcpListener {
    let action = "mail is served; binding is retried every 2 s";
    Record::HttpNotServed { address, cause: &cause, action }.emit();
    loop {
        tokio::time::sleep(BIND_AGAIN).await;
        if let Ok(listener) = tokio::net::TcpListener::bind(address).await {
            Record::HttpServed { address }.emit();
            return listener;
        }
    }
}
