//! The rules of a counting semaphore, as plain bookkeeping: holders, a queue, expiry and fencing
//! tokens. No clock (`now` is passed in), no locks, no I/O. Every backend behaves like this.

mod claims;
mod requests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use uuid::Uuid;

pub(crate) use self::claims::{Claim, LedgerEvent, LedgerHolder, Renewal};
use super::{HolderState, Revocation};
use crate::clock::Moment;
use crate::mutants::{self, Guard};
use crate::permits::Terms;

/// How long a waiter that was granted a permit has to confirm it.
pub(crate) const CONFIRM: Duration = Duration::from_secs(2);

/// How long the place of a waiter that is away is kept.
pub(crate) const AWAY: Duration = Duration::from_secs(15);

/// One semaphore.
#[derive(Debug, Clone)]
pub(crate) struct Ledger<R> {
    /// In force as long as a client that brought some uses the semaphore.
    terms: Option<Terms>,
    /// How many such clients there are.
    bound: usize,
    /// The limit whatever the semaphore's users ask for.
    pinned: Option<u32>,
    /// By their tokens, which is the order of the grants.
    holders: BTreeMap<u64, LedgerHolder<R>>,
    /// By their tickets, which is the order of coming.
    queue: BTreeMap<u64, LedgerWaiter<R>>,
    places: HashMap<Uuid, ClientState>,
    /// What expires, and when.
    due: BTreeSet<(Moment, Uuid)>,
    /// Nothing is granted before.
    not_before: Moment,
    /// The last number that was given out, as a ticket or as a token.
    last: u64,
}

#[derive(Debug, Clone)]
struct LedgerWaiter<R> {
    claim: Claim<R>,
    /// When its place is given up, if it is away.
    away: Option<Moment>,
}

#[derive(Debug, Clone, Copy)]
enum ClientState {
    /// With this token.
    Holding(u64),
    /// With this ticket.
    Waiting(u64),
}

impl<R> Default for Ledger<R> {
    fn default() -> Self {
        Self::after(0, Moment::ZERO)
    }
}

impl<R> Ledger<R> {
    /// A ledger whose numbers are greater than `last`, and that grants nothing before a moment.
    pub(crate) fn after(last: u64, not_before: Moment) -> Self {
        Self {
            terms: None,
            bound: 0,
            pinned: None,
            holders: BTreeMap::new(),
            queue: BTreeMap::new(),
            places: HashMap::new(),
            due: BTreeSet::new(),
            not_before,
            last,
        }
    }

    /// Joins the queue, once, and grants what is free. Asking again only marks an absent waiter as
    /// present, and confirms a granted permit: so a client that missed the answer may ask any
    /// number of times. A `ticket` brings back a place in the queue.
    pub(crate) fn request(
        &mut self,
        now: Moment,
        claim: Claim<R>,
        ticket: Option<u64>,
    ) -> Vec<LedgerEvent> {
        let mut changes = self.drop_due(now);
        let id = claim.id;
        match self.places.get(&id) {
            Some(ClientState::Holding(_)) => {
                self.change_holding(id, |holding| holding.learn(claim.terms));
                self.extend(now, id);
            }
            Some(ClientState::Waiting(ticket)) => self.present(*ticket),
            None => {
                let ticket = ticket.filter(|ticket| self.was_given_up(*ticket));
                let ticket = ticket.unwrap_or_else(|| self.next_number());
                self.set_terms(&claim);
                self.places.insert(id, ClientState::Waiting(ticket));
                self.queue.insert(ticket, LedgerWaiter { claim, away: None });
            }
        }
        let granted = self.grant(now);
        if granted
            .iter()
            .any(|change| matches!(change, LedgerEvent::Granted { id: one, .. } if *one == id))
        {
            // A client that asks is there.
            self.extend(now, id);
        }
        changes.extend(granted);
        changes
    }

