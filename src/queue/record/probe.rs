//! Reading a record whose kind is not known beforehand.

use crate::queue::record::envelope::Envelope;
use crate::queue::record::head::decode_head;
use crate::queue::record::job::Job;
use crate::queue::record::outer::RecordFault;
use crate::queue::record::outer::outer_form;
use crate::queue::record::stream::StreamMark;

/// Any record, as `probe` found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probed<'a> {
    Envelope(Box<Envelope<'a>>),
    Head(&'a [u8]),
    Job(Job<'a>),
    Stream(StreamMark),
}

/// Decodes a record by its kind byte. The fuzzers call it.
pub fn probe(record: &[u8]) -> Result<Probed<'_>, RecordFault> {
    match outer_form(record)?.1 {
        b'E' => Envelope::decode(record).map(Box::new).map(Probed::Envelope),
        b'H' => decode_head(record).map(Probed::Head),
        b'J' => Job::decode(record).map(Probed::Job),
        b'S' => StreamMark::decode(record).map(Probed::Stream),
        kind => Err(RecordFault::Kind(kind)),
    }
}
