//! Reading the families of a store: a partition, or the model that the simulation uses.

use rocksdb::ReadOptions;

use crate::queue::cause::Cause;
use crate::queue::fault::QueueFault;
use crate::queue::record::family::Family;
use crate::queue::record::key::BACKLOG_KEY_LEN;
use crate::queue::store::families::handle;
use crate::queue::store::partition::Partition;

/// A store that plans and readers read.
pub trait Records {
    /// Shows the value of a key. `None`: there is no such key.
    fn get<T>(
        &self,
        family: Family,
        key: &[u8],
        show: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, QueueFault>;

    /// Shows the keys from `from` on and before `end`, with their values, in order.
    fn walk(
        &self,
        family: Family,
        from: &[u8],
        end: &[u8],
        show: impl FnMut(&[u8], &[u8]) -> Walk,
    ) -> Result<(), QueueFault>;
}

/// Where a walk goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    Next,
    /// To the first row of `backlog` that is not before this one.
    Seek([u8; BACKLOG_KEY_LEN]),
    Stop,
}

/// After every key of the fixed-width families.
pub const AFTER_ALL: &[u8] = &[0xff; BACKLOG_KEY_LEN + 1];

impl Records for Partition {
    fn get<T>(
        &self,
        family: Family,
        key: &[u8],
        show: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, QueueFault> {
        match self.db().get_pinned_cf(handle(self.db(), family), key) {
            Ok(found) => Ok(found.map(|value| show(&value))),
            Err(cause) => Err(self.unread(family, cause)),
        }
    }

    fn walk(
        &self,
        family: Family,
        from: &[u8],
        end: &[u8],
        mut show: impl FnMut(&[u8], &[u8]) -> Walk,
    ) -> Result<(), QueueFault> {
        let mut bounds = ReadOptions::default();
        bounds.set_iterate_upper_bound(end);
        let mut rows = self.db().raw_iterator_cf_opt(handle(self.db(), family), bounds);
        rows.seek(from);
        while let Some((key, value)) = rows.item() {
            match show(key, value) {
                Walk::Next => rows.next(),
                Walk::Seek(to) => rows.seek(to),
                Walk::Stop => break,
            }
        }
        rows.status().map_err(|cause| self.unread(family, cause))
    }
}

impl Partition {
    fn unread(&self, family: Family, cause: rocksdb::Error) -> QueueFault {
        self.note_unreadable(cause.as_ref());
        let is_schedule = matches!(family, Family::Due | Family::Backlog);
        if is_schedule && Cause::of(cause.as_ref()) == Cause::Damage {
            // No later row would ever be due. The next start rescues the readable ones.
            self.set_failure(cause.as_ref().to_owned());
        }
        cause.into()
    }
}
