//! What is read from /proc: processes, the boot of this machine, and numbers of the kernel. See
//! proc(5).

use std::fs;
use std::io;
use std::path::Path;
use std::str::FromStr;
use std::sync::OnceLock;

use rustix::process::Pid;
use uuid::Uuid;

/// A process or a thread, by its `stat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProcessStat {
    /// The name of its program, at most 15 bytes.
    pub(crate) name: String,
    state: char,
    /// None where it lies outside our pid namespace.
    pub(crate) parent: Option<Pid>,
    flags: u64,
    /// In hundredths of a second since the machine was started.
    pub(crate) began: u64,
}

impl ProcessStat {
    /// None: it is gone, or hidden from us.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        Self::at(format!("/proc/{pid}"))
    }

    pub(crate) fn of_pid(pid: Pid) -> Option<Self> {
        Self::at(format!("/proc/{}", pid.as_raw_nonzero()))
    }

    /// By its directory.
    pub(crate) fn at(directory: impl AsRef<Path>) -> Option<Self> {
        let text = fs::read(directory.as_ref().join("stat")).ok()?;
        Self::parse(&String::from_utf8_lossy(&text))
    }

    /// Fields by their position; the second is the name in parentheses, which may contain anything.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (front, fields) = text.rsplit_once(") ")?;
        let mut fields = fields.trim_end().split(' ');
        Some(Self {
            name: front.split_once('(')?.1.to_owned(),
            state: fields.next()?.chars().next()?,
            parent: Pid::from_raw(fields.next()?.parse().ok()?),
            flags: fields.nth(4)?.parse().ok()?,
            began: fields.nth(12)?.parse().ok()?,
        })
    }

    /// Whether a signal has stopped it, Ctrl-Z say.
    pub(crate) fn is_stopped(&self) -> bool {
        self.state == 'T'
    }

    /// Whether a debugger has.
    pub(crate) fn is_traced(&self) -> bool {
        self.state == 't'
    }

    /// Whether it has ended, and its parent has not asked how. A process that is one may have
    /// threads that live.
    pub(crate) fn is_zombie(&self) -> bool {
        self.state == 'Z'
    }

    /// Whether it is in the middle of its end: a zombie has no files any more.
    pub(crate) fn is_ending(&self) -> bool {
        const PF_EXITING: u64 = 4;
        !matches!(self.state, 'X' | 'Z') && self.flags & PF_EXITING != 0
    }
}

/// The numbers that a directory of processes or threads has entries for, as far as we may see them.
pub(crate) fn numbers<T: FromStr>(directory: impl AsRef<Path>) -> impl Iterator<Item = T> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The boot that this machine is in, by a number that no other boot has.
pub(crate) fn this_boot() -> io::Result<Uuid> {
    static BOOT: OnceLock<Uuid> = OnceLock::new();
    if let Some(boot) = BOOT.get() {
        return Ok(*boot);
    }
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let boot = text.trim().parse().map_err(io::Error::other)?;
    Ok(*BOOT.get_or_init(|| boot))
}

/// The number that stands for users whom a user namespace does not map.
pub(crate) fn overflow_uid() -> Option<u32> {
    fs::read_to_string("/proc/sys/kernel/overflowuid").ok()?.trim().parse().ok()
}

/// How many users our user namespace maps: see `user_namespaces(7)`.
pub(crate) fn mapped_users() -> Option<u64> {
    let map = fs::read_to_string("/proc/self/uid_map").ok()?;
    let count = |line: &str| line.split_whitespace().nth(2)?.parse::<u64>().ok();
    Some(map.lines().filter_map(count).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_after_any_name() {
        let parse = |name: &str| {
            let rest = "T 7 42 42 0 -1 4 0 0 0 0 1 1 0 0 20 0 1 0 1234 99 99";
            ProcessStat::parse(&format!("42 ({name}) {rest}"))
        };
        for name in ["sh", "a) S 9 (b) ", "a (b"] {
            let found = parse(name).unwrap();
            let parent = Pid::from_raw(7);
            let expected =
                ProcessStat { name: name.into(), state: 'T', parent, flags: 4, began: 1234 };
            assert_eq!(found, expected);
        }
        assert_eq!(ProcessStat::parse("garbage"), None);
        assert_eq!(ProcessStat::parse("7 semrun"), None);
    }

    #[test]
    fn this_process_is_found_and_one_that_cannot_be_is_not() {
        let ours = ProcessStat::of(std::process::id()).unwrap();
        assert_eq!(ours.parent, rustix::process::getppid());
        assert!(!ours.is_stopped() && !ours.is_ending());
        assert_eq!(ProcessStat::of(u32::MAX), None);
    }
}
