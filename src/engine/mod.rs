//! The client of every lease server, once: it waits in line, renews, retries, hears of revocations
//! and releases. What differs between servers is a [`Store`].

mod acquire;
mod lease;
pub(crate) mod renewal;
pub(crate) mod retry;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use uuid::Uuid;

use self::acquire::Acquire;
pub(crate) use self::acquire::ask_again;
use self::lease::StoreLease;
use self::retry::{RETRY_FOR, with_retries};
use crate::backends::{
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

    /// Sends the wake-ups of one permit, until it is dropped. Returns if no more will come.
    fn listen(
        &self,
        name: &Name,
        id: Uuid,
        role: ListenAs,
        wakeups: mpsc::UnboundedSender<Wakeup>,
    ) -> BoxFuture<'static, StoreError>;

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

/// As what a client listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListenAs {
    Waiter,
    /// `granted_by`: the server that granted the permit a moment ago, where servers tell themselves
    /// apart.
    Holder {
        granted_by: Option<Uuid>,
    },
}

/// What a server tells a client of its own accord.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wakeup {
    /// There is a reason to ask.
    Ask,
    /// The permit was revoked; `fresh`: a moment ago.
    Revoked { how: Revocation, fresh: bool },
    /// Another client released the permit.
    Released,
    /// Wake-ups may have been missed.
    Missed,
    /// The server lets no client listen; waiters ask at each heartbeat.
    Deaf,
}

/// Wake-ups of one permit, which come as long as this lives.
struct Listening {
    wakeups: mpsc::UnboundedReceiver<Wakeup>,
    task: JoinHandle<StoreError>,
}

impl Listening {
    fn start(store: &impl Store, name: &Name, id: Uuid, role: ListenAs) -> Self {
        let (sender, wakeups) = mpsc::unbounded_channel();
        Self { wakeups, task: tokio::spawn(store.listen(name, id, role, sender)) }
    }

    /// The error: no more will come. Cancel-safe.
    async fn next(&mut self) -> Result<Wakeup, StoreError> {
        if let Some(wakeup) = self.wakeups.recv().await {
            return Ok(wakeup);
        }
        (&mut self.task).await.map_err(|_| StoreError::Silent).and_then(Err)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The client of a store.
pub(crate) struct LeaseClient<S> {
    store: Arc<S>,
}

impl<S: Store> LeaseClient<S> {
    pub(crate) fn new(store: S) -> Self {
        Self { store: Arc::new(store) }
    }

    pub(crate) fn store(&self) -> &S {
        &self.store
    }

    fn error(&self, attempt: Attempt, error: StoreError) -> BackendError {
        error.while_doing(self.store.url(), attempt)
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
            self.store.execute(name, request)
        })
        .await?;
        Ok((reply, attempts))
    }
}

impl<S: Store> Backend for LeaseClient<S> {
    fn prefetch(&self, request: &AcquireRequest) -> bool {
        let (progress, _notices) = ProgressSender::channel();
        self.store
            .prefetch(&request.name, &Acquire::new(&self.store, request, &progress).request());
        self.store.has_reached()
    }

    fn acquire<'a>(
        &'a self,
        request: &'a AcquireRequest,
        progress: &'a ProgressSender,
        mut cancel: CancelToken,
    ) -> BoxFuture<'a, Result<Acquisition, BackendError>> {
        Box::pin(async move {
            let mut acquire = Acquire::new(&self.store, request, progress);
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
            let looked = with_retries(RETRY_FOR, || self.store.snapshot(name)).await;
            looked.map_err(|error| self.error(Attempt::Look(name.clone()), error))
        })
    }

    fn observe_all(&self) -> BoxFuture<'_, Result<Vec<SemaphoreSnapshot>, BackendError>> {
        self.store.snapshots()
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
            let request = Request::of(Operation::Attach, id);
            let attached = self.repeat(name, &request, RETRY_FOR).await;
            let attempt = Attempt::Renew(PermitId::of(name, id));
            let (reply, _) = attached.map_err(|error| self.error(attempt, error))?;
            let Some(record) = reply.record.as_ref().filter(|_| reply.outcome == Outcome::Holding)
            else {
                return Ok(None);
            };
            let client = Arc::new(record.who.clone());
            let lease = StoreLease::start(Arc::clone(&self.store), name, id, client, &reply);
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
            let request = match limit {
                Some(limit) => Request { limit, ..Request::of(Operation::Pin, Uuid::nil()) },
                None => Request::of(Operation::Unpin, Uuid::nil()),
            };
            let set = self.repeat(name, &request, RETRY_FOR).await;
            let attempt = Attempt::SetLimit(name.clone());
            set.map(drop).map_err(|error| self.error(attempt, error))
        })
    }

    fn diagnose(&self) -> BoxFuture<'_, Result<Vec<Finding>, BackendError>> {
        Box::pin(async move {
            let found = with_retries(RETRY_FOR, || self.store.diagnose()).await;
            found.map_err(|error| self.error(Attempt::Examine, error))
        })
    }

    fn failover_time(&self) -> BoxFuture<'_, Failover> {
        self.store.failover_time()
    }

    fn pushes_queue_status(&self) -> bool {
        true
    }

    fn url(&self) -> String {
        self.store.url().into()
    }
}
