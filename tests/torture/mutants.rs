//! Guards that are switched off, one at a time: does a judge notice each of them?

use std::time::Duration;

use libtest_mimic::Trial;

use super::arena::{self, Plan};
use super::check::Invariant::{self, DeadBefore, Hold, Limit, Order, Prompt, Served, Tokens};
use super::history::Kind;
use super::places;

/// A guard that is off, where, under which faults, and how it must be noticed.
struct Mutant {
    guard: &'static str,
    place: &'static str,
    only: &'static [&'static str],
    /// Of a hundred commands.
    long_jobs: usize,
    /// The same: those whose permit stays taken for a while.
    holds: usize,
    /// The same: those that have something between the run and its command, and what.
    around: (usize, &'static [Kind]),
    caught_by: &'static [Invariant],
}

const MUTANTS: [Mutant; 33] = [
    mutant("quarantine", "redis", &["kill-server"], 40, &[Limit]),
    // The old primary goes on granting to clients that stay with it.
    mutant("replicas", "redis-moving", &["cut-off"], 20, &[Limit]),
    // What is granted of a new name at its end, the next one does not know.
    mutant("promoted", "redis-moving", &["crash"], 40, &[Limit]),
    mutant("foreign-rule", "redis-shared", &[], 0, &[Limit]),
    mutant("deadline-from-request", "redis", &["slow-then-lost"], 60, &[Limit, DeadBefore]),
    mutant("deadline", "redis", &["lost-network", "stop-worker"], 50, &[Limit, DeadBefore]),
    mutant("deadline", "serve", &["lost-network", "stop-worker"], 50, &[Limit, DeadBefore]),
    mutant("release-after-death", "redis", &["terminate"], 20, &[Limit]),
    mutant("release-after-death", "serve", &["terminate"], 20, &[Limit]),
    mutant("guardian", "redis", &["kill-worker"], 20, &[Limit]),
    mutant("guardian", "serve", &["kill-guardian"], 90, &[DeadBefore]),
    mutant("inherited-lock", "local", &["kill-both"], 0, &[Limit]),
    mutant("wake-up", "redis", &[], 0, &[Prompt]),
    mutant("wake-up", "local", &[], 0, &[Served, Prompt]),
    mutant("tokens-grow", "redis", &["kill-server"], 0, &[Tokens]),
    mutant("order", "redis", &[], 0, &[Order]),
    mutant("order", "serve", &[], 0, &[Order]),
    mutant("wake-up", "serve", &[], 0, &[Served, Prompt]),
    // Of commands that take a while, so that waiters have come long before the server goes.
    Mutant { around: SHELL, ..mutant("quiet-restart", "serve", &["kill-server"], 0, &[Order]) },
    // Holders that can renew learn of it before another one is granted anything.
    mutant("journal", "serve", &["kill-server", "stop-worker"], 50, &[Limit, Tokens]),
    mutant("revocation", "local", &["revoke"], 40, &[Limit]),
    mutant("revocation", "redis", &["revoke"], 40, &[Limit]),
    mutant("revocation", "serve", &["revoke"], 40, &[Limit]),
    Mutant { holds: 30, ..mutant("hold", "local", &[], 0, &[Hold]) },
    Mutant { holds: 30, ..mutant("hold", "redis", &[], 0, &[Hold]) },
    Mutant { holds: 30, ..mutant("hold", "serve", &[], 0, &[Hold]) },
    Mutant { around: SHELL, ..mutant("stopped-takes-tree", "local", KILL_SHELL, 0, &[Limit]) },
    Mutant { around: SHELL, ..mutant("stopped-takes-tree", "redis", KILL_SHELL, 0, &[Limit]) },
    Mutant { around: SHELL, ..mutant("stopped-takes-tree", "serve", KILL_SHELL, 0, &[Limit]) },
    Mutant { around: CLOSED, ..mutant("local-guardian", "local", &["kill-guardian"], 0, &[Limit]) },
    Mutant { around: NESTED, ..mutant("nested-watch", "local", &[], 0, &[Limit]) },
    Mutant { around: NESTED, ..mutant("nested-watch", "redis", &[], 0, &[Limit]) },
    Mutant { around: NESTED, ..mutant("nested-watch", "serve", &[], 0, &[Limit]) },
];

/// Around most commands.
const SHELL: (usize, &[Kind]) = (60, &[Kind::Shell]);
const CLOSED: (usize, &[Kind]) = (60, &[Kind::Closed]);
const NESTED: (usize, &[Kind]) = (60, &[Kind::Nested]);

const KILL_SHELL: &[&str] = &["kill-shell", "terminate-shell", "interrupt-shell", "interrupt"];

const fn mutant(
    guard: &'static str,
    place: &'static str,
    only: &'static [&'static str],
    long_jobs: usize,
    caught_by: &'static [Invariant],
) -> Mutant {
    Mutant { guard, place, only, long_jobs, holds: 0, around: (0, &[]), caught_by }
}

/// How long one is looked for, and how often: chance decides when it shows itself.
const TIME: Duration = Duration::from_mins(1);
/// The same for what shows itself only when no client comes any more.
const SHORT: Duration = Duration::from_secs(10);
const ATTEMPTS: u64 = 30;

pub(crate) fn trials(seed: u64) -> Vec<Trial> {
    let trial = |mutant: &'static Mutant| {
        let name = format!("mutant::{} in {}", mutant.guard, mutant.place);
        Trial::test(name, move || Ok(catch(mutant, seed)?))
    };
    // Without faults, and beside all the others: what is late then is late because of the machine.
    let control = |place: &'static str| {
        Trial::test(format!("mutant::none in {place}"), move || Ok(control(place, seed)?))
    };
    MUTANTS.iter().map(trial).chain(["local", "redis", "serve"].map(control)).collect()
}

/// Nothing is off, and so nothing may break.
fn control(place: &str, seed: u64) -> Result<(), String> {
    let (name, make) = places::all().into_iter().find(|(name, _)| *name == place).unwrap();
    let mut plan = Plan::all(name, seed, SHORT, make);
    plan.only = Some(&[]);
    plan.long_jobs = Some(0);
    (plan.holds, plan.steps) = (0, 0);
    plan.around = (0, &[]);
    let outcome = arena::run(&plan);
    if outcome.breaches.is_empty() { Ok(()) } else { Err(outcome.report) }
}

fn catch(mutant: &Mutant, seed: u64) -> Result<(), String> {
    let (name, make) = places::all().into_iter().find(|(name, _)| *name == mutant.place).unwrap();
    let mut figures = String::new();
    for attempt in 0..ATTEMPTS {
        let time = if mutant.caught_by.contains(&Served) { SHORT } else { TIME };
        let mut plan = Plan::all(name, seed + attempt, time, make);
        plan.mutant = Some(mutant.guard);
        plan.only = Some(mutant.only);
        plan.long_jobs = Some(mutant.long_jobs);
        (plan.holds, plan.steps, plan.around) = (mutant.holds, 0, mutant.around);
        plan.until = mutant.caught_by;
        let outcome = arena::run(&plan);
        let caught = |one: &&super::check::Breach| mutant.caught_by.contains(&one.invariant);
        if let Some(breach) = outcome.breaches.iter().find(caught) {
            println!("{} in {}: {}", mutant.guard, name, breach.text);
            return Ok(());
        }
        figures += &outcome.figures.lines();
    }
    Err(format!("without the guard {} nothing broke:\n{figures}", mutant.guard))
}
