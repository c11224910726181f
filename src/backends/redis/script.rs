//! Arguments and answers of the scripts: `semaphore.lua` and `snapshot.lua`, each after `server.lua`.

use std::time::{Duration, SystemTime};

use redis::{Cmd, Value};
use uuid::Uuid;

use super::client::{Client, Script, ScriptCall};
use super::config::RedisConfig;
use super::server::HEARTBEAT;
use super::snapshot::{lossy, of, parse_grant, pause, written};
use crate::backends::sanitize;
use crate::backends::{HolderState, Name, Record, StoreError, Withheld};
use crate::clock::Moment;
use crate::mutants::{Guard, is_off};

/// The keys of one semaphore, all in one slot of a cluster.
#[derive(Debug, Clone)]
pub(super) struct SemaphoreKeys {
    declared: Vec<String>,
    wake: String,
    /// What the server remembers of itself, for all semaphores of the prefix. No semaphore has an empty
    /// name.
    pub(super) server: String,
}

impl SemaphoreKeys {
    pub(super) fn new(prefix: &Name, name: &Name) -> Self {
        let permits = format!("{prefix}-{name}");
        let beside = |what: &str| format!("{{{permits}}}:{what}");
        let others = ["queue", "alive", "asks", "grants", "state", "done"].map(beside);
        let wake = beside("wake");
        let server = format!("{{{prefix}-}}:server");
        Self { declared: [permits].into_iter().chain(others).collect(), wake, server }
    }

    /// All keys but the last, which remembers clients that have given back.
    pub(super) fn to_look(&self) -> &[String] {
        &self.declared[..6]
    }

    /// The list on which a waiter or a holder is told something.
    pub(super) fn wake(&self, id: Uuid) -> String {
        format!("{}:{id}", self.wake)
    }
}

/// One call.
#[derive(Debug, Clone)]
pub(super) struct Request<'a> {
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

impl Request<'_> {
    /// A call that does not ask for a permit.
    pub(super) fn of(operation: Operation, id: Uuid, config: &RedisConfig) -> Self {
        Self {
            operation,
            id,
            limit: 1,
            ttl: HEARTBEAT,
            who: "",
            ticket: 0,
            token: 0,
            quarantine: config.quarantine,
            window: HEARTBEAT,
            nonblock: false,
            strict: false,
            hold: Duration::ZERO,
            replicas: config.replicas,
        }
    }

    /// How many replicas have to confirm its writes.
    fn confirmations(&self) -> u32 {
        if self.operation.needs_replicas() { self.replicas } else { 0 }
    }

    fn arguments(&self, keys: &SemaphoreKeys) -> [String; 14] {
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
    /// Revokes gently.
    Revoke,
    /// Revokes at once.
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
            Self::Revoke => "revoke",
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
pub(super) enum ReplyStatus {
    Holding,
    Waiting,
    Busy,
    /// Another limit or TTL is in force.
    Differs,
    /// It is revoked, now or before.
    Revoked,
    /// It was held, and has been given back now.
    Returned,
    /// What is asked for was done before.
    Done,
    /// Not, or not any more, held by this one.
    Gone,
}

#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) status: ReplyStatus,
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
    /// To a waiter: the record of the longest holder. To a client that attaches: its own.
    pub(super) whose: Option<Record>,
    /// Until when that permit stays taken, if it was given back.
    pub(super) kept_until: Option<SystemTime>,
    /// Whether the server does not say which it is.
    pub(super) blind: bool,
    /// A moment before the request was sent.
    pub(super) since: Moment,
}

/// As the script gives it.
pub(super) type Raw = (String, u64, u64, usize, usize, usize, Value, Terms, u64, Value, u8);
type Terms = (u32, u8, u32, u64, u64, u32);

