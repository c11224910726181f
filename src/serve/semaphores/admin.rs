//! Interventions from outside: permits are given back and revoked, and limits are pinned.

use std::rc::Rc;

use uuid::Uuid;

use super::semaphore::ServerClient;
use super::{SemaphoreError, Semaphores};
use crate::backends::cloud::protocol::EventKind;
use crate::backends::ledger::{Ledger, LedgerEvent};
use crate::clock::{self, Moment};
use crate::permits::{HolderState, Record, Revocation};
use crate::printable::{Context, quoted, truncated};
use crate::request::Outcome;
use crate::serve::bearer::{Actor, Bearer, KeyFingerprint, Role};
use crate::serve::bounds::LimitReached;
use crate::serve::log::{LogEvent, Subject};

/// How many characters of a revoked holder's label are logged.
const MOST_OF_A_LABEL: usize = 100;

impl Semaphores {
    /// One of ours has given back, or left, and asks no more.
    pub(crate) fn finish(&self, id: Uuid, asks: &Bearer) {
        self.finished.borrow_mut().add(clock::now(), id, whom_it_binds(asks));
    }

    /// Gives back the permit of this identity.
    pub(crate) fn signal(
        &self,
        name: &Rc<str>,
        id: Uuid,
        actor: Actor,
    ) -> Result<(), SemaphoreError> {
        self.give_back(name, id, actor, Ledger::release)
    }

    /// The same for a client that never used it, or that waits.
    pub(super) fn withdraw(
        &self,
        name: &Rc<str>,
        id: Uuid,
        actor: Actor,
    ) -> Result<(), SemaphoreError> {
        self.give_back(name, id, actor, Ledger::withdraw)
    }

    fn give_back(
        &self,
        name: &Rc<str>,
        id: Uuid,
        actor: Actor,
        ends: fn(&mut Ledger<Option<Record>>, Moment, Uuid) -> Vec<LedgerEvent>,
    ) -> Result<(), SemaphoreError> {
        let now = clock::now();
        let mut outcome = Err(SemaphoreError::Unknown);
        self.change_known(name, |semaphore| semaphore.ledger.expire(now));
        self.change_known(name, |semaphore| {
            let held = semaphore.held(id);
            outcome = held.map(drop).ok_or(SemaphoreError::NotHolder);
            if held.is_some_and(|(_, detached)| detached) {
                self.finished.borrow_mut().give_back(now, id, whom_it_binds(&actor.bearer));
            }
            if let Some(client) = semaphore.clients.get_mut(&id) {
                if held.is_some() {
                    self.log_if_anothers(name, id, client, &actor, "gave back");
                }
                // The log says who gave it back, which need not be who had it.
                client.actor = actor;
            }
            ends(&mut semaphore.ledger, now, id)
        });
        outcome
    }

    /// Releases a detached permit: now, before, or there is none.
    pub(super) fn release_detached(&self, name: &Rc<str>, id: Uuid, actor: Actor) -> Outcome {
        let now = clock::now();
        let bearer = Rc::clone(&actor.bearer);
        let mut held = None;
        self.change_known(name, |semaphore| {
            let changes = semaphore.ledger.expire(now);
            held = semaphore.held(id);
            changes
        });
        match held {
            Some((HolderState::MinHold, true)) => Outcome::Done,
            Some((_, true)) => {
                let _ = self.signal(name, id, actor);
                Outcome::Released
            }
            None if self.finished.borrow().was_given_back(id, &bearer) => Outcome::Done,
            _ => Outcome::Lost,
        }
    }

    /// Revokes a permit. False: it is not held.
    pub(crate) fn revoke(&self, name: &Rc<str>, id: Uuid, how: Revocation, actor: Actor) -> bool {
        let now = clock::now();
        let mut held = false;
        self.change_known(name, |semaphore| semaphore.ledger.expire(now));
        self.change_known(name, |semaphore| {
            held = semaphore.held(id).is_some();
            let changes = semaphore.ledger.revoke(now, id, how);
            if !changes.is_empty() {
                // If it does not know yet that it was granted the permit, it must not ask again.
                self.finish(id, &actor.bearer);
                if let Some(client) = semaphore.clients.get_mut(&id) {
                    let what = match how {
                        Revocation::Graceful => "revoked gently",
                        Revocation::Forced => "revoked at once",
                    };
                    self.log_intervention(name, id, client, &actor, what);
                    if how == Revocation::Forced {
                        self.listeners.borrow_mut().tell(client, id, EventKind::RevokedNow);
                    }
                    client.actor = actor;
                }
            }
            changes
        });
        held
    }

    /// Pins a limit, or leaves it to the semaphore's users again.
    pub(crate) fn pin(
        &self,
        name: &Rc<str>,
        limit: Option<u32>,
        actor: &Actor,
    ) -> Result<(), SemaphoreError> {
        let most = self.bounds.pins;
        let mut outcome = Ok(());
        let pin = |semaphore: &mut super::ServerSemaphore| {
            match (semaphore.ledger.pinned(), limit) {
                (None, Some(_)) if self.pins.get() >= most => {
                    outcome = Err(SemaphoreError::Full(LimitReached::Pins(most)));
                    return Vec::new();
                }
                (None, Some(_)) => self.pins.set(self.pins.get() + 1),
                (Some(_), None) => self.pins.set(self.pins.get() - 1),
                _ => {}
            }
            if semaphore.ledger.pinned() != limit {
                self.journal.pinned(name, limit);
                let subject = Subject { name, id: None, actor };
                let action =
                    limit.map_or("limit unpinned".into(), |limit| format!("limit {limit}"));
                self.log.log(LogEvent::Intervention, subject, &action);
            }
            semaphore.ledger.pin(clock::now(), limit)
        };
        if limit.is_some() {
            self.has_room(name)?;
            self.change(name, pin);
        } else {
            self.change_known(name, pin);
        }
        outcome
    }

    /// What a client does to what was taken with another key is logged whatever is switched off.
    pub(super) fn log_if_anothers(
        &self,
        name: &str,
        id: Uuid,
        client: &ServerClient,
        actor: &Actor,
        what: &str,
    ) {
        if !actor.bearer.owns(&client.taker) {
            self.log_intervention(name, id, client, actor, what);
        }
    }

    fn log_intervention(
        &self,
        name: &str,
        id: Uuid,
        client: &ServerClient,
        actor: &Actor,
        what: &str,
    ) {
        let whose = &*client.taker.label;
        let whose = if whose.is_empty() { "before the restart".into() } else { of_key(whose) };
        let action = format!("{what} what was taken {whose}");
        self.log.log(LogEvent::Intervention, Subject { name, id: Some(id), actor }, &action);
    }
}

fn of_key(label: &str) -> String {
    format!("with {}", quoted(&truncated(label, MOST_OF_A_LABEL), Context::Log))
}

/// The key whose requests under an identity are refused; if an admin ended it, any key's.
fn whom_it_binds(bearer: &Bearer) -> Option<KeyFingerprint> {
    bearer.print.filter(|_| bearer.role < Role::Admin)
}
