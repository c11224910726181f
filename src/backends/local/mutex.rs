//! The short mutex around the files of a semaphore.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FlockOperation, OFlags, Stat};
use rustix::io::Errno;
use tokio::sync::oneshot;

use super::directory::Sharing;
use super::proc_locks::Locks;
use super::semaphore_files::SemaphoreFiles;
use crate::files::create;
use crate::permits::{Progress, ProgressSender, StoreError};

/// How long the mutex may be busy before we say who has it. It is held for a millisecond.
const MUTEX_IS_STUCK: Duration = Duration::from_secs(2);

/// How long a client that does not want to wait tries all the same.
pub(super) const GIVE_UP: Duration = Duration::from_secs(5);

/// How long a thread that got the mutex offers it to us.
const OFFER: Duration = Duration::from_millis(100);

/// The mutex is ours until this goes.
#[derive(Debug)]
pub(super) struct MutexGuard<'a>(pub(super) &'a SemaphoreFiles);

/// The mutex, which a thread has got for us.
struct LockingThread {
    accepting: mpsc::Sender<()>,
    thread: JoinHandle<bool>,
}

impl LockingThread {
    /// False: we were too slow. No thread is left in any case.
    fn accept(self) -> bool {
        // The thread alone knows whether that was in time.
        let _ = self.accepting.send(());
        self.thread.join().unwrap_or(false)
    }
}

/// How long to wait for the mutex.
#[derive(Debug, Clone, Copy)]
pub(super) enum MutexWait<'a> {
    /// As long as it takes; the waiter is told when it takes long.
    Endless(&'a ProgressSender),
    /// For clients that do not want to wait: an error after a while.
    Bounded,
}

impl SemaphoreFiles {
    /// Locks the mutex. None: the files we have open are no longer those at the path, because they
    /// were deleted; open the semaphore again. No thread is left, unless it fails or is called off
    /// while another process has the mutex.
    pub(super) async fn lock(&self, patience: MutexWait<'_>) -> io::Result<Option<MutexGuard<'_>>> {
        if !self.take_mutex()? {
            self.wait_for_mutex(patience).await?;
        }
        let locked = MutexGuard(self);
        Ok(self.still_there()?.then_some(locked))
    }

    /// The same if the mutex is free at the moment, to look only. It does not check whether the
    /// files were deleted: nothing is in them then.
    pub(super) fn lock_to_look(&self) -> io::Result<Option<MutexGuard<'_>>> {
        Ok(self.take_mutex()?.then(|| MutexGuard(self)))
    }

    fn take_mutex(&self) -> io::Result<bool> {
        match rustix::fs::flock(&self.mutex, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits in a thread, because signals have to be obeyed meanwhile.
    async fn wait_for_mutex(&self, patience: MutexWait<'_>) -> io::Result<()> {
        let answer = async {
            loop {
                let (offer, got) = self.offer_mutex()?;
                got.await.map_err(|_| io::Error::from(StoreError::ThreadEnded))??;
                if offer.accept() {
                    return Ok(());
                }
                // Others had their turn.
            }
        };
        tokio::pin!(answer);
        let time = match patience {
            MutexWait::Endless(_) => MUTEX_IS_STUCK,
            MutexWait::Bounded => GIVE_UP,
        };
        if let Ok(answer) = tokio::time::timeout(time, &mut answer).await {
            return answer;
        }
        let what = StoreError::Stuck(self.mutex_holder());
        match patience {
            MutexWait::Endless(progress) => {
                progress.tell(Progress::Trouble { what, may_last: true });
                answer.await
            }
            MutexWait::Bounded => Err(what.into()),
        }
    }

    /// Starts a thread that gets the mutex and offers it.
    fn offer_mutex(&self) -> io::Result<(LockingThread, oneshot::Receiver<io::Result<()>>)> {
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
                // The waiter has gone, or it hangs in a write to a terminal: the others must not
                // wait for that.
                let _ = rustix::fs::flock(&mutex, FlockOperation::Unlock);
            }
            accepted
        })?;
        Ok((LockingThread { accepting, thread }, got))
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
}

impl Drop for MutexGuard<'_> {
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.0.mutex, FlockOperation::Unlock);
    }
}

/// Opens the mutex file, or makes it. Never through a link: what is written to it must not land in
/// a user's own file.
pub(super) fn open_mutex(
    directory: &OwnedFd,
    sharing: Sharing,
    create: bool,
) -> io::Result<Option<OwnedFd>> {
    let access = if create { OFlags::RDWR } else { OFlags::RDONLY };
    // First without O_CREAT: the kernel refuses that for another user's file in a sticky directory
    // (fs.protected_regular), even where writing to it is fine.
    for _ in 0..100 {
        match create::open(directory, "mutex", access) {
            Ok(mutex) => return Ok(Some(mutex)),
            Err(Errno::NOENT) if !create => return Ok(None),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        match create::create(directory, "mutex", sharing.file_mode()) {
            Ok(mutex) => return Ok(Some(mutex)),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(StoreError::MutexFlickers.into())
}

pub(super) fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

pub(super) fn check_mutex(stat: &Stat) -> io::Result<()> {
    if !create::is_regular(stat) || stat.st_nlink > 1 {
        return Err(StoreError::MutexForeign.into());
    }
    Ok(())
}
