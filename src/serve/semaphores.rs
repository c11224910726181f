//! The semaphores of a server: the ledger of each, and the requests that are open for those who
//! use it. Two kinds of clients meet here. Those of the original hold as long as their connection
//! lives, and want to be alone; ours hold by a lease.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

use super::finished::Finished;
use super::journal::{Found, Grant, Journal};
use super::log::{Event, Log, Subject};
use crate::backends::Record;
use crate::backends::cloud::wire::{Asking, Look, Outcome, Party, Told, millis};
use crate::backends::ledger::{Change, Claim, Holding, Ledger, Terms};
use crate::clock::{self, Alarm, Moment};

/// How long one who registers has to attach its requests.
const UNATTACHED: Duration = Duration::from_mins(1);

/// How long the permit of a client of the original is kept after a restart. Its connection is
/// gone, and it cannot come back; but its command may be running, and ends with a `signal`.
const AFTER_RESTART: Duration = Duration::from_secs(30);

/// For how long nothing is granted after a restart, so that those who were waiting come back
/// before others take their place.
pub(crate) const COMING_BACK: Duration = Duration::from_secs(1);

/// How many names that nobody uses are remembered, and how many clients are served.
const MOST_NAMES: usize = 10_000;
const MOST_CLIENTS: usize = 200_000;

/// All semaphores of a server.
pub(crate) struct Semaphores {
    all: RefCell<HashMap<Rc<str>, Semaphore>>,
    /// When which of them has something to do by itself.
    due: RefCell<BTreeSet<(Moment, Rc<str>)>>,
    sooner: Notify,
    /// No number that was ever given out is greater.
    last: Cell<u64>,
    clients: Cell<usize>,
    registered: Cell<u64>,
    /// How many names there may be before those that nobody uses are forgotten.
    enough_names: Cell<usize>,
    finished: RefCell<Finished>,
    not_before: Moment,
    /// Whether connections end because the server does, which changes nothing on record.
    closing: Cell<bool>,
    pub(crate) journal: Journal,
    pub(crate) log: Log,
}

struct Semaphore {
    ledger: Ledger<Option<Record>>,
    clients: HashMap<Uuid, Client>,
    /// Those that registered, in that order, and when it is looked whether they came back.
    unattached: VecDeque<(Moment, Uuid)>,
    due: Option<Moment>,
}

/// One that registered, waits or holds.
struct Client {
    number: u64,
    /// The label of the API key that it came with.
    actor: Rc<str>,
    ours: bool,
    phase: Phase,
    monitor: Request,
    wait: Request,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Registered,
    Waiting,
    Holding,
}

/// A request that stays open.
enum Request {
    /// Not yet.
    Expected,
    /// Who opened it, by a number, is told how it ends.
    Open(u64, oneshot::Sender<Verdict>),
    /// It was there.
    Over,
}

/// Which of them. Ours wait with the request that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Monitor,
    Wait,
}

/// How a request that stays open ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Granted,
    Released,
    Removed,
    /// The same client has opened another one instead.
    Replaced,
}

/// Why something cannot be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Unknown,
    /// Only a holder releases.
    NotHolder,
    TooMany,
}

/// A request that stays open; dropping this is what its connection's end does.
pub(crate) struct Attached {
    semaphores: Rc<Semaphores>,
    name: Rc<str>,
    id: Uuid,
    which: Which,
    number: u64,
    verdict: oneshot::Receiver<Verdict>,
}

impl Attached {
    pub(crate) async fn verdict(&mut self) -> Verdict {
        (&mut self.verdict).await.unwrap_or(Verdict::Replaced)
    }

