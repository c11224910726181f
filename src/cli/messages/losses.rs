//! Why a permit is lost. Fits after a colon.

use std::fmt;

use super::stores::StoreErrorText;
use crate::backends::{Loss, StoreError};

pub(crate) struct LossText<'a>(pub(crate) &'a Loss);

impl fmt::Display for LossText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Loss::ExpiredOrRevoked => {
                "the lease expired or was revoked; another client may hold the permit"
            }
            Loss::ExpiredOrForgotten => {
                "the lease expired or was revoked, or the server was restarted without a --state-dir and \
                 forgot it; another client may hold the permit"
            }
            Loss::Revoked { now: false } => "it was revoked (semrun release --force)",
            Loss::Revoked { now: true } => "it was revoked (semrun release --force --now)",
            Loss::GivenBack => return StoreErrorText(&StoreError::GivenBack).fmt(f),
            Loss::Store(error) => return StoreErrorText(error).fmt(f),
            Loss::NotRenewed => "it was not renewed in time",
            Loss::HeldUp => "semrun was held up before it could start",
            Loss::StoppedTooLong => "semrun was stopped for too long",
            Loss::StoppedUntilOver => "semrun was stopped until its lease was over",
            Loss::OuterLost => "the semrun around it has lost it",
            Loss::OuterGone => "the semrun around it, which holds it, is gone",
        })
    }
}