    /// Gives a permit back or leaves the queue. An unknown client has left already. A permit that
    /// its holder knew of stays taken until it was held for long enough.
    pub(crate) fn release(&mut self, now: Moment, id: Uuid) -> Vec<LedgerEvent> {
        let mut changes = self.drop_due(now);
        let keeps = |holding: &LedgerHolder<R>| now < holding.held_until();
        match self.holding(id) {
            Some(LedgerHolder { phase: HolderState::MinHold, .. }) => {}
            Some(holding) if holding.phase == HolderState::Holding && keeps(holding) => {
                self.change_phase(id, HolderState::MinHold);
                changes.push(LedgerEvent::Kept(id));
            }
            _ => {
                if self.remove(id) {
                    changes.push(LedgerEvent::Gone(id));
                }
            }
        }
        changes.extend(self.grant(now));
        changes
    }

    /// Revokes a permit. Gently: it cannot be renewed any more; one without a lease stays as it is.
    pub(crate) fn revoke(&mut self, now: Moment, id: Uuid, how: Revocation) -> Vec<LedgerEvent> {
        let mut changes = self.drop_due(now);
        let how = if mutants::is_off(Guard::Revocation) { Revocation::Forced } else { how };
        let ends = |holding: &LedgerHolder<R>| {
            how == Revocation::Forced || holding.phase == HolderState::MinHold || !holding.confirmed
        };
        match self.holding(id) {
            Some(holding) if how == Revocation::Graceful && holding.claim.terms.is_none() => {}
            Some(holding) if ends(holding) => {
                self.remove(id);
                changes.push(LedgerEvent::Gone(id));
            }
            Some(holding) if holding.phase == HolderState::Holding => {
                self.change_phase(id, HolderState::Revoking);
                changes.push(LedgerEvent::Revoked(id));
                // Its lease may have been over for long.
                changes.extend(self.drop_due(now));
            }
            _ => {}
        }
        changes.extend(self.grant(now));
        changes
    }

    /// Sets the limit; with None it is again the one that the semaphore's users agreed on.
    pub(crate) fn pin(&mut self, now: Moment, limit: Option<u32>) -> Vec<LedgerEvent> {
        self.pinned = limit;
        self.expire(now)
    }

    /// A waiter cannot be told of a permit for now: it is passed over, and gets its place back when
    /// it asks again.
    pub(crate) fn leave(&mut self, now: Moment, id: Uuid) -> Vec<LedgerEvent> {
        if let Some(ClientState::Waiting(ticket)) = self.places.get(&id)
            && let Some(waiting) = self.queue.get_mut(ticket)
            && waiting.away.is_none()
        {
            waiting.away = Some(now + AWAY);
            self.due.insert((now + AWAY, id));
        }
        self.expire(now)
    }

    /// Extends a permit by its TTL from now.
    pub(crate) fn renew(&mut self, now: Moment, id: Uuid) -> Renewal {
        let over =
            |holding: &LedgerHolder<R>| holding.expires().is_some_and(|moment| moment <= now);
        match self.holding(id).filter(|holding| !over(holding)).map(|holding| holding.phase) {
            Some(HolderState::Holding) => {
                self.extend(now, id);
                Renewal::Held
            }
            Some(HolderState::Revoking) => Renewal::Revoked,
            Some(HolderState::MinHold) | None => Renewal::Lost,
        }
    }

    /// Takes back what has expired and grants it to waiters.
    pub(crate) fn expire(&mut self, now: Moment) -> Vec<LedgerEvent> {
        let mut changes = self.drop_due(now);
        changes.extend(self.grant(now));
        changes
    }

    /// Brings back a holder from before all of this was forgotten. Its permit was granted at
    /// `since`; its lease ends at `lease`.
    pub(crate) fn restore(
        &mut self,
        claim: Claim<R>,
        token: u64,
        since: Moment,
        phase: HolderState,
        lease: Option<Moment>,
    ) {
        self.last = self.last.max(token);
        self.set_terms(&claim);
        let id = claim.id;
        self.places.insert(id, ClientState::Holding(token));
        let holding =
            LedgerHolder { claim, token, since, phase, lease, ticket: token, confirmed: true };
        self.due.extend(holding.expires().map(|moment| (moment, id)));
        self.holders.insert(token, holding);
    }

