//! The client of every lease server, once: it waits in line, renews, retries, hears of revocations
//! and releases. What differs between servers is a [`Store`].

mod acquire;
mod inbox;
mod lease;
pub(crate) mod renewal;
pub(crate) mod retry;
mod wakeups;

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use self::acquire::Acquire;
pub(crate) use self::acquire::ask_again;
use self::lease::StoreLease;
use self::retry::{RETRY_FOR, with_retries};
pub use self::wakeups::{Wakeup, Wakeups};
use crate::permits::{
    AcquireRequest, Acquisition, Attempt, Backend, BackendError, BoxFuture, CancelToken, Failover,
    Finding, Lease, Loss, Name, PermitId, ProgressSender, ReleaseOutcome, Revocation,
    SemaphoreSnapshot, StoreError,
};
use crate::request::{Operation, Outcome, Reply, Request};

/// A waiter asks again at least as often, so that others see that it lives.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(5);

/// All that a lease server has to offer: one request about one semaphore at a time, and wake-ups.
/// Nothing here retries; [`LeaseClient`] does.
pub(crate) trait Store: Send + Sync + 'static {
    /// Carries out a request once. An error says nothing about whether the server did so.
    fn execute<'a>(
        &'a self,
        name: &'a Name,
        request: &'a Request,
    ) -> BoxFuture<'a, Result<Reply, StoreError>>;

    /// Sends a request whose answer the next [`Store::execute`] of the same request only waits for.
    /// Needs no runtime.
    fn prefetch(&self, _name: &Name, _request: &Request) {}

    /// Whether a request may have reached the server, so that there may be something to leave.
    fn has_reached(&self) -> bool;

    /// Puts the wake-ups of a client there: of all permits for which its requests name it as the
    /// [listener](Request::listener). Returns if no more will come.
    fn listen(&self, listener: Uuid, wakeups: Wakeups) -> BoxFuture<'static, StoreError>;

    /// Whether there is no sense in asking again after an error; `waits`: there is a place in the
    /// queue already.
    fn gives_up(&self, error: &StoreError, _waits: bool) -> bool {
        error.is_permanent()
    }

    /// How a permit was lost that the server does not know.
    fn unknown_permit(&self) -> Loss {
        Loss::unknown_to_server()
    }

    fn snapshot<'a>(
        &'a self,
        name: &'a Name,
    ) -> BoxFuture<'a, Result<SemaphoreSnapshot, StoreError>>;

    /// The snapshots of all semaphores that the store knows, in the order of their names.
    fn snapshots(&self) -> BoxFuture<'_, Result<Vec<SemaphoreSnapshot>, BackendError>>;

    fn diagnose(&self) -> BoxFuture<'_, Result<Vec<Finding>, StoreError>>;

    fn failover_time(&self) -> BoxFuture<'_, Failover> {
        Box::pin(std::future::ready(Failover::Never))
    }

    /// Where the permits live, as a URL without secrets.
    fn url(&self) -> &str;
}

/// A store as one client uses it.
pub(crate) struct StoreHandle<S> {
    store: S,
    /// The client, to those that wake it up.
    listener: Uuid,
    wakeups: Wakeups,
}

/// The client of a store.
pub(crate) struct LeaseClient<S> {
    handle: Arc<StoreHandle<S>>,
}

impl<S: Store> LeaseClient<S> {
    pub(crate) fn new(store: S) -> Self {
        let (listener, wakeups) = (Uuid::new_v4(), Wakeups::default());
        Self { handle: Arc::new(StoreHandle { store, listener, wakeups }) }
    }

    pub(crate) fn store(&self) -> &S {
        &self.handle.store
    }

    #[cfg(test)]
    pub(crate) fn listener(&self) -> Uuid {
        self.handle.listener
    }

    fn error(&self, attempt: Attempt, error: StoreError) -> BackendError {
        error.while_doing(self.store().url(), attempt)
    }

    /// Repeats a request until there is an answer, as long as that makes sense; also returns the
    /// number of attempts.
    async fn repeat(
        &self,
        name: &Name,
        request: &Request,
        patience: Duration,
    ) -> Result<(Reply, u32), StoreError> {
        let mut attempts = 0;
        let reply = with_retries(patience, || {
            attempts += 1;
            self.store().execute(name, request)
        })
        .await?;
        Ok((reply, attempts))
    }
}

impl<S: Store> Backend for LeaseClient<S> {
    fn prefetch(&self, request: &AcquireRequest) -> bool {
        let progress = ProgressSender::unheard();
        let asked = Acquire::new(&self.handle, request, &progress).request();
        self.store().prefetch(&request.name, &asked);
        self.store().has_reached()
    }

