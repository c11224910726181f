use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use rustix::process::{Resource, getrlimit};

use super::support::{Running, SEMRUN, World, fails, shows};

#[test]
fn a_free_permit_and_a_command_that_succeeds_say_nothing() {
    let world = World::new();
    let output = world.run(["--", "echo", "done"]).output().unwrap();
    shows(&output, 0, "done\n", "");
    assert_eq!(world.leftovers(), [""; 0]);
}

#[test]
fn every_exit_code_of_the_command_is_passed_on() {
    let world = World::new();
    for code in [0, 1, 2, 7, 64, 69, 75, 76, 125, 128, 137, 255] {
        let output = world.script(&[], &format!("exit {code}")).output().unwrap();
        shows(&output, code, "", "");
    }
}

#[test]
fn a_command_that_a_signal_ended_gives_128_and_the_signal() {
    let world = World::new();
    for (signal, code) in [("KILL", 137), ("TERM", 143), ("INT", 130), ("SEGV", 139), ("USR1", 138)]
    {
        let output =
            world.script(&[], &format!("ulimit -c 0; kill -{signal} $$")).output().unwrap();
        shows(&output, code, "", "");
    }
}

#[test]
fn a_command_that_is_missing_or_not_executable_gives_the_permit_back_at_once() {
    let world = World::new();
    fails(&world.run(["no-such-command"]).output().unwrap(), 127, &["no-such-command", "PATH"]);
    fails(&world.run(["./missing"]).output().unwrap(), 127, &["./missing", "no such file"]);
    fs::write(world.path("data"), "text").unwrap();
    fails(&world.run(["./data"]).output().unwrap(), 126, &["./data", "not executable"]);
    fails(&world.run(["./"]).output().unwrap(), 126, &["./"]);
    assert_eq!(world.leftovers(), [""; 0]);
    shows(&world.run(["-n", "true"]).output().unwrap(), 0, "", "");
}

#[test]
fn a_script_without_an_interpreter_line_runs_under_sh() {
    let world = World::new();
    fs::write(world.path("script"), "echo \"$0 $1\"; exit 3\n").unwrap();
    fs::set_permissions(world.path("script"), fs::Permissions::from_mode(0o755)).unwrap();
    shows(&world.run(["./script", "one"]).output().unwrap(), 3, "./script one\n", "");
}

#[test]
fn options_end_at_the_first_operand() {
    let world = World::new();
    let output = world
        .run(["sh", "-c", "printf '%s ' \"$@\"; exit 7", "sh", "-n", "--name", "y"])
        .output()
        .unwrap();
    shows(&output, 7, "-n --name y ", "");
    // After --name a subcommand's name is a command.
    fails(&world.run(["status"]).output().unwrap(), 127, &["status"]);
}

#[test]
fn a_command_string_runs_in_the_users_shell() {
    let world = World::new();
    shows(&world.run(["-c", "echo a | tr a b; exit 4"]).output().unwrap(), 4, "b\n", "");
    let mut command = world.run(["-c", "echo $BASH"]);
    shows(&command.env("SHELL", "/bin/bash").output().unwrap(), 0, "/bin/bash\n", "");
}

#[test]
fn busy_is_75_and_silent_for_clients_that_do_not_wait() {
    let world = World::new();
    let _holder = world.holder(&[]);
    for options in
        [vec!["-n"], vec!["--nonblock"], vec!["--no-wait"], vec!["--nb"], vec!["-w", "0"]]
    {
        shows(&world.script(&options, "echo no").output().unwrap(), 75, "", "");
    }
    for code in ["0", "9", "255"] {
        let output = world.script(&["-n", "-E", code], "echo no").output().unwrap();
        shows(&output, code.parse().unwrap(), "", "");
    }
    shows(
        &world.script(&["-n"], "").env("SEMRUN_CONFLICT_EXIT_CODE", "4").output().unwrap(),
        4,
        "",
        "",
    );
}

#[test]
fn a_wait_that_runs_out_is_75_and_leaves_the_queue() {
    let world = World::with_details();
    let _holder = world.holder(&[]);
    let started = std::time::Instant::now();
    let output = world.script(&["-w", "0.2"], "echo no").output().unwrap();
    assert!(started.elapsed() >= std::time::Duration::from_millis(200));
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(75), &b""[..]));
    let stderr = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<_> = stderr.lines().collect();
    let [start, end] = lines[..] else { panic!("{stderr}") };
    let words = " for 'x', 1st in line; held for ";
    assert!(start.starts_with("semrun: waiting ") && start.contains(words), "{start}");
    assert!(start.contains("s by sh (pid "), "{start}");
    assert_eq!(end, "semrun: gave up waiting for 'x' after 0.2s");
    assert_eq!(world.waiters(), [0; 0]);
    shows(&world.script(&["-q", "-w", "0.1"], "echo no").output().unwrap(), 75, "", "");
}

