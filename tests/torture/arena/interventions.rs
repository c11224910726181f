//! What operators do to permits and limits while they are used: permits are revoked, limits pinned.

use std::process::Command;
use std::time::Instant;

use super::Arena;
use crate::torture::history::{Moment, Pin, Run, Semaphore, What};
use crate::torture::places::moving;

impl Arena<'_> {
    /// Revokes a permit gently; also one whose holder cannot hear of it, or has gone.
    pub(super) fn revoke(&mut self) {
        if self.is_away() {
            return;
        }
        let semaphore = self.dice.pick(self.place.semaphores());
        let before = Moment::now();
        let Some(seen) = self.status(semaphore) else { return };
        let victim = |holder: &serde_json::Value| -> Option<(Run, String)> {
            // Those of others have no label, and the last look at an idle place none of ours.
            let run = Run(holder["label"].as_str()?.parse().ok()?);
            Some((run, holder["permit"].as_str()?.into()))
        };
        let holders = seen["holders"].as_array().into_iter().flatten();
        let victims: Vec<_> = holders.filter_map(victim).collect();
        if victims.is_empty() {
            return;
        }
        let (run, permit) = victims[self.dice.below(victims.len())].clone();
        let by_proxy = self.place.has_server() && self.dice.one_in(2);
        let mut release = Command::new(self.here().join("semrun"));
        self.dress(&mut release, by_proxy);
        self.aside.push(release.args(["release", "--force", "--permit", &permit]).spawn().unwrap());
        self.history
            .add_at(before, What::Struck { kind: "revoke", runs: vec![run], detail: permit });
    }

    /// Pins the limit of one that several may have, lower than they ask for: it has as many lock files
    /// as they want permits.
    pub(super) fn pin(&mut self) {
        let several = |one: &Semaphore| one.limit > 1 && one.judge.locks();
        let Some(semaphore) = self.place.semaphores().iter().copied().find(several) else { return };
        if self.pinned.is_some() || self.is_away() || self.may_be_forgotten() {
            return;
        }
        let limit = 1 + self.dice.below(semaphore.limit - 1);
        let before = Moment::now();
        self.pinned = Some((Instant::now() + self.dice.millis(500..4000), semaphore));
        let done = self.limit(semaphore, &limit.to_string());
        let came = if done { "" } else { ", in vain" };
        let detail = format!("of '{}' to {limit}{came}", semaphore.name);
        self.history.add_at(before, What::Struck { kind: "pin-limit", runs: vec![], detail });
        self.history.add(What::Mended { kind: "pin-limit", runs: vec![] });
        if done {
            let (from, to) = (Moment::now(), None);
            self.history.pins.push(Pin { semaphore, limit, from, to });
            // The present waiters are granted their permits under that limit.
            self.look(semaphore);
        }
    }

    /// Ends that when it is time, or at once; sometimes by another limit.
    pub(super) fn unpin(&mut self, at_once: bool) {
        let Some((until, semaphore)) = self.pinned else { return };
        let not_yet = Instant::now() < until && !at_once;
        if not_yet || self.is_away() || self.may_be_forgotten() {
            return;
        }
        self.unpinned();
        if self.limit(semaphore, "--unpin") {
            self.pinned = None;
            if self.dice.one_in(3) && !at_once {
                self.pin();
            }
        }
    }

    /// From now on a limit that was pinned may not be any more.
    pub(super) fn unpinned(&mut self) {
        for pin in self.history.pins.iter_mut().filter(|pin| pin.to.is_none()) {
            pin.to = Some(Moment::now());
        }
    }

    fn limit(&self, semaphore: Semaphore, word: &str) -> bool {
        let mut limit = Command::new(self.here().join("semrun"));
        self.dress(&mut limit, false);
        limit.args(["limit", semaphore.name, word]).status().unwrap().success()
    }

    /// A client that asks now would only be kept waiting.
    fn is_away(&self) -> bool {
        let down = self.strike.is_some_and(|(_, kind)| {
            matches!(kind, "kill-server" | "restart-server" | "stop-server")
        });
        down || self.place.is_away()
    }

    /// A limit that is pinned or given up now may be another one on the next server.
    fn may_be_forgotten(&self) -> bool {
        self.strike.is_some_and(|(_, kind)| moving::keeps_waiting(kind))
    }
}
