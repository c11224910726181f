//! What to do about what happens to a running command. A pure function of what happened so far:
//! no clock, no processes, no signals. `docs/supervision.md` tells the same as a story.

use rustix::process::Signal;

use super::signals::{Arrival, Origin};
use crate::mutants::{self, Guard};

/// What the user chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rules {
    pub(crate) orphans: Orphans,
    /// The command is in our own process group.
    pub(crate) foreground: bool,
    /// What semrun sends first when it stops a command of its own accord.
    pub(crate) stop_signal: Signal,
    pub(crate) on_lost: OnLost,
}

/// What happens to a command whose permit is lost, or cannot be renewed any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnLost {
    Kill,
    Continue,
}

/// What happens to the processes that a command leaves behind when it exits. A command that semrun
/// stops leaves none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Orphans {
    Leave,
    Wait,
    Kill,
}

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PolicyEvent {
    Arrived {
        arrival: Arrival,
        terminal: Terminal,
    },
    /// The command was stopped by a signal; it has not ended.
    Stopped {
        signal: Signal,
        terminal: Terminal,
    },
    /// The command ended; processes that it started may be left.
    Ended(CommandEnding),
    /// No semrun that runs under the same permit is left in the tree.
    NestedEnded,
    /// Another process of the tree ended; some are left.
    Shrunk,
    /// Nothing is left of the command.
    Gone,
    /// The time that a stopped tree has to end by itself is over.
    GraceOver,
    /// The permit is lost, or about to end without having been renewed.
    Lost,
    /// The permit is lost, and another client may begin at this moment.
    Taken,
    /// The command has run for as long as it may.
    RanTooLong,
    /// The process that others take for semrun was killed.
    Abandoned,
    /// We wanted to stop and did not, because no shell controls our process group.
    NotSuspended {
        terminal: Terminal,
    },
}

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CommandEnding {
    /// None: a signal ended it.
    pub(crate) code: Option<i32>,
    /// Whether semrun had received INT or QUIT before.
    pub(crate) interrupted: bool,
    /// Whether semruns that it started go on under the same permit.
    pub(crate) nested: bool,
}

impl CommandEnding {
    /// Whether the command was stopped, and did not end by itself.
    fn was_stopped(self) -> bool {
        /// A shell exits with them when a child of its own died of HUP, INT, QUIT, KILL or TERM.
        const OF_A_SIGNAL: [i32; 5] = [128 + 1, 128 + 2, 128 + 3, 128 + 9, 128 + 15];
        if mutants::is_off(Guard::StoppedTakesTree) {
            return false;
        }
        match self.code {
            None => true,
            Some(0) => false,
            Some(code) => self.interrupted || OF_A_SIGNAL.contains(&code),
        }
    }
}

/// Which group has the controlling terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Terminal {
    /// There is none.
    None,
    /// Our process group.
    Ours,
    /// The command's.
    Commands,
    /// Another job of the shell, or the shell.
    Elsewhere,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Nothing,
    /// Pass the signal on.
    Forward(Signal),
    /// End the whole tree: send the signal, then let the grace time run. None: the command has
    /// the signal already.
    Stop(Option<Signal>),
    /// Send the signal to what the command left behind, to each process once.
    StopOrphans(Signal),
    /// End the whole tree now.
    Kill,
    /// Take the terminal back and stop with our whole group, so that the shell sees the job
    /// stopped; once continued, resume.
    Suspend,
    /// The same, and from now on the command gets the terminal.
    SuspendAndGive,
    /// Pass the signal on, if there is one, and stop ourselves.
    SuspendAlone(Option<Signal>),
    /// Continue the command, with the terminal if it wants it and our group has it.
    Resume,
    /// The same, and from now on it gets the terminal.
    Give,
    /// Only that: it gets the terminal when our group has it.
    GiveLater,
    /// Take the terminal from the command for the rest of our group.
    Lend,
    /// We are done: give the permit back.
    Finish,
}

/// The state of one command.
#[derive(Debug)]
pub(crate) struct Policy {
    rules: Rules,
    phase: PolicyPhase,
    /// Whether semrun was stopped, and not continued since, in one group with the command.
    stopped_with_command: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PolicyPhase {
    Running,
    /// The command has ended by itself and we wait for what it left.
    Lingering,
    /// The tree was told to end.
    Stopping(Signal),
}

impl Policy {
    pub(crate) fn new(rules: Rules) -> Self {
        Self { rules, phase: PolicyPhase::Running, stopped_with_command: false }
    }

    pub(crate) fn on(&mut self, event: PolicyEvent) -> Action {
        let action = self.decide(event);
        match (event, action) {
            (_, Action::SuspendAlone(_)) => self.stopped_with_command = true,
            (PolicyEvent::NotSuspended { .. }, _) => self.stopped_with_command = false,
            _ => {}
        }
        action
    }

