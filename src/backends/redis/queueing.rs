//! Waiting for a permit of a semaphore in Redis: in turn, woken by the grant, and reporting to the
//! server while it waits.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::client::{HEARTBEAT, Shared};
use super::held::Grip;
use super::script::{Call, Keys, Operation, Reply, Status};
use super::wake::{Heard, hear};
use crate::backends::leased::Leased;
use crate::backends::retry::{Before, CONNECTING, Pause, TRY_ON, within};
use crate::backends::{
    Acquired, Ask, Attempt, Error, Notice, Pending, Standing, StoreError, Turn, Who,
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
pub(super) struct Queueing<'a> {
    shared: Rc<Shared>,
    keys: Keys,
    ask: &'a Ask,
    turn: &'a Turn,
    who: Rc<str>,
    /// Whether a request was ever answered.
    outcome: bool,
    ticket: u64,
    /// How many replicas its users need, as far as we know.
    replicas: u32,
    told: Told,
    wake: Option<Pending<'static, Result<Heard, StoreError>>>,
}

/// What the user has heard already.
#[derive(Default)]
struct Told {
    limit: Option<u32>,
    ttl: Option<Duration>,
    foreign: bool,
    blind: bool,
}

impl<'a> Queueing<'a> {
    pub(super) fn new(shared: Rc<Shared>, ask: &'a Ask, turn: &'a Turn) -> Self {
        let keys = Keys::new(&shared.place.prefix, &ask.name);
        let replicas = shared.place.replicas;
        Self {
            shared,
            keys,
            ask,
            turn,
            who: describe(&ask.who),
            outcome: false,
            ticket: 0,
            replicas,
            told: Told::default(),
            wake: None,
        }
    }

    /// Sends the first question, which [`Queueing::advance`] of one like this then only waits for.
    pub(super) fn begin(&self) {
        let condition = self.shared.condition();
        let call = self.call(Operation::Ask);
        self.shared.connection.begin_call(&self.keys, &call, condition.as_ref());
    }

    /// Waits in turn.
    pub(super) async fn advance(&mut self) -> Result<Acquired, Error> {
        let mut pause = Pause::new();
        let begin = Instant::now();
        let give_up = begin + TRY_ON;
        let (mut checked, mut waits) = (false, false);
        let mut before = Before::default();
        loop {
            let shared = Rc::clone(&self.shared);
            let left = give_up.saturating_duration_since(Instant::now());
            let time = if waits { CONNECTING } else { CONNECTING.min(left) };
            // At once with the first attempt; what comes of that is not used before it is known.
            let condition = shared.condition().filter(|_| !checked);
            let call = self.call(Operation::Ask);
            let attempt = async {
                let called = shared.connection.call_beside(&self.keys, &call, condition.as_ref());
                let (reply, condition) = called.await?;
                condition.map_or(Ok(()), Shared::check_eviction)?;
                checked = true;
                Ok(reply)
            };
            let answer = within(time, attempt).await;
            self.outcome = true;
            let reply = match answer {
                Ok(reply) => reply,
                Err(trouble) => {
                    let again = before.any();
                    let trouble = before.or(trouble, time);
                    let nonblock = self.ask.nonblock;
                    let over = if let StoreError::Withheld(why) = trouble {
                        // The address may move to a server that has enough replicas.
                        waits |= !nonblock;
                        if waits {
                            self.turn.tell(Notice::Withheld(why));
                        }
                        nonblock && begin.elapsed() >= FOR_REPLICAS
                    } else {
                        let over = trouble.lasts() || nonblock;
                        if !over {
                            self.tell_trouble(trouble.clone(), waits && again);
                        }
                        over
                    };
                    // It may listen to a server that is not the primary any more.
                    self.wake = None;
                    if over || !pause.sleep_while(waits, give_up).await {
                        return Err(self.cannot_acquire(trouble));
                    }
                    continue;
                }
            };
            (pause, before) = (Pause::new(), Before::default());
            self.replicas = self.replicas.max(reply.replicas);
            if matches!(reply.status, Status::Holding | Status::Waiting | Status::Busy) {
                self.tell(&reply);
            }
            match reply.status {
                Status::Holding => return Ok(Acquired::Granted(Box::new(self.claim(&reply)))),
                Status::Busy => {
                    let Some(why) = reply.withheld() else { return Ok(Acquired::Busy) };
                    return Err(self.cannot_acquire(StoreError::Withheld(why)));
                }
                Status::Differs => {
                    let Reply { limit, pinned, ttl, .. } = reply;
                    let differs = StoreError::differs(self.ask, limit, pinned, ttl);
                    return Err(self.cannot_acquire(differs));
                }
                Status::Waiting => {
                    (self.ticket, waits) = (reply.ticket, true);
                    self.turn.tell(Notice::Queued(Standing {
                        ahead: reply.ahead,
                        held: reply.held,
                        holder: reply.whose.clone(),
                        key: None,
                        kept_until: reply.kept_until,
                        withheld: reply.withheld(),
                    }));
                    if let Err(error) = self.wait(&reply).await {
                        return Err(self.shared.error(Attempt::Listen, error));
                    }
                }
                // Our request was given back or revoked before we got the permit.
                _ => return Err(self.shared.error(Attempt::Wait, StoreError::Withdrawn)),
            }
        }
    }

