//! The course of one fault, and what all scenes check: never two holders at once, a documented
//! code, a permit that passes on in time, and nothing left.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use super::backends::{Backends, Kind, TTL};
use super::injector::{Call, Injector, Point, What, listed, struck};
use super::job::{self, CODE, Tree};
use super::processes::{MARK, Process, describe, marked};
use super::server::Server;
use super::support::{PATIENCE, SEMRUN};

/// For what happens at once, on a machine that does much else.
pub(crate) const PROMPT: Duration = Duration::from_secs(4);

/// What a failure of semrun's own may end with.
const FAILURES: [i32; 5] = [69, 75, 76, 78, 125];

pub(crate) struct Stage<'a> {
    pub(crate) backends: &'a Backends,
    pub(crate) injector: &'a Injector,
    pub(crate) kind: Kind,
    pub(crate) point: Point,
    pub(crate) name: String,
    pub(crate) here: TempDir,
    locks: usize,
    complaints: RefCell<Vec<String>>,
    /// One that has this stage to itself, and its port.
    pub(super) server: RefCell<Option<Server>>,
}

/// A process that is killed when it is not needed any more.
pub(crate) struct Running {
    child: Child,
    what: String,
    stdout: PathBuf,
    pub(super) stderr: PathBuf,
    /// What happens to it.
    pub(crate) point: Option<PathBuf>,
    /// When it is to go on.
    stopped: Option<(Instant, i32)>,
    continued: bool,
}

#[derive(Debug)]
pub(crate) struct Ended {
    /// Or minus the signal.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) at: Instant,
}

impl<'a> Stage<'a> {
    pub(crate) fn new(
        (backends, injector): (&'a Backends, &'a Injector),
        kind: Kind,
        point: Point,
        locks: usize,
    ) -> Self {
        let here = TempDir::new().unwrap();
        job::prepare(here.path(), locks);
        // Unlike any other's, as the name of the directory is.
        let name = here.path().file_name().unwrap().to_str().unwrap().replace('.', "p");
        let complaints = RefCell::default();
        let server = RefCell::default();
        Self { backends, injector, kind, point, name, here, locks, complaints, server }
    }

    pub(crate) fn complain(&self, text: impl Into<String>) {
        self.complaints.borrow_mut().push(text.into());
    }

    pub(crate) fn complaints(&self) -> Vec<String> {
        self.complaints.borrow().clone()
    }

    /// A program with this stage's surroundings.
    pub(crate) fn dressed(&self, mut command: Command) -> Command {
        self.backends.dress(self.kind, self.here.path(), &self.name, &mut command);
        command.env(MARK, self.here.path()).env("SEMRUN_TTL", "5s").current_dir(self.here.path());
        if let Some(server) = &*self.server.borrow() {
            command.env("SEMRUN_BACKEND", server.url());
        }
        command
    }

    pub(crate) fn semrun(&self, arguments: &[&str]) -> Running {
        let mut command = Command::new(SEMRUN);
        command.args(arguments);
        self.start(self.dressed(command), arguments.join(" "), None)
    }

    /// The one to which it happens.
    pub(crate) fn victim<S: AsRef<str>>(&self, arguments: &[S]) -> Running {
        let words = self.victim_words(arguments);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        let what = words[6..].join(" ");
        self.start(self.dressed(command), what, Some(self.point_file()))
    }

    pub(crate) fn victim_words<S: AsRef<str>>(&self, arguments: &[S]) -> Vec<String> {
        let mut words = vec![self.injector.program().to_str().unwrap().to_owned()];
        words.extend(self.point.words(&self.point_file()));
        words.push(SEMRUN.into());
        words.extend(arguments.iter().map(|word| word.as_ref().to_owned()));
        words
    }

    pub(crate) fn point_file(&self) -> PathBuf {
        self.here.path().join("point")
    }

    pub(crate) fn start(
        &self,
        mut command: Command,
        what: String,
        point: Option<PathBuf>,
    ) -> Running {
        let number = fs::read_dir(self.here.path()).unwrap().count();
        let [stdout, stderr] =
            ["out", "err"].map(|name| self.here.path().join(format!("{name}.{number}")));
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .unwrap();
        Running { child, what, stdout, stderr, point, stopped: None, continued: false }
    }

    /// The calls of the victim, when all that was traced has ended.
    pub(crate) fn calls(&self) -> Vec<Call> {
        let mark = self.here.path().to_str().unwrap();
        assert!(within(PATIENCE, || marked(mark).is_empty()), "the tracer does not end");
        listed(&self.point_file())
    }

