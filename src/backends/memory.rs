//! The ledger with a clock and a way to wait: the reference backend. It lives and dies with its
//! process, so a holder that vanishes is noticed at the end of its TTL.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tokio::time::sleep;
use uuid::Uuid;

use super::finding::FindingKind;
use super::lease::{self, RenewingLease};
use super::ledger::{Claim, Ledger, LedgerEvent, LedgerHolder, Renewal, Terms};
use super::renewal::{self, Renewed};
use super::{
    AcquireRequest, Acquisition, Backend, CancelToken, Error, Finding, Grade, Holder, HolderState,
    Lease, LocalFuture, Loss, LossStage, Name, Permit, Progress, ProgressSender, QueueStatus,
    Record, ReleaseOutcome, Revocation, Snapshot, StoreError, Validity, Waiter,
};
use crate::clock::{self, Moment};

#[derive(Clone, Default)]
pub(crate) struct Memory(Rc<RefCell<BTreeMap<Name, MemorySemaphore>>>);

#[derive(Default)]
struct MemorySemaphore {
    ledger: Ledger<Record>,
    waiting: HashMap<Uuid, oneshot::Sender<u64>>,
    /// Waiters check again when something is due.
    changed: Rc<Notify>,
    /// Where holders hear how their permit ends.
    held: HashMap<Uuid, watch::Sender<Option<LossStage>>>,
    /// The detached permits that were given back.
    given_back: HashSet<Uuid>,
}

impl Memory {
    /// Changes one semaphore and tells the holders and waiters that it concerns.
    fn update(
        &self,
        name: &Name,
        change: impl FnOnce(&mut Ledger<Record>, Moment) -> Vec<LedgerEvent>,
    ) {
        let mut semaphores = self.0.borrow_mut();
        let semaphore = semaphores.entry(name.clone()).or_default();
        let now = clock::now();
        let changes = change(&mut semaphore.ledger, now);
        if !changes.is_empty() {
            semaphore.changed.notify_waiters();
        }
        for change in changes {
            match change {
                LedgerEvent::Granted { id, token } => {
                    if let Some(waiting) = semaphore.waiting.remove(&id) {
                        // A waiter that has gone leaves by its own drop.
                        let _ = waiting.send(token);
                        semaphore.ledger.renew(now, id);
                        semaphore.held.insert(id, watch::channel(None).0);
                    }
                }
                LedgerEvent::Revoked(id) => semaphore.tell(id, LossStage::Revoking),
                LedgerEvent::Kept(id) | LedgerEvent::Gone(id) => {
                    semaphore.tell(id, LossStage::Now);
                    semaphore.held.remove(&id);
                }
                LedgerEvent::Lapsed(_) => {}
            }
        }
    }

    fn snapshot(&self, name: &Name) -> Snapshot {
        let semaphores = self.0.borrow();
        let ledger = &semaphores[name].ledger;
        let now = clock::now();
        let holders = ledger.holders().map(|holding| Holder::Known {
            token: Some(holding.token),
            record: Some(holding.claim.record.clone()),
            phase: holding.phase,
            left: holding.expires().map(|moment| moment.saturating_sub(now)),
        });
        let waiters = ledger.waiters().map(|claim| Waiter::known(Some(claim.record.clone())));
        Snapshot {
            known: true,
            limit: ledger.limit(),
            pinned: ledger.pinned().is_some(),
            ttl: ledger.terms().and_then(|terms| terms.ttl),
            holders: holders.collect(),
            waiters: waiters.collect(),
            ..Snapshot::unused(name)
        }
    }

    /// A lease of a permit that is held.
    fn lease(&self, permit: Permit, since: Moment, ttl: Duration) -> Box<dyn Lease> {
        let memory = self.clone();
        let lease = MemoryLease { memory, name: permit.name.clone(), id: permit.id };
        Box::new(RenewingLease::new(permit, Validity { since, ttl, error: None }, lease))
    }

    /// The ledger's answer to a holder that renews.
    fn renew(&self, name: &Name, id: Uuid) -> Result<Duration, Loss> {
        let mut renewal = Renewal::Lost;
        self.update(name, |ledger, now| {
            renewal = ledger.renew(now, id);
            Vec::new()
        });
        match renewal {
            Renewal::Held => {
                let terms = self.0.borrow()[name].ledger.terms();
                Ok(terms.and_then(|terms| terms.ttl).expect("everybody here has one"))
            }
            Renewal::Revoked => Err(Loss::revoked()),
            Renewal::Lost => Err(Loss::unknown_to_server()),
        }
    }

