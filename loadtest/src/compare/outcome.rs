//! The result of a comparison: all turns, their medians, and the ratios of pairs.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use crate::compare::kind::Kind;
use crate::compare::load::SILENCE_MAX;
use crate::compare::options::Options;
use crate::compare::peer::Peer;
use crate::compare::proof::Proof;
use crate::compare::turn::Part;
use crate::compare::turn::Turn;

/// The whole result.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub machine: BTreeMap<String, String>,
    pub settings: BTreeMap<String, String>,
    pub standings: Vec<Standing>,
}

/// The result of one server.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Standing {
    pub name: String,
    pub version: Option<String>,
    /// The number of sessions, limited by what the server can handle.
    pub sessions: Option<usize>,
    /// What its figures leave out.
    pub caveat: Option<String>,
    /// Why it is missing, and how to get it.
    pub absent: Option<String>,
    pub turns: Vec<Turn>,
    /// Why it failed.
    pub failure: Option<String>,
    pub proof: Option<Proof>,
}

/// The median and range of some figures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Spread {
    pub fn of(figures: impl Iterator<Item = f64>) -> Option<Spread> {
        let mut all: Vec<f64> = figures.collect();
        all.sort_by(f64::total_cmp);
        let (least, most) = (*all.first()?, *all.last()?);
        let middle = all.len() / 2;
        let median = match all.len() % 2 {
            1 => all[middle],
            _ => (all[middle - 1] + all[middle]) / 2.0,
        };
        Some(Spread { median, least, most })
    }
}

