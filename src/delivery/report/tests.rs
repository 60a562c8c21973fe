//! The pace of reports, and the facts in them.

use super::*;

#[test]
fn reports_keep_their_pace() {
    let mut pace = ReportPace::new(100_000);
    let dues: Vec<u64> = (0..4).map(|_| pace.take(100_000, 60)).collect();
    assert_eq!(dues, [100_000, 101_000, 102_000, 103_000], "no burst after a start");
    let later = 1_000_000;
    let dues: Vec<u64> = (0..33).map(|_| pace.take(later, 60)).collect();
    assert_eq!(dues.iter().filter(|due| **due == later).count(), 31, "half a minute's");
    assert_eq!(dues[32], later + 2000);
    let mut fast = ReportPace::new(0);
    let last = (0..1_000_000).map(|_| fast.take(0, 1_000_000)).last();
    assert_eq!(last, Some(59_999));
    assert_eq!(ReportPace::new(5).take(5, 0), 5, "no limit of nothing");
}

#[test]
fn a_status_fits_its_report() {
    let rows = [
        (Kind::Failed, (5, 1, 1), (5, 1, 1)),
        (Kind::Failed, (4, 4, 7), (4, 4, 7)),
        (Kind::Failed, (2, 0, 0), (5, 0, 0)),
        (Kind::Delayed, (5, 0, 0), (4, 0, 0)),
        (Kind::Relayed, (5, 0, 0), (2, 0, 0)),
    ];
    for (kind, said, told) in rows {
        assert_eq!(status_of(kind, said), told, "{kind:?} {said:?}");
    }
}

#[test]
fn who_said_what_is_kept_apart() {
    let said =
        Answer { status: (4, 3, 0), text: "451 4.3.0 later".into(), remote: true, cause: None };
    assert_eq!(cause_text(&said), None);
    let expired = Answer { cause: Some(Cause::Expired), ..said.clone() };
    assert_eq!(cause_text(&expired).as_deref(), Some(Cause::Expired.text()));
    assert_eq!(category_of(&expired, None), Category::Expired);
    let ours = Answer::ours(Cause::NoDomain, "x.test: none");
    let text = "The domain does not exist. (x.test: none)";
    assert_eq!(cause_text(&ours).as_deref(), Some(text));
    let full = Answer { status: (5, 0, 0), text: "550 mailbox full".into(), ..said };
    assert_eq!(category_of(&full, None), Category::QuotaFull);
}

#[test]
fn servers_are_named_as_dns_has_them() {
    let rows = [
        ("mx.test", Some("mx.test")),
        ("192.0.2.1", Some("[192.0.2.1]")),
        ("::1", Some("[IPv6:::1]")),
        ("unix:/run/lmtp", None),
        ("", None),
    ];
    for (host, name) in rows {
        assert_eq!(mta_name(host).as_deref(), name);
    }
}
