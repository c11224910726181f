//! The terminal after the death of one of the two processes: a script that runs semrun and then reads
//! from the terminal goes on.

use rustix::process::{Pid, Signal, kill_process};

use super::super::pids::children;
use super::super::support::{World, wait_until, worker_of};
use super::Terminal;

/// Runs semrun in a script that reads afterwards; `strike` gets the guardian and the worker.
fn reads_after(world: &World, strike: impl Fn(Pid, Pid), code: i32) {
    let mut terminal = Terminal::open(world);
    // The script hears of the guardian's death a moment before its worker has given the terminal back.
    terminal.script(
        "$semrun --name x --ttl 5s -- sleep 1000; code=$?; echo code=$code
        if [ $code = 137 ]; then
            until [ $(ps -o tpgid= -p $$) = $(ps -o pgid= -p $$) ]; do sleep 0.01; done
        fi
        read -r line; echo \"got=$line\"",
    );
    terminal.enters("bash script");
    terminal.holds();
    let guardian = Pid::from_raw(world.holders()[0].cast_signed()).unwrap();
    // The permit is granted before the worker knows, and one that is stopped by then is a waiter.
    let runs = |(_, name): &(Pid, String)| name == "sleep";
    wait_until("the command runs", || children(worker_of(guardian)).iter().any(runs));
    strike(guardian, worker_of(guardian));
    terminal.shows(&format!("code={code}"));
    terminal.enters("hello");
    let before = terminal.shows("got=hello");
    assert!(!before.contains("Stopped"), "{before}");
    terminal.shows("ready> ");
}

#[test]
fn a_script_reads_the_terminal_after_the_worker_was_killed() {
    World::everywhere(|world| {
        reads_after(world, |_, worker| kill_process(worker, Signal::KILL).unwrap(), 125);
    });
}

#[test]
fn a_script_reads_the_terminal_after_the_guardian_was_killed() {
    World::everywhere(|world| {
        reads_after(world, |guardian, _| kill_process(guardian, Signal::KILL).unwrap(), 137);
    });
}

#[test]
fn a_script_reads_the_terminal_after_the_worker_was_stopped_beyond_its_lease() {
    let world = World::in_redis();
    reads_after(&world, |_, worker| kill_process(worker, Signal::STOP).unwrap(), 76);
}
