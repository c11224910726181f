//! Running under a permit that is held around this process: one of a semrun whose command we descend
//! from, or a detached one that the environment names.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use uuid::Uuid;

use crate::backends::{
    Attempt, Backend, Error, Gone, Holder, Lease, Loss, Lost, Name, Pending, Permit, Snapshot,
    Tenure,
};
use crate::mutants::{self, Guard};
use crate::supervise::nesting::{Nested, News};

/// How long the semrun around us may take to prove that it is.
const PROVING: Duration = Duration::from_secs(2);

/// `SEMRUN_HELD`: the permits that are held around us, if that is true.
pub(super) fn held_around() -> Option<String> {
    std::env::var("SEMRUN_HELD").ok().filter(|held| !held.is_empty())
}

/// Those of them that are permits of this semaphore.
pub(super) fn outer_permits(name: &Name) -> Vec<Uuid> {
    let held = Permit::read_held(&held_around().unwrap_or_default());
    held.into_iter().filter(|(_, of)| of == name).map(|(id, _)| id).collect()
}

/// The state of the permits that the environment names.
pub(super) enum Outer {
    /// We are under this one.
    Lease(Box<dyn Lease>),
    /// One is held, but it cannot be proven that its holder is around us.
    Unproven,
    /// None is held any more.
    None,
}

/// Joins a permit that is held around us, the innermost first, if the snapshot shows that it is
/// still held.
pub(super) async fn join(
    backend: &dyn Backend,
    name: &Name,
    outer: &[Uuid],
    snapshot: Snapshot,
) -> Result<Outer, Error> {
    let mut found = Outer::None;
    for id in outer.iter().rev() {
        let Some(permit) = snapshot.held(*id) else { continue };
        let record = snapshot.holder(*id).and_then(Holder::record);
        if record.is_some_and(|record| record.who.detached) {
            // Only the runs under it renew it.
            if let Some(lease) = backend.attach(name, *id).await? {
                return Ok(Outer::Lease(lease));
            }
            continue;
        }
        // A semrun that is stopped or frozen does not answer, and proves nothing.
        let Ok(joined) = timeout(PROVING, Nested::join(*id)).await else {
            found = Outer::Unproven;
            continue;
        };
        let joined = joined.map_err(|error| Error {
            backend: backend.url(),
            attempt: Some(Box::new(Attempt::Join(permit.clone()))),
            cause: error.into(),
        })?;
        match joined {
            Some((nested, news)) => {
                return Ok(Outer::Lease(Box::new(Borrowed::new(permit, nested, news))));
            }
            None => found = Outer::Unproven,
        }
    }
    Ok(found)
}

/// A permit that a semrun around us holds, renews and gives back.
struct Borrowed {
    permit: Permit,
    nested: Nested,
    tenure: Option<watch::Sender<Tenure>>,
}

impl Borrowed {
    fn new(permit: Permit, nested: Nested, news: News) -> Self {
        let tenure = match news {
            News::Held(Some((since, ttl))) => Some(Tenure { since, ttl, trouble: None }),
            News::Held(None) | News::Lost(_) => None,
        };
        let tenure = tenure.filter(|_| !mutants::is_off(Guard::NestedWatch));
        Self { permit, nested, tenure: tenure.map(|tenure| watch::channel(tenure).0) }
    }

    async fn lost(&mut self) -> Lost {
        if mutants::is_off(Guard::NestedWatch) {
            return std::future::pending().await;
        }
        loop {
            let (why, gone) = match self.nested.news().await {
                Ok(Some(News::Held(tenure))) => {
                    if let (Some((since, ttl)), Some(sender)) = (tenure, &self.tenure) {
                        sender.send_replace(Tenure { since, ttl, trouble: None });
                    }
                    continue;
                }
                Ok(Some(News::Lost(gone))) => (Loss::OuterLost, gone),
                // It would give the permit back only after us, so it was killed.
                Ok(None) | Err(_) => (Loss::OuterGone, Gone::Now),
            };
            return Lost { why, gone };
        }
    }
}

impl Lease for Borrowed {
    fn permit(&self) -> &Permit {
        &self.permit
    }

    fn tenure(&self) -> Option<watch::Receiver<Tenure>> {
        self.tenure.as_ref().map(watch::Sender::subscribe)
    }

    fn lost(&mut self) -> Pending<'_, Lost> {
        Box::pin(self.lost())
    }

    /// The command has the descriptor already, unless it was closed on the way here.
    fn inherit(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// It is not ours to give back; the semrun around us learns that we do not need it.
    fn release(self: Box<Self>, _: Duration) -> Pending<'static, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }
}
