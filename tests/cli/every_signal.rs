//! Each signal that a process can catch: what it does to a run that waits and to one whose command
//! runs; and signals in great number.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use super::faults::worker;
use super::support::{Running, SEMRUN, World, content, died_of, pid_in, shows, state, wait_until};

/// Those that by default end a process, by number, but for TERM and HUP, which stop a command, and for
/// those that report a defect of the process itself: INT, QUIT, ABRT, USR1, USR2, PIPE, ALRM, STKFLT,
/// XCPU, XFSZ, VTALRM, PROF, IO, PWR, and the real-time ones.
fn ending() -> impl Iterator<Item = i32> {
    [2, 3, 6, 10, 12, 13, 14, 16, 24, 25, 26, 27, 29, 30].into_iter().chain(34..=64)
}

const TERM: i32 = 15;
const HUP: i32 = 1;
/// By default nothing comes of them: CHLD, CONT (of a process that runs), URG, WINCH.
const HARMLESS: [i32; 4] = [17, 18, 23, 28];
/// Looked at after all others that have come.
const LAST: i32 = 64;

fn send(pid: Pid, number: i32) {
    let kill = format!("kill -{number} {}", pid.as_raw_nonzero());
    assert!(Command::new("bash").args(["-c", &kill]).status().unwrap().success(), "{number}");
}

#[test]
fn each_signal_that_ends_a_process_ends_the_waiting_and_no_other_does() {
    World::everywhere(|world| {
        let _holder = world.holder(&[]);
        for number in ending().chain([TERM, HUP]) {
            let waiter = world.waiter(&["-q"], "echo no");
            send(waiter.pid(), number);
            shows(&waiter.finish(), 128 + number, "", "");
        }
        let waiter = world.waiter(&["-q"], "echo no");
        for number in HARMLESS.into_iter().chain([LAST]) {
            send(waiter.pid(), number);
        }
        shows(&waiter.finish(), 128 + LAST, "", "");
        assert_eq!(world.waiters(), [0; 0]);
    });
}

#[test]
fn a_command_hears_each_signal_that_is_sent_to_semrun() {
    World::everywhere(|world| {
        let script = "import signal, sys, time
def hear(number, _):
    with open('got', 'a') as got: got.write('%d\\n' % number)
    if number == signal.SIGTERM: sys.exit(9)
for number in map(int, sys.argv[1].split()): signal.signal(number, hear)
open('ready', 'w').write('1\\n')
while True: time.sleep(100)";
        // URG, WINCH and CONT as well; CHLD is for processes with children.
        let heard: Vec<_> = ending().chain([18, 23, 28]).collect();
        let words: Vec<_> = heard.iter().chain([&TERM]).map(i32::to_string).collect();
        let run = Running::start(world.run(["--", "python3", "-c", script]).arg(words.join(" ")));
        content(&world.path("ready"));
        for (count, number) in heard.iter().enumerate() {
            send(run.pid(), *number);
            wait_until(&format!("signal {number} arrives"), || {
                world.lines("got").len() == count + 1
            });
        }
        // More comes with it: what is stopped cannot hear it.
        send(run.pid(), TERM);
        assert_eq!(run.finish().status.code(), Some(9));
        let got = world.lines("got");
        assert_eq!(got[..heard.len()], words[..heard.len()]);
    });
}

#[test]
fn a_command_dies_of_each_signal_by_default_and_its_code_says_so() {
    World::everywhere(|world| {
        for number in ending() {
            let script = "ulimit -c 0; echo > ready; exec sleep 1000";
            let run = Running::start(&mut world.script(&[], script));
            content(&world.path("ready"));
            send(run.pid(), number);
            let output = run.finish();
            match Signal::from_named_raw(number) {
                Some(signal @ (Signal::INT | Signal::QUIT)) => died_of(&output, signal),
                _ => assert_eq!(output.status.code(), Some(128 + number), "{output:?}"),
            }
            std::fs::remove_file(world.path("ready")).unwrap();
        }
        let run = Running::start(&mut world.script(&[], "echo > ready; exec sleep 1000"));
        content(&world.path("ready"));
        for number in HARMLESS.into_iter().chain([LAST]) {
            send(run.pid(), number);
        }
        assert_eq!(run.finish().status.code(), Some(128 + LAST));
    });
}

