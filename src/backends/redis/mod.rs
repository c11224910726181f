//! Permits in Redis, in the very sorted set that PassBuddy keeps, with a queue, fencing tokens and
//! holder details beside it. Everything is decided by one script on the server's clock;
//! `docs/redis.md` has the keys and the reasons.

mod connection;
pub(crate) mod place;
mod script;
#[cfg(test)]
#[path = "../../../tests/cli/redis_server.rs"]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

use redis::cmd;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use self::connection::{CONNECTING, Connection, SOURCE, Trouble, TroubleKind};
use self::place::Place;
use self::script::{Call, Keys, Operation, Reply, Status};
use super::renewal::{self, Renewed};
use super::{
    Acquired, Ask, Backend, Cancel, Error, ErrorKind, Lease, Lost, Name, Notice, Pending, Permit,
    Snapshot, Standing, Tenure, Turn, Who,
};
use crate::clock;

/// How long the start of something is tried while the server cannot be reached.
const TRY_ON: Duration = Duration::from_secs(5);

/// How long leaving the queue may take.
const LEAVING: Duration = Duration::from_millis(900);

/// A waiter asks again at least as often, so that others see that it lives.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// How many missed heartbeats make a waiter dead.
const MISSED: u32 = 3;

/// How many of those in line are awake when a lease ends: the first may be dead.
const NEAR: usize = 4;

/// What each of them leaves to the one before it.
const COURTESY: Duration = Duration::from_millis(30);

/// How often the first in line looks while foreign clients hold permits: they wake nobody.
const FOREIGN: Duration = Duration::from_millis(250);

/// The Redis backend.
pub(crate) struct Redis {
    shared: Rc<Shared>,
}

struct Shared {
    place: Place,
    shown: String,
    connection: Connection,
}

impl Redis {
    pub(crate) fn new(place: Place) -> Result<Self, Error> {
        let shown = place.url.shown();
        let client = place.client().map_err(|error| Error {
            kind: ErrorKind::Unsupported,
            backend: shown.clone(),
            what: format!("cannot use the certificates: {}", connection::one_line(&error)),
            source: None,
        })?;
        let connection = Connection::new(client, SOURCE);
        Ok(Self { shared: Rc::new(Shared { place, shown, connection }) })
    }

    /// Tries something until it succeeds, fails for good, or has been tried for long enough.
    async fn patiently<T>(
        &self,
        patience: Duration,
        doing: &str,
        mut attempt: impl AsyncFnMut() -> Result<T, Trouble>,
    ) -> Result<T, Error> {
        let give_up = Instant::now() + patience;
        let mut pause = Pause::new();
        loop {
            let left = give_up.saturating_duration_since(Instant::now());
            let trouble = match within(CONNECTING.min(left), attempt()).await {
                Ok(done) => return Ok(done),
                Err(trouble) => trouble,
            };
            if trouble.lasts() || Instant::now() + pause.next >= give_up {
                return Err(self.shared.error(doing, trouble));
            }
            pause.sleep().await;
        }
    }
}

impl Shared {
    fn error(&self, doing: &str, trouble: Trouble) -> Error {
        let Trouble { what, kind } = trouble;
        let hint = match kind {
            TroubleKind::Away => "; is it running, and can it be reached from here?",
            TroubleKind::Refusing | TroubleKind::Lasting => "",
        };
        Error {
            kind: ErrorKind::Unavailable,
            backend: self.shown.clone(),
            what: format!("cannot {doing}: {what}{hint}"),
            source: None,
        }
    }

    /// A server that evicts keys loses permits.
    async fn check_eviction(&self) -> Result<(), Trouble> {
        if self.place.allow_eviction {
            return Ok(());
        }
        let info: String = match self.connection.ask(cmd("INFO").arg("memory")).await {
            Ok(info) => info,
            // An ACL may forbid it; the script finds the same, and the user is told once.
            Err(trouble) if trouble.what.contains("NOPERM") => return Ok(()),
            Err(trouble) => return Err(trouble),
        };
        let field = |name: &str| {
            let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.unwrap_or_default().trim()
        };
        let (most, policy) = (field("maxmemory"), field("maxmemory_policy"));
        if most == "0" || policy == "noeviction" || policy.is_empty() {
            return Ok(());
        }
        Err(Trouble::lasting(format!(
            "the server may evict keys under memory pressure (maxmemory-policy {policy}), and permits with \
             them; set maxmemory-policy to noeviction, or take that risk with --allow-eviction"
        )))
    }

    /// Releases until it is known to be done, or `patience` is over.
    async fn withdraw(
        &self,
        keys: &Keys,
        call: &Call<'_>,
        patience: Duration,
    ) -> Result<(), Trouble> {
        let give_up = Instant::now() + patience;
        let mut pause = Pause::new();
        loop {
            let left = give_up.saturating_duration_since(Instant::now());
            let attempt = self.connection.call(keys, call);
            let Err(trouble) = within(left.min(CONNECTING), attempt).await else {
                return Ok(());
            };
            if trouble.lasts() || Instant::now() + pause.next >= give_up {
                return Err(trouble);
            }
            pause.sleep().await;
        }
    }
}

