//! Servers that take each other's place, and replicas that are missing.

use rustix::process::Signal;

use super::*;
use crate::permits::StoreError;
use crate::permits::Withheld;

const LONG: Duration = Duration::from_secs(20);

impl RedisWorld {
    fn tried(&self, call: &Request) -> Result<Reply, StoreError> {
        let keys = self.keys();
        self.runtime.block_on(async { self.connection().call(&keys, call).await })
    }

    fn info(&self, field: &str) -> String {
        let info: String = self.server.ask(&["INFO", "replication"]);
        let line = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_default().to_owned()
    }

    fn follow(&self, other: &Self) {
        let url = crate::backends::redis::config::RedisUrl::parse(&other.server.url()).unwrap();
        let redis::ConnectionAddr::Tcp(host, port) = url.info().addr() else { panic!("no port") };
        self.write(&["REPLICAOF", host, &port.to_string()]);
        until(|| self.info("master_link_status") == "up" && in_step(other) > 0);
    }

    /// A server that has taken the place of one that knew nothing.
    fn promoted() -> Self {
        let (old, new) = (Self::new(), Self::new());
        new.follow(&old);
        new.write(&["REPLICAOF", "NO", "ONE"]);
        new
    }

    fn record(&self, field: &str) -> Option<String> {
        self.server.ask(&["HGET", "{p-}:server", field])
    }
}

fn until(mut is_so: impl FnMut() -> bool) {
    let begin = std::time::Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < LONG, "it takes too long");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn in_step(world: &RedisWorld) -> usize {
    let info: String = world.server.ask(&["INFO", "replication"]);
    info.lines().filter(|line| line.contains("state=online") && line.contains("lag=0")).count()
}

fn with_replicas(operation: Operation, who: u128, replicas: u32) -> Request {
    Request { replicas, ..call(operation, who) }
}

fn too_few(answer: &Result<Reply, StoreError>) -> Option<(u32, u32)> {
    match answer {
        Err(StoreError::Withheld(Withheld::Replicas { in_step, needed })) => {
            Some((*in_step, *needed))
        }
        _ => None,
    }
}

#[test]
fn nothing_is_granted_or_renewed_while_replicas_are_missing() {
    use Operation::{Acquire, Pin, Release, Renew};
    let (world, replica) = (RedisWorld::new(), RedisWorld::new());
    assert_eq!(too_few(&world.tried(&with_replicas(Acquire, 1, 1))), Some((0, 1)));
    assert_eq!(world.look(), SemaphoreSnapshot::unused(&world.name), "nothing was written");
    replica.follow(&world);
    assert_eq!(world.call(&with_replicas(Acquire, 1, 1)).outcome, Outcome::Holding);
    // A client that asks for fewer is under the same rule, and learns it.
    let queued = world.call(&with_replicas(Acquire, 2, 0));
    assert_eq!((queued.outcome, queued.replicas), (Outcome::Waiting, 1));
    replica.write(&["REPLICAOF", "NO", "ONE"]);
    until(|| in_step(&world) == 0);
    for call in [with_replicas(Renew, 1, 0), with_replicas(Acquire, 2, 0), with_replicas(Pin, 0, 0)]
    {
        assert_eq!(too_few(&world.tried(&call)), Some((0, 1)), "{call:?}");
    }
    let seen = world.look();
    assert_eq!(seen.withheld, Some(Withheld::Replicas { in_step: 0, needed: 1 }));
    assert!(seen.full(9) && seen.holders.len() == 1 && seen.waiters.len() == 1);
    // What is given back is not granted here, where it may not count any more.
    assert_eq!(world.call(&with_replicas(Release, 1, 0)).outcome, Outcome::Lost);
    assert_eq!((world.look().holders.len(), world.look().waiters.len()), (0, 1));
    replica.follow(&world);
    // On a busy machine the replica may be late to say that it is there.
    until(|| {
        let (keys, asks) = (world.keys(), with_replicas(Acquire, 2, 0));
        let asked = async { world.connection().call(&keys, &asks).await };
        world.runtime.block_on(asked).is_ok_and(|reply| reply.outcome == Outcome::Holding)
    });
    world.call(&with_replicas(Release, 2, 0));
    // Idle, it takes the terms of the next client.
    replica.write(&["REPLICAOF", "NO", "ONE"]);
    until(|| in_step(&world) == 0);
    let granted = world.call(&with_replicas(Acquire, 3, 0));
    assert_eq!((granted.outcome, granted.replicas), (Outcome::Holding, 0));
}

