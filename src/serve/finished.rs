//! Our own clients' identities that were given back: a request of theirs that comes late must not
//! take another permit.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use uuid::Uuid;

use crate::clock::Moment;

/// How long they are remembered, and how many of them.
const REMEMBERED: Duration = Duration::from_mins(2);
const MOST: usize = 100_000;

#[derive(Debug, Default)]
pub(super) struct Finished {
    order: VecDeque<(Moment, Uuid)>,
    all: HashSet<Uuid>,
}

impl Finished {
    pub(super) fn add(&mut self, now: Moment, id: Uuid) {
        while let Some((when, old)) = self.order.front().copied()
            && (when + REMEMBERED < now || self.order.len() >= MOST)
        {
            self.order.pop_front();
            self.all.remove(&old);
        }
        if self.all.insert(id) {
            self.order.push_back((now, id));
        }
    }

    pub(super) fn contains(&self, id: Uuid) -> bool {
        self.all.contains(&id)
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
    }
}
