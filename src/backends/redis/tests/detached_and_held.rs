//! Permits that outlive their process, stay taken after it or are revoked, and pinned limits.

use super::*;
use crate::permits::HolderState;

const DETACHED: &str = r#"{"label":"job","host":"here","pid":1,"user":"me","detached":true}"#;
const FOREIGN: u128 = 0x3333_3333_3333_4333_8333_3333_3333_3333;
const HOLD: Duration = Duration::from_mins(1);
const MINUTE: i64 = 60_000;

impl RedisWorld {
    fn holds(&self, who: u128, hold: Duration) -> Reply {
        self.call(&call(Operation::Acquire, who).with(|terms| terms.min_hold = hold))
    }

    fn detached(&self, who: u128) -> Reply {
        self.call(&Request { client: Some(client(DETACHED)), ..call(Operation::Acquire, who) })
    }

    fn does(&self, operation: Operation, who: u128) -> Outcome {
        self.call(&call(operation, who)).outcome
    }

    fn pin(&self, limit: u32) -> Reply {
        let operation = if limit == 0 { Operation::Unpin } else { Operation::Pin };
        self.call(&call(operation, 0).with(|terms| terms.limit = limit))
    }

    /// What is left, and how it is held.
    fn left(&self, who: u128) -> Option<(HolderState, i64)> {
        let phase = self.look().holder(id(who))?.state();
        Some((phase, self.expiry(who)? - self.now()))
    }

    pub(super) fn woken(&self, who: u128) -> Vec<String> {
        let list = format!("{{p-}}:wake:{}", Uuid::nil());
        let words: Vec<String> = self.server.ask(&["LRANGE", &list, "0", "-1"]);
        let id = id(who).to_string();
        let of_it = |word: String| Some(word.strip_prefix(&id)?.trim_start().to_owned());
        words.into_iter().filter_map(of_it).collect()
    }

    /// As if all that has happened had been by a clock that was ahead by this much.
    fn was_ahead(&self, who: u128, ahead: i64) {
        let grant: String = self.server.ask(&["HGET", "{p-a}:grants", &id(who).to_string()]);
        let mut words: Vec<_> = grant.splitn(5, ' ').map(str::to_owned).collect();
        for at in [1, 3] {
            words[at] = (words[at].parse::<i64>().unwrap() + ahead).to_string();
        }
        self.write(&["HSET", "{p-a}:grants", &id(who).to_string(), &words.join(" ")]);
        let ends = self.expiry(who).unwrap() + ahead;
        self.write(&["ZADD", "p-a", &ends.to_string(), &id(who).to_string()]);
        self.remembers("last", self.now() + ahead);
    }

    /// As if that much time had gone by since the last call.
    fn was_idle(&self, who: u128, time: i64) {
        self.was_ahead(who, -time);
    }
}

fn about(found: Option<(HolderState, i64)>, phase: HolderState, left: i64) {
    let (found, ms) = found.expect("it is held");
    assert_eq!(found, phase);
    assert!((left - 2_000..=left).contains(&ms), "{ms} ms left, not {left}");
}

#[test]
fn what_is_kept_cannot_be_renewed_and_those_in_line_learn_when_it_ends() {
    let world = RedisWorld::new();
    assert_eq!(world.holds(1, HOLD / 6).terms.min_hold, HOLD / 6);
    about(world.left(1), HolderState::Holding, 30_000);
    world.request(2);
    for _ in 0..2 {
        assert_eq!(world.release(1).outcome, Outcome::Lost);
        about(world.left(1), HolderState::MinHold, 10_000);
        assert_eq!(
            (world.renew(1).outcome, world.request(1).outcome),
            (Outcome::Lost, Outcome::Lost)
        );
    }
    assert_eq!(world.woken(2)[0], "again");
    assert!(world.request(2).next.is_some_and(|next| next <= HOLD / 6));
    // Even after the ended clients are forgotten.
    world.write(&["DEL", "{p-a}:done"]);
    assert_eq!((world.renew(1).outcome, world.request(1).outcome), (Outcome::Lost, Outcome::Lost));
    world.was_idle(1, 10_000);
    assert_eq!(world.request(2).outcome, Outcome::Holding);
}

