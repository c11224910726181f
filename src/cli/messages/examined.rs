//! What `semrun doctor` finds out itself, beside the backend's findings.

use std::fmt;
use std::time::Duration;

use super::exposed::TYPED;
use super::words::{Milliseconds, Span};
use crate::permits::Name;
use crate::printable::Pitfall;

/// One thing that was looked at.
pub(crate) enum Examined<'a> {
    NoMistakes,
    PasswordTyped,
    /// A name that may be taken for another one, and why.
    Pitfall(&'a Name, Pitfall),
    KillAfter {
        kill_after: Duration,
        ttl: Duration,
    },
    ProcessesHidden,
    Place {
        url: &'a str,
        is_default: bool,
    },
    /// How long another server takes to replace this one is unknown; jobs survive so long.
    FailoverWithin {
        room: Duration,
        ttl: Duration,
    },
    FailoverInTime {
        after: Duration,
        ttl: Duration,
    },
    /// With a TTL of `enough` jobs would survive it.
    FailoverTooLate {
        after: Duration,
        ttl: Duration,
        enough: Duration,
    },
    Trial {
        acquired: Duration,
        released: Duration,
    },
    /// No permit was free for the trial.
    TrialBusy,
}

impl fmt::Display for Examined<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |time: &Duration| humantime::format_duration(*time);
        match self {
            Self::NoMistakes => f.write_str("has no mistakes"),
            Self::PasswordTyped => f.write_str(TYPED),
            Self::Pitfall(name, why) => {
                write!(f, "'{name}' {why}, and one that looks the same may be another semaphore")
            }
            Self::KillAfter { kill_after, ttl } => {
                write!(f, "{}, which fits into a TTL of {}", shown(kill_after), shown(ttl))
            }
            Self::ProcessesHidden => f.write_str(
                "/proc is missing, hides processes, or is that of another pid namespace, and without it \
                 a command's processes could not be stopped in time (unshare --mount-proc mounts it)",
            ),
            Self::Place { url, is_default } => {
                write!(f, "{url}{}", if *is_default { " (the default)" } else { "" })
            }
            Self::FailoverWithin { room, ttl } => write!(
                f,
                "with a TTL of {} a running job goes on if another server takes the place of this one \
                 within {}",
                shown(ttl),
                Span(*room)
            ),
            Self::FailoverInTime { after, ttl } => write!(
                f,
                "another server takes the place of this one after {}, and with a TTL of {} running jobs \
                 go on",
                Span(*after),
                shown(ttl)
            ),
            Self::FailoverTooLate { after, ttl, enough } => write!(
                f,
                "another server takes the place of this one after {}, and with a TTL of {} every running \
                 job is stopped by then (76); use --ttl {} or more, or make the failover faster",
                Span(*after),
                shown(ttl),
                shown(enough)
            ),
            Self::Trial { acquired, released } => write!(
                f,
                "a permit was acquired in {} and given back in {}",
                Milliseconds(*acquired),
                Milliseconds(*released)
            ),
            Self::TrialBusy => {
                f.write_str("no permit was free just now: another doctor is at work")
            }
        }
    }
}

/// What is to be done about all of it.
pub(crate) struct Summary {
    pub(crate) errors: usize,
    pub(crate) warnings: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errors {
            0 => f.write_str("nothing to mend")?,
            1 => f.write_str("1 thing to mend")?,
            many => write!(f, "{many} things to mend")?,
        }
        match self.warnings {
            0 => Ok(()),
            1 => f.write_str(", 1 warning"),
            many => write!(f, ", {many} warnings"),
        }
    }
}
