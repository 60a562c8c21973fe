//! Records of the queue: encoding and decoding a message.

use std::hint::black_box;

use ringpost::queue::Envelope;
use ringpost::queue::Job;
use ringpost::queue::RecipientsBuf;

use crate::paths::Path;
use crate::queue_rig;
use crate::queue_rig::NOW_MS;

/// A list of so many recipients.
pub fn recipients(count: usize) -> RecipientsBuf {
    let mailboxes: Vec<String> =
        (0..count).map(|number| format!("somebody.{number}@recipient-domain.example")).collect();
    let mailboxes: Vec<&str> = mailboxes.iter().map(String::as_str).collect();
    queue_rig::recipients(&mailboxes)
}

/// Envelope and job of a message for one, written and read.
pub fn envelope_and_job() -> Path {
    written_and_read(1)
}

/// Envelope and job of a message for so many, written and read.
pub fn written_and_read(count: usize) -> Path {
    let list = recipients(count);
    let mut record = Vec::with_capacity(64 << 10);
    Box::new(move || {
        record.clear();
        let envelope = queue_rig::envelope(black_box(list.as_recipients()));
        envelope.encode(&mut record).expect("it is not too long");
        let ends = record.len();
        let job = Job::fresh(NOW_MS, count);
        job.encode(&mut record).expect("it is not too long");
        let (stored, job) = record.split_at(ends);
        let envelope = Envelope::decode(stored).expect("it was written a moment ago");
        let job = Job::decode(job).expect("so was this");
        let mailboxes = envelope.recipients.iter().map(|recipient| recipient.mailbox.len());
        mailboxes.sum::<usize>() as u64 + job.recipients.iter().map(u64::from).sum::<u64>()
    })
}
