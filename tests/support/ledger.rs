//! The ledger: what became of each message as its sender saw it, and the audit that compares this
//! with a spool. It lives in the test's own memory, out of reach of every fault.
//!
//! ```text
//! fate           what the sender saw                          in the spool afterwards
//! Unfinished     the body was never sent to its end           must not be there
//! Refused        5xx                                          must not be there
//! InDoubt        no reply, or 4xx, to a whole body            may be there, whole
//! Acknowledged   250                                          must be there, whole
//! Removing       told to delete it, no answer seen            may be there, whole
//! Removed        the deletion was acknowledged                must not be there
//! Damaged        the test itself destroyed it                 must not be there
//! ```
//! After an audit nothing is in doubt any more: what was found stays promised, what was not found
//! must not come back.

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
use ringpost::queue::inspect;
use ringpost::queue::inspect::ListFilter;
use ringpost::queue::inspect::ListRow;

/// A message of which everything follows from these numbers, so that an alien shows.
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

/// A body whose every line tells whose it is and where it stands.
pub fn numbered_body(number: u64, bytes: usize) -> Vec<u8> {
    let head = format!(
        "From: <s{number}@ledger.test>\r\nMessage-ID: <{number}@ledger.test>\r\n\
         Subject: number {number}\r\n\r\n"
    );
    let mut body = head.into_bytes();
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    while body.len() < bytes {
        // Dots first in a line now and then, for they are doubled on the way.
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
pub enum Fate {
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
    fate: Fate,
    id: Option<PublicId>,
    /// Its body and recipients were read back since.
    compared: bool,
}

#[derive(Default)]
struct Book {
    entries: Vec<Entry>,
    /// Refusals by code and enhanced code.
    replies: BTreeMap<String, usize>,
    acknowledged: usize,
}

/// What was sent, and what its senders saw.
#[derive(Default)]
pub struct Ledger {
    book: Mutex<Book>,
}

/// What stands among the refusals for a reply that never came.
pub const SILENCE: &str = "silence";

/// How much of the spool an audit reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Every message's envelope; bodies that no audit has read before.
    Fresh,
    Everything,
}

impl Ledger {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("nobody panics over the book")
    }

    /// A new message. Until told otherwise its body was not sent to the end.
    pub fn begin(&self, bytes: usize, recipients: usize) -> Mail {
        let mut book = self.book();
        let mail = Mail { number: book.entries.len() as u64, bytes, recipients };
        let fate = Fate::Unfinished;
        book.entries.push(Entry { mail, fate, id: None, compared: false });
        mail
    }

    pub fn note(&self, mail: Mail, fate: Fate) {
        self.book().entries[mail.number as usize].fate = fate;
    }

    /// Notes the reply to a whole body.
    pub fn note_reply(&self, mail: Mail, reply: &str) {
        let mut book = self.book();
        let entry = &mut book.entries[mail.number as usize];
        match reply.as_bytes().first() {
            Some(b'2') => {
                entry.fate = Fate::Acknowledged;
                entry.id = reply.split_whitespace().find_map(|word| word.parse().ok());
                assert!(entry.id.is_some(), "a reply that names no message: {reply}");
                book.acknowledged += 1;
            }
            Some(b'5') => entry.fate = Fate::Refused,
            _ => entry.fate = Fate::InDoubt,
        }
        drop(book);
        self.count_refusal(reply);
    }

    /// Counts a reply that was no 2xx or 3xx, to whatever command.
    pub fn count_refusal(&self, reply: &str) {
        if reply.starts_with(['4', '5']) {
            let code = reply.get(..9).unwrap_or(reply).to_owned();
            *self.book().replies.entry(code).or_default() += 1;
        }
    }

    /// Counts a reply that did not come although the connection stood for `PATIENCE`.
    pub fn count_silence(&self) {
        *self.book().replies.entry(SILENCE.to_owned()).or_default() += 1;
    }

    /// Refusals so far whose code starts like that.
    pub fn refusals(&self, code: &str) -> usize {
        let book = self.book();
        book.replies.iter().filter(|(seen, _)| seen.starts_with(code)).map(|(_, count)| count).sum()
    }

    /// All refusals so far, by code.
    pub fn replies(&self) -> BTreeMap<String, usize> {
        self.book().replies.clone()
    }

    /// 250s so far.
    pub fn acknowledged(&self) -> usize {
        self.book().acknowledged
    }

    /// Up to `count` acknowledged messages, those after `after` first.
    pub fn some_acknowledged(&self, count: usize, after: u64) -> Vec<(Mail, PublicId)> {
        let book = self.book();
        let ours = book.entries.iter().skip(after as usize);
        let ours = ours.filter(|entry| entry.fate == Fate::Acknowledged);
        ours.filter_map(|entry| Some((entry.mail, entry.id?))).take(count).collect()
    }

    /// Opens the spool as a start does, repairs and all, and compares it with the book.
    pub fn audit_stopped(&self, path: &Path, reading: Reading) -> Audit {
        let spool = open(path, Access::Serve);
        self.audit(&spool, reading)
    }

    /// Compares the spool with the book.
    pub fn audit(&self, spool: &Spool, reading: Reading) -> Audit {
        let everything = ListFilter { limit: usize::MAX, after: None };
        let rows = inspect::list(spool, everything).expect("the spool can be listed");
        let balance = queue::audit::audit(spool).expect("the ledger can be read");
        assert!(balance.adds_up, "the spool's own ledger does not add up: {balance:?}");
        let mut book = self.book();
        let mut audit = Audit { acknowledged: book.acknowledged, ..Audit::default() };
        let mut there = HashSet::new();
        for row in &rows {
            let sender = row.sender.as_deref().unwrap_or_default();
            let number = Mail::number_of(sender).unwrap_or(u64::MAX);
            let Some(entry) = book.entries.get_mut(number as usize) else {
                audit.aliens.push(format!("{}: nobody sent it: {row:?}", row.id));
                continue;
            };
            if !there.insert(number) {
                audit.duplicates.push(format!("{}: {:?} is there twice", row.id, entry.mail));
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

/// What an audit found. Sound means that all the lists are empty.
#[derive(Debug, Default)]
pub struct Audit {
    /// 250s that were ever seen.
    pub acknowledged: usize,
    /// Acknowledged ones that are there, whole.
    pub recovered: usize,
    /// Removed on request, as acknowledged.
    pub removed: usize,
    /// In doubt until now, and there.
    pub kept_in_doubt: usize,
    /// In doubt until now, and not there.
    pub gone_in_doubt: usize,
    pub lost: Vec<String>,
    pub aliens: Vec<String>,
    pub duplicates: Vec<String>,
    /// There although its sender was told that it is not.
    pub premature: Vec<String>,
}

impl Audit {
    fn meet(&mut self, entry: &mut Entry, row: &ListRow, spool: &Spool, reading: Reading) {
        let mail = entry.mail;
        let id: PublicId = row.id.parse().expect("a listed id is an id");
        match entry.fate {
            Fate::Acknowledged if entry.id.is_some_and(|known| known != id) => {
                let promised = entry.id;
                self.aliens.push(format!("{id}: {mail:?} was promised as {promised:?}"));
            }
            Fate::Acknowledged => self.recovered += 1,
            Fate::InDoubt | Fate::Removing => {
                self.kept_in_doubt += 1;
                entry.fate = Fate::Acknowledged;
                entry.id = Some(id);
            }
            Fate::Unfinished | Fate::Refused | Fate::Removed | Fate::Damaged => {
                self.premature.push(format!("{id}: {mail:?} is there, {:?}", entry.fate));
            }
        }
        if !entry.compared || reading == Reading::Everything {
            match compare(spool, id, mail) {
                Ok(()) => entry.compared = true,
                Err(why) => self.aliens.push(format!("{id}: {mail:?}: {why}")),
            }
        }
    }

    fn miss(&mut self, entry: &mut Entry) {
        match entry.fate {
            Fate::Acknowledged => self.lost.push(format!("{:?} as {:?}", entry.mail, entry.id)),
            Fate::InDoubt => {
                self.gone_in_doubt += 1;
                entry.fate = Fate::Unfinished;
            }
            Fate::Removing | Fate::Removed => {
                self.removed += 1;
                entry.fate = Fate::Removed;
            }
            Fate::Unfinished | Fate::Refused | Fate::Damaged => (),
        }
    }

    pub fn is_sound(&self) -> bool {
        let lists = [&self.lost, &self.aliens, &self.duplicates, &self.premature];
        lists.iter().all(|list| list.is_empty())
    }

    #[track_caller]
    pub fn assert_sound(&self, when: &str) {
        assert!(self.is_sound(), "{when}: {self}\n{:#?}", self.samples());
    }

    fn samples(&self) -> HashMap<&'static str, Vec<&String>> {
        let lists = [
            ("lost", &self.lost),
            ("alien", &self.aliens),
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
            self.aliens.len(),
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
    let body = whole.get(details.head_bytes as usize..).unwrap_or_default();
    let sent = mail.body();
    match body == sent {
        true => Ok(()),
        false => Err(format!("its body of {} bytes is not the one of {}", body.len(), sent.len())),
    }
}

/// Opens a spool within the test, as a start would.
#[track_caller]
pub fn open(path: &Path, access: Access) -> Spool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let mut options = SpoolOptions { access, ..SpoolOptions::new(path, now.as_millis() as u64) };
    // A test that fails over what it finds shows what the opening had to say.
    options.on_notice = Arc::new(|notice| println!("{notice}"));
    Spool::open(options).unwrap_or_else(|fault| panic!("{fault}; {}", fault.remedy()))
}
