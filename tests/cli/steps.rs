//! Permits that outlive the process that acquired them: renewing, giving back and revoking by a
//! client that only knows their identity.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use semrun_testkit::cloud_server::CloudServer;
use serde_json::Value;

use super::support::{Running, SEMRUN, World, fails, is_alive, pid_in, shows, wait_until};

/// Acquires a permit of `x`, and returns it.
pub(crate) fn acquired(world: &World, options: &[&str]) -> String {
    let output = world.semrun(["acquire", "--name", "x"]).args(options).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{stderr}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn with_permit(world: &World, subcommand: &str, permit: &str, options: &[&str]) -> Command {
    let mut command = world.semrun([subcommand, "--permit", permit]);
    command.args(options);
    command
}

fn holder(world: &World) -> Value {
    world.status()["semaphores"][0]["holders"][0].clone()
}

fn lease_left(world: &World) -> u64 {
    holder(world)["lease_left_ms"].as_u64().unwrap_or(0)
}

/// The permit of the only holder.
fn held(world: &World) -> String {
    holder(world)["permit"].as_str().unwrap().to_owned()
}

#[test]
fn a_permit_outlives_who_acquired_it_until_it_is_given_back() {
    World::everywhere(|world| {
        let permit = acquired(world, &["--ttl", "20s", "--label", "release 7"]);
        assert!(permit.ends_with("@x") && permit.len() == 36 + 2, "{permit}");
        let holder = holder(world);
        assert_eq!((&holder["label"], &holder["detached"]), (&"release 7".into(), &true.into()));
        assert_eq!(
            (&holder["permit"], &holder["state"]),
            (&permit.as_str().into(), &"holding".into())
        );
        let left = lease_left(world);
        assert!((10_000..=20_000).contains(&left), "{left}");
        shows(&world.run(["-n", "true"]).output().unwrap(), 75, "", "");
        let waiter = world.waiter(&[], "echo mine");
        shows(&with_permit(world, "release", &permit, &[]).output().unwrap(), 0, "", "");
        assert_eq!(waiter.finish().stdout, b"mine\n");
        // Once more is as good as once.
        shows(&with_permit(world, "release", &permit, &[]).output().unwrap(), 0, "", "");
        let renewed = with_permit(world, "renew", &permit, &[]).output().unwrap();
        fails(&renewed, 76, &[&permit, "has no holder any more"]);
        // Of another semaphore it is no permit.
        let permit = acquired(world, &[]);
        let elsewhere = permit.replace("@x", "@y");
        for subcommand in ["renew", "release"] {
            let output = with_permit(world, subcommand, &elsewhere, &[]).output().unwrap();
            fails(&output, 76, &[&elsewhere, "never was"]);
        }
        shows(&with_permit(world, "release", &permit, &[]).output().unwrap(), 0, "", "");
        let mut left = world.leftovers();
        // A listener for its end can hear of it for a while.
        left.retain(|file| file != "done" && !file.contains(":wake:"));
        assert_eq!(left, [""; 0]);
    });
}

#[test]
fn a_permit_that_is_not_renewed_ends_with_its_lease_and_the_next_begins() {
    World::everywhere(|world| {
        let begin = Instant::now();
        let permit = acquired(world, &["--ttl", "5s"]);
        let waiter = world.waiter(&["--ttl", "5s"], "echo mine");
        assert_eq!(waiter.finish().stdout, b"mine\n");
        let took = begin.elapsed();
        assert!(took >= Duration::from_secs(5), "{took:?}");
        for subcommand in ["renew", "release"] {
            let output = with_permit(world, subcommand, &permit, &[]).output().unwrap();
            fails(&output, 76, &[&permit, "ran out"]);
        }
    });
}

#[test]
fn renewing_gives_it_a_whole_lease_again() {
    World::everywhere(|world| {
        let permit = acquired(world, &["--ttl", "20s"]);
        wait_until("some of it is over", || lease_left(world) < 19_000);
        let mut renew = world.semrun(["renew"]);
        shows(&renew.env("SEMRUN_PERMIT", &permit).output().unwrap(), 0, "", "");
        assert!(lease_left(world) > 19_000);
    });
}

#[test]
fn renewing_goes_on_while_a_process_lives_and_does_not_give_back() {
    World::everywhere(|world| {
        let permit = acquired(world, &["--ttl", "5s"]);
        let step = Running::start(Command::new("sleep").arg("1000"));
        let pid = step.id().to_string();
        let renewing =
            Running::start(&mut with_permit(world, "renew", &permit, &["--while-pid", &pid]));
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(5_500) {
            assert!(lease_left(world) > 1_000, "renewed well before its end");
            std::thread::sleep(Duration::from_millis(100));
        }
        step.signal(Signal::KILL);
        step.finish();
        shows(&renewing.finish(), 0, "", "");
        assert_eq!(held(world), permit);
        shows(&with_permit(world, "release", &permit, &[]).output().unwrap(), 0, "", "");
        // Of a process that has ended already.
        let permit = acquired(world, &[]);
        let late = with_permit(world, "renew", &permit, &["--while-pid", &pid]).output().unwrap();
        shows(&late, 0, "", "");
    });
}

#[test]
fn a_renewal_hears_that_the_permit_is_gone() {
    World::everywhere(|world| {
        let permit = acquired(world, &["--ttl", "5s"]);
        wait_until("some of it is over", || lease_left(world) < 4_500);
        let myself = std::process::id().to_string();
        let renewing =
            Running::start(&mut with_permit(world, "renew", &permit, &["--while-pid", &myself]));
        wait_until("it renews", || lease_left(world) > 4_900);
        shows(&with_permit(world, "release", &permit, &[]).output().unwrap(), 0, "", "");
        fails(&renewing.finish(), 76, &[&permit, "is lost"]);
    });
}

#[test]
fn a_shell_takes_what_is_printed_and_runs_its_steps_under_it() {
    World::everywhere(|world| {
        let script = format!(
            "eval \"$({SEMRUN} acquire --shell --name \"it's x\")\"
            {SEMRUN} --name \"it's x\" -- echo under $SEMRUN_PERMIT
            test \"$SEMRUN_FENCING_TOKEN\" -gt 0
            {SEMRUN} renew
            {SEMRUN} -n --name \"it's x\" -- echo still
            {SEMRUN} release
            env -u SEMRUN_HELD {SEMRUN} -n --name \"it's x\" -- echo free"
        );
        let mut shell = Command::new("sh");
        shell.args(["-euc", &script]).envs(world.environment());
        let output = shell.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("under ") && lines[0].ends_with("@it's x"), "{text}");
        assert_eq!(lines[1..], ["still", "free"], "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
    });
}

#[test]
fn a_shell_does_not_go_on_without_a_permit() {
    World::everywhere(|world| {
        let _holder = world.holder(&[]);
        let script = format!("eval \"$({SEMRUN} acquire --shell --name x -n)\"; echo on");
        for (shell, options) in [("sh", "-ec"), ("bash", "-ec")] {
            let mut shell = Command::new(shell);
            shell.args([options, &script]).envs(world.environment());
            shows(&shell.output().unwrap(), 75, "", "");
        }
        let mut away = world.semrun(["acquire", "--shell", "--name", "x", "-w", "0.1"]);
        let away = away.args(["--backend", "redis://127.0.0.1:1"]).output().unwrap();
        assert_eq!((away.status.code(), &away.stdout[..]), (Some(69), &b"(exit 69)\n"[..]));
        let wrong = world.semrun(["acquire", "--shell", "--nam", "x"]).output().unwrap();
        assert_eq!((wrong.status.code(), &wrong.stdout[..]), (Some(64), &b"(exit 64)\n"[..]));
    });
}

#[test]
fn acquiring_waits_in_turn_and_gives_up_as_a_run_does() {
    World::everywhere(|world| {
        let holder = world.holder(&["--label", "job"]);
        let acquire = |options: &[&str]| {
            let mut command = world.semrun(["acquire", "--name", "x"]);
            command.args(options);
            command
        };
        shows(&acquire(&["-n"]).output().unwrap(), 75, "", "");
        let gave_up = acquire(&["-w", "0.2", "-E", "9"]).output().unwrap();
        assert_eq!(gave_up.status.code(), Some(9));
        let interrupted = Running::start(&mut acquire(&[]));
        world.is_queued(&interrupted);
        interrupted.signal(Signal::TERM);
        assert_eq!(interrupted.finish().status.code(), Some(143));
        let waiting = Running::start(&mut acquire(&["--json"]));
        world.is_queued(&waiting);
        drop(holder);
        let output = waiting.finish();
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&document["version"], &document["name"]), (&1.into(), &"x".into()));
        assert_eq!(document["permit"].as_str().unwrap(), held(world));
        assert_eq!(document["ttl_ms"], 30_000);
        assert!(document["fencing_token"].as_u64().unwrap() > 0);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains(" for 'x', 1st in line") && stderr.contains("got 'x'"), "{stderr}");
    });
}

