use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use self::clients::Client;
use super::check::{self, Breach, Invariant};
use super::command;
use super::dice::Dice;
use super::figures::Figures;
use super::history::{History, Job, Kind, Moment, Run, Semaphore, What};
use super::passed_over::STOP_IN_MUTEX;
use super::places::{Make, Place};
use super::processes::{Process, describe, marked, wakes, worker};
use super::report;
use super::support::SEMRUN;

mod clients;
mod faults;
mod interventions;

/// The shortest lease, so that many end in a run.
pub(crate) const TTL: Duration = Duration::from_secs(5);
/// How long a server that has forgotten everything grants nothing: a bit more than a lease.
const QUARANTINE: &str = "6s";
/// By when all have been served that are left when the faults are over: jobs of some seconds, one
/// after the other, on a machine that does much else.
const SERVED: Duration = Duration::from_mins(2);
/// The same where a guard is off that may keep them from it for ever.
const SERVED_OR_NOT: Duration = Duration::from_secs(25);

pub(crate) struct Plan {
    pub(crate) name: &'static str,
    pub(crate) seed: u64,
    pub(crate) time: Duration,
    /// The guard that is switched off.
    pub(crate) mutant: Option<&'static str>,
    /// The only faults, if not all that there are.
    pub(crate) only: Option<&'static [&'static str]>,
    pub(crate) long_jobs: Option<usize>,
    /// Of a hundred commands: those whose permit stays taken for a while, and steps.
    pub(crate) holds: usize,
    pub(crate) steps: usize,
    /// The same: those that have something between the run and its command, and what.
    pub(crate) around: (usize, &'static [Kind]),
    /// What it is looked for, until it is found; if nothing, all are served first.
    pub(crate) until: &'static [Invariant],
    pub(crate) place: Make,
}

impl Plan {
    /// Everything that there is.
    pub(crate) fn all(name: &'static str, seed: u64, time: Duration, place: Make) -> Self {
        let (mutant, only, long_jobs, until) = (None, None, None, &[][..]);
        let (holds, steps) = (10, 10);
        let around = (12, &[Kind::Shell, Kind::Closed, Kind::Nested][..]);
        Self { name, seed, time, mutant, only, long_jobs, holds, steps, around, until, place }
    }
}

/// What a place is made of.
pub(crate) struct Setting {
    pub(crate) here: PathBuf,
    pub(crate) mutant: Option<&'static str>,
    pub(crate) seed: u64,
}

/// What a run of an arena came to.
pub(crate) struct Outcome {
    pub(crate) breaches: Vec<Breach>,
    /// The breaches as a person reads them.
    pub(crate) report: String,
    pub(crate) figures: Figures,
}

struct Arena<'a> {
    plan: &'a Plan,
    /// Kept until the end for the files in it.
    directory: TempDir,
    place: Box<dyn Place>,
    dice: Dice,
    history: History,
    clients: Vec<Client>,
    notes: File,
    unfinished: String,
    stopped: Vec<Stopped>,
    /// What revokes permits.
    aside: Vec<Child>,
    /// Whose limit is pinned, and until when.
    pinned: Option<(Instant, Semaphore)>,
    /// What happens to the place, and until when.
    strike: Option<(Instant, &'static str)>,
    /// Until when nothing happens to it again, so that clients can come back from the last time.
    spared: Instant,
    /// When it was last seen which trees are alive.
    looked: Moment,
}

/// Processes that do nothing until then.
struct Stopped {
    until: Instant,
    processes: Vec<Process>,
    kind: &'static str,
    run: Run,
    /// All others of its semaphore wait for it.
    in_mutex: bool,
}

/// Ends whatever carries the mark, however the run ends.
struct Cleanup(String);

