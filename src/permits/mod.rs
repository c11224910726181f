//! The vocabulary of permits: names, terms, holders, losses and errors as facts, and what hands them
//! out. The traits [`Backend`] and [`Lease`] are the contract in words, `src/contract.rs` is the same
//! as tests.

pub(crate) mod error;
pub(crate) mod finding;
pub(crate) mod json;
mod permit;
mod progress;
pub(crate) mod sanitize;
pub(crate) mod snapshot;
mod terms;
pub(crate) mod tls_error;

use std::future::Future;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

pub(crate) use self::error::{Attempt, BackendError, FailureClass, StoreError};
pub(crate) use self::finding::{Finding, Grade};
#[cfg(feature = "cli")]
pub(crate) use self::permit::BadName;
pub(crate) use self::permit::{Loss, LossReason, LossStage, Name, PermitId, Validity};
#[cfg(any(test, feature = "contract"))]
pub(crate) use self::progress::Canceller;
pub(crate) use self::progress::{CancelToken, Progress, ProgressSender};
pub use self::snapshot::{ClientInfo, HolderState, Record};
pub(crate) use self::snapshot::{Holder, QueueStatus, SemaphoreSnapshot, Waiter, Withheld};
pub use self::terms::Terms;

/// A future that any thread may poll.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Hands out permits of named counting semaphores.
pub(crate) trait Backend: Send + Sync {
    /// Lets the server work while semrun does something else: it may send now, without waiting, the
    /// first request that [`Backend::acquire`] makes for the same ask. Returns whether it did; then
    /// the ask has to be acquired, or withdrawn.
    fn prefetch(&self, _ask: &AcquireRequest) -> bool {
        false
    }

    /// Waits in turn for a permit: first come, first served. Never more than the semaphore's
    /// limit are held at once. Busy (see [`AcquireRequest::nonblock`]) and cancelled are values, not errors.
    ///
    /// `cancel` leaves the queue before it returns, within a second. A permit that was granted
    /// is returned or given back if `cancel` came at the same moment. What an error leaves behind
    /// expires by itself.
    fn acquire<'a>(
        &'a self,
        request: &'a AcquireRequest,
        turn: &'a ProgressSender,
        cancel: CancelToken,
    ) -> BoxFuture<'a, Result<Acquisition, BackendError>>;

    /// The holders and the waiters. An idle name is an empty snapshot, and asking creates nothing.
    fn observe<'a>(
        &'a self,
        name: &'a Name,
    ) -> BoxFuture<'a, Result<SemaphoreSnapshot, BackendError>>;

    /// The same of all semaphores that this backend knows, in the order of their names; not at one
    /// moment, but one after the other.
    fn observe_all(&self) -> BoxFuture<'_, Result<Vec<SemaphoreSnapshot>, BackendError>>;

    /// Gives back the permit or the place in the queue of this identity, for a client that died
    /// without doing so. `patience` bounds how long it retries.
    fn cancel<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
        patience: Duration,
    ) -> BoxFuture<'a, Result<(), BackendError>>;

    /// Attaches to a permit that outlives the process that acquired it ([`ClientInfo::detached`]): renews
    /// it at once, and for as long as [`Lease::lost`] runs. Dropping the lease leaves the permit as
    /// it is. None: it is not held, is not such a permit, or has been revoked.
    fn attach<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Lease>>, BackendError>>;

    /// Gives back such a permit; the next waiter is told at once.
    fn release_detached<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
    ) -> BoxFuture<'a, Result<ReleaseOutcome, BackendError>>;

    /// Revokes a permit of whatever kind. False: it is not held.
    fn revoke<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
        how: Revocation,
    ) -> BoxFuture<'a, Result<bool, BackendError>>;

    /// Which limit is in force, as in [`Backend::observe`]. An error where limits are not known.
    fn limit<'a>(
        &'a self,
        name: &'a Name,
    ) -> BoxFuture<'a, Result<SemaphoreSnapshot, BackendError>> {
        self.observe(name)
    }

    /// Pins the limit of a semaphore, whatever its users ask for; with None it is theirs again.
    /// Waiters are told at once of permits that are free now; no holder is stopped.
    fn set_limit<'a>(
        &'a self,
        name: &'a Name,
        limit: Option<u32>,
    ) -> BoxFuture<'a, Result<(), BackendError>>;

    /// Examines the place where the permits live, and what endangers them. If it cannot be used at
    /// all, that is an error.
    fn diagnose(&self) -> BoxFuture<'_, Result<Vec<Finding>, BackendError>>;

    /// How long it takes until another server replaces one that does not answer.
    fn failover_time(&self) -> BoxFuture<'_, Failover> {
        Box::pin(std::future::ready(Failover::Never))
    }

    /// Whether a waiter hears regularly how things stand, so that looking adds nothing.
    fn pushes_queue_status(&self) -> bool;

    /// Where the permits live, as a URL that may be shown: without secrets.
    fn url(&self) -> String;
}

