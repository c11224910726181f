//! One who asks for a permit of a semaphore in Redis: in turn, told when it has one, and heard of
//! as long as it waits.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use redis::cmd;
use tokio::time::{Instant, sleep};

use super::held::Grip;
use super::script::{Call, Keys, Operation, Reply, Status};
use super::{HEARTBEAT, Shared};
use crate::backends::leased::Leased;
use crate::backends::trouble::{CONNECTING, Pause, TRY_ON, Trouble, within};
use crate::backends::{Acquired, Ask, Error, Notice, Pending, Permit, Standing, Tenure, Turn, Who};
use crate::clock;
use crate::mutants::{self, Guard};

/// How long leaving the queue may take.
const LEAVING: Duration = Duration::from_millis(900);

/// How many missed heartbeats make a waiter dead.
const MISSED: u32 = 3;

/// How many of those in line are awake when a lease ends: the first may be dead.
const NEAR: usize = 4;

/// What each of them leaves to the one before it.
const COURTESY: Duration = Duration::from_millis(30);

/// How often the first in line looks while foreign clients hold permits: they wake nobody.
const FOREIGN: Duration = Duration::from_millis(250);

/// One who asks, until it has a permit.
pub(super) struct Queueing<'a> {
    shared: Rc<Shared>,
    keys: Keys,
    ask: &'a Ask,
    turn: &'a Turn,
    who: Rc<str>,
    /// Whether the server may know of us.
    asked: bool,
    /// Whether anything ever came of asking.
    outcome: bool,
    ticket: u64,
    told: Told,
    wake: Option<Pending<'static, Result<(), Trouble>>>,
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
        Self {
            shared,
            keys,
            ask,
            turn,
            who: describe(&ask.who),
            asked: false,
            outcome: false,
            ticket: 0,
            told: Told::default(),
            wake: None,
        }
    }

    /// Waits in turn.
    pub(super) async fn advance(&mut self) -> Result<Acquired, Error> {
        let mut pause = Pause::new();
        let give_up = Instant::now() + TRY_ON;
        let mut checked = false;
        loop {
            let since = clock::now();
            let shared = Rc::clone(&self.shared);
            let left = give_up.saturating_duration_since(Instant::now());
            let time = if self.ticket > 0 { CONNECTING } else { CONNECTING.min(left) };
            let attempt = async {
                if !checked {
                    shared.check_eviction().await?;
                    checked = true;
                }
                self.asked = true;
                shared.connection.call(&self.keys, &self.call(Operation::Ask)).await
            };
            let answer = within(time, attempt).await;
            self.outcome = true;
            let reply = match answer {
                Ok(reply) => reply,
                Err(trouble) => {
                    let queued = self.ticket > 0;
                    let over = trouble.lasts() || self.ask.nonblock;
                    if !over {
                        self.tell_trouble(trouble.clone(), queued);
                    }
                    if over || !pause.sleep_while(queued, give_up).await {
                        let doing = format!("take a permit of '{}'", self.ask.name);
                        return Err(self.shared.error(&doing, trouble));
                    }
                    continue;
                }
            };
            pause = Pause::new();
            if reply.status != Status::Gone {
                self.tell(&reply);
            }
            match reply.status {
                Status::Held => return Ok(Acquired::Granted(Box::new(self.claim(since, &reply)))),
                Status::Busy => return Ok(Acquired::Busy),
                Status::Differs => {
                    let trouble = Trouble::differs(self.ask, reply.limit, reply.ttl);
                    return Err(self.shared.error("", trouble));
                }
                // Somebody has given back what we have not got yet.
                Status::Gone => {
                    return Err(self.shared.error("wait any longer", Trouble::withdrawn()));
                }
                Status::Queued => {
                    self.ticket = reply.ticket;
                    self.turn.tell(Notice::Queued(Standing {
                        ahead: reply.ahead,
                        held: reply.held,
                        holder: reply.oldest.clone(),
                        paused: reply.paused,
                    }));
                    if let Err(trouble) = self.wait(&reply).await {
                        return Err(self.shared.error("be told of a permit", trouble));
                    }
                }
            }
        }
    }

    fn call(&self, operation: Operation) -> Call<'_> {
        let ttl = self.told.ttl.unwrap_or(self.ask.ttl);
        Call {
            operation,
            id: self.ask.id,
            limit: self.ask.limit,
            ttl: self.ask.ttl,
            who: &self.who,
            ticket: self.ticket,
            token: 0,
            quarantine: self.shared.place.quarantine,
            window: heartbeat(ttl) * MISSED,
            nonblock: self.ask.nonblock,
            strict: self.ask.strict,
        }
    }

    fn tell_trouble(&self, Trouble { what, .. }: Trouble, may_last: bool) {
        self.turn.tell(Notice::Trouble { what, may_last });
    }

    /// Says what the user did not ask for, each thing once.
    fn tell(&mut self, reply: &Reply) {
        let Ask { limit, ttl, strict, .. } = *self.ask;
        let news = self.told.limit.replace(reply.limit) != Some(reply.limit);
        if news && reply.limit != limit && !strict {
            self.turn.tell(Notice::Limit { asked: limit, stands: reply.limit });
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

    /// Waits until it is worth to ask again: somebody has left us a permit, a lease ends, or the
    /// others have to see that we are still there.
    async fn wait(&mut self, reply: &Reply) -> Result<(), Trouble> {
        let mut until = heartbeat(reply.ttl);
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
        let wake = self.wake.get_or_insert_with(|| Box::pin(listen(Rc::clone(shared), list)));
        tokio::select! {
            woken = wake => {
                self.wake = None;
                woken
            }
            () = sleep(until) => Ok(()),
        }
    }

    fn claim(&self, since: clock::Moment, reply: &Reply) -> Leased<Grip> {
        let token = Some(reply.token);
        let permit = Permit { id: self.ask.id, name: self.ask.name.clone(), token };
        let off = mutants::is_off(Guard::DeadlineFromRequest);
        let since = if off { clock::now() } else { since };
        let tenure = Tenure { since, ttl: reply.ttl, trouble: None };
        let grip = Grip {
            shared: Rc::clone(&self.shared),
            keys: self.keys.clone(),
            who: Rc::clone(&self.who),
            id: permit.id,
            token: reply.token,
            in_force: Cell::new((reply.limit, reply.ttl)),
        };
        Leased::new(permit, tenure, grip)
    }

    /// Leaves the queue because somebody has waited for long enough; says so if it is not known
    /// whether there was any sense in waiting.
    pub(super) async fn call_off(&mut self) {
        let left = self.leave().await;
        if let Err(trouble) = left {
            self.tell_trouble(trouble, false);
        } else if !self.outcome {
            self.tell_trouble(Trouble::silence(), false);
        }
    }

    /// Leaves the queue, or gives back a permit that we were given at the same moment.
    /// Where that fails, we do not count any more after three missed heartbeats.
    pub(super) async fn leave(&mut self) -> Result<(), Trouble> {
        self.wake = None;
        if !self.asked {
            return Ok(());
        }
        let call = self.call(Operation::Release);
        self.shared.withdraw(&self.keys, &call, LEAVING).await
    }
}

/// Returns once something was put on our list. It stays there until it is taken, so none is
/// missed while there is no connection. Only what will not pass is an error.
async fn listen(shared: Rc<Shared>, list: String) -> Result<(), Trouble> {
    let mut pause = Pause::new();
    loop {
        let taken: Result<redis::Value, Trouble> =
            shared.connection.wait(cmd("BLPOP").arg(&list).arg(0)).await;
        match taken {
            Ok(_) => return Ok(()),
            Err(trouble) if trouble.lasts() => return Err(trouble),
            Err(_) => pause.sleep().await,
        }
    }
}

fn heartbeat(ttl: Duration) -> Duration {
    HEARTBEAT.min(ttl / 2)
}

fn describe(who: &Who) -> Rc<str> {
    serde_json::to_string(who).expect("plain text").into()
}
