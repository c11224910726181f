//! Every sentence that a person reads, as types with `Display`. Nothing is decided here.

mod cannot_run;
mod certificates;
mod configuration;
mod directories;
mod errors;
mod examined;
mod exposed;
mod files;
mod findings;
mod journals;
mod keys;
mod losses;
mod names;
mod not_executable;
mod output_text;
mod permit_refused;
mod refusals;
mod serving;
mod settings;
mod shells;
mod slips;
mod stores;
#[cfg(test)]
mod tests;
mod urls;
mod usage_errors;
mod versions;
mod waiting;
mod words;

use std::fmt;
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Signal, WaitStatus};

pub(crate) use self::cannot_run::CannotRun;
pub(crate) use self::errors::{ErrorText, FailedText, GaveUpWaiting, HolderUnreachable, OddText};
pub(crate) use self::examined::{Examined, Summary};
pub(crate) use self::exposed::{ExposedSecret, UnusedSecret};
pub(crate) use self::findings::Check;
pub(crate) use self::losses::LossText;
pub(crate) use self::output_text::Output;
pub(crate) use self::permit_refused::{PermitRefused, WhyNotOurs};
pub(crate) use self::serving::{CannotReload, CannotServe, ServerNews, server_fact};
use self::stores::StoreErrorText;
pub(crate) use self::waiting::WaitingText;
pub(crate) use self::words::{HolderText, Span};
use crate::backends::{
    self, HolderState, LossReason, Name, PermitId, Revocation, SemaphoreSnapshot, StoreError,
};
use crate::printable::{Context, Pitfall, quoted};
use crate::settings::{NoShell, UnknownWord};
use crate::supervise::signals;

/// The end of the waiting.
pub(crate) enum Waited<'a> {
    Granted(&'a Name, Duration),
    GaveUp(&'a Name, Duration),
    Interrupted(&'a Name, Duration, Signal),
}

impl fmt::Display for Waited<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Granted(name, after) => write!(f, "got '{name}' after {}", Span(*after)),
            Self::GaveUp(name, after) => {
                write!(f, "gave up waiting for '{name}' after {}", Span(*after))
            }
            Self::Interrupted(name, after, signal) => {
                let signal = signals::name(*signal);
                write!(f, "stopped waiting for '{name}' after {} (SIG{signal})", Span(*after))
            }
        }
    }
}

