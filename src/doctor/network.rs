//! Network cards: queues and interrupts in relation to the shards.

use std::collections::BTreeSet;

use crate::boot::check;
use crate::boot::check::Finding;
use crate::boot::topology::CpuList;
use crate::doctor::hardware::Device;
use crate::doctor::hardware::Kind;
use crate::doctor::hardware::devices;
use crate::doctor::subject::Subject;

pub fn examine(subject: &Subject) -> Vec<Finding> {
    let cards: Vec<Device> =
        devices(&subject.root).into_iter().filter(|device| device.kind == Kind::Card).collect();
    if cards.is_empty() {
        return vec![
            check::QUEUES
                .note("no network card is visible", "in a container, run the doctor on the host"),
        ];
    }
    let shards = subject.shards();
    cards.iter().flat_map(|card| [queues(card, shards), interrupts(card, shards)]).collect()
}

fn queues(card: &Device, shards: usize) -> Finding {
    let Device { name, receive_queues, send_queues, spread_queues, .. } = card;
    let seen =
        format!("{name}: {receive_queues} receive and {send_queues} send queues, {shards} shards");
    if *receive_queues >= shards {
        return check::QUEUES.ok(seen);
    }
    if *receive_queues > 0 && spread_queues == receive_queues {
        return check::QUEUES.ok(format!("{seen}; the kernel spreads packets over cores (RPS)"));
    }
    check::QUEUES.warn(seen, "run `tuning/network-queues`: it adds queues, or enables RPS")
}

fn interrupts(card: &Device, shards: usize) -> Finding {
    let Device { name, interrupts, .. } = card;
    let cpus: BTreeSet<usize> =
        interrupts.iter().flat_map(|interrupt| interrupt.cpus.iter().copied()).collect();
    let cpus: Vec<usize> = cpus.into_iter().collect();
    let seen = format!("{name}: {} interrupts on CPU {}", interrupts.len(), CpuList(&cpus));
    match (interrupts.len(), cpus.len()) {
        (0, _) | (_, 0) => {
            let seen = format!("{name}: the interrupts cannot be read");
            check::IRQS.note(seen, "check /proc/interrupts on the host")
        }
        (2.., 1) if shards > 1 => {
            check::IRQS.warn(seen, "run `tuning/interrupts` to spread them over CPUs")
        }
        _ => check::IRQS.ok(seen),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::boot::check::Level;
    use crate::doctor::hardware::Interrupt;

    #[test]
    fn cards_are_judged() {
        let card = |receive_queues, spread_queues, cpus: &[usize]| Device {
            kind: Kind::Card,
            name: "eth0".to_owned(),
            node: None,
            receive_queues,
            send_queues: 1,
            spread_queues,
            interrupts: cpus
                .iter()
                .map(|cpu| Interrupt { number: 9, name: "eth0".to_owned(), cpus: vec![*cpu] })
                .collect(),
        };
        let rows: &[(&str, Finding, Level)] = &[
            ("a queue for each", queues(&card(4, 0, &[]), 4), Level::Ok),
            ("too few", queues(&card(1, 0, &[]), 4), Level::Warn),
            ("too few, spread", queues(&card(1, 1, &[]), 4), Level::Ok),
            ("half of them spread", queues(&card(2, 1, &[]), 4), Level::Warn),
            ("spread", interrupts(&card(2, 0, &[0, 1]), 2), Level::Ok),
            ("all on one", interrupts(&card(2, 0, &[1, 1]), 2), Level::Warn),
            ("one shard", interrupts(&card(2, 0, &[1, 1]), 1), Level::Ok),
            ("hidden", interrupts(&card(2, 0, &[]), 2), Level::Note),
        ];
        for (row, finding, level) in rows {
            assert_eq!(finding.level, *level, "{row}: {finding:?}");
        }
    }
}
