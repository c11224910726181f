//! Interventions from outside: permits are given back and revoked, and limits are pinned.

use std::rc::Rc;

use uuid::Uuid;

use super::one::Client;
use super::{Refused, Semaphores};
use crate::backends::{GivenBack, Phase, Revocation};
use crate::clock;
use crate::foreign::{Among, quoted, shortened};
use crate::serve::bearer::{Actor, Bearer, Print, Role};
use crate::serve::bounds::Full;
use crate::serve::log::{Event, Subject};

/// How many characters of a revoked holder's label are logged.
const MOST_OF_A_LABEL: usize = 100;

impl Semaphores {
    /// One of ours has given back, or left, and asks no more.
    pub(crate) fn finish(&self, id: Uuid, asks: &Bearer) {
        self.finished.borrow_mut().add(clock::now(), id, whom_it_binds(asks));
    }

    /// Gives back the permit of this identity.
    pub(crate) fn signal(&self, name: &Rc<str>, id: Uuid, actor: Actor) -> Result<(), Refused> {
        let now = clock::now();
        let mut outcome = Err(Refused::Unknown);
        self.change_known(name, |semaphore| semaphore.ledger.expire(now));
        self.change_known(name, |semaphore| {
            let held = semaphore.held(id);
            outcome = held.map(drop).ok_or(Refused::NotHolder);
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
            semaphore.ledger.release(now, id)
        });
        outcome
    }

    /// Gives back a detached permit, and says what there was to give back.
    pub(crate) fn give_back(&self, name: &Rc<str>, id: Uuid, actor: Actor) -> GivenBack {
        let now = clock::now();
        let bearer = Rc::clone(&actor.bearer);
        let mut held = None;
        self.change_known(name, |semaphore| {
            let changes = semaphore.ledger.expire(now);
            held = semaphore.held(id);
            changes
        });
        match held {
            Some((Phase::MinHold, true)) => GivenBack::Before,
            Some((_, true)) => {
                let _ = self.signal(name, id, actor);
                GivenBack::Now
            }
            None if self.finished.borrow().was_given_back(id, &bearer) => GivenBack::Before,
            _ => GivenBack::Unknown,
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
                        Revocation::Gently => "revoked gently",
                        Revocation::Now => "revoked at once",
                    };
                    self.log_intervention(name, id, client, &actor, what);
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
                self.log.happened(Event::Intervention, subject, &action);
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
        client: &Client,
        actor: &Actor,
        what: &str,
    ) {
        if !actor.bearer.owns(&client.taker) {
            self.log_intervention(name, id, client, actor, what);
        }
    }

    fn log_intervention(&self, name: &str, id: Uuid, client: &Client, actor: &Actor, what: &str) {
        let whose = &*client.taker.label;
        let whose = if whose.is_empty() { "before the restart".into() } else { of_key(whose) };
        let action = format!("{what} what was taken {whose}");
        self.log.happened(Event::Intervention, Subject { name, id: Some(id), actor }, &action);
    }
}

fn of_key(label: &str) -> String {
    format!("with {}", quoted(&shortened(label, MOST_OF_A_LABEL), Among::Log))
}

/// The key whose requests under an identity are refused; if an admin ended it, any key's.
fn whom_it_binds(bearer: &Bearer) -> Option<Print> {
    bearer.print.filter(|_| bearer.role < Role::Admin)
}
