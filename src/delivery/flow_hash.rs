//! Hashes of destinations and tenants, as they stand in the index by destination.
//!
//! Promise:  stable across releases, because the hashes are stored; keyed by a secret of the spool, so
//!           that nobody outside can choose names that collide. A collision costs a detour, never a wrong delivery.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

#[derive(Clone, Copy, Debug)]
pub struct FlowHasher {
    key: (u64, u64),
}

impl FlowHasher {
    pub const fn new(key: (u64, u64)) -> FlowHasher {
        FlowHasher { key }
    }

    /// Of a destination's name and the pool that its mail leaves from.
    pub fn destination(&self, name: &str, pool: Option<&str>) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1);
        hasher.write(name.as_bytes());
        if let Some(pool) = pool {
            // No name contains this byte.
            hasher.write_u8(0xff);
            hasher.write(pool.as_bytes());
        }
        hasher.finish()
    }

    /// Of a source as a destination of this name treats it; `None`: the system chooses the address.
    pub fn source(&self, destination: &str, source: Option<&str>) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1);
        hasher.write(destination.as_bytes());
        // No name contains this byte, and no pool follows it.
        hasher.write_u8(0xfe);
        hasher.write(source.unwrap_or_default().as_bytes());
        hasher.finish()
    }

    /// Of mail without a tenant: 0.
    pub fn tenant(&self, tenant: Option<&str>) -> u64 {
        let Some(tenant) = tenant else { return 0 };
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1);
        hasher.write(tenant.as_bytes());
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_stable_and_keyed() {
        let hasher = FlowHasher::new((1, 2));
        let stored = hasher.destination("mx.a.test:25", None);
        assert_eq!(stored, 0xcd42_9ac4_dd4d_d0ff, "spools have this number");
        assert_ne!(hasher.destination("a", None), hasher.destination("a", Some("")));
        assert_ne!(hasher.source("a", None), hasher.source("a", Some("b")));
        assert_ne!(hasher.source("a", Some("b")), hasher.destination("a", Some("b")));
        assert_ne!(hasher.tenant(Some("a")), FlowHasher::new((1, 3)).tenant(Some("a")));
        assert_eq!(hasher.tenant(None), 0);
    }
}
