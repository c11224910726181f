//! The rules of a counting semaphore, as plain bookkeeping: holders, a queue, expiry and fencing
//! tokens. No clock (`now` is passed in), no locks, no I/O. Every backend behaves like this.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use uuid::Uuid;

use crate::clock::Moment;

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
            let next = self.queue.iter().find(|(_, waiting)| waiting.away.is_none());
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
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn claim(number: u128, limit: u32, ttl: Option<u64>) -> Claim<()> {
        let ttl = ttl.map(Duration::from_secs);
        Claim { id: Uuid::from_u128(number), terms: Some(Terms { limit, ttl }), record: () }
    }

    fn alone(number: u128) -> Claim<()> {
        Claim { id: Uuid::from_u128(number), terms: None, record: () }
    }

    fn at(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    fn id(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    /// Who was granted a permit.
    fn granted(changes: &[Change]) -> Vec<u128> {
        let granted = |change: &Change| match change {
            Change::Granted { id, .. } => Some(id.as_u128()),
            Change::Lapsed(_) | Change::Gone(_) => None,
        };
        changes.iter().filter_map(granted).collect()
    }

    impl Ledger<()> {
        fn asks(&mut self, now: u64, claim: Claim<()>) -> Vec<u128> {
            granted(&self.ask(at(now), claim, None))
        }
    }

    #[test]
    fn permits_go_to_those_who_came_first() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.asks(0, claim(1, 1, None)), [1]);
        assert_eq!(ledger.asks(0, claim(2, 1, None)), []);
        assert_eq!(ledger.asks(0, claim(3, 1, None)), []);
        assert_eq!(granted(&ledger.release(at(1), id(1))), [2]);
        assert_eq!(granted(&ledger.release(at(2), id(2))), [3]);
    }

    #[test]
    fn asking_again_changes_nothing() {
        let mut ledger = Ledger::default();
        ledger.asks(0, claim(1, 1, None));
        ledger.asks(0, claim(2, 1, None));
        assert_eq!(ledger.asks(0, claim(1, 1, None)), []);
        assert_eq!(ledger.asks(0, claim(2, 1, None)), []);
        assert_eq!((ledger.holders().len(), ledger.waiters().len()), (1, 1));
    }

    #[test]
    fn a_permit_expires_at_its_moment_unless_it_is_renewed() {
        let mut ledger = Ledger::default();
        ledger.asks(0, claim(1, 1, Some(10)));
        ledger.asks(0, claim(2, 1, Some(10)));
        assert!(ledger.renew(at(9), id(1)));
        assert_eq!(ledger.next_expiry(), Some(at(19)));
        assert!(!ledger.renew(at(19), id(1)), "an expired permit is not revived");
        assert_eq!(granted(&ledger.expire(at(18))), []);
        assert_eq!(granted(&ledger.expire(at(19))), [2]);
    }

    #[test]
    fn the_terms_stand_while_in_use_and_an_idle_semaphore_takes_the_next_ones() {
        let mut ledger = Ledger::default();
        let limit = |ledger: &Ledger<()>| ledger.terms().map(|terms| terms.limit);
        ledger.asks(0, claim(1, 1, None));
        assert_eq!(ledger.asks(0, claim(2, 5, None)), []);
        assert_eq!(limit(&ledger), Some(1));
        ledger.release(at(1), id(1));
        ledger.release(at(1), id(2));
        assert_eq!(limit(&ledger), None);
        ledger.asks(2, claim(3, 5, None));
        assert_eq!(limit(&ledger), Some(5));
    }

    #[test]
    fn one_who_wants_to_be_alone_waits_until_it_is_and_nobody_joins_it() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.asks(0, claim(1, 3, None)), [1]);
        assert_eq!(ledger.asks(0, claim(2, 3, None)), [2]);
        assert_eq!(ledger.asks(0, alone(3)), []);
        assert_eq!(ledger.asks(0, claim(4, 3, None)), [], "nobody overtakes it");
        assert_eq!(granted(&ledger.release(at(1), id(1))), []);
        assert_eq!(granted(&ledger.release(at(1), id(2))), [3]);
        assert_eq!(ledger.terms().map(|terms| terms.limit), Some(3));
        assert_eq!(granted(&ledger.release(at(2), id(3))), [4]);
        assert_eq!(ledger.asks(3, alone(5)), []);
        ledger.release(at(3), id(4));
        assert_eq!((ledger.terms(), ledger.next_expiry()), (None, None), "it brings no terms");
    }

    #[test]
    fn who_is_away_is_passed_over_and_has_its_place_back() {
        let mut ledger = Ledger::default();
        for number in 1..=4 {
            ledger.asks(0, claim(number, 1, Some(60)));
        }
        ledger.leave(at(1), id(2));
        assert_eq!(granted(&ledger.release(at(2), id(1))), [3]);
        assert_eq!(ledger.asks(3, claim(2, 1, Some(60))), []);
        assert_eq!(granted(&ledger.release(at(4), id(3))), [2]);
        // Who never comes back keeps nothing.
        ledger.leave(at(5), id(4));
        assert_eq!(ledger.next_expiry(), Some(at(4) + CONFIRM));
        assert!(ledger.renew(at(5), id(2)));
        assert_eq!(ledger.expire(at(5) + AWAY), [Change::Gone(id(4))]);
    }

    #[test]
    fn a_grant_that_nobody_takes_passes_on_and_the_place_is_kept() {
        let mut ledger = Ledger::default();
        for number in 1..=3 {
            ledger.asks(0, claim(number, 1, Some(60)));
        }
        assert_eq!(granted(&ledger.release(at(1), id(1))), [2]);
        let changes = ledger.expire(at(1) + CONFIRM);
        assert_eq!((changes[0], granted(&changes)), (Change::Lapsed(id(2)), vec![3]));
        assert!(ledger.renew(at(4), id(3)));
        assert_eq!(ledger.asks(8, claim(4, 1, Some(60))), []);
        assert_eq!(ledger.asks(9, claim(2, 1, Some(60))), []);
        assert_eq!(granted(&ledger.release(at(10), id(3))), [2], "before the one that came later");
    }

    #[test]
    fn a_ticket_brings_back_a_place_that_was_forgotten() {
        let mut ledger = Ledger::default();
        ledger.asks(0, claim(1, 1, None));
        ledger.asks(0, claim(2, 1, None));
        let (ticket, ahead) = ledger.waiting(id(2)).unwrap();
        assert_eq!(ahead, 0);
        // Nobody else gets that place, not even while it is granted.
        assert_eq!(granted(&ledger.release(at(0), id(1))), [2]);
        ledger.ask(at(0), claim(4, 1, None), Some(ticket));
        assert!(ledger.waiting(id(4)).is_some_and(|(other, _)| other > ticket));
        let mut restarted = Ledger::after(100, at(0));
        restarted.restore(claim(1, 1, None), 1, None);
        restarted.asks(0, claim(3, 1, None));
        restarted.ask(at(0), claim(2, 1, None), Some(ticket));
        assert_eq!(granted(&restarted.release(at(1), id(1))), [2]);
        assert!(restarted.holding(id(2)).is_some_and(|holding| holding.token > 100));
    }

    #[test]
    fn nothing_is_granted_during_a_pause() {
        let mut ledger = Ledger::after(0, at(10));
        assert_eq!(ledger.asks(1, claim(1, 1, None)), []);
        assert_eq!((ledger.paused(at(4)), ledger.next_expiry()), (Some(at(6)), Some(at(10))));
        assert_eq!(granted(&ledger.expire(at(10))), [1]);
        assert_eq!(ledger.paused(at(10)), None);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Ask { who: u8, limit: u32, ttl: Option<u64> },
        Alone { who: u8 },
        Release { who: u8 },
        Renew { who: u8 },
        Leave { who: u8 },
        Pass { seconds: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        let ttl = prop_oneof![Just(None), (1..20_u64).prop_map(Some)];
        let who = 0..8_u8;
        prop_oneof![
            4 => (who.clone(), 1..4_u32, ttl)
                .prop_map(|(who, limit, ttl)| Step::Ask { who, limit, ttl }),
            1 => who.clone().prop_map(|who| Step::Alone { who }),
            3 => who.clone().prop_map(|who| Step::Release { who }),
            1 => who.clone().prop_map(|who| Step::Renew { who }),
            1 => who.prop_map(|who| Step::Leave { who }),
            2 => (0..9_u64).prop_map(|seconds| Step::Pass { seconds }),
        ]
    }

    proptest! {
        // What must hold after every step of every history.
        #[test]
        fn any_history_keeps_the_rules(steps in prop::collection::vec(step(), 0..60)) {
            let mut ledger = Ledger::default();
            let mut now = at(0);
            let mut last_token = 0;
            let mut asked: HashMap<u128, usize> = HashMap::new();
            for (position, step) in steps.into_iter().enumerate() {
                let changes = match step {
                    Step::Ask { who, .. } | Step::Alone { who } => {
                        ledger.expire(now);
                        if !ledger.places.contains_key(&id(who.into())) {
                            asked.insert(who.into(), position);
                        }
                        let claim = match step {
                            Step::Ask { limit, ttl, .. } => claim(who.into(), limit, ttl),
                            _ => alone(who.into()),
                        };
                        ledger.ask(now, claim, None)
                    }
                    Step::Release { who } => ledger.release(now, id(who.into())),
                    Step::Renew { who } => { ledger.renew(now, id(who.into())); vec![] }
                    Step::Leave { who } => ledger.leave(now, id(who.into())),
                    Step::Pass { seconds } => { now += at(seconds); ledger.expire(now) }
                };
                // Tokens grow with every grant.
                for change in &changes {
                    if let Change::Granted { token, .. } = change {
                        prop_assert!(*token > last_token);
                        last_token = *token;
                    }
                }
                last_token = last_token.max(ledger.last);
                ledger.expire(now);
                // Never more than the limit, and who wants to be alone is.
                let limit = ledger.terms().map_or(1, |terms| terms.limit as usize);
                prop_assert!(ledger.holders().len() <= limit);
                let lonely = ledger.holders().filter(|one| one.claim.terms.is_none()).count();
                prop_assert!(lonely == 0 || ledger.holders().len() == 1);
                // Nobody who is there waits for what is free.
                let first = ledger.queue.values().find(|waiting| waiting.away.is_none());
                prop_assert!(first.is_none_or(|waiting| !ledger.fits(&waiting.claim)));
                // First come, first served: the queue is in the order of asking.
                let order: Vec<_> = ledger.waiters().map(|claim| asked[&claim.id.as_u128()]).collect();
                prop_assert!(order.is_sorted(), "{order:?}");
                // Nobody holds beyond the expiry, and nothing is left of those who have gone.
                prop_assert!(ledger.holders().all(|holding| holding.expires.is_none_or(|at| now < at)));
                prop_assert_eq!(ledger.places.len(), ledger.holders().len() + ledger.waiters().len());
                prop_assert!(ledger.due.len() <= ledger.places.len());
                prop_assert!(ledger.due.first().is_none_or(|(moment, _)| *moment > now));
            }
        }
    }
}
