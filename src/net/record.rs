//! TLS records: runs rustls one step at a time, and finds the bounds of records.
//!
//! Owner:    the `TlsSession` that calls it; nothing here keeps state between calls.

use rustls::unbuffered::ConnectionState;
use rustls::unbuffered::EncodeError;
use rustls::unbuffered::EncryptError;
use rustls::unbuffered::UnbufferedStatus;
use rustls::unbuffered::WriteTraffic;

const HEADER_BYTES: usize = 5;

/// Plaintext bytes of a record, and the most that a record adds: header, nonce, tag, type.
const FRAGMENT_BYTES: usize = 16 << 10;
const RECORD_EXTRA_BYTES: usize = HEADER_BYTES + 8 + 16 + 1;

/// The output of a call: plaintext for the caller, records for the peer.
pub(super) struct Flow<'a> {
    room: &'a mut [u8],
    produced: usize,
    out: &'a mut Vec<u8>,
}

impl<'a> Flow<'a> {
    pub(super) fn new(room: &'a mut [u8], out: &'a mut Vec<u8>) -> Flow<'a> {
        Flow { room, produced: 0, out }
    }

    pub(super) fn produced(&self) -> usize {
        self.produced
    }

    pub(super) fn is_full(&self) -> bool {
        self.produced == self.room.len()
    }

    /// Copies as much of `plaintext` as fits; returns the number of bytes.
    fn fill_from(&mut self, plaintext: &[u8]) -> usize {
        let room = &mut self.room[self.produced..];
        let count = plaintext.len().min(room.len());
        room[..count].copy_from_slice(&plaintext[..count]);
        self.produced += count;
        count
    }
}

/// Plaintext that did not fit into `room`.
#[derive(Default)]
pub(super) struct Held {
    bytes: Vec<u8>,
    /// How much of `bytes` was yielded.
    at: usize,
}

impl Held {
    pub(super) fn new(plaintext: &[u8]) -> Held {
        Held { bytes: plaintext.to_vec(), at: 0 }
    }

    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    pub(super) fn move_to(&mut self, flow: &mut Flow<'_>) {
        self.at += flow.fill_from(&self.bytes[self.at..]);
        if self.is_empty() {
            *self = Held::default();
        }
    }
}

/// What to send to the peer.
#[derive(Clone, Copy)]
pub(super) enum Outgoing<'a> {
    Plaintext(&'a [u8]),
    CloseNotify,
}

/// The result of one step of rustls.
pub(super) enum Event {
    /// Call again.
    Again,
    NeedsInput,
    /// `Outgoing` was encrypted.
    Sent,
    PeerClosed,
}

/// Carries out what rustls asks for, in either role.
pub(super) fn step<Side>(
    status: UnbufferedStatus<'_, '_, Side>,
    flow: &mut Flow<'_>,
    held: &mut Held,
    outgoing: Option<Outgoing<'_>>,
) -> (usize, Result<Event, rustls::Error>) {
    let mut discard = status.discard;
    let event = match status.state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            let mut event = Ok(Event::Again);
            while let Some(record) = traffic.next_record() {
                match record {
                    Ok(record) => {
                        discard += record.discard;
                        // Keeps the order: held plaintext comes first.
                        let taken =
                            if held.is_empty() { flow.fill_from(record.payload) } else { 0 };
                        held.bytes.extend_from_slice(&record.payload[taken..]);
                    }
                    Err(error) => event = Err(error),
                }
            }
            event
        }
        Ok(ConnectionState::EncodeTlsData(mut record)) => {
            append(flow.out, 0, |room| match record.encode(room) {
                Ok(written) => Ok(written),
                Err(EncodeError::InsufficientSize(size)) => Err(Some(size.required_size)),
                Err(EncodeError::AlreadyEncoded) => Err(None),
            })
            .map(|()| Event::Again)
        }
        Ok(ConnectionState::TransmitTlsData(sent)) => {
            sent.done();
            Ok(Event::Again)
        }
        Ok(ConnectionState::PeerClosed) => Ok(Event::PeerClosed),
        Ok(ConnectionState::WriteTraffic(traffic)) => match outgoing {
            Some(outgoing) => encrypt(traffic, outgoing, flow.out).map(|()| Event::Sent),
            None => Ok(Event::NeedsInput),
        },
        Ok(ConnectionState::ReadEarlyData(_)) => {
            Err(rustls::Error::General("early data was not offered".to_owned()))
        }
        Ok(_) => Ok(Event::NeedsInput),
    };
    (discard, event)
}

