//! A permit that expires unless it is renewed: a task of its own renews it, and hears when it is
//! revoked.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::inbox::Inbox;
use super::wakeups::Subscription;
use super::{HEARTBEAT, Store, StoreHandle, Wakeup};
use crate::clock::{self, Moment};
use crate::engine::renewal::{Renewed, renew_loop};
use crate::engine::retry::with_retries;
use crate::mutants::{self, Guard};
use crate::permits::Terms;
use crate::permits::{
    BackendError, BoxFuture, ClientInfo, Lease, Loss, LossReason, LossStage, Name, PermitId,
    Revocation, StoreError, Validity,
};
use crate::request::{Operation, Outcome, Reply, Request};

/// For how long a holder does not listen for its revocation: a short command is over by then, and
/// has not paid for a connection.
const QUIET: Duration = Duration::from_secs(1);

/// How often a holder that was revoked, and may have missed a wake-up, asks.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A lease. Dropping it without a release is what a crash does.
pub(super) struct StoreLease<S> {
    held: Arc<Held<S>>,
    permit: PermitId,
    validity: watch::Receiver<Validity>,
    losses: Arc<Inbox<Loss>>,
    task: JoinHandle<()>,
}

/// What is needed to keep a permit and to let it go.
struct Held<S> {
    handle: Arc<StoreHandle<S>>,
    name: Name,
    id: Uuid,
    client: Arc<ClientInfo>,
    token: u64,
    /// What was granted, and when we heard of it. A server learns it in the same way.
    granted: (Terms, Moment),
    agreed: Mutex<Agreed>,
    granted_by: Option<Uuid>,
}

/// What the semaphore's users have agreed on: a server that has forgotten it learns it from us.
#[derive(Clone, Copy)]
struct Agreed {
    terms: Terms,
    replicas: u32,
    /// The start of the lease that the server last gave us.
    since: Moment,
}

impl Agreed {
    fn of(reply: &Reply) -> Self {
        Self { terms: reply.granted_terms(), replicas: reply.replicas, since: reply.since }
    }
}

impl<S: Store> StoreLease<S> {
    /// The lease of a permit that the server says we hold.
    pub(super) fn start(
        handle: Arc<StoreHandle<S>>,
        name: &Name,
        id: Uuid,
        client: Arc<ClientInfo>,
        wakeups: Option<Subscription>,
        reply: &Reply,
    ) -> Self {
        let permit = PermitId { id, name: name.clone(), token: Some(reply.token) };
        let off = mutants::is_off(Guard::DeadlineFromRequest);
        let since = if off { clock::now() } else { reply.since };
        let (sender, validity) =
            watch::channel(Validity { since, ttl: reply.terms.ttl, error: None });
        let agreed = Mutex::new(Agreed::of(reply));
        let granted = (reply.granted_terms(), clock::now());
        let (name, token, granted_by) = (name.clone(), reply.token, reply.server);
        let held = Held { handle, name, id, client, token, granted, agreed, granted_by };
        let held = Arc::new(held);
        let losses = Arc::default();
        let task = tokio::spawn(Arc::clone(&held).keep(wakeups, sender, Arc::clone(&losses)));
        Self { held, permit, validity, losses, task }
    }

    async fn end(self: Box<Self>, how: Operation, patience: Duration) -> Result<(), BackendError> {
        self.task.abort();
        let held = &self.held;
        let request = held.request(how);
        let ended = with_retries(patience, || held.handle.store.execute(&held.name, &request));
        ended.await.map(drop).map_err(|error| {
            let attempt = self.validity.borrow().release_attempt(&self.permit);
            error.while_doing(held.handle.store.url(), attempt)
        })
    }
}

impl<S: Store> Held<S> {
    fn agreed(&self) -> MutexGuard<'_, Agreed> {
        self.agreed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the lease has not ended by our own clock.
    fn is_valid(&self) -> bool {
        let Agreed { terms, since, .. } = *self.agreed();
        clock::now() < since + terms.ttl
    }

    fn request(&self, operation: Operation) -> Request {
        let Agreed { terms: agreed, replicas, .. } = *self.agreed();
        let (granted, heard) = self.granted;
        Request {
            terms: granted.after(clock::now().saturating_sub(heard)).as_agreed(agreed),
            replicas,
            token: self.token,
            listener: self.handle.listener,
            client: Some(Arc::clone(&self.client)),
            ..Request::of(operation, self.id)
        }
    }