    pub(crate) fn poll(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Verdict> {
        let verdict = std::pin::Pin::new(&mut self.verdict).poll(context);
        verdict.map(|verdict| verdict.unwrap_or(Verdict::Replaced))
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.semaphores.detach(&self.name, self.id, self.which, self.number);
    }
}

impl Semaphores {
    pub(crate) fn new(journal: Journal, found: Found, log: Log) -> Rc<Self> {
        let now = clock::now();
        let back = if found.restarted { COMING_BACK } else { Duration::ZERO };
        let pause = found.rebooted.unwrap_or_default().max(back);
        let this = Self {
            all: RefCell::default(),
            due: RefCell::default(),
            sooner: Notify::new(),
            last: Cell::new(found.last),
            clients: Cell::new(0),
            registered: Cell::new(0),
            enough_names: Cell::new(MOST_NAMES),
            finished: RefCell::default(),
            closing: Cell::new(false),
            not_before: if pause.is_zero() { Moment::ZERO } else { now + pause },
            journal,
            log,
        };
        for Grant { name, id, token, terms, record } in found.grants {
            let name: Rc<str> = name.into();
            this.change(&name, |semaphore| {
                let terms = terms
                    .map(|(limit, ttl)| Terms { limit, ttl: Some(Duration::from_millis(ttl)) });
                let ttl = terms.map_or(AFTER_RESTART, |terms| terms.ttl.unwrap_or_default());
                let ours = terms.is_some();
                let claim = Claim { id, terms, record };
                semaphore.ledger.restore(claim, token, Some(now + ttl));
                this.admit(semaphore, id, "".into(), ours);
                Vec::new()
            });
        }
        Rc::new(this)
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
    pub(crate) fn register(&self, name: &Rc<str>, actor: Rc<str>) -> Result<Uuid, Refused> {
        let id = Uuid::new_v4();
        if self.clients.get() >= MOST_CLIENTS {
            return Err(Refused::TooMany);
        }
        self.change(name, |semaphore| {
            self.admit(semaphore, id, actor, false);
            semaphore.unattached.push_back((clock::now() + UNATTACHED, id));
            Vec::new()
        });
        Ok(id)
    }

    /// One of the two requests of a client of the original. When both are there it joins the
    /// queue.
    pub(crate) fn attach(
        self: &Rc<Self>,
        name: &Rc<str>,
        id: Uuid,
        which: Which,
    ) -> Result<Attached, Refused> {
        let number = self.next_registration();
        let (sender, verdict) = oneshot::channel();
        let mut outcome = Err(Refused::Unknown);
        self.change_known(name, |semaphore| {
            let Semaphore { ledger, clients, .. } = semaphore;
            let Some(client) = clients.get_mut(&id) else { return Vec::new() };
            let (phase, attached) = (client.phase, client.is_attached());
            let request = client.request(which);
            let open = matches!(request, Request::Open(..));
            if open && attached && phase == Phase::Waiting {
                // The original refuses too, and leaves in the queue what nobody waits for then.
                return ledger.release(clock::now(), id);
            }
            if open || (phase == Phase::Holding && which == Which::Monitor) {
                return Vec::new();
            }
            outcome = Ok(());
            if phase == Phase::Holding {
                let _ = sender.send(Verdict::Granted);
                return Vec::new();
            }
            *request = Request::Open(number, sender);
            self.log_request(name, id, client, which, "opened");
            if client.is_attached() && phase == Phase::Registered {
                client.phase = Phase::Waiting;
                self.log_transition(name, id, client, "waiting");
                let claim = Claim { id, terms: None, record: None };
                return ledger.ask(clock::now(), claim, None);
            }
            Vec::new()
        });
        outcome?;
        let (semaphores, name) = (Rc::clone(self), Rc::clone(name));
        Ok(Attached { semaphores, name, id, which, number, verdict })
    }

    fn detach(&self, name: &Rc<str>, id: Uuid, which: Which, number: u64) {
        if self.closing.get() {
            return;
        }
        self.change_known(name, |semaphore| {
            let Semaphore { ledger, clients, .. } = semaphore;
            let Some(client) = clients.get_mut(&id) else { return Vec::new() };
            let request = client.request(which);
            if !matches!(request, Request::Open(whose, _) if *whose == number) {
                return Vec::new();
            }
            *request = Request::Over;
            self.log_request(name, id, client, which, "closed");
            let now = clock::now();
            match (client.ours, which) {
                // A client of the original lives as long as this connection.
                (false, Which::Monitor) if client.phase == Phase::Registered => {
                    vec![Change::Gone(id)]
                }
                (false, Which::Monitor) => ledger.release(now, id),
                (true, Which::Wait) => ledger.leave(now, id),
                (false, Which::Wait) | (true, Which::Monitor) => Vec::new(),
            }
        });
    }

    /// The server ends, and those whose connections end with it are not to be taken for gone.
    pub(crate) fn close(&self) {
        self.closing.set(true);
    }

    /// One of ours has given back, or left, and asks no more.
    pub(crate) fn finish(&self, id: Uuid) {
        self.finished.borrow_mut().add(clock::now(), id);
    }

    /// Takes a permit from whoever holds it with this identity.
    pub(crate) fn signal(&self, name: &Rc<str>, id: Uuid) -> Result<(), Refused> {
        let mut outcome = Err(Refused::Unknown);
        self.change_known(name, |semaphore| {
            let holds = semaphore.ledger.holding(id).is_some();
            outcome = if holds { Ok(()) } else { Err(Refused::NotHolder) };
            semaphore.ledger.release(clock::now(), id)
        });
        outcome
    }

    /// One of our clients asks for a permit, or again for what has become of that. Where it has
    /// to wait there is something to wait with.
    pub(crate) fn ask(
        self: &Rc<Self>,
        name: &Rc<str>,
        asking: Asking,
        actor: &Rc<str>,
    ) -> Result<(Told, Option<Attached>), Refused> {
        let now = clock::now();
        let asked = Terms { limit: asking.limit, ttl: Some(Duration::from_millis(asking.ttl_ms)) };
        let id = asking.id;
        let number = self.next_registration();
        let (sender, verdict) = oneshot::channel();
        if self.finished.borrow().contains(id) {
            return Ok((Told::lost(), None));
        }
        let mut told = Err(Refused::TooMany);
        let mut waits = false;
        // What is over has to be over for everybody before anything new begins.
        self.change(name, |semaphore| semaphore.ledger.expire(now));
        self.change(name, |semaphore| {
            let mut changes = Vec::new();
            let known =
                semaphore.ledger.holding(id).is_some() || semaphore.ledger.waiting(id).is_some();
            let stands = semaphore.ledger.terms().unwrap_or(asked);
            if !known && self.clients.get() >= MOST_CLIENTS {
                return changes;
            }
            if !known && asking.strict && stands != asked {
                told = Ok(semaphore.told(Outcome::Differs, id, now, stands));
                return changes;
            }
            let record = Some(Record::at(id, asking.who, SystemTime::now()));
            let claim = Claim { id, terms: Some(asked), record };
            let ticket = Some(asking.ticket).filter(|ticket| *ticket > 0);
            changes.extend(semaphore.ledger.ask(now, claim, ticket));
            let held = semaphore.ledger.holding(id).is_some();
            if !held && !known && asking.nonblock {
                changes.extend(semaphore.ledger.release(now, id));
                // Nobody has to hear of one that was never here.
                changes.retain(|change| *change != Change::Gone(id));
                told = Ok(semaphore.told(Outcome::Busy, id, now, stands));
                return changes;
            }
            if !semaphore.clients.contains_key(&id) {
                self.admit(semaphore, id, Rc::clone(actor), true);
            }
            let outcome = if held { Outcome::Held } else { Outcome::Queued };
            told = Ok(semaphore.told(outcome, id, now, asked));
            let Some(client) = semaphore.clients.get_mut(&id) else { return changes };
            client.actor = Rc::clone(actor);
            client.ours = true;
            if held {
                client.wait = Request::Over;
            } else {
                if !known {
                    client.phase = Phase::Waiting;
                    self.log_transition(name, id, client, "waiting");
                }
                waits = true;
                client.wait = Request::Open(number, sender);
            }
            changes
        });
        let told = told?;
        let attached = waits.then(|| {
            let (semaphores, name) = (Rc::clone(self), Rc::clone(name));
            Attached { semaphores, name, id, which: Which::Wait, number, verdict }
        });
        Ok((told, attached))
    }

    /// One of our clients keeps its permit.
    pub(crate) fn renew(&self, name: &Rc<str>, id: Uuid) -> Told {
        let now = clock::now();
        let mut told = Told::lost();
        self.change_known(name, |semaphore| {
            if semaphore.ledger.renew(now, id)
                && let Some(terms) = semaphore.ledger.terms()
            {
                told = semaphore.told(Outcome::Held, id, now, terms);
            }
            Vec::new()
        });
        told
    }

    /// One of our clients, which holds, wants to hear when it does not any more.
    pub(crate) fn watch(self: &Rc<Self>, name: &Rc<str>, id: Uuid) -> Result<Attached, Refused> {
        let number = self.next_registration();
        let (sender, verdict) = oneshot::channel();
        let mut outcome = Err(Refused::Unknown);
        self.change_known(name, |semaphore| {
            if semaphore.ledger.holding(id).is_some()
                && let Some(client) = semaphore.clients.get_mut(&id)
                && client.ours
            {
                client.monitor = Request::Open(number, sender);
                outcome = Ok(());
            }
            Vec::new()
        });
        outcome?;
        let (semaphores, name) = (Rc::clone(self), Rc::clone(name));
        Ok(Attached { semaphores, name, id, which: Which::Monitor, number, verdict })
    }

    /// The names of those that are in use, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        let all = self.all.borrow();
        let in_use = all.iter().filter(|(_, semaphore)| semaphore.ledger.in_use());
        let mut names: Vec<_> = in_use.map(|(name, _)| name.to_string()).collect();
        names.sort_unstable();
        names
    }

