//! What has no safe interface besides signal handlers: the start of this program, its environment, a
//! new process until it executes its program, and waiting for a descriptor of our own.
#![expect(unsafe_code, reason = "each block says why it is sound")]

#[cfg(target_env = "musl")]
mod heap;
pub(crate) mod text;

use std::borrow::Cow;
use std::ffi::{CStr, CString, OsStr, OsString, c_char, c_int, c_void};
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::OnceLock;
use std::{io, iter};

use rustix::fs::{Access, access};
use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, getpid, getppid, getrlimit,
    set_parent_process_death_signal, setpgid, setrlimit, waitpid,
};
use rustix::termios::tcsetpgrp;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::supervise::signals::{Inherited, deaf, without_stopping_at_the_terminal};

// What a panic needs, as part of the program: loading libgcc_s takes a twentieth of the time of a run.
#[cfg(all(target_env = "gnu", not(target_feature = "crt-static")))]
#[link(name = "gcc_eh")]
unsafe extern "C" {}

/// Where the inherited descriptor of a permit goes: high, so that `exec 3>…` in a script does
/// not replace it.
const INHERITED: RawFd = 100;

/// Where the program starts. Rust's own start, before a `main` of its own, takes a twentieth of the
/// time of a run for what semrun does not need: a message when the stack overflows.
// SAFETY: no other function has this name; the C library calls it once.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[cfg_attr(test, expect(dead_code, reason = "tests have a start of their own"))]
extern "C" fn main(count: c_int, words: *const *const c_char) -> c_int {
    crate::supervise::signals::record();
    // SAFETY: there are as many texts as said, which live as long as the process.
    let word = |at| unsafe { CStr::from_ptr(*words.add(at)) };
    let line: Vec<_> = (0..usize::try_from(count).unwrap_or(0))
        .map(|at| OsStr::from_bytes(word(at).to_bytes()).to_os_string())
        .collect();
    crate::run(&line).into()
}

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

/// The environment that semrun was started with, `NAME=VALUE` each.
pub(crate) fn environment() -> impl Iterator<Item = &'static CStr> {
    unsafe extern "C" {
        static environ: *const *const c_char;
    }
    // SAFETY: the list and its texts are the kernel's, end with a null, and live as long as this
    // process: nothing in it changes its environment, which is `unsafe` and denied elsewhere.
    let mut next = unsafe { environ };
    iter::from_fn(move || {
        // SAFETY: see above. It stays where the list ends.
        unsafe {
            let text = (!(*next).is_null()).then(|| CStr::from_ptr(*next))?;
            next = next.add(1);
            Some(text)
        }
    })
}

/// What a process is to execute, ready for the kernel before there is such a process.
pub(crate) struct Program {
    file: CString,
    arguments: Vec<CString>,
    environment: Vec<Cow<'static, CStr>>,
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
            file: text(file)?,
            arguments: all.map(text).collect::<Result<_, _>>()?,
            environment: kept.chain(added).collect::<Result<_, _>>()?,
        })
    }

    /// The same by /bin/sh: what can be executed and is no program is a script.
    fn as_script(&self) -> Option<Self> {
        const SHELL: &CStr = c"/bin/sh";
        let file = self.file.to_bytes();
        let path = if file.contains(&b'/') {
            self.file.clone()
        } else {
            // The first that there is, as execvpe(3) looks for it.
            let path = |one: &'static CStr| one.to_bytes().strip_prefix(b"PATH=");
            let directories =
                environment().find_map(path).unwrap_or(b"/usr/local/bin:/bin:/usr/bin");
            directories.split(|byte| *byte == b':').find_map(|directory| {
                let directory = if directory.is_empty() { b"." } else { directory };
                let path = CString::new([directory, b"/", file].concat()).ok()?;
                let is_file = Path::new(OsStr::from_bytes(path.to_bytes())).is_file();
                (is_file && access(&path, Access::EXEC_OK).is_ok()).then_some(path)
            })?
        };
        let words = [SHELL.into(), path].into_iter().chain(self.arguments.iter().skip(1).cloned());
        let environment = self.environment.clone();
        Some(Self { file: SHELL.into(), arguments: words.collect(), environment })
    }
}

/// As execve(2) takes them. They point into `texts`.
fn pointers<T: AsRef<CStr>>(texts: &[T]) -> Vec<*const c_char> {
    texts.iter().map(|text| text.as_ref().as_ptr()).chain([ptr::null()]).collect()
}

