//! Before the greeting: PROXY header, implicit TLS, and clients that send too early.

use std::time::Instant;

use crate::inbound::policy::Security;
use crate::inbound::policy::holds;
use crate::inbound::session::End;
use crate::inbound::session::Session;
use crate::inbound::session::UNKNOWN_CLIENT;
use crate::observe::Stage;
use crate::observe::label::ConnectionRefusal;
use crate::observe::label::Refusal;
use crate::observe::label::SessionState;
use crate::observe::label::TlsVersion;
use crate::observe::log::Record;
use crate::rt::timer;
use crate::wire::proxy;
use crate::wire::proxy::ProxyHeader;
use crate::wire::smtp::reply::Reply;

impl Session {
    /// Everything up to and including the 220.
    pub(super) async fn greet(&mut self) -> Result<(), End> {
        let began = Instant::now();
        self.out = self.reception.take_output();
        if holds(&self.listener.proxy_from, self.identity.peer().ip()) {
            Box::pin(self.read_proxy_header()).await?;
        }
        if self.listener.security == Security::Implicit {
            Box::pin(self.handshake()).await?;
        }
        if self.reception.is_draining() {
            return Err(End::Draining);
        }
        // RFC 5321 s3.1: the client waits for the greeting. Mail clients do; many bots do not.
        if !self.listener.greeting_delay.is_zero() {
            timer::sleep(self.listener.greeting_delay).await;
        }
        if self.has_early_input() {
            self.reception.metrics().refusals_total.add(Refusal::Early, 1);
            let reply = Reply::new(554, (5, 5, 0), "Data was sent before the greeting");
            self.server.close(&reply, &mut self.out);
            return Err(End::Closed);
        }
        self.server.greet(&mut self.out);
        self.flush().await?;
        self.record(Stage::Greeting, began);
        Ok(())
    }

    fn has_early_input(&self) -> bool {
        if !self.input.is_empty() || self.channel.has_input() {
            return true;
        }
        // Under TLS the rest of the handshake (tickets, Finished) may still lie in the socket.
        !self.channel.is_tls() && self.channel.stream().unread_input().is_ok_and(|count| count > 0)
    }

    async fn read_proxy_header(&mut self) -> Result<(), End> {
        self.channel.stream().deadline().set_in(self.policy.timeouts.proxy_header);
        loop {
            match proxy::parse(self.input.pending()) {
                Ok(None) => self.fill(SessionState::Proxy).await?,
                Ok(Some(ProxyHeader { source, consumed, .. })) => {
                    self.input.consume(consumed);
                    // UNKNOWN and LOCAL name no client. With the proxy's own address the client would
                    // have the proxy's rights.
                    self.identify(source.unwrap_or(UNKNOWN_CLIENT));
                    self.settle_server();
                    return self.readmit();
                }
                Err(fault) => {
                    let peer = self.identity.peer().ip();
                    Record::ConnectionRefused { peer, reason: &fault.to_string() }.emit();
                    let metrics = self.reception.metrics();
                    metrics.connections_refused_total.add(ConnectionRefusal::Proxy, 1);
                    let reply = Reply::new(421, (4, 7, 0), "A PROXY header is expected first");
                    self.server.close(&reply, &mut self.out);
                    return Err(End::Closed);
                }
            }
        }
    }

    /// Performs the TLS handshake on the plain channel.
    pub(super) async fn handshake(&mut self) -> Result<(), End> {
        let Some(tls) = self.listener.tls.clone() else {
            return Err(End::TlsFailed);
        };
        self.channel.stream().deadline().set_in(self.policy.timeouts.handshake);
        let pool = &self.reception.pool;
        // Load balancers send the client's first TLS records together with their header.
        let early = self.input.take_all(pool);
        let began = Instant::now();
        let shaken = match self.channel.start_tls(&tls) {
            Ok(()) => self.channel.handshake(pool, early).await,
            Err(fault) => Err(fault),
        };
        match shaken {
            Ok(()) => {
                let version = self.channel.tls_facts().map_or("", |facts| facts.version);
                let label =
                    if version == "TLSv1.2" { TlsVersion::Tls12 } else { TlsVersion::Tls13 };
                self.reception.metrics().tls_handshakes_total.add(label, 1);
                self.record(Stage::TlsHandshake, began);
                self.identify(self.identity.peer());
                Ok(())
            }
            Err(fault) => {
                self.reception.metrics().tls_failures_total.add(1);
                Record::TlsFailed { peer: self.identity.peer().ip(), cause: &fault }.emit();
                Err(if fault.is_timeout() {
                    End::TimedOut(SessionState::Handshake)
                } else {
                    End::TlsFailed
                })
            }
        }
    }
}
