//! Files, good and bad: what each means, and the exact list of its faults.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::config::Config;
use crate::config::CoreSet;
use crate::config::Fault;
use crate::config::HostFacts;
use crate::config::Loaded;
use crate::config::LogOutput;
use crate::config::MonitorListen;
use crate::config::Partitions;
use crate::config::TlsMode;
use crate::config::embedded;
use crate::config::key::Standard;
use crate::config::load;
use crate::config::model::SECTIONS;
use crate::config::sample;
use crate::observe::log::Level;
use crate::wire::tls::ClientCertificates;

mod faults;
mod reload;

fn host() -> HostFacts {
    HostFacts { hostname: "mx.example.net".to_owned(), ports_from: 1024, ..HostFacts::default() }
}

fn good(text: &str) -> Loaded {
    load(text, "f", &host()).unwrap_or_else(|faults| panic!("{text}\n{faults:#?}"))
}

fn config(text: &str) -> Config {
    good(text).config
}

/// Each fault as it is printed, without the name of the file.
fn lines(faults: &[Fault]) -> Vec<String> {
    faults.iter().map(|fault| fault.to_string()["f:".len()..].trim().to_owned()).collect()
}

#[test]
fn nothing_written_means_the_defaults() {
    let config = embedded(&host());
    assert_eq!(config, good("# only a comment\n[limits]\n[[listener]]\n").config);
    assert!(good("").warnings.is_empty(), "the defaults need no warning");
    assert_eq!(config.server.hostname.as_str(), "mx.example.net");
    assert_eq!(config.server.cores, CoreSet::Auto);
    assert_eq!(config.listeners.len(), 1);
    let addresses: Vec<SocketAddr> =
        ["127.0.0.1:2525", "[::1]:2525"].map(|text| text.parse().expect("a good address")).to_vec();
    assert_eq!(config.listeners[0].address, addresses);
    assert_eq!(config.listeners[0].name.as_str(), "listener-1");
    assert_eq!(config.listeners[0].tls, TlsMode::Starttls);
    assert!(config.certificates.is_empty());
    assert_eq!(config.limits.message_size, 25_000_000);
    assert_eq!(config.limits.body_line_length, None);
    assert_eq!(config.timeouts.data_block, Duration::from_secs(180));
    assert_eq!(config.queue.partitions, Partitions::Auto);
    assert_eq!(config.control.socket, Path::new("./ringpost-data/control.sock"));
}

#[test]
fn what_is_written_is_meant() {
    let config = config(
        "[server]\nhostname = 'MX.Example.COM'\ncores = '0-2'\nspool = \"/var/it's\"\n\
         [[listener]]\naddress = '[::]:0'\nsize_max = 1024\n\
         [[listener]]\naddress = ['127.0.0.1:0', '127.0.0.1:0']\ntls = 'implicit'\n\
         client_certificates = 'required'\nclient_ca = 'ca.pem'\nproxy_from = '10.0.0.0/8'\n\
         [relay]\nnetworks = ['192.0.2.1', '2001:db8::/32']\ndomains = ['a.test', '.b.test']\n\
         [limits]\nmessage_size = '1GiB'\nmin_data_rate = 0\nbody_line_length = 1000\n\
         [timeouts]\ncommand = '1h30m'\n\
         [tls]\nmin_version = '1.3'\n\
         [[tls.certificate]]\ncertificate = 'a.pem'\nkey = 'a.key'\n\
         [[tls.certificate]]\ncertificate = 'b.pem'\nkey = 'b.key'\n\
         [queue]\npartitions = 4\n\
         [log]\noutput = '/var/log/mail'\nlevel = 'debug'\n\
         [monitor]\nlisten = 'off'\n",
    );
    assert_eq!(config.server.hostname.as_str(), "mx.example.com");
    assert_eq!(config.server.cores, CoreSet::List(vec![0, 1, 2]));
    assert_eq!(config.control.socket, Path::new("/var/it's/control.sock"));
    assert_eq!(config.listeners[0].size_max, Some(1024));
    assert_eq!(config.listeners[1].name.as_str(), "listener-2");
    assert_eq!(config.listeners[1].address.len(), 2);
    assert_eq!(config.listeners[1].client_certificates, ClientCertificates::Required);
    assert_eq!(config.listeners[1].proxy_from.len(), 1);
    assert_eq!(config.relay.networks[0].to_string(), "192.0.2.1/32");
    assert_eq!(config.relay.domains[1].to_string(), ".b.test");
    assert_eq!(config.limits.message_size, 1 << 30);
    assert_eq!(config.limits.body_line_length, Some(1000));
    assert_eq!(config.timeouts.command, Duration::from_secs(5400));
    assert_eq!(config.certificates[1].key.path(), Path::new("b.key"));
    assert_eq!(config.queue.partitions, Partitions::Count(4));
    assert_eq!(config.log.output, LogOutput::File("/var/log/mail".into()));
    assert_eq!(config.log.level, Level::Debug);
    assert_eq!(config.monitor.listen, MonitorListen::Off);
}

#[test]
fn the_declarations_are_sound() {
    let mut paths = Vec::new();
    for section in SECTIONS {
        for key in section.keys {
            assert_eq!(key.path, format!("{}.{}", section.path, key.name));
            assert!(key.doc.trim().ends_with('.'), "{} has a manual in sentences", key.path);
            assert!(!paths.contains(&key.path), "{} is declared once", key.path);
            let required = matches!(key.standard, Standard::Required(_));
            assert!(!required || section.repeated, "{} has a default", key.path);
            paths.push(key.path);
        }
    }
    assert!(paths.contains(&"tls.certificate.key") && paths.contains(&"limits.message_size"));
}

#[test]
fn no_text_makes_it_panic() {
    let sample = sample();
    let keys = sample.lines().map(|line| match line.strip_prefix('#') {
        Some(comment) if comment.is_empty() || comment.starts_with(' ') => "",
        Some(key) => key,
        None => line,
    });
    let written = keys.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n");
    assert!(load(&written, "f", &host()).is_ok(), "the start is a good file");
    let bytes = written.as_bytes();
    for step in 0..bytes.len() / 7 {
        let at = step * 7;
        for change in [&b""[..], b"\"", b"[", b"\xf0\x9f\x98\x80", b"\n", b"= {"] {
            let text = [&bytes[..at], change, &bytes[at + 1..]].concat();
            let text = String::from_utf8_lossy(&text);
            if let Err(faults) = load(&text, "f", &host()) {
                assert!(!faults.is_empty(), "a refusal has a reason");
                assert!(faults.iter().all(|fault| !fault.to_string().contains('\n')));
            }
        }
    }
}
