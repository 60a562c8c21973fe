//! The home shard of each partition.
//!
//! Promise:  every partition has exactly one home, and every shard has one if there are enough. The
//!           number of partitions is fixed when the spool is created; the number of shards depends on
//!           the machine. So a spool can be opened on a machine with more or fewer cores.

use crate::base::PartitionId;
use crate::base::ShardId;

/// Partitions by home shard. Immutable once the process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    homes: Vec<Vec<PartitionId>>,
}

impl Placement {
    /// Distributes the partitions evenly: counts differ by at most one.
    pub fn deal(partitions: usize, shards: usize) -> Placement {
        assert!(shards > 0, "there is at least one shard");
        let mut homes = vec![Vec::new(); shards];
        for number in 0..partitions {
            homes[number % shards].push(PartitionId(number as u8));
        }
        Placement { homes }
    }

    /// The partitions of a home shard. Empty if there are more shards than partitions.
    pub fn of_shard(&self, shard: ShardId) -> &[PartitionId] {
        &self.homes[shard.0 as usize]
    }

    pub fn shards(&self) -> usize {
        self.homes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_has_exactly_one_home() {
        for (name, partitions, shards) in
            [("as many", 4, 4), ("more partitions", 7, 3), ("more shards", 2, 5), ("one", 1, 1)]
        {
            let placement = Placement::deal(partitions, shards);
            let mut dealt: Vec<u8> = (0..shards)
                .flat_map(|shard| placement.of_shard(ShardId(shard as u16)))
                .map(|partition| partition.0)
                .collect();
            dealt.sort_unstable();
            let all: Vec<u8> = (0..partitions as u8).collect();
            assert_eq!(dealt, all, "{name}");
            let counts: Vec<usize> =
                (0..shards).map(|s| placement.of_shard(ShardId(s as u16)).len()).collect();
            let (most, least) = (counts.iter().max(), counts.iter().min());
            assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{name}");
        }
    }
}
