//! The behaviours that all stores and backends owe, each written once and tested against every
//! backend of ours. A store of another program ([`CustomStore`]) is held against them like this:
//!
//! ```no_run
//! # fn connect_to_a_new_store() -> impl Fn() -> Mine { || Mine }
//! # struct Mine;
//! # impl semrun::custom_store::CustomStore for Mine {
//! #     fn execute<'a>(&'a self, _: &'a str, _: &'a semrun::custom_store::Request)
//! #         -> semrun::custom_store::BoxFuture<'a, std::io::Result<semrun::custom_store::Reply>> { todo!() }
//! #     fn standings<'a>(&'a self, _: Option<&'a str>)
//! #         -> semrun::custom_store::BoxFuture<'a, std::io::Result<Vec<semrun::custom_store::Standing>>> { todo!() }
//! #     fn url(&self) -> &str { "mine:" }
//! # }
//! for behaviour in semrun::contract::behaviours() {
//!     eprintln!("{}", behaviour.name());
//!     behaviour.check(connect_to_a_new_store());
//! }
//! ```

#![expect(clippy::unwrap_used, reason = "these are tests, wherever they run")]
#![cfg_attr(not(test), expect(clippy::wildcard_imports, reason = "as in all tests"))]

mod detached;
#[cfg(test)]
mod histories;
mod min_hold;
mod pinned;
mod queue;
mod revoked;

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use uuid::Uuid;

use self::detached::*;
use self::min_hold::*;
use self::pinned::*;
use self::queue::*;
use self::revoked::*;
use crate::custom_store::{AdaptedStore, CustomStore};
use crate::engine::LeaseClient;
use crate::permits::Terms;
use crate::permits::{
    AcquireRequest, Acquisition, Backend, BackendError, CancelToken, Canceller, ClientInfo,
    FailureClass, Holder, HolderState, Lease, Loss, LossReason, LossStage, Name, Progress,
    ProgressSender, ReleaseOutcome, Revocation, SemaphoreSnapshot,
};