#[test]
fn without_a_terminal_the_command_alone_is_stopped_and_continued() {
    let world = World::new();
    for number in [20, 21, 22] {
        let mut setsid = Command::new("setsid");
        setsid.args([
            SEMRUN,
            "--name",
            "x",
            "--",
            "sh",
            "-c",
            "echo $$ > command; exec sleep 1000",
        ]);
        setsid.current_dir(world.path(".")).envs(world.environment());
        let run = Running::start(&mut setsid);
        let command = pid_in(&world.path("command"));
        send(run.pid(), number);
        wait_until("the command is stopped", || state(command) == Some('T'));
        assert_ne!(state(run.pid()), Some('T'), "{number}");
        run.signal(Signal::CONT);
        wait_until("it goes on", || state(command) != Some('T'));
        run.signal(Signal::TERM);
        died_of(&run.finish(), Signal::TERM);
        std::fs::remove_file(world.path("command")).unwrap();
    }
}

/// Many more than any pipe holds, each one delivered before the next is sent: the kernel would take
/// several for one. One that is stopped has none delivered.
fn flood(semrun: Pid, signal: Signal) {
    let status = File::open(format!("/proc/{}/status", semrun.as_raw_nonzero())).unwrap();
    let is_stopped = state(semrun) == Some('T');
    for _ in 0..35_000 {
        kill_process(semrun, signal).unwrap();
        while !is_stopped && is_pending(&status, signal) {
            std::thread::yield_now();
        }
    }
}

fn is_pending(status: &File, signal: Signal) -> bool {
    let mut text = [0; 4096];
    let length = status.read_at(&mut text, 0).unwrap();
    let text = std::str::from_utf8(&text[..length]).unwrap();
    let pending = text.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap();
    u64::from_str_radix(pending.trim(), 16).unwrap() & 1 << (signal.as_raw() - 1) != 0
}

fn stop(pid: Pid) {
    kill_process(pid, Signal::STOP).unwrap();
    wait_until("it is stopped", || state(pid) == Some('T'));
}

#[test]
fn a_flood_of_signals_drowns_neither_term_nor_the_end_of_the_command() {
    World::everywhere(|world| {
        for ends in [false, true] {
            let script = "trap '' USR1; echo $$ > command; exec sleep 1000";
            let run = Running::start(&mut world.script(&["--ttl", "20s"], script));
            let command = pid_in(&world.path("command"));
            let worker = worker(&run);
            stop(worker);
            flood(run.pid(), Signal::USR1);
            if ends {
                kill_process(command, Signal::KILL).unwrap();
            } else {
                run.signal(Signal::TERM);
            }
            kill_process(worker, Signal::CONT).unwrap();
            let output = run.finish();
            if ends {
                assert_eq!(output.status.code(), Some(137));
            } else {
                died_of(&output, Signal::TERM);
            }
            std::fs::remove_file(world.path("command")).unwrap();
        }
    });
}

#[test]
fn a_flood_of_signals_does_not_drown_the_one_that_ends_the_waiting() {
    World::everywhere(|world| {
        let _holder = world.holder(&[]);
        let waiter = world.waiter(&["-q"], "echo no");
        // One process or two.
        let stopped = if world.permits_expire() { worker(&waiter) } else { waiter.pid() };
        stop(stopped);
        flood(waiter.pid(), Signal::WINCH);
        waiter.signal(Signal::TERM);
        kill_process(stopped, Signal::CONT).unwrap();
        shows(&waiter.finish(), 143, "", "");
    });
}
