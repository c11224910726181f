//! Signal handlers, and the signals that arrived as a stream of values. They are installed before
//! the first request to a backend, so that no signal is missed in any phase.
#![expect(unsafe_code, reason = "signal handlers have no safe interface")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use rustix::event::{EventfdFlags, eventfd};
use rustix::process::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{IGNORED, RAISED_BY_WRITING, bit, change_mask, handled_signals};
use crate::sys::watch;

/// A signal that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) signal: Signal,
    pub(crate) origin: Origin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The terminal, or another part of the kernel: our whole process group has it.
    Kernel,
    /// Some process, with kill(2) or the like.
    Process,
}

/// Proof that the handlers are installed, so that no signal is lost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HandlersInstalled(());

/// The signals that have arrived, and those that will.
#[derive(Debug)]
pub(crate) struct Signals {
    wake: AsyncFd<OwnedFd>,
}

/// Cleared in the process that looks after the command: signals to semrun come to the process that
/// others see, whose handlers write into the same pipe.
static ADDRESSED: AtomicBool = AtomicBool::new(true);

/// For the second process, before it hears anything: from here on signals sent to this very process
/// are ignored.
pub(in crate::supervise) fn address_the_parent() {
    OWN.store(own(), Ordering::Relaxed);
    ADDRESSED.store(false, Ordering::Relaxed);
}

/// The signals that have arrived, and what wakes the process that handles them. Both processes of a
/// run share it: the handlers of the visible one tell the other.
struct Mailbox {
    arrived: &'static PendingSignals,
    wake: OwnedFd,
}

/// One bit for each signal: a flag cannot overflow, however many signals come, and several of a kind
/// are one, as they are to the kernel.
struct PendingSignals {
    from_kernel: AtomicU64,
    from_processes: AtomicU64,
    /// All that have ever come.
    ever: AtomicU64,
}

impl PendingSignals {
    /// In memory that a second process will share.
    fn server() -> io::Result<&'static Self> {
        // SAFETY: a new mapping, not shared with other code and never unmapped. Zeroes are valid
        // for all that is in it, and a page is large and aligned enough.
        unsafe {
            let page = libc::mmap(
                std::ptr::null_mut(),
                size_of::<Self>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            if page == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            Ok(&*page.cast::<Self>())
        }
    }

    /// Notes a signal. As in the kernel, a continuation cancels earlier stops.
    fn note(&self, number: libc::c_int, origin: Origin) {
        const STOPS: u64 = bit(libc::SIGTSTP) | bit(libc::SIGTTIN) | bit(libc::SIGTTOU);
        if number == libc::SIGCONT {
            for arrived in [&self.from_kernel, &self.from_processes] {
                arrived.fetch_and(!STOPS, Ordering::AcqRel);
            }
        }
        self.ever.fetch_or(bit(number), Ordering::AcqRel);
        self.of(origin).fetch_or(bit(number), Ordering::AcqRel);
    }

    fn of(&self, origin: Origin) -> &AtomicU64 {
        match origin {
            Origin::Kernel => &self.from_kernel,
            Origin::Process => &self.from_processes,
        }
    }

    /// The next one, in the order in which the kernel would deliver them. Stops come after
    /// continuations: a stopped command has to run before it can be stopped again.
    fn take(&self) -> Option<Arrival> {
        let continues =
            [Origin::Kernel, Origin::Process].map(|origin| (origin, bit(libc::SIGCONT)));
        let all = [Origin::Kernel, Origin::Process].map(|origin| (origin, u64::MAX));
        for (origin, which) in continues.into_iter().chain(all) {
            let arrived = self.of(origin);
            loop {
                let waiting = arrived.load(Ordering::Acquire) & which;
                if waiting == 0 {
                    break;
                }
                let number = waiting.trailing_zeros();
                // It may have been undone meanwhile.
                if arrived.fetch_and(!(1 << number), Ordering::AcqRel) & 1 << number != 0 {
                    return Some(Arrival { signal: signal(number.cast_signed() + 1), origin });
                }
            }
        }
        None
    }
}

/// Of a number that `heard` has.
fn signal(number: libc::c_int) -> Signal {
    // SAFETY: none of these is the C library's own.
    unsafe { Signal::from_raw_unchecked(number) }
}

/// Where the handlers put signals. It lasts as long as they do, for ever.
static MAILBOX: OnceLock<Mailbox> = OnceLock::new();

/// The handler of all signals.
extern "C" fn tell(number: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let this = own();
    if this != OWN.load(Ordering::Relaxed) {
        // The signal was meant for the command, which does not run its program yet. SAFETY: gives
        // up this handler in that process alone, and has the signal delivered again as soon as it
        // returns. Both calls are async-signal-safe.
        unsafe {
            libc::signal(number, libc::SIG_DFL);
            libc::kill(this, number);
        }
        return;
    }
    if number == libc::SIGCHLD {
        CHILD_CHANGED.store(true, Ordering::Release);
    } else if !ADDRESSED.load(Ordering::Relaxed) {
        return;
    }
    if number == libc::SIGCONT {
        CONTINUED.store(true, Ordering::Release);
    }
    // SAFETY: the kernel passes one to a handler that was set with SA_SIGINFO. The place of errno is
    // this thread's own, and what was interrupted finds it as it left it.
    unsafe {
        let origin =
            if (*info).si_code == libc::SI_KERNEL { Origin::Kernel } else { Origin::Process };
        // One that a system call of ours raised is reported by that call.
        let our_own = RAISED_BY_WRITING.contains(&number) && (*info).si_pid() == this;
        let Some(Mailbox { arrived, wake }) = MAILBOX.get().filter(|_| !our_own) else { return };
        if number != libc::SIGCHLD {
            arrived.note(number, origin);
        }
        let errno = libc::__errno_location();
        let before = *errno;
        // It only counts, and is never full.
        let _ = rustix::io::write(wake, &1_u64.to_ne_bytes());
        *errno = before;
    }
}

