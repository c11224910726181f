use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use super::support::{Running, World, children};

const LIMIT: u32 = 2;

/// semrun and PassBuddy's programs on one semaphore: both start, work, and die as they like, and
/// the kernel judges how many work at once.
#[test]
fn a_mixed_fleet_never_exceeds_the_limit() {
    let world = World::in_redis();
    let seed = u64::from(std::process::id());
    eprintln!("seed {seed}");
    let mut random = Random(seed);
    let script = format!(
        "for i in $(seq {LIMIT}); do exec 9>judge.$i; flock -n 9 && judge=$i && break; done
         [ \"$judge\" ] || echo \"semrun $$\" >> violations
         echo semrun >> ran
         sleep 0.0$1"
    );
    let mut passbuddies: Vec<Running> = Vec::new();
    let mut semruns: Vec<Running> = Vec::new();
    let (mut started, mut killed) = (0, 0);
    let end = Instant::now() + Duration::from_secs(30);
    while Instant::now() < end {
        passbuddies.retain_mut(|one| matches!(one.try_wait(), Ok(None)));
        while passbuddies.len() < 3 {
            started += 1;
            passbuddies.push(passbuddy(&world, seed + started));
        }
        semruns.retain_mut(|one| matches!(one.try_wait(), Ok(None)));
        while semruns.len() < 3 {
            let work = random.below(90) + 10;
            let options = ["--prefix", "passbuddy", "-q", "-l", "2", "--ttl", "5s"];
            let mut run = world.script(&options, &script);
            semruns.push(Running::start(run.args(["sh", &work.to_string()])));
        }
        if random.below(200) == 0 {
            // A host is lost, as far as it concerns this semrun.
            killed += 1;
            let victim = semruns.swap_remove(usize::try_from(random.below(3)).unwrap());
            let both = children(victim.pid()).into_iter().map(|(worker, _)| worker);
            for pid in both.chain([victim.pid()]) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    assert_eq!(world.lines("violations"), [""; 0]);
    let ran = world.lines("ran");
    let count = |who: &str| ran.iter().filter(|line| *line == who).count();
    let counts = (count("semrun"), count("passbuddy"), killed, started);
    eprintln!("{counts:?} semruns and passbuddies worked, semruns killed, passbuddies started");
    assert!(counts.0 > 10 && counts.1 > 5 && killed > 0 && started > 2, "{counts:?}");
}

fn passbuddy(world: &World, seed: u64) -> Running {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/passbuddy.py");
    let mut python = Command::new("python3");
    python.arg(script).arg(world.server().port().to_string()).args(["passbuddy", "x"]);
    python.args([LIMIT.to_string(), "5000".into(), seed.to_string(), "60".into()]);
    Running::start(python.current_dir(world.path(".")))
}

#[test]
fn a_foreign_release_is_noticed_soon_and_a_foreign_crash_after_two_ttls() {
    let world = World::in_redis();
    let server = world.server();
    let now = || {
        let (seconds, micros): (i64, i64) = server.ask(&["TIME"]);
        seconds * 1000 + micros / 1000
    };
    let foreign = "33333333-3333-4333-8333-333333333333";
    let _: i64 = server.ask(&["ZADD", "semrun-x", &(now() + 60_000).to_string(), foreign]);
    let waiter = world.waiter(&["--ttl", "5s"], "echo ran");
    let _: i64 = server.ask(&["ZREM", "semrun-x", foreign]);
    let released = Instant::now();
    assert_eq!(waiter.finish().stdout, b"ran\n");
    assert!(released.elapsed() < Duration::from_secs(2), "nobody is woken, so it has to look");

    // Expired a second ago: PassBuddy counts it for four more.
    let _: i64 = server.ask(&["ZADD", "semrun-x", &(now() - 1_000).to_string(), foreign]);
    let end = now() + 4_000;
    let waiter = world.waiter(&["--ttl", "5s"], "echo ran");
    assert_eq!(waiter.finish().stdout, b"ran\n");
    assert!(now() >= end);
}

#[test]
fn who_does_not_name_the_ttl_is_told_of_foreign_holders_once() {
    let world = World::in_redis();
    let foreign = "33333333-3333-4333-8333-333333333333";
    let _: i64 = world.server().ask(&["ZADD", "semrun-x", "9999999999999", foreign]);
    let output = world.script(&["-l", "2"], "").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("other programs (PassBuddy?) hold permits of 'x'"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1);
    let output = world.script(&["-l", "2", "--ttl", "30s"], "").output().unwrap();
    assert_eq!(output.stderr, b"");
}

/// Chance enough for a test, and the same again for a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}
