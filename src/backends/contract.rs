//! Every behaviour that all backends owe, once, run against each of them; and random histories
//! in which a backend is compared with the ledger step by step.

use std::any::Any;
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use uuid::Uuid;

use super::cloud::Cloud;
use super::cloud::place::{Place as CloudPlace, Url as CloudUrl};
use super::ledger::{Claim, Ledger, Terms};
use super::local::Local;
use super::local::place::Place;
use super::memory::Memory;
use super::redis::Redis;
use super::redis::place::{Place as RedisPlace, Url};
use super::redis::testing::RedisServer;
use super::tls::{Secret, Tls};
use super::{
    Acquired, Ask, Backend, Cancel, Canceller, Error, ErrorKind, Holder, Lease, Name, Notice,
    Snapshot, Turn, Who,
};
use crate::serve;
use crate::serve::journal::{Found, Journal};
use crate::serve::keys::Keys;
use crate::serve::log::{Format, Log};
use crate::serve::routes::Routes;
use crate::serve::semaphores::Semaphores;

/// A store, and clients of it.
pub(crate) struct Store {
    client: Box<dyn Fn() -> Box<dyn Backend>>,
    /// What is asked for.
    ttl: Duration,
    /// What has to live as long.
    _keep: Option<Box<dyn Any>>,
}

/// Every backend, each in a store of its own. With `Lifetime::Short` a holder that vanishes is
/// missed soon; nobody renews here, so the other tests need permits that stay.
fn memory(lifetime: Lifetime) -> Store {
    let memory = Memory::new((lifetime == Lifetime::Short).then(|| lifetime.ttl()));
    let client = Box::new(move || Box::new(memory.clone()) as Box<dyn Backend>);
    Store { client, ttl: lifetime.ttl(), _keep: None }
}

fn local(lifetime: Lifetime) -> Store {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("semrun");
    Store {
        client: Box::new(move || Box::new(Local::new(Place::named(&path)))),
        ttl: lifetime.ttl(),
        _keep: Some(Box::new(directory)),
    }
}

fn redis(lifetime: Lifetime) -> Store {
    redis_at(Rc::new(RedisServer::start()), lifetime)
}

/// One more store in the same server.
fn redis_at(server: Rc<RedisServer>, lifetime: Lifetime) -> Store {
    let place = RedisPlace {
        url: Url::parse(&server.url()).unwrap(),
        tls: Tls::default(),
        prefix: Uuid::new_v4().to_string().parse().unwrap(),
        quarantine: Some(Duration::ZERO),
        allow_eviction: false,
    };
    Store {
        client: Box::new(move || Box::new(Redis::new(place.clone()).unwrap())),
        ttl: lifetime.ttl(),
        _keep: Some(Box::new(server)),
    }
}

