//! The only file that spawns and kills: the command, its process group and the terminal, and its
//! whole tree of processes.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Rlimit, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, getpgid,
    getpid, kill_process, kill_process_group, pidfd_open, pidfd_send_signal, set_child_subreaper,
    wait, waitid,
};
use rustix::termios::{isatty, tcgetpgrp, tcsetpgrp};

use super::descendants::{self, Descendant, Process};
use super::executable::Executable;
use super::policy::Terminal;
use super::spawn::{LaunchError, Preparation, Spawning};
use crate::sys::{own_group, without_stopping_at_the_terminal};

/// For how long a tree is killed in one go, as long as processes of it end: a process that forks as
/// fast as it can must not get time in between.
const KILLING: Duration = Duration::from_millis(20);

/// What to start, and how.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) program: &'a OsString,
    pub(crate) arguments: &'a [OsString],
    /// Added to what semrun has, or left out of it.
    pub(crate) environment: Vec<(&'static str, Option<String>)>,
    /// In our process group instead of one of its own.
    pub(crate) foreground: bool,
    /// The limit of open files that semrun was started with, as far as it is known.
    pub(crate) descriptors: Option<Rlimit>,
    pub(crate) inherit: Option<BorrowedFd<'a>>,
}

/// A command that was started, and everything it started.
#[derive(Debug)]
pub(crate) struct Tree {
    command: Command,
    /// Whether the command is in our own process group.
    foreground: bool,
    /// Until the command's end has been noticed, which frees its number for others.
    running: bool,
    terminal: Option<File>,
    /// Whether the command gets the terminal when our group has it.
    wants_terminal: bool,
    /// Processes that semrun had below it before: those of the shell that started it with exec(2).
    preexisting: Vec<Process>,
    /// Orphans that were told to end, and are our children.
    told: Vec<Pid>,
    /// What was found while killing, and is not reported yet.
    found: Reaped,
}

/// The command's process.
#[derive(Debug)]
enum Command {
    /// It may still be on its way to its program.
    Spawning(Spawning),
    Process(Pid),
}

/// What waiting for children found.
#[derive(Debug, Default)]
pub(crate) struct Reaped {
    /// How the command ended, if it has just done so.
    pub(crate) ended: Option<WaitStatus>,
    /// By which signal the command was stopped, if it has just been.
    pub(crate) stopped: Option<Signal>,
    /// Whether nothing is left of the tree.
    pub(crate) stage: bool,
}

