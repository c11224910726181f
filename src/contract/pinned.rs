//! What every backend owes a user who pins a limit.

use super::*;

pub(super) async fn a_pinned_limit_stands_also_while_the_semaphore_is_idle(store: TestedBackend) {
    let pinned = |snapshot: &SemaphoreSnapshot| (snapshot.limit, snapshot.pinned);
    store.set_limit("a", Some(2)).await;
    let idle = store.snapshot("a").await;
    assert_eq!((pinned(&idle), idle.full(9)), ((Some(2), true), false));
    assert_eq!((idle.holders, idle.waiters), (vec![], vec![]));
    let first = store.granted(&request("a", 5)).await;
    let second = store.granted(&request("a", 1)).await;
    let third = store.waits(request("a", 5)).await;
    assert_eq!(third.notices[0], Progress::Limit { asked: 5, stands: 2, pinned: true });
    assert_eq!(pinned(&store.snapshot("a").await), (Some(2), true));
    for lease in [first, second] {
        lease.release(PATIENCE).await.unwrap();
    }
    third.granted().await.release(PATIENCE).await.unwrap();
    assert_eq!(pinned(&store.snapshot("a").await), (Some(2), true));
}

pub(super) async fn a_pinned_limit_that_is_raised_serves_the_waiters(store: TestedBackend) {
    let _first = store.granted(&request("a", 1)).await;
    let second = store.waits(request("a", 1)).await;
    let third = store.waits(request("a", 1)).await;
    let fourth = store.waits(request("a", 1)).await;
    store.set_limit("a", Some(3)).await;
    let _second = within(SOON, second.granted()).await;
    let _third = within(SOON, third.granted()).await;
    assert_eq!(store.waiting("a").await, [fourth.id]);
    store.set_limit("a", Some(4)).await;
    within(SOON, fourth.granted()).await;
}

pub(super) async fn a_pinned_limit_that_is_lowered_stops_no_holder(store: TestedBackend) {
    let first = store.granted(&request("a", 3)).await;
    let second = store.granted(&request("a", 3)).await;
    let third = store.granted(&request("a", 3)).await;
    store.set_limit("a", Some(1)).await;
    assert_eq!(store.snapshot("a").await.holders.len(), 3);
    let waiter = store.waits(request("a", 3)).await;
    for lease in [first, second] {
        lease.release(PATIENCE).await.unwrap();
        assert!(matches!(store.now(&request("a", 3)).await, Acquisition::Busy));
    }
    store.becomes("a", Some(1), &[third.permit().id], &[waiter.id]).await;
    third.release(PATIENCE).await.unwrap();
    waiter.granted().await;
}

pub(super) async fn a_limit_that_is_not_pinned_any_more_is_that_of_the_users(store: TestedBackend) {
    store.set_limit("a", Some(2)).await;
    store.set_limit("a", None).await;
    let snapshot = store.snapshot("a").await;
    let known = snapshot.known;
    assert_eq!(snapshot, SemaphoreSnapshot { known, ..SemaphoreSnapshot::unused(&name("a")) });
    let first = store.granted(&request("a", 1)).await;
    store.set_limit("a", Some(2)).await;
    let second = store.granted(&request("a", 1)).await;
    store.set_limit("a", None).await;
    let snapshot = store.snapshot("a").await;
    assert_eq!((snapshot.limit, snapshot.pinned), (Some(1), false));
    let waiter = store.waits(request("a", 1)).await;
    first.release(PATIENCE).await.unwrap();
    assert_eq!(store.waiting("a").await, [waiter.id]);
    second.release(PATIENCE).await.unwrap();
    waiter.granted().await.release(PATIENCE).await.unwrap();
    store.granted(&request("a", 7).with(|terms| terms.strict = true)).await;
}

pub(super) async fn another_limit_than_the_pinned_one_is_an_error_for_strict_clients(
    store: TestedBackend,
) {
    store.set_limit("a", Some(2)).await;
    let strict = |limit| request("a", limit).with(|terms| terms.strict = true);
    for limit in [1, 3] {
        let refused = within(PATIENCE, store.request(strict(limit)).acquiring).await.unwrap();
        assert!(refused.is_err_and(|error| error.kind() == FailureClass::Differs));
    }
    let _lease = store.granted(&strict(2)).await;
    assert_eq!(store.snapshot("a").await.waiters, []);
}