impl Reply {
    /// An error: no script of ours says that.
    pub(super) fn of(raw: Raw, since: Moment) -> Result<Self, StoreError> {
        let (status, token, ticket, ahead, held, foreign, next, terms, paused, whose, blind) = raw;
        let (limit, pinned, agreed, ttl, hold_left, replicas) = terms;
        let status = match status.as_str() {
            "holding" => ReplyStatus::Holding,
            "waiting" => ReplyStatus::Waiting,
            "busy" => ReplyStatus::Busy,
            "differs" => ReplyStatus::Differs,
            "revoked" => ReplyStatus::Revoked,
            "returned" => ReplyStatus::Returned,
            "done" => ReplyStatus::Done,
            _ => ReplyStatus::Gone,
        };
        // To the others no limit is said.
        let agree = matches!(
            status,
            ReplyStatus::Holding | ReplyStatus::Waiting | ReplyStatus::Busy | ReplyStatus::Differs
        );
        if agree {
            sanitize::limit(limit)?;
            sanitize::limit(agreed)?;
        }
        let whose = lossy(&whose);
        let whose = whose.split_once(' ').and_then(|(id, grant)| parse_grant(id, grant));
        let kept = whose.as_ref().filter(|grant| grant.phase == HolderState::MinHold);
        Ok(Self {
            status,
            token,
            ticket,
            ahead: sanitize::count(ahead)?,
            held: sanitize::count(held)?,
            foreign: sanitize::count(foreign)?,
            // A member of another program may end at no time that there is: then it is no reason.
            next: of(next).and_then(|next: u64| sanitize::time(next).ok()),
            limit,
            pinned: pinned != 0,
            agreed,
            ttl: if agree { sanitize::lease(ttl)? } else { sanitize::time(ttl)? },
            hold: sanitize::time(hold_left)?,
            replicas,
            paused: pause(paused)?,
            kept_until: kept.and_then(|grant| {
                grant.record.since.checked_add(Duration::from_millis(grant.hold))
            }),
            whose: whose.map(|grant| grant.record),
            blind: blind != 0,
            since,
        })
    }

    /// For how long the server grants no permit although one is free.
    pub(super) fn withheld(&self) -> Option<Withheld> {
        self.paused.filter(|_| self.held < self.limit as usize).map(Withheld::Quarantine)
    }
}

impl Client {
    pub(super) async fn call(
        &self,
        keys: &SemaphoreKeys,
        call: &Request<'_>,
    ) -> Result<Reply, StoreError> {
        let (reply, _) = self.call_beside(keys, call, None).await?;
        Ok(reply)
    }

    /// Sends what [`Client::call_beside`] then only waits for. Needs no runtime.
    pub(super) fn begin_call(
        &self,
        keys: &SemaphoreKeys,
        call: &Request<'_>,
        beside: Option<&Cmd>,
    ) {
        let (keys, arguments) = (&keys.declared, &call.arguments(keys));
        self.begin(ScriptCall { keys, arguments, beside, replicas: call.confirmations() });
    }

    /// Calls, and asks something else before that, without waiting in between.
    pub(super) async fn call_beside(
        &self,
        keys: &SemaphoreKeys,
        call: &Request<'_>,
        beside: Option<&Cmd>,
    ) -> Result<(Reply, Option<Value>), StoreError> {
        let request = async |call: &Request<'_>, beside| {
            let (keys, arguments) = (&keys.declared, &call.arguments(keys));
            let question = ScriptCall { keys, arguments, beside, replicas: call.confirmations() };
            let said = self.script(&Script::decide(), question).await?;
            let reply = Reply::of(said.answer, said.since)?;
            Ok::<_, StoreError>((reply, said.beside, said.confirmed))
        };
        let (mut reply, beside, mut confirmed) = request(call, beside).await?;
        if call.operation.needs_replicas() && reply.replicas > call.replicas {
            // Others need more, which is known only now: it has to be confirmed by as many.
            let again = Request { replicas: reply.replicas, ..call.clone() };
            (reply, _, confirmed) = request(&again, None).await?;
        }
        let needed = reply.replicas;
        if call.operation.needs_replicas() && confirmed < needed && !is_off(Guard::Replicas) {
            return Err(StoreError::Withheld(Withheld::Replicas { in_step: confirmed, needed }));
        }
        Ok((reply, beside))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_those_of_passbuddy_and_ours_beside_it() {
        let keys = SemaphoreKeys::new(&"passbuddy".parse().unwrap(), &"test lock".parse().unwrap());
        assert_eq!(keys.declared[0], "passbuddy-test lock");
        assert!(keys.declared[1..].iter().all(|key| key.starts_with("{passbuddy-test lock}:")));
        let wake = keys.wake(Uuid::nil());
        assert_eq!(wake, "{passbuddy-test lock}:wake:00000000-0000-0000-0000-000000000000");
    }
}
