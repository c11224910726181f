//! The command's process, from its birth until it executes its program. That may take for ever: the
//! file can lie on a file system whose server does not answer. So a thread of its own waits for it.
#![expect(unsafe_code, reason = "each block says why it is sound")]

use std::borrow::Cow;
use std::ffi::{CStr, CString, OsStr, OsString, c_char, c_int, c_void};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::{ptr, thread};

use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getpid, getppid, set_parent_process_death_signal, setpgid,
    setrlimit,
};
use rustix::termios::tcsetpgrp;
use tokio::sync::oneshot;

use super::{environment, open_files_limit, original_file_size_limit};
use crate::supervise::signals::{
    Inherited, deafen_this_thread, forget_pending, without_stopping_at_the_terminal,
};

/// Where the inherited descriptor of a permit goes: high, so that `exec 3>…` in a script does
/// not replace it.
const INHERITED: RawFd = 100;

/// What a process is to execute, ready for the kernel before there is such a process.
pub(crate) struct Program {
    /// Where it may be, in the order in which to try.
    files: Vec<CString>,
    arguments: Vec<CString>,
    environment: Vec<Cow<'static, CStr>>,
}

/// What a command's process gets before it executes the command.
#[derive(Debug)]
pub(crate) struct Preparation {
    /// Its process group; none: one of its own.
    pub(crate) group: Option<Pid>,
    /// The terminal, if the process's group shall have it.
    pub(crate) terminal: Option<OwnedFd>,
    /// A descriptor to keep open in the command, for whatever it stands.
    pub(crate) inherit: Option<OwnedFd>,
    /// The limit of open files that semrun was started with, as far as it is known.
    pub(crate) descriptors: Option<Rlimit>,
}

/// A process that is about to execute its program, or has.
#[derive(Debug)]
pub(crate) struct Spawning {
    shared: Arc<Shared>,
    outcome: oneshot::Receiver<Result<(), LaunchError>>,
}

/// Why a program is not being executed.
#[derive(Debug)]
pub(crate) enum LaunchError {
    /// No file of this name is where it was looked for.
    NotFound,
    /// There is a file, and the kernel refuses to execute it.
    NotExecutable(io::Error),
    /// What was wrong is not the program: this step before it failed.
    Failed(&'static str, io::Error),
}

/// What both processes see of a birth.
#[derive(Debug, Default)]
struct Shared {
    /// The new process, once signals that are sent to it are meant for the command; until then zero.
    ready: AtomicI32,
    /// Nothing more will come of it.
    over: AtomicBool,
}

/// A step on the way to the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    DeathSignal,
    Group,
    Descriptor,
    Limit,
    Execute,
}

impl Step {
    /// Fits behind "cannot".
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

impl Program {
    /// `file` is looked for in PATH, unless it is a path; `changes` are made to our own environment.
    pub(crate) fn new(
        file: &OsStr,
        arguments: &[OsString],
        changes: &[(&str, Option<String>)],
    ) -> io::Result<Self> {
        let text = |text: &OsStr| Ok::<_, io::Error>(CString::new(text.as_bytes())?);
        let all = std::iter::once(file).chain(arguments.iter().map(OsString::as_os_str));
        let is = |variable: &CStr, name: &str| {
            let rest = variable.to_bytes().strip_prefix(name.as_bytes());
            rest.is_some_and(|rest| rest.starts_with(b"="))
        };
        let is_kept = |variable: &&CStr| !changes.iter().any(|(name, _)| is(variable, name));
        let added = changes.iter().filter_map(|(name, value)| {
            Some(CString::new(format!("{name}={}", value.as_ref()?)).map(Cow::Owned))
        });
        let kept = environment().filter(is_kept).map(|variable| Ok(Cow::Borrowed(variable)));
        Ok(Self {
            files: candidates(text(file)?)?,
            arguments: all.map(text).collect::<Result<_, _>>()?,
            environment: kept.chain(added).collect::<Result<_, _>>()?,
        })
    }

    /// The same by /bin/sh: what can be executed and is no program is a script.
    fn as_script(&self, file: usize) -> Self {
        const SHELL: &CStr = c"/bin/sh";
        let words = [SHELL.into(), self.files[file].clone()].into_iter();
        Self {
            files: vec![SHELL.into()],
            arguments: words.chain(self.arguments.iter().skip(1).cloned()).collect(),
            environment: self.environment.clone(),
        }
    }

    /// Whether a file that the kernel does not take for a program is a text, as a script is. What
    /// has zeroes in its first line is a program for other machines; shells decide by the same.
    fn is_text(&self, file: usize) -> bool {
        let mut begin = [0; 256];
        let path = Path::new(OsStr::from_bytes(self.files[file].to_bytes()));
        let Ok(length) = File::open(path).and_then(|mut file| file.read(&mut begin)) else {
            return false;
        };
        let line = begin[..length].split(|byte| *byte == b'\n').next().unwrap_or_default();
        !line.contains(&0) && !line.starts_with(b"\x7fELF")
    }

