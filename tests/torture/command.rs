//! The command under a permit: takes a lock file that must be free, notes what it does, and behaves
//! as its job says. It is this program again, so that it is quick and needs no shell.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::process::{Signal, getpid, kill_process, setsid};
use signal_hook::consts::{SIGHUP, SIGTERM};

use super::history::{Job, Judge, Kind, Moment, Run, Semaphore};
use super::step::Step;

/// The argument by which this program is told to be a command.
pub(crate) const ROLE: &str = "command";

/// Its own process, for members of its family.
const MEMBER: &str = "member";
const DAEMON: &str = "daemon";
const CHAIN: &str = "chain";

/// Starts the rest of its words without any descriptor, and ends as they do.
const CLOSING: &str = "closing";
const CLOSED: &str = "closed";

/// How to call it: `here` is the directory of the arena.
pub(crate) fn arguments(here: &Path, run: Run, semaphore: Semaphore, job: Job) -> Vec<String> {
    let directory = here.to_str().unwrap().to_owned();
    let kind = match job.kind {
        // They differ in what is around them.
        Kind::Plain | Kind::Shell | Kind::Closed | Kind::Nested => "plain",
        Kind::Stubborn => "stubborn",
        Kind::Family => "family",
        Kind::Awaited => "awaited",
        Kind::Daemon => "daemon",
        Kind::Swarm => "swarm",
        Kind::Writer => "writer",
        Kind::Step => "step",
    };
    let numbers = [run.0.to_string(), semaphore.limit.to_string()];
    let [run, limit] = numbers;
    let (work, mut code) = (job.work.as_millis().to_string(), job.code.to_string());
    if job.kind == Kind::Step {
        code = format!("{}ms", job.hold.as_millis());
    }
    let name = semaphore.name.to_owned();
    let judged = match semaphore.judge {
        Judge::Locks => "locks",
        Judge::EarlyLocks => "early-locks",
        Judge::Tokens => "tokens",
    };
    let mut words = vec![ROLE.into()];
    words.extend((job.kind == Kind::Closed).then(|| CLOSING.into()));
    words.extend([directory, run, name, limit, judged.into(), kind.into(), work, code]);
    words
}

/// What is before a command and its arguments: a shell, and a run of semrun within the run.
pub(crate) fn around(run: Run, semaphore: Semaphore, kind: Kind, semrun: &Path) -> Vec<String> {
    const SCRIPTS: [&str; 2] = ["\"$@\" | cat", "\"$@\" & wait $!"];
    const NESTED: [&str; 2] = ["\"$@\" & sleep 0.1", "\"$@\" & wait $!"];
    let script = match kind {
        Kind::Shell => SCRIPTS[run.0 % 2],
        Kind::Nested => NESTED[run.0 % 2],
        _ => return Vec::new(),
    };
    let mut words: Vec<String> = ["sh", "-c", script, "sh"].map(String::from).into();
    if kind == Kind::Nested {
        let (semrun, limit) = (semrun.to_str().unwrap(), semaphore.limit.to_string());
        let inner = [semrun, "-q", "-n", "--name", semaphore.name, "-l", &limit, "--"];
        words.extend(inner.map(String::from));
    }
    words
}

/// The names of the files of an arena.
pub(crate) fn history_file(here: &Path) -> PathBuf {
    here.join("history")
}

pub(crate) fn alive_file(here: &Path, run: Run) -> PathBuf {
    here.join(format!("alive.{}", run.0))
}

pub(crate) fn semaphore_directory(here: &Path, semaphore: &str) -> PathBuf {
    here.join("semaphores").join(semaphore)
}

/// Does what the arguments say, and ends.
#[expect(clippy::exit, reason = "this is a process of its own")]
pub(crate) fn play(arguments: &[String]) -> ! {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [MEMBER, session, work] => member(session, millis(work)),
        [CHAIN, end] => chain(Moment(end.parse().unwrap())),
        [CLOSING, ..] => std::process::exit(without_descriptors(&words[1..])),
        [CLOSED, ..] => {
            for inherited in 3..1024 {
                let _ = nix::unistd::close(inherited);
            }
            play(&arguments[1..])
        }
        [DAEMON, work] => {
            spawn(&[MEMBER, "session", work]);
            std::process::exit(0);
        }
        [here, run, semaphore, limit, judged, "step", work, hold] => {
            let (here, work, early) = (Path::new(here), millis(work), judged == "early-locks");
            let step = Step { here, run, semaphore, limit, early, work, hold };
            std::process::exit(step.play());
        }
        [here, run, semaphore, limit, judged, kind, work, code] => {
            let here = Path::new(here);
            let files = semaphore_directory(here, semaphore);
            if kind == "daemon" {
                // It affects no other process, and knows of no lock.
                spawn(&[DAEMON, "3000"]);
            }
            if matches!(kind, "stubborn" | "family" | "awaited") {
                ignore_requests_to_end();
            }
            // Kept open by the whole tree, as the lock file below: no process closes them.
            let alive = open_for_the_family(&here.join(format!("alive.{run}")), OFlags::WRONLY);
            let notes = Notes::new(here, run);
            let variable = |name| std::env::var(name).unwrap_or_default();
            let token = variable("SEMRUN_FENCING_TOKEN");
            notes.write(&format!("entered {} {token} {}", getpid(), variable("SEMRUN_PERMIT")));
            let judge = (judged != "tokens")
                .then(|| judge(&files, limit.parse().unwrap(), judged == "early-locks"));
            if judge.as_ref().is_some_and(Option::is_none) {
                notes.write("crowded");
            }
            if kind == "swarm" {
                let end = Moment::now().plus(Duration::from_secs(4)).0.to_string();
                spawn(&[CHAIN, &end]);
                spawn(&[CHAIN, &end]);
            }
            if matches!(kind, "family" | "awaited") {
                let time = if kind == "family" { "4000" } else { "200" };
                spawn(&[MEMBER, "here", time]);
                spawn(&[MEMBER, "session", time]);
                spawn(&[DAEMON, time]);
            }
            let token = token.parse().ok();
            work_for(millis(work), || {
                if let Some(token) = token.filter(|_| limit == "1" && kind == "writer") {
                    write_to_store(&files, token, &notes);
                }
            });
            let code: i32 = code.parse().unwrap();
            notes.write(&format!("left {code}"));
            if code < 0 {
                let _ = kill_process(getpid(), Signal::KILL);
            }
            drop((alive, judge));
            std::process::exit(code);
        }
        _ => panic!("{arguments:?}"),
    }
}

