//! The outer form of every record: version, kind, fields, CRC.
//!
//! Promise:  a record is checked as a whole before any of its fields is used, and reading never
//!           panics, whatever the bytes. The outer form is the same in every version, so a record of
//!           a newer version is told from a damaged one: its CRC matches.

use std::fmt;

/// A kind of record, and the newest version of it that this Ringpost reads and writes. Older
/// versions are read too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub byte: u8,
    pub version: u8,
}

const CRC_LEN: usize = 4;
const HEAD_LEN: usize = 2;
const ABSENT: u16 = u16::MAX;

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordFault {
    TooShort,
    /// Written by a newer Ringpost. The record is sound.
    Version(u8),
    Kind(u8),
    Checksum,
    Truncated,
    Trailing,
    NotUtf8,
    Value(&'static str),
    /// A field does not fit its length prefix. Met when writing only.
    TooLong(&'static str),
}

impl fmt::Display for RecordFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordFault::TooShort => f.write_str("shorter than any record"),
            RecordFault::Version(version) => {
                write!(f, "version {version} is newer than this version of Ringpost supports")
            }
            RecordFault::Kind(kind) => write!(f, "unexpected kind {kind:#04x}"),
            RecordFault::Checksum => f.write_str("the checksum does not match the bytes"),
            RecordFault::Truncated => f.write_str("a field extends past the end"),
            RecordFault::Trailing => f.write_str("bytes follow the last field"),
            RecordFault::NotUtf8 => f.write_str("a text field is not UTF-8"),
            RecordFault::Value(field) => write!(f, "the value of `{field}` is invalid"),
            RecordFault::TooLong(field) => write!(f, "`{field}` is too long to be stored"),
        }
    }
}

impl std::error::Error for RecordFault {}

/// Appends one record to a buffer that may hold others before it.
pub struct Writer<'b> {
    buffer: &'b mut Vec<u8>,
    start: usize,
}

impl<'b> Writer<'b> {
    pub fn new(buffer: &'b mut Vec<u8>, kind: Kind) -> Writer<'b> {
        let start = buffer.len();
        buffer.extend_from_slice(&[kind.version, kind.byte]);
        Writer { buffer, start }
    }

    pub fn u8(&mut self, value: u8) {
        self.buffer.push(value);
    }

    pub fn u16(&mut self, value: u16) {
        self.buffer.extend_from_slice(&value.to_be_bytes());
    }

    pub fn u32(&mut self, value: u32) {
        self.buffer.extend_from_slice(&value.to_be_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.buffer.extend_from_slice(&value.to_be_bytes());
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// A text with its length before it, or the mark that there is none.
    pub fn text(&mut self, field: &'static str, text: Option<&str>) -> Result<(), RecordFault> {
        put_text(self.buffer, field, text)
    }

    /// Bytes with a length of four bytes before them.
    pub fn bytes(&mut self, field: &'static str, bytes: &[u8]) -> Result<(), RecordFault> {
        self.u32(u32::try_from(bytes.len()).map_err(|_| RecordFault::TooLong(field))?);
        self.raw(bytes);
        Ok(())
    }

    /// Ends the record with the CRC of all that came before.
    pub fn seal(self) {
        let crc = crc32fast::hash(&self.buffer[self.start..]);
        self.buffer.extend_from_slice(&crc.to_be_bytes());
    }
}

/// As `Writer::text`, into any buffer.
pub fn put_text(
    buffer: &mut Vec<u8>,
    field: &'static str,
    text: Option<&str>,
) -> Result<(), RecordFault> {
    let Some(text) = text else {
        buffer.extend_from_slice(&ABSENT.to_be_bytes());
        return Ok(());
    };
    let len = u16::try_from(text.len()).ok().filter(|len| *len != ABSENT);
    buffer.extend_from_slice(&len.ok_or(RecordFault::TooLong(field))?.to_be_bytes());
    buffer.extend_from_slice(text.as_bytes());
    Ok(())
}

/// Reads the fields of a record whose outer form was found sound.
pub struct Reader<'a> {
    version: u8,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Checks CRC, kind and version.
    pub fn open(record: &'a [u8], kind: Kind) -> Result<Reader<'a>, RecordFault> {
        let (version, found) = outer_form(record)?;
        if found != kind.byte {
            return Err(RecordFault::Kind(found));
        }
        if version == 0 || version > kind.version {
            return Err(RecordFault::Version(version));
        }
        Ok(Reader { version, rest: &record[HEAD_LEN..record.len() - CRC_LEN] })
    }

    /// Reads bytes without an outer form of their own.
    pub fn bare(bytes: &'a [u8]) -> Reader<'a> {
        Reader { version: 0, rest: bytes }
    }

    /// The version that the record was written in.
    pub fn version(&self) -> u8 {
        self.version
    }

    pub fn raw(&mut self, len: usize) -> Result<&'a [u8], RecordFault> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(RecordFault::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordFault> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(RecordFault::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub fn u8(&mut self) -> Result<u8, RecordFault> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Result<u16, RecordFault> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, RecordFault> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, RecordFault> {
        self.array().map(u64::from_be_bytes)
    }

    pub fn text(&mut self) -> Result<Option<&'a str>, RecordFault> {
        let len = self.u16()?;
        if len == ABSENT {
            return Ok(None);
        }
        let bytes = self.raw(len as usize)?;
        std::str::from_utf8(bytes).map(Some).map_err(|_| RecordFault::NotUtf8)
    }

    /// A text that must be present.
    pub fn some_text(&mut self, field: &'static str) -> Result<&'a str, RecordFault> {
        self.text()?.ok_or(RecordFault::Value(field))
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], RecordFault> {
        let len = self.u32()?;
        self.raw(len as usize)
    }

    /// The remaining bytes.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Checks that all bytes were read.
    pub fn end(self) -> Result<(), RecordFault> {
        if self.rest.is_empty() { Ok(()) } else { Err(RecordFault::Trailing) }
    }
}

/// Version and kind of a record whose CRC matches.
pub fn outer_form(record: &[u8]) -> Result<(u8, u8), RecordFault> {
    if record.len() < HEAD_LEN + CRC_LEN {
        return Err(RecordFault::TooShort);
    }
    let (body, crc) = record.split_last_chunk::<CRC_LEN>().ok_or(RecordFault::TooShort)?;
    if crc32fast::hash(body) != u32::from_be_bytes(*crc) {
        return Err(RecordFault::Checksum);
    }
    Ok((record[0], record[1]))
}
