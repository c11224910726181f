//! The command's process, from its birth until it executes its program. That may take for ever, as the
//! file can lie on a file system whose server does not answer; so nothing waits for it for long.
#![expect(unsafe_code, reason = "each block says why it is sound")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use std::{hint, mem, ptr};

use rustix::event::Timespec;
use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getpid, getppid, set_parent_process_death_signal, setpgid,
    setrlimit,
};
use rustix::termios::tcsetpgrp;
use rustix::thread::futex;

use super::executable::Executable;
use super::signals::{Inherited, forget_pending};
use crate::sys::{
    open_files_limit, original_core_limit, original_file_size_limit, with_signals_blocked,
    without_stopping_at_the_terminal,
};

/// How long we wait for a program in the one thread that everything else needs too: nearly always it
/// executes within a millisecond.
const USUAL: Duration = Duration::from_millis(50);

/// How often we look afterwards.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The stack of a new process: room for paths.
const ROOM: usize = 32 * 1024;

/// Where the inherited descriptor of a permit goes: high, so that `exec 3>…` in a script does
/// not replace it.
const INHERITED: RawFd = 100;

/// What a command's process gets before it executes the command.
#[derive(Debug)]
pub(crate) struct Preparation {
    /// Its process group; none: one of its own.
    pub(crate) group: Option<Pid>,
    /// The terminal, if the process's group shall have it.
    pub(crate) terminal: Option<OwnedFd>,
    /// A descriptor to keep open in the command.
    pub(crate) inherit: Option<OwnedFd>,
    /// The limit of open files that semrun was started with, as far as it is known.
    pub(crate) descriptors: Option<Rlimit>,
}

/// A process that is about to execute its program, or has.
#[derive(Debug)]
pub(crate) struct Spawning(Option<Box<ChildSetup>>);

/// Why a program is not being executed.
#[derive(Debug)]
pub(crate) enum LaunchError {
    /// No file of this name was found.
    NotFound,
    /// There is a file, and the kernel refuses to execute it.
    NotExecutable(io::Error),
    /// A step before the program failed.
    Failed(&'static str, io::Error),
}

/// A step on the way to the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SetupStep {
    DeathSignal,
    Group,
    Descriptor,
    Limit,
    Execute,
}

impl SetupStep {
    /// Follows "cannot" in a sentence.
    fn doing(self) -> &'static str {
        match self {
            Self::DeathSignal => "have the command end with semrun (prctl)",
            Self::Group => "give the command a process group (setpgid)",
            Self::Descriptor => "let the command inherit its permit (fcntl)",
            Self::Limit => "give the command its limits (setrlimit)",
            Self::Execute => "start a process that executes the command (execve)",
        }
    }
}

/// As execve(2) takes them. They point into `texts`.
fn pointers<T: AsRef<CStr>>(texts: &[T]) -> Vec<*const c_char> {
    texts.iter().map(|text| text.as_ref().as_ptr()).chain([ptr::null()]).collect()
}

impl Preparation {
    /// Starts a process that will execute the program. Call it on a thread that lives as long as
    /// semrun: the kernel takes a thread's end for its parent's death.
    pub(crate) fn spawn(self, program: Executable) -> Result<Spawning, LaunchError> {
        let mut birth = ChildSetup::of(self, program);
        birth.begin()?;
        birth.wait(USUAL);
        Ok(Spawning(Some(birth)))
    }
}

impl Spawning {
    /// The process, as soon as there is one to which signals for the command can be sent. None:
    /// there will be none. It takes some hundredths of a millisecond, whatever the program's file
    /// does.
    pub(crate) fn pid(&self) -> Option<Pid> {
        let birth = self.0.as_ref()?;
        while !birth.is_over() {
            if birth.is_ready.load(Ordering::Acquire) {
                return birth.pid;
            }
            hint::spin_loop();
        }
        // It executes its program, unless it was killed before, which counts as its end.
        birth.pid.filter(|_| birth.failed().is_none())
    }

