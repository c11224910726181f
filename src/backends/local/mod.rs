//! Permits on one machine, without a server: FIFO special files with flock(2). A permit lives as
//! long as any process of the command's tree keeps its descriptor open, so no lease expires and no
//! clock is asked, except for permits that outlive their process. `docs/backends.md` says why it is
//! built so; `semaphore_files.rs` lists the files.

mod detached;
mod diagnose;
pub(crate) mod directory;
mod directory_names;
mod exiting;
mod file_names;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod mutex;
mod proc_locks;
mod process_lease;
mod queue;
mod records;
mod renewing_lease;
mod revoke;
mod scan;
mod semaphore_files;
mod taken_permits;
mod wakeup;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use self::directory::{BaseDirectory, LocalConfig};
use self::file_names::StateFile;
#[cfg(any(test, fuzzing))]
pub(crate) use self::fuzz::{fuzz, fuzz_name};
use self::mutex::{GIVE_UP, MutexGuard, MutexWait};
use self::semaphore_files::SemaphoreFiles;
use super::error::TermsMismatch;
use super::{
    AcquireRequest, Acquisition, Attempt, Backend, BackendError, BoxFuture, CancelToken, Finding,
    Lease, Name, PermitId, ProgressSender, ReleaseOutcome, Revocation, SemaphoreSnapshot,
    StoreError,
};

/// How long one of many semaphores may take if its files are locked.
const BRIEFLY: Duration = Duration::from_millis(100);

/// The local backend in one directory.
#[derive(Debug)]
pub(crate) struct Local {
    config: LocalConfig,
    /// The directory that turned out to be usable.
    found: OnceLock<PathBuf>,
}

impl Local {
    pub(crate) fn new(config: LocalConfig) -> Self {
        Self { config, found: OnceLock::new() }
    }

    fn open(&self, create: bool) -> Result<Option<BaseDirectory>, BackendError> {
        let base = self.config.open(create)?;
        if let Some(base) = &base {
            let _ = self.found.set(base.path.clone());
        }
        Ok(base)
    }

    /// `doing` fits "cannot …".
    fn error(&self, attempt: Attempt, error: io::Error) -> BackendError {
        StoreError::from(error).while_doing(&self.url(), attempt)
    }

    async fn take_turn(
        &self,
        request: &AcquireRequest,
        progress: &ProgressSender,
    ) -> Result<Acquisition, BackendError> {
        let attempt = || Attempt::Acquire(request.name.clone());
        // Several rounds only if the files are deleted under us.
        for _ in 0..100 {
            let base = self.open(true)?.expect("what is missing was made");
            let round = async {
                match SemaphoreFiles::open(&base, &request.name, true)? {
                    Some(semaphore) => {
                        queue::take_turn(Arc::new(semaphore), request, progress).await
                    }
                    None => Ok(None),
                }
            };
            match round.await {
                Ok(Some(Ok(acquired))) => return Ok(acquired),
                Ok(Some(Err(differs))) => return Err(self.differs(request, &differs)),
                // Files made in a deleted directory are not found either.
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(self.error(attempt(), error)),
            }
        }
        Err(StoreError::DeletedAgain.while_doing(&self.url(), attempt()))
    }

    fn differs(&self, request: &AcquireRequest, differs: &queue::LimitMismatch) -> BackendError {
        let queue::LimitMismatch { stands, pinned } = differs;
        let (name, pinned, stands) = (request.name.clone(), *pinned, (*stands, None));
        let asked = (request.terms.limit, None);
        StoreError::Differs(Box::new(TermsMismatch { name, pinned, stands, asked })).of(&self.url())
    }

