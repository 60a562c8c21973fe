//! The control socket: what `ringpost queue` and `ringpost health` ask of a running server.
//!
//! Owner:    a thread of its own that accepts, and one short-lived thread for each client; reading
//!           the store blocks, so none of it is on a runtime.
//! Promise:  looking takes nothing from the shards. A deletion goes through the shard that is home
//!           to the message, like every other change.
//! Bounds:   a request is one line of at most `REQUEST_BYTES_MAX` and must arrive within
//!           `REQUEST_TIME`. At most `ARRIVALS_MAX` clients may be sending one; the next client
//!           replaces the oldest, so that silent clients do not keep others out. `REQUESTS_MAX`
//!           requests are carried out at a time; the next gets a fault, except for health, which is
//!           always answered. A client that does not read its answer is dropped after `PATIENCE`.
//! Trust:    the socket lies in the spool, which only its owner may enter.
//!
//! A request is one line of JSON; the answer is a line `{"ok": ..}` or `{"fault": ".."}`. `cat`
//! answers with pieces: a line `{"bytes": n}` and so many bytes, until `{"ok": null}` or a fault.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use crate::base::MessageId;
use crate::base::PublicId;
use crate::handoff::Placement;
use crate::handoff::Sender;
use crate::observe::Observed;
use crate::observe::log::Record;
use crate::queue::Spool;
use crate::queue::audit;
use crate::queue::inspect;
use crate::queue::inspect::ListFilter;
use crate::queue::operate::Operation;
use crate::queue::pauses::Pauses;
use crate::queue::select;
use crate::queue::select::Wanted;
use crate::shard::Order;

const ARRIVALS_MAX: usize = 16;
const REQUESTS_MAX: usize = 8;
/// Rows of one answer to `list`.
pub const LIST_PAGE_ROWS: usize = 1000;
const REQUEST_BYTES_MAX: usize = 64 << 10;
const REQUEST_TIME: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(30);

/// What may be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    List {
        limit: usize,
        after: Option<String>,
        #[serde(default)]
        wanted: Wanted,
    },
    Summary {
        limit: usize,
    },
    Show {
        id: String,
    },
    Stats,
    Audit,
    Cat {
        id: String,
    },
    Delete {
        id: String,
    },
    Health,
    Operate {
        operation: Operation,
        ids: Vec<String>,
    },
    Why {
        id: String,
    },
    Destinations {
        limit: usize,
    },
    Destination {
        destination: String,
    },
    Pause {
        destination: String,
    },
    Resume {
        destination: String,
    },
}

/// What the socket's threads share.
pub struct Admin {
    pub(super) spool: Arc<Spool>,
    pub(super) shards: Vec<Sender<Order>>,
    pub(super) placement: Placement,
    pub(super) pauses: Arc<Pauses>,
    /// Pauses and their ends reach the file and the shards in one order.
    pub(super) pausing: Mutex<()>,
    observed: Arc<Observed>,
    arrivals: Mutex<Arrivals>,
    /// Requests that are being carried out.
    requests: AtomicUsize,
}

/// What `Admin` is made of.
pub struct AdminParts {
    pub spool: Arc<Spool>,
    pub shards: Vec<Sender<Order>>,
    pub placement: Placement,
    pub pauses: Arc<Pauses>,
    pub observed: Arc<Observed>,
}

impl Admin {
    pub fn new(parts: AdminParts) -> Arc<Admin> {
        let AdminParts { spool, shards, placement, pauses, observed } = parts;
        let (pausing, arrivals) = (Mutex::default(), Mutex::default());
        let requests = AtomicUsize::new(0);
        Arc::new(Admin { spool, shards, placement, pauses, pausing, observed, arrivals, requests })
    }

    /// Opens the socket and starts to answer. A stale socket of a process that is gone is
    /// replaced; the spool's lock has shown that none is alive.
    pub fn listen(self: &Arc<Admin>, path: &Path) -> io::Result<()> {
        clear_stale(path)?;
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        let admin = Arc::clone(self);
        thread::Builder::new().name("admin".to_owned()).spawn(move || admin.accept(&listener))?;
        Ok(())
    }

