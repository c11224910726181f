//! Permits that count without a process: one small file each, with a deadline on the clock that goes
//! on while the machine sleeps, and with the boot that this clock belongs to. Such a permit is
//! detached, or it is that of a run which has to stay taken for a while ([`Terms::min_hold`](crate::permits::Terms::min_hold)); then
//! it has a FIFO of the same number too, and both are one permit.
//!
//! A file is of one width and written again in one piece, so it can neither tear nor grow on a disk
//! that is full. When its end has passed, the next process that looks removes the file.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{AtFlags, OFlags, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use uuid::Uuid;

use super::file_names::FileName;
use super::mutex::MutexGuard;
use super::semaphore_files::write_whole;
use crate::clock::{self, Moment};
use crate::files::create;
use crate::permits::{AcquireRequest, HolderState, Record, sanitize};
use crate::proc::this_boot;
use crate::sys;

/// How many of the permits that were given back last are remembered.
const REMEMBERED: usize = 64;

/// What each of them takes in the file: a number of twenty digits, a space, an identity, the end of
/// the line.
const LINE: usize = 20 + 1 + 36 + 1;

/// What such a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PermitRecord {
    boot: Uuid,
    /// The length of its lease, when it is detached; zero for that of a run.
    pub(super) ttl: Duration,
    lease_end: Moment,
    /// Until then it stays taken, whether it is given back or not.
    pub(super) hold_end: Moment,
    pub(super) phase: HolderState,
}

impl PermitRecord {
    /// One that is granted now, and is detached.
    pub(super) fn detached(request: &AcquireRequest) -> io::Result<Self> {
        let run = Self::of_run(request)?;
        Ok(Self { ttl: request.terms.ttl, phase: HolderState::Holding, ..run }.renewed())
    }

    /// One for a run that is granted now: what remains once its FIFO has gone.
    pub(super) fn of_run(request: &AcquireRequest) -> io::Result<Self> {
        let hold_end = clock::now().saturating_add(request.terms.min_hold);
        let (ttl, lease_end, phase) = (Duration::ZERO, Duration::ZERO, HolderState::MinHold);
        Ok(Self { boot: this_boot()?, ttl, lease_end, hold_end, phase })
    }

    pub(super) fn is_detached(self) -> bool {
        !self.ttl.is_zero()
    }

    /// When it ends unless something happens to it.
    pub(super) fn end(self) -> Moment {
        match self.phase {
            HolderState::Holding => self.lease_end.max(self.hold_end),
            HolderState::Revoking => self.lease_end,
            HolderState::MinHold => self.hold_end,
        }
    }

    pub(super) fn renewed(self) -> Self {
        Self { lease_end: clock::now().saturating_add(self.ttl), ..self }
    }

    pub(super) fn in_phase(self, phase: HolderState) -> Self {
        Self { phase, ..self }
    }

    /// Whether it counts. An end later than any that can be asked for was not written by us, and
    /// would show centuries.
    pub(super) fn is_in_force(self) -> io::Result<bool> {
        let left = self.end().saturating_sub(clock::now());
        Ok(!left.is_zero() && left <= sanitize::LONGEST && self.boot == this_boot()?)
    }

    fn to_text(self) -> String {
        let [ttl, lease_end, hold_end] = [self.ttl, self.lease_end, self.hold_end].map(micros);
        let phase = match self.phase {
            HolderState::Holding => 'h',
            HolderState::Revoking => 'r',
            HolderState::MinHold => 'm',
        };
        format!("{} {phase} {ttl:020} {lease_end:020} {hold_end:020}\n", self.boot)
    }

