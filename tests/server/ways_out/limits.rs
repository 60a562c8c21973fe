//! The limits of a destination and of the server hold for all its mail.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::support::ALLOW_LOOPBACK;
use crate::support::receiver::Receiver;
use crate::ways_out::kit::Out;
use crate::ways_out::kit::PATIENCE;
use crate::ways_out::kit::a;
use crate::ways_out::kit::counting;
use crate::ways_out::kit::mx;
use crate::ways_out::kit::name_server;
use crate::ways_out::kit::route;

/// Time that the receiver takes for a message.
const PAUSE: Duration = Duration::from_millis(30);
/// As long as the receiver waits for a second message beside the first.
const COMPANY: Duration = Duration::from_secs(4);

/// More exchangers than are tried, in any order; different TLS, different sources.
#[test]
fn mail_to_the_same_exchangers_has_one_limit_however_it_is_sent() {
    const DOMAINS: [(&str, &str); 5] = [
        ("plain.test", "tls = 'none'"),
        ("any.test", "tls = 'may'"),
        ("one.test", "pool = 'one'"),
        ("two.test", "pool = 'two'"),
        ("both.test", "pool = 'two'\ntls = 'may'"),
    ];
    const HOSTS: [&str; 6] =
        ["a.mx.test", "b.mx.test", "c.mx.test", "d.mx.test", "e.mx.test", "f.mx.test"];
    let (receiver, most) = counting(PAUSE);
    let mut records: Vec<_> = HOSTS.map(|host| a(host, [127, 0, 0, 1])).into();
    let mut config = String::from("connections_max = 1\nwindow_start = 1\n");
    for (domain, terms) in DOMAINS {
        records.extend(HOSTS.map(|host| mx(domain, 10, host)));
        config.push_str(&route(domain, &format!("mx:{domain}:{}", receiver.address.port())));
        config.push_str(&format!("{terms}\n"));
    }
    for name in ["one", "two"] {
        config.push_str(&format!("[[source]]\nname = '{name}'\nipv4 = '127.0.0.1'\n"));
        config.push_str(&format!("[[pool]]\nname = '{name}'\nsources = ['{name}']\n"));
    }
    config.push_str(&format!("[resolver]\nservers = ['{}']\n", name_server(records)));
    let out = Out::start("2s", "mx_hosts_max = 2", &config);
    let to = DOMAINS.map(|(domain, _)| format!("x@{domain}"));
    for to in to.iter().cycle().take(4 * to.len()) {
        out.submit(&[to]);
    }
    for to in &to {
        receiver.await_for(to, 4, PATIENCE);
    }
    let rows = out.destinations();
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert_eq!(most.load(Ordering::SeqCst), 1, "one connection at a time is permitted");
}

/// All connections of the server may go to the one destination that has mail.
#[test]
fn the_connections_of_the_server_are_not_cut_by_shards() {
    let inside = Arc::<(AtomicUsize, AtomicUsize)>::default();
    let shared = Arc::clone(&inside);
    let receiver = Receiver::start(&[], move |line| {
        if line.starts_with("END") {
            let (now, most) = &*shared;
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let end = Instant::now() + COMPANY;
            while most.load(Ordering::SeqCst) < 2 && Instant::now() < end {
                thread::sleep(Duration::from_millis(5));
            }
            now.fetch_sub(1, Ordering::SeqCst);
        }
        None
    });
    let config = format!(
        "[delivery]\n{ALLOW_LOOPBACK}\nconnections_max = 2\n[destination_defaults]\ntls = 'none'\n{}",
        route("good.test", &format!("smtp:{}", receiver.address))
    );
    let out = Out::with("cores = \"0,1\"\n", config, &[]);
    for _ in 0..4 {
        out.submit(&["x@good.test"]);
    }
    receiver.await_for("x@good.test", 2, PATIENCE);
    out.await_left(0);
    assert_eq!(inside.1.load(Ordering::SeqCst), 2, "two messages at a time");
}
