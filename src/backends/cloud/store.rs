//! Permits in a `semrun serve`, as a store of leases: they survive the connection and the server's
//! restart.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::http::{HttpConnection, HttpResponse, unexpected};
use super::node_lease::{ServerKind, signal_once};
use super::original::{beyond_the_original, look_if_original};
use super::protocol::{
    ASK_HEADER, ID_HEADER, RENEW, RegisterOutcome, RegisterReply, RegisterRequest, SILENCE,
    ascii_json, millis,
};
use super::{CloudServer, parse_body};
use crate::backends::error::StoreError;
use crate::backends::slot::Slot;
use crate::backends::{
    Attempt, BackendError, BoxFuture, Finding, Loss, LossReason, LossStage, Name, ReleaseOutcome,
    Revocation, SemaphoreSnapshot,
};
use crate::clock;
use crate::engine::retry::{ATTEMPT_TIMEOUT, Backoff, with_timeout};
use crate::engine::{Store, Wakeup, Wakeups};
use crate::request::{Operation, Outcome, Reply, Request};

const REGISTER: &str = "/semaphore/register";
const MONITOR: &str = "/semaphore/monitor";

/// What is shorter than this is not worth to be spoken of.
const QUICK: Duration = Duration::from_millis(100);

pub(super) struct ServeStore {
    pub(super) server: Arc<CloudServer>,
    waiting: Mutex<HashMap<Uuid, Arc<OpenAnswer>>>,
    /// Whether a server of ours may know of us.
    asked: AtomicBool,
    /// Whether we are about to register, which is to be finished: a server of the original kind
    /// remembers each client to which it gave an identity, until the place that comes with it has
    /// been taken and left.
    pub(super) registering: AtomicBool,
    /// An identity in a server of the original kind, which answered instead of one of ours.
    pub(super) met: Slot<(Uuid, HttpConnection)>,
}

/// The answer to a waiter, whose end says that it is worth to ask again.
#[derive(Default)]
struct OpenAnswer {
    answer: Slot<(HttpConnection, HttpResponse)>,
    /// The connection after that.
    idle: Slot<HttpConnection>,
    opened: Notify,
}

impl ServeStore {
    pub(super) fn new(server: Arc<CloudServer>) -> Self {
        let (asked, registering) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { server, waiting: Mutex::default(), asked, registering, met: Slot::empty() }
    }

    fn open_answer(&self, id: Uuid) -> Arc<OpenAnswer> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(waiting.entry(id).or_default())
    }

    fn forget_answer(&self, id: Uuid) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// Asks once. Over a connection that is there already the server is one of ours.
    async fn acquire(&self, name: &Name, request: &Request) -> Result<Reply, StoreError> {
        let open = self.open_answer(request.id);
        let idle = match open.idle.take() {
            Some(link) => link.if_idle().await,
            None => None,
        };
        let mut link = if let Some(link) = idle {
            link
        } else {
            let mut link = self.server.dialler.dial().await?;
            let client = request.client.as_deref();
            let beyond = beyond_the_original(
                request.limit,
                client.is_some_and(|client| client.detached),
                request.min_hold,
            );
            if beyond.is_some() || request.nonblock {
                // A server of the other kind remembers every client that registers, so we look
                // first.
                let theirs = look_if_original(&self.server, name, &mut link).await?;
                if let (Some(_), Some(lack)) = (&theirs, beyond) {
                    return Err(StoreError::Original(lack));
                }
                if theirs.is_some_and(|theirs| !theirs.is_free()) {
                    return Ok(Reply::of(Outcome::Busy, clock::now()));
                }
            }
            link
        };
        let since = clock::now();
        let mut answer = self.register(&mut link, name, request).await?;
        if !answer.ours {
            self.asked.store(false, Relaxed);
            let id = link.read(answer).await?;
            let id = std::str::from_utf8(&id).ok().and_then(|id| Uuid::parse_str(id).ok());
            let id = id.ok_or(StoreError::NoIdentities)?;
            self.met.put((id, link));
            return Err(StoreError::OtherKind);
        }
        self.registering.store(false, Relaxed);
        let text = link.line(&mut answer).await?;
        let told = parse_body::<RegisterReply>(&text)?.validated()?;
        if told.outcome == RegisterOutcome::Waiting {
            open.answer.put((link, answer));
            open.opened.notify_one();
        } else {
            self.forget_answer(request.id);
            if with_timeout(ATTEMPT_TIMEOUT, link.read(answer)).await.is_ok() {
                self.server.idle.put(link);
            }
        }
        Ok(told.reply(since))
    }

    async fn register(
        &self,
        link: &mut HttpConnection,
        name: &Name,
        request: &Request,
    ) -> Result<HttpResponse, StoreError> {
        let asking = RegisterRequest {
            id: request.id,
            limit: request.limit,
            ttl_ms: millis(request.ttl),
            ticket: request.ticket,
            seal: request.seal.clone(),
            nonblock: request.nonblock,
            strict: request.strict,
            min_hold_ms: millis(request.min_hold),
            who: request.client.as_deref().cloned().expect("a client that asks says who it is"),
        };
        self.asked.store(true, Relaxed);
        self.registering.store(true, Relaxed);
        let head = self.server.dialler.request(REGISTER, name.as_str());
        let answer = link.send(head.header(ASK_HEADER, ascii_json(&asking))).await?;
        if answer.status != StatusCode::OK {
            return Err(unexpected(answer.status, REGISTER));
        }
        Ok(answer)
    }

    async fn renew(&self, name: &Name, id: Uuid) -> Result<Reply, StoreError> {
        let since = clock::now();
        let head = self.server.dialler.request(RENEW, name.as_str());
        let exchanged = self.server.exchange(head.header(ID_HEADER, id.to_string())).await;
        let (status, body) = exchanged?;
        Ok(renewed(status, &body)?.reply(since))
    }

    async fn attach(&self, name: &Name, id: Uuid) -> Result<Reply, StoreError> {
        let Some(record) = self.server.detached(name, id).await? else {
            return Ok(Reply::of(Outcome::Lost, clock::now()));
        };
        let since = clock::now();
        let Some(body) = self.server.ask_ours_about(RENEW, name, id).await? else {
            return Err(StoreError::Replaced);
        };
        let told = parse_body::<RegisterReply>(&body)?.validated()?;
        Ok(Reply { record: Some(record), ..told.reply(since) })
    }
}

