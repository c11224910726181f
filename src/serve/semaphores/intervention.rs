//! What is done to a permit or a semaphore from outside: permits are given back and taken away, and
//! limits are pinned.

use std::rc::Rc;

use uuid::Uuid;

use super::{Refused, Semaphores};
use crate::backends::{Eviction, GivenBack, Phase};
use crate::clock;
use crate::serve::bounds::Full;
use crate::serve::log::{Event, Subject};

impl Semaphores {
    /// One of ours has given back, or left, and asks no more.
    pub(crate) fn finish(&self, id: Uuid) {
        self.finished.borrow_mut().add(clock::now(), id);
    }

    /// Gives a permit back for whoever holds it with this identity.
    pub(crate) fn signal(&self, name: &Rc<str>, id: Uuid, actor: Rc<str>) -> Result<(), Refused> {
        let now = clock::now();
        let mut outcome = Err(Refused::Unknown);
        self.change_known(name, |semaphore| semaphore.ledger.expire(now));
        self.change_known(name, |semaphore| {
            let held = semaphore.held(id);
            outcome = held.map(drop).ok_or(Refused::NotHolder);
            if held.is_some_and(|(_, detached)| detached) {
                self.finished.borrow_mut().give_back(now, id);
            }
            if let Some(client) = semaphore.clients.get_mut(&id) {
                // The log says who gave it back, which need not be who had it.
                client.actor = actor;
            }
            semaphore.ledger.release(now, id)
        });
        outcome
    }

    /// Gives back a detached permit, and says what there was to give back.
    pub(crate) fn give_back(&self, name: &Rc<str>, id: Uuid, actor: Rc<str>) -> GivenBack {
        let now = clock::now();
        let mut held = None;
        self.change_known(name, |semaphore| {
            let changes = semaphore.ledger.expire(now);
            held = semaphore.held(id);
            changes
        });
        match held {
            Some((Phase::Kept, true)) => GivenBack::Before,
            Some((_, true)) => {
                let _ = self.signal(name, id, actor);
                GivenBack::Now
            }
            None if self.finished.borrow().was_given_back(id) => GivenBack::Before,
            _ => GivenBack::Unknown,
        }
    }

    /// Takes a permit from whoever has it. False: nobody does.
    pub(crate) fn evict(&self, name: &Rc<str>, id: Uuid, how: Eviction, actor: Rc<str>) -> bool {
        let now = clock::now();
        let mut held = false;
        self.change_known(name, |semaphore| semaphore.ledger.expire(now));
        self.change_known(name, |semaphore| {
            held = semaphore.held(id).is_some();
            let changes = semaphore.ledger.evict(now, id, how);
            if !changes.is_empty() {
                // If it does not know yet that it was granted the permit, it must not ask again.
                self.finish(id);
                if let Some(client) = semaphore.clients.get_mut(&id) {
                    client.actor = actor;
                }
            }
            changes
        });
        held
    }

    /// Pins a limit, or leaves it to those who use the semaphore again.
    pub(crate) fn pin(
        &self,
        name: &Rc<str>,
        limit: Option<u32>,
        actor: &str,
    ) -> Result<(), Refused> {
        let most = self.bounds.pins;
        let mut outcome = Ok(());
        let pin = |semaphore: &mut super::Semaphore| {
            match (semaphore.ledger.pinned(), limit) {
                (None, Some(_)) if self.pins.get() >= most => {
                    outcome = Err(Refused::Full(Full::Pins(most)));
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
                self.log.happened(Event::SemTransition, subject, &action);
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
}