impl Drop for Cleanup {
    fn drop(&mut self) {
        // One that is just starting others may be faster, but not for ever.
        for _ in 0..50 {
            let left = marked(&self.0);
            if left.is_empty() {
                break;
            }
            for process in left.into_iter().filter_map(|pid| Process::find(pid, &self.0)) {
                process.signal(Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Tortures, waits until all have been served, and looks at what happened.
pub(crate) fn run(plan: &Plan) -> Outcome {
    let directory = TempDir::new().unwrap();
    let here = directory.path().to_owned();
    // Other users run them, too.
    for (from, to) in [(SEMRUN.into(), "semrun"), (std::env::current_exe().unwrap(), "job")] {
        if fs::hard_link(&from, here.join(to)).is_err() {
            fs::copy(&from, here.join(to)).unwrap();
        }
    }
    let setting = Setting { here: here.clone(), mutant: plan.mutant, seed: plan.seed };
    let place = (plan.place)(&setting);
    let (guarded, end_holds) = (place.has_server(), place.end_holds());
    command::prepare(&here, place.semaphores());
    let notes = File::open(command::history_file(&here)).unwrap();
    let _cleanup = Cleanup(here.to_str().unwrap().into());
    let mut arena = Arena {
        plan,
        directory,
        place,
        dice: Dice::new(plan.seed, plan.name),
        history: History { guarded, end_holds, ..History::default() },
        clients: Vec::new(),
        notes,
        unfinished: String::new(),
        stopped: Vec::new(),
        aside: Vec::new(),
        pinned: None,
        strike: None,
        spared: Instant::now(),
        looked: Moment::now(),
    };
    if plan.only.is_none() {
        arena.wait_idly();
    }
    if !arena.torture() {
        arena.calm_down();
    }
    arena.look_for_leftovers();
    let breaches = arena.check();
    let Arena { history, place, directory, .. } = arena;
    drop(place);
    if std::env::var_os("TORTURE_KEEP").is_some() {
        fs::write(directory.path().join("events"), report::events(&history)).unwrap();
        eprintln!("{}: kept in {}", plan.name, directory.keep().display());
    }
    let report = report::tell(plan.name, plan.seed, &history, &breaches);
    Outcome { figures: Figures::of(plan.name, &history), breaches, report }
}

impl Arena<'_> {
    fn here(&self) -> &Path {
        self.directory.path()
    }

    fn mark(&self) -> String {
        self.here().to_str().unwrap().to_owned()
    }

    /// Waiters have nothing to do as long as nothing happens.
    fn wait_idly(&mut self) {
        const TIME: Duration = Duration::from_secs(6);
        let semaphore = self.place.semaphores()[0];
        for number in 0..semaphore.limit + 2 {
            let holds = number < semaphore.limit;
            let work = if holds { TIME + Duration::from_secs(9) } else { Duration::ZERO };
            self.start(semaphore, Job { kind: Kind::Plain, work, code: 0, hold: Duration::ZERO });
            let started = self.clients.len();
            let end = Instant::now() + Duration::from_secs(5);
            while Instant::now() < end {
                self.tick();
                let entered = self.clients.iter().filter(|client| client.command.is_some()).count();
                if entered >= started.min(semaphore.limit) {
                    break;
                }
            }
        }
        // New waiters are not idle yet.
        let end = Instant::now() + Duration::from_secs(10);
        let queued = |seen: serde_json::Value| seen["waiters"].as_array().map_or(0, Vec::len);
        while self.status(semaphore).map_or(0, queued) < 2 && Instant::now() < end {
            self.tick();
        }
        let holders: Vec<Run> =
            self.clients.iter().take(semaphore.limit).map(|one| one.run).collect();
        let waiting = self.clients.iter().filter(|client| client.command.is_none());
        let pids: Vec<Pid> = waiting
            .filter_map(|client| Some(Pid::from_child(client.semrun.as_ref()?)))
            .flat_map(|semrun| std::iter::once(semrun).chain(worker(semrun)))
            .collect();
        let cost = |place: &mut Box<dyn Place>| {
            (place.requests(), pids.iter().filter_map(|pid| wakes(*pid)).sum::<u64>())
        };
        // On a busy machine it takes them a while until they sleep; who never does is told below.
        for _ in 0..4 {
            let before = cost(&mut self.place);
            self.watch(Duration::from_millis(700));
            if cost(&mut self.place) == before {
                break;
            }
        }
        let before = cost(&mut self.place);
        self.watch(TIME);
        let held =
            |run: &Run| self.clients.iter().any(|one| one.run == *run && one.semrun.is_some());
        if !holders.iter().all(held) {
            // It has come to nothing: they were granted a permit meanwhile.
            return;
        }
        let after = cost(&mut self.place);
        // Two waiters and a holder's renewals; a place that has no requests has nothing to wake for.
        let requests = after.0.zip(before.0).map(|(after, before)| after - before);
        let woken = after.1.saturating_sub(before.1);
        let allowed = self.place.idle_cost();
        // A page that is read from the disk is a wake-up, too.
        if requests.unwrap_or(0) > allowed || woken > 2 * allowed + 2 {
            let text =
                format!("two waiters woke {woken} times in {TIME:?}, with {requests:?} requests");
            self.history.costly.push(text);
        }
    }

    fn go_on(&mut self, stopped: &Stopped) {
        let Stopped { processes, kind, run, in_mutex, .. } = stopped;
        for (at, process) in processes.iter().enumerate() {
            process.signal(Signal::CONT);
            if at == 0 && *kind == "freeze-client" {
                // A command that goes on before the processes that would end it: the worst that a
                // thaw can do.
                std::thread::sleep(Duration::from_millis(250));
            }
        }
        self.history.add(What::Mended { kind, runs: vec![*run] });
        if *in_mutex {
            self.history.add(What::Mended { kind: STOP_IN_MUTEX, runs: vec![*run] });
        }
    }

    fn watch(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.tick();
        }
    }

    /// Whether what was looked for has been found.
    fn torture(&mut self) -> bool {
        const LOOK: Duration = Duration::from_secs(4);
        let end = Instant::now() + self.plan.time;
        let mut next_check = Instant::now() + LOOK;
        let (mut next_fault, mut next_look) = (Instant::now(), Instant::now());
        self.place.begin();
        while Instant::now() < end {
            self.fill_up();
            self.tick();
            self.unpin(false);
            if Instant::now() > next_fault {
                self.fault();
                // Now and then nothing goes wrong for a while, so that one can see how fast it is.
                let pause = if self.dice.one_in(20) { 2000..4000 } else { self.place.pace() };
                next_fault = Instant::now() + self.dice.millis(pause);
            }
            if Instant::now() > next_look && self.strike.is_none() {
                let semaphore = self.dice.pick(self.place.semaphores());
                self.look(semaphore);
                next_look = Instant::now() + self.dice.millis(300..700);
            }
            if !self.plan.until.is_empty() && Instant::now() > next_check {
                if self.check().iter().any(|found| self.plan.until.contains(&found.invariant)) {
                    return true;
                }
                next_check = Instant::now() + LOOK;
            }
        }
        false
    }

    fn check(&mut self) -> Vec<Breach> {
        self.history.kept = self.place.kept();
        self.history.strangers = self.place.strangers();
        self.history.strangers_crowded = self.place.strangers_crowded();
        self.history.events.sort_by_key(|event| event.at);
        check::all(&self.history)
    }

    /// Nothing goes wrong any more and no client comes, so all have to be served.
    fn calm_down(&mut self) {
        for stopped in std::mem::take(&mut self.stopped) {
            self.go_on(&stopped);
        }
        self.place.calm();
        while self.strike.is_some() && self.place.goes_on() {
            self.tick();
        }
        if let Some((_, kind)) = self.strike.take() {
            self.place.mend(kind);
            self.history.add(What::Mended { kind, runs: Vec::new() });
        }
        let time = if self.plan.mutant.is_some() { SERVED_OR_NOT } else { SERVED };
        let end = Instant::now() + time;
        while !self.clients.is_empty() && Instant::now() < end {
            self.tick();
            self.unpin(true);
        }
        self.history.unserved = self.clients.iter().map(|client| client.run).collect();
    }

    fn look_for_leftovers(&mut self) {
        let mark = self.mark();
        let end = Instant::now() + Duration::from_secs(20);
        // The last one may have died, and what it left is found by the next that comes by.
        while self.plan.mutant.is_none() {
            let mut left = Vec::new();
            for semaphore in self.place.semaphores().to_vec() {
                let mut semrun = self.semrun(semaphore, false);
                let status = semrun.args(["-w", "20s", "--", "true"]).status().unwrap();
                if !status.success() {
                    left.push(format!("no permit of {}: {status}", semaphore.name));
                }
            }
            left.extend(marked(&mark).into_iter().map(describe));
            left.extend(self.place.leftovers());
            if left.is_empty() || Instant::now() > end || !self.history.unserved.is_empty() {
                self.history.leftovers = left;
                break;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// What semrun says of a semaphore, if it can.
    fn status(&self, semaphore: Semaphore) -> Option<serde_json::Value> {
        let mut status = Command::new(self.here().join("semrun"));
        self.dress(&mut status, false);
        let status = status.args(["status", "--json", semaphore.name]);
        let output = status.stdout(Stdio::piped()).output().unwrap();
        let mut seen: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        Some(seen["semaphores"][0].take())
    }

    /// Looks at the waiters and their order.
    fn look(&mut self, semaphore: Semaphore) {
        let before = Moment::now();
        let Some(seen) = self.status(semaphore) else { return };
        let waiters = seen["waiters"].as_array().cloned().unwrap_or_default();
        let permits = waiters.iter().filter_map(|one| one["permit"].as_str().map(String::from));
        let what = What::Queue { semaphore: semaphore.name, permits: permits.collect() };
        self.history.add_at(before, what);
    }
}
