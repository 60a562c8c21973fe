//! Owners of a destination, and that shares never exceed its limit.

use std::collections::BTreeSet;
use std::collections::VecDeque;

use super::*;
use crate::route::Rates;

fn policy(stripes: Stripes, connections_max: u32, per_minute: Option<u32>) -> DestinationPolicy {
    let rates = Rates { per_minute, ..Rates::default() };
    DestinationPolicy { stripes, connections_max, rates, ..DestinationPolicy::default() }
}

#[test]
fn a_destination_has_so_many_owners() {
    let rows = [
        ("the default", Stripes::default(), 20, None, 1),
        ("so many", Stripes::Count(3), 20, None, 3),
        ("no more than shards", Stripes::Count(9), 20, None, 4),
        ("all", Stripes::All, 20, None, 4),
        ("few connections", Stripes::All, 3, None, 3),
        ("all, with a rate", Stripes::All, 20, Some(2), 4),
        ("roomy", Stripes::Auto, 8, None, 4),
        ("not roomy", Stripes::Auto, 7, None, 1),
        ("with a rate", Stripes::Auto, 100, Some(1000), 1),
    ];
    for (name, stripes, connections_max, per_minute, expected) in rows {
        assert_eq!(count(&policy(stripes, connections_max, per_minute), 4), expected, "{name}");
    }
}

#[test]
fn a_home_keeps_its_jobs_where_its_shard_is_an_owner() {
    for lead in 0..5 {
        for stripes in 1..=5 {
            let mut owners = BTreeSet::new();
            for home in 0..5 {
                let found = owner(ShardId(lead), stripes, ShardId(home), 5);
                let distance = (home + 5 - lead) % 5;
                assert_eq!(
                    found.0 == home,
                    u32::from(distance) < stripes,
                    "{lead} {stripes} {home}"
                );
                owners.insert(found);
            }
            assert_eq!(owners.len() as u32, stripes, "each owner gets jobs");
        }
    }
}

fn told(shares: &mut Shares, from: u16, (number, connections, wanted): (u32, u32, u32)) -> String {
    let changed = shares.on_used(ShardId(from), Used { number, connections, wanted });
    let show = |one: Share| format!("{}: {}", one.to.0, one.connections);
    changed.into_iter().map(show).collect::<Vec<_>>().join(", ")
}

#[test]
fn shares_follow_demand() {
    let mut shares = Shares::new(10, 0);
    assert_eq!(told(&mut shares, 0, (0, 0, 20)), "0: 10");
    assert_eq!(told(&mut shares, 0, (1, 10, 20)), "");
    // The other one waits until the first has closed connections.
    assert_eq!(told(&mut shares, 1, (0, 0, 20)), "0: 5");
    assert_eq!(told(&mut shares, 0, (1, 10, 20)), "", "it has not heard of its share");
    assert_eq!(told(&mut shares, 0, (2, 8, 20)), "1: 2");
    assert_eq!(told(&mut shares, 0, (2, 5, 20)), "1: 5");
    assert_eq!(told(&mut shares, 1, (4, 5, 20)), "");
    // The first one has nothing left to send.
    assert_eq!(told(&mut shares, 0, (2, 0, 0)), "0: 0");
    assert_eq!(told(&mut shares, 0, (5, 0, 0)), "1: 10");
    assert_eq!(shares.members.len(), 1, "a member without mail is forgotten");
}

/// Members that hear of their shares late, and open and close connections as they like.
#[test]
fn shares_never_exceed_the_limit() {
    for seed in 0..500_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut roll = |below: u32| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 33) as u32 % below
        };
        let limit = 1 + roll(30);
        let mut shares = Shares::new(limit, 0);
        // The share known, its connections, and shares on their way, in order.
        let mut members = vec![(0_u32, 0_u32, 0_u32, VecDeque::<Share>::new()); 4];
        // What members have told, on its way.
        let mut told = VecDeque::new();
        for _ in 0..300 {
            let number = roll(4) as usize;
            let (known, share, connections, coming) = &mut members[number];
            match roll(4) {
                0 => {
                    if let Some(new) = coming.pop_front() {
                        (*known, *share) = (new.number, new.connections);
                    }
                }
                1 if *connections < *share => *connections += roll(*share - *connections + 1),
                // Connections beyond a lower share end one by one.
                1 => *connections -= roll(*connections + 1),
                2 => {
                    let (number_known, connections) = (*known, *connections);
                    let used = Used { number: number_known, connections, wanted: roll(40) };
                    told.push_back((number, used));
                }
                _ => {
                    if let Some((number, used)) = told.pop_front() {
                        for share in shares.on_used(ShardId(number as u16), used) {
                            members[usize::from(share.to.0)].3.push_back(share);
                        }
                    }
                }
            }
            let open: u32 = members.iter().map(|one| one.2).sum();
            assert!(open <= limit, "seed {seed}: {open} of {limit}");
        }
    }
}