/// What differs from the request, or is stuck.
pub(crate) enum Warning<'a> {
    Limit {
        name: &'a Name,
        asked: u32,
        stands: u32,
        pinned: bool,
    },
    Ttl {
        name: &'a Name,
        asked: Duration,
        stands: Duration,
    },
    Foreign {
        name: &'a Name,
        ttl: Duration,
    },
    Blind,
    Deaf(Duration),
    Unkillable(&'a [Pid]),
    Trouble {
        name: &'a Name,
        what: &'a StoreError,
    },
    NotReleased(&'a crate::permits::BackendError),
    HeldAround(&'a Name),
    Unproven(&'a Name),
    /// A variable that does nothing, and is nearly one of ours.
    Variable(&'a UnknownWord),
}

impl fmt::Display for Warning<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("warning: ")?;
        match self {
            Self::Limit { name, asked, stands, pinned: true } => write!(
                f,
                "'{name}' is pinned to a limit of {stands} (semrun limit), not the {asked} asked for"
            ),
            Self::Limit { name, asked, stands, pinned: false } => write!(
                f,
                "'{name}' is in use with limit {stands}; your limit {asked} is ignored until it is idle"
            ),
            Self::Trouble { name, what } => {
                let what = StoreErrorText(what);
                write!(f, "lost contact with the backend of '{name}', retrying: {what}")
            }
            Self::Ttl { name, asked, stands } => write!(
                f,
                "'{name}' is in use with a TTL of {}, which counts until it is idle; not the \
                 {} asked for",
                humantime::format_duration(*stands),
                humantime::format_duration(*asked)
            ),
            Self::Foreign { name, ttl } => write!(
                f,
                "other programs (PassBuddy?) hold permits of '{name}'; give --ttl the TTL that \
                 they use, which may not be the {} in force here",
                humantime::format_duration(*ttl)
            ),
            Self::Blind => f.write_str(
                "this Redis does not answer INFO (an ACL forbids it, or it was renamed), so a \
                 restart that loses permits, or a policy that evicts them, goes unnoticed; allow it \
                 with ACL SETUSER … +info",
            ),
            Self::Deaf(late) => write!(
                f,
                "this Redis does not answer BLPOP (an ACL forbids it, or it was renamed), so a \
                 permit that is given back is noticed up to {} later; allow it with ACL SETUSER … \
                 +blpop",
                Span(*late)
            ),
            Self::Unkillable(pids) => {
                let pids: Vec<_> = pids.iter().map(ToString::to_string).collect();
                write!(
                    f,
                    "not allowed to kill {} of the command's processes (pid {}); keeping the \
                     permit until they end",
                    pids.len(),
                    pids.join(", ")
                )
            }
            Self::HeldAround(name) => write!(
                f,
                "a permit of '{name}' is held around this command already (SEMRUN_HELD), and this \
                 takes another one"
            ),
            Self::Unproven(name) => write!(
                f,
                "SEMRUN_HELD says that a permit of '{name}' is held around this command, but no \
                 semrun that holds it is above this process here (a container in between, or a copied \
                 environment?); waiting for another one, and for ever if it is the only one"
            ),
            Self::Variable(word) => word.fmt(f),
            Self::NotReleased(error) => {
                write!(f, "the permit was not given back: {}", ErrorText(error))
            },
        }
    }
}

/// A permit that is lost, or has to count as lost.
pub(crate) struct PermitLost<'a> {
    pub(crate) name: &'a Name,
    pub(crate) why: &'a LossReason,
    pub(crate) command: CommandFate,
}

/// What happens to a command without a permit.
#[derive(Debug, Clone, Copy)]
pub(crate) enum CommandFate {
    Stops,
    GoesOn,
    HasEnded,
}

impl fmt::Display for PermitLost<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, why, command } = self;
        let why = LossText(why);
        match command {
            CommandFate::Stops => {
                write!(f, "the permit of '{name}' cannot be kept, stopping the command: {why}")
            }
            CommandFate::GoesOn => write!(
                f,
                "the permit of '{name}' is lost and another holder may have it, while the command \
                 goes on: {why}"
            ),
            CommandFate::HasEnded => write!(
                f,
                "the permit of '{name}' may have been another holder's before the command ended: \
                 {why}"
            ),
        }
    }
}

/// A command that has run for as long as it may.
pub(crate) struct RanTooLong(pub(crate) Duration);

impl fmt::Display for RanTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = humantime::format_duration(self.0);
        write!(f, "the command has run for {time}, stopping it (--max-runtime)")
    }
}

/// A command that is stopped because semrun was told to go.
pub(crate) struct StoppedBySignal(pub(crate) Signal);

impl fmt::Display for StoppedBySignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "got SIG{}, stopping the command", signals::name(self.0))
    }
}

/// A permit that is revoked.
pub(crate) struct Revoking<'a> {
    pub(crate) name: &'a Name,
    pub(crate) holder: &'a backends::Holder,
    pub(crate) how: Revocation,
    pub(crate) time: SystemTime,
}

impl fmt::Display for Revoking<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, holder, how, time } = self;
        write!(f, "revoking the permit of '{name}' from ")?;
        match (holder, holder.record()) {
            (_, Some(record)) => {
                let age = time.duration_since(record.since).unwrap_or_default();
                write!(f, "{}, who has held it for {}", HolderText(record), Span(age))?;
            }
            (backends::Holder::Foreign { permit, .. }, _) => {
                write!(f, "another program ({})", quoted(permit, Context::Words))?;
            }
            (backends::Holder::Known { .. }, None) => {
                f.write_str("a holder that left no record")?;
            }
        }
        let detached = holder.record().is_some_and(|record| record.who.detached);
        let when = if detached { "it is given back" } else { "that has stopped" };
        match (how, holder.left(), holder.state()) {
            (_, _, HolderState::MinHold) => {
                f.write_str("; nothing runs under it, and it passes on at once")
            }
            (Revocation::Forced, ..) => f.write_str(
                "; it passes on at once, and what runs under it may run beside the next until it is \
                 stopped",
            ),
            (Revocation::Graceful, Some(left), _) => {
                write!(f, "; it passes on when {when}, in {} at the latest", Span(left))
            }
            (Revocation::Graceful, None, _) => write!(f, "; it passes on when {when}"),
        }
    }
}

/// The holders of a semaphore, of which one has to be chosen.
#[derive(Debug)]
pub(crate) struct ChooseHolder {
    pub(crate) snapshot: SemaphoreSnapshot,
    pub(crate) now: SystemTime,
}