#[test]
fn no_time_is_too_long() {
    let world = World::with_details();
    let long = "99999999999h";
    let options = ["--max-attempts", "4294967295", "--retry-interval", long, "--max-runtime", long];
    shows(&world.run(options).arg("true").output().unwrap(), 0, "", "");
    let options = ["--wait", long, "--ttl", long, "--kill-after", "5", "true"];
    shows(&world.run(options).output().unwrap(), 0, "", "");
    shows(&world.run(["--min-hold", long, "true"]).output().unwrap(), 0, "", "");
    shows(&world.run(["-n", "true"]).output().unwrap(), 75, "", "");
}

#[test]
fn a_log_gets_one_line_when_the_waiting_starts_and_one_when_it_ends() {
    let world = World::with_details();
    let holder = world.holder(&["--label", "first"]);
    let waiter = world.waiter(&[], "echo ran");
    let quiet = world.waiter(&["-q"], "echo ran");
    drop(holder);
    let output = waiter.finish();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<_> = stderr.lines().collect();
    let [start, end] = lines[..] else { panic!("{stderr}") };
    assert!(start.contains("s by first (pid "), "{start}");
    assert!(end.starts_with("semrun: got 'x' after "), "{end}");
    shows(&quiet.finish(), 0, "ran\n", "");
}

/// A first process of a container that collects only its own children would keep others as zombies.
#[test]
fn a_process_that_waits_for_semrun_has_waited_for_all_of_it() {
    World::everywhere(|world| {
        let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        // What took part in the work and was waited for counts as a child of the shell.
        let script = format!("{SEMRUN} --name x -- sh -c 'echo $PPID; {busy}'; times");
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &script]).current_dir(world.path(".")).envs(world.environment());
        let output = shell.output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let [parent, _, times] = stdout.lines().collect::<Vec<_>>()[..] else { panic!("{stdout}") };
        assert!(!fs::exists(format!("/proc/{parent}")).unwrap(), "{parent} is left");
        assert!(!times.starts_with("0m0.00"), "{times}");
    });
}

#[test]
fn standard_streams_are_the_commands_own() {
    let world = World::new();
    let mut run = Running::start(world.run(["cat"]).stdin(Stdio::piped()));
    run.stdin.take().unwrap().write_all(b"in and out").unwrap();
    shows(&run.finish(), 0, "in and out", "");
    let output = world.script(&[], "echo error >&2").output().unwrap();
    shows(&output, 0, "", "error\n");
    // What was closed is closed for the command as well.
    let script = format!(
        "exec {} --name x -- sh -c 'cat; ls /proc/self/fd | head -1' <&- 2>&-",
        super::support::SEMRUN
    );
    let mut shell = std::process::Command::new("sh");
    let output = shell.args(["-c", &script]).envs(world.environment()).output().unwrap();
    // sh's cat fails on the closed descriptor, silently because standard error is closed too;
    // ls then opens its directory as the lowest free one.
    shows(&output, 0, "0\n", "");
}

#[test]
fn the_command_learns_its_permit_its_token_and_what_is_held_around_it() {
    let world = World::with_details();
    let script = "echo $SEMRUN_PERMIT; echo $SEMRUN_FENCING_TOKEN; echo $SEMRUN_HELD";
    let inner = format!(
        "echo $SEMRUN_HELD; exec {} --name 'in/ner #2' -- sh -c '{script}'",
        super::support::SEMRUN
    );
    let output = world.script(&[], &inner).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = stdout.lines().collect();
    let [outer, permit, token, held] = lines[..] else { panic!("{stdout}") };
    let (uuid, name) = permit.split_once('@').unwrap();
    assert_eq!(name, "in/ner #2");
    assert_eq!(uuid.parse::<uuid::Uuid>().unwrap().get_version_num(), 4);
    assert!(token.parse::<u64>().unwrap() > 0);
    assert_eq!(held, format!("{outer} {}#{uuid}@in/ner%20%232", world.backend()));
}

#[test]
fn tokens_grow_from_run_to_run() {
    let world = World::on_this_machine();
    let token = || -> u64 {
        let output = world.script(&[], "echo $SEMRUN_FENCING_TOKEN").output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    };
    let first = token();
    let second = token();
    assert!(second > first);
    // Also when the files are lost: they follow the clock.
    fs::remove_dir_all(world.path("permits")).unwrap();
    assert!(token() > second);
}

#[test]
fn the_permits_descriptor_is_inherited_above_those_that_scripts_use() {
    let world = World::on_this_machine();
    let script = "exec 3>&1 9>&1; ls /proc/$$/fd | sort -n | tail -1";
    let output = world.script(&[], script).output().unwrap();
    let highest: u32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    assert!(highest >= 100, "{highest}");
}