    fn call(&self, operation: Operation) -> Call<'_> {
        let ttl = self.told.ttl.unwrap_or(self.ask.ttl);
        Call {
            limit: self.ask.limit,
            ttl: self.ask.ttl,
            who: &self.who,
            ticket: self.ticket,
            window: heartbeat(ttl) * MISSED,
            nonblock: self.ask.nonblock,
            strict: self.ask.strict,
            hold: self.ask.min_hold,
            replicas: self.replicas,
            ..Call::of(operation, self.ask.id, &self.shared.place)
        }
    }

    fn cannot_acquire(&self, error: StoreError) -> Error {
        self.shared.error(Attempt::Acquire(self.ask.name.clone()), error)
    }

    fn tell_trouble(&self, what: StoreError, may_last: bool) {
        self.turn.tell(Notice::Trouble { what, may_last });
    }

    /// Tells the user what differs from the request, each thing once.
    fn tell(&mut self, reply: &Reply) {
        let Ask { limit, ttl, strict, .. } = *self.ask;
        let news = self.told.limit.replace(reply.limit) != Some(reply.limit);
        if news && reply.limit != limit && !strict {
            let (stands, pinned) = (reply.limit, reply.pinned);
            self.turn.tell(Notice::Limit { asked: limit, stands, pinned });
        }
        let news = self.told.ttl.replace(reply.ttl) != Some(reply.ttl);
        if news && reply.ttl != ttl && !strict {
            self.turn.tell(Notice::Ttl { asked: ttl, stands: reply.ttl });
        }
        if reply.foreign > 0 && !self.told.foreign {
            self.told.foreign = true;
            self.turn.tell(Notice::Foreign { ttl: reply.ttl });
        }
        if reply.blind && !self.told.blind {
            self.told.blind = true;
            self.turn.tell(Notice::Blind);
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
        let shared = &self.shared;
        let list = self.keys.wake(self.ask.id);
        let turn = self.turn.clone();
        let deaf = move || turn.tell(Notice::Deaf { heartbeat });
        let wake =
            self.wake.get_or_insert_with(|| Box::pin(hear(Rc::clone(shared), list, || (), deaf)));
        tokio::select! {
            woken = wake => {
                self.wake = None;
                woken.map(drop)
            }
            () = sleep(until) => Ok(()),
        }
    }

    fn claim(&self, reply: &Reply) -> Leased<Grip> {
        let shared = Rc::clone(&self.shared);
        Grip::lease(shared, &self.ask.name, self.ask.id, Rc::clone(&self.who), reply)
    }

    /// Leaves the queue because the client waits no longer. Reports a failure, and a server that
    /// never answered.
    pub(super) async fn call_off(&mut self) {
        let left = self.leave().await;
        if let Err(trouble) = left {
            self.tell_trouble(trouble, false);
        } else if !self.outcome {
            self.tell_trouble(StoreError::Silent, false);
        }
    }

    /// Leaves the queue, or gives back a permit that we were given at the same moment.
    /// Where that fails, we do not count any more after three missed heartbeats.
    pub(super) async fn leave(&mut self) -> Result<(), StoreError> {
        self.wake = None;
        if !self.shared.connection.has_reached() {
            return Ok(());
        }
        let call = self.call(Operation::Leave);
        self.shared.withdraw(&self.keys, &call, LEAVING).await
    }
}

fn heartbeat(ttl: Duration) -> Duration {
    HEARTBEAT.min(ttl / 2)
}

/// As the script keeps it.
pub(super) fn describe(who: &Who) -> Rc<str> {
    serde_json::to_string(who).expect("plain text").into()
}