#[test]
fn a_permit_that_cannot_be_printed_is_given_back() {
    World::everywhere(|world| {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let mut acquire = world.semrun(["acquire", "--name", "x", "--min-hold", "1h"]);
        let output = acquire.stdout(full).output().unwrap();
        fails(&output, 125, &["cannot write", "No space left"]);
        shows(&world.run(["-n", "true"]).output().unwrap(), 0, "", "");
    });
}

#[test]
fn no_client_renews_or_gives_back_what_a_running_command_has() {
    World::everywhere(|world| {
        let _holder = world.holder(&["--label", "job"]);
        let permit = held(world);
        for subcommand in ["renew", "release"] {
            let output = with_permit(world, subcommand, &permit, &[]).output().unwrap();
            fails(&output, 76, &["running command", "job (pid "]);
        }
        assert_eq!(held(world), permit);
        let elsewhere = permit.replace("@x", "@y");
        for subcommand in ["renew", "release"] {
            let output = with_permit(world, subcommand, &elsewhere, &[]).output().unwrap();
            fails(&output, 76, &[&elsewhere, "has no holder"]);
        }
    });
    // A command may ask whether its own is still held.
    World::everywhere(|world| {
        shows(&world.run(["--", SEMRUN, "renew"]).output().unwrap(), 0, "", "");
    });
}