    /// Returns once the program is being executed, or will not be. Cancel-safe.
    pub(crate) async fn outcome(&mut self) -> Result<(), LaunchError> {
        let Some(birth) = &mut self.0 else { return Ok(()) };
        loop {
            while !birth.is_over() {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            match birth.outcome() {
                ExecOutcome::Executes => return Ok(()),
                ExecOutcome::Failed(error) => return Err(error),
                ExecOutcome::Script => {
                    birth.begin()?;
                    birth.wait(USUAL);
                }
            }
        }
    }
}

impl Drop for Spawning {
    fn drop(&mut self) {
        if let Some(birth) = self.0.take()
            && !birth.is_over()
        {
            // The process may go on in this memory.
            mem::forget(birth);
        }
    }
}

/// All that a process needs until it executes its program, in memory that it shares with us:
/// copying ours, only to drop it, would take longer than anything else in a run.
#[derive(Debug)]
struct ChildSetup {
    preparation: Preparation,
    program: Executable,
    /// Whether this is the second attempt, by a shell.
    as_script: bool,
    /// What the process runs on.
    stack: Vec<u128>,
    /// As execve(2) takes them. They point into `program`.
    files: Vec<*const c_char>,
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    /// The limit of open files to set, where it is another one than ours.
    descriptors: Option<Rlimit>,
    semrun: Pid,
    inherited: Inherited,
    /// The new process.
    pid: Option<Pid>,
    /// Whether signals that are sent to it are meant for the command.
    is_ready: AtomicBool,
    /// Not zero until the process has left this memory: it executes its program, or has ended.
    server: AtomicU32,
    /// Why it did not get there.
    failed: Option<ChildFailure>,
}

#[derive(Debug, Clone, Copy)]
enum ChildFailure {
    Before(SetupStep, Errno),
    /// What execve(2) said of which of the program's files.
    Executing(Errno, usize),
}

/// The result of a birth.
enum ExecOutcome {
    Executes,
    Failed(LaunchError),
    /// It was no program, and is retried as a script.
    Script,
}

impl ChildSetup {
    fn of(preparation: Preparation, program: Executable) -> Box<Self> {
        let descriptors =
            preparation.descriptors.filter(|original| open_files_limit() != Some(*original));
        let mut birth = Box::new(Self {
            preparation,
            program,
            as_script: false,
            stack: Vec::with_capacity(ROOM / 16),
            files: Vec::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            descriptors,
            semrun: getpid(),
            inherited: Inherited::recorded(),
            pid: None,
            is_ready: AtomicBool::new(false),
            server: AtomicU32::new(0),
            failed: None,
        });
        birth.point();
        birth
    }

    /// The pointers' targets do not move any more.
    fn point(&mut self) {
        let Executable { files, arguments, environment } = &self.program;
        self.files = files.iter().map(|file| file.as_ptr()).collect();
        self.arguments = pointers(arguments);
        self.environment = pointers(environment);
    }

    fn begin(&mut self) -> Result<(), LaunchError> {
        self.failed = None;
        self.is_ready.store(false, Ordering::Release);
        self.server.store(1, Ordering::Release);
        let server = self.server.as_ptr();
        let top = self.stack.as_mut_ptr().wrapping_add(self.stack.capacity());
        let this: *mut Self = self;
        let flags = libc::CLONE_VM | libc::CLONE_CHILD_CLEARTID | libc::SIGCHLD;
        // No handler of ours may run in that process.
        let pid = with_signals_blocked(|| {
            // SAFETY: the stack is as large as said, aligned, and used by no other code. What
            // `this` points to stays where it is until the process has left this memory, which the
            // kernel says by clearing `shared`; until then we read of it only what is atomic.
            // `be_born` does nothing before that which is not async-signal-safe, or which writes to
            // what belongs to this thread.
            let pid = unsafe {
                let nothing = ptr::null_mut::<c_void>();
                libc::clone(be_born, top.cast(), flags, this.cast(), nothing, nothing, server)
            };
            if pid == -1 { Err(io::Error::last_os_error()) } else { Ok(pid) }
        });
        match pid {
            Ok(pid) => {
                self.pid = Pid::from_raw(pid);
                Ok(())
            }
            Err(error) => {
                self.server.store(0, Ordering::Release);
                Err(LaunchError::Failed("start a process", error))
            }
        }
    }

    /// Why the process did not get to its program, once it has left this memory.
    fn failed(&self) -> Option<ChildFailure> {
        // SAFETY: it is ours, and the process that may have written there has left this memory.
        unsafe { ptr::read_volatile(&raw const self.failed) }
    }

    /// Whether the process has left this memory.
    fn is_over(&self) -> bool {
        self.server.load(Ordering::Acquire) == 0
    }

    /// Waits until it has, or until so much time has passed, or until a signal comes.
    fn wait(&self, time: Duration) {
        let time = Timespec::try_from(time).ok();
        while !self.is_over() {
            match futex::wait(&self.server, futex::Flags::empty(), 1, time.as_ref()) {
                Ok(()) | Err(Errno::AGAIN) => {}
                Err(_timed_out_or_interrupted) => return,
            }
        }
    }

    fn outcome(&mut self) -> ExecOutcome {
        let (errno, file) = match self.failed() {
            None => return ExecOutcome::Executes,
            Some(ChildFailure::Before(step, errno)) => {
                return ExecOutcome::Failed(LaunchError::Failed(step.doing(), errno.into()));
            }
            Some(ChildFailure::Executing(errno, file)) => (errno, file),
        };
        ExecOutcome::Failed(match errno {
            Errno::NOEXEC if !self.as_script && self.program.is_text(file) => {
                self.program = self.program.as_script(file);
                self.as_script = true;
                self.point();
                return ExecOutcome::Script;
            }
            // Then its interpreter, or its loader, is missing.
            Errno::NOENT if self.as_script || self.program.exists() => {
                LaunchError::NotExecutable(Errno::NOENT.into())
            }
            Errno::NOENT => LaunchError::NotFound,
            // Errors that no file causes.
            Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE => {
                LaunchError::Failed(SetupStep::Execute.doing(), errno.into())
            }
            errno => LaunchError::NotExecutable(errno.into()),
        })
    }

