//! The ledger with a clock and a way to wait: the reference backend. It lives and dies with its
//! process, so a holder that vanishes is noticed at the end of its TTL.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::ledger::{Change, Claim, Ledger, Terms};
use super::{
    Acquired, Ask, Backend, Cancel, Error, ErrorKind, Holder, Lease, Lost, Name, Notice, Pending,
    Permit, Record, Snapshot, Standing, Tenure, Turn, Waiter,
};
use crate::clock::Moment;

#[derive(Clone)]
pub(crate) struct Memory(Rc<Shared>);

struct Shared {
    epoch: Instant,
    ttl: Option<Duration>,
    semaphores: RefCell<BTreeMap<Name, Semaphore>>,
}

#[derive(Default)]
struct Semaphore {
    ledger: Ledger<Record>,
    waiting: HashMap<Uuid, oneshot::Sender<u64>>,
}

impl Memory {
    pub(crate) fn new(ttl: Option<Duration>) -> Self {
        Self(Rc::new(Shared { epoch: Instant::now(), ttl, semaphores: RefCell::default() }))
    }

    fn now(&self) -> Moment {
        self.0.epoch.elapsed()
    }

    /// Changes one semaphore and tells everybody who was granted a permit by it.
    fn update(&self, name: &Name, change: impl FnOnce(&mut Ledger<Record>, Moment) -> Vec<Change>) {
        let mut semaphores = self.0.semaphores.borrow_mut();
        let semaphore = semaphores.entry(name.clone()).or_default();
        let now = self.now();
        for change in change(&mut semaphore.ledger, now) {
            if let Change::Granted { id, token } = change
                && let Some(waiting) = semaphore.waiting.remove(&id)
            {
                // One who has gone leaves by its own drop.
                let _ = waiting.send(token);
                semaphore.ledger.renew(now, id);
            }
        }
    }

    fn snapshot(&self, name: &Name) -> Snapshot {
        let semaphores = self.0.semaphores.borrow();
        let ledger = &semaphores[name].ledger;
        let holders = ledger.holders().map(|holding| Holder::Known {
            token: Some(holding.token),
            record: Some(holding.claim.record.clone()),
            left: None,
        });
        let waiters = ledger.waiters().map(|claim| Waiter::known(Some(claim.record.clone())));
        Snapshot {
            name: name.clone(),
            limit: ledger.terms().map(|terms| terms.limit),
            holders: holders.collect(),
            waiters: waiters.collect(),
            ..Snapshot::unused(name)
        }
    }

    async fn take_turn(&self, ask: &Ask, turn: &Turn) -> Result<Acquired, Error> {
        let (sender, mut granted) = oneshot::channel();
        // Leaves the queue if this future is dropped, and is the lease once a permit is ours.
        let mut place = Place { memory: self.clone(), name: ask.name.clone(), id: Some(ask.id) };
        let mut stands = ask.limit;
        self.update(&ask.name, |ledger, now| {
            let changes = ledger.expire(now);
            stands = ledger.terms().map_or(ask.limit, |terms| terms.limit);
            changes
        });
        if stands != ask.limit && ask.strict {
            place.id = None;
            return Err(Error {
                kind: ErrorKind::Differs,
                backend: self.url(),
                what: format!("a limit of {stands} stands"),
                source: None,
            });
        }
        if stands != ask.limit {
            turn.tell(Notice::Limit { asked: ask.limit, stands });
        }
        self.0
            .semaphores
            .borrow_mut()
            .entry(ask.name.clone())
            .or_default()
            .waiting
            .insert(ask.id, sender);
        let terms = Some(Terms { limit: ask.limit, ttl: self.0.ttl });
        let claim = Claim { id: ask.id, terms, record: Record::new(ask) };
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
            let expiry = self.0.semaphores.borrow()[&ask.name].ledger.next_expiry();
            let expiry = async {
                match expiry {
                    Some(moment) => sleep_until(self.0.epoch + moment).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                token = &mut granted => break token.expect("the sender is kept until the grant"),
                () = expiry => self.update(&ask.name, Ledger::expire),
            }
        };
        place.id = None;
        let permit = Permit { id: ask.id, name: ask.name.clone(), token: Some(token) };
        Ok(Acquired::Granted(Box::new(Held { memory: self.clone(), permit })))
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
            if !self.0.semaphores.borrow().contains_key(name) {
                return Ok(Snapshot::unused(name));
            }
            self.update(name, Ledger::expire);
            Ok(self.snapshot(name))
        })
    }

    fn list(&self) -> Pending<'_, Result<Vec<Name>, Error>> {
        Box::pin(async move {
            let semaphores = self.0.semaphores.borrow();
            let in_use = semaphores.iter().filter(|(_, one)| one.ledger.in_use());
            Ok(in_use.map(|(name, _)| name.clone()).collect())
        })
    }

    fn withdraw<'a>(
        &'a self,
        name: &'a Name,
        id: Uuid,
        _: Duration,
    ) -> Pending<'a, Result<(), Error>> {
        Box::pin(async move {
            self.update(name, |ledger, now| ledger.release(now, id));
            Ok(())
        })
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
            self.memory.update(&self.name, |ledger, now| ledger.release(now, id));
            if let Some(semaphore) = self.memory.0.semaphores.borrow_mut().get_mut(&self.name) {
                semaphore.waiting.remove(&id);
            }
        }
    }
}

struct Held {
    memory: Memory,
    permit: Permit,
}

impl Lease for Held {
    fn permit(&self) -> &Permit {
        &self.permit
    }

    fn tenure(&self) -> Option<watch::Receiver<Tenure>> {
        None
    }

    fn lost(&mut self) -> Pending<'_, Lost> {
        Box::pin(std::future::pending())
    }

    fn inherit(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn release(self: Box<Self>, _: Duration) -> Pending<'static, Result<(), Error>> {
        Box::pin(async move {
            let id = self.permit.id;
            self.memory.update(&self.permit.name, |ledger, now| ledger.release(now, id));
            Ok(())
        })
    }
}
