//! Whether a server syncs before it answers 250, and how often it does, as strace saw it.
//!
//! Twice, each with a fresh instance that stores mail and keeps it: first one message after the other,
//! so that what is synced between the end of a body and its reply can only be that body; then many
//! sessions at once, for which the syncs from the first to the last of them are counted. To be traced
//! makes a server slower, so that more messages may share a sync than without.

use std::ffi::OsString;
use std::fs;

use serde::Deserialize;
use serde::Serialize;

use crate::compare::client;
use crate::compare::hold::Held;
use crate::compare::instance;
use crate::compare::instance::Instance;
use crate::compare::load::Load;
use crate::compare::options::Options;
use crate::compare::peer::Peer;
use crate::compare::peer::Purpose;
use crate::compare::trace;

/// Sent one after the other.
const SINGLE: usize = 20;
/// Sent by many sessions.
const MANY: u64 = 1000;

/// What was seen.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Proof {
    pub messages: usize,
    /// Of these, those with a sync before the 250.
    pub synced: usize,
    pub syncs_per_message: Option<f64>,
    /// It has io_uring do some of its calls, which strace does not see.
    #[serde(default)]
    pub has_ring: bool,
    /// Why it is not known.
    pub fault: Option<String>,
}

impl Proof {
    /// In a word or two.
    pub fn verdict(&self) -> String {
        match (self.synced, self.messages) {
            (_, 0) => "not known".to_owned(),
            (synced, messages) if synced == messages => "yes".to_owned(),
            (0, _) if self.has_ring => "not seen (io_uring)".to_owned(),
            (0, _) => "no".to_owned(),
            (synced, messages) => format!("{synced} of {messages}"),
        }
    }
}

/// Looks at it. What prevents that is told in the proof.
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
            return Err("its files cannot be told apart without root".to_owned());
        }
        (client::send(server.port, SINGLE, options.length)?, server.spool.clone())
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
    // Only the calls that are looked for stop, so that the others cost nothing.
    let mut tracer = words(&["strace", "-f", "--seccomp-bpf", "-y", "-s", "0", "-ttt", "-T", "-e"]);
    tracer.extend([OsString::from(trace::CALLS), "-o".into(), path.clone().into()]);
    let (accepted, during, spool) = {
        let server = start(peer, options, &tracer)?;
        let sessions = options.sessions_for(peer.kind);
        let (port, folder, messages) = (server.port, files.folder.as_path(), Some(MANY));
        let load = Load { options, sessions, port, rate: None, messages, folder };
        let began_us = client::now_us();
        let accepted = load.run()?.accepted;
        (accepted, began_us..=client::now_us(), server.spool.clone())
    };
    // Those of its start and its end are of no message.
    let syncs = trace::syncs(&read(&path)?, &spool.display().to_string());
    let count = syncs.iter().filter(|sync| during.contains(&sync.began_us)).count();
    // None at all where some may be hidden says nothing.
    let is_known = count > 0 || !proof.has_ring;
    proof.syncs_per_message = is_known.then(|| count as f64 / accepted as f64);
    Ok(())
}

fn start(peer: &Peer, options: &Options, tracer: &[OsString]) -> Result<Instance, String> {
    let started =
        Instance::start(peer, &options.spool, Purpose::Accept, instance::free_port()?, tracer);
    started.map_err(|cause| match cause.contains("strace") {
        true => format!("{cause}; `apt install strace`, and let it trace (ptrace)"),
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
    fn a_verdict_is_as_good_as_what_was_seen() {
        let verdict = |messages, synced| Proof { messages, synced, ..Proof::default() }.verdict();
        let rows = [(20, 20, "yes"), (20, 0, "no"), (20, 19, "19 of 20"), (0, 0, "not known")];
        for (messages, synced, expected) in rows {
            assert_eq!(verdict(messages, synced), expected);
        }
        for (synced, expected) in [(0, "not seen (io_uring)"), (20, "yes")] {
            let proof = Proof { messages: 20, synced, has_ring: true, ..Proof::default() };
            assert_eq!(proof.verdict(), expected);
        }
    }
}
