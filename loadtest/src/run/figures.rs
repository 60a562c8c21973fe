//! The figures of a run by name, and the verdicts on them.
//!
//! ```text
//! total.NAME         the account: accepted, arrived, bounced, stuck, lost...
//! server.NAME        counts and costs of the server, if the run starts it
//! SOURCE.NAME        counts; SOURCE.STAGE.p99_ms for each stage, and `end_to_end` with a rate
//! SINK.NAME          counts; SINK.end_to_end.p99_ms
//! IDLE.NAME          sessions, alive, memory_kb_per_session
//! ```

use std::collections::BTreeMap;

use crate::report::Hdr;
use crate::report::QUANTILES;
use crate::report::Verdict;
use crate::report::by_name;
use crate::run::account::Account;
use crate::run::scenario::Expectation;
use crate::run::scenario::Scenario;
use crate::sink::Counts;
use crate::source::stages;

pub const END_TO_END: &str = "end_to_end";
const SERVER: [&str; 9] = [
    "taken",
    "delivered",
    "bounced",
    "queued",
    "cpu_ms",
    "cpu_us_per_message",
    "memory_mb",
    "memory_mb_max",
    "written_bytes_per_message",
];
const SOURCE: [&str; 14] = [
    "planned",
    "accepted",
    "refused",
    "unknown",
    "not_sent",
    "late",
    "unconnected",
    "tls_handshakes",
    "tls_resumed",
    "arrived",
    "bounced",
    "missing",
    "seconds",
    "per_second",
];
const IDLE: [&str; 3] = ["sessions", "alive", "memory_kb_per_session"];

/// All figures of a run.
#[derive(Debug, Default)]
pub struct Figures(BTreeMap<String, f64>);

impl Figures {
    pub fn set(&mut self, of: &str, name: &str, figure: f64) {
        self.0.insert(format!("{of}.{name}"), figure);
    }

    /// `END_TO_END`, or the name of a stage.
    pub fn set_stage(&mut self, of: &str, stage: &str, latencies: &Hdr) {
        let stage = format!("{of}.{}", stage.replace(' ', "_"));
        self.set(&stage, "count", latencies.0.len() as f64);
        self.set(&stage, "max_ms", latencies.max_ms());
        for (name, quantile) in QUANTILES {
            self.set(&stage, &format!("{name}_ms"), latencies.ms(quantile));
        }
    }

