//! A listener: accepts the connections of one socket of one shard and starts their sessions.
//!
//! Promise:  a connection is served or gets a reply with the reason, unless implicit TLS rules out a
//!           plain-text reply.
//! Bounds:   `inbound::counts`. Without free descriptors or memory, accepting pauses and connections
//!           wait in the kernel's backlog.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::inbound::counts::TooMany;
use crate::inbound::policy::ListenerPolicy;
use crate::inbound::policy::Security;
use crate::inbound::policy::holds;
use crate::inbound::reception::Reception;
use crate::inbound::session::Arrival;
use crate::inbound::session::Session;
use crate::net::Channel;
use crate::observe::log::Record;
use crate::rt::IoFault;
use crate::rt::Listener;
use crate::rt::Stream;
use crate::rt::task;

/// How long a refused client may take to read the reply.
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
    let admitted = match holds(&listener.proxy_from, peer.ip()) {
        // The PROXY header will name the client, which is then counted instead.
        true => reception.admit_in_all(peer.ip(), &policy),
        false => reception.admit(peer.ip(), &policy),
    };
    match admitted {
        Ok(admission) => {
            let channel = Channel::plain(stream);
            let arrival = Arrival { channel, peer, listener, policy, admission };
            task::spawn(Session::new(Rc::clone(reception), arrival).run());
        }
        Err(limit) => refuse(reception, &listener, stream, (peer, limit)),
    }
}

fn refuse(
    reception: &Reception,
    listener: &ListenerPolicy,
    mut stream: Stream,
    (peer, limit): (SocketAddr, TooMany),
) {
    reception.note_refused(peer.ip(), limit);
    // Before implicit TLS a plain reply would only confuse the client.
    if listener.security == Security::Implicit {
        return;
    }
    let reply = format!("421 4.7.0 {} {}\r\n", listener.server.hostname, limit.text());
    task::spawn(async move {
        stream.deadline().set_in(REFUSAL_TIMEOUT);
        // The connection ends whether or not the client reads the reply.
        let (_written, _buffer) = stream.write(reply.into_bytes()).await;
        // A peer that is gone already needs no end of stream.
        let _ = stream.shutdown_write();
    });
}
