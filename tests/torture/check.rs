//! The invariants: what `docs/guarantees.md` promises, asked of a whole history.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::arena::TTL;
use super::crowds;
use super::figures::{hand_overs, median, take_overs};
use super::history::{History, Kind, Moment, Run, Semaphore, What};
use super::lives::Lives;
use super::passed_over::{self, STOP_QUEUE};

/// Something that must not be.
#[derive(Debug, Clone)]
pub(crate) struct Breach {
    pub(crate) invariant: Invariant,
    pub(crate) at: Moment,
    pub(crate) runs: Vec<Run>,
    pub(crate) text: String,
}

/// What has to hold, as `docs/guarantees.md` numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Invariant {
    Limit,
    DeadBefore,
    Tokens,
    Order,
    Served,
    Prompt,
    Idle,
    Mirrored,
    Codes,
    Once,
    Hold,
}

impl Invariant {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Limit => "I1: never more commands at once than the limit",
            Self::DeadBefore => "I2: the whole tree is dead before its permit can pass on",
            Self::Tokens => "I3: tokens are unique and grow",
            Self::Order => "I4: who came first is served first",
            Self::Served => "I5: all are served, and nothing is left behind",
            Self::Prompt => "I6: a permit passes on when it is free, not at the next look",
            Self::Idle => "I7: waiting costs nothing",
            Self::Mirrored => "I8: semrun ends as its command did",
            Self::Codes => "I9: each failure has its code and says why",
            Self::Once => "I10: a command is started once at most",
            Self::Hold => "I11: a permit stays taken for as long as was asked for",
        }
    }
}

pub(crate) fn all(history: &History) -> Vec<Breach> {
    let lives = Lives::of(history);
    let mut breaches = Vec::new();
    limit(history, &lives, &mut breaches);
    breaches.extend(crowds::Crowds::of(history, &lives).breaches);
    dead_before(history, &lives, &mut breaches);
    tokens(history, &lives, &mut breaches);
    order(history, &lives, &mut breaches);
    served(history, &mut breaches);
    prompt(history, &mut breaches);
    breaches.extend(passed_over::breaches(history, &lives));
    endings(history, &lives, &mut breaches);
    breaches.sort_by_key(|breach| breach.at);
    breaches
}

pub(crate) fn semaphores(history: &History) -> BTreeSet<Semaphore> {
    history.asks.iter().map(|ask| ask.semaphore).collect()
}

fn limit(history: &History, lives: &Lives, breaches: &mut Vec<Breach>) {
    let invariant = Invariant::Limit;
    for event in &history.events {
        if let What::Crowded(run) = event.what {
            let Semaphore { name, limit, .. } = history.ask(run).semaphore;
            let text = format!("{run} of '{name}' found all {limit} lock files taken");
            breaches.push(Breach { invariant, at: event.at, runs: vec![run], text });
        }
    }
    for stranger in &history.strangers_crowded {
        let text = format!("{stranger} found all lock files taken");
        let at = history.events.last().map_or(Moment(0), |event| event.at);
        breaches.push(Breach { invariant, at, runs: Vec::new(), text });
    }
    // The same by what the commands themselves noted.
    for semaphore in semaphores(history).into_iter().filter(|one| one.judge.locks()) {
        let mut steps: Vec<(Moment, i32, Run)> = Vec::new();
        for (run, life) in lives.semaphore(history, semaphore) {
            if let (Some(entered), Some((left, _))) = (life.entered.first(), life.left) {
                steps.extend([(*entered, 1, run), (left, -1, run)]);
            }
        }
        steps.sort();
        let mut inside: BTreeSet<Run> = BTreeSet::new();
        for (at, step, run) in steps {
            if step < 0 {
                inside.remove(&run);
            } else if inside.insert(run) && inside.len() > semaphore.limit {
                let text = format!("{} commands of '{}' at once", inside.len(), semaphore.name);
                let runs = inside.iter().copied().collect();
                breaches.push(Breach { invariant, at, runs, text });
            }
        }
    }
}

