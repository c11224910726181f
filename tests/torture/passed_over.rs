//! Waiters that are stopped do not keep those after them from a permit that is free.

use std::collections::BTreeMap;
use std::time::Duration;

use super::arena::TTL;
use super::check::{Breach, Invariant, semaphores};
use super::history::{History, Kind, Moment, Run, Semaphore, What};
use super::lives::{Life, Lives, Span};

/// The fault that stops so many.
pub(crate) const STOP_QUEUE: &str = "stop-queue";

/// One of them, or of others, was stopped where it keeps all from deciding anything.
pub(crate) const STOP_IN_MUTEX: &str = "stop-in-mutex";

/// Longer than it takes to pass over a few, and than the lease of a holder that is dead.
const BOUND: Duration = TTL.saturating_add(Duration::from_secs(6));
/// How long a server waits for each of them: documented.
const EACH: Duration = Duration::from_secs(2);
/// For how long they are stopped.
pub(crate) const STOPPED: Duration = BOUND.saturating_add(Duration::from_secs(3));

pub(crate) fn breaches(history: &History, lives: &Lives) -> Vec<Breach> {
    let single = |one: &Semaphore| one.limit == 1 && one.judge.locks();
    let semaphores = semaphores(history).into_iter().filter(single);
    semaphores.filter_map(|semaphore| of(history, lives, semaphore)).collect()
}

fn of(history: &History, lives: &Lives, semaphore: Semaphore) -> Option<Breach> {
    let stopped = stopped(history, semaphore);
    let runs: Vec<(Run, &Life)> = lives.semaphore(history, semaphore).collect();
    let mut busy: Vec<Span> =
        runs.iter().filter_map(|(run, life)| held(history, *run, life)).collect();
    busy.extend(runs.iter().flat_map(|(run, life)| cut_off(history, lives, *run, life)));
    // None of them can be passed over.
    busy.extend(lives.spans(STOP_IN_MUTEX, semaphore));
    busy.sort();
    let last = history.events.last()?.at;
    for (run, life) in runs.iter().filter(|(_, life)| life.struck.is_empty()) {
        let Some(started) = life.started else { continue };
        let ended = life.ended.as_ref().map_or(last, |(at, ..)| *at);
        let entered = life.entered.first().copied().unwrap_or(ended);
        for (from, to, count) in &stopped {
            let (from, to) = (started.max(*from), entered.min(*to));
            let free = longest_gap(&busy, from, to);
            if free > BOUND.max(TTL + EACH * *count)
                && !lives.is_excused(history.ask(*run), from, to)
            {
                let text = format!("{run} waited behind stopped ones for {free:?}, and none held");
                let (invariant, at, runs) = (Invariant::Prompt, to, vec![*run]);
                return Some(Breach { invariant, at, runs, text });
            }
        }
    }
    None
}

/// When some of its waiters were stopped, and how many in all.
fn stopped(history: &History, semaphore: Semaphore) -> Vec<(Moment, Moment, u32)> {
    let mut open: BTreeMap<Run, Moment> = BTreeMap::new();
    let mut spans = Vec::new();
    for event in &history.events {
        match &event.what {
            What::Struck { kind: STOP_QUEUE, runs, .. }
                if history.ask(runs[0]).semaphore == semaphore =>
            {
                open.insert(runs[0], event.at);
            }
            What::Mended { kind: STOP_QUEUE, runs } => {
                spans.extend(open.remove(&runs[0]).map(|began| (began, event.at)));
            }
            _ => (),
        }
    }
    let beside =
        |(from, to): &Span| spans.iter().filter(|one| one.0 < *to && one.1 > *from).count();
    let count = |span: &Span| u32::try_from(beside(span)).unwrap_or(u32::MAX);
    spans.iter().map(|span| (span.0, span.1, count(span))).collect()
}

/// When it may have had the permit.
fn held(history: &History, run: Run, life: &Life) -> Option<Span> {
    let ask = history.ask(run);
    // A step has it before it works.
    let entered = life.entered.first().copied();
    let from = if ask.job.kind == Kind::Step { life.started } else { entered }?;
    let ended = life.ended.as_ref().map(|(at, ..)| *at);
    let to = life.dead.max(ended).unwrap_or(Moment(u64::MAX));
    Some((from, to.max(from.plus(ask.job.hold))))
}

/// When its server may have granted it the permit, and it did not hear of that.
fn cut_off(history: &History, lives: &Lives, run: Run, life: &Life) -> Vec<Span> {
    let Some(started) = life.started.filter(|_| !life.struck.contains_key(STOP_QUEUE)) else {
        return Vec::new();
    };
    let ended = life.ended.as_ref().map(|(at, ..)| *at);
    let heard = life.entered.first().copied().or(ended).unwrap_or(Moment(u64::MAX));
    let excuses = lives.excuses(history.ask(run));
    let within = excuses.map(|(began, end)| (began.max(started), end.min(heard)));
    within.filter(|(from, to)| from < to).collect()
}

fn longest_gap(busy: &[Span], from: Moment, to: Moment) -> Duration {
    let (mut free, mut longest) = (from, Duration::ZERO);
    for (began, ended) in busy {
        longest = longest.max((*began).min(to).since(free));
        free = free.max(*ended);
    }
    longest.max(to.since(free))
}