/// A figure of a turn.
type Figure = (&'static str, fn(&Turn) -> Option<f64>);

/// A number of messages of a turn.
type Count = (&'static str, fn(&Turn) -> u64);

/// All figures, in the order of the table.
pub const FIGURES: [Figure; 12] = [
    ("accepted_per_second", |turn| Some(turn.accept.as_ref()?.per_second)),
    ("relayed_per_second", |turn| Some(turn.relay.as_ref()?.per_second)),
    ("accept_cpu_us", |turn| Some(turn.accept.as_ref()?.cpu_us)),
    ("relay_cpu_us", |turn| Some(turn.relay.as_ref()?.cpu_us)),
    ("relay_written_bytes", |turn| turn.relay.as_ref()?.written_bytes),
    ("accept_written_bytes", |turn| turn.accept.as_ref()?.written_bytes),
    ("memory_mb", |turn| turn.memory_kb.map(|kb| kb as f64 / 1024.0)),
    ("steady_per_second", |turn| Some(turn.steady.as_ref()?.per_second)),
    ("reply_p50_ms", |turn| turn.steady.as_ref()?.reply_p50),
    ("reply_p99_ms", |turn| turn.steady.as_ref()?.reply_p99),
    ("end_p50_ms", |turn| turn.steady.as_ref()?.end_p50),
    ("end_p99_ms", |turn| turn.steady.as_ref()?.end_p99),
];

fn figure_of(key: &str, turn: &Turn) -> Option<f64> {
    let (_, figure) = FIGURES.iter().find(|(name, _)| *name == key)?;
    figure(turn)
}

/// The ratios of a figure, first to second, turn by turn: neighbours in time share the state of the
/// machine.
pub fn ratios(key: &str, first: &Standing, second: &Standing) -> Option<Spread> {
    let pairs = first.turns.iter().zip(&second.turns);
    Spread::of(pairs.filter_map(|(one, other)| {
        let other = figure_of(key, other).filter(|other| *other > 0.0)?;
        Some(figure_of(key, one)? / other)
    }))
}

impl Standing {
    /// A missing server is a failure if it was requested.
    pub fn new(kind: Kind, found: &Result<Peer, String>, options: &Options) -> Standing {
        let why = found.as_ref().err().cloned();
        let (failure, absent) = if options.is_named(kind) { (why, None) } else { (None, why) };
        Standing {
            name: kind.name().to_owned(),
            version: found.as_ref().ok().and_then(|peer| peer.version.clone()),
            sessions: found.is_ok().then(|| options.sessions_for(kind)),
            caveat: kind.caveat().map(str::to_owned).filter(|_| found.is_ok()),
            absent,
            failure,
            ..Standing::default()
        }
    }

    /// Name and version.
    pub fn title(&self) -> String {
        match self.known_version() {
            Some(version) => format!("{} {version}", self.name),
            None => self.name.clone(),
        }
    }

    /// Some servers show their version only in the greeting.
    fn known_version(&self) -> Option<String> {
        let greeted = self.turns.first().and_then(|turn| {
            let mut words = turn.greeting.split(' ').skip_while(|word| **word != self.name);
            words.nth(1).map(str::to_owned)
        });
        self.version.clone().or(greeted)
    }

    pub fn spread(&self, key: &str) -> Option<Spread> {
        Spread::of(self.turns.iter().filter_map(|turn| figure_of(key, turn)))
    }

    /// Messages of all turns that were lost, duplicated or changed.
    pub fn wrong(&self) -> u64 {
        self.turns.iter().map(|turn| turn.mail.balance.wrong()).sum()
    }

    /// Messages of all turns that were refused or bounced.
    pub fn not_relayed(&self) -> u64 {
        self.turns.iter().map(|turn| turn.mail.not_relayed()).sum()
    }

    /// Nothing failed, and all mail arrived.
    fn is_well(&self) -> bool {
        let all_connected = self.turns.iter().all(|turn| turn.mail.unconnected == 0);
        self.failure.is_none() && all_connected && self.wrong() + self.not_relayed() == 0
    }

    /// The medians of CPU time by thread.
    fn threads(&self, what: &str, part: fn(&Turn) -> Option<&Part>) -> Option<String> {
        let names: BTreeSet<&String> =
            self.turns.iter().filter_map(part).flat_map(|part| part.threads_us.keys()).collect();
        let median = |name: &&String| {
            let all = self.turns.iter().filter_map(part);
            let all = all.filter_map(|part| part.threads_us.get(*name).copied());
            Spread::of(all).map_or(0.0, |spread| spread.median)
        };
        let shown: Vec<String> = names
            .iter()
            .map(|name| (name, median(name)))
            .filter(|(_, us)| *us >= 0.1)
            .map(|(name, us)| format!("{name} {us:.1} us"))
            .collect();
        let shown = (!shown.is_empty()).then(|| shown.join(", "));
        shown.map(|shown| format!("CPU per message {what}, by thread: {shown}"))
    }

    /// Remarks on its figures.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        notes.extend(self.absent.clone());
        notes.extend(self.failure.clone().map(|cause| format!("failed: {cause}")));
        let sum = |figure: fn(&Turn) -> u64| self.turns.iter().map(figure).sum::<u64>();
        let counts = |counts: &[Count]| {
            let told = counts.iter().map(|(name, figure)| (name, sum(*figure)));
            let told = told.filter(|(_, count)| *count > 0);
            told.map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
        };
        let not_relayed = counts(&[
            ("not accepted", |turn| turn.mail.failed),
            ("of them overdue", |turn| turn.mail.late),
            ("failed connections", |turn| turn.mail.unconnected),
            ("bounced", |turn| turn.mail.balance.bounced),
        ]);
        if !not_relayed.is_empty() {
            let accepted = sum(|turn| turn.mail.accepted);
            let fault = self.turns.iter().find_map(|turn| turn.mail.first_fault.clone());
            let fault = fault.map(|fault| format!("; first error: {fault}")).unwrap_or_default();
            notes.push(format!("{not_relayed}, {accepted} accepted{fault}"));
        }
        let wrong = counts(&[
            ("lost", |turn| turn.mail.balance.lost),
            ("duplicated", |turn| turn.mail.balance.duplicated),
            ("alien", |turn| turn.mail.balance.alien),
            ("corrupted", |turn| turn.mail.balance.corrupted),
            ("refused and delivered", |turn| turn.mail.balance.refused_but_seen),
            ("bounced and delivered", |turn| turn.mail.balance.bounced_but_seen),
            ("not recorded", |turn| turn.mail.balance.unrecorded),
        ]);
        if !wrong.is_empty() {
            let silence = SILENCE_MAX.as_secs();
            notes.push(format!("{wrong} (lost: not arrived after {silence} s of silence)"));
        }
        notes.extend(self.threads("accepted", |turn| turn.accept.as_ref()));
        notes.extend(self.threads("relayed", |turn| turn.relay.as_ref()));
        notes.extend(self.caveat.clone());
        if self.turns.iter().any(|turn| turn.relay.is_some() && turn.memory_kb.is_none()) {
            notes.push("root is needed to read its memory and its writes".to_owned());
        }
        let fault = self.proof.as_ref().and_then(|proof| proof.fault.clone());
        notes.extend(fault.map(|fault| format!("syncs not traced: {fault}")));
        notes.into_iter().map(|note| format!("{}: {note}", self.name)).collect()
    }
}

impl Outcome {
    /// No requested or installed server failed, and all mail arrived.
    pub fn is_well(&self) -> bool {
        self.standings.iter().all(Standing::is_well)
    }

    /// All turns with their medians.
    pub fn to_json(&self) -> Value {
        let mut told = json!(self);
        for (place, standing) in self.standings.iter().enumerate() {
            let figures = FIGURES.iter().map(|(key, _)| (*key, standing.spread(key)));
            let medians: BTreeMap<_, _> =
                figures.filter_map(|(key, spread)| Some((key, spread?))).collect();
            told["standings"][place]["medians"] = json!(medians);
        }
        told
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::compare::turn::Mail;
    use crate::ledger::Balance;

    /// The expected remark and its cause.
    type Spoil = (&'static str, fn(&mut Mail));

    pub fn outcome(rates: &[f64]) -> Outcome {
        let turn = |rate: &f64| Turn {
            greeting: "mail.example.org ESMTP Exim 4.96 Sat".to_owned(),
            accept: Some(Part { per_second: *rate, cpu_us: 60.0, ..Part::default() }),
            relay: Some(Part::default()),
            memory_kb: Some(20 << 10),
            ..Turn::default()
        };
        let exim = Standing {
            name: "Exim".to_owned(),
            turns: rates.iter().map(turn).collect(),
            proof: Some(Proof { messages: 20, synced: 20, ..Proof::default() }),
            ..Standing::default()
        };
        let absent = Some("not present (x): `apt install it`".to_owned());
        let other = Standing { name: "Other".to_owned(), absent, ..Standing::default() };
        Outcome {
            machine: BTreeMap::new(),
            settings: BTreeMap::from([("sessions".to_owned(), "50".to_owned())]),
            standings: vec![exim, other],
        }
    }

    #[test]
    fn the_median_is_in_the_middle() {
        let of = |figures: &[f64]| Spread::of(figures.iter().copied());
        assert_eq!(of(&[]), None);
        let three = Spread { median: 2.0, least: 1.0, most: 9.0 };
        assert_eq!(of(&[9.0, 1.0, 2.0]), Some(three));
        assert_eq!(of(&[4.0, 2.0]).map(|spread| spread.median), Some(3.0));
    }

    #[test]
    fn ratios_are_those_of_pairs() {
        let [first, second] =
            [[100.0, 300.0, 90.0], [50.0, 100.0, 90.0]].map(|rates| outcome(&rates));
        let of = |key| ratios(key, &first.standings[0], &second.standings[0]);
        let expected = Spread { median: 2.0, least: 1.0, most: 3.0 };
        assert_eq!(of("accepted_per_second"), Some(expected));
        assert_eq!(of("end_p99_ms"), None, "not measured");
    }

    #[test]
    fn unreadable_figures_are_not_zero() {
        let mut hidden = outcome(&[1.0]);
        hidden.standings[0].turns[0].memory_kb = None;
        let exim = &hidden.standings[0];
        assert_eq!((exim.spread("memory_mb"), exim.spread("relay_written_bytes")), (None, None));
        assert!(exim.notes()[0].contains("root is needed"), "{:?}", exim.notes());
    }

    #[test]
    fn wrong_mail_is_reported_and_fails() {
        let mut mixed = outcome(&[1.0]);
        mixed.standings[0].turns[0].mail = Mail {
            accepted: 9,
            failed: 1,
            first_fault: Some("421".into()),
            balance: Balance { lost: 2, ..Balance::default() },
            ..Mail::default()
        };
        let notes = mixed.standings[0].notes();
        assert!(notes[0].contains("1 not accepted, 9 accepted; first error: 421"), "{notes:?}");
        assert!(notes[1].contains("2 lost (lost: not arrived after 20 s"), "{notes:?}");

        let rows: [Spoil; 9] = [
            ("1 not accepted", |mail| mail.failed = 1),
            ("1 failed connections", |mail| mail.unconnected = 1),
            ("1 bounced", |mail| mail.balance.bounced = 1),
            ("1 lost", |mail| mail.balance.lost = 1),
            ("1 duplicated", |mail| mail.balance.duplicated = 1),
            ("1 alien", |mail| mail.balance.alien = 1),
            ("1 corrupted", |mail| mail.balance.corrupted = 1),
            ("1 bounced and delivered", |mail| mail.balance.bounced_but_seen = 1),
            ("1 not recorded", |mail| mail.balance.unrecorded = 1),
        ];
        for (expected, spoil) in rows {
            let mut one = outcome(&[1.0]);
            spoil(&mut one.standings[0].turns[0].mail);
            let notes = one.standings[0].notes();
            assert!(notes[0].contains(expected), "{expected}: {notes:?}");
            assert!(!one.is_well(), "{expected}");
        }
        assert!(outcome(&[1.0]).is_well());
    }

    #[test]
    fn only_a_requested_server_must_exist() {
        let why: Result<Peer, String> = Err("not present (x)".to_owned());
        for (words, expected) in [("", true), ("--peers exim", false), ("--peers haraka", true)] {
            let options = crate::compare::options::tests::options(words);
            let mut one = outcome(&[1.0]);
            one.standings[1] = Standing::new(Kind::Exim, &why, &options);
            assert_eq!(one.is_well(), expected, "{words}");
            assert!(one.standings[1].notes()[0].contains("not present (x)"), "{words}");
        }
    }
}
