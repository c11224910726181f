//! The rules of a semaphore, one by one and by random histories: limits, order, leases, tokens.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// Longer than any history.
const EVER: Duration = Duration::from_hours(24 * 365);

fn claim(number: u128, limit: u32, ttl: Option<u64>) -> Claim<()> {
    let ttl = ttl.map_or(EVER, Duration::from_secs);
    Claim::new(id(number), Terms { limit, ttl, ..Terms::default() }, ())
}

/// The same for a permit that stays taken for so many seconds.
fn keeps(seconds: u64, mut claim: Claim<()>) -> Claim<()> {
    claim.terms.as_mut().expect("some").min_hold = at(seconds);
    claim
}

fn alone(number: u128) -> Claim<()> {
    Claim::exclusive(id(number), ())
}

fn at(seconds: u64) -> Moment {
    Duration::from_secs(seconds)
}

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

/// The clients that were granted a permit.
fn granted(changes: &[LedgerEvent]) -> Vec<u128> {
    let granted = |change: &LedgerEvent| match change {
        LedgerEvent::Granted { id, .. } => Some(id.as_u128()),
        _ => None,
    };
    changes.iter().filter_map(granted).collect()
}

impl Ledger<()> {
    fn asks(&mut self, now: u64, claim: Claim<()>) -> Vec<u128> {
        granted(&self.request(at(now), claim, None))
    }
}

#[test]
fn permits_go_to_the_waiters_that_came_first() {
    let mut ledger = Ledger::default();
    assert_eq!(ledger.asks(0, claim(1, 1, None)), [1]);
    assert_eq!(ledger.asks(0, claim(2, 1, None)), []);
    assert_eq!(ledger.asks(0, claim(3, 1, None)), []);
    assert_eq!(granted(&ledger.release(at(1), id(1))), [2]);
    assert_eq!(granted(&ledger.release(at(2), id(2))), [3]);
}

#[test]
fn asking_again_changes_nothing() {
    let mut ledger = Ledger::default();
    ledger.asks(0, claim(1, 1, None));
    ledger.asks(0, claim(2, 1, None));
    assert_eq!(ledger.asks(0, claim(1, 1, None)), []);
    assert_eq!(ledger.asks(0, claim(2, 1, None)), []);
    assert_eq!((ledger.holders().len(), ledger.waiters().len()), (1, 1));
}

#[test]
fn a_permit_expires_at_its_moment_unless_it_is_renewed() {
    let mut ledger = Ledger::default();
    ledger.asks(0, claim(1, 1, Some(10)));
    ledger.asks(0, claim(2, 1, Some(10)));
    assert_eq!(ledger.renew(at(9), id(1)), Renewal::Held);
    assert_eq!(ledger.next_expiry(), Some(at(19)));
    assert_eq!(ledger.renew(at(19), id(1)), Renewal::Lost, "an expired permit is not revived");
    assert_eq!(granted(&ledger.expire(at(18))), []);
    assert_eq!(granted(&ledger.expire(at(19))), [2]);
}

#[test]
fn the_terms_stand_while_in_use_and_an_idle_semaphore_takes_the_next_ones() {
    let mut ledger = Ledger::default();
    let limit = |ledger: &Ledger<()>| ledger.terms().map(|terms| terms.limit);
    ledger.asks(0, claim(1, 1, None));
    assert_eq!(ledger.asks(0, claim(2, 5, None)), []);
    assert_eq!(limit(&ledger), Some(1));
    ledger.release(at(1), id(1));
    ledger.release(at(1), id(2));
    assert_eq!(limit(&ledger), None);
    ledger.asks(2, claim(3, 5, None));
    assert_eq!(limit(&ledger), Some(5));
}

