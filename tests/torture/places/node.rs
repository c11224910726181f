use rustix::process::Signal;

use super::{Place, Situation, Strike};
use crate::torture::arena::Setting;
use crate::torture::cloud_server::CloudServer;
use crate::torture::dice::Dice;
use crate::torture::history::{Judge, Semaphore};
use crate::torture::proxy::{Proxy, Weather};

/// A server like the original: a permit lives as long as a connection.
pub(super) struct Node {
    server: CloudServer,
    proxy: Proxy,
    down: bool,
}

const SEMAPHORES: [Semaphore; 2] = [
    Semaphore { name: "one", limit: 1, judge: Judge::EarlyLocks },
    Semaphore { name: "another", limit: 1, judge: Judge::EarlyLocks },
];

impl Node {
    pub(super) fn new(_setting: &Setting) -> Self {
        let server = CloudServer::like_node();
        let proxy = Proxy::to(server.port());
        Self { server, proxy, down: false }
    }
}

impl Place for Node {
    fn semaphores(&self) -> &[Semaphore] {
        &SEMAPHORES
    }

    fn backend(&self, by_proxy: bool) -> String {
        let port = if by_proxy { self.proxy.port } else { self.server.port() };
        format!("http://127.0.0.1:{port}")
    }

    fn may_stop_workers(&self, kind: &str) -> bool {
        // A stopped one does not hear that the server has gone, with all permits: documented.
        kind != "stop-worker"
    }

    fn knows_interventions(&self) -> bool {
        false
    }

    fn faults(&self) -> &[&'static str] {
        // It ends when it hears a request again whose client has gone, and a connection that is cut
        // passes the permit on at that moment: neither can be promised.
        &["kill-server", "stop-server", "slow-replies", "slow-network"]
    }

    fn strike(&mut self, kind: &'static str, dice: &mut Dice, _: &Situation) -> Option<Strike> {
        let weather = match kind {
            "kill-server" => {
                self.server.kill();
                self.down = true;
                // The holder learns of it at once; another server needs some time to start.
                return Some(Strike::lasting(dice.millis(300..1500)));
            }
            "stop-server" => {
                self.server.signal(Signal::STOP);
                return Some(Strike::lasting(dice.millis(100..3000)));
            }
            "slow-replies" => Weather::SlowReplies(dice.millis(20..800)),
            _ => Weather::Slow(dice.millis(20..500)),
        };
        self.proxy.weather(weather);
        let lasts = dice.millis(200..3000);
        Some(Strike { detail: format!("{weather:?} for {lasts:?}"), lasts })
    }

    fn mend(&mut self, kind: &'static str) {
        match kind {
            "kill-server" => {
                self.server.start_again();
                self.down = false;
            }
            "stop-server" => self.server.signal(Signal::CONT),
            _ => self.proxy.weather(Weather::Fair),
        }
    }

    fn tick(&mut self) {
        // It does when it hears something that it does not expect.
        assert!(self.down || self.server.is_running(), "the server has ended by itself");
    }

    fn leftovers(&mut self) -> Vec<String> {
        // Whom it was told of and never heard from again it knows for ever: a weak point of its own.
        Vec::new()
    }
}
