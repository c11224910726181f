//! A Redis whose primary is replaced: crashes, partitions, planned failovers. The kernel is the
//! judge: every command takes a lock on one file while it runs, and says so if that was taken.
//! Plain `cargo test` leaves this out, because it takes long: `cargo test --test failover`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

/// Servers, and what happens to them.
mod support;

mod failover {
    /// Clients of two ages.
    mod ages;
    /// Clients from before.
    mod former;
    /// Servers that are lost.
    mod losses;
    /// Processes that are found by what they carry.
    #[path = "../torture/processes.rs"]
    #[expect(dead_code, reason = "the torture needs more of it")]
    mod processes;
    /// Primaries that are replaced.
    mod promotions;
    /// Where a case takes place.
    mod scene;
    /// What the cases stand on.
    mod stage;
}
