//! Waiting for the dead to be quite gone. A process that is killed closes its files one after the
//! other, and the kernel gives up a lock with a high number (ours) before one with a low number
//! (the command's own, say). For that moment the permit is free and the command not yet gone.

use std::fs;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// What it takes nearly always.
const USUAL: Duration = Duration::from_millis(2);

/// A process that takes longer hangs in something that is not a file of the command's.
const LONGEST: Duration = Duration::from_secs(1);

/// Waits until every process that is ending now, as far as we see them, has ended.
pub(super) async fn complete() {
    let mut ending: Vec<u32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|process| process.file_name().to_str()?.parse().ok())
        .filter(|pid| is_ending(*pid))
        .collect();
    let begin = Instant::now();
    while !ending.is_empty() && begin.elapsed() < LONGEST {
        if begin.elapsed() < USUAL {
            // The runtime's timer is coarser than what this usually takes.
            std::thread::sleep(Duration::from_micros(50));
        } else {
            sleep(Duration::from_millis(1)).await;
        }
        ending.retain(|pid| is_ending(*pid));
    }
}

fn is_ending(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| ends(&stat))
}

/// By the third field, the ninth and the twentieth of proc(5)'s `/proc/pid/stat`.
fn ends(stat: &str) -> bool {
    const PF_EXITING: u32 = 4;
    let Some((_, fields)) = stat.rsplit_once(") ") else { return false };
    let field = |number: usize| fields.split(' ').nth(number - 3);
    let number = |field: Option<&str>| field.and_then(|field| field.parse::<u32>().ok());
    match field(3) {
        Some("X") | None => false,
        // A zombie has no files, unless other threads of it still have to end.
        Some("Z") => number(field(20)).is_some_and(|threads| threads > 1),
        Some(_) => number(field(9)).is_some_and(|flags| flags & PF_EXITING != 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_in_the_middle_of_their_end_are_ending() {
        let stat = |state: &str, flags: u32, threads: u32| {
            format!("7 (a) b) {state} 1 7 7 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 {threads} 0 99")
        };
        assert!(ends(&stat("R", 0x40_0004, 1)));
        assert!(!ends(&stat("S", 0x40_0000, 1)));
        assert!(!ends(&stat("Z", 0x40_0004, 1)));
        assert!(ends(&stat("Z", 0x40_0004, 3)));
        assert!(!ends("garbage"));
        assert!(!is_ending(std::process::id()));
    }
}
