//! The results of each step of `--steps`.

use serde_json::Value;
use serde_json::json;

use crate::ledger::Fate;
use crate::report::Hdr;
use crate::report::stage_cells;
use crate::report::stage_head;
use crate::source::shape::Stretch;

/// One step.
#[derive(Default)]
struct Step {
    accepted: u64,
    refused: u64,
    lost: u64,
    /// Latencies of accepted messages.
    message: Hdr,
}

/// All steps of which a message has ended.
#[derive(Default)]
pub struct StepFigures(Vec<Step>);

impl StepFigures {
    pub fn count(&mut self, step: usize, fate: Fate, us: u64) {
        let step = self.at(step);
        match fate {
            Fate::Accepted => {
                step.accepted += 1;
                step.message.record(us);
            }
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
            step.accepted += other.accepted;
            step.refused += other.refused;
            step.lost += other.lost;
            step.message.add(&other.message);
        }
    }

    /// `late`: the messages of each step that were not sent.
    pub fn to_json(&self, stretches: &[Stretch], late: &[u64]) -> Value {
        let none = Step::default();
        let steps = stretches.iter().zip(late).enumerate().map(|(place, (stretch, late))| {
            let step = self.0.get(place).unwrap_or(&none);
            json!({
                "intended_per_second": stretch.to,
                // The last step may be endless.
                "seconds": stretch.seconds.is_finite().then_some(stretch.seconds),
                "accepted": step.accepted,
                "refused": step.refused,
                "lost": step.lost,
                "late": late,
                "message_us": step.message.figures(),
            })
        });
        Value::Array(steps.collect())
    }

    /// A table with a row for each step.
    pub fn to_rows(&self, stretches: &[Stretch], late: &[u64]) -> Vec<Vec<String>> {
        let none = Step::default();
        let head = ["refused", "lost", "late"].map(str::to_owned);
        let mut rows = vec![[stage_head(), head.to_vec()].concat()];
        for (place, (stretch, late)) in stretches.iter().zip(late).enumerate() {
            let step = self.0.get(place).unwrap_or(&none);
            let cells = stage_cells(&format!("at {}/s", stretch.to), &step.message);
            let counts = [step.refused, step.lost, *late].map(|count| count.to_string());
            rows.push([cells, counts.to_vec()].concat());
        }
        rows
    }
}
