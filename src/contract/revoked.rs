//! What every backend owes operators who revoke permits, and the holders of these.

use super::*;

/// Longer than any test takes.
const EVER: Duration = Duration::from_mins(5);

pub(super) async fn a_holder_revoked_gently_hears_of_it_and_keeps_its_permit(store: TestedBackend) {
    let mut lease = store.granted(&request("a", 1)).await;
    let waiter = store.waits(request("a", 1)).await;
    let id = lease.permit().id;
    for _ in 0..2 {
        assert!(store.revoke("a", id, Revocation::Graceful).await);
        let snapshot = store.snapshot("a").await;
        assert_eq!(snapshot.holder(id).map(Holder::state), Some(HolderState::Revoking));
        assert_eq!(snapshot.held(id), None);
    }
    let Loss { stage: gone, reason: why } = within(SOON, lease.lost()).await;
    assert_eq!((gone, why), (LossStage::Revoking, LossReason::Revoked { now: false }));
    store.becomes("a", Some(1), &[id], &[waiter.id]).await;
    lease.release(PATIENCE).await.unwrap();
    within(SOON, waiter.granted()).await;
}

pub(super) async fn a_holder_revoked_gently_hears_that_it_is_revoked_now(store: TestedBackend) {
    for early in [true, false] {
        let mut lease =
            store.granted(&AcquireRequest { id: Uuid::new_v4(), ..request("a", 1) }).await;
        let id = lease.permit().id;
        assert!(store.revoke("a", id, Revocation::Graceful).await);
        assert_eq!(within(SOON, lease.lost()).await.stage, LossStage::Revoking);
        if early {
            listens(&mut *lease).await;
        }
        assert!(store.revoke("a", id, Revocation::Forced).await);
        assert_ne!(within(SOON, lease.lost()).await.stage, LossStage::Revoking);
        lease.release(PATIENCE).await.unwrap();
    }
}

pub(super) async fn a_revoked_holder_hears_of_it_at_once_whenever_it_listens(store: TestedBackend) {
    for (request, early) in
        [(request("a", 1), true), (detached("a", 1), true), (detached("a", 1), false)]
    {
        let mut lease = store.granted(&AcquireRequest { id: Uuid::new_v4(), ..request }).await;
        if early {
            listens(&mut *lease).await;
        }
        assert!(store.revoke("a", lease.permit().id, Revocation::Graceful).await);
        assert_eq!(within(SOON, lease.lost()).await.stage, LossStage::Revoking);
        lease.release(PATIENCE).await.unwrap();
    }
}

pub(super) async fn a_revoked_permit_passes_on_when_its_lease_ends(store: TestedBackend) {
    let id = store.granted(&detached("a", 1)).await.permit().id;
    let waiter = store.waits(request("a", 1)).await;
    assert!(store.revoke("a", id, Revocation::Graceful).await);
    assert!(store.attach("a", id).await.is_none(), "no process can renew it");
    assert!(matches!(store.now(&request("a", 1)).await, Acquisition::Busy));
    within(store.ttl + SOON, waiter.granted()).await;
    assert_eq!(store.give_back("a", id).await, ReleaseOutcome::Unknown);
}

pub(super) async fn a_revoked_permit_is_not_kept_for_its_min_hold(store: TestedBackend) {
    let lease = store.granted(&request("a", 1).with(|terms| terms.min_hold = EVER)).await;
    assert!(store.revoke("a", lease.permit().id, Revocation::Graceful).await);
    lease.release(PATIENCE).await.unwrap();
    let lease = store.granted(&detached("a", 1).with(|terms| terms.min_hold = EVER)).await;
    assert!(store.revoke("a", lease.permit().id, Revocation::Graceful).await);
    assert_eq!(store.give_back("a", lease.permit().id).await, ReleaseOutcome::Now);
    assert!(matches!(store.now(&request("a", 1)).await, Acquisition::Granted(_)));
}

pub(super) async fn a_kept_permit_ends_when_it_is_revoked(store: TestedBackend) {
    for how in [Revocation::Graceful, Revocation::Forced] {
        let lease = store.granted(&request("a", 1).with(|terms| terms.min_hold = EVER)).await;
        let id = lease.permit().id;
        lease.release(PATIENCE).await.unwrap();
        let waiter = store.waits(request("a", 1)).await;
        assert!(store.revoke("a", id, how).await);
        within(SOON, waiter.granted()).await.release(PATIENCE).await.unwrap();
        assert!(!store.revoke("a", id, how).await, "it has ended");
    }
}

pub(super) async fn a_permit_that_is_revoked_now_is_free_at_once(store: TestedBackend) {
    let mut lease = store.granted(&request("a", 1).with(|terms| terms.min_hold = EVER)).await;
    let waiter = store.waits(request("a", 1)).await;
    let id = lease.permit().id;
    listens(&mut *lease).await;
    assert!(store.revoke("a", id, Revocation::Forced).await);
    let next = within(SOON, waiter.granted()).await;
    let Loss { stage: gone, .. } = within(SOON, lease.lost()).await;
    assert_ne!(gone, LossStage::Revoking);
    assert!(!store.revoke("a", id, Revocation::Forced).await);
    // Whatever its former holder does now changes nothing.
    lease.release(PATIENCE).await.unwrap();
    assert!(store.snapshot("a").await.held(next.permit().id).is_some());
    assert_eq!(store.snapshot("a").await.holders.len(), 1);
}

pub(super) async fn no_permit_is_revoked_where_none_is_held(store: TestedBackend) {
    let lease = store.granted(&request("a", 1)).await;
    let waiter = store.waits(request("a", 1)).await;
    for how in [Revocation::Graceful, Revocation::Forced] {
        assert!(!store.revoke("a", waiter.id, how).await, "it only waits");
        assert!(!store.revoke("a", Uuid::new_v4(), how).await);
        assert!(!store.revoke("never", lease.permit().id, how).await);
    }
    store.becomes("a", Some(1), &[lease.permit().id], &[waiter.id]).await;
    assert_eq!(store.snapshot("never").await, SemaphoreSnapshot::unused(&name("never")));
}

/// The holder listens, and the permit is its own.
async fn listens(lease: &mut dyn Lease) {
    let lost = tokio::time::timeout(Duration::from_millis(100), lease.lost()).await;
    assert!(lost.is_err(), "{lost:?}");
}
