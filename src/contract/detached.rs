//! What every backend owes the users of permits that outlive the process that asked for them.

use std::time::Instant;

use super::*;

pub(super) async fn a_detached_permit_stays_until_its_lease_ends(store: TestedBackend) {
    let asked = Instant::now();
    let lease = store.granted(&detached("a", 1)).await;
    assert!(lease.inherited_fd().is_none());
    assert_eq!(lease.validity().map(|validity| validity.borrow().ttl), Some(store.ttl));
    drop(lease);
    let waiter = store.waits(request("a", 1)).await;
    let holder = store.snapshot("a").await.holders.remove(0);
    assert!(holder.record().is_some_and(|record| record.who.detached));
    assert!(holder.left().is_some_and(|left| left <= store.ttl), "{holder:?}");
    waiter.granted().await;
    assert!(asked.elapsed() + EARLY >= store.ttl, "{:?}", asked.elapsed());
    assert!(asked.elapsed() < store.ttl + SOON, "{:?}", asked.elapsed());
}

pub(super) async fn a_detached_permit_is_given_back_once_and_that_is_remembered(
    store: TestedBackend,
) {
    let id = store.granted(&detached("a", 1)).await.permit().id;
    let waiter = store.waits(request("a", 1)).await;
    assert_eq!(store.give_back("a", id).await, ReleaseOutcome::Now);
    let _next = waiter.granted().await;
    assert_eq!(store.give_back("a", id).await, ReleaseOutcome::Before);
    assert!(store.attach("a", id).await.is_none());
    assert_eq!(store.snapshot("a").await.holders.len(), 1, "the next one still holds");
}

pub(super) async fn a_detached_permit_lasts_as_long_as_it_is_renewed(store: TestedBackend) {
    let permit = store.granted(&detached("a", 1)).await.permit().clone();
    let mut lease = store.attach("a", permit.id).await.expect("it is held");
    assert_eq!(lease.permit(), &permit);
    assert!(lease.inherited_fd().is_none() && lease.validity().is_some());
    let renewed = tokio::time::timeout(store.ttl * 3 / 2, lease.lost()).await;
    assert!(renewed.is_err(), "{renewed:?}");
    assert_eq!(store.snapshot("a").await.held(permit.id).as_ref(), Some(&permit));
    // Dropping the lease leaves the permit held, and another process may attach to it.
    drop(lease);
    let lease = store.attach("a", permit.id).await.expect("it is held");
    assert!(matches!(store.now(&request("a", 1)).await, Acquisition::Busy));
    lease.release(PATIENCE).await.unwrap();
    assert_eq!(store.give_back("a", permit.id).await, ReleaseOutcome::Before);
    store.granted(&request("a", 1)).await;
}

pub(super) async fn a_renewal_hears_that_a_detached_permit_was_given_back(store: TestedBackend) {
    let id = store.granted(&detached("a", 1)).await.permit().id;
    let mut lease = store.attach("a", id).await.expect("it is held");
    assert_eq!(store.give_back("a", id).await, ReleaseOutcome::Now);
    let Loss { stage: gone, .. } = within(SOON, lease.lost()).await;
    assert_ne!(gone, LossStage::Revoking);
}

pub(super) async fn a_detached_permit_that_has_ended_is_not_known(store: TestedBackend) {
    let id = store.granted(&detached("a", 1)).await.permit().id;
    store.becomes("a", None, &[], &[]).await;
    assert!(store.attach("a", id).await.is_none());
    assert_eq!(store.give_back("a", id).await, ReleaseOutcome::Unknown);
}

pub(super) async fn what_is_not_detached_is_neither_attached_nor_given_back(store: TestedBackend) {
    let lease = store.granted(&request("a", 1)).await;
    let waiter = store.waits(detached("a", 1)).await;
    for id in [lease.permit().id, waiter.id, Uuid::new_v4()] {
        assert!(store.attach("a", id).await.is_none());
        assert_eq!(store.give_back("a", id).await, ReleaseOutcome::Unknown);
    }
    assert!(store.attach("never", waiter.id).await.is_none());
    assert_eq!(store.give_back("never", waiter.id).await, ReleaseOutcome::Unknown);
    store.becomes("a", Some(1), &[lease.permit().id], &[waiter.id]).await;
}

pub(super) async fn the_limit_counts_detached_permits(store: TestedBackend) {
    let first = store.granted(&detached("a", 2)).await.permit().clone();
    let second = store.granted(&request("a", 2)).await;
    assert!(second.permit().token > first.token);
    let waiter = store.waits(detached("a", 2)).await;
    store.becomes("a", Some(2), &[first.id, second.permit().id], &[waiter.id]).await;
    second.release(PATIENCE).await.unwrap();
    let third = waiter.granted().await;
    store.becomes("a", Some(2), &[first.id, third.permit().id], &[]).await;
}
