//! How semaphores in Redis stand: parses the answers of `snapshot.lua` entry by entry, as other
//! programs may have written any of them.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use redis::{FromRedisValue, Value, from_redis_value};

use super::client::{RedisClient, Script, ScriptCall};
use super::config::RedisConfig;
use super::script::SemaphoreKeys;
use crate::permits::sanitize;
use crate::permits::snapshot::millis;
use crate::permits::{
    ClientInfo, Holder, HolderState, Name, Record, SemaphoreSnapshot, StoreError, Waiter, Withheld,
};

/// The TTL of foreign members where none is in force: PassBuddy's own default.
const FOREIGN_TTL: Duration = Duration::from_secs(5);

impl RedisClient {
    /// Looks without changing anything.
    pub(super) async fn look(
        &self,
        keys: &SemaphoreKeys,
        name: &Name,
        config: &RedisConfig,
    ) -> Result<SemaphoreSnapshot, StoreError> {
        let arguments = &to_look(keys, config);
        let question = ScriptCall { keys: keys.to_look(), arguments, beside: None, replicas: 0 };
        let looked = self.script(&Script::look(), question).await?;
        Ok(snapshot(name, looked.answer))
    }

    /// The same at several in one round trip. An error may come from any of them, or because the
    /// server does not have the script yet.
    pub(super) async fn look_at_each(
        &self,
        keys: &[SemaphoreKeys],
        names: &[Name],
        config: &RedisConfig,
    ) -> Result<Vec<SemaphoreSnapshot>, StoreError> {
        let program = Script::look();
        let question = |keys: &SemaphoreKeys| program.known(keys.to_look(), &to_look(keys, config));
        let questions: Vec<_> = keys.iter().map(question).collect();
        let looked: Vec<Looked> = self.ask_all(&questions).await?;
        Ok(names.iter().zip(looked).map(|(name, looked)| snapshot(name, looked)).collect())
    }
}

/// Limit, whether that is pinned, TTL, pause, replicas in step and how many must be, holders and waiters.
/// Others may have written anything into the keys, so each is parsed by itself.
type Looked = (Value, Value, Value, Value, u32, Value, Vec<Value>, Vec<Value>, Value);

fn to_look(keys: &SemaphoreKeys, config: &RedisConfig) -> [String; 4] {
    let ttl = FOREIGN_TTL.as_millis().to_string();
    [ttl, written(config.quarantine), config.replicas.to_string(), keys.server.clone()]
}

/// A quarantine as the scripts take it.
pub(super) fn written(quarantine: Option<Duration>) -> String {
    quarantine.map_or("-1".into(), |time| time.as_millis().to_string())
}

fn snapshot(name: &Name, looked: Looked) -> SemaphoreSnapshot {
    let (limit, pinned, ttl, paused, in_step, needed, holders, waiters, known) = looked;
    let mut holders: Vec<_> = holders.into_iter().map(holder).collect();
    // The order of the grants; holders without a token come last.
    holders.sort_by_key(|holder| holder.token().unwrap_or(u64::MAX));
    let waiter = |said| {
        let (id, request): (Value, Value) = of(said)?;
        parse_waiter(&lossy(&id), &lossy(&request))
    };
    let waiters: Vec<_> = waiters.into_iter().map(|said| Waiter::known(waiter(said))).collect();
    let ours = |one: &Holder| matches!(one, Holder::Known { .. });
    let in_use = holders.iter().any(ours) || !waiters.is_empty();
    let pinned = of(pinned) != Some(0_u8);
    let mut odd = None;
    // A value that is no number is impossible too.
    let limit = sanitize::limit(of(limit).unwrap_or(0)).map(Some);
    let limit = sanitize::or_note(if in_use || pinned { limit } else { Ok(None) }, &mut odd);
    let ttl = sanitize::time(of(ttl).unwrap_or(u64::MAX)).map(Some);
    let ttl = sanitize::or_note(if in_use { ttl } else { Ok(None) }, &mut odd);
    let paused = sanitize::or_note(pause(of(paused).unwrap_or(u64::MAX)), &mut odd);
    let withheld = match of(needed) {
        Some(needed) if in_step < needed => Some(Withheld::Replicas { in_step, needed }),
        _ => paused.map(Withheld::Quarantine),
    };
    let known = of(known) != Some(0_u8);
    SemaphoreSnapshot {
        name: name.clone(),
        known,
        limit,
        pinned,
        ttl,
        withheld,
        holders,
        waiters,
        odd,
    }
}

