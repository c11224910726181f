//! What must outlive the process: every grant, and its end. An append-only file of lines, each
//! with its checksum, on the disk before any client is told of the grant. It is written anew from
//! what is still held when the server starts and when it has grown.

mod format;
mod writer;

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, flock};
use tokio::sync::watch;
use uuid::Uuid;

#[cfg(any(test, fuzzing))]
pub(crate) use self::format::fuzz;
pub(crate) use self::format::{Damage, DamagedLine, RecordedGrant, RestoredState};
use self::format::{JournalEntry, replay, snapshot};
use self::writer::{
    AGAIN, JOURNAL, Job, WriterStatus, WriterThread, rename_from_aside, write_aside,
};
use crate::clock::{self, Moment};
use crate::files::create::{self, UnsafeDirectory};
use crate::mutants::{self, Guard};
use crate::proc::this_boot;
use crate::serve::seals::Seals;
use crate::sys::{file_size_limit, with_signals_blocked};

/// Where grants are recorded.
pub(crate) struct Journal {
    writer: Option<JournalWriter>,
}

struct JournalWriter {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    appended: Cell<u64>,
    /// Bytes since the last rewrite, and how many are enough for the next.
    grown: Cell<u64>,
    enough: Cell<u64>,
    /// When another rewrite may help a disk that is full.
    again: Cell<Moment>,
    progress: watch::Receiver<WriterStatus>,
    /// The identity of this boot.
    boot: String,
    /// That of an earlier boot, and the longest lease then, until that is over.
    before: RefCell<Option<(String, Duration)>>,
    /// Held as long as this server uses the directory.
    _lock: File,
}

/// A smaller file is not worth a rewrite.
const SMALL: u64 = 1 << 20;

/// How much a file of this size may grow before a rewrite.
fn enough(size: u64) -> u64 {
    // Half of the rest is for the text around each entry.
    let room = file_size_limit().map_or(u64::MAX, |limit| limit.saturating_sub(size) / 2);
    SMALL.max(size * 4).min(room)
}

impl Journal {
    /// A journal that remembers nothing.
    pub(crate) fn none() -> Self {
        Self { writer: None }
    }

    /// Reads the journal in a directory, which is made if need be, and continues it.
    pub(crate) fn open(directory: &Path) -> Result<(Self, RestoredState), UnsafeDirectory> {
        let boot = this_boot()?.to_string();
        Self::open_at(directory, boot)
    }

