//! Flows: the mail of one destination and source pool, tenant and class.

use crate::base::Class;

/// The unit of credit, of fairness and of the index by destination. The hashes are keyed for each
/// spool. They say only whose turn a job waits for: the job is resolved again when it is read, so
/// that a collision costs a detour and never a wrong delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flow {
    /// The hash of the destination's name and the source pool.
    pub target: u64,
    /// The hash of the tenant.
    pub tenant: u64,
    pub class: Class,
}
