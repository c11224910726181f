//! A Redis that is replaced: a primary, two replicas, and an address that clients find the primary by.

use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use self::director::{Director, Order};
use self::sight::{Names, Sight};
use super::redis::{commands, may_stay};
use super::watch::Watch;
use super::weather::{self, Network};
use super::{Place, SEMAPHORES, Situation, Strike};
use crate::torture::arena::{Setting, TTL};
use crate::torture::command::prepare_semaphore;
use crate::torture::dice::Dice;
use crate::torture::history::{Judge, Kept, Semaphore};

/// What is done to the servers.
mod director;
/// The servers.
mod set;
mod sight;

/// Faults that replace the primary, or cut it off from all others.
const MOVES: [&str; 9] = [
    "crash",
    "freeze-primary",
    "cut-off",
    "silence",
    "restart-primary",
    "sentinel-crash",
    "sentinel-freeze",
    "sentinel-cut",
    "planned",
];

/// What happens to replicas. To lose one of two costs nothing.
const LOSSES: [&str; 3] = ["lose-replica", "lose-replicas", "freeze-replicas"];

/// How many of the names that came last are looked at: those before them have no users any more.
const IN_USE: usize = 6;

/// How many more come when clients are let to another server.
const NEWCOMERS: usize = 2;

/// Whether this moves the address, or what grants there.
pub(crate) fn moves(kind: &str) -> bool {
    MOVES.contains(&kind)
}

/// Whether nothing may be granted or renewed while this is at work, and for a while after it.
pub(crate) fn keeps_waiting(kind: &str) -> bool {
    moves(kind) || ["lose-replicas", "freeze-replicas"].contains(&kind)
}

pub(super) struct Moving {
    here: PathBuf,
    director: Director,
    network: Network,
    watch: Watch,
    faults: Vec<&'static str>,
    /// The last one is another one after each change: of a name that was not used before, a server
    /// remembers nothing.
    semaphores: Vec<Semaphore>,
    names: Names,
    /// How many there have been.
    made: usize,
    /// When it has been up for long enough to grant anything that could be lost.
    begins: Instant,
}

impl Moving {
    pub(super) fn new(setting: &Setting) -> Self {
        let director = Director::start();
        let network = Network::before(director.addresses[1]);
        let names = Names::default();
        names.lock().unwrap().extend(SEMAPHORES.map(|semaphore| semaphore.name));
        let mut sight = Sight::of(&director.ports, Names::clone(&names));
        let watch = Watch::new(move || sight.look());
        // They are what this is about.
        let faults = MOVES.iter().chain(&MOVES).chain(&LOSSES).chain(&weather::FAULTS);
        let (faults, semaphores) = (faults.copied().collect(), SEMAPHORES.to_vec());
        let (here, begins) = (setting.here.clone(), Instant::now() + TTL.mul_f64(1.5));
        Self { here, director, network, watch, faults, semaphores, names, made: 0, begins }
    }

    fn new_name(&mut self) {
        self.made += 1;
        let name: &'static str = format!("new-{}", self.made).leak();
        let semaphore = Semaphore { name, limit: 1, judge: Judge::Locks };
        prepare_semaphore(&self.here, semaphore);
        self.semaphores.truncate(SEMAPHORES.len());
        self.semaphores.push(semaphore);
        let mut names = self.names.lock().unwrap();
        names.push(name);
        if names.len() > SEMAPHORES.len() + IN_USE {
            names.remove(SEMAPHORES.len());
        }
    }

    fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let port = self.director.ports[self.director.shared.primary.load(Relaxed)];
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}"))?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(2))?;
        redis::cmd(words[0]).arg(&words[1..]).query(&mut connection)
    }
}

impl Place for Moving {
    fn semaphores(&self) -> &[Semaphore] {
        &self.semaphores
    }

    fn backend(&self, by_proxy: bool) -> String {
        let port = if by_proxy { self.network.port() } else { self.director.addresses[0] };
        format!("redis://127.0.0.1:{port}")
    }

    fn variables(&self) -> &[(&'static str, &'static str)] {
        &[("SEMRUN_REPLICAS", "1")]
    }

    fn faults(&self) -> &[&'static str] {
        &self.faults
    }

    fn strike(&mut self, kind: &'static str, dice: &mut Dice, _: &Situation) -> Option<Strike> {
        if !moves(kind) && !LOSSES.contains(&kind) {
            return self.network.strike(kind, dice);
        }
        if Instant::now() < self.begins {
            return None;
        }
        let order = Order::throw(kind, dice);
        let detail = format!("{order:?}");
        self.director.order(order);
        Some(Strike { detail, lasts: Duration::ZERO })
    }

    fn goes_on(&self) -> bool {
        self.director.shared.busy.load(Relaxed)
    }

    fn mend(&mut self, kind: &'static str) {
        if !moves(kind) && !LOSSES.contains(&kind) {
            self.network.mend();
        }
    }

    fn calm(&mut self) {
        self.director.shared.haste.hurry.store(true, Relaxed);
    }

    fn newcomers(&self) -> usize {
        if self.director.shared.moved.load(Relaxed) { NEWCOMERS } else { 0 }
    }

    fn is_away(&self) -> bool {
        self.director.shared.away.load(Relaxed)
    }

    fn begun_by_proxy(&mut self) {
        self.network.begun();
    }

    fn tick(&mut self) {
        self.network.tick();
        self.director.assert_alive();
        while self.made < self.director.shared.names.load(Relaxed) {
            self.new_name();
        }
    }

    fn forgets(&self, kind: &str) -> bool {
        moves(kind)
    }

    fn idle_cost(&self) -> u64 {
        // Each asks once in half a lease, and the holder renews once in a third of it.
        14
    }

    fn requests(&self) -> Option<u64> {
        Some(commands(&self.ask::<String>(&["INFO", "commandstats"]).unwrap()))
    }

    fn leftovers(&mut self) -> Vec<String> {
        let keys: Vec<String> = self.ask(&["KEYS", "*"]).unwrap();
        let left = |key: &String| self.ask(&["PTTL", key]).unwrap();
        // What is left of a name that is not in use any more is cleared up by no client.
        let names = self.semaphores.iter().map(|one| format!("semrun-{}", one.name));
        let names: Vec<_> = names.collect();
        let own = |key: &String| {
            let end = key.find('}').unwrap_or(key.len());
            names.iter().any(|name| key[..end].trim_start_matches('{') == name)
        };
        keys.into_iter().filter(own).filter(|key| !may_stay(key, || left(key))).collect()
    }

    fn kept(&self) -> Kept {
        self.watch.kept()
    }
}
