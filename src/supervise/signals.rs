//! The only files that touch signal handlers: here the signal settings that semrun inherited and
//! passes to the command, and stopping or dying by a signal. `handlers.rs` has the handlers.
//!
//! No crate does this. Whether the kernel or a process sent a signal, by its `si_code`, decides
//! whether the command has had it already: `tokio::signal` does not say, and signal-hook only with a
//! piece of C. Its registry, which is copied with each of sixty signals, and the looking up of
//! variables were 5 % of a run together (docs/performance.md). And a command inherits the
//! dispositions and the mask that semrun was started with: they are recorded before they change.
#![expect(unsafe_code, reason = "signal dispositions have no safe interface")]

mod handlers;

use std::borrow::Cow;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Signal;

pub(crate) use self::handlers::{Arrival, HandlersInstalled, Origin, Signals};
pub(super) use self::handlers::{address_the_parent, received};
use self::handlers::{continued, forget_continuation};

/// Left to their default action: the two that no process can catch, and those by which the kernel
/// reports a defect of ours.
const NOT_HEARD: [libc::c_int; 8] = [
    libc::SIGKILL,
    libc::SIGSTOP,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGSEGV,
    libc::SIGSYS,
];

/// What semrun listens to: all others, so that `docs/supervision.md` has a rule for each signal that
/// a supervisor may send. Real-time signals are among them (`KillSignal=SIGRTMIN+3`).
fn handled_signals() -> impl Iterator<Item = libc::c_int> {
    (1..=31)
        .filter(|number| !NOT_HEARD.contains(number))
        .chain(libc::SIGRTMIN()..=libc::SIGRTMAX().min(64))
}

/// The bit of a signal in a set of them.
const fn bit(number: libc::c_int) -> u64 {
    1 << (number - 1)
}

/// Raised by our own system calls, which report an error as well: the reader is gone, or the file
/// has become too large. By default they end a process.
const RAISED_BY_WRITING: [libc::c_int; 2] = [libc::SIGPIPE, libc::SIGXFSZ];

/// The signal settings and streams with which semrun was started, for the command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inherited {
    /// The signals that were ignored, of those that we listen to.
    ignored: u64,
    /// The signals that were blocked.
    blocked: u64,
    /// Bit N: descriptor N was closed.
    closed: u8,
}

static IGNORED: AtomicU64 = AtomicU64::new(0);
static BLOCKED: AtomicU64 = AtomicU64::new(0);
static CLOSED: AtomicU8 = AtomicU8::new(0);

/// Notes how semrun was started, and sets what a program expects. Call it first of all. False:
/// nothing can replace a closed stream, and the program must end.
pub(crate) fn record() -> bool {
    for number in RAISED_BY_WRITING.into_iter().chain([libc::SIGCHLD]) {
        if disposition(number) == libc::SIG_IGN {
            IGNORED.fetch_or(bit(number), Ordering::Relaxed);
        }
    }
    if IGNORED.load(Ordering::Relaxed) & bit(libc::SIGCHLD) != 0 {
        // Otherwise the kernel does not say how a child of ours ended.
        // SAFETY: restores a default.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    }
    BLOCKED.store(blocked(), Ordering::Relaxed);
    let mut closed = 0;
    for descriptor in 0..3 {
        // SAFETY: asks about a number, whether it is a descriptor or not.
        if unsafe { libc::fcntl(descriptor, libc::F_GETFD) } == -1 {
            closed |= 1_u8 << descriptor;
        }
    }
    CLOSED.store(closed, Ordering::Relaxed);
    for _ in 0..closed.count_ones() {
        // SAFETY: opens a file that no write can harm, so that no later file is taken for a stream.
        if unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) } == -1 {
            return false;
        }
    }
    for number in RAISED_BY_WRITING {
        // SAFETY: ignores a signal. The write says what is wrong.
        unsafe { libc::signal(number, libc::SIG_IGN) };
    }
    true
}

fn disposition(number: libc::c_int) -> libc::sighandler_t {
    // SAFETY: a sigaction of zeroes is a valid one, and with no new action the call only reads
    // the present one into it.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(number, std::ptr::null(), &raw mut action);
        action.sa_sigaction
    }
}

/// The signals that this thread has blocked.
fn blocked() -> u64 {
    // SAFETY: with no new set the call only reads the present one into a valid one.
    let set = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut set);
        set
    };
    members(&set)
}

fn members(set: &libc::sigset_t) -> u64 {
    // SAFETY: asks about numbers of signals.
    let member = |number: &libc::c_int| unsafe { libc::sigismember(set, *number) == 1 };
    (1..=64).filter(member).fold(0, |members, number| members | bit(number))
}

impl Inherited {
    pub(crate) fn recorded() -> Self {
        Self {
            ignored: IGNORED.load(Ordering::Relaxed),
            blocked: BLOCKED.load(Ordering::Relaxed),
            closed: CLOSED.load(Ordering::Relaxed),
        }
    }

    /// Whether this one of the three streams was closed.
    pub(crate) fn is_closed(self, descriptor: u8) -> bool {
        self.closed & 1 << descriptor != 0
    }

    /// Restores the inherited settings in a new process that is about to execute the command.
    /// Ignored signals stay so, and execution removes our handlers; until then these know that they
    /// are not in our process.
    pub(crate) fn restore(self) {
        if self.ignored & bit(libc::SIGCHLD) != 0 {
            // SAFETY: always allowed, also in a process that has yet to execute its program.
            unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        }
        let blocked = (1..=64).filter(|number| self.blocked & bit(*number) != 0);
        change_mask(libc::SIG_SETMASK, blocked);
        for descriptor in 0..3 {
            if self.closed & 1 << descriptor != 0 {
                // SAFETY: it holds the /dev/null that `record` put there, which no code uses.
                unsafe { libc::close(descriptor) };
            }
        }
    }
}

