//! Waiting for a permit of a semaphore in Redis: in turn, woken by the grant, and reporting to the
//! server while it waits.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::lease::RedisLease;
use super::script::{Operation, Reply, ReplyStatus, Request, SemaphoreKeys};
use super::server::{HEARTBEAT, ServerHandle};
use super::wakeup::{WakeupMessage, listen};
use crate::backends::lease::RenewingLease;
use crate::backends::retry::{ATTEMPT_TIMEOUT, Backoff, PreviousError, RETRY_FOR, with_timeout};
use crate::backends::{
    AcquireRequest, Acquisition, Attempt, ClientInfo, Error, LocalFuture, Progress, ProgressSender,
    QueueStatus, StoreError,
};

/// How long a client that does not wait tries to find a server that has enough replicas.
const FOR_REPLICAS: Duration = Duration::from_secs(2);

/// How long leaving the queue may take.
const LEAVING: Duration = Duration::from_millis(900);

/// How many missed heartbeats make a waiter dead.
const MISSED: u32 = 3;

/// How many of those in line are awake when a lease ends: the first may be dead.
const NEAR: usize = 4;

/// How long each of them leaves to the one before it.
const COURTESY: Duration = Duration::from_millis(30);

/// How often the first in line looks while foreign clients hold permits: they wake no waiter.
const FOREIGN: Duration = Duration::from_millis(250);

/// A client that asks, until it has a permit.
pub(super) struct RedisAcquire<'a> {
    server: Rc<ServerHandle>,
    keys: SemaphoreKeys,
    request: &'a AcquireRequest,
    progress: &'a ProgressSender,
    who: Rc<str>,
    /// Whether a request was ever answered.
    outcome: bool,
    ticket: u64,
    /// How many replicas its users need, as far as we know.
    replicas: u32,
    told: WarningsShown,
    wake: Option<LocalFuture<'static, Result<WakeupMessage, StoreError>>>,
}

/// What the user has heard already.
#[derive(Default)]
struct WarningsShown {
    limit: Option<u32>,
    ttl: Option<Duration>,
    foreign: bool,
    blind: bool,
}

impl<'a> RedisAcquire<'a> {
    pub(super) fn new(
        server: Rc<ServerHandle>,
        request: &'a AcquireRequest,
        progress: &'a ProgressSender,
    ) -> Self {
        let keys = SemaphoreKeys::new(&server.config.prefix, &request.name);
        let replicas = server.config.replicas;
        Self {
            server,
            keys,
            request,
            progress,
            who: describe(&request.who),
            outcome: false,
            ticket: 0,
            replicas,
            told: WarningsShown::default(),
            wake: None,
        }
    }

    /// Sends the first question, which [`RedisAcquire::run`] of one like this then only waits for.
    pub(super) fn prefetch(&self) {
        let condition = self.server.condition();
        let call = self.call(Operation::Ask);
        self.server.connection.begin_call(&self.keys, &call, condition.as_ref());
    }

    /// Waits in turn.
    pub(super) async fn run(&mut self) -> Result<Acquisition, Error> {
        let mut backoff = Backoff::new();
        let begin = Instant::now();
        let give_up = begin + RETRY_FOR;
        let (mut checked, mut waits) = (false, false);
        let mut before = PreviousError::default();
        loop {
            let server = Rc::clone(&self.server);
            let left = give_up.saturating_duration_since(Instant::now());
            let time = if waits { ATTEMPT_TIMEOUT } else { ATTEMPT_TIMEOUT.min(left) };
            // At once with the first attempt; what comes of that is not used before it is known.
            let condition = server.condition().filter(|_| !checked);
            let call = self.call(Operation::Ask);
            let attempt = async {
                let called = server.connection.call_beside(&self.keys, &call, condition.as_ref());
                let (reply, condition) = called.await?;
                condition.map_or(Ok(()), ServerHandle::check_eviction)?;
                checked = true;
                Ok(reply)
            };
            let answer = with_timeout(time, attempt).await;
            self.outcome = true;
            let reply = match answer {
                Ok(reply) => reply,
                Err(error) => {
                    let again = before.any();
                    let error = before.or(error, time);
                    let nonblock = self.request.nonblock;
                    let over = if let StoreError::Withheld(why) = error {
                        // The address may move to a server that has enough replicas.
                        waits |= !nonblock;
                        if waits {
                            self.progress.tell(Progress::Withheld(why));
                        }
                        nonblock && begin.elapsed() >= FOR_REPLICAS
                    } else {
                        let over = error.is_permanent() || nonblock;
                        if !over {
                            self.tell_trouble(error.clone(), waits && again);
                        }
                        over
                    };
                    // It may listen to a server that is not the primary any more.
                    self.wake = None;
                    if over || !backoff.sleep_while(waits, give_up).await {
                        return Err(self.cannot_acquire(error));
                    }
                    continue;
                }
            };
            (backoff, before) = (Backoff::new(), PreviousError::default());
            self.replicas = self.replicas.max(reply.replicas);
            if matches!(
                reply.status,
                ReplyStatus::Holding | ReplyStatus::Waiting | ReplyStatus::Busy
            ) {
                self.tell(&reply);
            }
            match reply.status {
                ReplyStatus::Holding => {
                    return Ok(Acquisition::Granted(Box::new(self.claim(&reply))));
                }
                ReplyStatus::Busy => {
                    let Some(why) = reply.withheld() else { return Ok(Acquisition::Busy) };
                    return Err(self.cannot_acquire(StoreError::Withheld(why)));
                }
                ReplyStatus::Differs => {
                    let Reply { limit, pinned, ttl, .. } = reply;
                    let differs = StoreError::differs(self.request, limit, pinned, ttl);
                    return Err(self.cannot_acquire(differs));
                }
                ReplyStatus::Waiting => {
                    (self.ticket, waits) = (reply.ticket, true);
                    self.progress.tell(Progress::Queued(QueueStatus {
                        ahead: reply.ahead,
                        held: reply.held,
                        holder: reply.whose.clone(),
                        key: None,
                        kept_until: reply.kept_until,
                        withheld: reply.withheld(),
                    }));
                    if let Err(error) = self.wait(&reply).await {
                        return Err(self.server.error(Attempt::Listen, error));
                    }
                }
                // Our request was given back or revoked before we got the permit.
                _ => return Err(self.server.error(Attempt::Wait, StoreError::Withdrawn)),
            }
        }
    }

