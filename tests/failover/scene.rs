//! A set of servers, the address at which clients find the primary, and runs whose commands the
//! kernel judges.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use super::processes::{MARK, Process, marked};
use crate::support::address::{Address, Old};
use crate::support::farm::{CLIENT, Farm, Shape};
use crate::support::wait_until;

/// The program under test.
pub(crate) const SEMRUN: &str = env!("CARGO_BIN_EXE_semrun");

/// How long a server that remembers nothing has to be up, in seconds.
const QUARANTINE: u64 = 5;

/// Longer than a server that took another's place grants nothing, with the TTLs of these tests.
const PAUSE: Duration = Duration::from_secs(15);

/// What runs under a permit of $1, as $2: it takes the lock of $1, and says so if that is taken.
const JUDGED: &str = r#"
    exec 9>> "lock-$1"
    flock -n 9 || echo "$2" >> overlaps
    echo > "began-$2"
    until [ -e "end-$2" ]; do sleep 0.2; done"#;

pub(crate) struct Scene {
    pub(crate) farm: Farm,
    /// Where clients find the primary.
    pub(crate) address: Address,
    directory: TempDir,
    /// How many replicas have to be in step for anything to be granted.
    replicas: u32,
}

impl Scene {
    /// Returns when all servers have been up for so long that they grant permits of new names.
    pub(crate) fn new(shape: &Shape, replicas: u32) -> Self {
        let farm = Farm::start(shape);
        let up = |seconds| seconds >= QUARANTINE;
        wait_until("no server is in quarantine", || {
            farm.nodes()
                .iter()
                .all(|node| node.count("server", "uptime_in_seconds").is_some_and(up))
        });
        let address = Address::of(farm.node(0).port());
        Self { farm, address, directory: TempDir::new().unwrap(), replicas }
    }

    /// One with two replicas that are promoted by hand.
    pub(crate) fn without_sentinels(replicas: u32) -> Self {
        Self::new(&Shape { sentinels: 0, ..Shape::default() }, replicas)
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    /// The address leads to this server from now on.
    pub(crate) fn move_to(&self, number: usize, old: Old) {
        self.address.move_to(self.farm.node(number).port(), old);
    }

    /// A program at work on the servers that this port leads to.
    pub(crate) fn command(&self, program: &Path, port: u16) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.directory.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.directory.path())
            .env(MARK, self.directory.path())
            .env("SEMRUN_CONFIG", "/dev/null")
            .env("SEMRUN_BACKEND", format!("redis://{CLIENT}127.0.0.1:{port}"))
            .env("SEMRUN_TTL", "5s")
            .env("SEMRUN_QUARANTINE", format!("{QUARANTINE}s"))
            .stdin(Stdio::null());
        command
    }

    /// semrun with these arguments, by way of the address.
    pub(crate) fn semrun(&self, arguments: &[&str]) -> Command {
        self.semrun_at(self.address.port(), arguments)
    }

    pub(crate) fn semrun_at(&self, port: u16, arguments: &[&str]) -> Command {
        let mut command = self.command(Path::new(SEMRUN), port);
        command.env("SEMRUN_REPLICAS", self.replicas.to_string()).args(arguments);
        command
    }

    /// What it says and how it ends.
    pub(crate) fn answer(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.semrun(arguments).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    }

    /// A run for a permit of a name, known by its label, that works until it is let go.
    pub(crate) fn run(&self, name: &str, label: &str, options: &[&str]) -> Run {
        Run::start(self, self.semrun(options), name, label)
    }

    /// The same by another way than the address.
    pub(crate) fn run_at(&self, port: u16, name: &str, label: &str) -> Run {
        Run::start(self, self.semrun_at(port, &[]), name, label)
    }

    /// One that has begun.
    pub(crate) fn holder(&self, name: &str, label: &str, options: &[&str]) -> Run {
        let mut run = self.run(name, label, options);
        run.begins();
        run
    }

    /// When the lease of the only holder ends, by the server's clock in ms; as this server has it.
    pub(crate) fn lease(&self, number: usize, name: &str) -> Option<i64> {
        let words = ["ZRANGE", &format!("semrun-{name}"), "0", "-1", "WITHSCORES"];
        let leases: Vec<(String, i64)> = self.farm.node(number).try_ask(&words).ok()?;
        leases.first().map(|(_, ends)| *ends)
    }

    /// Waits until a waiter is in the queue, as this server has it.
    pub(crate) fn is_queued(&self, number: usize, name: &str) {
        let words = ["ZCARD", &format!("{{semrun-{name}}}:queue")];
        wait_until("it is in the queue", || self.farm.node(number).ask::<u32>(&words) > 0);
    }

    /// Returns right after the holder has renewed its lease at this server.
    pub(crate) fn is_renewed(&self, number: usize, name: &str) {
        let before = self.lease(number, name);
        wait_until("the lease is renewed", || self.lease(number, name) > before);
    }

    /// Runs a holder and newcomers to their ends, in this order. A holder goes on or is ended by its
    /// deadline; a newcomer gets its turn.
    #[track_caller]
    pub(crate) fn ends(&self, holders: Vec<Run>, newcomers: Vec<Run>) {
        for holder in holders {
            let (code, said) = holder.finish();
            assert!(matches!(code, Some(0 | 76)), "{code:?}: {said}");
        }
        self.judge();
        for newcomer in newcomers {
            newcomer.ends_well();
        }
        self.judge();
    }

    /// Not two at a time.
    #[track_caller]
    pub(crate) fn judge(&self) {
        let overlaps = fs::read_to_string(self.path("overlaps")).unwrap_or_default();
        let overlaps: Vec<_> = overlaps.lines().collect();
        assert!(overlaps.is_empty(), "{} overlapped: {overlaps:?}", overlaps.len());
    }
}

