//! The operation that tells where mail of a recipient would go.

use serde::Deserialize;
use serde::Serialize;

use crate::operations::operation::operation;

operation! {
    /// Which route applies to a recipient, and why; nothing is looked up in the DNS.
    #[derive(Default)]
    #[serde(default)]
    TestRoute {
        recipient: String,
        /// Empty or `<>` for the null sender.
        sender: Option<String>,
        listener: Option<String>,
        tenant: Option<String>,
        campaign: Option<String>,
        /// Each as `Name: value`.
        headers: Vec<String>,
        /// A reply of the remote server, as `421 4.7.0 Try again later`.
        reply: Option<String>,
        /// The mail exchanger that sent the reply. Without it, the first host of the next hop.
        mx_host: Option<String>,
    }
    "route.test", Post "/v1/routes/test", ReadRoutes => RouteAnswer
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouteAnswer {
    pub recipient: String,
    pub sender: String,
    pub listener: Option<String>,
    pub tenant: Option<String>,
    pub campaign: Option<String>,
    pub headers: Vec<String>,
    /// The routes in the order of the config, up to the one that applies.
    pub considered: Vec<ConsideredRoute>,
    /// None: no route matches; mail goes to the mail exchangers of the recipient's domain.
    pub route: Option<String>,
    pub next_hop: String,
    /// In the order in which they are tried, as far as the config names them.
    pub hosts: Vec<String>,
    pub auth_user: Option<String>,
    /// The mail exchangers are looked up at delivery.
    pub needs_mx_lookup: bool,
    /// None for mail that needs no connection.
    pub destination: Option<RouteDestination>,
    pub source: Option<RouteSource>,
    /// None: it follows from the stream of the mail.
    pub class: Option<String>,
    pub tenant_share: TenantShare,
    pub fallback: Option<FallbackHop>,
    pub max_age: String,
    pub retry: Vec<String>,
    pub delivery_enabled: bool,
    pub reply: Option<ReplyMeaning>,
}

/// The share and the rates of the tenant, or those of mail without one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantShare {
    pub weight: u32,
    pub limits: Vec<RouteLimit>,
}

/// Where mail goes once delivery has failed for a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FallbackHop {
    pub next_hop: String,
    pub after: String,
}

/// What the rules for replies make of a reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyMeaning {
    pub category: String,
    pub advice: String,
    /// The file and the line of the rule that applies. None: the reply reports success.
    pub rule: Option<String>,
    /// What the rule does to further mail, as in a file of rules.
    pub action: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsideredRoute {
    pub route: String,
    pub decides: bool,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteDestination {
    /// The `[[destination]]`; none: `[destination_defaults]`.
    pub name: Option<String>,
    /// A `[[destination]]` may match once the mail exchangers are known.
    pub may_change: bool,
    pub tls: String,
    /// Where `tls` is set: `route`, `destination` or `next hop`.
    pub tls_from: String,
    pub limits: Vec<RouteLimit>,
}

/// A key of `[[destination]]` and its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteLimit {
    pub key: String,
    pub value: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouteSource {
    /// None: the system chooses the address.
    pub pool: Option<String>,
    /// The EHLO name without a pool.
    pub ehlo_name: String,
    pub sources: Vec<PoolMember>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolMember {
    pub name: String,
    pub addresses: Vec<String>,
    pub ehlo_name: String,
    pub proxy: Option<String>,
    pub share_percent: f64,
}
