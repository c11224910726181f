//! The files of one semaphore, and the short mutex around them. In its directory are
//!
//! | file | what |
//! |---|---|
//! | `mutex` | locked while anything is decided; holds the last number and the limit in force |
//! | `q.<number>` | FIFO of a waiter, in the order of the queue |
//! | `p.<number>` | the same, of one who was passed over because it did not answer |
//! | `s.<token>` | FIFO of a permit that is held |
//! | `q.<number>.json`, `s.<token>.json` | who that is; read by people only |
//! | `name` | the true name, where the directory's is a shortened one |
//!
//! Whether somebody lives is never read from a file: a FIFO counts as long as its flock(2) is
//! held, and the kernel gives that up with the last process that has it open. Reasons and
//! measurements are in `docs/backends.md`.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use tokio::sync::oneshot;

use super::names;
use super::place::{Base, Sharing};
use crate::backends::{Name, Notice, Record, Turn};

/// How long the mutex may be busy before we say who has it. It is held for a millisecond.
const MUTEX_IS_STUCK: Duration = Duration::from_secs(2);

/// How long whoever does not want to wait tries all the same.
const GIVE_UP: Duration = Duration::from_secs(5);

/// How long to wait for the mutex.
#[derive(Debug, Clone, Copy)]
pub(super) enum ForMutex<'a> {
    /// As long as it takes; who waits is told when it takes long.
    Endless(&'a Turn),
    /// For those who do not want to wait: an error after a while.
    Bounded,
}

/// One semaphore's open directory.
#[derive(Debug)]
pub(super) struct Semaphore {
    directory: OwnedFd,
    mutex: OwnedFd,
    path: PathBuf,
    sharing: Sharing,
}

/// The mutex is ours until this goes.
#[derive(Debug)]
pub(super) struct Locked<'a>(&'a Semaphore);

/// What the mutex file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    /// The last queue number or fencing token given out; both come from here and only grow.
    pub(super) last: u64,
    /// The limit that stands while the semaphore is in use; 0: nobody has set one.
    pub(super) limit: u32,
}

/// The kinds of FIFO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Waiter,
    PassedOver,
    Permit,
}

/// One FIFO by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) number: u64,
}

/// All FIFOs, each kind in the order of its numbers.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) waiters: Vec<Entry>,
    pub(super) passed_over: Vec<Entry>,
    pub(super) permits: Vec<Entry>,
}

impl Entry {
    pub(super) fn new(kind: Kind, number: u64) -> Self {
        Self { kind, number }
    }

    fn file(self) -> String {
        let letter = match self.kind {
            Kind::Waiter => 'q',
            Kind::PassedOver => 'p',
            Kind::Permit => 's',
        };
        format!("{letter}.{:020}", self.number)
    }

    /// A waiter that was passed over keeps its record.
    fn record_file(self) -> String {
        let kind = if self.kind == Kind::PassedOver { Kind::Waiter } else { self.kind };
        format!("{}.json", Self { kind, ..self }.file())
    }

    fn parse(file: &[u8]) -> Option<Self> {
        let (letter, number) = std::str::from_utf8(file).ok()?.split_once('.')?;
        let kind = match letter {
            "q" => Kind::Waiter,
            "p" => Kind::PassedOver,
            "s" => Kind::Permit,
            _ => return None,
        };
        // Twenty digits and nothing else: a record's ".json" does not parse.
        (number.len() == 20)
            .then(|| number.parse().ok())
            .flatten()
            .map(|number| Self { kind, number })
    }
}

impl State {
    /// The next number: grows in normal life by one or more, and across the loss of this file
    /// because it follows the wall clock in microseconds.
    pub(super) fn next(&mut self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_micros()).unwrap_or(0);
        self.last = now.max(self.last.saturating_add(1));
        self.last
    }

    /// Of one width, so that writing it again can neither grow nor tear the file.
    fn to_text(self) -> String {
        format!("{:020} {:010}\n", self.last, self.limit)
    }

    /// What a crash of the machine may have garbled reads as nothing: the clock then sees to it
    /// that numbers grow.
    fn from_text(text: &[u8]) -> Self {
        let fields = || {
            let (last, limit) = std::str::from_utf8(text).ok()?.trim_end().split_once(' ')?;
            Some(Self { last: last.parse().ok()?, limit: limit.parse().ok()? })
        };
        fields().unwrap_or(Self { last: 0, limit: 0 })
    }
}

