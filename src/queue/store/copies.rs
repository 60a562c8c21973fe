//! Copies of a partition's counts and list of files outside its database, to reveal its damage.
//!
//! Owner:    the partition. The commit thread writes the counts together with the ledger.
//! Files:    `<spool>/copies/pNN.counts`: the ledger, in two slots written in turn.
//!           `<spool>/copies/pNN.suspect`: the running server found an unreadable record; the next
//!           start reads everything. Empty once the repair that it asked for is made.
//!           `<spool>/copies/pNN.lost`: a table was dropped in place, which the database does not
//!           know yet; see `in_place`.
//!           `<spool>/copies/pNN-MANIFEST-*`: RocksDB's list of its files; see `manifest`.
//! Promise:  the counts are never ahead of a sound database, because they are written after the batch
//!           that they count. So a database that is behind them has lost rows.
//! Cost:     one `pwrite` per batch that changes a count, without a sync. After kill -9 the counts
//!           are exact; after a power cut they may be behind by what the kernel had not written.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;

use crate::base::PartitionId;
use crate::queue::record::ledger::Ledger;
use crate::queue::record::lost::Lost;

/// The folder of the spool that holds these files.
pub const COPIES: &str = "copies";

/// A page each, so that no write touches both.
const SLOT_BYTES: usize = 4096;
const SLOTS: usize = 2;

/// Where the files of one partition are.
#[derive(Clone, Debug)]
pub struct Copies {
    folder: PathBuf,
    partition: PartitionId,
}

/// The copy of the ledger, as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopiedLedger {
    /// There is no such file: a new spool, or one of an older Ringpost.
    Never,
    Ledger(Ledger),
    Unreadable,
}

impl CopiedLedger {
    /// The ledger, or one that counts nothing.
    pub fn ledger(self) -> Ledger {
        match self {
            CopiedLedger::Ledger(ledger) => ledger,
            CopiedLedger::Never | CopiedLedger::Unreadable => Ledger::default(),
        }
    }
}

impl Copies {
    pub fn new(spool: &Path, partition: PartitionId) -> Copies {
        Copies { folder: spool.join(COPIES), partition }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The beginning of the name of each file of this partition.
    fn name(&self, rest: &str) -> PathBuf {
        self.folder.join(format!("p{:02}{rest}", self.partition.0))
    }

    /// Where the copy of a manifest is.
    pub fn of_manifest(&self, name: &OsStr) -> PathBuf {
        let mut file = self.name("-");
        file.as_mut_os_string().push(name);
        file
    }

    /// The copies of manifests that there are, each with the name of its original.
    pub fn manifests(&self) -> io::Result<Vec<(OsString, PathBuf)>> {
        let mark = format!("p{:02}-", self.partition.0);
        let mut found = Vec::new();
        let entries = match fs::read_dir(&self.folder) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(found),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().and_then(OsStr::to_str);
            if let Some(name) = name.and_then(|name| name.strip_prefix(&mark)) {
                found.push((name.into(), path));
            }
        }
        Ok(found)
    }

    /// Read this before the database is opened: later, the counts of a running server may be ahead
    /// of the opened state.
    pub fn counted(&self) -> io::Result<CopiedLedger> {
        match fs::read(self.name(".counts")) {
            Ok(bytes) => Ok(latest(&bytes).map_or(CopiedLedger::Unreadable, CopiedLedger::Ledger)),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(CopiedLedger::Never),
            Err(cause) => Err(cause),
        }
    }

