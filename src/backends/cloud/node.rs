//! A permit in a server of the original kind: held by a connection, which the command's whole
//! tree inherits. Such a server crashes when it hears of an identity that it does not know, so ours
//! goes only over connections that are known to lead to the server that gave it.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use hyper::StatusCode;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::timeout;
use uuid::Uuid;

use super::link::{Answer, Link, unexpected};
use super::wire::ID_HEADER;
use super::{OBSERVE, SIGNAL, Shared};
use crate::backends::believed::identity;
use crate::backends::error::{Attempt, StoreError};
use crate::backends::retry::{TRY_ON, patiently, within};
use crate::backends::{
    Error, Gone, Holder, Lease, Lost, Name, Pending, Permit, Snapshot, Standing, Tenure, Waiter,
};

const MONITOR: &str = "/semaphore/monitor";
const WAIT: &str = "/semaphore/wait";

/// How long a request may take on its way.
const FORGETTING: Duration = Duration::from_millis(100);

/// What `observe` answers.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Observed {
    nodes: HashMap<String, Node>,
    waiting: Vec<String>,
    running: Option<String>,
    /// Whether a client has registered there.
    #[serde(skip)]
    known: bool,
}

#[derive(Debug, Deserialize)]
struct Node {
    /// Whether its `wait` has come.
    waiter: bool,
}

impl Observed {
    /// A name at which no client has registered is an empty body.
    pub(super) fn parse(body: &[u8]) -> Result<Self, StoreError> {
        if body.is_empty() {
            return Ok(Self::default());
        }
        let parsed: Self =
            serde_json::from_slice(body).map_err(|error| StoreError::NotJson(error.to_string()))?;
        Ok(Self { known: true, ..parsed })
    }

    fn node(&self, id: Uuid) -> Option<&Node> {
        self.nodes.get(&id.to_string())
    }

    /// Which of these holds the permit, if one does.
    pub(super) fn held_by(&self, ids: &[Uuid]) -> Option<Uuid> {
        let running = self.running.as_ref()?;
        ids.iter().copied().find(|id| id.to_string() == *running)
    }

    pub(super) fn is_free(&self) -> bool {
        self.running.is_none() && self.waiting.is_empty()
    }

    pub(super) fn snapshot(self, name: &Name) -> Snapshot {
        let in_use = !self.is_free();
        let holder =
            |permit: String| Holder::Foreign { permit: identity(&permit), left: None, key: None };
        Snapshot {
            known: self.known,
            limit: in_use.then_some(1),
            holders: self.running.into_iter().map(holder).collect(),
            waiters: self.waiting.iter().map(|permit| Waiter::foreign(permit, None)).collect(),
            ..Snapshot::unused(name)
        }
    }

    fn standing(&self, id: Uuid) -> Standing {
        let id = id.to_string();
        let ahead = self.waiting.iter().position(|one| *one == id).unwrap_or(self.waiting.len());
        let held = usize::from(self.running.is_some());
        Standing { ahead, held, ..Standing::default() }
    }
}

/// Both requests of a waiter. Dropping it leaves the queue.
pub(super) struct Place {
    pub(super) id: Uuid,
    monitor: Monitor,
    wait: Pending<'static, (Link, Result<Answer, StoreError>)>,
}

/// The request whose end is the permit's end.
struct Monitor {
    ending: Pending<'static, Ending>,
    socket: OwnedFd,
}

/// How it ended.
struct Ending {
    why: StoreError,
    /// Whether the server knows, because it ended it.
    known: bool,
}

