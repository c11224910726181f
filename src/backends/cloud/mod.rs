//! Permits in a cloud-semaphore server, of the original kind or our own. The answer to the first
//! request shows which; `docs/serve.md` explains the difference.

mod acquire;
mod admin;
pub(crate) mod config;
mod diagnose;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod http;
mod lenient;
mod node_lease;
mod original;
mod orphans;
pub(crate) mod protocol;
mod serve_lease;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::http::request;
use uuid::Uuid;

use self::acquire::CloudAcquire;
use self::config::CloudConfig;
#[cfg(any(test, fuzzing))]
pub(crate) use self::fuzz::fuzz;
use self::http::{HttpConnection, HttpDialer, unexpected};
use self::node_lease::ObserveAnswer;
use self::protocol::{ABOUT, LIST, NamedSemaphore, SemaphorePage, ServerInfo};
use super::error::{MissingFeature, StoreError};
use super::retry::{RETRY_FOR, RetryBudget, with_retries};
use super::{
    AcquireRequest, Acquisition, Attempt, Backend, CancelToken, Error, Finding, Lease, LocalFuture,
    Name, Permit, ProgressSender, ReleaseOutcome, Revocation, Snapshot, sanitize,
};

const OBSERVE: &str = "/semaphore/observe";
const SIGNAL: &str = "/semaphore/signal";

/// How long leaving the queue may take.
const LEAVING: Duration = Duration::from_millis(900);

/// The cloud-semaphore backend.
pub(crate) struct Cloud {
    server: Rc<CloudServer>,
}

struct CloudServer {
    dialler: HttpDialer,
    shown: String,
    /// An idle connection, for requests that are answered at once.
    idle: RefCell<Option<HttpConnection>>,
    /// Whether the server has been seen to be of the original kind.
    original: Cell<bool>,
}

impl Cloud {
    pub(crate) fn new(config: CloudConfig) -> Result<Self, Error> {
        let shown = config.url.shown();
        let dialler = HttpDialer::new(config);
        let dialler = dialler.map_err(|error| StoreError::Tls(Box::new(error)).of(&shown))?;
        let (idle, original) = (RefCell::default(), Cell::default());
        Ok(Self { server: Rc::new(CloudServer { dialler, shown, idle, original }) })
    }
}

impl CloudServer {
    /// Sends a request that may be repeated, and reads the whole answer.
    async fn exchange(&self, request: request::Builder) -> Result<(StatusCode, Bytes), StoreError> {
        let (status, _, body) = self.exchange_with(request).await?;
        Ok((status, body))
    }

    /// The same, and whether the server is one of ours.
    async fn exchange_with(
        &self,
        request: request::Builder,
    ) -> Result<(StatusCode, bool, Bytes), StoreError> {
        // A connection that was idle for a while may have been closed for that.
        let idle = match self.idle.take() {
            Some(link) => link.if_idle().await,
            None => None,
        };
        let mut link = match idle {
            Some(link) => link,
            None => self.dialler.dial().await?,
        };
        let answer = link.send(request).await?;
        let (status, ours) = (answer.status, answer.ours);
        let body = link.read(answer).await?;
        if !ours {
            self.tell_apart(&mut link).await?;
        }
        self.idle.replace(Some(link));
        Ok((status, ours, body))
    }

    /// A server that does not say that it is one of ours is of the original kind, or an older one of
    /// ours: that one knows a path that the original does not. Asked once.
    async fn tell_apart(&self, link: &mut HttpConnection) -> Result<(), StoreError> {
        if self.original.get() {
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
        self.original.set(true);
        Ok(())
    }

    /// The result of a request.
    fn done<T>(
        &self,
        done: Result<T, StoreError>,
        attempt: impl FnOnce() -> Attempt,
    ) -> Result<T, Error> {
        done.map_err(|error| error.while_doing(&self.shown, attempt()))
    }

    async fn look(&self, name: &Name) -> Result<Snapshot, StoreError> {
        let (_, snapshot) = self.look_at(name).await?;
        Ok(snapshot)
    }

    /// The same, and whether the server is one of ours.
    async fn look_at(&self, name: &Name) -> Result<(bool, Snapshot), StoreError> {
        let (status, ours, body) =
            self.exchange_with(self.dialler.request(OBSERVE, name.as_str())).await?;
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
        let (status, ours, body) = self.exchange_with(self.dialler.request(LIST, behind)).await?;
        if !ours {
            return Err(StoreError::Original(MissingFeature::Names));
        }
        if status != StatusCode::OK {
            return Err(unexpected(status, LIST));
        }
        known(lenient::page(&body))
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
    ) -> LocalFuture<'a, Result<Acquisition, Error>> {
        Box::pin(CloudAcquire::new(Rc::clone(&self.server), wanted, progress).run(cancel))
    }

