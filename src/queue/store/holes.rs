//! Continuing to read after unreadable rows.
//!
//! Why:      an iterator of RocksDB ends at the first block that it cannot read.
//! How:      find the first readable row behind it: with growing steps over the keys, which are
//!           big-endian numbers, then by bisection back towards the hole.
//! Bounds:   at most 256 seeks per hole. Small islands between two neighbouring holes may be missed.

use rocksdb::DBRawIterator;
use rocksdb::Error;

/// Bytes of a key that are stepped over. A schedule key is longer: the entries of further jobs of
/// the same message at the same time may be passed over.
const STEP_BYTES: usize = 16;

/// Returns an iterator at the first readable row behind `last`, or at the end if there is none; with a
/// fault if even the end is unreadable. `met` is called with every fault on the way.
///
/// Each seek has its own iterator: after a fault, RocksDB 11.8 may report the same fault for a seek to
/// a sound block.
pub fn skip<'d>(
    open: &dyn Fn() -> DBRawIterator<'d>,
    last: &[u8],
    met: &mut dyn FnMut(Error),
) -> DBRawIterator<'d> {
    let mut seek = |place: u128| {
        let mut rows = open();
        rows.seek(place.to_be_bytes());
        let is_readable = rows.status().map_err(&mut *met).is_ok();
        (rows, is_readable)
    };
    let mut below = place_of(last);
    let mut step: u128 = 1;
    let mut above = loop {
        let place = below.saturating_add(step);
        let (rows, is_readable) = seek(place);
        if is_readable {
            break place;
        }
        if place == u128::MAX {
            return rows;
        }
        below = place;
        step = step.saturating_mul(2);
    };
    while above - below > 1 {
        let middle = below + (above - below) / 2;
        if seek(middle).1 { above = middle } else { below = middle }
    }
    seek(above).0
}

fn place_of(key: &[u8]) -> u128 {
    let mut bytes = [0; STEP_BYTES];
    let len = key.len().min(STEP_BYTES);
    bytes[..len].copy_from_slice(&key[..len]);
    u128::from_be_bytes(bytes)
}
