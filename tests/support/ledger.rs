//! The ledger: the state of each message from its sender's view, and the audit that compares it
//! with a spool. It is in the memory of the test, out of reach of all faults.
//!
//! ```text
//! state          what the sender saw                          in the spool afterwards
//! Unfinished     the body was not sent to its end             must be absent
//! Refused        5xx                                          must be absent
//! InDoubt        no reply, or 4xx, to a complete body         may be present, complete
//! Acknowledged   250                                          must be present, complete
//! Removing       deletion requested, no answer                may be present, complete
//! Removed        the deletion was acknowledged                must be absent
//! Damaged        destroyed by the test itself                 must be absent
//! ```
//! An audit resolves all doubts: a message that was found counts as acknowledged, one that was not
//! found must stay absent.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::SystemTime;

use ringpost::base::PublicId;
use ringpost::queue;
use ringpost::queue::Access;
use ringpost::queue::Spool;
use ringpost::queue::SpoolOptions;
use ringpost::queue::admin::inspect;
use ringpost::queue::admin::inspect::ListFilter;
use ringpost::queue::admin::inspect::ListRow;
use ringpost::queue::admin::select::Wanted;

/// A message that is fully determined by these numbers, so that a foreign one is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mail {
    pub number: u64,
    pub bytes: usize,
    pub recipients: usize,
}

impl Mail {
    pub fn sender(self) -> String {
        format!("s{}@ledger.test", self.number)
    }

    pub fn recipients(self) -> impl Iterator<Item = String> {
        (0..self.recipients).map(move |place| format!("r{place}-{}@ledger.test", self.number))
    }

    pub fn body(self) -> Vec<u8> {
        numbered_body(self.number, self.bytes)
    }

    fn number_of(sender: &str) -> Option<u64> {
        sender.strip_prefix('s')?.strip_suffix("@ledger.test")?.parse().ok()
    }
}

/// A body in which every line contains the message's number and its own position.
pub fn numbered_body(number: u64, bytes: usize) -> Vec<u8> {
    let head = format!(
        "From: <s{number}@ledger.test>\r\nMessage-ID: <{number}@ledger.test>\r\n\
         Subject: number {number}\r\n\r\n"
    );
    let mut body = head.into_bytes();
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    while body.len() < bytes {
        // Some lines start with a dot, which is doubled in transit.
        if state & 15 == 3 {
            body.push(b'.');
        }
        body.extend_from_slice(format!("{number:016x}").as_bytes());
        for _ in 0..4 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            body.extend_from_slice(&hex(state));
        }
        body.extend_from_slice(b"\r\n");
    }
    body
}

fn hex(value: u64) -> [u8; 16] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    std::array::from_fn(|place| DIGITS[(value >> (4 * place)) as usize & 15])
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailState {
    Unfinished,
    Refused,
    InDoubt,
    Acknowledged,
    Removing,
    Removed,
    Damaged,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    mail: Mail,
    state: MailState,
    id: Option<PublicId>,
    /// An audit has read its body and recipients.
    compared: bool,
}

#[derive(Default)]
struct Book {
    entries: Vec<Entry>,
    /// Refusals by code and enhanced code.
    replies: BTreeMap<String, usize>,
    acknowledged: usize,
}

/// The messages sent, and the states that their senders saw.
#[derive(Default)]
pub struct Ledger {
    book: Mutex<Book>,
}

/// The key among the refusals for a missing reply.
pub const SILENCE: &str = "silence";

/// How much of the spool an audit reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Every message's envelope, and the bodies that no audit has read before.
    Fresh,
    Everything,
}

