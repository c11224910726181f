use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::time::Duration;

use super::arena::Outcome;
use super::crowds::Crowds;
use super::history::{History, Kind, Moment, Run, What};
use super::lives::{Life, Lives};

/// What a run of an arena counted.
#[derive(Debug, Default, Clone)]
pub(crate) struct Figures {
    name: String,
    started: usize,
    grants: usize,
    faults: BTreeMap<&'static str, usize>,
    codes: BTreeMap<i32, usize>,
    hand_overs: Vec<Duration>,
    take_overs: Vec<Duration>,
    /// Ends of trees that were compared with the end of their lease.
    ends_compared: usize,
    /// Writes with an old token, all refused.
    refused: usize,
    queues: usize,
    /// Steps that worked under a permit which they had acquired.
    steps: usize,
    /// Permits that were to stay taken for longer than their commands ran, and did.
    holds: usize,
    /// Runs that were granted a permit under a lower limit than they had asked for.
    pinned: usize,
    /// How often PassBuddy's programs worked.
    strangers: usize,
}

impl Figures {
    pub(crate) fn of(name: &str, history: &History) -> Self {
        let mut figures = Self { name: name.into(), ..Self::default() };
        for event in &history.events {
            match &event.what {
                What::Started(_) => figures.started += 1,
                What::Entered { run, .. } => {
                    figures.grants += 1;
                    figures.steps += usize::from(history.ask(*run).job.kind == Kind::Step);
                }
                What::Struck { kind, .. } => *figures.faults.entry(kind).or_default() += 1,
                What::Ended { code, .. } => {
                    let code = if (0..64).contains(code) { 0 } else { *code };
                    *figures.codes.entry(code).or_default() += 1;
                }
                What::Wrote { accepted: false, .. } => figures.refused += 1,
                What::Queue { .. } => figures.queues += 1,
                _ => (),
            }
        }
        let lives = Lives::of(history);
        let compared = |(run, life): &(&Run, &Life)| {
            let both = life.dead.zip(life.entered.first().copied());
            let Some((dead, entered)) = both else { return false };
            let end = history.kept.until.get(&life.permit).filter(|end| entered < **end);
            let over = history.kept.over(&life.permit, dead).is_some();
            let judged = history.ask(**run).semaphore.judge.locks();
            judged && end.is_some_and(|end| dead <= *end || over)
        };
        figures.ends_compared = lives.of.iter().filter(compared).count();
        Crowds { holds: figures.holds, pinned: figures.pinned, .. } = Crowds::of(history, &lives);
        figures.strangers = history.strangers;
        figures.hand_overs = hand_overs(history);
        figures.take_overs = take_overs(history);
        figures
    }

    /// What there should be more of after so much time, or nothing has been shown.
    fn too_little(&self, time: Duration) -> Option<String> {
        let seconds = usize::try_from(time.as_secs()).unwrap();
        let faults: usize = self.faults.values().sum();
        let (name, leased) = (self.name.as_str(), !["local", "node"].contains(&&*self.name));
        // A double of the original server knows nothing of what is done to permits.
        let each = |time: usize| if name == "node" { 0 } else { seconds / time };
        let revoked = self.faults.get("revoke").copied().unwrap_or(0);
        let least = [
            ("commands", self.grants, seconds / 2),
            ("faults", faults, seconds / 4),
            ("looks at the queue", self.queues, seconds / 4),
            ("ends of leases", self.ends_compared, if leased { seconds / 4 } else { 0 }),
            ("steps", self.steps, each(60)),
            ("revocations", revoked, each(60)),
            ("permits that stayed taken", self.holds, each(150)),
            ("rounds", self.strangers, if name == "redis-shared" { seconds / 20 } else { 0 }),
        ];
        let (what, count, least) = least.into_iter().find(|(_, count, least)| count < least)?;
        Some(format!("{name}: only {count} {what}; fewer than {least} say nothing"))
    }

    fn add(&mut self, other: &Self) {
        self.started += other.started;
        self.grants += other.grants;
        for (kind, count) in &other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        for (code, count) in &other.codes {
            *self.codes.entry(*code).or_default() += count;
        }
        self.hand_overs.extend(&other.hand_overs);
        self.take_overs.extend(&other.take_overs);
        self.ends_compared += other.ends_compared;
        self.refused += other.refused;
        self.queues += other.queues;
        self.steps += other.steps;
        self.holds += other.holds;
        self.pinned += other.pinned;
        self.strangers += other.strangers;
    }

