//! What came of a comparison: all that was measured, and the medians of its turns.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

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

/// All that are summed up, in the order of the table.
pub const FIGURES: [Figure; 12] = [
    ("accepted_per_second", |turn| Some(turn.accept.per_second)),
    ("relayed_per_second", |turn| Some(turn.relay.per_second)),
    ("accept_cpu_us", |turn| Some(turn.accept.cpu_us)),
    ("relay_cpu_us", |turn| Some(turn.relay.cpu_us)),
    ("relay_written_bytes", |turn| Some(turn.relay.written_bytes)),
    ("accept_written_bytes", |turn| Some(turn.accept.written_bytes)),
    ("memory_mb", |turn| Some(turn.memory_kb as f64 / 1024.0)),
    ("steady_per_second", |turn| Some(turn.steady.per_second)),
    ("reply_p50_ms", |turn| turn.steady.reply_p50),
    ("reply_p99_ms", |turn| turn.steady.reply_p99),
    ("end_p50_ms", |turn| turn.steady.end_p50),
    ("end_p99_ms", |turn| turn.steady.end_p99),
];

impl Standing {
    pub fn new(kind: Kind, found: &Result<Peer, String>) -> Standing {
        Standing {
            name: kind.name().to_owned(),
            version: found.as_ref().ok().and_then(|peer| peer.version.clone()),
            absent: found.as_ref().err().cloned(),
            ..Standing::default()
        }
    }

    /// The name and the version, which some tell only in their greeting.
    pub fn title(&self) -> String {
        let greeted = self.turns.first().and_then(|turn| {
            let mut words = turn.greeting.split(' ').skip_while(|word| **word != self.name);
            words.nth(1).map(str::to_owned)
        });
        match self.version.clone().or(greeted) {
            Some(version) => format!("{} {version}", self.name),
            None => self.name.clone(),
        }
    }

    pub fn spread(&self, key: &str) -> Option<Spread> {
        let (_, figure) = FIGURES.iter().find(|(name, _)| *name == key)?;
        Spread::of(self.turns.iter().filter_map(figure))
    }

    /// Lost, duplicated and alien messages of all turns.
    pub fn wrong(&self) -> u64 {
        self.turns.iter().map(|turn| &turn.mail).map(|m| m.lost + m.duplicated + m.alien).sum()
    }

    /// What a reader should know of it, beside its figures.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        notes.extend(self.absent.clone());
        notes.extend(self.failure.clone().map(|cause| format!("failed: {cause}")));
        let sum = |figure: fn(&Turn) -> u64| self.turns.iter().map(figure).sum::<u64>();
        let failed = sum(|turn| turn.mail.failed);
        if failed > 0 {
            let accepted = sum(|turn| turn.mail.accepted);
            let fault = self.turns.iter().find_map(|turn| turn.mail.first_fault.clone());
            let fault = fault.unwrap_or_default();
            notes.push(format!("{failed} not accepted, {accepted} accepted; the first: {fault}"));
        }
        if self.wrong() > 0 {
            let (lost, duplicated, alien) = (
                sum(|turn| turn.mail.lost),
                sum(|turn| turn.mail.duplicated),
                sum(|turn| turn.mail.alien),
            );
            notes.push(format!("{lost} lost, {duplicated} duplicated, {alien} alien"));
        }
        let fault = self.proof.as_ref().and_then(|proof| proof.fault.clone());
        notes.extend(fault.map(|fault| format!("its syncs were not traced: {fault}")));
        notes.into_iter().map(|note| format!("{}: {note}", self.name)).collect()
    }
}

impl Outcome {
    /// Nothing failed that was there, and no mail went wrong. What is absent is only told.
    pub fn is_well(&self) -> bool {
        self.standings.iter().all(|one| one.failure.is_none() && one.wrong() == 0)
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

    fn read(path: &Path) -> Result<Outcome, String> {
        let text = fs::read_to_string(path).map_err(|cause| cause.to_string());
        let read = text.and_then(|text| {
            serde_json::from_str(&text)
                .map_err(|cause| format!("it is nothing that `compare --output` wrote: {cause}"))
        });
        read.map_err(|cause| format!("{}: {cause}", path.display()))
    }

    /// The turns of several runs together, which must have been alike.
    pub fn read_all(paths: &[PathBuf]) -> Result<Outcome, String> {
        let mut sum: Option<Outcome> = None;
        for path in paths {
            let one = Outcome::read(path)?;
            let Some(sum) = &mut sum else {
                sum = Some(one);
                continue;
            };
            if sum.settings != one.settings {
                let path = path.display();
                return Err(format!(
                    "{path}: its settings are not those of the first; leave it out"
                ));
            }
            one.standings.into_iter().for_each(|standing| sum.add(standing));
        }
        sum.ok_or_else(|| "--from: name a file".to_owned())
    }

    fn add(&mut self, more: Standing) {
        let Some(known) = self.standings.iter_mut().find(|one| one.name == more.name) else {
            return self.standings.push(more);
        };
        known.turns.extend(more.turns);
        known.failure = known.failure.take().or(more.failure);
        known.proof = known.proof.take().or(more.proof);
        known.version = known.version.take().or(more.version);
        // It was there at least once.
        known.absent = known.absent.take().and(more.absent);
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::compare::turn::Mail;
    use crate::compare::turn::Part;

    pub fn outcome(rates: &[f64]) -> Outcome {
        let turn = |rate: &f64| Turn {
            greeting: "mail.example.org ESMTP Exim 4.96 Sat".to_owned(),
            accept: Part { per_second: *rate, cpu_us: 60.0, ..Part::default() },
            memory_kb: 20 << 10,
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
        fs::write(&paths[1], "{}").expect("the folder is ours");
        assert!(Outcome::read_all(&paths).expect_err("it is none").contains("compare --output"));
    }

    #[test]
    fn mail_that_went_wrong_is_told_and_makes_it_fail() {
        let mut outcome = outcome(&[1.0]);
        outcome.standings[0].turns[0].mail = Mail {
            accepted: 9,
            failed: 1,
            lost: 2,
            first_fault: Some("421".into()),
            ..Mail::default()
        };
        assert!(!outcome.is_well());
        let notes = outcome.standings[0].notes();
        assert!(notes[0].contains("1 not accepted, 9 accepted; the first: 421"), "{notes:?}");
        assert!(notes[1].contains("2 lost, 0 duplicated"), "{notes:?}");
    }
}