impl Ledger {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("no thread panics with the lock")
    }

    /// A new message in state `Unfinished`.
    pub fn begin(&self, bytes: usize, recipients: usize) -> Mail {
        let mut book = self.book();
        let mail = Mail { number: book.entries.len() as u64, bytes, recipients };
        let state = MailState::Unfinished;
        book.entries.push(Entry { mail, state, id: None, compared: false });
        mail
    }

    pub fn note(&self, mail: Mail, state: MailState) {
        self.book().entries[mail.number as usize].state = state;
    }

    /// Records the reply to a complete body.
    pub fn note_reply(&self, mail: Mail, reply: &str) {
        let mut book = self.book();
        let entry = &mut book.entries[mail.number as usize];
        match reply.as_bytes().first() {
            Some(b'2') => {
                entry.state = MailState::Acknowledged;
                entry.id = reply.split_whitespace().find_map(|word| word.parse().ok());
                assert!(entry.id.is_some(), "a reply without a message id: {reply}");
                book.acknowledged += 1;
            }
            Some(b'5') => entry.state = MailState::Refused,
            _ => entry.state = MailState::InDoubt,
        }
        drop(book);
        self.count_refusal(reply);
    }

    /// Counts a reply other than 2xx and 3xx, to any command.
    pub fn count_refusal(&self, reply: &str) {
        if reply.starts_with(['4', '5']) {
            let code = reply.get(..9).unwrap_or(reply).to_owned();
            *self.book().replies.entry(code).or_default() += 1;
        }
    }

    /// Counts a missing reply on a connection that stayed open for `PATIENCE`.
    pub fn count_silence(&self) {
        *self.book().replies.entry(SILENCE.to_owned()).or_default() += 1;
    }

    /// Number of refusals whose code starts with `code`.
    pub fn refusals(&self, code: &str) -> usize {
        let book = self.book();
        book.replies.iter().filter(|(seen, _)| seen.starts_with(code)).map(|(_, count)| count).sum()
    }

    /// All refusals, by code.
    pub fn replies(&self) -> BTreeMap<String, usize> {
        self.book().replies.clone()
    }

    /// Number of 250 replies.
    pub fn acknowledged(&self) -> usize {
        self.book().acknowledged
    }

    /// Up to `count` acknowledged messages, starting after `after`.
    pub fn some_acknowledged(&self, count: usize, after: u64) -> Vec<(Mail, PublicId)> {
        let book = self.book();
        let ours = book.entries.iter().skip(after as usize);
        let ours = ours.filter(|entry| entry.state == MailState::Acknowledged);
        ours.filter_map(|entry| Some((entry.mail, entry.id?))).take(count).collect()
    }

    /// Opens the spool as a start does, with its repairs, and compares it with the ledger.
    pub fn audit_stopped(&self, path: &Path, reading: Reading) -> Audit {
        let spool = open(path, Access::Serve);
        self.audit(&spool, reading)
    }

    /// Compares the spool with the ledger.
    pub fn audit(&self, spool: &Spool, reading: Reading) -> Audit {
        let everything = ListFilter { limit: usize::MAX, after: None };
        let rows =
            inspect::list(spool, everything, &Wanted::default()).expect("the spool can be listed");
        let balance = queue::admin::audit::audit(spool).expect("the spool's ledger is readable");
        assert!(balance.adds_up, "the spool's own ledger does not add up: {balance:?}");
        let mut book = self.book();
        let mut audit = Audit { acknowledged: book.acknowledged, ..Audit::default() };
        let mut there = HashSet::new();
        for row in &rows {
            let sender = row.sender.as_deref().unwrap_or_default();
            let number = Mail::number_of(sender).unwrap_or(u64::MAX);
            let Some(entry) = book.entries.get_mut(number as usize) else {
                audit.unknown.push(format!("{}: never sent: {row:?}", row.id));
                continue;
            };
            if !there.insert(number) {
                audit.duplicates.push(format!("{}: {:?} is present twice", row.id, entry.mail));
            }
            audit.meet(entry, row, spool, reading);
        }
        for entry in &mut book.entries {
            if !there.contains(&entry.mail.number) {
                audit.miss(entry);
            }
        }
        audit
    }
}

/// The findings of an audit. All lists are empty if the spool is sound.
#[derive(Debug, Default)]
pub struct Audit {
    /// Messages ever acknowledged with 250.
    pub acknowledged: usize,
    /// Acknowledged messages that are present and complete.
    pub recovered: usize,
    /// Messages whose removal was acknowledged.
    pub removed: usize,
    /// Messages that were in doubt and are present.
    pub kept_in_doubt: usize,
    /// Messages that were in doubt and are absent.
    pub gone_in_doubt: usize,
    pub lost: Vec<String>,
    pub unknown: Vec<String>,
    pub duplicates: Vec<String>,
    /// Present, although the sender was told otherwise.
    pub premature: Vec<String>,
}

