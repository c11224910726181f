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

/// What becomes of a command whose permit is lost, or can no more be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnLost {
    Kill,
    Continue,
}

/// What becomes of the processes that a command leaves behind when it ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Orphans {
    Leave,
    Wait,
    Kill,
}

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
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
    Ended,
    /// Another process of the tree ended; some are left.
    Shrunk,
    /// Nothing is left of the command.
    Gone,
    /// The time that a stopped tree has to end by itself is over.
    GraceOver,
    /// The permit is lost, or about to end without having been renewed.
    Lost,
    /// The permit is lost, and somebody else may begin at this moment.
    Taken,
    /// The command has run for as long as it may.
    RanTooLong,
    /// The process that everybody takes for semrun was killed.
    Abandoned,
    /// We wanted to stop and did not, because no shell controls our process group.
    NotSuspended {
        terminal: Terminal,
    },
}

/// Who has the controlling terminal.
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
    /// The same, and from now on the command is to have the terminal.
    SuspendAndGive,
    /// Pass this on, if it is anything, and stop ourselves.
    SuspendAlone(Option<Signal>),
    /// Continue the command, with the terminal if it is to have it and our group has it.
    Resume,
    /// The same, and from now on it is to have the terminal.
    Give,
    /// Only that: it is to have the terminal when our group has it.
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
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// The command has ended by itself and we wait for what it left.
    Lingering,
    /// The tree was told to end.
    Stopping(Signal),
}

impl Policy {
    pub(crate) fn new(rules: Rules) -> Self {
        Self { rules, phase: Phase::Running }
    }

    pub(crate) fn on(&mut self, event: Event) -> Action {
        match event {
            Event::Arrived { arrival, terminal } => self.on_signal(arrival, terminal),
            Event::Stopped { signal, terminal } => self.on_stopped(signal, terminal),
            Event::Ended if mutants::is_off(Guard::ReleaseAfterDeath) => Action::Finish,
            Event::Ended => match (self.phase, self.rules.orphans) {
                // A command that is stopped takes everything it started with it, always.
                (Phase::Stopping(signal), _) => Action::StopOrphans(signal),
                (_, Orphans::Leave) => Action::Finish,
                (_, Orphans::Wait) => {
                    self.phase = Phase::Lingering;
                    Action::Nothing
                }
                (_, Orphans::Kill) => {
                    self.phase = Phase::Stopping(self.rules.stop_signal);
                    Action::Stop(Some(self.rules.stop_signal))
                }
            },
            Event::Shrunk => match self.phase {
                Phase::Stopping(signal) => Action::StopOrphans(signal),
                Phase::Running | Phase::Lingering => Action::Nothing,
            },
            Event::Gone => Action::Finish,
            Event::GraceOver => Action::Kill,
            Event::Lost | Event::Taken if self.rules.on_lost == OnLost::Continue => Action::Nothing,
            Event::Lost | Event::RanTooLong => match self.phase {
                Phase::Stopping(_) => Action::Nothing,
                Phase::Running | Phase::Lingering => {
                    self.phase = Phase::Stopping(self.rules.stop_signal);
                    Action::Stop(Some(self.rules.stop_signal))
                }
            },
            Event::Abandoned if mutants::is_off(Guard::Guardian) => Action::Nothing,
            // For the latter: SIGKILL was meant for the command as well.
            Event::Taken | Event::Abandoned => {
                self.phase = Phase::Stopping(Signal::KILL);
                Action::Kill
            }
            // A job in front goes on. One that asked for a terminal of others stays stopped until
            // somebody continues it.
            Event::NotSuspended { terminal: Terminal::Elsewhere } => Action::Nothing,
            Event::NotSuspended { .. } => Action::Resume,
        }
    }