/// What a command's process gets before it executes the command.
#[derive(Clone, Copy)]
pub(crate) struct Preparation<'a> {
    /// Its process group; none: one of its own.
    pub(crate) group: Option<Pid>,
    /// The terminal, if the process's group shall have it.
    pub(crate) terminal: Option<BorrowedFd<'a>>,
    /// A descriptor to keep open in the command, for whatever it stands.
    pub(crate) inherit: Option<BorrowedFd<'a>>,
    /// The limit of open files that semrun was started with.
    pub(crate) descriptors: Rlimit,
}

/// A process on its way to its program, in the memory of its parent.
struct Newborn<'a> {
    preparation: Preparation<'a>,
    semrun: Pid,
    raised: bool,
    inherited: Inherited,
    file: *const c_char,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    /// Why it did not get there.
    failed: Option<Errno>,
}

impl Preparation<'_> {
    /// Starts a process that executes the program. When this returns it does, or it never will. To
    /// be called by a thread that lives as long as semrun: the kernel takes a thread's end for its
    /// parent's death.
    ///
    /// The process shares our memory until then, and we wait: a copy of all that is ours would be made
    /// to be thrown away, and takes longer than anything else that a run does.
    pub(crate) fn spawn(self, program: &Program) -> io::Result<Pid> {
        match self.spawn_program(program) {
            // glibc's execvpe(3) has tried that itself; musl's leaves it to us.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOEXEC) => {
                program.as_script().map_or(Err(error), |script| self.spawn_program(&script))
            }
            done => done,
        }
    }

    fn spawn_program(self, program: &Program) -> io::Result<Pid> {
        // Room for paths, and for the arguments of a script that /bin/sh has to run.
        const ROOM: usize = 32 * 1024;
        let (arguments, environment) =
            (pointers(&program.arguments), pointers(&program.environment));
        let mut stack: Vec<u128> = Vec::with_capacity((ROOM + arguments.len() * 16) / 16);
        let mut newborn = Newborn {
            preparation: self,
            semrun: getpid(),
            raised: getrlimit(Resource::Nofile) != self.descriptors,
            inherited: Inherited::recorded(),
            file: program.file.as_ptr(),
            arguments: arguments.as_ptr(),
            environment: environment.as_ptr(),
            failed: None,
        };
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        // No handler of ours may run in that process: what it does there happened to us.
        let pid = deaf(|| {
            // SAFETY: the stack is as large as said, aligned, and nobody else's. With CLONE_VFORK this
            // thread, the only one that uses what `newborn` points to, waits until the process has
            // executed its program or has ended, and `begin` does nothing before that which is
            // not async-signal-safe.
            let pid = unsafe {
                let top = stack.as_mut_ptr().add(stack.capacity()).cast();
                libc::clone(begin, top, flags, (&raw mut newborn).cast())
            };
            if pid == -1 { Err(io::Error::last_os_error()) } else { Ok(pid) }
        });
        let pid = Pid::from_raw(pid?).expect("the number of a process");
        match newborn.failed {
            None => Ok(pid),
            Some(errno) => {
                while let Err(Errno::INTR) = waitpid(Some(pid), WaitOptions::empty()) {}
                Err(errno.into())
            }
        }
    }
}

/// What the new process does. Returns only if it cannot execute its program.
extern "C" fn begin(newborn: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes one, and does not touch it before we are done.
    let newborn = unsafe { &mut *newborn.cast::<Newborn<'_>>() };
    let failed = newborn.prepare().err().unwrap_or_else(|| {
        // SAFETY: both are texts and lists that end with a null and live until `spawn` returns.
        // execvpe(3) of glibc and musl is made to be called here: it allocates nothing.
        unsafe { libc::execvpe(newborn.file, newborn.arguments, newborn.environment) };
        Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::NOEXEC)
    });
    newborn.failed = Some(failed);
    127
}

impl Newborn<'_> {
    fn prepare(&self) -> Result<(), Errno> {
        // First, so that nothing can go wrong in a process that outlives us.
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if getppid() != Some(self.semrun) {
            // We died before that took effect.
            return Err(Errno::SRCH);
        }
        let Preparation { group, terminal, inherit, descriptors } = self.preparation;
        setpgid(None, group)?;
        if let Some(terminal) = terminal {
            // Fails where the terminal has gone since, and then there is none to have.
            let _ = without_stopping_at_the_terminal(|| tcsetpgrp(terminal, getpid()));
        }
        if let Some(descriptor) = inherit {
            inherit_high(descriptor)?;
        }
        if self.raised {
            setrlimit(Resource::Nofile, descriptors)?;
        }
        self.inherited.restore();
        Ok(())
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
