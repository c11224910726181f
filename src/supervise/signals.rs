//! The only file that touches signal handlers. Signals become a stream of values; they are
//! registered before anything is asked of a backend, so that none goes unheard in any phase.
#![expect(unsafe_code, reason = "signal dispositions have no safe interface")]

use std::io;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;
use tokio::net::unix::pipe::Receiver;

use crate::exit::Failure;

/// What semrun listens to: everything that `docs/supervision.md` has a rule for.
const HEARD: [Signal; 12] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::TERM,
    Signal::USR1,
    Signal::USR2,
    Signal::WINCH,
    Signal::CONT,
    Signal::TSTP,
    Signal::TTIN,
    Signal::TTOU,
    Signal::CHILD,
];

/// Those whose dispositions are others in semrun than those that it was started with.
fn changed() -> impl Iterator<Item = Signal> {
    HEARD.into_iter().chain([Signal::PIPE])
}

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

/// What was sent to semrun and nobody has looked at yet.
#[derive(Debug)]
pub(crate) struct Caught(OwnedFd);

/// The signals that arrive from now on.
#[derive(Debug)]
pub(crate) struct Signals {
    pipe: Receiver,
}

/// What semrun found when it was started, for the command to find as well.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inherited {
    /// Bit N: signal N was ignored, of those that we change.
    ignored: u64,
    /// Bit N: signal N was blocked.
    blocked: u64,
    /// Bit N: descriptor N was closed.
    closed: u8,
}

static IGNORED: AtomicU64 = AtomicU64::new(0);
static BLOCKED: AtomicU64 = AtomicU64::new(0);
static CLOSED: AtomicU8 = AtomicU8::new(0);

/// Notes how semrun was started, and makes it what a program expects. Before anything else.
pub(crate) fn record() {
    let mut ignored = 0;
    for signal in changed() {
        if disposition(signal.as_raw()) == libc::SIG_IGN {
            ignored |= 1_u64 << signal.as_raw();
        }
    }
    IGNORED.store(ignored, Ordering::Relaxed);
    if ignored & 1 << libc::SIGCHLD != 0 {
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
        // SAFETY: opens what no write can harm; what is opened next must not be taken for a stream. So
        // this is the end where there is no such thing.
        unsafe {
            if libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) == -1 {
                libc::_exit(Failure::Internal.code().into());
            }
        }
    }
    // A reader who has gone is an error to a write, and nothing to die of.
    // SAFETY: ignores a signal.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
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
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut set);
        let member = |number: &i32| libc::sigismember(&raw const set, *number) == 1;
        (1..=31).filter(member).fold(0, |blocked, number| blocked | 1 << number)
    }
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

    fn ignores(self, signal: Signal) -> bool {
        self.ignored & 1 << signal.as_raw() != 0
    }

    /// Gives a new process, which is about to execute the command, what semrun was given. What was
    /// ignored without a handler of ours still is; our handlers go first, because no signal is blocked
    /// any more afterwards, and `record` has ignored SIGPIPE.
    pub(crate) fn restore(self) {
        for signal in changed() {
            let then = if self.ignores(signal) { libc::SIG_IGN } else { libc::SIG_DFL };
            // One that came while this process was in our group has come to us too, and must not stop
            // or end it here: ignoring it drops it.
            for action in [libc::SIG_IGN, then] {
                // SAFETY: always allowed, also in a process that has yet to execute its program.
                unsafe { libc::signal(signal.as_raw(), action) };
            }
        }
        let blocked = (1..=31).filter(|number| self.blocked & 1 << number != 0);
        change_mask(libc::SIG_SETMASK, blocked);
        for descriptor in 0..3 {
            if self.closed & 1 << descriptor != 0 {
                // SAFETY: it holds the /dev/null that `record` put there, which nobody uses.
                unsafe { libc::close(descriptor) };
            }
        }
    }
}

/// Cleared in the process that looks after the command: what is sent to semrun comes to the
/// process that everybody sees, whose handlers write into the same pipe.
static ADDRESSED: AtomicBool = AtomicBool::new(true);

/// From here on signals that are sent to this very process are nobody's business.
pub(super) fn address_the_parent() {
    ADDRESSED.store(false, Ordering::Relaxed);
}

/// Where the handler writes what it hears; open as long as the handler is set, which is for ever.
static WRITER: OnceLock<OwnedFd> = OnceLock::new();

/// The handler of all signals. What happened goes through a pipe, so that the order is kept.
extern "C" fn tell(number: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    if number != libc::SIGCHLD && !ADDRESSED.load(Ordering::Relaxed) {
        return;
    }
    match number {
        libc::SIGCHLD => CHILD_CHANGED.store(true, Ordering::Release),
        libc::SIGCONT => CONTINUED.store(true, Ordering::Release),
        _ => drop(RECEIVED.fetch_or(1 << number, Ordering::Relaxed)),
    }
    // SAFETY: the kernel passes one to a handler that was set with SA_SIGINFO. The place of errno is
    // this thread's own, and what was interrupted finds it as it left it.
    unsafe {
        let origin = u8::from((*info).si_code == libc::SI_KERNEL);
        let errno = libc::__errno_location();
        let before = *errno;
        if let (Some(writer), Ok(number)) = (WRITER.get(), u8::try_from(number)) {
            // Full with thousands unread: one more of them tells nothing new.
            let _ = rustix::io::write(writer, &[number, origin]);
        }
        *errno = before;
    }
}

