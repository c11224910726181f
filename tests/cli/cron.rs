use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use super::faults::{family, stubborn_family, worker};
use super::leases::server;
use super::restarts::remembering;
use super::support::{Running, World, content, fails, is_alive, shows, wait_until};

fn busy(world: &World) -> bool {
    world.run(["-n", "true"]).output().unwrap().status.code() == Some(75)
}

#[test]
fn a_permit_stays_taken_for_a_while_and_then_the_next_begins_at_once() {
    World::everywhere(|world| {
        let begin = Instant::now();
        shows(&world.run(["--min-hold", "3s", "true"]).output().unwrap(), 0, "", "");
        assert!(busy(world) && begin.elapsed() < Duration::from_secs(3));
        let holder = world.status()["semaphores"][0]["holders"][0].clone();
        assert_eq!((&holder["state"], &holder["label"]), (&"min_hold".into(), &"true".into()));
        assert!(holder["lease_left_ms"].as_u64().unwrap() <= 3_000, "{holder}");
        let waiter = world.waiter(&[], "date +%s%N > began");
        assert!(waiter.finish().status.success());
        assert!(begin.elapsed() >= Duration::from_millis(2_900), "{:?}", begin.elapsed());
        assert!(!busy(world));
    });
}

#[test]
fn a_command_that_cannot_be_run_keeps_nothing_taken() {
    World::everywhere(|world| {
        let output = world.run(["--min-hold", "1h", "no-such-command"]).output().unwrap();
        fails(&output, 127, &["no-such-command"]);
        assert!(!busy(world));
    });
}

#[test]
fn a_command_that_takes_longer_is_not_held_up() {
    World::everywhere(|world| {
        let run = world.script(&["--min-hold", "0.2"], "sleep 0.5").output().unwrap();
        shows(&run, 0, "", "");
        assert!(!busy(world));
    });
}

#[test]
fn hosts_whose_clocks_differ_run_a_job_once_a_round() {
    const ROUND: Duration = Duration::from_secs(4);
    World::everywhere(|world| {
        let begin = Instant::now() + Duration::from_millis(100);
        std::thread::scope(|scope| {
            // Each begins when its own clock says so.
            for skew in [0, 900, 1_800].map(Duration::from_millis) {
                scope.spawn(move || {
                    for round in 0..3 {
                        let start = begin + ROUND * round + skew;
                        std::thread::sleep(start.saturating_duration_since(Instant::now()));
                        let options = ["-n", "-E", "0", "--min-hold", "3s"];
                        let note = format!("echo {round} >> rounds");
                        let mut job = world.script(&options, &note);
                        shows(&job.output().unwrap(), 0, "", "");
                    }
                });
            }
        });
        assert_eq!(world.lines("rounds"), ["0", "1", "2"]);
    });
}

#[test]
fn a_host_that_dies_keeps_it_taken_all_the_same() {
    World::everywhere(|world| {
        let options = ["--ttl", "5s", "--min-hold", "8s"];
        let begin = Instant::now();
        let run =
            Running::start(&mut world.script(&options, "echo began > began; exec sleep 1000"));
        content(&world.path("began"));
        if world.permits_expire() {
            let worker = worker(&run);
            run.freeze();
            kill_process(worker, Signal::KILL).unwrap();
        }
        run.signal(Signal::KILL);
        run.finish();
        while begin.elapsed() < Duration::from_millis(7_500) {
            assert!(busy(world), "after {:?}", begin.elapsed());
            std::thread::sleep(Duration::from_millis(100));
        }
        let next = world.run(["-q", "true"]).output().unwrap();
        shows(&next, 0, "", "");
        assert!(begin.elapsed() >= Duration::from_secs(8));
    });
}

#[test]
fn a_server_that_keeps_its_state_keeps_permits_taken_over_a_restart() {
    let mut world = remembering();
    let begin = Instant::now();
    shows(&world.run(["--min-hold", "5s", "true"]).output().unwrap(), 0, "", "");
    server(&mut world).kill();
    server(&mut world).start_again();
    assert!(busy(&world) && begin.elapsed() < Duration::from_secs(5));
    shows(&world.run(["-q", "true"]).output().unwrap(), 0, "", "");
    assert!(begin.elapsed() >= Duration::from_millis(4_900));
}

#[test]
fn a_command_that_runs_too_long_is_stopped_with_everything_it_started() {
    World::everywhere(|world| {
        let options = ["--max-runtime", "1s", "--kill-after", "0.3"];
        let run = Running::start(&mut world.script(&options, &stubborn_family()));
        let members = family(world);
        let output = run.finish();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(124) && stderr.contains("has run for 1s"), "{stderr}");
        assert!(members.into_iter().all(|pid| !is_alive(pid)));
        assert!(!busy(world));
    });
}

#[test]
fn a_command_may_use_the_time_it_has_to_end_well() {
    let world = World::new();
    let script = "trap 'echo bye; exit 3' INT; while :; do sleep 0.05; done";
    let run = world.script(&["--max-runtime", "0.3", "-s", "INT"], script).output().unwrap();
    assert_eq!((run.status.code(), &run.stdout[..]), (Some(124), &b"bye\n"[..]));
    shows(&world.script(&["--max-runtime", "1m"], "exit 3").output().unwrap(), 3, "", "");
}

#[test]
fn a_random_time_goes_by_before_it_asks() {
    let world = World::new();
    let run = world.run(["-v", "--jitter", "0.4", "true"]).output().unwrap();
    let stderr = String::from_utf8(run.stderr).unwrap();
    assert!(run.status.success() && stderr.contains("(--jitter)"), "{stderr}");
    // The times differ, and a signal ends one as it ends all waiting.
    let runs: Vec<_> = (0..4)
        .map(|_| Running::start(&mut world.run(["-v", "--jitter", "100d", "true"])))
        .collect();
    let mut said: Vec<_> = runs
        .into_iter()
        .map(|mut run| {
            let mut line = String::new();
            let stderr = run.stderr.as_mut().unwrap();
            std::io::BufRead::read_line(&mut std::io::BufReader::new(stderr), &mut line).unwrap();
            run.signal(Signal::TERM);
            assert_eq!(run.finish().status.code(), Some(143));
            line
        })
        .collect();
    said.sort_unstable();
    said.dedup();
    assert_eq!(said.len(), 4, "{said:?}");
    wait_until("no waiter is left", || world.waiters().is_empty());
}