fn dead_before(history: &History, lives: &Lives, breaches: &mut Vec<Breach>) {
    let invariant = Invariant::DeadBefore;
    for (run, life) in &lives.of {
        let judged = history.ask(*run).semaphore.judge.locks();
        let Some(dead) = life.dead else { continue };
        let Some(end) = history.kept.over(&life.permit, dead) else { continue };
        // One that lapsed and was granted again was last seen before that.
        let seen = life.entered.first().is_some_and(|entered| *entered < end);
        if judged && seen && dead > end {
            let late = dead.since(end);
            let text = format!("{run} still had processes {late:?} after the end of its lease");
            breaches.push(Breach { invariant, at: end, runs: vec![*run], text });
        }
    }
    for (run, life) in lives.of.iter().filter(|_| history.guarded) {
        let (Some(dead), Some((ended, -9, _))) = (life.dead, &life.ended) else { continue };
        if dead > ended.plus(TTL) {
            let text = format!("{run} had a command for {:?} after its semrun", dead.since(*ended));
            breaches.push(Breach { invariant, at: dead, runs: vec![*run], text });
        }
    }
    for event in &history.events {
        let What::Wrote { run, token, newest, accepted: false } = event.what else { continue };
        if !lives.of[&run].struck.contains_key("freeze-client") {
            let text = format!("{run} wrote with the token {token} after one with {newest} had");
            breaches.push(Breach { invariant, at: event.at, runs: vec![run], text });
        }
    }
}

fn tokens(history: &History, lives: &Lives, breaches: &mut Vec<Breach>) {
    let invariant = Invariant::Tokens;
    for semaphore in semaphores(history) {
        let mut seen: BTreeMap<u64, Run> = BTreeMap::new();
        let mut entries: Vec<(Moment, u64, Run)> = Vec::new();
        let mut starts: Vec<(Moment, u64, Run, Moment)> = Vec::new();
        for (run, life) in lives.semaphore(history, semaphore) {
            let (Some(token), Some(entered)) = (life.token, life.entered.first()) else { continue };
            entries.push((*entered, token, run));
            starts.extend(life.started.map(|started| (started, token, run, *entered)));
            if let Some(other) = seen.insert(token, run) {
                let text = format!("{other} and {run} of '{}' have token {token}", semaphore.name);
                breaches.push(Breach { invariant, at: *entered, runs: vec![other, run], text });
            }
        }
        entries.sort();
        if semaphore.limit == 1 && semaphore.judge.locks() {
            for pair in entries.windows(2).filter(|pair| pair[0].1 > pair[1].1) {
                let (runs, at) = (vec![pair[0].2, pair[1].2], pair[1].0);
                let text = format!("{} has an older token than {} before it", runs[1], runs[0]);
                breaches.push(Breach { invariant, at, runs, text });
            }
        }
        // A client that began to ask when another one worked already has to have a newer token.
        starts.sort();
        let (mut newest, mut next) = (None, 0);
        for (started, token, run, entered) in starts {
            while next < entries.len() && entries[next].0 < started {
                newest = newest.max(Some((entries[next].1, entries[next].2)));
                next += 1;
            }
            if let Some((older, other)) = newest.filter(|(older, _)| *older >= token) {
                let text = format!(
                    "{run} has token {token}, and {other}, which worked before it asked, {older}"
                );
                breaches.push(Breach { invariant, at: entered, runs: vec![other, run], text });
            }
        }
    }
    let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
    for event in &history.events {
        let What::Wrote { run, token, accepted: true, .. } = event.what else { continue };
        let newest = newest.entry(history.ask(run).semaphore.name).or_default();
        if token < *newest {
            let text = format!("the store took a write of {token} after one of {newest}");
            breaches.push(Breach { invariant, at: event.at, runs: vec![run], text });
        }
        *newest = token.max(*newest);
    }
}

