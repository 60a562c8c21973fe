//! The scenarios that come with the program, and how one is found.

use std::fs;
use std::path::Path;

use crate::run::scenario::Scenario;

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../scenarios/", $name, ".toml")))),*]
    };
}

/// By name.
pub const ALL: &[(&str, &str)] = built_in![
    "accept-durable",
    "relay-one-sink",
    "thousand-domains",
    "newsletter",
    "one-time-codes",
    "dead-provider",
    "slow-provider",
    "4xx-storm",
    "backlog-restart",
    "idle-10k",
    "big-messages",
    "tls",
];

/// The scenario of that name or in that file, and what it is called.
pub fn find(wanted: &str) -> Result<(String, Scenario), String> {
    if let Some((name, text)) = ALL.iter().find(|(name, _)| *name == wanted) {
        let scenario = Scenario::read(text).map_err(|why| format!("scenario {name}: {why}"))?;
        return Ok(((*name).to_owned(), scenario));
    }
    let path = Path::new(wanted);
    if !wanted.contains('/') && path.extension().is_none() {
        let names: Vec<&str> = ALL.iter().map(|(name, _)| *name).collect();
        return Err(format!(
            "there is no scenario `{wanted}`; there are {}, and any file by its path",
            names.join(", ")
        ));
    }
    let text = fs::read_to_string(path).map_err(|cause| format!("{wanted}: {cause}"))?;
    let scenario = Scenario::read(&text).map_err(|why| format!("{wanted}: {why}"))?;
    let name = path.file_stem().map_or(wanted.into(), |stem| stem.to_string_lossy());
    Ok((name.into_owned(), scenario))
}

/// A line for each, with its purpose.
pub fn list() -> Result<String, String> {
    let mut text = String::new();
    for (name, _) in ALL {
        let (_, scenario) = find(name)?;
        text += &format!("{name:<18}{}\n", scenario.purpose);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringpost::base::limits::UNSETTLED_MAX;

    #[test]
    fn all_are_well_written() {
        let list = list().expect("each of them is read");
        assert_eq!(list.lines().count(), ALL.len(), "a purpose is one line: {list}");
        for (name, _) in ALL {
            let (_, scenario) = find(name).expect(name);
            assert!(!scenario.expectations.is_empty(), "{name} expects nothing");
        }
    }

    /// The server says how far it may run ahead, and the scenario takes it at its word.
    #[test]
    fn a_kill_may_repeat_what_is_unsettled_and_no_more() {
        let (_, scenario) = find("backlog-restart").expect("it is there");
        let partitions = scenario.config["queue"]["partitions"].as_integer();
        let bound = partitions.map(|count| count as usize * UNSETTLED_MAX);
        assert_eq!(bound, Some(scenario.duplicates_per_cut_max as usize));
    }

    #[test]
    fn what_is_not_there_is_told_with_what_is() {
        let why = find("relay-two-sinks").expect_err("there is none");
        assert!(why.contains("`relay-two-sinks`") && why.contains("relay-one-sink"), "{why}");
        let why = find("./no-such.toml").expect_err("there is none");
        assert!(why.starts_with("./no-such.toml: No such file"), "{why}");
    }
}