    async fn take_turn(
        &self,
        request: &AcquireRequest,
        progress: &ProgressSender,
    ) -> Result<Acquisition, Error> {
        let (sender, mut granted) = oneshot::channel();
        let asked = Terms { limit: request.limit, ttl: Some(request.ttl) };
        self.update(&request.name, Ledger::expire);
        let (stands, pinned) = {
            let ledger = &self.0.borrow()[&request.name].ledger;
            (ledger.terms_or(asked), ledger.pinned().is_some())
        };
        let ttl = stands.ttl.expect("everybody here has one");
        if stands != asked && request.strict {
            let differs = StoreError::differs(request, stands.limit, pinned, ttl);
            return Err(differs.of(&self.url()));
        }
        if stands.limit != request.limit {
            progress.tell(Progress::Limit { asked: request.limit, stands: stands.limit, pinned });
        }
        if let Some(semaphore) = self.0.borrow_mut().get_mut(&request.name) {
            semaphore.waiting.insert(request.id, sender);
        }
        // Leaves the queue if this future is dropped, and becomes the lease once a permit is ours.
        let mut place =
            QueueGuard { memory: self.clone(), name: request.name.clone(), id: Some(request.id) };
        let (terms, min_hold, record) = (Some(asked), request.min_hold, Record::new(request));
        let claim = Claim { id: request.id, terms, min_hold, record };
        self.update(&request.name, |ledger, now| ledger.request(now, claim, None));
        let token = loop {
            if let Ok(token) = granted.try_recv() {
                break token;
            }
            if request.nonblock {
                return Ok(Acquisition::Busy);
            }
            let snapshot = self.snapshot(&request.name);
            progress.tell(Progress::Queued(
                QueueStatus::of(&snapshot, request.id).expect("we are queued"),
            ));
            let (expiry, changed) = {
                let semaphore = &self.0.borrow()[&request.name];
                (semaphore.ledger.next_expiry(), Rc::clone(&semaphore.changed))
            };
            let expiry = async {
                match expiry {
                    Some(moment) => sleep(moment.saturating_sub(clock::now())).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                token = &mut granted => break token.expect("the sender is kept until the grant"),
                () = changed.notified() => {}
                () = expiry => self.update(&request.name, Ledger::expire),
            }
        };
        place.id = None;
        let permit = Permit { id: request.id, name: request.name.clone(), token: Some(token) };
        Ok(Acquisition::Granted(self.lease(permit, clock::now(), ttl)))
    }

    fn release(&self, name: &Name, id: Uuid) {
        self.update(name, Ledger::expire);
        if let Some(semaphore) = self.0.borrow_mut().get_mut(name)
            && semaphore.ledger.holding(id).is_some_and(is_detached)
        {
            semaphore.given_back.insert(id);
        }
        self.update(name, |ledger, now| ledger.release(now, id));
    }
}

fn is_detached(holding: &LedgerHolder<Record>) -> bool {
    holding.claim.record.who.detached
}

impl MemorySemaphore {
    fn tell(&self, id: Uuid, stage: LossStage) {
        if let Some(held) = self.held.get(&id) {
            held.send_replace(Some(stage));
        }
    }
}

impl Backend for Memory {
    fn acquire<'a>(
        &'a self,
        request: &'a AcquireRequest,
        progress: &'a ProgressSender,
        cancel: CancelToken,
    ) -> LocalFuture<'a, Result<Acquisition, Error>> {
        Box::pin(async move {
            let acquired = cancel.unless_cancelled(self.take_turn(request, progress)).await;
            acquired.unwrap_or(Ok(Acquisition::Cancelled))
        })
    }

    fn observe<'a>(&'a self, name: &'a Name) -> LocalFuture<'a, Result<Snapshot, Error>> {
        Box::pin(async move {
            if !self.0.borrow().contains_key(name) {
                return Ok(Snapshot::unused(name));
            }
            self.update(name, Ledger::expire);
            Ok(self.snapshot(name))
        })
    }

    fn observe_all(&self) -> LocalFuture<'_, Result<Vec<Snapshot>, Error>> {
        Box::pin(async move {
            let known =
                |one: &MemorySemaphore| one.ledger.in_use() || one.ledger.pinned().is_some();
            let mut names: Vec<_> = self.0.borrow().keys().cloned().collect();
            names.retain(|name| self.0.borrow().get(name).is_some_and(known));
            let mut snapshots = Vec::new();
            for name in &names {
                snapshots.push(self.observe(name).await?);
            }
            Ok(snapshots)
        })
    }

    fn cancel<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
        _: Duration,
    ) -> LocalFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.release(name, id);
            Ok(())
        })
    }

    fn attach<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
    ) -> LocalFuture<'a, Result<Option<Box<dyn Lease>>, Error>> {
        Box::pin(async move {
            self.update(name, Ledger::expire);
            let token = {
                let ledger = &self.0.borrow()[name].ledger;
                ledger.holding(id).filter(|one| is_detached(one)).map(|one| one.token)
            };
            let since = clock::now();
            let (Some(token), Ok(ttl)) = (token, self.renew(name, id)) else { return Ok(None) };
            let permit = Permit { id, name: name.clone(), token: Some(token) };
            Ok(Some(self.lease(permit, since, ttl)))
        })
    }

    fn release_detached<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
    ) -> LocalFuture<'a, Result<ReleaseOutcome, Error>> {
        Box::pin(async move {
            self.update(name, Ledger::expire);
            let held = {
                let ledger = &self.0.borrow()[name].ledger;
                let held = |one: &LedgerHolder<Record>| {
                    is_detached(one) && one.phase != HolderState::MinHold
                };
                ledger.holding(id).is_some_and(held)
            };
            if held {
                self.release(name, id);
                return Ok(ReleaseOutcome::Now);
            }
            let before = self.0.borrow()[name].given_back.contains(&id);
            Ok(if before { ReleaseOutcome::Before } else { ReleaseOutcome::Unknown })
        })
    }

    fn revoke<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
        how: Revocation,
    ) -> LocalFuture<'a, Result<bool, Error>> {
        Box::pin(async move {
            if !self.0.borrow().contains_key(name) {
                return Ok(false);
            }
            self.update(name, Ledger::expire);
            let held = self.0.borrow()[name].ledger.holding(id).is_some();
            self.update(name, |ledger, now| ledger.revoke(now, id, how));
            Ok(held)
        })
    }

    fn set_limit<'a>(
        &'a self,
        name: &'a Name,
        limit: Option<u32>,
    ) -> LocalFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.update(name, |ledger, now| ledger.pin(now, limit));
            Ok(())
        })
    }

    fn diagnose(&self) -> LocalFuture<'_, Result<Vec<Finding>, Error>> {
        let (grade, what) = (Grade::Ok, FindingKind::Memory);
        Box::pin(async move { Ok(vec![Finding { topic: "memory", grade, what }]) })
    }

    fn pushes_queue_status(&self) -> bool {
        false
    }

    fn url(&self) -> String {
        "memory:".into()
    }
}

