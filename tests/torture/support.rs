use std::time::Duration;

/// The program under test.
pub(crate) const SEMRUN: &str = env!("CARGO_BIN_EXE_semrun");

/// Longer than anything takes that works, on a machine that does much else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
