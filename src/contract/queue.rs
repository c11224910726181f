//! What every backend owes clients that ask, wait in turn, hold and look.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::spawn_local;

use super::*;

pub(super) async fn a_free_permit_is_granted_at_once(store: TestedBackend) {
    let lease = store.granted(&request("a", 1)).await;
    assert!(lease.permit().token > Some(0));
    assert_eq!(lease.permit().name, name("a"));
}

pub(super) async fn never_more_than_the_limit_are_held(store: TestedBackend) {
    let (_first, _second) =
        (store.granted(&request("a", 2)).await, store.granted(&request("a", 2)).await);
    assert!(matches!(store.now(&request("a", 2)).await, Acquisition::Busy));
}

pub(super) async fn a_busy_semaphore_says_so_to_clients_that_do_not_wait(store: TestedBackend) {
    let lease = store.granted(&request("a", 1)).await;
    assert!(matches!(store.now(&request("a", 1)).await, Acquisition::Busy));
    assert_eq!(store.snapshot("a").await.waiters, []);
    lease.release(PATIENCE).await.unwrap();
    assert!(matches!(store.now(&request("a", 1)).await, Acquisition::Granted(_)));
}

pub(super) async fn clients_that_do_not_wait_go_before_no_waiter(store: TestedBackend) {
    let first = store.granted(&request("a", 1)).await;
    let waiter = store.waits(request("a", 1)).await;
    first.release(PATIENCE).await.unwrap();
    // The waiter has not run yet; the permit is its own all the same.
    assert!(matches!(store.now(&request("a", 1)).await, Acquisition::Busy));
    waiter.granted().await;
}

pub(super) async fn first_come_first_served(store: TestedBackend) {
    let mut lease = store.granted(&request("a", 1)).await;
    let mut waiters = Vec::new();
    for _ in 0..10 {
        waiters.push(store.waits(request("a", 1)).await);
    }
    for waiter in waiters {
        lease.release(PATIENCE).await.unwrap();
        lease = waiter.granted().await;
    }
}

pub(super) async fn a_cancelled_waiter_leaves_the_queue_and_delays_no_other(store: TestedBackend) {
    let lease = store.granted(&request("a", 1)).await;
    let (first, second) = (store.waits(request("a", 1)).await, store.waits(request("a", 1)).await);
    first.canceller.cancel();
    let cancelled = within(Duration::from_secs(1), first.acquiring).await.unwrap().unwrap();
    assert!(matches!(cancelled, Acquisition::Cancelled));
    assert_eq!(store.waiting("a").await, [second.id]);
    lease.release(PATIENCE).await.unwrap();
    second.granted().await;
}

pub(super) async fn a_dropped_waiter_delays_no_other(store: TestedBackend) {
    let lease = store.granted(&request("a", 1)).await;
    let (first, second) = (store.waits(request("a", 1)).await, store.waits(request("a", 1)).await);
    first.acquiring.abort();
    assert!(first.acquiring.await.is_err_and(|error| error.is_cancelled()));
    lease.release(PATIENCE).await.unwrap();
    second.granted().await;
}

pub(super) async fn a_holder_that_vanishes_is_replaced(store: TestedBackend) {
    let lease = store.granted(&request("a", 1)).await;
    let waiter = store.waits(request("a", 1)).await;
    drop(lease);
    waiter.granted().await;
}

pub(super) async fn tokens_grow_with_every_grant(store: TestedBackend) {
    let mut last = Some(0);
    for round in 0..20 {
        let lease = store.granted(&request("a", 2)).await;
        assert!(lease.permit().token > last);
        last = lease.permit().token;
        // By either end of a permit's life.
        if round % 2 == 0 {
            lease.release(PATIENCE).await.unwrap();
        }
    }
}

pub(super) async fn the_limit_stands_while_in_use_and_an_idle_semaphore_takes_the_next(
    store: TestedBackend,
) {
    let first = store.granted(&request("a", 1)).await;
    let second = store.waits(request("a", 5)).await;
    assert_eq!(second.notices[0], Progress::Limit { asked: 5, stands: 1, pinned: false });
    assert_eq!(store.snapshot("a").await.limit, Some(1));
    first.release(PATIENCE).await.unwrap();
    second.granted().await.release(PATIENCE).await.unwrap();
    assert_eq!(store.snapshot("a").await.limit, None);
    let _third = store.granted(&request("a", 5)).await;
    assert_eq!(store.snapshot("a").await.limit, Some(5));
}

pub(super) async fn another_limit_is_an_error_for_strict_clients(store: TestedBackend) {
    let first = store.granted(&request("a", 1)).await;
    let strict = |limit| request("a", limit).with(|terms| terms.strict = true);
    let refused = within(PATIENCE, store.request(strict(2)).acquiring).await.unwrap();
    assert!(refused.is_err_and(|error| error.kind() == FailureClass::Differs));
    assert_eq!(store.snapshot("a").await.waiters, []);
    let same = store.waits(strict(1)).await;
    first.release(PATIENCE).await.unwrap();
    same.granted().await.release(PATIENCE).await.unwrap();
    store.granted(&strict(2)).await;
}

