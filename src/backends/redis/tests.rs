//! The script alone, against a real server: what must hold when answers are lost, clocks jump,
//! data vanishes and strangers write. Time is moved by moving what the script remembers of it.

mod client;
mod detached_and_held;
mod forgetful;
mod replicas;

use std::sync::Arc;
use std::time::Duration;

use semrun_testkit::redis_server::RedisServer;
use uuid::Uuid;

use super::RedisConfig;
use super::client::RedisClient;
use super::connection::RedisDialer;
use super::script::SemaphoreKeys;
use crate::permits::Terms;
use crate::permits::{ClientInfo, Holder, Name, Revocation, SemaphoreSnapshot};
use crate::request::{Operation, Outcome, Reply, Request};

const TTL: Duration = Duration::from_secs(30);
const DAY: i64 = 24 * 60 * 60 * 1000;
const WHO: &str = r#"{"label":"job","host":"here","pid":1,"user":"me"}"#;

/// A semaphore in a server of its own.
struct RedisWorld {
    server: RedisServer,
    name: Name,
    runtime: tokio::runtime::Runtime,
}

impl RedisWorld {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { server: RedisServer::start(), name: "a".parse().unwrap(), runtime }
    }

    fn keys(&self) -> SemaphoreKeys {
        SemaphoreKeys::new(&"p".parse().unwrap(), &self.name)
    }

    fn connection(&self) -> RedisClient {
        RedisClient::new(RedisDialer::new(&self.config()).unwrap())
    }

    fn config(&self) -> RedisConfig {
        config(&self.server.url())
    }

    fn call(&self, call: &Request) -> Reply {
        let keys = self.keys();
        self.runtime.block_on(async { self.connection().call(&keys, call).await.unwrap() })
    }

    fn request(&self, who: u128) -> Reply {
        self.call(&call(Operation::Acquire, who))
    }

    fn renew(&self, who: u128) -> Reply {
        self.call(&call(Operation::Renew, who))
    }

    fn release(&self, who: u128) -> Reply {
        self.call(&call(Operation::Release, who))
    }

    fn look(&self) -> SemaphoreSnapshot {
        self.runtime.block_on(self.look_at())
    }

    async fn look_at(&self) -> SemaphoreSnapshot {
        let keys = self.keys();
        self.connection().look(&keys, &self.name, &self.config()).await.unwrap()
    }

    fn now(&self) -> i64 {
        let (seconds, micros): (i64, i64) = self.server.ask(&["TIME"]);
        seconds * 1000 + micros / 1000
    }

    fn expiry(&self, who: u128) -> Option<i64> {
        self.server.ask(&["ZSCORE", "p-a", &id(who).to_string()])
    }

    fn write(&self, words: &[&str]) {
        let _: redis::Value = self.server.ask(words);
    }

    fn remembers(&self, field: &str, value: i64) {
        self.write(&["HSET", "{p-a}:state", field, &value.to_string()]);
    }
}

/// The place of a client that waits for no quarantine.
fn config(url: &str) -> RedisConfig {
    RedisConfig {
        url: super::config::RedisUrl::parse(url).unwrap(),
        tls: crate::backends::tls::Tls::default(),
        prefix: "p".parse().unwrap(),
        quarantine: Some(Duration::ZERO),
        replicas: 0,
        allow_eviction: false,
    }
}

fn id(who: u128) -> Uuid {
    Uuid::from_u128(who)
}

fn client(json: &str) -> Arc<ClientInfo> {
    Arc::new(serde_json::from_str(json).unwrap())
}

fn call(operation: Operation, who: u128) -> Request {
    Request {
        terms: Terms { ttl: TTL, ..Terms::default() },
        client: Some(client(WHO)),
        window: Duration::from_secs(15),
        quarantine: Some(Duration::ZERO),
        ..Request::of(operation, id(who))
    }
}

#[test]
fn every_operation_may_be_repeated() {
    let world = RedisWorld::new();
    let first = world.request(1);
    assert_eq!((first.outcome, first.terms.limit, first.terms.ttl), (Outcome::Holding, 1, TTL));
    assert_eq!(world.request(1).token, first.token);
    let queued = world.request(2);
    assert_eq!((queued.outcome, queued.ahead), (Outcome::Waiting, 0));
    assert_eq!(world.request(2).ticket, queued.ticket);
    assert_eq!(world.release(1).outcome, Outcome::Lost);
    assert_eq!(world.release(1).outcome, Outcome::Lost);
    let second = world.request(2);
    assert_eq!(second.outcome, Outcome::Holding);
    assert!(second.token > first.token);
    assert_eq!(world.renew(2).outcome, Outcome::Holding);
}

