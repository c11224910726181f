//! A permit in a server of the original kind: held by a connection, which the command's whole
//! tree inherits. Such a server crashes when it hears of an identity that it does not know, so ours
//! goes only over connections that are known to lead to the server that gave it.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::timeout;
use uuid::Uuid;

use crate::backends::cloud::http::{HttpConnection, HttpResponse, unexpected};
use crate::backends::cloud::protocol::ID_HEADER;
use crate::backends::cloud::{CloudServer, OBSERVE, SIGNAL};
use crate::engine::retry::{RETRY_FOR, with_retries, with_timeout};
use crate::permits::error::{Attempt, StoreError};
use crate::permits::sanitize::identity;
use crate::permits::{
    BackendError, BoxFuture, Holder, Lease, Loss, LossStage, Name, PermitId, QueueStatus,
    SemaphoreSnapshot, Validity, Waiter,
};

const MONITOR: &str = "/semaphore/monitor";
const WAIT: &str = "/semaphore/wait";

/// How long a request may take on its way.
const FORGETTING: Duration = Duration::from_millis(100);

/// What `observe` answers.
#[derive(Debug, Default, Deserialize)]
pub(in crate::backends::cloud) struct ObserveAnswer {
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

impl ObserveAnswer {
    /// A name at which no client has registered is an empty body.
    pub(in crate::backends::cloud) fn parse(body: &[u8]) -> Result<Self, StoreError> {
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
    pub(in crate::backends::cloud) fn held_by(&self, ids: &[Uuid]) -> Option<Uuid> {
        let running = self.running.as_ref()?;
        ids.iter().copied().find(|id| id.to_string() == *running)
    }

    pub(in crate::backends::cloud) fn is_free(&self) -> bool {
        self.running.is_none() && self.waiting.is_empty()
    }

    pub(in crate::backends::cloud) fn snapshot(self, name: &Name) -> SemaphoreSnapshot {
        let in_use = !self.is_free();
        let holder =
            |permit: String| Holder::Foreign { permit: identity(&permit), left: None, key: None };
        SemaphoreSnapshot {
            known: self.known,
            limit: in_use.then_some(1),
            holders: self.running.into_iter().map(holder).collect(),
            waiters: self.waiting.iter().map(|permit| Waiter::foreign(permit, None)).collect(),
            ..SemaphoreSnapshot::unused(name)
        }
    }

    fn queue_status(&self, id: Uuid) -> QueueStatus {
        let id = id.to_string();
        let ahead = self.waiting.iter().position(|one| *one == id).unwrap_or(self.waiting.len());
        let held = usize::from(self.running.is_some());
        QueueStatus { ahead, held, ..QueueStatus::default() }
    }
}

/// Both requests of a waiter. Dropping it leaves the queue.
pub(in crate::backends::cloud) struct NodeRegistration {
    pub(in crate::backends::cloud) id: Uuid,
    monitor: Monitor,
    wait: BoxFuture<'static, (HttpConnection, Result<HttpResponse, StoreError>)>,
}

/// The request whose end is the permit's end.
struct Monitor {
    ending: BoxFuture<'static, MonitorEnd>,
    socket: OwnedFd,
}

/// How it ended.
struct MonitorEnd {
    why: StoreError,
    /// Whether the server knows, because it ended it.
    known: bool,
}

impl NodeRegistration {
    /// Takes a place in the queue with an identity that the server gave us over `first`. Is not
    /// to be dropped halfway: the server would never forget us.
    pub(in crate::backends::cloud) async fn take(
        server: &CloudServer,
        name: &Name,
        id: Uuid,
        mut first: HttpConnection,
        time: Duration,
    ) -> Result<(Self, QueueStatus), StoreError> {
        let request =
            |path| server.dialler.request(path, name.as_str()).header(ID_HEADER, id.to_string());
        // It may lead to another server, one that was started since or is behind the same proxy,
        // which would crash if we named ourselves. So it is asked which clients it knows.
        let address = first.server();
        let beside = async {
            let mut second = server.dialler.dial_to(address).await?;
            server.tell_apart(&mut second).await?;
            match observe(server, name, &mut second).await?.node(id) {
                Some(_) => Ok(second),
                None => Err(StoreError::ServersDiffer),
            }
        };
        let second = match with_timeout(time, beside).await {
            Ok(second) => second,
            Err(error) => {
                // The server that knows us forgets us once this request has come and ended.
                let _ = timeout(FORGETTING, first.send(request(MONITOR))).await;
                return Err(error);
            }
        };
        let mut wait = waiting(second, request(WAIT));
        // If we died now, the end of `monitor` could overtake `wait`, which would then name a
        // client that the server has forgotten. So `wait` has to arrive before `monitor` is sent.
        let mut queue_status = None;
        let arrival = async {
            loop {
                let observed = with_timeout(time, observe(server, name, &mut first)).await?;
                queue_status = Some(observed.queue_status(id));
                match observed.node(id) {
                    Some(node) if node.waiter => return Ok(()),
                    Some(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                    None => return Err(StoreError::Forgotten),
                }
            }
        };
        tokio::select! {
            arrived = with_timeout(RETRY_FOR, arrival) => arrived?,
            (_, answer) = &mut wait => {
                return Err(answer.map_or_else(|error| error, |answer| removed(answer.status)));
            }
        }
        let socket = first.socket()?;
        let request = request(MONITOR);
        let ending = Box::pin(async move {
            match first.send(request).await {
                Ok(answer) if answer.status == StatusCode::OK => {
                    MonitorEnd { why: StoreError::GivenBack, known: true }
                }
                Ok(answer) => {
                    let why = StoreError::PermitTaken(answer.status.to_string());
                    MonitorEnd { why, known: true }
                }
                Err(why) => {
                    let known = why != StoreError::Silent;
                    MonitorEnd { why, known }
                }
            }
        });
        let queue_status =
            queue_status.unwrap_or_else(|| ObserveAnswer::default().queue_status(id));
        Ok((Self { id, monitor: Monitor { ending, socket }, wait }, queue_status))
    }

    /// Waits for the permit.
    pub(in crate::backends::cloud) async fn granted(
        &mut self,
    ) -> Result<HttpConnection, StoreError> {
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
    pub(in crate::backends::cloud) async fn leave(self, patience: Duration) {
        let Self { monitor, wait, .. } = self;
        drop(monitor);
        let _ = timeout(patience, wait).await;
    }

    pub(in crate::backends::cloud) fn lease(
        self,
        server: Arc<CloudServer>,
        name: Name,
    ) -> NodeLease {
        let permit = PermitId { id: self.id, name, token: None };
        NodeLease { permit, monitor: self.monitor, known: false, server }
    }
}

async fn observe(
    server: &CloudServer,
    name: &Name,
    link: &mut HttpConnection,
) -> Result<ObserveAnswer, StoreError> {
    let answer = link.send(server.dialler.request(OBSERVE, name.as_str())).await?;
    if answer.status != StatusCode::OK {
        return Err(unexpected(answer.status, OBSERVE));
    }
    ObserveAnswer::parse(&link.read(answer).await?)
}

/// The server does not know us any more, or not as a waiter.
fn removed(status: StatusCode) -> StoreError {
    StoreError::PlaceTaken(status.to_string())
}

fn waiting(
    mut link: HttpConnection,
    request: hyper::http::request::Builder,
) -> BoxFuture<'static, (HttpConnection, Result<HttpResponse, StoreError>)> {
    Box::pin(async move {
        let answer = link.send(request).await;
        (link, answer)
    })
}

/// A permit in a server of the original kind.
pub(in crate::backends::cloud) struct NodeLease {
    permit: PermitId,
    monitor: Monitor,
    /// Whether the permit is lost and the server knows.
    known: bool,
    server: Arc<CloudServer>,
}

impl Lease for NodeLease {
    fn permit(&self) -> &PermitId {
        &self.permit
    }