#[test]
fn a_server_that_thaws_and_counts_a_replica_that_has_gone_convinces_no_one() {
    let (world, replica) = (RedisWorld::new(), RedisWorld::new());
    replica.follow(&world);
    // What the replica said last is only read now; sometimes it shows that it has gone before the call.
    let (keys, connection) = (world.keys(), world.connection());
    let called =
        |call: &Request| world.runtime.block_on(async { connection.call(&keys, call).await });
    for round in 0..4 {
        let call = |operation| with_replicas(operation, round, 1);
        // On a busy machine the replica may confirm too late once; asking again is harmless.
        until(|| {
            called(&call(Operation::Acquire)).is_ok_and(|reply| reply.outcome == Outcome::Holding)
        });
        world.server.signal(Signal::STOP);
        // It goes on saying that it is there, once a second.
        std::thread::sleep(Duration::from_millis(2_100));
        replica.write(&["REPLICAOF", "NO", "ONE"]);
        let renews = std::thread::scope(|scope| {
            let thaws = scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(300));
                world.server.signal(Signal::CONT);
            });
            let renews = called(&call(Operation::Renew));
            thaws.join().unwrap();
            renews
        });
        assert_eq!(too_few(&renews), Some((0, 1)), "{round}");
        replica.follow(&world);
        until(|| called(&call(Operation::Release)).is_ok());
    }
}

#[test]
fn a_lease_that_ends_while_replicas_are_missing_is_not_passed_on() {
    let (world, replica) = (RedisWorld::new(), RedisWorld::new());
    replica.follow(&world);
    world.call(&with_replicas(Operation::Acquire, 1, 1));
    replica.write(&["REPLICAOF", "NO", "ONE"]);
    until(|| in_step(&world) == 0);
    world.write(&["ZADD", "p-a", &(world.now() - 1).to_string(), &id(1).to_string()]);
    // It may have been renewed where the replica is.
    world.call(&with_replicas(Operation::Leave, 2, 0));
    assert_eq!(too_few(&world.tried(&with_replicas(Operation::Acquire, 3, 0))), Some((0, 1)));
    assert_eq!(world.look().holders.len(), 1);
    // Unless an operator revokes it.
    assert_eq!(
        world.call(&with_replicas(Operation::Revoke(Revocation::Forced), 1, 0)).outcome,
        Outcome::Revoked
    );
    assert_eq!(world.call(&with_replicas(Operation::Acquire, 3, 0)).outcome, Outcome::Holding);
}

#[test]
fn a_promoted_server_grants_nothing_of_a_name_that_it_does_not_know_for_a_lease() {
    let world = RedisWorld::promoted();
    let quarantine = Some(Duration::from_mins(5));
    let asks = |who| Request { quarantine, ..call(Operation::Acquire, who) };
    // It has not been up for longer than that.
    let waiting = world.call(&asks(1));
    assert!(waiting.paused.is_some_and(|left| left > TTL), "{waiting:?}");
    let seen = world.look().withheld.and_then(Withheld::left);
    assert!(seen.is_some_and(|left| left > TTL), "{seen:?}");
    let quarantine = Some(TTL);
    let asks = |who| Request {
        quarantine,
        ..call(Operation::Acquire, who).with(|terms| terms.ttl = TTL / 2)
    };
    let at: i64 = world.record("with:0").unwrap().parse().unwrap();
    assert!((0..=10_000).contains(&(world.now() - at)));
    let ttl: i64 = world.server.ask(&["TTL", "{p-}:server"]);
    assert_eq!(ttl, -1, "it does not expire");
    // A while later, of another name.
    let later = RedisWorld { name: "b".parse().unwrap(), ..world };
    later.write(&["HSET", "{p-}:server", "with:0", &(at - 60_000).to_string()]);
    let quarantined = Request { quarantine: Some(Duration::from_secs(1)), ..asks(2) };
    until(|| later.call(&quarantined).outcome == Outcome::Holding);
}

#[test]
fn what_was_not_claimed_before_a_promotion_is_not_claimed_after_it() {
    let (old, new) = (RedisWorld::new(), RedisWorld::new());
    new.follow(&old);
    old.request(1);
    let ticket = old.request(2).ticket;
    old.release(1);
    // The second one has the permit, and has not heard of it.
    until(|| new.expiry(2).is_some());
    new.write(&["REPLICAOF", "NO", "ONE"]);
    // Meanwhile it went on to a third one at the old server.
    let quarantine = Some(TTL);
    let claims = new.call(&Request { quarantine, ticket, ..call(Operation::Acquire, 2) });
    assert_eq!((claims.outcome, claims.held), (Outcome::Waiting, 0), "{claims:?}");
    let third = Request { token: claims.ticket, quarantine, ..call(Operation::Renew, 3) };
    assert_eq!(new.call(&third).outcome, Outcome::Holding);
}