    /// Makes the file of the counts anew, or goes on with it.
    pub fn keep_counts(&self, ledger: &Ledger) -> io::Result<Counts> {
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.name(".counts"))?;
        file.set_len((SLOTS * SLOT_BYTES) as u64)?;
        let mut counts = Counts { file, slot: 0 };
        for _ in 0..SLOTS {
            counts.write(ledger)?;
        }
        counts.file.sync_all()?;
        File::open(&self.folder)?.sync_all()?;
        Ok(counts)
    }

    /// Makes the next start read everything.
    pub fn suspect(&self, why: &str) -> io::Result<()> {
        fs::write(self.name(".suspect"), why)
    }

    /// Why everything must be read, if it must.
    pub fn suspicion(&self) -> Option<String> {
        // An unreadable file is a suspicion too.
        let path = self.name(".suspect");
        path.exists().then(|| fs::read_to_string(path).unwrap_or_default())
    }

    /// The repair that the suspicion asked for is made, and the next start must not make it again: it
    /// still reads everything. Needs no space.
    pub fn note_repaired(&self) -> io::Result<()> {
        match File::options().write(true).open(self.name(".suspect")) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
            file => file.and_then(|file| file.set_len(0).and_then(|()| file.sync_all())),
        }
    }

    /// Notes, durably, which rows the next start must take for lost.
    pub fn note_lost(&self, lost: Lost) -> io::Result<()> {
        let path = self.name(".lost");
        fs::write(&path, lost.union(self.lost()).to_bytes())?;
        File::open(path)?.sync_all()?;
        File::open(&self.folder)?.sync_all()
    }

    /// What an earlier start noted as lost.
    pub fn lost(&self) -> Lost {
        fs::read(self.name(".lost")).map_or(Lost::default(), |bytes| Lost::from_bytes(&bytes))
    }

    pub fn clear_suspicion(&self) -> io::Result<()> {
        for name in [".suspect", ".lost"] {
            match fs::remove_file(self.name(name)) {
                Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
                _ => (),
            }
        }
        Ok(())
    }
}

/// The larger ledger of the slots: counts only grow.
fn latest(bytes: &[u8]) -> Option<Ledger> {
    let slots = bytes.chunks(SLOT_BYTES).take(SLOTS);
    let read = |slot: &[u8]| Ledger::decode_front(slot).ok();
    slots.filter_map(read).reduce(|one, other| one.or_more(&other))
}

/// The open file of the counts.
#[derive(Debug)]
pub struct Counts {
    file: File,
    /// The slot to be written next.
    slot: usize,
}

impl Counts {
    pub fn write(&mut self, ledger: &Ledger) -> io::Result<()> {
        self.file.write_all_at(&ledger.encode(), (self.slot * SLOT_BYTES) as u64)?;
        self.slot = (self.slot + 1) % SLOTS;
        Ok(())
    }
}

impl Drop for Counts {
    fn drop(&mut self) {
        // Without it the counts reach the disk a little later, as after every batch.
        let _ = self.file.sync_data();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::queue::record::ledger::Tally;

    #[test]
    fn one_damaged_slot_costs_the_last_write_at_most() {
        let spool = tempfile::tempdir().unwrap();
        fs::create_dir(spool.path().join(COPIES)).unwrap();
        let copies = Copies::new(spool.path(), PartitionId(3));
        assert_eq!(copies.counted().unwrap(), CopiedLedger::Never);
        let count = |taken, delivered| Ledger {
            taken,
            ended: Tally { delivered, ..Tally::default() },
            ..Ledger::default()
        };
        let mut counts = copies.keep_counts(&count(1, 0)).unwrap();
        counts.write(&count(2, 0)).unwrap();
        counts.write(&count(2, 1)).unwrap();
        let path = spool.path().join("copies/p03.counts");
        let whole = fs::read(&path).unwrap();
        for (name, spoil, expected) in [
            ("nothing", &[][..], CopiedLedger::Ledger(count(2, 1))),
            ("the slot written last", &[SLOT_BYTES + 9], CopiedLedger::Ledger(count(2, 0))),
            ("the other slot", &[9], CopiedLedger::Ledger(count(2, 1))),
            ("both", &[9, SLOT_BYTES + 9], CopiedLedger::Unreadable),
        ] {
            let mut bytes = whole.clone();
            spoil.iter().for_each(|place| bytes[*place] ^= 1);
            fs::write(&path, bytes).unwrap();
            assert_eq!(copies.counted().unwrap(), expected, "{name}");
        }
    }
}