#[test]
fn a_permit_that_was_never_used_is_not_kept() {
    let world = RedisWorld::new();
    world.holds(1, HOLD);
    world.does(Operation::Leave, 1);
    assert_eq!(world.left(1), None);
    world.request(2);
    world.holds(3, HOLD);
    world.release(2);
    about(world.left(3), HolderState::Holding, 5_000);
    assert_eq!(world.release(3).outcome, Outcome::Lost);
    assert_eq!(world.left(3), None, "it was granted, and never knew");
}

#[test]
fn a_clock_that_went_back_leaves_of_a_hold_what_was_left() {
    let world = RedisWorld::new();
    world.holds(1, HOLD);
    world.was_ahead(1, 60 * MINUTE);
    world.request(2);
    about(world.left(1), HolderState::Holding, MINUTE);
    world.release(1);
    world.was_ahead(1, 60 * MINUTE);
    world.request(2);
    about(world.left(1), HolderState::MinHold, MINUTE);
    assert!(world.call(&call(Operation::Acquire, 2)).paused.is_none());
}

#[test]
fn a_clock_that_leapt_to_just_before_the_end_of_a_lease_leaves_its_holder_the_time_to_renew() {
    let world = RedisWorld::new();
    world.request(1);
    world.request(2);
    let now = world.now();
    world.remembers("last", now - 19_000);
    world.write(&["ZADD", "p-a", &(now + 100).to_string(), &id(1).to_string()]);
    let waiting = world.request(2);
    // Other clients are not kept from free permits.
    assert_eq!((waiting.outcome, waiting.paused), (Outcome::Waiting, None));
    let left = Duration::from_millis((world.expiry(1).unwrap() - world.now()).cast_unsigned());
    assert!(left <= TTL / 2 && left > TTL / 4, "{left:?}");
    // A holder that renews in time keeps the old end.
    world.remembers("last", world.now() - 19_000);
    let ends = world.now() + 25_000;
    world.write(&["ZADD", "p-a", &ends.to_string(), &id(1).to_string()]);
    world.request(2);
    assert_eq!(world.expiry(1), Some(ends));
}

#[test]
fn after_a_leap_only_those_are_waited_for_who_may_still_be_there() {
    let world = RedisWorld::new();
    world.holds(1, HOLD);
    world.release(1);
    world.was_idle(1, MINUTE);
    assert_eq!(world.request(2).outcome, Outcome::Holding, "no client uses what is kept");
    assert_eq!(world.does(Operation::Revoke(Revocation::Graceful), 2), Outcome::Revoked);
    world.was_idle(2, 10 * MINUTE);
    // It was to end with its lease.
    let ends = world.now() - 9 * MINUTE;
    world.write(&["ZADD", "p-a", &ends.to_string(), &id(2).to_string()]);
    let paused = world.request(3).paused.unwrap();
    assert!(paused <= TTL && paused > TTL / 2, "{paused:?}");
    assert_eq!(world.renew(2).outcome, Outcome::Revoked);
    assert_eq!(world.release(2).outcome, Outcome::Lost);
    world.remembers("pause", 0);
    assert_eq!(world.request(3).outcome, Outcome::Holding);
}

#[test]
fn a_holder_that_was_forgotten_brings_back_what_is_left_of_its_hold_and_no_pinned_limit() {
    let world = RedisWorld::new();
    world.pin(7);
    let granted = world.request(1);
    assert_eq!((granted.terms.limit, granted.pinned, granted.agreed), (7, true, 1));
    world.write(&["FLUSHALL"]);
    let terms = Terms { min_hold: HOLD, ..granted.granted_terms() };
    let renews = Request { terms, token: granted.token, ..call(Operation::Renew, 1) };
    let renewed = world.call(&renews);
    assert_eq!(
        (renewed.outcome, renewed.terms.limit, renewed.pinned),
        (Outcome::Holding, 1, false)
    );
    world.call(&renews.with(|terms| terms.min_hold = Duration::ZERO));
    world.release(1);
    about(world.left(1), HolderState::MinHold, MINUTE);
}