#[test]
fn what_arrives_after_a_release_revives_nothing() {
    let world = RedisWorld::new();
    world.request(1);
    world.release(1);
    assert_eq!(world.request(1).outcome, Outcome::Lost);
    assert_eq!(world.renew(1).outcome, Outcome::Lost);
    assert_eq!(world.request(2).outcome, Outcome::Holding);
}

#[test]
fn an_expired_lease_is_gone_and_the_next_in_line_has_its_permit() {
    let world = RedisWorld::new();
    let held = world.request(1).token;
    let queued = world.request(2);
    assert!(queued.next.is_some_and(|next| next <= TTL && next > TTL / 2));
    assert_eq!(queued.record.map(|record| record.permit), Some(id(1)));
    world.write(&["ZADD", "p-a", &(world.now() - 1).to_string(), &id(1).to_string()]);
    let granted = world.request(2);
    assert_eq!(granted.outcome, Outcome::Holding);
    assert!(granted.token > held);
    assert_eq!(world.renew(1).outcome, Outcome::Lost);
}

#[test]
fn a_permit_that_its_waiter_does_not_claim_goes_to_the_next_soon() {
    let world = RedisWorld::new();
    world.request(1);
    let mut second = call(Operation::Acquire, 2);
    second.ticket = world.request(2).ticket;
    world.request(3);
    world.release(1);
    let unclaimed = world.expiry(2).unwrap() - world.now();
    assert!((4_000..=5_000).contains(&unclaimed), "{unclaimed}");
    assert_eq!(world.woken(2).len(), 1);
    world.write(&["ZADD", "p-a", &(world.now() - 1).to_string(), &id(2).to_string()]);
    assert_eq!(world.request(3).outcome, Outcome::Holding);
    // It comes back, to the place it had: before the fourth.
    world.request(4);
    let back = world.call(&second);
    assert_eq!((back.outcome, back.ahead), (Outcome::Waiting, 0));
}

#[test]
fn a_waiter_that_is_not_heard_of_any_more_loses_its_place_and_gets_it_back() {
    let world = RedisWorld::new();
    world.request(1);
    let ticket = world.request(2).ticket;
    world.request(3);
    let late = (world.now() - 1).to_string();
    world.write(&["ZADD", "{p-a}:alive", &late, &id(2).to_string()]);
    assert_eq!(world.request(3).ahead, 0);
    assert_eq!(world.call(&Request { ticket, ..call(Operation::Acquire, 2) }).ahead, 0);
    assert_eq!(world.request(3).ahead, 1);
}

#[test]
fn a_clock_that_went_back_takes_nothing_and_prolongs_nothing() {
    let world = RedisWorld::new();
    world.request(1);
    let (now, hour) = (world.now(), 3_600_000);
    world.remembers("last", now + hour);
    world.write(&["ZADD", "p-a", &(now + hour + 30_000).to_string(), &id(1).to_string()]);
    assert_eq!(world.request(2).outcome, Outcome::Waiting);
    let left = world.expiry(1).unwrap() - world.now();
    assert!((29_000..=30_000).contains(&left), "{left}");
}

#[test]
fn a_clock_that_leapt_forward_leaves_holders_the_time_to_renew() {
    let world = RedisWorld::new();
    world.request(1);
    world.request(2);
    let now = world.now();
    // The last call was a minute ago, and 30 seconds ago the lease has ended.
    world.remembers("last", now - 60_000);
    world.write(&["ZADD", "p-a", &(now - 30_000).to_string(), &id(1).to_string()]);
    let waiting = world.request(2);
    assert_eq!(waiting.outcome, Outcome::Waiting);
    let paused = waiting.paused.unwrap();
    assert!(paused <= TTL / 2 && paused > TTL / 4, "{paused:?}");
    assert_eq!(waiting.next, Some(paused));
    assert_eq!(world.renew(1).outcome, Outcome::Holding);
    // Had it not, its time would be over with the pause.
    world.write(&["ZADD", "p-a", &(now - 30_000).to_string(), &id(1).to_string()]);
    world.remembers("pause", world.now() - 1);
    assert_eq!(world.request(2).outcome, Outcome::Holding);
}