/// A permit that is held. Dropping it without a release is what a crash does.
pub(crate) trait Lease: Send {
    fn permit(&self) -> &PermitId;

    /// Until when the permit is certainly ours; moves with each renewal. None: it cannot expire.
    fn validity(&self) -> Option<watch::Receiver<Validity>>;

    /// Renews the permit as long as it is polled, and is ready once the permit is known to be lost.
    /// [`Lease::validity`] shows whether renewals fail. After [`LossStage::Revoking`] it may be called
    /// again, and is ready once the permit is revoked at once after all. Cancel-safe.
    fn lost(&mut self) -> BoxFuture<'_, Loss>;

    /// A descriptor that the command's whole tree must inherit: the permit is taken as long as
    /// any process keeps it open.
    fn inherited_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Gives the permit back; the next waiter is told at once. `patience` bounds how long it
    /// retries.
    fn release(self: Box<Self>, patience: Duration)
    -> BoxFuture<'static, Result<(), BackendError>>;

    /// The same of a permit that was never used: nothing keeps it then.
    fn discard(
        self: Box<Self>,
        patience: Duration,
    ) -> BoxFuture<'static, Result<(), BackendError>> {
        self.release(patience)
    }
}

/// What came of giving back a permit that no process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReleaseOutcome {
    Now,
    /// It had been given back before, as far as the backend remembers.
    Before,
    /// It expired or was revoked, or never was.
    Unknown,
}

/// How to revoke a permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Revocation {
    /// It cannot be renewed any more; its holder is told, stops its command and gives it back, or its
    /// lease ends. One whose holder has gone already ([`HolderState::MinHold`]) ends at once. A foreign
    /// one is left as it is: its holder cannot be told.
    #[serde(rename = "gently")]
    Graceful,
    /// It is free at once, and its holder is told as soon as that is possible.
    #[serde(rename = "now")]
    Forced,
}

/// Whether a server is replaced when it fails, and after what time clients can go on with another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failover {
    Never,
    Unknown,
    After(Duration),
}

/// A request for a permit.
#[derive(Debug, Clone)]
pub(crate) struct AcquireRequest {
    pub(crate) name: Name,
    /// The permit's identity, chosen by the client.
    pub(crate) id: Uuid,
    /// See [`Progress::Limit`] and [`Progress::Ttl`].
    pub(crate) terms: Terms,
    /// Do not wait: if no permit is free at once, return [`Acquisition::Busy`] and leave no trace. If
    /// a permit is free but is not granted yet, that is an error.
    pub(crate) nonblock: bool,
    pub(crate) who: ClientInfo,
}

impl AcquireRequest {
    /// A request for a permit that was never asked for, of a client that waits.
    pub(crate) fn of(name: Name, terms: Terms, who: ClientInfo) -> Self {
        Self { name, id: Uuid::new_v4(), terms, nonblock: false, who }
    }

    /// The same with other terms.
    #[cfg(any(test, feature = "contract"))]
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Terms)) -> Self {
        change(&mut self.terms);
        self
    }
}

/// The answer to an [`AcquireRequest`].
pub(crate) enum Acquisition {
    Granted(Box<dyn Lease>),
    Busy,
    Cancelled,
}
