//! Arguments and answers of the scripts: `semaphore.lua` and `snapshot.lua`, each after `server.lua`.

use std::time::Duration;

use redis::{Cmd, Value};
use uuid::Uuid;

use super::client::{RedisClient, Script, ScriptCall};
use super::snapshot::{lossy, of, parse_grant, pause, written};
use crate::clock::Moment;
use crate::mutants::{Guard, is_off};
use crate::permits::Terms;
use crate::permits::sanitize;
use crate::permits::{ClientInfo, HolderState, Name, Revocation, StoreError, Withheld};
use crate::request::{Operation, Outcome, Reply, Request};

/// The keys of one semaphore, all in one slot of a cluster.
#[derive(Debug, Clone)]
pub(super) struct SemaphoreKeys {
    declared: Vec<String>,
    /// What the server remembers of itself, for all semaphores of the prefix. No semaphore has an empty
    /// name.
    pub(super) server: String,
}

impl SemaphoreKeys {
    pub(super) fn new(prefix: &Name, name: &Name) -> Self {
        let permits = format!("{prefix}-{name}");
        let beside = |what: &str| format!("{{{permits}}}:{what}");
        let others = ["queue", "alive", "asks", "grants", "state", "done"].map(beside);
        let server = format!("{{{prefix}-}}:server");
        Self { declared: [permits].into_iter().chain(others).collect(), server }
    }

    /// All keys but the last, which remembers clients that have given back.
    pub(super) fn to_look(&self) -> &[String] {
        &self.declared[..6]
    }
}

/// The list on which a client is told of its permits, whatever their semaphores.
pub(super) fn wake_list(prefix: &Name, listener: Uuid) -> String {
    format!("{{{prefix}-}}:wake:{listener}")
}

impl Request {
    /// How many replicas have to confirm its writes.
    fn confirmations(&self) -> u32 {
        if self.operation.needs_replicas() { self.replicas } else { 0 }
    }

    fn arguments(&self, keys: &SemaphoreKeys) -> [String; 15] {
        let mut terms = self.terms;
        if is_off(Guard::Hold) {
            terms = Terms { strict: terms.strict, ..terms.shared() };
        }
        let flag = |set: bool, name: &str| if set { name.to_owned() } else { String::new() };
        [
            self.operation.word().to_owned(),
            self.id.to_string(),
            match self.operation {
                Operation::Unpin => 0,
                _ => terms.limit,
            }
            .to_string(),
            terms.ttl.as_millis().to_string(),
            self.client.as_deref().map(describe).unwrap_or_default(),
            self.ticket.to_string(),
            self.token.to_string(),
            written(self.quarantine),
            self.window.as_millis().to_string(),
            flag(self.nonblock, "nonblock"),
            flag(terms.strict, "strict"),
            terms.min_hold.as_millis().to_string(),
            self.replicas.to_string(),
            keys.server.clone(),
            self.listener.to_string(),
        ]
    }
}

impl Operation {
    fn word(self) -> &'static str {
        match self {
            Self::Acquire => "ask",
            Self::Renew => "renew",
            Self::Release => "release",
            Self::Leave => "leave",
            Self::Attach => "attach",
            Self::ReleaseDetached => "return",
            Self::Revoke(Revocation::Graceful) => "revoke",
            Self::Revoke(Revocation::Forced) => "remove",
            Self::Pin | Self::Unpin => "limit",
        }
    }

    /// Whether it counts only if enough replicas have it: what a server that was replaced grants or
    /// extends must not be used. An old message of a replica may still make it look as if it were in
    /// step.
    fn needs_replicas(self) -> bool {
        matches!(self, Self::Acquire | Self::Renew | Self::Attach | Self::Pin | Self::Unpin)
    }
}

/// As the script gives it.
pub(super) type Raw = (String, u64, u64, usize, usize, usize, Value, RawTerms, u64, Value, u8);
type RawTerms = (u32, u8, u32, u64, u64, u32);

impl Reply {
    /// An error: no script of ours says that.
    pub(super) fn parse(raw: Raw, since: Moment) -> Result<Self, StoreError> {
        let (status, token, ticket, ahead, held, foreign, next, terms, paused, whose, blind) = raw;
        let (limit, pinned, agreed, ttl, hold_left, replicas) = terms;
        let outcome = match status.as_str() {
            "holding" => Outcome::Holding,
            "waiting" => Outcome::Waiting,
            "busy" => Outcome::Busy,
            "differs" => Outcome::Differs,
            "revoked" => Outcome::Revoked,
            "returned" => Outcome::Released,
            "done" => Outcome::Done,
            _ => Outcome::Lost,
        };
        // To the others no limit is said.
        let agree = matches!(
            outcome,
            Outcome::Holding | Outcome::Waiting | Outcome::Busy | Outcome::Differs
        );
        if agree {
            sanitize::limit(limit)?;
            sanitize::limit(agreed)?;
        }
        let whose = lossy(&whose);
        let whose = whose.split_once(' ').and_then(|(id, grant)| parse_grant(id, grant));
        let kept = whose.as_ref().filter(|grant| grant.phase == HolderState::MinHold);
        Ok(Self {
            outcome,
            seal: String::new(),
            key: None,
            server: None,
            token,
            ticket,
            ahead: sanitize::count(ahead)?,
            held: sanitize::count(held)?,
            foreign: sanitize::count(foreign)?,
            // A member of another program may end at no time that there is: then it is no reason.
            next: of(next).and_then(|next: u64| sanitize::time(next).ok()),
            terms: Terms {
                limit,
                ttl: if agree { sanitize::lease(ttl)? } else { sanitize::time(ttl)? },
                strict: false,
                min_hold: sanitize::time(hold_left)?,
            },
            pinned: pinned != 0,
            agreed,
            replicas,
            paused: pause(paused)?,
            kept_until: kept.and_then(|grant| {
                grant.record.since.checked_add(Duration::from_millis(grant.hold))
            }),
            record: whose.map(|grant| grant.record),
            blind: blind != 0,
            since,
        })
    }
}

/// What others may see of a client, as the script keeps it.
fn describe(client: &ClientInfo) -> String {
    serde_json::to_string(client).expect("plain text")
}

impl RedisClient {
    #[cfg(test)]
    pub(super) async fn call(
        &self,
        keys: &SemaphoreKeys,
        call: &Request,
    ) -> Result<Reply, StoreError> {
        let (reply, _) = self.call_beside(keys, call, None).await?;
        Ok(reply)
    }

    /// Sends what [`RedisClient::call_beside`] then only waits for. Needs no runtime.
    pub(super) fn begin_call(&self, keys: &SemaphoreKeys, call: &Request, beside: Option<&Cmd>) {
        let (keys, arguments) = (&keys.declared, &call.arguments(keys));
        self.begin(ScriptCall { keys, arguments, beside, replicas: call.confirmations() });
    }

    /// Calls, and asks something else before that, without waiting in between.
    pub(super) async fn call_beside(
        &self,
        keys: &SemaphoreKeys,
        call: &Request,
        beside: Option<&Cmd>,
    ) -> Result<(Reply, Option<Value>), StoreError> {
        let request = async |call: &Request, beside| {
            let (keys, arguments) = (&keys.declared, &call.arguments(keys));
            let question = ScriptCall { keys, arguments, beside, replicas: call.confirmations() };
            let said = self.script(&Script::decide(), question).await?;
            let reply = Reply::parse(said.answer, said.since)?;
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
        let wake = wake_list(&"passbuddy".parse().unwrap(), Uuid::nil());
        assert_eq!(wake, "{passbuddy-}:wake:00000000-0000-0000-0000-000000000000");
    }
}
