//! What a reload changes, and what waits for a restart.
//!
//! Promise:  a key that needs a restart keeps its old value, and so do the other keys of its
//!           listener, because half of a change may be inconsistent. No security setting stays looser
//!           than in the file: restrictions take effect at once.
//! Matching: the rules for a running listener are all listeners in the file that share an address
//!           with it; if there are none, the listener of the same name, unless that shares an address
//!           with another running listener. A listener that is no longer in the file keeps its
//!           addresses until the restart, and trusts only its load balancers (`proxy_from`).

use std::net::SocketAddr;

use ipnet::IpNet;

use crate::config::key::Reload;
use crate::config::model::Config;
use crate::config::receiving::ListenerConfig;
use crate::config::section::Section;
use crate::config::value::TlsMode;
use crate::wire::smtp::LineEnding;

pub use crate::config::section::Changes;

/// The config of a server that ran with `old` after a reload of `new`.
pub fn reloaded(old: &Config, new: &Config) -> (Config, Changes) {
    let mut changes = Changes::default();
    let mut config = old.reload(new, &mut changes);
    config.listeners = listeners(&old.listeners, &new.listeners, &mut changes);
    (config, changes)
}

/// The running listeners after a reload. Their order is kept, because their sockets are bound.
fn listeners(
    running: &[ListenerConfig],
    file: &[ListenerConfig],
    changes: &mut Changes,
) -> Vec<ListenerConfig> {
    let mut governing = vec![false; file.len()];
    let mut orphaned = false;
    let mut next = Vec::with_capacity(running.len());
    for listener in running {
        let places = governed_by(listener, running, file);
        orphaned |= places.is_empty();
        places.iter().for_each(|place| governing[*place] = true);
        let rules: Vec<&ListenerConfig> = places.iter().map(|place| &file[*place]).collect();
        next.push(listener_after(listener, &rules, changes));
    }
    if orphaned || governing.contains(&false) {
        changes.needs_restart.push(ListenerConfig::DOC.path);
    }
    next
}

/// The places in the file of the listeners whose rules apply to `listener`.
fn governed_by(
    listener: &ListenerConfig,
    running: &[ListenerConfig],
    file: &[ListenerConfig],
) -> Vec<usize> {
    let with = |fits: &dyn Fn(&ListenerConfig) -> bool| -> Vec<usize> {
        (0..file.len()).filter(|place| fits(&file[*place])).collect()
    };
    let places = with(&|rule| share_an_address(listener, rule));
    if !places.is_empty() {
        return places;
    }
    let moved = |rule: &ListenerConfig| {
        rule.name == listener.name && !running.iter().any(|other| share_an_address(other, rule))
    };
    with(&moved)
}

/// Port 0 is another port each time, so the name decides.
fn share_an_address(one: &ListenerConfig, other: &ListenerConfig) -> bool {
    let same = |address: &SocketAddr| address.port() != 0 || one.name == other.name;
    one.address.iter().any(|address| other.address.contains(address) && same(address))
}

/// `running` under the rules of the file.
fn listener_after(
    running: &ListenerConfig,
    rules: &[&ListenerConfig],
    changes: &mut Changes,
) -> ListenerConfig {
    let all_live = |rule: &ListenerConfig| {
        running.differences(rule).iter().all(|key| key.reload == Reload::Live)
    };
    let next = match rules {
        [] => distrusting(running),
        [rule] if all_live(rule) => (*rule).clone(),
        rules => rules.iter().fold(running.clone(), |next, rule| restricted(next, rule)),
    };
    for rule in rules {
        let waiting = next.differences(rule);
        for key in running.differences(rule) {
            let waits = waiting.iter().any(|other| other.name == key.name);
            let noted = if waits { &mut changes.needs_restart } else { &mut changes.live };
            if !noted.contains(&key.path) {
                noted.push(key.path);
            }
        }
    }
    next
}

/// `running`, no looser than `rule`.
fn restricted(running: ListenerConfig, rule: &ListenerConfig) -> ListenerConfig {
    let mut next = running;
    // Where STARTTLS becomes implicit TLS, STARTTLS is required until the restart, so that clients
    // that use TLS are not cut off.
    if next.tls == TlsMode::None {
        next.tls = rule.tls;
    }
    next.tls_required |= rule.tls_required || rule.tls == TlsMode::Implicit;
    if rule.client_certificates >= next.client_certificates {
        next.client_certificates = rule.client_certificates;
        next.client_ca = rule.client_ca.clone();
    }
    next.proxy_from = in_both(&next.proxy_from, &rule.proxy_from);
    next.xclient_from = in_both(&next.xclient_from, &rule.xclient_from);
    next.trusted_from = match rule.line_ending {
        LineEnding::Strict => Vec::new(),
        LineEnding::Normalise => in_both(&next.trusted_from, &rule.trusted_from),
    };
    next.line_ending = line_ending(&next);
    next
}

/// `running` without its trusted networks. Load balancers stay: without the PROXY header their clients
/// would count as the load balancer.
fn distrusting(running: &ListenerConfig) -> ListenerConfig {
    let mut next = running.clone();
    next.xclient_from.clear();
    next.trusted_from.clear();
    next.line_ending = line_ending(&next);
    next
}

/// Only trusted networks may have their line endings normalised.
fn line_ending(listener: &ListenerConfig) -> LineEnding {
    if listener.trusted_from.is_empty() { LineEnding::Strict } else { listener.line_ending }
}

/// The networks that both lists contain, in the order of the second.
fn in_both(running: &[IpNet], file: &[IpNet]) -> Vec<IpNet> {
    let within = |list: &[IpNet], network: &IpNet| list.iter().any(|one| one.contains(network));
    let mut both: Vec<IpNet> =
        file.iter().filter(|network| within(running, network)).copied().collect();
    for network in running.iter().filter(|network| within(file, network)) {
        if !both.contains(network) {
            both.push(*network);
        }
    }
    both
}
