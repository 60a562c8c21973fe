//! What came of a comparison: all that was measured, and the medians of its turns.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use crate::compare::load::SILENCE_MAX;
use crate::compare::options::Options;
use crate::compare::peer::Kind;
use crate::compare::peer::Peer;
use crate::compare::proof::Proof;
use crate::compare::turn::Turn;
use crate::report::Machine;

/// All of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub machine: Machine,
    pub settings: BTreeMap<String, String>,
    pub standings: Vec<Standing>,
}

/// Of one server.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Standing {
    pub name: String,
    pub version: Option<String>,
    /// That drove it: as many as the settings say, or as it can take.
    #[serde(default)]
    pub sessions: Option<usize>,
    /// What its figures leave out.
    #[serde(default)]
    pub caveat: Option<String>,
    /// That it is not there, and how to get it.
    pub absent: Option<String>,
    pub turns: Vec<Turn>,
    /// Why there are no more turns.
    pub failure: Option<String>,
    pub proof: Option<Proof>,
}

/// The middle of some figures, and how far they are apart.
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

/// A figure of a turn: its key, and where it is.
type Figure = (&'static str, fn(&Turn) -> Option<f64>);

/// A number of messages of a turn: what is said of them, and where it is.
type Count = (&'static str, fn(&Turn) -> u64);

/// All that are summed up, in the order of the table.
pub const FIGURES: [Figure; 12] = [
    ("accepted_per_second", |turn| Some(turn.accept.per_second)),
    ("relayed_per_second", |turn| Some(turn.relay.per_second)),
    ("accept_cpu_us", |turn| Some(turn.accept.cpu_us)),
    ("relay_cpu_us", |turn| Some(turn.relay.cpu_us)),
    ("relay_written_bytes", |turn| turn.relay.written_bytes),
    ("accept_written_bytes", |turn| turn.accept.written_bytes),
    ("memory_mb", |turn| turn.memory_kb.map(|kb| kb as f64 / 1024.0)),
    ("steady_per_second", |turn| Some(turn.steady.per_second)),
    ("reply_p50_ms", |turn| turn.steady.reply_p50),
    ("reply_p99_ms", |turn| turn.steady.reply_p99),
    ("end_p50_ms", |turn| turn.steady.end_p50),
    ("end_p99_ms", |turn| turn.steady.end_p99),
];

impl Standing {
    /// Of one that is asked for by name it is a failure not to be there.
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

    /// The name and the version.
    pub fn title(&self) -> String {
        match self.told_version() {
            Some(version) => format!("{} {version}", self.name),
            None => self.name.clone(),
        }
    }

    /// Some tell it only in their greeting.
    fn told_version(&self) -> Option<String> {
        let greeted = self.turns.first().and_then(|turn| {
            let mut words = turn.greeting.split(' ').skip_while(|word| **word != self.name);
            words.nth(1).map(str::to_owned)
        });
        self.version.clone().or(greeted)
    }

    pub fn spread(&self, key: &str) -> Option<Spread> {
        let (_, figure) = FIGURES.iter().find(|(name, _)| *name == key)?;
        Spread::of(self.turns.iter().filter_map(figure))
    }

    /// Messages of all turns that were lost, or came as they should not.
    pub fn wrong(&self) -> u64 {
        self.turns.iter().map(|turn| turn.mail.wrong()).sum()
    }

    /// Messages of all turns that were not accepted, or sent back.
    pub fn not_relayed(&self) -> u64 {
        self.turns.iter().map(|turn| turn.mail.not_relayed()).sum()
    }

    /// Nothing failed, and all mail was taken and came.
    fn is_well(&self) -> bool {
        let all_connected = self.turns.iter().all(|turn| turn.mail.unconnected == 0);
        self.failure.is_none() && all_connected && self.wrong() + self.not_relayed() == 0
    }

    /// What a reader should know of it, beside its figures.
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
            ("of these late", |turn| turn.mail.late),
            ("sessions without a connection", |turn| turn.mail.unconnected),
            ("sent back", |turn| turn.mail.bounced),
        ]);
        if !not_relayed.is_empty() {
            let accepted = sum(|turn| turn.mail.accepted);
            let fault = self.turns.iter().find_map(|turn| turn.mail.first_fault.clone());
            let fault = fault.map(|fault| format!("; the first: {fault}")).unwrap_or_default();
            notes.push(format!("{not_relayed}, {accepted} accepted{fault}"));
        }
        let wrong = counts(&[
            ("lost", |turn| turn.mail.lost),
            ("duplicated", |turn| turn.mail.duplicated),
            ("alien", |turn| turn.mail.alien),
            ("corrupted", |turn| turn.mail.corrupted),
            ("sent back and delivered", |turn| turn.mail.bounced_but_seen),
            ("not recorded", |turn| turn.mail.unrecorded),
        ]);
        if !wrong.is_empty() {
            let silence = SILENCE_MAX.as_secs();
            notes.push(format!("{wrong} (lost: not there after {silence} s without any)"));
        }
        notes.extend(self.caveat.clone());
        if self.turns.iter().any(|turn| turn.memory_kb.is_none()) {
            notes.push("its memory and what it writes cannot be read without root".to_owned());
        }
        let fault = self.proof.as_ref().and_then(|proof| proof.fault.clone());
        notes.extend(fault.map(|fault| format!("its syncs were not traced: {fault}")));
        notes.into_iter().map(|note| format!("{}: {note}", self.name)).collect()
    }
}

