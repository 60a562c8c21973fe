//! `<spool>/limits` on disk: what was sent under rates that outlive the process.
//!
//! Owner:    one thread of the process. Shards give it changed limits, and read what is durable from
//!           a counter; they never wait.
//! Promise:  the file is written, synced and renamed, so that a crash leaves the old or the new one,
//!           and only then is a change reported as durable. A damaged file never stops a start: it
//!           is renamed, the caller is told, and all windows begin empty.
//! Failure:  a file that cannot be written is tried again each second. Until then mail under stored
//!           rates waits, because a crash would forget what was sent.
//! Bounds:   limits of which something still counts; the others are dropped at each write. Changes
//!           that come during a write are written together.

use std::collections::HashMap;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::base::Mono;
use crate::base::Wall;
use crate::delivery::limit_record::Stamp;
use crate::delivery::limit_record::StoredLimit;
use crate::delivery::limit_record::decode;
use crate::delivery::limit_record::encode;

const FILE: &str = "limits";
const RETRY: Duration = Duration::from_secs(1);
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const UPTIME: &str = "/proc/uptime";

/// What an earlier process has sent: limits by key, with their ages at `read`. Immutable, shared.
#[derive(Debug, Default)]
pub struct SentBefore {
    limits: HashMap<u64, StoredLimit>,
    read: Mono,
}

impl SentBefore {
    /// The limits of a file that was written so long before it was read.
    pub(in crate::delivery) fn new(
        limits: impl IntoIterator<Item = (u64, StoredLimit)>,
        (down_ms, read): (u64, Mono),
    ) -> SentBefore {
        let limits = limits.into_iter().map(|(key, mut limit)| {
            limit.age_ms += down_ms;
            limit.settle_ahead();
            (key, limit)
        });
        SentBefore { limits: limits.collect(), read }
    }

    /// What is to be counted by a limit that is made now.
    pub fn of(&self, key: u64, now: Mono) -> Option<StoredLimit> {
        let stored = self.limits.get(&key)?;
        let age_ms = stored.age_ms + now.ms_since(self.read);
        Some(StoredLimit { age_ms, ..stored.clone() })
    }
}

/// One shard's way to the file.
#[derive(Debug)]
pub struct LimitSaver {
    changes: mpsc::Sender<Change>,
    durable: Arc<AtomicU64>,
    given: u64,
}

#[derive(Debug)]
struct Change {
    limits: Vec<(u64, StoredLimit)>,
    at: Mono,
    number: u64,
    durable: Arc<AtomicU64>,
}

impl LimitSaver {
    /// Has changed limits written.
    pub fn save(&mut self, limits: Vec<(u64, StoredLimit)>, at: Mono) {
        self.given += 1;
        let durable = Arc::clone(&self.durable);
        let change = Change { limits, at, number: self.given, durable };
        // The thread ends with the process: a change after that is never durable, and nothing is
        // sent under it.
        let _ = self.changes.send(change);
    }

    /// Whether all that was given is durable.
    pub fn is_durable(&self) -> bool {
        self.durable.load(Ordering::Acquire) == self.given
    }
}

/// The file and its thread. The thread ends when this and all savers are dropped.
pub struct LimitFile {
    changes: mpsc::Sender<Change>,
    pub sent_before: Arc<SentBefore>,
}

impl LimitFile {
    /// Reads the file of this spool and starts its thread. Also answers what is wrong with the file.
    /// `tell` hears of each failed write.
    pub fn open(
        folder: &Path,
        tell: impl Fn(&io::Error) + Send + 'static,
    ) -> io::Result<(LimitFile, Option<String>)> {
        let (sent_before, wrong) = read(folder);
        let (changes, received) = mpsc::channel();
        let limits = sent_before.limits.iter();
        let limits = limits.map(|(key, limit)| (*key, (limit.clone(), sent_before.read)));
        let mut writer = Writer { folder: folder.to_owned(), limits: limits.collect(), tell };
        thread::Builder::new().name("limits".to_owned()).spawn(move || writer.run(&received))?;
        Ok((LimitFile { changes, sent_before: Arc::new(sent_before) }, wrong))
    }

    pub fn saver(&self) -> LimitSaver {
        LimitSaver { changes: self.changes.clone(), durable: Arc::default(), given: 0 }
    }
}

struct Writer<T> {
    folder: PathBuf,
    /// With the time at which the ages were taken.
    limits: HashMap<u64, (StoredLimit, Mono)>,
    tell: T,
}

impl<T: Fn(&io::Error)> Writer<T> {
    fn run(&mut self, received: &mpsc::Receiver<Change>) {
        while let Ok(first) = received.recv() {
            let changes: Vec<_> = std::iter::once(first).chain(received.try_iter()).collect();
            let mut done = Vec::with_capacity(changes.len());
            for Change { limits, at, number, durable } in changes {
                self.limits.extend(limits.into_iter().map(|(key, limit)| (key, (limit, at))));
                done.push((number, durable));
            }
            while let Err(cause) = self.write() {
                (self.tell)(&cause);
                thread::sleep(RETRY);
            }
            for (number, durable) in done {
                durable.store(number, Ordering::Release);
            }
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let now = Mono::now();
        self.limits.retain(|_, (limit, at)| {
            let age_ms = limit.age_ms + now.ms_since(*at);
            limit.ahead > 0 || !StoredLimit { age_ms, ..limit.clone() }.is_over()
        });
        let limits = self.limits.iter();
        let limits = limits.map(|(key, (limit, at))| (*key, now.ms_since(*at), limit));
        let bytes = encode(&stamp(), limits);
        let fresh = self.folder.join(format!("{FILE}.new"));
        let mut file =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, self.folder.join(FILE))?;
        File::open(&self.folder)?.sync_all()
    }
}

