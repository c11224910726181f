//! The ledger with a clock and a way to wait: the reference backend. It lives and dies with its
//! process, so a holder that vanishes is noticed at the end of its TTL.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tokio::time::sleep;
use uuid::Uuid;

use super::finding::Found;
use super::leased::{self, Leased};
use super::ledger::{Change, Claim, Holding, Ledger, Renewal, Terms};
use super::renewal::{self, Renewed};
use super::{
    Acquired, Ask, Backend, Cancel, Error, Finding, GivenBack, Gone, Grade, Holder, Lease, Lost,
    Name, Notice, Pending, Permit, Phase, Record, Revocation, Snapshot, Standing, StoreError,
    Tenure, Turn, Waiter,
};
use crate::clock::{self, Moment};

#[derive(Clone, Default)]
pub(crate) struct Memory(Rc<RefCell<BTreeMap<Name, Semaphore>>>);

#[derive(Default)]
struct Semaphore {
    ledger: Ledger<Record>,
    waiting: HashMap<Uuid, oneshot::Sender<u64>>,
    /// Waiters check again when something is due.
    changed: Rc<Notify>,
    /// Where holders hear how their permit ends.
    held: HashMap<Uuid, watch::Sender<Option<Gone>>>,
    /// The detached permits that were given back.
    given_back: HashSet<Uuid>,
}

impl Memory {
    /// Changes one semaphore and tells the holders and waiters that it concerns.
    fn update(&self, name: &Name, change: impl FnOnce(&mut Ledger<Record>, Moment) -> Vec<Change>) {
        let mut semaphores = self.0.borrow_mut();
        let semaphore = semaphores.entry(name.clone()).or_default();
        let now = clock::now();
        let changes = change(&mut semaphore.ledger, now);
        if !changes.is_empty() {
            semaphore.changed.notify_waiters();
        }
        for change in changes {
            match change {
                Change::Granted { id, token } => {
                    if let Some(waiting) = semaphore.waiting.remove(&id) {
                        // A waiter that has gone leaves by its own drop.
                        let _ = waiting.send(token);
                        semaphore.ledger.renew(now, id);
                        semaphore.held.insert(id, watch::channel(None).0);
                    }
                }
                Change::Revoked(id) => semaphore.tell(id, Gone::NotYet),
                Change::Kept(id) | Change::Gone(id) => {
                    semaphore.tell(id, Gone::Now);
                    semaphore.held.remove(&id);
                }
                Change::Lapsed(_) => {}
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
        let grip = Grip { memory, name: permit.name.clone(), id: permit.id };
        Box::new(Leased::new(permit, Tenure { since, ttl, trouble: None }, grip))
    }

    /// The ledger's answer to a holder that renews.
    fn renew(&self, name: &Name, id: Uuid) -> Result<Duration, Lost> {
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
            Renewal::Revoked => Err(Lost::revoked()),
            Renewal::Lost => Err(Lost::some_time_ago()),
        }
    }

    async fn take_turn(&self, ask: &Ask, turn: &Turn) -> Result<Acquired, Error> {
        let (sender, mut granted) = oneshot::channel();
        let asked = Terms { limit: ask.limit, ttl: Some(ask.ttl) };
        self.update(&ask.name, Ledger::expire);
        let (stands, pinned) = {
            let ledger = &self.0.borrow()[&ask.name].ledger;
            (ledger.terms_or(asked), ledger.pinned().is_some())
        };
        let ttl = stands.ttl.expect("everybody here has one");
        if stands != asked && ask.strict {
            let differs = StoreError::differs(ask, stands.limit, pinned, ttl);
            return Err(differs.of(&self.url()));
        }
        if stands.limit != ask.limit {
            turn.tell(Notice::Limit { asked: ask.limit, stands: stands.limit, pinned });
        }
        if let Some(semaphore) = self.0.borrow_mut().get_mut(&ask.name) {
            semaphore.waiting.insert(ask.id, sender);
        }
        // Leaves the queue if this future is dropped, and becomes the lease once a permit is ours.
        let mut place = Place { memory: self.clone(), name: ask.name.clone(), id: Some(ask.id) };
        let (terms, min_hold, record) = (Some(asked), ask.min_hold, Record::new(ask));
        let claim = Claim { id: ask.id, terms, min_hold, record };
        self.update(&ask.name, |ledger, now| ledger.ask(now, claim, None));
        let token = loop {
            if let Ok(token) = granted.try_recv() {
                break token;
            }
            if ask.nonblock {
                return Ok(Acquired::Busy);
            }
            let snapshot = self.snapshot(&ask.name);
            turn.tell(Notice::Queued(Standing::of(&snapshot, ask.id).expect("we are queued")));
            let (expiry, changed) = {
                let semaphore = &self.0.borrow()[&ask.name];
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
                () = expiry => self.update(&ask.name, Ledger::expire),
            }
        };
        place.id = None;
        let permit = Permit { id: ask.id, name: ask.name.clone(), token: Some(token) };
        Ok(Acquired::Granted(self.lease(permit, clock::now(), ttl)))
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

fn is_detached(holding: &Holding<Record>) -> bool {
    holding.claim.record.who.detached
}

impl Semaphore {
    fn tell(&self, id: Uuid, gone: Gone) {
        if let Some(held) = self.held.get(&id) {
            held.send_replace(Some(gone));
        }
    }
}

impl Backend for Memory {
    fn acquire<'a>(
        &'a self,
        ask: &'a Ask,
        turn: &'a Turn,
        cancel: Cancel,
    ) -> Pending<'a, Result<Acquired, Error>> {
        Box::pin(async move {
            let acquired = cancel.or(self.take_turn(ask, turn)).await;
            acquired.unwrap_or(Ok(Acquired::Cancelled))
        })
    }

    fn observe<'a>(&'a self, name: &'a Name) -> Pending<'a, Result<Snapshot, Error>> {
        Box::pin(async move {
            if !self.0.borrow().contains_key(name) {
                return Ok(Snapshot::unused(name));
            }
            self.update(name, Ledger::expire);
            Ok(self.snapshot(name))
        })
    }

    fn observe_all(&self) -> Pending<'_, Result<Vec<Snapshot>, Error>> {
        Box::pin(async move {
            let known = |one: &Semaphore| one.ledger.in_use() || one.ledger.pinned().is_some();
            let mut names: Vec<_> = self.0.borrow().keys().cloned().collect();
            names.retain(|name| self.0.borrow().get(name).is_some_and(known));
            let mut snapshots = Vec::new();
            for name in &names {
                snapshots.push(self.observe(name).await?);
            }
            Ok(snapshots)
        })
    }