/// A store, and clients of it.
pub(crate) struct TestedBackend {
    client: Box<dyn Fn() -> Box<dyn Backend>>,
    /// What is asked for.
    ttl: Duration,
    /// What has to live as long as the store.
    _keep: Option<Box<dyn Any>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Lifetime {
    Short,
    /// There is time for something else before it expires.
    Middle,
    Long,
}

impl Lifetime {
    fn ttl(self) -> Duration {
        match self {
            Self::Short => Duration::from_millis(200),
            Self::Middle => Duration::from_secs(1),
            Self::Long => Duration::from_secs(30),
        }
    }
}

/// A behaviour that every store owes.
#[derive(Clone, Copy)]
pub struct Behaviour {
    name: &'static str,
    lifetime: Lifetime,
    check: fn(TestedBackend) -> Pin<Box<dyn Future<Output = ()>>>,
}

impl Behaviour {
    /// What it is, as an identifier.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Holds a new, empty store against it, in this thread. Each call of `connect` is another client
    /// of that store.
    ///
    /// # Panics
    ///
    /// If the store does not behave so.
    pub fn check<S: CustomStore>(&self, connect: impl Fn() -> S + 'static) {
        let client =
            move || -> Box<dyn Backend> { Box::new(LeaseClient::new(AdaptedStore(connect()))) };
        let ttl = self.lifetime.ttl();
        settle((self.check)(TestedBackend { client: Box::new(client), ttl, _keep: None }));
    }
}

impl fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Behaviour").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Hands all behaviours to a macro: with `Short` a holder that vanishes is missed soon; hardly a
/// holder renews here, so the other tests need permits that stay.
macro_rules! behaviours {
    ($then:ident $($arguments:tt)*) => { $then! { $($arguments)* {
        a_free_permit_is_granted_at_once(Long);
        never_more_than_the_limit_are_held(Long);
        a_busy_semaphore_says_so_to_clients_that_do_not_wait(Long);
        clients_that_do_not_wait_go_before_no_waiter(Long);
        first_come_first_served(Long);
        a_cancelled_waiter_leaves_the_queue_and_delays_no_other(Long);
        a_dropped_waiter_delays_no_other(Short);
        a_holder_that_vanishes_is_replaced(Short);
        tokens_grow_with_every_grant(Short);
        the_limit_stands_while_in_use_and_an_idle_semaphore_takes_the_next(Long);
        another_limit_is_an_error_for_strict_clients(Long);
        a_waiter_keeps_the_semaphore_in_use(Long);
        an_idle_name_is_an_empty_snapshot(Long);
        observing_shows_holders_and_waiters_in_order(Long);
        a_held_permit_is_found_by_its_identity(Long);
        names_are_independent_however_odd(Long);
        a_waiter_is_told_where_it_stands(Long);
        many_tasks_never_exceed_the_limit(Long);
        a_detached_permit_stays_until_its_lease_ends(Middle);
        a_detached_permit_is_given_back_once_and_that_is_remembered(Long);
        a_detached_permit_lasts_as_long_as_it_is_renewed(Middle);
        a_renewal_hears_that_a_detached_permit_was_given_back(Middle);
        a_detached_permit_that_has_ended_is_not_known(Short);
        what_is_not_detached_is_neither_attached_nor_given_back(Long);
        the_limit_counts_detached_permits(Long);
        a_permit_stays_taken_for_its_min_hold_after_it_was_given_back(Long);
        a_permit_stays_taken_for_its_min_hold_after_its_holder_vanished(Short);
        a_permit_that_was_never_used_is_not_kept_for_its_min_hold(Long);
        what_was_held_for_long_enough_is_free_when_it_is_given_back(Long);
        a_waiter_that_goes_before_it_is_served_keeps_nothing(Middle);
        what_is_kept_is_neither_attached_nor_given_back_again(Long);
        a_holder_revoked_gently_hears_of_it_and_keeps_its_permit(Long);
        a_revoked_holder_hears_of_it_at_once_whenever_it_listens(Long);
        a_holder_revoked_gently_hears_that_it_is_revoked_now(Long);
        a_revoked_permit_passes_on_when_its_lease_ends(Middle);
        a_revoked_permit_is_not_kept_for_its_min_hold(Long);
        a_kept_permit_ends_when_it_is_revoked(Long);
        a_permit_that_is_revoked_now_is_free_at_once(Long);
        no_permit_is_revoked_where_none_is_held(Long);
        a_pinned_limit_stands_also_while_the_semaphore_is_idle(Long);
        a_pinned_limit_that_is_raised_serves_the_waiters(Long);
        a_pinned_limit_that_is_lowered_stops_no_holder(Long);
        a_limit_that_is_not_pinned_any_more_is_that_of_the_users(Long);
        another_limit_than_the_pinned_one_is_an_error_for_strict_clients(Long);
    } } };
}

// After the macro, which it uses.
#[cfg(test)]
mod backends;

macro_rules! list {
    ({ $($behaviour:ident($lifetime:ident);)* }) => {
        &[$(Behaviour {
            name: stringify!($behaviour),
            lifetime: Lifetime::$lifetime,
            check: |backend| Box::pin($behaviour(backend)),
        }),*]
    };
}

/// All that a store owes.
#[must_use]
pub fn behaviours() -> &'static [Behaviour] {
    behaviours!(list)
}

/// A client that asked and may have to wait.
struct PendingAcquire {
    id: Uuid,
    acquiring: JoinHandle<Result<Acquisition, BackendError>>,
    canceller: Canceller,
    notices: Vec<Progress>,
    more: mpsc::UnboundedReceiver<Progress>,
}

impl PendingAcquire {
    async fn granted(self) -> Box<dyn Lease> {
        match within(PATIENCE, self.acquiring).await.unwrap().unwrap() {
            Acquisition::Granted(lease) => lease,
            Acquisition::Busy | Acquisition::Cancelled => panic!("not granted"),
        }
    }
}

impl TestedBackend {
    fn request(&self, request: AcquireRequest) -> PendingAcquire {
        let client = (self.client)();
        let request = request.with(|terms| terms.ttl = self.ttl);
        let (turn, more) = ProgressSender::channel();
        let (canceller, cancel) = CancelToken::pair();
        let id = request.id;
        let acquiring = spawn_local(async move { client.acquire(&request, &turn, cancel).await });
        PendingAcquire { id, acquiring, canceller, notices: Vec::new(), more }
    }

