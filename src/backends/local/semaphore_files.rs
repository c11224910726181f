//! The files of one semaphore. In its directory are
//!
//! | file | what |
//! |---|---|
//! | `mutex` | locked while anything is decided; holds the last number and the limit in force |
//! | `q.<number>` | FIFO of a waiter, in the order of the queue |
//! | `p.<number>` | the same, of a waiter that was passed over because it did not answer |
//! | `s.<token>` | FIFO of a permit that is held by processes |
//! | `k.<token>` | record of a permit that counts also without a process: see `records.rs` |
//! | `q.<number>.json`, `s.<token>.json`, `k.<token>.json` | who that is |
//! | `done` | the detached permits that were given back last |
//! | `name` | the true name, where the directory's is a shortened one |
//!
//! Whether a process lives is never read from a record: a FIFO counts as long as its flock(2) is
//! held, which the kernel gives up with the last process that has it open; that of a permit also
//! stops counting when [`RELEASED`] is written to it. `docs/backends.md` has the reasons.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::directory::{BaseDirectory, Sharing};
use super::directory_names;
use super::file_names::{FileKind, FileName, Listing, StateFile};
use super::mutex::{MutexGuard, check_mutex, identity, open_mutex};
use crate::clock::{self, Moment};
use crate::files::create;
use crate::permits::{Name, Record, StoreError};

/// What is written to a permit's FIFO when it is given back, or revoked at once. It is never read:
/// its length says what has happened.
pub(super) const RELEASED: &[u8] = b"xx";

/// The same when it is revoked gently: less than that.
pub(super) const REVOKED: &[u8] = b"x";

/// What is written down of a FIFO's owner.
#[derive(Serialize)]
struct FifoRecord<'a> {
    #[serde(flatten)]
    record: &'a Record,
    boot_us: u64,
}

/// The part of it that shows which processes may have had a permit.
#[derive(Deserialize)]
pub(super) struct GrantInfo {
    /// The process that asked.
    pub(super) pid: u32,
    /// When that was, in microseconds since the machine was started; 0: not known.
    #[serde(default)]
    boot_us: u64,
}

impl GrantInfo {
    pub(super) fn moment(&self) -> Moment {
        Duration::from_micros(self.boot_us)
    }
}

/// One semaphore's open directory.
#[derive(Debug)]
pub(super) struct SemaphoreFiles {
    pub(super) directory: OwnedFd,
    pub(super) mutex: OwnedFd,
    /// Device and inode of that.
    pub(super) identity: (u64, u64),
    pub(super) path: PathBuf,
    pub(super) sharing: Sharing,
}

/// The state of a permit.
pub(super) enum FifoState {
    Held {
        fifo: OwnedFd,
        revoked: bool,
    },
    /// Its holder gave it back, or it was revoked at once.
    Released,
    /// The last process that had it is dead, or about to be.
    Dead,
}

/// What has been written to a permit's FIFO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FifoMessage {
    Nothing,
    Revoked,
    Released,
}

impl SemaphoreFiles {
    /// Opens a semaphore's directory. Makes it first if `create`; otherwise a missing one is None.
    pub(super) fn open(
        base: &BaseDirectory,
        name: &Name,
        create: bool,
    ) -> io::Result<Option<Self>> {
        let file = directory_names::to_file(name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&base.fd, &file, flags, Mode::empty());
        let directory = match open() {
            Err(Errno::NOENT) if !create => return Ok(None),
            Err(Errno::NOENT) => {
                base.sharing.make_directory(&base.fd, &file)?;
                open()?
            }
            opened => opened?,
        };
        let stat = rustix::fs::fstat(&directory)?;
        let owner = stat.st_uid;
        if !base.sharing.server() && owner != 0 && owner != rustix::process::geteuid().as_raw() {
            return Err(StoreError::BelongsTo { file, uid: owner }.into());
        }
        base.sharing.apply(&directory, &stat)?;
        // Keeps programs that tidy up temporary directories (tmpfiles.d(5)) away while we are here.
        let _ = rustix::fs::flock(&directory, FlockOperation::NonBlockingLockShared);
        if directory_names::is_shortened(&file) {
            directory_names::check_true_name(&directory, name, base.sharing.file_mode(), create)?;
        }
        let Some(mutex) = open_mutex(&directory, base.sharing, create)? else { return Ok(None) };
        let stat = rustix::fs::fstat(&mutex)?;
        check_mutex(&stat)?;
        let (identity, path) = (identity(&stat), base.path.join(file));
        Ok(Some(Self { directory, mutex, identity, path, sharing: base.sharing }))
    }

