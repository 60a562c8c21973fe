//! Servers that reject the sequence of commands: such a reply does not bounce the recipients.

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

#[test]
fn a_bad_sequence_does_not_bounce() {
    let how = How::Say("503 5.5.1 MAIL first");
    let mut plans = Vec::new();
    for (kind, offers) in [("full", FULL), ("piped", PIPED), ("bare", BARE)] {
        for at in [At::Rcpt, At::Data] {
            // BDAT has no DATA command.
            if at == At::Rcpt || kind != "full" {
                let misbehaviour = Misbehaviour { at, how, times: 1, only: "" };
                plans.push((format!("{kind}, {at:?}"), offers, vec![misbehaviour]));
            }
        }
    }
    let rig = Rig::start(&plans);
    let mut client = rig.client();
    for (number, destination) in rig.destinations.iter().enumerate() {
        let recipient = format!("x@{}", destination.domain);
        submit(&mut client, &format!("o{number}"), &[recipient], b"Subject: x\r\n\r\nx\r\n");
    }
    let arrived = || rig.destinations.iter().all(|one| !one.receiver.record().taken.is_empty());
    rig.settle(PATIENCE, arrived);
    let mut faults = Faults::default();
    for destination in &rig.destinations {
        let taken = destination.receiver.record().taken.len();
        faults.check(taken == 1, &destination.name, || format!("it arrived {taken} times"));
    }
    let told = rig.told();
    faults.check(told.is_empty(), "reports", || format!("{told:?}"));
    faults.none_or_panic(&rig.server);
}
