//! Reading the event log of a partition, and dropping its oldest part.
//!
//! Promise:  only what is durable is read, in the order of its numbers, each number once. Numbers that
//!           no entry has are told as a gap: they were dropped, or lost to damage. A file that cannot be
//!           read is passed over, and the next start reads everything.
//! Bounds:   one entry in memory.

use rocksdb::ReadOptions;

use crate::event;
use crate::queue::cause::Cause;
use crate::queue::fault::QueueFault;
use crate::queue::record::event_log::Entry;
use crate::queue::record::event_log::key_of;
use crate::queue::record::event_log::number_of;
use crate::queue::record::family::EVENT;
use crate::queue::store::partition::Partition;

/// What a read meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met<'a> {
    Entry(Entry<'a>),
    /// These numbers are not in the log.
    Gap {
        from: u64,
        to: u64,
    },
}

/// Whether a read goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Go {
    On,
    Stop,
}

/// Shows what the log has from this number on. Returns the number where the next read begins.
pub fn read(
    partition: &Partition,
    from: u64,
    mut show: impl FnMut(Met<'_>) -> Go,
) -> Result<u64, QueueFault> {
    // Before the rows: what is read is durable.
    let end = partition.events_synced();
    let (mut next, mut begin) = (from, Some(from));
    while let Some(at) = begin.take() {
        let mut bounds = ReadOptions::default();
        bounds.set_iterate_upper_bound(key_of(end));
        let mut rows = partition.db().raw_iterator_cf_opt(partition.families().event, bounds);
        // The entry with this number may begin before it.
        rows.seek_for_prev(key_of(at));
        if at != from || rows.status().is_ok() && !rows.valid() {
            rows.seek(key_of(at));
        }
        while let Some((key, value)) = rows.item() {
            // A damaged entry becomes a gap.
            if let Ok(entry) = Entry::decode(key, value)
                && entry.next() > next
            {
                if entry.first > next {
                    show(Met::Gap { from: next, to: entry.first });
                }
                next = entry.next();
                if show(Met::Entry(entry)) == Go::Stop {
                    return Ok(next);
                }
            }
            rows.next();
        }
        if let Err(cause) = rows.status() {
            if Cause::of(cause.as_ref()) != Cause::Damage {
                return Err(cause.into());
            }
            partition.note_unreadable(cause.as_ref());
            begin = next_file(partition, at.max(next))?.filter(|number| *number < end);
        }
    }
    if next < end {
        show(Met::Gap { from: next, to: end });
    }
    Ok(next.max(end))
}

/// The first number of the next file behind one that cannot be read.
fn next_file(partition: &Partition, after: u64) -> Result<Option<u64>, QueueFault> {
    let mut files = partition.db().live_files()?;
    files.retain(|file| file.column_family_name == EVENT);
    let starts = files.iter().filter_map(|file| number_of(file.start_key.as_deref()?));
    Ok(starts.filter(|start| *start > after).min())
}

/// The first number of the log. `None`: it has no entry.
pub fn first_number(partition: &Partition) -> Result<Option<u64>, QueueFault> {
    let mut rows = partition.db().raw_iterator_cf(partition.families().event);
    rows.seek_to_first();
    let first = rows.key().and_then(number_of);
    rows.status()?;
    Ok(first)
}

/// The number after the last entry, whether durable or not.
pub fn next_number(partition: &Partition) -> Result<u64, rocksdb::Error> {
    let mut rows = partition.db().raw_iterator_cf(partition.families().event);
    rows.seek_to_last();
    let last = rows.item().and_then(|(key, value)| Entry::decode(key, value).ok());
    let next = last.map_or(0, |last| last.next());
    rows.status().map(|()| next)
}

/// How much of the log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptEvents {
    /// Files whose last event is older go.
    pub oldest_ms: u64,
    pub bytes_max: u64,
}

/// What was dropped, and what is left, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DroppedEvents {
    pub for_age: u64,
    pub for_space: u64,
    pub left: u64,
}

/// Drops the oldest files of the log. What lies in memory, and in files that were not merged yet, stays.
pub fn drop_oldest(partition: &Partition, kept: KeptEvents) -> Result<DroppedEvents, QueueFault> {
    let event = partition.families().event;
    let mut files = partition.db().live_files()?;
    files.retain(|file| file.column_family_name == EVENT);
    files.sort_by(|a, b| a.start_key.cmp(&b.start_key));
    let left = files.iter().map(|file| file.size as u64).sum();
    let mut dropped = DroppedEvents { left, ..DroppedEvents::default() };
    let mut last = None;
    for file in files.iter().take_while(|file| file.level > 0) {
        let Some(end) = file.end_key.as_deref() else { break };
        let bytes = file.size as u64;
        if is_older(partition, end, kept.oldest_ms)? {
            dropped.for_age += bytes;
        } else if dropped.left > kept.bytes_max {
            dropped.for_space += bytes;
        } else {
            break;
        }
        dropped.left -= bytes;
        last = number_of(end);
    }
    if let Some(last) = last {
        partition.db().delete_file_in_range_cf(event, key_of(0), key_of(last))?;
    }
    Ok(dropped)
}

/// Whether the last event of an entry is older. One that cannot be read is.
fn is_older(partition: &Partition, key: &[u8], oldest_ms: u64) -> Result<bool, QueueFault> {
    let value = partition.db().get_pinned_cf(partition.families().event, key)?;
    let entry = value.as_deref().and_then(|value| Entry::decode(key, value).ok());
    let last = entry.and_then(|entry| event::read(entry.events).flatten().last());
    Ok(last.is_none_or(|last| last.at_ms() < oldest_ms))
}