    /// The directory of all semaphores.
    pub(super) fn base(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    pub(super) fn path_of(&self, entry: FileName) -> PathBuf {
        self.path.join(entry.file())
    }

    /// Removes an entry that does not count any more, or that its owner ends, and its record.
    /// Another process may have been faster. That needs no mutex: only the owner removes what
    /// lives.
    ///
    /// An entry counts by its name: first it stops counting, then its record goes, and last the
    /// file by which the next look finds what a crash has left.
    pub(super) fn remove(&self, entry: FileName) {
        if entry.kind == FileKind::Kept
            && let Ok(file) = create::open(&self.directory, &entry.file(), OFlags::WRONLY)
            && create::is_single(&file).is_ok_and(|single| single)
        {
            let _ = rustix::fs::ftruncate(&file, 0);
        }
        let unlink = |file| rustix::fs::unlinkat(&self.directory, file, AtFlags::empty());
        if let Ok(()) | Err(Errno::NOENT) = unlink(entry.record_file()) {
            let _ = unlink(entry.file());
        }
    }

    /// The record of a FIFO's owner. None: there is none, or an unfinished one.
    fn record<T: DeserializeOwned>(&self, entry: FileName) -> io::Result<Option<T>> {
        let file = match create::open(&self.directory, &entry.record_file(), OFlags::RDONLY) {
            Err(Errno::NOENT) => return Ok(None),
            file => file?,
        };
        let mut text = [0; 4096];
        let length = rustix::io::read(&file, &mut text)?;
        Ok(serde_json::from_slice(&text[..length]).ok())
    }

    /// The same for messages only: None also where it cannot be read.
    pub(super) fn owner(&self, entry: FileName) -> Option<Record> {
        self.record(entry).ok().flatten()
    }

    /// Which of several belongs to the one of this identity. A record that cannot be read hides none of
    /// the others, but it may be the one.
    pub(super) fn find<T>(
        &self,
        several: impl IntoIterator<Item = T>,
        entry: impl Fn(&T) -> FileName,
        id: Uuid,
    ) -> io::Result<Option<T>> {
        let mut unread = None;
        for one in several {
            match self.record::<Record>(entry(&one)) {
                Ok(Some(record)) if record.permit == id => return Ok(Some(one)),
                Ok(_) => {}
                Err(error) => unread = Some(error),
            }
        }
        unread.map_or(Ok(None), Err)
    }

    /// When a permit was granted, and to which process.
    pub(super) fn granted(&self, entry: FileName) -> io::Result<Option<GrantInfo>> {
        match self.record(entry) {
            // We make no link, socket or directory of such a name.
            Err(error)
                if matches!(
                    Errno::from_io_error(&error),
                    Some(Errno::LOOP | Errno::NXIO | Errno::ISDIR)
                ) =>
            {
                Ok(None)
            }
            granted => granted,
        }
    }

    /// Gives a permit back by writing to it: see [`MutexGuard::probe_permit`]. One write tells all
    /// watchers, because it is never read, and it cannot be half done.
    pub(super) fn hand_over(&self, permit: FileName, fifo: &OwnedFd) {
        let _ = rustix::io::write(fifo, RELEASED);
        self.remove(permit);
    }

    /// The entries at this moment.
    pub(super) fn list(&self) -> io::Result<Listing> {
        self.list_beside(|_| {})
    }

    /// The same, and does something with what crashes have left unfinished.
    fn list_beside(&self, unfinished: impl Fn(&CStr)) -> io::Result<Listing> {
        let mut listing = Listing::default();
        // Without another descriptor for it, but then from wherever the last one got to.
        rustix::fs::seek(&self.directory, SeekFrom::Start(0))?;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut files = RawDir::new(&self.directory, &mut buffer);
        while let Some(file) = files.next() {
            let file = file?;
            let name = file.file_name();
            let Some(entry) = FileName::parse(name.to_bytes()) else {
                if name.to_bytes().starts_with(create::UNFINISHED.as_bytes()) {
                    unfinished(name);
                }
                continue;
            };
            match entry.kind {
                FileKind::Waiter => listing.waiters.push(entry),
                FileKind::PassedOver => listing.passed_over.push(entry),
                FileKind::Permit => listing.permits.push(entry),
                FileKind::Kept => listing.kept.push(entry),
            }
        }
        let Listing { waiters, passed_over, permits, kept } = &mut listing;
        for entries in [waiters, passed_over, permits, kept] {
            entries.sort_unstable_by_key(|entry| entry.number);
        }
        Ok(listing)
    }
}

impl MutexGuard<'_> {
    /// The entries; what crashes have left unfinished goes. Only a process that has the mutex makes
    /// entries, and one that makes the mutex now comes too late.
    pub(super) fn list(&self) -> io::Result<Listing> {
        let directory = &self.0.directory;
        self.0.list_beside(|file| {
            let _ = rustix::fs::unlinkat(directory, file, AtFlags::empty());
        })
    }

    pub(super) fn state(&self) -> io::Result<StateFile> {
        let mut text = [0; 64];
        let length = rustix::io::pread(&self.0.mutex, &mut text, 0)?;
        Ok(StateFile::from_text(&text[..length]))
    }

