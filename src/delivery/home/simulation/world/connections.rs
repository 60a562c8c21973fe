//! The connections of real owners in the simulated machine, which `connection` drives otherwise.

use std::sync::Arc;
use std::time::Duration;

use super::What;
use super::World;
use crate::delivery::capacity::ConnId;
use crate::delivery::destination::Blame;
use crate::delivery::destination::End as ConnectionEnd;
use crate::delivery::destination::Failure;
use crate::delivery::destination::JobEnd;
use crate::delivery::destination::LinkEnd;
use crate::delivery::home::simulation::owner::Peer;
use crate::delivery::home::simulation::real::Connection;
use crate::delivery::home::simulation::real::Happening;
use crate::delivery::home::simulation::real::Real;
use crate::delivery::home::tests::ends_of;
use crate::delivery::owner::OwnerEffect;
use crate::delivery::owner::Take;
use crate::handoff::frame::Answer;
use crate::handoff::frame::End;
use crate::handoff::frames::Frame;
use crate::handoff::frames::OurLimit;
use crate::handoff::frames::Outcome;
use crate::handoff::frames::Returned;
use crate::wire::classify::Cause;

/// How often an owner looks after itself while there is mail.
const TICK_MS: u64 = 20;
const LONG_TICK_MS: u64 = 1000;

impl World {
    fn real(&mut self, shard: u16) -> &mut Real {
        self.shards[usize::from(shard)].real.as_mut().expect("the plan has real owners")
    }

    pub(super) fn at_real_owner(&mut self, shard: u16, frame: Frame) {
        let now = self.mono();
        self.real(shard).owner.on_frame(frame, now);
        self.follow_real(shard);
    }

    pub(super) fn tick_real(&mut self, shard: u16) {
        let (now, now_ms) = (self.mono(), self.now_ms);
        let real = self.real(shard);
        if real.tick_ms != now_ms {
            // Another one was set for an earlier time.
            return;
        }
        real.tick_ms = 0;
        real.owner.tick(now);
        let has_connections = !real.connections.is_empty();
        let is_busy = self.carry_out_real(shard);
        let has_mail = self.shards.iter().any(|shard| shard.home.figures().0 > 0);
        if is_busy {
            self.set_tick(shard, TICK_MS);
        } else if has_mail || has_connections {
            let wake = self.real(shard).owner.next_wake(now);
            let wake_ms = wake.map_or(LONG_TICK_MS, |at| at.ms_since(now) + 1);
            self.set_tick(shard, wake_ms.min(LONG_TICK_MS));
        }
    }

    pub(super) fn saved_real(&mut self, shard: u16) {
        let now = self.mono();
        self.real(shard).owner.saved(now);
        self.follow_real(shard);
    }

    fn set_tick(&mut self, shard: u16, after_ms: u64) {
        let at = self.now_ms + after_ms;
        let real = self.real(shard);
        if real.tick_ms == 0 || real.tick_ms > at {
            real.tick_ms = at;
            self.process(after_ms, What::TickOwner(shard));
        }
    }

    /// After an event of the owner, which looks at what it has touched at its next tick.
    fn follow_real(&mut self, shard: u16) {
        self.carry_out_real(shard);
        self.set_tick(shard, TICK_MS);
    }

    /// Carries out what the owner wants. Answers whether there was anything.
    fn carry_out_real(&mut self, shard: u16) -> bool {
        let effects = self.real(shard).owner.take_effects();
        let is_busy = !effects.is_empty();
        for effect in effects {
            match effect {
                OwnerEffect::Open { conn, hop, .. } => {
                    let name =
                        hop.destination.strip_prefix("mx").and_then(|name| name.split('.').next());
                    let target = name.and_then(|name| name.parse().ok()).expect("its number");
                    let connection = Connection { target, stamp: 0, job: None };
                    self.real(shard).connections.insert(conn, connection);
                    self.check_connections(target);
                    let after_ms = match self.peer(target) {
                        Peer::Dead => 30_000,
                        _ => 1 + self.random.below(60),
                    };
                    self.process(after_ms, What::Connection(shard, conn, Happening::Dialed));
                }
                OwnerEffect::Wake { conn } => {
                    if let Some(connection) = self.real(shard).connections.get_mut(&conn) {
                        connection.stamp += 1;
                        let stamp = connection.stamp;
                        let happening = Happening::Take { stamp };
                        self.process(0, What::Connection(shard, conn, happening));
                    }
                }
                OwnerEffect::Send { to, frame } => self.send(shard, to, frame),
                OwnerEffect::Save { .. } => {
                    let after_ms = 1 + self.random.below(60);
                    self.process(after_ms, What::Saved(shard));
                }
                OwnerEffect::Log { .. } => (),
            }
        }
        is_busy
    }

