//! Revoking a permit. Its holders are told through its FIFO, which they watch.

use std::io;

use uuid::Uuid;

use super::entries::{Entry, Kind};
use super::files::{self, RELEASED, REVOKED, Said};
use super::kept::Kept;
use super::mutex::Locked;
use super::taken::{By, Permits, Taken, kept_entry};
use crate::backends::{Gone, Lost, Phase, Revocation};
use crate::mutants::{self, Guard};

/// What another process has written to a permit of ours, if anything.
pub(super) fn heard(said: Said) -> Option<Lost> {
    match said {
        Said::Nothing => None,
        Said::Revoked => Some(Lost::revoked()),
        Said::Released => Some(Lost::removed(Gone::Now)),
    }
}

/// False: no permit has this identity.
pub(super) fn revoke(locked: &Locked<'_>, id: Uuid, how: Revocation) -> io::Result<bool> {
    let listing = locked.0.list()?;
    let Permits { taken, .. } = Permits::look(locked, listing.permits, listing.kept)?;
    let how = if mutants::is_off(Guard::Revocation) { Revocation::Now } else { how };
    let found = locked.0.find(taken, |taken| taken.entry, id)?;
    let Some(Taken { entry, by }) = found else { return Ok(false) };
    match (by, how) {
        (By::Processes { revoked, .. }, Revocation::Gently) => {
            if !revoked {
                locked.write_to(entry, REVOKED)?;
            }
            locked.0.remove(kept_entry(entry));
        }
        (By::Processes { .. }, Revocation::Now) => {
            locked.wake(listing.waiters)?;
            locked.write_to(entry, RELEASED)?;
            locked.0.remove(entry);
            locked.0.remove(kept_entry(entry));
        }
        (By::Record(kept), Revocation::Gently) if kept.phase != Phase::MinHold => {
            let revoked = kept.in_phase(Phase::Revoking);
            if revoked.lasts()? {
                shorten(locked, entry, revoked)?;
            } else {
                end(locked, entry)?;
            }
        }
        (By::Record(_), _) => end(locked, entry)?,
    }
    Ok(true)
}

/// Ends a permit that lasts without a process.
pub(super) fn end(locked: &Locked<'_>, entry: Entry) -> io::Result<()> {
    locked.wake(locked.0.list()?.waiters)?;
    locked.0.remove(entry);
    Ok(())
}

/// The same for a permit that stays taken, but may end earlier than the waiters were told.
pub(super) fn shorten(locked: &Locked<'_>, entry: Entry, kept: Kept) -> io::Result<()> {
    locked.wake(locked.0.list()?.waiters)?;
    locked.rewrite_kept(entry, kept)?;
    locked.tell(entry);
    Ok(())
}

pub(super) fn is_held_by_processes(locked: &Locked<'_>, entry: Entry) -> io::Result<bool> {
    let permit = Entry { kind: Kind::Permit, ..entry };
    Ok(matches!(locked.probe_permit(permit)?, files::Permit::Held { .. }))
}
