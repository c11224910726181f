//! Permits in a cloud-semaphore server, of the original kind or our own. The answer to the first
//! request shows which; `docs/serve.md` explains the difference.

mod admin;
pub(crate) mod config;
mod diagnose;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod http;
mod lenient;
mod original_server;
pub(crate) mod protocol;
mod semrun_server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::http::request;
use uuid::Uuid;

use self::config::CloudConfig;
#[cfg(any(test, fuzzing))]
pub(crate) use self::fuzz::fuzz;
use self::http::{HttpConnection, HttpDialer, unexpected};
use self::original_server::acquire::NodeAcquire;
use self::original_server::lease::ObserveAnswer;
use self::protocol::{ABOUT, LIST, NamedSemaphore, SemaphorePage, ServerInfo};
use self::semrun_server::remote_store::ServeStore;
use super::error::{MissingFeature, StoreError};
use super::take_cell::TakeCell;
use super::{
    AcquireRequest, Acquisition, Attempt, Backend, BackendError, BoxFuture, CancelToken, Finding,
    Lease, Name, ProgressSender, ReleaseOutcome, Revocation, SemaphoreSnapshot, sanitize,
};
use crate::engine::retry::{RETRY_FOR, RetryBudget, with_retries};
use crate::engine::{LeaseClient, Store};
use crate::request::{Operation, Request};

const OBSERVE: &str = "/semaphore/observe";
const SIGNAL: &str = "/semaphore/signal";

/// How long leaving the queue may take.
const LEAVING: Duration = Duration::from_millis(900);

/// The cloud-semaphore backend.
pub(crate) struct Cloud {
    server: Arc<CloudServer>,
    /// For a `semrun serve`; it notices a server of the original kind.
    leases: LeaseClient<ServeStore>,
}

struct CloudServer {
    dialler: HttpDialer,
    shown: String,
    /// An idle connection, for requests that are answered at once.
    idle: TakeCell<HttpConnection>,
    /// Whether the server has been seen to be of the original kind.
    original: AtomicBool,
}

impl Cloud {
    pub(crate) fn new(config: CloudConfig) -> Result<Self, BackendError> {
        let shown = config.url.shown();
        let dialler = HttpDialer::new(config);
        let dialler = dialler.map_err(|error| StoreError::Tls(Box::new(error)).of(&shown))?;
        let (idle, original) = (TakeCell::empty(), AtomicBool::new(false));
        let server = Arc::new(CloudServer { dialler, shown, idle, original });
        let leases = LeaseClient::new(ServeStore::new(Arc::clone(&server)));
        Ok(Self { server, leases })
    }
}

impl CloudServer {
    /// Sends a request that may be repeated, and reads the whole answer.
    async fn exchange(&self, request: request::Builder) -> Result<(StatusCode, Bytes), StoreError> {
        let (status, _, body) = self.exchange_with(request, Bytes::new()).await?;
        Ok((status, body))
    }

    /// The same with a body, and whether the server is one of ours.
    async fn exchange_with(
        &self,
        request: request::Builder,
        body: Bytes,
    ) -> Result<(StatusCode, bool, Bytes), StoreError> {
        let mut link = self.link().await?;
        let answer = link.send_with(request, body).await?;
        let (status, ours) = (answer.status, answer.ours);
        let body = link.read(answer).await?;
        if !ours {
            self.tell_apart(&mut link).await?;
        }
        self.idle.put(link);
        Ok((status, ours, body))
    }

    /// The idle connection, or a new one: it may have been closed for being idle.
    async fn link(&self) -> Result<HttpConnection, StoreError> {
        let idle = match self.idle.take() {
            Some(link) => link.if_idle().await,
            None => None,
        };
        match idle {
            Some(link) => Ok(link),
            None => self.dialler.dial().await,
        }
    }

    /// A server that does not say that it is one of ours is of the original kind, or an older one of
    /// ours: that one knows a path that the original does not. Asked once.
    async fn tell_apart(&self, link: &mut HttpConnection) -> Result<(), StoreError> {
        if self.original.load(Relaxed) {
            return Ok(());
        }
        let answer = link.send(self.dialler.request(ABOUT, "")).await?;
        let status = answer.status;
        let body = link.read(answer).await?;
        if status == StatusCode::OK
            && let Ok(ServerInfo { version, .. }) = serde_json::from_slice(&body)
        {
            return Err(StoreError::OlderServer(version));
        }
        self.original.store(true, Relaxed);
        Ok(())
    }

    /// The result of a request.
    fn done<T>(
        &self,
        done: Result<T, StoreError>,
        attempt: impl FnOnce() -> Attempt,
    ) -> Result<T, BackendError> {
        done.map_err(|error| error.while_doing(&self.shown, attempt()))
    }

    async fn look(&self, name: &Name) -> Result<SemaphoreSnapshot, StoreError> {
        let (_, snapshot) = self.look_at(name).await?;
        Ok(snapshot)
    }

