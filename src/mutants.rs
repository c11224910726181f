//! Guards that a test turns off, one at a time, to prove that it would notice. Only with the feature
//! `mutants`, which no release build can have; otherwise every guard stands, at no cost.
//!
//! `SEMRUN_MUTANT` names the guard, of one process and of all that inherit the variable. The script
//! for Redis goes with the client that calls it, so all clients of a server have to have it.

/// A guard, which keeps a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "mutants", derive(serde::Deserialize), serde(rename_all = "kebab-case"))]
#[cfg_attr(
    not(feature = "mutants"),
    expect(dead_code, reason = "those of the script are asked for only where it is changed")
)]
pub(crate) enum Guard {
    /// A Redis that may have forgotten holders grants nothing until they could report.
    Quarantine,
    /// A Redis grants and renews nothing while fewer replicas are in step than its users ask for.
    Replicas,
    /// A promoted Redis grants nothing until holders could report, also for names that it does not
    /// know.
    Promoted,
    /// A permit of PassBuddy's counts for one TTL beyond its expiry.
    ForeignRule,
    /// A lease is counted from before it was asked for, however late the answer comes.
    DeadlineFromRequest,
    /// A permit is given back only when nothing is left of a tree that has to end.
    ReleaseAfterDeath,
    /// The next waiter learns at once of a permit that is free.
    WakeUp,
    /// The command's whole tree keeps a local permit, also when semrun is dead.
    InheritedLock,
    /// Tokens of Redis grow even when the last one is forgotten.
    TokensGrow,
    /// The first in the queue is granted what is free.
    Order,
    /// Of semrun's two processes, either ends the whole tree when the other one dies.
    Guardian,
    /// The same on this machine, where processes that closed the permit's descriptor have to be
    /// found.
    LocalGuardian,
    /// A command that a signal ended takes its tree with it before its permit passes on.
    StoppedTakesTree,
    /// A nested run hears of the end of the permit around it, and that permit waits for the run.
    NestedWatch,
    /// A server's grant is on the disk before any client is told of it.
    Journal,
    /// A command whose permit cannot be renewed is dead before its lease ends.
    Deadline,
    /// A restarted server grants nothing until its former clients could come back.
    QuietRestart,
    /// A permit stays taken for as long as its holder asked for, also when it was given back.
    Hold,
    /// A permit that was revoked passes on when its holder has stopped, not before.
    Revocation,
}

/// Whether a test has turned this one off.
#[cfg(not(feature = "mutants"))]
pub(crate) const fn is_off(_: Guard) -> bool {
    false
}

/// Whether a test has turned this one off.
#[cfg(feature = "mutants")]
pub(crate) fn is_off(guard: Guard) -> bool {
    static OFF: std::sync::OnceLock<Option<Guard>> = std::sync::OnceLock::new();
    *OFF.get_or_init(|| {
        let name = std::env::var("SEMRUN_MUTANT").ok().filter(|name| !name.is_empty())?;
        // A test with a name that is no guard's would prove nothing.
        Some(serde_json::from_value(name.into()).expect("SEMRUN_MUTANT names a guard"))
    }) == Some(guard)
}

#[cfg(all(feature = "mutants", not(debug_assertions)))]
compile_error!("the feature `mutants` turns guards off, and is for tests only");
