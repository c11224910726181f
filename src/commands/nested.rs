//! Running under a permit that is held around this process: one of a semrun whose command we descend
//! from, or a detached one that the environment names.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use uuid::Uuid;

use crate::mutants::{self, Guard};
use crate::permits::{
    Attempt, Backend, BackendError, BoxFuture, Holder, Lease, Loss, LossReason, LossStage, Name,
    PermitId, SemaphoreSnapshot, Validity,
};
use crate::supervise::nesting_channel::{Nested, OuterNews};

/// How long the semrun around us may take to prove that it is.
const PROVING: Duration = Duration::from_secs(2);

/// `SEMRUN_HELD`: the permits that are held around us, if that is true.
pub(super) fn held_around() -> Option<String> {
    std::env::var("SEMRUN_HELD").ok().filter(|held| !held.is_empty())
}

/// Those of them that are permits of this semaphore.
pub(super) fn outer_permits(name: &Name) -> Vec<Uuid> {
    let held = PermitId::read_held(&held_around().unwrap_or_default());
    held.into_iter().filter(|(_, of)| of == name).map(|(id, _)| id).collect()
}

/// The state of the permits that the environment names.
pub(super) enum OuterPermit {
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
    snapshot: SemaphoreSnapshot,
) -> Result<OuterPermit, BackendError> {
    let mut found = OuterPermit::None;
    for id in outer.iter().rev() {
        let Some(permit) = snapshot.held(*id) else { continue };
        let record = snapshot.holder(*id).and_then(Holder::record);
        if record.is_some_and(|record| record.who.detached) {
            // Only the runs under it renew it.
            if let Some(lease) = backend.attach(name, *id).await? {
                return Ok(OuterPermit::Lease(lease));
            }
            continue;
        }
        // A semrun that is stopped or frozen does not answer, and proves nothing.
        let Ok(joined) = timeout(PROVING, Nested::join(*id)).await else {
            found = OuterPermit::Unproven;
            continue;
        };
        let joined = joined.map_err(|error| BackendError {
            backend: backend.url(),
            attempt: Some(Box::new(Attempt::Join(permit.clone()))),
            cause: error.into(),
        })?;
        match joined {
            Some((nested, news)) => {
                return Ok(OuterPermit::Lease(Box::new(NestedLease::new(permit, nested, news))));
            }
            None => found = OuterPermit::Unproven,
        }
    }
    Ok(found)
}

/// A permit that a semrun around us holds, renews and gives back.
struct NestedLease {
    permit: PermitId,
    nested: Nested,
    tenure: Option<watch::Sender<Validity>>,
}

impl NestedLease {
    fn new(permit: PermitId, nested: Nested, news: OuterNews) -> Self {
        let tenure = match news {
            OuterNews::Held(Some((since, ttl))) => Some(Validity { since, ttl, error: None }),
            OuterNews::Held(None) | OuterNews::Lost(_) => None,
        };
        let tenure = tenure.filter(|_| !mutants::is_off(Guard::NestedWatch));
        Self { permit, nested, tenure: tenure.map(|tenure| watch::channel(tenure).0) }
    }

    async fn lost(&mut self) -> Loss {
        if mutants::is_off(Guard::NestedWatch) {
            return std::future::pending().await;
        }
        loop {
            let (why, gone) = match self.nested.next_news().await {
                Ok(Some(OuterNews::Held(tenure))) => {
                    if let (Some((since, ttl)), Some(sender)) = (tenure, &self.tenure) {
                        sender.send_replace(Validity { since, ttl, error: None });
                    }
                    continue;
                }
                Ok(Some(OuterNews::Lost(gone))) => (LossReason::OuterLost, gone),
                // It would give the permit back only after us, so it was killed.
                Ok(None) | Err(_) => (LossReason::OuterGone, LossStage::Now),
            };
            return Loss { reason: why, stage: gone };
        }
    }
}

impl Lease for NestedLease {
    fn permit(&self) -> &PermitId {
        &self.permit
    }

    fn validity(&self) -> Option<watch::Receiver<Validity>> {
        self.tenure.as_ref().map(watch::Sender::subscribe)
    }

    fn lost(&mut self) -> BoxFuture<'_, Loss> {
        Box::pin(self.lost())
    }

    /// The command has the descriptor already, unless it was closed on the way here.
    fn inherited_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// It is not ours to give back; the semrun around us learns that we do not need it.
    fn release(self: Box<Self>, _: Duration) -> BoxFuture<'static, Result<(), BackendError>> {
        Box::pin(async { Ok(()) })
    }
}