#[test]
fn a_hold_outlives_the_day_after_which_everything_goes() {
    let world = RedisWorld::new();
    world.holds(1, Duration::from_hours(72));
    world.release(1);
    for key in ["p-a", "{p-a}:grants", "{p-a}:state"] {
        let left: i64 = world.server.ask(&["PTTL", key]);
        assert!(left > 3 * DAY - MINUTE, "{key}: {left}");
    }
    // Whatever others have written there.
    world.write(&["ZADD", "p-a", "1e300", &id(FOREIGN).to_string()]);
    world.renew(2);
}

#[test]
fn only_a_permit_that_outlives_its_process_is_taken_up_and_returned() {
    let world = RedisWorld::new();
    let trick = r#"{"label":",\"detached\":true","host":"h","pid":1,"user":"u"}"#;
    world.call(&Request { client: Some(client(trick)), ..call(Operation::Acquire, 1) });
    assert_eq!(world.does(Operation::Attach, 1), Outcome::Lost);
    assert_eq!(world.does(Operation::ReleaseDetached, 1), Outcome::Lost);
    about(world.left(1), HolderState::Holding, 30_000);
    world.release(1);
    let token = world.detached(2).token;
    let attached = world.call(&call(Operation::Attach, 2));
    assert_eq!((attached.outcome, attached.token), (Outcome::Holding, token));
    assert!(attached.record.is_some_and(|record| record.who.detached));
    world.request(3);
    assert_eq!(world.does(Operation::Attach, 3), Outcome::Lost, "it waits");
    assert_eq!(world.does(Operation::ReleaseDetached, 2), Outcome::Released);
    assert_eq!(world.does(Operation::ReleaseDetached, 2), Outcome::Done);
    assert_eq!(world.woken(2), ["again"], "a process that renews it has reason to");
    assert_eq!(world.request(3).outcome, Outcome::Holding);
}

#[test]
fn returning_what_is_not_known_is_not_remembered() {
    let world = RedisWorld::new();
    assert_eq!(world.does(Operation::ReleaseDetached, 1), Outcome::Lost);
    assert_eq!(world.does(Operation::Attach, 1), Outcome::Lost);
    assert_eq!(world.does(Operation::Revoke(Revocation::Graceful), 1), Outcome::Lost);
    assert_eq!(world.does(Operation::Revoke(Revocation::Forced), 1), Outcome::Lost);
    let keys: Vec<String> = world.server.ask(&["KEYS", "*"]);
    assert_eq!(keys, [""; 0]);
    assert_eq!(world.detached(1).outcome, Outcome::Holding);
}

#[test]
fn what_was_revoked_is_not_kept_and_never_comes_back() {
    let world = RedisWorld::new();
    for operation in
        [Operation::Revoke(Revocation::Graceful), Operation::Revoke(Revocation::Forced)]
    {
        let who = if operation == Operation::Revoke(Revocation::Graceful) { 1 } else { 2 };
        let token = world.holds(who, HOLD).token;
        assert_eq!(world.does(operation, who), Outcome::Revoked);
        if operation == Operation::Revoke(Revocation::Graceful) {
            about(world.left(who), HolderState::Revoking, 30_000);
            assert_eq!((world.renew(who).outcome, world.request(who).outcome), {
                (Outcome::Revoked, Outcome::Lost)
            });
            assert_eq!(world.woken(who), ["gently"]);
            // Its lease ends.
            world.write(&["ZADD", "p-a", &(world.now() - 1).to_string(), &id(who).to_string()]);
        } else {
            assert_eq!(world.woken(who), ["now"]);
        }
        world.request(9);
        assert_eq!(world.left(who), None);
        world.remembers("pause", world.now() + MINUTE);
        let late = Request { token, ..call(Operation::Renew, who) };
        assert_eq!(world.call(&late).outcome, Outcome::Lost);
        assert_eq!(world.request(who).outcome, Outcome::Lost);
        assert_eq!(
            world.does(Operation::ReleaseDetached, who),
            Outcome::Lost,
            "it was not given back"
        );
        assert_eq!(world.does(operation, who), Outcome::Done);
        world.remembers("pause", 0);
        world.release(9);
    }
}

