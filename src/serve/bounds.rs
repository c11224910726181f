//! How much of everything a server keeps for clients that have a key.

use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Clients that register, wait or hold, of all semaphores.
    pub(crate) clients: usize,
    /// Clients that register or wait, of one semaphore.
    pub(crate) waiters: usize,
    /// Semaphores that are in use or have a pinned limit.
    pub(crate) names: usize,
    /// Of these, those with a pinned limit.
    pub(crate) pins: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { clients: 200_000, waiters: 20_000, names: 20_000, pins: 10_000 }
    }
}

/// Which bound is reached, and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimitReached {
    Clients(usize),
    Waiters(usize),
    Names(usize),
    Pins(usize),
}

impl fmt::Display for LimitReached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clients(most) => write!(f, "it has {most} clients already (--max-clients)"),
            Self::Waiters(most) => write!(f, "{most} wait there already (--max-waiters)"),
            Self::Names(most) => write!(f, "{most} semaphores are in use already (--max-names)"),
            Self::Pins(most) => write!(f, "{most} limits are pinned already (--max-pins)"),
        }
    }
}
