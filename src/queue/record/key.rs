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
/// Length of a key of `backlog`, and of the flow at its front.
pub const BACKLOG_KEY_LEN: usize = FLOW_LEN + DUE_KEY_LEN;
pub const FLOW_LEN: usize = 17;
/// Length of a key of `kept`.
pub const KEPT_KEY_LEN: usize = 16;

/// A job of a message, by its number.
pub type JobKey = (MessageId, u16);

/// A row of `due`: the next attempt of a job, or the next deadline of a filed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DueKey {
    pub at_ms: u64,
    pub job: JobKey,
}

/// The mail of one destination and pool, one tenant and one class: the front of a row of `backlog`.
/// Destination and tenant are hashes that only say whose cursor reads the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    pub destination: u64,
    pub tenant: u64,
    pub class: u8,
}

/// A row of `backlog`: a filed job of a flow, and when it is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BacklogKey {
    pub flow: FlowKey,
    pub due: DueKey,
}

impl DueKey {
    pub const FIRST: DueKey = DueKey { at_ms: 0, job: (MessageId::from_u64(0), 0) };

    /// The smallest key after this one.
    pub fn next(self) -> DueKey {
        let DueKey { at_ms, job: (id, number) } = self;
        if let Some(number) = number.checked_add(1) {
            return DueKey { at_ms, job: (id, number) };
        }
        match id.as_u64().checked_add(1) {
            Some(id) => DueKey { at_ms, job: (MessageId::from_u64(id), 0) },
            None => DueKey::at(at_ms.saturating_add(1)),
        }
    }

    /// Before every row of that time.
    pub const fn at(at_ms: u64) -> DueKey {
        DueKey { at_ms, ..DueKey::FIRST }
    }
}

impl FlowKey {
    pub const FIRST: FlowKey = FlowKey { destination: 0, tenant: 0, class: 0 };

    /// The smallest flow after this one. `None`: this is the last possible one.
    pub fn next(self) -> Option<FlowKey> {
        let FlowKey { destination, tenant, class } = self;
        if let Some(class) = class.checked_add(1) {
            return Some(FlowKey { class, ..self });
        }
        if let Some(tenant) = tenant.checked_add(1) {
            return Some(FlowKey { tenant, class: 0, ..self });
        }
        destination.checked_add(1).map(|destination| FlowKey { destination, tenant: 0, class: 0 })
    }

    /// Before every row of this flow.
    pub const fn start(self) -> BacklogKey {
        BacklogKey { flow: self, due: DueKey::FIRST }
    }
}

impl BacklogKey {
    /// The smallest key of the same flow after this one.
    pub fn next(self) -> BacklogKey {
        BacklogKey { due: self.due.next(), ..self }
    }
}

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

/// The key of a row of `due`.
pub fn of_row(row: DueKey) -> [u8; DUE_KEY_LEN] {
    of_due(row.at_ms, row.job.0, row.job.1)
}

/// The key of a row of `backlog`.
pub fn of_backlog(row: BacklogKey) -> [u8; BACKLOG_KEY_LEN] {
    let mut key = [0; BACKLOG_KEY_LEN];
    key[..8].copy_from_slice(&row.flow.destination.to_be_bytes());
    key[8..16].copy_from_slice(&row.flow.tenant.to_be_bytes());
    key[16] = row.flow.class;
    key[FLOW_LEN..].copy_from_slice(&of_row(row.due));
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
pub fn job_of(key: &[u8]) -> Option<JobKey> {
    let key: &[u8; JOB_KEY_LEN] = key.try_into().ok()?;
    let job: [u8; 2] = key[8..].try_into().ok()?;
    Some((id_of(key)?, u16::from_be_bytes(job)))
}

/// The parts of a key of `due`.
pub fn due_of(key: &[u8]) -> Option<DueKey> {
    let (at, job) = key.split_first_chunk::<8>()?;
    Some(DueKey { at_ms: u64::from_be_bytes(*at), job: job_of(job)? })
}

/// The parts of a key of `backlog`.
pub fn backlog_of(key: &[u8]) -> Option<BacklogKey> {
    let (destination, rest) = key.split_first_chunk::<8>()?;
    let (tenant, rest) = rest.split_first_chunk::<8>()?;
    let (class, due) = rest.split_first()?;
    let flow = FlowKey {
        destination: u64::from_be_bytes(*destination),
        tenant: u64::from_be_bytes(*tenant),
        class: *class,
    };
    Some(BacklogKey { flow, due: due_of(due)? })
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
        assert_eq!(due_of(&of_due(5, id, 9)), Some(DueKey { at_ms: 5, job: (id, 9) }));
        let row = row();
        assert_eq!(
            hex(&of_backlog(row)),
            "a1000000000000b1c1000000000000d102000000000000001101020304050607080007"
        );
        assert_eq!(backlog_of(&of_backlog(row)), Some(row));
    }

    fn row() -> BacklogKey {
        let job = (MessageId::from_u64(0x0102_0304_0506_0708), 7);
        BacklogKey {
            flow: FlowKey {
                destination: 0xa100_0000_0000_00b1,
                tenant: 0xc100_0000_0000_00d1,
                class: 2,
            },
            due: DueKey { at_ms: 0x11, job },
        }
    }

    #[test]
    fn the_next_key_is_the_smallest_larger_one() {
        let (row, last) = (row(), MessageId::from_u64(u64::MAX));
        for (name, due) in [
            ("a job", row.due),
            ("the last job of a message", DueKey { job: (row.due.job.0, u16::MAX), ..row.due }),
            ("the last job of a time", DueKey { job: (last, u16::MAX), ..row.due }),
        ] {
            let bytes = |due| of_backlog(BacklogKey { due, ..row });
            let number = |key: &[u8]| {
                key.iter().fold((0_u128, 0_u128), |(high, low), byte| {
                    ((high << 8) | (low >> 120), (low << 8) | u128::from(*byte))
                })
            };
            let (before, after) = (number(&bytes(due)), number(&bytes(due.next())));
            let (low, carry) = before.1.overflowing_add(1);
            assert_eq!(after, (before.0 + u128::from(carry), low), "{name}");
        }
        let flow = |destination, tenant, class| FlowKey { destination, tenant, class };
        assert_eq!(flow(1, 2, 3).next(), Some(flow(1, 2, 4)));
        assert_eq!(flow(1, 2, u8::MAX).next(), Some(flow(1, 3, 0)));
        assert_eq!(flow(1, u64::MAX, u8::MAX).next(), Some(flow(2, 0, 0)));
        assert_eq!(flow(u64::MAX, u64::MAX, u8::MAX).next(), None);
    }

    #[test]
    fn keys_of_another_length_are_refused() {
        assert_eq!(id_of(b"short"), None);
        assert_eq!(body_of(&[0; BODY_KEY_LEN + 1]), None);
        assert_eq!(job_of(&[0; JOB_KEY_LEN - 1]), None);
        assert_eq!(due_of(&[]), None);
        assert_eq!(due_of(&[0; DUE_KEY_LEN + 1]), None);
        assert_eq!(backlog_of(&[0; BACKLOG_KEY_LEN - 1]), None);
    }
}