fn order(history: &History, lives: &Lives, breaches: &mut Vec<Breach>) {
    let invariant = Invariant::Order;
    let by_permit: BTreeMap<&str, Run> = lives
        .of
        .iter()
        .filter(|(_, life)| !life.entered.is_empty())
        .map(|(run, life)| (life.permit.as_str(), *run))
        .collect();
    let mut told = BTreeSet::new();
    for event in &history.events {
        let What::Queue { permits, .. } = &event.what else { continue };
        // No place is promised to a client that was struck or could not be reached; nor where
        // everything was removed.
        let queue: Vec<Run> = permits
            .iter()
            .filter_map(|permit| by_permit.get(permit.as_str()).copied())
            .filter(|run| {
                let (life, ask) = (&lives.of[run], history.ask(*run));
                let (from, to) = (life.started.unwrap_or(event.at), life.entered[0]);
                let excused = ask.by_proxy && lives.is_excused(ask, from, to);
                life.struck.is_empty()
                    && !excused
                    && !lives.is_cut(ask, from, to)
                    && !lives.may_not_know_its_place(from, to)
            })
            .filter(|run| history.ask(*run).semaphore.judge.locks())
            .collect();
        for pair in queue.windows(2) {
            let [first, second] = [&lives.of[&pair[0]], &lives.of[&pair[1]]];
            let (one, other) = (first.entered[0], second.entered[0]);
            let wrong = match (first.token, second.token) {
                (Some(first), Some(second)) => {
                    first > second && !lives.are_forgotten(event.at, one.min(other))
                }
                // A server that hands out no tokens forgets its clients too when it starts again.
                _ => one > other && !lives.is_excused(history.ask(pair[0]), event.at, one),
            };
            if wrong && told.insert((pair[0], pair[1])) {
                let text = format!(
                    "{} was in the queue before {}, which was served first",
                    pair[0], pair[1]
                );
                breaches.push(Breach { invariant, at: other, runs: pair.to_vec(), text });
            }
        }
    }
}

fn served(history: &History, breaches: &mut Vec<Breach>) {
    let invariant = Invariant::Served;
    let at = history.events.last().map_or(Moment(0), |event| event.at);
    if !history.unserved.is_empty() {
        let runs = history.unserved.clone();
        let text = format!("{} had not ended long after the last fault", runs.len());
        breaches.push(Breach { invariant, at, runs, text });
    }
    for text in history.leftovers.iter().map(|left| format!("left behind: {left}")) {
        breaches.push(Breach { invariant, at, runs: Vec::new(), text });
    }
    for text in history.costly.iter().cloned() {
        breaches.push(Breach { invariant: Invariant::Idle, at, runs: Vec::new(), text });
    }
}

/// A waiter that is not woken finds out when it looks again, after seconds. On any machine the
/// median is far below that.
fn prompt(history: &History, breaches: &mut Vec<Breach>) {
    const PROMPT: Duration = Duration::from_secs(1);
    let at = history.events.last().map_or(Moment(0), |event| event.at);
    for (what, times) in [("hand-over", hand_overs(history)), ("take-over", take_overs(history))] {
        if let Some(median) = median(&times).filter(|median| times.len() > 4 && *median > PROMPT) {
            let text = format!("of {} {what}s one half took longer than {median:?}", times.len());
            breaches.push(Breach { invariant: Invariant::Prompt, at, runs: Vec::new(), text });
        }
    }
}

/// What a semrun says that may be granted no permit although one is free.
pub(crate) const WITHHELD: &str = "no permit is granted";

/// What may cost a client its permit: a waiter may have got it at the moment at which it was stopped.
const STOPS: [&str; 6] =
    ["kill-worker", "kill-waiter", "stop-worker", "freeze-client", "stop-waiter", STOP_QUEUE];

