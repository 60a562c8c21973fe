//! The source and the sink as processes: against each other, raw sockets, and programs of others.

mod report;
mod secure;
mod sink;
mod source;

use std::io::BufRead;
use std::io::BufReader;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;

use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);

fn load(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringpost-load"));
    command.args(words);
    command
}

/// Runs the source against this server, with a record as JSON.
fn source_to(address: &str, words: &[&str]) -> Output {
    let mut command = load(&["source", "--json"]);
    command.args(words).arg(address).output().expect("the binary runs")
}

/// The record of a command.
fn figures(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.trim()).unwrap_or_else(|_| panic!("{text}{output:?}"))
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Ends a process that prints its result then.
fn interrupt(child: &Child) {
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(status.expect("there is kill").success());
}

/// A running sink and its addresses.
struct Sink {
    child: Option<Child>,
    addresses: Vec<String>,
    /// What it prints on standard error, with -v the dialogue.
    lines: Receiver<String>,
}

impl Sink {
    fn start(words: &[&str]) -> Sink {
        Sink::start_at(words, &["127.0.0.1:0"])
    }

    fn start_at(words: &[&str], places: &[&str]) -> Sink {
        let mut command = load(&["sink", "--json"]);
        command.args(words).args(places).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary runs");
        let errors = BufReader::new(child.stderr.take().expect("it is piped"));
        let (sender, lines) = mpsc::channel();
        // The thread ends with the sink or the test.
        thread::spawn(move || {
            errors.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let line = lines.recv_timeout(PATIENCE).expect("it prints its addresses");
        let addresses = line.strip_prefix("listening on ").unwrap_or_else(|| panic!("{line}"));
        let addresses = addresses.split(' ').map(str::to_owned).collect();
        Sink { child: Some(child), addresses, lines }
    }

    fn address(&self) -> &str {
        &self.addresses[0]
    }

    /// Stops it and returns its record.
    fn stop(self) -> Value {
        interrupt(self.child.as_ref().expect("it is stopped once"));
        self.end()
    }

    /// Waits until it stops by itself.
    fn end(mut self) -> Value {
        let child = self.child.take().expect("it ends once");
        figures(&child.wait_with_output().expect("it ends"))
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // After a failed test, or when its record is not needed.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
