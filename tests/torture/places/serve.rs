//! `semrun serve` that is killed and started again, with its state on a small disk.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::Signal;
use semrun_testkit::clock::WallClock;
use semrun_testkit::cloud_server::{CloudServer, KEY};
use serde_json::Value;

use super::disk::Disk;
use super::watch::Watch;
use super::weather::{self, Network};
use super::{Place, SEMAPHORES, Situation, Strike};
use crate::torture::arena::Setting;
use crate::torture::dice::Dice;
use crate::torture::history::{Kept, Moment, Semaphore};

/// `semrun serve` with a state directory on a small disk, and a network before it.
pub(super) struct Serve {
    server: CloudServer,
    network: Network,
    disk: Disk,
    clock: WallClock,
    faults: Vec<&'static str>,
    watch: Watch,
    down: bool,
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
        let watch = watch(server.port());
        Self { server, network, disk, clock, faults, watch, down: false }
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

    fn faults(&self) -> &[&'static str] {
        &self.faults
    }

    fn strike(&mut self, kind: &'static str, dice: &mut Dice, _: &Situation) -> Option<Strike> {
        match kind {
            "kill-server" => {
                self.server.kill();
                self.down = true;
                Some(Strike::lasting(dice.millis(0..3000)))
            }
            "restart-server" => {
                let _ = self.server.stop();
                self.down = true;
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
            "kill-server" | "restart-server" => {
                self.server.start_again();
                self.down = false;
            }
            "stop-server" => self.server.signal(Signal::CONT),
            "fill-disk" => self.disk.free(),
            "leap" => (),
            _ => self.network.mend(),
        }
    }

    fn kept(&self) -> Kept {
        self.watch.kept()
    }

    fn idle_cost(&self) -> u64 {
        // Each hears something every ten seconds.
        2
    }

    fn begun_by_proxy(&mut self) {
        self.network.begun();
    }

    fn tick(&mut self) {
        assert!(self.down || self.server.is_running(), "the server has ended by itself");
        self.network.tick();
    }

    fn leftovers(&mut self) -> Vec<String> {
        SEMAPHORES.iter().flat_map(|one| nodes(self.server.port(), one.name)).collect()
    }
}

/// What our own client is told.
fn watch(port: u16) -> Watch {
    Watch::new(move || {
        let mut all = Vec::new();
        for Semaphore { name, .. } in SEMAPHORES {
            let before = Moment::now();
            let seen = ask(port, name, "X-Semrun: 3\r\n").ok()?;
            for holder in seen["holders"].as_array().into_iter().flatten() {
                let (id, left) = (holder["id"].as_str()?, holder["left_ms"].as_u64());
                let until = before.plus(Duration::from_millis(left.unwrap_or(0)));
                all.push((format!("{id}@{name}"), until));
            }
        }
        Some(all)
    })
}

/// The clients that the server knows; it does not know an idle name.
fn nodes(port: u16, semaphore: &str) -> Vec<String> {
    let seen = ask(port, semaphore, "").unwrap();
    let nodes = seen["nodes"].as_object().cloned().unwrap_or_default();
    nodes.keys().map(|id| format!("{semaphore}: {id}")).collect()
}

/// Asks about a semaphore, over a connection of its own.
fn ask(port: u16, name: &str, header: &str) -> io::Result<Value> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let request = format!(
        "GET /semaphore/observe?name={name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         X-API-Key: {KEY}\r\n{header}\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body.trim());
    // There is none about an idle name.
    if text.starts_with("HTTP/1.1 200") && body.is_empty() {
        return Ok(Value::Null);
    }
    Ok(serde_json::from_str(body)?)
}
