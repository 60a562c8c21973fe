//! The real owner of a simulated shard, and its connections.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::Random;
use crate::base::ShardId;
use crate::delivery::capacity::ConnId;
use crate::delivery::capacity::Gate;
use crate::delivery::flow_hash::FlowHasher;
use crate::delivery::owner::Owner;
use crate::delivery::owner::OwnerParts;
use crate::handoff::frame::End;
use crate::handoff::frames::Delivery;
use crate::route::DeliveryPolicy;

/// A connection of the real owner.
pub struct Connection {
    pub target: u64,
    /// The number of its last idle time.
    pub stamp: u64,
    pub job: Option<Box<Delivery>>,
}

/// The real owner of one shard.
pub struct Real {
    pub owner: Owner,
    pub connections: BTreeMap<ConnId, Connection>,
    /// When it looks after itself next; 0: no time is set.
    pub tick_ms: u64,
}

/// What happens to a connection.
#[derive(Debug)]
pub enum Happening {
    Dialed,
    Take {
        stamp: u64,
    },
    /// The server has decided.
    Taken {
        end: Option<End>,
    },
    /// Its reply has come.
    Replied {
        end: Option<End>,
    },
    Gone,
}

/// A policy with small limits, so that they bind.
pub fn policy(random: &mut Random) -> Arc<DeliveryPolicy> {
    let stripes = ["1", "2", "'all'"][random.below(3) as usize];
    let text = format!(
        "[destination_defaults]\nconnections_max = {}\nwindow_start = {}\nstripes = {stripes}\n\
         messages_per_connection = {}\nback_off_first = '{}s'\n{}",
        3 + random.below(6),
        1 + random.below(3),
        1 + random.below(20),
        5 + random.below(60),
        ["", "", "source_messages_per_second = 1\n", "source_messages_per_minute = 20\n"]
            [random.below(4) as usize],
    );
    Arc::new(DeliveryPolicy::sample(&text))
}

impl Real {
    pub fn new(
        me: u16,
        (shards, seed): (u16, u64),
        policy: &Arc<DeliveryPolicy>,
        gate: &Arc<Gate>,
    ) -> Real {
        let owner = Owner::new(OwnerParts {
            me: ShardId(me),
            shards: usize::from(shards),
            policy: Arc::clone(policy),
            hasher: FlowHasher::new((1, 2)),
            gate: Arc::clone(gate),
            paused: Vec::new(),
            sent_before: Arc::default(),
            seed: seed + u64::from(me),
        });
        Real { owner, connections: BTreeMap::new(), tick_ms: 0 }
    }

    pub fn targets(&self) -> impl Iterator<Item = u64> {
        self.connections.values().map(|connection| connection.target)
    }
}
