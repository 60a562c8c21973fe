//! `ringpost.json`: the format of a spool, its partitions, its number and its secret key.
//!
//! Order:    the copy in `copies` is written before the file, so that a number in use is never lost.

use std::fs;
use std::fs::File;
use std::io::Read as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use crate::base::SpoolNumber;
use crate::base::id::PARTITIONS_MAX;
use crate::queue::fault::SpoolFault;
use crate::queue::record::family::Layout;
use crate::queue::store::copies::COPIES;
use crate::queue::store::folder::sync_folder;

const META: &str = "ringpost.json";

/// The contents of `ringpost.json`.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(in crate::queue) struct Meta {
    pub format: u32,
    pub partitions: u8,
    pub created_ms: u64,
    /// Random; chosen when the spool is created or upgraded from format 1.
    pub number: Option<u32>,
    /// The secret of hashes that are stored; random, chosen with the number.
    pub key: Option<[u64; 2]>,
}

impl Meta {
    pub fn spool_number(&self) -> SpoolNumber {
        SpoolNumber::from_bits(self.number.unwrap_or(0))
    }

    /// Adds a number and a key if they are missing: those of the copy, or new ones. They are stored
    /// before they are used.
    pub fn numbered(self, path: &Path) -> Result<Meta, SpoolFault> {
        if self.number.is_some() && self.key.is_some() {
            return Ok(self);
        }
        let meta = self.with_names(path)?;
        write_meta(path, &meta)?;
        Ok(meta)
    }

    /// As `numbered`, but not stored.
    pub fn with_names(self, path: &Path) -> Result<Meta, SpoolFault> {
        let text = fs::read_to_string(path.join(COPIES).join(META)).ok();
        let copy: Option<Meta> = text.and_then(|text| serde_json::from_str(&text).ok());
        let drawn = |_| draw().map_err(|cause| SpoolFault::io(path, cause));
        let [number, first, second] = [(); 3].map(drawn);
        let number = self.number.or(copy.and_then(|copy| copy.number)).unwrap_or(number? as u32);
        let key = self.key.or(copy.and_then(|copy| copy.key)).unwrap_or([first?, second?]);
        Ok(Meta { number: Some(number), key: Some(key), ..self })
    }
}

fn draw() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

pub(in crate::queue) fn read_meta(path: &Path, known: u32) -> Result<Option<Meta>, SpoolFault> {
    let meta_path = path.join(META);
    let mut text = String::new();
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(&meta_path);
    let read = file.and_then(|mut file| file.read_to_string(&mut text));
    match read {
        Ok(_) => {}
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(cause) if cause.kind() == std::io::ErrorKind::InvalidData => {
            return Err(SpoolFault::Meta { path: meta_path, why: "the file is not text".into() });
        }
        Err(cause) => return Err(SpoolFault::io(meta_path, cause)),
    };
    /// The field that every format has.
    #[derive(Deserialize)]
    struct AnyMeta {
        format: u32,
    }
    let unreadable = |cause: serde_json::Error| SpoolFault::Meta {
        path: meta_path.clone(),
        why: cause.to_string(),
    };
    let any: AnyMeta = serde_json::from_str(&text).map_err(unreadable)?;
    if any.format > known {
        return Err(SpoolFault::Newer { path: path.into(), found: any.format, known });
    }
    let meta: Meta = serde_json::from_str(&text).map_err(unreadable)?;
    if meta.partitions == 0 || meta.partitions as usize > PARTITIONS_MAX {
        let why = format!("{} is not a valid number of partitions", meta.partitions);
        return Err(SpoolFault::Meta { path: meta_path, why });
    }
    Ok(Some(meta))
}

/// The number of partitions of the spool in `path`, which may be in use; `None` if there is no spool.
pub fn partitions_in(path: &Path) -> Result<Option<u8>, SpoolFault> {
    Ok(read_meta(path, Layout::CURRENT.format)?.map(|meta| meta.partitions))
}

/// Writes the copy, then the file.
pub(in crate::queue) fn write_meta(path: &Path, meta: &Meta) -> Result<(), SpoolFault> {
    write_meta_in(&path.join(COPIES), meta)?;
    write_meta_in(path, meta)
}

fn write_meta_in(path: &Path, meta: &Meta) -> Result<(), SpoolFault> {
    let fresh = path.join(format!("{META}.new"));
    let at = |cause| SpoolFault::io(&fresh, cause);
    let text = serde_json::to_string_pretty(meta).expect("numbers become JSON");
    let mut file = File::create(&fresh).map_err(at)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(at)?;
    fs::rename(&fresh, path.join(META)).map_err(at)?;
    sync_folder(path)
}
