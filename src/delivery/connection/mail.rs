//! One mail over a connection: its envelope, its body, and what the transfer answered.
//!
//! Bounds:   one chunk of a stored body at a time.

use std::sync::Arc;
use std::time::Instant;

use crate::base::Mono;
use crate::base::Wall;
use crate::delivery::link::Link;
use crate::delivery::link::Station;
use crate::handoff::Reader;
use crate::handoff::frames::Delivery;
use crate::handoff::frames::MailBody;
use crate::net::transfer::BodySource;
use crate::net::transfer::BodyUnreadable;
use crate::net::transfer::Sent;
use crate::observe::Stage;
use crate::queue::MessageReader;
use crate::queue::SharedMessageReader;
use crate::queue::record::envelope::Envelope;
use crate::queue::record::recipients::Recipient;
use crate::route::RequireTls;
use crate::wire::smtp::client_envelope::Mail;
use crate::wire::smtp::client_envelope::MailRecipient;

/// Calls `use_it` with the mail as it is sent.
pub(super) fn with_mail<T>(delivery: &Delivery, use_it: impl FnOnce(&Mail<'_>) -> T) -> T {
    let envelope = delivery.mail.envelope();
    let all: Vec<Recipient<'_>> = envelope.recipients.iter().collect();
    let recipients = mail_recipients(delivery, &all);
    use_it(&mail_of(delivery, &envelope, &recipients))
}

fn mail_recipients<'a>(delivery: &Delivery, all: &[Recipient<'a>]) -> Vec<MailRecipient<'a>> {
    let recipient = |index: &u32| {
        let one = &all[*index as usize];
        MailRecipient { mailbox: one.mailbox, notify: one.notify, orcpt: one.orcpt }
    };
    delivery.recipients.iter().map(recipient).collect()
}

fn mail_of<'a>(
    delivery: &Delivery,
    envelope: &Envelope<'a>,
    recipients: &'a [MailRecipient<'a>],
) -> Mail<'a> {
    Mail {
        sender: envelope.sender,
        recipients,
        bytes: envelope.bytes(),
        body: envelope.body_type,
        smtputf8: envelope.smtputf8,
        // Not if its hop meets the requirement without it.
        requiretls: envelope.requiretls && delivery.hop.require_tls == RequireTls::Yes,
        ret: envelope.ret,
        envid: envelope.envid,
    }
}

/// What came of a mail, and when.
pub(super) struct Sending {
    pub(super) sent: Sent,
    pub(super) began: Wall,
    pub(super) transfer_us: u64,
}

pub(super) async fn send(station: &Station, link: &mut Link, delivery: &Delivery) -> Sending {
    let (clock, began) = (Instant::now(), Wall::now());
    let waited = Mono::now().since(delivery.sent);
    let mail = &delivery.mail;
    let envelope = mail.envelope();
    let all: Vec<Recipient<'_>> = envelope.recipients.iter().collect();
    let recipients = mail_recipients(delivery, &all);
    let to_send = mail_of(delivery, &envelope, &recipients);
    let sent = match &mail.body {
        MailBody::Held(message) => {
            link.transfer.send(&to_send, &mut std::slice::from_ref(message).iter()).await
        }
        MailBody::Stored(partition) => {
            let pieces = MessageReader::new(Arc::clone(partition), mail.id, &envelope);
            let mut body = StoredBody { reader: station.reader.clone(), pieces: Some(pieces) };
            link.transfer.send(&to_send, &mut body).await
        }
    };
    let transfer_us = clock.elapsed().as_micros() as u64;
    station.histograms.record(Stage::Transfer, transfer_us);
    station.histograms.record(Stage::QueueWait, waited.as_micros() as u64);
    Sending { sent, began, transfer_us }
}

/// A message that is read from the store, one piece at a time, while it is sent.
struct StoredBody {
    reader: Reader,
    pieces: Option<SharedMessageReader>,
}

impl BodySource for StoredBody {
    type Piece = Vec<u8>;

    async fn next(&mut self) -> Option<Result<Vec<u8>, BodyUnreadable>> {
        let mut pieces = self.pieces.take()?;
        let read = self.reader.run(move || {
            let piece = pieces.next_piece(<[u8]>::to_vec);
            (pieces, piece)
        });
        let Some((pieces, piece)) = read.await else { return Some(Err(BodyUnreadable)) };
        self.pieces = Some(pieces);
        Some(piece?.map_err(|_| BodyUnreadable))
    }
}