    fn open_at(path: &Path, boot: String) -> Result<(Self, RestoredState), UnsafeDirectory> {
        // Kept open: when it is needed there may be no descriptor left.
        let directory = create::open_directory(path)?;
        let lock = open_lock(&directory)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(io::Error::other("another server uses it").into());
        }
        let path = path.join(JOURNAL);
        let mut found = match create::open_private(&directory, JOURNAL, OFlags::RDONLY)? {
            Some(mut file) => {
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes)?;
                replay(&bytes, &boot)
                    .map_err(|damage| io::Error::other(format!("{}: {damage}", path.display())))?
            }
            None => RestoredState::default(),
        };
        let before = found.rebooted.map(|longest| (found.boot.clone(), longest));
        let content = snapshot(&boot, before.as_ref(), found.last, &found.pins, &found.grants);
        let directory = File::from(directory);
        let file = write_aside(&directory, &content)?;
        rename_from_aside(&directory)?;
        directory.sync_all()?;
        found.seals = Some(Seals::open(&directory)?);
        let (jobs, todo) = channel();
        let (tell, progress) = watch::channel(WriterStatus::default());
        let size = content.len() as u64;
        let work = WriterThread::new(path, directory, file, size, tell);
        let thread = std::thread::Builder::new().name("journal".into());
        // Signals are for the threads that listen to them.
        let thread = with_signals_blocked(|| thread.spawn(move || work.run(&todo)))?;
        let writer = JournalWriter {
            jobs: Some(jobs),
            thread: Some(thread),
            appended: Cell::new(0),
            grown: Cell::new(0),
            again: Cell::new(Moment::ZERO),
            enough: Cell::new(enough(size)),
            progress,
            boot,
            before: RefCell::new(before),
            _lock: lock,
        };
        Ok((Self { writer: Some(writer) }, found))
    }

    /// Whether the record may be incomplete: the machine was rebooted, and the longest earlier
    /// lease is not over.
    pub(crate) fn is_of_another_boot(&self) -> bool {
        self.writer.as_ref().is_some_and(|writer| writer.before.borrow().is_some())
    }

    /// That lease is over; the next [`Journal::rewrite`] says so.
    pub(crate) fn is_of_this_boot(&self) {
        if let Some(writer) = &self.writer {
            writer.before.replace(None);
        }
    }

    /// Whether anything outlives the process.
    pub(crate) fn remembers(&self) -> bool {
        self.writer.is_some()
    }

    pub(crate) fn granted(&self, grant: &RecordedGrant) {
        if !mutants::is_off(Guard::Journal) {
            self.append(&JournalEntry::Grant(Cow::Borrowed(grant)));
        }
    }

    pub(crate) fn pinned(&self, name: &str, limit: Option<u32>) {
        self.append(&JournalEntry::Pin { name: name.into(), limit });
    }

    pub(crate) fn ended(&self, name: &str, id: Uuid) {
        self.append(&JournalEntry::End { name: name.into(), id });
    }

    fn append(&self, entry: &JournalEntry<'_>) {
        let Some(writer) = &self.writer else { return };
        let json = serde_json::to_string(entry).expect("plain data");
        writer.grown.set(writer.grown.get() + json.len() as u64);
        writer.send(Job::Append(json));
    }

    /// Whether it is time for [`Journal::rewrite`]; also when there is no room for more, as ended
    /// entries take some.
    pub(crate) fn has_grown(&self) -> bool {
        self.writer.as_ref().is_some_and(|writer| {
            let grown = writer.grown.get();
            let helps = || clock::now() >= writer.again.get();
            grown > writer.enough.get()
                || (grown > 0 && writer.progress.borrow().error.is_some() && helps())
        })
    }

    /// Forgets ended entries: only these limits are still pinned, and only these permits held.
    pub(crate) fn rewrite(
        &self,
        last: u64,
        pins: &BTreeMap<String, u32>,
        grants: &[RecordedGrant],
    ) {
        let Some(writer) = &self.writer else { return };
        let content = snapshot(&writer.boot, writer.before.borrow().as_ref(), last, pins, grants);
        writer.grown.set(0);
        writer.again.set(clock::now() + AGAIN);
        writer.enough.set(enough(content.len() as u64));
        writer.send(Job::Rewrite(content));
    }

    /// Returns once everything that was recorded so far is on the disk, or with the reason why it
    /// is not.
    pub(crate) async fn written(&self) -> Result<(), String> {
        let Some(writer) = &self.writer else { return Ok(()) };
        let target = writer.appended.get();
        let mut progress = writer.progress.clone();
        let done = progress
            .wait_for(|progress| progress.written >= target || progress.error.is_some())
            .await;
        match done.map(|progress| progress.clone()) {
            Ok(progress) if progress.written >= target => Ok(()),
            Ok(WriterStatus { error, .. }) => Err(error.unwrap_or_default()),
            Err(_gone) => Err("the thread that writes has ended".into()),
        }
    }

    /// The same, however long it takes.
    pub(crate) async fn certainly_written(&self) {
        while self.written().await.is_err() {
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Reports trouble with the disk and its end; none where nothing is written.
    pub(crate) fn progress(&self) -> Option<watch::Receiver<WriterStatus>> {
        self.writer.as_ref().map(|writer| writer.progress.clone())
    }
}

/// The file that is locked by the server that uses a directory.
fn open_lock(directory: &OwnedFd) -> Result<File, UnsafeDirectory> {
    const LOCK: &str = "lock";
    match create::open_private(directory, LOCK, OFlags::RDWR)? {
        Some(lock) => Ok(lock),
        None => match create::create_private(directory, LOCK) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(io::Error::other("another server begins to use it").into())
            }
            lock => Ok(lock?),
        },
    }
}

impl JournalWriter {
    fn send(&self, job: Job) {
        self.appended.set(self.appended.get() + 1);
        // If the thread has ended, the tasks that wait for it notice.
        let _ = self.jobs.as_ref().map(|jobs| jobs.send(job));
    }
}

impl Drop for JournalWriter {
    /// Writes what is left.
    fn drop(&mut self) {
        self.jobs = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests;
