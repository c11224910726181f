//! Every subcommand, in every situation, with a fault at one of its system calls.

use std::time::Instant;

use rustix::process::Signal;

use super::backends::{Kind, TTL};
use super::injector::What;
use super::job::{CODE, Tree};
use super::stage::{Ended, PROMPT, Running, Stage, within};

/// A subcommand, what is around it, and where it can be.
pub(crate) struct Scene {
    pub(crate) name: &'static str,
    pub(crate) kinds: &'static [Kind],
    /// How many may hold.
    pub(crate) locks: usize,
    pub(crate) play: fn(&mut Stage),
}

const LEDGERS: &[Kind] = &[Kind::Local, Kind::Redis, Kind::Serve];
const ALL: &[Kind] = &[Kind::Local, Kind::Redis, Kind::Serve, Kind::Node];

pub(crate) const SCENES: [Scene; 17] = [
    scene("run", ALL, 1, run),
    scene("run-before-waiter", ALL, 1, run_before_waiter),
    scene("run-between-waiters", ALL, 1, run_between_waiters),
    scene("run-nested", LEDGERS, 1, run_nested),
    scene("acquire", LEDGERS, 1, acquire),
    scene("renew", LEDGERS, 1, renew),
    scene("renew-while", LEDGERS, 1, renew_while),
    scene("release", LEDGERS, 1, release),
    scene("release-force", LEDGERS, 1, release_force),
    scene("release-now", LEDGERS, 2, release_now),
    scene("limit-show", LEDGERS, 1, limit_show),
    scene("limit-pin", LEDGERS, 2, limit_pin),
    scene("limit-unpin", LEDGERS, 2, limit_unpin),
    scene("status", ALL, 1, status),
    scene("status-watch", LEDGERS, 1, status_watch),
    scene("doctor", ALL, 1, doctor),
    scene("server", &[Kind::Serve], 1, server),
];

const fn scene(
    name: &'static str,
    kinds: &'static [Kind],
    locks: usize,
    play: fn(&mut Stage),
) -> Scene {
    Scene { name, kinds, locks, play }
}

fn victim_run(stage: &Stage, options: &[&str], millis: u64, tree: Tree) -> Running {
    let words = stage.run_words(options, &stage.job("victim", millis, tree));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    stage.victim(&words)
}

fn run(stage: &mut Stage) {
    let ended = stage.end(victim_run(stage, &[], 20, Tree::None));
    stage.judge_run("victim", &ended);
    stage.settle(stage.bound());
}

fn run_before_waiter(stage: &mut Stage) {
    let mut victim = victim_run(stage, &["--orphans", "kill", "-k", "100ms"], 60, Tree::Closing);
    stage.until("the command runs", || stage.permit("victim") || victim.is_struck());
    let waiter = stage.run("waiter", 5, &["-w", "20s"]);
    let ended = stage.end(victim);
    stage.judge_run("victim", &ended);
    stage.served("waiter", waiter, ended.at, stage.bound());
    stage.settle(PROMPT);
}

fn run_between_waiters(stage: &mut Stage) {
    let mut holder = stage.run("holder", 150, &[]);
    stage.until("the first command runs", || stage.permit("holder"));
    let mut victim = victim_run(stage, &["-w", "20s"], 5, Tree::None);
    stage.until("it waits", || victim.is_struck() || holder.is_over(stage) || stage.crowd().1 > 0);
    let behind = stage.run("behind", 5, &["-w", "20s"]);
    stage.expect("the holder", &stage.end(holder), CODE);
    let ended = stage.end(victim);
    stage.judge_run("victim", &ended);
    stage.served("behind", behind, Instant::now(), stage.bound());
    stage.settle(PROMPT);
}

/// Under the permit of a run around it.
fn run_nested(stage: &mut Stage) {
    let inner = stage.run_words(&[], &stage.job("nested", 20, Tree::None));
    let inner: Vec<&str> = inner.iter().map(String::as_str).collect();
    let words = stage.run_words(&[], &stage.victim_words(&inner));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut outer = stage.semrun(&words);
    outer.point = Some(stage.point_file());
    let mut ended = stage.end(outer);
    if ended.code == 128 + 9 && stage.point.process == 0 {
        ended.code = -9;
    }
    stage.judge_run("nested", &ended);
    stage.settle(stage.bound());
}

