//! What the scripts are called with, and what they answer. `semaphore.lua`, `look.lua` and what both begin
//! with, `server.lua`, say what they do.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use redis::{Cmd, FromRedisValue, Value, from_redis_value};
use uuid::Uuid;

use super::HEARTBEAT;
use super::connection::{Connection, Program, Question};
use super::place::Place;
use crate::backends::believed;
use crate::backends::trouble::Trouble;
use crate::backends::{Holder, Name, Phase, Record, Snapshot, Waiter, Who, Withheld, millis};
use crate::clock::Moment;
use crate::mutants::{Guard, is_off};

/// What foreign members are taken to have where no TTL is in force: PassBuddy's own default.
const FOREIGN_TTL: Duration = Duration::from_secs(5);

/// The keys of one semaphore, all in one slot of a cluster.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    declared: Vec<String>,
    wake: String,
    /// What the server remembers of itself, for all semaphores of the prefix. No semaphore has an empty
    /// name.
    server: String,
}

impl Keys {
    pub(super) fn new(prefix: &Name, name: &Name) -> Self {
        let permits = format!("{prefix}-{name}");
        let beside = |what: &str| format!("{{{permits}}}:{what}");
        let others = ["queue", "alive", "asks", "grants", "state", "done"].map(beside);
        let wake = beside("wake");
        let server = format!("{{{prefix}-}}:server");
        Self { declared: [permits].into_iter().chain(others).collect(), wake, server }
    }

    /// All but the last one, of those that have given back.
    fn to_look(&self) -> &[String] {
        &self.declared[..6]
    }

    /// The list on which one who waits or holds is told something.
    pub(super) fn wake(&self, id: Uuid) -> String {
        format!("{}:{id}", self.wake)
    }
}

/// One call.
#[derive(Debug, Clone)]
pub(super) struct Call<'a> {
    pub(super) operation: Operation,
    pub(super) id: Uuid,
    pub(super) limit: u32,
    pub(super) ttl: Duration,
    pub(super) who: &'a str,
    /// The place in the queue that it has had, or 0.
    pub(super) ticket: u64,
    /// The fencing token that it has, or 0.
    pub(super) token: u64,
    /// None: the larger of 30 s and the TTL.
    pub(super) quarantine: Option<Duration>,
    /// How long it counts as waiting unless it asks again.
    pub(super) window: Duration,
    pub(super) nonblock: bool,
    pub(super) strict: bool,
    /// For how long a permit stays taken, from its grant, or from now where the grant is forgotten.
    pub(super) hold: Duration,
    /// How many replicas must be in step with the server.
    pub(super) replicas: u32,
}

impl Call<'_> {
    /// A call of one who does not ask for a permit.
    pub(super) fn of(operation: Operation, id: Uuid, place: &Place) -> Self {
        Self {
            operation,
            id,
            limit: 1,
            ttl: HEARTBEAT,
            who: "",
            ticket: 0,
            token: 0,
            quarantine: place.quarantine,
            window: HEARTBEAT,
            nonblock: false,
            strict: false,
            hold: Duration::ZERO,
            replicas: place.replicas,
        }
    }

    /// By how many replicas what it does has to be confirmed.
    fn confirmations(&self) -> u32 {
        if self.operation.needs_replicas() { self.replicas } else { 0 }
    }

    fn arguments(&self, keys: &Keys) -> [String; 14] {
        let flag = |set: bool, name: &str| if set { name.to_owned() } else { String::new() };
        [
            self.operation.word().to_owned(),
            self.id.to_string(),
            self.limit.to_string(),
            self.ttl.as_millis().to_string(),
            self.who.to_owned(),
            self.ticket.to_string(),
            self.token.to_string(),
            written(self.quarantine),
            self.window.as_millis().to_string(),
            flag(self.nonblock, "nonblock"),
            flag(self.strict, "strict"),
            self.hold.as_millis().to_string(),
            self.replicas.to_string(),
            keys.server.clone(),
        ]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Ask,
    Renew,
    Release,
    /// Releases what its owner has never used.
    Leave,
    /// Renews a permit that outlives its process.
    Attach,
    /// Releases one.
    Return,
    /// Evicts gently.
    Evict,
    /// Evicts at once.
    Remove,
    /// Pins the limit, or unpins it with 0.
    Limit,
}

impl Operation {
    fn word(self) -> &'static str {
        match self {
            Self::Ask => "ask",
            Self::Renew => "renew",
            Self::Release => "release",
            Self::Leave => "leave",
            Self::Attach => "attach",
            Self::Return => "return",
            Self::Evict => "evict",
            Self::Remove => "remove",
            Self::Limit => "limit",
        }
    }
}

