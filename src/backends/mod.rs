//! What a backend owes: it hands out permits of named semaphores. The traits [`Backend`] and
//! [`Lease`] are the contract in words, `contract.rs` is the same as tests. Backends know nothing
//! of processes, exit codes or the words that people read.

mod believed;
pub(crate) mod cloud;
pub(crate) mod connect;
pub(crate) mod error;
pub(crate) mod finding;
mod leased;
pub(crate) mod ledger;
pub(crate) mod local;
mod permit;
pub(crate) mod redis;
mod renewal;
mod resolve;
mod retry;
mod seen;
pub(crate) mod tls;
mod turn;

// What every other backend is compared with.
#[cfg(test)]
mod contract;
#[cfg(test)]
mod memory;

use std::future::Future;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

pub(crate) use self::error::{Attempt, Error, ErrorKind, StoreError};
pub(crate) use self::finding::{Finding, Grade};
pub(crate) use self::permit::{BadName, Gone, Loss, Lost, Name, Permit, Tenure};
use self::seen::millis;
pub(crate) use self::seen::{Holder, Phase, Record, Snapshot, Standing, Waiter, Who, Withheld};
pub(crate) use self::turn::{Cancel, Notice, Turn};

/// A future on semrun's one thread.
pub(crate) type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Hands out permits of named counting semaphores.
pub(crate) trait Backend {
    /// Lets the server work while semrun does something else: what [`Backend::acquire`] asks first
    /// of the same ask may be sent now, without waiting for anything. Returns whether it was; then
    /// the ask has to be acquired, or withdrawn.
    fn begin(&self, _ask: &Ask) -> bool {
        false
    }

    /// Waits in turn for a permit: first come, first served. Never more than the semaphore's
    /// limit are held at once. Busy (see [`Ask::nonblock`]) and cancelled are values, not errors.
    ///
    /// `cancel` leaves the queue before it returns, within a second. A permit that was granted
    /// is returned or given back if `cancel` came at the same moment. An error leaves nothing
    /// behind that does not go by itself.
    fn acquire<'a>(
        &'a self,
        ask: &'a Ask,
        turn: &'a Turn,
        cancel: Cancel,
    ) -> Pending<'a, Result<Acquired, Error>>;

    /// Who holds and who waits. A name that nobody uses is an empty snapshot, and asking
    /// creates nothing.
    fn observe<'a>(&'a self, name: &'a Name) -> Pending<'a, Result<Snapshot, Error>>;

    /// The same of all semaphores that this backend knows, in the order of their names; not at one
    /// moment, but at one after the other.
    fn observe_all(&self) -> Pending<'_, Result<Vec<Snapshot>, Error>>;

    /// Gives back whatever somebody has under this identity, a permit or a place in the queue.
    /// For one who has died without that; `patience` bounds how long it is tried.
    fn withdraw<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
        patience: Duration,
    ) -> Pending<'a, Result<(), Error>>;

    /// Takes up a permit that outlives whoever acquired it ([`Who::detached`]): renews it at once, and
    /// as long as the lease is asked for [`Lease::lost`]. Dropping that leaves the permit as it is.
    /// None: nobody holds it, or it is not such a permit, or it has been revoked.
    fn attach<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
    ) -> Pending<'a, Result<Option<Box<dyn Lease>>, Error>>;

    /// Gives back such a permit; the next waiter is told at once.
    fn give_back<'a>(&'a self, name: &'a Name, id: Uuid) -> Pending<'a, Result<GivenBack, Error>>;

    /// Takes a permit from whoever has it, of whatever kind. False: nobody has it.
    fn revoke<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
        how: Revocation,
    ) -> Pending<'a, Result<bool, Error>>;

    /// Which limit is in force, as in [`Backend::observe`]. An error where limits are not known.
    fn limit<'a>(&'a self, name: &'a Name) -> Pending<'a, Result<Snapshot, Error>> {
        self.observe(name)
    }

    /// Pins the limit of a semaphore, whatever its users ask for; with None it is theirs again. Who
    /// waits is told at once of permits that are free now; nobody who holds one is stopped.
    fn set_limit<'a>(
        &'a self,
        name: &'a Name,
        limit: Option<u32>,
    ) -> Pending<'a, Result<(), Error>>;

    /// What there is to know of the place where the permits live, and of what endangers them. That
    /// it cannot be used at all is an error.
    fn examine(&self) -> Pending<'_, Result<Vec<Finding>, Error>>;

    /// How long it takes until another server is in the place of one that does not answer.
    fn takeover(&self) -> Pending<'_, Takeover> {
        Box::pin(std::future::ready(Takeover::Never))
    }

    /// Whether one who waits hears regularly how things stand, so that looking adds nothing.
    fn reports(&self) -> bool;

    /// Where the permits live, as a URL that may be shown: without secrets.
    fn url(&self) -> String;
}

/// A permit that is held. Dropping it without a release is what a crash does.
pub(crate) trait Lease {
    fn permit(&self) -> &Permit;

    /// Until when the permit is certainly ours; moves with each renewal. None: it cannot expire.
    fn tenure(&self) -> Option<watch::Receiver<Tenure>>;

    /// Renews the permit as long as it is polled, and is ready once the permit is known to be
    /// lost. That it cannot be renewed is not known from this but from [`Lease::tenure`]. After
    /// [`Gone::NotYet`] it may be asked again, and is ready once it is revoked at once after all.
    /// Cancel-safe.
    fn lost(&mut self) -> Pending<'_, Lost>;

    /// A descriptor that the command's whole tree must inherit: the permit is taken as long as
    /// any process keeps it open.
    fn inherit(&self) -> Option<BorrowedFd<'_>>;

    /// Gives the permit back; the next waiter is told at once. `patience` bounds how long it is
    /// tried.
    fn release(self: Box<Self>, patience: Duration) -> Pending<'static, Result<(), Error>>;
}

/// What became of giving back a permit that nobody's process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum GivenBack {
    Now,
    /// It had been given back already, as far as the backend remembers.
    Before,
    /// It has ended without that, or never was.
    Unknown,
}

/// How to take a permit from whoever has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Revocation {
    /// It cannot be renewed any more; its holder is told, stops its command and gives it back, or its
    /// lease ends. One whose holder has gone already ([`Phase::MinHold`]) ends at once. A foreign one is
    /// left as it is: nobody could tell its holder.
    Gently,
    /// It is free at once, and its holder is told as soon as that is possible.
    Now,
}

/// Whether a server is replaced when it fails, and after what time clients can go on with another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takeover {
    Never,
    Unknown,
    After(Duration),
}

/// What is asked of a backend.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) name: Name,
    /// The permit's identity, chosen by the one who asks.
    pub(crate) id: Uuid,
    /// Permits in all. While a semaphore is in use its own limit stands; see [`Notice::Limit`].
    pub(crate) limit: u32,
    /// The lease, where permits can expire. It stands as the limit does; see [`Notice::Ttl`].
    pub(crate) ttl: Duration,
    /// Another limit or lease that stands is an error.
    pub(crate) strict: bool,
    /// For how long from its grant the permit stays taken, even if it is given back, or its holder
    /// dies, before that.
    pub(crate) min_hold: Duration,
    /// Do not wait: if no permit is free at once, return [`Acquired::Busy`] and leave no trace. That
    /// nobody is granted one yet, although it is free, is an error.
    pub(crate) nonblock: bool,
    pub(crate) who: Who,
}

/// The answer to an [`Ask`].
pub(crate) enum Acquired {
    Granted(Box<dyn Lease>),
    Busy,
    Cancelled,
}
