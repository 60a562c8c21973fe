//! The configuration of the server under test: the base of every run, the routes to the sinks, and over
//! both the keys of the scenario.

use std::net::SocketAddr;
use std::path::Path;

use toml::Table;
use toml::Value;

use crate::run::scenario::SinkPart;

/// A relay on loopback for all local clients.
const BASE: &str = r#"
[server]
hostname = "relay.load.test"
[relay]
networks = ["127.0.0.0/8", "::1/128"]
[delivery]
delay_warning = "0s"
[monitor]
listen = "off"
[log]
format = "text"
"#;

/// The parts of a configuration.
pub struct Parts<'p> {
    pub folder: &'p Path,
    /// The address to listen on.
    pub address: SocketAddr,
    pub sinks: Vec<(&'p SinkPart, &'p [SocketAddr])>,
    /// Applied in this order.
    pub overlays: [&'p Table; 2],
}

/// The text of the configuration file.
pub fn write(parts: &Parts<'_>) -> String {
    let mut config: Table = BASE.parse().expect("the constant is valid TOML");
    let set = |config: &mut Table, section: &str, key: &str, value: Value| {
        let section = config.entry(section).or_insert_with(|| Value::Table(Table::new()));
        section.as_table_mut().expect("it was created as a table").insert(key.to_owned(), value);
    };
    let path = |name: &str| Value::String(parts.folder.join(name).display().to_string());
    set(&mut config, "server", "spool", path("spool"));
    set(&mut config, "log", "output", path("ringpost.log"));
    let mut listener = Table::new();
    listener.insert("name".into(), "load".into());
    listener.insert("address".into(), parts.address.to_string().into());
    config.insert("listener".into(), Value::Array(vec![listener.into()]));
    let routes = parts.sinks.iter().flat_map(|(sink, addresses)| routes(sink, addresses));
    config.insert("route".into(), Value::Array(routes.map(Value::Table).collect()));
    for overlay in parts.overlays {
        lay(&mut config, overlay);
    }
    // `{NAME}` in a value is the address of that sink.
    parts.sinks.iter().fold(config.to_string(), |text, (sink, addresses)| {
        text.replace(&format!("{{{}}}", sink.name), &list(addresses))
    })
}

/// One route for all addresses of a sink; with `spread`, one route for each address.
fn routes(sink: &SinkPart, addresses: &[SocketAddr]) -> Vec<Table> {
    let route = |name: String, domains: Vec<Value>, next: String| {
        let mut route = sink.route.clone();
        route.insert("name".into(), name.into());
        route.insert("recipient_domain".into(), Value::Array(domains));
        route.insert("next".into(), format!("smtp:{next}").into());
        route
    };
    let mut routes = Vec::new();
    if !sink.domains.is_empty() {
        let domains = sink.domains.iter().map(|domain| domain.clone().into()).collect();
        routes.push(route(sink.name.clone(), domains, list(addresses)));
    }
    if let Some(spread) = &sink.spread {
        for (place, address) in addresses.iter().enumerate().take(spread.count) {
            let own = (place..spread.count).step_by(addresses.len());
            let domains = own.map(|number| format!("{number}.{}", spread.domain).into()).collect();
            let name = format!("{}-{place}", sink.name);
            routes.push(route(name, domains, address.to_string()));
        }
    }
    routes
}

fn list(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",")
}

/// Tables are merged, other values replaced. Routes are put before ours, and the first listener is
/// merged with ours.
fn lay(config: &mut Table, overlay: &Table) {
    for (key, value) in overlay {
        match (config.get_mut(key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => lay(below, above),
            (Some(Value::Array(below)), Value::Array(above)) if key == "route" => {
                below.splice(0..0, above.iter().cloned());
            }
            (Some(Value::Array(below)), Value::Array(above)) if key == "listener" => {
                let pairs = below.iter_mut().zip(above);
                for (below, above) in pairs {
                    if let (Value::Table(below), Value::Table(above)) = (below, above) {
                        lay(below, above);
                    }
                }
                below.extend(above.iter().skip(1).cloned());
            }
            _ => {
                config.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::scenario_file;

    const SCENARIO: &str = r#"
purpose = "p"
expected = "e"
must_not = "m"
[config.delivery]
retry_schedule = ["1s"]
[[config.listener]]
tls = "none"
[[config.route]]
name = "first"
recipient_domain = ["x.test"]
next = "smtps:{inbox}"
[[sink]]
name = "inbox"
domains = ["*"]
route = { tls = "must" }
[[sink]]
name = "many"
spread = { domain = "many.test", count = 5 }
[[source]]
name = "one"
messages = 1
"#;

    #[test]
    fn the_scenario_overrides_routes_and_base() {
        let scenario = scenario_file::read(SCENARIO).expect("it is valid");
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let places = [vec![address(1)], vec![address(2), address(3)]];
        let overlay: Table = "delivery.enabled = false".parse().expect("a table");
        let text = write(&Parts {
            folder: Path::new("/f"),
            address: address(25),
            sinks: scenario.sinks.iter().zip(places.iter().map(Vec::as_slice)).collect(),
            overlays: [&scenario.config, &overlay],
        });
        let config: Table = text.parse().expect("it is TOML");
        let told = |path: &[&str]| {
            let first = config[path[0]].clone();
            path[1..].iter().fold(first, |value, key| match key.parse::<usize>() {
                Ok(place) => value[place].clone(),
                Err(_) => value[*key].clone(),
            })
        };
        let rows: [(&[&str], Value); 11] = [
            (&["server", "spool"], "/f/spool".into()),
            (&["delivery", "enabled"], false.into()),
            (&["delivery", "delay_warning"], "0s".into()),
            (&["delivery", "retry_schedule", "0"], "1s".into()),
            (&["listener", "0", "address"], "127.0.0.1:25".into()),
            (&["listener", "0", "tls"], "none".into()),
            (&["route", "0", "next"], "smtps:127.0.0.1:1".into()),
            (&["route", "1", "next"], "smtp:127.0.0.1:1".into()),
            (&["route", "1", "tls"], "must".into()),
            (&["route", "3", "next"], "smtp:127.0.0.1:3".into()),
            (&["route", "3", "recipient_domain", "1"], "3.many.test".into()),
        ];
        for (path, expected) in rows {
            assert_eq!(told(path), expected, "{path:?} in {text}");
        }
    }
}
