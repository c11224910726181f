//! A permit in Redis while it is ours: renewed, lost or given back.

use std::cell::Cell;
use std::future::pending;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::script::{Operation, Reply, ReplyStatus, Request, SemaphoreKeys};
use super::server::{HEARTBEAT, ServerHandle};
use super::wakeup::{WakeupMessage, listen};
use crate::backends::lease::{self, RenewingLease};
use crate::backends::renewal::{self, Renewed};
use crate::backends::{LocalFuture, Loss, LossStage, Name, Permit, StoreError, Validity};
use crate::clock::{self, Moment};
use crate::mutants::{self, Guard};

/// For how long a new holder does not listen for its revocation: a short command is over by then,
/// and has not paid for a connection.
const DEAF: Duration = Duration::from_secs(1);

/// How long a revoked holder waits before it repeats a renewal that failed.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The limit, the TTL and the number of replicas in step that the users of a semaphore agreed upon.
type Agreed = (u32, Duration, u32);

/// What is needed to keep a permit and to let it go.
pub(super) struct RedisLease {
    server: Rc<ServerHandle>,
    keys: SemaphoreKeys,
    who: Rc<str>,
    id: Uuid,
    token: u64,
    /// What its users agreed upon: a server that has forgotten it learns it from us.
    agreed: Cell<Agreed>,
    /// Until when it stays taken, whatever happens; such a server learns this too.
    kept_until: Moment,
}

impl RedisLease {
    /// What the server says that we hold.
    pub(super) fn lease(
        server: Rc<ServerHandle>,
        name: &Name,
        id: Uuid,
        who: Rc<str>,
        reply: &Reply,
    ) -> RenewingLease<Self> {
        let permit = Permit { id, name: name.clone(), token: Some(reply.token) };
        let off = mutants::is_off(Guard::DeadlineFromRequest);
        let since = if off { clock::now() } else { reply.since };
        let validity = Validity { since, ttl: reply.ttl, error: None };
        let keys = SemaphoreKeys::new(&server.config.prefix, name);
        let agreed = Cell::new((reply.agreed, reply.ttl, reply.replicas));
        let kept_until = clock::now() + reply.hold;
        let lease = Self { server, keys, who, id, token: reply.token, agreed, kept_until };
        RenewingLease::new(permit, validity, lease)
    }

    fn request(&self, operation: Operation) -> Request<'_> {
        let (limit, ttl, replicas) = self.agreed.get();
        Request {
            limit,
            ttl,
            who: &self.who,
            token: self.token,
            hold: self.kept_until.saturating_sub(clock::now()),
            replicas,
            ..Request::of(operation, self.id, &self.server.config)
        }
    }

    async fn renew(&self) -> Result<Renewed, StoreError> {
        let answer = self.server.connection.call(&self.keys, &self.request(Operation::Renew)).await;
        let reply = answer?;
        match reply.status {
            ReplyStatus::Holding => {
                self.agreed.set((reply.agreed, reply.ttl, reply.replicas));
                Ok(Renewed::For(reply.ttl))
            }
            ReplyStatus::Revoked => Ok(Renewed::Lost(Loss::revoked())),
            _ => Ok(Renewed::Lost(Loss::unknown_to_server())),
        }
    }

    /// Returns once the holder is told that it was revoked.
    async fn told(&self, renew_now: &Notify) -> Loss {
        loop {
            let list = self.keys.wake(self.id);
            let heard =
                listen(Rc::clone(&self.server), list, || renew_now.notify_one(), || ()).await;
            // If the error will not pass, the next renewal reports it.
            let Ok(WakeupMessage { word, fresh }) = heard else { return pending().await };
            match word.as_str() {
                "gently" => return Loss::revoked(),
                "now" => {
                    return Loss::forcibly_revoked(if fresh {
                        LossStage::Now
                    } else {
                        LossStage::Before
                    });
                }
                // It was given back; or the word is left over from our time in the queue.
                _ => renew_now.notify_one(),
            }
        }
    }
}

impl lease::LeaseOps for RedisLease {
    fn renew_until_lost(
        self: Rc<Self>,
        validity: watch::Sender<Validity>,
    ) -> LocalFuture<'static, Loss> {
        Box::pin(async move {
            let attempt = || -> LocalFuture<'_, _> { Box::pin(self.renew()) };
            let renew_now = Notify::new();
            let told = async {
                sleep(DEAF).await;
                self.told(&renew_now).await
            };
            tokio::select! {
                lost = renewal::renew_loop(self.id, validity, &renew_now, attempt) => lost,
                lost = told => lost,
            }
        })
    }

    fn until_forcibly_revoked(self: Rc<Self>) -> LocalFuture<'static, Loss> {
        Box::pin(async move {
            let renew_now = Notify::new();
            let told = async {
                loop {
                    let lost = self.told(&renew_now).await;
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
                        Ok(Renewed::Lost(lost)) if lost.stage != LossStage::Revoking => {
                            return lost;
                        }
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
        })
    }

    fn release(self: Rc<Self>, patience: Duration) -> LocalFuture<'static, Result<(), StoreError>> {
        Box::pin(async move {
            self.server.release(&self.keys, &self.request(Operation::Release), patience).await
        })
    }

    fn shown(&self) -> &str {
        &self.server.shown
    }
}
