//! How a command and its processes ended. The exit code for that is decided elsewhere.

use rustix::process::{Signal, WaitStatus};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommandEnd {
    /// By itself, or by a signal.
    Ended(ProcessEnd),
    /// It was stopped because it had run for as long as it may.
    RanTooLong,
}

/// How a process ended, and how semrun ends in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProcessEnd {
    /// It exited with this code.
    Code(u8),
    /// By a signal that we did not relay.
    Signalled(Signal),
    /// By a signal that was meant for us as well.
    Reraised(Signal),
}

impl ProcessEnd {
    /// How the command ended. `ours` are the signals that semrun received itself.
    pub(super) fn of(status: WaitStatus, ours: &[Signal]) -> Self {
        let signal = status.terminating_signal().and_then(Signal::from_named_raw);
        match (signal, status.exit_status()) {
            (Some(signal), _) if ours.contains(&signal) => Self::Reraised(signal),
            (Some(signal), _) => Self::Signalled(signal),
            (None, code) => {
                // A real-time signal has no name; its number still makes the code.
                let code = code.or(status.terminating_signal().map(|number| 128 + number));
                Self::Code(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(255))
            }
        }
    }
}
