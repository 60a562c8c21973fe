//! An envelope under construction, from MAIL, RCPT and the connection.
//!
//! All texts are in one buffer, which is reused for many messages, so that building an envelope does
//! not allocate in the long run.

use std::time::Instant;

use crate::queue::Recipient;
use crate::queue::Recipients;
use crate::queue::RecipientsBuf;
use crate::queue::record::outer::RecordFault;
use crate::wire::smtp::transaction::BodyType;
use crate::wire::smtp::transaction::Ret;

/// The texts of an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text {
    /// Absent for the null sender.
    Sender,
    /// ENVID (RFC 3461), xtext as given.
    EnvelopeId,
    /// AUTH of MAIL (RFC 4954), xtext as given. It names no authenticated user.
    Auth,
    /// The name that the client gave in HELO or EHLO.
    Helo,
    /// The name of the client in DNS.
    PeerName,
}

const TEXTS: usize = Text::PeerName as usize + 1;

/// A gathered envelope.
#[derive(Clone, Debug)]
pub struct EnvelopeBuf {
    text: String,
    /// Where each text begins and ends.
    spans: [Option<(u32, u32)>; TEXTS],
    recipients: RecipientsBuf,
    pub smtputf8: bool,
    pub requiretls: bool,
    pub body_type: BodyType,
    pub ret: Option<Ret>,
    pub declared_bytes: Option<u64>,
    /// As the trace field names it: ESMTPS, HTTP ...
    pub protocol: &'static str,
    /// Version and cipher.
    pub tls: Option<(&'static str, &'static str)>,
    /// When the sender was named, and when the content began.
    pub began: Instant,
    pub content_began: Instant,
}

impl EnvelopeBuf {
    pub fn new(protocol: &'static str) -> EnvelopeBuf {
        let now = Instant::now();
        EnvelopeBuf {
            text: String::new(),
            spans: [None; TEXTS],
            recipients: RecipientsBuf::default(),
            smtputf8: false,
            requiretls: false,
            body_type: BodyType::SevenBit,
            ret: None,
            declared_bytes: None,
            protocol,
            tls: None,
            began: now,
            content_began: now,
        }
    }

    /// An empty envelope that begins now and keeps the memory of this one.
    pub fn emptied(mut self) -> EnvelopeBuf {
        self.text.clear();
        self.recipients.clear();
        EnvelopeBuf { text: self.text, recipients: self.recipients, ..EnvelopeBuf::new("") }
    }

    /// Sets a text once.
    pub fn set(&mut self, which: Text, text: &str) {
        let from = self.text.len() as u32;
        self.text.push_str(text);
        self.spans[which as usize] = Some((from, self.text.len() as u32));
    }

    pub fn get(&self, which: Text) -> Option<&str> {
        let (from, to) = self.spans[which as usize]?;
        Some(&self.text[from as usize..to as usize])
    }

    pub fn push(&mut self, recipient: &Recipient<'_>) -> Result<(), RecordFault> {
        self.recipients.push(recipient)
    }

    pub fn recipients(&self) -> Recipients<'_> {
        self.recipients.as_recipients()
    }
}