    fn accept(self: &Arc<Admin>, listener: &UnixListener) {
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            // Without a descriptor for it the client is dropped, and asks again.
            let Ok(arrival) = Arrival::begin(self, &stream) else { continue };
            let admin = Arc::clone(self);
            let serve = move || admin.serve(stream, arrival);
            if let Err(cause) = thread::Builder::new().name("admin".to_owned()).spawn(serve) {
                let what = format!("no thread for the control socket: {cause}");
                Record::Warning { what: &what, remedy: "raise the limit of processes" }.emit();
            }
        }
    }

    fn serve(&self, stream: UnixStream, arrival: Arrival) {
        // Whoever asked and did not wait for the answer has lost nothing.
        let _ = self.answer(stream, arrival);
    }

    fn answer(&self, mut stream: UnixStream, arrival: Arrival) -> io::Result<()> {
        stream.set_write_timeout(Some(PATIENCE))?;
        let line = read_request(&stream)?;
        drop(arrival);
        let request = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => request,
            Err(cause) => return write_line(&mut stream, &fault(&cause)),
        };
        if let Request::Health = request {
            return write_line(&mut stream, &json!({ "ok": self.health() }));
        }
        let Some(_slot) = RequestSlot::take(self) else {
            let busy = "too many control clients at once, try again";
            return write_line(&mut stream, &fault(&busy));
        };
        if let Request::Cat { id } = &request {
            return send_message(&self.spool, id, &mut stream);
        }
        let answer = match request {
            Request::Delete { id } => self.delete(&id),
            Request::Operate { operation, ids } => self.operate(operation, &ids),
            Request::Why { id } => self.why(&id),
            Request::Destinations { limit } => Ok(self.destination_list(limit)),
            Request::Destination { destination } => self.destination(&destination),
            Request::Pause { destination } => self.pause(&destination),
            Request::Resume { destination } => self.resume(&destination),
            request => look(&self.spool, &request),
        };
        write_line(&mut stream, &answer.map_or_else(|f| fault(&f), |value| json!({ "ok": value })))
    }

    fn health(&self) -> Value {
        let observed = &self.observed;
        json!({
            "faults": observed.faults(observed.now_ms()),
            "obstacles": observed.obstacles(),
            "warnings": observed.warnings(),
        })
    }

    fn delete(&self, id: &str) -> Result<Value, String> {
        let rows = self.operate(Operation::Delete, &[id.to_owned()])?;
        match rows[0]["fault"].as_str() {
            Some(fault) => Err(format!("{id}: {fault}")),
            None => Ok(Value::Null),
        }
    }
}

/// Removes a socket that nobody answers any more, and nothing else.
fn clear_stale(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(cause),
    };
    if !found.file_type().is_socket() {
        let what = format!("{} is no socket; set control.socket to another path", path.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
    }
    if UnixStream::connect(path).is_ok() {
        let what = format!("{} belongs to a running server", path.display());
        return Err(io::Error::new(io::ErrorKind::AddrInUse, what));
    }
    fs::remove_file(path)
}

/// Clients whose request has not come yet, the oldest first.
#[derive(Default)]
struct Arrivals {
    next: u64,
    waiting: BTreeMap<u64, UnixStream>,
}

/// One of them, until this is dropped.
struct Arrival {
    admin: Arc<Admin>,
    number: u64,
}

impl Arrival {
    fn begin(admin: &Arc<Admin>, stream: &UnixStream) -> io::Result<Arrival> {
        let stream = stream.try_clone()?;
        let mut arrivals = admin.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        while arrivals.waiting.len() >= ARRIVALS_MAX {
            let Some((_, oldest)) = arrivals.waiting.pop_first() else { break };
            // Its thread then reads the end of the stream. An error means that it has gone already.
            let _ = oldest.shutdown(Shutdown::Both);
        }
        let number = arrivals.next;
        arrivals.next += 1;
        arrivals.waiting.insert(number, stream);
        Ok(Arrival { admin: Arc::clone(admin), number })
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let mut arrivals = self.admin.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        arrivals.waiting.remove(&self.number);
    }
}

