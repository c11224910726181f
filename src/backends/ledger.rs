//! The rules of a counting semaphore, as plain bookkeeping: holders, a queue, expiry and fencing
//! tokens. No clock (`now` is passed in), no locks, no I/O. Every backend behaves like this.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use uuid::Uuid;

use crate::clock::Moment;
use crate::mutants::{self, Guard};

/// How long one who was granted a permit while it waited has to say that it is there.
pub(crate) const CONFIRM: Duration = Duration::from_secs(2);

/// How long the place of a waiter that is away is kept.
pub(crate) const AWAY: Duration = Duration::from_secs(15);

/// One semaphore.
#[derive(Debug, Clone)]
pub(crate) struct Ledger<R> {
    /// In force as long as anybody uses the semaphore who brought some.
    terms: Option<Terms>,
    /// How many of those there are.
    bound: usize,
    /// By their tokens, which is the order of the grants.
    holders: BTreeMap<u64, Holding<R>>,
    /// By their tickets, which is the order of coming.
    queue: BTreeMap<u64, Waiting<R>>,
    places: HashMap<Uuid, Place>,
    /// What ends by itself, and when.
    due: BTreeSet<(Moment, Uuid)>,
    /// Nothing is granted before.
    not_before: Moment,
    /// The last number that was given out, as a ticket or as a token.
    last: u64,
}

/// What is agreed about a semaphore while it is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) limit: u32,
    /// How long a grant lasts unless it is renewed; none: for ever.
    pub(crate) ttl: Option<Duration>,
}

/// Somebody's wish for a permit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim<R> {
    pub(crate) id: Uuid,
    /// Taken when the semaphore is idle; while it is in use its own terms stand. None: wants to
    /// be alone, for as long as it likes.
    pub(crate) terms: Option<Terms>,
    pub(crate) record: R,
}

/// A permit that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holding<R> {
    pub(crate) claim: Claim<R>,
    pub(crate) token: u64,
    /// The permit is held until this moment, and not at it.
    pub(crate) expires: Option<Moment>,
    ticket: u64,
    /// Whether the holder has said that it knows.
    confirmed: bool,
}

#[derive(Debug, Clone)]
struct Waiting<R> {
    claim: Claim<R>,
    /// When its place is given up, if it is away.
    away: Option<Moment>,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    /// With this token.
    Holding(u64),
    /// With this ticket.
    Waiting(u64),
}