    fn find(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// Checks an expectation. It fails if a figure was not measured.
    pub fn judge(&self, expectation: &Expectation) -> Verdict {
        let Expectation { figure, of, none_too, equals, at_least, at_most, that } = expectation;
        let found = self.find(figure);
        let base = of.as_ref().map_or(Some(1.0), |of| self.find(of));
        let (Some(found), Some(base)) = (found, base) else {
            let none = if found.is_none() { Some(figure) } else { of.as_ref() };
            let found = format!("`{}` was not measured", none.map_or("", String::as_str));
            return Verdict { holds: false, that: that.clone(), found };
        };
        // Any multiple of 0 is 0: a run in which nothing happened must not pass.
        if let (Some(of), true) = (of, base == 0.0 && !none_too) {
            let found = format!("`{of}` is 0, so that the ratio means nothing");
            return Verdict { holds: false, that: that.clone(), found };
        }
        let bounds = [("equals", equals), ("at least", at_least), ("at most", at_most)];
        let mut text = format!("{figure} is {}", shown(found));
        let mut holds = true;
        for (name, factor) in bounds {
            let Some(factor) = factor else { continue };
            let bound = factor * base;
            holds &= match name {
                "equals" => found == bound,
                "at least" => found >= bound,
                _ => found <= bound,
            };
            text += &format!(", {name} {}", shown(bound));
            if let Some(of) = of {
                text += &format!(" ({factor} x {of})");
            }
        }
        Verdict { holds, that: that.clone(), found: text }
    }
}

/// The expectations on every run.
pub fn judge_account(account: &Account, cuts: u64, per_cut: u64) -> Vec<Verdict> {
    let row = |that: &str, found: u64, most: u64| {
        let bound = if most == 0 { "expected none".to_owned() } else { format!("at most {most}") };
        Verdict { holds: found <= most, that: that.to_owned(), found: format!("{found}, {bound}") }
    };
    // Repetitions that the cuts allow.
    let repeated_max = cuts * per_cut.min(account.accepted);
    let copies_max = if per_cut == 0 { 1 } else { 1 + cuts };
    vec![
        Verdict {
            holds: account.accepted > 0,
            that: "mail was accepted".to_owned(),
            found: account.accepted.to_string(),
        },
        row("nothing is lost", account.lost, 0),
        row("nothing is stuck", account.stuck, 0),
        row("no duplicates except those that a cut allows", account.duplicated, repeated_max),
        row("no message has more copies than cuts allow", account.copies_max, copies_max),
        row("nothing arrives that was not sent", account.alien, 0),
        row("nothing arrives that was refused", account.refused_but_seen, 0),
        row("no body was changed", account.corrupted, 0),
        row("nothing arrives that was reported as failed", account.bounced_but_seen, 0),
        row("everything was recorded", account.unrecorded, 0),
    ]
}

/// Checks that a run of this scenario has this figure.
pub fn check_name(figure: &str, scenario: &Scenario) -> Result<(), String> {
    let (of, name) = figure.split_once('.').unwrap_or((figure, ""));
    let known: Vec<String> = if of == "total" {
        by_name(&Account::default()).into_keys().collect()
    } else if of == "server" {
        SERVER.map(str::to_owned).to_vec()
    } else if let Some(source) = scenario.sources.iter().find(|source| source.name == of) {
        let stages = stages::NAMES.iter().map(|name| name.replace(' ', "_"));
        let end_to_end = source.rate.map(|_| END_TO_END.to_owned());
        SOURCE
            .map(str::to_owned)
            .into_iter()
            .chain(with_quantiles(stages.chain(end_to_end)))
            .collect()
    } else if scenario.sink(of).is_some() {
        let stages = with_quantiles(std::iter::once(END_TO_END.to_owned()));
        by_name(&Counts::default()).into_keys().chain(stages).collect()
    } else if scenario.idle.iter().any(|idle| idle.name == of) {
        IDLE.map(str::to_owned).to_vec()
    } else {
        return Err(format!(
            "`{figure}`: there is no `{of}`; a figure starts with total, server, or the name of a \
             part"
        ));
    };
    match known.iter().any(|one| one == name) {
        true => Ok(()),
        false => Err(format!("`{figure}`: unknown figure; `{of}` has {}", known.join(", "))),
    }
}

fn with_quantiles(stages: impl Iterator<Item = String>) -> impl Iterator<Item = String> {
    let each = |stage: String| {
        let quantiles = QUANTILES.map(|(name, _)| format!("{stage}.{name}_ms"));
        quantiles.into_iter().chain(["max_ms", "count"].map(|name| format!("{stage}.{name}")))
    };
    stages.flat_map(each)
}

fn shown(figure: f64) -> String {
    match figure.fract() == 0.0 {
        true => format!("{figure:.0}"),
        false => format!("{figure:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expectation(of: Option<&str>, bounds: [Option<f64>; 3]) -> Expectation {
        let [equals, at_least, at_most] = bounds;
        let (figure, of) = ("a.x".to_owned(), of.map(str::to_owned));
        Expectation { figure, of, none_too: false, equals, at_least, at_most, that: "t".into() }
    }

    #[test]
    fn bounds_are_multiples_and_both_hold() {
        let mut figures = Figures::default();
        figures.set("a", "x", 10.0);
        figures.set("b", "y", 4.0);
        let rows = [
            (None, [Some(10.0), None, None], true),
            (None, [Some(10.5), None, None], false),
            (None, [None, Some(10.0), Some(10.0)], true),
            (None, [None, Some(1.0), Some(9.0)], false),
            (Some("b.y"), [None, None, Some(2.5)], true),
            (Some("b.y"), [None, None, Some(2.4)], false),
            (Some("b.z"), [None, None, Some(9.0)], false),
        ];
        for (of, bounds, holds) in rows {
            let verdict = figures.judge(&expectation(of, bounds));
            assert_eq!(verdict.holds, holds, "{verdict:?}");
        }
        let told = figures.judge(&expectation(Some("b.y"), [None, None, Some(2.4)])).found;
        assert_eq!(told, "a.x is 10, at most 9.600 (2.4 x b.y)");
    }

    #[test]
    fn a_multiple_of_zero_fails() {
        let mut figures = Figures::default();
        figures.set("a", "x", 0.0);
        figures.set("b", "y", 0.0);
        let mut expectation = expectation(Some("b.y"), [Some(1.0), None, None]);
        let verdict = figures.judge(&expectation);
        assert!(!verdict.holds);
        assert_eq!(verdict.found, "`b.y` is 0, so that the ratio means nothing");
        expectation.none_too = true;
        assert!(figures.judge(&expectation).holds);
        figures.set("a", "x", 1.0);
        assert!(!figures.judge(&expectation).holds);
    }

    /// The failed expectations of an account without cuts.
    fn failed(account: Account) -> Vec<String> {
        let verdicts = judge_account(&account, 0, 0).into_iter();
        verdicts.filter(|verdict| !verdict.holds).map(|verdict| verdict.that).collect()
    }

    #[test]
    fn a_run_without_mail_fails() {
        let well = Account { accepted: 1, arrived: 1, copies_max: 1, ..Account::default() };
        assert_eq!(failed(well), [""; 0]);
        assert_eq!(failed(Account::default()), ["mail was accepted"]);
        let refused = Account { refused_but_seen: 1, ..well };
        assert_eq!(failed(refused), ["nothing arrives that was refused"]);
    }

    #[test]
    fn a_cut_repeats_each_message_at_most_once() {
        let holds = |account: &Account, cuts| {
            judge_account(account, cuts, 100).iter().all(|verdict| verdict.holds)
        };
        let account = Account { accepted: 2, copies_max: 2, duplicated: 2, ..Account::default() };
        assert_eq!([0, 1].map(|cuts| holds(&account, cuts)), [false, true]);
        let more = Account { duplicated: 3, ..account };
        assert_eq!([1, 2].map(|cuts| holds(&more, cuts)), [false, true], "both came twice");
        let often = Account { copies_max: 3, ..account };
        assert_eq!([1, 2].map(|cuts| holds(&often, cuts)), [false, true]);
    }

    #[test]
    fn only_cuts_allow_duplicates() {
        let account = Account { accepted: 9, copies_max: 2, duplicated: 3, ..Account::default() };
        let holds = |cuts| judge_account(&account, cuts, 2).iter().all(|verdict| verdict.holds);
        assert_eq!([0, 1, 2].map(holds), [false, false, true]);
    }
}
