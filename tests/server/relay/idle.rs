//! Connections that the server closes while they are idle: the next message uses a new one at once.

use std::thread;
use std::time::Duration;

use crate::relay::receiver::At;
use crate::relay::receiver::How;
use crate::relay::receiver::Misbehaviour;
use crate::relay::rig::BARE;
use crate::relay::rig::FULL;
use crate::relay::rig::Faults;
use crate::relay::rig::PIPED;
use crate::relay::rig::Rig;
use crate::relay::rig::submit;
use crate::support::PATIENCE;

const MESSAGES: usize = 4;

#[test]
fn a_closed_idle_connection_costs_no_attempt() {
    let ways = [
        ("close", How::Close),
        ("reset", How::Reset),
        ("421", How::SayAndClose("421 4.4.2 idle for too long")),
        ("421 and stays", How::Say("421 4.4.2 idle for too long")),
    ];
    let mut plans = Vec::new();
    for (kind, offers) in [("full", FULL), ("piped", PIPED), ("bare", BARE)] {
        for (way, how) in ways {
            let misbehaviour = Misbehaviour { at: At::Idle, how, times: MESSAGES, only: "" };
            plans.push((format!("{kind}: {way}"), offers, vec![misbehaviour]));
        }
    }
    let rig = Rig::start(&plans);
    let mut client = rig.client();
    for round in 0..MESSAGES {
        for (number, destination) in rig.destinations.iter().enumerate() {
            let id = format!("i{number}-{round}");
            submit(
                &mut client,
                &id,
                &[format!("x@{}", destination.domain)],
                b"Subject: x\r\n\r\nx\r\n",
            );
        }
        let idle =
            || rig.destinations.iter().all(|one| one.receiver.record().idle_misbehaviours > round);
        rig.settle(PATIENCE, idle);
        // The end of the connection must have arrived before.
        thread::sleep(Duration::from_millis(20));
    }
    let log = rig.server.log_text();
    let mut faults = Faults::default();
    for destination in &rig.destinations {
        let record = destination.receiver.record();
        let taken = record.taken.len();
        faults.check(taken == MESSAGES, &destination.name, || format!("{taken} arrived"));
        let address = destination.receiver.address.to_string();
        let deferred: Vec<&str> = log
            .lines()
            .filter(|line| line.contains(&address) && line.contains("\"deferred\""))
            .collect();
        faults.check(deferred.is_empty(), &destination.name, || format!("{deferred:?}"));
    }
    faults.none_or_panic(&rig.server);
}
