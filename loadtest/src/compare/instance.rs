//! A server as it runs: one private instance, for one part of a turn.
//!
//! Promise:  when the value is dropped all its processes are gone and its folder is removed. Should
//!           this process be killed, its processes end as well (see `hold`); the folder stays then.

use std::ffi::OsString;
use std::fs;
use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::compare::peer::Peer;
use crate::compare::peer::Places;
use crate::compare::peer::Purpose;
use crate::compare::tree;
use crate::compare::tree::Cost;

/// How long a server may take to greet its first client.
const START_MAX: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);
/// Of what it printed before it failed.
const LINES_TOLD: usize = 5;

/// One that runs.
pub struct Instance {
    holder: Child,
    folder: PathBuf,
    pub port: u16,
    /// Where its queue is, as its processes see it.
    pub spool: PathBuf,
    /// What it greets its clients with.
    pub greeting: String,
}

impl Instance {
    /// Starts it, and returns when it greets. `before` stands before its command: a tracer.
    pub fn start(
        peer: &Peer,
        parent: &Path,
        purpose: Purpose,
        sink: u16,
        before: &[OsString],
    ) -> Result<Instance, String> {
        let (folder, port) = (make_folder(parent, peer.kind.key())?, free_port()?);
        let removed = RemovedFolder(&folder);
        let plan = peer.set_up(&Places { folder: &folder, port, sink, purpose })?;
        let own = std::env::current_exe().map_err(|cause| format!("finding itself: {cause}"))?;
        let log = folder.join("console");
        let console = File::create(&log).and_then(|file| Ok((file.try_clone()?, file)));
        let (out, error) = console.map_err(|cause| format!("{}: {cause}", log.display()))?;
        let mut command = Command::new(own);
        command.arg("hold").arg("--").args(&plan.mounts).args(before).args(&plan.command);
        command.current_dir(&folder).stdin(Stdio::piped()).stdout(out).stderr(error);
        let holder = command.spawn().map_err(|cause| format!("starting it: {cause}"))?;
        std::mem::forget(removed);
        let spool = plan.spool;
        let mut instance = Instance { holder, folder, port, spool, greeting: String::new() };
        instance.greeting = instance.wait(peer.kind.name())?;
        Ok(instance)
    }

    fn wait(&mut self, name: &str) -> Result<String, String> {
        let end = Instant::now() + START_MAX;
        while Instant::now() < end {
            if !matches!(self.holder.try_wait(), Ok(None)) {
                return Err(format!("{name} ended at its start: {}", self.last_words()));
            }
            if let Some(greeting) = greeting(self.port) {
                return Ok(greeting);
            }
            thread::sleep(LOOK);
        }
        let seconds = START_MAX.as_secs();
        Err(format!("{name} greeted nobody within {seconds} s: {}", self.last_words()))
    }

    /// What all its processes used since it began.
    pub fn cost(&self) -> Cost {
        Cost::of(self.holder.id())
    }

    pub fn memory_kb(&self) -> u64 {
        tree::memory_kb(self.holder.id())
    }

    /// What it printed last.
    pub fn last_words(&self) -> String {
        let bytes = fs::read(self.folder.join("console")).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let from = lines.len().saturating_sub(LINES_TOLD);
        if lines.is_empty() { "it printed nothing".to_owned() } else { lines[from..].join(" | ") }
    }

    fn end(&mut self) {
        // It ends its processes when its input does. What fails here is told by a folder that stays.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.end();
        drop(RemovedFolder(&self.folder));
    }
}

struct RemovedFolder<'f>(&'f Path);

impl Drop for RemovedFolder<'_> {
    fn drop(&mut self) {
        if let Err(cause) = fs::remove_dir_all(self.0) {
            eprintln!("ringpost-load: {}: {cause}; remove it", self.0.display());
        }
    }
}

/// A folder of our own, which every user may enter.
pub fn make_folder(parent: &Path, name: &str) -> Result<PathBuf, String> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = parent.join(format!("ringpost-compare-{}-{number}-{name}", std::process::id()));
    let made = fs::create_dir(&folder)
        .and_then(|()| fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::canonicalize(&folder));
    made.map_err(|cause| format!("{}: {cause}", folder.display()))
}

/// A port on loopback that nobody has at this moment.
pub fn free_port() -> Result<u16, String> {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let found = bound.and_then(|socket| socket.local_addr());
    found.map(|address| address.port()).map_err(|cause| format!("finding a free port: {cause}"))
}

/// The first line, if that is a greeting.
fn greeting(port: u16) -> Option<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, START_MAX).ok()?;
    stream.set_read_timeout(Some(START_MAX)).ok()?;
    let mut bytes = [0; 512];
    let length = stream.read(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
    // Whoever leaves without a word is told of in some logs.
    let _ = stream.write_all(b"QUIT\r\n").and_then(|()| stream.read(&mut bytes));
    text.strip_prefix("220").map(|text| text.trim().to_owned())
}