    pub(super) fn set_state(&self, state: StateFile) -> io::Result<()> {
        let text = state.to_text();
        write_whole(&self.0.mutex, text.as_bytes())
    }

    /// Opens a waiter's FIFO to watch it, if its owner lives. A dead one is removed: None.
    pub(super) fn probe(&self, entry: FileName) -> io::Result<Option<OwnedFd>> {
        if let Some(fifo) = self.open(entry)?
            && is_locked(&fifo)?
        {
            return Ok(Some(fifo));
        }
        self.0.remove(entry);
        Ok(None)
    }

    /// Opens a permit's FIFO to watch it, if the permit is held. Removes nothing: a client that is
    /// granted a permit has to know which others ended by a death.
    pub(super) fn probe_permit(&self, entry: FileName) -> io::Result<FifoState> {
        // Its holder has removed it since it was listed, which is part of a release.
        let Some(fifo) = self.open(entry)? else { return Ok(FifoState::Released) };
        // Before the lock is checked: the holder may release the permit in between.
        let said = FifoMessage::to(&fifo)?;
        Ok(match said {
            FifoMessage::Released => FifoState::Released,
            _ if !is_locked(&fifo)? => FifoState::Dead,
            _ => FifoState::Held { fifo, revoked: said == FifoMessage::Revoked },
        })
    }

    /// None: there is none, or it is not of our making.
    fn open(&self, entry: FileName) -> io::Result<Option<OwnedFd>> {
        match create::open(&self.0.directory, &entry.file(), OFlags::RDONLY) {
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => Ok(None),
            opened => Ok(Some(opened?).filter(is_fifo)),
        }
    }

    /// Makes a FIFO that counts as long as the descriptor is open, with its owner's record. A
    /// failure leaves nothing.
    pub(super) fn create(&self, entry: FileName, record: &Record) -> io::Result<OwnedFd> {
        let SemaphoreFiles { directory, sharing, .. } = self.0;
        let fifo = create::create_fifo(directory, &entry.file(), sharing.file_mode())?;
        let lock = || -> io::Result<()> {
            rustix::fs::flock(&fifo, FlockOperation::NonBlockingLockExclusive)?;
            self.write_record(entry, record)
        };
        lock().inspect_err(|_| self.0.remove(entry))?;
        Ok(fifo)
    }

    pub(super) fn write_record(&self, entry: FileName, record: &Record) -> io::Result<()> {
        let SemaphoreFiles { directory, sharing, .. } = self.0;
        let file = create::create(directory, &entry.record_file(), sharing.file_mode())?;
        let boot_us = u64::try_from(clock::now().as_micros()).unwrap_or(0);
        let text = serde_json::to_vec(&FifoRecord { record, boot_us })?;
        write_whole(&file, &text)
    }

    /// Makes a waiter one that was passed over, or back.
    pub(super) fn rename(&self, entry: FileName, kind: FileKind) -> io::Result<()> {
        let directory = &self.0.directory;
        let renamed = FileName { kind, ..entry };
        match rustix::fs::renameat(directory, entry.file(), directory, renamed.file()) {
            // The waiter has left, which needs no mutex.
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Writes to a FIFO if a process has it open; otherwise there is no process to tell.
    pub(super) fn write_to(&self, entry: FileName, bytes: &[u8]) -> io::Result<()> {
        match create::open(&self.0.directory, &entry.file(), OFlags::WRONLY) {
            Err(Errno::NOENT | Errno::NXIO | Errno::LOOP | Errno::ISDIR) => return Ok(()),
            fifo => {
                let fifo = fifo?;
                if is_fifo(&fifo) {
                    rustix::io::write(fifo, bytes)?;
                }
            }
        }
        Ok(())
    }
}

impl FifoMessage {
    pub(super) fn to(fifo: &OwnedFd) -> io::Result<Self> {
        let bytes = rustix::io::ioctl_fionread(fifo)?;
        Ok(match usize::try_from(bytes).unwrap_or(usize::MAX) {
            0 => Self::Nothing,
            bytes if bytes < RELEASED.len() => Self::Revoked,
            _ => Self::Released,
        })
    }
}

/// Writes a short file from its beginning, in one go: a disk that takes only a part is full.
pub(super) fn write_whole(file: &OwnedFd, text: &[u8]) -> io::Result<()> {
    let written = rustix::io::pwrite(file, text, 0)?;
    if written == text.len() { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
}

/// Where other users may make files, some may not be ours.
fn is_fifo(file: &OwnedFd) -> bool {
    let kind = |stat: rustix::fs::Stat| FileType::from_raw_mode(stat.st_mode);
    rustix::fs::fstat(file).is_ok_and(|stat| kind(stat) == FileType::Fifo)
}

/// Whether another process has a FIFO locked, and so lives.
fn is_locked(fifo: &OwnedFd) -> io::Result<bool> {
    match rustix::fs::flock(fifo, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}