/// A permit that outlives who acquired it.
fn permit(stage: &Stage) -> String {
    let ended = stage.end(stage.semrun(&["acquire", "--json", "--name", &stage.name]));
    stage.expect("acquire", &ended, 0);
    permit_in(&ended).unwrap_or_default()
}

fn permit_in(ended: &Ended) -> Option<String> {
    let said: serde_json::Value = serde_json::from_str(&ended.stdout).ok()?;
    said["permit"].as_str().map(String::from)
}

/// Once more, and then nothing happens to it.
fn again(stage: &Stage, words: &[&str]) {
    let mut ended = stage.end(stage.semrun(words));
    // The holder may have given it back since it was revoked; and a lease may have run out.
    let late = matches!(stage.point.what, What::Stopped(time) if time > TTL);
    // Where there is no room it is not remembered that a permit was given back.
    let no_room =
        matches!(stage.point.what, What::Failed(libc::ENOSPC | libc::EDQUOT | libc::EFBIG, ..));
    if (words.contains(&"--force") || late || no_room) && ended.code == 76 {
        ended.code = 0;
    }
    stage.expect(&format!("the same again ({})", words[0]), &ended, 0);
}

fn acquire(stage: &mut Stage) {
    let ended = stage.end(stage.victim(&["acquire", "--json", "--name", &stage.name]));
    stage.judge_end(&ended, &[0]);
    let permit = permit_in(&ended);
    if ended.code == 0 && permit.is_none() {
        stage.complain(format!("it ends with 0 and says no permit: {:?}", ended.stdout));
    }
    let mut bound = stage.bound();
    if let Some(permit) = permit.filter(|_| ended.code == 0 || ended.code == -9) {
        again(stage, &["release", "--permit", &permit]);
        bound = PROMPT;
    } else if ended.code == -9 {
        // It had the permit, which is unknown: it is held until its lease is over.
        bound = TTL + PROMPT;
    }
    stage.settle(bound);
}

fn renew(stage: &mut Stage) {
    let permit = permit(stage);
    let words = ["renew", "--permit", &permit];
    let ended = stage.end(stage.victim(&words));
    stage.judge_end(&ended, &[0]);
    again(stage, &words);
    again(stage, &["release", "--permit", &permit]);
    stage.settle(PROMPT);
}

fn renew_while(stage: &mut Stage) {
    let permit = permit(stage);
    let mut sleep = std::process::Command::new("sleep");
    sleep.arg("0.1");
    let mut sleep = stage.start(stage.dressed(sleep), "sleep".into(), None);
    let ended =
        stage.end(stage.victim(&["renew", "--permit", &permit, "--while-pid", &sleep.id()]));
    stage.until("the process has ended", || sleep.is_over(stage));
    stage.judge_end(&ended, &[0]);
    again(stage, &["renew", "--permit", &permit]);
    again(stage, &["release", "--permit", &permit]);
    stage.settle(PROMPT);
}

fn release(stage: &mut Stage) {
    let permit = permit(stage);
    let waiter = stage.run("waiter", 5, &["-w", "20s"]);
    stage.until_queued(1);
    let words = ["release", "--permit", &permit];
    let ended = stage.end(stage.victim(&words));
    stage.judge_end(&ended, &[0]);
    awake(stage, "waiter", 1);
    again(stage, &words);
    stage.served("waiter", waiter, Instant::now(), PROMPT);
    again(stage, &words);
    stage.settle(PROMPT);
}

fn release_force(stage: &mut Stage) {
    revoked(stage, &["release", "--force", "--permit"]);
}

fn release_now(stage: &mut Stage) {
    revoked(stage, &["release", "--force", "--now", "--permit"]);
}

fn revoked(stage: &mut Stage, words: &[&str]) {
    let holder = stage.run("holder", 15_000, &[]);
    stage.until("the first command runs", || stage.permit("holder"));
    let waiter = stage.run("waiter", 5, &["-w", "20s"]);
    stage.until_queued(1);
    let seen = stage.status().unwrap_or_default();
    let permit = seen["holders"][0]["permit"].as_str().unwrap_or_default().to_owned();
    let words: Vec<&str> = words.iter().copied().chain([permit.as_str()]).collect();
    let ended = stage.end(stage.victim(&words));
    stage.judge_end(&ended, &[0]);
    awake(stage, "waiter", 1);
    again(stage, &words);
    let since = Instant::now();
    stage.expect("the holder", &stage.end(holder), 76);
    stage.served("waiter", waiter, since, TTL + PROMPT);
    again(stage, &words);
    stage.settle(PROMPT);
}

