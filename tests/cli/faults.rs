//! What goes wrong around a command, and commands that make it hard.

use rustix::process::Pid;

use super::support::{Running, World, pid_in, worker_of};

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