impl Place {
    /// Takes a place in the queue with an identity that the server gave us over `first`. Is not
    /// to be dropped halfway: the server would never forget us.
    pub(super) async fn take(
        shared: &Shared,
        name: &Name,
        id: Uuid,
        mut first: Link,
        time: Duration,
    ) -> Result<(Self, Standing), StoreError> {
        let request =
            |path| shared.dialler.request(path, name.as_str()).header(ID_HEADER, id.to_string());
        // It may lead to another server, one that was started since or is behind the same proxy,
        // which would crash if we named ourselves. So it is asked which clients it knows.
        let beside = async {
            let mut second = shared.dialler.dial_beside(&first).await?;
            shared.tell_apart(&mut second).await?;
            match observe(shared, name, &mut second).await?.node(id) {
                Some(_) => Ok(second),
                None => Err(StoreError::ServersDiffer),
            }
        };
        let second = match within(time, beside).await {
            Ok(second) => second,
            Err(trouble) => {
                // The server that knows us forgets us once this request has come and ended.
                let _ = timeout(FORGETTING, first.ask(request(MONITOR))).await;
                return Err(trouble);
            }
        };
        let mut wait = waiting(second, request(WAIT));
        // If we died now, the end of `monitor` could overtake `wait`, which would then name a
        // client that the server has forgotten. So `wait` has to arrive before `monitor` is sent.
        let mut standing = None;
        let arrival = async {
            loop {
                let observed = within(time, observe(shared, name, &mut first)).await?;
                standing = Some(observed.standing(id));
                match observed.node(id) {
                    Some(node) if node.waiter => return Ok(()),
                    Some(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                    None => return Err(StoreError::Forgotten),
                }
            }
        };
        tokio::select! {
            arrived = within(TRY_ON, arrival) => arrived?,
            (_, answer) = &mut wait => {
                return Err(answer.map_or_else(|trouble| trouble, |answer| removed(answer.status)));
            }
        }
        let socket = first.socket()?;
        let request = request(MONITOR);
        let ending = Box::pin(async move {
            match first.ask(request).await {
                Ok(answer) if answer.status == StatusCode::OK => {
                    Ending { why: StoreError::GivenBack, known: true }
                }
                Ok(answer) => {
                    let why = StoreError::PermitTaken(answer.status.to_string());
                    Ending { why, known: true }
                }
                Err(why) => {
                    let known = why != StoreError::Silent;
                    Ending { why, known }
                }
            }
        });
        let standing = standing.unwrap_or_else(|| Observed::default().standing(id));
        Ok((Self { id, monitor: Monitor { ending, socket }, wait }, standing))
    }

    /// Waits for the permit.
    pub(super) async fn granted(&mut self) -> Result<Link, StoreError> {
        tokio::select! {
            biased;
            (link, answer) = &mut self.wait => match answer? {
                answer if answer.status == StatusCode::OK => Ok(link),
                answer => Err(removed(answer.status)),
            },
            ending = &mut self.monitor.ending => Err(ending.why),
        }
    }

    /// Leaves the queue, and returns when the server knows.
    pub(super) async fn leave(self, patience: Duration) {
        let Self { monitor, wait, .. } = self;
        drop(monitor);
        let _ = timeout(patience, wait).await;
    }

    pub(super) fn lease(self, shared: Rc<Shared>, name: Name) -> Held {
        let permit = Permit { id: self.id, name, token: None };
        Held { permit, monitor: self.monitor, known: false, shared }
    }
}

async fn observe(shared: &Shared, name: &Name, link: &mut Link) -> Result<Observed, StoreError> {
    let answer = link.ask(shared.dialler.request(OBSERVE, name.as_str())).await?;
    if answer.status != StatusCode::OK {
        return Err(unexpected(answer.status, OBSERVE));
    }
    Observed::parse(&link.read(answer).await?)
}

/// The server does not know us any more, or not as a waiter.
fn removed(status: StatusCode) -> StoreError {
    StoreError::PlaceTaken(status.to_string())
}

fn waiting(
    mut link: Link,
    request: hyper::http::request::Builder,
) -> Pending<'static, (Link, Result<Answer, StoreError>)> {
    Box::pin(async move {
        let answer = link.ask(request).await;
        (link, answer)
    })
}

/// A permit in a server of the original kind.
pub(super) struct Held {
    permit: Permit,
    monitor: Monitor,
    /// Whether the permit is lost and the server knows.
    known: bool,
    shared: Rc<Shared>,
}

impl Lease for Held {
    fn permit(&self) -> &Permit {
        &self.permit
    }

    fn tenure(&self) -> Option<watch::Receiver<Tenure>> {
        None
    }

    fn lost(&mut self) -> Pending<'_, Lost> {
        Box::pin(async {
            let Ending { why, known } = self.monitor.ending.as_mut().await;
            self.known = known;
            Lost { why: why.into(), gone: Gone::Now }
        })
    }

    fn inherit(&self) -> Option<BorrowedFd<'_>> {
        Some(self.monitor.socket.as_fd())
    }

    fn release(self: Box<Self>, patience: Duration) -> Pending<'static, Result<(), Error>> {
        Box::pin(async move {
            let Self { permit, monitor, known, shared } = *self;
            if known {
                return Ok(());
            }
            // Processes left of the command may keep the connection open, so we send a signal.
            let signalled =
                signal(&shared, &permit.name, permit.id, patience, Whose::Anybodys).await;
            drop(monitor);
            signalled.map_err(|error| {
                error.while_doing(&shared.shown, Attempt::ReleaseConnection(permit))
            })
        })
    }
}

/// What kind of server has to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Ours,
    Anybodys,
}

/// Gives back a permit or a place. A client that has neither has given it back already.
pub(super) async fn signal(
    shared: &Shared,
    name: &Name,
    id: Uuid,
    patience: Duration,
    whose: Whose,
) -> Result<(), StoreError> {
    patiently(patience, async || {
        let request =
            shared.dialler.request(SIGNAL, name.as_str()).header(ID_HEADER, id.to_string());
        let (answer, ours, _) = shared.exchange_with(request).await?;
        if whose == Whose::Ours && !ours {
            return Err(StoreError::Replaced);
        }
        match answer {
            StatusCode::OK | StatusCode::UNPROCESSABLE_ENTITY | StatusCode::NOT_FOUND => Ok(()),
            status => {
                Err(StoreError::UnexpectedStatus { status: status.to_string(), path: SIGNAL })
            }
        }
    })
    .await
}
