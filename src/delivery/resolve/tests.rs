//! Tests of resolving that need no server.

use super::*;

#[test]
fn mail_goes_to_none_that_would_send_it_back() {
    type Hosts = &'static [(u16, &'static str)];
    let rows: [(Hosts, Hosts); 6] = [
        (&[(10, "a"), (20, "b")], &[(10, "a"), (20, "b")]),
        (&[(10, "a"), (20, "us"), (30, "b")], &[(10, "a")]),
        (&[(20, "a"), (20, "us"), (10, "b")], &[(10, "b")]),
        (&[(10, "us"), (20, "a")], &[]),
        (&[(30, "us"), (20, "US"), (20, "a"), (10, "b")], &[(10, "b")]),
        (&[(0, "us")], &[]),
    ];
    let boxed = |hosts: &[(u16, &str)]| -> Vec<(u16, Box<str>)> {
        hosts.iter().map(|(preference, host)| (*preference, Box::from(*host))).collect()
    };
    for (hosts, expected) in rows {
        let left = without_us(boxed(hosts), |host| host.eq_ignore_ascii_case("us"));
        assert_eq!(left, boxed(expected), "{hosts:?}");
    }
}
