//! The control socket: the router over a unix socket, for operators of this machine.
//!
//! Promise:  the socket lies in the spool, which only its owner may enter; the kernel also tells who
//!           connects. The owner of the socket and root are operators, anybody else is a stranger.
//! Bounds:   as `connections`; a client that does not read its answer is dropped after `PATIENCE`.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::extract::Request;
use axum::extract::State;
use axum::extract::connect_info::Connected;
use axum::middleware::Next;
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::serve::IncomingStream;
use tokio::net::UnixListener;

use crate::control::call::Actor;
use crate::control::connections::BoundedListener;
use crate::control::connections::Slot;
use crate::control::connections::answering_in;

const PATIENCE: Duration = Duration::from_secs(30);
/// A long audit, or a large message to a slow reader.
const LIFETIME_MAX: Duration = Duration::from_secs(3600);
const ROOT: u32 = 0;

/// Binds the socket with mode 0600. A stale socket of a process that is gone is replaced; the lock of
/// the spool has shown that no other server uses it.
pub fn bind(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    clear_stale(path)?;
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The users who are operators at this socket.
pub fn operators(path: &Path) -> io::Result<Vec<u32>> {
    Ok(vec![ROOT, fs::symlink_metadata(path)?.uid()])
}

/// Serves until `drained`, then ends when the requests in progress have been answered.
pub async fn serve(
    listener: std::os::unix::net::UnixListener,
    operators: Vec<u32>,
    router: Router,
    drained: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let listener = BoundedListener::new(listener, PATIENCE, LIFETIME_MAX);
    let router = router.layer(from_fn_with_state(Arc::new(operators), enter));
    let service = router.into_make_service_with_connect_info::<Peer>();
    axum::serve(listener, service).with_graceful_shutdown(drained).await
}

/// Who is at the other end.
#[derive(Clone)]
struct Peer {
    slot: Slot,
    /// None: the kernel does not tell.
    user: Option<u32>,
}

impl Connected<IncomingStream<'_, BoundedListener<UnixListener>>> for Peer {
    fn connect_info(stream: IncomingStream<'_, BoundedListener<UnixListener>>) -> Peer {
        let connection = stream.io();
        let user = connection.stream().peer_cred().ok().map(|peer| peer.uid());
        Peer { slot: connection.slot().clone(), user }
    }
}

async fn enter(
    State(operators): State<Arc<Vec<u32>>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let user = peer.user.filter(|user| operators.contains(user));
    let actor = user.map_or(Actor::Stranger, |user| Actor::Operator { user: Some(user) });
    request.extensions_mut().insert(actor);
    answering_in(peer.slot, request, next).await
}

/// Removes a socket that no process answers, and nothing else.
fn clear_stale(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(cause),
    };
    if !found.file_type().is_socket() {
        let what =
            format!("{} is not a socket; set control.socket to another path", path.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
    }
    if UnixStream::connect(path).is_ok() {
        let what = format!("{} belongs to a running server", path.display());
        return Err(io::Error::new(io::ErrorKind::AddrInUse, what));
    }
    fs::remove_file(path)
}
