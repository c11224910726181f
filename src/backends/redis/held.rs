//! A permit in Redis while it is ours: renewed, lost or given back.

use std::cell::Cell;
use std::future::pending;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::client::{HEARTBEAT, Shared};
use super::script::{Call, Keys, Operation, Reply, Status};
use super::wake::{Heard, hear};
use crate::backends::leased::{self, Leased};
use crate::backends::renewal::{self, Renewed};
use crate::backends::{Gone, Lost, Name, Pending, Permit, StoreError, Tenure};
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
pub(super) struct Grip {
    shared: Rc<Shared>,
    keys: Keys,
    who: Rc<str>,
    id: Uuid,
    token: u64,
    /// What its users agreed upon: a server that has forgotten it learns it from us.
    agreed: Cell<Agreed>,
    /// Until when it stays taken, whatever happens; such a server learns this too.
    kept_until: Moment,
}

impl Grip {
    /// What the server says that we hold.
    pub(super) fn lease(
        shared: Rc<Shared>,
        name: &Name,
        id: Uuid,
        who: Rc<str>,
        reply: &Reply,
    ) -> Leased<Self> {
        let permit = Permit { id, name: name.clone(), token: Some(reply.token) };
        let off = mutants::is_off(Guard::DeadlineFromRequest);
        let since = if off { clock::now() } else { reply.since };
        let tenure = Tenure { since, ttl: reply.ttl, trouble: None };
        let keys = Keys::new(&shared.place.prefix, name);
        let agreed = Cell::new((reply.agreed, reply.ttl, reply.replicas));
        let kept_until = clock::now() + reply.hold;
        let grip = Self { shared, keys, who, id, token: reply.token, agreed, kept_until };
        Leased::new(permit, tenure, grip)
    }

    fn request(&self, operation: Operation) -> Call<'_> {
        let (limit, ttl, replicas) = self.agreed.get();
        Call {
            limit,
            ttl,
            who: &self.who,
            token: self.token,
            hold: self.kept_until.saturating_sub(clock::now()),
            replicas,
            ..Call::of(operation, self.id, &self.shared.place)
        }
    }

    async fn renew(&self) -> Result<Renewed, StoreError> {
        let answer = self.shared.connection.call(&self.keys, &self.request(Operation::Renew)).await;
        let reply = answer?;
        match reply.status {
            Status::Holding => {
                self.agreed.set((reply.agreed, reply.ttl, reply.replicas));
                Ok(Renewed::For(reply.ttl))
            }
            Status::Revoked => Ok(Renewed::Lost(Lost::revoked())),
            _ => Ok(Renewed::Lost(Lost::some_time_ago())),
        }
    }

    /// Returns once the holder is told that it was revoked.
    async fn told(&self, hurry: &Notify) -> Lost {
        loop {
            let list = self.keys.wake(self.id);
            let heard = hear(Rc::clone(&self.shared), list, || hurry.notify_one(), || ()).await;
            // If the error will not pass, the next renewal reports it.
            let Ok(Heard { word, fresh }) = heard else { return pending().await };
            match word.as_str() {
                "gently" => return Lost::revoked(),
                "now" => return Lost::removed(if fresh { Gone::Now } else { Gone::Before }),
                // It was given back; or the word is left over from our time in the queue.
                _ => hurry.notify_one(),
            }
        }
    }
}

impl leased::Grip for Grip {
    fn keep(self: Rc<Self>, tenure: watch::Sender<Tenure>) -> Pending<'static, Lost> {
        Box::pin(async move {
            let attempt = || -> Pending<'_, _> { Box::pin(self.renew()) };
            let hurry = Notify::new();
            let told = async {
                sleep(DEAF).await;
                self.told(&hurry).await
            };
            tokio::select! {
                lost = renewal::keep(self.id, tenure, &hurry, attempt) => lost,
                lost = told => lost,
            }
        })
    }

    fn watch_on(self: Rc<Self>) -> Pending<'static, Lost> {
        Box::pin(async move {
            let hurry = Notify::new();
            let told = async {
                loop {
                    let lost = self.told(&hurry).await;
                    // A renewal may have heard it first.
                    if lost.gone != Gone::NotYet {
                        return lost;
                    }
                }
            };
            let asked = async {
                loop {
                    // Or after a while, where the server lets no client listen.
                    let _ = timeout(HEARTBEAT, hurry.notified()).await;
                    match self.renew().await {
                        Ok(Renewed::Lost(lost)) if lost.gone != Gone::NotYet => return lost,
                        Ok(_) => {}
                        Err(_) => {
                            sleep(ASK_AGAIN).await;
                            hurry.notify_one();
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

    fn give_back(self: Rc<Self>, patience: Duration) -> Pending<'static, Result<(), StoreError>> {
        Box::pin(async move {
            self.shared.withdraw(&self.keys, &self.request(Operation::Release), patience).await
        })
    }

    fn shown(&self) -> &str {
        &self.shared.shown
    }
}
