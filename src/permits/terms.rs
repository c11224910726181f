//! What a client asks of a semaphore. A new thing that can be asked is a field here: settings,
//! requests, stores, the ledger and the journal carry all of it, and none of them names its fields
//! but the one that follows a rule for it.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::json::{is_default, millis};
use crate::permits::error::MissingFeature;

/// The terms of a permit. In a request those that the client wants, in an answer those that it has.
/// As JSON its fields stand among those of the request or the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Permits in all. While a semaphore is in use its own limit stands.
    // The limit and the TTL stay the first fields: journals have them as a pair.
    #[serde(default)]
    pub limit: u32,
    /// How long a permit is valid from its last renewal, where permits can expire. It stands as the
    /// limit does.
    #[serde(rename = "ttl_ms", with = "millis", default, skip_serializing_if = "is_default")]
    pub ttl: Duration,
    /// Another limit or TTL in force is an error.
    #[serde(default, skip_serializing_if = "is_default")]
    pub strict: bool,
    /// For how long from its grant the permit stays taken, even if it is given back, or its holder
    /// dies, before that; from now where the grant is forgotten. In an answer the rest of it.
    #[serde(rename = "min_hold_ms", with = "millis", default, skip_serializing_if = "is_default")]
    pub min_hold: Duration,
}

/// One permit, for 30 s from each renewal.
impl Default for Terms {
    fn default() -> Self {
        let (ttl, min_hold) = (Duration::from_secs(30), Duration::ZERO);
        Self { limit: 1, ttl, strict: false, min_hold }
    }
}

impl Terms {
    /// The limits that a semaphore may have.
    pub(crate) const LIMITS: RangeInclusive<u32> = 1..=10_000;
    /// The shortest TTL that can be asked for: renewals need time to fail and to be repeated.
    pub(crate) const SHORTEST_TTL: Duration = Duration::from_secs(5);
    /// The longest time that can be asked for. Timers end somewhere beyond this.
    pub(crate) const LONGEST: Duration = Duration::from_hours(100 * 366 * 24);

    /// Whether a semaphore can have them. Shorter TTLs than [`Terms::SHORTEST_TTL`] work as well.
    pub(crate) fn are_possible(&self) -> bool {
        Self::LIMITS.contains(&self.limit)
            && self.ttl >= Duration::from_millis(1)
            && self.times().iter().all(|time| *time <= Self::LONGEST)
    }

    /// Whether a user may ask for them.
    pub(crate) fn are_sane(&self) -> bool {
        self.are_possible() && self.ttl >= Self::SHORTEST_TTL
    }

    /// All lengths of time among them.
    pub(crate) fn times(&self) -> [Duration; 2] {
        [self.ttl, self.min_hold]
    }

    /// Whether a permit may stay taken after it was given back.
    pub(crate) fn keep(&self) -> bool {
        !self.min_hold.is_zero()
    }

    /// Only what all users of a semaphore have in common.
    pub(crate) fn shared(self) -> Self {
        Self { limit: self.limit, ttl: self.ttl, ..Self::default() }
    }

    /// What is left of them, some time later.
    pub(crate) fn after(self, time: Duration) -> Self {
        Self { min_hold: self.min_hold.saturating_sub(time), ..self }
    }

    /// The same with what the semaphore's users have agreed on.
    pub(crate) fn as_agreed(self, agreed: Self) -> Self {
        Self { limit: agreed.limit, ttl: agreed.ttl, ..self }
    }

    /// Whether users of one semaphore can have both.
    pub(crate) fn agree(&self, other: &Self) -> bool {
        (self.limit, self.ttl) == (other.limit, other.ttl)
    }

    /// What a server of the original kind lacks of this.
    pub(crate) fn beyond_the_original(&self) -> Option<MissingFeature> {
        if self.limit > 1 {
            return Some(MissingFeature::Permits(self.limit));
        }
        (!self.min_hold.is_zero()).then_some(MissingFeature::Term("min_hold"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_semaphore_can_have_may_be_asked_for() {
        let (least, sane) = (Duration::from_nanos(1), Terms::default());
        assert!(sane.are_sane() && !sane.keep());
        for limit in [0, 10_001] {
            assert!(!Terms { limit, ..sane }.are_possible(), "{limit}");
        }
        let brief = Terms { ttl: Terms::SHORTEST_TTL.saturating_sub(least), ..sane };
        assert!(brief.are_possible() && !brief.are_sane());
        assert!(!Terms { ttl: Duration::ZERO, ..sane }.are_possible());
        let long = Terms::LONGEST;
        assert!(Terms { ttl: long, min_hold: long, ..sane }.are_sane());
        for time in [long + least, Duration::MAX] {
            assert!(!Terms { ttl: time, ..sane }.are_possible());
            assert!(!Terms { min_hold: time, ..sane }.are_possible());
        }
    }
}
