//! The server under test: its process over several lives, and its audit.
//!
//! Owner:    the run, on the thread that performs the steps. Dropping it kills the process, and so does
//!           the end of the run's process (`tied`): no server is left behind.
//! Promise:  it has the same address in all lives; the kernel chooses the port of the first.

use std::fs;
use std::fs::File;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Pid;
use rustix::process::Signal;
use serde_json::Value;

use crate::process;
use crate::tied;

/// Recovery of a large queue takes time.
const START_MAX: Duration = Duration::from_secs(300);
/// The drain alone may take 30 seconds.
const STOP_MAX: Duration = Duration::from_secs(90);
const PORT_MAX: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(10);
/// Lines of output quoted in errors.
const WORDS: usize = 5;

/// Called while waiting; an error ends the wait.
pub type GoOn<'g> = &'g dyn Fn() -> Result<(), String>;

/// A server started by the run.
pub struct Server {
    program: PathBuf,
    folder: PathBuf,
    child: Option<Child>,
    address: SocketAddr,
    /// Usage of earlier lives.
    spent: Usage,
}

/// The resources used before the stop; drain and stop are not included.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub cpu_ms: u64,
    pub memory_kb: u64,
    /// The maximum of all lives.
    pub memory_kb_max: u64,
    pub written_bytes: u64,
}

/// The server's own account of all recipients (`ringpost audit`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    pub adds_up: bool,
    pub taken: u64,
    pub delivered: u64,
    /// Bounced or expired.
    pub bounced: u64,
    pub queued: u64,
}

impl Server {
    /// A server in this empty folder, not started yet.
    pub fn new(program: PathBuf, folder: PathBuf) -> Server {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Server { program, folder, child: None, address, spent: Usage::default() }
    }

    /// Its address; port 0 before the first life.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Starts it with this configuration, and returns when it is ready.
    pub fn start(&mut self, config: &str, go_on: GoOn) -> Result<(), String> {
        assert!(self.child.is_none(), "it does not run");
        let path = self.file("ringpost.toml");
        fs::write(&path, config).map_err(|cause| format!("{}: {cause}", path.display()))?;
        let log_from = fs::metadata(self.file("ringpost.log")).map_or(0, |log| log.len());
        let open = |name: &str| {
            let path = self.file(name);
            File::create(&path).map_err(|cause| format!("{}: {cause}", path.display()))
        };
        let program = fs::canonicalize(&self.program)
            .map_err(|cause| format!("{}: {cause}; use --ringpost", self.program.display()))?;
        self.await_port(go_on)?;
        let mut command = tied::command(program)?;
        command.arg("serve").arg("--config").arg(&path);
        command.stdout(open("stdout")?).stderr(open("stderr")?);
        let child = command.spawn().map_err(|cause| format!("starting the server: {cause}"))?;
        self.child = Some(child);
        self.await_start(log_from, go_on)
    }