/// Sets what a signal does, and returns what it did.
fn set(number: libc::c_int, action: libc::sighandler_t) -> io::Result<libc::sighandler_t> {
    // SAFETY: sigactions of zeroes are valid ones, and `tell`, the only handler that is set, does
    // nothing that is not async-signal-safe.
    unsafe {
        let mut new: libc::sigaction = std::mem::zeroed();
        let mut old: libc::sigaction = std::mem::zeroed();
        new.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        new.sa_sigaction = action;
        if libc::sigaction(number, &raw const new, &raw mut old) == -1 {
            return Err(io::Error::last_os_error());
        }
        Ok(old.sa_sigaction)
    }
}

/// The process that listens. One that is about to execute the command shares its memory.
static OWN: AtomicI32 = AtomicI32::new(0);

fn own() -> libc::pid_t {
    // SAFETY: asks, and cannot fail. Async-signal-safe.
    unsafe { libc::getpid() }
}

impl HandlersInstalled {
    /// Starts to listen. A signal that was ignored when semrun started stays ignored (nohup),
    /// but for SIGCHLD, without which we do not learn how the command ended.
    pub(crate) fn install() -> io::Result<Self> {
        let arrived = PendingSignals::server()?;
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        // A process has one mailbox and one listener.
        MAILBOX.get_or_init(|| Mailbox { arrived, wake });
        OWN.store(own(), Ordering::Relaxed);
        // A signal that stays ignored must not be heard meanwhile.
        change_mask(libc::SIG_BLOCK, handled_signals());
        for number in handled_signals() {
            // `record` has ignored these itself, if they were not.
            let known = RAISED_BY_WRITING.contains(&number);
            if known && IGNORED.load(Ordering::Relaxed) & bit(number) != 0 {
                continue;
            }
            if set(number, tell as *const () as libc::sighandler_t)? == libc::SIG_IGN && !known {
                IGNORED.fetch_or(bit(number), Ordering::Relaxed);
                set(number, libc::SIG_IGN)?;
            }
        }
        // They may have been blocked when we were started, which would have made us deaf.
        change_mask(libc::SIG_UNBLOCK, handled_signals());
        Ok(Self(()))
    }

    /// To be called within a runtime; once in each.
    pub(crate) fn listen(self) -> io::Result<Signals> {
        let Self(()) = self;
        let wake = mailbox().wake.as_fd().try_clone_to_owned()?;
        Ok(Signals { wake: watch(wake, Interest::READABLE)? })
    }
}

/// There is no [`HandlersInstalled`] without one.
fn mailbox() -> &'static Mailbox {
    MAILBOX.get().expect("signals are listened to")
}

impl Signals {
    /// The next signal; several of a kind may be one. Cancel-safe.
    pub(crate) async fn next(&mut self) -> io::Result<Arrival> {
        loop {
            if CHILD_CHANGED.swap(false, Ordering::AcqRel) {
                return Ok(Arrival { signal: Signal::CHILD, origin: Origin::Kernel });
            }
            if let Some(arrival) = self.waiting() {
                return Ok(arrival);
            }
            let mut ready = self.wake.readable().await?;
            // Read before the flags are: one that is set afterwards wakes again.
            if let Ok(read) = ready.try_io(|wake| Ok(rustix::io::read(wake, &mut [0; 8])?)) {
                read?;
            }
        }
    }

    /// A signal that has arrived already, if there is one.
    #[expect(clippy::unused_self, reason = "who listens may ask")]
    pub(crate) fn waiting(&self) -> Option<Arrival> {
        mailbox().arrived.take()
    }
}

/// Set with each SIGCHLD of this process: a lost one would leave us waiting for ever. Set from the
/// start, as a child that we were started with may have ended before the handler was there.
static CHILD_CHANGED: AtomicBool = AtomicBool::new(true);

/// Whether a signal has ever been sent to semrun.
pub(in crate::supervise) fn received(signal: Signal) -> bool {
    let ever = MAILBOX.get().map_or(0, |mailbox| mailbox.arrived.ever.load(Ordering::Acquire));
    ever & bit(signal.as_raw()) != 0
}

/// Set with each SIGCONT.
static CONTINUED: AtomicBool = AtomicBool::new(false);

/// To be called before a stop, after which [`continued`] counts.
pub(super) fn forget_continuation() {
    CONTINUED.store(false, Ordering::Release);
}

pub(super) fn continued() -> bool {
    CONTINUED.load(Ordering::Acquire)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is heard of signals that came in this order before anything was heard.
    fn heard_of(signals: &[(Signal, Origin)]) -> Vec<Signal> {
        let arrived = PendingSignals::server().unwrap();
        for (signal, origin) in signals {
            arrived.note(signal.as_raw(), *origin);
        }
        std::iter::from_fn(|| arrived.take()).map(|arrival| arrival.signal).collect()
    }

    #[test]
    fn one_that_is_stopped_again_is_continued_before() {
        let (shell, typed) = ((Signal::CONT, Origin::Process), (Signal::TSTP, Origin::Kernel));
        assert_eq!(heard_of(&[shell, typed]), [Signal::CONT, Signal::TSTP]);
        assert_eq!(heard_of(&[typed, shell]), [Signal::CONT]);
        assert_eq!(heard_of(&[typed, shell, typed]), [Signal::CONT, Signal::TSTP]);
        let others = [(Signal::TERM, Origin::Kernel), shell, (Signal::HUP, Origin::Process)];
        assert_eq!(heard_of(&others), [Signal::CONT, Signal::TERM, Signal::HUP]);
    }
}
