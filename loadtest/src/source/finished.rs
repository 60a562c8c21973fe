//! The result of a run as a record, and the file of `--sent`.

use std::fs::File;
use std::io::BufWriter;
use std::sync::Arc;
use std::time::Duration;

use crate::ledger::Sent;
use crate::report::Interval;
use crate::report::Record;
use crate::source::plan::Plan;
use crate::source::plan::SessionResults;
use crate::source::schedule::Planned;

/// A finished run.
pub struct Finished {
    pub plan: Arc<Plan>,
    pub found: SessionResults,
    pub planned: Planned,
    pub took: Duration,
    pub intervals: Vec<Interval>,
}

impl Finished {
    /// Messages that never began or have no fate, late ones included.
    fn not_sent(&self) -> u64 {
        self.planned.messages.saturating_sub(self.found.ended())
    }

    /// Recipients of accepted messages.
    pub fn accepted(&self) -> u64 {
        self.found.accepted * self.plan.options.recipients
    }

    fn late(&self) -> u64 {
        self.planned.late.iter().sum()
    }

    /// Whether all messages were accepted.
    pub fn is_well(&self) -> bool {
        let found = &self.found;
        found.refused + found.lost + found.unconnected + self.not_sent() == 0
    }

    /// The fate of each message.
    pub fn sent(&self) -> Sent {
        Sent {
            run: self.plan.run.clone(),
            recipients_per_message: self.plan.options.recipients,
            fates: self.plan.fates.take(self.planned.messages),
            partly: self.found.partly.clone(),
        }
    }

    /// When a message was due, in microseconds of Unix time, if that follows from its number.
    pub fn begin_us(&self, number: u64) -> Option<u64> {
        let since = self.plan.schedule.begin_of(number)?;
        Some(self.plan.wall_us(self.plan.began().0 + since))
    }

    /// Completes the record; the histograms move into it.
    pub fn complete(&mut self, record: &mut Record) {
        let (not_sent, late) = (self.not_sent(), self.late());
        let Finished { plan, found, planned, took, intervals } = self;
        let stretches = plan.stretches();
        record.run.clone_from(&plan.run);
        record.seconds = took.as_secs_f64();
        record.per_second = found.accepted as f64 / record.seconds;
        record.first_fault = found.first.take();
        let counts = [
            ("planned", planned.messages),
            ("accepted", found.accepted),
            ("refused", found.refused),
            ("lost", found.lost),
            ("not_sent", not_sent),
            ("late", late),
            ("unconnected", found.unconnected),
            ("tls_handshakes", found.handshakes.made),
            ("tls_resumed", found.handshakes.resumed),
        ];
        record.counts = counts.map(|(name, count)| (name.to_owned(), count)).into();
        record.stages = std::mem::take(&mut found.stages);
        record.intervals = std::mem::take(intervals);
        found.steps.complete(stretches, &planned.late, record);
    }

    /// Completes and prints the record.
    pub fn print(mut self, mut record: Record) -> Result<(), String> {
        self.complete(&mut record);
        self.plan.options.outputs.write(&record)
    }

    pub fn write_sent(&self) -> Result<(), String> {
        let Some(path) = &self.plan.options.sent else { return Ok(()) };
        let file = File::create(path).map(BufWriter::new);
        let written = file.and_then(|mut file| self.sent().write(&mut file));
        written.map_err(|cause| format!("{}: {cause}", path.display()))
    }
}
