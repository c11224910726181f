//! Looking after a running command until it has ended. The loop waits for something to happen,
//! `policy` says what to do about it, and then it is done. `docs/supervision.md` has the reasons.

pub(crate) mod child;
pub(crate) mod deadline;
pub(crate) mod descendants;
pub(crate) mod guardian;
pub(crate) mod hold;
pub(crate) mod nesting;
mod outcome;
pub(crate) mod policy;
pub(crate) mod program;
pub(crate) mod signals;
pub(crate) mod spawn;

use std::io;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitStatus, kill_current_process_group, kill_process_group};
use tokio::time::{Instant, sleep_until};

use self::child::{Reaped, Tree};
use self::guardian::{Told, Visible};
use self::hold::{Change, Hold};
use self::nesting::{Around, News};
pub(crate) use self::outcome::{CommandEnd, ProcessEnd};
use self::policy::{Action, Ending, Event, OnLost, Policy, Rules, Terminal};
use self::signals::{Arrival, Signals, Whom};
use self::spawn::LaunchError;
use crate::backends::{Gone, Loss};
use crate::kernel::own_group;
use crate::mutants::{self, Guard};

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
pub(crate) enum Remark<'a> {
    /// Processes that we may not kill; once each time there are others.
    Unkillable(&'a [Pid]),
    /// The permit is lost, or has to count as lost, because of this.
    Lost(&'a Loss),
    /// The command is stopped because it has run for as long as it may.
    RanTooLong,
    /// A signal came that stops the command.
    Told(Signal),
    /// The command has exited, and what is left of its tree goes on without a permit.
    Leaves(&'a Tree),
}

/// Why a command was not seen through to its end.
#[derive(Debug)]
pub(crate) enum Unseen {
    /// No command was started.
    NotLaunched(LaunchError),
    /// We cannot look after it, and something may be left of it.
    Unattended(io::Error),
}

impl From<io::Error> for Unseen {
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
    visible: &'a Visible,
    (hold, around): (Hold<'_>, Around),
    supervision: Supervision,
    remark: impl FnMut(Remark<'_>),
) -> Result<Ended, Unseen> {
    let mut command = Supervised {
        end: End::new(supervision.max_runtime),
        policy: Policy::new(supervision.rules),
        tree,
        signals,
        visible,
        hold,
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
    let mut follows: Option<Event> = None;
    loop {
        let event = match follows.take() {
            Some(event) => event,
            None => command.next().await?,
        };
        match command.policy.on(event) {
            Action::Finish => {
                if event != Event::Gone {
                    (command.remark)(Remark::Leaves(command.tree));
                }
                return Ok(Ended { how: command.end.how()?, lost: command.lost });
            }
            action => {
                if let (Event::Arrived { arrival, .. }, Action::Stop(_)) = (event, action) {
                    (command.remark)(Remark::Told(arrival.signal));
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
    visible: &'a Visible,
    hold: Hold<'h>,
    around: Around,
    supervision: Supervision,
    remark: F,
    policy: Policy,
    end: End,
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

impl<F: FnMut(Remark<'_>)> Supervised<'_, '_, F> {
    /// The next thing that happens.
    async fn next(&mut self) -> Result<Event, Unseen> {
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
                        return Ok(Event::Arrived { arrival, terminal: self.tree.terminal() });
                    }
                },
                error = self.tree.failed_to_launch() => return Err(Unseen::NotLaunched(error)),
                () = reached(due) => return Ok(Event::GraceOver),
                () = self.end.runtime.over() => {
                    self.end.runtime = Runtime::Over;
                    (self.remark)(Remark::RanTooLong);
                    return Ok(Event::RanTooLong);
                }
                () = self.around.deserted() => return Ok(Event::NestedEnded),
                change = self.hold.next() => {
                    if let Some(event) = self.changed(change?)? {
                        return Ok(event);
                    }
                }
                told = self.visible.told(), if !self.abandoned => return Ok(match told {
                    Told::NotStopped => Event::NotSuspended { terminal: self.tree.terminal() },
                    Told::Vanished => {
                        self.abandoned = true;
                        // The shell goes on at once, and is stopped if it asks for the terminal too
                        // early.
                        if self.tree.terminal() == Terminal::Commands {
                            self.tree.lend_terminal();
                        }
                        Event::Abandoned
                    }
                }),
            }
        }
    }

    /// Something has happened to the permit.
    fn changed(&mut self, change: Change) -> io::Result<Option<Event>> {
        match change {
            Change::Renewed => {
                self.around.tell(News::Held(self.hold.tenure()));
                self.make_room()?;
                Ok(None)
            }
            Change::Lost { why, left } => {
                if !std::mem::replace(&mut self.lost, true) {
                    (self.remark)(Remark::Lost(&why));
                }
                self.around.tell(News::Lost(match left {
                    Some(Duration::ZERO) => Gone::Now,
                    Some(_) => Gone::Before,
                    None => Gone::NotYet,
                }));
                self.make_room()?;
                if left == Some(Duration::ZERO) {
                    return Ok(Some(Event::Taken));
                }
                if self.supervision.rules.on_lost == OnLost::Kill {
                    self.latest = left.map(|left| Instant::now() + left);
                }
                Ok(Some(Event::Lost))
            }
            Change::Over => Ok(Some(Event::GraceOver)),
        }
    }

    /// Leaves enough time before the end of the lease to kill a tree as large as it is now.
    fn make_room(&mut self) -> io::Result<()> {
        if self.hold.tenure().is_some() {
            self.hold.make_room(self.tree.len())?;
            self.visible.kills_at(self.hold.last())?;
        }
        Ok(())
    }

    /// Does what was decided. Returns what follows from it at once.
    fn act(&mut self, action: Action) -> io::Result<Option<Event>> {
        let Self { tree, visible, .. } = self;
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
                    (self.remark)(Remark::Unkillable(&refusing));
                }
                self.refused = !refusing.is_empty();
                self.latest = None;
                self.kill_at = Some(Instant::now() + self.again);
                self.again = (self.again * 2).min(KILL_AGAIN_LATEST);
                // What has ended meanwhile was collected, and may have been the last.
                return self.end.note(tree, &mut self.around).map(Some);
            }
            Action::Suspend => return Ok(suspend(tree, visible)),
            Action::SuspendAndGive => {
                tree.ask_for_terminal();
                return Ok(suspend(tree, visible));
            }
            Action::SuspendAlone(signal) => {
                if let Some(signal) = signal {
                    tree.signal(signal);
                }
                visible.stop(Whom::Semrun);
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
fn suspend(tree: &Tree, visible: &Visible) -> Option<Event> {
    tree.reclaim_terminal();
    let stopped = visible.stop(Whom::Group);
    (!stopped).then(|| Event::NotSuspended { terminal: tree.terminal() })
}

/// How the command ended, and what the caller should see of it.
#[derive(Debug, Default)]
struct End {
    status: Option<WaitStatus>,
    /// Those of [`ENDING`] that semrun received itself.
    received: Vec<Signal>,
    runtime: Runtime,
}

/// How long the command may run.
#[derive(Debug, Default, PartialEq, Eq)]
enum Runtime {
    #[default]
    Endless,
    Until(Instant),
    /// It has run for as long as it may.
    Over,
}

impl Runtime {
    async fn over(&self) {
        match self {
            Self::Until(moment) => sleep_until(*moment).await,
            Self::Endless | Self::Over => std::future::pending().await,
        }
    }
}

impl End {
    fn new(longest: Option<Duration>) -> Self {
        let until = longest.map(|longest| Runtime::Until(Instant::now() + longest));
        Self { runtime: until.unwrap_or_default(), ..Self::default() }
    }

    fn note(&mut self, tree: &mut Tree, around: &mut Around) -> io::Result<Event> {
        let Reaped { ended, stopped, gone } = tree.reap()?;
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
            _ if gone => Event::Gone,
            (Some(status), _) => Event::Ended(Ending {
                code: status.exit_status(),
                interrupted: [Signal::INT, Signal::QUIT].iter().any(|one| self.has_received(*one)),
                nested: around.is_needed() && !mutants::is_off(Guard::NestedWatch),
            }),
            (None, Some(signal)) => Event::Stopped { signal, terminal: tree.terminal() },
            (None, None) => Event::Shrunk,
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
        if self.runtime == Runtime::Over {
            return Ok(CommandEnd::RanTooLong);
        }
        let status = self.status.ok_or_else(|| io::Error::other("the command has not ended"))?;
        let ours: Vec<_> = ENDING.into_iter().filter(|one| self.has_received(*one)).collect();
        Ok(CommandEnd::Ended(ProcessEnd::of(status, &ours)))
    }
}

/// The signals of which semrun dies itself when the command has.
const ENDING: [Signal; 4] = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];

async fn reached(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
