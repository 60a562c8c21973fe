//! From a session and its transaction to a submission.

use std::time::Instant;

use crate::inbound::receiving::MessageLimits;
use crate::inbound::receiving::Receiving;
use crate::inbound::session::Session;
use crate::queue::CommitFault;
use crate::queue::Recipient;
use crate::queue::record::outer::RecordFault;
use crate::submit::EnvelopeBuf;
use crate::submit::Placement;
use crate::submit::Refusal;
use crate::submit::SendOptions;
use crate::submit::Submission;
use crate::submit::Text;
use crate::wire::mail::address::ReversePath;
use crate::wire::mail::received::with_protocol;
use crate::wire::smtp::transaction::Transaction;

impl Session {
    /// Begins to receive a message.
    pub(super) fn begin_receiving(&mut self, tx: &Transaction<'_>) {
        // The reply to an unfinished earlier message was sent already.
        self.abandon_body();
        let limits = MessageLimits {
            size_max: self.listener.server.size_max,
            line_bytes_max: self.policy.line_bytes_max,
        };
        let began = self.transaction_began.take();
        let intake = &self.reception.intake;
        let (envelope, fault) = self.envelope(tx, began);
        let submission = Box::new(Submission {
            identity: self.identity.clone(),
            envelope,
            head: intake.take_head(&self.policy.head, &self.identity),
            options: SendOptions::default(),
            placement: Placement::Any,
        });
        let mut receiving = Box::new(Receiving::new(intake, limits, submission));
        if let Some(fault) = fault {
            let refusal = Refusal::from(CommitFault::Record(fault));
            let why = refusal.label();
            receiving.refuse(refusal.reply, why);
        }
        self.receiving = Some(receiving);
    }

    /// The envelope from session and transaction. If there is a fault, the envelope is incomplete.
    fn envelope(
        &self,
        tx: &Transaction<'_>,
        began: Option<Instant>,
    ) -> (EnvelopeBuf, Option<RecordFault>) {
        let (params, server) = (&tx.params, &self.server);
        let mut envelope = self.reception.intake.take_envelope();
        envelope.protocol = with_protocol(
            server.is_lmtp(),
            server.is_esmtp(),
            server.is_tls(),
            false,
            params.smtputf8,
        );
        let sender = match tx.sender {
            Some(ReversePath::Mailbox(mailbox)) => Some(mailbox.as_str()),
            Some(ReversePath::Null) | None => None,
        };
        for (which, text) in [
            (Text::Sender, sender),
            (Text::EnvelopeId, params.envid),
            (Text::Auth, params.auth),
            (Text::Helo, Some(self.helo())),
            (Text::PeerName, self.client_name.as_deref()),
        ] {
            text.into_iter().for_each(|text| envelope.set(which, text));
        }
        envelope.smtputf8 = params.smtputf8;
        envelope.requiretls = params.requiretls;
        envelope.body_type = params.body;
        envelope.ret = params.ret;
        envelope.declared_bytes = params.size;
        envelope.tls = self.channel.tls_facts().map(|facts| (facts.version, facts.cipher));
        envelope.began = began.unwrap_or(envelope.content_began);
        let pushed = tx.recipients.iter().try_for_each(|recipient| {
            envelope.push(&Recipient {
                mailbox: recipient.mailbox.as_str(),
                notify: recipient.notify,
                orcpt: recipient.orcpt,
            })
        });
        (envelope, pushed.err())
    }
}