    fn acquire<'a>(
        &'a self,
        request: &'a AcquireRequest,
        progress: &'a ProgressSender,
        mut cancel: CancelToken,
    ) -> BoxFuture<'a, Result<Acquisition, BackendError>> {
        Box::pin(async move {
            let mut acquire = Acquire::new(&self.handle, request, progress);
            let done = tokio::select! {
                biased;
                done = acquire.run() => Some(done),
                () = cancel.cancelled() => None,
            };
            match done {
                Some(Ok(acquired)) => Ok(acquired),
                Some(Err(error)) => {
                    let _ = acquire.leave().await;
                    Err(error)
                }
                None => {
                    acquire.call_off().await;
                    Ok(Acquisition::Cancelled)
                }
            }
        })
    }

    fn observe<'a>(
        &'a self,
        name: &'a Name,
    ) -> BoxFuture<'a, Result<SemaphoreSnapshot, BackendError>> {
        Box::pin(async move {
            let looked = with_retries(RETRY_FOR, || self.store().snapshot(name)).await;
            looked.map_err(|error| self.error(Attempt::Look(name.clone()), error))
        })
    }

    fn observe_all(&self) -> BoxFuture<'_, Result<Vec<SemaphoreSnapshot>, BackendError>> {
        self.store().snapshots()
    }

    fn cancel<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
        patience: Duration,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move {
            let request = Request::of(Operation::Release, id);
            let released = self.repeat(name, &request, patience).await;
            let attempt = Attempt::Withdraw(name.clone());
            released.map(drop).map_err(|error| self.error(attempt, error))
        })
    }

    fn attach<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Lease>>, BackendError>> {
        Box::pin(async move {
            let listener = self.handle.listener;
            let request = Request { listener, ..Request::of(Operation::Attach, id) };
            let attached = self.repeat(name, &request, RETRY_FOR).await;
            let attempt = Attempt::Renew(PermitId::of(name, id));
            let (reply, _) = attached.map_err(|error| self.error(attempt, error))?;
            let Some(record) = reply.record.as_ref().filter(|_| reply.outcome == Outcome::Holding)
            else {
                return Ok(None);
            };
            let client = Arc::new(record.who.clone());
            let lease = StoreLease::start(Arc::clone(&self.handle), name, id, client, None, &reply);
            Ok(Some(Box::new(lease) as Box<dyn Lease>))
        })
    }

    fn release_detached<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
    ) -> BoxFuture<'a, Result<ReleaseOutcome, BackendError>> {
        Box::pin(async move {
            let request = Request::of(Operation::ReleaseDetached, id);
            let released = self.repeat(name, &request, RETRY_FOR).await;
            let attempt = Attempt::GiveBack(PermitId::of(name, id));
            let (reply, _) = released.map_err(|error| self.error(attempt, error))?;
            Ok(match reply.outcome {
                Outcome::Released => ReleaseOutcome::Now,
                Outcome::Done => ReleaseOutcome::Before,
                _ => ReleaseOutcome::Unknown,
            })
        })
    }

    fn revoke<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
        how: Revocation,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        Box::pin(async move {
            let request = Request::of(Operation::Revoke(how), id);
            let revoked = self.repeat(name, &request, RETRY_FOR).await;
            let attempt = Attempt::Revoke(PermitId::of(name, id));
            let (reply, attempts) = revoked.map_err(|error| self.error(attempt, error))?;
            Ok(match reply.outcome {
                Outcome::Revoked => true,
                // By an attempt of ours that lost its answer, or by another client before.
                Outcome::Done => attempts > 1,
                _ => false,
            })
        })
    }

    fn set_limit<'a>(
        &'a self,
        name: &'a Name,
        limit: Option<u32>,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move {
            let operation = if limit.is_some() { Operation::Pin } else { Operation::Unpin };
            let mut request = Request::of(operation, Uuid::nil());
            request.terms.limit = limit.unwrap_or(1);
            let set = self.repeat(name, &request, RETRY_FOR).await;
            let attempt = Attempt::SetLimit(name.clone());
            set.map(drop).map_err(|error| self.error(attempt, error))
        })
    }

    fn diagnose(&self) -> BoxFuture<'_, Result<Vec<Finding>, BackendError>> {
        Box::pin(async move {
            let found = with_retries(RETRY_FOR, || self.store().diagnose()).await;
            found.map_err(|error| self.error(Attempt::Examine, error))
        })
    }

    fn failover_time(&self) -> BoxFuture<'_, Failover> {
        self.store().failover_time()
    }

    fn pushes_queue_status(&self) -> bool {
        true
    }

    fn url(&self) -> String {
        self.store().url().into()
    }
}
