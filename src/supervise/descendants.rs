//! Who descends from a process, read from /proc. It kills nobody.

use std::collections::HashMap;
use std::fs;

use rustix::process::Pid;

/// One process of a tree, at the moment when we looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Descendant {
    pub(super) pid: Pid,
    pub(super) parent: Pid,
}

impl Descendant {
    /// Whether its number still stands for the same process: another one that got the number
    /// meanwhile has another parent.
    pub(super) fn is_still_there(self) -> bool {
        parent_of(self.pid) == Some(self.parent)
    }
}

/// Whether /proc shows the processes that we can see: it may be missing, or belong to another pid
/// namespace, where the same numbers stand for others.
pub(crate) fn are_visible() -> bool {
    let ours = fs::read_link("/proc/self").ok();
    let ours = ours.and_then(|pid| pid.to_str()?.parse().ok());
    ours == Some(std::process::id())
}

/// All descendants of `root`, parents before their children, without `except` and those below.
/// A moment later there may be others; whoever needs the whole tree looks again.
pub(super) fn of(root: Pid, except: &[Pid]) -> Vec<Descendant> {
    let mut children: HashMap<Pid, Vec<Pid>> = HashMap::new();
    if !are_visible() {
        return Vec::new();
    }
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = process.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else {
            continue;
        };
        // None: gone since the directory was read, or hidden from us and then not our child.
        if let Some(parent) = parent_of(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut unseen = vec![root];
    while let Some(parent) = unseen.pop() {
        for pid in children.remove(&parent).unwrap_or_default() {
            if !except.contains(&pid) {
                found.push(Descendant { pid, parent });
                unseen.push(pid);
            }
        }
    }
    found
}

fn parent_of(pid: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    Pid::from_raw(parent(&stat)?)
}

/// The fourth field. The second is a name in parentheses that may contain anything.
fn parent(stat: &str) -> Option<i32> {
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_behind_any_name() {
        assert_eq!(parent("42 (sh) S 7 42 42 0 -1"), Some(7));
        assert_eq!(parent("42 (a) S 9 (b) ) R 7 42 42 0 -1"), Some(7));
        assert_eq!(parent("garbage"), None);
    }

    #[test]
    fn grandchildren_are_found() {
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "sleep 60 & echo started; wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = std::io::BufReader::new(shell.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
        let child = Pid::from_child(&shell);
        let [below] = of(child, &[])[..] else { panic!("one sleep") };
        assert_eq!(below.parent, child);
        assert!(below.is_still_there());
        let ours = of(rustix::process::getpid(), &[child]);
        assert!(!ours.contains(&below), "below an excepted process");
        rustix::process::kill_process(below.pid, rustix::process::Signal::KILL).unwrap();
        shell.wait().unwrap();
    }
}