    fn call(&self, operation: Operation) -> Request<'_> {
        let ttl = self.told.ttl.unwrap_or(self.request.ttl);
        Request {
            limit: self.request.limit,
            ttl: self.request.ttl,
            who: &self.who,
            ticket: self.ticket,
            window: heartbeat(ttl) * MISSED,
            nonblock: self.request.nonblock,
            strict: self.request.strict,
            hold: self.request.min_hold,
            replicas: self.replicas,
            ..Request::of(operation, self.request.id, &self.server.config)
        }
    }

    fn cannot_acquire(&self, error: StoreError) -> Error {
        self.server.error(Attempt::Acquire(self.request.name.clone()), error)
    }

    fn tell_trouble(&self, what: StoreError, may_last: bool) {
        self.progress.tell(Progress::Trouble { what, may_last });
    }

    /// Tells the user what differs from the request, each thing once.
    fn tell(&mut self, reply: &Reply) {
        let AcquireRequest { limit, ttl, strict, .. } = *self.request;
        let news = self.told.limit.replace(reply.limit) != Some(reply.limit);
        if news && reply.limit != limit && !strict {
            let (stands, pinned) = (reply.limit, reply.pinned);
            self.progress.tell(Progress::Limit { asked: limit, stands, pinned });
        }
        let news = self.told.ttl.replace(reply.ttl) != Some(reply.ttl);
        if news && reply.ttl != ttl && !strict {
            self.progress.tell(Progress::Ttl { asked: ttl, stands: reply.ttl });
        }
        if reply.foreign > 0 && !self.told.foreign {
            self.told.foreign = true;
            self.progress.tell(Progress::Foreign { ttl: reply.ttl });
        }
        if reply.blind && !self.told.blind {
            self.told.blind = true;
            self.progress.tell(Progress::Blind);
        }
    }

    /// Waits until it is worth to ask again: a permit is granted to us, a lease ends, or the others
    /// have to see that we are still there.
    async fn wait(&mut self, reply: &Reply) -> Result<(), StoreError> {
        let heartbeat = heartbeat(reply.ttl);
        let mut until = heartbeat;
        if let Some(next) = reply.next
            && reply.ahead < NEAR
        {
            let courtesy = COURTESY * u32::try_from(reply.ahead).unwrap_or(0);
            until = until.min(next + Duration::from_millis(2) + courtesy);
        }
        if reply.foreign > 0 && reply.ahead == 0 {
            until = until.min(FOREIGN);
        }
        let server = &self.server;
        let list = self.keys.wake(self.request.id);
        let progress = self.progress.clone();
        let deaf = move || progress.tell(Progress::Deaf { heartbeat });
        let wake =
            self.wake.get_or_insert_with(|| Box::pin(listen(Rc::clone(server), list, || (), deaf)));
        tokio::select! {
            woken = wake => {
                self.wake = None;
                woken.map(drop)
            }
            () = sleep(until) => Ok(()),
        }
    }

    fn claim(&self, reply: &Reply) -> RenewingLease<RedisLease> {
        let server = Rc::clone(&self.server);
        RedisLease::lease(server, &self.request.name, self.request.id, Rc::clone(&self.who), reply)
    }

    /// Leaves the queue because the client waits no longer. Reports a failure, and a server that
    /// never answered.
    pub(super) async fn call_off(&mut self) {
        let left = self.leave().await;
        if let Err(error) = left {
            self.tell_trouble(error, false);
        } else if !self.outcome {
            self.tell_trouble(StoreError::Silent, false);
        }
    }

    /// Leaves the queue, or gives back a permit that we were given at the same moment.
    /// Where that fails, we do not count any more after three missed heartbeats.
    pub(super) async fn leave(&mut self) -> Result<(), StoreError> {
        self.wake = None;
        if !self.server.connection.has_reached() {
            return Ok(());
        }
        let call = self.call(Operation::Leave);
        self.server.release(&self.keys, &call, LEAVING).await
    }
}

fn heartbeat(ttl: Duration) -> Duration {
    HEARTBEAT.min(ttl / 2)
}

/// As the script keeps it.
pub(super) fn describe(who: &ClientInfo) -> Rc<str> {
    serde_json::to_string(who).expect("plain text").into()
}
