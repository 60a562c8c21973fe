//! A running private instance of a server, for one part of a turn.
//!
//! Promise:  when the value is dropped, or this process ends in any way, all its processes are ended
//!           and its folder is removed (`hold`).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::io::Write;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::compare::hold;
use crate::compare::hold::Held;
use crate::compare::peer::Peer;
use crate::compare::peer::Places;
use crate::compare::peer::Purpose;
use crate::process;
use crate::process::Cost;

/// The timeout for the greeting after the start.
const START_MAX: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);
/// Lines of output quoted in errors.
const LINES_TOLD: usize = 5;

/// A running instance.
pub struct Instance {
    held: Held,
    pub port: u16,
    /// The folder of the queue as its processes see it.
    pub spool: PathBuf,
    /// Its greeting.
    pub greeting: String,
}

impl Instance {
    /// Starts it, and returns when it greets. `before`: a tracer.
    pub fn start(
        peer: &Peer,
        parent: &Path,
        (purpose, domains): (Purpose, u64),
        sink: u16,
        before: &[OsString],
    ) -> Result<Instance, String> {
        let port = free_port()?;
        let folder = Held::make(parent, peer.kind.key())?;
        let program = &peer.program;
        let places = Places { program, folder: &folder, port, sink, purpose, domains };
        let plan = peer.set_up(&places);
        let plan = plan.inspect_err(|_| hold::remove(&folder))?;
        let command = [&plan.mounts[..], before, &plan.command].concat();
        let held = Held::start(folder, &command)?;
        let mut instance = Instance { held, port, spool: plan.spool, greeting: String::new() };
        instance.greeting = instance.wait(peer.kind.name())?;
        Ok(instance)
    }

    fn wait(&mut self, name: &str) -> Result<String, String> {
        let end = Instant::now() + START_MAX;
        while Instant::now() < end {
            if self.held.has_ended() {
                return Err(format!("{name} exited during its start: {}", self.last_words()));
            }
            if let Some(greeting) = greeting(self.port) {
                return Ok(greeting);
            }
            thread::sleep(LOOK);
        }
        let seconds = START_MAX.as_secs();
        Err(format!("{name} sent no greeting within {seconds} s: {}", self.last_words()))
    }

    /// The cost of all its processes since the start.
    pub fn cost(&self) -> Cost {
        Cost::of(self.held.id())
    }

    pub fn memory_kb(&self) -> Option<u64> {
        process::memory_kb(self.held.id())
    }

    /// CPU time in microseconds by the name of the thread.
    pub fn threads(&self) -> BTreeMap<String, u64> {
        process::threads(self.held.id())
    }

    /// The last lines of its output.
    pub fn last_words(&self) -> String {
        let bytes = fs::read(self.held.folder.join(hold::CONSOLE)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let from = lines.len().saturating_sub(LINES_TOLD);
        if lines.is_empty() { "no output".to_owned() } else { lines[from..].join(" | ") }
    }
}

/// A free port on loopback.
pub fn free_port() -> Result<u16, String> {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let found = bound.and_then(|socket| socket.local_addr());
    found.map(|address| address.port()).map_err(|cause| format!("finding a free port: {cause}"))
}

/// The text of the greeting, if the server sends one.
fn greeting(port: u16) -> Option<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, START_MAX).ok()?;
    stream.set_read_timeout(Some(START_MAX)).ok()?;
    let mut bytes = [0; 512];
    let length = stream.read(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
    // Some servers log clients that leave without QUIT.
    let _ = stream.write_all(b"QUIT\r\n").and_then(|()| stream.read(&mut bytes));
    text.strip_prefix("220").map(|text| text.trim().to_owned())
}