/// In a server of our own, within the test's own process.
fn served(lifetime: Lifetime) -> Store {
    const KEY: &str = "a-key-for-tests";
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let log = Log::new(&[], Format::Text);
    let routes = Rc::new(Routes {
        semaphores: Semaphores::new(Journal::none(), Found::default(), log),
        keys: Keys::of_words(KEY).unwrap(),
    });
    // Until a test has its tasks there is nowhere to start another.
    let start = OnceCell::new();
    let client = Box::new(move || {
        start.get_or_init(|| {
            let listener = listener.try_clone().unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            spawn_local(serve::run(listener, None, Rc::clone(&routes), std::future::pending()))
        });
        let url = CloudUrl::parse(&url).unwrap();
        let key = Some(Secret(KEY.into()));
        let place = CloudPlace { url, key, tls: Tls::default() };
        Box::new(Cloud::new(place).unwrap()) as Box<dyn Backend>
    });
    Store { client, ttl: lifetime.ttl(), _keep: None }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Lifetime {
    Short,
    Long,
}

impl Lifetime {
    fn ttl(self) -> Duration {
        match self {
            Self::Short => Duration::from_millis(200),
            Self::Long => Duration::from_secs(30),
        }
    }
}

macro_rules! contract {
    ($($backend:ident),*: $behaviours:tt) => {
        $(contract! { @against $backend $behaviours })*
    };
    (@against $backend:ident { $($behaviour:ident($lifetime:expr);)* }) => {
        mod $backend {
            use super::*;
            $(#[test] fn $behaviour() { settle(super::$behaviour(super::$backend($lifetime))); })*
        }
    };
}

contract! { memory, local, redis, served: {
    a_free_permit_is_granted_at_once(Lifetime::Long);
    never_more_than_the_limit_are_held(Lifetime::Long);
    a_busy_semaphore_says_so_to_those_who_do_not_wait(Lifetime::Long);
    those_who_do_not_wait_go_before_nobody(Lifetime::Long);
    first_come_first_served(Lifetime::Long);
    a_cancelled_waiter_leaves_the_queue_and_delays_nobody(Lifetime::Long);
    a_dropped_waiter_delays_nobody(Lifetime::Short);
    a_holder_that_vanishes_is_replaced(Lifetime::Short);
    tokens_grow_with_every_grant(Lifetime::Short);
    the_limit_stands_while_in_use_and_an_idle_semaphore_takes_the_next(Lifetime::Long);
    another_limit_is_an_error_for_those_who_want_no_other(Lifetime::Long);
    a_waiter_keeps_the_semaphore_in_use(Lifetime::Long);
    a_name_nobody_uses_is_an_empty_snapshot(Lifetime::Long);
    observing_shows_holders_and_waiters_in_order(Lifetime::Long);
    a_held_permit_is_found_by_its_identity(Lifetime::Long);
    names_are_independent_however_odd(Lifetime::Long);
    a_waiter_is_told_where_it_stands(Lifetime::Long);
    many_tasks_never_exceed_the_limit(Lifetime::Long);
} }

async fn a_free_permit_is_granted_at_once(store: Store) {
    let lease = store.granted(&ask("a", 1)).await;
    assert!(lease.permit().token > Some(0));
    assert_eq!(lease.permit().name, name("a"));
}

async fn never_more_than_the_limit_are_held(store: Store) {
    let (_first, _second) = (store.granted(&ask("a", 2)).await, store.granted(&ask("a", 2)).await);
    assert!(matches!(store.now(&ask("a", 2)).await, Acquired::Busy));
}

async fn a_busy_semaphore_says_so_to_those_who_do_not_wait(store: Store) {
    let lease = store.granted(&ask("a", 1)).await;
    assert!(matches!(store.now(&ask("a", 1)).await, Acquired::Busy));
    assert_eq!(store.snapshot("a").await.waiters, []);
    lease.release(PATIENCE).await.unwrap();
    assert!(matches!(store.now(&ask("a", 1)).await, Acquired::Granted(_)));
}

async fn those_who_do_not_wait_go_before_nobody(store: Store) {
    let first = store.granted(&ask("a", 1)).await;
    let waiter = store.waits(ask("a", 1)).await;
    first.release(PATIENCE).await.unwrap();
    // The waiter has not run yet; the permit is its own all the same.
    assert!(matches!(store.now(&ask("a", 1)).await, Acquired::Busy));
    waiter.granted().await;
}

async fn first_come_first_served(store: Store) {
    let mut lease = store.granted(&ask("a", 1)).await;
    let mut waiters = Vec::new();
    for _ in 0..10 {
        waiters.push(store.waits(ask("a", 1)).await);
    }
    for waiter in waiters {
        lease.release(PATIENCE).await.unwrap();
        lease = waiter.granted().await;
    }
}

async fn a_cancelled_waiter_leaves_the_queue_and_delays_nobody(store: Store) {
    let lease = store.granted(&ask("a", 1)).await;
    let (first, second) = (store.waits(ask("a", 1)).await, store.waits(ask("a", 1)).await);
    first.canceller.cancel();
    let cancelled = within(Duration::from_secs(1), first.acquiring).await.unwrap().unwrap();
    assert!(matches!(cancelled, Acquired::Cancelled));
    assert_eq!(store.waiting("a").await, [second.id]);
    lease.release(PATIENCE).await.unwrap();
    second.granted().await;
}

async fn a_dropped_waiter_delays_nobody(store: Store) {
    let lease = store.granted(&ask("a", 1)).await;
    let (first, second) = (store.waits(ask("a", 1)).await, store.waits(ask("a", 1)).await);
    first.acquiring.abort();
    assert!(first.acquiring.await.is_err_and(|error| error.is_cancelled()));
    lease.release(PATIENCE).await.unwrap();
    second.granted().await;
}

async fn a_holder_that_vanishes_is_replaced(store: Store) {
    let lease = store.granted(&ask("a", 1)).await;
    let waiter = store.waits(ask("a", 1)).await;
    drop(lease);
    waiter.granted().await;
}

async fn tokens_grow_with_every_grant(store: Store) {
    let mut last = Some(0);
    for round in 0..20 {
        let lease = store.granted(&ask("a", 2)).await;
        assert!(lease.permit().token > last);
        last = lease.permit().token;
        // By either end of a permit's life.
        if round % 2 == 0 {
            lease.release(PATIENCE).await.unwrap();
        }
    }
}

async fn the_limit_stands_while_in_use_and_an_idle_semaphore_takes_the_next(store: Store) {
    let first = store.granted(&ask("a", 1)).await;
    let second = store.waits(ask("a", 5)).await;
    assert_eq!(second.notices[0], Notice::Limit { asked: 5, stands: 1 });
    assert_eq!(store.snapshot("a").await.limit, Some(1));
    first.release(PATIENCE).await.unwrap();
    second.granted().await.release(PATIENCE).await.unwrap();
    assert_eq!(store.snapshot("a").await.limit, None);
    let _third = store.granted(&ask("a", 5)).await;
    assert_eq!(store.snapshot("a").await.limit, Some(5));
}

async fn another_limit_is_an_error_for_those_who_want_no_other(store: Store) {
    let first = store.granted(&ask("a", 1)).await;
    let strict = |limit| Ask { strict: true, ..ask("a", limit) };
    let refused = within(PATIENCE, store.ask(strict(2)).acquiring).await.unwrap();
    assert!(refused.is_err_and(|error| error.kind == ErrorKind::Differs));
    assert_eq!(store.snapshot("a").await.waiters, []);
    let same = store.waits(strict(1)).await;
    first.release(PATIENCE).await.unwrap();
    same.granted().await.release(PATIENCE).await.unwrap();
    store.granted(&strict(2)).await;
}

async fn a_waiter_keeps_the_semaphore_in_use(store: Store) {
    let first = store.granted(&ask("a", 1)).await;
    let second = store.waits(ask("a", 1)).await;
    let third = store.waits(ask("a", 9)).await;
    first.release(PATIENCE).await.unwrap();
    let second = second.granted().await;
    assert_eq!(store.waiting("a").await, [third.id], "the limit is still 1");
    second.release(PATIENCE).await.unwrap();
    third.granted().await;
}

async fn a_name_nobody_uses_is_an_empty_snapshot(store: Store) {
    assert_eq!(store.snapshot("never").await, Snapshot::unused(&name("never")));
    assert_eq!((store.client)().list().await.unwrap(), []);
}

async fn observing_shows_holders_and_waiters_in_order(store: Store) {
    let asks: Vec<_> = (0..4).map(|_| ask("a", 2)).collect();
    let _first = store.granted(&asks[0]).await;
    let _second = store.granted(&asks[1]).await;
    let _third = store.waits(asks[2].clone()).await;
    let _fourth = store.waits(asks[3].clone()).await;
    let snapshot = store.snapshot("a").await;
    let holders: Vec<_> =
        snapshot.holders.iter().map(|one| one.record().cloned().unwrap()).collect();
    let waiters: Vec<_> = snapshot.waiters.iter().map(|one| one.record.clone().unwrap()).collect();
    let shown: Vec<_> = holders.iter().chain(&waiters).map(|record| record.permit).collect();
    assert_eq!(shown, asks.iter().map(|ask| ask.id).collect::<Vec<_>>());
    assert_eq!((holders[0].who.clone(), snapshot.limit), (asks[0].who.clone(), Some(2)));
    assert!(snapshot.holders.is_sorted_by_key(Holder::token) && snapshot.full(9));
    assert_eq!((store.client)().list().await.unwrap(), [name("a")]);
}

async fn a_held_permit_is_found_by_its_identity(store: Store) {
    let lease = store.granted(&ask("a", 1)).await;
    let waiter = store.waits(ask("a", 1)).await;
    let permit = lease.permit().clone();
    let snapshot = store.snapshot("a").await;
    assert_eq!(snapshot.held(permit.id).as_ref(), Some(&permit));
    assert_eq!(snapshot.held(waiter.id), None);
    lease.release(PATIENCE).await.unwrap();
    assert_eq!(store.snapshot("a").await.held(permit.id), None);
}

async fn names_are_independent_however_odd(store: Store) {
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
        leases.push(store.granted(&ask(name, 1)).await);
        assert!(matches!(store.now(&ask(name, 1)).await, Acquired::Busy), "{name}");
    }
    let mut all: Vec<_> = names.map(name).to_vec();
    all.sort();
    assert_eq!((store.client)().list().await.unwrap(), all);
}

async fn a_waiter_is_told_where_it_stands(store: Store) {
    let asked = ask("a", 1);
    let _lease = store.granted(&asked).await;
    let _first = store.waits(ask("a", 1)).await;
    let second = store.waits(ask("a", 1)).await;
    let Some(Notice::Queued(standing)) = second.notices.last() else { panic!("queued") };
    assert_eq!((standing.ahead, standing.held), (1, 1));
    assert_eq!(standing.holder.as_ref().map(|holder| holder.permit), Some(asked.id));
}

async fn many_tasks_never_exceed_the_limit(store: Store) {
    const LIMIT: u32 = 3;
    let store = Rc::new(store);
    let running = Rc::new(RefCell::new((0, 0)));
    let task = |store: Rc<Store>, running: Rc<RefCell<(u32, u32)>>| async move {
        for _ in 0..10 {
            let lease = store.granted(&ask("a", LIMIT)).await;
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
    assert_eq!(*running.borrow(), (0, LIMIT), "nobody is left, and all permits were used");
    assert_eq!(store.snapshot("a").await.limit, None);
}

#[derive(Debug, Clone)]
enum Step {
    Ask { who: u128, limit: u32 },
    Release { who: u128 },
    Vanish { who: u128 },
    Leave { who: u128 },
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..6_u128;
    prop_oneof![
        3 => (who.clone(), 1..4_u32).prop_map(|(who, limit)| Step::Ask { who, limit }),
        2 => who.clone().prop_map(|who| Step::Release { who }),
        1 => who.clone().prop_map(|who| Step::Vanish { who }),
        1 => who.prop_map(|who| Step::Leave { who }),
    ]
}

/// Where one client of a history is.
enum Client {
    Asking(Asking),
    Holding(Box<dyn Lease>),
}

/// Drives a backend and the ledger with one history; after each step both must show the same
/// holders, waiters and limit.
async fn same_as_the_ledger(store: Store, steps: Vec<Step>) {
    let mut ledger = Ledger::default();
    let mut clients: HashMap<u128, (Uuid, Client)> = HashMap::new();
    let now = Duration::ZERO;
    for (position, step) in (0_u128..).zip(steps) {
        match step {
            Step::Ask { who, limit } => {
                if clients.contains_key(&who) {
                    continue;
                }
                // Each asks under an identity that was never used before.
                let id = Uuid::from_u128(position << 8 | who);
                let terms = Some(Terms { limit, ttl: None });
                ledger.ask(now, Claim { id, terms, record: () }, None);
                let asking = store.ask(Ask { id, ..ask("a", limit) });
                clients.insert(who, (id, Client::Asking(asking)));
            }
            Step::Release { who } | Step::Vanish { who } | Step::Leave { who } => {
                let holds = matches!(clients.get(&who), Some((_, Client::Holding(_))));
                if holds == matches!(step, Step::Leave { .. }) {
                    continue;
                }
                let Some((id, client)) = clients.remove(&who) else { continue };
                match client {
                    Client::Holding(lease) if matches!(step, Step::Release { .. }) => {
                        lease.release(PATIENCE).await.unwrap();
                    }
                    Client::Holding(lease) => drop(lease),
                    Client::Asking(asking) => {
                        asking.canceller.cancel();
                        asking.acquiring.await.unwrap().unwrap();
                    }
                }
                ledger.release(now, id);
            }
        }
        let held: Vec<_> = ledger.holders().map(|one| one.claim.id).collect();
        let waiting: Vec<_> = ledger.waiters().map(|one| one.id).collect();
        let limit = ledger.terms().map(|terms| terms.limit);
        store.becomes("a", limit, &held, &waiting).await;
        for id in held {
            let who = id.as_u128() & 0xff;
            let holding = match clients.remove(&who).expect("it asked") {
                (_, Client::Asking(asking)) => asking.granted().await,
                (_, Client::Holding(lease)) => lease,
            };
            clients.insert(who, (id, Client::Holding(holding)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn memory_follows_the_ledger(mut steps in prop::collection::vec(step(), 0..40)) {
        // Nobody is missed there before the end of a TTL, and histories know no time.
        steps.retain(|step| !matches!(step, Step::Vanish { .. }));
        settle(same_as_the_ledger(memory(Lifetime::Long), steps));
    }

    #[test]
    fn redis_follows_the_ledger(mut steps in prop::collection::vec(step(), 0..40)) {
        thread_local! {
            static SERVER: Rc<RedisServer> = Rc::new(RedisServer::start());
        }
        steps.retain(|step| !matches!(step, Step::Vanish { .. }));
        settle(same_as_the_ledger(redis_at(SERVER.with(Rc::clone), Lifetime::Long), steps));
    }

    #[test]
    fn a_server_follows_the_ledger(mut steps in prop::collection::vec(step(), 0..40)) {
        steps.retain(|step| !matches!(step, Step::Vanish { .. }));
        settle(same_as_the_ledger(served(Lifetime::Long), steps));
    }

    #[test]
    fn local_follows_the_ledger(steps in prop::collection::vec(step(), 0..40)) {
        settle(same_as_the_ledger(local(Lifetime::Long), steps));
    }
}

/// Somebody who asked and may have to wait.
struct Asking {
    id: Uuid,
    acquiring: JoinHandle<Result<Acquired, Error>>,
    canceller: Canceller,
    notices: Vec<Notice>,
    more: mpsc::UnboundedReceiver<Notice>,
}

impl Asking {
    async fn granted(self) -> Box<dyn Lease> {
        match within(PATIENCE, self.acquiring).await.unwrap().unwrap() {
            Acquired::Granted(lease) => lease,
            Acquired::Busy | Acquired::Cancelled => panic!("not granted"),
        }
    }
}

impl Store {
    fn ask(&self, ask: Ask) -> Asking {
        let client = (self.client)();
        let ask = Ask { ttl: self.ttl, ..ask };
        let (turn, more) = Turn::channel();
        let (canceller, cancel) = Cancel::pair();
        let id = ask.id;
        let acquiring = spawn_local(async move { client.acquire(&ask, &turn, cancel).await });
        Asking { id, acquiring, canceller, notices: Vec::new(), more }
    }

    /// Asks and is in the queue when this returns.
    async fn waits(&self, ask: Ask) -> Asking {
        let mut asking = self.ask(ask);
        loop {
            let notice = within(PATIENCE, asking.more.recv()).await.expect("it has to wait");
            let queued = matches!(notice, Notice::Queued(_));
            asking.notices.push(notice);
            if queued {
                return asking;
            }
        }
    }

    async fn granted(&self, ask: &Ask) -> Box<dyn Lease> {
        self.ask(ask.clone()).granted().await
    }

    async fn now(&self, ask: &Ask) -> Acquired {
        let asking = self.ask(Ask { nonblock: true, ..ask.clone() });
        within(PATIENCE, asking.acquiring).await.unwrap().unwrap()
    }

    async fn snapshot(&self, semaphore: &str) -> Snapshot {
        (self.client)().observe(&name(semaphore)).await.unwrap()
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

fn settle(behaviour: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, behaviour);
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn ask(semaphore: &str, limit: u32) -> Ask {
    let who = Who { label: "test".into(), host: "here".into(), pid: 1, user: "me".into() };
    Ask {
        name: name(semaphore),
        id: Uuid::new_v4(),
        limit,
        ttl: Duration::from_secs(30),
        strict: false,
        nonblock: false,
        who,
    }
}
