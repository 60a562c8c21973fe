//! The cause of a RocksDB error. The crate returns only a text; this is the one place that parses it.

/// In the text of a write that RocksDB refused because the memtables are full. Nothing was written.
pub const STALL: &str = "Write stall";

/// The meaning of a RocksDB error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    DiskFull,
    Permission,
    Lock,
    /// The bytes on disk are damaged; a retry would not help.
    Damage,
    /// The bytes are valid, but for another version of Ringpost or RocksDB: unknown families or formats.
    Foreign,
    Other,
}

impl Cause {
    pub fn of(text: &str) -> Cause {
        let has = |word| text.contains(word);
        if has("While fsync") || has("While fdatasync") || has("While sync") {
            // With any errno: after a failed sync it is unknown which pages are on disk.
            Cause::Other
        } else if has("No space left on device")
            || has("Disk quota exceeded")
            || has("NoSpace")
            || has(STALL)
        {
            Cause::DiskFull
        } else if has("Permission denied") || has("Read-only file system") {
            Cause::Permission
        } else if has("lock hold by") || has("While lock file") {
            Cause::Lock
        } else if text.starts_with("Corruption") || has("No such file or directory") {
            Cause::Damage
        } else if text.starts_with("Invalid argument") || text.starts_with("Not implemented") {
            Cause::Foreign
        } else {
            Cause::Other
        }
    }
}

/// The number of the table in the text of an error. A damaged table affects many messages, a damaged
/// blob file only those with chunks in it.
pub fn table_in(text: &str) -> Option<u64> {
    let name = &text[..text.rfind(".sst")?];
    let digits = name.rfind(|letter: char| !letter.is_ascii_digit()).map_or(0, |place| place + 1);
    name[digits..].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_its_table() {
        for (text, table) in [
            ("Corruption: block checksum mismatch ... in /p00/000123.sst offset 0", Some(123)),
            ("IO error: No such file or directory: /p00/000007.sst: gone", Some(7)),
            ("Corruption: Bad table magic number in 12.sst", Some(12)),
            ("Corruption: blob", None),
            ("x.sst", None),
        ] {
            assert_eq!(table_in(text), table, "{text}");
        }
    }

    #[test]
    fn rocksdb_texts_are_told_apart() {
        for (name, text, cause) in [
            (
                "write",
                "IO error: No space left on device: While appending to file: x",
                Cause::DiskFull,
            ),
            ("quota at a write", "IO error: Disk quota exceeded: While appending", Cause::DiskFull),
            ("quota at a sync", "IO error: Disk quota exceeded: While fsync", Cause::Other),
            ("no room, and no flush", "Result incomplete: Write stall", Cause::DiskFull),
            ("sync", "IO error: Input/output error: While fdatasync: x", Cause::Other),
            ("locked", "IO error: lock hold by current process, acquire time 1", Cause::Lock),
            ("locked by other", "IO error: While lock file: /p/LOCK: Resource ...", Cause::Lock),
            ("crc", "Corruption: block checksum mismatch", Cause::Damage),
            ("no file", "IO error: No such file or directory: /p/1.sst", Cause::Damage),
            ("unknown family", "Invalid argument: Column families not opened: x", Cause::Foreign),
            ("no such family", "Invalid argument: Column family not found: due", Cause::Foreign),
            ("later format", "Not implemented: Unknown compression", Cause::Foreign),
            ("owner", "IO error: Permission denied: /p/LOCK", Cause::Permission),
        ] {
            assert_eq!(Cause::of(text), cause, "{name}");
        }
    }
}
