//! The stored records, counters and log line of an accepted message.

use std::time::Instant;

use crate::observe::Stage;
use crate::observe::log::Record;
use crate::queue;
use crate::queue::Committed;
use crate::queue::Envelope;
use crate::queue::Recipients;
use crate::queue::record::envelope::BodySum;
use crate::queue::record::texts::FieldsBuf;
use crate::submit::envelope::Text;
use crate::submit::head::RawHead;
use crate::submit::intake::Intake;
use crate::submit::submission::Submission;
use crate::wire::smtp::transaction::BodyType;

/// What the header says that is kept with the message.
pub(super) struct OwnLabels {
    campaign: Option<String>,
    fields: FieldsBuf,
}

impl OwnLabels {
    pub(super) fn of(head: &RawHead) -> OwnLabels {
        let (picked, wanted) = (head.scan().picked(), &head.policy().labels);
        let campaign = wanted.campaign.and_then(|place| picked.value(place));
        let mut fields = FieldsBuf::default();
        for &place in &wanted.routed {
            if let Some(value) = picked.value(place) {
                let pushed = fields.push(wanted.wanted.name(place), &value);
                pushed.expect("names and values are short, and few");
            }
        }
        OwnLabels { campaign: campaign.filter(|value| !value.is_empty()), fields }
    }
}

/// One message of a submission.
pub(super) struct MessageFacts<'a> {
    pub submission: &'a Submission,
    pub recipients: Recipients<'a>,
    /// As the message has it when it is sent.
    pub message_id: Option<&'a str>,
}

/// The envelope as it is stored; sums are filled in at the commit.
pub(super) fn envelope<'a>(
    facts: &MessageFacts<'a>,
    labels: &'a OwnLabels,
    now_ms: u64,
) -> Envelope<'a> {
    let MessageFacts { submission, recipients, message_id } = *facts;
    let Submission { identity, envelope, .. } = submission;
    Envelope {
        received_ms: now_ms,
        intake_ms: u32::try_from(envelope.began.elapsed().as_millis()).unwrap_or(u32::MAX),
        sender: envelope.get(Text::Sender),
        smtputf8: envelope.smtputf8,
        requiretls: envelope.requiretls,
        body_type: envelope.body_type,
        ret: envelope.ret,
        envid: envelope.get(Text::EnvelopeId),
        auth: envelope.get(Text::Auth),
        declared_bytes: envelope.declared_bytes,
        body: BodySum::default(),
        peer: identity.peer(),
        helo: envelope.get(Text::Helo).unwrap_or(""),
        listener: identity.listener(),
        protocol: envelope.protocol,
        tls: envelope.tls.map(|(version, cipher)| queue::Tls { version, cipher }),
        message_id,
        head_bytes: 0,
        kept_until_ms: None,
        tenant: identity.tenant_id(),
        credential: identity.credential(),
        stream: identity.stream(),
        tags: queue::record::texts::Texts::default(),
        metadata: queue::record::texts::Fields::default(),
        labels: queue::Labels {
            tenant: identity.tenant().map(|tenant| tenant.name()),
            campaign: labels.campaign.as_deref(),
            fields: labels.fields.as_fields(),
        },
        recipients,
    }
}

/// The message is durable: counts it and logs it.
pub(super) fn note_accepted(
    intake: &Intake,
    facts: &MessageFacts<'_>,
    committed: &Committed,
    (body_bytes, commit_began): (u64, Instant),
) {
    let MessageFacts { submission, recipients, message_id } = *facts;
    let Submission { identity, envelope, head, .. } = submission;
    let commit_us = commit_began.elapsed().as_micros() as u64;
    let bytes = head.block().len() as u64 + body_bytes;
    let histograms = &intake.histograms;
    histograms.record(Stage::Commit, commit_us);
    if committed.leads {
        histograms.record(Stage::CommitBatch, u64::from(committed.batch));
    }
    let metrics = &intake.observed.metrics;
    metrics.messages_accepted_total.add(1);
    metrics.message_bytes_total.add(bytes);
    metrics.recipients_accepted_total.add(recipients.len() as u64);
    let body_us = envelope.content_began.elapsed().as_micros() as u64;
    let first = recipients.iter().next();
    Record::Accepted {
        id: committed.id,
        partition: committed.id.local.partition(),
        peer: identity.peer().ip(),
        port: identity.peer().port(),
        helo: envelope.get(Text::Helo).unwrap_or(""),
        protocol: envelope.protocol,
        tls: envelope.tls.map(|(version, _)| version),
        cipher: envelope.tls.map(|(_, cipher)| cipher),
        from: envelope.get(Text::Sender).unwrap_or(""),
        to: first.map_or("", |first| first.mailbox),
        tenant: identity.tenant().map(|tenant| tenant.name()),
        recipients: recipients.len(),
        size: bytes,
        body: match envelope.body_type {
            BodyType::SevenBit => "7bit",
            BodyType::EightBitMime => "8bitmime",
            BodyType::BinaryMime => "binarymime",
        },
        message_id,
        body_us: body_us.saturating_sub(commit_us),
        commit_us,
        total_us: envelope.began.elapsed().as_micros() as u64,
    }
    .emit();
}