/// A place among the requests that are carried out.
struct RequestSlot<'a>(&'a Admin);

impl RequestSlot<'_> {
    fn take(admin: &Admin) -> Option<RequestSlot<'_>> {
        let before = admin.requests.fetch_add(1, Ordering::Relaxed);
        let slot = RequestSlot(admin);
        (before < REQUESTS_MAX).then_some(slot)
    }
}

impl Drop for RequestSlot<'_> {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reads one line, however slowly it drips in, until `REQUEST_TIME` is over.
fn read_request(mut stream: &UnixStream) -> io::Result<Vec<u8>> {
    let end = Instant::now() + REQUEST_TIME;
    let (mut line, mut piece) = (Vec::new(), [0; 4096]);
    while line.len() < REQUEST_BYTES_MAX {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => {
                line.extend_from_slice(&piece[..length]);
                if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
                    line.truncate(end);
                    break;
                }
            }
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(line)
}

/// Answers everything that only reads; also used on a spool that no server has open.
pub fn look(spool: &Spool, request: &Request) -> Result<Value, String> {
    let value = match request {
        Request::List { limit, after, wanted } => {
            let after = match after {
                Some(text) => Some(parse(spool, &text)?),
                None => None,
            };
            // A client asks for page after page; the server holds one.
            let limit = (*limit).min(LIST_PAGE_ROWS);
            let rows = inspect::list_wanted(spool, ListFilter { limit, after }, wanted);
            serde_json::to_value(rows.map_err(|fault| fault.to_string())?)
        }
        Request::Show { id } => {
            let details =
                inspect::show(spool, parse(spool, id)?).map_err(|f| format!("{id}: {f}"))?;
            serde_json::to_value(details)
        }
        Request::Stats => {
            serde_json::to_value(inspect::stats(spool).map_err(|fault| fault.to_string())?)
        }
        Request::Audit => {
            serde_json::to_value(audit::audit(spool).map_err(|fault| fault.to_string())?)
        }
        Request::Summary { limit } => {
            let summary = select::summary(spool, *limit).map_err(|fault| fault.to_string())?;
            serde_json::to_value(summary)
        }
        _ => {
            return Err("this cannot be answered by looking".to_owned());
        }
    };
    value.map_err(|cause| cause.to_string())
}

/// The message of this spool that a text names.
pub fn parse(spool: &Spool, id: &str) -> Result<MessageId, String> {
    let public: PublicId = id.parse().map_err(|fault| format!("{id}: {fault}"))?;
    spool.local_id(public).map_err(|fault| format!("{id}: {fault}"))
}

fn send_message(spool: &Spool, id: &str, stream: &mut UnixStream) -> io::Result<()> {
    let pieces = parse(spool, id)
        .and_then(|parsed| inspect::cat(spool, parsed).map_err(|fault| format!("{id}: {fault}")));
    let pieces = match pieces {
        Ok(pieces) => pieces,
        Err(cause) => return write_line(stream, &fault(&cause)),
    };
    for piece in pieces {
        match piece {
            Ok(bytes) => {
                write_line(stream, &json!({ "bytes": bytes.len() }))?;
                stream.write_all(&bytes)?;
            }
            Err(cause) => return write_line(stream, &fault(&cause)),
        }
    }
    write_line(stream, &json!({ "ok": null }))
}

fn write_line(stream: &mut UnixStream, value: &Value) -> io::Result<()> {
    let mut line = value.to_string();
    line.push('\n');
    stream.write_all(line.as_bytes())
}

fn fault(cause: &impl ToString) -> Value {
    json!({ "fault": cause.to_string() })
}
