//! The ledger with a clock and a way to wait: the reference store. It lives and dies with its process,
//! so a holder that vanishes is noticed at the end of its TTL.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;
use uuid::Uuid;

use super::finding::FindingKind;
use super::ledger::{Ledger, LedgerEvent, LedgerHolder, Renewal};
use super::{
    BackendError, BoxFuture, Finding, Grade, Holder, HolderState, Name, QueueStatus, Record,
    Revocation, SemaphoreSnapshot, StoreError, Waiter,
};
use crate::clock::{self, Moment};
use crate::engine::{Store, Wakeup, Wakeups, ask_again};
use crate::request::{Operation, Outcome, Reply, Request};

/// How many waiters are woken when something is due earlier than before: the first may be gone.
const AWAKE: usize = 4;

#[derive(Clone, Default)]
pub(crate) struct MemoryStore(Arc<Mutex<Memory>>);

#[derive(Default)]
struct Memory {
    semaphores: BTreeMap<Name, MemorySemaphore>,
    listeners: HashMap<Uuid, Arc<Unheard>>,
}

/// What a client is told, and has not heard yet.
#[derive(Default)]
struct Unheard {
    wakeups: Mutex<Vec<(Uuid, Wakeup)>>,
    more: Notify,
}

impl Unheard {
    fn take(&self) -> Vec<(Uuid, Wakeup)> {
        mem::take(&mut self.wakeups.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, id: Uuid, wakeup: Wakeup) {
        self.wakeups.lock().unwrap_or_else(PoisonError::into_inner).push((id, wakeup));
        self.more.notify_one();
    }
}

#[derive(Default)]
struct MemorySemaphore {
    ledger: Ledger<Record>,
    /// The clients that listen, by the permit that they have or wait for.
    listeners: HashMap<Uuid, Arc<Unheard>>,
    /// The detached permits that were released.
    released: HashSet<Uuid>,
}

impl MemoryStore {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemorySemaphore {
    /// Changes the ledger, and tells the clients whom it concerns.
    fn update(&mut self, change: impl FnOnce(&mut Ledger<Record>, Moment) -> Vec<LedgerEvent>) {
        let due = self.ledger.next_expiry();
        for change in change(&mut self.ledger, clock::now()) {
            let (id, wakeup) = match change {
                LedgerEvent::Granted { id, .. } => (id, Wakeup::Ask),
                LedgerEvent::Revoked(id) => {
                    (id, Wakeup::Revoked { how: Revocation::Graceful, fresh: true })
                }
                LedgerEvent::Kept(id) | LedgerEvent::Gone(id) => {
                    (id, Wakeup::Revoked { how: Revocation::Forced, fresh: true })
                }
                LedgerEvent::Lapsed(id) => {
                    self.listeners.remove(&id);
                    continue;
                }
            };
            self.tell(id, wakeup);
        }
        if self.ledger.next_expiry() < due {
            // The next waiters are asleep for longer than that.
            let next: Vec<_> = self.ledger.waiters().take(AWAKE).map(|claim| claim.id).collect();
            for id in next {
                self.tell(id, Wakeup::Ask);
            }
        }
    }

    fn tell(&mut self, id: Uuid, wakeup: Wakeup) {
        if let Some(listener) = self.listeners.get(&id) {
            listener.put(id, wakeup);
        }
    }

    fn acquire(&mut self, name: &Name, request: &Request) -> Reply {
        let client = request.client.as_deref().expect("a client that asks says who it is").clone();
        let (id, mut outcome) = (request.id, Outcome::Lost);
        let record = Record::at(id, client, SystemTime::now());
        self.update(|ledger, now| {
            let (acquired, changes) = ledger.acquire(now, request, record, None);
            outcome = acquired;
            changes
        });
        let reply = self.ledger.reply(clock::now(), outcome, request);
        let snapshot = self.snapshot(name);
        let Some(status) = QueueStatus::of(&snapshot, id) else { return reply };
        let next = self.ledger.next_expiry().map(|moment| moment.saturating_sub(clock::now()));
        let (record, kept_until) = (status.holder, status.kept_until);
        let reply = Reply { next, record, kept_until, ..reply };
        Reply { next: Some(ask_again(&reply)), ..reply }
    }

    fn renew(&mut self, request: &Request) -> Reply {
        let (now, id) = (clock::now(), request.id);
        match self.ledger.renew(now, id) {
            Renewal::Held => {
                let holder = self.ledger.holding(id).expect("it was renewed");
                let record = Some(holder.claim.record.clone());
                Reply { record, ..self.ledger.reply(now, Outcome::Holding, request) }
            }
            Renewal::Revoked => Reply::of(Outcome::Revoked, now),
            Renewal::Lost => Reply::of(Outcome::Lost, now),
        }
    }

    fn release(&mut self, id: Uuid) -> Outcome {
        if self.ledger.holding(id).is_some_and(is_detached) {
            self.released.insert(id);
        }
        self.update(|ledger, now| ledger.release(now, id));
        self.listeners.remove(&id);
        Outcome::Lost
    }

    fn leave(&mut self, id: Uuid) -> Outcome {
        self.update(|ledger, now| ledger.withdraw(now, id));
        self.listeners.remove(&id);
        Outcome::Lost
    }