struct QueueGuard {
    memory: Memory,
    name: Name,
    /// None once there is nothing to leave.
    id: Option<Uuid>,
}

impl Drop for QueueGuard {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.memory.update(&self.name, |ledger, now| {
                // The client never knew of a permit that came at this moment, so it is not kept.
                let mut changes = ledger.revoke(now, id, Revocation::Forced);
                changes.extend(ledger.release(now, id));
                changes
            });
            if let Some(semaphore) = self.memory.0.borrow_mut().get_mut(&self.name) {
                semaphore.waiting.remove(&id);
            }
        }
    }
}

struct MemoryLease {
    memory: Memory,
    name: Name,
    id: Uuid,
}

impl lease::LeaseOps for MemoryLease {
    fn renew_until_lost(
        self: Rc<Self>,
        validity: watch::Sender<Validity>,
    ) -> LocalFuture<'static, Loss> {
        let semaphores = self.memory.0.borrow();
        let told = semaphores[&self.name].held.get(&self.id).map(watch::Sender::subscribe);
        drop(semaphores);
        Box::pin(async move {
            let renew_now = Notify::new();
            let attempt = || -> LocalFuture<'_, Result<Renewed, StoreError>> {
                let renewed = self.memory.renew(&self.name, self.id);
                Box::pin(async { Ok(renewed.map_or_else(Renewed::Lost, Renewed::For)) })
            };
            let told = async {
                let Some(mut told) = told else { return std::future::pending().await };
                let stage = told.wait_for(Option::is_some).await.ok().and_then(|stage| *stage);
                match stage {
                    Some(LossStage::Revoking) => Loss::revoked(),
                    _ => Loss::forcibly_revoked(LossStage::Now),
                }
            };
            tokio::select! {
                lost = renewal::renew_loop(self.id, validity, &renew_now, attempt) => lost,
                lost = told => lost,
            }
        })
    }

    fn until_forcibly_revoked(self: Rc<Self>) -> LocalFuture<'static, Loss> {
        let semaphores = self.memory.0.borrow();
        let told = semaphores[&self.name].held.get(&self.id).map(watch::Sender::subscribe);
        drop(semaphores);
        Box::pin(async move {
            if let Some(mut told) = told {
                let _ = told.wait_for(|stage| *stage == Some(LossStage::Now)).await;
            }
            Loss::forcibly_revoked(LossStage::Now)
        })
    }

    fn release(self: Rc<Self>, _: Duration) -> LocalFuture<'static, Result<(), StoreError>> {
        Box::pin(async move {
            self.memory.release(&self.name, self.id);
            Ok(())
        })
    }

    fn shown(&self) -> &'static str {
        "memory:"
    }
}
