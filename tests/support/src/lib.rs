//! What the test programs of semrun share: servers to talk to, networks and clocks that misbehave,
//! processes that are found and killed. All of it is on loopback, needs no privileges but where
//! [`root`] is asked, and ends with the value that stands for it, also when a test fails.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::missing_panics_doc, reason = "a test that cannot go on fails")]

pub mod address;
pub mod clock;
pub mod cloud_server;
pub mod farm;
pub mod haproxy;
pub mod mutate;
pub mod node;
mod ports;
pub mod processes;
pub mod proxy;
pub mod redis_server;
pub mod root;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Longer than anything takes that works, on a machine that does much else.
pub const PATIENCE: Duration = Duration::from_secs(30);

#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(Duration::from_millis(5));
    }
}

/// The program under test. Only integration tests are told when they are compiled, and this is none:
/// cargo says it when it runs one, and builds it beside the directory that has the tests.
fn semrun() -> &'static Path {
    static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
        std::env::var_os("CARGO_BIN_EXE_semrun").map_or_else(beside_the_tests, PathBuf::from)
    });
    &PROGRAM
}

fn beside_the_tests() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("semrun");
    assert!(program.exists(), "no program under test at {}", program.display());
    program
}

/// A program that dies with the thread that started it, whatever becomes of that.
fn mortal(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}
