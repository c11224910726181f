//! Calls to the system that have no safe interface, except for signal handlers: the program's arguments, environment,
//! limits and signal mask, a second process of it, and waiting for a descriptor of our own.
#![expect(unsafe_code, reason = "each block says why it is sound")]

#[cfg(target_env = "musl")]
mod allocator;
pub(crate) mod program_memory;

use std::ffi::{CStr, OsStr, OsString, c_char, c_int};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;
use std::{io, iter};

use rustix::process::{Pid, Resource, Rlimit, setrlimit};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

// What a panic needs, as part of the program: loading libgcc_s takes a twentieth of the time of a run.
#[cfg(all(target_env = "gnu", not(target_feature = "crt-static")))]
#[link(name = "gcc_eh")]
unsafe extern "C" {}

/// The words that this program was started with, as the C library hands them to its `main`.
///
/// # Safety
///
/// There must be `count` texts, which live as long as the process.
pub(crate) unsafe fn arguments(count: c_int, words: *const *const c_char) -> Vec<OsString> {
    // SAFETY: see above.
    let word = |at| unsafe { CStr::from_ptr(*words.add(at)) };
    (0..usize::try_from(count).unwrap_or(0))
        .map(|at| OsStr::from_bytes(word(at).to_bytes()).to_os_string())
        .collect()
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
/// none in the second, where `first` runs before any signal is heard. To be called while there is
/// one thread.
pub(crate) fn fork(first: impl FnOnce()) -> io::Result<Option<Pid>> {
    // The second one belongs to the job all the same.
    let _recorded = own_group();
    with_signals_blocked(|| {
        // SAFETY: with one thread nothing is locked or half done in the copy.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                // Cannot fail for a process that leads no session and is not executing another file.
                let _ = rustix::process::setpgid(None, None);
                first();
                Ok(None)
            }
            pid => Ok(Pid::from_raw(pid)),
        }
    })
}

/// Runs `action` while no signal is heard; those that come are heard afterwards.
pub(crate) fn with_signals_blocked<T>(action: impl FnOnce() -> T) -> T {
    // SAFETY: changes this thread's own signal mask and puts the old one back.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut old: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut old);
        let result = action();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const old, std::ptr::null_mut());
        result
    }
}

/// Runs `action` while a terminal may not stop us for changing its foreground group, which is
/// what happens to a background process that does so.
pub(crate) fn without_stopping_at_the_terminal<T>(action: impl FnOnce() -> T) -> T {
    // SAFETY: changes this thread's own signal mask and puts the old one back. Both calls are
    // async-signal-safe.
    unsafe {
        let mut blocked: libc::sigset_t = std::mem::zeroed();
        let mut old: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut blocked);
        libc::sigaddset(&raw mut blocked, libc::SIGTTOU);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const blocked, &raw mut old);
        let result = action();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const old, std::ptr::null_mut());
        result
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

/// The limit of open files.
pub(crate) fn open_files_limit() -> Option<Rlimit> {
    limit_of(libc::RLIMIT_NOFILE)
}

/// None where we may not ask, as in a sandbox.
fn limit_of(resource: libc::__rlimit_resource_t) -> Option<Rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: fills in what it is given, or says that it did not.
    if unsafe { libc::getrlimit(resource, &raw mut limit) } == -1 {
        return None;
    }
    let known = |limit| (limit != libc::RLIM_INFINITY).then_some(limit);
    Some(Rlimit { current: known(limit.rlim_cur), maximum: known(limit.rlim_max) })
}

/// The largest file that this process may write, in bytes. None: any.
pub(crate) fn file_size_limit() -> Option<u64> {
    limit_of(libc::RLIMIT_FSIZE)?.current
}

/// The limit that semrun was started with, if that was too low.
static FILE_SIZE: OnceLock<Rlimit> = OnceLock::new();

/// The limit that the command gets, if it differs from ours.
pub(crate) fn original_file_size_limit() -> Option<Rlimit> {
    FILE_SIZE.get().copied()
}

/// Lets this process write files as large as the system allows: a limit meant for the command must
/// not cost us the permit. A failure is reported where it matters.
pub(crate) fn raise_file_size_limit() {
    if let Some(limit) = limit_of(libc::RLIMIT_FSIZE)
        && limit.current.is_some()
        && FILE_SIZE.set(limit).is_ok()
    {
        let any = Rlimit { current: None, maximum: None };
        let _ = setrlimit(Resource::Fsize, any)
            .or_else(|_| setrlimit(Resource::Fsize, Rlimit { current: limit.maximum, ..limit }));
    }
}

/// The limit that semrun was started with, if it has a secret.
static CORE: OnceLock<Rlimit> = OnceLock::new();

/// The limit that the command gets, if it differs from ours.
pub(crate) fn original_core_limit() -> Option<Rlimit> {
    CORE.get().copied()
}

/// Has this process, and those it becomes, leave no core file, which would hold its secret.
///
/// A limit of one byte also keeps the kernel from handing the core to a program (`core_pattern` with
/// a pipe), which a limit of zero does not. `PR_SET_DUMPABLE` would do more than is wanted: it gives
/// our /proc to root, and with hidepid=2 hides us from the semrun within us that looks for its outer
/// one.
pub(crate) fn keep_from_core_files() {
    if let Some(limit) = limit_of(libc::RLIMIT_CORE)
        && CORE.get().is_none()
    {
        let least = limit.maximum.map_or(1, |maximum| maximum.min(1));
        let ours = Rlimit { current: Some(least), ..limit };
        if setrlimit(Resource::Core, ours).is_ok() {
            let _ = CORE.set(limit);
        }
    }
}

/// Lets this process have as many open files as the system allows it. A failure is reported when
/// none are left.
pub(crate) fn raise_open_files_limit() {
    if let Some(Rlimit { current, maximum }) = open_files_limit()
        && current != maximum
    {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}