impl Caught {
    /// Starts to listen. A signal that was ignored when semrun started stays ignored (nohup),
    /// but for SIGCHLD, without which nobody learns how the command ended.
    pub(crate) fn install() -> io::Result<Self> {
        let (reader, writer) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        // There is one story in a process, and one who hears.
        WRITER.get_or_init(|| writer);
        let inherited = Inherited::recorded();
        for signal in HEARD {
            if inherited.ignores(signal) && signal != Signal::CHILD {
                continue;
            }
            // SAFETY: a sigaction of zeroes is a valid one, and `tell` does nothing that is not
            // async-signal-safe.
            let set = unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
                action.sa_sigaction = tell as *const () as libc::sighandler_t;
                libc::sigaction(signal.as_raw(), &raw const action, std::ptr::null_mut())
            };
            if set == -1 {
                return Err(io::Error::last_os_error());
            }
        }
        // Whoever started us may have blocked some, and would have made us deaf.
        change_mask(libc::SIG_UNBLOCK, HEARD.into_iter().map(Signal::as_raw));
        Ok(Self(reader))
    }

    /// To be called within a runtime.
    pub(crate) fn listen(self) -> io::Result<Signals> {
        Ok(Signals { pipe: Receiver::from_owned_fd(self.0)? })
    }
}

impl Signals {
    /// The next signal, in the order of their arrival; several SIGCHLD are one. Cancel-safe.
    pub(crate) async fn next(&mut self) -> io::Result<Arrival> {
        loop {
            if CHILD_CHANGED.swap(false, Ordering::Acquire) {
                return Ok(Arrival { signal: Signal::CHILD, origin: Origin::Kernel });
            }
            self.pipe.readable().await?;
            let mut record = [0; 2];
            match self.pipe.try_read(&mut record) {
                Ok(_) => match arrival(record) {
                    // That there was one is known already, and was even if the pipe was full.
                    Arrival { signal: Signal::CHILD, .. } => {}
                    arrival => return Ok(arrival),
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A signal that has arrived already, if there is one.
    pub(crate) fn waiting(&self) -> Option<Arrival> {
        let mut record = [0; 2];
        rustix::io::read(&self.pipe, &mut record).ok()?;
        Some(arrival(record))
    }
}

/// Records of two bytes are written and read whole.
fn arrival([number, origin]: [u8; 2]) -> Arrival {
    let signal = Signal::from_named_raw(number.into()).expect("only what we wrote");
    Arrival { signal, origin: if origin == 1 { Origin::Kernel } else { Origin::Process } }
}

/// Set with each SIGCHLD: a lost one would leave us waiting for ever.
static CHILD_CHANGED: AtomicBool = AtomicBool::new(false);
/// Bit N: signal N was sent to this process.
static RECEIVED: AtomicU64 = AtomicU64::new(0);

/// Whether a signal has ever been sent to this process.
pub(super) fn received(signal: Signal) -> bool {
    RECEIVED.load(Ordering::Relaxed) & 1 << signal.as_raw() != 0
}

/// Set with each SIGCONT.
static CONTINUED: AtomicBool = AtomicBool::new(false);

/// Whom a stop concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whom {
    Semrun,
    /// Our process group: what Ctrl-Z would have stopped had we not given the terminal away.
    Group,
}

/// Stops as SIGTSTP does, although we listen to it, and returns when continued. False: we did not
/// stop, because no shell controls our process group; there the kernel ignores it.
pub(crate) fn stop(whom: Whom) -> bool {
    CONTINUED.store(false, Ordering::Release);
    // SAFETY: replaces the action of one signal by the default and puts back what was there.
    unsafe {
        let mut ours: libc::sigaction = std::mem::zeroed();
        let mut default: libc::sigaction = std::mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(libc::SIGTSTP, &raw const default, &raw mut ours);
        match whom {
            Whom::Semrun => libc::raise(libc::SIGTSTP),
            Whom::Group => libc::kill(0, libc::SIGTSTP),
        };
        libc::sigaction(libc::SIGTSTP, &raw const ours, std::ptr::null_mut());
    }
    CONTINUED.load(Ordering::Acquire)
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

/// Runs `action` while no signal is heard; those that come are heard afterwards.
pub(crate) fn deaf<T>(action: impl FnOnce() -> T) -> T {
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

/// The name of a signal without its SIG.
pub(crate) fn name(signal: Signal) -> &'static str {
    let name = signal_hook::low_level::signal_name(signal.as_raw()).unwrap_or(UNNAMED);
    name.trim_start_matches("SIG")
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
                assert_eq!(parse(name(signal)), Ok(signal));
            }
        }
    }
}
