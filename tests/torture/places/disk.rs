//! A disk that can be full.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system of its own.
pub(super) struct Disk(PathBuf);

impl Disk {
    pub(super) fn mount(path: &Path, size: &str) -> Self {
        fs::create_dir_all(path).unwrap();
        let options = format!("size={size}");
        let mount = ["-t", "tmpfs", "-o", &options, "torture"];
        assert!(Command::new("mount").args(mount).arg(path).status().unwrap().success());
        Self(path.into())
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Nothing fits on it any more.
    pub(super) fn fill(&self) {
        let path = self.0.join(".filler");
        let mut filler = OpenOptions::new().append(true).create(true).open(path).unwrap();
        for size in [1 << 20, 4096, 1] {
            while filler.write_all(&vec![b'x'; size]).is_ok() {}
        }
    }

    pub(super) fn free(&self) {
        let _ = fs::remove_file(self.0.join(".filler"));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
