//! A client that waits in line for a permit: it asks, listens, and shows that it lives.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::lease::StoreLease;
use super::wakeups::Subscription;
use super::{HEARTBEAT, Store, StoreHandle, Wakeup};
use crate::engine::retry::{
    ATTEMPT_TIMEOUT, Backoff, PreviousError, RETRY_FOR, with_retries, with_timeout,
};
use crate::permits::{
    AcquireRequest, Acquisition, Attempt, BackendError, ClientInfo, Progress, ProgressSender,
    StoreError,
};
use crate::request::{Operation, Outcome, Reply, Request};

/// How long a client that does not wait looks for a server that has enough replicas.
const FOR_REPLICAS: Duration = Duration::from_secs(2);

/// How long a client waits until it has left the queue, and for how long it is tried after that: a
/// waiter that is listed and not there delays those behind it.
const LEAVING: Duration = Duration::from_millis(900);
const LEAVING_LATER: Duration = Duration::from_mins(1);

/// How many missed heartbeats make a waiter dead.
const MISSED: u32 = 3;

/// How many waiters are awake when a lease ends: the first may be dead.
const NEAR: usize = 4;

/// The head start of each of them over the next.
const COURTESY: Duration = Duration::from_millis(30);

/// How often the first in line looks while foreign clients hold permits: they wake no waiter.
const FOREIGN: Duration = Duration::from_millis(250);

/// One acquisition, until it has led to a permit.
pub(super) struct Acquire<'a, S: Store> {
    handle: &'a Arc<StoreHandle<S>>,
    wanted: &'a AcquireRequest,
    progress: &'a ProgressSender,
    client: Arc<ClientInfo>,
    /// Whether any request had a result.
    outcome: bool,
    /// Whether the server may know of us, so that there may be something to leave.
    asked: bool,
    ticket: u64,
    seal: String,
    /// How many replicas the semaphore's users need, as far as we know.
    replicas: u32,
    shown: WarningsShown,
    /// From the first request on.
    wakeups: Option<Subscription>,
}

/// What the user has been told already.
#[derive(Default)]
struct WarningsShown {
    limit: Option<u32>,
    ttl: Option<Duration>,
    foreign: bool,
    blind: bool,
}

impl<'a, S: Store> Acquire<'a, S> {
    pub(super) fn new(
        handle: &'a Arc<StoreHandle<S>>,
        wanted: &'a AcquireRequest,
        progress: &'a ProgressSender,
    ) -> Self {
        Self {
            handle,
            wanted,
            progress,
            client: Arc::new(wanted.who.clone()),
            outcome: false,
            asked: false,
            ticket: 0,
            seal: String::new(),
            replicas: 0,
            shown: WarningsShown::default(),
            wakeups: None,
        }
    }

    /// What is asked now.
    pub(super) fn request(&self) -> Request {
        let ttl = self.shown.ttl.unwrap_or(self.wanted.terms.ttl);
        Request {
            terms: self.wanted.terms,
            nonblock: self.wanted.nonblock,
            replicas: self.replicas,
            window: heartbeat(ttl) * MISSED,
            ticket: self.ticket,
            seal: self.seal.clone(),
            listener: self.handle.listener,
            client: Some(Arc::clone(&self.client)),
            ..Request::of(Operation::Acquire, self.wanted.id)
        }
    }