    /// How a semaphore stands, for our clients.
    pub(crate) fn look(&self, name: &Rc<str>) -> Look {
        let now = clock::now();
        let mut look = Look::default();
        self.change_known(name, |semaphore| {
            let changes = semaphore.ledger.expire(now);
            look = semaphore.look(now);
            changes
        });
        look
    }

    /// The same, for clients of the original; none if nobody ever registered there.
    pub(crate) fn observe(&self, name: &Rc<str>) -> Option<String> {
        let all = self.all.borrow();
        Some(all.get(name)?.observed(name))
    }

    /// Does what is due by itself, for ever.
    pub(crate) async fn keep_time(&self) -> std::io::Result<()> {
        let alarm = Alarm::new()?;
        loop {
            let now = clock::now();
            while let Some(name) = self.first_due(now) {
                self.change_known(&name, |semaphore| {
                    semaphore.due = None;
                    semaphore.what_is_due(now)
                });
            }
            if self.not_before <= now && self.journal.is_of_another_boot() {
                self.journal.is_of_this_boot();
                self.rewrite();
            }
            let pause = self.journal.is_of_another_boot().then_some(self.not_before);
            let next = self.due.borrow().first().map(|(moment, _)| *moment);
            alarm.set(next.into_iter().chain(pause).min())?;
            tokio::select! {
                rung = alarm.ring() => rung?,
                () = self.sooner.notified() => {}
            }
        }
    }

