//! Tests of behaviour files, valid and invalid.

use super::*;
use crate::random::Random;
use crate::sink::behaviour::Action;

#[test]
fn the_most_specific_entry_wins() {
    let text = r#"
[default]
delay = [{ at = "connect", ms = 5 }]

[[domain]]
match = ["a.test", "*.a.test"]
connections_max = 1

[[domain]]
match = ["*.b.a.test"]
reply = [{ at = "rcpt", rate = 1.0, text = "550-5.1.1 one\n550 5.1.1 two" }]
"#;
    let all = read(text).expect("the file is valid");
    let rows: [(&[u8], usize); 6] = [
        (b"a.test", 1),
        (b"x.a.test", 1),
        (b"b.a.test", 1),
        (b"x.b.a.test", 2),
        (b"y.x.b.a.test", 2),
        (b"other.test", 0),
    ];
    for (domain, place) in rows {
        assert_eq!(all.find(domain), Some(place), "{}", String::from_utf8_lossy(domain));
    }
    let mut random = Random::new(1);
    let fortune = all.get(2).action(Moment::Rcpt, &mut random);
    assert_eq!(fortune, Action::Reply(b"550-5.1.1 one\r\n550 5.1.1 two\r\n"));
    assert_eq!(all.get(2).action(Moment::End, &mut random), Action::Proceed);
    assert!(all.get(1).try_connect() && !all.get(1).try_connect());
    all.get(1).disconnect();
    assert!(all.get(1).try_connect());
    assert_eq!(all.get(0).delay(Moment::Connect, &mut random), Duration::from_millis(5));
}

#[test]
fn rates_and_delays_are_kept() {
    let text = r#"
[[domain]]
match = ["a.test"]
delay = [{ at = "end", p50_ms = 100, p99_ms = 1000 }, { at = "data", min_ms = 10, max_ms = 20 }]
reply = [
    { at = "end", rate = 0.1, text = "451 4.3.0 later" },
    { at = "end", rate = 0.2, text = "554 5.7.1 never" },
]
drop = [{ at = "rcpt", rate = 0.5 }]
"#;
    let all = read(text).expect("the file is valid");
    let (own, mut random) = (all.get(0), Random::new(3));
    let mut delays: Vec<Duration> =
        (0..10_000).map(|_| own.delay(Moment::End, &mut random)).collect();
    delays.sort_unstable();
    let (p50, p99) = (delays[5_000].as_millis(), delays[9_900].as_millis());
    assert!((95..=105).contains(&p50) && (900..=1_100).contains(&p99), "{p50} {p99}");
    for _ in 0..100 {
        let ms = own.delay(Moment::Data, &mut random).as_millis();
        assert!((10..=20).contains(&ms), "{ms}");
    }
    let mut counts = [0; 3];
    for _ in 0..10_000 {
        counts[match own.action(Moment::End, &mut random) {
            Action::Proceed => 0,
            Action::Reply(text) => 1 + usize::from(text.starts_with(b"554")),
            Action::Drop => unreachable!("nothing is dropped there"),
        }] += 1;
    }
    assert!((900..1_100).contains(&counts[1]) && (1_850..2_150).contains(&counts[2]), "{counts:?}");
    let dropped = (0..10_000).filter(|_| own.action(Moment::Rcpt, &mut random) == Action::Drop);
    assert!((4_800..5_200).contains(&dropped.count()));
}

#[test]
fn faults_name_their_line() {
    let domain = "[[domain]]\nmatch = [\"a.test\"]\n";
    let rows = [
        ("[default]\ndelays = []\n", "line 2:", "delays"),
        ("[defualt]\n", "line 1:", "defualt"),
        ("[default]\nmatch = [\"x\"]\n", "line 1:", "match"),
        ("[[domain]]\nconnections_max = 1\n", "line 1:", "match"),
        ("\n[[domain]]\nmatch = [\"a b\"]\n", "line 2:", "a b"),
        ("x = \n", "line 1:", ""),
    ];
    let of_domain = [
        ("delay = [{ at = \"connect\", ms = 1 }]", "[default]"),
        ("delay = [{ at = \"noon\", ms = 1 }]", "noon"),
        ("delay = [{ at = \"end\", ms = 1, p50_ms = 2 }]", "min_ms"),
        ("delay = [{ at = \"end\", p50_ms = 2, p99_ms = 1 }]", "p99_ms"),
        ("delay = [{ at = \"end\", ms = -1 }]", "0 to"),
        ("drop = [{ at = \"end\", rate = 1.5 }]", "rate"),
        ("reply = [{ at = \"end\", rate = 1, text = \"hello\" }]", "code"),
        ("reply = [{ at = \"end\", rate = 1, text = \"250 a\" }]", "400 to 599"),
        ("reply = [{ at = \"end\", rate = 1, text = \"354 a\" }]", "400 to 599"),
        ("reply = [{ at = \"end\", rate = 1, text = \"450 a\\n450 b\" }]", "lines"),
        ("reply = [{ at = \"end\", rate = 1, text = \"450-a\" }]", "lines"),
        ("reply = [{ at = \"end\", rate = 0.1, text = \"450 a\", often = 1 }]", "often"),
        (
            "reply = [{ at = \"end\", rate = 0.6, text = \"450 a\" }, \
             { at = \"end\", rate = 0.6, text = \"450 a\" }]",
            "more than 1",
        ),
    ];
    let more: Vec<(String, &str)> =
        of_domain.iter().map(|(text, told)| (format!("{domain}{text}\n"), *told)).collect();
    let more = more.iter().map(|(text, told)| (&**text, "line 3:", *told));
    for (text, line, told) in rows.into_iter().chain(more) {
        let why = read(text).expect_err(text);
        assert!(why.starts_with(line) && why.contains(told), "{text}{why}");
    }
}

#[test]
fn the_shipped_file_is_valid() {
    let all = find("providers").unwrap_or_else(|why| panic!("{why}"));
    for domain in ["gmail.test", "outlook.test", "yahoo.test", "gone.test", "slow.test"] {
        assert!(all.find(domain.as_bytes()).is_some(), "{domain}");
    }
}
