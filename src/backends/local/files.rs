//! The files of one semaphore, and the short mutex around them. In its directory are
//!
//! | file | what |
//! |---|---|
//! | `mutex` | locked while anything is decided; holds the last number and the limit in force |
//! | `q.<number>` | FIFO of a waiter, in the order of the queue |
//! | `p.<number>` | the same, of one who was passed over because it did not answer |
//! | `s.<token>` | FIFO of a permit that is held by processes |
//! | `k.<token>` | record of a permit that counts also without a process: see `kept.rs` |
//! | `q.<number>.json`, `s.<token>.json`, `k.<token>.json` | who that is |
//! | `done` | the detached permits that were given back last |
//! | `name` | the true name, where the directory's is a shortened one |
//!
//! Whether somebody lives is never read from a record: a FIFO counts as long as its flock(2) is
//! held, which the kernel gives up with the last process that has it open; that of a permit also
//! stops counting when [`RELEASED`] is written to it. `docs/backends.md` has the reasons.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, RawDir, SeekFrom, Stat};
use rustix::io::Errno;
use tokio::sync::oneshot;

use super::create::{create_file, with_exact_modes};
use super::entries::{Entry, Kind, Listing, State};
use super::locks::Locks;
use super::names;
use super::place::{Base, Sharing};
use crate::backends::{Name, Notice, Record, Turn};

/// How long the mutex may be busy before we say who has it. It is held for a millisecond.
const MUTEX_IS_STUCK: Duration = Duration::from_secs(2);

/// How long whoever does not want to wait tries all the same.
const GIVE_UP: Duration = Duration::from_secs(5);

/// How long a thread that got the mutex offers it to us.
const OFFER: Duration = Duration::from_millis(100);

/// What is written to a permit's FIFO when it is given back, or taken away at once. Nobody reads
/// what is there: how much it is says what has happened.
pub(super) const RELEASED: &[u8] = b"xx";

/// The same when it is taken away gently: less than that.
pub(super) const EVICTED: &[u8] = b"x";

/// The mutex, which a thread has got for us.
struct Offer {
    accepting: mpsc::Sender<()>,
    thread: JoinHandle<bool>,
}

impl Offer {
    /// False: we were too slow. No thread is left in any case.
    fn accept(self) -> bool {
        // The thread alone knows whether that was in time.
        let _ = self.accepting.send(());
        self.thread.join().unwrap_or(false)
    }
}

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
    pub(super) directory: OwnedFd,
    mutex: OwnedFd,
    /// Device and inode of that.
    identity: (u64, u64),
    path: PathBuf,
    pub(super) sharing: Sharing,
}

/// What has become of a permit.
pub(super) enum Permit {
    Held {
        fifo: OwnedFd,
        evicted: bool,
    },
    /// Its holder gave it back, or it was taken away at once.
    Released,
    /// The last process that had it is dead, or about to be.
    Dead,
}

/// What has been written to a permit's FIFO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Nothing,
    Evicted,
    Released,
}

/// The mutex is ours until this goes.
#[derive(Debug)]
pub(super) struct Locked<'a>(pub(super) &'a Semaphore);