/// What a server of ours says to a renewal.
fn renewed(status: StatusCode, body: &[u8]) -> Result<RegisterReply, StoreError> {
    if status != StatusCode::OK {
        return Err(StoreError::UnexpectedStatus { status: status.to_string(), path: RENEW });
    }
    parse_body::<RegisterReply>(body).and_then(RegisterReply::validated)
}

impl Store for ServeStore {
    fn execute<'a>(
        &'a self,
        name: &'a Name,
        request: &'a Request,
    ) -> BoxFuture<'a, Result<Reply, StoreError>> {
        Box::pin(async move {
            let (server, id) = (&self.server, request.id);
            let outcome = match request.operation {
                Operation::Acquire => {
                    let asked = self.acquire(name, request).await;
                    self.registering.store(false, Relaxed);
                    return asked;
                }
                Operation::Renew => return self.renew(name, id).await,
                Operation::Attach => return self.attach(name, id).await,
                Operation::Release => {
                    signal_once(server, name, id, ServerKind::Ours).await?;
                    Outcome::Lost
                }
                Operation::Leave => {
                    self.forget_answer(id);
                    signal_once(server, name, id, ServerKind::Anybodys).await?;
                    Outcome::Lost
                }
                Operation::ReleaseDetached => match server.give_back(name, id).await? {
                    ReleaseOutcome::Now => Outcome::Released,
                    ReleaseOutcome::Before => Outcome::Done,
                    ReleaseOutcome::Unknown => Outcome::Lost,
                },
                Operation::Revoke(how) => {
                    let held = server.revoke(name, id, how).await?;
                    if held { Outcome::Revoked } else { Outcome::Lost }
                }
                Operation::Pin => {
                    server.set_limit(name, Some(request.limit)).await?;
                    Outcome::Done
                }
                Operation::Unpin => {
                    server.set_limit(name, None).await?;
                    Outcome::Done
                }
            };
            Ok(Reply::of(outcome, clock::now()))
        })
    }

    fn has_reached(&self) -> bool {
        self.asked.load(Relaxed)
    }

    fn listen(&self, _listener: Uuid, _wakeups: Wakeups) -> BoxFuture<'static, StoreError> {
        Box::pin(std::future::pending())
    }

    fn gives_up(&self, error: &StoreError, waits: bool) -> bool {
        error.is_final() || (error.is_permanent() && !waits)
    }

    fn unknown_permit(&self) -> Loss {
        Loss { reason: LossReason::ExpiredOrForgotten, stage: LossStage::Before }
    }

    fn snapshot<'a>(
        &'a self,
        name: &'a Name,
    ) -> BoxFuture<'a, Result<SemaphoreSnapshot, StoreError>> {
        Box::pin(self.server.look(name))
    }

    fn snapshots(&self) -> BoxFuture<'_, Result<Vec<SemaphoreSnapshot>, BackendError>> {
        Box::pin(async move {
            let listed = self.server.list().await;
            listed.map_err(|error| error.while_doing(&self.server.shown, Attempt::List))
        })
    }

    fn diagnose(&self) -> BoxFuture<'_, Result<Vec<Finding>, StoreError>> {
        Box::pin(self.server.diagnose())
    }

    fn url(&self) -> &str {
        &self.server.shown
    }
}

