//! Permits that outlive the process that asked for them: granted, renewed and given back by writing
//! in their record (`records.rs`).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use super::file_names::{FileKind, FileName, StateFile};
use super::mutex::{MutexGuard, MutexWait};
use super::records::{self, PermitRecord};
use super::renewing_lease::{LeaseOps, RenewingLease};
use super::semaphore_files::SemaphoreFiles;
use super::{directory, revoke};
use crate::clock;
use crate::engine::renewal::{self, Renewed};
use crate::permits::{
    AcquireRequest, BoxFuture, HolderState, Lease, Loss, Name, PermitId, Record, ReleaseOutcome,
    StoreError, Validity,
};

/// What is needed to keep such a permit and to let it go.
struct DetachedLease {
    semaphore: Arc<SemaphoreFiles>,
    entry: FileName,
    id: Uuid,
    shown: String,
}

/// Grants one, whose lease begins now.
pub(super) fn grant(
    semaphore: &Arc<SemaphoreFiles>,
    locked: &MutexGuard<'_>,
    state: &mut StateFile,
    request: &AcquireRequest,
) -> io::Result<Box<dyn Lease>> {
    let since = clock::now();
    let entry = FileName::new(FileKind::Kept, state.next());
    locked.set_state(*state)?;
    locked.write_kept(entry, PermitRecord::detached(request)?, &Record::new(request))?;
    let validity = Validity { since, ttl: request.terms.ttl, error: None };
    Ok(lease(semaphore, entry, &request.name, request.id, validity))
}

/// Attaches to a detached permit. None: it is not held, or not so that it could be renewed.
pub(super) fn attach(
    semaphore: &Arc<SemaphoreFiles>,
    locked: &MutexGuard<'_>,
    name: &Name,
    id: Uuid,
) -> io::Result<Option<Box<dyn Lease>>> {
    let Some((entry, kept)) = find(locked, id)? else { return Ok(None) };
    if kept.phase != HolderState::Holding {
        return Ok(None);
    }
    let since = clock::now();
    locked.rewrite_kept(entry, kept.renewed())?;
    let validity = Validity { since, ttl: kept.ttl, error: None };
    Ok(Some(lease(semaphore, entry, name, id, validity)))
}

fn lease(
    semaphore: &Arc<SemaphoreFiles>,
    entry: FileName,
    name: &Name,
    id: Uuid,
    validity: Validity,
) -> Box<dyn Lease> {
    let shown = directory::url(semaphore.base());
    let lease = DetachedLease { semaphore: Arc::clone(semaphore), entry, id, shown };
    let permit = PermitId { id, name: name.clone(), token: Some(entry.number) };
    Box::new(RenewingLease::new(permit, validity, lease))
}

/// The detached permit of this identity, if it counts. One that is held by processes too is not
/// detached.
fn find(locked: &MutexGuard<'_>, id: Uuid) -> io::Result<Option<(FileName, PermitRecord)>> {
    let found = locked.0.find(locked.list()?.kept, |entry| *entry, id)?;
    let Some(entry) = found else { return Ok(None) };
    Ok(locked.kept(entry)?.map(|kept| (entry, kept)))
}

/// `unused`: nothing keeps the permit then.
pub(super) fn give_back(
    locked: &MutexGuard<'_>,
    id: Uuid,
    unused: bool,
) -> io::Result<ReleaseOutcome> {
    let Some((entry, kept)) = find(locked, id)? else {
        let before = locked.remembers(id)?;
        return Ok(if before { ReleaseOutcome::Before } else { ReleaseOutcome::Unknown });
    };
    if !kept.is_detached() {
        return Ok(if revoke::is_held_by_processes(locked, entry)? {
            ReleaseOutcome::Unknown
        } else {
            ReleaseOutcome::Before
        });
    }
    if kept.phase == HolderState::MinHold {
        return Ok(ReleaseOutcome::Before);
    }
    // First of all: a client killed after this line can repeat the release. If the permit ended
    // first, a client killed in between would then hear that it is unknown.
    locked.remember(id)?;
    let left = kept.in_phase(HolderState::MinHold);
    if kept.phase == HolderState::Holding && !unused && left.is_in_force()? {
        revoke::shorten(locked, entry, left)?;
    } else {
        revoke::end(locked, entry)?;
    }
    Ok(ReleaseOutcome::Now)
}

impl DetachedLease {
    async fn renew(&self) -> io::Result<Renewed> {
        // The files were deleted, and with them all permits.
        let Some(locked) = self.semaphore.lock(MutexWait::Bounded).await? else {
            return Ok(Renewed::Lost(Loss::unknown_to_server()));
        };
        Ok(match locked.kept(self.entry)? {
            Some(kept) if kept.phase == HolderState::Holding => {
                locked.rewrite_kept(self.entry, kept.renewed())?;
                Renewed::For(kept.ttl)
            }
            Some(kept) if kept.phase == HolderState::Revoking => Renewed::Lost(Loss::revoked()),
            _ => Renewed::Lost(Loss::unknown_to_server()),
        })
    }
}

/// Has the permit renewed whenever its file is touched, and never returns. If it cannot be watched,
/// that does no harm: the next renewal finds what has changed.
async fn renew_when_told(renew_now: &Notify, told: io::Result<AsyncFd<OwnedFd>>) -> Loss {
    if let Ok(told) = told {
        while let Ok(mut ready) = told.readable().await {
            while rustix::io::read(&told, &mut [0; 512]).is_ok_and(|length| length > 0) {}
            ready.clear_ready();
            renew_now.notify_one();
        }
    }
    std::future::pending().await
}

impl LeaseOps for DetachedLease {
    fn renew_until_lost(
        self: Arc<Self>,
        validity: watch::Sender<Validity>,
    ) -> BoxFuture<'static, Loss> {
        Box::pin(async move {
            let told = records::watch(&self.semaphore.path_of(self.entry));
            let renew_now = Notify::new();
            // It may have been revoked before that.
            renew_now.notify_one();
            let attempt = || -> BoxFuture<'_, _> {
                Box::pin(async { self.renew().await.map_err(StoreError::from) })
            };
            tokio::select! {
                lost = renewal::renew_loop(self.id, validity, &renew_now, attempt) => lost,
                lost = renew_when_told(&renew_now, told) => lost,
            }
        })
    }

    /// No command runs under it that would have to be stopped.
    fn until_forcibly_revoked(self: Arc<Self>) -> BoxFuture<'static, Loss> {
        Box::pin(std::future::pending())
    }

    fn release(
        self: Arc<Self>,
        unused: bool,
        patience: Duration,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        Box::pin(async move {
            let giving_back = async {
                if let Some(locked) = self.semaphore.lock(MutexWait::Bounded).await? {
                    give_back(&locked, self.id, unused)?;
                }
                Ok::<_, io::Error>(())
            };
            match tokio::time::timeout(patience, giving_back).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(error.into()),
                Err(_elapsed) => Err(StoreError::Locked),
            }
        })
    }

    fn shown(&self) -> &str {
        &self.shown
    }
}