#[test]
fn a_client_that_wants_to_be_alone_waits_until_it_is_and_no_other_joins_it() {
    let mut ledger = Ledger::default();
    assert_eq!(ledger.asks(0, claim(1, 3, None)), [1]);
    assert_eq!(ledger.asks(0, claim(2, 3, None)), [2]);
    assert_eq!(ledger.asks(0, alone(3)), []);
    assert_eq!(ledger.asks(0, claim(4, 3, None)), [], "no waiter overtakes it");
    assert_eq!(granted(&ledger.release(at(1), id(1))), []);
    assert_eq!(granted(&ledger.release(at(1), id(2))), [3]);
    assert_eq!(ledger.terms().map(|terms| terms.limit), Some(3));
    assert_eq!(granted(&ledger.release(at(2), id(3))), [4]);
    assert_eq!(ledger.asks(3, alone(5)), []);
    ledger.release(at(3), id(4));
    assert_eq!((ledger.terms(), ledger.next_expiry()), (None, None), "it brings no terms");
}

#[test]
fn who_is_away_is_passed_over_and_has_its_place_back() {
    let mut ledger = Ledger::default();
    for number in 1..=4 {
        ledger.asks(0, claim(number, 1, Some(60)));
    }
    ledger.leave(at(1), id(2));
    assert_eq!(granted(&ledger.release(at(2), id(1))), [3]);
    assert_eq!(ledger.asks(3, claim(2, 1, Some(60))), []);
    assert_eq!(granted(&ledger.release(at(4), id(3))), [2]);
    // A client that never comes back keeps nothing.
    ledger.leave(at(5), id(4));
    assert_eq!(ledger.next_expiry(), Some(at(4) + CONFIRM));
    assert_eq!(ledger.renew(at(5), id(2)), Renewal::Held);
    assert_eq!(ledger.expire(at(5) + AWAY), [LedgerEvent::Gone(id(4))]);
}

#[test]
fn a_grant_that_is_not_taken_passes_on_and_the_place_is_kept() {
    let mut ledger = Ledger::default();
    for number in 1..=3 {
        ledger.asks(0, claim(number, 1, Some(60)));
    }
    assert_eq!(granted(&ledger.release(at(1), id(1))), [2]);
    let changes = ledger.expire(at(1) + CONFIRM);
    assert_eq!((changes[0], granted(&changes)), (LedgerEvent::Lapsed(id(2)), vec![3]));
    assert_eq!(ledger.renew(at(4), id(3)), Renewal::Held);
    assert_eq!(ledger.asks(8, claim(4, 1, Some(60))), []);
    assert_eq!(ledger.asks(9, claim(2, 1, Some(60))), []);
    assert_eq!(granted(&ledger.release(at(10), id(3))), [2], "before the one that came later");
}

#[test]
fn a_ticket_brings_back_a_place_that_was_forgotten() {
    let mut ledger = Ledger::default();
    ledger.asks(0, claim(1, 1, None));
    ledger.asks(0, claim(2, 1, None));
    let (ticket, ahead) = ledger.waiting(id(2)).unwrap();
    assert_eq!(ahead, 0);
    // No other waiter gets that place, not even while it is granted.
    assert_eq!(granted(&ledger.release(at(0), id(1))), [2]);
    ledger.request(at(0), claim(4, 1, None), Some(ticket));
    assert!(ledger.waiting(id(4)).is_some_and(|(other, _)| other > ticket));
    let mut restarted = Ledger::after(100, at(0));
    restarted.restore(claim(1, 1, None), 1, at(0), HolderState::Holding, None);
    restarted.asks(0, claim(3, 1, None));
    restarted.request(at(0), claim(2, 1, None), Some(ticket));
    assert_eq!(granted(&restarted.release(at(1), id(1))), [2]);
    assert!(restarted.holding(id(2)).is_some_and(|holding| holding.token > 100));
}

#[test]
fn nothing_is_granted_during_a_pause() {
    let mut ledger = Ledger::after(0, at(10));
    assert_eq!(ledger.asks(1, claim(1, 1, None)), []);
    assert_eq!((ledger.paused(at(4)), ledger.next_expiry()), (Some(at(6)), Some(at(10))));
    assert_eq!(granted(&ledger.expire(at(10))), [1]);
    assert_eq!(ledger.paused(at(10)), None);
}