    fn on_signal(&mut self, Arrival { signal, origin }: Arrival, terminal: Terminal) -> Action {
        // The terminal sends its signals to the whole foreground group. With --foreground the
        // command is in it and has them already.
        let has_it = self.rules.foreground && origin == Origin::Kernel;
        match signal {
            // Whoever sends these wants us gone, and does not know that there is more than us.
            Signal::TERM | Signal::HUP => match self.phase {
                Phase::Stopping(_) if has_it => Action::Nothing,
                Phase::Stopping(_) => Action::Forward(signal),
                Phase::Running | Phase::Lingering => {
                    self.phase = Phase::Stopping(signal);
                    Action::Stop((!has_it).then_some(signal))
                }
            },
            // Also means that somebody continued us: the shell's `fg` and `bg`.
            Signal::CONT => Action::Resume,
            // With --foreground nobody else stops us. Otherwise we stop once the command has,
            // so that an editor can put the screen in order before the shell prompts.
            Signal::TSTP if has_it => Action::SuspendAlone(None),
            Signal::TSTP if self.rules.foreground => Action::SuspendAlone(Some(signal)),
            // Another command of our pipeline asks for the terminal, and the kernel stops the
            // whole group for that. If ours has it, it can be lent; if not, the job is in the
            // background, and stops as a whole.
            Signal::TTIN | Signal::TTOU if self.rules.foreground => Action::SuspendAlone(None),
            Signal::TTIN | Signal::TTOU if terminal == Terminal::Commands => Action::Lend,
            Signal::TTIN | Signal::TTOU => Action::Forward(Signal::TSTP),
            _ if has_it => Action::Nothing,
            // INT, QUIT, USR1, USR2, WINCH, TSTP: an interactive program decides for itself.
            _ => Action::Forward(signal),
        }
    }

