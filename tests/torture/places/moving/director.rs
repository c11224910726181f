//! Replacing the primary, step by step. Most of that is waiting, so it has a thread of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::set::{Haste, Over, Set};
use crate::torture::arena::TTL;
use crate::torture::dice::Dice;
use crate::torture::servers::address::{Address, Old};

/// After a change of the primary nothing is granted for so long: a TTL, three seconds, and what it
/// takes to ask.
const PAUSE: Duration = TTL.saturating_add(Duration::from_millis(3500));

/// What there is to do, and what chance has to say about it.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) kind: &'static str,
    /// Which of the two replicas is to be the primary.
    candidate: usize,
    /// Whether that gets nothing of what is granted at the end.
    stranded: bool,
    /// For how long there is a name then that was not there before.
    window: Duration,
    /// How much later than the servers clients learn it.
    late: Duration,
    /// How much later still half of them do.
    later: Duration,
    /// What becomes of their connections.
    old: Old,
    /// Whether clients learn it before the other replica does.
    early: bool,
    /// When all connections fall silent, if they do.
    silent: Option<Duration>,
    /// For how long the old primary is away; or is there, with the clients that it has.
    short: Duration,
    long: Duration,
    /// The same: as one that is back, and has not been told.
    alone: Duration,
    /// Of one that starts again, whether it has lost everything.
    empty: bool,
}

impl Order {
    pub(super) fn throw(kind: &'static str, dice: &mut Dice) -> Self {
        let [late, later, quick] = [dice.millis(50..3000), dice.millis(200..6000), Duration::ZERO];
        let long = if dice.one_in(2) { 300..3000 } else { 3000..12000 };
        Self {
            kind,
            candidate: dice.below(2),
            stranded: dice.one_in(2),
            window: dice.millis(300..2000),
            late: if dice.one_in(2) { quick } else { late },
            later: if dice.one_in(3) { quick } else { later },
            old: dice.pick(&[Old::Kept, Old::Kept, Old::Silent, Old::Cut]),
            early: dice.one_in(3),
            silent: dice.one_in(2).then_some(dice.millis(2200..3200)),
            short: dice.millis(0..3000),
            long: dice.millis(long),
            alone: if dice.one_in(3) { Duration::ZERO } else { dice.millis(0..5000) },
            empty: !dice.one_in(3),
        }
    }
}

/// What the arena has to know of it.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) haste: Arc<Haste>,
    /// The set is not whole.
    pub(super) busy: AtomicBool,
    /// Where clients ask there is no primary.
    pub(super) away: AtomicBool,
    /// Clients have just learnt of a new one.
    pub(super) moved: AtomicBool,
    /// How many names there have to have been by now.
    pub(super) names: AtomicUsize,
    /// Its number.
    pub(super) primary: AtomicUsize,
}