#[test]
fn foreign_members_count_until_one_ttl_after_their_expiry() {
    let world = RedisWorld::new();
    let foreign = "33333333-3333-4333-8333-333333333333";
    let member = |left: i64| {
        world.write(&["ZADD", "p-a", &(world.now() + left).to_string(), foreign]);
    };
    member(1_000);
    let waiting = world.request(1);
    assert_eq!((waiting.outcome, waiting.foreign, waiting.held), (Outcome::Waiting, 1, 1));
    let next = waiting.next.unwrap();
    assert!(next > TTL && next <= TTL + Duration::from_secs(1), "{next:?}");
    let Holder::Foreign { permit, left: Some(left), .. } = &world.look().holders[0] else {
        panic!("foreign")
    };
    assert_eq!(permit, foreign);
    assert!(*left <= Duration::from_secs(1));
    member(-29_000);
    assert_eq!(world.request(1).outcome, Outcome::Waiting);
    member(-30_001);
    assert_eq!(world.look().holders, []);
    assert_eq!(world.request(1).outcome, Outcome::Holding);
}

#[test]
fn only_clients_that_use_it_through_semrun_keep_its_limit_in_force() {
    let world = RedisWorld::new();
    let foreign = "33333333-3333-4333-8333-333333333333";
    world.write(&["ZADD", "p-a", &(world.now() + 5_000).to_string(), foreign]);
    assert_eq!(world.look().limit, None);
    let granted = world.call(&call(Operation::Acquire, 1).with(|terms| terms.limit = 2));
    assert_eq!((granted.outcome, granted.terms.limit), (Outcome::Holding, 2));
    assert_eq!(world.request(2).terms.limit, 2, "it stands");
    assert_eq!(world.look().limit, Some(2));
}

#[test]
fn a_permit_that_was_removed_by_hand_is_lost_and_leaves_nothing() {
    let world = RedisWorld::new();
    world.request(1);
    world.write(&["ZREM", "p-a", &id(1).to_string()]);
    assert_eq!(world.renew(1).outcome, Outcome::Lost);
    let mut strict = call(Operation::Acquire, 2);
    (strict.terms.limit, strict.terms.strict) = (5, true);
    assert_eq!(world.call(&strict).outcome, Outcome::Holding, "it was idle");
    // Also where its holder never comes back.
    world.write(&["ZREM", "p-a", &id(2).to_string()]);
    let mut strict = call(Operation::Acquire, 3);
    (strict.terms.limit, strict.terms.strict) = (7, true);
    assert_eq!(world.call(&strict).outcome, Outcome::Holding);
}

#[test]
fn everything_goes_a_day_after_it_was_last_used() {
    let world = RedisWorld::new();
    world.request(1);
    world.request(2);
    world.request(3);
    world.release(1);
    let keys: Vec<String> = world.server.ask(&["KEYS", "*"]);
    assert!(keys.len() >= 7, "{keys:?}");
    for key in keys {
        let left: i64 = world.server.ask(&["PTTL", &key]);
        assert!(left > 0 && left <= DAY, "{key}: {left}");
    }
}

#[test]
fn a_set_that_others_write_to_does_not_go_under_them() {
    let world = RedisWorld::new();
    world.request(1);
    let foreign = "33333333-3333-4333-8333-333333333333";
    world.write(&["ZADD", "p-a", &(world.now() + 5_000).to_string(), foreign]);
    world.renew(1);
    let left: i64 = world.server.ask(&["PTTL", "p-a"]);
    assert_eq!(left, -1);
    world.write(&["ZREM", "p-a", foreign]);
    world.renew(1);
    let left: i64 = world.server.ask(&["PTTL", "p-a"]);
    assert_eq!(left, -1, "they may come back");
}

#[test]
fn looking_writes_nothing() {
    let world = RedisWorld::new();
    let looked = world.look();
    assert_eq!(
        looked,
        SemaphoreSnapshot { known: looked.known, ..SemaphoreSnapshot::unused(&world.name) }
    );
    let keys: Vec<String> = world.server.ask(&["KEYS", "*"]);
    assert_eq!(keys, [""; 0]);
    world.request(1);
    world.write(&["ZADD", "p-a", &(world.now() - 1).to_string(), &id(1).to_string()]);
    assert_eq!(world.look().holders, [], "its time is over");
    assert!(world.expiry(1).is_some());
}

#[test]
fn a_full_memory_keeps_no_holder_from_renewing_and_releasing() {
    let world = RedisWorld::new();
    world.request(1);
    world.write(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(world.renew(1).outcome, Outcome::Holding);
    assert_eq!(world.request(2).outcome, Outcome::Waiting);
    world.release(1);
    assert_eq!(world.request(2).outcome, Outcome::Holding);
}