#[test]
fn a_permit_stays_taken_until_it_was_held_for_long_enough() {
    let mut ledger = Ledger::default();
    let holds = |number| keeps(20, claim(number, 1, Some(10)));
    ledger.asks(0, holds(1));
    ledger.asks(0, holds(2));
    assert_eq!(ledger.release(at(5), id(1)), [LedgerEvent::Kept(id(1))]);
    assert_eq!(ledger.release(at(6), id(1)), [], "it cannot be given back twice");
    assert_eq!((ledger.renew(at(6), id(1)), ledger.next_expiry()), (Renewal::Lost, Some(at(20))));
    ledger.request(at(7), holds(1), None);
    assert_eq!(ledger.holding(id(1)).map(|one| one.phase), Some(HolderState::MinHold));
    assert_eq!(granted(&ledger.expire(at(20))), [2]);
    // A client that never claims its permit does not keep it, and one that dies does.
    assert_eq!(ledger.expire(at(20) + CONFIRM), [LedgerEvent::Lapsed(id(2))]);
    assert_eq!(ledger.asks(30, holds(2)), [2]);
    assert_eq!(
        (ledger.expire(at(49)), ledger.expire(at(50))),
        (vec![], vec![LedgerEvent::Gone(id(2))])
    );
    ledger.asks(60, holds(3));
    assert_eq!(ledger.release(at(80), id(3)), [LedgerEvent::Gone(id(3))], "that was long enough");
}

#[test]
fn what_is_kept_ends_when_it_was_to_end_whatever_its_former_holder_asks_for() {
    let mut ledger = Ledger::default();
    let holds = |seconds| keeps(seconds, claim(1, 1, Some(10)));
    ledger.asks(0, holds(20));
    // As after a restart, which forgets it.
    ledger.asks(1, holds(30));
    assert_eq!(ledger.release(at(5), id(1)), [LedgerEvent::Kept(id(1))]);
    for seconds in [0, 10, 50] {
        ledger.asks(6, holds(seconds));
        assert_eq!(ledger.next_expiry(), Some(at(30)), "{seconds}");
    }
}

#[test]
fn who_never_knew_of_its_permit_keeps_nothing() {
    let mut ledger = Ledger::default();
    let holds = |number| keeps(60, claim(number, 1, Some(10)));
    ledger.asks(0, holds(1));
    ledger.asks(0, holds(2));
    ledger.asks(0, holds(3));
    assert_eq!(ledger.withdraw(at(1), id(2)), [LedgerEvent::Gone(id(2))], "it waited");
    assert_eq!(granted(&ledger.withdraw(at(1), id(1))), [3]);
    assert_eq!(ledger.renew(at(1), id(3)), Renewal::Held);
    ledger.release(at(2), id(3));
    assert_eq!(ledger.withdraw(at(3), id(3)), [], "it was used, and given back");
    assert_eq!(ledger.next_expiry(), Some(at(60 + 1)));
}

#[test]
fn who_is_revoked_gently_has_its_permit_until_it_gives_it_back_or_its_lease_ends() {
    let mut ledger = Ledger::default();
    let holds = |number| keeps(60, claim(number, 2, Some(10)));
    let gently = |ledger: &mut Ledger<()>, now, number| {
        ledger.revoke(at(now), id(number), Revocation::Graceful)
    };
    ledger.asks(0, holds(1));
    ledger.asks(0, holds(2));
    ledger.asks(0, claim(3, 2, Some(10)));
    assert_eq!(gently(&mut ledger, 1, 1), [LedgerEvent::Revoked(id(1))]);
    assert_eq!(gently(&mut ledger, 2, 1), []);
    assert_eq!((ledger.renew(at(2), id(1)), ledger.holders().len()), (Renewal::Revoked, 2));
    assert_eq!(granted(&ledger.release(at(3), id(1))), [3], "the hold counts no more");
    assert_eq!(ledger.renew(at(3), id(3)), Renewal::Held);
    gently(&mut ledger, 4, 2);
    assert_eq!(ledger.expire(at(10)), [LedgerEvent::Gone(id(2))]);
    // One that is only kept ends at once, and so does one whose lease was over.
    ledger.asks(11, holds(4));
    ledger.release(at(12), id(4));
    assert_eq!(gently(&mut ledger, 12, 4), [LedgerEvent::Gone(id(4))]);
    ledger.asks(12, holds(5));
    assert_eq!(
        gently(&mut ledger, 30, 5),
        [LedgerEvent::Gone(id(3)), LedgerEvent::Revoked(id(5)), LedgerEvent::Gone(id(5))]
    );
}

