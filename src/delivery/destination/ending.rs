//! What a destination learns from its connections: successes, throttles, rules, failures.
//!
//! Promise:  one call, `ended`, tells all that a connection has found out, so that no order of calls can
//!           undo a throttle. What this server lacks slows nobody down and costs no attempt.

use super::*;

use crate::wire::classify::Action;
use crate::wire::classify::Measure;
use crate::wire::classify::Scope;

/// Actions of reply rules that are remembered.
const EVIDENCE_MAX: usize = 4;

impl Destination {
    /// All that a connection has found out. The jobs that go home, if a backoff or a suspension begins.
    pub fn ended(
        &mut self,
        link: &Link,
        end: &End,
        (sources, now): (&SourceTable, Mono),
        random: &mut Random,
    ) -> Vec<SentBack> {
        let is_throttled = end.asks_for_less.is_some();
        match end.job {
            Some(JobEnd::Delivered) => self.counters.delivered += 1,
            Some(JobEnd::Refused) => self.counters.refused += 1,
            Some(JobEnd::Deferred) => self.counters.deferred += 1,
            Some(JobEnd::Lost) => self.counters.lost += 1,
            None => {}
        }
        match end.job {
            Some(JobEnd::Delivered | JobEnd::Refused) if !is_throttled => self.succeed(link),
            Some(JobEnd::Deferred) if link.roles.is_probe() && !is_throttled => self.succeed(link),
            _ => {}
        }
        let mut begins = false;
        if let Some(answer) = &end.asks_for_less {
            begins |= self.slow_down(link, answer, now, random);
        }
        if let Some(action) = &end.action {
            begins |= self.act(link, action, now);
        }
        begins |= self.link_ended(link, end, now, random);
        if begins { self.drain_resting(sources, now) } else { Vec::new() }
    }

    fn succeed(&mut self, link: &Link) {
        let class = &mut self.classes[link.class.0 as usize];
        class.standing.succeed();
        (class.hold_until, class.unmet) = (Mono::ZERO, None);
        self.connects_failed = 0;
        self.hold_until = Mono::ZERO;
        self.lack = None;
        let most = self.policy.connections_max;
        match self.standing.succeed() {
            true => self.window = Window::new(1),
            false => {
                let is_filled = self.counts.live() >= self.window.size;
                self.window.succeed(is_filled, most);
            }
        }
        let outlet = &mut self.outlets[link.outlet as usize];
        match outlet.standing.succeed() {
            true => outlet.window = Window::new(1),
            false => {
                let is_filled = outlet.live >= outlet.window.size;
                if outlet.window.succeed(is_filled, most) {
                    outlet.throttle_ms /= 2;
                }
            }
        }
    }

    /// The server asks for less. A quarter of this source's window goes, and the source opens nothing
    /// for a while. Its other connections go on. Whether a backoff begins.
    fn slow_down(
        &mut self,
        link: &Link,
        answer: &Arc<Answer>,
        now: Mono,
        random: &mut Random,
    ) -> bool {
        self.note(answer, "");
        self.counters.failures += 1;
        let terms = self.back_off();
        let outlet = &mut self.outlets[link.outlet as usize];
        let probes = [
            (&mut self.standing, link.roles.destination),
            (&mut outlet.standing, link.roles.outlet),
        ];
        let mut has_failed = false;
        for (standing, role) in probes {
            if role == Role::Probe && matches!(standing.health, Health::Probing { .. }) {
                has_failed |= standing.fail(role, &terms, now, random);
            }
        }
        if has_failed {
            return true;
        }
        let size = outlet.window.size;
        outlet.window.shrink_to(size - size.div_ceil(4));
        // Those that come together count once.
        if now >= outlet.quiet_until {
            outlet.throttle_ms = (outlet.throttle_ms * 2).clamp(THROTTLE_FIRST_MS, THROTTLE_MAX_MS);
        }
        let spread_ms = random.below(outlet.throttle_ms / 4 + 1);
        let until = now.plus_ms(outlet.throttle_ms + spread_ms);
        outlet.quiet_until = outlet.quiet_until.max(until);
        false
    }

    /// Whether a suspension begins.
    fn act(&mut self, link: &Link, rule: &RuleAction, now: Mono) -> bool {
        let Action { measure, time, scope } = rule.action;
        let outlet = &mut self.outlets[link.outlet as usize];
        let (slowed, suspended_until) = match scope {
            Scope::Destination => (&mut self.slowed, &mut self.suspended_until),
            Scope::Source => (&mut outlet.slowed, &mut outlet.suspended_until),
        };
        let until = now.plus(time);
        match measure {
            Measure::Slow { percent } => *slowed = Some((until, percent.into())),
            Measure::Suspend => *suspended_until = until.max(*suspended_until),
        }
        if self.evidence.len() == EVIDENCE_MAX {
            self.evidence.pop_front();
        }
        self.evidence.push_back(Arc::clone(&rule.evidence));
        measure == Measure::Suspend
    }

