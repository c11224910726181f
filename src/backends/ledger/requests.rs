//! What the ledger makes of a client's request, and what it has to say in the answer.

use uuid::Uuid;

use super::{Claim, HolderState, Ledger, LedgerEvent, LedgerHolder};
use crate::clock::Moment;
use crate::permits::Terms;
use crate::request::{Outcome, Reply, Request};

impl<R> Claim<R> {
    pub(crate) fn new(id: Uuid, terms: Terms, record: R) -> Self {
        Self { id, terms: Some(terms), record }
    }

    /// Of an exclusive permit without a lease.
    pub(crate) fn exclusive(id: Uuid, record: R) -> Self {
        Self { id, terms: None, record }
    }
}

impl<R> Ledger<R> {
    /// Whether a client holds or waits.
    pub(crate) fn knows(&self, id: Uuid) -> bool {
        self.places.contains_key(&id)
    }

    /// Asks for a permit, or repeats that. Leaves no trace if the client does not want to wait, or
    /// other terms than those in force. A `ticket` brings back a place in the queue.
    pub(crate) fn acquire(
        &mut self,
        now: Moment,
        request: &Request,
        record: R,
        ticket: Option<u64>,
    ) -> (Outcome, Vec<LedgerEvent>) {
        let mut changes = self.expire(now);
        let (id, asked) = (request.id, request.terms);
        let known = self.knows(id);
        if !known && asked.strict && !self.terms_or(asked).agree(&asked) {
            return (Outcome::Differs, changes);
        }
        changes.extend(self.request(now, Claim::new(id, asked, record), ticket));
        let outcome = match self.holding(id).map(|holding| holding.phase) {
            Some(HolderState::Holding) => Outcome::Holding,
            Some(HolderState::Revoking) => Outcome::Revoked,
            Some(HolderState::MinHold) => Outcome::Lost,
            None if known || !request.nonblock => Outcome::Waiting,
            None => {
                changes.extend(self.release(now, id));
                // A client that never was in the queue does not leave it either.
                changes.retain(|change| *change != LedgerEvent::Gone(id));
                Outcome::Busy
            }
        };
        (outcome, changes)
    }

    /// Leaves the queue, or gives back a permit that its client never used: nothing keeps it. One that
    /// was used and given back stays as it is.
    pub(crate) fn withdraw(&mut self, now: Moment, id: Uuid) -> Vec<LedgerEvent> {
        let mut changes = self.drop_due(now);
        let used = |holding: &LedgerHolder<R>| holding.phase == HolderState::MinHold;
        if !self.holding(id).is_some_and(used) && self.remove(id) {
            changes.push(LedgerEvent::Gone(id));
        }
        changes.extend(self.grant(now));
        changes
    }

    /// How things stand for a client, without its record and those of others.
    pub(crate) fn reply(&self, now: Moment, outcome: Outcome, request: &Request) -> Reply {
        let stands = self.terms_or(request.terms);
        let (ticket, ahead) = self.waiting(request.id).unwrap_or_default();
        let holding = self.holding(request.id);
        let granted = holding.and_then(|holding| holding.terms_left(now));
        Reply {
            terms: granted.unwrap_or_default().as_agreed(stands),
            pinned: self.pinned().is_some(),
            agreed: self.agreed_terms().unwrap_or(stands).limit,
            token: holding.map_or(0, |holding| holding.token),
            ticket,
            ahead,
            held: self.holders().len(),
            paused: self.paused(now),
            ..Reply::of(outcome, now)
        }
    }
}
