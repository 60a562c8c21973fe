//! The values of a few header fields, taken while the header streams through.
//!
//! Promise:  the first field of each name counts. Its value is unfolded (RFC 5322 s2.2.3), trimmed,
//!           free of control characters, and cut to `VALUE_BYTES_MAX` bytes of UTF-8. Invalid UTF-8
//!           is masked.
//! Cost:     none when no name is requested. Otherwise one bit test for each field, and memory only
//!           for the values found.

use std::sync::Arc;

/// Fields whose values can be taken. The config refuses more names.
pub const NAMES_MAX: usize = 16;
/// Bytes of a field name. The config refuses longer ones.
pub const NAME_BYTES_MAX: usize = 64;
/// Bytes of a value; a longer one is cut.
pub const VALUE_BYTES_MAX: usize = 200;

const _: () = assert!(NAMES_MAX <= u16::BITS as usize && NAME_BYTES_MAX < u128::BITS as usize);

/// The names of the requested fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedFields {
    /// In lower case, without duplicates.
    names: Vec<Box<str>>,
    /// One bit for each length of a name, which rules out most fields.
    lengths: u128,
}

impl WantedFields {
    /// At most `NAMES_MAX` names, in any case. Duplicates count once.
    pub fn new<'n>(names: impl IntoIterator<Item = &'n str>) -> WantedFields {
        let mut wanted = WantedFields::default();
        for name in names {
            assert!(
                (1..=NAME_BYTES_MAX).contains(&name.len()),
                "the config bounds the length of a name"
            );
            let name = name.to_ascii_lowercase();
            if wanted.place_of(&name).is_none() {
                wanted.lengths |= 1 << name.len();
                wanted.names.push(name.into());
            }
        }
        assert!(wanted.names.len() <= NAMES_MAX, "the config bounds the number of names");
        wanted
    }

    /// The index of a requested field, for `name` and `PickedFields::value`.
    pub fn place_of(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|one| one.eq_ignore_ascii_case(name))
    }

    /// The name at `place`, in lower case.
    pub fn name(&self, place: usize) -> &str {
        &self.names[place]
    }

    /// As `place_of`, for a name in lower case.
    fn find(&self, name: &[u8]) -> Option<usize> {
        if name.len() > NAME_BYTES_MAX || self.lengths >> name.len() & 1 == 0 {
            return None;
        }
        self.names.iter().position(|one| one.as_bytes() == name)
    }
}

/// The requested values that were found in one header.
#[derive(Debug, Default)]
pub struct PickedFields {
    wanted: Option<Arc<WantedFields>>,
    /// One bit for each requested field that has occurred.
    seen: u16,
    /// The index of the field whose value is being taken.
    taking: Option<u8>,
    /// For each value its field's index, and the offset in `bytes` at which it ends.
    values: Vec<(u8, u16)>,
    bytes: Vec<u8>,
}

const _: () = assert!(NAMES_MAX * VALUE_BYTES_MAX <= u16::MAX as usize);

impl PickedFields {
    pub fn new(wanted: Arc<WantedFields>) -> PickedFields {
        let wanted = Some(wanted).filter(|wanted| !wanted.names.is_empty());
        PickedFields { wanted, ..PickedFields::default() }
    }

    /// Starts a field; `name` is in lower case.
    pub fn begin(&mut self, name: &[u8]) {
        self.taking = None;
        let Some(place) = self.wanted.as_ref().and_then(|wanted| wanted.find(name)) else { return };
        if self.seen >> place & 1 == 0 {
            self.seen |= 1 << place;
            self.taking = Some(place as u8);
            self.values.push((place as u8, self.bytes.len() as u16));
        }
    }

    /// Whether the value of the current field is requested.
    pub fn is_taking(&self) -> bool {
        self.taking.is_some()
    }

    /// Appends a part of the current value.
    pub fn take(&mut self, line: &[u8]) {
        let before = self.values.len().saturating_sub(1);
        let start = before.checked_sub(1).map_or(0, |place| self.values[place].1 as usize);
        for &byte in line {
            let is_space = matches!(byte, b' ' | b'\t');
            if matches!(byte, b'\r' | b'\n') || (is_space && self.bytes.len() == start) {
                continue;
            }
            if self.bytes.len() - start == VALUE_BYTES_MAX {
                self.taking = None;
                break;
            }
            self.bytes.push(match byte {
                b'\t' => b' ',
                _ if byte.is_ascii_control() => b'?',
                _ => byte,
            });
        }
        if let Some((_, end)) = self.values.last_mut() {
            *end = self.bytes.len() as u16;
        }
    }

    /// The value of the requested field at `place`; empty if the field is empty.
    pub fn value(&self, place: usize) -> Option<String> {
        let found = self.values.iter().position(|(one, _)| *one as usize == place)?;
        let start = found.checked_sub(1).map_or(0, |before| self.values[before].1 as usize);
        let bytes = &self.bytes[start..self.values[found].1 as usize];
        let mut text = String::with_capacity(bytes.len());
        let mut left = bytes.len();
        for part in bytes.utf8_chunks() {
            left -= part.valid().len() + part.invalid().len();
            text.push_str(part.valid());
            // A character cut in two is dropped, not masked.
            let is_cut = left == 0 && bytes.len() == VALUE_BYTES_MAX;
            if !part.invalid().is_empty() && !is_cut {
                text.push('?');
            }
        }
        text.truncate(text.trim_end_matches(' ').len());
        Some(text)
    }
}
