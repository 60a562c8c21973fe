//! A running server: its process, its log and its end.

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::net::SocketAddr;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::support::Client;
use crate::support::PATIENCE;

pub struct Process {
    pub child: Child,
    /// Its addresses, in the order of the config.
    pub smtp: Vec<SocketAddr>,
    log: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// Starts the server without waiting; both outputs become its log.
    pub fn start(command: &mut Command) -> Process {
        let mut child = command.spawn().expect("the binary can be run");
        let log = Arc::new(Mutex::new(Vec::new()));
        follow(child.stdout.take().expect("the stream is piped"), &log);
        follow(child.stderr.take().expect("the stream is piped"), &log);
        Process { child, smtp: Vec::new(), log }
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.smtp[0]).expect("the server accepts connections")
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("the process runs");
        self.child.wait().expect("the child is ours");
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let done = Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(done.expect("kill(1) exists").success());
    }

    /// Waits until the server has ended by itself.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let end = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                return status;
            }
            assert!(Instant::now() < end, "the server does not end:\n{}", self.log_text());
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn log_text(&self) -> String {
        self.log.lock().expect("no reader panics").join("\n")
    }

    /// Waits until a log line contains the text.
    pub fn wait_for_log(&self, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let log = self.log_text();
            if let Some(line) = log.lines().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            assert!(Instant::now() < end, "no `{text}` in:\n{log}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Resident memory in bytes.
    pub fn rss(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("the process runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("a VmRSS line");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("KiB");
        kib * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn follow(stream: impl Read + Send + 'static, log: &Arc<Mutex<Vec<String>>>) {
    let log = Arc::clone(log);
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n') {
            let Ok(line) = line else { return };
            let line = String::from_utf8_lossy(&line).into_owned();
            log.lock().expect("no reader panics").push(line);
        }
    });
}
