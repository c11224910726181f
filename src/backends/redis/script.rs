//! What the script is called with, and what it answers. `semaphore.lua` says what it does.

use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::connection::Connection;
use crate::backends::trouble::Trouble;
use crate::backends::{Holder, Name, Record, Snapshot, Waiter, Who, millis};

/// The keys of one semaphore, all in one slot of a cluster.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    keys: Vec<String>,
    wake: String,
}

impl Keys {
    pub(super) fn new(prefix: &Name, name: &Name) -> Self {
        let permits = format!("{prefix}-{name}");
        let beside = |what: &str| format!("{{{permits}}}:{what}");
        let others = ["queue", "alive", "asks", "grants", "state", "done"].map(beside);
        let wake = beside("wake");
        Self { keys: [permits].into_iter().chain(others).collect(), wake }
    }

    /// The list on which one waiter is told that it has a permit.
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Ask,
    Renew,
    Release,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Held,
    Queued,
    Busy,
    /// Another limit or TTL is in force.
    Differs,
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
    pub(super) limit: u32,
    pub(super) ttl: Duration,
    pub(super) paused: Option<Duration>,
    pub(super) oldest: Option<Record>,
    /// Whether the server does not say which it is.
    pub(super) blind: bool,
}

/// As the script gives it.
type Raw = (String, u64, u64, usize, usize, usize, i64, u32, u64, u64, String, u8);

impl Connection {
    pub(super) async fn call(&self, keys: &Keys, call: &Call<'_>) -> Result<Reply, Trouble> {
        let operation = match call.operation {
            Operation::Ask => "ask",
            Operation::Renew => "renew",
            Operation::Release => "release",
        };
        let flag = |set: bool, name: &str| if set { name.to_owned() } else { String::new() };
        let arguments = [
            operation.to_owned(),
            call.id.to_string(),
            call.limit.to_string(),
            call.ttl.as_millis().to_string(),
            call.who.to_owned(),
            call.ticket.to_string(),
            call.token.to_string(),
            call.quarantine.map_or("-1".into(), |time| time.as_millis().to_string()),
            call.window.as_millis().to_string(),
            flag(call.nonblock, "nonblock"),
            flag(call.strict, "strict"),
        ];
        let raw: Raw = self.script(&keys.keys, &arguments).await?;
        let (status, token, ticket, ahead, held, foreign, next, limit, ttl, paused, oldest, blind) =
            raw;
        Ok(Reply {
            status: match status.as_str() {
                "held" => Status::Held,
                "queued" => Status::Queued,
                "busy" => Status::Busy,
                "differs" => Status::Differs,
                _ => Status::Gone,
            },
            token,
            ticket,
            ahead,
            held,
            foreign,
            next: u64::try_from(next).ok().map(Duration::from_millis),
            limit,
            ttl: Duration::from_millis(ttl),
            paused: pause(paused),
            oldest: oldest.split_once(' ').and_then(|(id, grant)| Some(granted(id, grant)?.1)),
            blind: blind != 0,
        })
    }

    /// Looks without changing anything; `ttl` is what foreign members are taken to have where
    /// none is in force.
    pub(super) async fn look(
        &self,
        keys: &Keys,
        name: &Name,
        ttl: Duration,
    ) -> Result<Snapshot, Trouble> {
        type Holders = Vec<(String, i64, String)>;
        type Waiters = Vec<(String, String)>;
        let ttl = ttl.as_millis().to_string();
        let arguments = ["look", "", "0", &ttl, "", "0", "0", "0", "0", "", ""].map(String::from);
        let looked: (u32, u64, u64, Holders, Waiters) = self.script(&keys.keys, &arguments).await?;
        let (limit, ttl, paused, holders, waiters) = looked;
        let mut holders: Vec<_> = holders
            .into_iter()
            .map(|(id, left, grant)| {
                let left = Duration::from_millis(u64::try_from(left).unwrap_or(0));
                if grant.is_empty() {
                    return Holder::Foreign { permit: id, left: Some(left) };
                }
                let (token, record) = match granted(&id, &grant) {
                    Some((token, record)) => (Some(token), Some(record)),
                    None => (None, None),
                };
                Holder::Known { token, record, left: Some(left) }
            })
            .collect();
        // The order of the grants; who has no token comes last.
        holders.sort_by_key(|holder| holder.token().unwrap_or(u64::MAX));
        let waiters: Vec<_> =
            waiters.iter().map(|(id, ask)| Waiter::known(record(id, ask))).collect();
        let ours = |one: &Holder| matches!(one, Holder::Known { .. });
        let in_use = holders.iter().any(ours) || !waiters.is_empty();
        Ok(Snapshot {
            name: name.clone(),
            limit: in_use.then_some(limit),
            ttl: in_use.then_some(Duration::from_millis(ttl)),
            paused: if in_use { pause(paused) } else { None },
            holders,
            waiters,
        })
    }
}

fn pause(millis: u64) -> Option<Duration> {
    (millis > 0).then_some(Duration::from_millis(millis))
}

/// Reads `TOKEN SINCE WHO`.
fn granted(id: &str, grant: &str) -> Option<(u64, Record)> {
    let (token, rest) = grant.split_once(' ')?;
    Some((token.parse().ok()?, record(id, rest)?))
}

/// Reads `SINCE WHO`.
fn record(id: &str, text: &str) -> Option<Record> {
    let (since, who) = text.split_once(' ')?;
    let since: SystemTime = millis::at(since.parse().ok()?);
    let who: Who = serde_json::from_str(who).ok()?;
    Some(Record { permit: id.parse().ok()?, who, since })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_those_of_passbuddy_and_ours_beside_it() {
        let keys = Keys::new(&"passbuddy".parse().unwrap(), &"test lock".parse().unwrap());
        assert_eq!(keys.keys[0], "passbuddy-test lock");
        assert!(keys.keys[1..].iter().all(|key| key.starts_with("{passbuddy-test lock}:")));
        let wake = keys.wake(Uuid::nil());
        assert_eq!(wake, "{passbuddy-test lock}:wake:00000000-0000-0000-0000-000000000000");
    }

    #[test]
    fn what_others_wrote_is_read_or_left_out() {
        let who = r#"{"label":"a b","host":"h","pid":1,"user":"u"}"#;
        let id = Uuid::nil().to_string();
        let (token, record) = granted(&id, &format!("7 1000 {who}")).unwrap();
        assert_eq!((token, record.who.label.as_str()), (7, "a b"));
        for bad in ["", "7", "7 x {}", "7 1 {", "x 1 {}"] {
            assert_eq!(granted(&id, bad), None, "{bad}");
        }
    }
}
