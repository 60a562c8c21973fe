//! Decides whether a connection to a host uses TLS, and what the host must prove, from the settings,
//! DANE, MTA-STS and REQUIRETLS.
//!
//! Promise:  pure. The strongest requirement holds. A requirement is never dropped because a handshake
//!           failed: the host is skipped instead, and the mail waits. Only the operator's `none`
//!           overrides a published policy, and the decision then says which.
//!
//! ```text
//!                         none        may          must         verify
//! DANE, usable            clear (!)   dane         dane         dane
//! DANE, nothing usable    clear (!)   any          any          name
//! DANE, lookup failed     clear (!)   pass over    pass over    pass over
//! MTA-STS, enforce        clear (!)   name         name         name       other MX: pass over
//! MTA-STS, testing        clear       may          any          name       failures are counted
//! nothing                 clear       may          any          name
//! REQUIRETLS              refused     dane, or else name
//! ```
//!
//! (!) the decision names the policy that is ignored. With both DANE and MTA-STS, DANE verifies the
//! certificate (RFC 8461 s2), and an enforced MTA-STS policy still limits the hosts. `may` is TLS with
//! any certificate, with fallback to cleartext.

use std::fmt;

use crate::route::destination::OutboundTls;

/// The result of the host's TLSA lookup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DaneState {
    /// No records, or the zone is not signed.
    #[default]
    None,
    /// Secure, and at least one record is usable.
    Usable,
    /// Secure, but no record is usable: TLS is required with any certificate (RFC 7672 s2.2).
    Unusable,
    /// The answer fails validation.
    Bogus,
    /// The lookup failed.
    Indeterminate,
}

/// The MTA-STS policy of the domain, applied to the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StsState {
    /// No policy, or its mode is `none`.
    #[default]
    None,
    Testing {
        host_matches: bool,
    },
    Enforce {
        host_matches: bool,
    },
}

/// Whether the sender requires TLS on every hop (REQUIRETLS, RFC 8689).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RequireTls {
    #[default]
    No,
    Yes,
}

/// What earlier connections to the host have shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMemory {
    #[default]
    Nothing,
    /// The last handshakes failed.
    Broken,
}

/// All inputs of the decision for one host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsSituation {
    pub mode: OutboundTls,
    pub dane: DaneState,
    pub sts: StsState,
    pub require_tls: RequireTls,
    pub memory: TlsMemory,
}

/// What the host must prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    Any,
    Name,
    Dane,
}

/// Who requires TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    Sender,
    Dane,
    MtaSts,
    Operator,
}

impl Demand {
    /// The name in metrics, reports and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Demand::Sender => "requiretls",
            Demand::Dane => "dane",
            Demand::MtaSts => "mta-sts",
            Demand::Operator => "destination",
        }
    }
}

/// Why a host is skipped without a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsRefusal {
    /// The sender requires TLS, the operator forbids it.
    ForbiddenByDestination,
    DaneBogus,
    DaneIndeterminate,
    /// An enforced MTA-STS policy does not list the host.
    NotInStsPolicy,
    /// The sender requires TLS, but the host's name came from insecure DNS and no MTA-STS policy lists
    /// it (RFC 8689 s4.2.1).
    NameInsecure,
}

impl fmt::Display for TlsRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TlsRefusal::ForbiddenByDestination => "the sender requires TLS (REQUIRETLS), but the destination has tls = none",
            TlsRefusal::DaneBogus => "the TLSA records of the host fail DNSSEC validation",
            TlsRefusal::DaneIndeterminate => "the lookup of the host's TLSA records failed",
            TlsRefusal::NotInStsPolicy => "the MTA-STS policy of the domain does not list the host",
            TlsRefusal::NameInsecure => {
                "the sender requires TLS (REQUIRETLS), but neither DNSSEC nor MTA-STS secures the host's name"
            }
        })
    }
}

/// How to connect to one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsDecision {
    /// Without TLS. `ignored` is the requirement that the operator's `none` overrides; log it.
    Clear { ignored: Option<Demand> },
    /// TLS with any certificate if offered and working, otherwise cleartext.
    Try,
    /// TLS with this proof, or no connection.
    Require { proof: Proof, by: Demand },
    /// Skip the host.
    PassOver(TlsRefusal),
}

/// How TLS failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFailure {
    /// EHLO did not offer STARTTLS, or the reply to STARTTLS was not 220. The connection is still
    /// usable.
    NotOffered,
    /// The handshake failed by the peer's fault. The connection is lost.
    Handshake,
    /// The certificate did not pass the check.
    Certificate,
    /// Our own fault: no memory, no trusted CA certificates.
    Ours,
}

/// What to do after a TLS failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// Continue in cleartext on this connection.
    GoOnInClear,
    /// Connect to the host again without TLS, and remember that its TLS is broken.
    ReconnectInClear,
    /// Skip the host; if no host is left, the mail waits.
    NextHost(Demand),
    /// Try the host again later.
    Later,
}

