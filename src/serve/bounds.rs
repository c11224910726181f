//! How much of everything a server keeps for clients that have a key.

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
