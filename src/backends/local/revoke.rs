//! Revoking a permit. Its holders are told through its FIFO, which they watch.

use std::io;

use uuid::Uuid;

use super::file_names::{FileKind, FileName};
use super::mutex::MutexGuard;
use super::records::PermitRecord;
use super::semaphore_files::{self, FifoMessage, RELEASED, REVOKED};
use super::taken_permits::{TakenBy, TakenPermit, TakenPermits, kept_entry};
use crate::mutants::{self, Guard};
use crate::permits::{HolderState, Loss, LossStage, Revocation};

/// What another process has written to a permit of ours, if anything.
pub(super) fn loss_from(said: FifoMessage) -> Option<Loss> {
    match said {
        FifoMessage::Nothing => None,
        FifoMessage::Revoked => Some(Loss::revoked()),
        FifoMessage::Released => Some(Loss::forcibly_revoked(LossStage::Now)),
    }
}

/// False: no permit has this identity.
pub(super) fn revoke(locked: &MutexGuard<'_>, id: Uuid, how: Revocation) -> io::Result<bool> {
    let listing = locked.list()?;
    let TakenPermits { taken, .. } = TakenPermits::look(locked, listing.permits, listing.kept)?;
    let how = if mutants::is_off(Guard::Revocation) { Revocation::Forced } else { how };
    let found = locked.0.find(taken, |taken| taken.entry, id)?;
    let Some(TakenPermit { entry, by }) = found else { return Ok(false) };
    match (by, how) {
        (TakenBy::Processes { revoked, .. }, Revocation::Graceful) => {
            if !revoked {
                locked.write_to(entry, REVOKED)?;
            }
            locked.0.remove(kept_entry(entry));
        }
        (TakenBy::Processes { .. }, Revocation::Forced) => {
            locked.wake(listing.waiters)?;
            locked.write_to(entry, RELEASED)?;
            locked.0.remove(entry);
            locked.0.remove(kept_entry(entry));
        }
        (TakenBy::Record(kept), Revocation::Graceful) if kept.phase != HolderState::MinHold => {
            let revoked = kept.in_phase(HolderState::Revoking);
            if revoked.is_in_force()? {
                shorten(locked, entry, revoked)?;
            } else {
                end(locked, entry)?;
            }
        }
        (TakenBy::Record(_), _) => end(locked, entry)?,
    }
    Ok(true)
}

/// Ends a permit that lasts without a process.
pub(super) fn end(locked: &MutexGuard<'_>, entry: FileName) -> io::Result<()> {
    locked.wake(locked.list()?.waiters)?;
    locked.0.remove(entry);
    Ok(())
}

/// The same for a permit that stays taken, but may end earlier than the waiters were told.
pub(super) fn shorten(
    locked: &MutexGuard<'_>,
    entry: FileName,
    kept: PermitRecord,
) -> io::Result<()> {
    locked.wake(locked.list()?.waiters)?;
    locked.rewrite_kept(entry, kept)?;
    locked.tell(entry);
    Ok(())
}

pub(super) fn is_held_by_processes(locked: &MutexGuard<'_>, entry: FileName) -> io::Result<bool> {
    let permit = FileName { kind: FileKind::Permit, ..entry };
    Ok(matches!(locked.probe_permit(permit)?, semaphore_files::FifoState::Held { .. }))
}