    /// Waits in turn.
    pub(super) async fn run(&mut self) -> Result<Acquisition, BackendError> {
        // A wake-up may come before the answer to the request.
        self.wakeups = Some(self.handle.wakeups.subscribe(self.wanted.id));
        let mut backoff = Backoff::new();
        let begin = Instant::now();
        let give_up = begin + RETRY_FOR;
        let mut waits = false;
        let mut before = PreviousError::default();
        loop {
            let left = give_up.saturating_duration_since(Instant::now());
            let time = if waits { ATTEMPT_TIMEOUT } else { ATTEMPT_TIMEOUT.min(left) };
            let request = self.request();
            self.asked = true;
            let answer =
                with_timeout(time, self.handle.store.execute(&self.wanted.name, &request)).await;
            self.outcome = true;
            let reply = match answer {
                Ok(reply) => reply,
                Err(error) => {
                    let again = before.any();
                    let error = before.or(error, time);
                    let nonblock = self.wanted.nonblock;
                    let over = if let StoreError::Withheld(why) = error {
                        // The address may move to a server that has them.
                        waits |= !nonblock;
                        if waits {
                            self.progress.tell(Progress::Withheld(why));
                        }
                        nonblock && begin.elapsed() >= FOR_REPLICAS
                    } else {
                        let over = self.handle.store.gives_up(&error, waits) || nonblock;
                        if !over {
                            self.tell_trouble(error.clone(), waits && again);
                        }
                        over
                    };
                    // We may be listening to a server that is not the primary any more.
                    if let Some(wakeups) = &mut self.wakeups {
                        wakeups.pause();
                    }
                    if over || !backoff.sleep_while(waits, give_up).await {
                        return Err(self.cannot_acquire(error));
                    }
                    continue;
                }
            };
            (backoff, before) = (Backoff::new(), PreviousError::default());
            self.replicas = self.replicas.max(reply.replicas);
            if matches!(reply.outcome, Outcome::Holding | Outcome::Waiting | Outcome::Busy) {
                self.tell(&reply);
            }
            match reply.outcome {
                Outcome::Holding => {
                    self.asked = false;
                    return Ok(Acquisition::Granted(Box::new(self.lease(&reply))));
                }
                Outcome::Busy => {
                    let Some(why) = reply.withheld() else { return Ok(Acquisition::Busy) };
                    return Err(self.cannot_acquire(StoreError::Withheld(why)));
                }
                Outcome::Differs => {
                    let differs = StoreError::differs(self.wanted, reply.terms, reply.pinned);
                    return Err(self.cannot_acquire(differs));
                }
                Outcome::Waiting => {
                    self.progress.tell(Progress::Queued(reply.queue_status()));
                    (self.ticket, self.seal, waits) = (reply.ticket, reply.seal, true);
                    if let Err(error) = self.wait(reply.next, heartbeat(reply.terms.ttl)).await {
                        return Err(self.error(Attempt::Listen, error));
                    }
                }
                // The permit was released or revoked before we knew of it.
                Outcome::Revoked | Outcome::Released | Outcome::Done | Outcome::Lost => {
                    return Err(self.error(Attempt::Wait, StoreError::Withdrawn));
                }
            }
        }
    }

    fn error(&self, attempt: Attempt, error: StoreError) -> BackendError {
        error.while_doing(self.handle.store.url(), attempt)
    }

    fn cannot_acquire(&self, error: StoreError) -> BackendError {
        self.error(Attempt::Acquire(self.wanted.name.clone()), error)
    }

    fn tell_trouble(&self, what: StoreError, may_last: bool) {
        self.progress.tell(Progress::Trouble { what, may_last });
    }

    /// Tells what the user did not ask for, each thing once.
    fn tell(&mut self, reply: &Reply) {
        let (asked, stands) = (self.wanted.terms, reply.terms);
        let news = self.shown.limit.replace(stands.limit) != Some(stands.limit);
        if news && stands.limit != asked.limit && !asked.strict {
            let (asked, stands, pinned) = (asked.limit, stands.limit, reply.pinned);
            self.progress.tell(Progress::Limit { asked, stands, pinned });
        }
        let news = self.shown.ttl.replace(stands.ttl) != Some(stands.ttl);
        if news && stands.ttl != asked.ttl && !asked.strict {
            self.progress.tell(Progress::Ttl { asked: asked.ttl, stands: stands.ttl });
        }
        if reply.foreign > 0 && !self.shown.foreign {
            self.shown.foreign = true;
            self.progress.tell(Progress::Foreign { ttl: stands.ttl });
        }
        if reply.blind && !self.shown.blind {
            self.shown.blind = true;
            self.progress.tell(Progress::Blind);
        }
    }