    /// Takes the first one that is due off the list.
    fn first_due(&self, now: Moment) -> Option<Rc<str>> {
        let mut due = self.due.borrow_mut();
        due.first().filter(|(moment, _)| *moment <= now)?;
        due.pop_first().map(|(_, name)| name)
    }

    fn next_registration(&self) -> u64 {
        self.registered.set(self.registered.get() + 1);
        self.registered.get()
    }

    fn admit(&self, semaphore: &mut Semaphore, id: Uuid, actor: Rc<str>, ours: bool) {
        let number = self.next_registration();
        let holds = semaphore.ledger.holding(id).is_some();
        let phase = if holds { Phase::Holding } else { Phase::Registered };
        let (monitor, wait) = (Request::Expected, Request::Expected);
        semaphore.clients.insert(id, Client { number, actor, ours, phase, monitor, wait });
        self.clients.set(self.clients.get() + 1);
    }

    /// Changes a semaphore, which springs into being if need be.
    fn change(&self, name: &Rc<str>, change: impl FnOnce(&mut Semaphore) -> Vec<Change>) {
        let mut all = self.all.borrow_mut();
        if !all.contains_key(name) {
            if all.len() >= self.enough_names.get() {
                self.forget_idle(&mut all);
                self.enough_names.set(MOST_NAMES.max(all.len() * 2));
            }
            all.insert(Rc::clone(name), Semaphore::new(self.first_number(), self.not_before));
        }
        drop(all);
        self.change_known(name, change);
    }

    fn forget_idle(&self, all: &mut HashMap<Rc<str>, Semaphore>) {
        let mut due = self.due.borrow_mut();
        all.retain(|name, semaphore| {
            let used = semaphore.ledger.in_use() || !semaphore.clients.is_empty();
            if !used {
                self.last.set(self.last.get().max(semaphore.ledger.last_number()));
                if let Some(moment) = semaphore.due {
                    due.remove(&(moment, Rc::clone(name)));
                }
            }
            used
        });
    }