    /// Whether a backoff begins.
    fn link_ended(&mut self, link: &Link, end: &End, now: Mono, random: &mut Random) -> bool {
        match &end.link {
            LinkEnd::Kept => false,
            LinkEnd::Closed => {
                self.probe_gone(link, now);
                false
            }
            LinkEnd::OurLimit(limit) => {
                let before_ms =
                    self.lack.filter(|(lack, _)| lack == limit).map_or(0, |lack| lack.1);
                let pause_ms = (2 * before_ms).clamp(CONNECT_HOLD_FIRST_MS, 1000);
                self.lack = Some((*limit, pause_ms));
                let until = now.plus_ms(pause_ms);
                self.hold_until = self.hold_until.max(until);
                self.probe_gone(link, until);
                false
            }
            LinkEnd::Failed(failure) => self.fail(link, failure, now, random),
        }
    }

    /// A connection that may have been a probe is gone without having found out anything.
    fn probe_gone(&mut self, link: &Link, next: Mono) {
        let (outlet, class) = (link.outlet as usize, link.class.0 as usize);
        self.standing.on_probe_gone(link.roles.destination, next);
        self.outlets[outlet].standing.on_probe_gone(link.roles.outlet, next);
        self.classes[class].standing.on_probe_gone(link.roles.class, next);
    }

    /// Whether a backoff begins: of the destination, of its source, or of the class. As a probe of the
    /// others the connection has found out nothing.
    fn fail(&mut self, link: &Link, failure: &Failure, now: Mono, random: &mut Random) -> bool {
        self.note(&failure.answer, &failure.host);
        self.counters.failures += 1;
        let terms = self.back_off();
        let (own, roles) = (&mut self.standing, link.roles);
        let outlet = &mut self.outlets[link.outlet as usize];
        let class = &mut self.classes[link.class.0 as usize];
        if failure.blame != Blame::Demands {
            self.connects_failed += usize::from(link.is_opening);
            self.lack = None;
            class.standing.on_probe_gone(roles.class, now);
        }
        if failure.blame != Blame::Source {
            outlet.standing.on_probe_gone(roles.outlet, now);
        }
        if failure.blame != Blame::Destination {
            own.on_probe_gone(roles.destination, now);
        }
        match failure.blame {
            Blame::Demands => {
                class.unmet = Some((Arc::clone(&failure.answer), failure.host.clone()));
                class.hold_until = hold(&class.standing, now);
                class.standing.fail(roles.class, &terms, now, random)
            }
            Blame::Source => {
                outlet.quiet_until = outlet.quiet_until.max(hold(&outlet.standing, now));
                outlet.window.shrink_to(outlet.window.size / 2);
                outlet.standing.fail(roles.outlet, &terms, now, random)
            }
            Blame::Destination => {
                if own.is_working() {
                    self.window.shrink_to(self.window.size / 2);
                    self.hold_until = self.hold_until.max(hold(own, now));
                }
                own.fail(roles.destination, &terms, now, random)
            }
        }
    }

    fn back_off(&self) -> BackOff {
        BackOff {
            failures: self.policy.failures_to_back_off,
            first: self.policy.back_off_first,
            max: self.policy.back_off_max,
        }
    }

    fn note(&mut self, answer: &Arc<Answer>, host: &str) {
        self.last = Some(Arc::clone(answer));
        self.last_host = host.into();
    }

    /// The jobs for which no connection may be opened for longer than a moment: of all classes, or those
    /// of classes whose sources rest or for which TLS has failed, where jobs of held tenants stay.
    fn drain_resting(&mut self, sources: &SourceTable, now: Mono) -> Vec<SentBack> {
        if self.is_resting(now) || self.standing.rests(now).is_some() {
            return self.drain();
        }
        let mut drained = Vec::new();
        let ready: Vec<ConnectionClass> =
            self.queue.ready_by_class().map(|(class, _)| class).collect();
        for class in ready {
            let LinkClass { hop, standing, .. } = &self.classes[class.0 as usize];
            if standing.rests(now).is_none() && !self.rests(hop.pool.as_deref(), sources, now) {
                continue;
            }
            while let Some(taken) = self.queue.take(class) {
                let was_tried = self.connects_failed > 0;
                self.connects_failed = self.connects_failed.saturating_sub(1);
                drained.push(SentBack { delivery: taken.job, was_tried });
            }
            self.forget_class(Some(class));
        }
        drained
    }
}

/// Until when nothing is opened after a failure that does not begin a backoff.
fn hold(standing: &Standing, now: Mono) -> Mono {
    let hold_ms = CONNECT_HOLD_FIRST_MS << standing.failures().min(16);
    now.plus_ms(hold_ms.min(CONNECT_HOLD_MAX_MS))
}
