use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::disk::Disk;
use super::watch::Watch;
use super::weather::{self, Network};
use super::{Place, SEMAPHORES, Situation, Strike};
use crate::torture::arena::{Setting, TTL};
use crate::torture::clock::WallClock;
use crate::torture::command::semaphore_directory;
use crate::torture::dice::Dice;
use crate::torture::history::{Kept, Moment, Semaphore};
use crate::torture::redis_server::RedisServer;

/// A Redis, and a network before it.
pub(crate) struct Redis {
    server: RedisServer,
    network: Network,
    /// That of one which keeps its data.
    disk: Option<Disk>,
    /// That of one which forgets.
    clock: Option<WallClock>,
    /// By how many milliseconds it is ahead, and was at most.
    ahead: i64,
    furthest: i64,
    /// The same, when the server last forgot. Names that were not used since have tokens of before.
    floor: i64,
    passbuddies: PassBuddies,
    faults: Vec<&'static str>,
    watch: Watch,
    /// Since when, and whether, a leap of the clock keeps holders from being given up late.
    leaping: bool,
    down: bool,
    shared: bool,
    next_kill: Instant,
}

impl Redis {
    /// It is killed and forgets, and its clock leaps.
    pub(crate) fn that_forgets(setting: &Setting) -> Self {
        let clock = WallClock::new(&setting.here);
        let environment = clock.environment();
        // A thread of its allocator waits until a moment of the wall clock, which for the kernel may
        // be long ago: it would wait no more, and keep a processor busy.
        let options = ["--jemalloc-bg-thread", "no"];
        let server = RedisServer::with_environment(&options, &environment);
        let mut faults = vec!["leap", "fill-memory"];
        faults.extend(COMMON);
        Self::new(setting, server, None, Some(clock), faults)
    }

    /// It keeps its data through a kill, its disk can be full, and PassBuddy's programs use it too.
    pub(crate) fn that_is_shared(setting: &Setting) -> Self {
        // It has room for all that is written in an hour: a log that is written anew while the disk is
        // full may be one that Redis cannot read again.
        let disk = Disk::mount(&setting.here.join("redis"), "160m");
        let directory = disk.path().to_str().unwrap();
        let options = "--appendonly yes --appendfsync everysec --auto-aof-rewrite-percentage 0";
        let options: Vec<_> = ["--dir", directory].into_iter().chain(options.split(' ')).collect();
        let server = RedisServer::with(&options);
        let mut faults = vec!["fill-disk"];
        faults.extend(COMMON);
        let mut place = Self::new(setting, server, Some(disk), None, faults);
        place.shared = true;
        place
    }

    fn new(
        setting: &Setting,
        server: RedisServer,
        disk: Option<Disk>,
        clock: Option<WallClock>,
        mut faults: Vec<&'static str>,
    ) -> Self {
        faults.extend(weather::FAULTS);
        let network = Network::before(server.port());
        let watch = watch(&server);
        let passbuddies = PassBuddies::new(&setting.here, setting.seed, server.port());
        Self {
            server,
            network,
            disk,
            clock,
            passbuddies,
            faults,
            watch,
            leaping: false,
            down: false,
            shared: false,
            ahead: 0,
            furthest: 0,
            floor: 0,
            next_kill: Instant::now() + TTL / 2,
        }
    }

    /// Says something to it, if it can hear.
    fn say(&self, words: &[&str]) -> bool {
        let client = redis::Client::open(self.server.url()).unwrap();
        let Ok(mut connection) = client.get_connection_with_timeout(Duration::from_secs(1)) else {
            return false;
        };
        let _ = connection.set_read_timeout(Some(Duration::from_secs(2)));
        redis::cmd(words[0]).arg(&words[1..]).query::<redis::Value>(&mut connection).is_ok()
    }
}

const COMMON: [&str; 4] = ["kill-server", "stop-server", "flush-scripts", "kill-connections"];

impl Place for Redis {
    fn semaphores(&self) -> &[Semaphore] {
        &SEMAPHORES
    }

    fn backend(&self, by_proxy: bool) -> String {
        let port = if by_proxy { self.network.port() } else { self.server.port() };
        format!("redis://127.0.0.1:{port}")
    }

    fn may_stop_workers(&self, _kind: &str) -> bool {
        // A holder that cannot renew while the clock leaps can lose its permit too early:
        // documented.
        !self.leaping
    }