    /// The same, and whether the server is one of ours.
    async fn look_at(&self, name: &Name) -> Result<(bool, SemaphoreSnapshot), StoreError> {
        let (status, ours, body) =
            self.exchange_with(self.dialler.request(OBSERVE, name.as_str()), Bytes::new()).await?;
        if status != StatusCode::OK {
            return Err(unexpected(status, OBSERVE));
        }
        if !ours {
            return Ok((false, ObserveAnswer::parse(&body)?.snapshot(name)));
        }
        Ok((true, known(lenient::look(&body))?.snapshot(name)))
    }

    /// Some semaphores, from the first after a name on.
    async fn page(&self, behind: &str) -> Result<SemaphorePage, StoreError> {
        let (status, ours, body) =
            self.exchange_with(self.dialler.request(LIST, behind), Bytes::new()).await?;
        if !ours {
            return Err(StoreError::Original(MissingFeature::Names));
        }
        if status != StatusCode::OK {
            return Err(unexpected(status, LIST));
        }
        known(lenient::page(&body))
    }

    /// All semaphores, in the order of their names.
    async fn list(&self) -> Result<Vec<SemaphoreSnapshot>, StoreError> {
        let (mut snapshots, mut behind) = (Vec::new(), String::new());
        let mut patience = RetryBudget::new();
        loop {
            let page = patience.with(|| async { self.page(&behind).await }).await;
            let page = page.and_then(|page| {
                sanitize::names(snapshots.len() + page.semaphores.len())?;
                Ok(page)
            });
            let page = page?;
            let last = page.semaphores.last().filter(|_| page.more);
            let next = last.map(|last| last.name.clone());
            // Others may use names there that we cannot.
            let named = |one: NamedSemaphore| Some(one.look.snapshot(&one.name.parse().ok()?));
            snapshots.extend(page.semaphores.into_iter().filter_map(named));
            match next {
                Some(next) if next > behind => behind = next,
                Some(_) => {
                    return Err(StoreError::Unsorted);
                }
                None => return Ok(snapshots),
            }
        }
    }
}

/// What one of our servers answers.
fn parse_body<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, StoreError> {
    known(serde_json::from_slice(body))
}

fn known<T>(read: serde_json::Result<T>) -> Result<T, StoreError> {
    read.map_err(|error| StoreError::UnknownAnswer(error.to_string()))
}

impl Backend for Cloud {
    fn acquire<'a>(
        &'a self,
        wanted: &'a AcquireRequest,
        progress: &'a ProgressSender,
        cancel: CancelToken,
    ) -> BoxFuture<'a, Result<Acquisition, BackendError>> {
        Box::pin(async move {
            loop {
                let done = self.leases.acquire(wanted, progress, cancel.clone()).await;
                if !matches!(&done, Err(error) if error.cause == StoreError::OtherKind) {
                    return done;
                }
                let waiting = NodeAcquire::new(Arc::clone(&self.server), wanted, progress);
                // A box, because thousands of clients of our own servers carry it along.
                let done = Box::pin(waiting.run(cancel.clone())).await;
                if !matches!(&done, Err(error) if error.cause == StoreError::OtherKind) {
                    return done;
                }
            }
        })
    }

    fn observe<'a>(
        &'a self,
        name: &'a Name,
    ) -> BoxFuture<'a, Result<SemaphoreSnapshot, BackendError>> {
        self.leases.observe(name)
    }

    fn observe_all(&self) -> BoxFuture<'_, Result<Vec<SemaphoreSnapshot>, BackendError>> {
        self.leases.observe_all()
    }

    /// In a server of the original kind the end of the connection has done it already.
    fn cancel<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
        patience: Duration,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        Box::pin(async move {
            let (store, request) = (self.leases.store(), Request::of(Operation::Leave, id));
            let withdrawn = with_retries(patience, || store.execute(name, &request)).await;
            self.server.done(withdrawn.map(drop), || Attempt::Withdraw(name.clone()))
        })
    }

    fn attach<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Lease>>, BackendError>> {
        self.leases.attach(name, id)
    }

    fn release_detached<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
    ) -> BoxFuture<'a, Result<ReleaseOutcome, BackendError>> {
        self.leases.release_detached(name, id)
    }

    fn revoke<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
        how: Revocation,
    ) -> BoxFuture<'a, Result<bool, BackendError>> {
        self.leases.revoke(name, id, how)
    }

    fn limit<'a>(
        &'a self,
        name: &'a Name,
    ) -> BoxFuture<'a, Result<SemaphoreSnapshot, BackendError>> {
        Box::pin(async move {
            let looked = with_retries(RETRY_FOR, || async { self.server.limit(name).await }).await;
            self.server.done(looked, || Attempt::LookAtLimit(name.clone()))
        })
    }

    fn set_limit<'a>(
        &'a self,
        name: &'a Name,
        limit: Option<u32>,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        self.leases.set_limit(name, limit)
    }

    fn diagnose(&self) -> BoxFuture<'_, Result<Vec<Finding>, BackendError>> {
        self.leases.diagnose()
    }

    fn pushes_queue_status(&self) -> bool {
        false
    }

    fn url(&self) -> String {
        self.server.shown.clone()
    }
}

#[cfg(test)]
mod tests;