    /// Changes a semaphore that somebody has registered at, and lets everybody know whom it
    /// concerns.
    fn change_known(&self, name: &Rc<str>, change: impl FnOnce(&mut Semaphore) -> Vec<Change>) {
        let mut all = self.all.borrow_mut();
        let Some(semaphore) = all.get_mut(name) else { return };
        let changes = change(semaphore);
        self.settle(name, semaphore, &changes);
        self.schedule(name, semaphore);
        drop(all);
        if self.journal.has_grown() {
            self.rewrite();
        }
    }

    fn settle(&self, name: &Rc<str>, semaphore: &mut Semaphore, changes: &[Change]) {
        for change in changes {
            match *change {
                Change::Granted { id, .. } => self.granted(name, semaphore, id),
                Change::Lapsed(id) => {
                    self.journal.ended(name, id);
                    if let Some(client) = semaphore.clients.get_mut(&id) {
                        client.phase = Phase::Waiting;
                        self.log_transition(name, id, client, "waiting");
                    }
                }
                Change::Gone(id) => self.gone(name, semaphore, id),
            }
        }
    }

    fn granted(&self, name: &Rc<str>, semaphore: &mut Semaphore, id: Uuid) {
        let Semaphore { ledger, clients, .. } = semaphore;
        let Some(holding) = ledger.holding(id) else { return };
        self.journal.granted(&on_record(name, holding, ledger.terms()));
        let Some(client) = clients.get_mut(&id) else { return };
        client.phase = Phase::Holding;
        self.log_transition(name, id, client, "holding");
        if let Request::Open(_, sender) = std::mem::replace(&mut client.wait, Request::Over) {
            // One who has gone is noticed by the end of its connection.
            let _ = sender.send(Verdict::Granted);
        }
    }

    fn gone(&self, name: &Rc<str>, semaphore: &mut Semaphore, id: Uuid) {
        let Some(client) = semaphore.clients.remove(&id) else { return };
        self.clients.set(self.clients.get() - 1);
        let held = client.phase == Phase::Holding;
        if held {
            self.journal.ended(name, id);
        }
        if client.phase != Phase::Registered {
            self.log_transition(name, id, &client, "releasing");
        }
        for (request, verdict) in [
            (client.wait, Verdict::Removed),
            (client.monitor, if held { Verdict::Released } else { Verdict::Removed }),
        ] {
            if let Request::Open(_, sender) = request {
                let _ = sender.send(verdict);
            }
        }
    }

    fn schedule(&self, name: &Rc<str>, semaphore: &mut Semaphore) {
        let Semaphore { unattached, clients, .. } = semaphore;
        while unattached.front().is_some_and(|(_, id)| !clients.contains_key(id)) {
            unattached.pop_front();
        }
        let unattached = semaphore.unattached.front().map(|(moment, _)| *moment);
        let next = semaphore.ledger.next_expiry().into_iter().chain(unattached).min();
        if next == semaphore.due {
            return;
        }
        let mut due = self.due.borrow_mut();
        if let Some(moment) = semaphore.due {
            due.remove(&(moment, Rc::clone(name)));
        }
        semaphore.due = next;
        if let Some(moment) = next {
            due.insert((moment, Rc::clone(name)));
            if due.first().is_some_and(|(first, _)| *first == moment) {
                self.sooner.notify_one();
            }
        }
    }

    /// Numbers start at the time of day, so that they grow even if everything was forgotten.
    fn first_number(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last.get().max(u64::try_from(now.as_micros()).unwrap_or(0))
    }

    fn rewrite(&self) {
        let all = self.all.borrow();
        let mut last = self.last.get();
        let mut grants = Vec::new();
        for (name, semaphore) in all.iter() {
            let terms = semaphore.ledger.terms();
            last = last.max(semaphore.ledger.last_number());
            grants
                .extend(semaphore.ledger.holders().map(|holding| on_record(name, holding, terms)));
        }
        grants.sort_unstable_by_key(|grant| grant.token);
        self.journal.rewrite(last, &grants);
    }

    fn log_transition(&self, name: &str, id: Uuid, client: &Client, action: &str) {
        let subject = Subject { name, id, actor: &client.actor };
        self.log.happened(Event::SemTransition, subject, action);
    }

