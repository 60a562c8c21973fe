//! The built-in scenarios, and how to find one.

use std::fs;
use std::path::Path;

use crate::run::scenario::Scenario;
use crate::run::scenario_file;

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../scenarios/", $name, ".toml")))),*]
    };
}

/// Scenarios by name.
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
    "million-waiting",
    "big-messages",
    "tls",
];

/// Finds a scenario by name or file, and returns its name too.
pub fn find(wanted: &str) -> Result<(String, Scenario), String> {
    if let Some((name, text)) = ALL.iter().find(|(name, _)| *name == wanted) {
        let scenario =
            scenario_file::read(text).map_err(|why| format!("scenario {name}: {why}"))?;
        return Ok(((*name).to_owned(), scenario));
    }
    let path = Path::new(wanted);
    if !wanted.contains('/') && path.extension().is_none() {
        let names: Vec<&str> = ALL.iter().map(|(name, _)| *name).collect();
        return Err(format!(
            "there is no scenario `{wanted}`; built in are {}; give other files by their path",
            names.join(", ")
        ));
    }
    let text = fs::read_to_string(path).map_err(|cause| format!("{wanted}: {cause}"))?;
    let scenario = scenario_file::read(&text).map_err(|why| format!("{wanted}: {why}"))?;
    let name = path.file_stem().map_or(wanted.into(), |stem| stem.to_string_lossy());
    Ok((name.into_owned(), scenario))
}

/// One line for each scenario, with its purpose.
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
    fn all_built_in_scenarios_are_valid() {
        let list = list().expect("each is valid");
        assert_eq!(list.lines().count(), ALL.len(), "a purpose is one line: {list}");
        for (name, _) in ALL {
            let (_, scenario) = find(name).expect(name);
            assert!(!scenario.expectations.is_empty(), "{name} expects nothing");
        }
    }

    /// The scenario uses the bound that the server declares.
    #[test]
    fn a_kill_may_repeat_unsettled_deliveries_only() {
        let (_, scenario) = find("backlog-restart").expect("it is there");
        let partitions = scenario.config["queue"]["partitions"].as_integer();
        let bound = partitions.map(|count| count as usize * UNSETTLED_MAX);
        assert_eq!(bound, Some(scenario.duplicates_per_cut_max as usize));
    }

    #[test]
    fn unknown_scenarios_are_refused_with_the_known_ones() {
        let why = find("relay-two-sinks").expect_err("there is none");
        assert!(why.contains("`relay-two-sinks`") && why.contains("relay-one-sink"), "{why}");
        let why = find("./no-such.toml").expect_err("there is none");
        assert!(why.starts_with("./no-such.toml: No such file"), "{why}");
    }
}
