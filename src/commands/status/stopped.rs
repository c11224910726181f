//! Whether a job is stopped, by Ctrl-Z say: it keeps its permit, and does nothing.

use std::process;

use crate::permits::ClientInfo;
use crate::proc::ProcessStat;
use crate::user;

/// None: its process is not on this machine, or is hidden, or its pid belongs to another process.
pub(super) fn is_stopped(who: &ClientInfo) -> Option<bool> {
    if who.detached || who.host != user::host() {
        return None;
    }
    let found = ProcessStat::of(who.pid)?;
    let is_semrun = ProcessStat::of(process::id())?.name == found.name;
    is_semrun.then_some(found.is_stopped())
}
