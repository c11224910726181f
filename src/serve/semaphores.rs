//! The semaphores of a server: the ledger of each, and the open requests of its clients. Two kinds
//! of clients meet here. Those of the original hold as long as their connection lives, and want to
//! be alone; ours hold by a lease.

mod admin;
mod effects;
mod listeners;
mod semaphore;
mod views;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

pub(crate) use self::listeners::EventStream;
use self::listeners::Listeners;
use self::semaphore::{ClientPhase, HeldRequest, ServerSemaphore, UNATTACHED, UNHEARD};
pub(crate) use self::semaphore::{RequestEnd, RequestKind};
use super::bearer::{Actor, Bearer};
use super::bounds::{Bounds, LimitReached};
use super::journal::{Journal, RecordedGrant, RestoredState};
use super::log::Log;
use super::seals::Seals;
use super::tombstones::Tombstones;
use crate::backends::ledger::{Claim, LedgerEvent, Renewal};
use crate::clock::{self, Moment};
use crate::mutants::{self, Guard};
use crate::permits::Record;
use crate::request::{Operation, Outcome, Reply, Request};

/// How long the permit of a client of the original is kept after a restart. Its connection is
/// gone, and it cannot come back; but its command may be running, and ends with a `signal`.
const AFTER_RESTART: Duration = Duration::from_secs(30);

/// For how long nothing is granted after a restart, so that former waiters come back before others
/// take their place: they retry every 0.8 s, and may be slow. A client that does not want to wait
/// waits for this, and gives up after two seconds.
pub(crate) const COMING_BACK: Duration = Duration::from_millis(1500);

/// How many idle names are remembered.
const MOST_NAMES: usize = 10_000;

/// How many semaphores are listed at once, and how many holders and waiters, unless all are of one
/// semaphore: no other client is served meanwhile, so it has to be done in a few milliseconds.
const MOST_LOOKS: usize = 500;
const MOST_PARTIES: usize = 1_000;

/// All semaphores of a server.
pub(crate) struct Semaphores {
    all: RefCell<BTreeMap<Rc<str>, ServerSemaphore>>,
    /// When which of them has something due.
    due: RefCell<BTreeSet<(Moment, Rc<str>)>>,
    sooner: Notify,
    /// No number that was ever given out is greater.
    last: Cell<u64>,
    bounds: Bounds,
    clients: Cell<usize>,
    pins: Cell<usize>,
    /// Until when it is known that all names are in use.
    no_room_until: Cell<Moment>,
    registered: Cell<u64>,
    /// How many names there may be before idle ones are forgotten.
    enough_names: Cell<usize>,
    finished: RefCell<Tombstones>,
    listeners: RefCell<Listeners>,
    not_before: Moment,
    seals: Seals,
    /// Whether connections end because the server does, which changes nothing on record.
    closing: Cell<bool>,
    pub(crate) journal: Journal,
    pub(crate) log: Log,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SemaphoreError {
    Unknown,
    /// Only a holder releases.
    NotHolder,
    Full(LimitReached),
}

/// A request that stays open; dropping this is what its connection's end does.
pub(crate) struct AttachedRequest {
    semaphores: Rc<Semaphores>,
    name: Rc<str>,
    id: Uuid,
    which: RequestKind,
    number: u64,
    verdict: oneshot::Receiver<RequestEnd>,
}

impl AttachedRequest {
    pub(crate) async fn verdict(&mut self) -> RequestEnd {
        (&mut self.verdict).await.unwrap_or(RequestEnd::Replaced)
    }
}

impl Drop for AttachedRequest {
    fn drop(&mut self) {
        self.semaphores.detach(&self.name, self.id, self.which, self.number);
    }
}

impl Semaphores {
    pub(crate) fn new(
        journal: Journal,
        found: RestoredState,
        bounds: Bounds,
        log: Log,
    ) -> Rc<Self> {
        let now = clock::now();
        let back = if found.restarted { COMING_BACK } else { Duration::ZERO };
        let pause = found.rebooted.unwrap_or_default().max(back);
        let pause = if mutants::is_off(Guard::QuietRestart) { Duration::ZERO } else { pause };
        let this = Self {
            all: RefCell::default(),
            due: RefCell::default(),
            sooner: Notify::new(),
            last: Cell::new(found.last),
            bounds,
            clients: Cell::new(0),
            pins: Cell::new(found.pins.len()),
            no_room_until: Cell::new(Moment::ZERO),
            registered: Cell::new(0),
            enough_names: Cell::new(MOST_NAMES),
            finished: RefCell::default(),
            listeners: RefCell::default(),
            closing: Cell::new(false),
            seals: found.seals.unwrap_or_else(Seals::for_this_process),
            not_before: if pause.is_zero() { Moment::ZERO } else { now + pause },
            journal,
            log,
        };
        for (name, limit) in found.pins {
            this.change(&name.into(), |semaphore| semaphore.ledger.pin(now, Some(limit)));
        }
        for grant in found.grants {
            this.restore(now, found.rebooted.is_some(), grant);
        }
        Rc::new(this)
    }

