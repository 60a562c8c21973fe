//! Recipients of a message in stored form.
//!
//! Promise:  every recipient is checked when it is pushed and when it is read.

use crate::queue::record::outer::Reader;
use crate::queue::record::outer::RecordFault;
use crate::queue::record::outer::Writer;
use crate::queue::record::outer::put_text;
use crate::wire::dsn::NOTIFY_DELAY;
use crate::wire::dsn::NOTIFY_FAILURE;
use crate::wire::dsn::NOTIFY_NEVER;
use crate::wire::dsn::NOTIFY_SUCCESS;

const NOTIFY_ALL: u8 = NOTIFY_NEVER | NOTIFY_SUCCESS | NOTIFY_FAILURE | NOTIFY_DELAY;

/// One recipient as RCPT gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipient<'a> {
    pub mailbox: &'a str,
    /// `NOTIFY_*` joined by `|`; 0 without the parameter.
    pub notify: u8,
    /// The value of ORCPT as it was sent (`rfc822;user+40example`).
    pub orcpt: Option<&'a str>,
}

/// Recipients in stored form. The same bytes serve the session and the record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recipients<'a> {
    count: u32,
    bytes: &'a [u8],
}

impl<'a> Recipients<'a> {
    /// Reads every recipient once.
    pub(in crate::queue::record) fn check(
        count: u32,
        bytes: &'a [u8],
    ) -> Result<Recipients<'a>, RecordFault> {
        let mut reader = Reader::bare(bytes);
        for _ in 0..count {
            read_recipient(&mut reader)?;
        }
        reader.end()?;
        Ok(Recipients { count, bytes })
    }

    pub(in crate::queue::record) fn encode(&self, writer: &mut Writer<'_>) {
        writer.u32(self.count);
        writer.raw(self.bytes);
    }

    pub fn len(&self) -> usize {
        self.count as usize
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = Recipient<'a>> + use<'a> {
        let mut reader = Reader::bare(self.bytes);
        (0..self.count).map_while(move |_| read_recipient(&mut reader).ok())
    }
}

fn read_recipient<'a>(reader: &mut Reader<'a>) -> Result<Recipient<'a>, RecordFault> {
    let notify = reader.u8()?;
    if notify & !NOTIFY_ALL != 0 {
        return Err(RecordFault::Value("notify"));
    }
    let mailbox = reader.some_text("mailbox")?;
    Ok(Recipient { mailbox, notify, orcpt: reader.text()? })
}

/// A list of recipients under construction. `clear` keeps the memory.
#[derive(Clone, Debug, Default)]
pub struct RecipientsBuf {
    count: u32,
    bytes: Vec<u8>,
}

impl RecipientsBuf {
    pub fn push(&mut self, recipient: &Recipient<'_>) -> Result<(), RecordFault> {
        let before = self.bytes.len();
        let pushed = self.try_push(recipient);
        if pushed.is_err() {
            self.bytes.truncate(before);
        }
        pushed
    }

    fn try_push(&mut self, recipient: &Recipient<'_>) -> Result<(), RecordFault> {
        if recipient.notify & !NOTIFY_ALL != 0 {
            return Err(RecordFault::Value("notify"));
        }
        self.bytes.push(recipient.notify);
        put_text(&mut self.bytes, "mailbox", Some(recipient.mailbox))?;
        put_text(&mut self.bytes, "orcpt", recipient.orcpt)?;
        self.count = self.count.checked_add(1).ok_or(RecordFault::TooLong("recipients"))?;
        Ok(())
    }

    pub fn clear(&mut self) {
        self.count = 0;
        self.bytes.clear();
    }

    pub fn len(&self) -> usize {
        self.count as usize
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn as_recipients(&self) -> Recipients<'_> {
        Recipients { count: self.count, bytes: &self.bytes }
    }
}
