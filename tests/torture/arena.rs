use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use super::check::{self, Breach, Invariant};
use super::command::{self, alive_file};
use super::dice::Dice;
use super::figures::Figures;
use super::history::{Ask, History, Job, Kind, Moment, Run, Semaphore, What};
use super::places::{self, Make, Place, Situation};
use super::processes::{MARK, Process, describe, marked, wakes, worker};
use super::report;
use super::support::SEMRUN;

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
    /// What it is looked for, until it is found; if nothing, all are served first.
    pub(crate) until: &'static [Invariant],
    pub(crate) place: Make,
}

impl Plan {
    /// Everything that there is.
    pub(crate) fn all(name: &'static str, seed: u64, time: Duration, place: Make) -> Self {
        let (mutant, only, long_jobs, until) = (None, None, None, &[][..]);
        Self { name, seed, time, mutant, only, long_jobs, until, place }
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

/// What can happen to semruns and their commands, wherever permits live.
const CLIENT_FAULTS: [&str; 11] = [
    "kill-guardian",
    "kill-worker",
    "kill-both",
    "kill-command",
    "kill-waiter",
    "stop-guardian",
    "stop-worker",
    "stop-command",
    "stop-waiter",
    "freeze-client",
    "terminate",
];

/// A semrun, until the last process of its command's tree is gone.
struct Client {
    run: Run,
    /// None once it has ended.
    semrun: Option<Child>,
    /// Its tree has the other end; none once that is gone.
    tree: Option<OwnedFd>,
    command: Option<Pid>,
    permit: Option<String>,
    stderr: PathBuf,
    /// One of its processes was killed or stopped. Two such faults at once are more than is
    /// promised.
    struck: bool,
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
    /// What is stopped, and until when.
    stopped: Vec<(Instant, Vec<Process>, &'static str)>,
    /// What happens to the place, and until when.
    strike: Option<(Instant, &'static str)>,
    /// Until when nothing happens to it again, so that clients can come back from the last time.
    spared: Instant,
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
    let guarded = place.has_two_processes();
    command::prepare(&here, place.semaphores());
    let notes = File::open(command::history_file(&here)).unwrap();
    let mut arena = Arena {
        plan,
        directory,
        place,
        dice: Dice::new(plan.seed, plan.name),
        history: History { guarded, ..History::default() },
        clients: Vec::new(),
        notes,
        unfinished: String::new(),
        stopped: Vec::new(),
        strike: None,
        spared: Instant::now(),
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
        let job = Job { kind: Kind::Plain, work: TIME + Duration::from_secs(9), code: 0 };
        for _ in 0..=semaphore.limit + 1 {
            self.start(
                semaphore,
                Job {
                    work: if self.clients.len() < semaphore.limit {
                        job.work
                    } else {
                        Duration::ZERO
                    },
                    ..job
                },
            );
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
        // Those who have just come are not idle yet.
        self.watch(Duration::from_millis(700));
        let waiting = self.clients.iter().filter(|client| client.command.is_none());
        let pids: Vec<Pid> = waiting
            .filter_map(|client| Some(Pid::from_child(client.semrun.as_ref()?)))
            .flat_map(|semrun| std::iter::once(semrun).chain(worker(semrun)))
            .collect();
        let cost = |place: &mut Box<dyn Place>| {
            (place.requests(), pids.iter().filter_map(|pid| wakes(*pid)).sum::<u64>())
        };
        let before = cost(&mut self.place);
        self.watch(TIME);
        let after = cost(&mut self.place);
        // Two waiters and a holder's renewals; a place that has no requests has nothing to wake for.
        let requests = after.0.zip(before.0).map(|(after, before)| after - before);
        let woken = after.1.saturating_sub(before.1);
        let allowed = self.place.idle_cost();
        if requests.unwrap_or(0) > allowed || woken > 2 * allowed {
            let text =
                format!("two waiters woke {woken} times in {TIME:?}, with {requests:?} requests");
            self.history.costly.push(text);
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
        self.history.kept_until = self.place.kept_until();
        self.history.strangers_crowded = self.place.strangers_crowded();
        self.history.events.sort_by_key(|event| event.at);
        check::all(&self.history)
    }

    /// Nothing goes wrong any more, nobody comes, and so all have to be served.
    fn calm_down(&mut self) {
        for (_, processes, kind) in std::mem::take(&mut self.stopped) {
            go_on(&processes);
            self.history.add(What::Mended { kind });
        }
        if let Some((_, kind)) = self.strike.take() {
            self.place.mend(kind);
            self.history.add(What::Mended { kind });
        }
        self.place.calm();
        let time = if self.plan.mutant.is_some() { SERVED_OR_NOT } else { SERVED };
        let end = Instant::now() + time;
        while !self.clients.is_empty() && Instant::now() < end {
            self.tick();
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
        for pid in marked(&mark) {
            if let Some(process) = Process::find(pid, &mark) {
                process.signal(Signal::KILL);
            }
        }
    }

    /// As many as there should be, everywhere.
    fn fill_up(&mut self) {
        for semaphore in self.place.semaphores().to_vec() {
            let here = |client: &&Client| {
                client.semrun.is_some() && self.history.ask(client.run).semaphore == semaphore
            };
            let count = self.clients.iter().filter(here).count();
            for _ in count..semaphore.limit + 3 {
                let long = self.plan.long_jobs.unwrap_or_else(|| self.place.long_jobs());
                let job = places::job(semaphore, &mut self.dice, long);
                self.start(semaphore, job);
            }
        }
    }

    fn semrun(&self, semaphore: Semaphore, by_proxy: bool) -> Command {
        let mut command = Command::new(self.here().join("semrun"));
        self.dress(&mut command, by_proxy);
        command.args(["-q", "--name", semaphore.name, "-l", &semaphore.limit.to_string()]);
        command
    }

    fn dress(&self, command: &mut Command, by_proxy: bool) {
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.here())
            .env("SEMRUN_BACKEND", self.place.backend(by_proxy))
            .env("SEMRUN_API_KEY", super::cloud_server::KEY)
            .env("SEMRUN_TTL", format!("{}", TTL.as_secs()))
            .env("SEMRUN_QUARANTINE", QUARANTINE)
            .env(MARK, self.mark())
            .current_dir(self.here())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(mutant) = self.plan.mutant {
            command.env("SEMRUN_MUTANT", mutant);
        }
    }

    fn start(&mut self, semaphore: Semaphore, job: Job) {
        let run = Run(self.history.asks.len());
        let calm = self.clients.is_empty() && self.history.events.is_empty();
        let by_proxy = !calm && self.place.has_proxy() && self.dice.one_in(2);
        let alive = alive_file(self.here(), run);
        mknodat(CWD, &alive, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        fs::set_permissions(&alive, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        let tree = open(&alive, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
        let mut semrun = self.semrun(semaphore, by_proxy);
        semrun.args(["--orphans", job.kind.orphans()]);
        let gives_up = self.dice.one_in(12) && self.plan.only.is_none() && !calm;
        if gives_up {
            semrun.args([["-n"].as_slice(), &["-w", "2s"]][self.dice.below(2)]);
        }
        if self.dice.one_in(4) {
            semrun.args(["-k", "200ms"]);
        }
        semrun.arg("--").arg(self.here().join("job"));
        semrun.args(command::arguments(self.here(), run, semaphore, job));
        let (prefix, deprived) = self.place.prefix(&mut self.dice);
        let deprived = deprived && !calm;
        if !prefix.is_empty() && !calm {
            semrun = prefixed(&prefix, &semrun);
            self.dress(&mut semrun, by_proxy);
        }
        let stderr = self.here().join(format!("stderr.{}", run.0));
        semrun.stderr(File::create(&stderr).unwrap());
        self.history.asks.push(Ask { semaphore, job, gives_up, by_proxy, deprived });
        self.history.add(What::Started(run));
        if deprived {
            let (kind, runs, detail) = ("few-descriptors", vec![run], prefix.join(" "));
            self.history.add(What::Struck { kind, runs, detail });
        }
        let semrun = Some(semrun.spawn().unwrap());
        let tree = Some(tree.unwrap());
        let (command, permit, struck) = (None, None, false);
        self.clients.push(Client { run, semrun, tree, command, permit, stderr, struck });
    }

    /// Sees what has happened since the last time, a hundredth of a second at most.
    fn tick(&mut self) {
        let fds: Vec<(usize, &OwnedFd)> = self
            .clients
            .iter()
            .enumerate()
            .filter_map(|(at, client)| Some((at, client.tree.as_ref()?)))
            .collect();
        let mut polled: Vec<_> =
            fds.iter().map(|(_, tree)| PollFd::new(*tree, PollFlags::empty())).collect();
        let time = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        let _ = poll(&mut polled, Some(&time));
        let gone: Vec<usize> = polled
            .iter()
            .zip(&fds)
            .filter(|(polled, _)| polled.revents().contains(PollFlags::HUP))
            .map(|(_, (at, _))| *at)
            .collect();
        let now = Moment::now();
        for at in gone {
            self.clients[at].tree = None;
            self.history.add_at(now, What::Dead(self.clients[at].run));
        }
        self.read_notes();
        self.wait_for_ends();
        self.clients.retain(|client| {
            let over =
                client.semrun.is_none() && (client.tree.is_none() || client.command.is_none());
            if over {
                let _ = fs::remove_file(alive_file(self.directory.path(), client.run));
            }
            !over
        });
        self.place.tick();
        let due = |end: &Instant| Instant::now() > *end;
        while let Some(at) = self.stopped.iter().position(|(end, ..)| due(end)) {
            let (_, processes, kind) = self.stopped.swap_remove(at);
            go_on(&processes);
            self.history.add(What::Mended { kind });
        }
        if let Some((_, kind)) = self.strike.filter(|(end, _)| due(end)) {
            self.place.mend(kind);
            self.history.add(What::Mended { kind });
            self.strike = None;
            self.spared = Instant::now() + self.dice.millis(500..5000);
        }
    }

    fn read_notes(&mut self) {
        self.notes.read_to_string(&mut self.unfinished).unwrap();
        let Some(end) = self.unfinished.rfind('\n') else { return };
        let rest = self.unfinished.split_off(end + 1);
        for line in std::mem::replace(&mut self.unfinished, rest).lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |word: &str| word.parse::<u64>().unwrap();
            let (at, run) = (Moment(number(words[0])), Run(words[1].parse().unwrap()));
            let what = match words[2..] {
                ["entered", pid, token, permit] => {
                    let client = self.clients.iter_mut().find(|client| client.run == run);
                    if let Some(client) = client {
                        client.command = Pid::from_raw(pid.parse().unwrap());
                        client.permit = Some(permit.into());
                    }
                    let token = token.parse().ok();
                    What::Entered { run, token, permit: permit.into() }
                }
                ["crowded"] => What::Crowded(run),
                ["wrote", token, newest, accepted] => {
                    let (token, newest) = (number(token), number(newest));
                    What::Wrote { run, token, newest, accepted: accepted == "true" }
                }
                ["left", code] => What::Left { run, code: code.parse().unwrap() },
                _ => panic!("not a note: {line}"),
            };
            self.history.add_at(at, what);
        }
    }

    fn wait_for_ends(&mut self) {
        for client in &mut self.clients {
            let Some(semrun) = &mut client.semrun else { continue };
            let Some(status) = semrun.try_wait().unwrap() else { continue };
            let stderr = fs::read(&client.stderr).unwrap_or_default();
            let _ = fs::remove_file(&client.stderr);
            let stderr = String::from_utf8_lossy(&stderr).into_owned();
            self.history.add(What::Ended { run: client.run, code: code_of(status), stderr });
            client.semrun = None;
        }
        // What it noted before it ended, so that a command that ran is known to have.
        self.read_notes_once_more();
    }

    fn read_notes_once_more(&mut self) {
        if self.clients.iter().any(|client| client.semrun.is_none() && client.command.is_none()) {
            self.read_notes();
        }
    }

    /// Who waits, in which order.
    fn look(&mut self, semaphore: Semaphore) {
        let mut status = Command::new(self.here().join("semrun"));
        self.dress(&mut status, false);
        let status = status.args(["status", "--json", semaphore.name]);
        let output = status.stdout(Stdio::piped()).output().unwrap();
        let Ok(seen) = serde_json::from_slice::<serde_json::Value>(&output.stdout) else { return };
        let waiters = seen["semaphores"][0]["waiters"].as_array().cloned().unwrap_or_default();
        let permits = waiters.iter().filter_map(|one| one["permit"].as_str().map(String::from));
        let what = What::Queue { semaphore: semaphore.name, permits: permits.collect() };
        self.history.add(what);
    }

    fn fault(&mut self) {
        // A lost host is rare among so many, and says most.
        let more = ["kill-both"; 3];
        let client_faults = CLIENT_FAULTS.iter().chain(&CLIENT_FAULTS).chain(&more).copied();
        let kinds: Vec<&'static str> = client_faults
            .chain(self.place.faults().iter().copied())
            .filter(|kind| self.plan.only.is_none_or(|only| only.contains(kind)))
            .collect();
        if kinds.is_empty() {
            return;
        }
        let kind = self.dice.pick(&kinds);
        if CLIENT_FAULTS.contains(&kind) {
            self.strike_client(kind);
        } else if self.strike.is_none() && Instant::now() > self.spared {
            // The order that is to hold behind it as well.
            for semaphore in self.place.semaphores().to_vec() {
                self.look(semaphore);
            }
            let situation = Situation { stopped: self.stopped.len() };
            if let Some(strike) = self.place.strike(kind, &mut self.dice, &situation) {
                let (runs, detail) = (Vec::new(), strike.detail);
                self.history.add(What::Struck { kind, runs, detail });
                self.strike = Some((Instant::now() + strike.lasts, kind));
            }
        }
    }

    fn strike_client(&mut self, kind: &'static str) {
        let two_processes = self.place.has_two_processes();
        let waits = matches!(kind, "kill-waiter" | "stop-waiter");
        let candidates: Vec<usize> = (0..self.clients.len())
            .filter(|at| {
                let client = &self.clients[*at];
                let ask = self.history.ask(client.run);
                let fits = match kind {
                    // The command dies with them; what it started, if there is any, does not.
                    "kill-both" => two_processes && ask.job.kind.is_alone(),
                    "freeze-client" => ask.job.kind == Kind::Writer,
                    "kill-worker" | "stop-worker" => {
                        two_processes && self.place.may_stop_workers(kind)
                    }
                    // flock(1) of a family is nobody that matters here.
                    "kill-command" | "stop-command" => client.command.is_some(),
                    _ => true,
                };
                let spared = self.plan.only.is_none() && self.history.asks.len() < 8;
                let phase = client.command.is_some() != waits || kind == "terminate";
                fits && phase && !client.struck && client.semrun.is_some() && !spared
            })
            .collect();
        if candidates.is_empty() {
            return;
        }
        let at = self.dice.pick(&candidates);
        let mark = self.mark();
        let find = |pid: Option<Pid>| pid.and_then(|pid| Process::find(pid, &mark));
        let client = &self.clients[at];
        let semrun = Pid::from_child(client.semrun.as_ref().unwrap());
        let (guardian, worker) = (find(Some(semrun)), find(worker(semrun)));
        let command = find(client.command);
        let victims: Vec<Option<Process>> = match kind {
            "kill-guardian" | "stop-guardian" | "terminate" => vec![guardian],
            "kill-worker" | "stop-worker" => vec![worker],
            "kill-command" | "stop-command" => vec![command],
            "kill-both" => vec![worker, guardian],
            "kill-waiter" if self.dice.one_in(2) && worker.is_some() => vec![worker],
            "kill-waiter" | "stop-waiter" => {
                if two_processes {
                    vec![guardian, worker]
                } else {
                    vec![guardian]
                }
            }
            // It goes on first, as late as it can.
            _ => vec![command, worker, guardian],
        };
        let victims: Vec<Process> = victims.into_iter().flatten().collect();
        let signal = match kind.split('-').next() {
            Some("kill") => Signal::KILL,
            Some("terminate") => Signal::TERM,
            _ => Signal::STOP,
        };
        let both_killed = kind == "kill-both" || (kind == "kill-waiter" && victims.len() == 2);
        let left = both_killed.then(|| client.permit.clone()).flatten();
        let end = left.and_then(|permit| self.end_of(client.run, &permit));
        let before = Moment::now();
        // The last of them first, as one that goes before the command may act for it.
        let struck = victims.iter().rev().filter(|process| process.signal(signal)).count();
        if struck == 0 {
            return;
        }
        let run = self.clients[at].run;
        self.clients[at].struck = true;
        if let Some(end) = end {
            self.history.take_overs.push((self.history.ask(run).semaphore, before, end));
        }
        let detail = String::new();
        self.history.add(What::Struck { kind, runs: vec![run], detail });
        if signal == Signal::STOP {
            let time = match kind {
                "freeze-client" => TTL.mul_f64(1.3) + self.dice.millis(0..3000),
                _ if self.dice.one_in(4) => self.dice.millis(1500..8000),
                _ => self.dice.millis(20..1500),
            };
            self.stopped.push((Instant::now() + time, victims, kind));
        }
    }

    /// When its server will give a permit up, if it says so.
    fn end_of(&self, run: Run, permit: &str) -> Option<Moment> {
        if self.strike.is_some() {
            return None;
        }
        let mut status = Command::new(self.here().join("semrun"));
        self.dress(&mut status, false);
        status.args(["status", "--json", self.history.ask(run).semaphore.name]);
        let before = Moment::now();
        let output = status.stdout(Stdio::piped()).output().unwrap();
        let seen: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        let holders = seen["semaphores"][0]["holders"].as_array()?;
        let ours = holders.iter().find(|one| one["permit"] == permit)?;
        let left = ours["lease_left_ms"].as_u64()?;
        Some(before.plus(Duration::from_millis(left)))
    }
}

fn go_on(processes: &[Process]) {
    for (at, process) in processes.iter().enumerate() {
        process.signal(Signal::CONT);
        if at == 0 && processes.len() == 3 {
            // A command that goes on before those who would end it: the worst that a thaw can do.
            std::thread::sleep(Duration::from_millis(250));
        }
    }
}

/// The same, called by another program.
fn prefixed(prefix: &[String], command: &Command) -> Command {
    let mut all = Command::new(&prefix[0]);
    all.args(&prefix[1..]).arg(command.get_program()).args(command.get_args());
    all
}

fn code_of(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| -status.signal().unwrap())
}
