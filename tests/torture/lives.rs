//! What happened to each run, and which fault may be why it came late.

use std::collections::BTreeMap;
use std::time::Duration;

use super::history::{Ask, History, Moment, Run, Semaphore, What};
use super::places::{concern_the_network, moving};

/// For how long a past fault can still have effects: until a client that retries for five seconds
/// has given up.
const AFTERMATH: Duration = Duration::from_secs(7);

/// How often a waiter says that it is still there.
const HEARTBEAT: Duration = Duration::from_millis(2500);

/// Those that may keep every client from its server, or a server from granting and renewing.
const OUTAGES: [&str; 6] =
    ["kill-server", "restart-server", "stop-server", "fill-disk", "fill-memory", "leap"];

/// Faults of the network that are too short to cost a client its permit or place.
const BLIPS: [&str; 2] = ["cut", "replay"];

/// From then to then.
pub(crate) type Span = (Moment, Moment);

/// What happened to one run.
#[derive(Debug, Default, Clone)]
pub(crate) struct Life {
    pub(crate) started: Option<Moment>,
    /// When it was last seen to wait: it was granted its permit after that.
    pub(crate) waited: Option<Moment>,
    pub(crate) entered: Vec<Moment>,
    pub(crate) token: Option<u64>,
    pub(crate) permit: String,
    pub(crate) left: Option<(Moment, i32)>,
    pub(crate) dead: Option<Moment>,
    pub(crate) ended: Option<(Moment, i32, String)>,
    pub(crate) struck: BTreeMap<&'static str, Moment>,
}

pub(crate) struct Lives {
    pub(crate) of: BTreeMap<Run, Life>,
    /// When something was wrong with the place, or a client of a semaphore was stopped.
    troubles: Vec<Trouble>,
}

struct Trouble {
    kind: &'static str,
    began: Moment,
    end: Moment,
    /// None: all are concerned.
    semaphore: Option<Semaphore>,
}

impl Lives {
    pub(crate) fn of(history: &History) -> Self {
        let mut of: BTreeMap<Run, Life> = BTreeMap::new();
        let mut waiting: BTreeMap<&str, Moment> = BTreeMap::new();
        let mut troubles: Vec<Trouble> = Vec::new();
        let mut open: Vec<(Vec<Run>, Trouble)> = Vec::new();
        let last = history.events.last().map_or(Moment(0), |event| event.at);
        for event in &history.events {
            let at = event.at;
            match &event.what {
                What::Started(run) => of.entry(*run).or_default().started = Some(at),
                What::Entered { run, token, permit } => {
                    let life = of.entry(*run).or_default();
                    life.entered.push(at);
                    life.token = *token;
                    life.permit.clone_from(permit);
                }
                What::Left { run, code } => of.entry(*run).or_default().left = Some((at, *code)),
                What::Dead(run) => of.entry(*run).or_default().dead = Some(at),
                What::Ended { run, code, stderr } => {
                    of.entry(*run).or_default().ended = Some((at, *code, stderr.clone()));
                }
                What::Struck { kind, runs, .. } => {
                    for run in runs {
                        of.entry(*run).or_default().struck.insert(kind, at);
                    }
                    if runs.is_empty() || kind.starts_with("stop") || kind.starts_with("freeze") {
                        let semaphore = runs.first().map(|run| history.ask(*run).semaphore);
                        let trouble = Trouble { kind, began: at, end: last, semaphore };
                        open.push((runs.clone(), trouble));
                    }
                }
                What::Mended { kind, runs } => {
                    let same =
                        |(whom, one): &(Vec<Run>, Trouble)| one.kind == *kind && whom == runs;
                    if let Some(place) = open.iter().position(same) {
                        troubles.push(Trouble { end: at, ..open.swap_remove(place).1 });
                    }
                }
                What::Queue { permits, .. } => {
                    waiting.extend(permits.iter().map(|permit| (permit.as_str(), at)));
                }
                What::Crowded(_) | What::Wrote { .. } => (),
            }
        }
        for life in of.values_mut() {
            life.waited = waiting.get(life.permit.as_str()).copied();
        }
        troubles.extend(open.into_iter().map(|(_, trouble)| trouble));
        Self { of, troubles }
    }

    /// Whether something that happened to the place may be why a run did not get what it asked for,
    /// or lost it.
    pub(crate) fn is_excused(&self, ask: &Ask, from: Moment, to: Moment) -> bool {
        self.excuses(ask).any(|(began, end)| began <= to && end >= from)
    }

    /// Whether its connection was cut. A waiter's server may pass it over until it is back.
    pub(crate) fn is_cut(&self, ask: &Ask, from: Moment, to: Moment) -> bool {
        let cuts = |one: &Trouble| one.kind == "cut" && one.began <= to && one.end >= from;
        ask.by_proxy && self.troubles.iter().any(cuts)
    }

