//! The descendants of this process, from /proc. It kills none of them.
//!
//! Each process has a list of its children there, which also names hidden processes (`hidepid=2`):
//! a process that cannot be seen need not be gone. Without such lists we go through all processes
//! instead.

use std::collections::HashMap;
use std::fs;
use std::sync::OnceLock;

use rustix::process::{Pid, getpid};

use crate::proc::{self, ProcessStat};

/// A process, by its number and start: another process that gets the number began at another time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    /// In clock ticks since the machine was started. None: its entry is hidden from us.
    began: Option<u64>,
}

impl Process {
    /// The process that has this number now.
    pub(crate) fn of(pid: Pid) -> Self {
        Self { pid, began: ProcessStat::of_pid(pid).map(|stat| stat.began) }
    }
}

/// One process of a tree, at the moment when we looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Descendant {
    pub(super) pid: Pid,
    pub(super) parent: Pid,
}

impl Descendant {
    /// Whether its number still stands for the same process: a new process with the number has
    /// another parent. A hidden one cannot be told, unless it is our own child, which keeps its
    /// number until we collect it.
    pub(super) fn is_still_there(self) -> bool {
        self.is_our_child()
            || ProcessStat::of_pid(self.pid)
                .and_then(|stat| stat.parent)
                .is_some_and(|parent| parent == self.parent || parent == getpid())
    }

    pub(super) fn is_our_child(self) -> bool {
        self.parent == getpid()
    }
}

/// Whether /proc shows the processes that we can see: it may be missing, or belong to another pid
/// namespace, where the same numbers stand for others.
pub(crate) fn are_visible() -> bool {
    let ours = fs::read_link("/proc/self").ok();
    let ours = ours.and_then(|pid| pid.to_str()?.parse().ok());
    ours == Some(std::process::id())
}

/// Whether all of a command's processes can be found, also those that /proc hides from us.
pub(crate) fn can_be_found() -> bool {
    // Where /proc hides other users' processes (hidepid), it hides process 1 too.
    are_visible() && (children_are_listed() || ProcessStat::of_pid(Pid::INIT).is_some())
}

/// Whether a process descends from another one, as far as /proc shows that.
pub(super) fn is_below(pid: Pid, ancestor: Pid) -> bool {
    let mut next = pid;
    // A parent may end while we look, and then its child has another one.
    let mut attempts = 3;
    loop {
        match ProcessStat::of_pid(next).map(|stat| stat.parent) {
            Some(Some(parent)) if parent == ancestor => return true,
            Some(Some(parent)) => next = parent,
            None if attempts > 0 => {
                attempts -= 1;
                next = pid;
            }
            // The first process of all, or one that is hidden.
            Some(None) | None => return false,
        }
    }
}

/// All of our descendants, parents before their children, without `except` and those below. A moment
/// later there may be others; a caller that needs the whole tree looks again.
pub(super) fn all(except: &[Process]) -> Vec<Descendant> {
    if !are_visible() {
        return Vec::new();
    }
    let by_parent = if children_are_listed() { None } else { Some(by_parent()) };
    let mut found: Vec<Descendant> = Vec::new();
    let mut parent = getpid();
    for next in 0.. {
        let children = match &by_parent {
            None => listed(parent),
            Some(all) => all.get(&parent).cloned().unwrap_or_default(),
        };
        let kept = |pid: &Pid| except.is_empty() || !except.contains(&Process::of(*pid));
        found.extend(children.into_iter().filter(kept).map(|pid| Descendant { pid, parent }));
        match found.get(next) {
            Some(one) => parent = one.pid,
            None => break,
        }
    }
    found
}

/// The name of a process's program; without one where it is gone or hidden. Never an argument.
pub(crate) fn name(pid: Pid) -> String {
    let name = fs::read(format!("/proc/{}/comm", pid.as_raw_nonzero())).unwrap_or_default();
    String::from_utf8_lossy(&name).trim_end().to_owned()
}

/// Our own children: each has its number until we have collected it.
pub(super) fn children() -> Vec<Pid> {
    match (are_visible(), children_are_listed()) {
        (false, _) => Vec::new(),
        (true, true) => listed(getpid()),
        (true, false) => by_parent().remove(&getpid()).unwrap_or_default(),
    }
}

fn children_are_listed() -> bool {
    static LISTED: OnceLock<bool> = OnceLock::new();
    *LISTED.get_or_init(|| fs::exists("/proc/thread-self/children").unwrap_or(false))
}

/// The children of a process, as the kernel lists them for each of its threads. A child that begins
/// or ends meanwhile may be missing.
fn listed(parent: Pid) -> Vec<Pid> {
    let mut children = Vec::new();
    let threads = format!("/proc/{}/task", parent.as_raw_nonzero());
    for thread in fs::read_dir(threads).into_iter().flatten().flatten() {
        let text = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        let pids = text.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
        children.extend(pids);
    }
    children
}

/// All processes that can be seen, by their parents.
fn by_parent() -> HashMap<Pid, Vec<Pid>> {
    let mut children: HashMap<Pid, Vec<Pid>> = HashMap::new();
    for pid in proc::numbers("/proc").filter_map(Pid::from_raw) {
        if let Some(parent) = ProcessStat::of_pid(pid).and_then(|stat| stat.parent) {
            children.entry(parent).or_default().push(pid);
        }
    }
    children
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grandchildren_are_found_and_what_is_excepted_is_not() {
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "sleep 60 & echo started; wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = std::io::BufReader::new(shell.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
        let child = Pid::from_child(&shell);
        let found = all(&[]);
        let place = found.iter().position(|one| one.pid == child).unwrap();
        let [below] = found[..].iter().filter(|one| one.parent == child).collect::<Vec<_>>()[..]
        else {
            panic!("one sleep: {found:?}")
        };
        assert!(found[place].is_our_child() && !below.is_our_child());
        assert!(found[place].is_still_there() && below.is_still_there());
        let without = all(&[Process::of(child)]);
        assert!(!without.contains(below), "below an excepted process");
        let other = Process { began: Some(0), ..Process::of(child) };
        assert!(all(&[other]).contains(below), "another one that had the number before");
        let stranger = Descendant { parent: Pid::INIT, ..*below };
        assert!(!stranger.is_still_there(), "another one that has the number now");
        rustix::process::kill_process(below.pid, rustix::process::Signal::KILL).unwrap();
        shell.wait().unwrap();
    }
}
