//! The rules of a counting semaphore, as plain bookkeeping: holders, a queue, expiry and fencing
//! tokens. No clock (`now` is passed in), no locks, no I/O. Every backend behaves like this.

use std::collections::VecDeque;
use std::time::Duration;

use uuid::Uuid;

use crate::clock::Moment;

/// One semaphore.
#[derive(Debug, Clone)]
pub(crate) struct Ledger<R> {
    limit: u32,
    /// In the order of their grants, which is the order of their tokens.
    holders: Vec<Holding<R>>,
    queue: VecDeque<Claim<R>>,
    last_token: u64,
}

/// Somebody's wish for a permit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim<R> {
    pub(crate) id: Uuid,
    /// Taken when the semaphore is idle; while it is in use its own limit stands.
    pub(crate) limit: u32,
    /// How long a grant lasts unless it is renewed; none: for ever.
    pub(crate) ttl: Option<Duration>,
    pub(crate) record: R,
}

/// A permit that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holding<R> {
    pub(crate) claim: Claim<R>,
    pub(crate) token: u64,
    /// The permit is held until this moment, and not at it.
    pub(crate) expires: Option<Moment>,
}

/// A permit that has just been given to somebody who was waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) id: Uuid,
    pub(crate) token: u64,
}

impl<R> Default for Ledger<R> {
    fn default() -> Self {
        Self { limit: 0, holders: Vec::new(), queue: VecDeque::new(), last_token: 0 }
    }
}

impl<R> Ledger<R> {
    /// Joins the queue, once, and grants what is free. Asking again changes nothing: a lost
    /// answer may be asked for as often as one likes.
    pub(crate) fn ask(&mut self, now: Moment, claim: Claim<R>) -> Vec<Grant> {
        self.drop_expired(now);
        if !self.in_use() {
            self.limit = claim.limit;
        }
        if !self.knows(claim.id) {
            self.queue.push_back(claim);
        }
        self.grant(now)
    }

    /// Gives a permit back or leaves the queue. Whoever is unknown has left already.
    pub(crate) fn release(&mut self, now: Moment, id: Uuid) -> Vec<Grant> {
        self.holders.retain(|holding| holding.claim.id != id);
        self.queue.retain(|claim| claim.id != id);
        self.expire(now)
    }

    /// Extends a permit by its TTL from now. False: it has expired or was never ours, and
    /// somebody else may hold it.
    pub(crate) fn renew(&mut self, now: Moment, id: Uuid) -> bool {
        self.drop_expired(now);
        let Some(holding) = self.holders.iter_mut().find(|holding| holding.claim.id == id) else {
            return false;
        };
        holding.expires = holding.claim.ttl.map(|ttl| now + ttl);
        true
    }

    /// Takes back what has expired and grants it to those who wait.
    pub(crate) fn expire(&mut self, now: Moment) -> Vec<Grant> {
        self.drop_expired(now);
        self.grant(now)
    }

    /// When [`Ledger::expire`] will next have something to do.
    pub(crate) fn next_expiry(&self) -> Option<Moment> {
        self.holders.iter().filter_map(|holding| holding.expires).min()
    }

    /// None while nobody uses the semaphore.
    pub(crate) fn limit(&self) -> Option<u32> {
        self.in_use().then_some(self.limit)
    }

    pub(crate) fn holders(&self) -> &[Holding<R>] {
        &self.holders
    }

    pub(crate) fn waiters(&self) -> impl ExactSizeIterator<Item = &Claim<R>> {
        self.queue.iter()
    }

    /// Whether somebody who asks now would get a permit at once.
    pub(crate) fn free(&self) -> bool {
        !self.in_use() || (self.queue.is_empty() && self.holders.len() < self.limit as usize)
    }

    fn in_use(&self) -> bool {
        !self.holders.is_empty() || !self.queue.is_empty()
    }

    fn knows(&self, id: Uuid) -> bool {
        self.holders.iter().any(|holding| holding.claim.id == id)
            || self.queue.iter().any(|claim| claim.id == id)
    }

    fn drop_expired(&mut self, now: Moment) {
        self.holders.retain(|holding| holding.expires.is_none_or(|expires| now < expires));
    }

