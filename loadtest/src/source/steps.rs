//! The results of each step of `--steps`.

use crate::ledger::Fate;
use crate::report::Hdr;
use crate::report::Record;
use crate::report::Stage;
use crate::source::shape::Stretch;

/// One step.
#[derive(Clone, Default)]
struct Step {
    refused: u64,
    lost: u64,
    /// Latencies of accepted messages.
    accepted: Hdr,
}

/// All steps of which a message has ended.
#[derive(Default)]
pub struct StepFigures(Vec<Step>);

impl StepFigures {
    pub fn count(&mut self, step: usize, fate: Fate, us: u64) {
        let step = self.at(step);
        match fate {
            Fate::Accepted => step.accepted.record(us),
            Fate::Refused => step.refused += 1,
            Fate::Unknown => step.lost += 1,
            Fate::NotSent => {}
        }
    }

    fn at(&mut self, step: usize) -> &mut Step {
        if self.0.len() <= step {
            self.0.resize_with(step + 1, Step::default);
        }
        &mut self.0[step]
    }

    pub fn add(&mut self, other: StepFigures) {
        for (place, other) in other.0.into_iter().enumerate() {
            let step = self.at(place);
            step.refused += other.refused;
            step.lost += other.lost;
            step.accepted.add(&other.accepted);
        }
    }

    /// Adds a stage for each step to the record, and the counts of its messages that were not accepted.
    /// `late`: the messages of each step that were not sent.
    pub fn complete(&self, stretches: &[Stretch], late: &[u64], record: &mut Record) {
        for (place, (stretch, late)) in stretches.iter().zip(late).enumerate() {
            let name = format!("step {} at {}/s", place + 1, stretch.to);
            let Step { refused, lost, accepted } = self.0.get(place).cloned().unwrap_or_default();
            for (what, count) in [("refused", refused), ("lost", lost), ("late", *late)] {
                if count > 0 {
                    record.counts.insert(format!("{name} {what}"), count);
                }
            }
            record.stages.push(Stage { name, latencies: accepted });
        }
    }
}
