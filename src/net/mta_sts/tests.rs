//! Records, policies and their refresh.

use super::*;

#[test]
fn a_domain_announces_one_policy_or_none() {
    let table: [(&str, &[&str], Option<&str>); 14] = [
        ("as in the RFC", &["v=STSv1; id=20160831085700Z;"], Some("20160831085700Z")),
        ("without the last delimiter", &["v=STSv1;id=a1"], Some("a1")),
        ("white space", &["v=STSv1 ;\tid=a1 ; "], Some("a1")),
        ("an extension", &["v=STSv1; x=y; id=a1"], Some("a1")),
        ("beside another record", &["v=spf1 -all", "v=STSv1; id=a1"], Some("a1")),
        ("none", &[], None),
        ("two", &["v=STSv1; id=a1", "v=STSv1; id=a1"], None),
        ("another version", &["v=STSv2; id=a1"], None),
        ("a version that goes on", &["v=STSv12; id=a1"], None),
        ("no id", &["v=STSv1; x=y"], None),
        ("an empty id", &["v=STSv1; id="], None),
        ("an id that is too long", &["v=STSv1; id=123456789012345678901234567890123"], None),
        ("an id with a sign", &["v=STSv1; id=a-1"], None),
        ("the version is not first", &["id=a1; v=STSv1"], None),
    ];
    for (case, records, expected) in table {
        let id = policy_id(records.iter().map(|record| record.as_bytes()));
        assert_eq!(id.as_deref(), expected, "{case}");
    }
    assert_eq!(policy_id([&b"v=STSv1; id=\xff"[..]]), None);
}

fn policy(mode: StsMode, mx: &[&str], max_age_s: u64) -> StsPolicy {
    StsPolicy { mode, mx: mx.iter().map(|mx| (*mx).into()).collect(), max_age_s }
}

#[test]
fn policies_are_read_as_written() {
    let good = policy(StsMode::Enforce, &["mail.x.test", "*.x.test"], 604_800);
    let table: [(&str, &str, Result<StsPolicy, StsPolicyFault>); 21] = [
        (
            "CRLF",
            "version: STSv1\r\nmode: enforce\r\nmx: mail.x.test\r\nmx: *.x.test\r\nmax_age: 604800\r\n",
            Ok(good.clone()),
        ),
        (
            "LF, no end, other order",
            "max_age:604800\nmx: MAIL.x.test.\nmx:*.X.test\nmode: enforce \nversion: STSv1",
            Ok(good),
        ),
        (
            "unknown and doubled keys",
            "version: STSv1\nmode: testing\nmode: enforce\nnew: thing\nmx: a.test\nmax_age: 1\nmax_age: 2\n\n",
            Ok(policy(StsMode::Testing, &["a.test"], 1)),
        ),
        (
            "withdrawn",
            "version: STSv1\nmode: none\nmax_age: 86400",
            Ok(policy(StsMode::None, &[], 86_400)),
        ),
        (
            "more than a year",
            "version: STSv1\nmode: none\nmax_age: 9999999999",
            Ok(policy(StsMode::None, &[], MAX_AGE_S_MAX)),
        ),
        ("nothing", "", Err(StsPolicyFault::BadVersion)),
        ("HTML", "<html>\n", Err(StsPolicyFault::BadLine)),
        ("no version", "mode: none\nmax_age: 1", Err(StsPolicyFault::BadVersion)),
        (
            "a version to come",
            "version: STSv2\nmode: none\nmax_age: 1",
            Err(StsPolicyFault::BadVersion),
        ),
        ("no mode", "version: STSv1\nmax_age: 1", Err(StsPolicyFault::BadMode)),
        (
            "an unknown mode",
            "version: STSv1\nmode: report\nmax_age: 1",
            Err(StsPolicyFault::BadMode),
        ),
        ("no age", "version: STSv1\nmode: none", Err(StsPolicyFault::BadMaxAge)),
        ("an empty age", "version: STSv1\nmode: none\nmax_age:", Err(StsPolicyFault::BadMaxAge)),
        ("a signed age", "version: STSv1\nmode: none\nmax_age: +1", Err(StsPolicyFault::BadMaxAge)),
        (
            "a long age",
            "version: STSv1\nmode: none\nmax_age: 10000000000",
            Err(StsPolicyFault::BadMaxAge),
        ),
        ("no host", "version: STSv1\nmode: enforce\nmax_age: 1", Err(StsPolicyFault::NoMx)),
        (
            "an empty host",
            "version: STSv1\nmode: enforce\nmax_age: 1\nmx:",
            Err(StsPolicyFault::BadMx),
        ),
        (
            "a wildcard inside",
            "version: STSv1\nmode: enforce\nmax_age: 1\nmx: a.*.test",
            Err(StsPolicyFault::BadMx),
        ),
        (
            "a wildcard alone",
            "version: STSv1\nmode: enforce\nmax_age: 1\nmx: *",
            Err(StsPolicyFault::BadMx),
        ),
        (
            "an empty label",
            "version: STSv1\nmode: enforce\nmax_age: 1\nmx: a..test",
            Err(StsPolicyFault::BadMx),
        ),
        ("CR alone", "version: STSv1\rmode: none\rmax_age: 1", Err(StsPolicyFault::BadVersion)),
    ];
    for (case, text, expected) in table {
        assert_eq!(StsPolicy::parse(text.as_bytes()), expected, "{case}");
    }
    assert_eq!(StsPolicy::parse(b"version: \xff"), Err(StsPolicyFault::NotText));
    let many = format!("version: STSv1\nmode: none\nmax_age: 1\n{}", "mx: a.test\n".repeat(257));
    assert_eq!(StsPolicy::parse(many.as_bytes()), Err(StsPolicyFault::TooManyMx));
}

