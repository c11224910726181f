use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use super::check::{Breach, Invariant};
use super::history::{Event, History, Moment, Run, What};
use super::lives::{Life, Lives};

/// How much of the history is shown before and after a breach.
const AROUND: Duration = Duration::from_secs(3);
const LINES: usize = 60;
/// Of each invariant; the others are counted.
const SHOWN: usize = 3;

/// What broke, for a person: the seed, what was promised, who held what, and the events around it.
pub(crate) fn tell(arena: &str, seed: u64, history: &History, breaches: &[Breach]) -> String {
    let mut out = String::new();
    let Some(first) = history.events.first() else { return out };
    let lives = Lives::of(history);
    let mut shown: BTreeMap<Invariant, usize> = BTreeMap::new();
    for breach in breaches {
        let count = shown.entry(breach.invariant).or_default();
        *count += 1;
        if *count > SHOWN {
            continue;
        }
        let at = seconds(first.at, breach.at);
        writeln!(out, "\n{arena}, seed {seed}, at {at}").unwrap();
        writeln!(out, "broken   {}", breach.invariant.words()).unwrap();
        writeln!(out, "because  {}", breach.text).unwrap();
        for run in breach.runs.iter().take(12) {
            writeln!(out, "    {}", describe(history, &lives, first.at, *run)).unwrap();
        }
        writeln!(out, "  who held then:").unwrap();
        for run in holders(&lives, breach.at) {
            writeln!(out, "    {}", describe(history, &lives, first.at, run)).unwrap();
        }
        writeln!(out, "  around it:").unwrap();
        let near =
            |event: &&Event| event.at.plus(AROUND) > breach.at && event.at < breach.at.plus(AROUND);
        let mut events: Vec<&Event> = history.events.iter().filter(near).collect();
        if events.len() > LINES {
            // The events of the runs concerned, and the faults, and of the others the nearest.
            events.sort_by_key(|event| {
                let distance = event.at.since(breach.at).max(breach.at.since(event.at));
                (!concerns(event, &breach.runs), distance)
            });
            events.truncate(LINES);
            events.sort_by_key(|event| event.at);
        }
        for event in events {
            writeln!(out, "    {:>9}  {}", seconds(first.at, event.at), line(history, event))
                .unwrap();
        }
    }
    for (invariant, count) in shown.iter().filter(|(_, count)| **count > SHOWN) {
        writeln!(out, "\n{} more of {}", count - SHOWN, invariant.words()).unwrap();
    }
    out
}

/// The whole history, a line for each event.
pub(crate) fn events(history: &History) -> String {
    let Some(first) = history.events.first() else { return String::new() };
    let told =
        |event: &Event| format!("{:>9}  {}\n", seconds(first.at, event.at), line(history, event));
    let lives = Lives::of(history);
    let runs = lives.of.keys().map(|run| describe(history, &lives, first.at, *run) + "\n");
    history.events.iter().map(told).chain(runs).collect()
}

fn seconds(begin: Moment, at: Moment) -> String {
    format!("{:.3}s", at.since(begin).as_secs_f64())
}

fn concerns(event: &Event, runs: &[Run]) -> bool {
    match &event.what {
        What::Started(run)
        | What::Crowded(run)
        | What::Dead(run)
        | What::Entered { run, .. }
        | What::Wrote { run, .. }
        | What::Left { run, .. }
        | What::Ended { run, .. } => runs.contains(run),
        What::Struck { runs: struck, .. } => {
            struck.is_empty() || struck.iter().any(|run| runs.contains(run))
        }
        What::Mended { .. } => true,
        What::Queue { .. } => false,
    }
}

fn holders(lives: &Lives, at: Moment) -> Vec<Run> {
    let holds = |life: &Life| {
        let entered = life.entered.first().is_some_and(|entered| *entered <= at);
        entered && life.dead.is_none_or(|dead| dead >= at)
    };
    lives.of.iter().filter(|(_, life)| holds(life)).map(|(run, _)| *run).collect()
}

fn describe(history: &History, lives: &Lives, begin: Moment, run: Run) -> String {
    let ask = history.ask(run);
    let mut out =
        format!("{run} of '{}', {:?} {:?}", ask.semaphore.name, ask.job.kind, ask.job.work);
    if !ask.job.hold.is_zero() {
        let _ = write!(out, ", to be held for {:?}", ask.job.hold);
    }
    if ask.by_proxy {
        out += ", by proxy";
    }
    let Some(life) = lives.of.get(&run) else { return out };
    let mut note = |what: &str, at: Option<Moment>| {
        if let Some(at) = at {
            let _ = write!(out, ", {what} {}", seconds(begin, at));
        }
    };
    note("started", life.started);
    note("entered", life.entered.first().copied());
    note("left", life.left.map(|(at, _)| at));
    note("dead", life.dead);
    note("ended", life.ended.as_ref().map(|(at, ..)| *at));
    note("lease until", history.kept.until.get(&life.permit).copied());
    if let Some(token) = life.token {
        let _ = write!(out, ", token {token}");
    }
    if !life.struck.is_empty() {
        let _ = write!(out, ", struck by {:?}", life.struck);
    }
    out
}

fn line(history: &History, event: &Event) -> String {
    let named = |run: &Run| format!("{run} of '{}'", history.ask(*run).semaphore.name);
    match &event.what {
        What::Started(run) => format!("{} starts", named(run)),
        What::Entered { run, token, .. } => {
            format!("{} enters with token {}", named(run), token.unwrap_or(0))
        }
        What::Crowded(run) => format!("{} FINDS NO FREE LOCK FILE", named(run)),
        What::Wrote { run, token, newest, accepted } => {
            let did = if *accepted { "writes" } else { "is refused a write" };
            format!("{} {did} with token {token}, the newest was {newest}", named(run))
        }
        What::Left { run, code } => format!("{} leaves with {code}", named(run)),
        What::Dead(run) => format!("{}: the last process of its tree is gone", named(run)),
        What::Ended { run, code, stderr } => {
            format!("{}: semrun ends with {code} {}", named(run), stderr.trim_end())
        }
        What::Struck { kind, runs, detail } => {
            let whom: Vec<String> = runs.iter().map(named).collect();
            format!("FAULT {kind} {} {detail}", whom.join(", "))
        }
        What::Mended { kind, runs } => {
            let whom: Vec<String> = runs.iter().map(named).collect();
            format!("over: {kind} {}", whom.join(", "))
        }
        What::Queue { semaphore, permits } => format!("{} wait for '{semaphore}'", permits.len()),
    }
}
