//! What a server tells a client whose request it refuses.

use std::fmt;

use crate::serve::bounds::LimitReached;
use crate::serve::routes::{Denied, DeniedAction, Refusal};

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Role(role, what) => {
                write!(f, "this key may not {what}: its role is {role}")
            }
            Self::Name => f.write_str("this key is not for that name (names= in the key file)"),
            Self::AllNames => f.write_str(
                "this key may not change what is logged: it is for some names only (names= in the \
                 key file)",
            ),
            Self::Anothers => f.write_str(
                "this key may not do that to what another key has taken: its role is use",
            ),
        }
    }
}

impl fmt::Display for DeniedAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Look => "look",
            Self::Take => "take a permit",
            Self::Wait => "wait for a permit",
            Self::Renew => "renew a permit",
            Self::GiveBack => "give back a permit",
            Self::Revoke => "revoke a permit",
            Self::Pin => "pin a limit",
            Self::ChangeLog => "change what is logged",
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(full) => full.fmt(f),
            Self::LongAnswers => f.write_str("too many long answers are on their way; ask again"),
            Self::Connections => f.write_str("it has as many connections as it may have"),
            Self::LimitNotRecorded(why) => write!(f, "it cannot record a limit: {why}"),
            Self::GrantNotRecorded(why) => write!(f, "it cannot record a grant: {why}"),
        }
    }
}

impl fmt::Display for LimitReached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clients(most) => write!(f, "it has {most} clients already (--max-clients)"),
            Self::Waiters(most) => write!(f, "{most} wait there already (--max-waiters)"),
            Self::Names(most) => write!(f, "{most} semaphores are in use already (--max-names)"),
            Self::Pins(most) => write!(f, "{most} limits are pinned already (--max-pins)"),
        }
    }
}