    fn observe<'a>(&'a self, name: &'a Name) -> LocalFuture<'a, Result<Snapshot, Error>> {
        Box::pin(async move {
            let looked = with_retries(RETRY_FOR, async || self.server.look(name).await).await;
            self.server.done(looked, || Attempt::Look(name.clone()))
        })
    }

    fn observe_all(&self) -> LocalFuture<'_, Result<Vec<Snapshot>, Error>> {
        Box::pin(async move {
            let (mut snapshots, mut behind) = (Vec::new(), String::new());
            let mut patience = RetryBudget::new();
            loop {
                let page = patience.with(async || self.server.page(&behind).await).await;
                let page = page.and_then(|page| {
                    sanitize::names(snapshots.len() + page.semaphores.len())?;
                    Ok(page)
                });
                let page = self.server.done(page, || Attempt::List)?;
                let last = page.semaphores.last().filter(|_| page.more);
                let next = last.map(|last| last.name.clone());
                // Others may use names there that we cannot.
                let named = |one: NamedSemaphore| Some(one.look.snapshot(&one.name.parse().ok()?));
                snapshots.extend(page.semaphores.into_iter().filter_map(named));
                match next {
                    Some(next) if next > behind => behind = next,
                    Some(_) => {
                        return self.server.done(Err(StoreError::Unsorted), || Attempt::List);
                    }
                    None => return Ok(snapshots),
                }
            }
        })
    }

    /// In a server of the original kind the end of the connection has done it already.
    fn cancel<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
        patience: Duration,
    ) -> LocalFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let withdrawn = node_lease::signal(
                &self.server,
                name,
                id,
                patience,
                node_lease::ServerKind::Anybodys,
            )
            .await;
            self.server.done(withdrawn, || Attempt::Withdraw(name.clone()))
        })
    }

    fn attach<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
    ) -> LocalFuture<'a, Result<Option<Box<dyn Lease>>, Error>> {
        Box::pin(async move {
            let attached =
                with_retries(RETRY_FOR, async || self.server.attach(name, id).await).await;
            self.server.done(attached, || Attempt::Renew(Permit::of(name, id)))
        })
    }

    fn release_detached<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
    ) -> LocalFuture<'a, Result<ReleaseOutcome, Error>> {
        Box::pin(async move {
            let returned =
                with_retries(RETRY_FOR, async || self.server.give_back(name, id).await).await;
            self.server.done(returned, || Attempt::GiveBack(Permit::of(name, id)))
        })
    }

    fn revoke<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
        how: Revocation,
    ) -> LocalFuture<'a, Result<bool, Error>> {
        Box::pin(async move {
            let revoked =
                with_retries(RETRY_FOR, async || self.server.revoke(name, id, how).await).await;
            self.server.done(revoked, || Attempt::Revoke(Permit::of(name, id)))
        })
    }

    fn limit<'a>(&'a self, name: &'a Name) -> LocalFuture<'a, Result<Snapshot, Error>> {
        Box::pin(async move {
            let looked = with_retries(RETRY_FOR, async || self.server.limit(name).await).await;
            self.server.done(looked, || Attempt::LookAtLimit(name.clone()))
        })
    }

    fn set_limit<'a>(
        &'a self,
        name: &'a Name,
        limit: Option<u32>,
    ) -> LocalFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let set =
                with_retries(RETRY_FOR, async || self.server.set_limit(name, limit).await).await;
            self.server.done(set, || Attempt::SetLimit(name.clone()))
        })
    }

    fn diagnose(&self) -> LocalFuture<'_, Result<Vec<Finding>, Error>> {
        Box::pin(async move {
            let examined = with_retries(RETRY_FOR, async || self.server.diagnose().await).await;
            self.server.done(examined, || Attempt::Examine)
        })
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
