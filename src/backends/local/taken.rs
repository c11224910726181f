//! Which permits are taken, and how: by the processes that have a FIFO open, by a record that
//! lasts, or by both.

use std::io;
use std::os::fd::OwnedFd;

use super::entries::{Entry, Kind, Listing};
use super::files;
use super::kept::Kept;
use super::mutex::Locked;
use crate::backends::{Holder, Name, Phase, Snapshot, Waiter};
use crate::clock;

pub(super) struct Taken {
    pub(super) entry: Entry,
    pub(super) by: By,
}

pub(super) enum By {
    Processes { fifo: OwnedFd, revoked: bool },
    Record(Kept),
}

/// What a look under the mutex found.
#[derive(Default)]
pub(super) struct Permits {
    /// In the order of their grants.
    pub(super) taken: Vec<Taken>,
    /// Permits of dead holders that were not given back or replaced yet, and have no record that
    /// lasts.
    pub(super) dead: Vec<Entry>,
}

impl Permits {
    /// Looks at all of them, and removes what was given back or has ended.
    pub(super) fn look(
        locked: &Locked<'_>,
        permits: Vec<Entry>,
        kept: Vec<Entry>,
    ) -> io::Result<Self> {
        let mut found = Self::default();
        for entry in permits {
            match locked.probe_permit(entry)? {
                files::Permit::Held { fifo, revoked } => {
                    found.taken.push(Taken { entry, by: By::Processes { fifo, revoked } });
                }
                files::Permit::Released => locked.0.remove(entry),
                files::Permit::Dead => found.dead.push(entry),
            }
        }
        let by_processes = found.taken.len();
        for entry in kept {
            let number = |taken: &Taken| taken.entry.number;
            let held = &found.taken[..by_processes];
            // Counted once, even if it is taken in both ways.
            if held.binary_search_by_key(&entry.number, number).is_err()
                && let Some(kept) = locked.kept(entry)?
            {
                found.dead.retain(|dead| dead.number != entry.number);
                found.taken.push(Taken { entry, by: By::Record(kept) });
            }
        }
        found.taken.sort_unstable_by_key(|taken| taken.entry.number);
        Ok(found)
    }
}

impl Taken {
    fn holder(&self, locked: &Locked<'_>) -> Holder {
        let (phase, left) = match &self.by {
            By::Processes { revoked: true, .. } => (Phase::Revoking, None),
            By::Processes { .. } => (Phase::Holding, None),
            By::Record(kept) => (kept.phase, Some(kept.end().saturating_sub(clock::now()))),
        };
        let record = locked.0.owner(self.entry);
        Holder::Known { token: Some(self.entry.number), record, phase, left }
    }
}

pub(super) fn snapshot(locked: &Locked<'_>, name: &Name) -> io::Result<Snapshot> {
    let Listing { waiters, passed_over, permits, kept } = locked.0.list()?;
    let Permits { taken, .. } = Permits::look(locked, permits, kept)?;
    let holders: Vec<_> = taken.iter().map(|taken| taken.holder(locked)).collect();
    let ttl = taken.iter().find_map(|taken| match taken.by {
        By::Record(kept) if kept.is_detached() => Some(kept.ttl),
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
    Ok(Snapshot { known: true, limit, pinned, ttl, holders, waiters, ..Snapshot::unused(name) })
}

/// The record of a permit that lasts has the number of its FIFO, if it has one.
pub(super) fn kept_entry(permit: Entry) -> Entry {
    Entry { kind: Kind::Kept, ..permit }
}
