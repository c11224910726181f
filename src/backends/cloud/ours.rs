//! A permit in a `semrun serve`: a lease, which survives the connection and the server's restart.

use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use uuid::Uuid;

use super::Shared;
use super::link::Link;
use super::node::{Whose, signal};
use super::wire::{ID_HEADER, Outcome, RENEW, Told};
use crate::backends::renewal::{self, Renewed};
use crate::backends::trouble::{CONNECTING, Pause, Trouble, within};
use crate::backends::{Error, Lease, Lost, Name, Pending, Permit, Tenure};

const MONITOR: &str = "/semaphore/monitor";

/// A permit in one of our servers.
pub(super) struct Held {
    permit: Permit,
    tenure: watch::Receiver<Tenure>,
    shared: Rc<Shared>,
    keeping: Pending<'static, Lost>,
}

impl Held {
    /// `link` is a connection that nobody uses, to be told when the permit is taken away.
    pub(super) fn new(
        permit: Permit,
        tenure: Tenure,
        shared: Rc<Shared>,
        link: Option<Link>,
    ) -> Self {
        let (sender, tenure) = watch::channel(tenure);
        let (id, name) = (permit.id, permit.name.clone());
        let keeping = {
            let shared = Rc::clone(&shared);
            let hurry = Rc::new(Notify::new());
            Box::pin(async move {
                let attempt = || -> Pending<'_, Result<Renewed, String>> {
                    Box::pin(renew(&shared, &name, id))
                };
                tokio::select! {
                    lost = renewal::keep(id, sender, &hurry, attempt) => lost,
                    lost = watch_over(&shared, &name, id, link, &hurry) => lost,
                }
            })
        };
        Self { permit, tenure, shared, keeping }
    }
}

async fn renew(shared: &Shared, name: &Name, id: Uuid) -> Result<Renewed, String> {
    let request = shared.dialler.request(RENEW, name.as_str()).header(ID_HEADER, id.to_string());
    let (status, body) = shared.exchange(request).await.map_err(|trouble| trouble.what)?;
    if status != StatusCode::OK {
        return Err(format!("the server answers {status} to {RENEW}"));
    }
    let told: Told = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    if told.outcome == Outcome::Held {
        return Ok(Renewed::For(Duration::from_millis(told.ttl_ms)));
    }
    let why = "it ran out, or was taken away, or the server was restarted without a --state-dir and \
               forgot it; it may be somebody else's by now";
    Ok(Renewed::Lost(Lost { why: why.into(), just_now: false }))
}

/// Keeps a request open that ends when the permit is taken away. When its connection breaks the
/// server may have gone, and a renewal is due: another one may have forgotten us.
async fn watch_over(
    shared: &Shared,
    name: &Name,
    id: Uuid,
    mut link: Option<Link>,
    hurry: &Notify,
) -> Lost {
    let mut pause = Pause::new();
    loop {
        let fresh = link.is_none();
        let since = Instant::now();
        match watched(shared, name, id, link.take()).await {
            Ok(()) => {
                return Lost { why: "somebody else gave the permit back".into(), just_now: true };
            }
            Err(_) => hurry.notify_one(),
        }
        if since.elapsed() > Duration::from_secs(1) {
            pause = Pause::new();
        }
        if fresh {
            pause.sleep().await;
        }
    }
}

/// Returns when the server says that the permit is not ours any more.
async fn watched(
    shared: &Shared,
    name: &Name,
    id: Uuid,
    link: Option<Link>,
) -> Result<(), Trouble> {
    let request =
        |path| shared.dialler.request(path, name.as_str()).header(ID_HEADER, id.to_string());
    let mut link = if let Some(link) = link {
        link
    } else {
        let mut link = shared.dialler.dial().await?;
        // One of the original kind may have taken its place, and would end at once if it were
        // asked to watch over somebody whom it does not know.
        let answer = within(CONNECTING, link.ask(request(RENEW))).await?;
        if !answer.ours {
            return Err(Trouble::other_server());
        }
        within(CONNECTING, link.read(answer)).await?;
        link
    };
    let answer = link.ask(request(MONITOR)).await?;
    if answer.ours && answer.status == StatusCode::OK {
        return Ok(());
    }
    Err(Trouble::other_server())
}

impl Lease for Held {
    fn permit(&self) -> &Permit {
        &self.permit
    }

    fn tenure(&self) -> Option<watch::Receiver<Tenure>> {
        Some(self.tenure.clone())
    }

    fn lost(&mut self) -> Pending<'_, Lost> {
        Box::pin(self.keeping.as_mut())
    }

    fn inherit(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn release(self: Box<Self>, patience: Duration) -> Pending<'static, Result<(), Error>> {
        Box::pin(async move {
            let Self { permit, tenure, shared, keeping } = *self;
            drop(keeping);
            let released = signal(&shared, &permit.name, permit.id, patience, Whose::Ours).await;
            released.map_err(|trouble| {
                let doing = tenure.borrow().giving_back(&permit);
                trouble.while_doing(&shared.shown, &doing)
            })
        })
    }
}
