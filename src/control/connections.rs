//! HTTP connections: a bounded number, and always room for the next client.
//!
//! Promise:  monitoring cannot take the descriptors that mail needs, and idle clients do not keep
//!           others out: when all slots are taken, the connection that has been idle longest is
//!           closed for the new one. A connection whose request is being answered is not idle.
//! Bounds:   `CONNECTIONS_MAX` connections, and the times given to `BoundedListener::new`. A client
//!           that keeps its connection open has to reconnect at the end of its lifetime.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::task::ready;
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::extract::Request;
use axum::extract::connect_info::Connected;
use axum::middleware::Next;
use axum::response::Response;
use axum::serve::IncomingStream;
use axum::serve::Listener;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio::time::Instant;
use tokio::time::Sleep;
use tokio::time::sleep_until;
use tokio::time::timeout;

pub const CONNECTIONS_MAX: usize = 64;
/// A connection is not closed for another one before it has been idle for so long: what its client
/// has sent may not have been read yet.
const IDLE_MIN: Duration = Duration::from_millis(10);
/// How often a new client looks for a slot while no connection may be closed.
const LOOK: Duration = Duration::from_millis(5);

/// A listener with a bounded number of connections.
pub struct BoundedListener<L> {
    listener: L,
    silence_max: Duration,
    lifetime_max: Duration,
    free: Arc<Semaphore>,
    slots: Arc<Mutex<Vec<Slot>>>,
}

impl<L> BoundedListener<L> {
    /// A client has `silence_max` to send a complete request header and to read each part of an
    /// answer, and `lifetime_max` in all.
    pub fn new(listener: L, silence_max: Duration, lifetime_max: Duration) -> BoundedListener<L> {
        let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        BoundedListener { listener, silence_max, lifetime_max, free, slots: Arc::default() }
    }
}

/// Waits for a slot, which the connection that has waited longest makes free if need be.
async fn take_slot(free: &Arc<Semaphore>, slots: &Mutex<Vec<Slot>>) -> OwnedSemaphorePermit {
    loop {
        if let Ok(permit) = Arc::clone(free).try_acquire_owned() {
            return permit;
        }
        // Those that have something to read get to it first.
        yield_now().await;
        close_longest_waiting(&lock(slots));
        if let Ok(permit) = timeout(LOOK, Arc::clone(free).acquire_owned()).await {
            return permit.expect("the semaphore is never closed");
        }
    }
}

impl<L: Listener> Listener for BoundedListener<L> {
    type Io = Connection<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Connection<L::Io>, L::Addr) {
        let (stream, peer) = self.listener.accept().await;
        let permit = take_slot(&self.free, &self.slots).await;
        let slot = Slot::new();
        lock(&self.slots).push(slot.clone());
        let end = Instant::now() + self.lifetime_max;
        let connection = Connection {
            stream,
            slot,
            silence_max: self.silence_max,
            end,
            alarm: Box::pin(sleep_until(end)),
            slots: Arc::clone(&self.slots),
            _permit: permit,
        };
        (connection, peer)
    }

    fn local_addr(&self) -> io::Result<L::Addr> {
        self.listener.local_addr()
    }
}

/// At most one at a time: the one before may not have gone yet.
fn close_longest_waiting(slots: &[Slot]) {
    if slots.iter().any(|slot| slot.lock().is_closed) {
        return;
    }
    let waiting = slots.iter().filter_map(|slot| Some((slot.lock().stage.waiting_since()?, slot)));
    if let Some((since, slot)) = waiting.min_by_key(|(since, _)| *since)
        && since.elapsed() >= IDLE_MIN
    {
        slot.close();
    }
}

/// What listener, connection and request know of each other.
#[derive(Clone)]
pub struct Slot(Arc<Mutex<SlotState>>);

struct SlotState {
    stage: Stage,
    is_closed: bool,
    connection: Option<Waker>,
}

#[derive(Clone, Copy)]
enum Stage {
    /// Accepted; nobody has tried to read from it yet.
    Fresh,
    /// For the client, which since then has neither ended its request nor taken any of an answer.
    Waiting(Instant),
    Answering,
}

impl Stage {
    fn waiting_since(self) -> Option<Instant> {
        match self {
            Stage::Waiting(since) => Some(since),
            Stage::Fresh | Stage::Answering => None,
        }
    }
}

impl Slot {
    fn new() -> Slot {
        let state = SlotState { stage: Stage::Fresh, is_closed: false, connection: None };
        Slot(Arc::new(Mutex::new(state)))
    }

    fn lock(&self) -> MutexGuard<'_, SlotState> {
        lock(&self.0)
    }

    fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        if let Some(connection) = state.connection.take() {
            connection.wake();
        }
    }
}

impl<L: Listener> Connected<IncomingStream<'_, BoundedListener<L>>> for Slot {
    fn connect_info(stream: IncomingStream<'_, BoundedListener<L>>) -> Slot {
        stream.io().slot.clone()
    }
}

/// A layer around all handlers: while one runs, its connection does not wait for the client.
pub async fn answering(
    ConnectInfo(slot): ConnectInfo<Slot>,
    request: Request,
    next: Next,
) -> Response {
    answering_in(slot, request, next).await
}

/// As `answering`, for a listener with connect info of its own.
pub async fn answering_in(slot: Slot, request: Request, next: Next) -> Response {
    slot.lock().stage = Stage::Answering;
    let _answering = Answering(slot);
    next.run(request).await
}

