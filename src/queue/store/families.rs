//! The handles of the column families, and what is removed together.

use rocksdb::ColumnFamily;
use rocksdb::DB;
use rocksdb::WriteBatch;

use crate::base::MessageId;
use crate::queue::record::envelope::Envelope;
use crate::queue::record::family;
use crate::queue::record::key;

/// The families, looked up once per batch.
#[derive(Clone, Copy)]
pub struct Families<'p> {
    pub envelope: &'p ColumnFamily,
    pub head: &'p ColumnFamily,
    pub body: &'p ColumnFamily,
    pub job: &'p ColumnFamily,
    pub due: &'p ColumnFamily,
    pub stream: &'p ColumnFamily,
    pub kept: &'p ColumnFamily,
    pub default: &'p ColumnFamily,
}

impl Families<'_> {
    /// Removes everything of a message but its jobs.
    pub fn remove_message(&self, batch: &mut WriteBatch, id: MessageId, envelope: &Envelope<'_>) {
        batch.single_delete_cf(self.envelope, key::of_id(id));
        batch.single_delete_cf(self.head, key::of_id(id));
        for chunk in 0..envelope.body.chunks {
            batch.single_delete_cf(self.body, key::of_body(id, chunk));
        }
        if let Some(until_ms) = envelope.kept_until_ms {
            batch.delete_cf(self.kept, key::of_kept(until_ms, id));
        }
    }
}

impl<'p> Families<'p> {
    pub fn of(db: &'p DB) -> Families<'p> {
        let handle = |name| db.cf_handle(name).expect("opened with every family");
        Families {
            envelope: handle(family::ENVELOPE),
            head: handle(family::HEAD),
            body: handle(family::BODY),
            job: handle(family::JOB),
            due: handle(family::DUE),
            stream: handle(family::STREAM),
            kept: handle(family::KEPT),
            default: handle(family::DEFAULT),
        }
    }
}