impl Semaphore {
    /// Opens a semaphore's directory. Makes it first if `create`; otherwise a missing one is None.
    pub(super) fn open(base: &Base, name: &Name, create: bool) -> io::Result<Option<Self>> {
        let file = names::to_file(name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&base.fd, &file, flags, Mode::empty());
        let directory = match open() {
            Err(Errno::NOENT) if !create => return Ok(None),
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&base.fd, &file, base.sharing.directory_mode()) {
                    Ok(()) => share(&open()?, base.sharing, base.sharing.directory_mode())?,
                    Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
                open()?
            }
            opened => opened?,
        };
        let owner = rustix::fs::fstat(&directory)?.st_uid;
        if !base.sharing.shared() && owner != rustix::process::geteuid().as_raw() && owner != 0 {
            return Err(io::Error::other(format!("{file} belongs to uid {owner}")));
        }
        // Keeps those who tidy up temporary directories (tmpfiles.d(5)) away while we are here.
        let _ = rustix::fs::flock(&directory, FlockOperation::NonBlockingLockShared);
        if names::is_shortened(&file) {
            names::check_true_name(&directory, name, base.sharing.file_mode(), create)?;
        }
        let Some(mutex) = open_mutex(&directory, base.sharing, create)? else { return Ok(None) };
        let path = base.path.join(file);
        Ok(Some(Self { directory, mutex, path, sharing: base.sharing }))
    }

    /// Locks the mutex. None: the files we have open are no longer those at the path, because
    /// somebody deleted them; open the semaphore again.
    pub(super) async fn lock(&self, patience: ForMutex<'_>) -> io::Result<Option<Locked<'_>>> {
        if let Err(errno) = rustix::fs::flock(&self.mutex, FlockOperation::NonBlockingLockExclusive)
        {
            if errno != Errno::WOULDBLOCK {
                return Err(errno.into());
            }
            self.wait_for_mutex(patience).await?;
        }
        let locked = Locked(self);
        Ok(self.still_there()?.then_some(locked))
    }

    /// The mutex if it is free just now.
    fn try_lock(&self) -> Option<Locked<'_>> {
        rustix::fs::flock(&self.mutex, FlockOperation::NonBlockingLockExclusive).ok()?;
        Some(Locked(self))
    }

    /// Waits in a thread, because signals have to be obeyed meanwhile and the kernel keeps the
    /// order of those who wait so.
    async fn wait_for_mutex(&self, patience: ForMutex<'_>) -> io::Result<()> {
        let mutex = self.mutex.try_clone()?;
        let (sender, locked) = oneshot::channel();
        std::thread::Builder::new().stack_size(64 * 1024).spawn(move || {
            let result = rustix::io::retry_on_intr(|| {
                rustix::fs::flock(&mutex, FlockOperation::LockExclusive)
            });
            if sender.send(result.map_err(io::Error::from)).is_err() {
                // Nobody waits for it any more.
                let _ = rustix::fs::flock(&mutex, FlockOperation::Unlock);
            }
        })?;
        let answer = async { locked.await.map_err(|_| io::Error::other("a thread ended"))? };
        tokio::pin!(answer);
        let time = match patience {
            ForMutex::Endless(_) => MUTEX_IS_STUCK,
            ForMutex::Bounded => GIVE_UP,
        };
        if let Ok(answer) = tokio::time::timeout(time, &mut answer).await {
            return answer;
        }
        let pid = self.mutex_holder();
        match patience {
            ForMutex::Endless(turn) => {
                turn.tell(Notice::Stuck { pid });
                answer.await
            }
            ForMutex::Bounded => {
                let pid = pid.map_or("another process".into(), |pid| format!("process {pid}"));
                let what = format!("{pid} keeps the files locked; is it stopped?");
                Err(io::Error::new(io::ErrorKind::TimedOut, what))
            }
        }
    }

    /// Who has the mutex, by the kernel's list of locks.
    fn mutex_holder(&self) -> Option<u32> {
        let inode = rustix::fs::fstat(&self.mutex).ok()?.st_ino;
        lock_holder(&std::fs::read_to_string("/proc/locks").ok()?, inode)
    }

    fn owner(&self, entry: Entry, locks: &str) -> Option<u32> {
        let stat = rustix::fs::statat(&self.directory, entry.file(), AtFlags::SYMLINK_NOFOLLOW);
        lock_holder(locks, stat.ok()?.st_ino)
    }

    fn still_there(&self) -> io::Result<bool> {
        let ours = rustix::fs::fstat(&self.mutex)?;
        match rustix::fs::statat(CWD, self.path.join("mutex"), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => Ok((there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes a FIFO and its record. Another process may have been faster, and needs no mutex:
    /// only the owner removes what lives.
    pub(super) fn remove(&self, entry: Entry) {
        for file in [entry.record_file(), entry.file()] {
            let _ = rustix::fs::unlinkat(&self.directory, file, AtFlags::empty());
        }
    }

    /// Whose FIFO it is; None when that cannot be read. Nothing is decided by it, so no mutex.
    pub(super) fn record(&self, entry: Entry) -> Option<Record> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(&self.directory, entry.record_file(), flags, Mode::empty()).ok()?;
        let mut text = [0; 4096];
        let length = rustix::io::read(&file, &mut text).ok()?;
        serde_json::from_slice(&text[..length]).ok()
    }

    /// Tells whoever watches a permit that it is free: unlocks it, then writes a byte. In this
    /// order, and with one byte for all readers, because nobody reads it.
    pub(super) fn hand_over(&self, permit: Entry, fifo: &OwnedFd) {
        let _ = rustix::fs::flock(fifo, FlockOperation::Unlock);
        let _ = rustix::io::write(fifo, b"x");
        self.remove(permit);
    }

    /// Removes what dead processes left, where nobody alive would come past it any more: those
    /// who are alive remove what is before them in the queue, so look from its end.
    pub(super) fn sweep(&self) {
        let Some(locked) = self.try_lock() else {
            return;
        };
        let Ok(listing) = locked.list() else { return };
        for entry in listing.waiters.iter().chain(&listing.passed_over).rev() {
            if !matches!(locked.probe(*entry), Ok(None)) {
                return;
            }
        }
        for entry in listing.permits {
            let _ = locked.probe(entry);
        }
    }
}

impl Locked<'_> {
    pub(super) fn state(&self) -> io::Result<State> {
        let mut text = [0; 64];
        let length = rustix::io::pread(&self.0.mutex, &mut text, 0)?;
        Ok(State::from_text(&text[..length]))
    }

    pub(super) fn set_state(&self, state: State) -> io::Result<()> {
        let text = state.to_text();
        let written = rustix::io::pwrite(&self.0.mutex, text.as_bytes(), 0)?;
        if written == text.len() { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    pub(super) fn list(&self) -> io::Result<Listing> {
        let mut listing = Listing::default();
        let mut directory = Dir::read_from(&self.0.directory)?;
        while let Some(file) = directory.read() {
            let Some(entry) = Entry::parse(file?.file_name().to_bytes()) else {
                continue;
            };
            match entry.kind {
                Kind::Waiter => listing.waiters.push(entry),
                Kind::PassedOver => listing.passed_over.push(entry),
                Kind::Permit => listing.permits.push(entry),
            }
        }
        for entries in [&mut listing.waiters, &mut listing.passed_over, &mut listing.permits] {
            entries.sort_unstable_by_key(|entry| entry.number);
        }
        Ok(listing)
    }

    /// Opens somebody's FIFO to watch it, if its owner lives. A dead one is removed: None.
    pub(super) fn probe(&self, entry: Entry) -> io::Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fifo = match rustix::fs::openat(&self.0.directory, entry.file(), flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened?,
        };
        match rustix::fs::flock(&fifo, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => Ok(Some(fifo)),
            Err(errno) => Err(errno.into()),
            Ok(()) => {
                self.0.remove(entry);
                Ok(None)
            }
        }
    }

    /// Makes a FIFO that counts as long as the descriptor is open, with its owner's record.
    /// Nothing is left of one that fails.
    pub(super) fn create(&self, entry: Entry, record: &Record) -> io::Result<OwnedFd> {
        self.make_fifo(entry)
            .and_then(|fifo| {
                self.write_record(entry, record)?;
                Ok(fifo)
            })
            .inspect_err(|_| self.0.remove(entry))
    }

    fn make_fifo(&self, entry: Entry) -> io::Result<OwnedFd> {
        let Semaphore { directory, sharing, .. } = self.0;
        let file = entry.file();
        rustix::fs::mkfifoat(directory, &file, sharing.file_mode())?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fifo = rustix::fs::openat(directory, file, flags, Mode::empty())?;
        share(&fifo, *sharing, sharing.file_mode())?;
        rustix::fs::flock(&fifo, FlockOperation::NonBlockingLockExclusive)?;
        Ok(fifo)
    }

    fn write_record(&self, entry: Entry, record: &Record) -> io::Result<()> {
        let Semaphore { directory, sharing, .. } = self.0;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory, entry.record_file(), flags, sharing.file_mode())?;
        share(&file, *sharing, sharing.file_mode())?;
        let text = serde_json::to_vec(record)?;
        let written = rustix::io::write(&file, &text)?;
        if written == text.len() { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    /// Makes a waiter one that was passed over, or back.
    pub(super) fn rename(&self, entry: Entry, kind: Kind) -> io::Result<()> {
        let directory = &self.0.directory;
        let renamed = Entry { kind, ..entry };
        Ok(rustix::fs::renameat(directory, entry.file(), directory, renamed.file())?)
    }

    /// Those waiters that are stopped, by a signal or a debugger. The kernel's list of locks has
    /// the pids as our own pid namespace counts them; one from elsewhere counts as running.
    pub(super) fn stopped(&self, waiters: &[Entry]) -> Vec<Entry> {
        let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
        let stopped = |waiter: &&Entry| {
            let pid = self.0.owner(**waiter, &locks)?;
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The state follows the command in parentheses, which may contain anything.
            let state = stat.rsplit_once(") ")?.1.chars().next()?;
            Some(matches!(state, 'T' | 't'))
        };
        waiters.iter().filter(|waiter| stopped(waiter).unwrap_or(false)).copied().collect()
    }

    /// Wakes a waiter, so that it looks again.
    pub(super) fn poke(&self, waiter: Entry) {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if let Ok(fifo) = rustix::fs::openat(&self.0.directory, waiter.file(), flags, Mode::empty())
        {
            let _ = rustix::io::write(fifo, b"x");
        }
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.0.mutex, FlockOperation::Unlock);
    }
}

/// Opens the mutex file, or makes it. Never through a link: what is written to it must not land
/// in somebody's own file.
fn open_mutex(directory: &OwnedFd, sharing: Sharing, create: bool) -> io::Result<Option<OwnedFd>> {
    let access = if create { OFlags::RDWR } else { OFlags::RDONLY };
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    // First without O_CREAT: the kernel refuses that for a file of somebody else in a sticky
    // directory (fs.protected_regular), even where writing to it is fine.
    for _ in 0..100 {
        match rustix::fs::openat(directory, "mutex", flags, Mode::empty()) {
            Ok(mutex) => {
                let stat = rustix::fs::fstat(&mutex)?;
                check_mutex(&stat)?;
                return Ok(Some(mutex));
            }
            Err(Errno::NOENT) if !create => return Ok(None),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        let flags = flags | OFlags::CREATE | OFlags::EXCL;
        match rustix::fs::openat(directory, "mutex", flags, sharing.file_mode()) {
            Ok(mutex) => {
                share(&mutex, sharing, sharing.file_mode())?;
                return Ok(Some(mutex));
            }
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(io::Error::other("the file `mutex` comes and goes"))
}

fn check_mutex(stat: &Stat) -> io::Result<()> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_nlink > 1 {
        return Err(io::Error::other("the file `mutex` is not what semrun made; remove it"));
    }
    Ok(())
}

/// Gives a new file to all who share the directory, whatever our umask says.
fn share(file: &OwnedFd, sharing: Sharing, mode: Mode) -> io::Result<()> {
    if sharing.shared() {
        rustix::fs::fchmod(file, mode)?;
        // Fails for one who is in the group no more; then the directory's setgid bit did it.
        let _ = rustix::fs::fchown(file, None, sharing.group());
    }
    Ok(())
}

/// The pid in a line of /proc/locks such as `1: FLOCK  ADVISORY  WRITE 4242 fe:00:1234 0 EOF`.
fn lock_holder(locks: &str, inode: u64) -> Option<u32> {
    locks.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, file, ..] = fields[..] else {
            return None;
        };
        (file.rsplit(':').next()?.parse() == Ok(inode)).then(|| pid.parse().ok()).flatten()
    })
}