#[test]
fn a_hold_alone_keeps_nothing_that_is_revoked() {
    let world = RedisWorld::new();
    world.call(
        &call(Operation::Acquire, 1).with(|terms| (terms.ttl, terms.min_hold) = (TTL / 10, HOLD)),
    );
    world.was_idle(1, 4_000);
    world.remembers("last", world.now());
    assert_eq!(world.renew(1).outcome, Outcome::Holding, "no other client has it");
    world.was_idle(1, 4_000);
    world.remembers("last", world.now());
    about(world.left(1), HolderState::Holding, 52_000);
    assert_eq!(world.does(Operation::Revoke(Revocation::Graceful), 1), Outcome::Revoked);
    assert_eq!(world.left(1), None);
}

#[test]
fn those_in_line_learn_that_a_permit_ends_with_its_lease_once_it_is_revoked() {
    let world = RedisWorld::new();
    world.call(
        &call(Operation::Acquire, 1).with(|terms| (terms.ttl, terms.min_hold) = (TTL / 10, HOLD)),
    );
    assert!(world.request(2).next.is_some_and(|next| next > HOLD / 2));
    assert_eq!(world.does(Operation::Revoke(Revocation::Graceful), 1), Outcome::Revoked);
    assert_eq!(world.woken(2), ["again"]);
    assert!(world.request(2).next.is_some_and(|next| next <= TTL / 10));
}

#[test]
fn a_foreign_permit_is_only_taken_at_once() {
    let world = RedisWorld::new();
    let ends = (world.now() + MINUTE).to_string();
    world.write(&["ZADD", "p-a", &ends, &id(FOREIGN).to_string()]);
    world.request(1);
    assert_eq!(world.does(Operation::Revoke(Revocation::Graceful), FOREIGN), Outcome::Revoked);
    assert_eq!(world.request(1).outcome, Outcome::Waiting);
    assert_eq!(world.does(Operation::Revoke(Revocation::Forced), FOREIGN), Outcome::Revoked);
    assert_eq!(world.request(1).outcome, Outcome::Holding);
}

#[test]
fn a_waiter_revoked_before_it_knows_of_its_permit_holds_no_other_up() {
    let world = RedisWorld::new();
    world.request(1);
    world.request(2);
    world.request(3);
    world.release(1);
    assert_eq!(world.does(Operation::Revoke(Revocation::Graceful), 2), Outcome::Revoked);
    assert_eq!(world.request(2).outcome, Outcome::Lost);
    assert_eq!(world.request(3).outcome, Outcome::Holding);
    // What others do in its name does not say that a waiter knows of its permit.
    world.request(4);
    world.write(&["ZADD", "p-a", &(world.now() - 1).to_string(), &id(3).to_string()]);
    assert_eq!(world.does(Operation::Revoke(Revocation::Graceful), 4), Outcome::Lost);
    about(world.left(4), HolderState::Holding, 5_000);
}

#[test]
fn a_pinned_limit_stays_until_it_is_unpinned_and_remembers_no_client() {
    let world = RedisWorld::new();
    world.pin(3);
    let fields: Vec<String> = world.server.ask(&["HKEYS", "{p-a}:state"]);
    assert_eq!(fields, ["pin"], "a server that has forgotten its permits must not look otherwise");
    let lasts = || world.server.ask::<i64>(&["PTTL", "{p-a}:state"]) == -1;
    assert!(lasts());
    world.request(1);
    world.release(1);
    assert!(lasts());
    let snapshot = world.look();
    assert_eq!((snapshot.limit, snapshot.pinned), (Some(3), true));
    world.pin(0);
    assert!(!lasts());
    let looked = world.look();
    assert_eq!(
        looked,
        SemaphoreSnapshot { known: looked.known, ..SemaphoreSnapshot::unused(&world.name) }
    );
}

#[test]
fn one_that_ended_unseen_and_whose_place_a_stranger_took_is_forgotten() {
    let world = RedisWorld::new();
    world.request(1);
    // PassBuddy has cleared it away, and its own member is there instead.
    world.remembers("soonest", world.now() - 1);
    world.write(&["ZREM", "p-a", &id(1).to_string()]);
    let foreign = "33333333-3333-4333-8333-333333333333";
    world.write(&["ZADD", "p-a", &(world.now() + 5_000).to_string(), foreign]);
    let granted = world.call(&call(Operation::Acquire, 2).with(|terms| terms.limit = 2));
    assert_eq!((granted.outcome, granted.terms.limit, granted.foreign), (Outcome::Holding, 2, 1));
}