    /// Whether there is such a file at all.
    fn exists(&self) -> bool {
        let is_there = |file: &CString| Path::new(OsStr::from_bytes(file.to_bytes())).is_file();
        self.files.iter().any(is_there)
    }
}

/// Where a file may be, as execvp(3) looks for it.
fn candidates(file: CString) -> io::Result<Vec<CString>> {
    const USUAL: &[u8] = b"/usr/local/bin:/bin:/usr/bin";
    if file.to_bytes().contains(&b'/') {
        return Ok(vec![file]);
    }
    if file.is_empty() {
        return Ok(Vec::new());
    }
    let path = |one: &'static CStr| one.to_bytes().strip_prefix(b"PATH=");
    let directories = environment().find_map(path).unwrap_or(USUAL);
    let within = |directory: &[u8]| {
        let directory = if directory.is_empty() { b"." } else { directory };
        Ok(CString::new([directory, b"/", file.to_bytes()].concat())?)
    };
    directories.split(|byte| *byte == b':').map(within).collect()
}

/// As execve(2) takes them. They point into `texts`.
fn pointers<T: AsRef<CStr>>(texts: &[T]) -> Vec<*const c_char> {
    texts.iter().map(|text| text.as_ref().as_ptr()).chain([ptr::null()]).collect()
}

impl Preparation {
    /// Starts a process that is to execute the program, in a thread that never ends if it does: the
    /// kernel takes the end of that thread for the death of semrun.
    pub(crate) fn spawn(self, program: Program) -> Result<Spawning, LaunchError> {
        let shared = Arc::new(Shared::default());
        let (sender, outcome) = oneshot::channel();
        let theirs = Arc::clone(&shared);
        let birth = move || {
            // What is sent to semrun is for its other thread.
            deafen_this_thread();
            let done = self.execute(&program, &theirs);
            theirs.over.store(true, Ordering::Release);
            // A command that runs has a copy of what it inherits.
            drop((self, program));
            let executes = done.is_ok();
            // Nobody asks any more when semrun is about to end.
            let _ = sender.send(done);
            if executes {
                loop {
                    thread::park();
                }
            }
        };
        let thread = thread::Builder::new().stack_size(64 * 1024).spawn(birth);
        thread.map_err(|error| LaunchError::Failed("start a thread", error))?;
        Ok(Spawning { shared, outcome })
    }

    fn execute(&self, program: &Program, shared: &Shared) -> Result<(), LaunchError> {
        let Err(failed) = self.try_to_execute(program, shared)? else { return Ok(()) };
        if failed.errno == Errno::NOEXEC && program.is_text(failed.file) {
            let script = program.as_script(failed.file);
            return match self.try_to_execute(&script, shared)? {
                Ok(()) => Ok(()),
                Err(failed) => Err(LaunchError::NotExecutable(failed.errno.into())),
            };
        }
        Err(match failed.errno {
            // What is missing then is its interpreter, or its loader.
            Errno::NOENT if program.exists() => LaunchError::NotExecutable(Errno::NOENT.into()),
            Errno::NOENT => LaunchError::NotFound,
            // Nothing that could be said of a file.
            Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE => {
                LaunchError::Failed(Step::Execute.doing(), failed.errno.into())
            }
            errno => LaunchError::NotExecutable(errno.into()),
        })
    }

    /// Makes a process that executes the program. The inner error is that of the last step.
    ///
    /// The process shares our memory until it does, and this thread waits: a copy of all that is ours
    /// would be made to be thrown away, and takes longer than anything else that a run does.
    fn try_to_execute(
        &self,
        program: &Program,
        shared: &Shared,
    ) -> Result<Result<(), Refused>, LaunchError> {
        const ROOM: usize = 32 * 1024;
        let files: Vec<_> = program.files.iter().map(|file| file.as_ptr()).collect();
        let (arguments, environment) =
            (pointers(&program.arguments), pointers(&program.environment));
        let mut stack: Vec<u128> = Vec::with_capacity(ROOM / 16);
        let descriptors = self.descriptors.filter(|original| open_files_limit() != Some(*original));
        let mut newborn = Newborn {
            preparation: self,
            descriptors,
            semrun: getpid(),
            inherited: Inherited::recorded(),
            files: &files,
            arguments: arguments.as_ptr(),
            environment: environment.as_ptr(),
            shared,
            failed: None,
        };
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        // SAFETY: the stack is as large as said, aligned, and nobody else's. With CLONE_VFORK this
        // thread, the only one that uses what `newborn` points to, waits until the process has
        // executed its program or has ended, and `begin` does nothing before that which is
        // not async-signal-safe. No handler of ours runs in it: this thread has all signals blocked.
        let pid = unsafe {
            let top = stack.as_mut_ptr().add(stack.capacity()).cast();
            libc::clone(begin, top, flags, (&raw mut newborn).cast())
        };
        if pid == -1 {
            return Err(LaunchError::Failed("start a process", io::Error::last_os_error()));
        }
        match newborn.failed {
            None => Ok(Ok(())),
            Some(Failed::Before(step, errno)) => {
                Err(LaunchError::Failed(step.doing(), errno.into()))
            }
            Some(Failed::Executing(refused)) => Ok(Err(refused)),
        }
    }
}

impl Spawning {
    /// The process, as soon as there is one to which signals for the command can be sent. None: there
    /// will be none. That takes some hundredths of a millisecond, whatever the program's file does.
    pub(crate) fn pid(&self) -> Option<Pid> {
        loop {
            let over = self.shared.over.load(Ordering::Acquire);
            let ready = self.shared.ready.load(Ordering::Acquire);
            if ready != 0 || over {
                return Pid::from_raw(ready);
            }
            thread::yield_now();
        }
    }

