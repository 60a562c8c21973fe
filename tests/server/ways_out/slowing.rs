//! Destinations that ask for less mail.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::support::ALLOW_LOOPBACK;
use crate::support::receiver::Receiver;
use crate::ways_out::kit::ONE_SHARD;
use crate::ways_out::kit::Out;
use crate::ways_out::kit::PATIENCE;
use crate::ways_out::kit::route;

const TOO_MUCH: &str = "421 4.7.0 too much mail";

/// Each 421 costs a part of the connections. If each silenced the destination, twice as long as the
/// one before, these would take more than half a minute.
#[test]
fn a_destination_that_asks_for_less_gets_less_and_not_nothing() {
    const MESSAGES: usize = 120;
    let count = AtomicUsize::new(0);
    let receiver = Receiver::start(&[], move |line| {
        if !line.starts_with("MAIL") {
            return None;
        }
        let number = count.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(10));
        (number < 100 && number % 20 == 10).then(|| TOO_MUCH.to_owned())
    });
    let mut config = String::from("window_start = 12\nconnections_max = 12\n");
    config.push_str(&route("good.test", &format!("smtp:{}", receiver.address)));
    let out = Out::start("2s", "retry_schedule = ['1s']", &config);
    let to: Vec<String> = (0..MESSAGES).map(|number| format!("x{number}@good.test")).collect();
    for to in &to {
        out.submit(&[to]);
    }
    let end = Instant::now() + PATIENCE;
    while receiver.taken().len() < MESSAGES {
        assert!(Instant::now() < end, "{} of {MESSAGES}", receiver.taken().len());
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(receiver.asked("MAIL"), MESSAGES + 5, "five were refused");
}

/// The reply comes over the one connection that tries the destination again.
#[test]
fn a_probe_that_is_asked_for_less_lengthens_the_backoff() {
    let greetings = Arc::<AtomicUsize>::default();
    let seen = Arc::clone(&greetings);
    let receiver = Receiver::start(&[], move |line| {
        if line.starts_with("EHLO") {
            // As many failures as begin the backoff.
            return (seen.fetch_add(1, Ordering::Relaxed) < 2).then(|| "nonsense".to_owned());
        }
        line.starts_with("MAIL").then(|| TOO_MUCH.to_owned())
    });
    let config = format!(
        "[delivery]\n{ALLOW_LOOPBACK}\nretry_schedule = ['1s']\n[destination_defaults]\n\
         tls = 'none'\nfailures_to_back_off = 2\nback_off_first = '1s'\nback_off_max = '1h'\nwindow_start = 1\n{}",
        route("good.test", &format!("smtp:{}", receiver.address))
    );
    let out = Out::with(ONE_SHARD, config, &[]);
    out.submit(&["x@good.test"]);
    out.submit(&["y@good.test"]);
    let end = Instant::now() + PATIENCE;
    while receiver.asked("MAIL") < 1 {
        assert!(Instant::now() < end, "no probe: {:#?}", out.destinations());
        thread::sleep(Duration::from_millis(10));
    }
    loop {
        let rows = out.destinations();
        let binding = rows[0]["binding"]["kind"].as_str().unwrap_or_default();
        match binding {
            "backing-off" => break,
            "probing" => assert!(Instant::now() < end, "{rows:#?}"),
            _ => panic!("it takes mail again: {rows:#?}"),
        }
    }

    assert_eq!(receiver.asked("EHLO"), 3, "{:#?}", out.destinations());
}
