//! The mark of a body in progress: if its message was never finished, recovery removes the chunks.

use crate::queue::record::outer::Kind;
use crate::queue::record::outer::Reader;
use crate::queue::record::outer::RecordFault;
use crate::queue::record::outer::Writer;

const KIND_STREAM: Kind = Kind { byte: b'S', version: 1 };

/// Marks a body in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamMark {
    pub started_ms: u64,
}

/// Bytes of an encoded `StreamMark`.
pub const STREAM_MARK_LEN: usize = 14;

impl StreamMark {
    /// Appends the record to `buffer`.
    pub fn encode(&self, buffer: &mut Vec<u8>) {
        let mut writer = Writer::new(buffer, KIND_STREAM);
        writer.u64(self.started_ms);
        writer.seal();
    }

    /// Reads a whole record, checking everything.
    pub fn decode(record: &[u8]) -> Result<StreamMark, RecordFault> {
        let mut reader = Reader::open(record, KIND_STREAM)?;
        let mark = StreamMark { started_ms: reader.u64()? };
        reader.end()?;
        Ok(mark)
    }
}
