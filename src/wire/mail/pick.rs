//! The values of a few header fields, taken while the header streams by.
//!
//! Promise:  the first field of each name counts; its value is unfolded (RFC 5322 s2.2.3), trimmed,
//!           free of control characters and at most `VALUE_BYTES_MAX` bytes of UTF-8. What is no
//!           UTF-8 is masked, and what is longer is cut.
//! Cost:     nothing where no name is wanted. Else one test of a bit for each field; memory only
//!           for values that are found.

use std::sync::Arc;

/// Fields of which the values are kept. More names are refused by the config.
pub const NAMES_MAX: usize = 16;
/// Bytes of a name. No longer one can be wanted.
pub const NAME_BYTES_MAX: usize = 64;
/// Bytes of a value; the rest is cut off.
pub const VALUE_BYTES_MAX: usize = 200;

const _: () = assert!(NAMES_MAX <= u16::BITS as usize && NAME_BYTES_MAX < u128::BITS as usize);

/// The names of the fields that are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedFields {
    /// In lower case, each once.
    names: Vec<Box<str>>,
    /// A bit for each length of a name: it tells most fields apart.
    lengths: u128,
}

impl WantedFields {
    /// At most `NAMES_MAX` of them, in any case; each counts once.
    pub fn new<'n>(names: impl IntoIterator<Item = &'n str>) -> WantedFields {
        let mut wanted = WantedFields::default();
        for name in names {
            assert!((1..=NAME_BYTES_MAX).contains(&name.len()), "the config has bounded names");
            let name = name.to_ascii_lowercase();
            if wanted.place_of(&name).is_none() {
                wanted.lengths |= 1 << name.len();
                wanted.names.push(name.into());
            }
        }
        assert!(wanted.names.len() <= NAMES_MAX, "the config has bounded how many there are");
        wanted
    }

    /// By this number its value is asked for.
    pub fn place_of(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|one| one.eq_ignore_ascii_case(name))
    }

    /// In lower case.
    pub fn name(&self, place: usize) -> &str {
        &self.names[place]
    }

    /// As `place_of`, of a name in lower case.
    fn find(&self, name: &[u8]) -> Option<usize> {
        if name.len() > NAME_BYTES_MAX || self.lengths >> name.len() & 1 == 0 {
            return None;
        }
        self.names.iter().position(|one| one.as_bytes() == name)
    }
}

/// What was found of them in one header.
#[derive(Debug, Default)]
pub struct PickedFields {
    wanted: Option<Arc<WantedFields>>,
    /// Of which fields one was seen, by place.
    seen: u16,
    /// The place of the field whose value is being taken.
    taking: Option<u8>,
    /// Of each that was taken its place, and where its bytes end in `bytes`.
    values: Vec<(u8, u16)>,
    bytes: Vec<u8>,
}

const _: () = assert!(NAMES_MAX * VALUE_BYTES_MAX <= u16::MAX as usize);

impl PickedFields {
    pub fn new(wanted: Arc<WantedFields>) -> PickedFields {
        let wanted = Some(wanted).filter(|wanted| !wanted.names.is_empty());
        PickedFields { wanted, ..PickedFields::default() }
    }

    /// A field begins; its name is in lower case.
    pub fn begin(&mut self, name: &[u8]) {
        self.taking = None;
        let Some(place) = self.wanted.as_ref().and_then(|wanted| wanted.find(name)) else { return };
        if self.seen >> place & 1 == 0 {
            self.seen |= 1 << place;
            self.taking = Some(place as u8);
            self.values.push((place as u8, self.bytes.len() as u16));
        }
    }

    /// Whether the value of the field under way is wanted.
    pub fn is_taking(&self) -> bool {
        self.taking.is_some()
    }

    /// Takes some of the value.
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

    /// The value of the field at this place of the wanted ones; empty if it says nothing.
    pub fn value(&self, place: usize) -> Option<String> {
        let found = self.values.iter().position(|(one, _)| *one as usize == place)?;
        let start = found.checked_sub(1).map_or(0, |before| self.values[before].1 as usize);
        let bytes = &self.bytes[start..self.values[found].1 as usize];
        let mut text = String::with_capacity(bytes.len());
        let mut left = bytes.len();
        for part in bytes.utf8_chunks() {
            left -= part.valid().len() + part.invalid().len();
            text.push_str(part.valid());
            // A letter that the cut went through is left out, not masked.
            let is_cut = left == 0 && bytes.len() == VALUE_BYTES_MAX;
            if !part.invalid().is_empty() && !is_cut {
                text.push('?');
            }
        }
        text.truncate(text.trim_end_matches(' ').len());
        Some(text)
    }
}
