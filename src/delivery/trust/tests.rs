//! Decisions about hosts, and the words for them.

use super::*;
use crate::net::StsPolicy;

fn hop() -> Hop {
    let host = |name: &str| HostPort { host: name.into(), port: 25 };
    Hop {
        name: "a.test".into(),
        domain: "a.test".into(),
        hosts: ["mx1.a.test", "mx2.a.test"].map(host).into(),
        stripes: 1,
        names: HostNames::Mx,
        ..Hop::default()
    }
}

fn sts(mode: StsMode, mx: &str) -> Option<Arc<StsPolicy>> {
    Some(Arc::new(StsPolicy { mode, mx: vec![mx.into()], max_age_s: 1 }))
}

#[test]
fn a_demanding_sender_trusts_no_name_from_unsigned_dns() {
    let required = |names, sts| Hop { require_tls: RequireTls::Yes, names, sts, ..hop() };
    let ours = || sts(StsMode::Enforce, "mx1.a.test");
    let rows = [
        (required(HostNames::Mx, None), true),
        (required(HostNames::Mx, sts(StsMode::Enforce, "b.test")), true),
        (required(HostNames::Mx, ours()), false),
        (required(HostNames::Mx, sts(StsMode::Testing, "mx1.a.test")), false),
        (required(HostNames::SignedMx, None), false),
        (required(HostNames::Operator, None), false),
        (hop(), false),
    ];
    for (hop, expected) in rows {
        let state = sts_state(&hop, "mx1.a.test");
        assert_eq!(is_unvouched(&hop, state), expected, "{hop:?}");
    }
}

#[test]
fn the_log_names_the_policy_that_decided() {
    let situation = TlsSituation::default();
    let enforce = StsState::Enforce { host_matches: true };
    let broken = TlsSituation { memory: TlsMemory::Broken, ..situation };
    let none = TlsSituation { mode: OutboundTls::None, ..situation };
    let rows = [
        (situation, "may"),
        (broken, AFTER_FAILURE),
        (none, "none"),
        (TlsSituation { sts: enforce, ..none }, "none, ignores mta-sts"),
        (TlsSituation { dane: DaneState::Usable, ..none }, "none, ignores dane"),
        (TlsSituation { sts: enforce, ..broken }, "mta-sts"),
        (TlsSituation { dane: DaneState::Unusable, ..broken }, "dane"),
        (TlsSituation { mode: OutboundTls::Must, ..situation }, "must"),
        (TlsSituation { mode: OutboundTls::Verify, ..situation }, "verify"),
        (TlsSituation { require_tls: RequireTls::Yes, ..situation }, "requiretls"),
    ];
    for (situation, expected) in rows {
        assert_eq!(policy_word(&situation, situation.decide()), expected, "{situation:?}");
    }
}
