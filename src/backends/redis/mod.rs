//! Permits in Redis, in the very sorted set that PassBuddy keeps, with a queue, fencing tokens and
//! holder details beside it. Everything is decided by one script on the server's clock;
//! `docs/redis.md` has the keys and the reasons.

mod client;
pub(crate) mod config;
mod connection;
mod diagnose;
#[cfg(any(test, fuzzing))]
mod fuzz;
#[cfg(feature = "mutants")]
mod mutants;
mod pipeline;
mod resp;
mod scan;
mod script;
mod server_handle;
mod snapshot;
#[cfg(test)]
mod tests;
mod wakeup;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use redis::Cmd;
use uuid::Uuid;

use self::client::RedisClient;
use self::config::RedisConfig;
use self::connection::RedisDialer;
#[cfg(any(test, fuzzing))]
pub(crate) use self::fuzz::fuzz;
use self::script::SemaphoreKeys;
use self::server_handle::ServerHandle;
use super::{
    Attempt, BackendError, BoxFuture, Failover, Finding, Name, SemaphoreSnapshot, StoreError,
};
use crate::engine::retry::{ATTEMPT_TIMEOUT, RetryBudget, with_timeout};
use crate::engine::{Store, Wakeups, ask_again};
use crate::request::{Operation, Outcome, Reply, Request};

/// How many names are looked at in one round trip. Other clients wait for that, so it has to be
/// done in a few milliseconds.
const TOGETHER: usize = 100;

/// Permits in a Redis.
pub(crate) struct RedisStore {
    server: Arc<ServerHandle>,
    /// Whether the server has been seen to evict no keys.
    checked: AtomicBool,
}

impl RedisStore {
    pub(crate) fn new(config: RedisConfig) -> Result<Self, BackendError> {
        let shown = config.url.shown();
        let dialler = RedisDialer::new(&config);
        let dialler = dialler.map_err(|error| StoreError::Tls(Box::new(error)).of(&shown))?;
        let connection = RedisClient::new(dialler);
        let server = Arc::new(ServerHandle { config, shown, connection });
        Ok(Self { server, checked: AtomicBool::new(false) })
    }

    fn keys(&self, name: &Name) -> SemaphoreKeys {
        SemaphoreKeys::new(&self.server.config.prefix, name)
    }

    /// A request as this client makes it.
    fn configured(&self, request: &Request) -> Request {
        let RedisConfig { quarantine, replicas, .. } = self.server.config;
        let quarantine = request.quarantine.or(quarantine);
        let replicas = request.replicas.max(replicas);
        Request { replicas, quarantine, ..request.clone() }
    }

    /// What has to be asked before a permit is used.
    fn condition(&self, request: &Request) -> Option<Cmd> {
        let unknown = request.operation == Operation::Acquire && !self.checked.load(Relaxed);
        self.server.condition().filter(|_| unknown)
    }
}

impl Store for RedisStore {
    fn execute<'a>(
        &'a self,
        name: &'a Name,
        request: &'a Request,
    ) -> BoxFuture<'a, Result<Reply, StoreError>> {
        Box::pin(async move {
            let (keys, call) = (self.keys(name), self.configured(request));
            let condition = self.condition(request);
            let called = self.server.connection.call_beside(&keys, &call, condition.as_ref());
            let (mut reply, condition) = called.await?;
            if let Some(info) = condition {
                ServerHandle::check_eviction(info)?;
                self.checked.store(true, Relaxed);
            }
            if reply.outcome == Outcome::Waiting {
                reply.next = Some(ask_again(&reply));
            }
            Ok(reply)
        })
    }

    fn prefetch(&self, name: &Name, request: &Request) {
        let condition = self.condition(request);
        let call = self.configured(request);
        self.server.connection.begin_call(&self.keys(name), &call, condition.as_ref());
    }

    fn has_reached(&self) -> bool {
        self.server.connection.has_reached()
    }

    fn listen(&self, listener: Uuid, wakeups: Wakeups) -> BoxFuture<'static, StoreError> {
        let list = script::wake_list(&self.server.config.prefix, listener);
        Box::pin(wakeup::listen(Arc::clone(&self.server), list, wakeups))
    }

    fn snapshot<'a>(
        &'a self,
        name: &'a Name,
    ) -> BoxFuture<'a, Result<SemaphoreSnapshot, StoreError>> {
        Box::pin(self.server.snapshot(name))
    }

    fn snapshots(&self) -> BoxFuture<'_, Result<Vec<SemaphoreSnapshot>, BackendError>> {
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

    fn diagnose(&self) -> BoxFuture<'_, Result<Vec<Finding>, StoreError>> {
        Box::pin(self.server.diagnose())
    }

    fn failover_time(&self) -> BoxFuture<'_, Failover> {
        Box::pin(self.server.failover_time())
    }

    fn url(&self) -> &str {
        &self.server.shown
    }
}

/// Whether a name or prefix can be part of a key: braces would move its keys apart in a cluster.
pub(crate) fn can_name(text: &str) -> bool {
    !text.contains(['{', '}'])
}
