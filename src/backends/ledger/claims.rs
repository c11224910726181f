//! Waiters, holders and former holders, and the terms agreed with them.

use uuid::Uuid;

use crate::clock::Moment;
use crate::mutants::{self, Guard};
use crate::permits::HolderState;
use crate::permits::Terms;

/// A client's request for a permit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim<R> {
    pub(crate) id: Uuid,
    /// Their limit and TTL are taken when the semaphore is idle; while it is in use its own stand.
    /// None: an exclusive permit without a lease.
    pub(crate) terms: Option<Terms>,
    pub(crate) record: R,
}

/// A permit that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LedgerHolder<R> {
    pub(crate) claim: Claim<R>,
    pub(crate) token: u64,
    /// When it was granted.
    pub(crate) since: Moment,
    pub(crate) phase: HolderState,
    /// The end of its lease, which may be over while the permit stays taken.
    pub(super) lease: Option<Moment>,
    pub(crate) ticket: u64,
    /// Whether the holder has said that it knows.
    pub(super) confirmed: bool,
}

/// The result of a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewal {
    Held,
    /// It is still held, but cannot be renewed.
    Revoked,
    /// It has ended or was never there, and another client may hold it.
    Lost,
}

/// What happened to a holder or waiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LedgerEvent {
    /// It was waiting and has a permit now.
    Granted { id: Uuid, token: u64 },
    /// It did not take the permit that it was granted, and waits again.
    Lapsed(Uuid),
    /// It has given its permit back, which stays taken for a while.
    Kept(Uuid),
    /// It still has its permit, and cannot renew it any more.
    Revoked(Uuid),
    /// It neither holds nor waits any more.
    Gone(Uuid),
}

impl<R> LedgerHolder<R> {
    /// The permit is held until this moment, and not at it.
    pub(crate) fn expires(&self) -> Option<Moment> {
        match self.phase {
            HolderState::Holding => self.lease.map(|lease| lease.max(self.held_until())),
            HolderState::Revoking => self.lease,
            HolderState::MinHold => Some(self.held_until()),
        }
    }

    /// Whether its holder has said that it knows of it.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    /// What was granted. Nothing keeps a permit before its holder knows of it.
    pub(crate) fn terms(&self) -> Option<Terms> {
        let counts = self.confirmed && !mutants::is_off(Guard::Hold);
        let granted = |terms: Terms| {
            if counts { Terms { strict: false, ..terms } } else { terms.shared() }
        };
        self.claim.terms.map(granted)
    }

    /// What is left of that.
    pub(crate) fn terms_left(&self, now: Moment) -> Option<Terms> {
        self.terms().map(|terms| terms.after(now.saturating_sub(self.since)))
    }

    pub(super) fn held_until(&self) -> Moment {
        self.since + self.terms().map(|terms| terms.min_hold).unwrap_or_default()
    }

    /// A restart forgets the terms of a permit that was not claimed before it. Those of one that was
    /// given back cannot be changed any more.
    pub(super) fn learn(&mut self, terms: Option<Terms>) {
        if self.phase != HolderState::MinHold
            && let Some((_, terms)) = self.claim.terms.zip(terms)
        {
            self.claim.terms = Some(terms);
        }
    }
}
