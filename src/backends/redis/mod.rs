//! Permits in Redis, in the very sorted set that PassBuddy keeps, with a queue, fencing tokens and
//! holder details beside it. Everything is decided by one script on the server's clock;
//! `docs/redis.md` has the keys and the reasons.

mod acquire;
mod client;
pub(crate) mod config;
mod connection;
mod diagnose;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod lease;
#[cfg(feature = "mutants")]
mod mutants;
mod replication;
mod resp;
mod scan;
mod script;
mod server;
mod snapshot;
#[cfg(test)]
#[path = "../../../tests/cli/redis_server.rs"]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod wakeup;

use std::rc::Rc;
use std::time::Duration;

use uuid::Uuid;

use self::acquire::{RedisAcquire, describe};
use self::client::Client;
use self::config::RedisConfig;
use self::connection::RedisDialer;
#[cfg(any(test, fuzzing))]
pub(crate) use self::fuzz::fuzz;
use self::lease::RedisLease;
use self::script::{Operation, Reply, ReplyStatus, Request, SemaphoreKeys};
use self::server::ServerHandle;
use super::retry::{ATTEMPT_TIMEOUT, RETRY_FOR, RetryBudget, with_retries, with_timeout};
use super::{
    AcquireRequest, Acquisition, Attempt, Backend, CancelToken, Error, Failover, Finding, Lease,
    LocalFuture, Name, Permit, ProgressSender, ReleaseOutcome, Revocation, Snapshot, StoreError,
};

/// How many names are looked at in one round trip. Other clients wait for that, so it has to be
/// done in a few milliseconds.
const TOGETHER: usize = 100;

/// The Redis backend.
pub(crate) struct Redis {
    server: Rc<ServerHandle>,
}

impl Redis {
    pub(crate) fn new(config: RedisConfig) -> Result<Self, Error> {
        let shown = config.url.shown();
        let dialler = RedisDialer::new(&config);
        let dialler = dialler.map_err(|error| StoreError::Tls(Box::new(error)).of(&shown))?;
        let connection = Client::new(dialler);
        Ok(Self { server: Rc::new(ServerHandle { config, shown, connection }) })
    }

    /// Repeats a call for one permit until there is an answer, as long as that makes sense; also
    /// returns the number of attempts.
    async fn repeat(
        &self,
        name: &Name,
        operation: Operation,
        id: Uuid,
    ) -> Result<(Reply, u32), StoreError> {
        let keys = SemaphoreKeys::new(&self.server.config.prefix, name);
        let call = Request::of(operation, id, &self.server.config);
        let mut attempts = 0;
        let reply = with_retries(RETRY_FOR, async || {
            attempts += 1;
            self.server.connection.call(&keys, &call).await
        })
        .await?;
        Ok((reply, attempts))
    }
}

impl Backend for Redis {
    fn prefetch(&self, request: &AcquireRequest) -> bool {
        let (progress, _notices) = ProgressSender::channel();
        RedisAcquire::new(Rc::clone(&self.server), request, &progress).prefetch();
        self.server.connection.has_reached()
    }

