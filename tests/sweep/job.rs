//! The command under a permit: its tree holds one of as many lock files as there may be holders. It
//! is this program again.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::process::setsid;
use signal_hook::consts::SIGTERM;

/// The argument by which this program is told to be a job.
pub(crate) const ROLE: &str = "job";
const MEMBER: &str = "member";

/// What it ends with, so that it is known for its own code.
pub(crate) const CODE: i32 = 7;

/// For how long the rest of a tree goes on if nothing ends it.
const REST: Duration = Duration::from_millis(1500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tree {
    /// One process.
    None,
    /// A child in a session of its own, which ignores TERM and has closed all that it inherited but
    /// the lock file, as what some languages start.
    Closing,
}

/// An entry of the notes.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) tag: String,
    /// No lock file was free.
    pub(crate) crowded: bool,
    pub(crate) token: Option<u64>,
}

/// `early`: the lock file is closed before everything else when a process of the job is killed.
/// The kernel closes the highest descriptor first, and where a permit is a connection the next
/// one may have it before the last is closed.
pub(crate) fn arguments(
    here: &Path,
    (locks, early): (usize, bool),
    tag: &str,
    time: Duration,
    tree: Tree,
) -> Vec<String> {
    let program = std::env::current_exe().unwrap();
    let words = [program.to_str().unwrap(), ROLE, here.to_str().unwrap(), tag];
    let early = if early { "early" } else { "late" };
    let tree = if tree == Tree::None { "alone" } else { "tree" };
    let numbers = [locks.to_string(), early.into(), time.as_millis().to_string(), tree.into()];
    words.map(String::from).into_iter().chain(numbers).collect()
}

pub(crate) fn prepare(here: &Path, locks: usize) {
    for file in (0..locks).map(|number| format!("lock.{number}")).chain(["notes".into()]) {
        File::create(here.join(file)).unwrap();
    }
}

pub(crate) fn notes(here: &Path) -> Vec<Entry> {
    let entry = |line: &str| {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap().to_owned();
        Entry { tag: word(), crowded: word() == "crowded", token: word().parse().ok() }
    };
    fs::read_to_string(here.join("notes")).unwrap().lines().map(entry).collect()
}

/// Does what the arguments say, and ends.
#[expect(clippy::exit, reason = "this is a process of its own")]
pub(crate) fn play(words: &[String]) -> ! {
    let millis = |word: &String| Duration::from_millis(word.parse().unwrap());
    match words {
        [member, time, kept] if member == MEMBER => {
            let _ = setsid();
            signal_hook::flag::register(SIGTERM, std::sync::Arc::default()).unwrap();
            let kept: i32 = kept.parse().unwrap();
            for other in (3..256).filter(|other| *other != kept) {
                let _ = nix::unistd::close(other);
            }
            sleep(millis(time));
            std::process::exit(0);
        }
        [here, tag, locks, early, time, tree] => {
            let here = Path::new(here);
            let early = early == "early";
            let lock = (0..locks.parse().unwrap()).find_map(|number| lock(here, number, early));
            let token = std::env::var("SEMRUN_FENCING_TOKEN").unwrap_or_default();
            let word = if lock.is_some() { "entered" } else { "crowded" };
            if let (Some(lock), "tree") = (&lock, tree.as_str()) {
                spawn(&[MEMBER, &REST.as_millis().to_string(), &lock.as_raw_fd().to_string()]);
            }
            let mut notes = OpenOptions::new().append(true).open(here.join("notes")).unwrap();
            notes.write_all(format!("{tag} {word} {token}\n").as_bytes()).unwrap();
            sleep(millis(time));
            std::process::exit(CODE);
        }
        _ => panic!("{words:?}"),
    }
}

/// Without close-on-exec: the whole tree has it.
fn lock(here: &Path, number: usize, early: bool) -> Option<OwnedFd> {
    let mut file = open(here.join(format!("lock.{number}")), OFlags::RDWR, Mode::empty()).unwrap();
    if early {
        // Above any that a permit may have.
        file = fcntl_dupfd_cloexec(&file, 500).unwrap();
        fcntl_setfd(&file, FdFlags::empty()).unwrap();
    }
    flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok().then_some(file)
}

#[expect(clippy::zombie_processes, reason = "it is for semrun to end it")]
fn spawn(words: &[&str]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(ROLE).args(words).stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(Stdio::null()).spawn().unwrap();
}