/// A lease so long that no renewal comes during the test.
const LONG: [&str; 2] = ["--ttl", "1h"];

#[test]
fn who_is_revoked_stops_its_command_before_the_next_begins() {
    World::everywhere(|world| {
        let script = "trap 'sleep 0.3; echo $$ gone >> order; exit' TERM; echo $$ > pid; \
                      while :; do sleep 0.05; done";
        let victim = Running::start(
            &mut world.script(&[&LONG[..], &["--label", "victim"]].concat(), script),
        );
        let pid = pid_in(&world.path("pid"));
        let next = world.waiter(&LONG, "echo next >> order");
        let permit = held(world);
        let revoked = with_permit(world, "release", &permit, &["--force"]).output().unwrap();
        let text = String::from_utf8(revoked.stdout).unwrap();
        assert!(revoked.status.success() && text.contains("victim (pid "), "{text}");
        assert!(text.contains("passes on when that has stopped"), "{text}");
        assert_eq!(next.finish().status.code(), Some(0));
        let order = fs::read_to_string(world.path("order")).unwrap();
        assert_eq!(order, format!("{} gone\nnext\n", pid.as_raw_nonzero()));
        let victim = victim.finish();
        let stderr = String::from_utf8_lossy(&victim.stderr);
        assert!(stderr.contains("release --force") && victim.status.code() == Some(76), "{stderr}");
        assert!(!is_alive(pid));
    });
}

