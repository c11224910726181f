use std::fs;

use rustix::process::Pid;

use super::support::{Running, SEMRUN, World, children, wait_until};

/// How much of the program's text is in the memory of a process, in KiB.
fn text(pid: Pid) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{}/smaps", pid.as_raw_nonzero())).unwrap();
    let mut lines = maps.lines();
    let mut sum = 0;
    while lines.any(|line| line.contains(" r-xp ") && line.ends_with(SEMRUN)) {
        let rss = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
        sum += rss.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
    }
    sum
}

/// The same of the processes of a run.
fn texts(run: &Running) -> Vec<u64> {
    let ours = children(run.pid()).into_iter().filter(|(_, name)| name == "semrun");
    [run.pid()].into_iter().chain(ours.map(|(pid, _)| pid)).map(text).collect()
}

#[test]
fn one_that_waits_for_long_has_little_of_the_program_in_memory() {
    World::everywhere(|world| {
        let holder = world.holder(&[]);
        // A holder keeps all pages that it has used.
        let used = texts(&holder).into_iter().max().unwrap();
        let waiter = world.waiter(&[], "");
        wait_until("it is given back", || texts(&waiter).iter().all(|text| *text < used / 4));
    });
}
