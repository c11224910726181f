//! A sweep: every subcommand, in every place where permits live, is killed, is stopped for a while,
//! and has a failing system call, at each of its system calls, and what comes next has to find
//! everything as `docs/guarantees.md` says.
//!
//! That is many points. A share of them, K of N, has those whose number is K modulo N;
//! `scripts/sweep` runs the one that is asked for, `cargo test` a small one.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "the figures of a run are its result")]

mod sweep {
    /// Where permits live.
    pub(crate) mod backends;
    #[path = "../cli/cloud_server.rs"]
    #[expect(dead_code, reason = "other tests need more of it")]
    mod cloud_server;
    /// Which errors a call can have.
    pub(crate) mod errors;
    /// Something that happens at a system call.
    pub(crate) mod injector;
    /// What runs under a permit.
    pub(crate) mod job;
    #[path = "../torture/processes.rs"]
    #[expect(dead_code, reason = "the torture needs more of it")]
    mod processes;
    #[path = "../cli/redis_server.rs"]
    mod redis_server;
    /// Subcommands, and what is around them.
    pub(crate) mod scenes;
    /// A server to which something happens.
    mod server;
    /// A semaphore's life around one point.
    pub(crate) mod stage;
    #[path = "../torture/support.rs"]
    mod support;
}

use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};
use sweep::backends::{Backends, Kind, TTL};
use sweep::injector::{Call, Injector, Point, What, struck};
use sweep::scenes::{SCENES, Scene};
use sweep::stage::Stage;
use sweep::{errors, job};

/// How many scenes are played at once, and how many points of each: they mostly wait.
const SCENES_AT_ONCE: usize = 10;
const POINTS_AT_ONCE: usize = 4;

/// For how long a process is stopped: shorter than anything that would be missed, and longer than a
/// lease.
const MOMENT: Duration = Duration::from_millis(300);
const LONG: Duration = TTL.saturating_add(Duration::from_millis(1500));

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|role| role == job::ROLE) {
        job::play(&words[1..]);
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(SCENES_AT_ONCE));
    let share = Share::asked_for();
    println!("share {}/{}, seed {}", share.number, share.of, share.seed);
    let world = Arc::new((Backends::start(), Injector::compile()));
    let all = SCENES.iter().flat_map(|scene| scene.kinds.iter().map(move |kind| (scene, *kind)));
    let trials = all.map(|(scene, kind)| {
        let (world, name) = (Arc::clone(&world), format!("{} in {}", scene.name, kind.name()));
        Trial::test(name, move || Ok(sweep_over(&world, scene, kind, share)?))
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Which of all points.
#[derive(Clone, Copy)]
struct Share {
    number: usize,
    of: usize,
    /// Which error a call fails with, where it may be one of several.
    seed: usize,
}

impl Share {
    /// A hundredth, by default.
    fn asked_for() -> Self {
        let variable = |name| std::env::var(name).ok();
        let number = |text: &str| text.parse::<usize>().expect("SWEEP_SHARE=K/N, SWEEP_SEED=S");
        let share = variable("SWEEP_SHARE").unwrap_or("0/100".into());
        let (k, n) = share.split_once('/').expect("SWEEP_SHARE=K/N");
        let (k, of) = (number(k), number(n));
        Self { number: k % of, of, seed: variable("SWEEP_SEED").map_or(1, |seed| number(&seed)) }
    }

    /// Those of these calls, in each of the three ways.
    fn points(self, calls: &[Call], leases: bool) -> Vec<Point> {
        let mut seen = std::collections::BTreeMap::<usize, usize>::new();
        let mut points = Vec::new();
        for call in calls {
            let number = seen.entry(call.process).or_default();
            *number += 1;
            if *number % self.of != self.number {
                continue;
            }
            let turn = *number / self.of + self.seed;
            let pause = if leases && turn.is_multiple_of(2) { LONG } else { MOMENT };
            let errors = errors::of(call);
            let error = errors.get(turn % errors.len().max(1));
            let of = call.of.chars().next().unwrap();
            let failed = error.map(|error| What::Failed(*error, call.number, of));
            let whats = [Some(What::Killed), Some(What::Stopped(pause)), failed];
            let point = |what| Point { process: call.process, call: *number, what };
            points.extend(whats.into_iter().flatten().map(point));
        }
        points
    }
}

/// Lists the calls when nothing happens, and then lets it happen at those of the share.
fn sweep_over(
    world: &(Backends, Injector),
    scene: &Scene,
    kind: Kind,
    share: Share,
) -> Result<(), String> {
    let play = |point| {
        let mut stage = Stage::new((&world.0, &world.1), kind, point, scene.locks);
        (scene.play)(&mut stage);
        (stage.complaints(), stage)
    };
    let (complaints, quiet) = play(Point::NONE);
    if !complaints.is_empty() {
        return Err(format!("although nothing happens: {}", complaints.join("; ")));
    }
    let calls = quiet.calls();
    let points = share.points(&calls, kind.leases());
    let count = points.len();
    let next = Mutex::new(points.into_iter());
    let breaches = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..POINTS_AT_ONCE {
            scope.spawn(|| {
                while let Some(point) = { next.lock().unwrap().next() } {
                    let (complaints, stage) = play(point);
                    if !complaints.is_empty() {
                        let number = struck(&stage.point_file()).map(|(_, number)| number);
                        let text = complaints.join("; ");
                        let text = format!("{point:?}, at system call {number:?}: {text}");
                        println!("{} in {}: {text}", scene.name, kind.name());
                        breaches.lock().unwrap().push(text);
                    }
                }
            });
        }
    });
    let breaches = breaches.into_inner().unwrap();
    println!("{} in {}: {count} of {} calls", scene.name, kind.name(), calls.len());
    if breaches.is_empty() { Ok(()) } else { Err(breaches.join("\n")) }
}
