//! Recovery of heads and bodies. Those of an envelope must be complete; others are removed, or moved
//! to quarantine after damage.

use rocksdb::WriteBatch;

use crate::queue::cause::table_in;
use crate::queue::fault::QueueFault;
use crate::queue::record::family;
use crate::queue::record::key;
use crate::queue::recover::messages::read_envelope;
use crate::queue::recover::pass::Recovery;
use crate::queue::recover::pass::if_table;
use crate::queue::store::found::Depth;
use crate::queue::store::holes;
use crate::queue::store::message::MessageReader;
use crate::queue::store::rows::each_row;

impl Recovery<'_> {
    /// Reads heads and bodies, the newest first. A damaged message goes to quarantine.
    pub(super) fn check_bodies(&mut self, depth: Depth) -> Result<(), QueueFault> {
        let (mut bodies, mut bytes) = (0, 0);
        let mut envelopes = self.iterate(self.families.envelope);
        envelopes.seek_to_last();
        while let Some((envelope_key, record)) = envelopes.item() {
            if let Ok((id, envelope)) = read_envelope(envelope_key, record) {
                bodies += 1;
                bytes += envelope.body.bytes;
                if depth == Depth::Newest
                    && (bodies > BODIES_READ_MAX || bytes > BODY_BYTES_READ_MAX)
                {
                    break;
                }
                match MessageReader::new(self.partition, id, &envelope).check() {
                    Ok(()) => (),
                    Err(QueueFault::Store(why)) if table_in(&why).is_some() => {
                        return Err(QueueFault::Store(why));
                    }
                    Err(fault) => {
                        self.found.messages -= u64::from(envelope.kept_until_ms.is_none());
                        self.found.body_bytes -= envelope.body.bytes;
                        self.move_message(envelope_key, record, &fault.to_string(), 0)?;
                        self.drop_jobs(id)?;
                    }
                }
            }
            envelopes.prev();
        }
        Ok(envelopes.status()?)
    }

    /// Removes chunks without a message at the end of the family: a power cut left them, before the mark
    /// of their stream was on disk.
    pub(super) fn sweep_stray_tail(&mut self) -> Result<(), QueueFault> {
        let mut chunks = self.iterate(self.families.body);
        let mut bytes = 0;
        chunks.seek_to_last();
        while let Some((chunk_key, chunk)) = chunks.item() {
            bytes += chunk.len() as u64;
            if bytes > BODY_BYTES_READ_MAX {
                break;
            }
            let Some((id, _)) = key::body_of(chunk_key) else {
                self.move_record(family::BODY, chunk_key, chunk, "its key is not that of a chunk")?;
                chunks.prev();
                continue;
            };
            if !self.has_envelope(id)? {
                let mut batch = WriteBatch::default();
                self.remove_body(id, &mut batch);
                self.partition.db().write(batch)?;
                self.found.swept += 1;
            }
            chunks.seek_for_prev(key::of_body(id, 0));
            // The first chunk of this message, or a chunk of an older one.
            if chunks.key().and_then(key::id_of) == Some(id) {
                chunks.prev();
            }
        }
        // Chunks before an unreadable one are not the end of the family.
        if_table(chunks.status())
    }

    /// As `sweep_stray_tail`, after a damaged log: the envelope may be lost, so the chunks are kept.
    pub(super) fn keep_stray_chunks(&mut self) -> Result<(), QueueFault> {
        let mut chunks = self.iterate(self.families.body);
        let mut last = Vec::new();
        chunks.seek_to_first();
        loop {
            if_table(chunks.status())?;
            if chunks.status().is_err() {
                chunks = holes::skip(&|| self.iterate(self.families.body), &last, &mut |_| ());
            }
            let Some((chunk_key, chunk)) = chunks.item() else { break };
            last = chunk_key.to_vec();
            match key::body_of(chunk_key) {
                None => self.move_record(
                    family::BODY,
                    chunk_key,
                    chunk,
                    "its key is not that of a chunk",
                )?,
                Some((id, _)) if !self.has_envelope(id)? => {
                    let mut batch = WriteBatch::default();
                    if self.keep_body(id, "it has no envelope") {
                        self.remove_body(id, &mut batch);
                    }
                    self.partition.db().write(batch)?;
                    chunks.seek(key::of_body(id, u32::MAX));
                    continue;
                }
                Some(_) => (),
            }
            chunks.next();
        }
        if_table(chunks.status())
    }

    /// Moves heads without an envelope. They exist only after a loss of rows.
    pub(super) fn keep_stray_heads(&mut self) -> Result<(), QueueFault> {
        each_row(self.iterate(self.families.head), |head_key, record| {
            let why = match key::whole_id_of(head_key) {
                None => "its key is not a message id",
                Some(id) if !self.has_envelope(id)? => "it has no envelope",
                Some(_) => return Ok(()),
            };
            self.move_record(family::HEAD, head_key, record, why)
        })
    }

    /// Removes the bodies of aborted transfers.
    pub(super) fn sweep_streams(&mut self) -> Result<(), QueueFault> {
        each_row(self.iterate(self.families.stream), |mark_key, record| {
            let Some(id) = key::whole_id_of(mark_key) else {
                let why = "its key is not a message id";
                return self.move_record(family::STREAM, mark_key, record, why);
            };
            let mut batch = WriteBatch::default();
            // A salvaged log may leave a mark beside an envelope; the message stays.
            if self.has_envelope(id)? {
                self.repaired("stream mark of a finished message removed", mark_key);
            } else if !self.lost.any_of_mail() || self.keep_body(id, "it has no envelope") {
                self.remove_body(id, &mut batch);
                self.found.swept += 1;
            }
            batch.single_delete_cf(self.families.stream, mark_key);
            Ok(self.partition.db().write(batch)?)
        })
    }
}

/// Bodies, and their bytes, that a start reads to check the newest messages.
pub const BODY_BYTES_READ_MAX: u64 = 16 << 20;
pub const BODIES_READ_MAX: usize = 256;