#[test]
fn a_holder_revoked_now_has_nothing_any_more() {
    let mut ledger = Ledger::default();
    ledger.asks(0, alone(1));
    ledger.asks(0, keeps(60, claim(2, 1, Some(10))));
    assert_eq!(
        ledger.revoke(at(1), id(1), Revocation::Graceful),
        [],
        "its holder could not be told"
    );
    assert_eq!(ledger.revoke(at(1), id(2), Revocation::Forced), [], "it only waits");
    assert_eq!(granted(&ledger.revoke(at(1), id(1), Revocation::Forced)), [2]);
    assert_eq!(ledger.renew(at(1), id(2)), Renewal::Held);
    assert_eq!(ledger.revoke(at(2), id(2), Revocation::Forced), [LedgerEvent::Gone(id(2))]);
    assert_eq!(ledger.renew(at(2), id(2)), Renewal::Lost);
}

#[test]
fn a_pinned_limit_stands_whatever_is_asked_for() {
    let mut ledger = Ledger::default();
    ledger.pin(at(0), Some(2));
    assert_eq!((ledger.limit(), ledger.terms()), (Some(2), None));
    for (number, is_granted) in [(1, true), (2, true), (3, false), (4, false)] {
        assert_eq!(!ledger.asks(0, claim(number, 1, None)).is_empty(), is_granted);
    }
    assert_eq!(ledger.terms().map(|terms| terms.limit), Some(2));
    assert_eq!(granted(&ledger.pin(at(1), Some(3))), [3]);
    assert_eq!(ledger.pin(at(2), Some(1)), [], "it stops no holder");
    assert_eq!(granted(&ledger.release(at(2), id(1))), []);
    assert_eq!(granted(&ledger.release(at(2), id(2))), []);
    assert_eq!(granted(&ledger.release(at(2), id(3))), [4]);
    assert_eq!(ledger.renew(at(3), id(4)), Renewal::Held);
    ledger.pin(at(4), None);
    assert_eq!((ledger.limit(), ledger.pinned()), (Some(1), None), "as the first one asked");
    ledger.pin(at(5), Some(9));
    assert_eq!(ledger.asks(5, alone(5)), [], "no client runs beside one that wants to be alone");
    assert_eq!(granted(&ledger.release(at(6), id(4))), [5]);
    assert_eq!(ledger.asks(7, claim(6, 9, None)), []);
}

#[derive(Debug, Clone)]
enum LedgerStep {
    Ask { who: u8, limit: u32, ttl: Option<u64>, min_hold: u64 },
    Alone { who: u8 },
    Revoke { who: u8, now: bool },
    Pin(Option<u32>),
    Release { who: u8 },
    Renew { who: u8 },
    Leave { who: u8 },
    Pass { seconds: u64 },
}