    /// When [`Ledger::expire`] will next have something to do.
    pub(crate) fn next_expiry(&self) -> Option<Moment> {
        let paused = !self.queue.is_empty() && !self.not_before.is_zero();
        let pause = paused.then_some(self.not_before);
        self.due.first().map(|(moment, _)| *moment).into_iter().chain(pause).min()
    }

    /// Until when nothing is granted, if that is in the future.
    pub(crate) fn paused(&self, now: Moment) -> Option<Duration> {
        self.not_before.checked_sub(now).filter(|left| !left.is_zero())
    }

    /// What is in force; none while no client that brought any uses the semaphore.
    pub(crate) fn terms(&self) -> Option<Terms> {
        self.terms.map(|terms| self.with_pin(terms))
    }

    /// What the semaphore's users agreed on, whatever is pinned.
    pub(crate) fn agreed_terms(&self) -> Option<Terms> {
        self.terms
    }

    /// What would be in force for a client that asked for this.
    fn terms_or(&self, asked: Terms) -> Terms {
        self.with_pin(self.terms.unwrap_or(asked))
    }

    /// The limit in force. A pinned one is in force also while the semaphore is idle.
    pub(crate) fn limit(&self) -> Option<u32> {
        self.pinned.or(self.terms.map(|terms| terms.limit))
    }

    pub(crate) fn pinned(&self) -> Option<u32> {
        self.pinned
    }

    /// In the order of their grants.
    pub(crate) fn holders(&self) -> impl ExactSizeIterator<Item = &LedgerHolder<R>> {
        self.holders.values()
    }

    /// In the order of the queue.
    pub(crate) fn waiters(&self) -> impl ExactSizeIterator<Item = &Claim<R>> {
        self.queue.values().map(|waiting| &waiting.claim)
    }

    pub(crate) fn holding(&self, id: Uuid) -> Option<&LedgerHolder<R>> {
        match self.places.get(&id)? {
            ClientState::Holding(token) => self.holders.get(token),
            ClientState::Waiting(_) => None,
        }
    }

    /// The ticket of a waiter, and how many waiters are before it.
    pub(crate) fn waiting(&self, id: Uuid) -> Option<(u64, usize)> {
        match self.places.get(&id)? {
            ClientState::Waiting(ticket) => Some((*ticket, self.queue.range(..ticket).count())),
            ClientState::Holding(_) => None,
        }
    }

    pub(crate) fn in_use(&self) -> bool {
        !self.places.is_empty()
    }

    pub(crate) fn last_number(&self) -> u64 {
        self.last
    }

    /// Whether a ticket was given out, and no other client has it or may get it back.
    fn was_given_up(&self, ticket: u64) -> bool {
        let lapses = |holding: &LedgerHolder<R>| !holding.confirmed && holding.ticket == ticket;
        (1..=self.last).contains(&ticket)
            && !self.queue.contains_key(&ticket)
            && !self.holders.values().any(lapses)
    }

    fn with_pin(&self, terms: Terms) -> Terms {
        Terms { limit: self.pinned.unwrap_or(terms.limit), ..terms }
    }

    fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn set_terms(&mut self, claim: &Claim<R>) {
        if claim.terms.is_some() {
            if self.bound == 0 {
                self.terms = claim.terms.map(Terms::shared);
            }
            self.bound += 1;
        }
    }

    fn forget_terms(&mut self, claim: &Claim<R>) {
        if claim.terms.is_some() {
            self.bound -= 1;
            if self.bound == 0 {
                self.terms = None;
            }
        }
    }

    fn present(&mut self, ticket: u64) {
        if let Some(waiting) = self.queue.get_mut(&ticket)
            && let Some(moment) = waiting.away.take()
        {
            self.due.remove(&(moment, waiting.claim.id));
        }
    }

    /// Makes a permit last for its whole TTL from now. Its holder knows of it.
    fn extend(&mut self, now: Moment, id: Uuid) {
        let terms = self.terms;
        self.change_holding(id, |holding| {
            let ttl = holding.claim.terms.and(terms).map(|terms| terms.ttl);
            holding.confirmed = true;
            if holding.phase == HolderState::Holding {
                holding.lease = ttl.map(|ttl| now + ttl);
            }
        });
    }

