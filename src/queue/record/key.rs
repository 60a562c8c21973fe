//! Keys of the column families: fixed-width, big-endian, so that bytes sort as numbers do.
//!
//! Promise:  these bytes are a contract with every spool on disk; golden tests hold them.

use crate::base::MessageId;

/// Length of a key of `envelope` and `stream`.
pub const ID_KEY_LEN: usize = 8;
/// Length of a key of `body`.
pub const BODY_KEY_LEN: usize = 12;
/// Length of a key of `job`.
pub const JOB_KEY_LEN: usize = 10;
/// Length of a key of `due`.
pub const DUE_KEY_LEN: usize = 18;
/// Length of a key of `kept`.
pub const KEPT_KEY_LEN: usize = 16;

/// The key of an envelope or of a stream mark.
pub fn of_id(id: MessageId) -> [u8; ID_KEY_LEN] {
    id.as_u64().to_be_bytes()
}

/// The key of a body chunk.
pub fn of_body(id: MessageId, chunk: u32) -> [u8; BODY_KEY_LEN] {
    let mut key = [0; BODY_KEY_LEN];
    key[..8].copy_from_slice(&of_id(id));
    key[8..].copy_from_slice(&chunk.to_be_bytes());
    key
}

/// The key of a job.
pub fn of_job(id: MessageId, job: u16) -> [u8; JOB_KEY_LEN] {
    let mut key = [0; JOB_KEY_LEN];
    key[..8].copy_from_slice(&of_id(id));
    key[8..].copy_from_slice(&job.to_be_bytes());
    key
}

/// The key of a schedule entry.
pub fn of_due(due_ms: u64, id: MessageId, job: u16) -> [u8; DUE_KEY_LEN] {
    let mut key = [0; DUE_KEY_LEN];
    key[..8].copy_from_slice(&due_ms.to_be_bytes());
    key[8..].copy_from_slice(&of_job(id, job));
    key
}

/// The key of a message that is kept until then.
pub fn of_kept(until_ms: u64, id: MessageId) -> [u8; KEPT_KEY_LEN] {
    let mut key = [0; KEPT_KEY_LEN];
    key[..8].copy_from_slice(&until_ms.to_be_bytes());
    key[8..].copy_from_slice(&of_id(id));
    key
}

/// The message of a key that begins with one, or `None` for a key too short to.
pub fn id_of(key: &[u8]) -> Option<MessageId> {
    let raw: [u8; 8] = key.get(..8)?.try_into().ok()?;
    Some(MessageId::from_u64(u64::from_be_bytes(raw)))
}

/// The message of a key that consists of nothing else.
pub fn whole_id_of(key: &[u8]) -> Option<MessageId> {
    id_of(key).filter(|_| key.len() == ID_KEY_LEN)
}

/// The parts of a body key.
pub fn body_of(key: &[u8]) -> Option<(MessageId, u32)> {
    let key: &[u8; BODY_KEY_LEN] = key.try_into().ok()?;
    let chunk: [u8; 4] = key[8..].try_into().ok()?;
    Some((id_of(key)?, u32::from_be_bytes(chunk)))
}

/// The parts of a job key.
pub fn job_of(key: &[u8]) -> Option<(MessageId, u16)> {
    let key: &[u8; JOB_KEY_LEN] = key.try_into().ok()?;
    let job: [u8; 2] = key[8..].try_into().ok()?;
    Some((id_of(key)?, u16::from_be_bytes(job)))
}

/// The parts of a schedule key.
pub fn due_of(key: &[u8]) -> Option<(u64, MessageId, u16)> {
    let key: &[u8; DUE_KEY_LEN] = key.try_into().ok()?;
    let due: [u8; 8] = key[..8].try_into().ok()?;
    let (id, job) = job_of(&key[8..])?;
    Some((u64::from_be_bytes(due), id, job))
}

/// The parts of a key of `kept`.
pub fn kept_of(key: &[u8]) -> Option<(u64, MessageId)> {
    let key: &[u8; KEPT_KEY_LEN] = key.try_into().ok()?;
    let until: [u8; 8] = key[..8].try_into().ok()?;
    Some((u64::from_be_bytes(until), id_of(&key[8..])?))
}

/// A key as it is written in file names and messages.
pub fn hex(key: &[u8]) -> String {
    use std::fmt::Write as _;
    key.iter().fold(String::with_capacity(key.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes every byte");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_their_golden_bytes_and_are_read_back() {
        let id = MessageId::from_u64(0x0102_0304_0506_0708);
        assert_eq!(hex(&of_id(id)), "0102030405060708");
        assert_eq!(hex(&of_body(id, 0x0a0b)), "010203040506070800000a0b");
        assert_eq!(hex(&of_job(id, 7)), "01020304050607080007");
        assert_eq!(hex(&of_due(0x11, id, 7)), "000000000000001101020304050607080007");
        assert_eq!(hex(&of_kept(0x11, id)), "00000000000000110102030405060708");
        assert_eq!(id_of(&of_id(id)), Some(id));
        assert_eq!(kept_of(&of_kept(5, id)), Some((5, id)));
        assert_eq!(body_of(&of_body(id, 9)), Some((id, 9)));
        assert_eq!(job_of(&of_job(id, 9)), Some((id, 9)));
        assert_eq!(due_of(&of_due(5, id, 9)), Some((5, id, 9)));
    }

    #[test]
    fn keys_of_another_length_are_refused() {
        assert_eq!(id_of(b"short"), None);
        assert_eq!(body_of(&[0; BODY_KEY_LEN + 1]), None);
        assert_eq!(job_of(&[0; JOB_KEY_LEN - 1]), None);
        assert_eq!(due_of(&[]), None);
    }
}
