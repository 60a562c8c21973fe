//! The control thread: one tokio runtime for everything that is not mail.

use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use crate::control::admin::Admin;
use crate::control::scrape;
use crate::control::scrape::TopDestinations;
use crate::observe::Event;
use crate::observe::Observed;

/// Destinations shown in /stats.
const TOP_DESTINATIONS: usize = 20;

/// What the control thread serves. Sockets are bound before privileges are dropped.
pub struct ControlParts {
    pub http: Option<TcpListener>,
    pub socket: PathBuf,
    pub admin: Arc<Admin>,
    pub observed: Arc<Observed>,
    /// Runs first on the thread: keep it off the shards' cores.
    pub on_start: Box<dyn FnOnce() + Send>,
}

/// Starts the thread. It lives as long as the process.
pub fn start(parts: ControlParts) -> io::Result<()> {
    parts.admin.listen(&parts.socket)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("control".to_owned()).spawn(move || {
        (parts.on_start)();
        let admin = parts.admin;
        let top = Arc::new(move || admin.destinations(TOP_DESTINATIONS));
        runtime.block_on(serve(parts.http, parts.observed, top));
    })?;
    Ok(())
}

async fn serve(http: Option<TcpListener>, observed: Arc<Observed>, top: TopDestinations) {
    if let Some(http) = http
        && let Err(fault) = serve_http(http, observed, top).await
    {
        let what = format!("the HTTP side of the control plane ended: {fault}");
        Event::Warning { what: &what, remedy: "mail goes on; restart to have it back" }.emit();
    }
    std::future::pending::<()>().await;
}

async fn serve_http(
    http: TcpListener,
    observed: Arc<Observed>,
    top: TopDestinations,
) -> io::Result<()> {
    http.set_nonblocking(true)?;
    scrape::serve(tokio::net::TcpListener::from_std(http)?, observed, top).await
}