    fn change_phase(&mut self, id: Uuid, phase: HolderState) {
        self.change_holding(id, |holding| holding.phase = phase);
    }

    fn change_holding(&mut self, id: Uuid, change: impl FnOnce(&mut LedgerHolder<R>)) {
        let Some(ClientState::Holding(token)) = self.places.get(&id) else { return };
        let Some(holding) = self.holders.get_mut(token) else { return };
        let before = holding.expires();
        change(holding);
        let after = holding.expires();
        if let Some(moment) = before {
            self.due.remove(&(moment, id));
        }
        self.due.extend(after.map(|moment| (moment, id)));
    }

    /// False: it was not there.
    fn remove(&mut self, id: Uuid) -> bool {
        let (claim, moment) = match self.places.remove(&id) {
            Some(ClientState::Holding(token)) => {
                let holding = self.holders.remove(&token).expect("places are true");
                let moment = holding.expires();
                (holding.claim, moment)
            }
            Some(ClientState::Waiting(ticket)) => {
                let waiting = self.queue.remove(&ticket).expect("places are true");
                (waiting.claim, waiting.away)
            }
            None => return false,
        };
        if let Some(moment) = moment {
            self.due.remove(&(moment, id));
        }
        self.forget_terms(&claim);
        true
    }

    fn drop_due(&mut self, now: Moment) -> Vec<LedgerEvent> {
        let mut changes = Vec::new();
        while let Some((moment, id)) = self.due.first().copied()
            && moment <= now
        {
            self.due.pop_first();
            let lapsed = self.holding(id).filter(|holding| !holding.confirmed);
            if let Some((token, ticket)) = lapsed.map(|holding| (holding.token, holding.ticket)) {
                let LedgerHolder { claim, .. } = self.holders.remove(&token).expect("just seen");
                self.places.insert(id, ClientState::Waiting(ticket));
                self.queue.insert(ticket, LedgerWaiter { claim, away: Some(now + AWAY) });
                self.due.insert((now + AWAY, id));
                changes.push(LedgerEvent::Lapsed(id));
            } else if self.remove(id) {
                changes.push(LedgerEvent::Gone(id));
            }
        }
        changes
    }

    fn grant(&mut self, now: Moment) -> Vec<LedgerEvent> {
        let mut changes = Vec::new();
        if now < self.not_before {
            return changes;
        }
        self.not_before = Moment::ZERO;
        loop {
            let mut present = self.queue.iter().filter(|(_, waiting)| waiting.away.is_none());
            let last = mutants::is_off(Guard::Order);
            let next = if last { present.next_back() } else { present.next() };
            let Some((ticket, waiting)) = next else { break };
            if !self.is_compatible(&waiting.claim) {
                break;
            }
            let ticket = *ticket;
            let LedgerWaiter { claim, .. } = self.queue.remove(&ticket).expect("just seen");
            let (id, token) = (claim.id, self.next_number());
            let ttl = claim.terms.and(self.terms).map(|terms| terms.ttl);
            let lease = ttl.map(|ttl| now + ttl.min(CONFIRM));
            self.due.extend(lease.map(|moment| (moment, id)));
            self.places.insert(id, ClientState::Holding(token));
            let (since, phase, confirmed) = (now, HolderState::Holding, false);
            let holding = LedgerHolder { claim, token, since, phase, lease, ticket, confirmed };
            self.holders.insert(token, holding);
            changes.push(LedgerEvent::Granted { id, token });
        }
        changes
    }

    /// Whether a claim can be granted beside the present holders.
    fn is_compatible(&self, claim: &Claim<R>) -> bool {
        let alone =
            self.holders.first_key_value().is_some_and(|(_, one)| one.claim.terms.is_none());
        let limit = self.limit().unwrap_or(1) as usize;
        match claim.terms {
            Some(_) => !alone && self.holders.len() < limit,
            None => self.holders.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests;