    fn withdraw<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
        _: Duration,
    ) -> Pending<'a, Result<(), Error>> {
        Box::pin(async move {
            self.release(name, id);
            Ok(())
        })
    }

    fn attach<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
    ) -> Pending<'a, Result<Option<Box<dyn Lease>>, Error>> {
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

    fn give_back<'a>(&'a self, name: &'a Name, id: Uuid) -> Pending<'a, Result<GivenBack, Error>> {
        Box::pin(async move {
            self.update(name, Ledger::expire);
            let held = {
                let ledger = &self.0.borrow()[name].ledger;
                let held = |one: &Holding<Record>| is_detached(one) && one.phase != Phase::MinHold;
                ledger.holding(id).is_some_and(held)
            };
            if held {
                self.release(name, id);
                return Ok(GivenBack::Now);
            }
            let before = self.0.borrow()[name].given_back.contains(&id);
            Ok(if before { GivenBack::Before } else { GivenBack::Unknown })
        })
    }

    fn revoke<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
        how: Revocation,
    ) -> Pending<'a, Result<bool, Error>> {
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
    ) -> Pending<'a, Result<(), Error>> {
        Box::pin(async move {
            self.update(name, |ledger, now| ledger.pin(now, limit));
            Ok(())
        })
    }

    fn examine(&self) -> Pending<'_, Result<Vec<Finding>, Error>> {
        let (grade, what) = (Grade::Ok, Found::Memory);
        Box::pin(async move { Ok(vec![Finding { topic: "memory", grade, what }]) })
    }

    fn reports(&self) -> bool {
        false
    }

    fn url(&self) -> String {
        "memory:".into()
    }
}

struct Place {
    memory: Memory,
    name: Name,
    /// None once there is nothing to leave.
    id: Option<Uuid>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.memory.update(&self.name, |ledger, now| {
                // The client never knew of a permit that came at this moment, so it is not kept.
                let mut changes = ledger.revoke(now, id, Revocation::Now);
                changes.extend(ledger.release(now, id));
                changes
            });
            if let Some(semaphore) = self.memory.0.borrow_mut().get_mut(&self.name) {
                semaphore.waiting.remove(&id);
            }
        }
    }
}

struct Grip {
    memory: Memory,
    name: Name,
    id: Uuid,
}

impl leased::Grip for Grip {
    fn keep(self: Rc<Self>, tenure: watch::Sender<Tenure>) -> Pending<'static, Lost> {
        let semaphores = self.memory.0.borrow();
        let told = semaphores[&self.name].held.get(&self.id).map(watch::Sender::subscribe);
        drop(semaphores);
        Box::pin(async move {
            let hurry = Notify::new();
            let attempt = || -> Pending<'_, Result<Renewed, StoreError>> {
                let renewed = self.memory.renew(&self.name, self.id);
                Box::pin(async { Ok(renewed.map_or_else(Renewed::Lost, Renewed::For)) })
            };
            let told = async {
                let Some(mut told) = told else { return std::future::pending().await };
                let gone = told.wait_for(Option::is_some).await.ok().and_then(|gone| *gone);
                match gone {
                    Some(Gone::NotYet) => Lost::revoked(),
                    _ => Lost::removed(Gone::Now),
                }
            };
            tokio::select! {
                lost = renewal::keep(self.id, tenure, &hurry, attempt) => lost,
                lost = told => lost,
            }
        })
    }

    fn watch_on(self: Rc<Self>) -> Pending<'static, Lost> {
        let semaphores = self.memory.0.borrow();
        let told = semaphores[&self.name].held.get(&self.id).map(watch::Sender::subscribe);
        drop(semaphores);
        Box::pin(async move {
            if let Some(mut told) = told {
                let _ = told.wait_for(|gone| *gone == Some(Gone::Now)).await;
            }
            Lost::removed(Gone::Now)
        })
    }

    fn give_back(self: Rc<Self>, _: Duration) -> Pending<'static, Result<(), StoreError>> {
        Box::pin(async move {
            self.memory.release(&self.name, self.id);
            Ok(())
        })
    }

    fn shown(&self) -> &'static str {
        "memory:"
    }
}
