//! Permits in a cloud-semaphore server, of the original kind or our own. Which it is shows in the
//! answer to the first request; `docs/serve.md` says what that means.

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

use std::cell::RefCell;
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
use self::wire::{LIST, Named, Page};
use super::trouble::{Patience, TRY_ON, Trouble, TroubleKind, patiently};
use super::{
    Acquired, Ask, Backend, Cancel, Error, ErrorKind, Eviction, Finding, GivenBack, Lease, Name,
    Pending, Snapshot, Turn, believed,
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
    /// A connection that nobody uses, for requests that are answered at once.
    idle: RefCell<Option<Link>>,
}

impl Cloud {
    pub(crate) fn new(place: Place) -> Result<Self, Error> {
        let shown = place.url.shown();
        let dialler = Dialler::new(place).map_err(|problem| Error {
            kind: ErrorKind::Unsupported,
            backend: shown.clone(),
            what: format!("cannot use the certificates: {problem}"),
            source: None,
        })?;
        Ok(Self { shared: Rc::new(Shared { dialler, shown, idle: RefCell::default() }) })
    }
}

impl Shared {
    /// Asks something that may be asked twice, and reads the whole answer.
    async fn exchange(&self, request: request::Builder) -> Result<(StatusCode, Bytes), Trouble> {
        let (status, _, body) = self.exchange_with(request).await?;
        Ok((status, body))
    }

    /// The same, and whether the server is one of ours.
    async fn exchange_with(
        &self,
        request: request::Builder,
    ) -> Result<(StatusCode, bool, Bytes), Trouble> {
        // One that was not used for a while may have been closed for that.
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
        self.idle.replace(Some(link));
        Ok((status, ours, body))
    }

    /// What came of something; `doing` fits "cannot …".
    fn done<T>(
        &self,
        done: Result<T, Trouble>,
        doing: impl FnOnce() -> String,
    ) -> Result<T, Error> {
        done.map_err(|trouble| trouble.while_doing(&self.shown, &doing()))
    }

    async fn look(&self, name: &Name) -> Result<Snapshot, Trouble> {
        let (_, snapshot) = self.look_at(name).await?;
        Ok(snapshot)
    }

    /// The same, and whether the server is one of ours.
    async fn look_at(&self, name: &Name) -> Result<(bool, Snapshot), Trouble> {
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

    /// Some semaphores, from behind a name on.
    async fn page(&self, behind: &str) -> Result<Page, Trouble> {
        let (status, ours, body) = self.exchange_with(self.dialler.request(LIST, behind)).await?;
        if !ours {
            return Err(of_the_original("does not tell its names; give the NAME"));
        }
        if status != StatusCode::OK {
            return Err(unexpected(status, LIST));
        }
        known(mending::page(&body))
    }
}

/// What one of our servers answers.
fn understood<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Trouble> {
    known(serde_json::from_slice(body))
}

fn known<T>(read: serde_json::Result<T>) -> Result<T, Trouble> {
    read.map_err(|error| Trouble::lasting(format!("the server's answer is not known: {error}")))
}

/// A server of the original kind cannot do what was asked, or what it does is not enough.
fn of_the_original(what: &str) -> Trouble {
    let what = format!("a cloud-semaphore server of the original kind {what}");
    Trouble { what, kind: TroubleKind::Unsupported }
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
            self.shared.done(looked, || format!("look at '{name}'"))
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
                let page = self.shared.done(page, || "list the semaphores".into())?;
                let last = page.semaphores.last().filter(|_| page.more);
                let next = last.map(|last| last.name.clone());
                // Others may use names there that we cannot.
                let named = |one: Named| Some(one.look.snapshot(&one.name.parse().ok()?));
                snapshots.extend(page.semaphores.into_iter().filter_map(named));
                match next {
                    Some(next) if next > behind => behind = next,
                    Some(_) => {
                        let trouble = Trouble::lasting("the server lists its names in no order");
                        return self.shared.done(Err(trouble), || "list the semaphores".into());
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
            self.shared.done(withdrawn, || format!("give back the permit of '{name}'"))
        })
    }

    fn attach<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
    ) -> Pending<'a, Result<Option<Box<dyn Lease>>, Error>> {
        Box::pin(async move {
            let attached = patiently(TRY_ON, async || self.shared.attach(name, id).await).await;
            self.shared.done(attached, || format!("renew {id}@{name}"))
        })
    }

    fn give_back<'a>(&'a self, name: &'a Name, id: Uuid) -> Pending<'a, Result<GivenBack, Error>> {
        Box::pin(async move {
            let returned = patiently(TRY_ON, async || self.shared.give_back(name, id).await).await;
            self.shared.done(returned, || format!("give back {id}@{name}"))
        })
    }

    fn evict<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
        how: Eviction,
    ) -> Pending<'a, Result<bool, Error>> {
        Box::pin(async move {
            let evicted = patiently(TRY_ON, async || self.shared.evict(name, id, how).await).await;
            self.shared.done(evicted, || format!("take away {id}@{name}"))
        })
    }

    fn limit<'a>(&'a self, name: &'a Name) -> Pending<'a, Result<Snapshot, Error>> {
        Box::pin(async move {
            let looked = patiently(TRY_ON, async || self.shared.limit(name).await).await;
            self.shared.done(looked, || format!("look at the limit of '{name}'"))
        })
    }

    fn set_limit<'a>(
        &'a self,
        name: &'a Name,
        limit: Option<u32>,
    ) -> Pending<'a, Result<(), Error>> {
        Box::pin(async move {
            let set = patiently(TRY_ON, async || self.shared.set_limit(name, limit).await).await;
            self.shared.done(set, || format!("change the limit of '{name}'"))
        })
    }

    fn examine(&self) -> Pending<'_, Result<Vec<Finding>, Error>> {
        Box::pin(async move {
            let examined = patiently(TRY_ON, async || self.shared.examine().await).await;
            self.shared.done(examined, || "examine the server".into())
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
