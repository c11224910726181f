//! Faults: of one client, or of the place where the permits live.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::{Arena, Client, Stopped, TTL};
use crate::torture::history::{Job, Kind, Moment, Run, Semaphore, What};
use crate::torture::passed_over::{STOP_IN_MUTEX, STOP_QUEUE, STOPPED};
use crate::torture::places::Situation;
use crate::torture::processes::{Process, parent, worker};

/// What can happen to semruns and their commands, wherever permits live.
const CLIENT_FAULTS: [&str; 15] = [
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
    "interrupt",
    "kill-shell",
    "terminate-shell",
    "interrupt-shell",
];

/// What an operator can do to permits and limits, where the server knows of that.
const INTERVENTIONS: [&str; 6] = ["revoke", "revoke", "revoke", "revoke", "pin-limit", "pin-limit"];

/// How many waiters are stopped in a row at least.
const IN_A_ROW: usize = 4;

impl Arena<'_> {
    /// Something goes wrong.
    pub(super) fn fault(&mut self) {
        // A lost host is rare among so many, and says most.
        let more = ["kill-both"; 3];
        let client_faults = CLIENT_FAULTS.iter().chain(&CLIENT_FAULTS).chain(&more).copied();
        // A server like the original knows of no interventions, and passes over no waiter.
        let known = self.place.knows_interventions();
        let more = if known { &INTERVENTIONS[..] } else { &[] };
        let queue = known.then_some(STOP_QUEUE);
        let kinds: Vec<&'static str> = client_faults
            .chain(more.iter().copied())
            .chain(queue)
            .chain(self.place.faults().iter().copied())
            .filter(|kind| self.plan.only.is_none_or(|only| only.contains(kind)))
            .collect();
        if kinds.is_empty() {
            return;
        }
        let kind = self.dice.pick(&kinds);
        if kind == "revoke" {
            self.revoke();
        } else if kind == "pin-limit" {
            self.pin();
        } else if kind == STOP_QUEUE {
            self.stop_queue();
        } else if CLIENT_FAULTS.contains(&kind) {
            self.strike_client(kind);
        } else if self.strike.is_none() && Instant::now() > self.spared {
            // The order that must hold after it as well.
            for semaphore in self.place.semaphores().to_vec() {
                self.look(semaphore);
            }
            let before = Moment::now();
            let situation = Situation { stopped: self.stopped.len() };
            if self.place.forgets(kind) {
                self.unpinned();
            }
            if let Some(strike) = self.place.strike(kind, &mut self.dice, &situation) {
                let (runs, detail) = (Vec::new(), strike.detail);
                self.history.add_at(before, What::Struck { kind, runs, detail });
                self.strike = Some((Instant::now() + strike.lasts, kind));
            }
        }
    }

    /// Stops all that wait for one semaphore, but for the last.
    fn stop_queue(&mut self) {
        let single = |one: &Semaphore| one.limit == 1 && one.judge.locks();
        let Some(semaphore) = self.place.semaphores().iter().copied().find(|one| single(one))
        else {
            return;
        };
        if self.stopped.iter().any(|one| one.kind == STOP_QUEUE) {
            return;
        }
        for _ in 0..=IN_A_ROW {
            let (work, code) = (Duration::from_millis(50), 0);
            self.start(semaphore, Job { kind: Kind::Plain, work, code, hold: Duration::ZERO });
        }
        self.watch(Duration::from_millis(300));
        let waits = |client: &Client| {
            let ask = self.history.ask(client.run);
            let alone = ask.semaphore == semaphore && ask.job.kind != Kind::Step;
            alone && client.command.is_none() && client.semrun.is_some() && !client.struck
        };
        let waiting: Vec<usize> =
            (0..self.clients.len()).filter(|at| waits(&self.clients[*at])).collect();
        let Some((_, first)) = waiting.split_last().filter(|(_, first)| first.len() >= IN_A_ROW)
        else {
            return;
        };
        let until = Instant::now() + STOPPED;
        for at in first {
            let processes = self.victims("stop-waiter", &self.clients[*at], 2);
            let (kind, run, before) = (STOP_QUEUE, self.clients[*at].run, Moment::now());
            for process in processes.iter().rev() {
                process.signal(Signal::STOP);
            }
            self.clients[*at].struck = true;
            let detail = String::new();
            self.history.add_at(before, What::Struck { kind, runs: vec![run], detail });
            self.are_stopped(until, processes, kind, run);
        }
    }

    /// They were told to stop, and stay so until then.
    fn are_stopped(
        &mut self,
        until: Instant,
        processes: Vec<Process>,
        kind: &'static str,
        run: Run,
    ) {
        let before = Moment::now();
        let in_mutex = self.place.is_stuck(self.history.ask(run).semaphore, &processes);
        if in_mutex {
            let (kind, runs, detail) = (STOP_IN_MUTEX, vec![run], String::new());
            self.history.add_at(before, What::Struck { kind, runs, detail });
        }
        self.stopped.push(Stopped { until, processes, kind, run, in_mutex });
    }

    fn strike_client(&mut self, kind: &'static str) {
        let has_server = self.place.has_server();
        let waits = matches!(kind, "kill-waiter" | "stop-waiter");
        let candidates: Vec<usize> = (0..self.clients.len())
            .filter(|at| {
                let client = &self.clients[*at];
                let ask = self.history.ask(client.run);
                let fits = match kind {
                    // No process would stop a command that goes on after the end of its lease.
                    _ if ask.job.kind == Kind::Step => {
                        matches!(kind, "kill-guardian" | "kill-waiter" | "terminate")
                    }
                    // The command dies with them; what it started, if there is any, does not. On this
                    // machine that has the permit, unless it has closed it.
                    "kill-both" if has_server => ask.job.kind.is_alone(),
                    "kill-both" => ask.job.kind != Kind::Closed,
                    "freeze-client" => ask.job.kind == Kind::Writer,
                    "kill-worker" | "stop-worker" => self.place.may_stop_workers(kind),
                    // A script's own `&` ignores it, and so goes on.
                    "interrupt" => ask.job.kind == Kind::Shell && client.command.is_some(),
                    kind if kind.ends_with("-shell") => {
                        ask.job.kind == Kind::Shell && client.command.is_some()
                    }
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
        let alone = self.dice.below(4);
        let victims = self.victims(kind, &self.clients[at], alone);
        let signal = match kind.split('-').next() {
            Some("kill") => Signal::KILL,
            Some("terminate") => Signal::TERM,
            Some("interrupt") => Signal::INT,
            _ => Signal::STOP,
        };
        let both_killed = kind == "kill-both" || (kind == "kill-waiter" && victims.len() == 2);
        let Client { run, ref permit, .. } = self.clients[at];
        let end = permit.as_ref().filter(|_| both_killed);
        let end = end.and_then(|permit| self.end_of(run, permit));
        let before = Moment::now();
        // Who would act for the others first.
        let struck = victims.iter().rev().filter(|process| process.signal(signal)).count();
        if struck == 0 {
            return;
        }
        self.clients[at].struck = true;
        if let Some(end) = end {
            self.history.take_overs.push((self.history.ask(run).semaphore, before, end));
        }
        let detail = String::new();
        self.history.add_at(before, What::Struck { kind, runs: vec![run], detail });
        if signal == Signal::STOP {
            let time = match kind {
                "freeze-client" => TTL.mul_f64(1.3) + self.dice.millis(0..3000),
                _ if self.dice.one_in(4) => self.dice.millis(1500..8000),
                _ => self.dice.millis(20..1500),
            };
            let until = Instant::now() + time;
            self.are_stopped(until, victims, kind, run);
        }
    }

    /// The processes that a fault is about; the first of them goes on first when they were stopped.
    /// Of a waiter that is killed it may be one of the two alone.
    fn victims(&self, kind: &str, client: &Client, alone: usize) -> Vec<Process> {
        let mark = self.mark();
        let find = |pid: Option<Pid>| pid.and_then(|pid| Process::find(pid, &mark));
        let semrun = Pid::from_child(client.semrun.as_ref().unwrap());
        let (guardian, worker) = (find(Some(semrun)), find(worker(semrun)));
        let command = find(client.command);
        let victims = match kind {
            "kill-guardian" | "stop-guardian" | "terminate" | "interrupt" => vec![guardian],
            kind if kind.ends_with("-shell") => vec![find(client.command.and_then(parent))],
            "kill-worker" | "stop-worker" => vec![worker],
            "kill-command" | "stop-command" => vec![command],
            "kill-waiter" if alone == 0 && worker.is_some() => vec![worker],
            "kill-waiter" if alone == 1 => vec![guardian],
            "kill-both" | "kill-waiter" | "stop-waiter" => vec![worker, guardian],
            _ => vec![command, worker, guardian],
        };
        victims.into_iter().flatten().collect()
    }

    /// When its server will give a permit up, if it says so.
    fn end_of(&self, run: Run, permit: &str) -> Option<Moment> {
        if self.strike.is_some() {
            return None;
        }
        let before = Moment::now();
        let seen = self.status(self.history.ask(run).semaphore)?;
        let holders = seen["holders"].as_array()?;
        let ours = holders.iter().find(|one| one["permit"] == permit)?;
        let left = ours["lease_left_ms"].as_u64()?;
        Some(before.plus(Duration::from_millis(left)))
    }
}
