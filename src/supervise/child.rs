//! The only file that spawns and kills: the command, its process group and the terminal, and the
//! whole tree of processes that comes of it.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Rlimit, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, getpgid,
    getpid, kill_process, kill_process_group, pidfd_open, pidfd_send_signal, set_child_subreaper,
    wait, waitid,
};
use rustix::termios::{isatty, tcgetpgrp, tcsetpgrp};

use super::descendants::{self, Descendant};
use super::policy::Terminal;
use super::signals::without_stopping_at_the_terminal;
use crate::kernel::{Preparation, Program, own_group};

/// What to start, and how.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) program: &'a OsString,
    pub(crate) arguments: &'a [OsString],
    /// Added to what semrun has, or left out of it.
    pub(crate) environment: Vec<(&'static str, Option<String>)>,
    /// In our process group instead of one of its own.
    pub(crate) foreground: bool,
    /// The limit of open files that semrun was started with.
    pub(crate) descriptors: Rlimit,
    pub(crate) inherit: Option<BorrowedFd<'a>>,
}

/// Why the command did not start.
#[derive(Debug)]
pub(crate) enum LaunchError {
    NotFound,
    NotExecutable(io::Error),
    /// Nothing was wrong with the command.
    Failed(io::Error),
}

/// A command that was started, and everything it started.
#[derive(Debug)]
pub(crate) struct Tree {
    command: Pid,
    /// The command's own process group.
    group: Option<Pid>,
    /// Until the command's end has been noticed, which frees its number for others.
    running: bool,
    terminal: Option<File>,
    /// Whether the command is to have the terminal when our group has it.
    wants_terminal: bool,
    /// Children that semrun had before: whoever started it with exec(2) left them to it.
    strangers: Vec<Pid>,
    /// Orphans that were told to end.
    told: Vec<Pid>,
}

/// What waiting for children found.
#[derive(Debug, Default)]
pub(crate) struct Reaped {
    /// How the command ended, if it has just done so.
    pub(crate) ended: Option<WaitStatus>,
    /// By which signal the command was stopped, if it has just been.
    pub(crate) stopped: Option<Signal>,
    /// Whether nothing is left of the tree.
    pub(crate) gone: bool,
}

impl Tree {
    /// Starts the command. When this returns it is executing, or it never will.
    pub(crate) fn launch(launch: &Launch<'_>) -> Result<Self, LaunchError> {
        // A daemon that loses its parent becomes our child instead of init's: so nothing of the
        // tree escapes, and it is gone when nothing is left to wait for.
        set_child_subreaper(Some(getpid())).map_err(|errno| LaunchError::Failed(errno.into()))?;
        let strangers = strangers();
        let ours = own_group().filter(|_| !launch.foreground);
        let terminal = ours.and_then(|_| open_terminal());
        // A pipeline's other commands need the terminal as well (`semrun … | less`); there ours
        // gets it when it asks.
        let wants_terminal = isatty(io::stdin()) && isatty(io::stdout());
        let give = terminal.as_ref().filter(|terminal| wants_terminal && owner(terminal) == ours);
        let program = Program::new(launch.program, launch.arguments, &launch.environment)?;
        let preparation = Preparation {
            group: own_group().filter(|_| launch.foreground),
            terminal: give.map(AsFd::as_fd),
            inherit: launch.inherit,
            descriptors: launch.descriptors,
        };
        let command = preparation.spawn(&program).map_err(|error| {
            if let (Some(terminal), Some(ours)) = (give, ours) {
                give_terminal(terminal, ours);
            }
            LaunchError::from(error)
        })?;
        let group = (!launch.foreground).then_some(command);
        Ok(Self {
            command,
            group,
            running: true,
            terminal,
            wants_terminal,
            strangers,
            told: Vec::new(),
        })
    }

    /// Takes over a child that was not launched as a command, with everything below it.
    pub(super) fn adopt(child: Pid, strangers: Vec<Pid>) -> Self {
        Self {
            command: child,
            group: Some(child),
            running: true,
            terminal: None,
            wants_terminal: false,
            strangers,
            told: Vec::new(),
        }
    }