impl Semaphore {
    /// Opens a semaphore's directory. Makes it first if `create`; otherwise a missing one is None.
    pub(super) fn open(base: &Base, name: &Name, create: bool) -> io::Result<Option<Self>> {
        let file = names::to_file(name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&base.fd, &file, flags, Mode::empty());
        let directory = match open() {
            Err(Errno::NOENT) if !create => return Ok(None),
            Err(Errno::NOENT) => {
                let mode = base.sharing.directory_mode();
                match with_exact_modes(|| rustix::fs::mkdirat(&base.fd, &file, mode)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
                open()?
            }
            opened => opened?,
        };
        let stat = rustix::fs::fstat(&directory)?;
        let owner = stat.st_uid;
        if !base.sharing.shared() && owner != 0 && owner != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other(format!("{file} belongs to uid {owner}")));
        }
        base.sharing.apply(&directory, &stat)?;
        // Keeps those who tidy up temporary directories (tmpfiles.d(5)) away while we are here.
        let _ = rustix::fs::flock(&directory, FlockOperation::NonBlockingLockShared);
        if names::is_shortened(&file) {
            names::check_true_name(&directory, name, base.sharing.file_mode(), create)?;
        }
        let Some(mutex) = open_mutex(&directory, base.sharing, create)? else { return Ok(None) };
        let stat = rustix::fs::fstat(&mutex)?;
        check_mutex(&stat)?;
        let (identity, path) = (identity(&stat), base.path.join(file));
        Ok(Some(Self { directory, mutex, identity, path, sharing: base.sharing }))
    }

    /// Locks the mutex. None: the files we have open are no longer those at the path, because
    /// somebody deleted them; open the semaphore again. Leaves no thread behind, unless it fails or is
    /// called off while another process has the mutex.
    pub(super) async fn lock(&self, patience: ForMutex<'_>) -> io::Result<Option<Locked<'_>>> {
        if !self.take_mutex()? {
            self.wait_for_mutex(patience).await?;
        }
        let locked = Locked(self);
        Ok(self.still_there()?.then_some(locked))
    }

    /// The same if nobody else has it at the moment, for one who only looks: there is nothing in files
    /// that somebody deleted.
    pub(super) fn lock_to_look(&self) -> io::Result<Option<Locked<'_>>> {
        Ok(self.take_mutex()?.then(|| Locked(self)))
    }

    fn take_mutex(&self) -> io::Result<bool> {
        match rustix::fs::flock(&self.mutex, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits in a thread, because signals have to be obeyed meanwhile.
    async fn wait_for_mutex(&self, patience: ForMutex<'_>) -> io::Result<()> {
        let answer = async {
            loop {
                let (offer, got) = self.offer_mutex()?;
                got.await.map_err(|_| io::Error::other("a thread ended"))??;
                if offer.accept() {
                    return Ok(());
                }
                // Others had their turn.
            }
        };
        tokio::pin!(answer);
        let time = match patience {
            ForMutex::Endless(_) => MUTEX_IS_STUCK,
            ForMutex::Bounded => GIVE_UP,
        };
        if let Ok(answer) = tokio::time::timeout(time, &mut answer).await {
            return answer;
        }
        let pid = self.mutex_holder();
        let pid = pid.map_or("another process".into(), |pid| format!("process {pid}"));
        let what = format!("{pid} keeps the files locked; is it stopped?");
        match patience {
            ForMutex::Endless(turn) => {
                turn.tell(Notice::Trouble { what, may_last: true });
                answer.await
            }
            ForMutex::Bounded => Err(io::Error::new(io::ErrorKind::TimedOut, what)),
        }
    }

    /// Starts a thread that gets the mutex and offers it.
    fn offer_mutex(&self) -> io::Result<(Offer, oneshot::Receiver<io::Result<()>>)> {
        let mutex = self.mutex.try_clone()?;
        let (sender, got) = oneshot::channel();
        let (accepting, accepted) = mpsc::channel();
        let thread = thread::Builder::new().stack_size(64 * 1024).spawn(move || {
            let result = rustix::io::retry_on_intr(|| {
                rustix::fs::flock(&mutex, FlockOperation::LockExclusive)
            });
            let _ = sender.send(result.map_err(io::Error::from));
            let accepted = accepted.recv_timeout(OFFER).is_ok();
            if !accepted {
                // Nobody wants it any more, or the waiter hangs in a write to a terminal: the
                // others must not wait for that.
                let _ = rustix::fs::flock(&mutex, FlockOperation::Unlock);
            }
            accepted
        })?;
        Ok((Offer { accepting, thread }, got))
    }

    fn mutex_holder(&self) -> Option<u32> {
        Locks::read().holder(&rustix::fs::fstat(&self.mutex).ok()?)
    }

    fn still_there(&self) -> io::Result<bool> {
        match rustix::fs::statat(CWD, self.path.join("mutex"), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => Ok(identity(&there) == self.identity),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The directory of all semaphores.
    pub(super) fn base(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    pub(super) fn path_of(&self, entry: Entry) -> PathBuf {
        self.path.join(entry.file())
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

    /// Gives a permit back by writing to it: see [`Locked::probe_permit`]. One write tells all who
    /// watch, because nobody reads it, and there is no moment at which only half of it is done.
    pub(super) fn hand_over(&self, permit: Entry, fifo: &OwnedFd) {
        let _ = rustix::io::write(fifo, RELEASED);
        self.remove(permit);
    }

    pub(super) fn list(&self) -> io::Result<Listing> {
        let mut listing = Listing::default();
        // Without another descriptor for it, but then from wherever the last one got to.
        rustix::fs::seek(&self.directory, SeekFrom::Start(0))?;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut files = RawDir::new(&self.directory, &mut buffer);
        while let Some(file) = files.next() {
            let Some(entry) = Entry::parse(file?.file_name().to_bytes()) else { continue };
            match entry.kind {
                Kind::Waiter => listing.waiters.push(entry),
                Kind::PassedOver => listing.passed_over.push(entry),
                Kind::Permit => listing.permits.push(entry),
                Kind::Kept => listing.kept.push(entry),
            }
        }
        let Listing { waiters, passed_over, permits, kept } = &mut listing;
        for entries in [waiters, passed_over, permits, kept] {
            entries.sort_unstable_by_key(|entry| entry.number);
        }
        Ok(listing)
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

    /// Opens a waiter's FIFO to watch it, if its owner lives. A dead one is removed: None.
    pub(super) fn probe(&self, entry: Entry) -> io::Result<Option<OwnedFd>> {
        if let Some(fifo) = self.open(entry)?
            && is_locked(&fifo)?
        {
            return Ok(Some(fifo));
        }
        self.0.remove(entry);
        Ok(None)
    }

    /// Opens a permit's FIFO to watch it, if the permit is held. Removes nothing: whoever is
    /// granted a permit has to know which others ended by a death.
    pub(super) fn probe_permit(&self, entry: Entry) -> io::Result<Permit> {
        // Its holder has removed it since it was listed, which is part of a release.
        let Some(fifo) = self.open(entry)? else { return Ok(Permit::Released) };
        // Before the lock is looked at: the holder may have ended well since.
        let said = Said::to(&fifo)?;
        Ok(match said {
            Said::Released => Permit::Released,
            _ if !is_locked(&fifo)? => Permit::Dead,
            _ => Permit::Held { fifo, evicted: said == Said::Evicted },
        })
    }

    fn open(&self, entry: Entry) -> io::Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.0.directory, entry.file(), flags, Mode::empty()) {
            Err(Errno::NOENT) => Ok(None),
            opened => Ok(Some(opened?)),
        }
    }

    /// Makes a FIFO that counts as long as the descriptor is open, with its owner's record.
    /// Nothing is left of one that fails.
    pub(super) fn create(&self, entry: Entry, record: &Record) -> io::Result<OwnedFd> {
        let Semaphore { directory, sharing, .. } = self.0;
        with_exact_modes(|| rustix::fs::mkfifoat(directory, entry.file(), sharing.file_mode()))?;
        let open = || -> io::Result<OwnedFd> {
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fifo = rustix::fs::openat(directory, entry.file(), flags, Mode::empty())?;
            rustix::fs::flock(&fifo, FlockOperation::NonBlockingLockExclusive)?;
            self.write_record(entry, record)?;
            Ok(fifo)
        };
        open().inspect_err(|_| self.0.remove(entry))
    }

    pub(super) fn write_record(&self, entry: Entry, record: &Record) -> io::Result<()> {
        let Semaphore { directory, sharing, .. } = self.0;
        let file = create_file(directory, &entry.record_file(), sharing.file_mode())?;
        let text = serde_json::to_vec(record)?;
        let written = rustix::io::write(&file, &text)?;
        if written == text.len() { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    /// Makes a waiter one that was passed over, or back.
    pub(super) fn rename(&self, entry: Entry, kind: Kind) -> io::Result<()> {
        let directory = &self.0.directory;
        let renamed = Entry { kind, ..entry };
        match rustix::fs::renameat(directory, entry.file(), directory, renamed.file()) {
            // It has left, for which it needs no mutex.
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Writes to a FIFO that somebody has open; otherwise there is nobody to tell.
    pub(super) fn write_to(&self, entry: Entry, bytes: &[u8]) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.0.directory, entry.file(), flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::NXIO) => {}
            fifo => _ = rustix::io::write(fifo?, bytes)?,
        }
        Ok(())
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.0.mutex, FlockOperation::Unlock);
    }
}

impl Said {
    pub(super) fn to(fifo: &OwnedFd) -> io::Result<Self> {
        let bytes = rustix::io::ioctl_fionread(fifo)?;
        Ok(match usize::try_from(bytes).unwrap_or(usize::MAX) {
            0 => Self::Nothing,
            bytes if bytes < RELEASED.len() => Self::Evicted,
            _ => Self::Released,
        })
    }
}

/// Whether somebody else has a FIFO locked, and so lives.
fn is_locked(fifo: &OwnedFd) -> io::Result<bool> {
    match rustix::fs::flock(fifo, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(errno) => Err(errno.into()),
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
            Ok(mutex) => return Ok(Some(mutex)),
            Err(Errno::NOENT) if !create => return Ok(None),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        match create_file(directory, "mutex", sharing.file_mode()) {
            Ok(mutex) => return Ok(Some(mutex)),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(io::Error::other("the file `mutex` comes and goes"))
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn check_mutex(stat: &Stat) -> io::Result<()> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_nlink > 1 {
        return Err(io::Error::other("the file `mutex` is not what semrun made; remove it"));
    }
    Ok(())
}
