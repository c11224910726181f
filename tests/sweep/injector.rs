//! A program to which something happens at one of its system calls (`inject.c`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sweep/inject.c");

/// What happens, and at which call of which process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Point {
    /// In the order of their beginnings.
    pub(crate) process: usize,
    pub(crate) call: usize,
    pub(crate) what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// The calls are listed.
    Nothing,
    Killed,
    /// It goes on after so long.
    Stopped(Duration),
    /// The call fails with this errno, if it has this number, and its descriptor is of this kind.
    Failed(i32, i64, char),
}

/// One that was listed.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) process: usize,
    pub(crate) number: i64,
    /// What its descriptor is.
    pub(crate) of: String,
}

pub(crate) struct Injector(TempDir);

impl Injector {
    pub(crate) fn compile() -> Self {
        let directory = TempDir::new().unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-Wall", "-Wextra", "-Werror", "-o"]);
        let status = cc.arg(directory.path().join("inject")).arg(SOURCE).status();
        assert!(status.expect("this needs a C compiler by the name of cc").success(), "{SOURCE}");
        Self(directory)
    }

    pub(crate) fn program(&self) -> PathBuf {
        self.0.path().join("inject")
    }
}

impl Point {
    pub(crate) const NONE: Self = Self { process: 0, call: 0, what: What::Nothing };

    /// What comes before the program and its arguments.
    pub(crate) fn words(&self, file: &Path) -> [String; 4] {
        let action = match self.what {
            What::Nothing => "list".into(),
            What::Killed => "kill".into(),
            What::Stopped(_) => "stop".into(),
            What::Failed(error, number, of) => format!("{error}:{number}:{of}"),
        };
        [self.process.to_string(), self.call.to_string(), action, file.to_str().unwrap().into()]
    }
}

/// The process that was struck, and by which call; none as long as it was not.
pub(crate) fn struck(file: &Path) -> Option<(i32, i64)> {
    let text = fs::read_to_string(file).ok()?;
    let (pid, number) = text.strip_suffix('\n')?.split_once(' ')?;
    Some((pid.parse().ok()?, number.parse().ok()?))
}

pub(crate) fn listed(file: &Path) -> Vec<Call> {
    let call = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let mut word = || words.next().unwrap();
        let (process, number) = (word().parse().unwrap(), word().parse().unwrap());
        Call { process, number, of: word().into() }
    };
    fs::read_to_string(file).unwrap().lines().map(call).collect()
}