impl Backend for Redis {
    fn acquire<'a>(
        &'a self,
        ask: &'a Ask,
        turn: &'a Turn,
        mut cancel: Cancel,
    ) -> Pending<'a, Result<Acquired, Error>> {
        Box::pin(async move {
            let mut queueing = Queueing::new(Rc::clone(&self.shared), ask, turn);
            let done = tokio::select! {
                biased;
                done = queueing.advance() => Some(done),
                () = cancel.cancelled() => None,
            };
            match done {
                Some(Ok(acquired)) => Ok(acquired),
                Some(Err(error)) => {
                    let _ = queueing.leave().await;
                    Err(error)
                }
                None => {
                    let left = queueing.leave().await;
                    let silent = || Err(Trouble::silence());
                    let left = left.and_then(|()| if queueing.outcome { Ok(()) } else { silent() });
                    if let Err(trouble) = left {
                        queueing.tell_trouble(trouble, false);
                    }
                    Ok(Acquired::Cancelled)
                }
            }
        })
    }

    fn observe<'a>(&'a self, name: &'a Name) -> Pending<'a, Result<Snapshot, Error>> {
        Box::pin(async move {
            let keys = Keys::new(&self.shared.place.prefix, name);
            let doing = format!("look at '{name}'");
            let connection = &self.shared.connection;
            self.patiently(TRY_ON, &doing, async || connection.look(&keys, name, HEARTBEAT).await)
                .await
        })
    }

    /// Goes through all keys step by step; no other client has to wait for that.
    fn list(&self) -> Pending<'_, Result<Vec<Name>, Error>> {
        Box::pin(async move {
            let prefix = format!("{}-", self.shared.place.prefix);
            let mut names = Vec::new();
            for (before, after) in [("", ""), ("{", "}:queue")] {
                let pattern = format!("{}{}*{}", before, glob_escaped(&prefix), after);
                let mut cursor = 0_u64;
                loop {
                    let mut scan = cmd("SCAN");
                    scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(1000);
                    let connection = &self.shared.connection;
                    let step = async || {
                        let (next, keys): (u64, Vec<Vec<u8>>) = connection.ask(&scan).await?;
                        let mut found = Vec::new();
                        for key in keys {
                            let kind: String = connection.ask(cmd("TYPE").arg(&key)).await?;
                            if kind == "zset" {
                                found.push(key);
                            }
                        }
                        Ok((next, found))
                    };
                    let (next, keys) = self.patiently(TRY_ON, "list the semaphores", step).await?;
                    names.extend(keys.into_iter().filter_map(|key| {
                        let key = String::from_utf8(key).ok()?;
                        let name = key.strip_prefix(before)?.strip_suffix(after)?;
                        let name = name.strip_prefix(&prefix)?;
                        if can_name(name) { name.parse().ok() } else { None }
                    }));
                    cursor = next;
                    if cursor == 0 {
                        break;
                    }
                }
            }
            names.sort_unstable();
            names.dedup();
            Ok(names)
        })
    }

    fn withdraw<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
        patience: Duration,
    ) -> Pending<'a, Result<(), Error>> {
        Box::pin(async move {
            let keys = Keys::new(&self.shared.place.prefix, name);
            let call = Call {
                operation: Operation::Release,
                id,
                limit: 1,
                ttl: HEARTBEAT,
                who: "",
                ticket: 0,
                token: 0,
                quarantine: self.shared.place.quarantine,
                window: HEARTBEAT,
                nonblock: false,
                strict: false,
            };
            let withdrawn = self.shared.withdraw(&keys, &call, patience).await;
            withdrawn.map_err(|trouble| {
                self.shared.error(&format!("give back the permit of '{name}'"), trouble)
            })
        })
    }

    fn reports(&self) -> bool {
        true
    }

    fn url(&self) -> String {
        self.shared.shown.clone()
    }
}

/// Whether a name or prefix can be part of a key: braces would move its keys apart in a cluster.
pub(crate) fn can_name(text: &str) -> bool {
    !text.contains(['{', '}'])
}