fn read(folder: &Path) -> (SentBefore, Option<String>) {
    let path = folder.join(FILE);
    let read = Mono::now();
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
            return (SentBefore { read, ..SentBefore::default() }, None);
        }
        Err(cause) => return (SentBefore::default(), Some(put_aside(&path, &cause.to_string()))),
    };
    match decode(&bytes) {
        Ok((written, limits)) => {
            (SentBefore::new(limits, (stamp().ms_since(&written), read)), None)
        }
        Err(fault) => (
            SentBefore { read, ..SentBefore::default() },
            Some(put_aside(&path, &fault.to_string())),
        ),
    }
}

/// Renames an unreadable file, so that it can be examined.
fn put_aside(path: &Path, cause: &str) -> String {
    let aside = path.with_extension("bad");
    let moved = match fs::rename(path, &aside) {
        Ok(()) => format!("it was renamed to {}", aside.display()),
        Err(cause) => format!("renaming it failed too: {cause}"),
    };
    format!("{}: {cause}; {moved}; messages sent before the restart do not count", path.display())
}

/// Now, by all clocks there are. Without `/proc` only the wall clock counts.
fn stamp() -> Stamp {
    let boot = fs::read_to_string(BOOT_ID).unwrap_or_default();
    let digits = boot.bytes().filter_map(|digit| char::from(digit).to_digit(16));
    let mut boot = [0; 16];
    for (place, digit) in digits.take(32).enumerate() {
        boot[place / 2] |= (digit as u8) << (4 * (1 - place % 2));
    }
    let uptime = fs::read_to_string(UPTIME).unwrap_or_default();
    let seconds = uptime.split(' ').next().and_then(|text| text.parse::<f64>().ok());
    let wall = Wall::now();
    match seconds {
        Some(seconds) => Stamp { wall, boot, uptime_ms: (seconds * 1000.0) as u64 },
        None => Stamp { wall, boot: [0; 16], uptime_ms: wall.as_ms() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::limit_record::Slice;
    use crate::delivery::limit_record::StoredWindow;

    fn limit(count: u32, ahead: u32) -> StoredLimit {
        let slices = vec![Slice { age_ms: 0, count }];
        let windows = vec![StoredWindow { span_ms: 86_400_000, slices }];
        StoredLimit { age_ms: 0, ahead, windows }
    }

    fn open(folder: &Path) -> (LimitFile, Option<String>) {
        LimitFile::open(folder, |cause| panic!("{cause}")).expect("a thread starts")
    }

    fn counts(file: &LimitFile, key: u64) -> Vec<u32> {
        let stored = file.sent_before.of(key, Mono::now()).expect("it was saved");
        stored.windows[0].slices.iter().map(|slice| slice.count).collect()
    }

    fn save(saver: &mut LimitSaver, limits: Vec<(u64, StoredLimit)>) {
        saver.save(limits, Mono::now());
        while !saver.is_durable() {
            thread::yield_now();
        }
    }

    #[test]
    fn what_is_durable_is_known_after_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, wrong) = open(folder.path());
        assert_eq!(wrong, None, "a new spool has no file");
        let (mut first, mut second) = (file.saver(), file.saver());
        save(&mut first, vec![(1, limit(5, 2)), (2, limit(7, 0))]);
        save(&mut second, vec![(3, limit(9, 0))]);
        save(&mut first, vec![(2, limit(8, 0))]);
        assert!(file.sent_before.of(2, Mono::now()).is_none());
        let (file, wrong) = open(folder.path());
        assert_eq!(wrong, None);
        assert_eq!(
            (counts(&file, 1), counts(&file, 2), counts(&file, 3)),
            (vec![5, 2], vec![8], vec![9])
        );
        // Limits that no shard has touched are kept.
        save(&mut file.saver(), vec![(2, limit(1, 0))]);
        let (file, _) = open(folder.path());
        assert_eq!((counts(&file, 1), counts(&file, 2)), (vec![5, 2], vec![1]));
        assert_eq!(file.sent_before.of(4, Mono::now()), None);
    }

    #[test]
    fn a_bad_file_is_put_aside() {
        let folder = tempfile::tempdir().expect("a folder");
        for text in [&b"not a file of limits"[..], b"", b"RPLIMIT1 and then nothing"] {
            fs::write(folder.path().join(FILE), text).expect("it is written");
            let (file, wrong) = open(folder.path());
            let wrong = wrong.expect("it is told");
            assert!(wrong.contains("limits.bad"), "{wrong}");
            assert!(file.sent_before.limits.is_empty());
            assert_eq!(fs::read(folder.path().join("limits.bad")).expect("it is there"), text);
            assert_eq!(open(folder.path()).1, None);
        }
    }

    #[test]
    fn time_goes_on_in_a_stamp() {
        let (first, second) = (stamp(), stamp());
        assert_eq!(first.boot, second.boot);
        assert!(second.ms_since(&first) < 60_000);
    }
}
