//! Flows: the mail of one destination and source pool, tenant and class.

use crate::base::Class;
use crate::queue::record::key::FlowKey;

/// The unit of credit and of fairness. The hashes are keyed for each spool. They say only whose turn
/// a job waits for: the job is resolved again when it is read, so that a collision costs a detour
/// and never a wrong delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flow {
    /// The hash of the destination's name and the source pool.
    pub target: u64,
    /// The hash of the tenant.
    pub tenant: u64,
    pub class: Class,
}

impl Flow {
    /// As it is stored.
    pub const fn key(&self) -> FlowKey {
        FlowKey { destination: self.target, tenant: self.tenant, class: self.class as u8 }
    }

    /// A class of a newer version counts as the last one.
    pub fn of(key: &FlowKey) -> Flow {
        let class = Class::from_u8(key.class).unwrap_or(Class::Bulk);
        Flow { target: key.destination, tenant: key.tenant, class }
    }
}
