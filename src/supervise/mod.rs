//! Looking after a running command until it has ended. The loop waits for something to happen,
//! `policy` says what to do about it, and then it is done. `docs/supervision.md` has the reasons.

pub(crate) mod child;
pub(crate) mod deadline;
pub(crate) mod descendants;
pub(crate) mod guardian;
pub(crate) mod hold;
pub(crate) mod policy;
pub(crate) mod signals;

use std::io;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitStatus, kill_current_process_group, kill_process_group};
use tokio::time::{Instant, sleep_until};

use self::child::{Reaped, Tree};
use self::guardian::{Told, Visible};
use self::hold::{Change, Hold};
use self::policy::{Action, Event, OnLost, Policy, Rules, Terminal};
use self::signals::{Arrival, Signals, Whom};
use crate::exit::Exit;
use crate::kernel::own_group;

/// While a tree is being killed: how long until we look whether it has got new processes.
const KILL_AGAIN: Duration = Duration::from_millis(50);

/// How to look after a command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Supervision {
    pub(crate) rules: Rules,
    /// How long a tree that is stopped has until it is killed; none: for ever.
    pub(crate) kill_after: Option<Duration>,
    /// How long a command may run; none: as long as it likes.
    pub(crate) max_runtime: Option<Duration>,
}

/// What somebody should hear of while a command runs.
#[derive(Debug)]
pub(crate) enum Remark<'a> {
    /// Processes that we may not kill; once each time there are others.
    Unkillable(&'a [Pid]),
    /// The permit is lost, or has to be taken for lost, because of this.
    Lost(&'a str),
    /// The command is stopped because it has run for as long as it may.
    RanTooLong,
}

/// How a command came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) exit: Exit,
    /// Whether its permit was lost before.
    pub(crate) lost: bool,
}

/// Sees a command through to its end. When this returns, nothing is left of a command that was
/// stopped; of one that ended by itself, what `--orphans` allows. Without `hold` there is no
/// permit to look after: an outer semrun does.
pub(crate) async fn supervise(
    tree: &mut Tree,
    signals: &mut Signals,
    visible: &Visible,
    mut hold: Option<Hold<'_>>,
    supervision: Supervision,
    mut remark: impl FnMut(Remark<'_>),
) -> io::Result<Ended> {
    let mut policy = Policy::new(supervision.rules);
    let mut end = End::new(supervision.max_runtime);
    // When a tree that was told to end is killed, and when it is whatever it was told.
    let (mut kill_at, mut latest): (Option<Instant>, Option<Instant>) = (None, None);
    let (mut lost, mut abandoned, mut refused) = (false, false, false);
    let mut follows: Option<Event> = None;
    loop {
        let event = if let Some(event) = follows.take() {
            event
        } else {
            tokio::select! {
                arrival = signals.next() => match arrival? {
                    Arrival { signal: Signal::CHILD, .. } => end.note(tree),
                    arrival => {
                        end.received(arrival.signal);
                        Event::Arrived { arrival, terminal: tree.terminal() }
                    }
                },
                () = reached(kill_at.into_iter().chain(latest).min()) => Event::GraceOver,
                () = end.runtime.over() => {
                    end.runtime = Runtime::Over;
                    remark(Remark::RanTooLong);
                    Event::RanTooLong
                }
                change = change(&mut hold) => match change? {
                    Change::Renewed => {
                        visible.kills_at(hold.as_ref().and_then(Hold::last))?;
                        continue;
                    }
                    Change::Lost { why, left } => {
                        if !std::mem::replace(&mut lost, true) {
                            remark(Remark::Lost(&why));
                        }
                        if left == Some(Duration::ZERO) {
                            Event::Taken
                        } else {
                            if supervision.rules.on_lost == OnLost::Kill {
                                latest = left.map(|left| Instant::now() + left);
                            }
                            Event::Lost
                        }
                    }
                    Change::Over => Event::GraceOver,
                },
                told = visible.told(), if !abandoned => match told {
                    Told::NotStopped => Event::NotSuspended { terminal: tree.terminal() },
                    Told::Vanished => {
                        abandoned = true;
                        Event::Abandoned
                    }
                },
            }
        };
        match policy.on(event) {
            Action::Nothing => {}
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
                // Whoever is stopped by Ctrl-Z cannot end before it runs again.
                tree.signal(Signal::CONT);
                kill_at = supervision.kill_after.map(|grace| Instant::now() + grace);
            }
            Action::StopOrphans(signal) => tree.stop_orphans(signal),
            Action::Kill => {
                let refusing = tree.kill();
                // Once: what such a tree starts and ends meanwhile would be news each time.
                if !refusing.is_empty() && !refused {
                    remark(Remark::Unkillable(&refusing));
                }
                refused = !refusing.is_empty();
                latest = None;
                kill_at = Some(Instant::now() + KILL_AGAIN);
            }
            Action::Suspend => follows = suspend(tree, visible),
            Action::SuspendAndGive => {
                tree.ask_for_terminal();
                follows = suspend(tree, visible);
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
            Action::Finish => return Ok(Ended { exit: end.exit(), lost }),
        }
    }
}

/// Stops our process group, until the shell continues it; that comes as a signal.
fn suspend(tree: &Tree, visible: &Visible) -> Option<Event> {
    tree.reclaim_terminal();
    let stopped = visible.stop(Whom::Group);
    (!stopped).then(|| Event::NotSuspended { terminal: tree.terminal() })
}

async fn change(hold: &mut Option<Hold<'_>>) -> io::Result<Change> {
    match hold {
        Some(hold) => hold.next().await,
        None => std::future::pending().await,
    }
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

    fn note(&mut self, tree: &mut Tree) -> Event {
        let Reaped { ended, stopped, gone } = tree.reap();
        if let Some(status) = ended {
            self.status = Some(status);
            let typed = [Signal::INT, Signal::QUIT].into_iter().find(|signal| {
                // One that came through us was not typed at the command's terminal.
                tree.terminal() == Terminal::Commands
                    && !self.received.contains(signal)
                    && status.terminating_signal() == Some(signal.as_raw())
            });
            tree.reclaim_terminal();
            if let Some(signal) = typed {
                // Ctrl-C went to the command alone, because it had the terminal. Our own group,
                // a shell script around us say, has to see it as if we had not been there.
                self.received.push(signal);
                let _ = match own_group() {
                    Some(ours) => kill_process_group(ours, signal),
                    None => kill_current_process_group(signal),
                };
            }
        }
        match (ended, stopped) {
            _ if gone => Event::Gone,
            (Some(_), _) => Event::Ended,
            (None, Some(signal)) => Event::Stopped { signal, terminal: tree.terminal() },
            (None, None) => Event::Shrunk,
        }
    }

    fn received(&mut self, signal: Signal) {
        if ENDING.contains(&signal) && !self.received.contains(&signal) {
            self.received.push(signal);
        }
    }

    fn exit(&self) -> Exit {
        if self.runtime == Runtime::Over {
            return Exit::RanTooLong;
        }
        let status = self.status.expect("a tree is gone only when its command has ended");
        // One to the whole group may have ended the command before we have read of it.
        let meant = |one: &Signal| self.received.contains(one) || signals::received(*one);
        let ours: Vec<_> = ENDING.into_iter().filter(meant).collect();
        Exit::of(status, &ours)
    }
}

/// The signals that end a process by default and that are passed on.
const ENDING: [Signal; 4] = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];

async fn reached(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