    /// Returns once the program is being executed, or will not be. Cancel-safe.
    pub(crate) async fn outcome(&mut self) -> Result<(), LaunchError> {
        (&mut self.outcome).await.unwrap_or_else(|_| Err(thread_ended()))
    }
}

fn thread_ended() -> LaunchError {
    LaunchError::Failed("start a process", io::Error::other("a thread ended"))
}

/// A process on its way to its program, in the memory of its parent.
struct Newborn<'a> {
    preparation: &'a Preparation,
    /// The limit of open files to set, where it is another one than ours.
    descriptors: Option<Rlimit>,
    semrun: Pid,
    inherited: Inherited,
    files: &'a [*const c_char],
    arguments: *const *const c_char,
    environment: *const *const c_char,
    shared: &'a Shared,
    /// Why it did not get there.
    failed: Option<Failed>,
}

enum Failed {
    Before(Step, Errno),
    Executing(Refused),
}

/// What execve(2) said.
struct Refused {
    errno: Errno,
    /// Which of the program's files is meant.
    file: usize,
}

/// What the new process does. Returns only if it cannot execute its program.
extern "C" fn begin(newborn: *mut c_void) -> c_int {
    // SAFETY: `try_to_execute` passes one, and does not touch it before we are done.
    let newborn = unsafe { &mut *newborn.cast::<Newborn<'_>>() };
    newborn.failed = Some(match newborn.prepare() {
        Err((step, errno)) => Failed::Before(step, errno),
        Ok(()) => Failed::Executing(newborn.execute()),
    });
    // What is left of it is not the command.
    newborn.shared.ready.store(0, Ordering::Release);
    127
}

impl Newborn<'_> {
    fn prepare(&self) -> Result<(), (Step, Errno)> {
        // First, so that nothing can go wrong in a process that outlives us.
        let at = |step| move |errno| (step, errno);
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(at(Step::DeathSignal))?;
        if getppid() != Some(self.semrun) {
            // We died before that took effect.
            return Err((Step::DeathSignal, Errno::SRCH));
        }
        let Preparation { group, terminal, inherit, .. } = self.preparation;
        setpgid(None, *group).map_err(at(Step::Group))?;
        // What came while this process was in our group has come to us too.
        forget_pending();
        self.shared.ready.store(getpid().as_raw_nonzero().get(), Ordering::Release);
        if let Some(terminal) = terminal {
            // Fails where the terminal has gone since, and then there is none to have.
            let _ = without_stopping_at_the_terminal(|| tcsetpgrp(terminal, getpid()));
        }
        if let Some(descriptor) = inherit {
            inherit_high(descriptor.as_fd()).map_err(at(Step::Descriptor))?;
        }
        if let Some(descriptors) = self.descriptors {
            setrlimit(Resource::Nofile, descriptors).map_err(at(Step::Limit))?;
        }
        if let Some(file_size) = original_file_size_limit() {
            setrlimit(Resource::Fsize, file_size).map_err(at(Step::Limit))?;
        }
        self.inherited.restore();
        Ok(())
    }

    /// Tries one file after the other, as execvp(3) does.
    fn execute(&self) -> Refused {
        let mut refused = Refused { errno: Errno::NOENT, file: 0 };
        for (file, path) in self.files.iter().enumerate() {
            // SAFETY: a text, and lists that end with a null; they live until `spawn` is done. The place
            // of errno is that of a thread that waits.
            unsafe { libc::execve(*path, self.arguments, self.environment) };
            let errno = Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::NOEXEC);
            match errno {
                Errno::NOENT | Errno::NOTDIR | Errno::STALE | Errno::NODEV | Errno::TIMEDOUT => {}
                // There may be another one that we may execute.
                Errno::ACCESS => refused = Refused { errno, file },
                errno => return Refused { errno, file },
            }
        }
        refused
    }
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
