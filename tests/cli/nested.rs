//! Runs within a run: under the permit that is held around them, and never without one.

use rustix::process::{Pid, Signal};
use semrun_testkit::root::as_root;

use super::faults::{OPTIONS, TTL, worker};
use super::support::{
    Leftover, Running, SEMRUN, World, content, is_alive, pid_in, shows, state, wait_until,
};

/// A script that starts a nested run in the background, whose command writes its pid to `inner`.
/// The nested run's exit code goes to `code`.
fn nested(options: &str) -> String {
    format!(
        "(setsid sh -c '{SEMRUN} {options} --name x -- sh -c \"echo \\$\\$ > inner; \
         while [ ! -e go ]; do sleep 0.01; done\"; echo $? > code.part; mv code.part code' &)
         while [ ! -s inner ]; do sleep 0.01; done; "
    )
}

fn inner(world: &World) -> Pid {
    pid_in(&world.path("inner"))
}

fn is_free(inner: Pid) -> String {
    format!("kill -0 {} 2> errors || echo free", inner.as_raw_nonzero())
}

#[test]
fn a_run_whose_command_exits_keeps_its_permit_until_nested_runs_have_ended() {
    World::everywhere(|world| {
        let run = Running::start(&mut world.script(&OPTIONS, &format!("{} exit 3", nested(""))));
        let inner = inner(world);
        let waiter = world.waiter(&OPTIONS, &is_free(inner));
        // Longer than the lease: the outer run renews on.
        let begin = std::time::Instant::now();
        wait_until("its lease would be over", || begin.elapsed().as_secs() >= 6);
        assert_eq!(world.holders(), [run.id()]);
        assert!(is_alive(inner));
        std::fs::write(world.path("go"), "").unwrap();
        shows(&run.finish(), 3, "", "");
        assert_eq!(waiter.finish().stdout, b"free\n");
        assert_eq!(content(&world.path("code")), "0");
    });
}

#[test]
fn a_nested_run_ends_with_the_semrun_that_holds_its_permit() {
    World::everywhere(|world| {
        let run =
            Running::start(&mut world.script(&OPTIONS, &format!("{} exec sleep 1000", nested(""))));
        let inner = Leftover(inner(world));
        run.kill_both();
        assert_eq!(content(&world.path("code")), "76");
        assert!(!is_alive(inner.0));
        let waiter = Running::start(&mut world.script(&OPTIONS, &is_free(inner.0)));
        assert_eq!(waiter.finish().stdout, b"free\n");
    });
}

#[test]
fn a_nested_run_stops_when_the_permit_around_it_is_revoked() {
    World::everywhere(|world| {
        for on_lost in ["kill", "continue"] {
            let script = format!("{} exec sleep 1000", nested(""));
            let options = [&OPTIONS[..], &["--on-lost", on_lost]].concat();
            let run = Running::start(&mut world.script(&options, &script));
            let inner = Leftover(inner(world));
            let permit = world.status()["semaphores"][0]["holders"][0]["permit"].clone();
            let release = ["release", "--force", "--permit", permit.as_str().unwrap()];
            assert!(world.semrun(release).output().unwrap().status.success());
            wait_until("it has stopped", || !is_alive(inner.0));
            if on_lost == "kill" {
                assert_eq!(run.finish().status.code(), Some(76));
            } else {
                assert_eq!(content(&world.path("code")), "76");
                drop(run);
            }
            for file in ["inner", "code"] {
                let _ = std::fs::remove_file(world.path(file));
            }
        }
    });
}

#[test]
fn a_nested_run_stops_in_time_when_its_outer_goes_on_without_its_lease() {
    let world = World::in_redis();
    let options = [&OPTIONS[..], &["--on-lost", "continue"]].concat();
    let script = format!("{} echo > ready; exec sleep 1000", nested(""));
    let run = Running::start(&mut world.script(&options, &script));
    let inner = Leftover(inner(&world));
    content(&world.path("ready"));
    world.server().signal(Signal::STOP);
    let frozen = std::time::Instant::now();
    assert_eq!(content(&world.path("code")), "76");
    assert!(!is_alive(inner.0));
    assert!(frozen.elapsed().as_secs_f64() < 5.0, "{frozen:?}");
    world.server().signal(Signal::CONT);
    drop(run);
}

#[test]
fn a_copy_of_the_environment_is_not_within_the_command() {
    World::everywhere(|world| {
        let script = "env > copy.part; mv copy.part copy; exec sleep 1000";
        let holder = Running::start(&mut world.script(&OPTIONS, script));
        let copy = content(&world.path("copy"));
        let held = copy.lines().find_map(|line| line.strip_prefix("SEMRUN_HELD=")).unwrap();
        let beside =
            world.script(&["-n"], "echo beside").env("SEMRUN_HELD", held).output().unwrap();
        shows(&beside, 75, "", "");
        // One that waits is told why it does not go ahead.
        let mut waits = world.script(&["-w", "0.3"], "echo beside");
        let output = waits.env("SEMRUN_HELD", held).output().unwrap();
        assert_eq!((output.status.code(), &*output.stdout), (Some(75), &b""[..]));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("SEMRUN_HELD says that a permit of 'x' is held"), "{stderr}");
        let waiter = Running::start(world.script(&[], "echo ran").env("SEMRUN_HELD", held));
        world.is_queued(&waiter);
        drop(holder);
        assert_eq!(waiter.finish().stdout, b"ran\n");
    });
}

