//! A listener: takes connections from one socket of one shard and starts their sessions.
//!
//! Promise:  a connection is either served or told why not; none is dropped in silence.
//! Bounds:   the counts. Out of descriptors or memory: accepting pauses, so that the kernel's
//!           backlog holds what comes, and nothing spins.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::wall_ms;
use crate::inbound::counts::Admission;
use crate::inbound::counts::ConnectionLimits;
use crate::inbound::counts::TooMany;
use crate::inbound::counts::UNLIMITED;
use crate::inbound::policy::ListenerPolicy;
use crate::inbound::policy::Policy;
use crate::inbound::policy::Security;
use crate::inbound::policy::holds;
use crate::inbound::reception::Reception;
use crate::inbound::session::Arrival;
use crate::inbound::session::Session;
use crate::net::Channel;
use crate::observe::label::ConnectionRefusal;
use crate::observe::log::Record;
use crate::rt::IoFault;
use crate::rt::Listener;
use crate::rt::Stream;
use crate::rt::task;

/// How long a refused peer may take to read why.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves the `number`th listener of the policy until the socket is stopped.
pub async fn serve(reception: Rc<Reception>, listener: Rc<Listener>, number: usize) {
    let mut paused = false;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                paused = false;
                welcome(&reception, number, stream, peer);
            }
            Err(IoFault::Stopped) => return,
            Err(IoFault::Aborted) => {}
            Err(fault) => {
                if !std::mem::replace(&mut paused, true) {
                    let cause = fault.to_string();
                    Record::AcceptPaused { reason: &cause, pause_ms: 0 }.emit();
                }
                reception.metrics().accept_pauses_total.add(1);
            }
        }
        task::yield_if_needed().await;
    }
}

fn welcome(reception: &Rc<Reception>, number: usize, stream: Stream, peer: SocketAddr) {
    let policy = reception.policy();
    let Some(listener) = policy.listeners.get(number).cloned() else {
        return;
    };
    reception.metrics().connections_total.add(1);
    let admitted = if holds(&listener.proxy_from, peer.ip()) {
        // The load balancer is no client; who is, its PROXY header will say.
        let only_in_all =
            ConnectionLimits { connections: policy.connections.connections, ..UNLIMITED };
        reception.counter.try_admit(peer.ip(), &only_in_all, wall_ms())
    } else {
        admit(reception, peer.ip(), &policy)
    };
    match admitted {
        Ok(admission) => {
            let channel = Channel::plain(stream);
            let arrival = Arrival { channel, peer, listener, policy, admission };
            task::spawn(Session::new(Rc::clone(reception), arrival).run());
        }
        Err(crowded) => {
            let turned_away = TurnedAway { stream, peer, crowded, policy, listener };
            turn_away(reception, turned_away);
        }
    }
}

/// Counts a client, or says which limit stands against it.
pub(super) fn admit(
    reception: &Reception,
    peer: IpAddr,
    policy: &Policy,
) -> Result<Admission, TooMany> {
    let limits = if holds(&policy.exempt, peer) {
        ConnectionLimits { connections: policy.connections.connections, ..UNLIMITED }
    } else {
        policy.connections
    };
    reception.counter.try_admit(peer, &limits, wall_ms())
}

struct TurnedAway {
    stream: Stream,
    peer: SocketAddr,
    crowded: TooMany,
    policy: Arc<Policy>,
    listener: Arc<ListenerPolicy>,
}

fn turn_away(reception: &Rc<Reception>, who: TurnedAway) {
    reception.metrics().connections_refused_total.add(refusal_label(who.crowded), 1);
    Record::ConnectionRefused { peer: who.peer.ip(), reason: who.crowded.name() }.emit();
    // Behind implicit TLS a plain reply would only confuse; the close says enough.
    if who.listener.security == Security::Implicit {
        return;
    }
    let hostname = &who.listener.server.hostname;
    let reply = format!("421 4.7.0 {hostname} {}\r\n", who.crowded.text());
    let mut stream = who.stream;
    drop(who.policy);
    task::spawn(async move {
        stream.deadline().set_in(REFUSAL_TIMEOUT);
        // Whether it is heard is the peer's affair: the connection ends either way.
        let (_heard, _buffer) = stream.write(reply.into_bytes()).await;
        // A peer that is gone already needs no end of stream.
        let _ = stream.shutdown_write();
    });
}

pub(super) fn refusal_label(crowded: TooMany) -> ConnectionRefusal {
    match crowded {
        TooMany::InAll => ConnectionRefusal::Connections,
        TooMany::PerAddress => ConnectionRefusal::PerAddress,
        TooMany::PerNetwork => ConnectionRefusal::PerNetwork,
        TooMany::PerMinute => ConnectionRefusal::Rate,
    }
}