impl Operation {
    /// Whether it counts only if enough replicas have it: what a server that was replaced grants or
    /// extends must not be used. An old message of a replica may still make it look as if it were in step.
    fn needs_replicas(self) -> bool {
        matches!(self, Self::Ask | Self::Renew | Self::Attach | Self::Limit)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Held,
    Queued,
    Busy,
    /// Another limit or TTL is in force.
    Differs,
    /// Somebody has evicted it, now or before.
    Evicted,
    /// It was held, and has been given back now.
    Returned,
    /// What is asked for was done before.
    Done,
    /// Not, or not any more, held by this one.
    Gone,
}

#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) status: Status,
    pub(super) token: u64,
    pub(super) ticket: u64,
    /// How many are before it in the queue.
    pub(super) ahead: usize,
    pub(super) held: usize,
    pub(super) foreign: usize,
    /// When it may be worth to ask again.
    pub(super) next: Option<Duration>,
    /// The limit in force.
    pub(super) limit: u32,
    pub(super) pinned: bool,
    /// The limit that its users have agreed upon.
    pub(super) agreed: u32,
    pub(super) ttl: Duration,
    /// What is left of the time for which it stays taken.
    pub(super) hold: Duration,
    /// How many replicas must be in step: the most that one of its users asks for.
    pub(super) replicas: u32,
    pub(super) paused: Option<Duration>,
    /// Of one who waits: who has held a permit for the longest time. Of one who attaches: itself.
    pub(super) whose: Option<Record>,
    /// Whether the server does not say which it is.
    pub(super) blind: bool,
    /// A moment before the request was sent.
    pub(super) since: Moment,
}

/// As the script gives it.
type Raw = (String, u64, u64, usize, usize, usize, Value, Terms, u64, Value, u8);
type Terms = (u32, u8, u32, u64, u64, u32);

impl Reply {
    /// An error: no script of ours says that.
    fn of(raw: Raw, since: Moment) -> Result<Self, Trouble> {
        let (status, token, ticket, ahead, held, foreign, next, terms, paused, whose, blind) = raw;
        let (limit, pinned, agreed, ttl, hold_left, replicas) = terms;
        let status = match status.as_str() {
            "held" => Status::Held,
            "queued" => Status::Queued,
            "busy" => Status::Busy,
            "differs" => Status::Differs,
            "evicted" => Status::Evicted,
            "returned" => Status::Returned,
            "done" => Status::Done,
            _ => Status::Gone,
        };
        // To the others no limit is said.
        let agree =
            matches!(status, Status::Held | Status::Queued | Status::Busy | Status::Differs);
        if agree {
            believed::limit(limit)?;
            believed::limit(agreed)?;
        }
        Ok(Self {
            status,
            token,
            ticket,
            ahead: believed::count(ahead)?,
            held: believed::count(held)?,
            foreign: believed::count(foreign)?,
            // A member of another program may end at no time that there is: then it is no reason.
            next: of(next).and_then(|next: u64| believed::time(next).ok()),
            limit,
            pinned: pinned != 0,
            agreed,
            ttl: if agree { believed::lease(ttl)? } else { believed::time(ttl)? },
            hold: believed::time(hold_left)?,
            replicas,
            paused: pause(paused)?,
            whose: lossy(&whose).split_once(' ').and_then(|(id, grant)| {
                let grant = granted(id, grant)?;
                Some(grant.record)
            }),
            blind: blind != 0,
            since,
        })
    }

    /// For how long nobody is granted a permit that is free.
    pub(super) fn withheld(&self) -> Option<Withheld> {
        self.paused.filter(|_| self.held < self.limit as usize).map(Withheld::Quarantine)
    }
}

impl Connection {
    pub(super) async fn call(&self, keys: &Keys, call: &Call<'_>) -> Result<Reply, Trouble> {
        let (reply, _) = self.call_beside(keys, call, None).await?;
        Ok(reply)
    }

    /// Sends what [`Connection::call_beside`] then only waits for. Needs no runtime.
    pub(super) fn begin_call(&self, keys: &Keys, call: &Call<'_>, beside: Option<&Cmd>) {
        let (keys, arguments) = (&keys.declared, &call.arguments(keys));
        self.begin(Question { keys, arguments, beside, replicas: call.confirmations() });
    }