    fn faults(&self) -> &[&'static str] {
        &self.faults
    }

    fn strike(
        &mut self,
        kind: &'static str,
        dice: &mut Dice,
        situation: &Situation,
    ) -> Option<Strike> {
        match kind {
            "kill-server" => {
                // What forgets grants nothing for a while, and is to grant something in between.
                if self.clock.is_some() && Instant::now() < self.next_kill {
                    return None;
                }
                self.next_kill = Instant::now() + 3 * TTL;
                self.server.kill();
                if let Some(clock) = &self.clock {
                    // Tokens that are forgotten grow by the clock, and so the clock must not be
                    // late then: documented.
                    clock.leap(self.furthest - self.ahead);
                    self.ahead = self.furthest;
                    self.floor = self.furthest;
                }
                self.down = true;
                Some(Strike::lasting(dice.millis(0..3000)))
            }
            "stop-server" => {
                self.server.signal(Signal::STOP);
                Some(Strike::lasting(dice.millis(100..7000)))
            }
            "flush-scripts" => {
                self.say(&["SCRIPT", "FLUSH"]).then(|| Strike::lasting(Duration::ZERO))
            }
            "kill-connections" => {
                let killed = self.say(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
                killed.then(|| Strike::lasting(Duration::ZERO))
            }
            "fill-memory" => {
                let full = self.say(&["CONFIG", "SET", "maxmemory", "1"]);
                full.then(|| Strike::lasting(dice.millis(200..3000)))
            }
            "fill-disk" => {
                self.disk.as_ref()?.fill();
                Some(Strike::lasting(dice.millis(500..4000)))
            }
            "leap" => {
                if situation.stopped > 0 {
                    return None;
                }
                let far = if dice.one_in(2) { 3_600_000 } else { 8_000 };
                let millis =
                    i64::try_from(dice.below(2 * far)).unwrap() - i64::try_from(far).unwrap();
                let millis = millis.max(self.floor - self.ahead);
                self.clock.as_ref()?.leap(millis);
                self.ahead += millis;
                self.furthest = self.furthest.max(self.ahead);
                self.watch.leapt();
                self.leaping = true;
                let lasts = Duration::from_secs(5);
                Some(Strike { detail: format!("by {millis} ms"), lasts })
            }
            _ => self.network.strike(kind, dice),
        }
    }

    fn mend(&mut self, kind: &'static str) {
        match kind {
            "kill-server" => {
                self.server.start_again();
                self.down = false;
            }
            "stop-server" => self.server.signal(Signal::CONT),
            "fill-memory" => {
                // A server that is full still takes this.
                assert!(self.say(&["CONFIG", "SET", "maxmemory", "0"]));
            }
            "fill-disk" => self.disk.as_ref().unwrap().free(),
            "leap" => self.leaping = false,
            _ => self.network.mend(),
        }
    }

    fn begin(&mut self) {
        self.passbuddies.wanted = if self.shared { 2 } else { 0 };
    }

    fn calm(&mut self) {
        self.passbuddies.wanted = 0;
        self.passbuddies.end();
    }

    fn begun_by_proxy(&mut self) {
        self.network.begun();
    }

    fn tick(&mut self) {
        self.network.tick();
        if !self.down {
            assert!(self.server.is_running(), "redis-server has ended by itself");
            self.passbuddies.fill_up();
        }
    }

    fn forgets(&self, kind: &str) -> bool {
        kind == "kill-server" && self.clock.is_some()
    }

    fn end_holds(&self) -> &'static [&'static str] {
        // Its wall clock is what holds are counted by.
        &["leap"]
    }

    fn idle_cost(&self) -> u64 {
        // Each asks once in half a lease, and the holder renews once in a third of it.
        14
    }

    fn requests(&self) -> Option<u64> {
        Some(commands(&self.server.ask::<String>(&["INFO", "commandstats"])))
    }

    fn leftovers(&mut self) -> Vec<String> {
        let keys: Vec<String> = self.server.ask(&["KEYS", "*"]);
        // Members of PassBuddy's that died count for two TTLs; then the set is empty and gone.
        keys.into_iter().filter(|key| !may_stay(key, || self.server.ask(&["PTTL", key]))).collect()
    }

    fn kept(&self) -> Kept {
        self.watch.kept()
    }

    fn strangers(&self) -> usize {
        self.passbuddies.lines("ran").len()
    }