fn glob_escaped(text: &str) -> String {
    let special = |c: char| "*?[]^\\".contains(c);
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

async fn within<T>(
    time: Duration,
    attempt: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    match timeout(time, attempt).await {
        Ok(done) => done,
        Err(_elapsed) => Err(Trouble::silence()),
    }
}

/// What lies between two attempts.
struct Pause {
    next: Duration,
}

impl Pause {
    fn new() -> Self {
        Self { next: Duration::from_millis(100) }
    }

    async fn sleep(&mut self) {
        sleep(self.next).await;
        self.next = (self.next * 2).min(Duration::from_secs(2));
    }
}

/// One who asks, until it has a permit.
struct Queueing<'a> {
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
    fn new(shared: Rc<Shared>, ask: &'a Ask, turn: &'a Turn) -> Self {
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

    async fn advance(&mut self) -> Result<Acquired, Error> {
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
                    let enough = !queued && Instant::now() + pause.next >= give_up;
                    if trouble.lasts() || self.ask.nonblock || enough {
                        let doing = format!("take a permit of '{}'", self.ask.name);
                        return Err(self.shared.error(&doing, trouble));
                    }
                    self.tell_trouble(trouble, queued);
                    pause.sleep().await;
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
                Status::Differs => return Err(self.differs(&reply)),
                // Somebody has given back what we have not got yet.
                Status::Gone => {
                    let trouble = Trouble::lasting("it was withdrawn from outside");
                    return Err(self.shared.error("wait any longer", trouble));
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

    fn differs(&self, reply: &Reply) -> Error {
        let Ask { name, limit, ttl, .. } = self.ask;
        Error {
            kind: ErrorKind::Differs,
            backend: self.shared.shown.clone(),
            what: format!(
                "'{name}' is in use with a limit of {} and a TTL of {:?}, not {limit} and {ttl:?}, \
                 and --strict-limit allows no other",
                reply.limit, reply.ttl
            ),
            source: None,
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

    fn claim(&self, since: clock::Moment, reply: &Reply) -> Held {
        let permit = Permit { id: self.ask.id, name: self.ask.name.clone(), token: reply.token };
        let (sender, tenure) = watch::channel(Tenure { since, ttl: reply.ttl, trouble: None });
        let grip = Rc::new(Grip {
            shared: Rc::clone(&self.shared),
            keys: self.keys.clone(),
            who: Rc::clone(&self.who),
            id: permit.id,
            token: permit.token,
            in_force: Cell::new((reply.limit, reply.ttl)),
        });
        let renewing = {
            let grip = Rc::clone(&grip);
            Box::pin(renewal::keep(permit.id, sender, move || {
                let grip = Rc::clone(&grip);
                Box::pin(async move { grip.renew().await })
            }))
        };
        Held { permit, tenure, grip, renewing }
    }

    /// Leaves the queue, or gives back a permit that we were given at the same moment.
    /// Where that fails, we do not count any more after three missed heartbeats.
    async fn leave(&mut self) -> Result<(), Trouble> {
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

/// What is needed to keep a permit and to let it go.
struct Grip {
    shared: Rc<Shared>,
    keys: Keys,
    who: Rc<str>,
    id: Uuid,
    token: u64,
    /// What stands: a server that has forgotten it learns it from us.
    in_force: Cell<(u32, Duration)>,
}

impl Grip {
    async fn call(&self, operation: Operation) -> Result<Reply, Trouble> {
        self.shared.connection.call(&self.keys, &self.request(operation)).await
    }

    fn request(&self, operation: Operation) -> Call<'_> {
        let (limit, ttl) = self.in_force.get();
        Call {
            operation,
            id: self.id,
            limit,
            ttl,
            who: &self.who,
            ticket: 0,
            token: self.token,
            quarantine: self.shared.place.quarantine,
            window: HEARTBEAT,
            nonblock: false,
            strict: false,
        }
    }

    async fn renew(&self) -> Result<Renewed, String> {
        let reply = self.call(Operation::Renew).await.map_err(|trouble| trouble.what)?;
        if reply.status != Status::Held {
            let what = "it ran out, or was taken away, and may be somebody else's by now";
            return Ok(Renewed::Lost(Lost(what.into())));
        }
        self.in_force.set((reply.limit, reply.ttl));
        Ok(Renewed::For(reply.ttl))
    }
}

/// A permit of this backend.
struct Held {
    permit: Permit,
    tenure: watch::Receiver<Tenure>,
    grip: Rc<Grip>,
    renewing: Pending<'static, Lost>,
}

impl Lease for Held {
    fn permit(&self) -> &Permit {
        &self.permit
    }

    fn tenure(&self) -> Option<watch::Receiver<Tenure>> {
        Some(self.tenure.clone())
    }

    fn lost(&mut self) -> Pending<'_, Lost> {
        Box::pin(self.renewing.as_mut())
    }

    fn inherit(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn release(self: Box<Self>, patience: Duration) -> Pending<'static, Result<(), Error>> {
        Box::pin(async move {
            let Self { grip, renewing, tenure, permit } = *self;
            drop(renewing);
            let released =
                grip.shared.withdraw(&grip.keys, &grip.request(Operation::Release), patience).await;
            released.map_err(|trouble| {
                let Tenure { since, ttl, .. } = *tenure.borrow();
                let left = (since + ttl).saturating_sub(clock::now()).as_secs();
                let when = if left == 0 { "by now".into() } else { format!("in {left}s") };
                let doing = format!("give back {permit}, whose lease ends by itself {when}");
                grip.shared.error(&doing, trouble)
            })
        })
    }
}
