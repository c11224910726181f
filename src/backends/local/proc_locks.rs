//! Which process holds a lock, by the kernel's list, and whether it is stopped. A hint for fairness
//! and for words; no permit is granted by it.

use std::fs;

use rustix::fs::Stat;

use crate::proc::ProcessStat;

/// The locks of this moment, with the pids as our own pid namespace counts them. Locks of processes
/// in other namespaces are missing.
pub(super) struct Locks(String);

impl Locks {
    pub(super) fn read() -> Self {
        Self(fs::read_to_string("/proc/locks").unwrap_or_default())
    }

    /// The pid of the process that holds a lock of flock(2) on this file.
    pub(super) fn holder(&self, file: &Stat) -> Option<u32> {
        let (major, minor) = (rustix::fs::major(file.st_dev), rustix::fs::minor(file.st_dev));
        let device = format!("{major:02x}:{minor:02x}");
        let candidates: Vec<_> =
            self.0.lines().filter_map(flock).filter(|lock| lock.inode == file.st_ino).collect();
        let exact = candidates.iter().find(|lock| lock.device == device);
        // Some file systems show another device here than to stat(2).
        let only = || candidates.first().filter(|_| candidates.len() == 1);
        exact.or_else(only).map(|lock| lock.pid)
    }
}

/// Whether a process is stopped, by a signal or a debugger. None: it is gone, or hidden from us.
pub(super) fn is_stopped(pid: u32) -> Option<bool> {
    ProcessStat::of(pid).map(|stat| stat.is_stopped() || stat.is_traced())
}

struct Flock<'a> {
    pid: u32,
    device: &'a str,
    inode: u64,
}

/// Reads a line such as `1: FLOCK  ADVISORY  WRITE 4242 fe:00:1234 0 EOF`.
fn flock(line: &str) -> Option<Flock<'_>> {
    let mut fields = line.split_whitespace();
    if fields.nth(1) != Some("FLOCK") {
        // Of another kind, or `->`: one that waits for a lock.
        return None;
    }
    let pid = fields.nth(2)?.parse().ok()?;
    let (device, inode) = fields.next()?.rsplit_once(':')?;
    Some(Flock { pid, device, inode: inode.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_process_that_cannot_be_seen_it_is_not_known_whether_it_is_stopped() {
        assert_eq!(is_stopped(std::process::id()), Some(false));
        assert_eq!(is_stopped(u32::MAX), None);
    }

    #[test]
    fn the_holder_is_found_by_device_and_inode() {
        let mut file = rustix::fs::stat("/").unwrap();
        (file.st_dev, file.st_ino) = (rustix::fs::makedev(0xfe, 0), 1234);
        let holder = |lines: &[&str]| Locks(lines.join("\n")).holder(&file);
        let ours = "3: FLOCK  ADVISORY  WRITE 42 fe:00:1234 0 EOF";
        let elsewhere = "4: FLOCK  ADVISORY  WRITE 43 00:17:1234 0 EOF";
        assert_eq!(holder(&[elsewhere, ours]), Some(42));
        assert_eq!(holder(&[elsewhere]), Some(43));
        assert_eq!(holder(&[elsewhere, elsewhere]), None, "either may be meant");
        assert_eq!(holder(&["3: -> FLOCK  ADVISORY  WRITE 42 fe:00:1234 0 EOF"]), None);
        assert_eq!(holder(&["1: POSIX  ADVISORY  WRITE 42 fe:00:1234 0 EOF", "", "x"]), None);
    }
}
