//! A destination on a machine with many shards: all of its connections are used, wherever its mail is,
//! and no more than those.

use std::collections::VecDeque;

use super::*;

const SHARDS: usize = 64;
const CONNECTIONS: usize = 10;

struct Crowd {
    owners: Vec<Owner>,
    frames: VecDeque<(ShardId, Frame)>,
    /// With the time when they ask for a job; `None`: they are about to be opened.
    open: BTreeMap<(usize, ConnId), Option<Take>>,
    random: Random,
    /// One of so many frames about shares is lost; 0: none.
    lost: u64,
    hop: Arc<Hop>,
    stripes: u32,
    jobs: u32,
    works: bool,
}

impl Crowd {
    fn new(stripes: &str, lost: u64) -> Crowd {
        let text = format!(
            "[destination_defaults]\nconnections_max = {CONNECTIONS}\n\
             window_start = {CONNECTIONS}\nstripes = {stripes}\n"
        );
        let policy = Arc::new(policy(&text));
        let gate = Arc::new(Gate::new(policy.connections_max));
        let owner = |me: u16| {
            Owner::new(OwnerParts {
                me: ShardId(me),
                shards: SHARDS,
                policy: Arc::clone(&policy),
                hasher: FlowHasher::new((1, 2)),
                gate: Arc::clone(&gate),
                paused: Vec::new(),
                sent_before: Arc::default(),
                seed: 1,
            })
        };
        let stripes = stripe::count(&policy.destinations.policy("", &[]), SHARDS);
        Crowd {
            owners: (0..SHARDS as u16).map(owner).collect(),
            frames: VecDeque::new(),
            open: BTreeMap::new(),
            random: Random::new(7),
            lost,
            hop: named("a"),
            stripes,
            jobs: 0,
            works: false,
        }
    }

    fn call(&mut self, shard: usize, call: impl FnOnce(&mut Owner)) {
        call(&mut self.owners[shard]);
        for effect in self.owners[shard].take_effects() {
            match effect {
                OwnerEffect::Open { conn, .. } => {
                    self.open.insert((shard, conn), None);
                    assert!(self.open.len() <= CONNECTIONS, "too many connections");
                }
                OwnerEffect::Send { to, frame } => {
                    let is_share = matches!(frame, Frame::Share { .. } | Frame::Used { .. });
                    if !is_share || self.lost == 0 || self.random.below(self.lost) > 0 {
                        self.frames.push_back((to, frame));
                    }
                }
                _ => {}
            }
        }
    }

    fn mail(&mut self, home: usize, count: u32, ms: u64) {
        let lead = stripe::lead(&self.hop.destination, SHARDS);
        let owner = stripe::owner(lead, self.stripes, ShardId(home as u16), SHARDS);
        let flow = Flow { target: target_of(&self.hop), tenant: 1, class: Class::Normal };
        for _ in 0..count {
            let delivery = delivery(self.jobs, (&self.hop, ShardId(home as u16)), flow);
            self.jobs += 1;
            self.call(usize::from(owner.0), |owner| owner.deliver(delivery, at(ms)));
        }
    }

    /// Each connection takes a job and delivers it, within 20 ms.
    fn work(&mut self, ms: u64) {
        let all: Vec<(usize, ConnId)> = self.open.keys().copied().collect();
        for (shard, conn) in all {
            let last = self.open.get_mut(&(shard, conn)).and_then(Option::take);
            if matches!(last, Some(Take::Close)) {
                self.open.remove(&(shard, conn));
                self.call(shard, |owner| owner.ended(conn, &only(LinkEnd::Closed), at(ms)));
                continue;
            }
            let mut take = Take::Close;
            self.call(shard, |owner| {
                match last {
                    None => owner.connected(conn, at(ms)),
                    Some(Take::Job(_)) => owner.ended(conn, &done(JobEnd::Delivered), at(ms)),
                    Some(_) => {}
                }
                take = owner.take(conn, at(ms));
            });
            self.open.insert((shard, conn), Some(take));
        }
    }

    fn pass(&mut self, from_ms: u64, until_ms: u64) {
        for ms in (from_ms..until_ms).step_by(20) {
            if self.works {
                self.work(ms);
            }
            for shard in 0..SHARDS {
                self.call(shard, |owner| owner.tick(at(ms)));
            }
            while let Some((to, frame)) = self.frames.pop_front() {
                if matches!(frame, Frame::Share { .. } | Frame::Used { .. }) {
                    self.call(usize::from(to.0), |owner| owner.on_frame(frame, at(ms)));
                }
            }
        }
    }
}

#[test]
fn each_shard_can_use_all_connections_of_a_destination() {
    for stripes in ["1", "2", "'all'", "'auto'"] {
        for home in 0..SHARDS {
            let mut crowd = Crowd::new(stripes, 0);
            crowd.mail(home, 30, 0);
            crowd.pass(0, 200);
            assert_eq!(crowd.open.len(), CONNECTIONS, "{stripes} from {home}");
        }
    }
}

#[test]
fn shares_reach_all_members_although_frames_are_lost() {
    for lost in [0, 2, 3] {
        let mut crowd = Crowd::new("'all'", lost);
        crowd.works = true;
        (0..SHARDS).for_each(|home| crowd.mail(home, 400, 0));
        crowd.pass(0, 30_000);
        let owners: BTreeSet<usize> = crowd.open.keys().map(|(shard, _)| *shard).collect();
        assert_eq!(owners.len(), CONNECTIONS, "one of {lost} lost: each member has its share");
        assert_eq!(crowd.open.len(), CONNECTIONS, "one of {lost} lost");
    }
}
