//! Every exit code, and ending by the signal that ended the command. No other file holds a code's
//! number.

use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior};

use crate::supervise::signals;
use crate::supervise::{CommandEnd, ProcessEnd};

/// How a program run ends, when nothing failed on our side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// What was asked for was done.
    Success,
    /// The command exited by itself with this code.
    Command(u8),
    /// This signal ended the command, and we did not relay it.
    CommandSignalled(Signal),
    /// The command died of a signal that was meant for us as well: die of the same one, so
    /// that the caller sees what it would have seen without us.
    Reraise(Signal),
    /// No permit: busy, or the wait ran out. The number is 75 or `--conflict-exit-code`.
    NotAcquired(u8),
    /// The permit was lost. The number is 76 or `--lost-exit-code`.
    Lost(u8),
    /// The command was stopped because of `--max-runtime`.
    RanTooLong,
    /// All permits of a semaphore that `status` was asked about are taken.
    AllTaken,
    /// `doctor` found something that has to be fixed.
    Unwell,
    /// A signal ended the waiting.
    Interrupted(Signal),
    /// Nothing was asked for.
    Unclear,
}

/// `EX_TEMPFAIL` of sysexits: retry later. The default of `--conflict-exit-code`.
pub(crate) const NOT_ACQUIRED: u8 = 75;

/// `EX_PROTOCOL` of sysexits, as near as it gets. The default of `--lost-exit-code`.
pub(crate) const LOST: u8 = 76;

/// The classes of failure, one exit code each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// `EX_USAGE`: the command line or a variable cannot be understood.
    Usage,
    /// `EX_UNAVAILABLE`: the backend cannot be reached or refused us; the command never started.
    Unavailable,
    /// `EX_CONFIG`: bad configuration, or not supported by this backend.
    Unsupported,
    /// The permit is not ours, or not any more.
    NotOurs,
    /// semrun itself failed, as in timeout(1) and env(1).
    Internal,
    /// The command exists but cannot be executed.
    NotExecutable,
    /// There is no such command.
    NotFound,
}

impl Exit {
    /// Becomes the process's exit code, or does not return: see [`Exit::Reraise`].
    pub(crate) fn finish(self) -> u8 {
        if let Self::Reraise(signal) = self {
            // The command has left its core file already, if it was to leave one.
            let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
            signals::die_of(signal);
        }
        self.code()
    }

    /// The exit code.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Command(code) | Self::NotAcquired(code) | Self::Lost(code) => code,
            Self::AllTaken => NOT_ACQUIRED,
            // As timeout(1).
            Self::RanTooLong => 124,
            Self::Unwell => 1,
            Self::Unclear => Failure::Usage.code(),
            Self::CommandSignalled(signal) | Self::Interrupted(signal) | Self::Reraise(signal) => {
                u8::try_from(128 + signal.as_raw()).unwrap_or(255)
            }
        }
    }
}

impl From<ProcessEnd> for Exit {
    fn from(end: ProcessEnd) -> Self {
        match end {
            ProcessEnd::Code(code) => Self::Command(code),
            ProcessEnd::Signalled(signal) => Self::CommandSignalled(signal),
            ProcessEnd::Reraised(signal) => Self::Reraise(signal),
        }
    }
}

impl From<CommandEnd> for Exit {
    fn from(end: CommandEnd) -> Self {
        match end {
            CommandEnd::Ended(end) => end.into(),
            CommandEnd::RanTooLong => Self::RanTooLong,
        }
    }
}

impl From<Exit> for ProcessEnd {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Reraise(signal) => Self::Reraised(signal),
            Exit::CommandSignalled(signal) => Self::Signalled(signal),
            exit => Self::Code(exit.code()),
        }
    }
}

impl Failure {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Usage => 64,
            Self::Unavailable => 69,
            Self::Unsupported => 78,
            Self::NotOurs => LOST,
            Self::Internal => 125,
            Self::NotExecutable => 126,
            Self::NotFound => 127,
        }
    }
}
