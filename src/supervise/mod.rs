//! Looking after a running command until it has ended. The loop waits for something to happen,
//! `policy` says what to do about it, and then it is done. `docs/supervision.md` has the reasons.

pub(crate) mod descendants;
pub(crate) mod executable;
pub(crate) mod guardian;
pub(crate) mod lease_deadlines;
pub(crate) mod lease_watch;
pub(crate) mod nesting_channel;
mod outcome;
pub(crate) mod policy;
pub(crate) mod process_tree;
pub(crate) mod signals;
pub(crate) mod spawn;

use std::io;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitStatus, kill_current_process_group, kill_process_group};
use tokio::time::{Instant, sleep_until};

use self::guardian::{FrontProcess, GuardianEvent};
use self::lease_watch::{LeaseEvent, LeaseWatch};
use self::nesting_channel::{NestingListener, OuterNews};
pub(crate) use self::outcome::{CommandEnd, ProcessEnd};
use self::policy::{Action, CommandEnding, OnLost, Policy, PolicyEvent, Rules, Terminal};
use self::process_tree::{Reaped, Tree};
use self::signals::{Arrival, Signals, StopTarget};
use self::spawn::LaunchError;
use crate::clock::if_any;
use crate::mutants::{self, Guard};
use crate::permits::{LossReason, LossStage};
use crate::sys::own_group;

/// While a tree is being killed: how long until we look whether it has got new processes; longer and
/// longer as long as none ends, because one that hangs may do so for hours.
const KILL_AGAIN: Duration = Duration::from_millis(2);
const KILL_AGAIN_LATEST: Duration = Duration::from_millis(100);

/// How to look after a command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Supervision {
    pub(crate) rules: Rules,
    /// How long a tree that is stopped has until it is killed; none: for ever.
    pub(crate) kill_after: Option<Duration>,
    /// How long a command may run; none: as long as it likes.
    pub(crate) max_runtime: Option<Duration>,
}

