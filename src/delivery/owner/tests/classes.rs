//! Connection classes of one destination: what each demands of TLS, and how they take turns.

use super::*;

use crate::base::limits::CONNECT_HOLD_FIRST_MS;

fn demanding(name: &str) -> Arc<Hop> {
    Arc::new(Hop { tls: OutboundTls::Must, ..hop(name) })
}

fn unmet() -> End {
    let answer = Arc::new(Answer::ours(Cause::TlsFailed, "no STARTTLS"));
    only(LinkEnd::Failed(Failure { blame: Blame::Demands, answer, host: "mx.test".into() }))
}

#[test]
fn tls_that_is_missing_backs_off_for_the_mail_that_demands_it() {
    let text = "[destination_defaults]\nwindow_start = 5\nfailures_to_back_off = 2\n\
                back_off_first = '60s'\n";
    let (mut bench, a, tls) = (Bench::new(text), named("a"), demanding("a"));
    bench.push(&tls, 1, 0);
    let conn = bench.opened(0)[0];
    bench.end(conn, unmet(), 0);
    bench.push(&tls, 9, 1);
    assert!(bench.opened(1).is_empty(), "not at once again");
    let held_ms = CONNECT_HOLD_FIRST_MS;
    let opened = bench.opened(held_ms);
    assert!(!opened.is_empty() && bench.unreached.is_empty());
    opened.into_iter().for_each(|conn| bench.end(conn, unmet(), held_ms));
    assert_eq!(bench.unreached.len(), 10, "none is tried before the backoff is over");
    let until = bench.unreached[0].1;
    assert!((48_000..=60_000).contains(&until.ms_since(at(held_ms))), "{until:?}");

    bench.push(&tls, 1, held_ms + 1);
    assert_eq!(bench.unreached.len(), 11, "answered without a connection");
    assert!(bench.opened(held_ms + 1).is_empty());
    // Other mail to the same hosts goes on.
    bench.push(&a, 2, held_ms + 2);
    for conn in bench.connect(held_ms + 2) {
        assert!(bench.delivers(conn, held_ms + 2));
    }
    // One connection finds out, and the backoff doubles.
    let later = until.ms_since(Mono::ZERO);
    bench.push(&tls, 3, later);
    let opened = bench.opened(later);
    assert_eq!(opened.len(), 1);
    bench.end(opened[0], unmet(), later);
    let until = bench.unreached.last().expect("it was answered").1.ms_since(Mono::ZERO);
    assert!((96_000..=120_000).contains(&(until - later)), "{until}");
    bench.push(&tls, 3, until);
    let opened = bench.connect(until);
    assert_eq!(opened.len(), 1);
    assert!(bench.delivers(opened[0], until));
    assert!(bench.delivers(opened[0], until), "it works again");
}

#[test]
fn a_probe_without_its_tls_leaves_the_backoff_of_the_destination() {
    let text = "[destination_defaults]\nfailures_to_back_off = 1\nback_off_first = '60s'\n";
    let (mut bench, a, tls) = (Bench::new(text), named("a"), demanding("a"));
    bench.push(&a, 1, 0);
    let conn = bench.opened(0)[0];
    bench.fails(conn, Blame::Destination, 0);
    let probe = bench.until_ms(&a, 0);
    bench.push(&tls, 1, probe);
    let opened = bench.opened(probe);
    assert_eq!(opened.len(), 1);
    bench.end(opened[0], unmet(), probe);
    bench.push(&a, 5, probe + 1);
    assert_eq!(bench.opened(probe + 1).len(), 1, "other mail is the next probe");
}

#[test]
fn a_class_with_the_only_connection_gives_way_to_one_that_has_none() {
    let text = "[destination_defaults]\nwindow_start = 1\nconnections_max = 1\n";
    let (mut bench, a, tls) = (Bench::new(text), named("a"), demanding("a"));
    bench.push(&a, 90, 0);
    let mut conn = bench.connect(0)[0];
    bench.push(&tls, 90, 0);
    let mut served = Vec::new();
    for round in 1..=4 {
        let mut messages = 0;
        while let Some(taken) = bench.take(conn, round) {
            messages += 1;
            served.extend((messages == 1).then_some(taken.hop.tls));
            bench.end(conn, done(JobEnd::Delivered), round);
        }
        assert_eq!(messages, 10);
        bench.end(conn, only(LinkEnd::Closed), round);
        conn = bench.connect(round)[0];
    }
    let (may, must) = (OutboundTls::May, OutboundTls::Must);
    assert_eq!(served, [may, must, may, must]);
}

#[test]
fn classes_share_a_rate() {
    let text = "[destination_defaults]\nmessages_per_second = 2\nidle_reuse = '60s'\n\
                window_start = 5\n";
    let (mut bench, a, tls) = (Bench::new(text), named("a"), demanding("a"));
    bench.push(&a, 90, 0);
    let mut served = [0, 0];
    for ms in (0..20_000).step_by(50) {
        if ms == 50 {
            bench.push(&tls, 90, ms);
        }
        for conn in bench.connect(ms).into_iter().chain(bench.woken(ms)) {
            loop {
                match bench.owner.take(conn, at(ms)) {
                    Take::Job(job) => {
                        served[usize::from(job.hop.tls == OutboundTls::Must)] += 1;
                        bench.end(conn, done(JobEnd::Delivered), ms);
                    }
                    Take::IdleUntil(_) => break,
                    Take::Close => break bench.end(conn, only(LinkEnd::Closed), ms),
                }
            }
        }
    }
    let [first, later] = served;
    assert!(later >= 10 && first >= 10, "{served:?}");
}
