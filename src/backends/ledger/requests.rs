//! What the ledger makes of a client's request, and what it has to say in the answer.

use uuid::Uuid;

use super::{Claim, HolderState, Ledger, LedgerEvent, LedgerHolder, Terms};
use crate::clock::Moment;
use crate::request::{Outcome, Reply, Request};

impl Terms {
    fn of(request: &Request) -> Self {
        Self { limit: request.limit, ttl: Some(request.ttl) }
    }
}

impl<R> Claim<R> {
    fn of(request: &Request, record: R) -> Self {
        let (id, min_hold) = (request.id, request.min_hold);
        Self { id, terms: Some(Terms::of(request)), min_hold, record }
    }

    /// Of an exclusive permit without a lease.
    pub(crate) fn exclusive(id: Uuid, record: R) -> Self {
        Self { id, terms: None, min_hold: std::time::Duration::ZERO, record }
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
        let (id, asked) = (request.id, Terms::of(request));
        let known = self.knows(id);
        if !known && request.strict && self.terms_or(asked) != asked {
            return (Outcome::Differs, changes);
        }
        changes.extend(self.request(now, Claim::of(request, record), ticket));
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

    /// How things stand for a client, without its record and those of others.
    pub(crate) fn reply(&self, now: Moment, outcome: Outcome, request: &Request) -> Reply {
        let terms = self.terms_or(Terms::of(request));
        let (ticket, ahead) = self.waiting(request.id).unwrap_or_default();
        let holding = self.holding(request.id);
        let kept = |holding: &LedgerHolder<R>| holding.held_until().saturating_sub(now);
        Reply {
            limit: terms.limit,
            pinned: self.pinned().is_some(),
            agreed: self.agreed_terms().unwrap_or(terms).limit,
            ttl: terms.ttl.unwrap_or_default(),
            token: holding.map_or(0, |holding| holding.token),
            min_hold: holding.map(kept).unwrap_or_default(),
            ticket,
            ahead,
            held: self.holders().len(),
            paused: self.paused(now),
            ..Reply::of(outcome, now)
        }
    }
}