    /// Whether the waiters may have been forgotten. The page about Redis says after how many
    /// heartbeats, and the first of them may be due at once; a replica need not know of them.
    pub(crate) fn are_forgotten(&self, from: Moment, to: Moment) -> bool {
        let moves = |one: &Trouble| moving::moves(one.kind) && one.began <= to && one.end >= from;
        if self.troubles.iter().any(moves) {
            return true;
        }
        let mut outages: Vec<Span> = self.outages().map(|one| (one.began, one.end)).collect();
        outages.sort();
        let mut since: Option<Span> = None;
        outages.into_iter().any(|(began, end)| {
            // In between there was no time to say that they are still there.
            let one = since.filter(|one| began <= one.1.plus(HEARTBEAT));
            let (first, last) = one.map_or((began, end), |one| (one.0, end.max(one.1)));
            since = Some((first, last));
            let (first, last) = (first.max(from), last.min(to));
            last.since(first) >= 2 * HEARTBEAT
        })
    }

    /// Whether the server went just after a client had come: the answer that gives it its place may
    /// be lost, and then it queues anew.
    pub(crate) fn may_not_know_its_place(&self, started: Moment, entered: Moment) -> bool {
        const ANSWERED: Duration = Duration::from_secs(1);
        let latest = entered.min(started.plus(ANSWERED));
        self.happened(&["kill-server", "restart-server"], started, latest)
    }

    /// When nothing could be granted, and no client could be heard.
    fn outages(&self) -> impl Iterator<Item = &Trouble> {
        let such = |kind| OUTAGES.contains(&kind) || moving::keeps_waiting(kind);
        self.troubles.iter().filter(move |one| such(one.kind))
    }

    /// From when to when that may be.
    pub(crate) fn excuses(&self, ask: &Ask) -> impl Iterator<Item = Span> {
        let by_proxy = ask.by_proxy;
        let reasons = self.troubles.iter().filter(move |one| {
            let network = concern_the_network(&[one.kind]) && !BLIPS.contains(&one.kind);
            let outage = OUTAGES.contains(&one.kind) || moving::keeps_waiting(one.kind);
            outage || (network && by_proxy)
        });
        reasons.map(|one| (one.began, one.end.plus(AFTERMATH)))
    }

    /// When a fault of this kind was at work that struck a client of a semaphore.
    pub(crate) fn spans(&self, kind: &str, semaphore: Semaphore) -> impl Iterator<Item = Span> {
        let such = move |one: &&Trouble| one.kind == kind && one.semaphore == Some(semaphore);
        self.troubles.iter().filter(such).map(|one| (one.began, one.end))
    }

    /// Whether a process is stopped, which may be in the way of all others on this machine.
    pub(crate) fn a_process_is_stopped(&self, from: Moment, to: Moment) -> bool {
        let mut stopped = self.troubles.iter().filter(|one| one.semaphore.is_some());
        stopped.any(|one| one.began <= to && one.end >= from)
    }

    /// Whether a waiter before this one was struck while it waited: it may be granted the permit,
    /// and does not take it for some seconds. Not on one machine, where a death is seen at once.
    pub(crate) fn is_behind_a_dead_one(&self, history: &History, run: Run) -> bool {
        const REMEMBERED: Duration = Duration::from_secs(20);
        let (own, semaphore) = (&self.of[&run], history.ask(run).semaphore);
        let (Some(started), Some(entered)) = (own.started, own.entered.first()) else {
            return false;
        };
        history.guarded
            && self.semaphore(history, semaphore).any(|(_, other)| {
                let lately = |at: &Moment| at.plus(REMEMBERED) > *entered && *at < *entered;
                let before = other.started.is_some_and(|other| other < started);
                before && other.entered.is_empty() && other.struck.values().any(lately)
            })
    }

    /// Whether any of these faults was at work.
    pub(crate) fn happened(&self, kinds: &[&str], from: Moment, to: Moment) -> bool {
        let mut such = self.troubles.iter().filter(|one| kinds.contains(&one.kind));
        such.any(|one| one.began <= to && one.end >= from)
    }

    /// Whether nothing was wrong for those of a semaphore.
    pub(crate) fn fair(&self, semaphore: Semaphore, from: Moment, to: Moment) -> bool {
        let concerns = |one: &Trouble| one.semaphore.is_none_or(|other| other == semaphore);
        !self.troubles.iter().any(|one| concerns(one) && one.began <= to && one.end >= from)
    }

    pub(crate) fn semaphore<'a>(
        &'a self,
        history: &'a History,
        semaphore: Semaphore,
    ) -> impl Iterator<Item = (Run, &'a Life)> {
        let there = move |run: &Run| history.ask(*run).semaphore == semaphore;
        self.of.iter().filter(move |(run, _)| there(run)).map(|(run, life)| (*run, life))
    }
}
