//! Permits in a `semrun serve`, as a store of leases: they survive the connection and the server's
//! restart.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use hyper::StatusCode;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::request_batching::Requests;
use crate::backends::cloud::http::unexpected;
use crate::backends::cloud::original_server::lease::signal_once;
use crate::backends::cloud::protocol::{
    EVENTS, EXECUTE, Event, EventKind, ExecuteAnswer, Greeting, ID_HEADER, SILENCE, validated,
};
use crate::backends::cloud::{CloudServer, parse_body};
use crate::clock;
use crate::engine::retry::{ATTEMPT_TIMEOUT, Backoff, with_timeout};
use crate::engine::{Store, Wakeup, Wakeups};
use crate::permits::error::{MissingFeature, StoreError};
use crate::permits::{
    Attempt, BackendError, BoxFuture, Finding, Loss, LossReason, LossStage, Name, Revocation,
    SemaphoreSnapshot,
};
use crate::request::{Operation, Outcome, Reply, Request};

/// A stream of events that lasts for so long was none that ends at once.
const LASTING: Duration = Duration::from_secs(1);

pub(in crate::backends::cloud) struct ServeStore {
    server: Arc<CloudServer>,
    requests: Requests,
    /// Whether a server of ours may know of us.
    asked: AtomicBool,
}

impl ServeStore {
    pub(in crate::backends::cloud) fn new(server: Arc<CloudServer>) -> Self {
        Self { server, requests: Requests::default(), asked: AtomicBool::new(false) }
    }

    async fn ask(&self, name: &Name, request: &Request) -> Result<Reply, StoreError> {
        if request.operation == Operation::Acquire {
            self.asked.store(true, Relaxed);
        }
        loop {
            let since = clock::now();
            let answer = match self.requests.ask(&self.server, name, request).await {
                // A box, because thousands of requests may wait here and hardly any gets there.
                Err(StoreError::OtherKind) => {
                    return Box::pin(self.ask_original(name, request)).await;
                }
                answer => answer?,
            };
            return match answer {
                ExecuteAnswer::Reply(reply) => validated(Reply { since, ..*reply }),
                ExecuteAnswer::Later(pause) => {
                    sleep(Duration::from_millis(pause).min(ATTEMPT_TIMEOUT)).await;
                    continue;
                }
                ExecuteAnswer::Denied(why) => Err(StoreError::Forbidden(why)),
                ExecuteAnswer::Refused(why) => Err(StoreError::NotNow(why)),
                ExecuteAnswer::Invalid => {
                    Err(unexpected(StatusCode::UNPROCESSABLE_ENTITY, EXECUTE))
                }
            };
        }
    }

    /// The same of a server of the original kind, as far as it can do anything without a connection
    /// that stays open.
    async fn ask_original(&self, name: &Name, request: &Request) -> Result<Reply, StoreError> {
        let outcome = match request.operation {
            Operation::Acquire => {
                self.asked.store(false, Relaxed);
                return Err(StoreError::OtherKind);
            }
            Operation::Renew | Operation::Release => return Err(StoreError::Replaced),
            Operation::Leave => {
                signal_once(&self.server, name, request.id).await?;
                Outcome::Lost
            }
            Operation::Attach | Operation::ReleaseDetached => {
                return Err(StoreError::Original(MissingFeature::Lasting));
            }
            Operation::Revoke(how) => {
                let held = self.server.revoke_in_original(name, request.id, how).await?;
                if held { Outcome::Revoked } else { Outcome::Lost }
            }
            Operation::Pin | Operation::Unpin => {
                return Err(StoreError::Original(MissingFeature::Limits));
            }
        };
        Ok(Reply::of(outcome, clock::now()))
    }
}

impl Store for ServeStore {
    fn execute<'a>(
        &'a self,
        name: &'a Name,
        request: &'a Request,
    ) -> BoxFuture<'a, Result<Reply, StoreError>> {
        Box::pin(self.ask(name, request))
    }

    fn has_reached(&self) -> bool {
        self.asked.load(Relaxed)
    }

    fn listen(&self, listener: Uuid, wakeups: Wakeups) -> BoxFuture<'static, StoreError> {
        let server = Arc::clone(&self.server);
        Box::pin(async move {
            let mut backoff = Backoff::new();
            loop {
                let since = Instant::now();
                let _ = hear(&server, listener, &wakeups).await;
                // The server may have gone, and a new one may have forgotten us.
                wakeups.send_to_all(Wakeup::Ask);
                if since.elapsed() > LASTING {
                    backoff = Backoff::new();
                }
                backoff.sleep().await;
            }
        })
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

/// Hears what happens to the permits of a client, until the stream of events ends.
async fn hear(server: &CloudServer, listener: Uuid, wakeups: &Wakeups) -> Result<(), StoreError> {
    let mut link = server.dialler.dial().await?;
    let request = server.dialler.request(EVENTS, "").header(ID_HEADER, listener.to_string());
    let mut answer = with_timeout(ATTEMPT_TIMEOUT, link.send(request)).await?;
    if !answer.ours {
        return Err(StoreError::Replaced);
    }
    if answer.status != StatusCode::OK {
        return Err(unexpected(answer.status, EVENTS));
    }
    let greeting = with_timeout(ATTEMPT_TIMEOUT, link.line(&mut answer)).await?;
    let mut lines = greeting.split(|byte| *byte == b'\n');
    // Also of what happened before we listened for the first time.
    if parse_body::<Greeting>(lines.next().unwrap_or_default())?.missed {
        wakeups.send_to_all(Wakeup::Ask);
    }
    let mut text = lines.collect::<Vec<_>>().join(&b'\n');
    loop {
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let Event { id, event } = parse_body(line)?;
            wakeups.send(id, wakeup(event));
        }
        text = with_timeout(SILENCE, link.line(&mut answer)).await?;
        if text.is_empty() {
            return Ok(());
        }
    }
}

fn wakeup(event: EventKind) -> Wakeup {
    match event {
        EventKind::Ask => Wakeup::Ask,
        EventKind::Revoked => Wakeup::Revoked { how: Revocation::Graceful, fresh: true },
        EventKind::RevokedNow => Wakeup::Revoked { how: Revocation::Forced, fresh: true },
        EventKind::Released => Wakeup::Released,
    }
}
