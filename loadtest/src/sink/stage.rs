//! The moments of a session that something can be ordered for, and what smtp-sink's flags order.

use std::time::Duration;

use crate::sink::random::Random;

/// What a client does. The names are smtp-sink's, and ours for what it does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Connect,
    Helo,
    Ehlo,
    Lhlo,
    Mail,
    Rcpt,
    Vrfy,
    Data,
    /// The end of a body, also by BDAT LAST.
    Dot,
    Rset,
    Noop,
    Quit,
    StartTls,
    Auth,
    Xclient,
    Xforward,
}

const STAGES: [(Stage, &str); 16] = [
    (Stage::Connect, "CONNECT"),
    (Stage::Helo, "HELO"),
    (Stage::Ehlo, "EHLO"),
    (Stage::Lhlo, "LHLO"),
    (Stage::Mail, "MAIL"),
    (Stage::Rcpt, "RCPT"),
    (Stage::Vrfy, "VRFY"),
    (Stage::Data, "DATA"),
    (Stage::Dot, "."),
    (Stage::Rset, "RSET"),
    (Stage::Noop, "NOOP"),
    (Stage::Quit, "QUIT"),
    (Stage::StartTls, "STARTTLS"),
    (Stage::Auth, "AUTH"),
    (Stage::Xclient, "XCLIENT"),
    (Stage::Xforward, "XFORWARD"),
];

impl Stage {
    pub fn name(self) -> &'static str {
        STAGES[self as usize].1
    }

    /// The stages of a list such as `MAIL,RCPT .`.
    fn read_list(text: &str) -> Result<Vec<Stage>, String> {
        let words = text.split([',', ' ', '\t']).filter(|word| !word.is_empty());
        words.map(Stage::read).collect()
    }

    fn read(word: &str) -> Result<Stage, String> {
        let found = STAGES.iter().find(|(_, name)| name.eq_ignore_ascii_case(word));
        found.map(|(stage, _)| *stage).ok_or_else(|| {
            let names = STAGES.map(|(_, name)| name).join(" ");
            format!("`{word}` is no command; there are {names}")
        })
    }
}

/// What is said instead of yes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refusal {
    #[default]
    None,
    Soft,
    Hard,
    /// 421, and the end.
    Leave,
    /// The end without a word.
    Drop,
}

/// A wait, and the chance in 100 that it is made once more.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Wait {
    seconds: f64,
    odds: u32,
}

/// What the flags order for each stage.
#[derive(Clone, Debug, Default)]
pub struct Orders {
    refusals: [Refusal; STAGES.len()],
    waits: [Option<Wait>; STAGES.len()],
    logged: u32,
    /// Stages with any order, one bit each: most have none, and that is to cost nothing.
    busy: u32,
}

impl Orders {
    pub fn refuse(&mut self, flag: &str, lists: &[String], refusal: Refusal) -> Result<(), String> {
        for list in lists {
            let stages = Stage::read_list(list).map_err(|why| format!("{flag}: {why}"))?;
            for stage in stages {
                self.refusals[stage as usize] = refusal;
                self.busy |= 1 << stage as u32;
            }
        }
        Ok(())
    }

    /// The stages of `lists` are logged.
    pub fn log(&mut self, lists: &[String]) -> Result<(), String> {
        for list in lists {
            for stage in Stage::read_list(list).map_err(|why| format!("-s: {why}"))? {
                self.logged |= 1 << stage as u32;
            }
        }
        Ok(())
    }

    /// `-W command:delay[:odds]`.
    pub fn wait(&mut self, text: &str) -> Result<(), String> {
        let mut parts = text.split(':');
        let stage = Stage::read(parts.next().unwrap_or(""));
        let stage = stage.map_err(|why| format!("-W {text}: {why}"))?;
        let seconds = parts.next().and_then(|seconds| seconds.parse::<f64>().ok());
        let seconds = seconds.ok_or_else(|| format!("-W {text}: command:delay[:odds]"))?;
        let odds = match parts.next().map(str::parse) {
            None => 0,
            Some(Ok(odds @ 1..=99)) => odds,
            Some(_) => return Err(format!("-W {text}: odds are 1 to 99")),
        };
        self.wait_at(stage, seconds, odds).map_err(|why| format!("-W {text}: {why}"))
    }

    pub fn wait_at(&mut self, stage: Stage, seconds: f64, odds: u32) -> Result<(), String> {
        if !(0.0..=1e6).contains(&seconds) {
            return Err("that is no time to wait".to_owned());
        }
        self.waits[stage as usize] = Some(Wait { seconds, odds });
        self.busy |= 1 << stage as u32;
        Ok(())
    }

    pub fn is_busy(&self, stage: Stage) -> bool {
        self.busy & 1 << stage as u32 != 0
    }

    pub fn is_logged(&self, stage: Stage) -> bool {
        self.logged & 1 << stage as u32 != 0
    }

    pub fn refusal(&self, stage: Stage) -> Refusal {
        self.refusals[stage as usize]
    }

    /// As smtp-sink rolls it: the delay times the rolls it took to get `odds` or more of 0..=99.
    pub fn delay(&self, stage: Stage, random: &mut Random) -> Duration {
        let Some(Wait { seconds, odds }) = self.waits[stage as usize] else {
            return Duration::ZERO;
        };
        let mut rolls = 1.0;
        while odds > 0 && random.below(100) < u64::from(odds) {
            rolls += 1.0;
        }
        Duration::from_secs_f64(seconds * rolls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_index_their_stages() {
        for (place, (stage, name)) in STAGES.iter().enumerate() {
            assert_eq!((*stage as usize, stage.name()), (place, *name));
        }
    }

    #[test]
    fn flags_become_orders() {
        let mut orders = Orders::default();
        let lists = ["mail,RCPT .".to_owned()];
        assert_eq!(orders.refuse("-f", &lists, Refusal::Hard), Ok(()));
        assert_eq!(orders.wait("rcpt:2.5"), Ok(()));
        assert_eq!(orders.wait("DATA:1:50"), Ok(()));
        let mut random = Random::new(1);
        for stage in [Stage::Mail, Stage::Rcpt, Stage::Dot] {
            assert_eq!((orders.is_busy(stage), orders.refusal(stage)), (true, Refusal::Hard));
        }
        assert!(!orders.is_busy(Stage::Quit));
        assert_eq!(orders.delay(Stage::Rcpt, &mut random), Duration::from_millis(2500));
        let total: Duration = (0..10_000).map(|_| orders.delay(Stage::Data, &mut random)).sum();
        // One roll in two goes on: two seconds are waited on average.
        assert!((19_000..21_000).contains(&total.as_secs()), "{total:?}");
    }

    #[test]
    fn bad_orders_are_told() {
        let mut orders = Orders::default();
        let told = orders.refuse("-q", &["MIAL".to_owned()], Refusal::Drop);
        assert!(told.is_err_and(|why| why.contains("-q") && why.contains("MAIL")));
        for bad in ["RCPT", "RCPT:x", "RCPT:-1", "RCPT:1:0", "RCPT:1:100", "X:1"] {
            assert!(orders.wait(bad).is_err(), "{bad}");
        }
    }
}