    pub(crate) fn lines(&self) -> String {
        let mut out = String::new();
        let faults: usize = self.faults.values().sum();
        writeln!(
            out,
            "{}: {} semruns, {} commands ran, {faults} faults",
            self.name, self.started, self.grants
        )
        .unwrap();
        let list: Vec<_> =
            self.faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        writeln!(out, "    faults: {}", list.join(", ")).unwrap();
        let list: Vec<_> =
            self.codes.iter().map(|(code, count)| format!("{code}: {count}")).collect();
        writeln!(out, "    exit codes (0 to 63, the commands' own, as 0): {}", list.join(", "))
            .unwrap();
        for (what, times) in [("hand-over", &self.hand_overs), ("take-over", &self.take_overs)] {
            let [middle, late] = [0.5, 0.99].map(|part| quantile(times, part).unwrap_or_default());
            writeln!(
                out,
                "    {what}: {} timed, median {middle:.1?}, 99 % within {late:.1?}",
                times.len()
            )
            .unwrap();
        }
        writeln!(
            out,
            "    {} trees seen dead before the end of their lease, {} old tokens refused, {} looks at \
             the queue, {} rounds of PassBuddy",
            self.ends_compared, self.refused, self.queues, self.strangers
        )
        .unwrap();
        writeln!(
            out,
            "    {} steps, {} permits that stayed taken, {} grants under a pinned limit",
            self.steps, self.holds, self.pinned
        )
        .unwrap();
        out
    }
}

static ALL: Mutex<Vec<Figures>> = Mutex::new(Vec::new());

/// Prints what an arena came to, and returns what broke.
pub(crate) fn tell(outcome: Outcome, time: Duration) -> Result<(), String> {
    print!("{}", outcome.figures.lines());
    let too_little = outcome.figures.too_little(time);
    ALL.lock().unwrap().push(outcome.figures);
    if outcome.breaches.is_empty() { too_little.map_or(Ok(()), Err) } else { Err(outcome.report) }
}

/// All arenas together.
pub(crate) fn tell_all() {
    let all = ALL.lock().unwrap();
    if all.len() > 1 {
        let mut sum = Figures { name: "together".into(), ..Figures::default() };
        all.iter().for_each(|one| sum.add(one));
        print!("{}", sum.lines());
    }
}

pub(crate) fn median(times: &[Duration]) -> Option<Duration> {
    quantile(times, 0.5)
}

fn quantile(times: &[Duration], part: f64) -> Option<Duration> {
    let mut times = times.to_vec();
    times.sort();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a place in a list"
    )]
    let place = ((times.len() as f64 - 1.0) * part).round() as usize;
    times.get(place).copied()
}

/// From the complete end of a command to the start of the next waiter's: with a limit of one, and
/// while nothing was wrong.
pub(crate) fn hand_overs(history: &History) -> Vec<Duration> {
    const SETTLED: Duration = Duration::from_millis(300);
    let lives = Lives::of(history);
    let mut times = Vec::new();
    let mut last: BTreeMap<&str, Moment> = BTreeMap::new();
    for event in &history.events {
        match &event.what {
            What::Struck { runs, .. } => {
                for run in runs {
                    last.remove(history.ask(*run).semaphore.name);
                }
            }
            What::Left { run, code: 0.. } if history.ask(*run).job.passes_on_at_its_end() => {
                last.insert(history.ask(*run).semaphore.name, event.at);
            }
            What::Entered { run, .. } => {
                let ask = history.ask(*run);
                let before = last.remove(ask.semaphore.name);
                // A step renews before it begins.
                let judged = ask.semaphore.limit == 1 && ask.job.kind != Kind::Step;
                let Some(left) = before.filter(|_| judged) else { continue };
                let started = lives.of[run].started.unwrap_or(event.at);
                let begin = left.before(SETTLED);
                let fair = lives.fair(ask.semaphore, begin, event.at)
                    && !lives.is_behind_a_dead_one(history, *run);
                if fair && started.plus(SETTLED) < left && lives.of[run].struck.is_empty() {
                    times.push(event.at.since(left));
                }
            }
            _ => (),
        }
    }
    times
}

/// From the end of the lease of one whose processes were all killed to the start of the next, which
/// waited.
pub(crate) fn take_overs(history: &History) -> Vec<Duration> {
    let lives = Lives::of(history);
    let next = |(semaphore, killed, end): &(super::history::Semaphore, Moment, Moment)| {
        let entries = lives.of.iter().filter(|(run, _)| history.ask(**run).semaphore == *semaphore);
        let after = entries.filter_map(|(run, life)| {
            let entered = *life.entered.first()?;
            (entered > *killed).then_some((entered, run, life))
        });
        let (entered, run, life) = after.min_by_key(|(entered, ..)| *entered)?;
        let step = history.ask(*run).job.kind == Kind::Step;
        let waited = life.started? < *killed && semaphore.limit == 1 && !step;
        let behind = lives.is_behind_a_dead_one(history, *run);
        (waited && !behind && lives.fair(*semaphore, *end, entered)).then(|| entered.since(*end))
    };
    history.take_overs.iter().filter_map(next).collect()
}
