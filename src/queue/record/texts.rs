//! Short texts stored with a message: tags, metadata, and the labels that its header gives.
//!
//! Promise:  encoding and decoding are each other's inverse, and every text is checked when read.
//! Bounds:   255 texts or pairs in one list.

use crate::queue::record::outer::Reader;
use crate::queue::record::outer::RecordFault;
use crate::queue::record::outer::Writer;
use crate::queue::record::outer::put_text;

/// Labels from the header of a message. Reports have none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Labels<'a> {
    /// The configured name of the tenant, for routes.
    pub tenant: Option<&'a str>,
    pub campaign: Option<&'a str>,
    /// The fields that routes ask for.
    pub fields: Fields<'a>,
}

impl<'a> Labels<'a> {
    pub(in crate::queue::record) fn encode(
        &self,
        writer: &mut Writer<'_>,
    ) -> Result<(), RecordFault> {
        writer.text("tenant", self.tenant)?;
        writer.text("campaign", self.campaign)?;
        self.fields.encode(writer)
    }

    pub(in crate::queue::record) fn decode(
        reader: &mut Reader<'a>,
    ) -> Result<Labels<'a>, RecordFault> {
        Ok(Labels {
            tenant: reader.text()?,
            campaign: reader.text()?,
            fields: Fields::decode(reader)?,
        })
    }
}

/// A list of texts in stored form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Texts<'a> {
    count: u8,
    bytes: &'a [u8],
}

impl<'a> Texts<'a> {
    pub(in crate::queue::record) fn encode(
        &self,
        writer: &mut Writer<'_>,
    ) -> Result<(), RecordFault> {
        writer.u8(self.count);
        writer.bytes("texts", self.bytes)
    }

    pub(in crate::queue::record) fn decode(
        reader: &mut Reader<'a>,
    ) -> Result<Texts<'a>, RecordFault> {
        Texts::checked(reader, 1)
    }

    /// Reads a list of `each` texts per entry.
    fn checked(reader: &mut Reader<'a>, each: usize) -> Result<Texts<'a>, RecordFault> {
        let list = Texts { count: reader.u8()?, bytes: reader.bytes()? };
        let mut texts = Reader::bare(list.bytes);
        for _ in 0..usize::from(list.count) * each {
            texts.some_text("text")?;
        }
        texts.end()?;
        Ok(list)
    }

    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut reader = Reader::bare(self.bytes);
        std::iter::from_fn(move || reader.text().ok().flatten())
    }
}

/// A list of names and values in stored form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields<'a>(Texts<'a>);

impl<'a> Fields<'a> {
    pub(in crate::queue::record) fn encode(
        &self,
        writer: &mut Writer<'_>,
    ) -> Result<(), RecordFault> {
        self.0.encode(writer)
    }

    pub(in crate::queue::record) fn decode(
        reader: &mut Reader<'a>,
    ) -> Result<Fields<'a>, RecordFault> {
        Texts::checked(reader, 2).map(Fields)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let mut texts = self.0.iter();
        std::iter::from_fn(move || texts.next().zip(texts.next()))
    }
}

/// A list of texts under construction.
#[derive(Clone, Debug, Default)]
pub struct TextsBuf {
    count: u8,
    bytes: Vec<u8>,
}

impl TextsBuf {
    pub fn push(&mut self, text: &str) -> Result<(), RecordFault> {
        self.push_entry(&[text])
    }

    fn push_entry(&mut self, texts: &[&str]) -> Result<(), RecordFault> {
        let count = self.count.checked_add(1).ok_or(RecordFault::TooLong("list of texts"))?;
        let before = self.bytes.len();
        for text in texts {
            if let Err(fault) = put_text(&mut self.bytes, "text", Some(text)) {
                self.bytes.truncate(before);
                return Err(fault);
            }
        }
        self.count = count;
        Ok(())
    }

    pub fn as_texts(&self) -> Texts<'_> {
        Texts { count: self.count, bytes: &self.bytes }
    }
}

/// A list of names and values under construction.
#[derive(Clone, Debug, Default)]
pub struct FieldsBuf(TextsBuf);

impl FieldsBuf {
    pub fn push(&mut self, name: &str, value: &str) -> Result<(), RecordFault> {
        self.0.push_entry(&[name, value])
    }

    pub fn as_fields(&self) -> Fields<'_> {
        Fields(self.0.as_texts())
    }
}