    /// No more connections to a destination than its limit, over all shards.
    fn check_connections(&self, target: u64) {
        let all = self.shards.iter().filter_map(|shard| shard.real.as_ref());
        let open = all.flat_map(Real::targets).filter(|other| *other == target).count();
        let max = self.policy.destinations.policy("b.test", &[]).connections_max as usize;
        assert!(open <= max, "{open} connections to {target}, the limit is {max}");
    }

    pub(super) fn on_connection(&mut self, shard: u16, conn: ConnId, happening: Happening) {
        let now = self.mono();
        let Some(connection) = self.real(shard).connections.get(&conn) else { return };
        let target = connection.target;
        match happening {
            Happening::Dialed => match self.peer(target) {
                Peer::Dead => self.end_real(shard, conn, None, failed("no answer")),
                _ if self.one_of(40) => {
                    self.end_real(shard, conn, None, LinkEnd::OurLimit(OurLimit::Descriptors));
                }
                _ => {
                    self.real(shard).owner.connected(conn, now);
                    self.follow_real(shard);
                    self.take_real(shard, conn);
                }
            },
            Happening::Take { stamp } if connection.stamp == stamp && connection.job.is_none() => {
                self.take_real(shard, conn);
            }
            Happening::Take { .. } => (),
            Happening::Taken { end } => {
                let job = connection.job.as_ref().expect("it has a job");
                let (job, home) = (job.job, job.home);
                self.note_remote(job, home, end.as_ref());
                let after_ms = self.random.below(30);
                let happening = Happening::Replied { end };
                self.process(after_ms, What::Connection(shard, conn, happening));
            }
            Happening::Replied { end } => self.on_replied(shard, conn, end),
            Happening::Gone => self.end_real(shard, conn, None, LinkEnd::Closed),
        }
    }

    fn take_real(&mut self, shard: u16, conn: ConnId) {
        let now = self.mono();
        let take = self.real(shard).owner.take(conn, now);
        match take {
            Take::Job(delivery) if self.one_of(60) => {
                self.real(shard).owner.give_back(conn, delivery, Returned::Hidden, now);
                self.follow_real(shard);
                return self.take_real(shard, conn);
            }
            Take::Job(delivery) => {
                let peer = self.peer(delivery.flow.target);
                let (after_ms, end) = peer.transfer(&mut self.random);
                let connection = self.real(shard).connections.get_mut(&conn);
                connection.expect("it is open").job = Some(delivery);
                let happening = Happening::Taken { end };
                self.process(after_ms, What::Connection(shard, conn, happening));
            }
            Take::IdleUntil(at) => {
                let after = at.since(now) + Duration::from_millis(1);
                let connection = self.real(shard).connections.get_mut(&conn);
                let connection = connection.expect("it is open");
                connection.stamp += 1;
                let happening = Happening::Take { stamp: connection.stamp };
                let after_ms = after.as_millis() as u64;
                self.process(after_ms, What::Connection(shard, conn, happening));
            }
            Take::Close => {
                let after_ms = self.random.below(20);
                self.process(after_ms, What::Connection(shard, conn, Happening::Gone));
            }
        }
        self.follow_real(shard);
    }

    fn on_replied(&mut self, shard: u16, conn: ConnId, end: Option<End>) {
        let connection = self.real(shard).connections.get_mut(&conn).expect("it is open");
        let delivery = connection.job.take().expect("it has a job");
        let told = end.clone().unwrap_or(End::Deferred);
        let what = ends_of(&delivery.recipients, told);
        let outcome = Outcome { job: delivery.job, what, unsettled: None };
        self.send(shard, delivery.home, Frame::Settle(Box::new(outcome)));
        let (job, link) = match end {
            Some(End::Delivered) => (JobEnd::Delivered, LinkEnd::Kept),
            Some(End::Failed) => (JobEnd::Refused, LinkEnd::Kept),
            Some(End::Deferred) => (JobEnd::Deferred, LinkEnd::Kept),
            None => (JobEnd::Lost, failed("the connection broke")),
        };
        let is_kept = matches!(link, LinkEnd::Kept);
        self.end_real(shard, conn, Some(job), link);
        if is_kept {
            self.take_real(shard, conn);
        }
    }

    fn end_real(&mut self, shard: u16, conn: ConnId, job: Option<JobEnd>, link: LinkEnd) {
        let now = self.mono();
        let slows_down = job.is_some() && self.one_of(30);
        let asks_for_less = slows_down.then(|| {
            let text = "451 too fast".into();
            Arc::new(Answer { text, remote: true, ..Answer::default() })
        });
        let is_kept = matches!(link, LinkEnd::Kept);
        let end = ConnectionEnd { job, asks_for_less, action: None, link };
        let real = self.real(shard);
        if !is_kept {
            real.connections.remove(&conn);
        }
        real.owner.ended(conn, &end, now);
        self.follow_real(shard);
    }
}

fn failed(text: &str) -> LinkEnd {
    let answer = Arc::new(Answer::ours(Cause::ConnectTimeout, text));
    LinkEnd::Failed(Failure { blame: Blame::Destination, answer, host: "mx.test".into() })
}
