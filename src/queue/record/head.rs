//! The head of a message: the header block that is sent before the body, or the front of it.

use crate::queue::record::outer::Kind;
use crate::queue::record::outer::Reader;
use crate::queue::record::outer::RecordFault;
use crate::queue::record::outer::Writer;

const KIND_HEAD: Kind = Kind { byte: b'H', version: 1 };

/// Appends the record of a head: the header block of a message, or the front of it that was written
/// here.
pub fn encode_head(head: &[u8], buffer: &mut Vec<u8>) {
    let mut writer = Writer::new(buffer, KIND_HEAD);
    writer.raw(head);
    writer.seal();
}

/// The bytes of a head.
pub fn decode_head(record: &[u8]) -> Result<&[u8], RecordFault> {
    Reader::open(record, KIND_HEAD).map(|mut reader| reader.rest())
}
