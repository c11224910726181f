use std::collections::BTreeSet;
use std::time::Duration;

use super::check::{Breach, Invariant, semaphores};
use super::history::{History, Moment, Run, Semaphore};
use super::lives::{Life, Lives};

/// A server counts in milliseconds, on a clock that need not tick exactly as ours does.
const EXACT: Duration = Duration::from_millis(10);

/// The result of checking every run that entered, and which permits were taken then.
#[derive(Default)]
pub(crate) struct Crowds {
    pub(crate) breaches: Vec<Breach>,
    /// Permits that had to stay taken for longer than their commands ran.
    pub(crate) holds: usize,
    /// Who entered under a limit that was pinned.
    pub(crate) pinned: usize,
}

/// A permit that is taken for certain from the start of its command on.
struct Taken {
    run: Run,
    /// Until its command left; or its start, if it did not.
    worked: Moment,
    /// Until then it stays taken.
    held: Moment,
}

impl Crowds {
    pub(crate) fn of(history: &History, lives: &Lives) -> Self {
        let mut found = Self::default();
        for semaphore in semaphores(history).into_iter().filter(|one| one.judge.locks()) {
            found.look_at(history, lives, semaphore);
        }
        found
    }

    fn look_at(&mut self, history: &History, lives: &Lives, semaphore: Semaphore) {
        let entry = |(run, life)| -> Option<(Moment, Run, &Life)> {
            let life: &Life = life;
            Some((*life.entered.first()?, run, life))
        };
        let mut entries: Vec<_> = lives.semaphore(history, semaphore).filter_map(entry).collect();
        entries.sort_by_key(|(entered, run, _)| (*entered, *run));
        let mut taken: Vec<Taken> = Vec::new();
        // What the others did last that they can only have done with a permit.
        let mut before = Moment(0);
        for (entered, run, life) in entries {
            taken.retain(|one| one.worked.max(one.held) > entered);
            let pin = pinned(history, semaphore, life, entered);
            self.pinned += usize::from(pin.is_some());
            let limit = pin.unwrap_or(semaphore.limit).min(semaphore.limit);
            if taken.len() >= limit {
                self.object(semaphore, limit, &taken, (entered, run));
            }
            let worked = life.left.map_or(entered, |(left, _)| left);
            // Where one is granted at a time that was not before the one before had left.
            let asked = asked(life).unwrap_or(entered);
            let since = if semaphore.limit == 1 { asked.max(before) } else { asked };
            let held = held_until(history, lives, run, life, since).unwrap_or(worked);
            self.holds += usize::from(held > worked);
            before = before.max(worked);
            taken.push(Taken { run, worked, held });
        }
    }

    fn object(
        &mut self,
        semaphore: Semaphore,
        limit: usize,
        taken: &[Taken],
        (at, run): (Moment, Run),
    ) {
        let name = semaphore.name;
        let kept = taken.iter().find(|one| one.worked <= at);
        let (invariant, text) = match kept {
            Some(kept) => {
                let early = kept.held.since(at);
                let text = format!(
                    "{run} of '{name}' began {early:?} before the permit of {} could pass on",
                    kept.run
                );
                (Invariant::Hold, text)
            }
            // The others are counted by the limit itself.
            None if limit == semaphore.limit => return,
            None => {
                let text =
                    format!("{run} of '{name}' began beside {}: {limit} is pinned", taken.len());
                (Invariant::Limit, text)
            }
        };
        let runs: BTreeSet<Run> = taken.iter().map(|one| one.run).chain([run]).collect();
        self.breaches.push(Breach { invariant, at, runs: runs.into_iter().collect(), text });
    }
}

/// It was granted its permit after this.
fn asked(life: &Life) -> Option<Moment> {
    life.started.max(life.waited)
}

/// The limit that was pinned all the time from before it was granted its permit until it began.
fn pinned(history: &History, semaphore: Semaphore, life: &Life, entered: Moment) -> Option<usize> {
    let asked = asked(life)?;
    let fits = |one: &&super::history::Pin| {
        let stands = one.to.is_none_or(|to| entered < to);
        one.semaphore == semaphore && one.from < asked && stands
    };
    history.pins.iter().filter(fits).map(|one| one.limit).min()
}

/// Until when a permit that was granted then or later stays taken, even if its holder dies; unless
/// it was revoked.
fn held_until(
    history: &History,
    lives: &Lives,
    run: Run,
    life: &Life,
    since: Moment,
) -> Option<Moment> {
    let hold = history.ask(run).job.hold;
    if hold.is_zero() || life.struck.contains_key("revoke") {
        return None;
    }
    let until = since.plus(hold);
    let ended = lives.happened(history.end_holds, since, until);
    (!ended).then(|| until.before(EXACT))
}
