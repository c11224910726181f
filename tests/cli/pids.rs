//! States of processes, by pid.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use super::support::wait_until;

/// Whether a process runs: neither gone nor a zombie that its parent has not collected.
pub(crate) fn is_alive(pid: Pid) -> bool {
    !matches!(state(pid), None | Some('Z' | 'X'))
}

/// The children of a process, with their names.
pub(crate) fn children(parent: Pid) -> Vec<(Pid, String)> {
    let named = |pid: Pid| {
        let name = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).ok()?;
        Some((pid, name.trim().to_owned()))
    };
    pids_of_children(parent).into_iter().filter_map(named).collect()
}

/// The same without names: of all its threads, as each has those that it started.
pub(crate) fn pids_of_children(parent: Pid) -> Vec<Pid> {
    let threads = fs::read_dir(format!("/proc/{}/task", parent.as_raw_nonzero()));
    let lists = threads
        .into_iter()
        .flatten()
        .flatten()
        .map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default());
    let lists: Vec<_> = lists.collect();
    let pids = lists.iter().flat_map(|list| list.split_whitespace());
    pids.map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap()).collect()
}

/// The second process of a semrun whose command runs.
pub(crate) fn worker_of(semrun: Pid) -> Pid {
    let mut found = None;
    wait_until("it is two processes", || {
        found = children(semrun).into_iter().find(|(_, name)| name == "semrun");
        found.is_some()
    });
    found.unwrap().0
}

/// Whether a process of this name is among all that descend from this one.
pub(crate) fn has_below(ancestor: Pid, name: &str) -> bool {
    children(ancestor).into_iter().any(|(child, its)| its == name || has_below(child, name))
}

/// The state letter of a process, as in ps(1).
pub(crate) fn state(pid: Pid) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Kills a process that a test left behind on purpose, when the test is over.
pub(crate) struct Leftover(pub(crate) Pid);

impl Drop for Leftover {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}
