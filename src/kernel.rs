//! The two things that have no safe interface besides signal handlers: what a new process does
//! between fork and exec, and waiting for a descriptor of our own.
#![expect(unsafe_code, reason = "each block says why it is sound")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::OnceLock;

use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getpid, getppid, getrlimit, set_parent_process_death_signal,
    setrlimit,
};
use rustix::termios::tcsetpgrp;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::supervise::signals::{Inherited, without_stopping_at_the_terminal};

/// Where the inherited descriptor of a permit goes: high, so that `exec 3>…` in a script does
/// not replace it.
const INHERITED: RawFd = 100;

/// Lets a descriptor wake the runtime.
pub(crate) fn watch(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd has the same open descriptor until it is dropped.
    let watched = unsafe { AsyncFd::register_with_interest(descriptor, interest) };
    Ok(watched?)
}

/// The process group that semrun was started in, which is what a shell takes for its job. None
/// where it lies outside our pid namespace and has no number here.
pub(crate) fn own_group() -> Option<Pid> {
    static GROUP: OnceLock<Option<Pid>> = OnceLock::new();
    // SAFETY: asks, and cannot fail. rustix's own takes for granted that there is a number.
    *GROUP.get_or_init(|| Pid::from_raw(unsafe { libc::getpgrp() }))
}

/// Makes a second process of this one, in a process group of its own: its pid in the first,
/// none in the second. To be called while there is one thread.
pub(crate) fn split() -> io::Result<Option<Pid>> {
    // The second one belongs to the job all the same.
    let _recorded = own_group();
    // SAFETY: with one thread nothing is locked or half done in the copy.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // Cannot fail for a process that leads no session and is not executing another file.
            let _ = rustix::process::setpgid(None, None);
            Ok(None)
        }
        pid => Ok(Pid::from_raw(pid)),
    }
}

/// What the command's process gets before it executes the command.
pub(crate) struct Preparation<'a> {
    /// The terminal, if the process's group shall have it.
    pub(crate) terminal: Option<BorrowedFd<'a>>,
    /// A descriptor to keep open in the command, for whatever it stands.
    pub(crate) inherit: Option<BorrowedFd<'a>>,
    /// The limit of open files that semrun was started with.
    pub(crate) descriptors: Rlimit,
}

impl Preparation<'_> {
    /// Makes `command` prepare its process so. To be spawned by a thread that lives as long as
    /// semrun: the kernel takes a thread's end for its parent's death.
    pub(crate) fn spawn(self, command: &mut Command) -> io::Result<std::process::Child> {
        let terminal = self.terminal.map(|terminal| terminal.as_raw_fd());
        let inherit = self.inherit.map(|descriptor| descriptor.as_raw_fd());
        let raised = getrlimit(Resource::Nofile) != self.descriptors;
        let descriptors = raised.then_some(self.descriptors);
        let semrun = getpid();
        let inherited = Inherited::recorded();
        let prepare = move || {
            // First, so that nothing can go wrong in a process that outlives us.
            set_parent_process_death_signal(Some(Signal::KILL))?;
            if getppid() != Some(semrun) {
                // We died before that took effect.
                return Err(Errno::SRCH.into());
            }
            if let Some(terminal) = terminal {
                // SAFETY: open in the parent until the spawn is over, and so in its copy here.
                let terminal = unsafe { BorrowedFd::borrow_raw(terminal) };
                // Fails where the terminal has gone since, and then there is none to have.
                let _ = without_stopping_at_the_terminal(|| tcsetpgrp(terminal, getpid()));
            }
            if let Some(descriptor) = inherit {
                // SAFETY: as above.
                inherit_high(unsafe { BorrowedFd::borrow_raw(descriptor) })?;
            }
            if let Some(limit) = descriptors {
                setrlimit(Resource::Nofile, limit)?;
            }
            inherited.restore();
            Ok(())
        };
        // SAFETY: `prepare` makes async-signal-safe system calls only, and allocates nothing.
        unsafe { command.pre_exec(prepare) };
        command.spawn()
    }
}

/// Duplicates a descriptor to a high number, and lets it pass exec(2) there.
fn inherit_high(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let duplicate = match fcntl_dupfd_cloexec(descriptor, INHERITED) {
        // The limit of open files is below that: anywhere but on the standard streams.
        Err(Errno::INVAL | Errno::MFILE) => fcntl_dupfd_cloexec(descriptor, 3)?,
        duplicate => duplicate?,
    };
    fcntl_setfd(&duplicate, FdFlags::empty())?;
    let _kept_open = duplicate.into_raw_fd();
    Ok(())
}