fn step() -> impl Strategy<Value = LedgerStep> {
    let ttl = prop_oneof![Just(None), (1..20_u64).prop_map(Some)];
    let who = 0..8_u8;
    prop_oneof![
        4 => (who.clone(), 1..4_u32, ttl, prop_oneof![Just(0), 0..20_u64])
            .prop_map(|(who, limit, ttl, min_hold)| LedgerStep::Ask { who, limit, ttl, min_hold }),
        1 => (who.clone(), any::<bool>()).prop_map(|(who, now)| LedgerStep::Revoke { who, now }),
        1 => prop::option::of(1..4_u32).prop_map(LedgerStep::Pin),
        1 => who.clone().prop_map(|who| LedgerStep::Alone { who }),
        3 => who.clone().prop_map(|who| LedgerStep::Release { who }),
        1 => who.clone().prop_map(|who| LedgerStep::Renew { who }),
        1 => who.prop_map(|who| LedgerStep::Leave { who }),
        2 => (0..9_u64).prop_map(|seconds| LedgerStep::Pass { seconds }),
    ]
}

proptest! {
    // What must hold after every step of every history.
    #[test]
    fn any_history_keeps_the_rules(steps in prop::collection::vec(step(), 0..60)) {
        let mut ledger = Ledger::default();
        let mut now = at(0);
        let mut last_token = 0;
        let mut asked: HashMap<u128, usize> = HashMap::new();
        for (position, step) in steps.into_iter().enumerate() {
            let before = ledger.holders().len();
            let changes = match step {
                LedgerStep::Ask { who, .. } | LedgerStep::Alone { who } => {
                    ledger.expire(now);
                    if !ledger.places.contains_key(&id(who.into())) {
                        asked.insert(who.into(), position);
                    }
                    let claim = match step {
                        LedgerStep::Ask { limit, ttl, min_hold, .. } => {
                            keeps(min_hold, claim(who.into(), limit, ttl))
                        }
                        _ => alone(who.into()),
                    };
                    ledger.request(now, claim, None)
                }
                LedgerStep::Release { who } => ledger.release(now, id(who.into())),
                LedgerStep::Renew { who } => { ledger.renew(now, id(who.into())); vec![] }
                LedgerStep::Leave { who } => ledger.leave(now, id(who.into())),
                LedgerStep::Revoke { who, now: true } => ledger.revoke(now, id(who.into()), Revocation::Forced),
                LedgerStep::Revoke { who, .. } => ledger.revoke(now, id(who.into()), Revocation::Graceful),
                LedgerStep::Pin(limit) => ledger.pin(now, limit),
                LedgerStep::Pass { seconds } => { now += at(seconds); ledger.expire(now) }
            };
            // Tokens grow with every grant.
            for change in &changes {
                if let LedgerEvent::Granted { token, .. } = change {
                    prop_assert!(*token > last_token);
                    last_token = *token;
                }
            }
            last_token = last_token.max(ledger.last);
            ledger.expire(now);
            // Never more than the limit, unless that was lowered; a client that wants to be alone
            // is.
            let limit = ledger.limit().unwrap_or(1) as usize;
            let granted = changes.iter().any(|one| matches!(one, LedgerEvent::Granted { .. }));
            let most = if granted { limit } else { limit.max(before) };
            prop_assert!(ledger.holders().len() <= most);
            let lonely = ledger.holders().filter(|one| one.claim.terms.is_none()).count();
            prop_assert!(lonely == 0 || ledger.holders().len() == 1);
            // No waiter that is there waits for what is free.
            let first = ledger.queue.values().find(|waiting| waiting.away.is_none());
            prop_assert!(first.is_none_or(|waiting| !ledger.is_compatible(&waiting.claim)));
            // First come, first served: the queue is in the order of asking.
            let order: Vec<_> = ledger.waiters().map(|claim| asked[&claim.id.as_u128()]).collect();
            prop_assert!(order.is_sorted(), "{order:?}");
            // No permit is held beyond its expiry, and nothing is left of clients that have gone.
            prop_assert!(ledger.holders().all(|one| one.expires().is_none_or(|at| now < at)));
            prop_assert_eq!(ledger.places.len(), ledger.holders().len() + ledger.waiters().len());
            prop_assert!(ledger.due.len() <= ledger.places.len());
            prop_assert!(ledger.due.first().is_none_or(|(moment, _)| *moment > now));
        }
    }
}