impl Outcome {
    /// Nothing failed that was there or asked for by name, and all mail was taken and came. What else
    /// is absent is only told.
    pub fn is_well(&self) -> bool {
        self.standings.iter().all(Standing::is_well)
    }

    /// With the medians beside the turns they are of.
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

    fn read(text: &str) -> Result<Outcome, String> {
        serde_json::from_str(text)
            .map_err(|cause| format!("it is nothing that `compare --output` wrote: {cause}"))
    }

    /// The turns of several runs together, which must have been alike.
    pub fn read_all(paths: &[PathBuf]) -> Result<Outcome, String> {
        let mut sum: Option<Outcome> = None;
        // The same run twice would make its figures look surer than they are.
        let mut known = HashSet::new();
        for path in paths {
            let told = |cause: String| format!("{}: {cause}", path.display());
            let text = fs::read_to_string(path).map_err(|cause| told(cause.to_string()))?;
            let one = Outcome::read(&text).map_err(told)?;
            if !known.insert(text) {
                return Err(told("it is named twice; leave one out".to_owned()));
            }
            match &mut sum {
                Some(sum) => sum.join(one).map_err(told)?,
                None => sum = Some(one),
            }
        }
        sum.ok_or_else(|| "--from: name a file".to_owned())
    }

    fn join(&mut self, one: Outcome) -> Result<(), String> {
        let unlike = |what: &str| Err(format!("{what} not that of the first; leave it out"));
        if self.settings != one.settings {
            return unlike("its settings are");
        }
        if without_syncs(&self.machine) != without_syncs(&one.machine) {
            return unlike("its machine is");
        }
        one.standings.into_iter().try_for_each(|standing| self.add(standing))
    }

    fn add(&mut self, more: Standing) -> Result<(), String> {
        let Some(known) = self.standings.iter_mut().find(|one| one.name == more.name) else {
            self.standings.push(more);
            return Ok(());
        };
        let versions = known.told_version().zip(more.told_version());
        if let Some((first, second)) = versions.filter(|(first, second)| first != second) {
            let name = &more.name;
            return Err(format!("{name} is {second} there and {first} before; leave it out"));
        }
        known.turns.extend(more.turns);
        known.failure = known.failure.take().or(more.failure);
        // One that did not come to its end stands only for want of another.
        let is_good = known.proof.as_ref().is_some_and(|proof| proof.fault.is_none());
        let proof = more.proof.filter(|_| !is_good);
        known.proof = proof.or(known.proof.take());
        known.version = known.version.take().or(more.version);
        known.sessions = known.sessions.or(more.sessions);
        known.caveat = known.caveat.take().or(more.caveat);
        // It was there at least once.
        known.absent = known.absent.take().and(more.absent);
        Ok(())
    }
}

