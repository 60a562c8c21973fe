//! The header of one message as it is stored: trace field, signature, then the edited block.

use crate::queue::Recipients;
use crate::submit::edit;
use crate::submit::envelope::Text;
use crate::submit::intake::Intake;
use crate::submit::record::MessageFacts;
use crate::submit::refusal::Refusal;
use crate::submit::rules;
use crate::submit::signature::Signature;
use crate::submit::submission::Submission;
use crate::wire::mail::received::Received;

impl Intake {
    /// The header of one message to `recipients`, and its signature if it gets one.
    pub(super) fn head(
        &self,
        submission: &Submission,
        id: impl ToString,
        recipients: Recipients<'_>,
        now_ms: u64,
    ) -> (Head, Option<Box<dyn Signature>>) {
        let Submission { identity, envelope, head, .. } = submission;
        let id = id.to_string();
        let hostname = &head.policy().hostname;
        let mut bytes = self.take_buffer();
        Received {
            helo: envelope.get(Text::Helo).unwrap_or(""),
            peer_name: envelope.get(Text::PeerName),
            peer: identity.peer().ip(),
            by: hostname,
            with: envelope.protocol,
            tls: envelope.tls,
            id: &id,
            for_: only(recipients),
            at_ms: now_ms,
        }
        .write(&mut bytes);
        let trace_bytes = bytes.len();
        let added_message_id = rules::added_message_id(identity, head.scan(), hostname, &id);
        edit::apply(head.block(), &rules::edits(identity, hostname, &id, now_ms), &mut bytes);
        let signer = self.signer.borrow().clone();
        let signature = signer.and_then(|signer| signer.begin(identity, &bytes[trace_bytes..]));
        (Head { bytes, trace_bytes, added_message_id }, signature)
    }
}

/// RFC 5321 s7.6: with several recipients the trace field would tell one of the others.
fn only(recipients: Recipients<'_>) -> Option<&str> {
    (recipients.len() == 1).then(|| recipients.iter().next())?.map(|only| only.mailbox)
}

/// The header of one message.
pub(super) struct Head {
    pub(super) bytes: Vec<u8>,
    trace_bytes: usize,
    added_message_id: Option<String>,
}

impl Head {
    pub(super) fn facts<'a>(
        &'a self,
        submission: &'a Submission,
        recipients: Recipients<'a>,
    ) -> MessageFacts<'a> {
        let own = submission.head.scan().message_id();
        let message_id = self.added_message_id.as_deref().or(own);
        MessageFacts { submission, recipients, message_id }
    }

    /// Puts the fields of the signature between trace field and block.
    pub(super) async fn sign(&mut self, mut signature: Box<dyn Signature>) -> Result<(), Refusal> {
        let fields = signature.sign(&self.bytes[self.trace_bytes..]).await?;
        self.bytes.splice(self.trace_bytes..self.trace_bytes, fields);
        Ok(())
    }
}