    fn acquire<'a>(
        &'a self,
        request: &'a AcquireRequest,
        progress: &'a ProgressSender,
        mut cancel: CancelToken,
    ) -> LocalFuture<'a, Result<Acquisition, Error>> {
        Box::pin(async move {
            let mut queueing = RedisAcquire::new(Rc::clone(&self.server), request, progress);
            let done = tokio::select! {
                biased;
                done = queueing.run() => Some(done),
                () = cancel.cancelled() => None,
            };
            match done {
                Some(Ok(acquired)) => Ok(acquired),
                Some(Err(error)) => {
                    let _ = queueing.leave().await;
                    Err(error)
                }
                None => {
                    queueing.call_off().await;
                    Ok(Acquisition::Cancelled)
                }
            }
        })
    }

    fn observe<'a>(&'a self, name: &'a Name) -> LocalFuture<'a, Result<Snapshot, Error>> {
        Box::pin(async move {
            let looked = with_retries(RETRY_FOR, async || self.server.snapshot(name).await).await;
            looked.map_err(|error| self.server.error(Attempt::Look(name.clone()), error))
        })
    }

    fn observe_all(&self) -> LocalFuture<'_, Result<Vec<Snapshot>, Error>> {
        Box::pin(async move {
            let names = self.server.names().await?;
            let mut snapshots = Vec::with_capacity(names.len());
            let mut patience = RetryBudget::new();
            for names in names.chunks(TOGETHER) {
                if let Ok(mut looked) =
                    with_timeout(ATTEMPT_TIMEOUT, self.server.snapshots(names)).await
                {
                    snapshots.append(&mut looked);
                    continue;
                }
                // One after the other shows which of them fails, and whether that passes.
                for name in names {
                    snapshots.push(self.server.snapshot_or_note(name, &mut patience).await?);
                }
            }
            // An error of all of them is one of the server, or of our rights there.
            let of_all = snapshots.iter().all(|one| one.odd.is_some() && one.holders.is_empty());
            match snapshots.first_mut().and_then(|first| first.odd.take_if(|_| of_all)) {
                Some(odd) => Err(self.server.error(Attempt::LookAtAny, odd)),
                None => Ok(snapshots),
            }
        })
    }

    fn cancel<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
        patience: Duration,
    ) -> LocalFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let keys = SemaphoreKeys::new(&self.server.config.prefix, name);
            let call = Request::of(Operation::Release, id, &self.server.config);
            let withdrawn = self.server.release(&keys, &call, patience).await;
            withdrawn.map_err(|error| self.server.error(Attempt::Withdraw(name.clone()), error))
        })
    }

    fn attach<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
    ) -> LocalFuture<'a, Result<Option<Box<dyn Lease>>, Error>> {
        Box::pin(async move {
            let attached = self.repeat(name, Operation::Attach, id).await;
            let (reply, _) = attached
                .map_err(|error| self.server.error(Attempt::Renew(Permit::of(name, id)), error))?;
            let Some(record) =
                reply.whose.as_ref().filter(|_| reply.status == ReplyStatus::Holding)
            else {
                return Ok(None);
            };
            let (server, who) = (Rc::clone(&self.server), describe(&record.who));
            let lease = RedisLease::lease(server, name, id, who, &reply);
            Ok(Some(Box::new(lease) as Box<dyn Lease>))
        })
    }

    fn release_detached<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
    ) -> LocalFuture<'a, Result<ReleaseOutcome, Error>> {
        Box::pin(async move {
            let returned = self.repeat(name, Operation::Return, id).await;
            let (reply, _) = returned.map_err(|error| {
                self.server.error(Attempt::GiveBack(Permit::of(name, id)), error)
            })?;
            Ok(match reply.status {
                ReplyStatus::Returned => ReleaseOutcome::Now,
                ReplyStatus::Done => ReleaseOutcome::Before,
                _ => ReleaseOutcome::Unknown,
            })
        })
    }

    fn revoke<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
        how: Revocation,
    ) -> LocalFuture<'a, Result<bool, Error>> {
        Box::pin(async move {
            let operation = match how {
                Revocation::Graceful => Operation::Revoke,
                Revocation::Forced => Operation::Remove,
            };
            let revoked = self.repeat(name, operation, id).await;
            let (reply, attempts) = revoked
                .map_err(|error| self.server.error(Attempt::Revoke(Permit::of(name, id)), error))?;
            Ok(match reply.status {
                ReplyStatus::Revoked => true,
                // By an attempt of ours that lost its answer, or by another client before.
                ReplyStatus::Done => attempts > 1,
                _ => false,
            })
        })
    }

    fn set_limit<'a>(
        &'a self,
        name: &'a Name,
        limit: Option<u32>,
    ) -> LocalFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let keys = SemaphoreKeys::new(&self.server.config.prefix, name);
            let config = &self.server.config;
            let limit = limit.unwrap_or(0);
            let call = Request { limit, ..Request::of(Operation::Limit, Uuid::nil(), config) };
            let set =
                with_retries(RETRY_FOR, async || self.server.connection.call(&keys, &call).await);
            set.await
                .map(drop)
                .map_err(|error| self.server.error(Attempt::SetLimit(name.clone()), error))
        })
    }

    fn diagnose(&self) -> LocalFuture<'_, Result<Vec<Finding>, Error>> {
        Box::pin(async move {
            let examined = with_retries(RETRY_FOR, async || self.server.diagnose().await).await;
            examined.map_err(|error| self.server.error(Attempt::Examine, error))
        })
    }

    fn failover_time(&self) -> LocalFuture<'_, Failover> {
        Box::pin(self.server.failover_time())
    }

    fn pushes_queue_status(&self) -> bool {
        true
    }

    fn url(&self) -> String {
        self.server.shown.clone()
    }
}

/// Whether a name or prefix can be part of a key: braces would move its keys apart in a cluster.
pub(crate) fn can_name(text: &str) -> bool {
    !text.contains(['{', '}'])
}