/// Sends a wake-up whenever an open answer ends.
async fn wait(
    open: Arc<OpenAnswer>,
    wakeups: tokio::sync::mpsc::UnboundedSender<Wakeup>,
) -> StoreError {
    let mut backoff = Backoff::new();
    let mut quick = 0;
    loop {
        let Some((mut link, mut answer)) = open.answer.take() else {
            open.opened.notified().await;
            continue;
        };
        let since = Instant::now();
        let ended = loop {
            match with_timeout(SILENCE, link.line(&mut answer)).await {
                Ok(rest) if rest.is_empty() => break true,
                Ok(_) => {}
                Err(_) => break false,
            }
        };
        if ended {
            open.idle.put(link);
        }
        // A server that ends every wait at once is not to be asked without a pause.
        quick = if since.elapsed() < QUICK { quick + 1 } else { 0 };
        if quick > 3 {
            backoff.sleep().await;
        } else {
            backoff = Backoff::new();
        }
        let _ = wakeups.send(Wakeup::Ask);
    }
}

/// Keeps a request open that ends when the permit is revoked. When the connection breaks, a renewal
/// is due: the server may have gone, and a new one may have forgotten us.
async fn watch(
    server: &CloudServer,
    name: &Name,
    id: Uuid,
    mut granted_by: Option<Uuid>,
    wakeups: &tokio::sync::mpsc::UnboundedSender<Wakeup>,
) -> StoreError {
    let mut backoff = Backoff::new();
    loop {
        let since = Instant::now();
        let watched = watched(server, name, id, granted_by.take()).await;
        let _ = wakeups.send(watched.unwrap_or(Wakeup::Missed));
        if since.elapsed() > Duration::from_secs(1) {
            backoff = Backoff::new();
        }
        backoff.sleep().await;
    }
}

/// Returns when the server says that the permit is not ours any more, or will not be for long.
/// `granted_by`: the server that granted it a moment ago. If that one does not know the permit, it
/// was taken away; another one has forgotten it, or never knew it.
async fn watched(
    server: &CloudServer,
    name: &Name,
    id: Uuid,
    granted_by: Option<Uuid>,
) -> Result<Wakeup, StoreError> {
    let request =
        |path| server.dialler.request(path, name.as_str()).header(ID_HEADER, id.to_string());
    let mut link = server.dialler.dial().await?;
    // One of the original kind may have taken its place, and would end at once if it were asked to
    // watch over a client that it does not know.
    let answer = with_timeout(ATTEMPT_TIMEOUT, link.send(request(RENEW))).await?;
    if !answer.ours {
        return Err(StoreError::Replaced);
    }
    let status = answer.status;
    let body = with_timeout(ATTEMPT_TIMEOUT, link.read(answer)).await?;
    let told = renewed(status, &body)?;
    let revoked = Wakeup::Revoked { how: Revocation::Graceful, fresh: true };
    match told.outcome {
        RegisterOutcome::Holding => {}
        RegisterOutcome::Revoking => return Ok(revoked),
        _ if granted_by.is_some() && told.server == granted_by => return Ok(Wakeup::Released),
        _ => return Ok(Wakeup::Missed),
    }
    let answer = link.send(request(MONITOR)).await?;
    // After it was ours a moment ago.
    let gone = answer.status == StatusCode::NOT_FOUND;
    if !answer.ours || !(answer.status == StatusCode::OK || gone) {
        return Err(StoreError::Replaced);
    }
    let body = with_timeout(ATTEMPT_TIMEOUT, link.read(answer)).await?;
    // Of a permit that has gone there is nothing to say.
    let told: Option<RegisterReply> = serde_json::from_slice(&body).ok();
    let revoking = told.is_some_and(|told| told.outcome == RegisterOutcome::Revoking);
    Ok(if revoking { revoked } else { Wakeup::Released })
}
