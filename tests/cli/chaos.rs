use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};

use super::support::{Running, World, wait_until};

const LIMIT: usize = 2;
const CLIENTS: usize = 12;
const TIME: Duration = Duration::from_mins(1);

/// What the commands do: with `--orphans` so, this first, and this under a lock file. Each process of
/// a command keeps the lock file that it entered with, and so the kernel judges whether a tree is
/// really gone when the next one enters.
const COMMANDS: [(&str, &str, &str); 4] = [
    // An ordinary job.
    ("leave", "", "sleep 0.0$((RANDOM % 10))"),
    // Leaves processes behind, which have to be gone before the permit passes on.
    ("kill", "", "(setsid sleep 0.5 &) ; sleep 0.5 & sleep 0.0$((RANDOM % 10))"),
    ("wait", "", "(setsid sleep 0.1 &) ; sleep 0.05 & sleep 0.0$((RANDOM % 10))"),
    // Leaves a daemon for good, as it may: one that knows of no lock.
    ("leave", "(setsid sleep 0.2 &)", "sleep 0.0$((RANDOM % 10))"),
];

/// Small, repeatable, and good enough to choose victims.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % below
    }
}

#[test]
fn kills_at_random_break_neither_limit_nor_order_and_leave_nothing_behind() {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    eprintln!("seed {seed}");
    let mut dice = Dice(u64::try_from(seed).unwrap());
    let world = World::new();
    let mut runs: Vec<Running> = Vec::new();
    // Who was seen waiting before whom: permits, as numbers of processes come back within a minute.
    let mut before: Vec<(String, String)> = Vec::new();
    let mut killed = [0_u32; 3];
    let end = Instant::now() + TIME;
    while Instant::now() < end {
        while runs.len() < CLIENTS {
            let (orphans, before, work) = COMMANDS[dice.throw(COMMANDS.len())];
            let script = format!(
                "{before}
                 for i in $(seq {LIMIT}); do exec 9>judge.$i; flock -n 9 && break; exec 9>&-; done
                 [ -e /proc/$$/fd/9 ] || echo $SEMRUN_FENCING_TOKEN >> violations
                 echo $SEMRUN_PERMIT $SEMRUN_FENCING_TOKEN $$ >> entered
                 {work}"
            );
            let limit = LIMIT.to_string();
            let mut run = world.run(["-q", "-l", &limit, "--orphans", orphans]);
            runs.push(Running::start(run.args(["--", "bash", "-c", &script])));
        }
        let (holders, waiters) = (world.holders(), world.waiters());
        assert!(holders.len() <= LIMIT);
        before.extend(world.queue().windows(2).map(|pair| (pair[0].clone(), pair[1].clone())));
        // Mostly holders and their commands: there is always a waiter to kill.
        let kind = [0, 0, 1, 2, 2][dice.throw(5)];
        let victims: Vec<u32> = match kind {
            0 => holders,
            1 => waiters,
            // Those that have their lock file and will fork no more: of another, flock(1) may be
            // left, and with `leave` nobody waits for that.
            _ => {
                let entered = world.lines("entered");
                let inside = |pid: &u32| {
                    let pid = pid.to_string();
                    entered.iter().rev().take(50).any(|line| line.ends_with(&format!(" {pid}")))
                };
                holders.iter().flat_map(|holder| children(*holder)).filter(inside).collect()
            }
        };
        if !victims.is_empty() {
            let victim = victims[dice.throw(victims.len())];
            let victim = Pid::from_raw(victim.cast_signed()).unwrap();
            // One that has just ended leaves a zombie at most: its parents wait for it only here
            // and in semrun, which is one of ours.
            killed[kind] += u32::from(kill_process(victim, Signal::KILL).is_ok());
        }
        std::thread::sleep(Duration::from_millis(dice.throw(20) as u64));
        runs.retain_mut(|run| matches!(run.try_wait(), Ok(None)));
    }
    for run in runs {
        run.finish();
    }

    assert_eq!(world.lines("violations"), [""; 0], "more than {LIMIT} at once");
    let entered = world.lines("entered");
    let tokens: HashMap<String, u64> = entered
        .iter()
        .map(|line| {
            let words: Vec<_> = line.split(' ').collect();
            (words[0].to_owned(), words[1].parse().unwrap())
        })
        .collect();
    for (first, second) in before {
        if let (Some(first), Some(second)) = (tokens.get(&first), tokens.get(&second)) {
            assert!(first < second, "{first} came before {second}");
        }
    }
    assert!(
        entered.len() > 100 && killed.iter().all(|count| *count > 20),
        "{killed:?}, {} entered",
        entered.len()
    );
    eprintln!("killed {killed:?} holders, waiters, commands; {} commands ran", entered.len());
    // What outlives a killed semrun has its permit for as long, and the files of the last one may
    // not have met anybody yet.
    wait_until("all processes have ended", || processes_in(&world) == 0);
    assert!(world.run(["-l", "2", "true"]).status().unwrap().success());
    assert_eq!(world.leftovers(), [""; 0]);
}

fn children(of: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// How many processes work in the directory of this test.
fn processes_in(world: &World) -> usize {
    let here = world.path(".").canonicalize().unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let ours = |cwd: std::io::Result<std::path::PathBuf>| cwd.is_ok_and(|cwd| cwd == here);
    processes.filter(|process| ours(fs::read_link(process.path().join("cwd")))).count()
}
