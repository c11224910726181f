//! A permit in a `semrun serve`: a lease, which survives the connection and the server's restart.

use std::rc::Rc;
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::node_lease::{ServerKind, signal};
use super::protocol::{ID_HEADER, RENEW, RegisterOutcome, RegisterReply};
use super::{CloudServer, parse_body};
use crate::backends::renewal::{self, Renewed};
use crate::backends::retry::{ATTEMPT_TIMEOUT, Backoff, with_timeout};
use crate::backends::{
    LocalFuture, Loss, LossReason, LossStage, Name, StoreError, Validity, lease,
};

const MONITOR: &str = "/semaphore/monitor";

/// A shorter command is over before it is worth to watch over its permit.
const SHORT: Duration = Duration::from_millis(100);

/// How often a holder that was revoked gently checks whether it is revoked at once.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What keeps a permit in one of our servers.
pub(super) struct ServeLease {
    pub(super) server: Rc<CloudServer>,
    pub(super) name: Name,
    pub(super) id: Uuid,
    /// Which server granted it, if it said so.
    pub(super) granted_by: Option<Uuid>,
}

impl lease::LeaseOps for ServeLease {
    fn renew_until_lost(
        self: Rc<Self>,
        validity: watch::Sender<Validity>,
    ) -> LocalFuture<'static, Loss> {
        Box::pin(async move {
            let Self { server, name, id, granted_by } = &*self;
            let renew_now = Notify::new();
            let attempt = || -> LocalFuture<'_, _> { Box::pin(renew(server, name, *id)) };
            tokio::select! {
                lost = renewal::renew_loop(*id, validity, &renew_now, attempt) => lost,
                lost = watch_over(server, name, *id, *granted_by, &renew_now) => lost,
            }
        })
    }

    /// The server answers at once that a permit is revoked, so we ask it at intervals, and only
    /// while a command is being stopped.
    fn until_forcibly_revoked(self: Rc<Self>) -> LocalFuture<'static, Loss> {
        Box::pin(async move {
            loop {
                sleep(LOOK_AGAIN).await;
                if let Ok(Renewed::Lost(lost)) = renew(&self.server, &self.name, self.id).await
                    && lost.stage != LossStage::Revoking
                {
                    return lost;
                }
            }
        })
    }

    fn release(self: Rc<Self>, patience: Duration) -> LocalFuture<'static, Result<(), StoreError>> {
        Box::pin(async move {
            signal(&self.server, &self.name, self.id, patience, ServerKind::Ours).await
        })
    }

    fn shown(&self) -> &str {
        &self.server.shown
    }
}

async fn renew(server: &CloudServer, name: &Name, id: Uuid) -> Result<Renewed, StoreError> {
    let request = server.dialler.request(RENEW, name.as_str()).header(ID_HEADER, id.to_string());
    let (status, body) = server.exchange(request).await?;
    Ok(renewed(&told(status, &body)?))
}

/// What a server of ours says to a renewal.
fn told(status: StatusCode, body: &[u8]) -> Result<RegisterReply, StoreError> {
    if status != StatusCode::OK {
        return Err(StoreError::UnexpectedStatus { status: status.to_string(), path: RENEW });
    }
    parse_body::<RegisterReply>(body).and_then(RegisterReply::validated)
}

fn renewed(told: &RegisterReply) -> Renewed {
    match told.outcome {
        RegisterOutcome::Holding => return Renewed::For(Duration::from_millis(told.ttl_ms)),
        RegisterOutcome::Revoking => return Renewed::Lost(Loss::revoked()),
        _ => {}
    }
    Renewed::Lost(Loss { reason: LossReason::ExpiredOrForgotten, stage: LossStage::Before })
}

/// Keeps a request open that ends when the permit is revoked. When the connection breaks, a renewal
/// is due: the server may have gone, and a new one may have forgotten us.
async fn watch_over(
    server: &CloudServer,
    name: &Name,
    id: Uuid,
    mut granted_by: Option<Uuid>,
    renew_now: &Notify,
) -> Loss {
    // It takes a connection of its own, for which a short command should not wait. The one that is there
    // is for renewals: the server keeps it open for as long as they take to come.
    sleep(SHORT).await;
    let mut backoff = Backoff::new();
    loop {
        let since = Instant::now();
        match watched(server, name, id, granted_by.take()).await {
            Ok(lost) => return lost,
            Err(_) => renew_now.notify_one(),
        }
        if since.elapsed() > Duration::from_secs(1) {
            backoff = Backoff::new();
        }
        backoff.sleep().await;
    }
}

/// Returns when the server says that the permit is not ours any more, or will not be for long.
/// `granted_by`: the server that granted it a moment ago. If that one does not know the permit, it
/// was revoked; another one has forgotten it, or never knew it.
async fn watched(
    server: &CloudServer,
    name: &Name,
    id: Uuid,
    granted_by: Option<Uuid>,
) -> Result<Loss, StoreError> {
    let request =
        |path| server.dialler.request(path, name.as_str()).header(ID_HEADER, id.to_string());
    let mut link = server.dialler.dial().await?;
    // One of the original kind may have taken its place, and would crash if asked to monitor a
    // client that it does not know.
    let answer = with_timeout(ATTEMPT_TIMEOUT, link.send(request(RENEW))).await?;
    if !answer.ours {
        return Err(StoreError::Replaced);
    }
    let status = answer.status;
    let body = with_timeout(ATTEMPT_TIMEOUT, link.read(answer)).await?;
    let told = told(status, &body)?;
    if let Renewed::Lost(lost) = renewed(&told) {
        let knew = granted_by.is_some() && told.server == granted_by;
        return Ok(if knew && lost.stage == LossStage::Before { taken_away() } else { lost });
    }
    let answer = link.send(request(MONITOR)).await?;
    // It was ours a moment ago.
    let gone = answer.status == StatusCode::NOT_FOUND;
    if !answer.ours || !(answer.status == StatusCode::OK || gone) {
        return Err(StoreError::Replaced);
    }
    let body = with_timeout(ATTEMPT_TIMEOUT, link.read(answer)).await?;
    // The server has nothing to say of a permit that has gone.
    let told: Option<RegisterReply> = serde_json::from_slice(&body).ok();
    if told.is_some_and(|told| told.outcome == RegisterOutcome::Revoking) {
        return Ok(Loss::revoked());
    }
    Ok(taken_away())
}

/// The loss when a server that knew the permit does not any more.
fn taken_away() -> Loss {
    Loss { reason: LossReason::GivenBack, stage: LossStage::Now }
}
