//! The three things that have no safe interface besides signal handlers: a new process until it
//! executes its program, waiting for a descriptor of our own, and memory that is not needed for now.
#![expect(unsafe_code, reason = "each block says why it is sound")]

use std::ffi::{CString, OsStr, OsString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::ptr;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, getpid, getppid, getrlimit,
    set_parent_process_death_signal, setpgid, setrlimit, waitpid,
};
use rustix::termios::tcsetpgrp;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::supervise::signals::{Inherited, deaf, without_stopping_at_the_terminal};

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

/// How long nothing has to happen until it is worth to call [`give_back_text`]: a hand-over after it
/// takes 0.05 ms longer, which nobody pays who gets on sooner.
pub(crate) const QUIET: Duration = Duration::from_millis(100);

/// Gives back the memory that the kernel can fill again from our program's file: its text and its
/// constants, which are nearly all that there is of a process that waits. What is needed again comes
/// back when it is touched.
pub(crate) fn give_back_text() {
    // SAFETY: `give_back_text_of` is what is expected here, and needs no data.
    unsafe { libc::dl_iterate_phdr(Some(give_back_text_of), ptr::null_mut()) };
}

/// Ends the iteration: the first object is the program, and its libraries are not ours alone.
extern "C" fn give_back_text_of(
    object: *mut libc::dl_phdr_info,
    _size: usize,
    _nothing: *mut c_void,
) -> c_int {
    // SAFETY: it describes something that is loaded, and has so many headers.
    let (base, headers) = unsafe {
        let object = &*object;
        (object.dlpi_addr, std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()))
    };
    // SAFETY: asks.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let page = usize::try_from(page).expect("pages have a size");
    for header in headers {
        // Of what was writable once, if only to be relocated, there is no other copy.
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let begin = usize::try_from(base + header.p_vaddr);
        let (Ok(begin), Ok(size)) = (begin, usize::try_from(header.p_memsz)) else { continue };
        let within = begin % page;
        // SAFETY: nobody can have written there, so it reads the same afterwards. What cannot be given
        // back stays.
        unsafe {
            let begin = ptr::with_exposed_provenance_mut(begin - within);
            libc::madvise(begin, within + size, libc::MADV_DONTNEED);
        }
    }
    1
}

/// What a process is to execute, ready for the kernel before there is such a process.
pub(crate) struct Program {
    file: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
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
        let is_new = |name: &OsStr| changes.iter().any(|(one, _)| *one == name);
        let kept = std::env::vars_os().filter(|(name, _)| !is_new(name));
        let added = changes.iter().filter_map(|(name, value)| {
            Some((OsString::from(name), OsString::from(value.as_ref()?)))
        });
        let variable = |(mut name, value): (OsString, OsString)| {
            name.push("=");
            name.push(value);
            Ok(CString::new(name.into_vec())?)
        };
        Ok(Self {
            file: text(file)?,
            arguments: all.map(text).collect::<Result<_, _>>()?,
            environment: kept.chain(added).map(variable).collect::<io::Result<_>>()?,
        })
    }
}

/// As execve(2) takes them. They point into `texts`.
fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
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
        // Room for paths, and for the arguments of a script that /bin/sh has to run.
        const ROOM: usize = 64 * 1024;
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
