//! What the header of a message says of whose it is and where it is to go: tenant, campaign, and the
//! fields that routes ask for.
//!
//! Promise:  as of `schema`: encoding and decoding are each other's inverse, and every field is
//!           checked. An envelope without any of it has not a byte of it, as those that were
//!           written before there was such a thing.

use crate::queue::record::Reader;
use crate::queue::record::RecordFault;
use crate::queue::record::Writer;
use crate::queue::record::put_text;

/// All of it. Mail that was made here has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Labels<'a> {
    pub tenant: Option<&'a str>,
    pub campaign: Option<&'a str>,
    pub fields: Fields<'a>,
}

impl<'a> Labels<'a> {
    pub fn is_empty(&self) -> bool {
        self.tenant.is_none() && self.campaign.is_none() && self.fields.count == 0
    }

    pub(super) fn encode(&self, writer: &mut Writer<'_>) -> Result<(), RecordFault> {
        writer.text("tenant", self.tenant)?;
        writer.text("campaign", self.campaign)?;
        writer.u8(self.fields.count);
        writer.bytes("header fields", self.fields.bytes)
    }

    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Labels<'a>, RecordFault> {
        let labels = Labels {
            tenant: reader.text()?,
            campaign: reader.text()?,
            fields: {
                let count = reader.u8()?;
                Fields::check(count, reader.bytes()?)?
            },
        };
        // What has none is written without the place for them.
        if labels.is_empty() { Err(RecordFault::Value("labels")) } else { Ok(labels) }
    }
}

/// Header fields in stored form: names in lower case, and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields<'a> {
    count: u8,
    bytes: &'a [u8],
}

impl<'a> Fields<'a> {
    fn check(count: u8, bytes: &'a [u8]) -> Result<Fields<'a>, RecordFault> {
        let mut reader = Reader::bare(bytes);
        for _ in 0..count {
            read_field(&mut reader)?;
        }
        reader.end()?;
        Ok(Fields { count, bytes })
    }

    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let mut reader = Reader::bare(self.bytes);
        (0..self.count).map_while(move |_| read_field(&mut reader).ok())
    }
}

fn read_field<'a>(reader: &mut Reader<'a>) -> Result<(&'a str, &'a str), RecordFault> {
    let name = reader.some_text("header field")?;
    Ok((name, reader.some_text("header value")?))
}

/// Fields as they are gathered.
#[derive(Clone, Debug, Default)]
pub struct FieldsBuf {
    count: u8,
    bytes: Vec<u8>,
}

impl FieldsBuf {
    pub fn push(&mut self, name: &str, value: &str) -> Result<(), RecordFault> {
        let count = self.count.checked_add(1).ok_or(RecordFault::TooLong("header fields"))?;
        put_text(&mut self.bytes, "header field", Some(name))?;
        put_text(&mut self.bytes, "header value", Some(value))?;
        self.count = count;
        Ok(())
    }

    pub fn as_fields(&self) -> Fields<'_> {
        Fields { count: self.count, bytes: &self.bytes }
    }
}
