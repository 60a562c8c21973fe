//! A model of an owner: it sends a few jobs of each destination at a time, gives and takes places,
//! backs off, and loses everything when its process ends.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::Mono;
use crate::base::Random;
use crate::base::ShardId;
use crate::delivery::home::tests::ends_of;
use crate::handoff::frame::Answer;
use crate::handoff::frame::End;
use crate::handoff::frames::Binds;
use crate::handoff::frames::Delivery;
use crate::handoff::frames::Frame;
use crate::handoff::frames::GrantState;
use crate::handoff::frames::JobRef;
use crate::handoff::frames::OurLimit;
use crate::handoff::frames::Outcome;
use crate::handoff::frames::Returned;
use crate::handoff::frames::What;
use crate::wire::classify::Cause;

/// How the servers of a destination behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Fast,
    /// One transfer a second.
    Slow,
    /// Transfers of up to two hours.
    Endless,
    Refusing,
    Deferring,
    Dead,
    Flaky,
}

pub const PEERS: [Peer; 7] = [
    Peer::Fast,
    Peer::Slow,
    Peer::Endless,
    Peer::Refusing,
    Peer::Deferring,
    Peer::Dead,
    Peer::Flaky,
];

impl Peer {
    /// How long a transfer takes, and what the server decides; `None`: it breaks, or never begins.
    pub fn transfer(self, random: &mut Random) -> (u64, Option<End>) {
        match self {
            Peer::Fast => (5 + random.below(50), Some(End::Delivered)),
            Peer::Slow => (1000, Some(End::Delivered)),
            Peer::Endless => (random.below(7_200_000), Some(End::Delivered)),
            Peer::Refusing => (20, Some(End::Failed)),
            Peer::Deferring => (20, Some(End::Deferred)),
            Peer::Dead => (30_000, None),
            Peer::Flaky => {
                let deferred = Some(End::Deferred);
                let ends = [Some(End::Delivered), deferred, Some(End::Failed), None];
                (random.below(3000), ends[random.below(4) as usize].clone())
            }
        }
    }
}

#[derive(Default)]
pub struct Owner {
    targets: BTreeMap<u64, Queue>,
}

#[derive(Default)]
struct Queue {
    queued: VecDeque<Delivery>,
    flying: BTreeMap<(ShardId, JobRef), Delivery>,
    homes: BTreeSet<ShardId>,
    failures: u32,
    backs_off_until: u64,
}

/// What an owner does.
pub enum Doing {
    Send(ShardId, Frame),
    /// A transfer begins: what the server decides, and when.
    Fly {
        home: ShardId,
        job: JobRef,
        target: u64,
        after_ms: u64,
        end: Option<End>,
    },
    /// Look at the destination again then.
    Later {
        target: u64,
        after_ms: u64,
    },
}

impl Owner {
    pub fn on_frame(
        &mut self,
        frame: Frame,
        (me, now_ms): (ShardId, u64),
        peer: impl Fn(u64) -> Peer,
        random: &mut Random,
    ) -> Vec<Doing> {
        let mut doing = Vec::new();
        match frame {
            Frame::Deliver(delivery) => {
                let target = delivery.flow.target;
                let queue = self.targets.entry(target).or_default();
                queue.homes.insert(delivery.home);
                if now_ms < queue.backs_off_until {
                    doing.push(queue.grant(me, target, delivery.home, 0));
                    doing.push(returned(&delivery, Returned::NoPlaces));
                } else if random.below(60) == 0 {
                    let why = [
                        Returned::Hidden,
                        Returned::OurLimit(OurLimit::Descriptors),
                        Returned::NotHere,
                        Returned::TenantRate {
                            until: Mono::from_ms(now_ms + 1 + random.below(2000)),
                        },
                    ];
                    doing.push(returned(&delivery, why[random.below(4) as usize]));
                } else {
                    queue.queued.push_back(*delivery);
                    queue.begin(peer(target), random, &mut doing);
                }
            }
            Frame::Want { target, home, .. } => {
                let queue = self.targets.entry(target).or_default();
                queue.homes.insert(home);
                let total = match now_ms < queue.backs_off_until {
                    true => 0,
                    false => 1 + random.below(8) as u32,
                };
                doing.push(queue.grant(me, target, home, total));
            }
            Frame::Recall { job, .. } => {
                for queue in self.targets.values_mut() {
                    let place = queue.queued.iter().position(|queued| queued.job == job);
                    if let Some(delivery) = place.and_then(|place| queue.queued.remove(place)) {
                        doing.push(returned(&delivery, Returned::Recalled));
                    }
                }
            }
            Frame::Check { home, jobs } => {
                let known = |job: &JobRef| {
                    self.targets.values().any(|queue| {
                        queue.flying.contains_key(&(home, *job))
                            || queue.queued.iter().any(|one| one.home == home && one.job == *job)
                    })
                };
                let jobs: Vec<JobRef> = jobs.into_iter().filter(|job| !known(job)).collect();
                if !jobs.is_empty() {
                    doing.push(Doing::Send(home, Frame::Missing { jobs }));
                }
            }
            _ => (),
        }
        doing
    }