    pub(crate) fn job(&self, tag: &str, millis: u64, tree: Tree) -> Vec<String> {
        let time = Duration::from_millis(millis);
        let early = self.kind == Kind::Node;
        job::arguments(self.here.path(), (self.locks, early), tag, time, tree)
    }

    /// The arguments of a run of such a job.
    pub(crate) fn run_words(&self, options: &[&str], job: &[String]) -> Vec<String> {
        let words = ["--name", &self.name].into_iter().chain(options.iter().copied()).chain(["--"]);
        words.map(String::from).chain(job.iter().cloned()).collect()
    }

    pub(crate) fn run(&self, tag: &str, millis: u64, options: &[&str]) -> Running {
        let words = self.run_words(options, &self.job(tag, millis, Tree::None));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.semrun(&words)
    }

    pub(crate) fn entered(&self, tag: &str) -> usize {
        job::notes(self.here.path()).iter().filter(|entry| entry.tag == tag).count()
    }

    pub(crate) fn permit(&self, tag: &str) -> bool {
        self.entered(tag) > 0
    }

    /// Waits, and complains if it was in vain.
    pub(crate) fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let tended = || {
            self.tend();
            condition()
        };
        if !within(PATIENCE, tended) {
            self.complain(format!("not in time: {what}"));
        }
    }

    /// The JSON document about the name.
    pub(crate) fn status(&self) -> Option<serde_json::Value> {
        let ended = self.end(self.semrun(&["status", "--json", &self.name]));
        let text: serde_json::Value = serde_json::from_str(&ended.stdout).ok()?;
        Some(text["semaphores"][0].clone())
    }

    /// How many hold and wait.
    pub(crate) fn crowd(&self) -> (usize, usize) {
        let count = |seen: &serde_json::Value, who: &str| seen[who].as_array().map_or(0, Vec::len);
        self.status().map_or((0, 0), |seen| (count(&seen, "holders"), count(&seen, "waiters")))
    }

    pub(crate) fn until_queued(&self, waiters: usize) {
        self.until("it is in the queue", || self.crowd().1 >= waiters);
    }

    /// Waits for its end.
    pub(crate) fn end(&self, running: Running) -> Ended {
        self.end_within(running, Duration::from_secs(30))
    }

    fn end_within(&self, mut running: Running, time: Duration) -> Ended {
        let mut status = None;
        within(time, || {
            self.tend();
            status = running.poll(self);
            status.is_some()
        });
        let read = |path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        let (stdout, stderr) = (read(&running.stdout), read(&running.stderr));
        if status.is_none() {
            self.complain(format!("`{}` hangs: {stderr:?}", short(&running.what)));
        }
        if stderr.contains("panicked") {
            self.complain(format!("`{}` panicked: {stderr:?}", short(&running.what)));
        }
        let code =
            status.map_or(-9, |status| status.code().unwrap_or_else(|| -status.signal().unwrap()));
        Ended { code, stdout, stderr, at: Instant::now() }
    }

    pub(crate) fn expect(&self, what: &str, ended: &Ended, code: i32) {
        if ended.code != code {
            let Ended { code: found, stderr, .. } = ended;
            self.complain(format!("{what} ends with {found}, not {code}: {:?}", stderr.trim()));
        }
    }

    /// The end of the victim: its own code, or that of a failure, with words.
    pub(crate) fn judge_end(&self, ended: &Ended, own: &[i32]) {
        let Ended { code, stderr, .. } = ended;
        let killed = match (self.point.what, self.point.process) {
            (What::Killed, 0) => *code == -9,
            // Its command may have been killed before it had begun.
            (What::Killed, _) => *code == 128 + 9,
            _ => false,
        };
        if own.contains(code) || killed {
            return;
        }
        if self.point.what == What::Nothing || !FAILURES.contains(code) {
            self.complain(format!("it ends with {code}: {:?}", stderr.trim()));
        } else if stderr.trim().is_empty() {
            self.complain(format!("it ends with {code} without a word"));
        }
    }

    /// The same for a run of this job.
    pub(crate) fn judge_run(&self, tag: &str, ended: &Ended) {
        self.judge_end(ended, &[CODE]);
        let ran = self.entered(tag);
        if ran == 0 && ended.code == CODE {
            self.complain("it ends with its command's code, which has not run");
        }
        if ran > 0 && [69, 75, 78].contains(&ended.code) {
            self.complain(format!("it ends with {} although its command has run", ended.code));
        }
    }

    /// For how long a permit may stay taken that its holder cannot give back.
    pub(crate) fn bound(&self) -> Duration {
        let lives = matches!(self.point.what, What::Failed(..) | What::Nothing);
        if self.kind.leases() && !lives { TTL + PROMPT } else { PROMPT }
    }

    /// A waiter has its permit by then, and its job's code.
    pub(crate) fn served(&self, tag: &str, running: Running, since: Instant, bound: Duration) {
        if !within((since + bound).saturating_duration_since(Instant::now()), || self.permit(tag)) {
            let seen = self.status().unwrap_or_default();
            self.complain(format!("{tag} waits after {:.1?}: {seen}", since.elapsed()));
        }
        self.expect(tag, &self.end(running), CODE);
    }

    /// The others that come later find everything as it should be.
    pub(crate) fn settle(&self, bound: Duration) {
        let began = Instant::now();
        let next = self.end(self.run("next", 0, &["-w", "20s"]));
        self.expect("the next run", &next, CODE);
        if began.elapsed() > bound {
            self.complain(format!("the next run began after {:.1?}", began.elapsed()));
        }
        // A server may go away just then.
        let patience = if self.server.borrow().is_some() { &["-w", "5s"][..] } else { &["-n"] };
        let last = self.end(self.run("last", 0, patience));
        self.expect("a run that does not wait", &last, CODE);
        let crowd = self.crowd();
        if crowd != (0, 0) {
            self.complain(format!("(holders, waiters) are left: {crowd:?}"));
        }
        let left = self.backends.leftovers(self.kind, self.here.path(), &self.name);
        if !left.is_empty() {
            self.complain(format!("left: {left:?}"));
        }
        let mark = self.here.path().to_str().unwrap();
        let server = self.server.borrow().as_ref().map(Server::pid);
        // Not the server, nor the tracer of a server whose calls are listed.
        let tracer = self.injector.program();
        let stays = |pid: &Pid| {
            let program = fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero()));
            Some(*pid) == server || program.is_ok_and(|program| program == tracer)
        };
        let left = || marked(mark).into_iter().filter(|pid| !stays(pid));
        if !within(Duration::from_secs(2), || left().next().is_none()) {
            for pid in left() {
                self.complain(format!("left: {}", describe(pid)));
            }
        }
        self.judge_notes();
    }

    fn judge_notes(&self) {
        let mut runs: BTreeMap<String, usize> = BTreeMap::new();
        let mut newest = 0;
        for entry in job::notes(self.here.path()) {
            if entry.crowded {
                self.complain(format!("{} found all lock files taken: OVERLAP", entry.tag));
            }
            if entry.token.is_some_and(|token| token <= newest) && !entry.tag.starts_with("nested")
            {
                self.complain(format!("the token of {} is not newer", entry.tag));
            }
            newest = newest.max(entry.token.unwrap_or(0));
            *runs.entry(entry.tag).or_default() += 1;
        }
        for (tag, times) in runs.into_iter().filter(|(_, times)| *times > 1) {
            self.complain(format!("{tag} ran {times} times"));
        }
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        let mark = self.here.path().to_str().unwrap();
        for process in marked(mark).into_iter().filter_map(|pid| Process::find(pid, mark)) {
            process.signal(Signal::KILL);
        }
    }
}

