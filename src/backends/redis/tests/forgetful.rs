//! Servers that were restarted, or whose keys were deleted: when they grant permits again, and what
//! their holders bring back.

use super::*;

#[test]
fn a_server_that_forgot_everything_grants_nothing_until_holders_have_reported() {
    let world = RedisWorld::new();
    let quarantine = None;
    let asks = Request { quarantine, ..call(Operation::Acquire, 9) };
    let waiting = world.call(&asks);
    assert_eq!((waiting.outcome, waiting.terms.limit), (Outcome::Waiting, 1));
    let paused = waiting.paused.unwrap();
    let half_a_minute = Duration::from_secs(30);
    assert!(paused <= half_a_minute && paused > half_a_minute / 2, "{paused:?}");
    // Three holders of a semaphore of two: better to count one than to lose it.
    let ttl = Duration::from_secs(10);
    for (who, token) in [(1, 70), (2, 80), (3, 90)] {
        let renews = Request {
            quarantine,
            token,
            ..call(Operation::Renew, who).with(|terms| (terms.limit, terms.ttl) = (2, ttl))
        };
        let renewed = world.call(&renews);
        assert_eq!((renewed.outcome, renewed.token), (Outcome::Holding, token));
        assert_eq!(
            (renewed.terms.limit, renewed.terms.ttl),
            (2, ttl),
            "they bring back what was in force"
        );
    }
    world.remembers("pause", world.now() - 1);
    assert_eq!(
        world.call(&Request { quarantine: Some(Duration::ZERO), ..asks.clone() }).outcome,
        Outcome::Waiting
    );
    world.release(1);
    assert_eq!(world.request(9).outcome, Outcome::Waiting, "two are held");
    world.release(2);
    let granted = world.request(9);
    assert_eq!(granted.outcome, Outcome::Holding);
    assert!(granted.token > 90);
    // The time for reports is over.
    let late = Request { token: 95, quarantine: Some(Duration::ZERO), ..call(Operation::Renew, 4) };
    assert_eq!(world.call(&late).outcome, Outcome::Lost);
}

#[test]
fn a_server_that_may_have_lost_the_last_grants_waits_for_one_lease() {
    let world = RedisWorld::new();
    world.request(1);
    world.release(1);
    world.write(&["HSET", "{p-a}:state", "history", "0123456789abcdef:0"]);
    let quarantine = Some(Duration::from_mins(5));
    // However long ago the last call was.
    world.remembers("last", world.now() - 3_600_000);
    let waiting = world.call(&Request { quarantine, ..call(Operation::Acquire, 2) });
    assert!(waiting.paused.is_some_and(|paused| paused <= TTL), "{waiting:?}");
    let restored = Request { token: 7, quarantine, ..call(Operation::Renew, 3) };
    assert_eq!(world.call(&restored).outcome, Outcome::Holding);
}

#[test]
fn after_a_restart_long_ago_no_client_has_to_wait() {
    let world = RedisWorld::new();
    let ttl = Duration::from_secs(1);
    world.call(&call(Operation::Acquire, 1).with(|terms| terms.ttl = ttl));
    world.release(1);
    // The server has to be up for one lease.
    std::thread::sleep(Duration::from_millis(2_100));
    world.write(&["HSET", "{p-a}:state", "history", "0123456789abcdef:0"]);
    let quarantine = None;
    let granted = world
        .call(&Request { quarantine, ..call(Operation::Acquire, 2).with(|terms| terms.ttl = ttl) });
    assert_eq!(granted.outcome, Outcome::Holding, "{granted:?}");
}

#[test]
fn holders_with_a_longer_lease_than_the_waiters_are_waited_for() {
    let world = RedisWorld::new();
    let minutes = Duration::from_mins(10);
    world.call(&call(Operation::Acquire, 1).with(|terms| terms.ttl = minutes));
    world.write(&["HSET", "{p-a}:state", "history", "0123456789abcdef:0"]);
    let quarantine = None;
    let waiting = world.call(&Request { quarantine, ..call(Operation::Acquire, 2) });
    assert!(waiting.paused.is_some_and(|paused| paused > minutes / 2), "{waiting:?}");
    // And where nothing is remembered, from the first of them on.
    let world = RedisWorld::new();
    let waiting = world.call(&Request { quarantine, ..call(Operation::Acquire, 2) });
    assert!(waiting.paused.is_some_and(|paused| paused <= Duration::from_secs(30)));
    let renews = Request {
        token: 7,
        quarantine,
        ..call(Operation::Renew, 1).with(|terms| terms.ttl = minutes)
    };
    assert_eq!(world.call(&renews).outcome, Outcome::Holding);
    let waiting = world.call(&Request { quarantine, ..call(Operation::Acquire, 2) });
    assert!(waiting.paused.is_some_and(|paused| paused > minutes / 2), "{waiting:?}");
}

#[test]
fn a_pause_does_not_end_because_the_clock_leaps() {
    let world = RedisWorld::new();
    let asks = Request { quarantine: None, ..call(Operation::Acquire, 1) };
    world.call(&asks);
    // The same as if it were a minute later now.
    let now = world.now();
    world.remembers("last", now - 60_000);
    world.remembers("pause", now - 60_000 + 25_000);
    world.write(&["ZADD", "{p-a}:alive", &(now + 15_000).to_string(), &id(1).to_string()]);
    let waiting = world.call(&asks);
    assert!(waiting.paused.is_some_and(|paused| paused > Duration::from_secs(20)), "{waiting:?}");
}

#[test]
fn withdrawing_from_a_server_that_forgot_everything_keeps_no_holder_from_coming_back() {
    let world = RedisWorld::new();
    assert_eq!(world.release(7).outcome, Outcome::Lost);
    let renewed = world.call(&Request { token: 5, ..call(Operation::Renew, 1) });
    assert_eq!(renewed.outcome, Outcome::Holding);
}

#[test]
fn deleted_keys_are_noticed_by_the_first_holder_that_renews() {
    let world = RedisWorld::new();
    let token = world.request(1).token;
    world.write(&["FLUSHALL"]);
    let quarantine = Some(TTL);
    let renewed = world.call(&Request { quarantine, token, ..call(Operation::Renew, 1) });
    assert_eq!((renewed.outcome, renewed.token), (Outcome::Holding, token));
    assert!(renewed.paused.is_some(), "others may have to report");
    let waiting = world.request(2);
    assert_eq!(waiting.outcome, Outcome::Waiting);
    world.remembers("pause", 0);
    world.release(1);
    assert!(world.request(2).token > token, "tokens grow even so");
}
