//! Sending one message to a server with all extensions, and reading its replies.

use std::hint::black_box;
use std::sync::Arc;

use ringpost::wire::smtp::client::Client;
use ringpost::wire::smtp::client_envelope::Mail;
use ringpost::wire::smtp::client_envelope::MailRecipient;
use ringpost::wire::smtp::client_mail::Outcome;
use ringpost::wire::smtp::client_reply::ReplyReader;
use ringpost::wire::smtp::client_step::ClientConfig;
use ringpost::wire::smtp::client_step::ClientStep;
use ringpost::wire::smtp::client_step::TlsUse;
use ringpost::wire::smtp::transaction::BodyType;

use crate::paths::Path;

const GREETING: &[u8] = b"220 mx.recipient-domain.example ESMTP\r\n";
const OFFERS: &[u8] = b"250-mx.recipient-domain.example at your service\r\n250-PIPELINING\r\n\
    250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250 SIZE 35882577\r\n";
const GO_AHEAD: &[u8] = b"250 2.1.0 OK\r\n250 2.1.5 OK\r\n354 Go ahead\r\n";
const TAKEN: &[u8] = b"250 2.0.0 OK 1764158400 d75a77b69052e-4ab0cd1234si56789012 - queued\r\n";
/// What a big provider says to a mail that it does not want.
pub const REFUSAL: &[u8] =
    b"550-5.7.26 Your email has been blocked because the sender is unauthenticated.\r\n\
    550-5.7.26 The sender must authenticate with at least one of SPF or DKIM.\r\n\
    550-5.7.26  \r\n550-5.7.26  Authentication results:\r\n550-5.7.26  DKIM = did not pass\r\n\
    550 5.7.26 SPF [example.org] with ip: [192.0.2.1] = did not pass - gsmtp\r\n";

pub const RECIPIENT: MailRecipient<'static> =
    MailRecipient { mailbox: "somebody@recipient-domain.example", notify: 0, orcpt: None };

/// The mail that is sent.
pub fn mail<'a>(recipients: &'a [MailRecipient<'a>]) -> Mail<'a> {
    Mail {
        sender: Some("bounces+4711@example.org"),
        recipients,
        bytes: 4096,
        body: BodyType::EightBitMime,
        smtputf8: false,
        requiretls: false,
        ret: None,
        envid: None,
    }
}

/// A connection that has greeted and is free.
pub fn ready() -> Client {
    let config = ClientConfig {
        ehlo_name: "out.example.org".into(),
        lmtp: false,
        pipelining: true,
        chunking: false,
        chunk_ahead_bytes_max: 0,
        tls: TlsUse::Never,
    };
    let mut client = Client::new(Arc::new(config), false);
    let mut out = Vec::new();
    for reply in [GREETING, OFFERS] {
        assert_eq!(client.feed(reply), reply.len());
        client.next(&mut out);
    }
    assert!(client.is_ready(), "the peer has offered what it has");
    client
}

/// Sends `recipients` one mail, up to its outcomes; `replies` are those to the group before the
/// body.
pub fn send(
    client: &mut Client,
    recipients: &[MailRecipient<'_>],
    replies: &[u8],
    out: &mut Vec<u8>,
) -> Vec<Outcome> {
    out.clear();
    client.begin(&mail(recipients));
    let mut rest = replies;
    loop {
        match client.next(out) {
            ClientStep::Read(_) if rest.is_empty() => assert_eq!(client.feed(TAKEN), TAKEN.len()),
            ClientStep::Read(_) => rest = &rest[client.feed(rest)..],
            ClientStep::SendBody(_) => client.on_body_sent(),
            ClientStep::Done => return client.take_outcomes(),
            other => panic!("a mail without faults came to {other:?}"),
        }
    }
}

/// MAIL, RCPT and DATA in one group, their three replies, and the one to the body.
pub fn pipelined_mail() -> Path {
    let mut client = ready();
    let mut out = Vec::with_capacity(4096);
    Box::new(move || {
        let outcomes = send(&mut client, &[RECIPIENT], black_box(GO_AHEAD), &mut out);
        assert!(matches!(outcomes[..], [Outcome::Accepted(_)]), "the peer has taken it");
        out.len() as u64
    })
}

/// As `pipelined_mail`, to a hundred recipients of one server.
pub fn mail_to_many() -> Path {
    let mut client = ready();
    let recipients = [RECIPIENT; 100];
    let replies =
        [b"250 2.1.0 OK\r\n".to_vec(), b"250 2.1.5 OK\r\n".repeat(100), b"354 Go\r\n".to_vec()];
    let replies = replies.concat();
    let mut out = Vec::with_capacity(16 << 10);
    Box::new(move || {
        let outcomes = send(&mut client, &recipients, black_box(&replies), &mut out);
        assert_eq!(outcomes.len(), 100);
        out.len() as u64
    })
}

/// A long refusal read, and kept as it would be for the log and a bounce.
pub fn long_reply() -> Path {
    let mut reader = ReplyReader::default();
    Box::new(move || {
        let taken = reader.feed(black_box(REFUSAL)).expect("it is a reply");
        assert!(reader.is_complete() && taken == REFUSAL.len(), "it is a whole one");
        let reply = reader.reply();
        reader.clear();
        reply.text.len() as u64
    })
}
