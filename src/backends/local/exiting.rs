//! Waiting until killed processes have ended completely. A process that is killed closes its files
//! one after the other, and the kernel gives up a lock with a high number (ours) before one with a
//! low number (the command's own, say). Until then the permit has no holder, and is not free yet.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::file_names::FileName;
use super::semaphore_files::SemaphoreFiles;
use crate::clock::Moment;
use crate::proc::{self, ProcessStat};

/// How long it nearly always takes.
const USUAL: Duration = Duration::from_millis(2);

/// How long the end of processes that we may not see is taken to last at most.
const UNSEEN: Duration = Duration::from_secs(1);

/// The longest time between two looks.
const RARELY: Duration = Duration::from_millis(100);

/// The processes that may have had one of these permits, and have to end before it passes on.
pub(super) struct ExitingProcesses {
    /// The processes that asked for them.
    pids: Vec<u32>,
    /// All others began after this moment. None: no command ran under these permits.
    since: Option<Moment>,
    /// Where the processes are.
    proc: PathBuf,
}

impl ExitingProcesses {
    pub(super) fn with(semaphore: &SemaphoreFiles, permits: &[FileName]) -> io::Result<Self> {
        let mut dying = Self { pids: Vec::new(), since: None, proc: "/proc".into() };
        for permit in permits {
            // A command begins after its permit has a record.
            if let Some(granted) = semaphore.granted(*permit)? {
                dying.pids.push(granted.pid);
                let since = granted.moment();
                dying.since = Some(dying.since.map_or(since, |first| first.min(since)));
            }
        }
        Ok(dying)
    }

    /// Waits until every process that is ending and may have had such a permit has ended, however
    /// long that takes.
    pub(super) async fn complete(&self) {
        let Some(since) = self.since else { return };
        let begin = Instant::now();
        let mut ending: Vec<u32> = self.all().filter(|pid| self.has(*pid, since)).collect();
        while !ending.is_empty() {
            let elapsed = begin.elapsed();
            if elapsed < USUAL {
                // The runtime's timer is coarser than what this usually takes.
                std::thread::sleep(Duration::from_micros(50));
            } else {
                sleep((elapsed / 10).clamp(Duration::from_millis(1), RARELY)).await;
            }
            ending.retain(|pid| self.has(*pid, since));
        }
        if !self.sees_all() {
            sleep_until(begin + UNSEEN).await;
        }
    }

    /// Whether no process is left to wait for. False where that cannot be seen.
    pub(super) fn are_gone(&self) -> bool {
        self.since.is_none() || (self.first().is_none() && self.sees_all())
    }

    /// The first that is still ending, for words.
    pub(super) fn first(&self) -> Option<u32> {
        self.all().find(|pid| self.since.is_some_and(|since| self.has(*pid, since)))
    }

    fn has(&self, pid: u32, since: Moment) -> bool {
        let process = self.proc.join(pid.to_string());
        let Some(stat) = ProcessStat::at(&process) else { return false };
        if !self.pids.contains(&pid) && !is_younger(&stat, since) {
            return false;
        }
        // The files are closed with the last thread. The first may have ended before, normally.
        let threads = process.join("task");
        let ends = |thread: u32| {
            ProcessStat::at(threads.join(thread.to_string())).is_some_and(|stat| stat.is_ending())
        };
        stat.is_ending() || (stat.is_zombie() && proc::numbers(&threads).any(ends))
    }

    fn all(&self) -> impl Iterator<Item = u32> {
        proc::numbers(&self.proc)
    }

    /// Whether no process is hidden from us, as far as process 1 shows.
    fn sees_all(&self) -> bool {
        ProcessStat::at(self.proc.join("1")).is_some()
    }
}