#[test]
fn hosts_match_whole_labels() {
    let policy = policy(StsMode::Enforce, &["mail.x.test", "*.mx.x.test"], 1);
    let table = [
        ("mail.x.test", true),
        ("MAIL.X.test.", true),
        ("a.mx.x.test", true),
        ("a.b.mx.x.test", false),
        ("mx.x.test", false),
        ("amx.x.test", false),
        ("x.test", false),
        ("mail.x.test.evil.test", false),
        ("", false),
    ];
    for (host, expected) in table {
        assert_eq!(policy.matches(host), expected, "{host}");
    }
}

#[test]
fn a_policy_reads_back_as_it_was_written() {
    for policy in [
        policy(StsMode::Enforce, &["mail.x.test", "*.x.test"], 604_800),
        policy(StsMode::Testing, &["a.test"], 1),
        policy(StsMode::None, &[], 86_400),
    ] {
        assert_eq!(StsPolicy::parse(policy.text().as_bytes()), Ok(policy));
    }
}

fn fetched(id: &str, policy: StsPolicy, fetched_ms: u64) -> Option<Arc<StsFetched>> {
    let policy = Arc::new(policy);
    Some(Arc::new(StsFetched { id: id.into(), policy, fetched_ms, used_ms: 0 }))
}

fn failed(id: &str, until_ms: u64) -> Option<Arc<StsFailed>> {
    let result = TlsResult::StsPolicyFetchError;
    Some(Arc::new(StsFailed { id: id.into(), until_ms, result }))
}

#[test]
fn a_policy_holds_until_its_end_whatever_happens() {
    let answer = |known: &StsKnown, id, now_ms| {
        let answer = known.answer(id, now_ms);
        (answer.policy.map(|policy| policy.mode), answer.fetch)
    };
    let unknown = StsKnown::default();
    assert_eq!(answer(&unknown, None, 0), (None, StsFetch::No), "nothing is announced");
    assert_eq!(answer(&unknown, Some("1"), 0), (None, StsFetch::First));
    let enforce = fetched("1", policy(StsMode::Enforce, &["a.test"], 1000), 0);
    let mut known = StsKnown { policy: enforce, failed: None };
    let held = Some(StsMode::Enforce);
    let table = [
        ("fresh", Some("1"), 10, (held, StsFetch::No)),
        ("half its time", Some("1"), 500_000, (held, StsFetch::Soon)),
        ("another id", Some("2"), 10, (held, StsFetch::First)),
        ("the record is gone", None, 999_999, (held, StsFetch::No)),
        ("its end", Some("1"), 1_000_000, (None, StsFetch::First)),
        ("its end, no record", None, 1_000_000, (None, StsFetch::No)),
    ];
    for (case, id, now_ms, expected) in table {
        assert_eq!(answer(&known, id, now_ms), expected, "{case}");
    }
    known.failed = failed("2", 10_000);
    assert_eq!(answer(&known, Some("2"), 9_999), (held, StsFetch::No), "the old one holds");
    assert_eq!(answer(&known, Some("3"), 9_999), (held, StsFetch::First));
    assert_eq!(answer(&known, Some("2"), 10_000), (held, StsFetch::First));
    known.policy = fetched("2", policy(StsMode::None, &[], 1000), 20_000);
    assert_eq!(answer(&known, Some("2"), 20_001), (Some(StsMode::None), StsFetch::No));
}

#[test]
fn what_mail_is_sent_under_is_refreshed_without_mail() {
    let policy = Arc::new(policy(StsMode::Enforce, &["a.test"], 1000));
    // Fetched, used, now.
    let table = [
        ("never used", 0, 0, 600_000, false),
        ("young", 0, 1, 400_000, false),
        ("old", 0, 1, 600_000, true),
        ("not used any more", IN_USE_MS_MIN, 1, IN_USE_MS_MIN + 600_000, false),
        ("over", 0, 500_000, 1_000_000, false),
    ];
    for (case, fetched_ms, used_ms, now_ms, expected) in table {
        let policy = Arc::clone(&policy);
        let fetched = StsFetched { id: "1".into(), policy, fetched_ms, used_ms };
        assert_eq!(fetched.wants_refresh(now_ms), expected, "{case}");
    }
}
