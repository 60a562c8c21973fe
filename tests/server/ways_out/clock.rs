//! Time as the server sees it, changed while mail is under way: hours that pass, and steps of the wall
//! clock.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crate::support::ALLOW_LOOPBACK;
use crate::support::clock::Clock;
use crate::support::receiver::Receiver;
use crate::ways_out::kit::ONE_SHARD;
use crate::ways_out::kit::Out;
use crate::ways_out::kit::PATIENCE;
use crate::ways_out::kit::a;
use crate::ways_out::kit::name_server;
use crate::ways_out::kit::outcome;
use crate::ways_out::kit::route;

const CONFIG: &str = "retry_schedule = ['1s']\ndelay_warning = '0s'\n\
                      [delivery.timeouts]\ndata_end = '2h'\n\
                      [destination_defaults]\ntls = 'none'\nfailures_to_back_off = 1\n\
                      back_off_first = '1s'\nback_off_max = '1s'\n";

/// A server whose clocks the test moves.
struct Rig {
    out: Out,
    clock: Clock,
}

impl Rig {
    fn start(routes: &str) -> Rig {
        Rig::start_at(routes, "")
    }

    /// Sets failpoints.
    fn start_at(routes: &str, failpoints: &str) -> Rig {
        let clock = Clock::new();
        let config = format!("[delivery]\n{ALLOW_LOOPBACK}\n{CONFIG}{routes}");
        let mut environment = clock.environment().to_vec();
        environment.push(("FAILPOINTS", failpoints.to_owned()));
        Rig { out: Out::with(ONE_SHARD, config, &environment), clock }
    }
}

/// A receiver that answers the bodies for `held...` only while `answers` is set.
fn holding(answers: &Arc<AtomicBool>) -> Receiver {
    let (answers, deferred) = (Arc::clone(answers), AtomicUsize::new(0));
    Receiver::start(&[], move |line| {
        while line.starts_with("END RCPT TO:<held") && !answers.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(5));
        }
        // Every second one.
        let is_late = line.starts_with("RCPT TO:<late")
            && deferred.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        is_late.then(|| "451 4.3.0 come again".to_owned())
    })
}

#[test]
fn the_last_reply_may_take_as_long_as_the_config_permits() {
    let answers = Arc::<AtomicBool>::default();
    let sink = holding(&answers);
    for protocol in ["smtp", "lmtp"] {
        answers.store(false, Ordering::Relaxed);
        let routes = route("good.test", &format!("{protocol}:{}", sink.address));
        let rig = Rig::start(&routes);
        let (held, late) =
            (format!("held-{protocol}@good.test"), format!("late-{protocol}@good.test"));
        rig.out.submit(&[&held]);
        sink.await_for(&held, 1, PATIENCE);
        rig.clock.pass(Duration::from_secs(100 * 60));
        // This takes longer than it takes to find out that a transfer has ended.
        rig.out.submit(&[&late]);
        sink.await_for(&late, 1, PATIENCE);
        assert_eq!(sink.taken_for(&held).len(), 1, "{protocol}: it is sent again beside the first");
        answers.store(true, Ordering::Relaxed);
        rig.out.await_left(0);
        assert_eq!(sink.taken_for(&held).len(), 1, "{protocol}");
    }
}

#[test]
fn steps_of_the_wall_clock_repeat_nothing_and_delay_nothing() {
    let answers = Arc::<AtomicBool>::default();
    let sink = holding(&answers);
    let refusals = Arc::<AtomicUsize>::default();
    let left = Arc::clone(&refusals);
    let strict = Receiver::start(&[], move |line| {
        let refuses = line.starts_with("MAIL")
            && left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                .is_ok();
        refuses.then(|| "421 4.7.0 too much mail".to_owned())
    });
    let routes = route("good.test", &format!("smtp:{}", sink.address))
        + &route("strict.test", &format!("smtp:{}", strict.address));
    let rig = Rig::start(&routes);
    for (step, hours) in [5, -5].into_iter().enumerate() {
        answers.store(false, Ordering::Relaxed);
        refusals.store(1, Ordering::Relaxed);
        let [held, late] = ["held", "late"].map(|word| format!("{word}{step}@good.test"));
        let refused = format!("x{step}@strict.test");
        for to in [&held, &late, &refused] {
            rig.out.submit(&[to]);
        }
        sink.await_for(&held, 1, PATIENCE);
        for to in [&late, &refused] {
            assert_eq!(outcome(&rig.out.attempt(to)), "deferred", "{to}");
        }
        rig.clock.set_wall(hours * 3600);
        sink.await_for(&late, 1, PATIENCE);
        strict.await_for(&refused, 1, PATIENCE);
        let fresh = format!("fresh{step}@good.test");
        rig.out.submit(&[&fresh]);
        sink.await_for(&fresh, 1, PATIENCE);
        assert_eq!(sink.taken_for(&held).len(), 1, "after a step to {hours} h");
        answers.store(true, Ordering::Relaxed);
        rig.out.await_left(0);
        assert_eq!(sink.taken_for(&held).len(), 1, "after a step to {hours} h");
        let attempt = rig.out.attempt(&held);
        assert_eq!(
            (outcome(&attempt), &attempt["attempts"]),
            ("delivered", &1.into()),
            "{attempt}"
        );
    }
}

/// The message is neither lost nor known for ever to a home that does nothing about it.
#[cfg(feature = "failpoints")]
#[test]
fn mail_whose_task_was_ended_by_a_bug_is_tried_again_after_a_minute() {
    let sink = Receiver::start(&[], |_| None);
    let servers = name_server(vec![a("good.test", [127, 0, 0, 1])]);
    let routes = route("good.test", &format!("mx:good.test:{}", sink.address.port()))
        + &format!("[resolver]\nservers = ['{servers}']\n");
    let rig = Rig::start_at(&routes, "task::resolve=1*panic");
    let id = rig.out.submit(&["x@good.test"]);
    rig.out.await_why(&id, "Its lookup begins again at");
    rig.clock.pass(Duration::from_secs(61));
    sink.await_for("x@good.test", 1, PATIENCE);
    rig.out.await_left(0);
    assert_eq!(sink.taken().len(), 1);
}
