//! A wall clock of a server's own, which can be set.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clock.c");

/// Monotonic clocks stay what they are.
pub struct WallClock {
    library: PathBuf,
    offset: PathBuf,
    /// The file above, and how many nanoseconds it holds.
    state: Mutex<(File, i64)>,
}

impl WallClock {
    /// One that goes right, until it is set.
    pub fn new(directory: &Path) -> Self {
        // The loader takes a relative path for one from wherever the server will be.
        let directory = directory.canonicalize().expect("the clock's directory is there");
        let library = directory.join("clock.so");
        compile(&library);
        let offset = directory.join("clock.offset");
        let file = File::create(&offset).expect("the clock's directory can be written");
        write(&file, 0);
        Self { library, offset, state: Mutex::new((file, 0)) }
    }

    /// What a server's process needs in its environment to go by this clock.
    pub fn environment(&self) -> [(&'static str, PathBuf); 2] {
        [("LD_PRELOAD", self.library.clone()), ("WALL_CLOCK_OFFSET", self.offset.clone())]
    }

    /// Forwards, or backwards where negative, on top of all the leaps before.
    pub fn leap(&self, milliseconds: i64) {
        let mut state = self.state.lock().unwrap();
        state.1 += milliseconds * 1_000_000;
        write(&state.0, state.1);
    }
}

fn compile(library: &Path) {
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(library)
        .arg(SOURCE)
        .status()
        .expect("a wall clock that can be set needs a C compiler by the name of cc");
    assert!(status.success(), "cc could not compile {SOURCE}");
}

/// In place and always as long: the server has it mapped.
fn write(file: &File, nanoseconds: i64) {
    file.write_all_at(format!("{nanoseconds:<32}").as_bytes(), 0).unwrap();
}
