//! The crowd: semruns that are started, seen at work, and waited for.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use rustix::process::Pid;

use super::{Arena, QUARANTINE, TTL};
use crate::torture::cloud_server::KEY;
use crate::torture::command::{self, alive_file};
use crate::torture::history::{Ask, Job, Kind, Moment, Run, Semaphore, What};
use crate::torture::places::{self, Mix};
use crate::torture::processes::MARK;

/// A semrun, until the last process of its command's tree is gone.
pub(super) struct Client {
    pub(super) run: Run,
    /// None once it has ended.
    pub(super) semrun: Option<Child>,
    /// Its tree has the other end; none once that is gone.
    pub(super) tree: Option<OwnedFd>,
    pub(super) command: Option<Pid>,
    pub(super) permit: Option<String>,
    pub(super) stderr: PathBuf,
    /// One of its processes was killed or stopped. Two such faults at once are more than is
    /// promised.
    pub(super) struck: bool,
}

impl Arena<'_> {
    /// As many as there should be, everywhere.
    pub(super) fn fill_up(&mut self) {
        for semaphore in self.place.semaphores().to_vec() {
            let here = |client: &&Client| {
                client.semrun.is_some() && self.history.ask(client.run).semaphore == semaphore
            };
            let count = self.clients.iter().filter(here).count();
            for _ in count..semaphore.limit + 3 + self.place.newcomers() {
                let long = self.plan.long_jobs.unwrap_or_else(|| self.place.long_jobs());
                let more = self.place.knows_interventions();
                let holds = if more { self.plan.holds } else { 0 };
                let steps = if more { self.plan.steps } else { 0 };
                let (part, kinds) = self.plan.around;
                // Nothing tells a server like the original that a run is nested.
                let around = (part, if more { kinds } else { &[Kind::Shell, Kind::Closed] });
                let mix = Mix { long, holds, steps, around };
                let job = places::job(semaphore, &mut self.dice, &mix);
                self.start(semaphore, job);
            }
        }
    }

    /// `semrun` for one of these.
    pub(super) fn semrun(&self, semaphore: Semaphore, by_proxy: bool) -> Command {
        let mut command = Command::new(self.here().join("semrun"));
        self.dress(&mut command, by_proxy);
        command.args(["-q", "--name", semaphore.name, "-l", &semaphore.limit.to_string()]);
        command
    }

    /// What a program needs to find the place.
    pub(super) fn dress(&self, command: &mut Command, by_proxy: bool) {
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.here())
            .env("SEMRUN_BACKEND", self.place.backend(by_proxy))
            .env("SEMRUN_API_KEY", KEY)
            .env("SEMRUN_TTL", format!("{}", TTL.as_secs()))
            .env("SEMRUN_QUARANTINE", QUARANTINE)
            .envs(self.place.variables().iter().copied())
            .env(MARK, self.mark())
            .current_dir(self.here())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(mutant) = self.plan.mutant {
            command.env("SEMRUN_MUTANT", mutant);
        }
    }

    pub(super) fn start(&mut self, semaphore: Semaphore, job: Job) {
        let run = Run(self.history.asks.len());
        let calm = self.clients.is_empty() && self.history.events.is_empty();
        let apart = self.plan.only.is_none_or(places::divide_the_clients);
        let by_proxy = !calm && apart && self.place.has_server() && self.dice.one_in(2);
        let alive = alive_file(self.here(), run);
        mknodat(CWD, &alive, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        fs::set_permissions(&alive, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        let tree = open(&alive, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
        let step = job.kind == Kind::Step;
        let gives_up = self.dice.one_in(12) && self.plan.only.is_none() && !calm && !step;
        let mut semrun = self.around(semaphore, run, job, by_proxy, gives_up);
        semrun.args(command::arguments(self.here(), run, semaphore, job));
        let (prefix, takes) = self.place.prefix(&mut self.dice);
        let deprived = takes && !calm && !step;
        if !prefix.is_empty() && !calm && deprived == takes {
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

    /// What is called with the words of a job.
    fn around(
        &mut self,
        semaphore: Semaphore,
        run: Run,
        job: Job,
        by_proxy: bool,
        gives_up: bool,
    ) -> Command {
        let program = self.here().join("job");
        if job.kind == Kind::Step {
            let mut step = Command::new(program);
            self.dress(&mut step, by_proxy);
            return step;
        }
        let mut semrun = self.semrun(semaphore, by_proxy);
        semrun.args(["--label", &run.0.to_string(), "--orphans", job.kind.orphans()]);
        if gives_up {
            semrun.args([["-n"].as_slice(), &["-w", "2s"]][self.dice.below(2)]);
        }
        if self.dice.one_in(4) {
            semrun.args(["-k", "200ms"]);
        }
        if !job.hold.is_zero() {
            semrun.args(["--min-hold", &format!("{}ms", job.hold.as_millis())]);
        }
        let inner = command::around(run, semaphore, job.kind, &self.here().join("semrun"));
        semrun.arg("--").args(inner).arg(program);
        semrun
    }

    /// Sees what has happened since the last time, a hundredth of a second at most.
    pub(super) fn tick(&mut self) {
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
        // Count it as alive only until it was last seen alive, however late we look.
        let alive = std::mem::replace(&mut self.looked, Moment::now());
        for at in gone {
            self.clients[at].tree = None;
            self.history.add_at(alive, What::Dead(self.clients[at].run));
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
        self.aside.retain_mut(|one| matches!(one.try_wait(), Ok(None)));
        self.place.tick();
        while let Some(at) = self.stopped.iter().position(|one| Instant::now() > one.until) {
            let stopped = self.stopped.swap_remove(at);
            self.go_on(&stopped);
        }
        let over = |(end, _): &(Instant, _)| Instant::now() > *end && !self.place.goes_on();
        if let Some((_, kind)) = self.strike.filter(over) {
            self.place.mend(kind);
            self.history.add(What::Mended { kind, runs: Vec::new() });
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
                    let ask = self.history.ask(run);
                    if ask.by_proxy && ask.job.work > TTL {
                        self.place.begun_by_proxy();
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