struct Answering(Slot);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.lock().stage = Stage::Waiting(Instant::now());
    }
}

/// One connection in its slot.
pub struct Connection<S> {
    stream: S,
    slot: Slot,
    silence_max: Duration,
    end: Instant,
    alarm: Pin<Box<Sleep>>,
    slots: Arc<Mutex<Vec<Slot>>>,
    _permit: OwnedSemaphorePermit,
}

impl<S> Connection<S> {
    pub fn stream(&self) -> &S {
        &self.stream
    }

    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Ready when the connection is to be closed.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let due = {
            let mut state = self.slot.lock();
            if state.is_closed {
                return Poll::Ready(io::ErrorKind::ConnectionAborted.into());
            }
            state.connection = Some(cx.waker().clone());
            let silent = state.stage.waiting_since().map(|since| since + self.silence_max);
            silent.map_or(self.end, |due| due.min(self.end))
        };
        if self.alarm.deadline() != due {
            self.alarm.as_mut().reset(due);
        }
        ready!(self.alarm.as_mut().poll(cx));
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }

    /// The client has taken some of an answer.
    fn note_progress(&self) {
        let mut state = self.slot.lock();
        if let Stage::Waiting(since) = &mut state.stage {
            *since = Instant::now();
        }
    }
}

impl<S> Drop for Connection<S> {
    fn drop(&mut self) {
        lock(&self.slots).retain(|slot| !Arc::ptr_eq(&slot.0, &self.slot.0));
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(cause) = self.poll_end(cx) {
            return Poll::Ready(Err(cause));
        }
        if let read @ Poll::Ready(_) = Pin::new(&mut self.stream).poll_read(cx, buf) {
            return read;
        }
        let is_fresh = matches!(self.slot.lock().stage, Stage::Fresh);
        if is_fresh {
            self.slot.lock().stage = Stage::Waiting(Instant::now());
            return self.poll_end(cx).map(Err);
        }
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(cause) = self.poll_end(cx) {
            return Poll::Ready(Err(cause));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        self.note_progress();
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What is locked here is changed in one step, so a panic leaves nothing half done.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::io::Write;
    use std::net::SocketAddr;
    use std::net::TcpStream as Client;
    use std::thread;

    use axum::Router;
    use axum::middleware::from_fn;
    use axum::routing::get;
    use tokio::net::TcpListener;
    use tokio::sync::Notify;

    use super::*;

    const LIFETIME: Duration = Duration::from_secs(600);

    /// A server on a thread of its own. `/slow` is answered when it is told to.
    fn start(silence_max: Duration) -> (SocketAddr, Arc<Notify>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("bound");
        let go_on = Arc::new(Notify::new());
        let waiting = Arc::clone(&go_on);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let slow = move || async move {
                    waiting.notified().await;
                    "slow"
                };
                let router =
                    Router::new().route("/slow", get(slow)).route("/", get(|| async { "ok" }));
                let service = router.layer(from_fn(answering));
                let listener = TcpListener::from_std(listener).expect("within a runtime");
                let listener = BoundedListener::new(listener, silence_max, LIFETIME);
                let service = service.into_make_service_with_connect_info::<Slot>();
                axum::serve(listener, service).await
            })
        });
        (address, go_on)
    }

    fn say(address: SocketAddr, text: &str) -> Client {
        let mut client = Client::connect(address).expect("it listens");
        client.set_read_timeout(Some(Duration::from_secs(30))).expect("it is no zero");
        client.write_all(text.as_bytes()).expect("it is sent");
        client
    }

    fn hear(client: &mut Client) -> String {
        let mut text = String::new();
        // One that is sent away may find the connection reset.
        let _ = client.read_to_string(&mut text);
        text
    }

    fn request(path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    }

    #[test]
    fn the_one_that_waits_longest_makes_room() {
        let (address, go_on) = start(Duration::from_secs(600));
        let mut answered = say(address, &request("/slow"));
        let mut silent: Vec<Client> = (1..CONNECTIONS_MAX)
            .map(|number| say(address, if number % 2 == 0 { "GET / HT" } else { "" }))
            .collect();
        // Each of these needs a slot that only a silent one can give.
        for _ in 0..3 {
            assert!(hear(&mut say(address, &request("/"))).ends_with("ok"));
        }
        let mut latest = silent.pop().expect("there are many");
        let mut oldest = silent.remove(0);
        assert_eq!(hear(&mut oldest), "", "it was sent away");
        latest.write_all(b"").expect("it is still there");
        go_on.notify_one();
        assert!(hear(&mut answered).ends_with("slow"), "what is being answered keeps its slot");
    }

    #[test]
    fn silence_is_ended_wherever_it_comes() {
        let (address, _) = start(Duration::from_millis(100));
        for said in ["", "GET / HTTP/1.1\r\nX: "] {
            assert_eq!(hear(&mut say(address, said)), "", "after {said:?}");
        }
        let kept = hear(&mut say(address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert!(kept.ends_with("ok"), "answered, and ended when no more came: {kept}");
    }

    #[test]
    fn an_answer_that_takes_time_is_no_silence() {
        let (address, go_on) = start(Duration::from_millis(50));
        let mut slow = say(address, &request("/slow"));
        // It is sent away only after more silence than there may be.
        assert_eq!(hear(&mut say(address, "")), "");
        assert_eq!(hear(&mut say(address, "")), "");
        go_on.notify_one();
        assert!(hear(&mut slow).ends_with("slow"));
    }
}
