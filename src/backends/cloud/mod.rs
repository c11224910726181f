//! Permits in a cloud-semaphore server, of the original kind or our own. The answer to the first
//! request shows which; `docs/serve.md` explains the difference.

mod examine;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod ghosts;
mod intervention;
mod link;
mod mending;
mod node;
mod ours;
pub(crate) mod place;
mod queueing;
pub(crate) mod wire;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::http::request;
use uuid::Uuid;

#[cfg(any(test, fuzzing))]
pub(crate) use self::fuzz::fuzz;
use self::link::{Dialler, Link, unexpected};
use self::node::Observed;
use self::place::Place;
use self::queueing::Queueing;
use self::wire::{ABOUT, About, LIST, Named, Page};
use super::error::{Lack, StoreError};
use super::retry::{Patience, TRY_ON, patiently};
use super::{
    Acquired, Ask, Attempt, Backend, Cancel, Error, Finding, GivenBack, Lease, Name, Pending,
    Permit, Revocation, Snapshot, Turn, believed,
};

const OBSERVE: &str = "/semaphore/observe";
const SIGNAL: &str = "/semaphore/signal";

/// How long leaving the queue may take.
const LEAVING: Duration = Duration::from_millis(900);

/// The cloud-semaphore backend.
pub(crate) struct Cloud {
    shared: Rc<Shared>,
}

struct Shared {
    dialler: Dialler,
    shown: String,
    /// An idle connection, for requests that are answered at once.
    idle: RefCell<Option<Link>>,
    /// Whether the server has been seen to be of the original kind.
    original: Cell<bool>,
}

impl Cloud {
    pub(crate) fn new(place: Place) -> Result<Self, Error> {
        let shown = place.url.shown();
        let dialler = Dialler::new(place);
        let dialler = dialler.map_err(|error| StoreError::Tls(Box::new(error)).of(&shown))?;
        let (idle, original) = (RefCell::default(), Cell::default());
        Ok(Self { shared: Rc::new(Shared { dialler, shown, idle, original }) })
    }
}

impl Shared {
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
        let answer = link.ask(request).await?;
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
    async fn tell_apart(&self, link: &mut Link) -> Result<(), StoreError> {
        if self.original.get() {
            return Ok(());
        }
        let answer = link.ask(self.dialler.request(ABOUT, "")).await?;
        let status = answer.status;
        let body = link.read(answer).await?;
        if status == StatusCode::OK
            && let Ok(About { version, .. }) = serde_json::from_slice(&body)
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
            return Ok((false, Observed::parse(&body)?.snapshot(name)));
        }
        Ok((true, known(mending::look(&body))?.snapshot(name)))
    }

    /// Some semaphores, from the first after a name on.
    async fn page(&self, behind: &str) -> Result<Page, StoreError> {
        let (status, ours, body) = self.exchange_with(self.dialler.request(LIST, behind)).await?;
        if !ours {
            return Err(StoreError::Original(Lack::Names));
        }
        if status != StatusCode::OK {
            return Err(unexpected(status, LIST));
        }
        known(mending::page(&body))
    }
}

/// What one of our servers answers.
fn understood<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, StoreError> {
    known(serde_json::from_slice(body))
}

fn known<T>(read: serde_json::Result<T>) -> Result<T, StoreError> {
    read.map_err(|error| StoreError::UnknownAnswer(error.to_string()))
}

impl Backend for Cloud {
    fn acquire<'a>(
        &'a self,
        ask: &'a Ask,
        turn: &'a Turn,
        cancel: Cancel,
    ) -> Pending<'a, Result<Acquired, Error>> {
        Box::pin(Queueing::new(Rc::clone(&self.shared), ask, turn).run(cancel))
    }

    fn observe<'a>(&'a self, name: &'a Name) -> Pending<'a, Result<Snapshot, Error>> {
        Box::pin(async move {
            let looked = patiently(TRY_ON, async || self.shared.look(name).await).await;
            self.shared.done(looked, || Attempt::Look(name.clone()))
        })
    }

    fn observe_all(&self) -> Pending<'_, Result<Vec<Snapshot>, Error>> {
        Box::pin(async move {
            let (mut snapshots, mut behind) = (Vec::new(), String::new());
            let mut patience = Patience::new();
            loop {
                let page = patience.with(async || self.shared.page(&behind).await).await;
                let page = page.and_then(|page| {
                    believed::names(snapshots.len() + page.semaphores.len())?;
                    Ok(page)
                });
                let page = self.shared.done(page, || Attempt::List)?;
                let last = page.semaphores.last().filter(|_| page.more);
                let next = last.map(|last| last.name.clone());
                // Others may use names there that we cannot.
                let named = |one: Named| Some(one.look.snapshot(&one.name.parse().ok()?));
                snapshots.extend(page.semaphores.into_iter().filter_map(named));
                match next {
                    Some(next) if next > behind => behind = next,
                    Some(_) => {
                        return self.shared.done(Err(StoreError::Unsorted), || Attempt::List);
                    }
                    None => return Ok(snapshots),
                }
            }
        })
    }

    /// In a server of the original kind the end of the connection has done it already.
    fn withdraw<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
        patience: Duration,
    ) -> Pending<'a, Result<(), Error>> {
        Box::pin(async move {
            let withdrawn =
                node::signal(&self.shared, name, id, patience, node::Whose::Anybodys).await;
            self.shared.done(withdrawn, || Attempt::Withdraw(name.clone()))
        })
    }

    fn attach<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
    ) -> Pending<'a, Result<Option<Box<dyn Lease>>, Error>> {
        Box::pin(async move {
            let attached = patiently(TRY_ON, async || self.shared.attach(name, id).await).await;
            self.shared.done(attached, || Attempt::Renew(Permit::of(name, id)))
        })
    }

    fn give_back<'a>(&'a self, name: &'a Name, id: Uuid) -> Pending<'a, Result<GivenBack, Error>> {
        Box::pin(async move {
            let returned = patiently(TRY_ON, async || self.shared.give_back(name, id).await).await;
            self.shared.done(returned, || Attempt::GiveBack(Permit::of(name, id)))
        })
    }

    fn revoke<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
        how: Revocation,
    ) -> Pending<'a, Result<bool, Error>> {
        Box::pin(async move {
            let revoked = patiently(TRY_ON, async || self.shared.revoke(name, id, how).await).await;
            self.shared.done(revoked, || Attempt::Revoke(Permit::of(name, id)))
        })
    }

    fn limit<'a>(&'a self, name: &'a Name) -> Pending<'a, Result<Snapshot, Error>> {
        Box::pin(async move {
            let looked = patiently(TRY_ON, async || self.shared.limit(name).await).await;
            self.shared.done(looked, || Attempt::LookAtLimit(name.clone()))
        })
    }

    fn set_limit<'a>(
        &'a self,
        name: &'a Name,
        limit: Option<u32>,
    ) -> Pending<'a, Result<(), Error>> {
        Box::pin(async move {
            let set = patiently(TRY_ON, async || self.shared.set_limit(name, limit).await).await;
            self.shared.done(set, || Attempt::SetLimit(name.clone()))
        })
    }

    fn examine(&self) -> Pending<'_, Result<Vec<Finding>, Error>> {
        Box::pin(async move {
            let examined = patiently(TRY_ON, async || self.shared.examine().await).await;
            self.shared.done(examined, || Attempt::Examine)
        })
    }

    fn reports(&self) -> bool {
        false
    }

    fn url(&self) -> String {
        self.shared.shown.clone()
    }
}

#[cfg(test)]
mod tests;