    fn on_stopped(&self, signal: Signal, terminal: Terminal) -> Action {
        let wants_terminal = signal == Signal::TTIN || signal == Signal::TTOU;
        match (terminal, self.phase) {
            // It was told to end, and may need the terminal for that; otherwise it is killed soon.
            (Terminal::Ours, Phase::Stopping(_)) if wants_terminal => Action::Give,
            (Terminal::Elsewhere, Phase::Stopping(_)) if wants_terminal => Action::GiveLater,
            (_, Phase::Stopping(_)) => Action::Nothing,
            // What Ctrl-Z sends comes to us as well, or went to us alone.
            _ if self.rules.foreground => Action::Nothing,
            // Without a terminal there is no shell whose job this could be.
            (Terminal::None, _) => Action::Nothing,
            // The command did not have the terminal and asks for it; ours to give.
            (Terminal::Ours, _) if wants_terminal => Action::Give,
            // The user's Ctrl-Z, or anything else that leaves the terminal with a stopped job.
            (Terminal::Commands, _) => Action::Suspend,
            // In the background: the shell has to learn that its job wants the terminal.
            _ if wants_terminal => Action::SuspendAndGive,
            _ if signal == Signal::TSTP => Action::Suspend,
            // Somebody froze the command with SIGSTOP and will continue it. The permit stays.
            _ => Action::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(orphans: Orphans) -> Rules {
        Rules { orphans, foreground: false, stop_signal: Signal::USR1, on_lost: OnLost::Kill }
    }

    fn policy() -> Policy {
        Policy::new(rules(Orphans::Leave))
    }

    fn in_foreground() -> Policy {
        Policy::new(Rules { foreground: true, ..rules(Orphans::Leave) })
    }

    fn sent(signal: Signal) -> Event {
        Event::Arrived {
            arrival: Arrival { signal, origin: Origin::Process },
            terminal: Terminal::Ours,
        }
    }

    fn typed(signal: Signal) -> Event {
        Event::Arrived {
            arrival: Arrival { signal, origin: Origin::Kernel },
            terminal: Terminal::Ours,
        }
    }

    #[test]
    fn term_and_hup_stop_the_command_once_and_are_forwarded_again() {
        for signal in [Signal::TERM, Signal::HUP] {
            let mut policy = policy();
            assert_eq!(policy.on(sent(signal)), Action::Stop(Some(signal)));
            assert_eq!(policy.on(sent(Signal::TERM)), Action::Forward(Signal::TERM));
            assert_eq!(policy.on(Event::GraceOver), Action::Kill);
        }
    }

    #[test]
    fn other_signals_are_forwarded_and_nothing_more() {
        use Signal as S;
        for signal in [S::INT, S::QUIT, S::USR1, S::USR2, S::WINCH, S::TSTP] {
            let mut policy = policy();
            assert_eq!(policy.on(sent(signal)), Action::Forward(signal));
            assert_eq!(policy.on(typed(signal)), Action::Forward(signal));
            assert_eq!(policy.on(Event::Ended), Action::Finish, "nothing is being stopped");
        }
    }

    #[test]
    fn a_command_that_is_stopped_takes_its_orphans_with_it_whatever_was_chosen() {
        for orphans in [Orphans::Leave, Orphans::Wait, Orphans::Kill] {
            let mut policy = Policy::new(rules(orphans));
            policy.on(sent(Signal::TERM));
            assert_eq!(policy.on(Event::Ended), Action::StopOrphans(Signal::TERM));
            assert_eq!(policy.on(Event::Shrunk), Action::StopOrphans(Signal::TERM));
            assert_eq!(policy.on(Event::Gone), Action::Finish);
        }
    }

    #[test]
    fn a_command_that_ends_by_itself_leaves_its_orphans_to_the_choice() {
        let ended = |orphans| Policy::new(rules(orphans)).on(Event::Ended);
        assert_eq!(ended(Orphans::Leave), Action::Finish);
        assert_eq!(ended(Orphans::Wait), Action::Nothing);
        assert_eq!(ended(Orphans::Kill), Action::Stop(Some(Signal::USR1)));
    }

    #[test]
    fn waiting_for_orphans_can_be_ended_by_term() {
        let mut policy = Policy::new(rules(Orphans::Wait));
        policy.on(Event::Ended);
        assert_eq!(policy.on(Event::Shrunk), Action::Nothing);
        assert_eq!(policy.on(sent(Signal::TERM)), Action::Stop(Some(Signal::TERM)));
        assert_eq!(policy.on(Event::Gone), Action::Finish);
    }

    #[test]
    fn in_the_foreground_what_was_typed_is_not_forwarded_twice() {
        assert_eq!(in_foreground().on(typed(Signal::INT)), Action::Nothing);
        assert_eq!(in_foreground().on(typed(Signal::HUP)), Action::Stop(None));
        assert_eq!(in_foreground().on(typed(Signal::TSTP)), Action::SuspendAlone(None));
        assert_eq!(in_foreground().on(sent(Signal::INT)), Action::Forward(Signal::INT));
    }

    #[test]
    fn a_stopped_command_suspends_us_only_where_a_shell_can_see_it() {
        use Terminal::{Commands, Elsewhere, None, Ours};
        let stopped = |signal, terminal| policy().on(Event::Stopped { signal, terminal });
        // Ctrl-Z in the foreground; SIGSTOP there would leave the terminal to a stopped job.
        assert_eq!(stopped(Signal::TSTP, Commands), Action::Suspend);
        assert_eq!(stopped(Signal::STOP, Commands), Action::Suspend);
        // Started without the terminal and asking for it.
        assert_eq!(stopped(Signal::TTIN, Ours), Action::Give);
        assert_eq!(stopped(Signal::TTOU, Ours), Action::Give);
        assert_eq!(stopped(Signal::TTIN, Elsewhere), Action::SuspendAndGive);
        // Ctrl-Z in a pipeline, where our group kept the terminal.
        assert_eq!(stopped(Signal::TSTP, Ours), Action::Suspend);
        // Somebody freezes a job from outside.
        assert_eq!(stopped(Signal::STOP, Elsewhere), Action::Nothing);
        assert_eq!(stopped(Signal::TSTP, None), Action::Nothing);
    }

    #[test]
    fn a_command_that_is_told_to_end_may_still_ask_for_the_terminal() {
        let mut policy = policy();
        policy.on(sent(Signal::TERM));
        let mut stopped = |signal, terminal| policy.on(Event::Stopped { signal, terminal });
        assert_eq!(stopped(Signal::TTIN, Terminal::Ours), Action::Give);
        assert_eq!(stopped(Signal::TTOU, Terminal::Elsewhere), Action::GiveLater);
        assert_eq!(stopped(Signal::TSTP, Terminal::Commands), Action::Nothing);
    }

    #[test]
    fn a_neighbour_that_asks_for_the_terminal_gets_it_or_stops_the_job() {
        let asks = |terminal| {
            let arrival = Arrival { signal: Signal::TTIN, origin: Origin::Kernel };
            policy().on(Event::Arrived { arrival, terminal })
        };
        assert_eq!(asks(Terminal::Commands), Action::Lend);
        assert_eq!(asks(Terminal::Elsewhere), Action::Forward(Signal::TSTP));
    }

    #[test]
    fn a_lost_permit_stops_the_command_once_unless_it_may_go_on() {
        let mut policy = policy();
        assert_eq!(policy.on(Event::Lost), Action::Stop(Some(Signal::USR1)));
        assert_eq!(policy.on(Event::Lost), Action::Nothing);
        assert_eq!(policy.on(Event::Ended), Action::StopOrphans(Signal::USR1));
        let rules = Rules { on_lost: OnLost::Continue, ..rules(Orphans::Leave) };
        let mut policy = Policy::new(rules);
        assert_eq!(policy.on(Event::Lost), Action::Nothing);
        assert_eq!(policy.on(Event::Ended), Action::Finish);
    }

    #[test]
    fn a_command_that_has_run_too_long_is_stopped_whatever_becomes_of_a_lost_one() {
        for on_lost in [OnLost::Kill, OnLost::Continue] {
            let mut policy = Policy::new(Rules { on_lost, ..rules(Orphans::Leave) });
            assert_eq!(policy.on(Event::RanTooLong), Action::Stop(Some(Signal::USR1)));
            assert_eq!(policy.on(Event::Lost), Action::Nothing);
            assert_eq!(policy.on(Event::Ended), Action::StopOrphans(Signal::USR1));
        }
    }

    #[test]
    fn a_permit_that_was_just_taken_leaves_no_time_to_end() {
        let mut policy = policy();
        assert_eq!(policy.on(Event::Taken), Action::Kill);
        assert_eq!(policy.on(Event::Ended), Action::StopOrphans(Signal::KILL));
        let rules = Rules { on_lost: OnLost::Continue, ..rules(Orphans::Leave) };
        assert_eq!(Policy::new(rules).on(Event::Taken), Action::Nothing);
    }

    #[test]
    fn a_semrun_that_is_killed_takes_everything_with_it() {
        let mut policy = policy();
        assert_eq!(policy.on(Event::Abandoned), Action::Kill);
        assert_eq!(policy.on(Event::Ended), Action::StopOrphans(Signal::KILL));
    }

    #[test]
    fn where_nobody_can_continue_us_the_command_goes_on_if_it_may() {
        let not_suspended = |terminal| policy().on(Event::NotSuspended { terminal });
        assert_eq!(not_suspended(Terminal::Ours), Action::Resume);
        assert_eq!(not_suspended(Terminal::None), Action::Resume);
        assert_eq!(not_suspended(Terminal::Elsewhere), Action::Nothing);
    }

    #[test]
    fn fg_and_bg_resume_the_command() {
        assert_eq!(policy().on(sent(Signal::CONT)), Action::Resume);
    }
}
