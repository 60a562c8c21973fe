//! Shares and rates of tenants.

use std::collections::HashMap;

use crate::config::TenantConfig;
use crate::route::destination::Rates;

/// What a tenant may send, over all destinations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantPolicy {
    /// Its share of a destination among the tenants that have mail for it.
    pub weight: u32,
    pub rates: Rates,
}

impl Default for TenantPolicy {
    fn default() -> TenantPolicy {
        TenantPolicy { weight: 1, rates: Rates::default() }
    }
}

/// The tenants with a policy of their own, as one immutable snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantTable {
    tenants: HashMap<Box<str>, TenantPolicy>,
}

impl TenantTable {
    pub fn build(tenants: &[TenantConfig]) -> TenantTable {
        let rate = |limit: u32| Some(limit).filter(|limit| *limit > 0);
        let tenants = tenants.iter().map(|tenant| {
            let rates = Rates {
                per_second: rate(tenant.messages_per_second),
                per_minute: rate(tenant.messages_per_minute),
                per_hour: rate(tenant.messages_per_hour),
                per_day: rate(tenant.messages_per_day),
            };
            (tenant.name.as_str().into(), TenantPolicy { weight: tenant.weight, rates })
        });
        TenantTable { tenants: tenants.collect() }
    }

    /// The tenants with rates.
    pub fn limited(&self) -> impl Iterator<Item = (&str, &Rates)> {
        let limited = self.tenants.iter().filter(|(_, policy)| policy.rates.is_limited());
        limited.map(|(name, policy)| (&**name, &policy.rates))
    }

    /// The policy of a tenant, or of mail that belongs to none.
    pub fn policy(&self, tenant: Option<&str>) -> TenantPolicy {
        tenant.and_then(|tenant| self.tenants.get(tenant)).copied().unwrap_or_default()
    }
}
