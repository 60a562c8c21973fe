//! The results of a run: figures, verdicts, and the record.

use crate::ledger::Ledger;
use crate::ledger::Sent;
use crate::report::Hdr;
use crate::report::Record;
use crate::report::Stage;
use crate::report::Verdict;
use crate::report::by_name;
use crate::run::account::Account;
use crate::run::drive::Ended;
use crate::run::figures;
use crate::run::figures::END_TO_END;
use crate::run::figures::Figures;
use crate::run::scenario::Scenario;
use crate::run::sinks::Place;
use crate::source::Finished;

/// All results of a run.
pub struct Findings<'s> {
    pub scenario: &'s Scenario,
    pub ended: Ended,
    pub sinks: Vec<Place>,
    pub cuts: u64,
    pub came_before_last_cut: u64,
}

impl Findings<'_> {
    /// Completes the record with all figures and verdicts.
    pub fn complete(mut self, mut record: Record) -> Record {
        let mut figures = Figures::default();
        let mut ledger = Ledger::default();
        for sink in &mut self.sinks {
            ledger.add(std::mem::take(&mut sink.taken.ledger));
        }
        let sent: Vec<Sent> = self.ended.reports.iter().map(Finished::sent).collect();
        let parts: Vec<_> = sent.iter().map(|sent| (sent, ledger.compare(sent))).collect();
        let stuck = self.ended.audit.map_or(0, |audit| audit.queued);
        let account = Account::draw(&parts, &ledger, stuck);
        for (place, (sent, balance)) in parts.iter().enumerate() {
            let name = &self.scenario.sources[place].name;
            figures.set(name, "arrived", balance.arrived as f64);
            figures.set(name, "bounced", balance.bounced as f64);
            figures.set(name, "missing", balance.lost as f64);
            let end_to_end = end_to_end(&self.ended.reports[place], sent, &ledger);
            self.add_source(place, end_to_end, &mut figures, &mut record);
        }
        self.add_sinks(&mut figures, &mut record);
        self.add_server(account.accepted, &mut figures);
        for (name, count) in by_name(&account) {
            figures.set("total", &name, count as f64);
            record.counts.insert(name, count);
        }
        record.counts.insert("cuts".to_owned(), self.cuts);
        record.counts.insert("came_before_last_cut".to_owned(), self.came_before_last_cut);
        if self.ended.audit.is_some() {
            let usage = self.ended.usage;
            record.counts.insert("server_cpu_ms".to_owned(), usage.cpu_ms);
            record.counts.insert("server_memory_kb_max".to_owned(), usage.memory_kb_max);
        }
        record.seconds = self.ended.took.as_secs_f64();
        record.per_second = account.arrived as f64 / record.seconds;
        let per_cut = self.scenario.duplicates_per_cut_max;
        record.verdicts = figures::judge_account(&account, self.cuts, per_cut);
        record.verdicts.extend(self.ended.audit.map(|audit| Verdict {
            holds: audit.adds_up,
            that: "the server's own account (`ringpost audit`) adds up".to_owned(),
            found: format!("{} accepted, {} delivered", audit.taken, audit.delivered),
        }));
        let expected = self.scenario.expectations.iter().map(|one| figures.judge(one));
        record.verdicts.extend(expected);
        record
    }

    fn add_source(
        &mut self,
        place: usize,
        end_to_end: Option<Hdr>,
        figures: &mut Figures,
        record: &mut Record,
    ) {
        let name = &self.scenario.sources[place].name;
        let mut own = record.clone();
        self.ended.reports[place].complete(&mut own);
        for (count, value) in &own.counts {
            // `lost` of a source means without a reply; in an account it means lost mail.
            let count = if count == "lost" { "unknown" } else { count };
            figures.set(name, count, *value as f64);
        }
        figures.set(name, "seconds", own.seconds);
        figures.set(name, "per_second", own.per_second);
        let end_to_end = end_to_end.map(|all| Stage { name: END_TO_END.into(), latencies: all });
        own.stages.extend(end_to_end);
        for stage in own.stages {
            figures.set_stage(name, &stage.name, &stage.latencies);
            let told = stage.name.replace('_', " ");
            record
                .stages
                .push(Stage { name: format!("{name} {told}"), latencies: stage.latencies });
        }
        record.first_fault = record.first_fault.take().or(own.first_fault);
        if place == 0 {
            (record.run, record.intervals) = (own.run, own.intervals);
            return;
        }
        record.run += &format!(" {}", own.run);
    }

    fn add_sinks(&self, figures: &mut Figures, record: &mut Record) {
        for sink in &self.sinks {
            let name = &sink.part.name;
            for (count, value) in by_name(&sink.taken.counts) {
                figures.set(name, &count, value as f64);
            }
            if let Some(all) = sink.taken.end_to_end() {
                figures.set_stage(name, END_TO_END, all);
                let name = format!("{name} end to end");
                record.stages.push(Stage { name, latencies: all.clone() });
            }
        }
    }

    fn add_server(&self, accepted: u64, figures: &mut Figures) {
        for (idle, end) in self.scenario.idle.iter().zip(&self.ended.crowds) {
            figures.set(&idle.name, "sessions", end.sessions as f64);
            figures.set(&idle.name, "alive", end.alive as f64);
            figures.set(&idle.name, "memory_kb_per_session", end.memory_kb_per_session);
        }
        let Some(audit) = self.ended.audit else { return };
        let usage = self.ended.usage;
        let per_message = |sum: f64| sum / accepted.max(1) as f64;
        let all = [
            ("taken", audit.taken as f64),
            ("delivered", audit.delivered as f64),
            ("bounced", audit.bounced as f64),
            ("queued", audit.queued as f64),
            ("cpu_ms", usage.cpu_ms as f64),
            ("cpu_us_per_message", per_message(usage.cpu_ms as f64 * 1000.0)),
            ("memory_mb", usage.memory_kb as f64 / 1024.0),
            ("memory_mb_max", usage.memory_kb_max as f64 / 1024.0),
            ("written_bytes_per_message", per_message(usage.written_bytes as f64)),
        ];
        all.into_iter().for_each(|(name, figure)| figures.set("server", name, figure));
    }
}

/// From the time at which each message was due to its arrival at a sink, if that is known.
fn end_to_end(report: &Finished, sent: &Sent, ledger: &Ledger) -> Option<Hdr> {
    report.begin_us(0)?;
    let mut all = Hdr::default();
    ledger.arrivals(&sent.run, |number, first_us| {
        let begun_us = report.begin_us(number).unwrap_or(first_us);
        all.record(first_us.saturating_sub(begun_us).max(1));
    });
    (!all.0.is_empty()).then_some(all)
}