/// Whether a process began at that moment or later.
fn is_younger(stat: &ProcessStat, moment: Moment) -> bool {
    // The kernel drops what is beyond a hundredth of a second.
    u128::from(stat.began) >= moment.as_millis() / 10
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::clock;

    fn stat(state: &str, flags: u32, begin: u64) -> String {
        format!("7 (a) b) {state} 1 7 7 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 {begin}\n")
    }

    fn parsed(stat: &str) -> ProcessStat {
        ProcessStat::parse(stat).unwrap()
    }

    /// A /proc in which the first process is not ending.
    struct ProcessesSince(TempDir);

    impl ProcessesSince {
        fn new() -> Self {
            let processes = Self(TempDir::new().unwrap());
            processes.put("1", &stat("S", 0, 0));
            processes
        }

        fn put(&self, process: &str, stat: &str) {
            let path = self.0.path().join(process);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("stat"), stat).unwrap();
        }

        fn dying(&self) -> ExitingProcesses {
            let since = Some(Duration::from_millis(12_345));
            ExitingProcesses { pids: vec![9], since, proc: self.0.path().into() }
        }

        fn first(&self) -> Option<u32> {
            self.dying().first()
        }
    }

    const ENDING: u32 = 0x40_0004;

    #[test]
    fn only_those_in_the_middle_of_their_end_are_ending() {
        let is_ending = |state, flags| parsed(&stat(state, flags, 99)).is_ending();
        assert!(is_ending("R", ENDING) && is_ending("D", ENDING));
        assert!(!is_ending("S", 0x40_0000) && !is_ending("Z", ENDING));
    }

    #[test]
    fn a_process_whose_first_thread_has_ended_is_ending_with_its_others() {
        let processes = ProcessesSince::new();
        processes.put("7", &stat("Z", ENDING, 1300));
        processes.put("7/task/7", &stat("Z", ENDING, 1300));
        processes.put("7/task/8", &stat("S", 0, 1300));
        assert_eq!(processes.first(), None, "it lives");
        processes.put("7/task/8", &stat("R", ENDING, 1300));
        assert_eq!(processes.first(), Some(7));
    }

    #[test]
    fn processes_that_hang_in_their_end_and_never_had_the_permit_do_not_matter() {
        let processes = ProcessesSince::new();
        processes.put("7", &stat("D", ENDING, 1233));
        assert_eq!(processes.first(), None, "older than the permit");
        processes.put("9", &stat("D", ENDING, 1200));
        assert_eq!(processes.first(), Some(9), "the one that asked for it");
        let none_ran = ExitingProcesses { since: None, ..processes.dying() };
        assert_eq!(none_ran.first(), None);
    }

    #[test]
    fn the_dead_are_waited_for_as_long_as_they_take_to_end() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let processes = ProcessesSince::new();
            processes.put("7", &stat("D", ENDING, 1300));
            let dying = processes.dying();
            let complete = dying.complete();
            tokio::pin!(complete);
            let long = Duration::from_millis(1500);
            assert!(tokio::time::timeout(long, &mut complete).await.is_err());
            processes.put("7", &stat("Z", ENDING, 1300));
            tokio::time::timeout(Duration::from_secs(10), complete).await.expect("is complete");
        });
    }

    #[test]
    fn where_processes_may_be_hidden_the_dead_get_a_second() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let processes = ProcessesSince::new();
            let begin = Instant::now();
            processes.dying().complete().await;
            assert!(begin.elapsed() < UNSEEN / 2);
            fs::remove_dir_all(processes.0.path().join("1")).unwrap();
            let begin = Instant::now();
            processes.dying().complete().await;
            assert!(begin.elapsed() >= UNSEEN);
        });
    }

    #[test]
    fn who_began_before_a_permit_was_granted_never_had_it() {
        let granted = Duration::from_millis(12_345);
        let younger = |began| is_younger(&parsed(&stat("D", 4, began)), granted);
        assert!(!younger(1233) && younger(1235));
        assert!(younger(1234), "in the same hundredth");
        let own = ProcessStat::of(std::process::id()).unwrap();
        assert!(is_younger(&own, Duration::ZERO) && !is_younger(&own, clock::now() * 2));
    }
}
