//! What follows from a change: which clients are told, what is recorded and logged, and what is due
//! later.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use super::semaphore::{
    ClientPhase, HeldRequest, RequestEnd, RequestKind, ServerClient, ServerSemaphore,
};
use super::{MOST_NAMES, SemaphoreError, Semaphores};
use crate::backends::cloud::protocol::EventKind;
use crate::backends::ledger::{Claim, LedgerEvent, LedgerHolder};
use crate::clock::{self, Alarm, Moment};
use crate::mutants::{self, Guard};
use crate::permits::Record;
use crate::permits::json::millis;
use crate::request::{Reply, Request};
use crate::serve::bearer::Actor;
use crate::serve::bounds::{Bounds, LimitReached};
use crate::serve::journal::RecordedGrant;
use crate::serve::log::{LogEvent, Subject};

/// How long until the next search for idle names.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

impl Semaphores {
    /// Does what is due, for ever.
    pub(crate) async fn keep_time(&self) -> std::io::Result<()> {
        let alarm = Alarm::new()?;
        loop {
            let now = clock::now();
            while let Some(name) = self.first_due(now) {
                self.change_known(&name, |semaphore| {
                    semaphore.due = None;
                    semaphore.what_is_due(now, &mut self.listeners.borrow_mut())
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
                rung = alarm.wait() => rung?,
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

    pub(super) fn next_registration(&self) -> u64 {
        self.registered.set(self.registered.get() + 1);
        self.registered.get()
    }

    pub(super) fn admit(
        &self,
        semaphore: &mut ServerSemaphore,
        id: Uuid,
        actor: Actor,
        ours: bool,
    ) {
        let number = self.next_registration();
        let holds = semaphore.ledger.holding(id).is_some();
        let phase = if holds { ClientPhase::Holding } else { ClientPhase::Registered };
        let (monitor, wait, listeners) = (HeldRequest::Expected, HeldRequest::Expected, Vec::new());
        let taker = Rc::clone(&actor.bearer);
        semaphore.clients.insert(
            id,
            ServerClient { number, taker, actor, ours, phase, monitor, wait, listeners },
        );
        self.clients.set(self.clients.get() + 1);
    }

    /// Changes a semaphore, which is created if need be.
    pub(super) fn change(
        &self,
        name: &Rc<str>,
        change: impl FnOnce(&mut ServerSemaphore) -> Vec<LedgerEvent>,
    ) {
        let mut all = self.all.borrow_mut();
        if !all.contains_key(name) {
            if all.len() >= self.enough_names.get() {
                self.forget_idle(&mut all);
                self.enough_names.set(MOST_NAMES.max(all.len() * 2));
            }
            all.insert(Rc::clone(name), ServerSemaphore::new(self.first_number(), self.not_before));
        }
        drop(all);
        self.change_known(name, change);
    }

    /// Whether one more name can be used.
    pub(super) fn has_room(&self, name: &Rc<str>) -> Result<(), SemaphoreError> {
        let mut all = self.all.borrow_mut();
        let most = self.bounds.names;
        if all.len() < most || all.contains_key(name) {
            return Ok(());
        }
        // Not for each request: there are many names.
        let now = clock::now();
        if self.no_room_until.get() <= now {
            self.forget_idle(&mut all);
            self.no_room_until.set(now + LOOK_AGAIN);
        }
        if all.len() < most { Ok(()) } else { Err(SemaphoreError::Full(LimitReached::Names(most))) }
    }

    /// Whether one more can register or wait there.
    pub(super) fn has_room_in(
        &self,
        semaphore: &ServerSemaphore,
        nonblock: bool,
    ) -> Result<(), SemaphoreError> {
        let Bounds { clients, waiters, .. } = self.bounds;
        let waiting = semaphore.clients.len().saturating_sub(semaphore.ledger.holders().len());
        if self.clients.get() >= clients {
            return Err(SemaphoreError::Full(LimitReached::Clients(clients)));
        }
        if waiting >= waiters && !nonblock {
            Err(SemaphoreError::Full(LimitReached::Waiters(waiters)))
        } else {
            Ok(())
        }
    }

    /// Adds the server's identity and seal.
    pub(super) fn signed(&self, name: &str, id: Uuid, reply: Reply) -> Reply {
        let waits = reply.ticket > 0;
        let seal = if waits { self.seals.of(name, id, reply.ticket) } else { String::new() };
        Reply { seal, server: Some(self.seals.server()), ..reply }
    }

    /// Whether a client asks under another key's identity without the seal of its place: every key
    /// that may see clients is told identities.
    pub(super) fn is_of_another_key(
        &self,
        name: &str,
        semaphore: &ServerSemaphore,
        request: &Request,
        actor: &Actor,
    ) -> bool {
        let Request { id, seal, .. } = request;
        let taker = semaphore.clients.get(id).map(|client| &client.actor.bearer);
        let of_another =
            taker.is_some_and(|taker| taker.print.is_some() && !actor.bearer.owns(taker));
        let holding = semaphore.ledger.holding(*id).map(|holding| holding.ticket);
        let ticket = semaphore.ledger.waiting(*id).map(|(ticket, _)| ticket).or(holding);
        let was_given = |ticket| self.seals.is_right(name, *id, ticket, seal);
        of_another && !ticket.is_some_and(was_given)
    }

    fn forget_idle(&self, all: &mut BTreeMap<Rc<str>, ServerSemaphore>) {
        let mut due = self.due.borrow_mut();
        all.retain(|name, semaphore| {
            let used = semaphore.is_in_use() || !semaphore.clients.is_empty();
            if !used {
                self.last.set(self.last.get().max(semaphore.ledger.last_number()));
                if let Some(moment) = semaphore.due {
                    due.remove(&(moment, Rc::clone(name)));
                }
            }
            used
        });
    }

    /// Changes a semaphore at which clients have registered, and tells those that it concerns.
    pub(super) fn change_known(
        &self,
        name: &Rc<str>,
        change: impl FnOnce(&mut ServerSemaphore) -> Vec<LedgerEvent>,
    ) {
        let mut all = self.all.borrow_mut();
        let Some(semaphore) = all.get_mut(name) else { return };
        let changes = change(semaphore);
        self.apply_events(name, semaphore, &changes);
        self.schedule(name, semaphore);
        drop(all);
        if self.journal.has_grown() {
            self.rewrite();
        }
    }

    fn apply_events(
        &self,
        name: &Rc<str>,
        semaphore: &mut ServerSemaphore,
        changes: &[LedgerEvent],
    ) {
        for change in changes {
            match *change {
                LedgerEvent::Granted { id, .. } => self.record_grant(name, semaphore, id),
                LedgerEvent::Lapsed(id) => {
                    self.journal.ended(name, id);
                    if let Some(client) = semaphore.clients.get_mut(&id) {
                        client.phase = ClientPhase::Waiting;
                        self.log_transition(name, id, client, "waiting");
                    }
                }
                LedgerEvent::Kept(id) => {
                    self.change_state(name, semaphore, id, "min_hold", EventKind::Released);
                }
                LedgerEvent::Revoked(id) => {
                    self.change_state(name, semaphore, id, "revoking", EventKind::Revoked);
                }
                LedgerEvent::Gone(id) => self.stage(name, semaphore, id),
            }
        }
    }

    fn record_grant(&self, name: &Rc<str>, semaphore: &mut ServerSemaphore, id: Uuid) {
        let Some(holding) = semaphore.ledger.holding(id) else { return };
        let asks = holding.is_confirmed();
        self.journal.granted(&on_record(name, holding, semaphore));
        let Some(client) = semaphore.clients.get_mut(&id) else { return };
        client.phase = ClientPhase::Holding;
        self.log_transition(name, id, client, "holding");
        if mutants::is_off(Guard::WakeUp) {
            return;
        }
        if !asks {
            self.listeners.borrow_mut().tell(client, id, EventKind::Ask);
        }
        if let HeldRequest::Open(_, sender) = std::mem::replace(&mut client.wait, HeldRequest::Over)
        {
            // If the client has gone, the end of its connection shows that.
            let _ = sender.send(RequestEnd::Granted);
        }
    }

    /// A permit is held in another way than before, and its listeners hear so.
    fn change_state(
        &self,
        name: &Rc<str>,
        semaphore: &mut ServerSemaphore,
        id: Uuid,
        action: &str,
        event: EventKind,
    ) {
        self.record(name, semaphore, id);
        let Some(client) = semaphore.clients.get(&id) else { return };
        self.log_transition(name, id, client, action);
        self.listeners.borrow_mut().tell(client, id, event);
    }

    /// Puts on record how a permit is held now.
    pub(super) fn record(&self, name: &Rc<str>, semaphore: &ServerSemaphore, id: Uuid) {
        if let Some(holding) = semaphore.ledger.holding(id) {
            self.journal.granted(&on_record(name, holding, semaphore));
        }
    }

    fn stage(&self, name: &Rc<str>, semaphore: &mut ServerSemaphore, id: Uuid) {
        let Some(client) = semaphore.clients.remove(&id) else { return };
        self.clients.set(self.clients.get() - 1);
        let held = client.phase == ClientPhase::Holding;
        if held {
            self.journal.ended(name, id);
        }
        if client.phase != ClientPhase::Registered {
            self.log_transition(name, id, &client, "releasing");
        }
        let mut listeners = self.listeners.borrow_mut();
        listeners.tell(&client, id, if held { EventKind::Released } else { EventKind::Ask });
        listeners.forget_all(&client, id, name);
        for (request, verdict) in [
            (client.wait, RequestEnd::Removed),
            (client.monitor, if held { RequestEnd::Released } else { RequestEnd::Removed }),
        ] {
            if let HeldRequest::Open(_, sender) = request {
                let _ = sender.send(verdict);
            }
        }
    }

    fn schedule(&self, name: &Rc<str>, semaphore: &mut ServerSemaphore) {
        let ServerSemaphore { unattached, clients, .. } = semaphore;
        while unattached.first().is_some_and(|(_, id)| !clients.contains_key(id)) {
            unattached.pop_first();
        }
        let unattached = semaphore.unattached.first().map(|(moment, _)| *moment);
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

    pub(super) fn rewrite(&self) {
        let all = self.all.borrow();
        let mut last = self.last.get();
        let (mut pins, mut grants) = (BTreeMap::new(), Vec::new());
        for (name, semaphore) in all.iter() {
            pins.extend(semaphore.ledger.pinned().map(|limit| (name.to_string(), limit)));
            last = last.max(semaphore.ledger.last_number());
            let holders = semaphore.ledger.holders();
            grants.extend(holders.map(|holding| on_record(name, holding, semaphore)));
        }
        grants.sort_unstable_by_key(|grant| grant.token);
        self.journal.rewrite(last, &pins, &grants);
    }

    pub(super) fn log_transition(&self, name: &str, id: Uuid, client: &ServerClient, action: &str) {
        let subject = Subject { name, id: Some(id), actor: &client.actor };
        self.log.log(LogEvent::SemTransition, subject, action);
    }

    pub(super) fn log_request(
        &self,
        name: &str,
        id: Uuid,
        client: &ServerClient,
        which: RequestKind,
        what: &str,
    ) {
        if self.log.logs(LogEvent::SemEvents) {
            let which = if which == RequestKind::Monitor { "monitor" } else { "wait" };
            let subject = Subject { name, id: Some(id), actor: &client.actor };
            self.log.log(LogEvent::SemEvents, subject, &format!("{which} {what}"));
        }
    }
}

fn on_record(
    name: &str,
    holding: &LedgerHolder<Option<Record>>,
    semaphore: &ServerSemaphore,
) -> RecordedGrant {
    let Claim { id, record, .. } = holding.claim.clone();
    let agreed = semaphore.ledger.agreed_terms();
    RecordedGrant {
        name: name.into(),
        id,
        token: holding.token,
        terms: holding.terms().zip(agreed).map(|(terms, agreed)| terms.as_agreed(agreed)),
        // Not earlier than it was.
        since_ms: millis(holding.since + Duration::from_micros(999)),
        phase: holding.phase,
        key: semaphore.clients.get(&id).and_then(|client| client.taker.print),
        record,
    }
}