    /// Does something under the mutex of a semaphore. None: it was never used, or its files are
    /// being deleted.
    async fn under_mutex<T>(
        &self,
        name: &Name,
        create: bool,
        attempt: &Attempt,
        act: impl FnOnce(&Arc<SemaphoreFiles>, &MutexGuard<'_>) -> io::Result<T>,
    ) -> Result<Option<T>, BackendError> {
        let Some(base) = self.open(create)? else { return Ok(None) };
        self.under_mutex_in(&base, name, create, attempt, act).await
    }

    async fn under_mutex_in<T>(
        &self,
        base: &BaseDirectory,
        name: &Name,
        create: bool,
        attempt: &Attempt,
        act: impl FnOnce(&Arc<SemaphoreFiles>, &MutexGuard<'_>) -> io::Result<T>,
    ) -> Result<Option<T>, BackendError> {
        let done = async {
            let Some(semaphore) = SemaphoreFiles::open(base, name, create)? else {
                return Ok(None);
            };
            let semaphore = Arc::new(semaphore);
            match semaphore.lock(MutexWait::Bounded).await? {
                Some(locked) => act(&semaphore, &locked).map(Some),
                None => Ok(None),
            }
        };
        done.await.map_err(|error| self.error(attempt.clone(), error))
    }

    async fn look(&self, name: &Name) -> Result<SemaphoreSnapshot, BackendError> {
        match self.open(false)? {
            Some(base) => self.look_in(&base, name).await,
            None => Ok(SemaphoreSnapshot::unused(name)),
        }
    }

    async fn look_in(
        &self,
        base: &BaseDirectory,
        name: &Name,
    ) -> Result<SemaphoreSnapshot, BackendError> {
        let look = |_: &_, locked: &MutexGuard<'_>| taken_permits::snapshot(locked, name);
        let snapshot =
            self.under_mutex_in(base, name, false, &Attempt::Look(name.clone()), look).await?;
        Ok(snapshot.unwrap_or_else(|| SemaphoreSnapshot::unused(name)))
    }

    async fn look_at_all(&self) -> Result<Vec<SemaphoreSnapshot>, BackendError> {
        let Some(base) = self.open(false)? else { return Ok(Vec::new()) };
        let names = names_in(&base).map_err(|error| self.error(Attempt::List, error))?;
        let mut snapshots = Vec::with_capacity(names.len());
        // For all together: others may keep any number of them locked.
        let end = Instant::now() + GIVE_UP + BRIEFLY;
        for (name, looked) in names.iter().zip(scan::look(&base, &names)) {
            if let Some(snapshot) = looked {
                snapshots.push(snapshot);
                continue;
            }
            // Here an obstacle is waited for or reported, and hides no other semaphore.
            let end = end.max(Instant::now() + BRIEFLY);
            snapshots.push(match timeout_at(end, self.look_in(&base, name)).await {
                Ok(Ok(snapshot)) => snapshot,
                Ok(Err(error)) => SemaphoreSnapshot::odd(name, error.cause),
                Err(_elapsed) => SemaphoreSnapshot::odd(name, StoreError::Locked),
            });
        }
        Ok(snapshots)
    }

    async fn pin(&self, name: &Name, limit: Option<u32>) -> Result<(), BackendError> {
        let attempt = Attempt::SetLimit(name.clone());
        let is_there = async || {
            let there = self.under_mutex(name, false, &attempt, |_, _| Ok(())).await?;
            Ok::<_, BackendError>(there.is_some())
        };
        if limit.is_none() && !is_there().await? {
            return Ok(());
        }
        let pin = |_: &Arc<SemaphoreFiles>, locked: &MutexGuard<'_>| {
            // Before the new limit is written, as always when waking.
            locked.wake(locked.list()?.waiters)?;
            locked.set_state(StateFile { pinned: limit.unwrap_or(0), ..locked.state()? })
        };
        if self.under_mutex(name, true, &attempt, pin).await?.is_none() {
            return Err(StoreError::DeletedNow.while_doing(&self.url(), attempt));
        }
        Ok(())
    }
}

impl Backend for Local {
    fn acquire<'a>(
        &'a self,
        request: &'a AcquireRequest,
        progress: &'a ProgressSender,
        cancel: CancelToken,
    ) -> BoxFuture<'a, Result<Acquisition, BackendError>> {
        Box::pin(async move {
            let acquiring = cancel.unless_cancelled(self.take_turn(request, progress));
            acquiring.await.unwrap_or(Ok(Acquisition::Cancelled))
        })
    }

    fn observe<'a>(
        &'a self,
        name: &'a Name,
    ) -> BoxFuture<'a, Result<SemaphoreSnapshot, BackendError>> {
        Box::pin(self.look(name))
    }

    fn observe_all(&self) -> BoxFuture<'_, Result<Vec<SemaphoreSnapshot>, BackendError>> {
        Box::pin(self.look_at_all())
    }

    /// Nothing to do: what the dead had is free.
    fn cancel<'a>(
        &'a self,
        _: &'a Name,
        _: Uuid,
        _: Duration,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async { Ok(()) })
    }

    fn attach<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Lease>>, BackendError>> {
        Box::pin(async move {
            let renew = Attempt::Renew(PermitId::of(name, id));
            let attach = |semaphore: &_, locked: &MutexGuard<'_>| {
                detached::attach(semaphore, locked, name, id)
            };
            let lease = self.under_mutex(name, false, &renew, attach).await?;
            Ok(lease.flatten())
        })
    }

    fn release_detached<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
    ) -> BoxFuture<'a, Result<ReleaseOutcome, BackendError>> {
        Box::pin(async move {
            let giving_back = Attempt::GiveBack(PermitId::of(name, id));
            let give_back = |_: &_, locked: &MutexGuard<'_>| detached::give_back(locked, id, false);
            let given = self.under_mutex(name, false, &giving_back, give_back).await?;
            Ok(given.unwrap_or(ReleaseOutcome::Unknown))
        })
    }

    fn revoke<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
        how: Revocation,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        Box::pin(async move {
            let revoking = Attempt::Revoke(PermitId::of(name, id));
            let revoke = |_: &_, locked: &MutexGuard<'_>| revoke::revoke(locked, id, how);
            let revoked = self.under_mutex(name, false, &revoking, revoke).await?;
            Ok(revoked.unwrap_or(false))
        })
    }

    fn set_limit<'a>(
        &'a self,
        name: &'a Name,
        limit: Option<u32>,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(self.pin(name, limit))
    }

    fn diagnose(&self) -> BoxFuture<'_, Result<Vec<Finding>, BackendError>> {
        Box::pin(async { diagnose::diagnose(&self.config) })
    }

    fn pushes_queue_status(&self) -> bool {
        false
    }

    fn url(&self) -> String {
        directory::url(self.found.get().map_or(self.config.path(), PathBuf::as_path))
    }
}

fn names_in(base: &BaseDirectory) -> io::Result<Vec<Name>> {
    let mut names = Vec::new();
    let mut directory = rustix::fs::Dir::read_from(&base.fd)?;
    while let Some(entry) = directory.read() {
        let entry = entry?;
        let file = entry.file_name().to_str().ok();
        names.extend(file.and_then(|file| directory_names::from_file(&base.fd, file)));
    }
    names.sort_unstable();
    Ok(names)
}
