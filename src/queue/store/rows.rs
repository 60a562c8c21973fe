//! Walks over all rows of a column family.

use rocksdb::DBRawIterator;

use crate::queue::fault::QueueFault;

/// Calls `each` with the key and value of every row. The first row that RocksDB cannot read ends the
/// walk with its fault.
pub fn each_row(
    mut rows: DBRawIterator<'_>,
    mut each: impl FnMut(&[u8], &[u8]) -> Result<(), QueueFault>,
) -> Result<(), QueueFault> {
    rows.seek_to_first();
    while let Some((key, value)) = rows.item() {
        each(key, value)?;
        rows.next();
    }
    Ok(rows.status()?)
}

/// The number of rows.
pub fn count_rows(rows: DBRawIterator<'_>) -> Result<u64, QueueFault> {
    let mut count = 0;
    each_row(rows, |_, _| {
        count += 1;
        Ok(())
    })?;
    Ok(count)
}