    /// Asks and is in the queue when this returns.
    async fn waits(&self, request: AcquireRequest) -> PendingAcquire {
        let mut asking = self.request(request);
        loop {
            let notice = within(PATIENCE, asking.more.recv()).await.expect("it has to wait");
            let queued = matches!(notice, Progress::Queued(_));
            asking.notices.push(notice);
            if queued {
                return asking;
            }
        }
    }

    async fn granted(&self, request: &AcquireRequest) -> Box<dyn Lease> {
        self.request(request.clone()).granted().await
    }

    async fn now(&self, request: &AcquireRequest) -> Acquisition {
        let asking = self.request(AcquireRequest { nonblock: true, ..request.clone() });
        within(PATIENCE, asking.acquiring).await.unwrap().unwrap()
    }

    async fn attach(&self, semaphore: &str, id: Uuid) -> Option<Box<dyn Lease>> {
        (self.client)().attach(&name(semaphore), id).await.unwrap()
    }

    async fn give_back(&self, semaphore: &str, id: Uuid) -> ReleaseOutcome {
        (self.client)().release_detached(&name(semaphore), id).await.unwrap()
    }

    async fn revoke(&self, semaphore: &str, id: Uuid, how: Revocation) -> bool {
        (self.client)().revoke(&name(semaphore), id, how).await.unwrap()
    }

    async fn set_limit(&self, semaphore: &str, limit: Option<u32>) {
        (self.client)().set_limit(&name(semaphore), limit).await.unwrap();
    }

    async fn snapshot(&self, semaphore: &str) -> SemaphoreSnapshot {
        (self.client)().observe(&name(semaphore)).await.unwrap()
    }

    /// The names of all known semaphores.
    async fn names(&self) -> Vec<Name> {
        let snapshots = (self.client)().observe_all().await.unwrap();
        snapshots.into_iter().map(|snapshot| snapshot.name).collect()
    }

    async fn waiting(&self, semaphore: &str) -> Vec<Uuid> {
        let waiters = self.snapshot(semaphore).await.waiters;
        waiters.into_iter().map(|waiter| waiter.record.unwrap().permit).collect()
    }

    /// Waits until a snapshot shows this.
    async fn becomes(&self, name: &str, limit: Option<u32>, held: &[Uuid], waiting: &[Uuid]) {
        let mut last = None;
        let same = async {
            loop {
                let now = self.snapshot(name).await;
                let records = now.holders.iter().map(Holder::record);
                let holders: Vec<_> = records.map(|one| one.unwrap().permit).collect();
                let records = now.waiters.iter().map(|one| one.record.as_ref());
                let waiters: Vec<_> = records.map(|one| one.unwrap().permit).collect();
                if (now.limit, &holders[..], &waiters[..]) == (limit, held, waiting) {
                    return;
                }
                last = Some(now);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let same = tokio::time::timeout(PATIENCE, same).await.is_ok();
        assert!(same, "expected {limit:?}, holders {held:?}, waiters {waiting:?}, found {last:#?}");
    }
}

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(20);

async fn within<T>(time: Duration, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(time, future).await.expect("in time")
}

/// Longer than it takes to tell a client of anything, and shorter than any heartbeat.
const SOON: Duration = Duration::from_secs(3);

/// Clocks that count milliseconds may be early by one.
const EARLY: Duration = Duration::from_millis(2);

fn settle(behaviour: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, behaviour);
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn request(semaphore: &str, limit: u32) -> AcquireRequest {
    let who = ClientInfo {
        label: "test".into(),
        host: "here".into(),
        pid: 1,
        user: "me".into(),
        detached: false,
    };
    AcquireRequest::of(name(semaphore), Terms { limit, ..Terms::default() }, who)
}

/// The same, for a permit that outlives the process that asks.
fn detached(semaphore: &str, limit: u32) -> AcquireRequest {
    let request = request(semaphore, limit);
    AcquireRequest { who: ClientInfo { detached: true, ..request.who }, ..request }
}
