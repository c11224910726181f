//! Waiters, holders and former holders, and the terms agreed with them.

use std::time::Duration;

use uuid::Uuid;

use crate::backends::HolderState;
use crate::clock::Moment;
use crate::mutants::{self, Guard};

/// What is agreed about a semaphore while it is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) limit: u32,
    /// How long a grant lasts unless it is renewed; none: for ever.
    pub(crate) ttl: Option<Duration>,
}

/// A client's request for a permit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim<R> {
    pub(crate) id: Uuid,
    /// Taken when the semaphore is idle; while it is in use its own terms stand. None: an exclusive
    /// permit without a lease.
    pub(crate) terms: Option<Terms>,
    /// For how long from its grant the permit stays taken, whatever becomes of its holder.
    pub(crate) min_hold: Duration,
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

    /// For how long from its grant it stays taken. Not at all before its holder knows of it.
    pub(crate) fn min_hold(&self) -> Duration {
        let counts = self.confirmed && !mutants::is_off(Guard::Hold);
        if counts { self.claim.min_hold } else { Duration::ZERO }
    }

    pub(super) fn held_until(&self) -> Moment {
        self.since + self.min_hold()
    }
}