    fn release_detached(&mut self, id: Uuid) -> Outcome {
        let held =
            |one: &LedgerHolder<Record>| is_detached(one) && one.phase != HolderState::MinHold;
        if self.ledger.holding(id).is_some_and(held) {
            self.release(id);
            return Outcome::Released;
        }
        if self.released.contains(&id) { Outcome::Done } else { Outcome::Lost }
    }

    fn revoke(&mut self, id: Uuid, how: Revocation) -> Outcome {
        let held = self.ledger.holding(id).is_some();
        self.update(|ledger, now| ledger.revoke(now, id, how));
        if held { Outcome::Revoked } else { Outcome::Lost }
    }

    fn snapshot(&self, name: &Name) -> SemaphoreSnapshot {
        let (ledger, now) = (&self.ledger, clock::now());
        let holders = ledger.holders().map(|holding| Holder::Known {
            token: Some(holding.token),
            record: Some(holding.claim.record.clone()),
            phase: holding.phase,
            left: holding.expires().map(|moment| moment.saturating_sub(now)),
        });
        let waiters = ledger.waiters().map(|claim| Waiter::known(Some(claim.record.clone())));
        SemaphoreSnapshot {
            known: true,
            limit: ledger.limit(),
            pinned: ledger.pinned().is_some(),
            ttl: ledger.terms().map(|terms| terms.ttl),
            holders: holders.collect(),
            waiters: waiters.collect(),
            ..SemaphoreSnapshot::unused(name)
        }
    }
}

fn is_detached(holding: &LedgerHolder<Record>) -> bool {
    holding.claim.record.who.detached
}

impl Store for MemoryStore {
    fn execute<'a>(
        &'a self,
        name: &'a Name,
        request: &'a Request,
    ) -> BoxFuture<'a, Result<Reply, StoreError>> {
        Box::pin(async move {
            let mut memory = self.lock();
            let Memory { semaphores, listeners } = &mut *memory;
            let creates =
                matches!(request.operation, Operation::Acquire | Operation::Pin | Operation::Unpin);
            if !creates && !semaphores.contains_key(name) {
                return Ok(Reply::of(Outcome::Lost, clock::now()));
            }
            let semaphore = semaphores.entry(name.clone()).or_default();
            semaphore.update(Ledger::expire);
            let id = request.id;
            if !request.listener.is_nil() {
                let listener = listeners.entry(request.listener).or_default();
                semaphore.listeners.insert(id, Arc::clone(listener));
            }
            let outcome = match request.operation {
                Operation::Acquire => return Ok(semaphore.acquire(name, request)),
                Operation::Renew => return Ok(semaphore.renew(request)),
                Operation::Attach if semaphore.ledger.holding(id).is_some_and(is_detached) => {
                    return Ok(semaphore.renew(request));
                }
                Operation::Attach => Outcome::Lost,
                Operation::Release => semaphore.release(id),
                Operation::Leave => semaphore.leave(id),
                Operation::ReleaseDetached => semaphore.release_detached(id),
                Operation::Revoke(how) => semaphore.revoke(id, how),
                Operation::Pin | Operation::Unpin => {
                    let limit =
                        (request.operation == Operation::Pin).then_some(request.terms.limit);
                    semaphore.update(|ledger, now| ledger.pin(now, limit));
                    Outcome::Done
                }
            };
            Ok(Reply::of(outcome, clock::now()))
        })
    }

    fn has_reached(&self) -> bool {
        true
    }

    fn listen(&self, listener: Uuid, wakeups: Wakeups) -> BoxFuture<'static, StoreError> {
        let heard = self.lock().listeners.entry(listener).or_default().clone();
        Box::pin(async move {
            loop {
                for (id, wakeup) in heard.take() {
                    wakeups.send(id, wakeup);
                }
                heard.more.notified().await;
            }
        })
    }

    fn snapshot<'a>(
        &'a self,
        name: &'a Name,
    ) -> BoxFuture<'a, Result<SemaphoreSnapshot, StoreError>> {
        Box::pin(async move {
            let mut memory = self.lock();
            let Some(semaphore) = memory.semaphores.get_mut(name) else {
                return Ok(SemaphoreSnapshot::unused(name));
            };
            semaphore.update(Ledger::expire);
            Ok(semaphore.snapshot(name))
        })
    }

    fn snapshots(&self) -> BoxFuture<'_, Result<Vec<SemaphoreSnapshot>, BackendError>> {
        Box::pin(async move {
            let mut memory = self.lock();
            let looked = memory.semaphores.iter_mut().filter_map(|(name, semaphore)| {
                semaphore.update(Ledger::expire);
                let known = semaphore.ledger.in_use() || semaphore.ledger.pinned().is_some();
                known.then(|| semaphore.snapshot(name))
            });
            Ok(looked.collect())
        })
    }

    fn diagnose(&self) -> BoxFuture<'_, Result<Vec<Finding>, StoreError>> {
        let (grade, what) = (Grade::Ok, FindingKind::Memory);
        Box::pin(async move { Ok(vec![Finding { topic: "memory", grade, what }]) })
    }

    fn url(&self) -> &'static str {
        "memory:"
    }
}