    /// Waits for the port: the kernel closes the listener of a killed process only after its io_uring
    /// requests have ended. If the port stays busy, the server reports it.
    fn await_port(&self, go_on: GoOn) -> Result<(), String> {
        let end = Instant::now() + PORT_MAX;
        while TcpListener::bind(self.address).is_err() && Instant::now() < end {
            go_on()?;
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    fn await_start(&mut self, log_from: u64, go_on: GoOn) -> Result<(), String> {
        let end = Instant::now() + START_MAX;
        loop {
            let log = read_from(&self.file("ringpost.log"), log_from);
            if let Some(address) = started_at(&log) {
                self.address = address;
                return Ok(());
            }
            if let Some(status) = self.exited() {
                return Err(format!("the server did not start ({status}): {}", self.last_words()));
            }
            if Instant::now() > end {
                return Err(format!(
                    "the server did not start within {} s: {}",
                    START_MAX.as_secs(),
                    self.last_words()
                ));
            }
            go_on()?;
            std::thread::sleep(LOOK);
        }
    }

    /// Its exit status, if it exited by itself.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok().flatten()
    }

    /// The last lines of its output or of its log.
    pub fn last_words(&self) -> String {
        let said = ["stderr", "ringpost.log", "stdout"].map(|name| read_from(&self.file(name), 0));
        let said = said.iter().map(|text| text.trim()).find(|text| !text.is_empty());
        let lines: Vec<&str> = said.unwrap_or("no output").lines().collect();
        lines[lines.len().saturating_sub(WORDS)..].join("; ")
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<(), String> {
        self.spent = self.usage();
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let killed = child.kill().and_then(|()| child.wait());
        killed.map(drop).map_err(|cause| format!("killing the server: {cause}"))
    }

    /// SIGTERM, and waits for the exit.
    pub fn terminate(&mut self, go_on: GoOn) -> Result<(), String> {
        let used = self.usage();
        let Some(child) = &mut self.child else { return Ok(()) };
        let asked = rustix::process::kill_process(Pid::from_child(child), Signal::TERM);
        asked.map_err(|cause| format!("SIGTERM to the server: {cause}"))?;
        let end = Instant::now() + STOP_MAX;
        while Instant::now() < end {
            match child.try_wait().map_err(|cause| format!("waiting for the server: {cause}"))? {
                Some(status) => {
                    (self.child, self.spent) = (None, used);
                    let words = || format!("the server ended with {status}: {}", self.last_words());
                    return status.success().then_some(()).ok_or_else(words);
                }
                None => std::thread::sleep(LOOK),
            }
            go_on()?;
        }
        self.kill()?;
        Err(format!("the server did not exit within {} s after SIGTERM", STOP_MAX.as_secs()))
    }

    pub fn delete_spool(&self) -> Result<(), String> {
        let spool = self.file("spool");
        fs::remove_dir_all(&spool).map_err(|cause| format!("{}: {cause}", spool.display()))
    }

    /// Reads its account.
    pub fn audit(&self) -> Result<Audit, String> {
        let mut command = Command::new(&self.program);
        command.arg("audit").arg("--json").arg("--config").arg(self.file("ringpost.toml"));
        let output = command.output().map_err(|cause| format!("ringpost audit: {cause}"))?;
        let told: Value = serde_json::from_slice(&output.stdout).map_err(|_| {
            let words = String::from_utf8_lossy(&output.stderr);
            format!("ringpost audit ({}): {}", output.status, words.trim())
        })?;
        let count = |name: &str| {
            told[name].as_u64().ok_or_else(|| format!("ringpost audit has no `{name}`: {told}"))
        };
        Ok(Audit {
            adds_up: told["adds_up"] == true,
            taken: count("taken")?,
            delivered: count("delivered")?,
            bounced: count("bounced")? + count("expired")?,
            queued: count("queued")?,
        })
    }

    /// The usage of all lives up to now.
    pub fn usage(&self) -> Usage {
        let Some(child) = &self.child else { return self.spent };
        let number = |file: &str, name: &str| {
            process::field(&format!("/proc/{}/{file}", child.id()), name).unwrap_or(0)
        };
        let ticks = process::ticks(child.id()).unwrap_or(0);
        Usage {
            cpu_ms: self.spent.cpu_ms + ticks * 1000 / process::TICKS_PER_SECOND,
            memory_kb: number("status", "VmRSS:"),
            memory_kb_max: self.spent.memory_kb_max.max(number("status", "VmHWM:")),
            written_bytes: self.spent.written_bytes + number("io", "write_bytes:"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A process that cannot be killed has ended already.
        let _ = self.kill();
    }
}

/// The log from this offset; empty if there is none.
fn read_from(path: &Path, offset: u64) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(offset))?;
        file.read_to_end(&mut bytes)
    });
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}

/// The address in the line `listening`, once there is a line `started`.
fn started_at(log: &str) -> Option<SocketAddr> {
    let is = |line: &&str, event: &str| line.split(' ').nth(2) == Some(event);
    let _started = log.lines().find(|line| is(line, "started"))?;
    let listening = log.lines().find(|line| is(line, "listening"))?;
    listening.split(' ').find_map(|word| word.strip_prefix("address="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_shows_the_start() {
        let listening = "2026-11-21T15:40:10.311Z info listening address=127.0.0.1:34383 \
                         protocol=smtp tls=starttls\n";
        let started = "2026-11-21T15:40:10.311Z info started version=0.1.0 shards=2\n";
        assert_eq!(started_at(listening), None);
        assert_eq!(started_at(&format!("{listening}2026-11-21T15:40:10.311Z info star")), None);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 34383));
        assert_eq!(started_at(&format!("{listening}{started}")), Some(address));
    }

    #[test]
    fn a_missing_program_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut server = Server::new("no/such/program".into(), folder.path().to_owned());
        let why = server.start("", &|| Ok(())).expect_err("there is none");
        assert!(why.contains("no/such/program") && why.contains("--ringpost"), "{why}");
    }
}