    /// A file that is garbled or unfinished, or would last for centuries, does not count.
    pub(super) fn from_text(text: &[u8]) -> Option<Self> {
        // Without its end the last number may be cut.
        let mut words = std::str::from_utf8(text.strip_suffix(b"\n")?).ok()?.split(' ');
        let boot = words.next()?.parse().ok()?;
        let phase = match words.next()? {
            "h" => HolderState::Holding,
            "r" => HolderState::Revoking,
            "m" => HolderState::MinHold,
            _ => return None,
        };
        let mut time = || {
            let time = Duration::from_micros(words.next()?.parse().ok()?);
            sanitize::is_time(time).then_some(time)
        };
        Some(Self { boot, phase, ttl: time()?, lease_end: time()?, hold_end: time()? })
    }
}

impl MutexGuard<'_> {
    /// Writes such a permit down. Before the last step it does not count, and a failure leaves
    /// nothing.
    pub(super) fn write_kept(
        &self,
        entry: FileName,
        kept: PermitRecord,
        record: &Record,
    ) -> io::Result<()> {
        let write = || {
            let mode = self.0.sharing.file_mode();
            let file = create::create(&self.0.directory, &entry.file(), mode)?;
            self.write_record(entry, record)?;
            write_whole(&file, kept.to_text().as_bytes())
        };
        write().inspect_err(|_| self.0.remove(entry))
    }

    pub(super) fn rewrite_kept(&self, entry: FileName, kept: PermitRecord) -> io::Result<()> {
        write_whole(&self.open_file(&entry.file(), OFlags::WRONLY)?, kept.to_text().as_bytes())
    }

    /// Makes the processes that renew it look at once: see [`watch`].
    pub(super) fn tell(&self, entry: FileName) {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        // A process that is not told hears of it at the next renewal.
        let _ = rustix::fs::utimensat(&self.0.directory, entry.file(), &times, flags);
    }

    /// What is written down, if it counts; otherwise it is removed.
    pub(super) fn kept(&self, entry: FileName) -> io::Result<Option<PermitRecord>> {
        let text = match self.open_file(&entry.file(), OFlags::RDONLY) {
            Err(Errno::NOENT) => return Ok(None),
            // It is not of our making: removed like a garbled file.
            Err(Errno::LOOP | Errno::NXIO | Errno::MLINK) => Vec::new(),
            file => match read_whole::<256>(&file?) {
                // A directory has no text. A file that cannot be read now may still be a permit.
                Err(error) if error.kind() == io::ErrorKind::IsADirectory => Vec::new(),
                text => text?,
            },
        };
        if let Some(kept) = PermitRecord::from_text(&text)
            && kept.is_in_force()?
        {
            return Ok(Some(kept));
        }
        self.0.remove(entry);
        Ok(None)
    }

    /// Remembers that a permit was given back, in the place of the oldest one. A process that is
    /// killed halfway spoils only this place. If there is no room, which may last, the permit is
    /// given back all the same.
    pub(super) fn remember(&self, id: Uuid) -> io::Result<()> {
        let no_room = |error: &io::Error| {
            use io::ErrorKind::{FileTooLarge, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
            matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge | ReadOnlyFilesystem)
        };
        match self.write_down(id) {
            Err(error) if !no_room(&error) => Err(error),
            _ => Ok(()),
        }
    }

    fn write_down(&self, id: Uuid) -> io::Result<()> {
        let file = match self.open_file("done", OFlags::RDWR) {
            Err(Errno::NOENT) => {
                create::create(&self.0.directory, "done", self.0.sharing.file_mode())
            }
            file => file,
        }?;
        let places = remembered(&file)?;
        let last = places.iter().flatten().map(|(number, _)| *number).max().unwrap_or(0);
        let first = |at: &usize| places.get(*at).copied().flatten().map_or(0, |(number, _)| number);
        let at = (0..REMEMBERED).min_by_key(first).unwrap_or(0);
        let line = format!("{:020} {id}\n", last.saturating_add(1));
        rustix::io::pwrite(&file, line.as_bytes(), (at * LINE) as u64)?;
        Ok(())
    }

    /// Whether a permit was given back, not too long ago.
    pub(super) fn remembers(&self, id: Uuid) -> io::Result<bool> {
        let file = match self.open_file("done", OFlags::RDONLY) {
            Err(Errno::NOENT) => return Ok(false),
            file => file?,
        };
        Ok(remembered(&file)?.iter().flatten().any(|(_, given_back)| *given_back == id))
    }

    fn open_file(&self, file: &str, access: OFlags) -> Result<OwnedFd, Errno> {
        let file = create::open(&self.0.directory, file, access)?;
        // A hard link to another file, or a FIFO, is not of our making.
        if create::is_single(&file)? { Ok(file) } else { Err(Errno::MLINK) }
    }
}

