//! Tests of resolving that need no server.

use std::time::Instant;

use super::*;

use crate::base::MessageId;
use crate::base::PublicId;
use crate::base::SpoolNumber;
use crate::delivery::home::tests::envelope;
use crate::handoff::frames::Mail;
use crate::handoff::frames::MailBody;
use crate::queue::RecipientsBuf;
use crate::queue::record::envelope::Envelope;
use crate::queue::record::recipients::Recipient;

#[test]
fn mail_goes_to_none_that_would_send_it_back() {
    type Hosts = &'static [(u16, &'static str)];
    let rows: [(Hosts, Hosts); 6] = [
        (&[(10, "a"), (20, "b")], &[(10, "a"), (20, "b")]),
        (&[(10, "a"), (20, "us"), (30, "b")], &[(10, "a")]),
        (&[(20, "a"), (20, "us"), (10, "b")], &[(10, "b")]),
        (&[(10, "us"), (20, "a")], &[]),
        (&[(30, "us"), (20, "US"), (20, "a"), (10, "b")], &[(10, "b")]),
        (&[(0, "us")], &[]),
    ];
    let boxed = |hosts: &[(u16, &str)]| -> Vec<(u16, Box<str>)> {
        hosts.iter().map(|(preference, host)| (*preference, Box::from(*host))).collect()
    };
    for (hosts, expected) in rows {
        let left = without_us(boxed(hosts), |host| host.eq_ignore_ascii_case("us"));
        assert_eq!(left, boxed(expected), "{hosts:?}");
    }
}

/// The time must not grow with the square of the recipients: that takes minutes.
#[test]
fn a_list_of_many_domains_is_grouped_in_seconds() {
    const DOMAINS: u32 = 100_000;
    let mut list = RecipientsBuf::default();
    for number in 0..DOMAINS {
        let mailbox = format!("x@d{number}.test");
        list.push(&Recipient { mailbox: &mailbox, notify: 0, orcpt: None }).expect("it is short");
    }
    let record = envelope(1_800_000_000_000, 1, |one| {
        let mut record = Vec::new();
        let all = Envelope { recipients: list.as_recipients(), ..*one };
        all.encode(&mut record).expect("it is not too long");
        record
    });
    let public_id = PublicId { local: MessageId::from_u64(1), spool: SpoolNumber::from_bits(1) };
    let body = MailBody::Held(Arc::from(&b"text"[..]));
    let mail = Arc::new(Mail::new(public_id, record.into(), body).expect("it was just encoded"));
    let recipients: Vec<u32> = (0..DOMAINS).collect();
    let (mail, recipients) = (&mail, &recipients[..]);
    let asked = Question { mail, recipients, next_hop: None, falls_back: false };
    let (hasher, policy) = (FlowHasher::new((1, 2)), DeliveryPolicy::sample(""));
    let began = Instant::now();
    let groups = group(hasher, &policy, &asked, &asked.mail.envelope());
    assert_eq!(groups.len(), DOMAINS as usize);
    assert!(groups.iter().zip(0..).all(|((_, own), number)| own[..] == [number]));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}
