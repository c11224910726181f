use std::time::Duration;

use rustix::process::Signal;

use super::disk::Disk;
use super::weather::{self, Network};
use super::{Place, SEMAPHORES, Situation, Strike};
use crate::torture::arena::Setting;
use crate::torture::clock::WallClock;
use crate::torture::cloud_server::{CloudServer, KEY};
use crate::torture::dice::Dice;
use crate::torture::history::{History, Semaphore};

/// `semrun serve` with a state directory on a small disk, and a network before it.
pub(super) struct Serve {
    server: CloudServer,
    network: Network,
    disk: Disk,
    clock: WallClock,
    faults: Vec<&'static str>,
}

impl Serve {
    pub(super) fn new(setting: &Setting) -> Self {
        let disk = Disk::mount(&setting.here.join("state"), "2m");
        let clock = WallClock::new(&setting.here);
        let mut environment: Vec<(_, _)> = clock.environment().into();
        environment.extend(setting.mutant.map(|mutant| ("SEMRUN_MUTANT", mutant.into())));
        let directory = disk.path().to_str().unwrap();
        let server = CloudServer::ours_within(&["--state-dir", directory], &environment);
        let network = Network::before(server.port());
        let mut faults = vec!["kill-server", "restart-server", "stop-server", "fill-disk", "leap"];
        faults.extend(weather::FAULTS);
        Self { server, network, disk, clock, faults }
    }
}

impl Place for Serve {
    fn semaphores(&self) -> &[Semaphore] {
        &SEMAPHORES
    }

    fn backend(&self, by_proxy: bool) -> String {
        let port = if by_proxy { self.network.port() } else { self.server.port() };
        format!("http://127.0.0.1:{port}")
    }

    fn has_proxy(&self) -> bool {
        true
    }

    fn has_two_processes(&self) -> bool {
        true
    }

    fn faults(&self) -> &[&'static str] {
        &self.faults
    }

    fn strike(&mut self, kind: &'static str, dice: &mut Dice, _: &Situation) -> Option<Strike> {
        match kind {
            "kill-server" => {
                self.server.kill();
                Some(Strike::lasting(dice.millis(0..3000)))
            }
            "restart-server" => {
                let _ = self.server.stop();
                Some(Strike::lasting(dice.millis(0..500)))
            }
            "stop-server" => {
                self.server.signal(Signal::STOP);
                Some(Strike::lasting(dice.millis(100..7000)))
            }
            "fill-disk" => {
                self.disk.fill();
                Some(Strike::lasting(dice.millis(500..4000)))
            }
            "leap" => {
                let millis = i64::try_from(dice.below(7_200_000)).unwrap() - 3_600_000;
                self.clock.leap(millis);
                Some(Strike { detail: format!("by {millis} ms"), lasts: Duration::ZERO })
            }
            _ => self.network.strike(kind, dice),
        }
    }

    fn mend(&mut self, kind: &'static str) {
        match kind {
            "kill-server" | "restart-server" => self.server.start_again(),
            "stop-server" => self.server.signal(Signal::CONT),
            "fill-disk" => self.disk.free(),
            "leap" => (),
            _ => self.network.mend(),
        }
    }

    fn idle_cost(&self) -> u64 {
        // Each hears something every ten seconds.
        2
    }

    fn tick(&mut self) {
        self.network.tick();
    }

    fn leftovers(&mut self) -> Vec<String> {
        SEMAPHORES.iter().flat_map(|one| nodes(self.server.port(), one.name)).collect()
    }

    fn finish(self: Box<Self>, _history: &mut History) {}
}

/// Whom the server knows; a name that nobody uses it does not.
fn nodes(port: u16, semaphore: &str) -> Vec<String> {
    let seen = observe(port, semaphore);
    let nodes = seen["nodes"].as_object().cloned().unwrap_or_default();
    nodes.keys().map(|id| format!("{semaphore}: {id}")).collect()
}

/// As the original's clients do, over a connection of its own.
fn observe(port: u16, semaphore: &str) -> serde_json::Value {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let request = format!(
        "GET /semaphore/observe?semaphore={semaphore} HTTP/1.1\r\nHost: x\r\n\
         Connection: close\r\nAuthorization: {KEY}\r\nX-API-Key: {KEY}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let body = text.split_once("\r\n\r\n").unwrap().1.trim();
    if body.is_empty() {
        return serde_json::Value::Null;
    }
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {text}"))
}
