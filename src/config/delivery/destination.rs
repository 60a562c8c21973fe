//! Relations within the sections of destinations, and between rates.

use crate::config::delivery::list::check_names;
use crate::config::delivery::list::is_whole;
use crate::config::delivery::model::DestinationDefaults;
use crate::config::model::Config;
use crate::config::reading::Reading;

/// Checks the sections of destinations and their defaults.
pub fn check(config: &Config, reading: &mut Reading<'_>) {
    check_treatment(
        &config.destination_defaults,
        &["destination_defaults".to_owned()],
        config,
        reading,
    );
    if is_whole(&config.destinations, reading) {
        check_destinations(config, reading);
    }
}

fn check_destinations(config: &Config, reading: &mut Reading<'_>) {
    check_names("destination", config.destinations.iter().map(|one| &one.name), reading);
    for (place, destination) in config.destinations.iter().enumerate() {
        let path = format!("destination[{}]", place + 1);
        if destination.recipient_domain.is_empty() && destination.mx_host.is_empty() {
            let hint = "set recipient_domain or mx_host";
            reading.warn(&format!("{path}.name"), "has no effect: it matches no destination", hint);
        }
        let treatment = destination.treatment(&config.destination_defaults);
        check_treatment(&treatment, &[path, "destination".to_owned()], config, reading);
        let before = &config.destinations[..place];
        for (key, list, others) in [
            (
                "recipient_domain",
                &destination.recipient_domain,
                before.iter().map(|one| &one.recipient_domain).collect::<Vec<_>>(),
            ),
            ("mx_host", &destination.mx_host, before.iter().map(|one| &one.mx_host).collect()),
        ] {
            for domain in list {
                let Some(first) = others.iter().position(|list| list.contains(domain)) else {
                    continue;
                };
                let key = format!("destination[{}].{key}", place + 1);
                let what = format!("\"{domain}\" is named by two destinations");
                let hint = format!("destination[{}] applies; list it once", first + 1);
                reading.contradiction(&[&key], what, hint);
            }
        }
    }
}

/// Limits of a destination, own and inherited. A contradiction within the defaults is not reported again
/// for each destination.
fn check_treatment(
    treatment: &DestinationDefaults,
    paths: &[String],
    config: &Config,
    reading: &mut Reading<'_>,
) {
    let own = &paths[0];
    let is_told = |reading: &Reading<'_>, low: &str, high: &str| {
        let written = |key: &str| reading.is_written(&format!("{own}.{key}"));
        paths.len() == 1 || written(low) || written(high)
    };
    let pairs = [
        ("window_start", treatment.window_start, "connections_max", treatment.connections_max),
        (
            "back_off_first",
            treatment.back_off_first.as_millis() as u32,
            "back_off_max",
            treatment.back_off_max.as_millis() as u32,
        ),
    ];
    for (low_key, low, high_key, high) in pairs {
        if low > high && is_told(reading, low_key, high_key) {
            let what = format!("is above {high_key}");
            let hint = format!("lower it, or raise {own}.{high_key}");
            let of = |path: &String| [low_key, high_key].map(|key| format!("{path}.{key}"));
            let keys: Vec<String> = paths.iter().flat_map(of).collect();
            let all: Vec<&str> = keys.iter().map(String::as_str).collect();
            reading.contradiction(&all, what, hint);
        }
    }
    let rates = [
        ("messages_per_second", treatment.messages_per_second),
        ("messages_per_minute", treatment.messages_per_minute),
        ("messages_per_hour", treatment.messages_per_hour),
        ("messages_per_day", treatment.messages_per_day),
    ];
    let source_rates = [
        ("source_messages_per_second", treatment.source_messages_per_second),
        ("source_messages_per_minute", treatment.source_messages_per_minute),
        ("source_messages_per_hour", treatment.source_messages_per_hour),
        ("source_messages_per_day", treatment.source_messages_per_day),
    ];
    warn_of_rates(own, &rates, &is_told, reading);
    warn_of_rates(own, &source_rates, &is_told, reading);
    for (of_source, of_all) in source_rates.into_iter().zip(rates) {
        warn_of_rates(own, &[of_source, of_all], &is_told, reading);
    }
    if treatment.connections_max > config.delivery.connections_max
        && is_told(reading, "connections_max", "connections_max")
    {
        let what = "exceeds delivery.connections_max, the limit of all destinations together";
        let hint = "lower it, or raise delivery.connections_max";
        reading.warn(&format!("{own}.connections_max"), what, hint);
    }
}

/// Rates that a longer one makes useless.
pub(super) fn warn_of_rates(
    path: &str,
    rates: &[(&str, u32)],
    is_told: &dyn Fn(&Reading<'_>, &str, &str) -> bool,
    reading: &mut Reading<'_>,
) {
    for (place, (short_key, short)) in rates.iter().enumerate() {
        for (long_key, long) in &rates[place + 1..] {
            if *long != 0 && short > long && is_told(reading, short_key, long_key) {
                let what = format!("has no effect: {long_key} is {long}");
                let hint = format!("lower it, or raise {long_key}");
                reading.warn(&format!("{path}.{short_key}"), what, hint);
            }
        }
    }
}