pub(super) struct Director {
    pub(super) shared: Arc<Shared>,
    pub(super) ports: Vec<u16>,
    /// Of the two ways to the primary.
    pub(super) addresses: [u16; 2],
    /// None: the thread is to end.
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Director {
    /// Returns when the set is whole.
    pub(super) fn start() -> Self {
        let shared = Arc::<Shared>::default();
        let (orders, received) = channel();
        let (begun, started) = channel();
        let ours = Arc::clone(&shared);
        // The servers end with the thread that started them.
        let thread = std::thread::spawn(move || Play::begin(ours, &begun).go_on(&received));
        let (ports, addresses) = started.recv().expect("the servers start");
        Self { shared, ports, addresses, orders: Some(orders), thread: Some(thread) }
    }

    pub(super) fn order(&self, order: Order) {
        self.shared.busy.store(true, Relaxed);
        // Whether it lives is looked at all the time.
        let _ = self.orders.as_ref().unwrap().send(order);
    }

    pub(super) fn assert_alive(&self) {
        let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        assert!(!ended, "what was done to the servers did not come to its end");
    }
}

impl Drop for Director {
    fn drop(&mut self) {
        self.shared.haste.over.store(true, Relaxed);
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread's own side.
struct Play {
    set: Set,
    addresses: [Address; 2],
    shared: Arc<Shared>,
    primary: usize,
    /// Since when clients ask another one.
    moved: Instant,
}

impl Play {
    fn begin(shared: Arc<Shared>, begun: &Sender<(Vec<u16>, [u16; 2])>) -> Self {
        let set = Set::start(Arc::clone(&shared.haste));
        let addresses = [(); 2].map(|()| Address::of(set.node(0).port()));
        let _ = set.gather(0);
        let _ = begun.send((set.ports(), [addresses[0].port(), addresses[1].port()]));
        Self { set, addresses, shared, primary: 0, moved: Instant::now() }
    }

    fn go_on(mut self, orders: &Receiver<Order>) {
        for order in orders {
            if self.carry_out(&order).is_err() {
                return;
            }
            self.shared.busy.store(false, Relaxed);
        }
    }

    fn carry_out(&mut self, order: &Order) -> Result<(), Over> {
        let (old, one) = (self.primary, (self.primary + 1 + order.candidate) % 3);
        let other = 3 - old - one;
        match order.kind {
            "crash" => {
                self.prepare(order, one)?;
                self.lose(old);
                self.succeed(order, one, other)?;
                self.pause(order.short)?;
                self.set.node_mut(old).restart_empty();
            }
            "freeze-primary" => {
                self.prepare(order, one)?;
                self.freeze(old);
                self.succeed(order, one, other)?;
                self.pause(order.long)?;
                self.set.node(old).thaw();
                self.pause(order.alone)?;
            }
            "cut-off" => {
                self.prepare(order, one)?;
                self.set.keep_out(old, "repl")?;
                self.succeed(order, one, other)?;
                self.fall_silent(order, 2 * PAUSE)?;
                self.set.let_in(old);
            }
            "silence" => {
                self.set.connect(old, false);
                self.new_name();
                // As soon as can be; it counts those that it has lost for three seconds.
                let later = order.later / 2 + Duration::from_secs(3);
                let later = if order.later.is_zero() { order.later } else { later };
                let order = &Order { late: Duration::ZERO, later, early: false, ..order.clone() };
                self.succeed(order, one, other)?;
                self.fall_silent(order, PAUSE + order.long / 2)?;
                self.set.connect(old, true);
            }
            "restart-primary" => {
                self.prepare(&Order { stranded: false, ..order.clone() }, one)?;
                self.lose(old);
                self.pause(order.short / 3)?;
                if order.empty {
                    self.set.node_mut(old).restart_empty();
                } else {
                    self.set.node_mut(old).restart();
                }
                self.move_to(old, Old::Cut);
                self.addresses[1].move_to(self.set.node(old).port(), Old::Cut);
            }
            "lose-replica" => {
                self.set.node_mut(one).kill();
                self.pause(order.short)?;
                self.set.node_mut(one).restart_empty();
            }
            "lose-replicas" => {
                for one in [one, other] {
                    self.set.node_mut(one).kill();
                }
                self.pause(order.short)?;
                for one in [one, other] {
                    self.set.node_mut(one).restart_empty();
                }
            }
            "freeze-replicas" => {
                for one in [one, other] {
                    self.set.node(one).freeze();
                }
                self.pause(2 * order.short)?;
                for one in [one, other] {
                    self.set.node(one).thaw();
                }
            }
            _ => self.with_sentinels(order, [old, one, other])?,
        }
        self.set.gather(self.primary)?;
        let left = PAUSE.saturating_sub(self.moved.elapsed());
        if self.shared.moved.load(Relaxed) {
            self.pause(left)?;
        }
        self.shared.moved.store(false, Relaxed);
        Ok(())
    }

    /// They see to it that another one takes its place.
    fn with_sentinels(&mut self, order: &Order, [old, one, other]: [usize; 3]) -> Result<(), Over> {
        let kind = order.kind;
        if !self.set.guard(old)? {
            println!("{kind}: the sentinels do not find each other, and nothing is done");
            self.set.leave();
            return Ok(());
        }
        self.new_name();
        self.pause(order.window)?;
        match kind {
            "sentinel-crash" => self.lose(old),
            "sentinel-freeze" => self.freeze(old),
            "sentinel-cut" => {
                self.set.keep_out(old, "sent")?;
                if order.stranded {
                    self.set.keep_out(old, "repl")?;
                }
            }
            _ => {}
        }
        let new = self.set.primary_after(old, kind == "planned")?;
        let new = if let Some(new) = new { new } else { self.by_hand(kind, one, other)? };
        self.pause(order.late)?;
        self.move_to(new, order.old);
        self.move_the_others(order)?;
        match kind {
            "sentinel-crash" => {
                self.pause(order.short)?;
                self.set.node_mut(old).restart_empty();
            }
            "sentinel-freeze" => {
                self.pause(order.long)?;
                self.set.node(old).thaw();
                self.pause(order.alone)?;
            }
            "sentinel-cut" => {
                self.fall_silent(order, PAUSE + order.long / 2)?;
                self.set.let_in(old);
            }
            // They let it be one for ten seconds more.
            _ => self.fall_silent(order, 2 * PAUSE)?,
        }
        self.set.leave();
        let what = format!("server {new} is the primary");
        self.shared.haste.wait_until(&what, || self.set.is_primary(new))
    }

    /// They do not come to it.
    fn by_hand(&self, kind: &str, one: usize, other: usize) -> Result<usize, Over> {
        println!("{kind}: the sentinels do nothing, and it is done by hand");
        self.set.leave();
        self.set.promote(one);
        self.set.follow(other, one)?;
        Ok(one)
    }

    /// Something is granted that only the primary knows, or all.
    fn prepare(&self, order: &Order, one: usize) -> Result<(), Over> {
        if order.stranded {
            self.set.strand(one, self.primary)?;
        }
        self.new_name();
        self.pause(order.window)
    }

    fn new_name(&self) {
        self.shared.names.fetch_add(1, Relaxed);
    }

    fn lose(&mut self, old: usize) {
        self.shared.away.store(true, Relaxed);
        self.set.node_mut(old).kill();
    }

    fn freeze(&self, old: usize) {
        self.shared.away.store(true, Relaxed);
        self.set.node(old).freeze();
    }

    /// One takes the place of the primary, and the other copies it.
    fn succeed(&mut self, order: &Order, one: usize, other: usize) -> Result<(), Over> {
        self.set.promote(one);
        if order.early {
            self.move_to(one, order.old);
        }
        self.set.follow(other, one)?;
        if !order.early {
            self.pause(order.late)?;
            self.move_to(one, order.old);
        }
        self.move_the_others(order)
    }

    fn move_to(&mut self, one: usize, old: Old) {
        self.primary = one;
        self.shared.primary.store(one, Relaxed);
        self.addresses[0].move_to(self.set.node(one).port(), old);
        self.moved = Instant::now();
        self.shared.moved.store(true, Relaxed);
        self.shared.away.store(false, Relaxed);
    }

    /// Not all learn it at the same time.
    fn move_the_others(&self, order: &Order) -> Result<(), Over> {
        self.pause(order.later)?;
        self.addresses[1].move_to(self.set.node(self.primary).port(), order.old);
        Ok(())
    }

    /// Clients that stay with the old one have it for a while, and not for longer than that.
    fn fall_silent(&self, order: &Order, time: Duration) -> Result<(), Over> {
        if let Some(at) = order.silent {
            self.pause(at.saturating_sub(self.moved.elapsed()))?;
            for address in &self.addresses {
                address.move_to(self.set.node(self.primary).port(), Old::Silent);
            }
        }
        self.pause(time.saturating_sub(self.moved.elapsed()))
    }

    fn pause(&self, time: Duration) -> Result<(), Over> {
        self.shared.haste.pause(time)
    }
}
