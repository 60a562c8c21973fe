//! What came of each step of a stepped load.

use serde_json::Value;
use serde_json::json;

use crate::ledger::Fate;
use crate::report::Hdr;
use crate::report::stage_line;
use crate::source::shape::Stretch;

/// One step.
#[derive(Default)]
struct Step {
    accepted: u64,
    refused: u64,
    lost: u64,
    /// Of those that were accepted, as of all messages.
    message: Hdr,
}

/// All steps, as far as a message of them has ended.
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

    /// `late`: of each step, what was not sent any more.
    pub fn to_json(&self, stretches: &[Stretch], late: &[u64]) -> Value {
        let none = Step::default();
        let steps = stretches.iter().zip(late).enumerate().map(|(place, (stretch, late))| {
            let step = self.0.get(place).unwrap_or(&none);
            json!({
                "intended_per_second": stretch.to,
                // One without an end has no length.
                "seconds": stretch.seconds.is_finite().then_some(stretch.seconds),
                "accepted": step.accepted,
                "refused": step.refused,
                "lost": step.lost,
                "late": late,
                "message_us": step.message.told(),
            })
        });
        Value::Array(steps.collect())
    }

    pub fn to_lines(&self, stretches: &[Stretch], late: &[u64]) -> Vec<String> {
        let none = Step::default();
        let lines = stretches.iter().zip(late).enumerate().map(|(place, (stretch, late))| {
            let step = self.0.get(place).unwrap_or(&none);
            let line = stage_line(&format!("at {}/s", stretch.to), &step.message);
            let wrong = step.refused + step.lost + late;
            match wrong {
                0 => line,
                _ => format!("{line}  {} refused, {} lost, {late} late", step.refused, step.lost),
            }
        });
        lines.collect()
    }
}
