use std::fs::{self, Metadata};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The variable that all processes of an arena carry, with the arena's directory in it.
pub(crate) const MARK: &str = "TORTURE_ARENA";

/// A process that cannot be mistaken for another one of the same number.
pub(crate) struct Process {
    handle: OwnedFd,
    pid: Pid,
}

impl Process {
    /// None if there is none, or if it does not carry the mark: a number that another process has
    /// now.
    pub(crate) fn find(pid: Pid, mark: &str) -> Option<Self> {
        let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        carries(&pid.as_raw_nonzero().to_string(), mark).then_some(Self { handle, pid })
    }

    pub(crate) fn signal(&self, signal: Signal) -> bool {
        pidfd_send_signal(&self.handle, signal).is_ok()
    }

    /// Waits until it is stopped, which a busy machine does not do at once, or gone.
    pub(crate) fn wait_for_stop(&self) {
        let running = || {
            let status = fs::read_to_string(format!("/proc/{}/status", self.pid.as_raw_nonzero()));
            status.is_ok_and(|status| {
                ["T", "t", "Z", "X"]
                    .iter()
                    .all(|state| !status.contains(&format!("State:\t{state}")))
            })
        };
        let mut looks = 0..500;
        while running() && looks.next().is_some() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether it has this file locked by flock(2), as the kernel lists it.
    pub(crate) fn has_locked(&self, file: &Metadata) -> bool {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let pid = self.pid.as_raw_nonzero().to_string();
        locks.lines().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [_, "FLOCK", _, "WRITE", by, place, ..] = words[..] else { return false };
            let inode = place.rsplit(':').next().and_then(|inode| inode.parse().ok());
            by == pid && inode == Some(file.ino())
        })
    }
}

fn carries(pid: &str, mark: &str) -> bool {
    let wanted = format!("{MARK}={mark}");
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|one| one == wanted.as_bytes())
}

/// The processes that carry a mark and have not ended.
pub(crate) fn marked(mark: &str) -> Vec<Pid> {
    let names = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name());
    let numbers = names.filter_map(|name| name.to_str()?.parse::<i32>().ok());
    let ours = |pid: &i32| carries(&pid.to_string(), mark);
    numbers.filter(ours).filter_map(Pid::from_raw).collect()
}

/// How a process is called, with its state, for people.
pub(crate) fn describe(pid: Pid) -> String {
    let read = |file| fs::read_to_string(format!("/proc/{}/{file}", pid.as_raw_nonzero()));
    let line = read("cmdline").unwrap_or_default().replace('\0', " ");
    let status = read("status").unwrap_or_default();
    let state = status.lines().find(|line| line.starts_with("State:")).unwrap_or("State: gone");
    format!(
        "{}: {} ({})",
        pid.as_raw_nonzero(),
        line.trim(),
        state.trim_start_matches("State:").trim()
    )
}

pub(crate) fn children(parent: Pid) -> Vec<Pid> {
    let parent = parent.as_raw_nonzero();
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let numbers = children.unwrap_or_default();
    numbers.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

pub(crate) fn parent(child: Pid) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.as_raw_nonzero())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    Pid::from_raw(line.trim().parse().ok()?)
}

/// The second process of a semrun, which has the same program.
pub(crate) fn worker(semrun: Pid) -> Option<Pid> {
    let name = |pid: Pid| fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero())).ok();
    let ours = name(semrun)?;
    children(semrun).into_iter().find(|child| name(*child).as_ref() == Some(&ours))
}

/// How often a process was given the processor because something happened to it.
pub(crate) fn wakes(pid: Pid) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
    line.trim().parse().ok()
}
