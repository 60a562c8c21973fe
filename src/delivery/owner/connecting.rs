//! The connections of an owner: when they are opened, take jobs, wait and close.
//!
//! Promise:  every change of what a connection does goes through `set_stage`, so that all counts agree.
//! Bounds:   the gate of the process. When it is full, idle connections of other destinations close, and
//!           connections of destinations with more than their part give way.

use super::*;

/// Messages after which a connection gives way to a destination that has none.
const TURN_MESSAGES: u32 = 10;

/// How long nothing is dialled for want of our own resources: doubled up to the most.
const LACK_FIRST_MS: u64 = 20;

const LACK_MAX_MS: u64 = 1000;

impl Owner {
    /// The connection is open and the server ready for a message.
    pub fn connected(&mut self, conn: ConnId, now: Mono) {
        self.lack_ms = 0;
        if let Some(index) = self.set_stage(conn, Stage::Asking) {
            self.refresh(index, now);
        }
    }

    /// The next job for a connection, or what it does without.
    pub fn take(&mut self, conn: ConnId, now: Mono) -> Take {
        let Some(connection) = self.capacity.get(conn) else { return Take::Close };
        let (index, link, taken) = (connection.destination, connection.link, connection.taken);
        let is_leaving = connection.is_leaving || self.is_closing;
        let is_over = match connection.stage {
            Stage::Closing => return Take::Close,
            Stage::Busy(_) => panic!("a connection asks for a job while it has one"),
            Stage::Idle { until, .. } => until <= now,
            Stage::Opening | Stage::Asking => false,
        };
        if is_over || is_leaving || self.must_close(index, &link, taken, now) {
            return self.close_connection(conn, now);
        }
        if self.entries[index as usize].policy_number < self.tenants_since {
            self.apply_policy(index, now);
        }
        self.hold_expired(now);
        let destination = &mut self.entries[index as usize].destination;
        let idle_reuse = destination.policy().idle_reuse;
        let take = match destination.take(&link, now) {
            Some((delivery, destination)) => {
                let (job, tenant) = (delivery.job, delivery.flow.tenant);
                self.jobs.insert(job, Whereabouts::Taken);
                let tenant_token = self.use_token(tenant, now);
                self.leave_tenant(index, tenant);
                if let Some(connection) = self.capacity.get_mut(conn) {
                    connection.taken += 1;
                    connection.used = UsedTokens { destination, tenant: tenant_token };
                }
                self.set_stage(conn, Stage::Busy(job));
                self.entries[index as usize].grants.begun(now);
                Take::Job(delivery)
            }
            // A probe without mail finds out nothing, and others wait for its place.
            None if idle_reuse == Duration::ZERO
                || self.capacity.waiting().is_some()
                || link.roles.is_probe() && !destination.has_mail(&link) =>
            {
                return self.close_connection(conn, now);
            }
            None => {
                if destination.has_mail(&link) {
                    // Its homes hear what binds.
                    self.touched.insert(index);
                }
                let until = now.plus(idle_reuse);
                self.set_stage(conn, Stage::Idle { since: now, until });
                Take::IdleUntil(until)
            }
        };
        self.refresh(index, now);
        take
    }

    /// A job that a connection took does not begin: its home gets it back, and the connection asks again.
    /// It counts under no rate.
    pub fn give_back(&mut self, conn: ConnId, delivery: Box<Delivery>, why: Returned, now: Mono) {
        let tenant = delivery.flow.tenant;
        self.return_job(delivery, why);
        let Some(connection) = self.capacity.get(conn) else { return };
        let (used, link) = (connection.used, connection.link);
        if let Some(until) = used.tenant {
            self.put_back_token(tenant, until, now);
        }
        if let Some(index) = self.set_stage(conn, Stage::Asking) {
            if self.entries[index as usize].destination.give_back(&link, used.destination, now) {
                self.touched.insert(index);
            }
            self.refresh(index, now);
        }
    }

    /// All that a connection has found out. Its job has been answered by the caller.
    pub fn ended(&mut self, conn: ConnId, end: &End, now: Mono) {
        let Some(connection) = self.capacity.get_mut(conn) else { return };
        let (index, mut link, stage) = (connection.destination, connection.link, connection.stage);
        if let Stage::Busy(job) = stage {
            self.jobs.remove(&job);
        }
        link.is_opening = stage == Stage::Opening;
        let entry = &mut self.entries[index as usize];
        if matches!(end.job, Some(job) if job != JobEnd::Lost) {
            entry.pace.count(now);
        }
        let was_in_trouble = entry.destination.is_in_trouble();
        let back =
            entry.destination.ended(&link, end, (&self.policy.sources, now), &mut self.random);
        let is_plain =
            end.action.is_none() && end.asks_for_less.is_none() && !link.roles.is_probe();
        match end.link {
            LinkEnd::Kept => {
                if let Some(connection) = self.capacity.get_mut(conn) {
                    connection.is_leaving |= end.asks_for_less.is_some();
                    if end.job.is_some() {
                        connection.link.roles = Roles::PLAIN;
                    }
                }
                self.set_stage(conn, Stage::Asking);
                if was_in_trouble || !is_plain {
                    self.touched.insert(index);
                }
            }
            LinkEnd::Closed | LinkEnd::Failed(_) | LinkEnd::OurLimit(_) => {
                self.forget_connection(conn);
                self.touched.insert(index);
            }
        }
        if let LinkEnd::OurLimit(_) = end.link
            && self.dials_at <= now
        {
            self.lack_ms = (2 * self.lack_ms).clamp(LACK_FIRST_MS, LACK_MAX_MS);
            self.dials_at = now.plus_ms(self.lack_ms);
        }
        self.send_back(index, back, now);
        self.refresh(index, now);
        self.pump(now);
    }