/// A descriptor that is readable whenever the file is removed or [`MutexGuard::tell`] was called, but not
/// when it is written.
pub(super) fn watch(path: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    inotify::add_watch(&inotify, path, WatchFlags::ATTRIB | WatchFlags::DONT_FOLLOW)?;
    sys::watch(inotify, Interest::READABLE)
}

/// The permits that were given back, with numbers that grow. None: an unfinished one.
fn remembered(file: &OwnedFd) -> io::Result<Vec<Option<(u64, Uuid)>>> {
    Ok(places(&read_whole::<{ LINE * REMEMBERED }>(file)?))
}

pub(super) fn places(text: &[u8]) -> Vec<Option<(u64, Uuid)>> {
    let place = |line: &[u8]| {
        let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
        let (number, id) = line.split_once(' ')?;
        Some((number.parse().ok()?, id.parse().ok()?))
    };
    text.chunks(LINE).map(place).collect()
}

fn read_whole<const LONGEST: usize>(file: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut text = vec![0; LONGEST];
    let length = rustix::io::pread(file, &mut text, 0)?;
    text.truncate(length);
    Ok(text)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(phase: HolderState) -> PermitRecord {
        let second = Duration::from_secs(1);
        let now = clock::now();
        let (lease_end, hold_end) = (now + second, now + second * 2);
        PermitRecord { boot: this_boot().unwrap(), ttl: second, lease_end, hold_end, phase }
    }

    #[test]
    fn what_is_written_down_comes_back_in_one_width_and_what_is_garbled_does_not_count() {
        let mut width = None;
        for phase in [HolderState::Holding, HolderState::Revoking, HolderState::MinHold] {
            let mut kept = kept(phase);
            kept.hold_end = Duration::from_hours(100 * 365 * 24);
            let text = kept.to_text();
            let back = PermitRecord::from_text(text.as_bytes()).unwrap();
            assert_eq!((back.to_text(), back.phase), (text.clone(), phase));
            assert_eq!(*width.get_or_insert(text.len()), text.len());
            for cut in 0..text.len() {
                assert_eq!(PermitRecord::from_text(&text.as_bytes()[..cut]), None, "{cut}");
            }
        }
        for garbled in [&b""[..], b"\0\0\0", b"x h 1 1 1\n", b"\xff\n"] {
            assert_eq!(PermitRecord::from_text(garbled), None);
        }
        let for_ever = PermitRecord {
            hold_end: Duration::from_micros(u64::MAX),
            ..kept(HolderState::MinHold)
        };
        assert_eq!(PermitRecord::from_text(for_ever.to_text().as_bytes()), None);
    }

    #[test]
    fn a_permit_ends_with_its_lease_or_hold_and_none_outlives_its_boot() {
        let held = kept(HolderState::Holding);
        assert_eq!(held.end(), held.hold_end, "the later one");
        assert_eq!(held.in_phase(HolderState::Revoking).end(), held.lease_end);
        assert_eq!(held.in_phase(HolderState::MinHold).end(), held.hold_end);
        assert!(held.is_in_force().unwrap());
        assert!(!PermitRecord { boot: Uuid::new_v4(), ..held }.is_in_force().unwrap());
        let centuries = Duration::from_micros(u64::MAX);
        assert!(!PermitRecord { lease_end: centuries, ..held }.is_in_force().unwrap());
        let over = PermitRecord { hold_end: Duration::ZERO, ..held }.in_phase(HolderState::MinHold);
        assert!(!over.is_in_force().unwrap());
    }
}