    async fn renew(&self) -> Result<Renewed, StoreError> {
        let reply = self.handle.store.execute(&self.name, &self.request(Operation::Renew)).await?;
        match reply.outcome {
            Outcome::Holding => {
                *self.agreed() = Agreed::of(&reply);
                Ok(Renewed::For(reply.terms.ttl))
            }
            Outcome::Revoked => Ok(Renewed::Lost(Loss::revoked())),
            // The server that granted it remembers its leases until they end.
            _ if reply.server.is_some() && reply.server == self.granted_by && self.is_valid() => {
                Ok(Renewed::Lost(Loss { reason: LossReason::GivenBack, stage: LossStage::Now }))
            }
            _ => Ok(Renewed::Lost(self.handle.store.unknown_permit())),
        }
    }

    /// Renews until the permit is lost. One that was revoked gracefully may still be revoked at
    /// once.
    async fn keep(
        self: Arc<Self>,
        wakeups: Option<Subscription>,
        validity: watch::Sender<Validity>,
        losses: Arc<Inbox<Loss>>,
    ) {
        let renew_now = Notify::new();
        let attempt = || -> BoxFuture<'_, _> { Box::pin(self.renew()) };
        // A permit that was waited for goes on to listen.
        let listens = wakeups.as_ref().is_some_and(Subscription::is_listening);
        let quiet = if listens { Duration::ZERO } else { QUIET };
        let mut wakeups = wakeups.unwrap_or_else(|| self.handle.wakeups.subscribe(self.id));
        let told = async {
            sleep(quiet).await;
            self.told(&mut wakeups, &renew_now).await
        };
        let lost = tokio::select! {
            lost = renew_loop(self.id, validity, &renew_now, attempt) => lost,
            lost = told => lost,
        };
        let revoking = lost.stage == LossStage::Revoking;
        losses.put(lost);
        if revoking {
            losses.put(self.forcibly_revoked(&mut wakeups).await);
        }
    }

    /// Returns once a wake-up says that the permit was revoked.
    async fn told(&self, wakeups: &mut Subscription, renew_now: &Notify) -> Loss {
        loop {
            match wakeups.next(&self.handle).await {
                Ok(Wakeup::Revoked { how: Revocation::Graceful, .. }) => return Loss::revoked(),
                Ok(Wakeup::Revoked { how: Revocation::Forced, fresh }) => {
                    let stage = if fresh { LossStage::Now } else { LossStage::Before };
                    return Loss::forcibly_revoked(stage);
                }
                Ok(Wakeup::Released) => {
                    return Loss { reason: LossReason::GivenBack, stage: LossStage::Now };
                }
                // It was released; or the word is left over from our time in the queue.
                Ok(Wakeup::Ask | Wakeup::Missed) => renew_now.notify_one(),
                Ok(Wakeup::Deaf) => {}
                // If the error does not pass, the next renewal reports it.
                Err(_) => return std::future::pending().await,
            }
        }
    }

    async fn forcibly_revoked(&self, wakeups: &mut Subscription) -> Loss {
        let renew_now = Notify::new();
        let told = async {
            loop {
                let lost = self.told(wakeups, &renew_now).await;
                // A renewal may have heard it first.
                if lost.stage != LossStage::Revoking {
                    return lost;
                }
            }
        };
        let asked = async {
            loop {
                // Or after a while, where the server lets no client listen.
                let _ = timeout(HEARTBEAT, renew_now.notified()).await;
                match self.renew().await {
                    Ok(Renewed::Lost(lost)) if lost.stage != LossStage::Revoking => return lost,
                    Ok(_) => {}
                    Err(_) => {
                        sleep(ASK_AGAIN).await;
                        renew_now.notify_one();
                    }
                }
            }
        };
        tokio::select! {
            lost = told => lost,
            lost = asked => lost,
        }
    }
}

impl<S> Drop for StoreLease<S> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<S: Store> Lease for StoreLease<S> {
    fn permit(&self) -> &PermitId {
        &self.permit
    }

    fn validity(&self) -> Option<watch::Receiver<Validity>> {
        Some(self.validity.clone())
    }

    fn lost(&mut self) -> BoxFuture<'_, Loss> {
        Box::pin(self.losses.next())
    }

    fn inherited_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn release(
        self: Box<Self>,
        patience: Duration,
    ) -> BoxFuture<'static, Result<(), BackendError>> {
        Box::pin(self.end(Operation::Release, patience))
    }

    fn discard(
        self: Box<Self>,
        patience: Duration,
    ) -> BoxFuture<'static, Result<(), BackendError>> {
        Box::pin(self.end(Operation::Leave, patience))
    }
}
