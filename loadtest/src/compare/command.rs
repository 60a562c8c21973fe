//! The turns of a comparison.

use crate::compare::generators;
use crate::compare::kind::Kind;
use crate::compare::options::Options;
use crate::compare::outcome::Outcome;
use crate::compare::outcome::Standing;
use crate::compare::peer::Peer;
use crate::compare::proof;
use crate::compare::table;
use crate::compare::turn;
use crate::report::describe_machine;

/// Measures and prints the result. `false`: a server failed, or mail was refused, lost or changed.
pub fn run(options: &Options) -> Result<bool, String> {
    let outcome = measure(options)?;
    if let Some(path) = &options.markdown {
        let written = std::fs::write(path, table::markdown(&outcome));
        written.map_err(|cause| format!("{}: {cause}", path.display()))?;
    }
    match options.json {
        true => println!("{}", outcome.to_json()),
        false => print!("{}", table::terminal(&outcome)),
    }
    Ok(outcome.is_well())
}

fn measure(options: &Options) -> Result<Outcome, String> {
    let mut outcome = Outcome {
        machine: describe_machine(Some(&options.spool)),
        settings: options.settings(),
        standings: Vec::new(),
    };
    let mut peers = Vec::new();
    for kind in options.kinds() {
        let found = Peer::find(kind, options);
        outcome.standings.push(Standing::new(kind, &found, options));
        peers.push(found.ok());
    }
    for turn in 0..options.turns {
        // The order rotates, so that no server always follows the same one.
        for place in 0..peers.len() {
            let index = (turn + place) % peers.len();
            let (peer, standing) = (&peers[index], &mut outcome.standings[index]);
            let Some(peer) = peer.as_ref().filter(|_| standing.failure.is_none()) else { continue };
            eprintln!("turn {} of {}: {}", turn + 1, options.turns, peer.kind.name());
            let measured = match peer.kind {
                Kind::Generator | Kind::SmtpSource => generators::measure(peer, options),
                _ => turn::measure(peer, options, turn),
            };
            match measured {
                Ok(measured) => standing.turns.push(measured),
                Err(cause) => standing.failure = Some(cause),
            }
        }
    }
    if options.no_proof || options.generators {
        return Ok(outcome);
    }
    for (peer, standing) in peers.iter().zip(&mut outcome.standings) {
        let Some(peer) = peer.as_ref().filter(|_| standing.failure.is_none()) else { continue };
        eprintln!("syncs: {}", peer.kind.name());
        standing.proof = Some(proof::measure(peer, options));
    }
    Ok(outcome)
}