/// What stays the same from one run to the next.
fn without_syncs(machine: &Machine) -> Machine {
    let mut machine = machine.clone();
    if let Some(disk) = &mut machine.disk {
        disk.sync = None;
    }
    machine
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::compare::turn::Mail;
    use crate::compare::turn::Part;

    /// What is told, and of what.
    type Spoil = (&'static str, fn(&mut Mail));

    pub fn outcome(rates: &[f64]) -> Outcome {
        let turn = |rate: &f64| Turn {
            greeting: "mail.example.org ESMTP Exim 4.96 Sat".to_owned(),
            accept: Part { per_second: *rate, cpu_us: 60.0, ..Part::default() },
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
            machine: Machine::default(),
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
    fn runs_add_up_and_what_was_absent_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let paths = ["a", "b"].map(|name| folder.path().join(name));
        for (path, rates) in paths.iter().zip([&[100.0, 300.0][..], &[200.0]]) {
            let text = outcome(rates).to_json().to_string();
            fs::write(path, text).expect("the folder is ours");
        }
        let sum = Outcome::read_all(&paths).expect("they are alike");
        let exim = &sum.standings[0];
        let spread = exim.spread("accepted_per_second").expect("there are turns");
        assert_eq!((spread.median, spread.least, spread.most), (200.0, 100.0, 300.0));
        assert_eq!(exim.title(), "Exim 4.96");
        assert_eq!(sum.to_json()["standings"][0]["medians"]["memory_mb"]["median"], 20.0);
        assert_eq!(sum.standings[1].notes(), ["Other: not present (x): `apt install it`"]);
        assert!(sum.is_well());

        let mut unlike = outcome(&[1.0]);
        unlike.settings.clear();
        fs::write(&paths[1], unlike.to_json().to_string()).expect("the folder is ours");
        let why = Outcome::read_all(&paths).expect_err("they are not alike");
        assert!(why.contains("settings"), "{why}");
        let why = Outcome::read_all(&[&paths[0], &paths[0]].map(Clone::clone));
        assert!(why.expect_err("once is enough").contains("twice"));
        let mut other = outcome(&[1.0]);
        other.machine.cores = 64;
        fs::write(&paths[1], other.to_json().to_string()).expect("the folder is ours");
        let why = Outcome::read_all(&paths).expect_err("it is another");
        assert!(why.contains("machine"), "{why}");
        let mut newer = outcome(&[1.0]);
        newer.standings[0].version = Some("4.99".to_owned());
        fs::write(&paths[1], newer.to_json().to_string()).expect("the folder is ours");
        let why = Outcome::read_all(&paths).expect_err("it is another");
        assert!(why.contains("Exim is 4.99 there and 4.96 before"), "{why}");
        fs::write(&paths[1], "{}").expect("the folder is ours");
        assert!(Outcome::read_all(&paths).expect_err("it is none").contains("compare --output"));
    }

    #[test]
    fn what_could_not_be_read_is_no_zero() {
        let mut hidden = outcome(&[1.0]);
        hidden.standings[0].turns[0].memory_kb = None;
        let exim = &hidden.standings[0];
        assert_eq!((exim.spread("memory_mb"), exim.spread("relay_written_bytes")), (None, None));
        assert!(exim.notes()[0].contains("without root"), "{:?}", exim.notes());
    }

    #[test]
    fn a_proof_that_failed_hides_no_good_one() {
        let [good, failed, none] = [
            Some(Proof { messages: 20, synced: 20, ..Proof::default() }),
            Some(Proof { fault: Some("no strace".to_owned()), ..Proof::default() }),
            None,
        ];
        for (first, second, expected) in [
            (&failed, &good, "yes"),
            (&good, &failed, "yes"),
            (&none, &good, "yes"),
            (&failed, &none, "not known"),
        ] {
            let [mut sum, mut more] = [outcome(&[1.0]), outcome(&[2.0])];
            sum.standings[0].proof.clone_from(first);
            more.standings[0].proof.clone_from(second);
            sum.join(more).expect("they are alike");
            let proof = sum.standings[0].proof.as_ref().expect("there is one");
            assert_eq!(proof.verdict(), expected, "{first:?} {second:?}");
        }
    }

    #[test]
    fn mail_that_went_wrong_is_told_and_makes_it_fail() {
        let mut mixed = outcome(&[1.0]);
        mixed.standings[0].turns[0].mail = Mail {
            accepted: 9,
            failed: 1,
            lost: 2,
            first_fault: Some("421".into()),
            ..Mail::default()
        };
        let notes = mixed.standings[0].notes();
        assert!(notes[0].contains("1 not accepted, 9 accepted; the first: 421"), "{notes:?}");
        assert!(notes[1].contains("2 lost (lost: not there after 20 s"), "{notes:?}");

        let rows: [Spoil; 9] = [
            ("1 not accepted", |mail| mail.failed = 1),
            ("1 sessions without a connection", |mail| mail.unconnected = 1),
            ("1 sent back", |mail| mail.bounced = 1),
            ("1 lost", |mail| mail.lost = 1),
            ("1 duplicated", |mail| mail.duplicated = 1),
            ("1 alien", |mail| mail.alien = 1),
            ("1 corrupted", |mail| mail.corrupted = 1),
            ("1 sent back and delivered", |mail| mail.bounced_but_seen = 1),
            ("1 not recorded", |mail| mail.unrecorded = 1),
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
    fn only_a_server_that_is_asked_for_must_be_there() {
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