    /// Answers all jobs that the connection could carry: their way leads nowhere.
    pub fn refuse(&mut self, conn: ConnId, now: Mono, answer: impl Fn(&Delivery) -> What) {
        let Some(connection) = self.capacity.get(conn) else { return };
        let (index, link) = (connection.destination, connection.link);
        while let Some(delivery) = self.entries[index as usize].destination.take_refused(&link) {
            let what = answer(&delivery);
            self.settle(&delivery, what);
        }
        self.refresh(index, now);
    }

    /// Opens the connections for which there is room.
    pub(super) fn pump(&mut self, now: Mono) {
        while !self.is_closing && self.dials_at <= now {
            let Some((_, _, index)) = self.capacity.next_request(&self.gate) else {
                if let Some(conn) = self.capacity.evict() {
                    self.close_connection(conn, now);
                    self.effects.push(OwnerEffect::Wake { conn });
                }
                return;
            };
            if self.entries[index as usize].policy_number != self.policy_number {
                self.apply_policy(index, now);
            }
            let entry = &mut self.entries[index as usize];
            let opening = entry.destination.open(now, &mut self.random);
            // To the end of the list.
            entry.request = self.capacity.request(entry.request, index, None);
            let Some(opening) = opening else {
                self.capacity.give_up(&self.gate);
                self.note_all_unsaved(index);
                self.set_timer(index, now);
                continue;
            };
            let Opening { link, hop, source } = opening;
            let conn = self.capacity.add(index, link);
            self.shift(index, &link, None, Some(Stage::Opening));
            self.effects.push(OwnerEffect::Open { conn, hop, source });
            self.refresh(index, now);
        }
    }

    /// Whether a connection that asks for a job has to go.
    fn must_close(&self, index: u32, link: &Link, taken: u32, now: Mono) -> bool {
        let destination = &self.entries[index as usize].destination;
        if destination.must_close(link, Some(taken), now) {
            return true;
        }
        let Some(waiting) = self.capacity.waiting() else { return false };
        // Not only this shard's part of the gate: on many cores that is less than one destination
        // needs, while other shards leave theirs unused.
        let own = self.capacity.count().max(self.gate.max() as usize / self.shards.max(1));
        let fair = (own / self.active.max(1)).max(1);
        destination.counts.live() as usize > fair
            || waiting == Claim::First && taken >= TURN_MESSAGES
    }

    fn close_connection(&mut self, conn: ConnId, now: Mono) -> Take {
        if let Some(index) = self.set_stage(conn, Stage::Closing) {
            self.refresh(index, now);
        }
        Take::Close
    }

    /// The one place where a connection changes what it does, so that all counts agree.
    fn set_stage(&mut self, conn: ConnId, stage: Stage) -> Option<u32> {
        let before = self.capacity.set(conn, stage)?;
        let connection = self.capacity.get(conn)?;
        let (index, link) = (connection.destination, connection.link);
        self.shift(index, &link, Some(before), Some(stage));
        let entry = &mut self.entries[index as usize];
        if let Stage::Idle { .. } = before
            && let Some(place) = entry.idle.iter().rposition(|other| *other == conn)
        {
            entry.idle.remove(place);
        }
        if let Stage::Idle { .. } = stage {
            entry.idle.push(conn);
        }
        Some(index)
    }

    pub(super) fn shift(
        &mut self,
        index: u32,
        link: &Link,
        from: Option<Stage>,
        to: Option<Stage>,
    ) {
        let destination = &mut self.entries[index as usize].destination;
        self.active -= usize::from(destination.counts.live() > 0);
        destination.shift(link, from, to);
        self.active += usize::from(destination.counts.live() > 0);
    }

    fn forget_connection(&mut self, conn: ConnId) {
        if matches!(self.capacity.get(conn), Some(one) if matches!(one.stage, Stage::Idle { .. })) {
            self.set_stage(conn, Stage::Asking);
        }
        let Some(connection) = self.capacity.remove(conn, &self.gate) else { return };
        let Connection { destination, link, stage, .. } = connection;
        self.shift(destination, &link, Some(stage), None);
    }

    pub(super) fn wake_idle(&mut self, index: u32, now: Mono) {
        // The latest first; those of other connection classes stay idle.
        let mut place = self.entries[index as usize].idle.len();
        while place > 0 && self.entries[index as usize].destination.wakes_any(now) {
            place -= 1;
            let conn = self.entries[index as usize].idle[place];
            let Some(link) = self.capacity.get(conn).map(|one| one.link) else { continue };
            let destination = &mut self.entries[index as usize].destination;
            // A connection is opened for the class whose turn it is, if there is room for one.
            let turn = destination.next_turn(now);
            if turn.is_some_and(|turn| turn != link.class && destination.may_serve(turn, now)) {
                continue;
            }
            if destination.wakes(&link, now) {
                self.set_stage(conn, Stage::Asking);
                self.effects.push(OwnerEffect::Wake { conn });
            }
        }
        // The oldest makes room if it has to, or one whose source has used up its rate. When it has
        // closed, the next one does.
        let Entry { destination, idle, .. } = &self.entries[index as usize];
        if destination.counts.asking > 0 {
            return;
        }
        let gives_way = |conn: &&ConnId| {
            let link = self.capacity.get(**conn).map(|one| one.link);
            link.is_some_and(|link| destination.must_close(&link, None, now))
        };
        let most = if destination.policy().source_rates.is_limited() { idle.len() } else { 1 };
        if let Some(conn) = idle.iter().take(most).find(gives_way).copied() {
            self.set_stage(conn, Stage::Asking);
            self.effects.push(OwnerEffect::Wake { conn });
        }
    }
}
