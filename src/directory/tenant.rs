//! A tenant: a customer whose mail, limits and figures are kept apart from those of others.

use crate::base::TenantId;

/// One tenant, shared by all that refer to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    id: TenantId,
    name: Box<str>,
}

impl Tenant {
    /// A tenant that the config file names. Its id is a hash of the name, so that it stays the same
    /// after a restart and on every server with the same file.
    pub fn named(name: &str) -> Tenant {
        // FNV-1a. Two names of one file collide with a chance of 2^-63, and nobody but the operator
        // chooses names.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Tenant { id: TenantId((hash >> 1).max(1)), name: name.into() }
    }

    pub fn id(&self) -> TenantId {
        self.id
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}
