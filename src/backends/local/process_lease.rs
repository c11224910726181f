//! A permit that processes hold by having its FIFO open, which the command's tree inherits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::sleep;

use super::file_names::{FileKind, FileName, StateFile};
use super::mutex::MutexGuard;
use super::records::PermitRecord;
use super::revoke;
use super::semaphore_files::{FifoMessage, SemaphoreFiles};
use super::taken_permits::kept_entry;
use crate::clock::{self, Moment};
use crate::mutants::{self, Guard};
use crate::permits::{
    AcquireRequest, BackendError, BoxFuture, Lease, Loss, PermitId, Record, Validity,
};
use crate::sys;

/// How often a holder that nothing can wake looks whether its permit was revoked.
const LOOK: Duration = Duration::from_secs(1);

/// Uses no runtime before [`Lease::lost`] is called: it may be granted in another one.
pub(super) struct ProcessLease {
    permit: PermitId,
    semaphore: Arc<SemaphoreFiles>,
    entry: FileName,
    /// Others write there too, to revoke the permit.
    fifo: OwnedFd,
    /// The same, once the holder listens for that.
    watched: Option<AsyncFd<OwnedFd>>,
    /// What was read there.
    heard: FifoMessage,
    /// Until when the permit stays taken after its release.
    hold_end: Option<Moment>,
}

impl ProcessLease {
    pub(super) fn grant(
        semaphore: &Arc<SemaphoreFiles>,
        locked: &MutexGuard<'_>,
        state: &mut StateFile,
        request: &AcquireRequest,
    ) -> io::Result<Self> {
        let token = state.next();
        locked.set_state(*state)?;
        let entry = FileName::new(FileKind::Permit, token);
        let record = Record::new(request);
        let fifo = locked.create(entry, &record)?;
        let keep = || -> io::Result<Moment> {
            // Last, so that a grant that fails leaves none of these.
            let kept = PermitRecord::of_run(request)?;
            locked.write_kept(kept_entry(entry), kept, &record)?;
            Ok(kept.hold_end)
        };
        let hold_end = request.terms.keep().then(keep).transpose();
        let hold_end = hold_end.inspect_err(|_| semaphore.remove(entry))?;
        let permit = PermitId { id: request.id, name: request.name.clone(), token: Some(token) };
        let semaphore = Arc::clone(semaphore);
        Ok(Self {
            permit,
            semaphore,
            entry,
            fifo,
            watched: None,
            heard: FifoMessage::Nothing,
            hold_end,
        })
    }

    /// Waits until it is revoked; after it was revoked gently, until that is done at once.
    async fn taken_away(&mut self) -> Loss {
        loop {
            if let Ok(said) = FifoMessage::to(&self.fifo)
                && said != self.heard
                && let Some(lost) = revoke::loss_from(said)
            {
                self.heard = said;
                return lost;
            }
            self.something_said().await;
        }
    }

    /// Returns when something may have been written to the FIFO.
    async fn something_said(&mut self) {
        if self.watched.is_none() {
            let fifo = self.fifo.try_clone();
            self.watched = fifo.and_then(|fifo| sys::watch(fifo, Interest::READABLE)).ok();
        }
        match &self.watched {
            Some(fifo) => match fifo.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                // The runtime is going down, and with it the holder.
                Err(_) => std::future::pending().await,
            },
            None => sleep(LOOK).await,
        }
    }
}

impl Lease for ProcessLease {
    fn permit(&self) -> &PermitId {
        &self.permit
    }

    fn validity(&self) -> Option<watch::Receiver<Validity>> {
        None
    }

    fn lost(&mut self) -> BoxFuture<'_, Loss> {
        Box::pin(self.taken_away())
    }

    fn inherited_fd(&self) -> Option<BorrowedFd<'_>> {
        (!mutants::is_off(Guard::InheritedLock)).then(|| self.fifo.as_fd())
    }

    /// Needs no mutex and writes nothing to the disk, so neither a stopped process nor a full
    /// disk can keep a permit from passing on.
    fn release(self: Box<Self>, _: Duration) -> BoxFuture<'static, Result<(), BackendError>> {
        Box::pin(async move {
            self.semaphore.hand_over(self.entry, &self.fifo);
            let off = mutants::is_off(Guard::Hold);
            if self.hold_end.is_some_and(|end| end <= clock::now() || off) {
                self.semaphore.remove(kept_entry(self.entry));
            }
            // The permit is free already; a failure here makes no waiter wait longer.
            let _ = self.semaphore.wake_next_waiter().await;
            Ok(())
        })
    }

    fn discard(
        mut self: Box<Self>,
        patience: Duration,
    ) -> BoxFuture<'static, Result<(), BackendError>> {
        if self.hold_end.take().is_some() {
            self.semaphore.remove(kept_entry(self.entry));
        }
        self.release(patience)
    }
}
