//! A place has faults of its own. At most one of them is at work at a time; those of the semruns
//! come on top.

use std::ops::Range;
use std::time::Duration;

use super::arena::Setting;
use super::dice::Dice;
use super::history::{Job, Judge, Kept, Kind, Semaphore};
use super::processes::Process;

/// A disk that can be full.
mod disk;
mod local;
/// A Redis that is replaced.
pub(crate) mod moving;
mod node;
pub(crate) mod redis;
mod serve;
/// Until when a server keeps what it has granted.
mod watch;
/// Servers reached over a network that misbehaves.
mod weather;

/// What a fault of a place may depend on.
pub(crate) struct Situation {
    /// How many processes of semruns are stopped.
    pub(crate) stopped: usize,
}

/// A fault that has begun.
pub(crate) struct Strike {
    pub(crate) detail: String,
    pub(crate) lasts: Duration,
}

impl Strike {
    fn lasting(lasts: Duration) -> Self {
        Self { detail: format!("for {lasts:?}"), lasts }
    }
}

pub(crate) trait Place {
    fn semaphores(&self) -> &[Semaphore];
    fn backend(&self, by_proxy: bool) -> String;
    /// Whether there is a server, with a network before it: then a semrun is a guardian and a worker.
    fn has_server(&self) -> bool {
        true
    }
    /// What its clients are told in variables, besides where it is.
    fn variables(&self) -> &[(&'static str, &'static str)] {
        &[]
    }
    fn faults(&self) -> &[&'static str];
    /// None: not now.
    fn strike(
        &mut self,
        kind: &'static str,
        dice: &mut Dice,
        situation: &Situation,
    ) -> Option<Strike>;
    /// Whether a fault whose time is over needs more of it.
    fn goes_on(&self) -> bool {
        false
    }
    fn mend(&mut self, kind: &'static str);

    /// How much time there is between faults of semruns and commands, in milliseconds.
    fn pace(&self) -> Range<u64> {
        20..500
    }

    /// Whether a worker may be killed or stopped now.
    fn may_stop_workers(&self, _kind: &str) -> bool {
        true
    }

    /// Whether these, who were just stopped, keep all others of a semaphore from deciding anything.
    fn is_stuck(&self, _semaphore: Semaphore, _stopped: &[Process]) -> bool {
        false
    }

    /// The faults begin.
    fn begin(&mut self) {}

    /// A command has begun that has to be renewed over the network that misbehaves.
    fn begun_by_proxy(&mut self) {}

    /// No client comes any more.
    fn calm(&mut self) {}

    /// A program that starts semrun, and whether it restricts semrun.
    fn prefix(&self, _dice: &mut Dice) -> (Vec<String>, bool) {
        (Vec::new(), false)
    }

    /// Whether a permit can outlive who asked for it, and be revoked and a limit be pinned in
    /// good order.
    fn knows_interventions(&self) -> bool {
        true
    }

    /// Whether it may remember nothing of the last minutes after that.
    fn forgets(&self, _kind: &str) -> bool {
        false
    }

    /// Whether a client that asks now would only be kept waiting.
    fn is_away(&self) -> bool {
        false
    }

    /// How many more there should be of each semaphore than usual.
    fn newcomers(&self) -> usize {
        0
    }

    /// The faults by which a permit may pass on sooner than it was to be held.
    fn end_holds(&self) -> &'static [&'static str] {
        &[]
    }

    /// How many of a hundred commands need their lease renewed and do not want to end.
    fn long_jobs(&self) -> usize {
        8
    }

    /// Called all the time.
    fn tick(&mut self) {}

    /// How many requests two waiters may cost in six seconds, the renewals of the holders included;
    /// and as many wake-ups of each of their processes.
    fn idle_cost(&self) -> u64 {
        0
    }

    /// How many requests it has had.
    fn requests(&self) -> Option<u64> {
        None
    }

    /// What is there although no client holds or waits.
    fn leftovers(&mut self) -> Vec<String>;

    /// Until when it would have kept each permit at least, as it was last seen.
    fn kept(&self) -> Kept {
        Kept::default()
    }

    /// How often others than semruns worked.
    fn strangers(&self) -> usize {
        0
    }

    /// Who of those that are no semruns found that there are too many.
    fn strangers_crowded(&self) -> Vec<String> {
        Vec::new()
    }
}

/// How many of a hundred jobs are of a kind.
pub(crate) struct Mix {
    pub(crate) long: usize,
    /// Those whose permit stays taken for a while.
    pub(crate) holds: usize,
    /// Those under a permit that outlives who acquired it.
    pub(crate) steps: usize,
    /// Those that have something between the run and its command, and what.
    pub(crate) around: (usize, &'static [Kind]),
}

/// Many short ones, some that leave a family behind, and some long ones.
pub(crate) fn job(semaphore: Semaphore, dice: &mut Dice, mix: &Mix) -> Job {
    if !semaphore.judge.locks() && semaphore.limit == 1 {
        let (kind, work) = (Kind::Writer, dice.millis(100..3000));
        return Job { kind, work, code: 0, hold: Duration::ZERO };
    }
    let mut some = |part| part > 0 && dice.below(100) < part && semaphore.judge.locks();
    let (holds, step) = (some(mix.holds), some(mix.steps));
    let hold = if holds { dice.millis(300..2500) } else { Duration::ZERO };
    if step {
        let time = if dice.one_in(4) { 5500..8000 } else { 20..2000 };
        let work = dice.millis(time);
        return Job { kind: Kind::Step, work, code: 0, hold };
    }
    let (long, around) = (mix.long, if semaphore.judge.locks() { mix.around.0 } else { 0 });
    let code = if dice.one_in(30) { -9 } else { i32::try_from(dice.below(40)).unwrap() };
    let (kind, work) = match dice.below(100) {
        at if at < long => (dice.pick(&[Kind::Stubborn, Kind::Family]), dice.millis(5500..9000)),
        at if at < long + 12 => (Kind::Plain, dice.millis(300..2000)),
        at if at < long + 24 => (Kind::Family, dice.millis(20..300)),
        at if at < long + 30 => (Kind::Awaited, dice.millis(20..200)),
        at if at < long + 36 => (Kind::Daemon, dice.millis(20..100)),
        at if at < long + 40 => (Kind::Swarm, dice.millis(20..100)),
        at if at < long + 40 + around => (dice.pick(mix.around.1), dice.millis(200..2000)),
        _ => (Kind::Plain, dice.millis(5..150)),
    };
    // What a script ends with is its own.
    let code = if matches!(kind, Kind::Shell | Kind::Nested) { 0 } else { code };
    Job { kind, work, code, hold }
}

/// One that is taken at a time, some more, and one where more is done than is promised.
const SEMAPHORES: [Semaphore; 3] = [
    Semaphore { name: "one", limit: 1, judge: Judge::Locks },
    Semaphore { name: "three", limit: 3, judge: Judge::Locks },
    Semaphore { name: "store", limit: 1, judge: Judge::Tokens },
];

/// Whether any of these faults is one of the network.
pub(crate) fn concern_the_network(faults: &[&str]) -> bool {
    faults.iter().any(|fault| weather::FAULTS.contains(fault))
}

/// Whether any of these faults is one that half of the clients meet otherwise than the rest.
pub(crate) fn divide_the_clients(faults: &[&str]) -> bool {
    concern_the_network(faults) || faults.iter().any(|fault| moving::moves(fault))
}

/// Makes what an arena happens in.
pub(crate) type Make = fn(&Setting) -> Box<dyn Place>;

/// All there are.
pub(crate) fn all() -> Vec<(&'static str, Make)> {
    vec![
        ("local", |setting| Box::new(local::Local::new(setting))),
        ("redis", |setting| Box::new(redis::Redis::that_forgets(setting))),
        ("redis-shared", |setting| Box::new(redis::Redis::that_is_shared(setting))),
        ("redis-moving", |setting| Box::new(moving::Moving::new(setting))),
        ("serve", |setting| Box::new(serve::Serve::new(setting))),
        ("node", |setting| Box::new(node::Node::new(setting))),
    ]
}
