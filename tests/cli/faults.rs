//! Faults around a command, and commands that are hard to stop.

use rustix::process::Pid;

use super::support::{Running, World, is_alive, pid_in, wait_until, worker_of};

/// The shortest lease, which makes tests short.
pub(crate) const TTL: &str = "5s";
pub(crate) const OPTIONS: [&str; 2] = ["--ttl", TTL];

/// A command whose tree is hard to get rid of: a child, one in another session, and a daemon that
/// forked twice. All note their pids and ignore SIGTERM.
pub(crate) fn stubborn_family() -> String {
    let member = |name: &str| {
        format!("sh -c \"trap '' TERM HUP; echo \\$\\$ > {name}; while :; do sleep 0.05; done\"")
    };
    format!(
        "trap '' TERM HUP; {} & setsid {} & (setsid {} &) ; echo $$ > command; while :; do sleep 0.05; done",
        member("child"),
        member("session"),
        member("daemon"),
    )
}

pub(crate) fn family(world: &World) -> Vec<Pid> {
    ["command", "child", "session", "daemon"].map(|file| pid_in(&world.path(file))).into()
}

/// The second of the two processes of a semrun.
pub(crate) fn worker(semrun: &Running) -> Pid {
    worker_of(semrun.pid())
}

#[test]
fn a_test_that_fails_leaves_no_process_behind() {
    let world = World::on_this_machine();
    let script = "setsid sleep 1000 & echo $! > pid; wait";
    let mut run = world.script(&["--jitter", "1ms"], script).spawn().unwrap();
    let left = pid_in(&world.path("pid"));
    drop(world);
    wait_until("nothing is left", || !is_alive(left));
    run.wait().unwrap();
}