fn holder(said: Value) -> Holder {
    let Some((id, left, grant)) = of::<(Value, Value, Value)>(said) else {
        return Holder::unknown();
    };
    let (id, grant) = (lossy(&id), lossy(&grant));
    let left = of(left).and_then(|left: i64| sanitize::time(u64::try_from(left).unwrap_or(0)).ok());
    if grant.is_empty() {
        return Holder::Foreign { permit: sanitize::identity(&id), left, key: None };
    }
    match parse_grant(&id, &grant) {
        Some(GrantRecord { token, phase, record, .. }) if left.is_some() => {
            Holder::Known { token: Some(token), record: Some(record), phase, left }
        }
        _ => Holder::Known { token: None, record: None, phase: HolderState::Holding, left },
    }
}

/// A value as this type, if it is one.
pub(super) fn of<T: FromRedisValue>(value: Value) -> Option<T> {
    from_redis_value(value).ok()
}

/// A text, whatever is in it.
pub(super) fn lossy(value: &Value) -> Cow<'_, str> {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes),
        Value::SimpleString(text) => text.into(),
        _ => "".into(),
    }
}

pub(super) fn pause(millis: u64) -> Result<Option<Duration>, StoreError> {
    sanitize::time_if_any((millis > 0).then_some(millis))
}

/// What a script may have answered.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(value: Value) {
    use crate::request::Reply;

    if let Some(looked) = of(value.clone()) {
        let snapshot = snapshot(&"x".parse().expect("a good name"), looked);
        assert!(snapshot.limit.is_none_or(|limit| (1..=10_000).contains(&limit)));
        assert!(snapshot.holders.iter().all(|one| one.left().is_none_or(sanitize::is_time)));
    }
    if let Some(Ok(reply)) = of(value).map(|raw| Reply::parse(raw, crate::clock::now())) {
        let end = reply.since + reply.terms.times().iter().sum::<Duration>();
        let _ = (reply.withheld(), end);
    }
}

pub(super) struct GrantRecord {
    token: u64,
    pub(super) phase: HolderState,
    /// For how long from its grant it stays taken, in milliseconds.
    pub(super) hold: u64,
    pub(super) record: Record,
}

/// Reads `TOKEN SINCE HOLD LEASE PHASE WHO`.
pub(super) fn parse_grant(id: &str, grant: &str) -> Option<GrantRecord> {
    let (token, rest) = grant.split_once(' ')?;
    let (phase, hold, record) = parse_former_holder(id, rest)?;
    Some(GrantRecord { token: token.parse().ok()?, phase, hold, record })
}

/// Reads `SINCE HOLD LEASE - LISTENER WHO`.
fn parse_waiter(id: &str, request: &str) -> Option<Record> {
    Some(parse_former_holder(id, request)?.2)
}

fn parse_former_holder(id: &str, text: &str) -> Option<(HolderState, u64, Record)> {
    let mut parts = text.splitn(5, ' ');
    let since: SystemTime = millis::at(parts.next()?.parse().ok()?);
    let (hold, _lease, phase) = (parts.next()?, parts.next()?, parts.next()?);
    let phase = match phase {
        "r" => HolderState::Revoking,
        "m" => HolderState::MinHold,
        _ => HolderState::Holding,
    };
    let listener_and_who = parts.next()?;
    // Older clients say no listener.
    let who = listener_and_who.find('{').map(|at| &listener_and_who[at..])?;
    let who: ClientInfo = serde_json::from_str(who).ok()?;
    let hold = hold.parse().unwrap_or(0);
    Some((phase, hold, Record { permit: id.parse().ok()?, who, since }))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn what_others_wrote_is_read_or_left_out() {
        let who = r#"{"label":"a b","host":"h","pid":1,"user":"u"}"#;
        let id = Uuid::nil().to_string();
        let GrantRecord { token, phase, record, .. } =
            parse_grant(&id, &format!("7 1000 0 0 r {id} {who}")).unwrap();
        assert_eq!((token, phase, record.who.label.as_str()), (7, HolderState::Revoking, "a b"));
        assert_eq!(parse_grant(&id, &format!("7 1000 0 0 r {who}")).unwrap().record, record);
        assert_eq!(parse_waiter(&id, &format!("1000 50 0 - {id} {who}")).unwrap(), record);
        for bad in
            ["", "7", "7 x 0 0 h x {}", "7 1 0 0 h x {", "x 1 0 0 h x {}", "7 1 0 0 h x", "7 1 {}"]
        {
            assert!(parse_grant(&id, bad).is_none(), "{bad}");
        }
    }
}
