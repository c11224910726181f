//! Looking after a running command until it has ended. The loop waits for something to happen,
//! `policy` says what to do about it, and then it is done. `docs/supervision.md` has the reasons.

pub(crate) mod child;
mod descendants;
pub(crate) mod policy;
pub(crate) mod signals;

use std::io;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitStatus, kill_current_process_group};
use tokio::time::{Instant, sleep_until};

use self::child::{Reaped, Tree};
use self::policy::{Action, Event, Policy, Rules, Terminal};
use self::signals::{Arrival, Signals, Whom};
use crate::exit::Exit;

/// While a tree is being killed: how long until we look whether it has got new processes.
const KILL_AGAIN: Duration = Duration::from_millis(50);

/// How to look after a command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Supervision {
    pub(crate) rules: Rules,
    /// How long a tree that is stopped has until it is killed; none: for ever.
    pub(crate) kill_after: Option<Duration>,
}

/// Sees a command through to its end. When this returns, nothing is left of a command that was
/// stopped; of one that ended by itself, what `--orphans` allows. `unkillable` is told of
/// processes that we may not kill, once each time there are others.
pub(crate) async fn supervise(
    tree: &mut Tree,
    signals: &mut Signals,
    supervision: Supervision,
    mut unkillable: impl FnMut(&[Pid]),
) -> io::Result<Exit> {
    let mut policy = Policy::new(supervision.rules);
    let mut end = End::default();
    let mut deadline: Option<Instant> = None;
    let mut refused = Vec::new();
    loop {
        let event = tokio::select! {
            arrival = signals.next() => match arrival? {
                Arrival { signal: Signal::CHILD, .. } => end.note(tree),
                arrival => {
                    end.received(arrival.signal);
                    Event::Arrived { arrival, terminal: tree.terminal() }
                }
            },
            () = reached(deadline) => Event::GraceOver,
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
                deadline = supervision.kill_after.map(|grace| Instant::now() + grace);
            }
            Action::StopOrphans(signal) => tree.stop_orphans(signal),
            Action::Kill => {
                let refusing = tree.kill();
                if !refusing.is_empty() && refusing != refused {
                    unkillable(&refusing);
                }
                refused = refusing;
                deadline = Some(Instant::now() + KILL_AGAIN);
            }
            Action::Suspend => suspend(tree),
            Action::SuspendAndGive => {
                tree.ask_for_terminal();
                suspend(tree);
            }
            Action::SuspendAlone(signal) => {
                if let Some(signal) = signal {
                    tree.signal(signal);
                }
                signals::stop(Whom::Semrun);
            }
            Action::Resume => tree.resume(),
            Action::Give => {
                tree.ask_for_terminal();
                tree.resume();
            }
            Action::GiveLater => tree.ask_for_terminal(),
            Action::Lend => tree.lend_terminal(),
            Action::Finish => return Ok(end.exit()),
        }
    }
}

/// Stops our process group, until the shell continues it.
fn suspend(tree: &Tree) {
    tree.reclaim_terminal();
    let stopped = signals::stop(Whom::Group);
    // Where no shell controls our group, a job in front goes on, and one that asked for a terminal
    // of others stays stopped until somebody continues it.
    if stopped || tree.terminal() != Terminal::Elsewhere {
        tree.resume();
    }
}

/// How the command ended, and what the caller should see of it.
#[derive(Debug, Default)]
struct End {
    status: Option<WaitStatus>,
    /// The signals that end a process by default and that semrun received itself.
    received: Vec<Signal>,
}

impl End {
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
                let _ = kill_current_process_group(signal);
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
        let ends_us = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT].contains(&signal);
        if ends_us && !self.received.contains(&signal) {
            self.received.push(signal);
        }
    }

    fn exit(&self) -> Exit {
        let status = self.status.expect("a tree is gone only when its command has ended");
        Exit::of(status, &self.received)
    }
}

async fn reached(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
