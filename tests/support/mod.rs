//! Servers that fail, for tests of any binary: a set of Redis servers with sentinels, an address that
//! moves from one to another, a haproxy in front. Nothing here needs privileges, all of it is on
//! loopback, and it ends with the value that stands for it.

/// An address whose server changes.
pub(crate) mod address;
/// A primary, its replicas and their sentinels.
pub(crate) mod farm;
/// A real haproxy that finds the primary.
pub(crate) mod haproxy;
/// One process of Redis.
pub(crate) mod node;
/// Ports for servers that go and come back.
mod ports;

use std::thread::sleep;
use std::time::{Duration, Instant};

/// Longer than anything takes that works, on a machine that does much else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(Duration::from_millis(10));
    }
}

/// A program that dies with the thread that started it, whatever becomes of that.
fn mortal(program: &std::ffi::OsStr) -> std::process::Command {
    let mut command = std::process::Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}
