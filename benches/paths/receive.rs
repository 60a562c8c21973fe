//! Receiving: the commands of one message, the dots of a body, the fields of a header.

use std::hint::black_box;
use std::sync::Arc;

use bumpalo::Bump;
use ringpost::wire::mail::header::HeaderScan;
use ringpost::wire::mail::pick::WantedFields;
use ringpost::wire::smtp::dot::DotDecoder;
use ringpost::wire::smtp::line::LineEnding;
use ringpost::wire::smtp::server::BodyOutcome;
use ringpost::wire::smtp::server::Protocol;
use ringpost::wire::smtp::server::Server;
use ringpost::wire::smtp::server::ServerConfig;
use ringpost::wire::smtp::server::Step;
use ringpost::wire::smtp::server::Verdict;
use ringpost::wire::smtp::transaction::Transaction;

use crate::paths::Path;

/// What a client that pipelines sends ahead of a body of 4 KB.
const GROUP: &[u8] = b"MAIL FROM:<sender@example.org> SIZE=4096 BODY=8BITMIME\r\n\
    RCPT TO:<somebody@recipient-domain.example> NOTIFY=SUCCESS,FAILURE\r\n\
    BDAT 4096 LAST\r\n";

/// As bulk senders write it: 1.2 KB, with what routes may ask for.
pub const HEADER: &[u8] = b"Received: from app-7.example.org (app-7.example.org [192.0.2.17])\r\n\
    \tby out.example.org with ESMTPS id 01J9ZK3V7Q4T8 for <somebody@recipient-domain.example>;\r\n\
    \tSat, 21 Nov 2026 12:00:00 +0000\r\n\
    Date: Sat, 21 Nov 2026 12:00:00 +0000\r\n\
    From: \"The Example Shop\" <news@example.org>\r\n\
    To: Some Body <somebody@recipient-domain.example>\r\n\
    Message-ID: <20261121120000.4711.abcdef0123456789@app-7.example.org>\r\n\
    Subject: =?utf-8?Q?Your_order_4711_is_on_its_way_to_you?=\r\n\
    Reply-To: service@example.org\r\n\
    List-Unsubscribe: <https://example.org/u/0123456789abcdef>, <mailto:u@example.org>\r\n\
    List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n\
    X-Tenant: acme\r\n\
    X-Campaign: autumn-2026\r\n\
    X-Mailer: Example Mailer 7.1\r\n\
    Precedence: bulk\r\n\
    Feedback-ID: autumn-2026:acme:newsletter:example\r\n\
    MIME-Version: 1.0\r\n\
    Content-Type: multipart/alternative; boundary=\"----=_Part_4711_0815.1764158400\"\r\n\
    Content-Language: en-GB\r\n\
    \r\n";

pub fn server_config() -> ServerConfig {
    ServerConfig {
        hostname: "mx.example.org".into(),
        banner: "ESMTP".into(),
        protocol: Protocol::Smtp,
        size_max: 25_000_000,
        recipients_max: 1000,
        messages_max: u32::MAX,
        commands_max: u32::MAX,
        errors_max: 20,
        line_ending: LineEnding::Strict,
        starttls: false,
        tls_required: false,
        xclient: false,
        reject_pipelining_violations: true,
    }
}

/// A session that has been greeted, and waits for its first mail.
pub fn greeted(out: &mut Vec<u8>) -> Server {
    let mut server = Server::new(Arc::new(server_config()), false);
    let arena = Bump::new();
    let mut tx = Transaction::new_in(&arena);
    server.greet(out);
    server.next(b"EHLO client.example.org\r\n", &mut tx, out);
    server.on_verdict(Verdict::Accept, false, &mut tx, out);
    server
}

/// Feeds a pipelined group to the session and says yes to all it asks. The body itself is left
/// out: to the session it is a number.
pub fn talk(server: &mut Server, group: &[u8], arena: &Bump, out: &mut Vec<u8>) {
    let mut tx = Transaction::new_in(arena);
    let mut rest = group;
    loop {
        let (consumed, mut step) = server.next(rest, &mut tx, out);
        rest = &rest[consumed..];
        loop {
            step = match step {
                Step::Ask(_) => server.on_verdict(Verdict::Accept, !rest.is_empty(), &mut tx, out),
                Step::ReceiveBody(_) => {
                    let id = "01J9ZK3V7Q4T8";
                    server.on_body(BodyOutcome::Kept { id }, tx.recipients.len(), out)
                }
                Step::Continue => break,
                Step::Reset | Step::NeedInput => return,
                other => panic!("a mail without faults came to {other:?}"),
            };
        }
    }
}

/// MAIL, RCPT and BDAT in one group, to the reply that promises.
pub fn dialogue() -> Path {
    let mut out = Vec::with_capacity(4096);
    let mut server = greeted(&mut out);
    let mut arena = Bump::with_capacity(4096);
    Box::new(move || {
        out.clear();
        arena.reset();
        talk(&mut server, black_box(GROUP), &arena, &mut out);
        assert!(out.ends_with(b"queued as 01J9ZK3V7Q4T8\r\n"), "the mail is taken");
        out.len() as u64
    })
}

/// A body of lines of 76 bytes, every `dotted`th of which begins with a dot; 0 for none.
pub fn body(bytes: usize, line_bytes: usize, dotted: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(bytes + line_bytes + 4);
    let mut line = 0;
    while body.len() < bytes {
        line += 1;
        if dotted != 0 && line % dotted == 0 {
            body.extend_from_slice(b"..");
        }
        body.resize(body.len() + line_bytes, b'x');
        body.extend_from_slice(b"\r\n");
    }
    body
}

/// 64 KiB of a body unstuffed, with the copy that makes it fresh again.
pub fn dots() -> Path {
    let wire = body(64 << 10, 76, 20);
    let mut chunk = wire.clone();
    Box::new(move || {
        chunk.copy_from_slice(black_box(&wire));
        let mut decoder = DotDecoder::new();
        let decoded = decoder.decode(&mut chunk).expect("only CRLF ends its lines");
        decoded.kept as u64
    })
}

/// A header read as it streams by, and two of its fields picked.
pub fn header() -> Path {
    let wanted = Arc::new(WantedFields::new(["X-Tenant", "X-Campaign"]));
    Box::new(move || {
        let mut scan = HeaderScan::wanting(Arc::clone(&wanted));
        scan.feed(black_box(HEADER));
        assert!(scan.ended() && scan.has_date(), "it is a whole header");
        let picked = (0..2).filter_map(|place| scan.picked().value(place));
        picked.map(|value| value.len() as u64).sum::<u64>() + scan.header_bytes()
    })
}