    fn prepare(&self) -> Result<(), (SetupStep, Errno)> {
        // First of all, so that the process cannot outlive us.
        let at = |step| move |errno| (step, errno);
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(at(SetupStep::DeathSignal))?;
        if getppid() != Some(self.semrun) {
            // We died before the death signal was set.
            return Err((SetupStep::DeathSignal, Errno::SRCH));
        }
        let Preparation { group, terminal, inherit, .. } = &self.preparation;
        setpgid(None, *group).map_err(at(SetupStep::Group))?;
        // Signals that came while this process was in our group have come to us too.
        forget_pending();
        self.is_ready.store(true, Ordering::Release);
        if let Some(terminal) = terminal {
            // Fails if the terminal has gone since, which does not matter.
            let _ = without_stopping_at_the_terminal(|| tcsetpgrp(terminal, getpid()));
        }
        if let Some(descriptor) = inherit {
            inherit_high(descriptor.as_fd()).map_err(at(SetupStep::Descriptor))?;
        }
        if let Some(descriptors) = self.descriptors {
            setrlimit(Resource::Nofile, descriptors).map_err(at(SetupStep::Limit))?;
        }
        if let Some(file_size) = original_file_size_limit() {
            setrlimit(Resource::Fsize, file_size).map_err(at(SetupStep::Limit))?;
        }
        if let Some(core) = original_core_limit() {
            setrlimit(Resource::Core, core).map_err(at(SetupStep::Limit))?;
        }
        self.inherited.restore();
        Ok(())
    }

    /// Tries one file after the other, as execvp(3) does.
    fn execute(&self) -> ChildFailure {
        let mut refused = ChildFailure::Executing(Errno::NOENT, 0);
        for (file, path) in self.files.iter().enumerate() {
            // SAFETY: a text, and lists that end with a null; they live until this memory is left.
            let errno =
                unsafe { execve(*path, self.arguments.as_ptr(), self.environment.as_ptr()) };
            match errno {
                Errno::NOENT | Errno::NOTDIR | Errno::STALE | Errno::NODEV | Errno::TIMEDOUT => {}
                // There may be another one that we may execute.
                Errno::ACCESS => refused = ChildFailure::Executing(errno, file),
                errno => return ChildFailure::Executing(errno, file),
            }
        }
        refused
    }
}

/// What the new process does. Returns only if it cannot execute its program.
extern "C" fn be_born(birth: *mut c_void) -> c_int {
    let birth: *mut ChildSetup = birth.cast();
    // SAFETY: `begin` passes one, and touches nothing of it but what is atomic before we are done.
    unsafe {
        let failed = match (*birth).prepare() {
            Err((step, errno)) => ChildFailure::Before(step, errno),
            Ok(()) => (*birth).execute(),
        };
        (*birth).failed = Some(failed);
    }
    127
}

/// execve(2) without the C library, whose errno is that of the thread whose memory this process shares.
/// Returns only if it fails.
///
/// # Safety
///
/// As execve(2): a text, and two lists of texts that end with a null.
unsafe fn execve(
    path: *const c_char,
    arguments: *const *const c_char,
    environment: *const *const c_char,
) -> Errno {
    let result: libc::c_long;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the convention of system calls on this machine; the caller promises the rest.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") libc::SYS_execve => result,
            in("rdi") path,
            in("rsi") arguments,
            in("rdx") environment,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the same there.
    unsafe {
        std::arch::asm!(
            "svc 0",
            in("x8") libc::SYS_execve,
            inlateout("x0") path as libc::c_long => result,
            in("x1") arguments,
            in("x2") environment,
            options(nostack),
        );
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        // SAFETY: the caller promises what is needed. If a file system answers late with an error,
        // another call of this thread may see it in errno too.
        unsafe { libc::execve(path, arguments, environment) };
        result =
            -isize::try_from(io::Error::last_os_error().raw_os_error().unwrap_or(0)).unwrap_or(0);
    }
    Errno::from_raw_os_error(i32::try_from(-result).unwrap_or(libc::ENOEXEC))
}

/// Duplicates a descriptor to a high number, and lets it pass exec(2) there.
fn inherit_high(descriptor: BorrowedFd<'_>) -> Result<(), Errno> {
    let duplicate = match fcntl_dupfd_cloexec(descriptor, INHERITED) {
        // The limit of open files is below that: anywhere but on the standard streams.
        Err(Errno::INVAL | Errno::MFILE) => fcntl_dupfd_cloexec(descriptor, 3)?,
        duplicate => duplicate?,
    };
    fcntl_setfd(&duplicate, FdFlags::empty())?;
    let _kept_open = duplicate.into_raw_fd();
    Ok(())
}
