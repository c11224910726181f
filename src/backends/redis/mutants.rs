//! The script in Redis with a guard turned off, for tests that have to notice it: see
//! [`crate::mutants`]. What the client says of a hold is turned
//! off where it is said, in `script.rs`.

use std::sync::OnceLock;

use crate::mutants::{Guard, is_off};

/// What is in the script, and what takes its place.
type Change = (&'static str, &'static str);

const CHANGES: [(Guard, &[Change]); 8] = [
    (
        Guard::Quarantine,
        &[
            ("if not known and up < quarantine then", "if false then"),
            ("if known or promoted then", "if false then"),
            ("if not known and (has_ticket > 0 or has_token > 0) then", "if false then"),
            ("if auto then pause = math.max(pause, began(server, replicas, true) + ttl) end", ""),
        ],
    ),
    (Guard::Replicas, &[("local alone = in_step < replicas", "local alone = false")]),
    (Guard::Promoted, &[("if known or promoted then", "if known then")]),
    (Guard::ForeignRule, &[("text(now - ttl)", "text(now)")]),
    (
        Guard::WakeUp,
        &[("tell(string.match(grant, '^%d+ %d+ %d+ 0 %- ([%x-]*)'), head, text(token))", "")],
    ),
    (Guard::TokensGrow, &[("token = math.max(token + 1, micros)", "token = token + 1")]),
    (Guard::Order, &[("call('ZRANGE', queue, 0, 0)[1]", "call('ZRANGE', queue, -1, -1)[1]")]),
    (
        Guard::Revocation,
        &[("if mine.phase == '-' or (ends <= now and now >= pause) then", "if true then")],
    ),
];

/// The script as it is to be called.
pub(super) fn script(source: &'static str) -> &'static str {
    static CHANGED: OnceLock<String> = OnceLock::new();
    CHANGED.get_or_init(|| {
        let changes = CHANGES.iter().filter(|(guard, _)| is_off(*guard));
        changes.fold(source.to_owned(), |script, (_, changes)| apply(script, changes))
    })
}

fn apply(script: String, changes: &[Change]) -> String {
    changes.iter().fold(script, |script, (from, to)| {
        assert_eq!(script.matches(from).count(), 1, "once in the script: {from}");
        script.replace(from, to)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_fits_the_script() {
        for (guard, changes) in CHANGES {
            let script = super::super::client::DECIDE;
            assert_ne!(apply(script.to_owned(), changes), script, "{guard:?}");
        }
    }
}
