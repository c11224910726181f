//! Making sure that a waiter takes a free permit: every change wakes the waiters, and passes over
//! those that could not hear it.

use std::io;
use std::thread;
use std::time::Duration;

use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::exiting::ExitingProcesses;
use super::file_names::{FileKind, FileName, Listing};
use super::mutex::{MutexGuard, MutexWait};
use super::proc_locks::{self, Locks};
use super::queue::WATCHED;
use super::semaphore_files::{FifoMessage, SemaphoreFiles};
use super::taken_permits::TakenPermits;

/// How often, and how far apart, to look whether a waiter goes ahead; it usually takes 0.3 ms.
const MOMENTS: u32 = 10;
const MOMENT: Duration = Duration::from_micros(100);

/// What wakes a waiter. It reads nothing of it but that there is something.
const WAKE: &[u8] = b"x";

impl SemaphoreFiles {
    /// What is left to do after a release: lets waiters pass stopped ones at the front, which may
    /// be all that were told, and removes what the dead left where no living process would come
    /// past it.
    pub(super) async fn wake_next_waiter(&self) -> io::Result<()> {
        let listing = self.list()?;
        let nobody_left = listing.permits.is_empty() && listing.passed_over.is_empty();
        match listing.waiters.first() {
            None if nobody_left => return Ok(()),
            // Nearly always: the first one goes ahead, or needs the mutex now, and will come past here.
            Some(first)
                if self.goes_ahead(*first) || self.runs(*first, &Locks::read()) == Some(true) =>
            {
                return Ok(());
            }
            _ => {}
        }
        let Some(locked) = self.lock(MutexWait::Bounded).await? else { return Ok(()) };
        let Listing { mut waiters, passed_over, permits, kept } = locked.list()?;
        locked.pass_over_stopped(&mut waiters)?;
        // Waiters remove what is dead before them, so look from the end.
        for entry in waiters.iter().chain(&passed_over).rev() {
            if locked.probe(*entry)?.is_some() {
                return Ok(());
            }
        }
        let TakenPermits { dead, .. } = TakenPermits::look(&locked, permits, kept)?;
        drop(locked);
        // The client that takes a dead holder's place removes it. Where other permits are free,
        // that place may not be needed for a long time.
        if ExitingProcesses::with(self, &dead)?.are_gone() {
            for permit in dead {
                self.remove(permit);
            }
        }
        Ok(())
    }

    /// Whether a waiter that was told leaves its place within a moment. It saves a look at the
    /// kernel's list of locks, which takes milliseconds and slows down every process that locks a
    /// file meanwhile.
    fn goes_ahead(&self, waiter: FileName) -> bool {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        (0..MOMENTS).any(|_| {
            thread::sleep(MOMENT);
            rustix::fs::statat(&self.directory, waiter.file(), flags).err() == Some(Errno::NOENT)
        })
    }

    /// Whether a waiter's process runs or is stopped; None where we cannot see it.
    fn runs(&self, waiter: FileName, locks: &Locks) -> Option<bool> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let stat = rustix::fs::statat(&self.directory, waiter.file(), flags).ok()?;
        locks.holder(&stat).and_then(proc_locks::is_stopped).map(|stopped| !stopped)
    }
}

impl MutexGuard<'_> {
    /// Passes over stopped waiters at the front of `waiters`, forgets dead ones, and wakes the
    /// waiter that is first then. False: the first one was in order.
    pub(super) fn pass_over_stopped(&self, waiters: &mut Vec<FileName>) -> io::Result<bool> {
        let locks = Locks::read();
        let mut count = 0;
        for waiter in waiters.iter() {
            if self.probe(*waiter)?.is_some() {
                if self.0.runs(*waiter, &locks) != Some(false) {
                    break;
                }
                self.set_aside(*waiter)?;
            }
            count += 1;
        }
        waiters.drain(..count);
        Ok(self.wake_first(waiters, count))
    }

    /// The same with those among the first `count` that have not read what they were told: frozen
    /// with their container, perhaps. What a waiter has not read yet is still in its FIFO.
    pub(super) fn pass_over_deaf(
        &self,
        waiters: &mut Vec<FileName>,
        count: usize,
    ) -> io::Result<bool> {
        let mut stage = 0;
        for waiter in waiters.iter().take(count) {
            if let Some(fifo) = self.probe(*waiter)? {
                if FifoMessage::to(&fifo)? == FifoMessage::Nothing {
                    break;
                }
                self.set_aside(*waiter)?;
            }
            stage += 1;
        }
        waiters.drain(..stage);
        Ok(self.wake_first(waiters, stage))
    }

    fn set_aside(&self, waiter: FileName) -> io::Result<()> {
        self.rename(waiter, FileKind::PassedOver)?;
        // When it runs again it finds this in its FIFO and takes its place back.
        self.wake_one(FileName { kind: FileKind::PassedOver, ..waiter });
        Ok(())
    }

    /// Wakes the waiter that is first now, as `gone` before it are not. False: none was.
    fn wake_first(&self, waiters: &[FileName], stage: usize) -> bool {
        if let (Some(first), 1..) = (waiters.first(), stage) {
            self.wake_one(*first);
        }
        stage > 0
    }

    /// Makes the watchers of the permits look again. Call it before the change that they are to
    /// see: if we die in between, they wake for nothing, but none sleeps on beside a free permit.
    pub(super) fn wake(&self, mut waiters: Vec<FileName>) -> io::Result<()> {
        self.pass_over_stopped(&mut waiters)?;
        let last = waiters.len().saturating_sub(WATCHED).max(WATCHED);
        let (first, last) = (waiters.iter().take(WATCHED), waiters.iter().skip(last));
        for waiter in first.chain(last) {
            match self.write_to(*waiter, WAKE) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                // A FIFO that is full tells it as well.
                _ => {}
            }
        }
        Ok(())
    }

    /// Wakes a waiter, so that it looks again.
    pub(super) fn wake_one(&self, waiter: FileName) {
        // A FIFO that is full tells it as well.
        let _ = self.write_to(waiter, WAKE);
    }
}