#[test]
fn a_nested_run_that_cannot_prove_it_is_told_so_at_once() {
    let world = World::on_this_machine();
    let script = format!("unshare --net {SEMRUN} --name x -w 1 -- echo no; echo $?");
    let mut outer = as_root(SEMRUN);
    outer.args(["--name", "x", "--", "sh", "-c", &script]);
    let output = outer.envs(world.environment()).current_dir(world.path(".")).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "75\n");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("no semrun that holds it is above this process"), "{stderr}");
}

#[test]
fn a_detached_permit_is_renewed_by_what_runs_under_it_and_not_given_back() {
    World::everywhere(|world| {
        let acquire = ["acquire", "--name", "x", "--ttl", TTL, "--shell"];
        let acquired = world.semrun(acquire).output().unwrap();
        let exports = String::from_utf8(acquired.stdout).unwrap();
        // Two steps of one job, side by side, for longer than the lease.
        let step = format!("{SEMRUN} --name x -- sh -c 'echo $$ >> steps; sleep 6'");
        let script = format!("{exports}\n{step} & {step} & wait $!; echo $?; wait");
        let mut shell = world.semrun([""; 0]);
        shell = {
            let mut sh = std::process::Command::new("sh");
            sh.args(["-c", &script]).current_dir(world.path("."));
            for (name, value) in shell.get_envs() {
                sh.env(name, value.unwrap_or_default());
            }
            sh.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            sh
        };
        let shell = Running::start(&mut shell);
        shows(&shell.finish(), 0, "0\n", "");
        assert_eq!(world.lines("steps").len(), 2);
        shows(&world.script(&["-n"], "echo no").output().unwrap(), 75, "", "");
    });
}

#[test]
fn a_run_under_a_detached_permit_stops_when_that_is_revoked() {
    World::everywhere(|world| {
        let acquire = ["acquire", "--name", "x", "--ttl", TTL];
        let acquired = world.semrun(acquire).output().unwrap();
        let permit = String::from_utf8(acquired.stdout).unwrap().trim().to_owned();
        let held = format!("{}#{permit}", world.backend());
        let script = "echo $$ > inner; exec sleep 1000";
        let run = Running::start(world.script(&[], script).env("SEMRUN_HELD", held));
        let inner = inner(world);
        let release = ["release", "--force", "--permit", &permit];
        assert!(world.semrun(release).output().unwrap().status.success());
        assert_eq!(run.finish().status.code(), Some(76));
        assert!(!is_alive(inner));
    });
}

#[test]
fn a_nested_run_that_is_killed_takes_its_command_with_it() {
    let world = World::new();
    let script = format!(
        "{SEMRUN} --name x -- python3 -c 'import subprocess; subprocess.run([\"sh\", \"-c\", \
         \"echo $$ > inner; exec sleep 1000\"])' & echo $! > nested; wait; echo $?"
    );
    let run = Running::start(&mut world.script(&[], &script));
    let inner = inner(&world);
    rustix::process::kill_process(pid_in(&world.path("nested")), Signal::KILL).unwrap();
    wait_until("its command is dead", || !is_alive(inner));
    assert!(run.finish().status.success());
}

#[test]
fn a_nested_run_whose_backend_is_away_says_so_as_any_other() {
    let world = World::in_redis();
    let script = format!(
        "echo > up; until [ -e go ]; do sleep 0.01; done; {SEMRUN} --name x -w 0.5 -- echo no; echo $?"
    );
    let run = Running::start(&mut world.script(&["--on-lost", "continue"], &script));
    content(&world.path("up"));
    world.server().signal(Signal::STOP);
    std::fs::write(world.path("go"), "").unwrap();
    let outer = run.finish();
    world.server().signal(Signal::CONT);
    assert_eq!(outer.stdout, b"69\n");
}

#[test]
fn a_nested_run_does_not_wait_for_an_outer_one_that_is_stopped() {
    World::everywhere(|world| {
        let script = format!(
            "echo > up; until [ -e go ]; do sleep 0.01; done; {SEMRUN} --name x -n -- echo no; \
             echo $? > code.part; mv code.part code; exec sleep 1000"
        );
        let run = Running::start(&mut world.script(&[], &script));
        content(&world.path("up"));
        let worker = worker(&run);
        rustix::process::kill_process(worker, Signal::STOP).unwrap();
        wait_until("it is stopped", || state(worker) == Some('T'));
        std::fs::write(world.path("go"), "").unwrap();
        assert_eq!(content(&world.path("code")), "75");
        rustix::process::kill_process(worker, Signal::CONT).unwrap();
        drop(run);
    });
}
