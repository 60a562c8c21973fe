//! Runs all parts of the examination in parallel.
//!
//! Bounds:   a part that has not finished within `TIME_MAX` is reported by name and abandoned.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::boot::check;
use crate::boot::check::Finding;
use crate::config::Config;
use crate::doctor::clock;
use crate::doctor::kernel;
use crate::doctor::machine;
use crate::doctor::memory;
use crate::doctor::names;
use crate::doctor::network;
use crate::doctor::ports;
use crate::doctor::report::Report;
use crate::doctor::spool;
use crate::doctor::subject::Subject;
use crate::doctor::sync;

/// For all parts together. The slowest is a name server that does not answer.
const TIME_MAX: Duration = Duration::from_secs(15);

type Part = fn(&Subject) -> Vec<Finding>;

const PARTS: &[(&str, Part)] = &[
    ("kernel settings", kernel::examine),
    ("cores", machine::examine),
    ("memory", memory::examine),
    ("network cards", network::examine),
    ("spool", spool::examine),
    ("sync latency", sync::examine),
    ("clock", clock::examine),
    ("names", names::examine),
    ("ports", ports::examine),
];

/// Examines this machine and prints the report.
pub fn doctor(config: &Config, json: bool) -> ExitCode {
    let subject = Subject::new(Path::new("/"), config.clone());
    Report::new(examine(Arc::new(subject), PARTS, TIME_MAX)).print(json)
}

/// Runs all parts in parallel; a part that does not finish in time becomes a finding.
fn examine(
    subject: Arc<Subject>,
    parts: &'static [(&'static str, Part)],
    time_max: Duration,
) -> Vec<Finding> {
    let until = Instant::now() + time_max;
    let (answers, inbox) = channel();
    let mut waiting: Vec<&str> = Vec::new();
    for (name, part) in parts {
        let (subject, answers) = (Arc::clone(&subject), answers.clone());
        waiting.push(name);
        // If no thread can be started, the missing result is reported below.
        thread::Builder::new()
            .name((*name).to_owned())
            .spawn(move || answers.send((*name, part(&subject))).is_ok())
            .ok();
    }
    drop(answers);
    let mut findings = Vec::new();
    while !waiting.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        let Ok((name, found)) = inbox.recv_timeout(left) else {
            break;
        };
        waiting.retain(|other| *other != name);
        findings.extend(found);
    }
    findings.extend(waiting.iter().map(|name| {
        let seen = format!("{name}: no result within {} s", time_max.as_secs_f32());
        check::UNANSWERED.error(seen, "see `dmesg` for a disk or a network file system that hangs")
    }));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::boot::check::Level;
    use crate::config::HostFacts;
    use crate::config::embedded;

    #[test]
    fn a_part_that_hangs_is_left_behind() {
        const PARTS: &[(&str, Part)] = &[
            ("quick", |_| vec![check::CLOCK.ok("it ticks")]),
            ("stuck", |_| {
                thread::park();
                Vec::new()
            }),
            ("broken", |_| panic!("on purpose")),
        ];
        let config = embedded(&HostFacts {
            hostname: "mx.test".to_owned(),
            ports_from: 1024,
            ..HostFacts::default()
        });
        let subject = Subject::new(Path::new("/"), config);
        let found = examine(Arc::new(subject), PARTS, Duration::from_secs(2));
        let told: Vec<(&str, Level)> = found.iter().map(|f| (f.check.id, f.level)).collect();
        assert_eq!(told[0], ("clock", Level::Ok));
        assert_eq!(told[1..], [("unanswered", Level::Error); 2]);
        assert!(found[1].seen.starts_with("stuck"), "{}", found[1].seen);
        assert!(found[2].seen.starts_with("broken"), "{}", found[2].seen);
    }
}
