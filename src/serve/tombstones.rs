//! Identities of our own clients that were given back or revoked: a late request with one must not
//! take another permit.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use uuid::Uuid;

use super::bearer::{Bearer, KeyFingerprint};
use crate::clock::Moment;

/// How long they are remembered, and how many of them.
const REMEMBERED: Duration = Duration::from_mins(2);
const MOST: usize = 100_000;

/// An identity, and the key whose requests under it are refused; none: any key's. Otherwise one
/// client could end another by an identity that it heard of.
type Ended = (Uuid, Option<KeyFingerprint>);

#[derive(Debug, Default)]
pub(super) struct Tombstones {
    order: VecDeque<(Moment, Ended)>,
    /// Whether it was a detached permit that was given back.
    all: HashMap<Ended, bool>,
}

impl Tombstones {
    pub(super) fn add(&mut self, now: Moment, id: Uuid, whose: Option<KeyFingerprint>) {
        self.insert(now, (id, whose), false);
    }

    /// The same, for a detached permit: a client that gives it back again is told so.
    pub(super) fn give_back(&mut self, now: Moment, id: Uuid, whose: Option<KeyFingerprint>) {
        self.insert(now, (id, whose), true);
    }

    fn insert(&mut self, now: Moment, id: Ended, given_back: bool) {
        while let Some((when, old)) = self.order.front().copied()
            && (when + REMEMBERED < now || self.order.len() >= MOST)
        {
            self.order.pop_front();
            self.all.remove(&old);
        }
        match self.all.entry(id) {
            Entry::Occupied(mut before) => *before.get_mut() |= given_back,
            Entry::Vacant(new) => {
                new.insert(given_back);
                self.order.push_back((now, id));
            }
        }
    }

    pub(super) fn contains(&self, id: Uuid, asks: &Bearer) -> bool {
        entries_of(id, asks).iter().any(|ended| self.all.contains_key(ended))
    }

    pub(super) fn was_given_back(&self, id: Uuid, asks: &Bearer) -> bool {
        entries_of(id, asks)
            .iter()
            .any(|ended| self.all.get(ended).is_some_and(|given_back| *given_back))
    }
}

fn entries_of(id: Uuid, asks: &Bearer) -> [Ended; 2] {
    [(id, None), (id, asks.print)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::bearer::Actor;

    #[test]
    fn what_is_finished_is_remembered_for_a_while_and_not_without_bound() {
        let mut finished = Tombstones::default();
        let asks = Bearer::on_record(None);
        let id = |number: usize| Uuid::from_u128(number as u128);
        finished.add(Duration::ZERO, id(0), None);
        finished.add(REMEMBERED, id(1), None);
        assert!(finished.contains(id(0), &asks) && finished.contains(id(1), &asks));
        finished.add(REMEMBERED + Duration::from_secs(1), id(2), None);
        assert!(!finished.contains(id(0), &asks) && finished.contains(id(1), &asks));
        (3..MOST + 9).for_each(|number| finished.add(REMEMBERED, id(number), None));
        assert_eq!((finished.order.len(), finished.all.len()), (MOST, MOST));
        assert!(!finished.contains(id(1), &asks) && finished.contains(id(MOST + 8), &asks));
        finished.give_back(REMEMBERED, id(MOST + 8), None);
        finished.add(REMEMBERED, id(MOST + 8), None);
        assert!(
            finished.was_given_back(id(MOST + 8), &asks)
                && !finished.was_given_back(id(MOST + 7), &asks)
        );
    }

    #[test]
    fn what_one_key_has_finished_binds_no_other() {
        let mut finished = Tombstones::default();
        let [one, other] = ["one", "other"].map(|label| Actor::from(label).bearer);
        let ids = [1, 2].map(Uuid::from_u128);
        finished.give_back(Duration::ZERO, ids[0], one.print);
        finished.add(Duration::ZERO, ids[1], None);
        assert!(finished.contains(ids[0], &one) && finished.was_given_back(ids[0], &one));
        assert!(!finished.contains(ids[0], &other) && !finished.was_given_back(ids[0], &other));
        assert!(finished.contains(ids[1], &one) && finished.contains(ids[1], &other));
    }
}