/// A test that failed may have left some of what it started.
impl Drop for Scene {
    fn drop(&mut self) {
        let mark = self.directory.path().display().to_string();
        for process in marked(&mark).into_iter().filter_map(|pid| Process::find(pid, &mark)) {
            process.signal(Signal::KILL);
        }
    }
}

/// Waits for as long as these might begin too soon, or until they have.
pub(crate) fn watch(newcomers: &[Run]) {
    watch_for(PAUSE, newcomers);
}

pub(crate) fn watch_for(time: Duration, newcomers: &[Run]) {
    let started = Instant::now();
    while started.elapsed() < time && !newcomers.iter().all(Run::has_begun) {
        sleep(Duration::from_millis(50));
    }
}

/// A run whose command is judged. It is killed with its value.
pub(crate) struct Run {
    process: Child,
    directory: PathBuf,
    label: String,
}

impl Run {
    /// Runs a semrun, which has its options and its surroundings by now.
    pub(crate) fn start(scene: &Scene, mut semrun: Command, name: &str, label: &str) -> Self {
        semrun.args(["--name", name, "--wait", "60s", "--"]);
        Self::judged(scene, semrun, name, label)
    }

    /// Runs a program that runs the command which is its last arguments.
    pub(crate) fn judged(scene: &Scene, mut program: Command, name: &str, label: &str) -> Self {
        program.args(["sh", "-c", JUDGED, "sh", name, label]);
        let said = fs::File::create(scene.path(&format!("said-{label}"))).unwrap();
        let process = program.stdout(said.try_clone().unwrap()).stderr(said).spawn().unwrap();
        Self { process, directory: scene.path(""), label: label.to_owned() }
    }

    fn path(&self, what: &str) -> PathBuf {
        self.directory.join(format!("{what}-{}", self.label))
    }

    /// What it has said so far.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(self.path("said")).unwrap_or_default()
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.path("began").exists()
    }

    #[track_caller]
    pub(crate) fn begins(&mut self) {
        wait_until(&format!("{} begins", self.label), || {
            let over = self.has_ended();
            assert!(self.has_begun() || !over, "it ended instead: {}", self.said());
            self.has_begun()
        });
    }

    /// Waits until it has told its user something with this word in it.
    #[track_caller]
    pub(crate) fn tells(&self, word: &str) {
        wait_until(&format!("{} says {word:?}", self.label), || self.said().contains(word));
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    /// Lets its command end, and returns its exit code and what it has said.
    #[track_caller]
    pub(crate) fn finish(mut self) -> (Option<i32>, String) {
        fs::write(self.path("end"), "").unwrap();
        let said = self.path("said");
        wait_until(&format!("the end; see {}", said.display()), || self.has_ended());
        (self.process.wait().unwrap().code(), self.said())
    }

    #[track_caller]
    pub(crate) fn ends_well(self) {
        let label = self.label.clone();
        let (code, said) = self.finish();
        assert_eq!(code, Some(0), "{label}: {said}");
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
