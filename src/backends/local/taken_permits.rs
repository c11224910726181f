//! Which permits are taken, and how: by the processes that have a FIFO open, by a record that
//! lasts, or by both.

use std::io;
use std::os::fd::OwnedFd;

use super::file_names::{FileKind, FileName, Listing};
use super::mutex::MutexGuard;
use super::records::PermitRecord;
use super::semaphore_files;
use crate::clock;
use crate::permits::{Holder, HolderState, Name, SemaphoreSnapshot, Waiter};

pub(super) struct TakenPermit {
    pub(super) entry: FileName,
    pub(super) by: TakenBy,
}

pub(super) enum TakenBy {
    Processes { fifo: OwnedFd, revoked: bool },
    Record(PermitRecord),
}

/// What a look under the mutex found.
#[derive(Default)]
pub(super) struct TakenPermits {
    /// In the order of their grants.
    pub(super) taken: Vec<TakenPermit>,
    /// Permits of dead holders that were not given back or replaced yet, and have no record that
    /// lasts.
    pub(super) dead: Vec<FileName>,
}

impl TakenPermits {
    /// Looks at all of them, and removes what was given back or has ended.
    pub(super) fn look(
        locked: &MutexGuard<'_>,
        permits: Vec<FileName>,
        kept: Vec<FileName>,
    ) -> io::Result<Self> {
        let mut found = Self::default();
        for entry in permits {
            match locked.probe_permit(entry)? {
                semaphore_files::FifoState::Held { fifo, revoked } => {
                    found
                        .taken
                        .push(TakenPermit { entry, by: TakenBy::Processes { fifo, revoked } });
                }
                semaphore_files::FifoState::Released => locked.0.remove(entry),
                semaphore_files::FifoState::Dead => found.dead.push(entry),
            }
        }
        let by_processes = found.taken.len();
        for entry in kept {
            let number = |taken: &TakenPermit| taken.entry.number;
            let held = &found.taken[..by_processes];
            // Counted once, even if it is taken in both ways.
            if held.binary_search_by_key(&entry.number, number).is_err()
                && let Some(kept) = locked.kept(entry)?
            {
                found.dead.retain(|dead| dead.number != entry.number);
                found.taken.push(TakenPermit { entry, by: TakenBy::Record(kept) });
            }
        }
        found.taken.sort_unstable_by_key(|taken| taken.entry.number);
        Ok(found)
    }
}

impl TakenPermit {
    fn holder(&self, locked: &MutexGuard<'_>) -> Holder {
        let (phase, left) = match &self.by {
            TakenBy::Processes { revoked: true, .. } => (HolderState::Revoking, None),
            TakenBy::Processes { .. } => (HolderState::Holding, None),
            TakenBy::Record(kept) => (kept.phase, Some(kept.end().saturating_sub(clock::now()))),
        };
        let record = locked.0.owner(self.entry);
        Holder::Known { token: Some(self.entry.number), record, phase, left }
    }
}

pub(super) fn snapshot(locked: &MutexGuard<'_>, name: &Name) -> io::Result<SemaphoreSnapshot> {
    let Listing { waiters, passed_over, permits, kept } = locked.list()?;
    let TakenPermits { taken, .. } = TakenPermits::look(locked, permits, kept)?;
    let holders: Vec<_> = taken.iter().map(|taken| taken.holder(locked)).collect();
    let ttl = taken.iter().find_map(|taken| match taken.by {
        TakenBy::Record(kept) if kept.is_detached() => Some(kept.ttl),
        _ => None,
    });
    // A waiter that was passed over has kept its number, and gets its place back when it runs
    // again.
    let mut queue: Vec<_> = waiters.into_iter().chain(passed_over).collect();
    queue.sort_unstable_by_key(|entry| entry.number);
    let mut waiters = Vec::new();
    for entry in queue {
        if locked.probe(entry)?.is_some() {
            waiters.push(Waiter::known(locked.0.owner(entry)));
        }
    }
    let state = locked.state()?;
    let in_use = !holders.is_empty() || !waiters.is_empty();
    let limit = state.pinned().or(in_use.then_some(state.limit));
    let pinned = state.pinned().is_some();
    Ok(SemaphoreSnapshot {
        known: true,
        limit,
        pinned,
        ttl,
        holders,
        waiters,
        ..SemaphoreSnapshot::unused(name)
    })
}

/// The record of a permit that lasts has the number of its FIFO, if it has one.
pub(super) fn kept_entry(permit: FileName) -> FileName {
    FileName { kind: FileKind::Kept, ..permit }
}