fn endings(history: &History, lives: &Lives, breaches: &mut Vec<Breach>) {
    let refused: BTreeSet<Run> = history
        .events
        .iter()
        .filter_map(|event| match event.what {
            What::Wrote { run, accepted: false, .. } => Some(run),
            _ => None,
        })
        .filter(|run| lives.of[run].struck.contains_key("freeze-client"))
        .collect();
    for (run, life) in &lives.of {
        let mut tell = |invariant, text: String| {
            let at = life.ended.as_ref().map_or(Moment(0), |(at, ..)| *at);
            breaches.push(Breach { invariant, at, runs: vec![*run], text });
        };
        if life.entered.len() > 1 {
            tell(
                Invariant::Once,
                format!("{run} started its command {} times", life.entered.len()),
            );
        }
        let Some((ended, code, stderr)) = &life.ended else { continue };
        let ask = history.ask(*run);
        if stderr.contains("panicked at src") {
            tell(Invariant::Codes, format!("{run} panicked: {stderr}"));
        }
        let started = life.started.unwrap_or(*ended);
        let trouble = lives.is_excused(ask, started, *ended)
            || (!history.guarded && lives.a_process_is_stopped(started, *ended));
        let struck = |kind: &str| life.struck.contains_key(kind);
        let mut expected: BTreeSet<i32> = BTreeSet::new();
        if let Some((_, own)) = life.left.filter(|_| !refused.contains(run)) {
            expected.insert(if own < 0 { 128 - own } else { own });
        } else if life.entered.is_empty() && ask.gives_up {
            expected.insert(75);
            // After a loss of data none is granted for a while, and that is not busy.
            if stderr.contains(WITHHELD) {
                expected.insert(69);
            }
        }
        if trouble {
            // Lost while it ran; not to be had, or gone before it began.
            match (life.entered.is_empty(), history.guarded) {
                (true, true) => expected.extend([69, 76]),
                (true, false) => expected.extend([69]),
                (false, true) => expected.extend([76]),
                // What has begun on this machine needs no server any more.
                (false, false) => (),
            }
        }
        if struck("revoke") {
            expected.insert(76);
            if life.entered.is_empty() {
                // It was granted the permit while it was stopped, say, and never knew.
                expected.insert(69);
            }
        }
        if ask.job.kind == Kind::Step && (trouble || struck("revoke")) {
            // Any of the programs that it calls may fail, before and after its work.
            expected.extend([69, 76]);
        }
        if ask.deprived {
            // The commands here panic where they cannot open their files.
            expected.extend([69, 101, 125, 126]);
        }
        if struck("kill-guardian") || struck("kill-both") || struck("kill-waiter") {
            expected.insert(-9);
        }
        if STOPS.into_iter().any(struck) {
            expected.extend([76, 125, 137]);
        }
        if struck("kill-command") || struck("kill-shell") {
            expected.insert(137);
        }
        if struck("kill-command") && ask.job.kind == Kind::Shell {
            // The shell around it ends with the code of what it ran last.
            expected.insert(0);
        }
        if struck("terminate") || struck("terminate-shell") {
            expected.extend([-15, 143, 137]);
        }
        if struck("interrupt") || struck("interrupt-shell") {
            expected.extend([-2, 130, 137]);
        }
        if ask.job.kind == Kind::Nested {
            // The outer one has done its part; or the inner one comes when that has lost its permit.
            expected.insert(0);
            if trouble || struck("revoke") {
                expected.extend([75, 76]);
            }
        }
        let invariant = if life.left.is_some() { Invariant::Mirrored } else { Invariant::Codes };
        if !expected.contains(code) {
            let did = match life.left {
                Some((_, own)) => format!("whose command ended with {own}"),
                None if life.entered.is_empty() => "whose command never started".into(),
                None => "whose command was stopped".into(),
            };
            tell(invariant, format!("{run}, {did}, ended with {code}: {stderr}"));
        }
        if [64, 69, 76, 78, 125].contains(code) && !stderr.contains("semrun: ") {
            tell(Invariant::Codes, format!("{run} ended with {code} and did not say why"));
        }
    }
}