/// A waiter does not sleep beside a free permit.
fn awake(stage: &Stage, tag: &str, limit: usize) {
    let idle = || {
        let (holders, waiters) = stage.crowd();
        holders < limit && waiters > 0
    };
    if !within(PROMPT / 10, || stage.permit(tag))
        && idle()
        && !within(PROMPT / 2, || stage.permit(tag))
        && idle()
    {
        stage.complain(format!("LOST WAKE-UP: {tag} waits beside a free permit"));
    }
}

fn limit_show(stage: &mut Stage) {
    let words = ["limit", &stage.name.clone()];
    let ended = stage.end(stage.victim(&words));
    stage.judge_end(&ended, &[0]);
    again(stage, &words);
    stage.settle(PROMPT);
}

fn limit_pin(stage: &mut Stage) {
    let name = stage.name.clone();
    makes_room(stage, "1", &["limit", &name, "2"]);
}

fn limit_unpin(stage: &mut Stage) {
    let name = stage.name.clone();
    again(stage, &["limit", &name, "1"]);
    makes_room(stage, "2", &["limit", &name, "--unpin"]);
}

/// For a second one, which waits.
fn makes_room(stage: &mut Stage, asked: &str, words: &[&str]) {
    let holder = stage.run("holder", 15_000, &["-l", asked]);
    stage.until("the first command runs", || stage.permit("holder"));
    let waiter = stage.run("waiter", 5, &["-w", "20s", "-l", asked]);
    stage.until_queued(1);
    let ended = stage.end(stage.victim(words));
    stage.judge_end(&ended, &[0]);
    let limit = stage.status().and_then(|seen| seen["limit"].as_u64()).unwrap_or(1);
    awake(stage, "waiter", usize::try_from(limit).unwrap());
    again(stage, words);
    stage.served("waiter", waiter, Instant::now(), PROMPT);
    holder.signal(Signal::TERM);
    stage.expect("the holder", &stage.end(holder), -15);
    again(stage, &["limit", &stage.name, "--unpin"]);
    stage.settle(PROMPT);
}

/// Beside a holder.
fn beside_holder(stage: &mut Stage, look: impl Fn(&Stage)) {
    let holder = stage.run("holder", 15_000, &[]);
    stage.until("the first command runs", || stage.permit("holder"));
    look(stage);
    holder.signal(Signal::TERM);
    stage.expect("the holder", &stage.end(holder), -15);
    stage.settle(PROMPT);
}

fn status(stage: &mut Stage) {
    beside_holder(stage, |stage| {
        let ended = stage.end(stage.victim(&["status", &stage.name]));
        stage.judge_end(&ended, &[75]);
    });
}

fn status_watch(stage: &mut Stage) {
    beside_holder(stage, |stage| {
        let watch = stage.victim(&["status", "--watch", &stage.name]);
        std::thread::sleep(std::time::Duration::from_millis(300));
        watch.signal(Signal::INT);
        let ended = stage.end(watch);
        stage.judge_end(&ended, &[0, 75, -2, 130]);
    });
}

fn doctor(stage: &mut Stage) {
    let ended = stage.end(stage.victim(&["doctor"]));
    stage.judge_end(&ended, &[0, 1]);
    stage.settle(PROMPT);
}

/// With a directory for its state, and started again when it has ended.
fn server(stage: &mut Stage) {
    if let What::Stopped(time) = &mut stage.point.what {
        *time = PROMPT / 10; // A longer stop costs its clients their permits.
    }
    stage.serve();
    let options = ["-w", "20s"];
    let mut holder = stage.run("holder", 400, &options);
    stage.until("the first command runs", || stage.permit("holder"));
    let waiter = stage.run("waiter", 5, &options);
    stage.until("it waits", || holder.is_over(stage) || stage.crowd().1 > 0);
    let behind = stage.run("behind", 5, &options);
    for (who, running) in [("the holder", holder), ("the waiter", waiter), ("the last", behind)] {
        stage.expect(who, &stage.end(running), CODE);
    }
    stage.settle(stage.bound());
    stage.stop_serving();
}
