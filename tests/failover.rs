//! A Redis whose primary is replaced: crashes, partitions, planned failovers. The kernel is the
//! judge: every command takes a lock on one file while it runs, and says so if that was taken.
//! Plain `cargo test` leaves this out, because it takes long: `cargo test --test failover`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod failover {
    /// Clients of two ages.
    mod ages;
    /// Clients from before.
    mod former;
    /// Servers that are lost.
    mod losses;
    /// Primaries that are replaced.
    mod promotions;
    /// Where a case takes place.
    mod scene;
    /// What the cases stand on.
    mod stage;
}
