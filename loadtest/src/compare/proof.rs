//! Whether a server syncs before it answers 250, and how often it syncs, by strace.
//!
//! Two runs, each with a fresh instance that stores mail: first single messages, so that a sync between
//! the end of a body and its reply can only be for that body; then many sessions, with a count of all
//! syncs. strace slows the server down, so that more messages may share a sync than usual.

use std::ffi::OsString;
use std::fs;
use std::net::Ipv4Addr;
use std::net::SocketAddr;

use serde::Serialize;

use crate::compare::hold::Held;
use crate::compare::instance;
use crate::compare::instance::Instance;
use crate::compare::load::Load;
use crate::compare::options::Options;
use crate::compare::peer::Peer;
use crate::compare::peer::Purpose;
use crate::compare::trace;
use crate::compare::trace::Taken;
use crate::process::wall_us;
use crate::smtp_client::Session;

/// Messages of the first run.
const SINGLE: usize = 20;
/// Messages of the second run.
const MANY: u64 = 1000;

const LINE: &str =
    "a line of seventy-two letters, like those of letters that people write by hand\r\n";

/// The result.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Proof {
    pub messages: usize,
    /// Messages with a sync before the 250.
    pub synced: usize,
    pub syncs_per_message: Option<f64>,
    /// It uses io_uring, whose requests strace does not see.
    pub has_ring: bool,
    /// Why there is no result.
    pub fault: Option<String>,
}

impl Proof {
    /// The verdict in a few words.
    pub fn verdict(&self) -> String {
        match (self.synced, self.messages) {
            (_, 0) => "unknown".to_owned(),
            (synced, messages) if synced == messages => "yes".to_owned(),
            (0, _) if self.has_ring => "not visible (io_uring)".to_owned(),
            (0, _) => "no".to_owned(),
            (synced, messages) => format!("{synced} of {messages}"),
        }
    }
}

/// Traces the server. An error is part of the result.
pub fn measure(peer: &Peer, options: &Options) -> Proof {
    let mut proof = Proof::default();
    let files = Held::make(&options.spool, "proof").and_then(|folder| Held::start(folder, &[]));
    let fault = files.and_then(|files| {
        single(peer, options, &files, &mut proof)?;
        many(peer, options, &files, &mut proof)
    });
    proof.fault = fault.err();
    proof
}

fn single(peer: &Peer, options: &Options, files: &Held, proof: &mut Proof) -> Result<(), String> {
    let path = files.folder.join("single");
    let mut tracer = words(&["strace", "-f", "-y", "-s", "0", "-ttt", "-T", "-e"]);
    tracer.extend([OsString::from(trace::CALLS), "-o".into(), path.clone().into()]);
    let (taken, spool) = {
        let server = start(peer, options, &tracer)?;
        if server.memory_kb().is_none() {
            return Err("root is needed to see the names of its files".to_owned());
        }
        (send(server.port, SINGLE, options.length)?, server.spool.clone())
    };
    let text = read(&path)?;
    let syncs = trace::syncs(&text, &spool.display().to_string());
    proof.has_ring = trace::has_ring(&text);
    proof.messages = taken.len();
    proof.synced = trace::proven(&syncs, &taken);
    Ok(())
}

fn many(peer: &Peer, options: &Options, files: &Held, proof: &mut Proof) -> Result<(), String> {
    let path = files.folder.join("many");
    // With seccomp only the traced calls stop.
    let mut tracer = words(&["strace", "-f", "--seccomp-bpf", "-y", "-s", "0", "-ttt", "-T", "-e"]);
    tracer.extend([OsString::from(trace::CALLS), "-o".into(), path.clone().into()]);
    let (accepted, during, spool) = {
        let server = start(peer, options, &tracer)?;
        let sessions = options.sessions_for(peer.kind);
        let (port, messages) = (server.port, Some(MANY));
        let load = Load { options, sessions, port, rate: None, messages, domains: 1 };
        let began_us = wall_us();
        let accepted = load.run()?.count("accepted");
        (accepted, began_us..=wall_us(), server.spool.clone())
    };
    // Syncs of the start and the stop do not count.
    let syncs = trace::syncs(&read(&path)?, &spool.display().to_string());
    let count = syncs.iter().filter(|sync| during.contains(&sync.began_us)).count();
    // No visible sync means nothing if some are invisible.
    let is_known = count > 0 || !proof.has_ring;
    proof.syncs_per_message = is_known.then(|| count as f64 / accepted as f64);
    Ok(())
}

/// Sends single messages and returns the times of their replies.
fn send(port: u16, count: usize, bytes: usize) -> Result<Vec<Taken>, String> {
    let text = "Subject: a test\r\n\r\n".to_owned() + &LINE.repeat(bytes.div_ceil(LINE.len()));
    let message = |session: &mut Session| -> std::io::Result<Taken> {
        session.say("MAIL FROM:<a@example.org>", "250")?;
        session.say("RCPT TO:<b@example.net>", "250")?;
        session.say("DATA", "354")?;
        session.write(&text)?;
        let ended_us = wall_us();
        session.say(".", "250")?;
        Ok(Taken { ended_us, replied_us: wall_us() })
    };
    let session = Session::open(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let taken = session.and_then(|mut session| {
        let taken = (0..count).map(|_| message(&mut session)).collect();
        session.say("QUIT", "221")?;
        taken
    });
    taken.map_err(|cause| format!("sending single messages: {cause}"))
}

fn start(peer: &Peer, options: &Options, tracer: &[OsString]) -> Result<Instance, String> {
    let started =
        Instance::start(peer, &options.spool, (Purpose::Accept, 1), instance::free_port()?, tracer);
    started.map_err(|cause| match cause.contains("strace") {
        true => format!("{cause}; `apt install strace`, and allow ptrace"),
        false => cause,
    })
}

fn read(path: &std::path::Path) -> Result<String, String> {
    let bytes = fs::read(path).map_err(|cause| format!("{}: {cause}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let verdict = |messages, synced| Proof { messages, synced, ..Proof::default() }.verdict();
        let rows = [(20, 20, "yes"), (20, 0, "no"), (20, 19, "19 of 20"), (0, 0, "unknown")];
        for (messages, synced, expected) in rows {
            assert_eq!(verdict(messages, synced), expected);
        }
        for (synced, expected) in [(0, "not visible (io_uring)"), (20, "yes")] {
            let proof = Proof { messages: 20, synced, has_ring: true, ..Proof::default() };
            assert_eq!(proof.verdict(), expected);
        }
    }
}