impl Running {
    /// Whether it has ended, or something has happened to it.
    pub(crate) fn is_struck(&mut self) -> bool {
        let struck = self.point.as_ref().is_some_and(|file| struck(file).is_some());
        struck || self.child.try_wait().unwrap().is_some()
    }

    pub(crate) fn is_over(&mut self, stage: &Stage) -> bool {
        self.poll(stage).is_some()
    }

    /// How it ended; meanwhile what was stopped goes on in its time.
    pub(super) fn poll(&mut self, stage: &Stage) -> Option<std::process::ExitStatus> {
        if let (What::Stopped(time), Some(file)) = (stage.point.what, &self.point) {
            match self.stopped {
                None => {
                    let until = Instant::now() + time;
                    self.stopped = struck(file).map(|(pid, _)| (until, pid));
                }
                Some((until, pid)) if !self.continued && Instant::now() > until => {
                    let mark = stage.here.path().to_str().unwrap();
                    let process = Process::find(Pid::from_raw(pid).unwrap(), mark);
                    process.map(|process| process.signal(Signal::CONT));
                    self.continued = true;
                }
                Some(_) => (),
            }
        }
        self.child.try_wait().unwrap()
    }

    pub(crate) fn id(&self) -> String {
        self.child.id().to_string()
    }

    pub(super) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let _ = rustix::process::kill_process(self.pid(), signal);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Whether it became true in this time.
pub(crate) fn within(time: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + time;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        sleep(Duration::from_millis(4));
    }
}

fn short(what: &str) -> &str {
    what.split(" -- ").next().unwrap_or_default()
}