    /// Calls, and asks something else before that, without waiting in between.
    pub(super) async fn call_beside(
        &self,
        keys: &Keys,
        call: &Call<'_>,
        beside: Option<&Cmd>,
    ) -> Result<(Reply, Option<Value>), Trouble> {
        let ask = async |call: &Call<'_>, beside| {
            let (keys, arguments) = (&keys.declared, &call.arguments(keys));
            let question = Question { keys, arguments, beside, replicas: call.confirmations() };
            let said = self.script(&Program::decide(), question).await?;
            let reply = Reply::of(said.answer, said.since)?;
            Ok::<_, Trouble>((reply, said.beside, said.confirmed))
        };
        let (mut reply, beside, mut confirmed) = ask(call, beside).await?;
        if call.operation.needs_replicas() && reply.replicas > call.replicas {
            // Others need more, which is known only now: it has to be confirmed by as many.
            let again = Call { replicas: reply.replicas, ..call.clone() };
            (reply, _, confirmed) = ask(&again, None).await?;
        }
        let needed = reply.replicas;
        if call.operation.needs_replicas() && confirmed < needed && !is_off(Guard::Replicas) {
            return Err(Trouble::withheld(Withheld::Replicas { in_step: confirmed, needed }));
        }
        Ok((reply, beside))
    }

    /// Looks without changing anything.
    pub(super) async fn look(
        &self,
        keys: &Keys,
        name: &Name,
        place: &Place,
    ) -> Result<Snapshot, Trouble> {
        let arguments = &to_look(keys, place);
        let question = Question { keys: keys.to_look(), arguments, beside: None, replicas: 0 };
        let looked = self.script(&Program::look(), question).await?;
        Ok(snapshot(name, looked.answer))
    }

    /// The same at several in one round trip. An error may be that of any, or that the server does not
    /// have the script yet.
    pub(super) async fn look_at_each(
        &self,
        keys: &[Keys],
        names: &[Name],
        place: &Place,
    ) -> Result<Vec<Snapshot>, Trouble> {
        let program = Program::look();
        let question = |keys: &Keys| program.known(keys.to_look(), &to_look(keys, place));
        let questions: Vec<_> = keys.iter().map(question).collect();
        let looked: Vec<Looked> = self.ask_all(&questions).await?;
        Ok(names.iter().zip(looked).map(|(name, looked)| snapshot(name, looked)).collect())
    }
}

/// Limit, whether that is pinned, TTL, pause, replicas in step and how many must be, holders and waiters.
/// Others may have written anything into the keys, so each of it is understood by itself.
type Looked = (Value, Value, Value, Value, u32, Value, Vec<Value>, Vec<Value>);

fn to_look(keys: &Keys, place: &Place) -> [String; 4] {
    let ttl = FOREIGN_TTL.as_millis().to_string();
    [ttl, written(place.quarantine), place.replicas.to_string(), keys.server.clone()]
}

/// A quarantine as the scripts take it.
fn written(quarantine: Option<Duration>) -> String {
    quarantine.map_or("-1".into(), |time| time.as_millis().to_string())
}

fn snapshot(name: &Name, looked: Looked) -> Snapshot {
    let (limit, pinned, ttl, paused, in_step, needed, holders, waiters) = looked;
    let mut holders: Vec<_> = holders.into_iter().map(holder).collect();
    // The order of the grants; who has no token comes last.
    holders.sort_by_key(|holder| holder.token().unwrap_or(u64::MAX));
    let waiter = |said| {
        let (id, ask): (Value, Value) = of(said)?;
        asked(&lossy(&id), &lossy(&ask))
    };
    let waiters: Vec<_> = waiters.into_iter().map(|said| Waiter::known(waiter(said))).collect();
    let ours = |one: &Holder| matches!(one, Holder::Known { .. });
    let in_use = holders.iter().any(ours) || !waiters.is_empty();
    let pinned = of(pinned) != Some(0_u8);
    let mut odd = None;
    // What is no number at all is none that can be.
    let limit = believed::limit(of(limit).unwrap_or(0)).map(Some);
    let limit = believed::or_note(if in_use || pinned { limit } else { Ok(None) }, &mut odd);
    let ttl = believed::time(of(ttl).unwrap_or(u64::MAX)).map(Some);
    let ttl = believed::or_note(if in_use { ttl } else { Ok(None) }, &mut odd);
    let paused = believed::or_note(pause(of(paused).unwrap_or(u64::MAX)), &mut odd);
    let withheld = match of(needed) {
        Some(needed) if in_step < needed => Some(Withheld::Replicas { in_step, needed }),
        _ => paused.map(Withheld::Quarantine),
    };
    Snapshot { name: name.clone(), limit, pinned, ttl, withheld, holders, waiters, odd }
}

