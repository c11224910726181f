//! Stores of other programs: whatever can carry out one request about one semaphore at a time can
//! hand out permits, with all that [`Semaphore`](crate::Semaphore) does beside that.
//!
//! The feature `contract` has the behaviours that are owed, as tests, in the module of that name.
//! `examples/file_store.rs` is a store over one plain file, held against them.

use std::io;
use std::time::Duration;

use uuid::Uuid;

use crate::clock;
use crate::engine::{Store, ask_again};
pub use crate::engine::{Wakeup, Wakeups};
pub use crate::permits::Terms;
use crate::permits::{
    Attempt, BackendError, Finding, Holder, Name, SemaphoreSnapshot, StoreError, Waiter,
};
pub use crate::permits::{BoxFuture, ClientInfo, HolderState, Record, Revocation};
pub use crate::request::{Operation, Outcome, Reply, Request};

/// A place where permits live. Its clock decides when a lease ends.
///
/// Nothing here retries, waits in line or renews: the library does, for every store in the same way.
pub trait CustomStore: Send + Sync + 'static {
    /// Carries out a request once. Repeating it changes nothing, because the permit's id makes it the
    /// same one. An error says nothing about whether it was carried out, and it may be retried.
    ///
    /// # Errors
    ///
    /// If the store cannot be used now.
    fn execute<'a>(
        &'a self,
        name: &'a str,
        request: &'a Request,
    ) -> BoxFuture<'a, io::Result<Reply>>;

    /// Tells a client what happens to the permits for which its requests name it as the
    /// [listener](Request::listener), for as long as this is polled. Without this waiters ask every
    /// 5 s, or twice within a TTL if that is shorter, and holders hear of a revocation when they renew.
    fn listen(&self, _listener: Uuid, _wakeups: Wakeups) -> BoxFuture<'static, io::Error> {
        Box::pin(std::future::pending())
    }

    /// The semaphore of this name, or all that are known in the order of their names.
    ///
    /// # Errors
    ///
    /// If the store cannot be used now.
    fn standings<'a>(&'a self, name: Option<&'a str>) -> BoxFuture<'a, io::Result<Vec<Standing>>>;

    /// Where the permits live, for messages, without secrets.
    fn url(&self) -> &str;
}

/// How a semaphore stands at one moment.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Its name.
    pub name: String,
    /// The limit in force, if it is in use or its limit is pinned.
    pub limit: Option<u32>,
    /// Whether that limit is pinned.
    pub pinned: bool,
    /// The TTL in force, if it is in use.
    pub ttl: Option<Duration>,
    /// In the order of their grants.
    pub holders: Vec<HolderStanding>,
    /// In the order of the queue.
    pub waiters: Vec<Record>,
}

/// A holder at one moment.
#[derive(Debug, Clone)]
pub struct HolderStanding {
    /// Its fencing token.
    pub token: u64,
    /// Who it is.
    pub record: Record,
    /// How it holds the permit.
    pub state: HolderState,
    /// What is left of its lease, or of the time for which the permit stays taken.
    pub left: Duration,
}

impl Standing {
    fn snapshot(self, name: &Name) -> SemaphoreSnapshot {
        let holders = self.holders.into_iter().map(|holder| Holder::Known {
            token: Some(holder.token),
            record: Some(holder.record),
            phase: holder.state,
            left: Some(holder.left),
        });
        SemaphoreSnapshot {
            known: true,
            limit: self.limit,
            pinned: self.pinned,
            ttl: self.ttl,
            holders: holders.collect(),
            waiters: self.waiters.into_iter().map(|one| Waiter::known(Some(one))).collect(),
            ..SemaphoreSnapshot::unused(name)
        }
    }
}

/// A store of another program, as the engine sees it.
pub(crate) struct AdaptedStore<S>(pub(crate) S);

/// What the store says is the best description there is.
fn broken(error: &io::Error) -> StoreError {
    StoreError::Broken(error.to_string())
}

impl<S: CustomStore> Store for AdaptedStore<S> {
    fn execute<'a>(
        &'a self,
        name: &'a Name,
        request: &'a Request,
    ) -> BoxFuture<'a, Result<Reply, StoreError>> {
        Box::pin(async move {
            let since = clock::now();
            let executed = self.0.execute(name.as_str(), request).await;
            let mut reply = executed.map_err(|error| broken(&error))?;
            reply.since = since;
            if reply.outcome == Outcome::Waiting {
                reply.next = Some(ask_again(&reply));
            }
            Ok(reply)
        })
    }

    fn has_reached(&self) -> bool {
        true
    }

    fn listen(&self, listener: Uuid, wakeups: Wakeups) -> BoxFuture<'static, StoreError> {
        let listening = self.0.listen(listener, wakeups);
        Box::pin(async move { broken(&listening.await) })
    }

    fn snapshot<'a>(
        &'a self,
        name: &'a Name,
    ) -> BoxFuture<'a, Result<SemaphoreSnapshot, StoreError>> {
        Box::pin(async move {
            let looked = self.0.standings(Some(name.as_str())).await;
            let looked = looked.map_err(|error| broken(&error))?.into_iter().next();
            let unused = || SemaphoreSnapshot::unused(name);
            Ok(looked.map_or_else(unused, |standing| standing.snapshot(name)))
        })
    }

    fn snapshots(&self) -> BoxFuture<'_, Result<Vec<SemaphoreSnapshot>, BackendError>> {
        Box::pin(async move {
            let looked = self.0.standings(None).await;
            let looked = looked
                .map_err(|error| broken(&error).while_doing(self.0.url(), Attempt::LookAtAny))?;
            let named = looked.into_iter().filter_map(|standing| {
                let name = standing.name.parse().ok()?;
                Some(standing.snapshot(&name))
            });
            Ok(named.collect())
        })
    }

    fn diagnose(&self) -> BoxFuture<'_, Result<Vec<Finding>, StoreError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn url(&self) -> &str {
        self.0.url()
    }
}
