//! What a network does to a server and its clients, and what comes next.

use std::time::{Duration, Instant};

use semrun_testkit::proxy::{Proxy, Weather};

use super::Strike;
use crate::torture::arena::TTL;
use crate::torture::dice::Dice;

/// What a network can do to a server whose clients renew.
pub(super) const FAULTS: [&str; 10] = [
    "slow-replies",
    "slow-network",
    "slow-then-lost",
    "lost-network",
    "cut-after-request",
    "cut-before-reply",
    "half-close",
    "reset",
    "cut",
    "replay",
];

/// Half of the clients go through it.
pub(super) struct Network {
    proxy: Proxy,
    /// What comes next, and when.
    then: Option<(Instant, Weather)>,
}

impl Network {
    pub(super) fn before(server: u16) -> Self {
        Self { proxy: Proxy::to(server), then: None }
    }

    pub(super) fn port(&self) -> u16 {
        self.proxy.port
    }

    pub(super) fn tick(&mut self) {
        if let Some((_, weather)) = self.then.take_if(|(at, _)| Instant::now() > *at) {
            self.proxy.weather(weather);
        }
    }

    /// A permit was granted, and is to be renewed: what is to come next comes now.
    pub(super) fn begun(&mut self) {
        if let Some((at, _)) = &mut self.then {
            *at = Instant::now();
        }
    }

    pub(super) fn mend(&mut self) {
        self.then = None;
        self.proxy.weather(Weather::Fair);
    }

    pub(super) fn strike(&mut self, kind: &str, dice: &mut Dice) -> Option<Strike> {
        let short = dice.millis(200..3000);
        let long = Duration::from_millis(500) + dice.part_of(2 * TTL);
        let (weather, lasts) = match kind {
            "slow-replies" => (Weather::SlowReplies(dice.millis(100..2500)), short),
            "slow-network" => (Weather::Slow(dice.millis(20..1500)), short),
            // The worst for a client that counts from a late answer: a permit that was granted just
            // before cannot be renewed once.
            "slow-then-lost" => {
                let slow = dice.millis(4000..9000);
                self.then = Some((Instant::now() + slow, Weather::Lost));
                let lost = TTL + Duration::from_secs(1) + dice.part_of(TTL / 2);
                (Weather::SlowReplies(dice.millis(1400..1900)), slow + lost)
            }
            "lost-network" => (Weather::Lost, long),
            "cut-after-request" => (Weather::CutAfterRequest, short),
            "cut-before-reply" => (Weather::CutBeforeReply, short),
            "half-close" => (Weather::HalfClosed, short),
            "reset" => (Weather::Reset, short),
            "cut" => {
                self.proxy.cut();
                return Some(Strike::lasting(Duration::ZERO));
            }
            "replay" => {
                let count = 1 + dice.below(4);
                let replayed = (0..count).filter_map(|_| self.proxy.replay(dice.below(64)));
                let detail = format!("{} requests", replayed.count());
                return Some(Strike { detail, lasts: Duration::ZERO });
            }
            _ => return None,
        };
        self.proxy.weather(weather);
        Some(Strike { detail: format!("{weather:?}, for {lasts:?} in all"), lasts })
    }
}