fn holder(said: Value) -> Holder {
    let Some((id, left, grant)) = of::<(Value, Value, Value)>(said) else {
        return Holder::unknown();
    };
    let (id, grant) = (lossy(&id), lossy(&grant));
    let left = of(left).and_then(|left: i64| believed::time(u64::try_from(left).unwrap_or(0)).ok());
    if grant.is_empty() {
        return Holder::Foreign { permit: believed::identity(&id), left };
    }
    match granted(&id, &grant) {
        Some(Grant { token, phase, record }) if left.is_some() => {
            Holder::Known { token: Some(token), record: Some(record), phase, left }
        }
        _ => Holder::Known { token: None, record: None, phase: Phase::Held, left },
    }
}

/// What a value says, if it says anything of this kind.
fn of<T: FromRedisValue>(value: Value) -> Option<T> {
    from_redis_value(value).ok()
}

/// A text, whatever is in it.
fn lossy(value: &Value) -> Cow<'_, str> {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes),
        Value::SimpleString(text) => text.into(),
        _ => "".into(),
    }
}

fn pause(millis: u64) -> Result<Option<Duration>, Trouble> {
    believed::time_if_any((millis > 0).then_some(millis))
}

/// What a script may have answered.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(value: Value) {
    if let Some(looked) = of(value.clone()) {
        let snapshot = snapshot(&"x".parse().expect("a good name"), looked);
        assert!(snapshot.limit.is_none_or(|limit| (1..=10_000).contains(&limit)));
        assert!(snapshot.holders.iter().all(|one| one.left().is_none_or(believed::is_time)));
    }
    if let Some(Ok(reply)) = of(value).map(|raw| Reply::of(raw, crate::clock::now())) {
        let _ = (reply.withheld(), reply.since + reply.ttl + reply.hold);
    }
}

struct Grant {
    token: u64,
    phase: Phase,
    record: Record,
}

/// Reads `TOKEN SINCE HOLD LEASE PHASE WHO`.
fn granted(id: &str, grant: &str) -> Option<Grant> {
    let (token, rest) = grant.split_once(' ')?;
    let (phase, record) = parted(id, rest)?;
    Some(Grant { token: token.parse().ok()?, phase, record })
}

/// Reads `SINCE HOLD LEASE - WHO`.
fn asked(id: &str, ask: &str) -> Option<Record> {
    Some(parted(id, ask)?.1)
}

fn parted(id: &str, text: &str) -> Option<(Phase, Record)> {
    let mut parts = text.splitn(5, ' ');
    let since: SystemTime = millis::at(parts.next()?.parse().ok()?);
    let (_hold, _lease, phase) = (parts.next()?, parts.next()?, parts.next()?);
    let phase = match phase {
        "e" => Phase::Evicted,
        "k" => Phase::Kept,
        _ => Phase::Held,
    };
    let who: Who = serde_json::from_str(parts.next()?).ok()?;
    Some((phase, Record { permit: id.parse().ok()?, who, since }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_those_of_passbuddy_and_ours_beside_it() {
        let keys = Keys::new(&"passbuddy".parse().unwrap(), &"test lock".parse().unwrap());
        assert_eq!(keys.declared[0], "passbuddy-test lock");
        assert!(keys.declared[1..].iter().all(|key| key.starts_with("{passbuddy-test lock}:")));
        let wake = keys.wake(Uuid::nil());
        assert_eq!(wake, "{passbuddy-test lock}:wake:00000000-0000-0000-0000-000000000000");
    }

    #[test]
    fn what_others_wrote_is_read_or_left_out() {
        let who = r#"{"label":"a b","host":"h","pid":1,"user":"u"}"#;
        let id = Uuid::nil().to_string();
        let Grant { token, phase, record } = granted(&id, &format!("7 1000 0 0 e {who}")).unwrap();
        assert_eq!((token, phase, record.who.label.as_str()), (7, Phase::Evicted, "a b"));
        assert_eq!(asked(&id, &format!("1000 50 0 - {who}")).unwrap(), record);
        for bad in ["", "7", "7 x 0 0 h {}", "7 1 0 0 h {", "x 1 0 0 h {}", "7 1 {}"] {
            assert!(granted(&id, bad).is_none(), "{bad}");
        }
    }
}