    fn strangers_crowded(&self) -> Vec<String> {
        self.passbuddies.lines("violations")
    }
}

/// PassBuddy's programs, which judge for themselves.
struct PassBuddies {
    here: PathBuf,
    seed: u64,
    port: u16,
    wanted: usize,
    running: Vec<Child>,
}

impl PassBuddies {
    fn new(here: &Path, seed: u64, port: u16) -> Self {
        Self { here: here.into(), seed, port, wanted: 0, running: Vec::new() }
    }

    /// Where they and the semruns meet.
    const SHARED: Semaphore = SEMAPHORES[1];

    fn fill_up(&mut self) {
        self.running.retain_mut(|one| matches!(one.try_wait(), Ok(None)));
        while self.running.len() < self.wanted {
            self.seed += 1;
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/torture/passbuddy.py");
            let limit = Self::SHARED.limit.to_string();
            let ttl = TTL.as_millis().to_string();
            let (port, seed) = (self.port.to_string(), self.seed.to_string());
            let mut python = Command::new("python3");
            python.args([script, &port, "semrun", Self::SHARED.name, &limit, &ttl, &seed, "40"]);
            python.current_dir(semaphore_directory(&self.here, Self::SHARED.name));
            // It ends with an error when its server does, as PassBuddy's does.
            let python = python.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            self.running.push(python.spawn().expect("this test needs python3"));
        }
    }

    fn end(&mut self) {
        for mut one in self.running.drain(..) {
            let _ = one.kill();
            let _ = one.wait();
        }
    }

    fn lines(&self, file: &str) -> Vec<String> {
        let file = semaphore_directory(&self.here, Self::SHARED.name).join(file);
        std::fs::read_to_string(file).unwrap().lines().map(String::from).collect()
    }
}

impl Drop for PassBuddies {
    fn drop(&mut self) {
        self.end();
    }
}

fn watch(server: &RedisServer) -> Watch {
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = None;
    Watch::new(move || {
        if connection.is_none() {
            let time = Duration::from_millis(300);
            connection = client.get_connection_with_timeout(time).ok();
        }
        let names = SEMAPHORES.map(|semaphore| semaphore.name);
        let seen = look_at(connection.as_mut()?, &names, Duration::from_secs(10)).ok();
        if seen.is_none() {
            connection = None;
        }
        seen
    })
}

/// How many requests of semruns a server has had, by what it counts.
pub(super) fn commands(info: &str) -> u64 {
    let calls = |line: &str| -> Option<u64> {
        let (name, rest) = line.split_once(":calls=")?;
        ["cmdstat_evalsha", "cmdstat_eval", "cmdstat_blpop"].contains(&name).then_some(())?;
        rest.split_once(',')?.0.parse().ok()
    };
    info.lines().filter_map(calls).sum()
}

/// Whether a key may be there though no client holds or waits; given the milliseconds that are left
/// of it.
pub(super) fn may_stay(key: &str, left: impl FnOnce() -> i64) -> bool {
    // What was not collected expires.
    let goes = || key.contains("}:wake:") && left() > 0;
    ["}:state", "}:done", "}:server"].iter().any(|end| key.ends_with(end)) || goes()
}

/// The permits, and until when the server keeps them at least.
pub(super) fn look_at(
    connection: &mut redis::Connection,
    names: &[&str],
    patience: Duration,
) -> redis::RedisResult<Vec<(String, Moment)>> {
    connection.set_read_timeout(Some(patience))?;
    let before = Moment::now();
    let mut all = redis::pipe();
    all.atomic().cmd("TIME");
    for name in names {
        all.cmd("ZRANGE").arg(format!("semrun-{name}")).arg(0).arg(-1).arg("WITHSCORES");
    }
    let mut answers: Vec<redis::Value> = all.query(connection)?;
    let members = answers.split_off(1);
    let (seconds, micros): (i64, i64) = redis::from_redis_value(answers.remove(0))?;
    let now = seconds * 1000 + micros / 1000;
    let mut found = Vec::new();
    for (name, members) in names.iter().zip(members) {
        let members: Vec<(String, f64)> = redis::from_redis_value(members)?;
        for (id, end) in members {
            #[expect(clippy::cast_possible_truncation, reason = "milliseconds since 1970")]
            let left = u64::try_from(end as i64 - now).unwrap_or(0);
            found.push((format!("{id}@{name}"), before.plus(Duration::from_millis(left))));
        }
    }
    Ok(found)
}