pub(super) async fn a_waiter_keeps_the_semaphore_in_use(store: TestedBackend) {
    let first = store.granted(&request("a", 1)).await;
    let second = store.waits(request("a", 1)).await;
    let third = store.waits(request("a", 9)).await;
    first.release(PATIENCE).await.unwrap();
    let second = second.granted().await;
    assert_eq!(store.waiting("a").await, [third.id], "the limit is still 1");
    second.release(PATIENCE).await.unwrap();
    third.granted().await;
}

pub(super) async fn an_idle_name_is_an_empty_snapshot(store: TestedBackend) {
    assert_eq!(store.snapshot("never").await, SemaphoreSnapshot::unused(&name("never")));
    assert_eq!(store.names().await, []);
}

pub(super) async fn observing_shows_holders_and_waiters_in_order(store: TestedBackend) {
    let asks: Vec<_> = (0..4).map(|_| request("a", 2)).collect();
    let _first = store.granted(&asks[0]).await;
    let _second = store.granted(&asks[1]).await;
    let _third = store.waits(asks[2].clone()).await;
    let _fourth = store.waits(asks[3].clone()).await;
    let snapshot = store.snapshot("a").await;
    let holders: Vec<_> =
        snapshot.holders.iter().map(|one| one.record().cloned().unwrap()).collect();
    let waiters: Vec<_> = snapshot.waiters.iter().map(|one| one.record.clone().unwrap()).collect();
    let shown: Vec<_> = holders.iter().chain(&waiters).map(|record| record.permit).collect();
    assert_eq!(shown, asks.iter().map(|request| request.id).collect::<Vec<_>>());
    assert_eq!((holders[0].who.clone(), snapshot.limit), (asks[0].who.clone(), Some(2)));
    assert!(snapshot.holders.is_sorted_by_key(Holder::token) && snapshot.full(9));
    assert_eq!(store.names().await, [name("a")]);
}

pub(super) async fn a_held_permit_is_found_by_its_identity(store: TestedBackend) {
    let lease = store.granted(&request("a", 1)).await;
    let waiter = store.waits(request("a", 1)).await;
    let permit = lease.permit().clone();
    let snapshot = store.snapshot("a").await;
    assert_eq!(snapshot.held(permit.id).as_ref(), Some(&permit));
    assert_eq!(snapshot.held(waiter.id), None);
    lease.release(PATIENCE).await.unwrap();
    assert_eq!(store.snapshot("a").await.held(permit.id), None);
}

pub(super) async fn names_are_independent_however_odd(store: TestedBackend) {
    let longest = "/".repeat(Name::LONGEST);
    let almost = format!("{}.", "/".repeat(Name::LONGEST - 1));
    let names = [
        "a",
        "A",
        "..",
        ".",
        "a/b",
        "a%2Fb",
        "../a",
        " ",
        "-n",
        "mutex",
        "name",
        "日本語",
        "~",
        "a\"b'c",
        "$(reboot)",
        longest.as_str(),
        almost.as_str(),
    ];
    let mut leases = Vec::new();
    for name in names {
        leases.push(store.granted(&request(name, 1)).await);
        assert!(matches!(store.now(&request(name, 1)).await, Acquisition::Busy), "{name}");
    }
    let mut all: Vec<_> = names.map(name).to_vec();
    all.sort();
    assert_eq!(store.names().await, all);
}

pub(super) async fn a_waiter_is_told_where_it_stands(store: TestedBackend) {
    let asked = request("a", 1);
    let _lease = store.granted(&asked).await;
    let _first = store.waits(request("a", 1)).await;
    let second = store.waits(request("a", 1)).await;
    let Some(Progress::Queued(queue_status)) = second.notices.last() else { panic!("queued") };
    assert_eq!((queue_status.ahead, queue_status.held), (1, 1));
    assert_eq!(queue_status.holder.as_ref().map(|holder| holder.permit), Some(asked.id));
}

pub(super) async fn many_tasks_never_exceed_the_limit(store: TestedBackend) {
    const LIMIT: u32 = 3;
    let store = Rc::new(store);
    let running = Rc::new(RefCell::new((0, 0)));
    let task = |store: Rc<TestedBackend>, running: Rc<RefCell<(u32, u32)>>| async move {
        for _ in 0..10 {
            let lease = store.granted(&request("a", LIMIT)).await;
            {
                let mut running = running.borrow_mut();
                running.0 += 1;
                running.1 = running.1.max(running.0);
                assert!(running.0 <= LIMIT);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            running.borrow_mut().0 -= 1;
            lease.release(PATIENCE).await.unwrap();
        }
    };
    let tasks: Vec<_> =
        (0..12).map(|_| spawn_local(task(Rc::clone(&store), Rc::clone(&running)))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(*running.borrow(), (0, LIMIT), "no holder is left, and all permits were used");
    assert_eq!(store.snapshot("a").await.limit, None);
}