    /// A permit that is on record is held, with its whole lease from now on. After a reboot it is
    /// not known how long it was held.
    fn restore(&self, now: Moment, rebooted: bool, grant: RecordedGrant) {
        let RecordedGrant { name, id, token, terms, since_ms, phase, key, record } = grant;
        let since = if rebooted { now } else { Duration::from_millis(since_ms).min(now) };
        self.change(&name.into(), |semaphore| {
            let ttl = terms.map_or(AFTER_RESTART, |terms| terms.ttl);
            let ours = terms.is_some();
            let claim = Claim { id, terms, record };
            semaphore.ledger.restore(claim, token, since, phase, Some(now + ttl));
            let actor = Actor { bearer: Bearer::on_record(key), from: None };
            self.admit(semaphore, id, actor, ours);
            Vec::new()
        });
    }

    /// For how long nothing is granted.
    pub(crate) fn paused(&self) -> Option<Duration> {
        self.not_before.checked_sub(clock::now()).filter(|left| !left.is_zero())
    }

    /// A name, kept once however many use it.
    pub(crate) fn known(&self, name: String) -> Rc<str> {
        let all = self.all.borrow();
        match all.get_key_value(name.as_str()) {
            Some((known, _)) => Rc::clone(known),
            None => name.into(),
        }
    }

    /// A new client, which is known from now on and not in the queue yet.
    pub(crate) fn register(&self, name: &Rc<str>, actor: Actor) -> Result<Uuid, SemaphoreError> {
        let id = Uuid::new_v4();
        self.has_room(name)?;
        let mut outcome = Ok(id);
        self.change(name, |semaphore| {
            if let Err(refused) = self.has_room_in(semaphore, false) {
                outcome = Err(refused);
                return Vec::new();
            }
            self.admit(semaphore, id, actor, false);
            semaphore.unattached.insert((clock::now() + UNATTACHED, id));
            Vec::new()
        });
        outcome
    }

    /// One of the two requests of a client of the original. When both are there it joins the
    /// queue.
    pub(crate) fn attach(
        self: &Rc<Self>,
        name: &Rc<str>,
        id: Uuid,
        which: RequestKind,
        actor: &Actor,
    ) -> Result<AttachedRequest, SemaphoreError> {
        let number = self.next_registration();
        let (sender, verdict) = oneshot::channel();
        let mut outcome = Err(SemaphoreError::Unknown);
        self.change_known(name, |semaphore| {
            let ServerSemaphore { ledger, clients, .. } = semaphore;
            let Some(client) = clients.get_mut(&id) else { return Vec::new() };
            let (phase, attached) = (client.phase, client.is_attached());
            let request = client.request(which);
            let open = matches!(request, HeldRequest::Open(..));
            if open && attached && phase == ClientPhase::Waiting {
                // The original refuses too, and leaves in the queue a place that no client waits
                // for then.
                return ledger.release(clock::now(), id);
            }
            if open || (phase == ClientPhase::Holding && which == RequestKind::Monitor) {
                return Vec::new();
            }
            outcome = Ok(());
            if phase == ClientPhase::Holding {
                let _ = sender.send(RequestEnd::Granted);
                return Vec::new();
            }
            *request = HeldRequest::Open(number, sender);
            self.log_if_anothers(name, id, client, actor, "attached to");
            self.log_request(name, id, client, which, "opened");
            if client.is_attached() && phase == ClientPhase::Registered {
                client.phase = ClientPhase::Waiting;
                self.log_transition(name, id, client, "waiting");
                return ledger.request(clock::now(), Claim::exclusive(id, None), None);
            }
            Vec::new()
        });
        outcome?;
        let (semaphores, name) = (Rc::clone(self), Rc::clone(name));
        Ok(AttachedRequest { semaphores, name, id, which, number, verdict })
    }

    fn detach(&self, name: &Rc<str>, id: Uuid, which: RequestKind, number: u64) {
        if self.closing.get() {
            return;
        }
        self.change_known(name, |semaphore| {
            let ServerSemaphore { ledger, clients, .. } = semaphore;
            let Some(client) = clients.get_mut(&id) else { return Vec::new() };
            let request = client.request(which);
            if !matches!(request, HeldRequest::Open(whose, _) if *whose == number) {
                return Vec::new();
            }
            *request = HeldRequest::Over;
            self.log_request(name, id, client, which, "closed");
            match which {
                // The client lives as long as this connection.
                RequestKind::Monitor if client.phase == ClientPhase::Registered => {
                    vec![LedgerEvent::Gone(id)]
                }
                RequestKind::Monitor => ledger.release(clock::now(), id),
                RequestKind::Wait => Vec::new(),
            }
        });
    }

    /// The server ends: clients do not count as gone because their connections end with it.
    pub(crate) fn close(&self) {
        self.closing.set(true);
    }

