//! What every backend owes permits that stay taken for a while after they were given back.

use std::time::Instant;

use super::*;

const HOLD: Duration = Duration::from_millis(600);
/// Longer than any test takes.
const EVER: Duration = Duration::from_mins(5);

fn holds(min_hold: Duration, request: AcquireRequest) -> AcquireRequest {
    request.with(|terms| terms.min_hold = min_hold)
}

pub(super) async fn a_permit_stays_taken_for_its_min_hold_after_it_was_given_back(
    store: TestedBackend,
) {
    let asked = Instant::now();
    let lease = store.granted(&holds(HOLD, request("a", 1))).await;
    let granted = Instant::now();
    let permit = lease.permit().clone();
    let waiter = store.waits(request("a", 1)).await;
    lease.release(PATIENCE).await.unwrap();
    let snapshot = store.snapshot("a").await;
    let kept = snapshot.holder(permit.id).expect("it is still taken");
    assert_eq!((kept.state(), snapshot.held(permit.id)), (HolderState::MinHold, None));
    assert!(kept.left().is_some_and(|left| left <= HOLD), "{kept:?}");
    assert_eq!(snapshot.limit, Some(1));
    waiter.granted().await;
    assert!(asked.elapsed() + EARLY >= HOLD, "{:?}", asked.elapsed());
    assert!(granted.elapsed() < HOLD + SOON, "{:?}", granted.elapsed());
}

pub(super) async fn a_permit_stays_taken_for_its_min_hold_after_its_holder_vanished(
    store: TestedBackend,
) {
    let asked = Instant::now();
    drop(store.granted(&holds(HOLD, request("a", 1))).await);
    let waiter = store.waits(request("a", 1)).await;
    waiter.granted().await;
    assert!(asked.elapsed() + EARLY >= HOLD, "{:?}", asked.elapsed());
    assert!(asked.elapsed() < HOLD + SOON, "{:?}", asked.elapsed());
}

pub(super) async fn what_was_held_for_long_enough_is_free_when_it_is_given_back(
    store: TestedBackend,
) {
    let short = Duration::from_millis(20);
    let lease = store.granted(&holds(short, request("a", 1))).await;
    tokio::time::sleep(short * 2).await;
    lease.release(PATIENCE).await.unwrap();
    assert!(matches!(store.now(&request("a", 1)).await, Acquisition::Granted(_)));
}

pub(super) async fn a_waiter_that_goes_before_it_is_served_keeps_nothing(store: TestedBackend) {
    let lease = store.granted(&request("a", 1)).await;
    let cancelled = store.waits(holds(EVER, request("a", 1))).await;
    let dropped = store.waits(holds(EVER, request("a", 1))).await;
    let last = store.waits(request("a", 1)).await;
    cancelled.canceller.cancel();
    assert!(matches!(cancelled.acquiring.await.unwrap().unwrap(), Acquisition::Cancelled));
    dropped.acquiring.abort();
    assert!(dropped.acquiring.await.is_err_and(|error| error.is_cancelled()));
    lease.release(PATIENCE).await.unwrap();
    last.granted().await;
}

pub(super) async fn a_permit_that_was_never_used_is_not_kept_for_its_min_hold(
    store: TestedBackend,
) {
    for kind in [request("a", 1), detached("a", 1)] {
        let lease = store.granted(&holds(EVER, kind)).await;
        let waiter = store.waits(request("a", 1)).await;
        lease.discard(PATIENCE).await.unwrap();
        waiter.granted().await.release(PATIENCE).await.unwrap();
    }
    // What was used and given back stays as it is.
    let used = store.granted(&holds(EVER, detached("a", 1))).await;
    assert_eq!(store.give_back("a", used.permit().id).await, ReleaseOutcome::Now);
    used.discard(PATIENCE).await.unwrap();
    assert!(matches!(store.now(&request("a", 1)).await, Acquisition::Busy));
}

pub(super) async fn what_is_kept_is_neither_attached_nor_given_back_again(store: TestedBackend) {
    let id = store.granted(&holds(EVER, detached("a", 1))).await.permit().id;
    assert_eq!(store.give_back("a", id).await, ReleaseOutcome::Now);
    assert_eq!(store.give_back("a", id).await, ReleaseOutcome::Before);
    assert!(store.attach("a", id).await.is_none());
    assert!(matches!(store.now(&request("a", 1)).await, Acquisition::Busy));
    let kept = store.snapshot("a").await.holders.remove(0);
    assert_eq!((kept.state(), kept.id()), (HolderState::MinHold, Some(id)));
}