    fn validity(&self) -> Option<watch::Receiver<Validity>> {
        None
    }

    fn lost(&mut self) -> BoxFuture<'_, Loss> {
        Box::pin(async {
            let MonitorEnd { why, known } = self.monitor.ending.as_mut().await;
            self.known = known;
            Loss { reason: why.into(), stage: LossStage::Now }
        })
    }

    fn inherited_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.monitor.socket.as_fd())
    }

    fn release(
        self: Box<Self>,
        patience: Duration,
    ) -> BoxFuture<'static, Result<(), BackendError>> {
        Box::pin(async move {
            let Self { permit, monitor, known, server } = *self;
            if known {
                return Ok(());
            }
            // Processes left of the command may keep the connection open, so we send a signal.
            let signalled = signal(&server, &permit.name, permit.id, patience).await;
            drop(monitor);
            signalled.map_err(|error| {
                error.while_doing(&server.shown, Attempt::ReleaseConnection(permit))
            })
        })
    }
}

/// Gives back a permit or a place. A client that has neither has given it back already.
pub(in crate::backends::cloud) async fn signal(
    server: &CloudServer,
    name: &Name,
    id: Uuid,
    patience: Duration,
) -> Result<(), StoreError> {
    with_retries(patience, || signal_once(server, name, id)).await
}

/// The same, without retries.
pub(in crate::backends::cloud) async fn signal_once(
    server: &CloudServer,
    name: &Name,
    id: Uuid,
) -> Result<(), StoreError> {
    let request = server.dialler.request(SIGNAL, name.as_str()).header(ID_HEADER, id.to_string());
    let (status, _) = server.exchange(request).await?;
    match status {
        StatusCode::OK | StatusCode::UNPROCESSABLE_ENTITY | StatusCode::NOT_FOUND => Ok(()),
        status => Err(StoreError::UnexpectedStatus { status: status.to_string(), path: SIGNAL }),
    }
}