    fn decide(&mut self, event: PolicyEvent) -> Action {
        match event {
            PolicyEvent::Arrived { arrival, terminal } => self.on_signal(arrival, terminal),
            PolicyEvent::Stopped { signal, terminal } => self.on_stopped(signal, terminal),
            PolicyEvent::Ended(_) if mutants::is_off(Guard::ReleaseAfterDeath) => Action::Finish,
            PolicyEvent::Ended(ending) => match (self.phase, self.rules.orphans) {
                // A command that is stopped takes everything it started with it, always.
                (PolicyPhase::Stopping(signal), _) => Action::StopOrphans(signal),
                _ if ending.was_stopped() => self.stop(),
                (_, Orphans::Kill) => self.stop(),
                (_, Orphans::Leave) if !ending.nested => Action::Finish,
                // A nested run is never without its permit.
                (_, Orphans::Leave | Orphans::Wait) => {
                    self.phase = PolicyPhase::Lingering;
                    Action::Nothing
                }
            },
            PolicyEvent::NestedEnded => match (self.phase, self.rules.orphans) {
                (PolicyPhase::Lingering, Orphans::Leave) => Action::Finish,
                _ => Action::Nothing,
            },
            PolicyEvent::Shrunk => match self.phase {
                PolicyPhase::Stopping(signal) => Action::StopOrphans(signal),
                PolicyPhase::Running | PolicyPhase::Lingering => Action::Nothing,
            },
            PolicyEvent::Gone => Action::Finish,
            PolicyEvent::GraceOver => Action::Kill,
            PolicyEvent::Lost | PolicyEvent::Taken if self.rules.on_lost == OnLost::Continue => {
                Action::Nothing
            }
            PolicyEvent::Lost | PolicyEvent::RanTooLong => match self.phase {
                PolicyPhase::Stopping(_) => Action::Nothing,
                PolicyPhase::Running | PolicyPhase::Lingering => self.stop(),
            },
            PolicyEvent::Abandoned if mutants::is_off(Guard::Guardian) => Action::Nothing,
            // Of `Abandoned`: the SIGKILL was meant for the command as well.
            PolicyEvent::Taken | PolicyEvent::Abandoned => {
                self.phase = PolicyPhase::Stopping(Signal::KILL);
                Action::Kill
            }
            // A job in front goes on. One that asked for a terminal of others stays stopped until
            // it is continued.
            PolicyEvent::NotSuspended { terminal: Terminal::Elsewhere } => Action::Nothing,
            PolicyEvent::NotSuspended { .. } => Action::Resume,
        }
    }

    /// Ends the tree of our own accord.
    fn stop(&mut self) -> Action {
        self.phase = PolicyPhase::Stopping(self.rules.stop_signal);
        Action::Stop(Some(self.rules.stop_signal))
    }

    fn on_signal(&mut self, Arrival { signal, origin }: Arrival, terminal: Terminal) -> Action {
        // The terminal sends its signals to the whole foreground group. With --foreground the
        // command is in it and has them already.
        let has_it = self.rules.foreground && origin == Origin::Kernel;
        match signal {
            // The sender of these wants us gone, and does not know that there is more than us.
            Signal::TERM | Signal::HUP => match self.phase {
                PolicyPhase::Stopping(_) if has_it => Action::Nothing,
                PolicyPhase::Stopping(_) => Action::Forward(signal),
                PolicyPhase::Running | PolicyPhase::Lingering => {
                    self.phase = PolicyPhase::Stopping(signal);
                    Action::Stop((!has_it).then_some(signal))
                }
            },
            // The shell's `fg` has continued the whole group. To do so once more, and later, would undo a
            // Ctrl-Z that was typed meanwhile.
            Signal::CONT
                if std::mem::take(&mut self.stopped_with_command) && terminal == Terminal::Ours =>
            {
                Action::Nothing
            }
            // Also means that we were continued: the shell's `fg` and `bg`.
            Signal::CONT => Action::Resume,
            // With --foreground only we stop ourselves. Otherwise we stop once the command has, so
            // that an editor can put the screen in order before the shell prompts.
            Signal::TSTP if has_it => Action::SuspendAlone(None),
            Signal::TSTP if self.rules.foreground => Action::SuspendAlone(Some(signal)),
            // Another command of our pipeline asks for the terminal, and the kernel stops the
            // whole group for that. If ours has it, it can be lent; if not, the job is in the
            // background, and stops as a whole.
            Signal::TTIN | Signal::TTOU if self.rules.foreground => Action::SuspendAlone(None),
            Signal::TTIN | Signal::TTOU if terminal == Terminal::Commands => Action::Lend,
            Signal::TTIN | Signal::TTOU => Action::Forward(Signal::TSTP),
            _ if has_it => Action::Nothing,
            // INT, QUIT, USR1, WINCH, TSTP and all others: the program decides for itself.
            _ => Action::Forward(signal),
        }
    }

    fn on_stopped(&self, signal: Signal, terminal: Terminal) -> Action {
        let wants_terminal = signal == Signal::TTIN || signal == Signal::TTOU;
        match (terminal, self.phase) {
            // Ctrl-Z's signal comes to us as well, or went to us alone.
            _ if self.rules.foreground => Action::Nothing,
            // It was told to end, and may need the terminal for that. If not, it is killed soon.
            (Terminal::Ours, PolicyPhase::Stopping(_)) if wants_terminal => Action::Give,
            (Terminal::Elsewhere, PolicyPhase::Stopping(_)) if wants_terminal => Action::GiveLater,
            // Without a terminal there is no shell whose job this could be.
            (_, PolicyPhase::Stopping(_)) | (Terminal::None, _) => Action::Nothing,
            // The command did not have the terminal and asks for it; ours to give.
            (Terminal::Ours, _) if wants_terminal => Action::Give,
            // The user's Ctrl-Z, or anything else that leaves the terminal with a stopped job.
            (Terminal::Commands, _) => Action::Suspend,
            // In the background: the shell has to learn that its job wants the terminal.
            _ if wants_terminal => Action::SuspendAndGive,
            _ if signal == Signal::TSTP => Action::Suspend,
            // Another process froze the command with SIGSTOP and will continue it. The permit
            // stays.
            _ => Action::Nothing,
        }
    }
}

#[cfg(test)]
mod tests;
