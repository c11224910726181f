use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A moment since the boot, which is the same for all processes of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(pub(crate) u64);

impl Moment {
    pub(crate) fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        let [seconds, nanos] = [now.tv_sec, now.tv_nsec].map(|part| u64::try_from(part).unwrap());
        Self(seconds * 1_000_000_000 + nanos)
    }

    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    pub(crate) fn before(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(time.as_nanos()).unwrap()))
    }

    pub(crate) fn plus(self, time: Duration) -> Self {
        Self(self.0 + u64::try_from(time.as_nanos()).unwrap())
    }
}

/// One semrun, by the order of their starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Run(pub(crate) usize);

impl Display for Run {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write!(out, "run {}", self.0)
    }
}

/// What a run did or suffered.
#[derive(Debug, Clone)]
pub(crate) enum What {
    Started(Run),
    /// Its command began.
    Entered {
        run: Run,
        token: Option<u64>,
        permit: String,
    },
    /// Its command found no free lock file: there is one too many.
    Crowded(Run),
    /// It wrote to the store, which had seen this token as its newest.
    Wrote {
        run: Run,
        token: u64,
        newest: u64,
        accepted: bool,
    },
    /// Its command came to its end by itself, with this code.
    Left {
        run: Run,
        code: i32,
    },
    /// The last process of its command's tree is gone; it was last seen alive then.
    Dead(Run),
    /// semrun has ended, with this code, or minus the signal.
    Ended {
        run: Run,
        code: i32,
        stderr: String,
    },
    /// A fault, and the runs that it struck; if it names none, all.
    Struck {
        kind: &'static str,
        runs: Vec<Run>,
        detail: String,
    },
    /// It is over.
    Mended {
        kind: &'static str,
        runs: Vec<Run>,
    },
    /// The permits that were waited for, in their order, then or later.
    Queue {
        semaphore: &'static str,
        permits: Vec<String>,
    },
}

#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) at: Moment,
    pub(crate) what: What,
}

/// A command that leaves processes behind or does not, and for how long it works.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Job {
    pub(crate) kind: Kind,
    pub(crate) work: Duration,
    /// What it ends with; minus a signal that it sends itself.
    pub(crate) code: i32,
    /// For how long from its grant its permit is to stay taken.
    pub(crate) hold: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One process.
    Plain,
    /// The same, but it ignores what asks it to end.
    Stubborn,
    /// A child, one in another session and a daemon, all stubborn; all are killed when it has ended.
    Family,
    /// The same, and semrun waits for them.
    Awaited,
    /// Leaves a daemon behind, as it may.
    Daemon,
    /// A script that waits for it, which may be killed without it.
    Shell,
    /// A program waits for it that closes, in what it starts, all descriptors that it inherited.
    Closed,
    /// Under a run within a run, of which the outer one may end first.
    Nested,
    /// Leaves processes that start others in sessions of their own, and end, all the time.
    Swarm,
    /// Writes to the store until its end, which must refuse it once a newer one has written.
    Writer,
    /// No semrun around it: it acquires a permit, renews it, works while it has it for certain, and
    /// gives it back.
    Step,
}

impl Job {
    /// Whether nothing is left then that keeps the permit.
    pub(crate) fn passes_on_at_its_end(&self) -> bool {
        self.kind == Kind::Plain && self.hold.is_zero()
    }
}

impl Kind {
    pub(crate) fn orphans(self) -> &'static str {
        match self {
            Self::Family | Self::Swarm => "kill",
            Self::Awaited => "wait",
            _ => "leave",
        }
    }

    pub(crate) fn is_alone(self) -> bool {
        matches!(self, Self::Plain | Self::Stubborn | Self::Writer)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Semaphore {
    pub(crate) name: &'static str,
    pub(crate) limit: usize,
    pub(crate) judge: Judge,
}

/// What tells whether there are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Judge {
    /// Lock files, which a command has for as long as there is anything left of it.
    Locks,
    /// The same, but for as long as it can do anything. The kernel closes the files of one that was
    /// killed one after the other, the highest descriptor first; where a permit is a connection,
    /// the next one may have it before the last of them is closed.
    EarlyLocks,
    /// The tokens: here more is done than any other guarantee covers.
    Tokens,
}

impl Judge {
    pub(crate) fn locks(self) -> bool {
        self != Self::Tokens
    }
}

/// What is known of a run besides what happened to it.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) semaphore: Semaphore,
    pub(crate) job: Job,
    /// Whether it may end without having had a permit, because it waits for so long only.
    pub(crate) gives_up: bool,
    /// Whether its network may fail by itself.
    pub(crate) by_proxy: bool,
    /// Whether something that it needs was taken from it at its start.
    pub(crate) deprived: bool,
}

/// A limit lower than that which its users ask for, from when it was in force for certain until it
/// may have been changed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pin {
    pub(crate) semaphore: Semaphore,
    pub(crate) limit: usize,
    pub(crate) from: Moment,
    pub(crate) to: Option<Moment>,
}

/// What was seen of a server, from outside.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// Until when it would have kept a permit, as it was last seen.
    pub(crate) until: BTreeMap<String, Moment>,
    /// When it was looked at.
    pub(crate) looks: Vec<Moment>,
}

impl Kept {
    /// When the lease was over of a permit that was seen; none if it may have been renewed once
    /// more before that, unseen.
    pub(crate) fn over(&self, permit: &str, by: Moment) -> Option<Moment> {
        let end = *self.until.get(permit)?;
        let next = self.looks.partition_point(|look| *look < end);
        self.looks.get(next).is_some_and(|look| *look <= by).then_some(end)
    }
}

/// All that happened in an arena.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) asks: Vec<Ask>,
    pub(crate) events: Vec<Event>,
    pub(crate) kept: Kept,
    /// Whether a semrun is two processes there, of which either ends the command when the other dies.
    pub(crate) guarded: bool,
    /// When a holder whose processes were all killed would lose its permit: the kill, the end.
    pub(crate) take_overs: Vec<(Semaphore, Moment, Moment)>,
    /// How often others than semruns worked.
    pub(crate) strangers: usize,
    /// Which of these strangers found it too full.
    pub(crate) strangers_crowded: Vec<String>,
    /// What was left when all was over.
    pub(crate) leftovers: Vec<String>,
    /// The runs that had not ended when all should have.
    pub(crate) unserved: Vec<Run>,
    /// Limits that were pinned.
    pub(crate) pins: Vec<Pin>,
    /// The faults by which a permit may end before it was held for long enough, as documented.
    pub(crate) end_holds: &'static [&'static str],
    /// What waiting cost where it should have cost less.
    pub(crate) costly: Vec<String>,
}

impl History {
    pub(crate) fn add(&mut self, what: What) {
        self.add_at(Moment::now(), what);
    }

    pub(crate) fn add_at(&mut self, at: Moment, what: What) {
        self.events.push(Event { at, what });
    }

    pub(crate) fn ask(&self, run: Run) -> &Ask {
        &self.asks[run.0]
    }
}
