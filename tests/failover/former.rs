use std::path::{Path, PathBuf};
use std::process::Command;

use super::scene::{Run, Scene};
use crate::support::farm::CLIENT;

/// Names a semrun from before servers were asked for their replicas.
const PROGRAM: &str = "SEMRUN_TEST_OLD";

/// Those clients' script, and what calls it as they do.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/failover/before.lua");
const CALLER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/failover/former.sh");

/// Clients at one server that know nothing of replicas: the program that the variable names, or
/// their script, called by hand.
pub(crate) struct Former<'a> {
    scene: &'a Scene,
    port: u16,
    program: Option<PathBuf>,
}

impl<'a> Former<'a> {
    pub(crate) fn at(scene: &'a Scene, number: usize) -> Self {
        let program = std::env::var_os(PROGRAM).map(PathBuf::from);
        Self { scene, port: scene.farm.node(number).port(), program }
    }

    /// A run that works until it is let go.
    pub(crate) fn run(&self, name: &str, label: &str) -> Run {
        if let Some(program) = &self.program {
            let semrun = self.scene.command(program, self.port);
            return Run::start(self.scene, semrun, name, label);
        }
        let mut caller = self.caller(name);
        caller.arg("run");
        Run::judged(self.scene, caller, name, label)
    }

    /// Asks for a permit and gives back at once what it may have got.
    pub(crate) fn looks_in(&self, name: &str) {
        let mut command = if let Some(program) = &self.program {
            let mut semrun = self.scene.command(program, self.port);
            semrun.args(["--name", name, "-n", "--", "true"]);
            semrun
        } else {
            let mut caller = self.caller(name);
            caller.arg("look");
            caller
        };
        let output = command.output().unwrap();
        // Busy, or no permit is granted.
        assert!(matches!(output.status.code(), Some(0 | 69 | 75)), "{output:?}");
    }

    fn caller(&self, name: &str) -> Command {
        let mut caller = self.scene.command(Path::new("sh"), self.port);
        let url = format!("redis://{CLIENT}127.0.0.1:{}", self.port);
        caller.args([CALLER, SCRIPT, &url, name]);
        caller
    }
}