fn millis(word: &str) -> Duration {
    Duration::from_millis(word.parse().unwrap())
}

fn work_for(time: Duration, mut each: impl FnMut()) {
    let end = Moment::now().plus(time);
    loop {
        each();
        let left = end.since(Moment::now());
        if left.is_zero() {
            return;
        }
        sleep(left.min(Duration::from_millis(100)));
    }
}

fn ignore_requests_to_end() {
    for signal in [SIGTERM, SIGHUP] {
        let nothing = std::sync::Arc::default();
        signal_hook::flag::register(signal, nothing).unwrap();
    }
}

#[expect(clippy::exit, reason = "this is a process of its own")]
fn member(session: &str, time: Duration) -> ! {
    ignore_requests_to_end();
    if session == "session" {
        // It fails for one that leads its group already, which is as far apart as it can be.
        let _ = setsid();
    }
    work_for(time, || ());
    std::process::exit(0);
}

/// One process after the other, each in a session of its own, until then.
#[expect(clippy::exit, reason = "this is a process of its own")]
fn chain(end: Moment) -> ! {
    ignore_requests_to_end();
    let _ = setsid();
    sleep(Duration::from_millis(20));
    if Moment::now() < end {
        spawn(&[CHAIN, &end.0.to_string()]);
    }
    std::process::exit(0);
}

fn without_descriptors(words: &[&str]) -> i32 {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let status = command.args([ROLE, CLOSED]).args(words).status().unwrap();
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
}

/// Another of these, with all that this one has open for its family.
#[expect(clippy::zombie_processes, reason = "who waits for them is what is tested")]
fn spawn(words: &[&str]) {
    Command::new(std::env::current_exe().unwrap())
        .arg(ROLE)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
}

/// Without close-on-exec.
pub(super) fn open_for_the_family(path: &Path, flags: OFlags) -> OwnedFd {
    open(path, flags, Mode::empty()).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// One of the lock files, if there is a free one: the kernel knows, whatever the clocks say.
pub(super) fn judge(files: &Path, limit: usize, early: bool) -> Option<OwnedFd> {
    (1..=limit).find_map(|number| {
        let mut file = open_for_the_family(&files.join(format!("judge.{number}")), OFlags::RDWR);
        if early {
            // Above any that a permit may have.
            file = fcntl_dupfd_cloexec(&file, 500).unwrap();
            fcntl_setfd(&file, FdFlags::empty()).unwrap();
        }
        flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok().then_some(file)
    })
}

/// A store that refuses what an older holder writes.
fn write_to_store(files: &Path, token: u64, notes: &Notes) {
    let mut store = OpenOptions::new().read(true).write(true).open(files.join("store")).unwrap();
    flock(&store, FlockOperation::LockExclusive).unwrap();
    let mut text = String::new();
    store.read_to_string(&mut text).unwrap();
    let newest: u64 = text.trim().parse().unwrap_or(0);
    let accepted = token >= newest;
    if accepted {
        store.rewind().unwrap();
        store.write_all(format!("{token:020}").as_bytes()).unwrap();
    }
    // Before the next one can write, so that the notes have the order of the store.
    notes.write(&format!("wrote {token} {newest} {accepted}"));
}

/// Lines of a file that all append to; each is one write, and they stand in their order.
pub(super) struct Notes {
    file: File,
    run: String,
}

impl Notes {
    pub(super) fn new(here: &Path, run: &str) -> Self {
        let file = OpenOptions::new().append(true).open(history_file(here)).unwrap();
        Self { file, run: run.into() }
    }

    pub(super) fn write(&self, words: &str) {
        let line = format!("{} {} {words}\n", Moment::now().0, self.run);
        (&self.file).write_all(line.as_bytes()).unwrap();
    }
}

/// Makes what commands need there.
pub(crate) fn prepare(here: &Path, semaphores: &[Semaphore]) {
    for_all(here, 0o755);
    File::create(history_file(here)).unwrap();
    for_all(&history_file(here), 0o666);
    for semaphore in semaphores {
        prepare_semaphore(here, *semaphore);
    }
}

/// The same for one of them.
pub(crate) fn prepare_semaphore(here: &Path, semaphore: Semaphore) {
    let files = semaphore_directory(here, semaphore.name);
    fs::create_dir_all(&files).unwrap();
    for_all(&files, 0o777);
    let judges = (1..=semaphore.limit).map(|number| format!("judge.{number}"));
    for file in judges.chain(["store".into(), "violations".into(), "ran".into()]) {
        File::create(files.join(&file)).unwrap();
        for_all(&files.join(&file), 0o666);
    }
}

fn for_all(path: &Path, mode: u32) {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
}
