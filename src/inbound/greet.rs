//! Before the greeting: who is it really (PROXY), is it TLS from the start, does it talk early?

use std::net::SocketAddr;
use std::time::Instant;

use crate::inbound::policy::Security;
use crate::inbound::policy::holds;
use crate::inbound::session::End;
use crate::inbound::session::Session;
use crate::inbound::session::UNKNOWN_CLIENT;
use crate::inbound::session::Wait;
use crate::observe::Stage;
use crate::observe::label::ConnectionRefusal;
use crate::observe::label::Refusal;
use crate::observe::label::TlsVersion;
use crate::observe::log::Record;
use crate::rt::timer;
use crate::wire::proxy;
use crate::wire::proxy::Proxy;
use crate::wire::smtp::reply::Reply;

/// Everything up to and including the 220.
pub(super) async fn before_greeting(session: &mut Session) -> Result<(), End> {
    let began = Instant::now();
    session.out = session.reception.take_output();
    if holds(&session.listener.proxy_from, session.peer.address.ip()) {
        Box::pin(read_proxy_header(session)).await?;
    }
    if session.listener.security == Security::Implicit {
        Box::pin(handshake(session)).await?;
    }
    if session.reception.is_draining() {
        return Err(End::Draining);
    }
    // RFC 5321 s3.1: the client waits for the greeting. Who does not is no mail client.
    if !session.listener.greeting_delay.is_zero() {
        timer::sleep(session.listener.greeting_delay).await;
    }
    if talks_already(session) {
        session.reception.metrics().refusals_total.add(Refusal::Early, 1);
        let reply = Reply::new(554, (5, 5, 0), "You spoke before you were greeted");
        session.server.close(&reply, &mut session.out);
        return Err(End::Closed);
    }
    session.server.greet(&mut session.out);
    session.flush().await?;
    session.record(Stage::Greeting, began);
    Ok(())
}

fn talks_already(session: &Session) -> bool {
    if !session.input.is_empty() || session.channel.has_input() {
        return true;
    }
    // Under TLS the rest of the handshake (tickets, Finished) may still lie in the socket.
    !session.channel.is_tls()
        && session.channel.stream().unread_input().is_ok_and(|count| count > 0)
}

async fn read_proxy_header(session: &mut Session) -> Result<(), End> {
    session.channel.stream().deadline().set_in(session.policy.timeouts.proxy_header);
    loop {
        match proxy::parse(session.input.pending()) {
            Proxy::NeedMore => session.fill(Wait::Proxy).await?,
            Proxy::Header { source, consumed, .. } => {
                session.input.consume(consumed);
                // UNKNOWN and LOCAL name no client. Keeping the proxy's own address would give the
                // client the proxy's rights.
                return believe(session, source.unwrap_or(UNKNOWN_CLIENT));
            }
            Proxy::Refuse(fault) => {
                let peer = session.peer.address.ip();
                Record::ConnectionRefused { peer, reason: fault.text() }.emit();
                let metrics = session.reception.metrics();
                metrics.connections_refused_total.add(ConnectionRefusal::Proxy, 1);
                let reply = Reply::new(421, (4, 7, 0), "A PROXY header is expected first");
                session.server.close(&reply, &mut session.out);
                return Err(End::Closed);
            }
        }
    }
}

/// The connection is this client's from here on, and counts and is trusted as such.
fn believe(session: &mut Session, source: SocketAddr) -> Result<(), End> {
    session.peer.address = source;
    session.settle_server();
    session.readmit()
}

/// Turns the plain channel into a TLS one.
pub(super) async fn handshake(session: &mut Session) -> Result<(), End> {
    let Some(tls) = session.listener.tls.clone() else {
        return Err(End::TlsFailed);
    };
    session.channel.stream().deadline().set_in(session.policy.timeouts.handshake);
    let pool = &session.reception.pool;
    // Load balancers send the client's first flight together with their header.
    let early = session.input.take_all(pool);
    let began = Instant::now();
    let shaken = match session.channel.start_tls(&tls) {
        Ok(()) => session.channel.handshake(pool, early).await,
        Err(fault) => Err(fault),
    };
    match shaken {
        Ok(()) => {
            let version = session.channel.tls_facts().map_or("", |facts| facts.version);
            let label = if version == "TLSv1.2" { TlsVersion::Tls12 } else { TlsVersion::Tls13 };
            session.reception.metrics().tls_handshakes_total.add(label, 1);
            session.record(Stage::TlsHandshake, began);
            Ok(())
        }
        Err(fault) => {
            session.reception.metrics().tls_failures_total.add(1);
            Record::TlsFailed { peer: session.peer.address.ip(), cause: &fault }.emit();
            Err(if fault.is_timeout() { End::TimedOut(Wait::Handshake) } else { End::TlsFailed })
        }
    }
}