    /// Carries out a request of one of our clients.
    pub(crate) fn execute(
        &self,
        name: &Rc<str>,
        request: &Request,
        actor: &Actor,
    ) -> Result<Reply, SemaphoreError> {
        let id = request.id;
        let outcome = match request.operation {
            Operation::Acquire => return self.acquire(name, request, actor),
            Operation::Renew | Operation::Attach => return Ok(self.renew(name, request, actor)),
            Operation::Release | Operation::Leave => {
                self.finish(id, &actor.bearer);
                self.change_known(name, |semaphore| {
                    if let Some(client) = semaphore.clients.get_mut(&id) {
                        let listener = (request.listener, actor.bearer.print);
                        self.listeners.borrow_mut().remove(listener, client, id, name);
                    }
                    Vec::new()
                });
                // What it does not have was released before.
                let _ = if request.operation == Operation::Leave {
                    self.withdraw(name, id, actor.clone())
                } else {
                    self.signal(name, id, actor.clone())
                };
                Outcome::Lost
            }
            Operation::ReleaseDetached => self.release_detached(name, id, actor.clone()),
            Operation::Revoke(how) => {
                let held = self.revoke(name, id, how, actor.clone());
                if held { Outcome::Revoked } else { Outcome::Lost }
            }
            Operation::Pin | Operation::Unpin => {
                let limit = (request.operation == Operation::Pin).then_some(request.terms.limit);
                self.pin(name, limit, actor)?;
                Outcome::Done
            }
        };
        Ok(Reply::of(outcome, clock::now()))
    }

    /// A client asks for a permit, or repeats that.
    fn acquire(
        &self,
        name: &Rc<str>,
        request: &Request,
        actor: &Actor,
    ) -> Result<Reply, SemaphoreError> {
        let (now, id) = (clock::now(), request.id);
        if self.finished.borrow().contains(id, &actor.bearer) {
            return Ok(self.signed(name, id, Reply::of(Outcome::Lost, now)));
        }
        self.has_room(name)?;
        let mut told = Err(SemaphoreError::Unknown);
        // Expire everything that is due before anything new begins.
        self.change(name, |semaphore| semaphore.ledger.expire(now));
        self.change(name, |semaphore| {
            if self.is_of_another_key(name, semaphore, request, actor) {
                told = Ok(Reply::of(Outcome::Lost, now));
                return Vec::new();
            }
            let known = semaphore.ledger.knows(id);
            if !known && let Err(refused) = self.has_room_in(semaphore, request.nonblock) {
                told = Err(refused);
                return Vec::new();
            }
            let client = request.client.as_deref().cloned();
            let record = client.map(|client| Record::at(id, client, SystemTime::now()));
            // A place without the right seal does not count, and the client queues at the end.
            let given = |ticket: &u64| self.seals.is_right(name, id, *ticket, &request.seal);
            let ticket = Some(request.ticket).filter(given);
            let (outcome, changes) = semaphore.ledger.acquire(now, request, record, ticket);
            told = Ok(semaphore.reply(now, outcome, request, &actor.bearer));
            if matches!(outcome, Outcome::Differs | Outcome::Busy) {
                return changes;
            }
            let held = outcome != Outcome::Waiting;
            if !semaphore.clients.contains_key(&id) {
                self.admit(semaphore, id, actor.clone(), true);
            }
            if held && known && request.terms.keep() {
                // From now on it holds in any case: it knows that it was granted.
                self.record(name, semaphore, id);
            }
            let ServerSemaphore { clients, unattached, .. } = semaphore;
            let Some(client) = clients.get_mut(&id) else { return changes };
            self.log_if_anothers(name, id, client, actor, "asked for");
            client.actor = actor.clone();
            client.ours = true;
            let mut listeners = self.listeners.borrow_mut();
            listeners.add((request.listener, actor.bearer.print), client, id, name);
            if !held {
                if !known {
                    client.phase = ClientPhase::Waiting;
                    self.log_transition(name, id, client, "waiting");
                }
                if !listeners.are_there(client) {
                    unattached.insert((now + UNHEARD, id));
                }
            }
            changes
        });
        Ok(self.signed(name, id, told?))
    }

    /// A client keeps its permit, or attaches to a detached one.
    fn renew(&self, name: &Rc<str>, request: &Request, actor: &Actor) -> Reply {
        let (now, id) = (clock::now(), request.id);
        let mut told = Reply::of(Outcome::Lost, now);
        self.change_known(name, |semaphore| {
            let attaches = request.operation == Operation::Attach;
            if attaches && !semaphore.held(id).is_some_and(|(_, detached)| detached) {
                return Vec::new();
            }
            let renewal = semaphore.ledger.renew(now, id);
            match renewal {
                Renewal::Held => {
                    told = semaphore.reply(now, Outcome::Holding, request, &actor.bearer);
                    if let Some(holding) = semaphore.ledger.holding(id).filter(|_| attaches) {
                        told.record.clone_from(&holding.claim.record);
                    }
                }
                Renewal::Revoked => told = Reply::of(Outcome::Revoked, now),
                Renewal::Lost => return Vec::new(),
            }
            if let Some(client) = semaphore.clients.get_mut(&id) {
                let listener = (request.listener, actor.bearer.print);
                self.listeners.borrow_mut().add(listener, client, id, name);
            }
            Vec::new()
        });
        self.signed(name, id, told)
    }
}

#[cfg(test)]
mod tests;