impl Audit {
    fn meet(&mut self, entry: &mut Entry, row: &ListRow, spool: &Spool, reading: Reading) {
        let mail = entry.mail;
        let id: PublicId = row.id.parse().expect("a listed id is valid");
        match entry.state {
            MailState::Acknowledged if entry.id.is_some_and(|known| known != id) => {
                let promised = entry.id;
                self.unknown.push(format!("{id}: {mail:?} was acknowledged as {promised:?}"));
            }
            MailState::Acknowledged => self.recovered += 1,
            MailState::InDoubt | MailState::Removing => {
                self.kept_in_doubt += 1;
                entry.state = MailState::Acknowledged;
                entry.id = Some(id);
            }
            MailState::Unfinished
            | MailState::Refused
            | MailState::Removed
            | MailState::Damaged => {
                self.premature.push(format!("{id}: {mail:?} is there, {:?}", entry.state));
            }
        }
        if !entry.compared || reading == Reading::Everything {
            match compare(spool, id, mail) {
                Ok(()) => entry.compared = true,
                Err(why) => self.unknown.push(format!("{id}: {mail:?}: {why}")),
            }
        }
    }

    fn miss(&mut self, entry: &mut Entry) {
        match entry.state {
            MailState::Acknowledged => {
                self.lost.push(format!("{:?} as {:?}", entry.mail, entry.id))
            }
            MailState::InDoubt => {
                self.gone_in_doubt += 1;
                entry.state = MailState::Unfinished;
            }
            MailState::Removing | MailState::Removed => {
                self.removed += 1;
                entry.state = MailState::Removed;
            }
            MailState::Unfinished | MailState::Refused | MailState::Damaged => (),
        }
    }

    pub fn is_sound(&self) -> bool {
        let lists = [&self.lost, &self.unknown, &self.duplicates, &self.premature];
        lists.iter().all(|list| list.is_empty())
    }

    #[track_caller]
    pub fn assert_sound(&self, when: &str) {
        assert!(self.is_sound(), "{when}: {self}\n{:#?}", self.samples());
    }

    fn samples(&self) -> HashMap<&'static str, Vec<&String>> {
        let lists = [
            ("lost", &self.lost),
            ("alien", &self.unknown),
            ("duplicate", &self.duplicates),
            ("premature", &self.premature),
        ];
        lists.into_iter().map(|(name, list)| (name, list.iter().take(5).collect())).collect()
    }
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} acknowledged, {} recovered, {} removed, {} in doubt and kept, {} in doubt and gone; \
             {} lost, {} alien, {} duplicate, {} premature",
            self.acknowledged,
            self.recovered,
            self.removed,
            self.kept_in_doubt,
            self.gone_in_doubt,
            self.lost.len(),
            self.unknown.len(),
            self.duplicates.len(),
            self.premature.len(),
        )
    }
}

fn compare(spool: &Spool, id: PublicId, mail: Mail) -> Result<(), String> {
    let id = spool.local_id(id).map_err(|fault| fault.to_string())?;
    let details = inspect::show(spool, id).map_err(|fault| fault.to_string())?;
    let recipients = details.recipients.iter().map(|row| row.mailbox.as_str());
    if !recipients.eq(mail.recipients()) {
        return Err(format!("its recipients are {:?}", details.recipients));
    }
    if details.jobs.len() != 1 || details.jobs[0].fault.is_some() {
        return Err(format!("its jobs are {:?}", details.jobs));
    }
    let pieces = inspect::cat(spool, id).map_err(|fault| fault.to_string())?;
    let whole: Vec<u8> =
        pieces.collect::<Result<Vec<_>, _>>().map_err(|fault| fault.to_string())?.concat();
    let kept = without_received(&whole);
    let sent = mail.body();
    match kept == sent {
        true => Ok(()),
        false => Err(format!("its text of {} bytes is not the one of {}", kept.len(), sent.len())),
    }
}

/// The body of a message: what is behind its header block.
pub fn without_header(message: &[u8]) -> &[u8] {
    let end = message.windows(4).position(|four| four == b"\r\n\r\n");
    &message[end.expect("the mail of the ledger has a header") + 4..]
}

/// A message without the Received field that the server put on top.
fn without_received(message: &[u8]) -> &[u8] {
    let ends = message.windows(2).enumerate().filter(|(_, pair)| *pair == b"\r\n");
    let mut ends = ends.map(|(at, _)| at + 2);
    let end = ends.find(|end| !matches!(message.get(*end), Some(b' ' | b'\t')));
    end.filter(|_| message.starts_with(b"Received: ")).map_or(message, |end| &message[end..])
}

/// Opens a spool in the test process, as a start does.
#[track_caller]
pub fn open(path: &Path, access: Access) -> Spool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let mut options = SpoolOptions { access, ..SpoolOptions::new(path, now.as_millis() as u64) };
    // The output of the opening helps to explain a failure.
    options.on_notice = Arc::new(|notice| println!("{notice}"));
    Spool::open(options).unwrap_or_else(|fault| panic!("{fault}; {}", fault.remedy()))
}