impl std::error::Error for ChooseHolder {}

impl fmt::Display for ChooseHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SemaphoreSnapshot { name, holders, .. } = &self.snapshot;
        write!(f, "'{name}' has {} holders; choose one: ", holders.len())?;
        for (at, holder) in holders.iter().enumerate() {
            if at > 0 {
                f.write_str("; ")?;
            }
            match (holder.id(), holder.record()) {
                (Some(id), Some(record)) => {
                    let age = self.now.duration_since(record.since).unwrap_or_default();
                    write!(
                        f,
                        "--permit {id}@{name} is held for {} by {}",
                        Span(age),
                        HolderText(record)
                    )?;
                }
                (Some(id), None) => write!(f, "--permit {id}@{name} is held by another program")?,
                (None, _) => f.write_str("one holder left no record that can be read")?,
            }
        }
        Ok(())
    }
}

/// The process that held the permit was killed.
#[derive(Debug)]
pub(crate) struct Died {
    pub(crate) name: Name,
    pub(crate) status: WaitStatus,
}

impl fmt::Display for Died {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.status.terminating_signal().and_then(Signal::from_named_raw) {
            Some(signal) => format!("by SIG{}", signals::name(signal)),
            None => "by itself".into(),
        };
        write!(
            f,
            "the semrun process that took care of '{}' was ended {how}, and the command with it",
            self.name
        )
    }
}

impl std::error::Error for Died {}

/// The processes of a command could not be stopped when its permit is lost.
#[derive(Debug)]
pub(crate) struct ProcessesHidden;

impl fmt::Display for ProcessesHidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the processes of a command could not be stopped in time here: /proc is missing, hides \
             them, or is that of another pid namespace (unshare --mount-proc mounts the right one)",
        )
    }
}

impl std::error::Error for ProcessesHidden {}

/// No process looks after the command any more.
#[derive(Debug)]
pub(crate) struct SupervisionFailed;

impl fmt::Display for SupervisionFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot look after the command")
    }
}

/// What `-v` adds.
pub(crate) enum Detail<'a> {
    Backend(&'a str),
    Holding(&'a PermitId),
    Released(&'a PermitId),
    Outer(&'a PermitId),
    /// What a command that has exited leaves running.
    Leaves(&'a [(Pid, String)]),
    Jitter(Duration),
    /// A name that may be taken for another one, and why.
    Pitfall(&'a Name, Pitfall),
    NoShell(&'a NoShell),
    /// No permit is free; the snapshot has the holders.
    Busy(&'a SemaphoreSnapshot),
}

impl fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backend(url) => write!(f, "permits live in {url}"),
            Self::Holding(permit) => {
                write!(f, "holding {permit}")?;
                match permit.token {
                    Some(token) => write!(f, ", fencing token {token}"),
                    None => write!(f, "; its server has no fencing tokens"),
                }
            }
            Self::Leaves(processes) => {
                let name = |name| quoted(name, Context::Words);
                let names = processes.iter().map(|(pid, one)| format!("{pid} ({})", name(one)));
                let names: Vec<_> = names.collect();
                write!(
                    f,
                    "the command has exited and leaves {} running, without a permit: {}",
                    if names.len() == 1 {
                        "a process".into()
                    } else {
                        format!("{} processes", names.len())
                    },
                    names.join(", ")
                )
            }
            Self::Jitter(time) => write!(f, "asking in {} (--jitter)", Span(*time)),
            Self::Pitfall(name, why) => {
                write!(f, "the name '{name}' {why}, and one that looks the same may be another")
            }
            Self::Released(permit) => write!(f, "released {permit}"),
            Self::NoShell(NoShell { shell, why }) => {
                let shell = shell.to_string_lossy();
                write!(f, "SHELL is '{shell}', {why}; using /bin/sh")
            }
            Self::Busy(snapshot) => {
                let now = SystemTime::now();
                write!(f, "'{}' is busy{}", snapshot.name, waiting::HeldBy::of(snapshot, now))
            }
            Self::Outer(permit) => {
                write!(f, "going ahead under {permit}, which is held around this command")
            }
        }
    }
}

/// The error that ends the program, after its context.
pub(crate) struct FatalError<'a>(pub(crate) &'a anyhow::Error);

impl fmt::Display for FatalError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.downcast_ref() {
            Some(error) => ErrorText(error).fmt(f),
            // The wrapped error has not shown its source.
            None => write!(f, "{:#}", self.0),
        }
    }
}