impl TlsSituation {
    pub fn decide(&self) -> TlsDecision {
        if self.mode == OutboundTls::None {
            return self.decide_without();
        }
        match (self.dane, self.sts) {
            (DaneState::Bogus, _) => return TlsDecision::PassOver(TlsRefusal::DaneBogus),
            (DaneState::Indeterminate, _) => {
                return TlsDecision::PassOver(TlsRefusal::DaneIndeterminate);
            }
            (_, StsState::Enforce { host_matches: false }) => {
                return TlsDecision::PassOver(TlsRefusal::NotInStsPolicy);
            }
            _ => {}
        }
        match self.demanded_proof() {
            Some((proof, by)) => TlsDecision::Require { proof, by },
            // TLS would fail again and waste a connection.
            None if self.memory == TlsMemory::Broken => TlsDecision::Clear { ignored: None },
            None => TlsDecision::Try,
        }
    }

    /// The decision for `tls = none`.
    fn decide_without(&self) -> TlsDecision {
        if self.require_tls == RequireTls::Yes {
            return TlsDecision::PassOver(TlsRefusal::ForbiddenByDestination);
        }
        let ignored = match (self.dane, self.sts) {
            (DaneState::None, StsState::Enforce { .. }) => Some(Demand::MtaSts),
            (DaneState::None, _) => None,
            _ => Some(Demand::Dane),
        };
        TlsDecision::Clear { ignored }
    }

    /// The strongest required proof, and who requires it.
    fn demanded_proof(&self) -> Option<(Proof, Demand)> {
        let enforced = matches!(self.sts, StsState::Enforce { .. });
        if self.dane == DaneState::Usable {
            return Some((Proof::Dane, Demand::Dane));
        }
        if self.require_tls == RequireTls::Yes {
            return Some((Proof::Name, Demand::Sender));
        }
        match (self.mode, self.dane) {
            _ if enforced => Some((Proof::Name, Demand::MtaSts)),
            (OutboundTls::Verify, _) => Some((Proof::Name, Demand::Operator)),
            (_, DaneState::Unusable) => Some((Proof::Any, Demand::Dane)),
            (OutboundTls::Must, _) => Some((Proof::Any, Demand::Operator)),
            _ => None,
        }
    }
}

impl TlsDecision {
    /// Whether STARTTLS is sent at all.
    pub fn wants_tls(&self) -> bool {
        matches!(self, TlsDecision::Try | TlsDecision::Require { .. })
    }