#[test]
fn each_promotion_is_one_of_its_own() {
    let world = RedisWorld::promoted();
    world.request(1);
    world.release(1);
    let first = world.record("history").unwrap();
    let other = RedisWorld::new();
    world.follow(&other);
    world.write(&["REPLICAOF", "NO", "ONE"]);
    // The data are those of the other server, with what this one wrote down itself once.
    world.write(&["HSET", "{p-}:server", "history", &first, "with:0", "1000"]);
    let run = world.info("master_replid");
    world.write(&["HSET", "{p-a}:state", "last", "1000", "history", &format!("{first}:0")]);
    let quarantine = Some(TTL);
    let waiting = world.call(&Request { quarantine, ..call(Operation::Acquire, 2) });
    assert!(waiting.paused.is_some_and(|left| left > TTL / 2), "{waiting:?}");
    assert_eq!(world.record("history"), Some(run));
}

#[test]
fn replicas_that_come_later_begin_the_wait_of_clients_that_ask_for_them() {
    let (world, replica) = (RedisWorld::promoted(), RedisWorld::new());
    let quarantine = Some(Duration::from_secs(5));
    let ttl = Duration::from_secs(1);
    let asks = |who, replicas| Request {
        quarantine,
        ..with_replicas(Operation::Acquire, who, replicas).with(|terms| terms.ttl = ttl)
    };
    until(|| world.call(&asks(1, 0)).outcome == Outcome::Holding);
    world
        .call(&Request { quarantine, ..call(Operation::Release, 1).with(|terms| terms.ttl = ttl) });
    replica.follow(&world);
    // The server before this one may have had the replica until a moment ago.
    let waiting = world.call(&asks(2, 1));
    assert_eq!(waiting.outcome, Outcome::Waiting);
    assert!(waiting.paused.is_some_and(|left| left > ttl / 2), "{waiting:?}");
}

#[test]
fn what_an_older_client_left_is_judged_by_the_server() {
    let of_before = |world: &RedisWorld, last: i64| {
        let run: String = world.server.ask(&["INFO", "server"]);
        let run = run.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap().to_owned();
        let state = ["HSET", "{p-a}:state", "run", &run, "last", &last.to_string(), "ttl", "30000"];
        world.write(&state);
    };
    // One that was never promoted, and has been up for longer than a lease.
    let world = RedisWorld::new();
    let ttl = Duration::from_secs(1);
    std::thread::sleep(Duration::from_millis(2_100));
    of_before(&world, world.now());
    world.write(&["HSET", "{p-a}:state", "ttl", "1000"]);
    let asks =
        Request { quarantine: None, ..call(Operation::Acquire, 1).with(|terms| terms.ttl = ttl) };
    assert_eq!(world.call(&asks).outcome, Outcome::Holding);
    // One that was, and where an older client came first.
    let world = RedisWorld::promoted();
    of_before(&world, world.now());
    let asks = Request { quarantine: None, ..call(Operation::Acquire, 1) };
    let waiting = world.call(&asks);
    assert!(waiting.paused.is_some_and(|left| left > TTL / 2), "{waiting:?}");
}

#[test]
fn replicas_cannot_be_counted_where_the_server_does_not_tell() {
    let world = RedisWorld::new();
    world.write(&["ACL", "SETUSER", "default", "-info"]);
    let refused = world.tried(&with_replicas(Operation::Acquire, 1, 1)).unwrap_err();
    assert_eq!((refused.is_permanent(), refused), (true, StoreError::Uncounted));
    assert_eq!(world.request(1).outcome, Outcome::Holding);
}

#[test]
fn a_client_that_may_not_ask_for_info_is_told_and_disturbs_no_other() {
    let world = RedisWorld::new();
    world.write(&["ACL", "SETUSER", "default", "-info"]);
    let blind = world.request(1);
    assert!(blind.blind && blind.outcome == Outcome::Holding);
    world.write(&["ACL", "SETUSER", "default", "+info"]);
    let seeing = world.renew(1);
    assert!(!seeing.blind && seeing.paused.is_none());
}
