//! Whether a job is stopped, by Ctrl-Z say: it keeps its permit, and does nothing.

use std::fs;

use crate::backends::ClientInfo;
use crate::user;

/// None: its process is not on this machine, or is hidden, or its pid belongs to another process.
pub(super) fn is_stopped(who: &ClientInfo) -> Option<bool> {
    if who.detached || who.host != user::host() {
        return None;
    }
    let stat = fs::read_to_string(format!("/proc/{}/stat", who.pid)).ok()?;
    let ours = fs::read_to_string("/proc/self/stat").ok()?;
    let (name, state) = name_and_state(&stat)?;
    (name_and_state(&ours)?.0 == name).then_some(state == 'T')
}

/// From a line of proc(5), `pid (name) state …`; a name may contain anything.
fn name_and_state(stat: &str) -> Option<(&str, char)> {
    let (front, back) = stat.rsplit_once(')')?;
    Some((front.split_once('(')?.1, back.trim_start().chars().next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_have_anything_in_it() {
        assert_eq!(name_and_state("7 (a) T b) S 1 7"), Some(("a) T b", 'S')));
        assert_eq!(name_and_state("7 semrun"), None);
    }
}