    fn grant(&mut self, now: Moment) -> Vec<Grant> {
        let mut grants = Vec::new();
        while self.holders.len() < self.limit as usize {
            let Some(claim) = self.queue.pop_front() else {
                break;
            };
            self.last_token += 1;
            grants.push(Grant { id: claim.id, token: self.last_token });
            let expires = claim.ttl.map(|ttl| now + ttl);
            self.holders.push(Holding { claim, token: self.last_token, expires });
        }
        grants
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn claim(number: u128, limit: u32, ttl: Option<u64>) -> Claim<()> {
        let ttl = ttl.map(Duration::from_secs);
        Claim { id: Uuid::from_u128(number), limit, ttl, record: () }
    }

    fn at(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    fn ids(grants: &[Grant]) -> Vec<u128> {
        grants.iter().map(|grant| grant.id.as_u128()).collect()
    }

    #[test]
    fn permits_go_to_those_who_came_first() {
        let mut ledger = Ledger::default();
        assert_eq!(ids(&ledger.ask(at(0), claim(1, 1, None))), [1]);
        assert_eq!(ids(&ledger.ask(at(0), claim(2, 1, None))), []);
        assert_eq!(ids(&ledger.ask(at(0), claim(3, 1, None))), []);
        assert_eq!(ids(&ledger.release(at(1), Uuid::from_u128(1))), [2]);
        assert_eq!(ids(&ledger.release(at(2), Uuid::from_u128(2))), [3]);
    }

    #[test]
    fn asking_again_changes_nothing() {
        let mut ledger = Ledger::default();
        ledger.ask(at(0), claim(1, 1, None));
        ledger.ask(at(0), claim(2, 1, None));
        assert_eq!(ids(&ledger.ask(at(0), claim(1, 1, None))), []);
        assert_eq!(ids(&ledger.ask(at(0), claim(2, 1, None))), []);
        assert_eq!((ledger.holders().len(), ledger.waiters().len()), (1, 1));
    }

    #[test]
    fn a_permit_expires_at_its_moment_unless_it_is_renewed() {
        let mut ledger = Ledger::default();
        ledger.ask(at(0), claim(1, 1, Some(10)));
        ledger.ask(at(0), claim(2, 1, Some(10)));
        assert!(ledger.renew(at(9), Uuid::from_u128(1)));
        assert_eq!(ledger.next_expiry(), Some(at(19)));
        assert_eq!(ids(&ledger.expire(at(18))), []);
        assert_eq!(ids(&ledger.expire(at(19))), [2]);
        assert!(!ledger.renew(at(19), Uuid::from_u128(1)), "an expired permit is not revived");
    }

    #[test]
    fn the_limit_stands_while_in_use_and_an_idle_semaphore_takes_the_next_one() {
        let mut ledger = Ledger::default();
        ledger.ask(at(0), claim(1, 1, None));
        assert_eq!(ids(&ledger.ask(at(0), claim(2, 5, None))), []);
        assert_eq!(ledger.limit(), Some(1));
        ledger.release(at(1), Uuid::from_u128(1));
        ledger.release(at(1), Uuid::from_u128(2));
        assert_eq!(ledger.limit(), None);
        ledger.ask(at(2), claim(3, 5, None));
        assert_eq!(ledger.limit(), Some(5));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Ask { who: u8, limit: u32, ttl: Option<u64> },
        Release { who: u8 },
        Renew { who: u8 },
        Pass { seconds: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        let ttl = prop_oneof![Just(None), (1..20_u64).prop_map(Some)];
        prop_oneof![
            4 => (0..8_u8, 1..4_u32, ttl).prop_map(|(who, limit, ttl)| Step::Ask { who, limit, ttl }),
            3 => (0..8_u8).prop_map(|who| Step::Release { who }),
            1 => (0..8_u8).prop_map(|who| Step::Renew { who }),
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
                let grants = match step {
                    Step::Ask { who, limit, ttl } => {
                        let known = ledger.knows(Uuid::from_u128(who.into()));
                        if !known { asked.insert(who.into(), position); }
                        ledger.ask(now, claim(who.into(), limit, ttl))
                    }
                    Step::Release { who } => ledger.release(now, Uuid::from_u128(who.into())),
                    Step::Renew { who } => { ledger.renew(now, Uuid::from_u128(who.into())); vec![] }
                    Step::Pass { seconds } => { now += at(seconds); ledger.expire(now) }
                };
                // Tokens grow with every grant.
                for grant in &grants {
                    prop_assert!(grant.token > last_token);
                    last_token = grant.token;
                }
                // Never more than the limit, and nobody waits beside a free permit, except for
                // what has just been found expired by a call that grants nothing.
                let limit = ledger.limit().unwrap_or(0) as usize;
                prop_assert!(ledger.holders().len() <= limit);
                let grants = ledger.expire(now);
                last_token = grants.last().map_or(last_token, |grant| grant.token);
                let limit = ledger.limit().unwrap_or(0) as usize;
                prop_assert!(ledger.waiters().len() == 0 || ledger.holders().len() == limit);
                // First come, first served: the queue is in the order of asking.
                let order: Vec<_> = ledger.waiters().map(|claim| asked[&claim.id.as_u128()]).collect();
                prop_assert!(order.is_sorted(), "{order:?}");
                // Nobody holds beyond the expiry.
                prop_assert!(ledger.holders().iter().all(|holding| holding.expires.is_none_or(|at| now < at)));
            }
        }
    }
}