fn encrypt<Side>(
    mut traffic: WriteTraffic<'_, Side>,
    outgoing: Outgoing<'_>,
    out: &mut Vec<u8>,
) -> Result<(), rustls::Error> {
    let wanted = match outgoing {
        Outgoing::Plaintext(text) => {
            text.len() + (text.len() / FRAGMENT_BYTES + 1) * RECORD_EXTRA_BYTES
        }
        Outgoing::CloseNotify => 2 + RECORD_EXTRA_BYTES,
    };
    append(out, wanted, |room| {
        let written = match outgoing {
            Outgoing::Plaintext(text) => traffic.encrypt(text, room),
            Outgoing::CloseNotify => traffic.queue_close_notify(room),
        };
        written.map_err(|error| match error {
            EncryptError::InsufficientSize(size) => Some(size.required_size),
            EncryptError::EncryptExhausted => None,
        })
    })
}

/// Appends the output of `write`, which gets `wanted` bytes of room, or more if it asks for more.
fn append(
    out: &mut Vec<u8>,
    wanted: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> Result<(), rustls::Error> {
    let start = out.len();
    let mut wanted = wanted;
    loop {
        out.resize(start + wanted, 0);
        match write(&mut out[start..]) {
            Ok(written) => {
                out.truncate(start + written);
                return Ok(());
            }
            Err(Some(required)) if required > wanted => wanted = required,
            Err(_) => {
                out.truncate(start);
                return Err(rustls::Error::EncryptError);
            }
        }
    }
}

/// The offset of the first incomplete record at or after `from`.
pub(super) fn whole_records(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(len) = record_len(&bytes[at..])
        && at + len <= bytes.len()
    {
        at += len;
    }
    at
}

/// The length of the first record with its header, once the header is complete.
fn record_len(bytes: &[u8]) -> Option<usize> {
    let header = bytes.get(..HEADER_BYTES)?;
    Some(HEADER_BYTES + usize::from(u16::from_be_bytes([header[3], header[4]])))
}

/// Moves the missing part of the record at `at` to `pending`: first its header, then its body, and
/// nothing of the next record. Returns the number of bytes.
pub(super) fn top_up(pending: &mut Vec<u8>, at: usize, input: &[u8]) -> usize {
    let here = pending.len() - at;
    // rustls refuses a length that is too large as soon as it sees the header.
    let whole = record_len(&pending[at..]).unwrap_or(HEADER_BYTES);
    let count = whole.saturating_sub(here).min(input.len());
    pending.extend_from_slice(&input[..count]);
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_walked_and_topped_up_one_at_a_time() {
        let bytes = b"\x17\x03\x03\x00\x02ab\x17\x03\x03\x00\x03cde\x17\x03";
        assert_eq!(whole_records(bytes, 0), 15);
        assert_eq!(whole_records(&bytes[..14], 0), 7);
        assert_eq!(whole_records(b"", 0), 0);
        let mut pending = bytes[..3].to_vec();
        assert_eq!(top_up(&mut pending, 0, &bytes[3..]), 2, "the header");
        assert_eq!(top_up(&mut pending, 0, &bytes[5..]), 2, "the body");
        assert_eq!(top_up(&mut pending, 0, &bytes[7..]), 0, "and no more");
        assert_eq!(pending, &bytes[..7]);
    }
}
