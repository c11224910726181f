//! Our own clients' identities that were given back or taken away: a request of theirs that comes
//! late must not take another permit.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use uuid::Uuid;

use crate::clock::Moment;

/// How long they are remembered, and how many of them.
const REMEMBERED: Duration = Duration::from_mins(2);
const MOST: usize = 100_000;

#[derive(Debug, Default)]
pub(super) struct Finished {
    order: VecDeque<(Moment, Uuid)>,
    /// Whether it was a detached permit that was given back.
    all: HashMap<Uuid, bool>,
}

impl Finished {
    pub(super) fn add(&mut self, now: Moment, id: Uuid) {
        self.insert(now, id, false);
    }

    /// The same, for a detached permit: whoever gives it back again is told so.
    pub(super) fn give_back(&mut self, now: Moment, id: Uuid) {
        self.insert(now, id, true);
    }

    fn insert(&mut self, now: Moment, id: Uuid, given_back: bool) {
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

    pub(super) fn contains(&self, id: Uuid) -> bool {
        self.all.contains_key(&id)
    }

    pub(super) fn was_given_back(&self, id: Uuid) -> bool {
        self.all.get(&id).is_some_and(|given_back| *given_back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_finished_is_remembered_for_a_while_and_not_without_bound() {
        let mut finished = Finished::default();
        let id = |number: usize| Uuid::from_u128(number as u128);
        finished.add(Duration::ZERO, id(0));
        finished.add(REMEMBERED, id(1));
        assert!(finished.contains(id(0)) && finished.contains(id(1)));
        finished.add(REMEMBERED + Duration::from_secs(1), id(2));
        assert!(!finished.contains(id(0)) && finished.contains(id(1)));
        (3..MOST + 9).for_each(|number| finished.add(REMEMBERED, id(number)));
        assert_eq!((finished.order.len(), finished.all.len()), (MOST, MOST));
        assert!(!finished.contains(id(1)) && finished.contains(id(MOST + 8)));
        finished.give_back(REMEMBERED, id(MOST + 8));
        finished.add(REMEMBERED, id(MOST + 8));
        assert!(finished.was_given_back(id(MOST + 8)) && !finished.was_given_back(id(MOST + 7)));
    }
}
