//! `ringpost-load compare`: servers side by side, on one machine in one run, in turns.
//!
//! Promise:  all are driven alike, by a source and a sink that run as processes of their own, so that
//!           what the load costs is never counted as a server's. A server is a private instance: its
//!           config, queue and logs lie in a folder of its own, it listens on loopback on a port that
//!           was free, and it is gone at the end, whatever that end is. Its settings are files in
//!           `loadtest/peers`, with a reason beside each.
//! Left out: a server that is not there, or fails; the report says how to get it, or the cause. That
//!           makes the comparison fail, save for one that is not there and was not asked for by name.
//!
//! ```text
//! options    what is asked for              peer       which servers there are, how each is set up
//! instance   one of them, as it runs        hold       what keeps its processes, and ends them
//! tree       what those processes cost      load       the source and the sink
//! turn       what is measured of one        proof      whether it syncs before it answers
//! outcome    medians of all turns           trace      reads what strace wrote for that
//! table      how that is shown              client     sends one message after the other for it
//! ```

mod client;
pub mod hold;
mod instance;
mod load;
pub mod options;
mod outcome;
mod peer;
mod proof;
mod table;
mod trace;
mod tree;
mod turn;

use std::path::Path;

use crate::compare::options::Options;
use crate::compare::outcome::Outcome;
use crate::compare::outcome::Standing;
use crate::compare::peer::Kind;
use crate::compare::peer::Peer;
use crate::report::Machine;

/// Measures, or reads what was measured, and shows it. `false`: a server that is there or asked for by
/// name failed, or not all mail was accepted and came as it was sent.
pub fn run(options: &Options) -> Result<bool, String> {
    options.check()?;
    let outcome = match options.from.is_empty() {
        true => measure(options)?,
        false => Outcome::read_all(&options.from)?,
    };
    if let Some(path) = &options.output {
        write(path, &format!("{}\n", outcome.to_json()))?;
    }
    if let Some(path) = &options.markdown {
        write(path, &table::markdown(&outcome))?;
    }
    match options.json {
        true => println!("{}", outcome.to_json()),
        false => print!("{}", table::terminal(&outcome)),
    }
    Ok(outcome.is_well())
}

fn measure(options: &Options) -> Result<Outcome, String> {
    let mut outcome = Outcome {
        machine: Machine::describe(Some(&options.spool)),
        settings: options.told(),
        standings: Vec::new(),
    };
    let mut peers = Vec::new();
    for kind in options.kinds() {
        let found = Peer::find(kind, options);
        outcome.standings.push(Standing::new(kind, &found, options));
        peers.push(found.ok());
    }
    for turn in 0..options.turns {
        // Each turn begins with another, so that none always comes behind the same one.
        for place in 0..peers.len() {
            let index = (turn + place) % peers.len();
            let (peer, standing) = (&peers[index], &mut outcome.standings[index]);
            let Some(peer) = peer.as_ref().filter(|_| standing.failure.is_none()) else { continue };
            eprintln!("turn {} of {}: {}", turn + 1, options.turns, peer.kind.name());
            match turn::measure(peer, options, turn) {
                Ok(measured) => standing.turns.push(measured),
                Err(cause) => standing.failure = Some(cause),
            }
        }
    }
    for (peer, standing) in peers.iter().zip(&mut outcome.standings).filter(|_| !options.no_proof) {
        let Some(peer) = peer.as_ref().filter(|_| standing.failure.is_none()) else { continue };
        eprintln!("syncs: {}", peer.kind.name());
        standing.proof = Some(proof::measure(peer, options));
    }
    Ok(outcome)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|cause| format!("{}: {cause}", path.display()))
}

/// All that can be compared.
const ALL: [Kind; 6] =
    [Kind::Ringpost, Kind::Postfix, Kind::Exim, Kind::OpenSmtpd, Kind::Haraka, Kind::KumoMta];
