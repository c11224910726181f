//! A permit in a `semrun serve`: a lease, which survives the connection and the server's restart.

use std::rc::Rc;
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::node::{Whose, signal};
use super::wire::{ID_HEADER, Outcome, RENEW, Told};
use super::{Shared, understood};
use crate::backends::renewal::{self, Renewed};
use crate::backends::retry::{CONNECTING, Pause, within};
use crate::backends::{Gone, Loss, Lost, Name, Pending, StoreError, Tenure, leased};

const MONITOR: &str = "/semaphore/monitor";

/// A shorter command is over before it is worth to watch over its permit.
const SHORT: Duration = Duration::from_millis(100);

/// How often a holder that was revoked gently checks whether it is revoked at once.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What keeps a permit in one of our servers.
pub(super) struct Grip {
    pub(super) shared: Rc<Shared>,
    pub(super) name: Name,
    pub(super) id: Uuid,
    /// Which server granted it, if it said so.
    pub(super) server: Option<Uuid>,
}

impl leased::Grip for Grip {
    fn keep(self: Rc<Self>, tenure: watch::Sender<Tenure>) -> Pending<'static, Lost> {
        Box::pin(async move {
            let Self { shared, name, id, server } = &*self;
            let hurry = Notify::new();
            let attempt = || -> Pending<'_, _> { Box::pin(renew(shared, name, *id)) };
            tokio::select! {
                lost = renewal::keep(*id, tenure, &hurry, attempt) => lost,
                lost = watch_over(shared, name, *id, *server, &hurry) => lost,
            }
        })
    }

    /// The server answers at once that a permit is revoked, so we ask it at intervals, and only
    /// while a command is being stopped.
    fn watch_on(self: Rc<Self>) -> Pending<'static, Lost> {
        Box::pin(async move {
            loop {
                sleep(LOOK_AGAIN).await;
                if let Ok(Renewed::Lost(lost)) = renew(&self.shared, &self.name, self.id).await
                    && lost.gone != Gone::NotYet
                {
                    return lost;
                }
            }
        })
    }

    fn give_back(self: Rc<Self>, patience: Duration) -> Pending<'static, Result<(), StoreError>> {
        Box::pin(
            async move { signal(&self.shared, &self.name, self.id, patience, Whose::Ours).await },
        )
    }

    fn shown(&self) -> &str {
        &self.shared.shown
    }
}

async fn renew(shared: &Shared, name: &Name, id: Uuid) -> Result<Renewed, StoreError> {
    let request = shared.dialler.request(RENEW, name.as_str()).header(ID_HEADER, id.to_string());
    let (status, body) = shared.exchange(request).await?;
    Ok(renewed(&told(status, &body)?))
}

/// What a server of ours says to a renewal.
fn told(status: StatusCode, body: &[u8]) -> Result<Told, StoreError> {
    if status != StatusCode::OK {
        return Err(StoreError::UnexpectedStatus { status: status.to_string(), path: RENEW });
    }
    understood::<Told>(body).and_then(Told::believed)
}

fn renewed(told: &Told) -> Renewed {
    match told.outcome {
        Outcome::Holding => return Renewed::For(Duration::from_millis(told.ttl_ms)),
        Outcome::Revoking => return Renewed::Lost(Lost::revoked()),
        _ => {}
    }
    Renewed::Lost(Lost { why: Loss::ExpiredOrForgotten, gone: Gone::Before })
}

/// Keeps a request open that ends when the permit is revoked. When the connection breaks, a renewal
/// is due: the server may have gone, and a new one may have forgotten us.
async fn watch_over(
    shared: &Shared,
    name: &Name,
    id: Uuid,
    mut server: Option<Uuid>,
    hurry: &Notify,
) -> Lost {
    // It takes a connection of its own, for which a short command should not wait. The one that is there
    // is for renewals: the server keeps it open for as long as they take to come.
    sleep(SHORT).await;
    let mut pause = Pause::new();
    loop {
        let since = Instant::now();
        match watched(shared, name, id, server.take()).await {
            Ok(lost) => return lost,
            Err(_) => hurry.notify_one(),
        }
        if since.elapsed() > Duration::from_secs(1) {
            pause = Pause::new();
        }
        pause.sleep().await;
    }
}

/// Returns when the server says that the permit is not ours any more, or will not be for long.
/// `granted_by`: the server that granted it a moment ago. If that one does not know the permit, it
/// was revoked; another one has forgotten it, or never knew it.
async fn watched(
    shared: &Shared,
    name: &Name,
    id: Uuid,
    granted_by: Option<Uuid>,
) -> Result<Lost, StoreError> {
    let request =
        |path| shared.dialler.request(path, name.as_str()).header(ID_HEADER, id.to_string());
    let mut link = shared.dialler.dial().await?;
    // One of the original kind may have taken its place, and would crash if asked to monitor a
    // client that it does not know.
    let answer = within(CONNECTING, link.ask(request(RENEW))).await?;
    if !answer.ours {
        return Err(StoreError::Replaced);
    }
    let status = answer.status;
    let body = within(CONNECTING, link.read(answer)).await?;
    let told = told(status, &body)?;
    if let Renewed::Lost(lost) = renewed(&told) {
        let knew = granted_by.is_some() && told.server == granted_by;
        return Ok(if knew && lost.gone == Gone::Before { taken_away() } else { lost });
    }
    let answer = link.ask(request(MONITOR)).await?;
    // It was ours a moment ago.
    let gone = answer.status == StatusCode::NOT_FOUND;
    if !answer.ours || !(answer.status == StatusCode::OK || gone) {
        return Err(StoreError::Replaced);
    }
    let body = within(CONNECTING, link.read(answer)).await?;
    // The server has nothing to say of a permit that has gone.
    let told: Option<Told> = serde_json::from_slice(&body).ok();
    if told.is_some_and(|told| told.outcome == Outcome::Revoking) {
        return Ok(Lost::revoked());
    }
    Ok(taken_away())
}

/// The loss when a server that knew the permit does not any more.
fn taken_away() -> Lost {
    Lost { why: Loss::GivenBack, gone: Gone::Now }
}