/// Keeps a signal pending: an early one until [`HandlersInstalled`] hears it, SIGCHLD until
/// [`poll_or_child`] waits.
pub(crate) fn hold_back(signal: Signal) {
    change_mask(libc::SIG_BLOCK, [signal.as_raw()].into_iter());
}

/// Drops the signals that wait for this process while it has them blocked.
pub(crate) fn forget_pending() {
    // SAFETY: reads which ones wait into a valid set.
    let pending = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigpending(&raw mut set);
        members(&set)
    };
    let ignored = IGNORED.load(Ordering::Relaxed);
    for number in handled_signals().filter(|number| pending & !ignored & bit(*number) != 0) {
        for action in [libc::SIG_IGN, libc::SIG_DFL] {
            // SAFETY: ignoring a signal drops it. Always allowed.
            unsafe { libc::signal(number, action) };
        }
    }
}

/// Which processes stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopTarget {
    Semrun,
    /// Our process group: what Ctrl-Z would have stopped had we not given the terminal away.
    Group,
}

/// Stops as SIGTSTP does, although we listen to it, and returns when continued. False: we did not
/// stop, because no shell controls our process group; there the kernel ignores it.
pub(crate) fn stop(whom: StopTarget) -> bool {
    forget_continuation();
    // SAFETY: replaces the action of one signal by the default and puts back what was there.
    unsafe {
        let mut ours: libc::sigaction = std::mem::zeroed();
        let mut default: libc::sigaction = std::mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(libc::SIGTSTP, &raw const default, &raw mut ours);
        match whom {
            StopTarget::Semrun => libc::raise(libc::SIGTSTP),
            StopTarget::Group => libc::kill(0, libc::SIGTSTP),
        };
        libc::sigaction(libc::SIGTSTP, &raw const ours, std::ptr::null_mut());
    }
    continued()
}

/// Dies of a signal that ends a process by default. Returns where the kernel does not allow that:
/// to the first process of a container.
pub(crate) fn die_of(signal: Signal) {
    // SAFETY: the default action replaces whatever we had; there is no way back and none needed.
    unsafe { libc::signal(signal.as_raw(), libc::SIG_DFL) };
    change_mask(libc::SIG_UNBLOCK, [signal.as_raw()].into_iter());
    let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
}

/// Changes this thread's signal mask. Async-signal-safe.
fn change_mask(how: libc::c_int, signals: impl Iterator<Item = i32>) {
    // SAFETY: an emptied set is a valid one, and only signal numbers are added.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut());
    }
}

/// Waits until one of these can be read, and says which. A child's end interrupts the wait, even if
/// it came before: once [`hold_back`] has been told of SIGCHLD, only this lets it in. After some
/// `quiet` time this calls `rest`, and goes on to wait with as little code as possible.
///
/// # Errors
///
/// `Errno::INTR` for a child, and what poll(2) has.
pub(super) fn poll_or_child<const N: usize>(
    descriptors: [BorrowedFd<'_>; N],
    quiet: Duration,
    rest: fn(),
) -> Result<[bool; N], Errno> {
    let mut polled = descriptors.map(|descriptor| libc::pollfd {
        fd: descriptor.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    });
    let quiet = libc::timespec {
        tv_sec: quiet.as_secs().try_into().unwrap_or_default(),
        tv_nsec: quiet.subsec_nanos().into(),
    };
    // SAFETY: the descriptors are borrowed for the calls, an array has its own length, and an
    // absent timeout is null. The mask is this thread's own, without one signal.
    let ready = unsafe {
        let mut mask: libc::sigset_t = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut mask);
        libc::sigdelset(&raw mut mask, libc::SIGCHLD);
        let (first, count) = (polled.as_mut_ptr(), N as libc::nfds_t);
        match libc::ppoll(first, count, &raw const quiet, &raw const mask) {
            0 => {
                rest();
                libc::ppoll(first, count, std::ptr::null(), &raw const mask)
            }
            ready => ready,
        }
    };
    if ready == -1 {
        return Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL));
    }
    Ok(polled.map(|one| one.revents != 0))
}

/// The name of a signal without its SIG.
pub(crate) fn name(signal: Signal) -> Cow<'static, str> {
    let number = signal.as_raw();
    match signal_hook::low_level::signal_name(number) {
        Some(name) => name.trim_start_matches("SIG").into(),
        None if number >= libc::SIGRTMIN() => format!("RTMIN+{}", number - libc::SIGRTMIN()).into(),
        None => UNNAMED.into(),
    }
}

/// For the few that signal-hook has no name for.
const UNNAMED: &str = "?";

/// Reads `TERM`, `SIGTERM`, `term` or `15`.
pub(crate) fn parse(text: &str) -> Result<Signal, String> {
    let upper = text.to_ascii_uppercase();
    let wanted = upper.trim_start_matches("SIG");
    let mut all = (1..=31).filter_map(Signal::from_named_raw);
    let found = all.find(|signal| {
        let named = name(*signal) == wanted && wanted != UNNAMED;
        named || text.parse() == Ok(signal.as_raw())
    });
    found.ok_or_else(|| "not a signal; give a name such as TERM or a number from 1 to 31".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_go_by_name_or_number() {
        for text in ["TERM", "SIGTERM", "term", "sigterm", "15"] {
            assert_eq!(parse(text), Ok(Signal::TERM), "{text}");
        }
        for text in ["", "SIG", "0", "32", "-9", "NOPE", "?"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_named_signal_can_be_given_by_its_name() {
        for signal in (1..=31).filter_map(Signal::from_named_raw) {
            if name(signal) != UNNAMED {
                assert_eq!(parse(&name(signal)), Ok(signal));
            }
        }
    }
}