/// What the user should hear of while a command runs.
#[derive(Debug)]
pub(crate) enum SupervisionNotice<'a> {
    /// Processes that we may not kill; once each time there are others.
    Unkillable(&'a [Pid]),
    /// The permit is lost, or has to count as lost, because of this.
    Lost(&'a LossReason),
    /// The command is stopped because it has run for as long as it may.
    RanTooLong,
    /// A signal came that stops the command.
    Told(Signal),
    /// The command has exited, and what is left of its tree goes on without a permit.
    Leaves(&'a Tree),
}

/// Why a command was not seen through to its end.
#[derive(Debug)]
pub(crate) enum SupervisionError {
    /// No command was started.
    NotLaunched(LaunchError),
    /// We cannot look after it, and something may be left of it.
    Unattended(io::Error),
}

impl From<io::Error> for SupervisionError {
    fn from(error: io::Error) -> Self {
        Self::Unattended(error)
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) how: CommandEnd,
    /// Whether its permit was lost before.
    pub(crate) lost: bool,
}

/// Sees a command through to its end. When this returns, nothing is left of a command that was
/// stopped; of one that exited, what `--orphans` allows, and nothing that runs nested in it.
pub(crate) async fn supervise<'a>(
    tree: &'a mut Tree,
    signals: &'a mut Signals,
    front_process: &'a FrontProcess,
    (lease_watch, around): (LeaseWatch<'_>, NestingListener),
    supervision: Supervision,
    remark: impl FnMut(SupervisionNotice<'_>),
) -> Result<Ended, SupervisionError> {
    let mut command = Supervised {
        end: SupervisionEnd::new(supervision.max_runtime),
        policy: Policy::new(supervision.rules),
        tree,
        signals,
        front_process,
        lease_watch,
        around,
        supervision,
        remark,
        kill_at: None,
        latest: None,
        again: KILL_AGAIN,
        lost: false,
        abandoned: false,
        refused: false,
    };
    let mut follows: Option<PolicyEvent> = None;
    loop {
        let event = match follows.take() {
            Some(event) => event,
            None => command.next().await?,
        };
        match command.policy.on(event) {
            Action::Finish => {
                if event != PolicyEvent::Gone {
                    (command.remark)(SupervisionNotice::Leaves(command.tree));
                }
                return Ok(Ended { how: command.end.how()?, lost: command.lost });
            }
            action => {
                if let (PolicyEvent::Arrived { arrival, .. }, Action::Stop(_)) = (event, action) {
                    (command.remark)(SupervisionNotice::Told(arrival.signal));
                }
                follows = command.act(action)?;
            }
        }
    }
}

/// A command that is being looked after.
struct Supervised<'a, 'h, F> {
    tree: &'a mut Tree,
    signals: &'a mut Signals,
    front_process: &'a FrontProcess,
    lease_watch: LeaseWatch<'h>,
    around: NestingListener,
    supervision: Supervision,
    remark: F,
    policy: Policy,
    end: SupervisionEnd,
    /// When a tree that was told to end is killed.
    kill_at: Option<Instant>,
    /// When it is killed in any case.
    latest: Option<Instant>,
    /// How long after a kill the next one is due.
    again: Duration,
    lost: bool,
    abandoned: bool,
    refused: bool,
}

impl<F: FnMut(SupervisionNotice<'_>)> Supervised<'_, '_, F> {
    /// The next thing that happens.
    async fn next(&mut self) -> Result<PolicyEvent, SupervisionError> {
        loop {
            let due = self.kill_at.into_iter().chain(self.latest).min();
            tokio::select! {
                arrival = self.signals.next() => match arrival? {
                    Arrival { signal: Signal::CHILD, .. } => {
                        self.again = KILL_AGAIN;
                        return Ok(self.end.note(self.tree, &mut self.around)?);
                    }
                    arrival => {
                        self.end.received(arrival.signal);
                        return Ok(PolicyEvent::Arrived { arrival, terminal: self.tree.terminal() });
                    }
                },
                error = self.tree.failed_to_launch() => return Err(SupervisionError::NotLaunched(error)),
                () = if_any(due.map(sleep_until)) => return Ok(PolicyEvent::GraceOver),
                () = self.end.runtime.over() => {
                    self.end.runtime = RuntimeLimit::Over;
                    (self.remark)(SupervisionNotice::RanTooLong);
                    return Ok(PolicyEvent::RanTooLong);
                }
                () = self.around.all_closed() => return Ok(PolicyEvent::NestedEnded),
                change = self.lease_watch.next() => {
                    if let Some(event) = self.changed(change?)? {
                        return Ok(event);
                    }
                }
                told = self.front_process.next_event(), if !self.abandoned => return Ok(match told {
                    GuardianEvent::NotStopped => PolicyEvent::NotSuspended { terminal: self.tree.terminal() },
                    GuardianEvent::Vanished => {
                        self.abandoned = true;
                        // The shell goes on at once, and is stopped if it asks for the terminal too
                        // early.
                        if self.tree.terminal() == Terminal::Commands {
                            self.tree.lend_terminal();
                        }
                        PolicyEvent::Abandoned
                    }
                }),
            }
        }
    }

    /// Something has happened to the permit.
    fn changed(&mut self, change: LeaseEvent) -> io::Result<Option<PolicyEvent>> {
        match change {
            LeaseEvent::Renewed => {
                self.around.tell(OuterNews::Held(self.lease_watch.validity()));
                self.make_room()?;
                Ok(None)
            }
            LeaseEvent::Lost { why, left } => {
                if !std::mem::replace(&mut self.lost, true) {
                    (self.remark)(SupervisionNotice::Lost(&why));
                }
                self.around.tell(OuterNews::Lost(match left {
                    Some(Duration::ZERO) => LossStage::Now,
                    Some(_) => LossStage::Before,
                    None => LossStage::Revoking,
                }));
                self.make_room()?;
                if left == Some(Duration::ZERO) {
                    return Ok(Some(PolicyEvent::Taken));
                }
                if self.supervision.rules.on_lost == OnLost::Kill {
                    self.latest = left.map(|left| Instant::now() + left);
                }
                Ok(Some(PolicyEvent::Lost))
            }
            LeaseEvent::Over => Ok(Some(PolicyEvent::GraceOver)),
        }
    }

    /// Leaves enough time before the end of the lease to kill a tree as large as it is now.
    fn make_room(&mut self) -> io::Result<()> {
        if self.lease_watch.validity().is_some() {
            self.lease_watch.make_room(self.tree.len())?;
            self.front_process.kills_at(self.lease_watch.last())?;
        }
        Ok(())
    }

    /// Does what was decided. Returns what follows from it at once.
    fn act(&mut self, action: Action) -> io::Result<Option<PolicyEvent>> {
        let Self { tree, front_process, .. } = self;
        match action {
            Action::Nothing | Action::Finish => {}
            Action::Forward(signal) => {
                tree.signal(signal);
                if signal == Signal::TERM || signal == Signal::HUP {
                    tree.signal(Signal::CONT);
                }
            }
            Action::Stop(signal) => {
                if let Some(signal) = signal {
                    tree.stop(signal);
                }
                // What is stopped by Ctrl-Z cannot end before it runs again.
                tree.signal(Signal::CONT);
                self.kill_at = self.supervision.kill_after.map(|grace| Instant::now() + grace);
            }
            Action::StopOrphans(signal) => tree.stop_orphans(signal),
            Action::Kill => {
                let refusing = tree.kill()?;
                // Once: with processes that come and go, each attempt would report again.
                if !refusing.is_empty() && !self.refused {
                    (self.remark)(SupervisionNotice::Unkillable(&refusing));
                }
                self.refused = !refusing.is_empty();
                self.latest = None;
                self.kill_at = Some(Instant::now() + self.again);
                self.again = (self.again * 2).min(KILL_AGAIN_LATEST);
                // What has ended meanwhile was collected, and may have been the last.
                return self.end.note(tree, &mut self.around).map(Some);
            }
            Action::Suspend => return Ok(suspend(tree, front_process)),
            Action::SuspendAndGive => {
                tree.ask_for_terminal();
                return Ok(suspend(tree, front_process));
            }
            Action::SuspendAlone(signal) => {
                if let Some(signal) = signal {
                    tree.signal(signal);
                }
                front_process.stop(StopTarget::Semrun);
            }
            Action::Resume => tree.resume(),
            Action::Give => {
                tree.ask_for_terminal();
                tree.resume();
            }
            Action::GiveLater => tree.ask_for_terminal(),
            Action::Lend => tree.lend_terminal(),
        }
        Ok(None)
    }
}

/// Stops our process group, until the shell continues it; that comes as a signal.
fn suspend(tree: &Tree, front_process: &FrontProcess) -> Option<PolicyEvent> {
    tree.reclaim_terminal();
    let stopped = front_process.stop(StopTarget::Group);
    (!stopped).then(|| PolicyEvent::NotSuspended { terminal: tree.terminal() })
}

/// How the command ended, and what the caller should see of it.
#[derive(Debug, Default)]
struct SupervisionEnd {
    status: Option<WaitStatus>,
    /// Those of [`ENDING`] that semrun received itself.
    received: Vec<Signal>,
    runtime: RuntimeLimit,
}

/// How long the command may run.
#[derive(Debug, Default, PartialEq, Eq)]
enum RuntimeLimit {
    #[default]
    Endless,
    Until(Instant),
    /// It has run for as long as it may.
    Over,
}

impl RuntimeLimit {
    async fn over(&self) {
        match self {
            Self::Until(moment) => sleep_until(*moment).await,
            Self::Endless | Self::Over => std::future::pending().await,
        }
    }
}

impl SupervisionEnd {
    fn new(longest: Option<Duration>) -> Self {
        let until = longest.map(|longest| RuntimeLimit::Until(Instant::now() + longest));
        Self { runtime: until.unwrap_or_default(), ..Self::default() }
    }

    fn note(&mut self, tree: &mut Tree, around: &mut NestingListener) -> io::Result<PolicyEvent> {
        let Reaped { ended, stopped, stage } = tree.reap()?;
        if let Some(status) = ended {
            self.status = Some(status);
            let typed = [Signal::INT, Signal::QUIT].into_iter().find(|signal| {
                // A signal relayed by us was not typed at the command's terminal.
                tree.terminal() == Terminal::Commands
                    && !self.received.contains(signal)
                    && status.terminating_signal() == Some(signal.as_raw())
            });
            tree.reclaim_terminal();
            if let Some(signal) = typed {
                // Ctrl-C went to the command alone, because it had the terminal. Our own group, a
                // shell script around us say, has to see the signal too.
                self.received.push(signal);
                let _ = match own_group() {
                    Some(ours) => kill_process_group(ours, signal),
                    None => kill_current_process_group(signal),
                };
            }
        }
        Ok(match (ended, stopped) {
            _ if stage => PolicyEvent::Gone,
            (Some(status), _) => PolicyEvent::Ended(CommandEnding {
                code: status.exit_status(),
                interrupted: [Signal::INT, Signal::QUIT].iter().any(|one| self.has_received(*one)),
                nested: around.is_needed() && !mutants::is_off(Guard::NestedWatch),
            }),
            (None, Some(signal)) => PolicyEvent::Stopped { signal, terminal: tree.terminal() },
            (None, None) => PolicyEvent::Shrunk,
        })
    }

    /// Whether a signal was sent to semrun. One to the whole group may have ended the command before we
    /// have read of it.
    fn has_received(&self, signal: Signal) -> bool {
        self.received.contains(&signal) || signals::received(signal)
    }

    fn received(&mut self, signal: Signal) {
        if ENDING.contains(&signal) && !self.received.contains(&signal) {
            self.received.push(signal);
        }
    }

    fn how(&self) -> io::Result<CommandEnd> {
        if self.runtime == RuntimeLimit::Over {
            return Ok(CommandEnd::RanTooLong);
        }
        let status = self.status.ok_or_else(|| io::Error::other("the command has not ended"))?;
        let ours: Vec<_> = ENDING.into_iter().filter(|one| self.has_received(*one)).collect();
        Ok(CommandEnd::Ended(ProcessEnd::of(status, &ours)))
    }
}

/// The signals of which semrun dies itself when the command has.
const ENDING: [Signal; 4] = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];