impl Tree {
    /// Starts the command. It may never execute: see [`Tree::failed_to_launch`].
    pub(crate) fn launch(launch: &Launch<'_>) -> Result<Self, LaunchError> {
        // A daemon that loses its parent becomes our child instead of init's: so no process of the
        // tree escapes, and the tree is gone when no child is left.
        set_child_subreaper(Some(getpid())).map_err(failed("look after processes (prctl)"))?;
        let strangers = preexisting();
        let ours = own_group();
        let terminal = ours.and_then(|_| open_terminal());
        // A pipeline's other commands need the terminal as well (`semrun … | less`); there ours
        // gets it when it asks. One in our group needs nothing.
        let wants_terminal = !launch.foreground && isatty(io::stdin()) && isatty(io::stdout());
        let give = terminal.as_ref().filter(|terminal| wants_terminal && owner(terminal) == ours);
        let program = Executable::new(launch.program, launch.arguments, &launch.environment)
            .map_err(failed("pass on such words"))?;
        let copy = |descriptor: BorrowedFd<'_>| {
            descriptor.try_clone_to_owned().map_err(failed("copy a descriptor"))
        };
        let preparation = Preparation {
            group: ours.filter(|_| launch.foreground),
            terminal: give.map(|terminal| copy(terminal.as_fd())).transpose()?,
            inherit: launch.inherit.map(copy).transpose()?,
            descriptors: launch.descriptors,
        };
        Ok(Self {
            command: Command::Spawning(preparation.spawn(program)?),
            foreground: launch.foreground,
            running: true,
            terminal,
            wants_terminal,
            preexisting: strangers,
            told: Vec::new(),
            found: Reaped::default(),
        })
    }

    /// Takes over a child that was not launched as a command, with everything below it.
    pub(super) fn adopt(child: Pid, strangers: Vec<Process>) -> Self {
        Self {
            command: Command::Process(child),
            foreground: false,
            running: true,
            terminal: None,
            wants_terminal: false,
            preexisting: strangers,
            told: Vec::new(),
            found: Reaped::default(),
        }
    }

    /// Returns why the command cannot be executed, once that is known; of one that is executed,
    /// never. Cancel-safe.
    pub(crate) async fn failed_to_launch(&mut self) -> LaunchError {
        if let Command::Spawning(spawning) = &mut self.command {
            match spawning.outcome().await {
                Err(error) => {
                    self.reclaim_terminal();
                    return error;
                }
                Ok(()) => self.settle(),
            }
        }
        std::future::pending().await
    }

    /// Keeps the launched process as the command's, if it exists.
    fn settle(&mut self) {
        if let Command::Spawning(spawning) = &self.command
            && let Some(pid) = spawning.pid()
        {
            self.command = Command::Process(pid);
        }
    }

    /// The command's process. None: it could not be started, and the launch is about to say why.
    fn command(&self) -> Option<Pid> {
        match &self.command {
            Command::Spawning(spawning) => spawning.pid(),
            Command::Process(pid) => Some(*pid),
        }
    }

    /// The command's own process group.
    fn group(&self) -> Option<Pid> {
        self.command().filter(|_| !self.foreground)
    }

    /// The command's group, if it has left a child to us there: then its number is still its own, and the
    /// group can be told as a whole, also where there is no /proc that shows who is in it.
    fn group_left_to_us(&self) -> Option<Pid> {
        let any = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.group().filter(|group| waitid(WaitId::Pgid(Some(*group)), any).is_ok())
    }

    /// Sends a signal to the command's process group; once the command has ended, to what it
    /// left in its group and to those orphans that are our children now.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.running {
            let group = self.group().map(|group| kill_process_group(group, signal));
            if !matches!(group, Some(Ok(()))) {
                // The command has no group of its own, or has left it.
                let _ = self.command().map(|command| kill_process(command, signal));
            }
            return;
        }
        let left = self.group_left_to_us();
        if let Some(group) = left {
            let _ = kill_process_group(group, signal);
        }
        for process in self.descendants() {
            if self.is_in_group(process) {
                if left.is_none() {
                    let _ = send(process, signal);
                }
            } else if process.is_our_child() {
                let _ = send(process, signal);
            }
        }
    }

    /// Sends a signal once to each orphan that is our child now and has not had it with the
    /// command's group. Their descendants are theirs to stop; a nested semrun does.
    pub(crate) fn stop_orphans(&mut self, signal: Signal) {
        for process in self.descendants() {
            let is_command = self.running && Some(process.pid) == self.command();
            let ours = process.is_our_child() && !is_command;
            if ours && !self.is_in_group(process) && !self.told.contains(&process.pid) {
                self.told.push(process.pid);
                let _ = send(process, signal);
            }
        }
    }

    /// Tells the whole tree to end; see [`Tree::stop_orphans`] for processes that are orphaned
    /// later.
    pub(crate) fn stop(&mut self, signal: Signal) {
        self.signal(signal);
        if !self.running {
            let orphans = self.descendants().into_iter();
            self.told.extend(orphans.filter(|one| one.is_our_child()).map(|one| one.pid));
        }
    }

    /// Kills every process of the tree that exists now. Returns those that may not be killed,
    /// because they belong to another user.
    pub(crate) fn kill(&mut self) -> io::Result<Vec<Pid>> {
        let end = Instant::now() + KILLING;
        let group = if self.running { self.group() } else { self.group_left_to_us() };
        if let Some(group) = group {
            // All at once, before any of them can start others.
            let _ = kill_process_group(group, Signal::KILL);
        }
        loop {
            // Orphans are our children, and fastest to kill: each keeps its number, and that of the
            // group that it leads, until we collect it.
            for child in descendants::children() {
                let stranger = || self.preexisting.contains(&Process::of(child));
                if self.preexisting.is_empty() || !stranger() {
                    if getpgid(Some(child)) == Ok(child) {
                        let _ = kill_process_group(child, Signal::KILL);
                    }
                    let _ = kill_process(child, Signal::KILL);
                }
            }
            let may_not = |one: &Descendant| send(*one, Signal::KILL) == Err(Errno::PERM);
            let all = self.descendants().into_iter();
            let refused: Vec<_> = all.filter(may_not).map(|one| one.pid).collect();
            let collected = self.collect()?;
            if collected == 0 || self.found.stage || Instant::now() >= end {
                return Ok(refused);
            }
        }
    }

    /// Collects all children that have ended or were stopped.
    pub(crate) fn reap(&mut self) -> io::Result<Reaped> {
        self.collect()?;
        Ok(std::mem::take(&mut self.found))
    }

    /// The same, for a later report. Returns how many there were.
    fn collect(&mut self) -> io::Result<usize> {
        let mut count = 0;
        loop {
            match wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
                Ok(Some((pid, status))) => {
                    count += usize::from(!status.stopped());
                    self.note(pid, status);
                }
                // Children are left; are they ours?
                Ok(None) => {
                    let none_is_ours =
                        !self.preexisting.is_empty() && self.descendants().is_empty();
                    self.found.stage = none_is_ours && !self.running;
                    return Ok(count);
                }
                Err(Errno::CHILD) => {
                    self.found.stage = !self.running;
                    return match self.command {
                        Command::Process(_) if self.running => {
                            Err(io::Error::other("another process was told how the command ended"))
                        }
                        // The reason is about to be reported.
                        _ => Ok(count),
                    };
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn note(&mut self, pid: Pid, status: WaitStatus) {
        // Once collected, its number may be another process's.
        if self.running && Some(pid) == self.command() {
            self.settle();
            if let Some(signal) = status.stopping_signal() {
                self.found.stopped = Signal::from_named_raw(signal);
            } else {
                self.running = false;
                self.found.ended = Some(status);
            }
        } else if !status.stopped() {
            self.told.retain(|told| *told != pid);
        }
    }

    /// The processes that there are now, by number and name; the name is that of the program, which the
    /// process can change.
    pub(crate) fn names(&self) -> Vec<(Pid, String)> {
        self.descendants().into_iter().map(|one| (one.pid, descendants::name(one.pid))).collect()
    }

    /// How many processes there are now.
    pub(crate) fn len(&self) -> usize {
        self.descendants().len()
    }

    pub(crate) fn terminal(&self) -> Terminal {
        let Some(terminal) = &self.terminal else { return Terminal::None };
        match owner(terminal) {
            Some(group) if Some(group) == own_group() => Terminal::Ours,
            Some(group) if Some(group) == self.group() => Terminal::Commands,
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
        if let (Some(terminal), Some(group)) = (&self.terminal, self.group())
            && self.running
            && self.wants_terminal
            && self.terminal() == Terminal::Ours
        {
            give_terminal(terminal, group);
        }
        self.signal(Signal::CONT);
    }

    /// Takes the terminal back from the command, or from a group of its that is no more. One that
    /// the shell has given to another group stays there.
    pub(crate) fn reclaim_terminal(&self) {
        let (Some(terminal), Some(ours)) = (&self.terminal, own_group()) else { return };
        let Some(group) = owner(terminal) else { return };
        if Some(group) == self.group() || is_deserted(group) {
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
        let group = self.group();
        group.is_some() && getpgid(Some(process.pid)).ok() == group
    }

    fn descendants(&self) -> Vec<Descendant> {
        descendants::all(&self.preexisting)
    }
}

fn failed<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> LaunchError {
    move |error| LaunchError::Failed(doing, error.into())
}

/// Collects the children that have ended, to be called before semrun starts anything: they come from
/// the program that became semrun by exec(2). Returns whether others are left.
pub(crate) fn collect_preexisting() -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// The descendants of semrun before it starts anything.
pub(super) fn preexisting() -> Vec<Process> {
    if !collect_preexisting() {
        // There are none, as nearly always.
        return Vec::new();
    }
    // Their children too: those become ours when they are orphaned.
    descendants::all(&[]).into_iter().map(|one| Process::of(one.pid)).collect()
}

fn send(process: Descendant, signal: Signal) -> Result<(), Errno> {
    if process.is_our_child() {
        // Its number is its own until we have collected it.
        return kill_process(process.pid, signal);
    }
    match pidfd_open(process.pid, PidfdFlags::empty()) {
        // From here on the descriptor stands for one process, whatever becomes of its number.
        Ok(pidfd) if process.is_still_there() => pidfd_send_signal(pidfd, signal),
        Ok(_) => Ok(()),
        // A kernel before 5.3, or a sandbox that does not know the call.
        Err(Errno::NOSYS | Errno::PERM) if process.is_still_there() => {
            kill_process(process.pid, signal)
        }
        Err(errno) => Err(errno),
    }
}

/// Takes the terminal for our group from a group that has no process any more.
pub(super) fn take_deserted_terminal() {
    if let (Some(terminal), Some(ours)) = (open_terminal(), own_group())
        && let Some(group) = owner(&terminal)
        && is_deserted(group)
    {
        give_terminal(&terminal, ours);
    }
}

fn is_deserted(group: Pid) -> bool {
    rustix::process::test_kill_process_group(group) == Err(Errno::SRCH)
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