#[test]
fn a_permit_that_is_taken_at_once_passes_on_and_its_command_is_killed() {
    World::everywhere(|world| {
        let options = [&LONG[..], &["--kill-after", "10m"]].concat();
        let script = "trap '' TERM; echo $$ > pid; while :; do sleep 0.05; done";
        let victim = Running::start(&mut world.script(&options, script));
        let pid = pid_in(&world.path("pid"));
        let next = world.waiter(&LONG, "echo mine");
        let permit = held(world);
        let now = with_permit(world, "release", &permit, &["--force", "--now"]).output().unwrap();
        let text = String::from_utf8(now.stdout).unwrap();
        assert!(text.contains("may run beside the next"), "{text}");
        assert_eq!(next.finish().stdout, b"mine\n");
        fails(&victim.finish(), 76, &["cannot be kept"]);
        assert!(!is_alive(pid));
    });
}

#[test]
fn a_command_that_does_not_stop_when_it_is_revoked_is_killed_when_its_permit_is_taken_at_once() {
    World::everywhere(|world| {
        let options = [&LONG[..], &["--kill-after", "0"]].concat();
        let script = "trap 'echo told > told' TERM; echo $$ > pid; while :; do sleep 0.05; done";
        let victim = Running::start(&mut world.script(&options, script));
        let pid = pid_in(&world.path("pid"));
        let permit = held(world);
        let revokes = |options: &[&str]| {
            let revoked = with_permit(world, "release", &permit, options).output().unwrap();
            assert!(revoked.status.success(), "{revoked:?}");
        };
        revokes(&["--force"]);
        wait_until("the command was told", || world.path("told").exists());
        assert_eq!(holder(world)["state"], "revoking");
        revokes(&["--force", "--now"]);
        assert_eq!(victim.finish().status.code(), Some(76));
        assert!(!is_alive(pid));
    });
}

#[test]
fn a_revoked_permit_that_was_acquired_cannot_be_renewed_and_ends_with_its_lease() {
    World::everywhere(|world| {
        let permit = acquired(world, &["--ttl", "5s"]);
        let revoked = with_permit(world, "release", &permit, &["--force"]).output().unwrap();
        assert!(revoked.status.success());
        assert_eq!(holder(world)["state"], "revoking");
        let renewed = with_permit(world, "renew", &permit, &[]).output().unwrap();
        fails(&renewed, 76, &["revoked"]);
        shows(&world.run(["-n", "true"]).output().unwrap(), 75, "", "");
        assert_eq!(world.run(["true"]).output().unwrap().status.code(), Some(0));
        // Its owner may be faster than the lease.
        let permit = acquired(world, &LONG);
        with_permit(world, "release", &permit, &["--force"]).output().unwrap();
        shows(&with_permit(world, "release", &permit, &[]).output().unwrap(), 0, "", "");
        shows(&world.run(["-n", "true"]).output().unwrap(), 0, "", "");
    });
}

#[test]
fn a_permit_of_another_program_is_only_taken_at_once() {
    const FOREIGN: &str = "1b4e28ba-2fa1-4d5e-883f-0016d3cca427@x";
    let world = World::in_redis();
    let now: (i64, i64) = world.server().ask(&["TIME"]);
    let ending = ((now.0 + 60) * 1000).to_string();
    let id = FOREIGN.strip_suffix("@x").unwrap();
    let _: i64 = world.server().ask(&["ZADD", "semrun-x", &ending, id]);
    for (subcommand, options, code, words) in [
        ("renew", &[][..], 76, "another program"),
        ("release", &[], 76, "another program"),
        ("release", &["--force"], 78, "--now"),
    ] {
        fails(&with_permit(&world, subcommand, FOREIGN, options).output().unwrap(), code, &[words]);
    }
    let options = ["--force", "--now"];
    assert!(with_permit(&world, "release", FOREIGN, &options).output().unwrap().status.success());
    shows(&world.run(["-n", "true"]).output().unwrap(), 0, "", "");
}