    /// What to do after TLS failed. Only valid for a decision with TLS.
    pub fn after(&self, failure: TlsFailure) -> AfterFailure {
        assert!(self.wants_tls(), "only a decision with TLS can fail");
        match (self, failure) {
            (_, TlsFailure::Ours) => AfterFailure::Later,
            (TlsDecision::Require { by, .. }, _) => AfterFailure::NextHost(*by),
            (_, TlsFailure::NotOffered) => AfterFailure::GoOnInClear,
            (_, TlsFailure::Handshake | TlsFailure::Certificate) => AfterFailure::ReconnectInClear,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODES: [OutboundTls; 4] =
        [OutboundTls::None, OutboundTls::May, OutboundTls::Must, OutboundTls::Verify];
    const ENFORCE: StsState = StsState::Enforce { host_matches: true };
    const ENFORCE_OTHERS: StsState = StsState::Enforce { host_matches: false };
    const TESTING: StsState = StsState::Testing { host_matches: true };
    const TESTING_OTHERS: StsState = StsState::Testing { host_matches: false };
    const STS: [StsState; 5] = [StsState::None, TESTING, TESTING_OTHERS, ENFORCE, ENFORCE_OTHERS];
    const DANE: [DaneState; 5] = [
        DaneState::None,
        DaneState::Usable,
        DaneState::Unusable,
        DaneState::Bogus,
        DaneState::Indeterminate,
    ];
    const FAILURES: [TlsFailure; 4] =
        [TlsFailure::NotOffered, TlsFailure::Handshake, TlsFailure::Certificate, TlsFailure::Ours];

    /// One letter for each decision, so that all of them can be seen on a page.
    fn letter(decision: TlsDecision) -> &'static str {
        match decision {
            TlsDecision::Clear { ignored: None } => "-",
            TlsDecision::Clear { ignored: Some(Demand::Dane) } => "!d",
            TlsDecision::Clear { ignored: Some(_) } => "!s",
            TlsDecision::Try => "t",
            TlsDecision::Require { proof: Proof::Any, .. } => "a",
            TlsDecision::Require { proof: Proof::Name, .. } => "n",
            TlsDecision::Require { proof: Proof::Dane, .. } => "d",
            TlsDecision::PassOver(TlsRefusal::ForbiddenByDestination) => "xf",
            TlsDecision::PassOver(TlsRefusal::DaneBogus) => "xb",
            TlsDecision::PassOver(TlsRefusal::DaneIndeterminate) => "xi",
            TlsDecision::PassOver(TlsRefusal::NotInStsPolicy) => "xs",
            TlsDecision::PassOver(TlsRefusal::NameInsecure) => "xn",
        }
    }

    /// For each row of DANE and MTA-STS: none, may, must, verify.
    #[rustfmt::skip]
    const ALL: [[&str; 4]; 25] = [
        // No DANE: nothing, testing (ours, others), enforce (ours, others).
        ["-",  "t",  "a",  "n"], ["-",  "t",  "a",  "n"], ["-",  "t",  "a",  "n"],
        ["!s", "n",  "n",  "n"], ["!s", "xs", "xs", "xs"],
        // Usable.
        ["!d", "d",  "d",  "d"], ["!d", "d",  "d",  "d"], ["!d", "d",  "d",  "d"],
        ["!d", "d",  "d",  "d"], ["!d", "xs", "xs", "xs"],
        // Unusable.
        ["!d", "a",  "a",  "n"], ["!d", "a",  "a",  "n"], ["!d", "a",  "a",  "n"],
        ["!d", "n",  "n",  "n"], ["!d", "xs", "xs", "xs"],
        // Bogus.
        ["!d", "xb", "xb", "xb"], ["!d", "xb", "xb", "xb"], ["!d", "xb", "xb", "xb"],
        ["!d", "xb", "xb", "xb"], ["!d", "xb", "xb", "xb"],
        // Indeterminate.
        ["!d", "xi", "xi", "xi"], ["!d", "xi", "xi", "xi"], ["!d", "xi", "xi", "xi"],
        ["!d", "xi", "xi", "xi"], ["!d", "xi", "xi", "xi"],
    ];

    /// All situations, with what the table says of them.
    fn all() -> impl Iterator<Item = (TlsSituation, &'static str)> {
        ALL.iter().enumerate().flat_map(|(row, letters)| {
            letters.iter().zip(MODES).flat_map(move |(letter, mode)| {
                let (dane, sts) = (DANE[row / 5], STS[row % 5]);
                [TlsMemory::Nothing, TlsMemory::Broken].map(|memory| {
                    let require_tls = RequireTls::No;
                    (TlsSituation { mode, dane, sts, require_tls, memory }, *letter)
                })
            })
        })
    }

    #[test]
    fn every_combination_has_its_decision() {
        for (situation, expected) in all() {
            // Memory changes nothing but an attempt that nobody has demanded.
            let broken = situation.memory == TlsMemory::Broken;
            let expected = if broken && expected == "t" { "-" } else { expected };
            assert_eq!(letter(situation.decide()), expected, "{situation:?}");
        }
    }

    #[test]
    fn require_tls_is_never_met_by_less_than_a_proof() {
        for (situation, without) in all() {
            let situation = TlsSituation { require_tls: RequireTls::Yes, ..situation };
            let expected = match without {
                "-" | "!d" | "!s" => "xf",
                "t" | "a" => "n",
                same => same,
            };
            assert_eq!(letter(situation.decide()), expected, "{situation:?}");
        }
    }

    #[test]
    fn a_failed_handshake_downgrades_only_what_nobody_demands() {
        for (situation, _) in all() {
            for require_tls in [RequireTls::No, RequireTls::Yes] {
                let decision = TlsSituation { require_tls, ..situation }.decide();
                for failure in FAILURES.into_iter().filter(|_| decision.wants_tls()) {
                    let clear = matches!(
                        decision.after(failure),
                        AfterFailure::GoOnInClear | AfterFailure::ReconnectInClear
                    );
                    let free = situation.mode == OutboundTls::May
                        && situation.dane == DaneState::None
                        && !matches!(situation.sts, StsState::Enforce { .. })
                        && require_tls == RequireTls::No
                        && failure != TlsFailure::Ours;
                    assert_eq!(clear, free, "{situation:?} {require_tls:?} {failure:?}");
                }
            }
        }
    }

    #[test]
    fn who_demands_is_told() {
        let base = TlsSituation { mode: OutboundTls::Must, ..TlsSituation::default() };
        let table = [
            (base, Demand::Operator),
            (TlsSituation { sts: ENFORCE, ..base }, Demand::MtaSts),
            (TlsSituation { dane: DaneState::Usable, sts: ENFORCE, ..base }, Demand::Dane),
            (TlsSituation { dane: DaneState::Unusable, ..base }, Demand::Dane),
            (TlsSituation { require_tls: RequireTls::Yes, ..base }, Demand::Sender),
        ];
        for (situation, expected) in table {
            let after = situation.decide().after(TlsFailure::NotOffered);
            assert_eq!(after, AfterFailure::NextHost(expected), "{situation:?}");
        }
    }
}