    fn log_request(&self, name: &str, id: Uuid, client: &Client, which: Which, what: &str) {
        if self.log.logs(Event::SemEvents) {
            let which = if which == Which::Monitor { "monitor" } else { "wait" };
            let subject = Subject { name, id, actor: &client.actor };
            self.log.happened(Event::SemEvents, subject, &format!("{which} {what}"));
        }
    }
}

fn on_record(name: &str, holding: &Holding<Option<Record>>, terms: Option<Terms>) -> Grant {
    let Claim { id, terms: brought, record } = holding.claim.clone();
    let terms = brought.and(terms);
    Grant {
        name: name.into(),
        id,
        token: holding.token,
        terms: terms.map(|terms| (terms.limit, millis(terms.ttl.unwrap_or_default()))),
        record,
    }
}

impl Semaphore {
    fn new(last: u64, not_before: Moment) -> Self {
        Self {
            ledger: Ledger::after(last, not_before),
            clients: HashMap::new(),
            unattached: VecDeque::new(),
            due: None,
        }
    }

    fn what_is_due(&mut self, now: Moment) -> Vec<Change> {
        let mut changes = self.ledger.expire(now);
        while let Some((moment, id)) = self.unattached.front().copied()
            && moment <= now
        {
            self.unattached.pop_front();
            let Some(client) = self.clients.get(&id) else { continue };
            let open = |request: &Request| matches!(request, Request::Open(..));
            if client.phase != Phase::Registered {
                continue;
            }
            if open(&client.monitor) || open(&client.wait) {
                self.unattached.push_back((now + UNATTACHED, id));
            } else {
                changes.push(Change::Gone(id));
            }
        }
        changes
    }

    fn told(&self, outcome: Outcome, id: Uuid, now: Moment, otherwise: Terms) -> Told {
        let terms = self.ledger.terms().unwrap_or(otherwise);
        let (ticket, ahead) = self.ledger.waiting(id).unwrap_or_default();
        let oldest = self.ledger.holders().next();
        Told {
            outcome,
            limit: terms.limit,
            ttl_ms: millis(terms.ttl.unwrap_or_default()),
            token: self.ledger.holding(id).map_or(0, |holding| holding.token),
            ticket,
            ahead,
            held: self.ledger.holders().len(),
            holder: oldest.and_then(|holding| holding.claim.record.clone()),
            paused_ms: self.ledger.paused(now).map(millis),
        }
    }

    fn look(&self, now: Moment) -> Look {
        let terms = self.ledger.terms();
        let holder = |holding: &Holding<Option<Record>>| Party {
            id: holding.claim.id,
            token: holding.token,
            left_ms: holding.expires.map(|moment| millis(moment.saturating_sub(now))),
            record: holding.claim.record.clone(),
        };
        let waiter = |claim: &Claim<Option<Record>>| Party {
            id: claim.id,
            token: 0,
            left_ms: None,
            record: claim.record.clone(),
        };
        Look {
            limit: terms.map(|terms| terms.limit),
            ttl_ms: terms.and_then(|terms| terms.ttl).map(millis),
            paused_ms: self.ledger.paused(now).filter(|_| self.ledger.in_use()).map(millis),
            holders: self.ledger.holders().map(holder).collect(),
            waiters: self.ledger.waiters().map(waiter).collect(),
        }
    }

    fn observed(&self, name: &str) -> String {
        use serde::Serialize;

        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Node {
            id: Uuid,
            monitor: bool,
            waiter: bool,
            error: Option<String>,
            ref_count: usize,
        }
        #[derive(Serialize)]
        struct Observed<'a> {
            #[serde(serialize_with = "in_order")]
            nodes: Vec<Node>,
            waiting: Vec<Uuid>,
            running: Option<Uuid>,
            name: &'a str,
        }
        fn in_order<S: serde::Serializer>(nodes: &[Node], to: S) -> Result<S::Ok, S::Error> {
            to.collect_map(nodes.iter().map(|node| (node.id, node)))
        }

