//! Why a permit cannot be renewed, given back or revoked.

use std::fmt;

use super::losses::LossText;
use super::words;
use crate::permits::{Holder, HolderState, LossReason, Name};

/// A permit that the user wants to do something with, and may not.
#[derive(Debug)]
pub(crate) struct PermitRefused {
    pub(crate) permit: String,
    pub(crate) why: WhyNotOurs,
}

#[derive(Debug)]
pub(crate) enum WhyNotOurs {
    NoHolder,
    /// What its holder left cannot be read.
    Unreadable,
    /// A permit that was named is held so, if at all; whether `--force` would revoke it.
    Held {
        holder: Option<Box<Holder>>,
        force_helps: bool,
    },
    Lost(LossReason),
}

impl PermitRefused {
    /// That of the one holder of a semaphore.
    pub(crate) fn of(name: &Name, why: WhyNotOurs) -> Self {
        Self { permit: format!("of '{name}'"), why }
    }
}

impl fmt::Display for PermitRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the permit {} ", self.permit)?;
        match &self.why {
            WhyNotOurs::NoHolder => f.write_str("has no holder"),
            WhyNotOurs::Unreadable => {
                f.write_str("left no record that can be read, so it cannot be revoked")
            }
            WhyNotOurs::Lost(why) => write!(f, "is lost: {}", LossText(why)),
            WhyNotOurs::Held { holder, force_helps } => {
                held(f, holder.as_deref())?;
                f.write_str(if *force_helps { "; --force revokes it" } else { "" })
            }
        }
    }
}

impl std::error::Error for PermitRefused {}

fn held(f: &mut fmt::Formatter<'_>, holder: Option<&Holder>) -> fmt::Result {
    let Some(holder) = holder else {
        return f.write_str("has no holder any more: it ran out, was given back, or never was");
    };
    if matches!(holder, Holder::Foreign { .. }) {
        return f.write_str("is one of another program");
    }
    match (holder.state(), holder.record()) {
        (HolderState::MinHold, _) => {
            f.write_str("has been given back, and is kept for a while (--min-hold)")
        }
        (HolderState::Revoking, _) => f.write_str("was revoked (semrun release --force)"),
        (HolderState::Holding, Some(record)) if record.who.detached => {
            f.write_str("has run out, and is free soon")
        }
        (HolderState::Holding, Some(record)) => write!(
            f,
            "is that of a running command, which renews it and gives it back: {}",
            words::HolderText(record)
        ),
        (HolderState::Holding, None) => f.write_str("has a holder that left no record"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permits::{ClientInfo, Record};

    #[test]
    fn a_permit_that_was_acquired_is_never_called_that_of_a_running_command() {
        let said = |detached| {
            let who = ClientInfo {
                label: "l".into(),
                host: "h".into(),
                pid: 1,
                user: "u".into(),
                detached,
            };
            let record = Some(Record::at(uuid::Uuid::nil(), who, std::time::UNIX_EPOCH));
            let holder =
                Holder::Known { token: None, record, phase: HolderState::Holding, left: None };
            let why = WhyNotOurs::Held { holder: Some(holder.into()), force_helps: false };
            PermitRefused::of(&"x".parse().unwrap(), why).to_string()
        };
        assert!(said(false).contains("running command"));
        // Where a holder that was not heard of for long gets some time more it is there still.
        assert!(said(true).contains("has run out"));
    }
}
