//! A cloud-semaphore server of one test's own, on a free port, ended with the test: `semrun serve`
//! or a double of the original.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::support::{PATIENCE, SEMRUN};

/// The first of the two keys that such a server takes; its label is `first`.
pub(crate) const KEY: &str = "a-key-for-tests";
/// The other, whose label is `second`.
pub(crate) const OTHER_KEY: &str = "another-key-for-tests";

const DOUBLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/cloud_server.py");
const START_LINE: &str = "server: The server is listening on port ";

enum Program {
    /// `semrun serve` with further options and variables, and with so many descriptors.
    Ours(Vec<OsString>, Vec<(&'static str, PathBuf)>, Option<u32>),
    /// What behaves as the original, weak points included.
    LikeNode,
}

pub(crate) struct CloudServer {
    process: Child,
    directory: TempDir,
    program: Program,
    port: u16,
}

impl CloudServer {
    pub(crate) fn ours() -> Self {
        Self::ours_with(&[])
    }

    pub(crate) fn ours_with(options: &[&str]) -> Self {
        Self::ours_within(options, &[])
    }

    pub(crate) fn ours_within(options: &[&str], environment: &[(&'static str, PathBuf)]) -> Self {
        let options = options.iter().map(OsString::from).collect();
        Self::start(Program::Ours(options, environment.to_vec(), None))
    }

    /// One that cannot have more than so many descriptors.
    pub(crate) fn ours_with_descriptors(descriptors: u32, options: &[&str]) -> Self {
        let options = options.iter().map(OsString::from).collect();
        Self::start(Program::Ours(options, Vec::new(), Some(descriptors)))
    }

    pub(crate) fn like_node() -> Self {
        Self::start(Program::LikeNode)
    }

    /// One with other keys.
    pub(crate) fn ours_with_keys(lines: &str, options: &[&str]) -> Self {
        let options = options.iter().map(OsString::from).collect();
        Self::start_with_keys(Program::Ours(options, Vec::new(), None), lines)
    }

    fn start(program: Program) -> Self {
        Self::start_with_keys(program, &format!("{KEY} first\n{OTHER_KEY} second\n"))
    }

    fn start_with_keys(program: Program, lines: &str) -> Self {
        let directory = TempDir::new().unwrap();
        write_keys(&directory, lines);
        let (process, port) = launch(&directory, &program, 0)
            .unwrap_or_else(|status| panic!("{status}: {}", read(&directory, "stderr")));
        Self { process, directory, program, port }
    }

    pub(crate) fn is_like_node(&self) -> bool {
        matches!(self.program, Program::LikeNode)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    /// Replaces what is in the file with its keys.
    pub(crate) fn write_keys(&self, lines: &str) {
        write_keys(&self.directory, lines);
    }

    /// What it wrote to standard error, in all its lives.
    pub(crate) fn log(&self) -> String {
        read(&self.directory, "stderr")
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again after its end, at the same place.
    pub(crate) fn start_again(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        // Another process may have got the port meanwhile, for a connection of its own.
        loop {
            match launch(&self.directory, &self.program, self.port) {
                Ok((process, _)) => break self.process = process,
                Err(status) => assert!(Instant::now() < deadline, "{status}: {}", self.log()),
            }
            sleep(Duration::from_millis(50));
        }
    }

    /// Starts the double of the original in its place.
    pub(crate) fn start_again_like_node(&mut self) {
        self.program = Program::LikeNode;
        self.start_again();
    }

    /// Asks it to end, and returns how it did and what it wrote.
    pub(crate) fn stop(&mut self) -> Output {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while self.is_running() {
            assert!(Instant::now() < deadline, "the server did not end");
            sleep(Duration::from_millis(2));
        }
        let written = |file| read(&self.directory, file).into_bytes();
        let (stdout, stderr) = (written("stdout"), written("stderr"));
        Output { status: self.process.wait().unwrap(), stdout, stderr }
    }
}

impl Drop for CloudServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `semrun serve` on any port, or this one, with the keys in this directory.
pub(crate) fn serve(directory: &TempDir, port: u16) -> Command {
    serve_by(mortal(SEMRUN), directory, port)
}

fn serve_by(mut command: Command, directory: &TempDir, port: u16) -> Command {
    command
        .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--api-key-file"])
        .arg(directory.path().join("keys"))
        .current_dir(directory.path())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", directory.path());
    command
}

pub(crate) fn write_keys(directory: &TempDir, lines: &str) {
    let mut options = OpenOptions::new();
    let keys = options.write(true).create(true).truncate(true).mode(0o600);
    let mut keys = keys.open(directory.path().join("keys")).unwrap();
    keys.write_all(lines.as_bytes()).unwrap();
}

/// The process and its port, or how it ended instead of listening.
fn launch(directory: &TempDir, program: &Program, port: u16) -> Result<(Child, u16), ExitStatus> {
    let mut command = match program {
        Program::Ours(_, _, None) => serve(directory, port),
        Program::Ours(_, _, Some(descriptors)) => {
            let mut command = mortal("prlimit");
            command.arg(format!("--nofile={descriptors}:{descriptors}")).arg(SEMRUN);
            serve_by(command, directory, port)
        }
        Program::LikeNode => mortal("python3"),
    };
    match program {
        Program::Ours(options, environment, _) => {
            command.args(options).envs(environment.iter().map(|(name, value)| (name, value)))
        }
        Program::LikeNode => command.args([DOUBLE, &port.to_string(), KEY, OTHER_KEY]),
    };
    let stderr = OpenOptions::new().append(true).create(true).open(directory.path().join("stderr"));
    let mut process = command
        .stdin(Stdio::null())
        .stdout(File::create(directory.path().join("stdout")).unwrap())
        .stderr(stderr.unwrap())
        .spawn()
        .expect("these tests need setpriv and python3");
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(port) = announced_port(&read(directory, "stdout")) {
            return Ok((process, port));
        }
        if let Some(status) = process.try_wait().unwrap() {
            return Err(status);
        }
        if Instant::now() > deadline {
            let _ = process.kill();
            return Err(process.wait().unwrap());
        }
        sleep(Duration::from_millis(2));
    }
}

/// A program that dies with the thread that started it, whatever becomes of that.
fn mortal(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    command
}

fn announced_port(stdout: &str) -> Option<u16> {
    let (line, _) = stdout.split_once('\n')?;
    line.strip_prefix(START_LINE)?.parse().ok()
}

fn read(directory: &TempDir, file: &str) -> String {
    let text = fs::read(directory.path().join(file)).unwrap_or_default();
    String::from_utf8_lossy(&text).into_owned()
}