/// What became of somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It was waiting and has a permit now.
    Granted { id: Uuid, token: u64 },
    /// It did not take the permit that it was granted, and waits again.
    Lapsed(Uuid),
    /// It neither holds nor waits any more.
    Gone(Uuid),
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
            holders: BTreeMap::new(),
            queue: BTreeMap::new(),
            places: HashMap::new(),
            due: BTreeSet::new(),
            not_before,
            last,
        }
    }

    /// Joins the queue, once, and grants what is free. Asking again changes nothing but that who
    /// was away is back, and that who was granted a permit has it for sure: a lost answer may be
    /// asked for as often as one likes. A `ticket` brings back a place in the queue.
    pub(crate) fn ask(&mut self, now: Moment, claim: Claim<R>, ticket: Option<u64>) -> Vec<Change> {
        let mut changes = self.drop_due(now);
        let id = claim.id;
        match self.places.get(&id) {
            Some(Place::Holding(_)) => self.extend(now, id),
            Some(Place::Waiting(ticket)) => self.present(*ticket),
            None => {
                let ticket = ticket.filter(|ticket| self.was_given_up(*ticket));
                let ticket = ticket.unwrap_or_else(|| self.next_number());
                self.agree(&claim);
                self.places.insert(id, Place::Waiting(ticket));
                self.queue.insert(ticket, Waiting { claim, away: None });
            }
        }
        let granted = self.grant(now);
        if granted
            .iter()
            .any(|change| matches!(change, Change::Granted { id: one, .. } if *one == id))
        {
            // Whoever asks is there.
            self.extend(now, id);
        }
        changes.extend(granted);
        changes
    }

    /// Gives a permit back or leaves the queue. Whoever is unknown has left already.
    pub(crate) fn release(&mut self, now: Moment, id: Uuid) -> Vec<Change> {
        let mut changes = self.drop_due(now);
        if self.remove(id) {
            changes.push(Change::Gone(id));
        }
        changes.extend(self.grant(now));
        changes
    }

    /// A waiter cannot be told of a permit for now: it is passed over, and has its place back
    /// when it asks again.
    pub(crate) fn leave(&mut self, now: Moment, id: Uuid) -> Vec<Change> {
        if let Some(Place::Waiting(ticket)) = self.places.get(&id)
            && let Some(waiting) = self.queue.get_mut(ticket)
            && waiting.away.is_none()
        {
            waiting.away = Some(now + AWAY);
            self.due.insert((now + AWAY, id));
        }
        self.expire(now)
    }

    /// Extends a permit by its TTL from now. False: it has expired or was never ours, and
    /// somebody else may hold it.
    pub(crate) fn renew(&mut self, now: Moment, id: Uuid) -> bool {
        let Some(Place::Holding(token)) = self.places.get(&id) else { return false };
        let over = self.holders[token].expires.is_some_and(|expires| expires <= now);
        if !over {
            self.extend(now, id);
        }
        !over
    }

    /// Takes back what has expired and grants it to those who wait.
    pub(crate) fn expire(&mut self, now: Moment) -> Vec<Change> {
        let mut changes = self.drop_due(now);
        changes.extend(self.grant(now));
        changes
    }

    /// Somebody who held a permit before all of this was forgotten holds it until `expires`.
    pub(crate) fn restore(&mut self, claim: Claim<R>, token: u64, expires: Option<Moment>) {
        self.last = self.last.max(token);
        self.agree(&claim);
        let id = claim.id;
        self.places.insert(id, Place::Holding(token));
        self.due.extend(expires.map(|expires| (expires, id)));
        let holding = Holding { claim, token, expires, ticket: token, confirmed: true };
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

    /// None while nobody uses the semaphore who brought any.
    pub(crate) fn terms(&self) -> Option<Terms> {
        self.terms
    }

    /// In the order of their grants.
    pub(crate) fn holders(&self) -> impl ExactSizeIterator<Item = &Holding<R>> {
        self.holders.values()
    }

    /// In the order of the queue.
    pub(crate) fn waiters(&self) -> impl ExactSizeIterator<Item = &Claim<R>> {
        self.queue.values().map(|waiting| &waiting.claim)
    }

    pub(crate) fn holding(&self, id: Uuid) -> Option<&Holding<R>> {
        match self.places.get(&id)? {
            Place::Holding(token) => self.holders.get(token),
            Place::Waiting(_) => None,
        }
    }

    /// The ticket of one who waits, and how many are before it.
    pub(crate) fn waiting(&self, id: Uuid) -> Option<(u64, usize)> {
        match self.places.get(&id)? {
            Place::Waiting(ticket) => Some((*ticket, self.queue.range(..ticket).count())),
            Place::Holding(_) => None,
        }
    }

    pub(crate) fn in_use(&self) -> bool {
        !self.places.is_empty()
    }

    pub(crate) fn last_number(&self) -> u64 {
        self.last
    }

    /// Whether a ticket is one that was given out, and nobody else has or may get back.
    fn was_given_up(&self, ticket: u64) -> bool {
        let lapses = |holding: &Holding<R>| !holding.confirmed && holding.ticket == ticket;
        (1..=self.last).contains(&ticket)
            && !self.queue.contains_key(&ticket)
            && !self.holders.values().any(lapses)
    }

    fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn agree(&mut self, claim: &Claim<R>) {
        if claim.terms.is_some() {
            if self.bound == 0 {
                self.terms = claim.terms;
            }
            self.bound += 1;
        }
    }

    fn part(&mut self, claim: &Claim<R>) {
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

    /// Makes a permit last for its whole TTL from now, for one who knows of it.
    fn extend(&mut self, now: Moment, id: Uuid) {
        let Some(Place::Holding(token)) = self.places.get(&id) else { return };
        let Some(holding) = self.holders.get_mut(token) else { return };
        holding.confirmed = true;
        if let Some(moment) = holding.expires {
            self.due.remove(&(moment, id));
        }
        let ttl = holding.claim.terms.and(self.terms).and_then(|terms| terms.ttl);
        holding.expires = ttl.map(|ttl| now + ttl);
        self.due.extend(holding.expires.map(|moment| (moment, id)));
    }

    /// False: it was not there.
    fn remove(&mut self, id: Uuid) -> bool {
        let (claim, moment) = match self.places.remove(&id) {
            Some(Place::Holding(token)) => {
                let holding = self.holders.remove(&token).expect("places are true");
                (holding.claim, holding.expires)
            }
            Some(Place::Waiting(ticket)) => {
                let waiting = self.queue.remove(&ticket).expect("places are true");
                (waiting.claim, waiting.away)
            }
            None => return false,
        };
        if let Some(moment) = moment {
            self.due.remove(&(moment, id));
        }
        self.part(&claim);
        true
    }

    fn drop_due(&mut self, now: Moment) -> Vec<Change> {
        let mut changes = Vec::new();
        while let Some((moment, id)) = self.due.first().copied()
            && moment <= now
        {
            self.due.pop_first();
            let lapsed = self.holding(id).filter(|holding| !holding.confirmed);
            if let Some((token, ticket)) = lapsed.map(|holding| (holding.token, holding.ticket)) {
                let Holding { claim, .. } = self.holders.remove(&token).expect("just seen");
                self.places.insert(id, Place::Waiting(ticket));
                self.queue.insert(ticket, Waiting { claim, away: Some(now + AWAY) });
                self.due.insert((now + AWAY, id));
                changes.push(Change::Lapsed(id));
            } else if self.remove(id) {
                changes.push(Change::Gone(id));
            }
        }
        changes
    }

    fn grant(&mut self, now: Moment) -> Vec<Change> {
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
            if !self.fits(&waiting.claim) {
                break;
            }
            let ticket = *ticket;
            let Waiting { claim, .. } = self.queue.remove(&ticket).expect("just seen");
            let (id, token) = (claim.id, self.next_number());
            let ttl = claim.terms.and(self.terms).and_then(|terms| terms.ttl);
            let expires = ttl.map(|ttl| now + ttl.min(CONFIRM));
            self.due.extend(expires.map(|moment| (moment, id)));
            self.places.insert(id, Place::Holding(token));
            self.holders.insert(token, Holding { claim, token, expires, ticket, confirmed: false });
            changes.push(Change::Granted { id, token });
        }
        changes
    }

    /// Whether a claim can be granted beside those that are.
    fn fits(&self, claim: &Claim<R>) -> bool {
        let alone =
            self.holders.first_key_value().is_some_and(|(_, one)| one.claim.terms.is_none());
        let limit = self.terms.map_or(1, |terms| terms.limit as usize);
        match claim.terms {
            Some(_) => !alone && self.holders.len() < limit,
            None => self.holders.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests;