#[test]
fn a_server_like_the_original_revokes_at_once_and_can_do_nothing_else_of_it() {
    let world = World::in_cloud(CloudServer::like_node());
    for arguments in [
        &["acquire", "--name", "x"][..],
        &["--name", "x", "--min-hold", "1s", "true"],
        &["limit", "x"],
        &["limit", "x", "3"],
        &["limit", "x", "--unpin"],
        &["renew", "--permit", "1b4e28ba-2fa1-4d5e-883f-0016d3cca427@x"],
        &["release", "--permit", "1b4e28ba-2fa1-4d5e-883f-0016d3cca427@x"],
    ] {
        fails(&world.semrun(arguments).output().unwrap(), 78, &["original"]);
    }
    let victim = world.holder(&[]);
    let permit = held(&world);
    fails(&with_permit(&world, "release", &permit, &["--force"]).output().unwrap(), 78, &["--now"]);
    let options = ["--force", "--now"];
    assert!(with_permit(&world, "release", &permit, &options).output().unwrap().status.success());
    fails(&victim.finish(), 76, &["cannot be kept"]);
}

#[test]
fn a_permit_around_the_shell_is_no_reason_to_wait_without_a_word() {
    let world = World::on_this_machine();
    let permit = acquired(&world, &[]);
    let held = format!("file:///p#{permit}");
    let mut acquire = world.semrun(["acquire", "--name", "x", "-n"]);
    let output = acquire.env("SEMRUN_HELD", held).output().unwrap();
    fails(&output, 75, &["held around this command already"]);
}

#[test]
fn the_one_holder_of_a_semaphore_is_revoked_by_its_name_and_of_several_one_is_to_be_chosen() {
    World::everywhere(|world| {
        let release =
            |options: &[&str]| world.semrun([&["release"], options].concat()).output().unwrap();
        fails(&release(&["--force", "x"]), 76, &["the permit of 'x' has no holder"]);
        let acquire = || {
            let acquired = world.semrun(["acquire", "--name", "x", "-l", "2"]).output().unwrap();
            String::from_utf8(acquired.stdout).unwrap().trim().to_owned()
        };
        let [one, two] = [acquire(), acquire()];
        let list = release(&["--force", "x"]);
        fails(
            &list,
            64,
            &["'x' has 2 holders", &format!("--permit {one}"), &format!("--permit {two}")],
        );
        fails(&release(&["x"]), 64, &["--force x"]);
        fails(&release(&["--force", "--permit", &one, "x"]), 64, &["give one of them"]);
        let returned = with_permit(world, "release", &one, &[]).output().unwrap();
        assert!(returned.status.success(), "{returned:?}");
        // The permit of the environment is not meant if another is named.
        let mut release = world.semrun(["release", "--force", "x"]);
        let revoked = release.env("SEMRUN_PERMIT", one.replace("@x", "@y")).output().unwrap();
        let text = String::from_utf8_lossy(&revoked.stdout);
        assert!(
            revoked.status.success() && text.starts_with("revoking the permit of 'x'"),
            "{revoked:?}"
        );
        assert_eq!(holder(world)["state"], "revoking");
    });
}

#[test]
fn a_permit_is_labelled_with_the_program_that_acquired_it() {
    let world = World::with_details();
    let script = world.path("nightly");
    std::fs::write(
        &script,
        format!("#!/bin/sh\n{} acquire --name x --ttl 1m\nexit 0\n", super::support::SEMRUN),
    )
    .unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let output = Command::new(&script).envs(world.environment()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(holder(&world)["label"], "nightly");
}