    /// The server of a transfer has answered, or there was none.
    pub fn on_landed(
        &mut self,
        ((home, job, target), end): ((ShardId, JobRef, u64), Option<End>),
        (me, now_ms): (ShardId, u64),
        peer: impl Fn(u64) -> Peer,
        random: &mut Random,
    ) -> Vec<Doing> {
        let mut doing = Vec::new();
        let queue = self.targets.entry(target).or_default();
        let Some(delivery) = queue.flying.remove(&(home, job)) else { return doing };
        let what = match end {
            Some(end) => {
                queue.failures = 0;
                ends_of(&delivery.recipients, end)
            }
            None => {
                queue.failures += 1;
                What::Unreached {
                    answer: Answer::ours(Cause::ConnectTimeout, "no answer"),
                    host: "mx.test".into(),
                    not_before: Mono::from_ms(now_ms + random.below(120_000)),
                }
            }
        };
        let outcome = Outcome { job, what, unsettled: None };
        doing.push(Doing::Send(home, Frame::Settle(Box::new(outcome))));
        if queue.failures >= 3 {
            let after_ms = 30_000 + random.below(600_000);
            queue.backs_off_until = now_ms + after_ms;
            let homes: Vec<ShardId> = queue.homes.iter().copied().collect();
            doing.extend(homes.into_iter().map(|home| queue.grant(me, target, home, 0)));
            let queued = std::mem::take(&mut queue.queued);
            doing.extend(queued.iter().map(|delivery| returned(delivery, Returned::NoPlaces)));
            doing.push(Doing::Later { target, after_ms });
        } else if random.below(8) == 0 {
            let total = 1 + random.below(40) as u32;
            doing.push(queue.grant(me, target, home, total));
        }
        queue.begin(peer(target), random, &mut doing);
        doing
    }

    /// A backoff is over: one probe for each home.
    pub fn on_later(&mut self, target: u64, me: ShardId, random: &mut Random) -> Vec<Doing> {
        let queue = self.targets.entry(target).or_default();
        queue.failures = 2;
        let homes: Vec<ShardId> = queue.homes.iter().copied().collect();
        // The others repeat that they want places.
        let some = homes.into_iter().filter(|_| random.below(3) > 0);
        let some: Vec<ShardId> = some.collect();
        some.into_iter().map(|home| queue.grant(me, target, home, 1)).collect()
    }
}

impl Queue {
    fn begin(&mut self, peer: Peer, random: &mut Random, doing: &mut Vec<Doing>) {
        let window = match peer {
            Peer::Slow => 1,
            _ => 4,
        };
        while self.flying.len() < window {
            let Some(delivery) = self.queued.pop_front() else { return };
            let (after_ms, end) = peer.transfer(random);
            let (home, job, target) = (delivery.home, delivery.job, delivery.flow.target);
            doing.push(Doing::Fly { home, job, target, after_ms, end });
            let before = self.flying.insert((home, job), delivery);
            assert!(before.is_none(), "{job:?} is sent twice at once");
        }
    }

    fn grant(&self, from: ShardId, target: u64, home: ShardId, total: u32) -> Doing {
        let per_flow = total.div_ceil(2);
        let until = (total == 0).then(|| Mono::from_ms(self.backs_off_until));
        let binds = if total == 0 { Binds::BackingOff } else { Binds::Nothing };
        let state = Arc::new(GrantState { binds, until, ..GrantState::default() });
        Doing::Send(home, Frame::Grant { target, from, total, per_flow, state })
    }
}

fn returned(delivery: &Delivery, why: Returned) -> Doing {
    let outcome = Outcome { job: delivery.job, what: What::Returned(why), unsettled: None };
    Doing::Send(delivery.home, Frame::Settle(Box::new(outcome)))
}