    /// Sends a signal to the command's process group; once the command has ended, to what it
    /// left in its group and to those orphans that are our children now.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.running {
            let group = self.group.map(|group| kill_process_group(group, signal));
            if !matches!(group, Some(Ok(()))) {
                // It has none of its own, or has left it.
                let _ = kill_process(self.command, signal);
            }
            return;
        }
        for process in self.descendants() {
            if self.is_in_group(process) || process.parent == getpid() {
                let _ = send(process, signal);
            }
        }
    }

    /// Sends a signal once to each orphan that is our child now and has not had it with the
    /// command's group. What is below those is theirs to stop; a nested semrun does.
    pub(crate) fn stop_orphans(&mut self, signal: Signal) {
        for process in self.descendants() {
            let ours = process.parent == getpid() && process.pid != self.command;
            if ours && !self.is_in_group(process) && !self.told.contains(&process.pid) {
                self.told.push(process.pid);
                let _ = send(process, signal);
            }
        }
    }

    /// Tells the whole tree to end; see [`Tree::stop_orphans`] for those who are orphaned later.
    pub(crate) fn stop(&mut self, signal: Signal) {
        self.signal(signal);
        if !self.running {
            let orphans = self.descendants().into_iter();
            self.told.extend(orphans.filter(|one| one.parent == getpid()).map(|one| one.pid));
        }
    }

    /// Kills every process of the tree that exists now. Returns those that may not be killed,
    /// because they belong to another user.
    pub(crate) fn kill(&self) -> Vec<Pid> {
        if self.running
            && let Some(group) = self.group
        {
            // All at once, before any of them can start others.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let refused = |process: &Descendant| send(*process, Signal::KILL) == Err(Errno::PERM);
        self.descendants().into_iter().filter(refused).map(|process| process.pid).collect()
    }

    /// Collects all children that have ended or were stopped.
    pub(crate) fn reap(&mut self) -> Reaped {
        let mut reaped = Reaped::default();
        loop {
            match wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
                Ok(Some((pid, status))) if pid == self.command => {
                    if let Some(signal) = status.stopping_signal() {
                        reaped.stopped = Signal::from_named_raw(signal);
                    } else {
                        self.running = false;
                        reaped.ended = Some(status);
                    }
                }
                Ok(Some((pid, status))) => {
                    if !status.stopped() {
                        self.strangers.retain(|stranger| *stranger != pid);
                        self.told.retain(|told| *told != pid);
                    }
                }
                // Children are left; are they ours?
                Ok(None) => {
                    reaped.gone = !self.strangers.is_empty() && self.descendants().is_empty();
                    return reaped;
                }
                Err(_no_children) => {
                    reaped.gone = true;
                    return reaped;
                }
            }
        }
    }

    pub(crate) fn terminal(&self) -> Terminal {
        let Some(terminal) = &self.terminal else { return Terminal::None };
        match owner(terminal) {
            Some(group) if Some(group) == own_group() => Terminal::Ours,
            Some(group) if Some(group) == self.group => Terminal::Commands,
            _ => Terminal::Elsewhere,
        }
    }

    /// The command asks for the terminal, and gets it whenever our group has it.
    pub(crate) fn ask_for_terminal(&mut self) {
        self.wants_terminal = true;
    }

    /// Gives the command the terminal if it is to have it and our group has it, and continues
    /// the command.
    pub(crate) fn resume(&self) {
        if let (Some(terminal), Some(group)) = (&self.terminal, self.group)
            && self.running
            && self.wants_terminal
            && self.terminal() == Terminal::Ours
        {
            give_terminal(terminal, group);
        }
        self.signal(Signal::CONT);
    }

    /// Takes the terminal back from the command, or from a group of its that is no more. One
    /// that the shell has given to somebody else stays there.
    pub(crate) fn reclaim_terminal(&self) {
        let (Some(terminal), Some(ours)) = (&self.terminal, own_group()) else { return };
        let Some(group) = owner(terminal) else { return };
        let deserted = rustix::process::test_kill_process_group(group) == Err(Errno::SRCH);
        if Some(group) == self.group || deserted {
            give_terminal(terminal, ours);
        }
    }

    /// Takes the terminal back for the other commands of a pipeline, which the kernel stopped for
    /// asking. The command has to ask again.
    pub(crate) fn lend_terminal(&mut self) {
        self.wants_terminal = false;
        self.reclaim_terminal();
        if let Some(ours) = own_group() {
            let _ = kill_process_group(ours, Signal::CONT);
        }
    }

    fn is_in_group(&self, process: Descendant) -> bool {
        self.group.is_some() && getpgid(Some(process.pid)).ok() == self.group
    }

    fn descendants(&self) -> Vec<Descendant> {
        descendants::of(getpid(), &self.strangers)
    }
}

impl From<io::Error> for LaunchError {
    fn from(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(Errno::NOENT) => Self::NotFound,
            Some(Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE | Errno::SRCH) => {
                Self::Failed(error)
            }
            _ => Self::NotExecutable(error),
        }
    }
}

/// What descends from semrun before it starts anything.
pub(super) fn strangers() -> Vec<Pid> {
    let any = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    if waitid(WaitId::All, any).is_err() {
        // There are none, as nearly always.
        return Vec::new();
    }
    // Their children too: those become ours when they are orphaned.
    descendants::of(getpid(), &[]).into_iter().map(|child| child.pid).collect()
}

fn send(process: Descendant, signal: Signal) -> Result<(), Errno> {
    match pidfd_open(process.pid, PidfdFlags::empty()) {
        // From here on the descriptor stands for one process, whatever becomes of its number.
        Ok(pidfd) if process.is_still_there() => pidfd_send_signal(pidfd, signal),
        Ok(_) => Ok(()),
        // A kernel before 5.3, or a sandbox that does not know the call.
        Err(Errno::NOSYS | Errno::PERM) => kill_process(process.pid, signal),
        Err(errno) => Err(errno),
    }
}

fn open_terminal() -> Option<File> {
    File::options().read(true).write(true).open("/dev/tty").ok()
}

/// The process group that has the terminal.
fn owner(terminal: &File) -> Option<Pid> {
    tcgetpgrp(terminal).ok()
}

fn give_terminal(terminal: &File, group: Pid) {
    // Fails where the group or the terminal is gone, and then there is nothing to give.
    let _ = without_stopping_at_the_terminal(|| tcsetpgrp(terminal, group));
}
