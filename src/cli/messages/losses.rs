//! Why a permit is lost. Fits after a colon.

use std::fmt;

use super::stores::StoreErrorText;
use crate::permits::{LossReason, StoreError};

pub(crate) struct LossText<'a>(pub(crate) &'a LossReason);

impl fmt::Display for LossText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            LossReason::ExpiredOrRevoked => {
                "the lease expired or was revoked; another client may hold the permit"
            }
            LossReason::ExpiredOrForgotten => {
                "the lease expired or was revoked, or the server was restarted without a --state-dir and \
                 forgot it; another client may hold the permit"
            }
            LossReason::Revoked { now: false } => "it was revoked (semrun release --force)",
            LossReason::Revoked { now: true } => "it was revoked (semrun release --force --now)",
            LossReason::GivenBack => return StoreErrorText(&StoreError::GivenBack).fmt(f),
            LossReason::Store(error) => return StoreErrorText(error).fmt(f),
            LossReason::NotRenewed => "it was not renewed in time",
            LossReason::HeldUp => "semrun was held up before it could start",
            LossReason::StoppedTooLong => "semrun was stopped for too long",
            LossReason::StoppedUntilOver => "semrun was stopped until its lease was over",
            LossReason::OuterLost => "the semrun around it has lost it",
            LossReason::OuterGone => "the semrun around it, which holds it, is gone",
        })
    }
}