#[test]
fn the_command_has_the_original_limit_of_open_files() {
    let world = World::with_details();
    // Enough holders that semrun needs more descriptors than this to watch them.
    let holders: Vec<_> =
        (0..90).map(|_| Running::start(&mut world.run(["-l", "90", "sleep", "1000"]))).collect();
    super::support::wait_until("all hold", || world.holders().len() == 90);
    let script = format!(
        "ulimit -S -n 80; exec {} --name x -l 90 sh -c 'ulimit -n'",
        super::support::SEMRUN
    );
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &script]).envs(world.environment());
    let waiter = Running::start(shell.stdout(Stdio::piped()).stderr(Stdio::piped()));
    world.is_queued(&waiter);
    drop(holders);
    assert_eq!(waiter.finish().stdout, b"80\n");
    assert_ne!(getrlimit(Resource::Nofile).current, Some(80));
}

#[test]
fn what_was_ignored_at_the_start_stays_ignored_for_the_command() {
    let world = World::new();
    let script = "trap '' HUP INT QUIT USR1 PIPE CHLD TSTP; exec \"$@\"";
    let semrun =
        [super::support::SEMRUN, "--name", "x", "--", "grep", "SigIgn", "/proc/self/status"];
    let ignored = |command: &[&str], setup: &str| {
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", setup, "sh"]).args(command).envs(world.environment());
        let stdout = String::from_utf8(shell.output().unwrap().stdout).unwrap();
        let mask = u64::from_str_radix(stdout.split_whitespace().nth(1).unwrap(), 16).unwrap();
        // Two are the C library's own, and sending them serves no purpose.
        mask & !(1 << 31 | 1 << 32)
    };
    assert_eq!(ignored(&semrun, script), ignored(&semrun[4..], script));
    assert_eq!(ignored(&semrun, "exec \"$@\""), ignored(&semrun[4..], "exec \"$@\""));
}

#[test]
fn verbose_says_where_permits_live_and_which_one_it_holds() {
    let world = World::with_details();
    let output =
        world.script(&["-v"], "echo $SEMRUN_PERMIT $SEMRUN_FENCING_TOKEN").output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let (permit, token) = stdout.trim().split_once(' ').unwrap();
    let expected = format!(
        "semrun: permits live in {}\nsemrun: holding {permit}, fencing token {token}\nsemrun: released {permit}\n",
        world.backend()
    );
    assert_eq!(String::from_utf8(output.stderr).unwrap(), expected);
}

#[test]
fn another_limit_than_the_one_in_force_gets_a_warning_and_the_one_in_force() {
    let world = World::with_details();
    let _holder = world.holder(&["-l", "2"]);
    let output = world.script(&["-l", "5", "-n"], "echo ran").output().unwrap();
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"ran\n"[..]));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("limit 2") && stderr.contains("your limit 5"), "{stderr}");
    let _second = world.holder(&["-l", "2"]);
    let output = world.script(&["-q", "-l", "5", "-n"], "echo ran").output().unwrap();
    shows(&output, 75, "", "");
}

#[test]
fn a_name_on_the_command_line_counts_more_than_the_variable() {
    let world = World::new();
    let mut command = world.semrun(["sh", "-c", "echo $SEMRUN_PERMIT"]);
    let output = command.env("SEMRUN_NAME", "from-variable").output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().ends_with("@from-variable\n"));
    let mut command = world.run(["sh", "-c", "echo $SEMRUN_PERMIT"]);
    let output = command.env("SEMRUN_NAME", "from-variable").output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().ends_with("@x\n"));
}

#[test]
fn verbose_says_who_holds_what_is_busy_and_nothing_else_does() {
    let world = World::with_details();
    let holder = world.holder(&["--label", "nightly"]);
    shows(&world.run(["-n", "true"]).output().unwrap(), 75, "", "");
    let output = world.run(["-n", "-v", "true"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(75), "{stderr}");
    let who = format!("s by nightly (pid {}, ", holder.id());
    assert!(stderr.contains("semrun: 'x' is busy; held for ") && stderr.contains(&who), "{stderr}");
}

#[test]
fn who_waits_for_a_permit_that_is_kept_is_not_told_of_a_process_that_has_ended() {
    World::everywhere(|world| {
        let kept = ["--min-hold", "10m", "--label", "nightly", "true"];
        assert!(world.run(kept).status().unwrap().success());
        let output = world.run(["-w", "0.2", "true"]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(75), "{stderr}");
        assert!(stderr.contains("; kept for another 9m 5"), "{stderr}");
        assert!(
            stderr.contains("s (--min-hold of nightly, ") && !stderr.contains("pid"),
            "{stderr}"
        );
    });
}