    /// Waits until it is worth to ask again: a permit was left for us, a lease ends, or the others
    /// have to see that we still wait.
    async fn wait(
        &mut self,
        next: Option<Duration>,
        heartbeat: Duration,
    ) -> Result<(), StoreError> {
        let until = next.map(|next| Instant::now() + next);
        loop {
            let wakeup = tokio::select! {
                wakeup = next_wakeup(&mut self.wakeups, self.handle) => wakeup,
                () = at(until) => return Ok(()),
            };
            match wakeup {
                Ok(Wakeup::Ask | Wakeup::Released | Wakeup::Revoked { .. }) => return Ok(()),
                Ok(Wakeup::Missed) => {}
                Ok(Wakeup::Deaf) => self.progress.tell(Progress::Deaf { heartbeat }),
                Err(error) => return Err(error),
            }
        }
    }

    fn lease(&mut self, reply: &Reply) -> StoreLease<S> {
        let (handle, client) = (Arc::clone(self.handle), Arc::clone(&self.client));
        let wakeups = self.wakeups.take();
        StoreLease::start(handle, &self.wanted.name, self.wanted.id, client, wakeups, reply)
    }

    /// Leaves the queue because the user has waited for long enough; says so if it is not known
    /// whether there was any sense in waiting.
    pub(super) async fn call_off(&mut self) {
        let left = self.leave().await;
        if let Err(error) = left {
            self.tell_trouble(error, false);
        } else if !self.outcome {
            self.tell_trouble(StoreError::Silent, false);
        }
    }

    /// Leaves the queue, or releases a permit that was granted at the same moment. Where that fails
    /// it is tried again in the background.
    pub(super) async fn leave(&mut self) -> Result<(), StoreError> {
        self.wakeups = None;
        if !self.handle.store.has_reached() {
            return Ok(());
        }
        let request = self.leaving();
        let left = with_retries(LEAVING, || self.handle.store.execute(&self.wanted.name, &request));
        let left = left.await;
        self.asked = left.is_err();
        left.map(drop)
    }

    fn leaving(&self) -> Request {
        Request { operation: Operation::Leave, ..self.request() }
    }
}

/// A future that is dropped while it waits must not stay in the queue as long as its client lives.
impl<S: Store> Drop for Acquire<'_, S> {
    fn drop(&mut self) {
        if self.asked
            && self.handle.store.has_reached()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (handle, name) = (Arc::clone(self.handle), self.wanted.name.clone());
            let request = self.leaving();
            runtime.spawn(async move {
                let left = with_retries(LEAVING_LATER, || handle.store.execute(&name, &request));
                left.await.map(drop)
            });
        }
    }
}

async fn next_wakeup<S: Store>(
    wakeups: &mut Option<Subscription>,
    handle: &Arc<StoreHandle<S>>,
) -> Result<Wakeup, StoreError> {
    match wakeups {
        Some(wakeups) => wakeups.next(handle).await,
        None => std::future::pending().await,
    }
}

fn heartbeat(ttl: Duration) -> Duration {
    HEARTBEAT.min(ttl / 2)
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// How long until a waiter has to ask again, in a store where waiters show that they live by asking
/// and see to it themselves that a lease ends.
pub(crate) fn ask_again(reply: &Reply) -> Duration {
    let mut until = heartbeat(reply.terms.ttl);
    if let Some(next) = reply.next
        && reply.ahead < NEAR
    {
        let courtesy = COURTESY * u32::try_from(reply.ahead).unwrap_or(0);
        until = until.min(next + Duration::from_millis(2) + courtesy);
    }
    if reply.foreign > 0 && reply.ahead == 0 {
        until = until.min(FOREIGN);
    }
    until
}
