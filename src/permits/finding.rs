//! What `doctor` may find where permits live, as facts.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

/// One thing that was found where permits live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// One or two words.
    pub(crate) topic: &'static str,
    pub(crate) grade: Grade,
    pub(crate) what: FindingKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Grade {
    Ok,
    /// Permits are safe, but something may not be as intended.
    Warning,
    /// It has to be fixed.
    Error,
}

/// What it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FindingKind {
    /// A Redis, by the name of its program.
    Redis {
        program: &'static str,
        version: String,
    },
    /// A Redis that says nothing of itself.
    NoInfo,
    /// A Redis that may not wake waiters.
    NoWakeups,
    /// The password can be read on the network.
    PasswordReadable,
    /// A Redis that cannot be written to.
    ReadOnly,
    /// In megabytes.
    MemoryShort {
        used: u64,
        most: u64,
    },
    /// Its keys do not show where the prefix ends.
    AmbiguousPrefix {
        prefix: String,
        shorter: String,
        rest: String,
    },
    KeepsKeys,
    /// It throws keys away by this policy when memory is short, and the user accepts that or not.
    Evicts {
        policy: String,
        accepted: bool,
    },
    Persistence(Persistence),
    /// The append-only file cannot be written.
    AppendFails,
    SnapshotFails,
    NoQuarantine,
    Quarantine {
        up: Duration,
        left: Duration,
    },
    Clock(ClockOffset),
    Replicas(ReplicaReport),
    /// `min-replicas-to-write` is set, and this server's scripts ignore it.
    MinReplicasIgnored(String),

    /// A cloud-semaphore server lets us in.
    Accepts,
    /// One of ours.
    Serve {
        version: String,
    },
    /// Permits outlive a restart of it.
    Remembers,
    Forgets,
    ServeClock(ClockOffset),
    /// One of the original kind.
    Original,
    Encrypted,
    /// What is sent stays on this machine.
    Here,
    /// Keys can be read on the network.
    KeyReadable,

    Directory {
        path: PathBuf,
        named: bool,
        exists: bool,
    },
    Sharing(SharedWith),
    /// By the magic number of statfs(2).
    FileSystem(u32),
    /// In MiB.
    FreeSpace(u64),
    FreeFiles(u64),

    /// Permits are in the memory of this process.
    #[cfg(test)]
    Memory,
}

/// What a Redis writes to its disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Persistence {
    AppendOnly,
    /// To its append-only file, when the system likes to.
    AppendLazily,
    /// By this rule.
    Snapshots(String),
    Nothing,
    /// No append-only file; whether snapshots, it does not say.
    Unknown,
}

/// How far the server's clock is from ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClockOffset {
    pub(crate) apart: Duration,
    /// Whether the server's is behind.
    pub(crate) behind: bool,
}

impl ClockOffset {
    /// From both, since the epoch.
    pub(crate) fn of(theirs: Duration, ours: Duration) -> Self {
        Self { apart: theirs.abs_diff(ours), behind: theirs < ours }
    }
}

/// The replicas of a Redis, and how many of them clients need in step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReplicaReport {
    pub(crate) known: u64,
    pub(crate) in_step: u64,
    pub(crate) needed: u64,
    pub(crate) verdict: ReplicaCheck,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplicaCheck {
    Enough,
    TooFew,
    /// None is needed, so that two servers may both grant.
    NoneNeeded,
    /// All are needed, so that the loss of one stops everything.
    AllNeeded,
    /// Two servers that share the replicas may have as many each.
    Split,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SharedWith {
    Everybody,
    Group,
    Nobody,
}
