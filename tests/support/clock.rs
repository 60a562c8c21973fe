//! The clocks of a server, which a test moves.
#![allow(dead_code)]

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

const SECOND_NS: i64 = 1_000_000_000;

/// Its file must outlive the server.
pub struct Clock {
    folder: TempDir,
    /// Distances from the true time.
    wall_ns: Cell<i64>,
    mono_ns: Cell<i64>,
}

impl Clock {
    pub fn new() -> Clock {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/clock.c");
        let library = folder.path().join("clock.so");
        let built =
            Command::new("cc").args(["-shared", "-fPIC", source, "-o"]).arg(library).status();
        assert!(built.expect("cc is needed; see .ci/deps").success());
        let clock = Clock { folder, wall_ns: Cell::new(0), mono_ns: Cell::new(0) };
        fs::write(clock.path("shift"), [0; 16]).expect("the folder is writable");
        clock
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.folder.path().display())
    }

    /// The environment of the server.
    pub fn environment(&self) -> [(&'static str, String); 2] {
        [("LD_PRELOAD", self.path("clock.so")), ("CLOCK_SHIFT", self.path("shift"))]
    }

    /// Lets time pass at once.
    pub fn pass(&self, time: Duration) {
        let ns = i64::try_from(time.as_nanos()).expect("a few hours");
        self.wall_ns.set(self.wall_ns.get() + ns);
        self.mono_ns.set(self.mono_ns.get() + ns);
        self.write();
    }

    /// Sets the wall clock to this distance from the true time.
    pub fn set_wall(&self, seconds: i64) {
        self.wall_ns.set(seconds * SECOND_NS);
        self.write();
    }

    fn write(&self) {
        let shift = [self.wall_ns.get().to_ne_bytes(), self.mono_ns.get().to_ne_bytes()].concat();
        let file = fs::OpenOptions::new().write(true).open(self.path("shift"));
        file.expect("the file exists").write_all_at(&shift, 0).expect("the folder is writable");
    }
}