        let mut clients: Vec<_> = self.clients.iter().collect();
        clients.sort_unstable_by_key(|(_, client)| client.number);
        let node = |(id, client): (&Uuid, &Client)| {
            let arrived = |request: &Request| !matches!(request, Request::Expected);
            let open = |request: &&&Request| matches!(request, Request::Open(..));
            Node {
                id: *id,
                monitor: client.ours || arrived(&client.monitor),
                waiter: client.ours || arrived(&client.wait),
                error: None,
                ref_count: [&client.monitor, &client.wait].iter().filter(open).count(),
            }
        };
        let observed = Observed {
            nodes: clients.into_iter().map(node).collect(),
            waiting: self.ledger.waiters().map(|claim| claim.id).collect(),
            running: self.ledger.holders().next().map(|holding| holding.claim.id),
            name,
        };
        let mut text = Vec::new();
        let indented = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        let mut to = serde_json::Serializer::with_formatter(&mut text, indented);
        observed.serialize(&mut to).expect("plain data");
        String::from_utf8(text).expect("JSON is UTF-8")
    }
}

impl Client {
    fn request(&mut self, which: Which) -> &mut Request {
        match which {
            Which::Monitor => &mut self.monitor,
            Which::Wait => &mut self.wait,
        }
    }

    /// Whether both of its requests have come, and it is still there.
    fn is_attached(&self) -> bool {
        matches!(self.monitor, Request::Open(..)) && !matches!(self.wait, Request::Expected)
    }
}

#[cfg(test)]
mod tests {
    use super::super::log::Format;
    use super::*;
    use crate::backends::Who;

    fn semaphores(journal: Journal, found: Found) -> Rc<Semaphores> {
        Semaphores::new(journal, found, Log::new(&[], Format::Text))
    }

    fn asking(id: Uuid, ttl_ms: u64) -> Asking {
        let who = Who { label: "l".into(), host: "h".into(), pid: 1, user: "u".into() };
        Asking { id, limit: 1, ttl_ms, ticket: 0, nonblock: false, strict: false, who }
    }

    #[test]
    fn names_that_nobody_uses_are_forgotten_with_all_that_was_due() {
        let semaphores = semaphores(Journal::none(), Found::default());
        let register = |name: &str| semaphores.register(&name.into(), "actor".into()).unwrap();
        let client = register("victim");
        let mut both = [Which::Monitor, Which::Wait]
            .map(|which| semaphores.attach(&"victim".into(), client, which).ok().unwrap());
        semaphores.signal(&"victim".into(), client).unwrap();
        for request in &mut both {
            let _ = request.verdict.try_recv();
        }
        for number in 0..=MOST_NAMES {
            let name: Rc<str> = number.to_string().into();
            let (_, waits) =
                semaphores.ask(&name, asking(Uuid::new_v4(), 60_000), &"".into()).ok().unwrap();
            assert!(waits.is_none());
        }
        assert!(!semaphores.all.borrow().contains_key("victim"), "nobody used it");
        assert_eq!(semaphores.all.borrow().len(), MOST_NAMES + 1, "all others are held");
        // Otherwise the server would look after it for ever.
        assert!(semaphores.due.borrow().iter().all(|(_, name)| &**name != "victim"));
    }

    #[test]
    fn one_who_asks_again_after_its_lease_has_ended_is_on_record_again() {
        let directory = tempfile::TempDir::new().unwrap();
        let (journal, found) = Journal::open(directory.path()).unwrap();
        let semaphores = semaphores(journal, found);
        let (name, id): (Rc<str>, _) = ("x".into(), Uuid::new_v4());
        for ttl in [1, 60_000] {
            let (told, _) = semaphores.ask(&name, asking(id, ttl), &"".into()).ok().unwrap();
            assert_eq!(told.outcome, Outcome::Held);
            std::thread::sleep(Duration::from_millis(3));
        }
        assert!(semaphores.observe(&name).unwrap().contains(&format!("\"{id}\": {{")));
        drop(semaphores);
        let (_, found) = Journal::open(directory.path()).unwrap();
        assert_eq!(found.grants.iter().map(|grant| grant.id).collect::<Vec<_>>(), [id]);
    }

    #[test]
    fn a_request_that_comes_after_its_client_has_given_back_takes_nothing() {
        let semaphores = semaphores(Journal::none(), Found::default());
        let (name, id): (Rc<str>, _) = ("x".into(), Uuid::new_v4());
        semaphores.finish(id);
        let (told, _) = semaphores.ask(&name, asking(id, 60_000), &"".into()).ok().unwrap();
        assert_eq!(told.outcome, Outcome::Lost);
        assert!(semaphores.look(&name).holders.is_empty());
    }
}
