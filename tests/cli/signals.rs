//! Signals in every phase of a run: the whole tree ends, and semrun ends as the command did.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use super::support::{
    Leftover, Running, World, children, content, died_of, is_alive, pid_in, pids_of_children,
    shows, state, wait_until,
};

/// A command with a child, a grandchild in another session, and a daemon that forked twice; each
/// writes its pid to a file and ends only when it is killed, or by a signal unless `stubborn`.
fn family(stubborn: bool) -> String {
    let trap = if stubborn { "trap '' TERM INT HUP; " } else { "" };
    let member =
        |name: &str| format!("sh -c \"{trap}echo \\$\\$ > {name}; while :; do sleep 0.05; done\"");
    format!(
        "{trap}{} & setsid {} & (setsid {} &) ; echo $$ > command; while :; do sleep 0.05; done",
        member("child"),
        member("session"),
        member("daemon"),
    )
}

fn members(world: &World) -> Vec<Pid> {
    ["command", "child", "session", "daemon"].map(|file| pid_in(&world.path(file))).into()
}

/// Processes of this test that are left, by their working directory.
fn left_in(directory: &Path) -> Vec<String> {
    let here = directory.canonicalize().unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let ours = processes
        .filter(|process| fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == here));
    ours.map(|process| fs::read_to_string(process.path().join("cmdline")).unwrap_or_default())
        .collect()
}

#[test]
fn a_signal_ends_the_waiting_with_128_and_its_number_and_gives_the_place_up() {
    let world = World::new();
    let _holder = world.holder(&[]);
    for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT, Signal::USR1, Signal::USR2]
    {
        let waiter = world.waiter(&["-q"], "echo no");
        waiter.signal(signal);
        shows(&waiter.finish(), 128 + signal.as_raw(), "", "");
        assert_eq!(world.waiters(), [0; 0]);
    }
}

#[test]
fn a_log_is_told_which_signal_ended_the_waiting() {
    let world = World::new();
    let _holder = world.holder(&[]);
    let waiter = world.waiter(&[], "echo no");
    waiter.signal(Signal::TERM);
    let stderr = String::from_utf8(waiter.finish().stderr).unwrap();
    assert!(
        stderr.contains("stopped waiting for 'x' after ") && stderr.ends_with("(SIGTERM)\n"),
        "{stderr}"
    );
}

#[test]
fn term_ends_the_whole_tree_before_semrun_ends() {
    for signal in [Signal::TERM, Signal::HUP] {
        let world = World::new();
        let run = Running::start(&mut world.script(&[], &family(false)));
        let members = members(&world);
        run.signal(signal);
        died_of(&run.finish(), signal);
        assert!(!members.iter().any(|pid| is_alive(*pid)));
        assert_eq!(left_in(&world.path(".")), [""; 0]);
        assert_eq!(world.leftovers(), [""; 0]);
    }
}

#[test]
fn a_tree_that_ignores_the_signal_is_killed_after_the_grace_time() {
    let world = World::new();
    let run = Running::start(&mut world.script(&["-k", "0.3"], &family(true)));
    let members = members(&world);
    let waiter = world.waiter(&["-q"], "echo next");
    run.signal(Signal::TERM);
    run.signal(Signal::TERM);
    // Killed, and not by the signal that semrun got. A shell may have the time to say who else was.
    let run = run.finish();
    assert_eq!((run.status.code(), &run.stdout[..]), (Some(137), &b""[..]));
    assert!(!members.iter().any(|pid| is_alive(*pid)));
    shows(&waiter.finish(), 0, "next\n", "");
    assert_eq!(left_in(&world.path(".")), [""; 0]);
}

#[test]
fn a_command_that_ends_well_when_it_is_told_to_has_its_own_code() {
    let world = World::new();
    let script = "trap 'echo cleaned; exit 5' TERM; echo > ready; while :; do sleep 0.05; done";
    let run = Running::start(&mut world.script(&[], script));
    content(&world.path("ready"));
    run.signal(Signal::TERM);
    let output = run.finish();
    // Standard error has what the shell says of its sleep.
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(5), &b"cleaned\n"[..]));
}

#[test]
fn other_signals_are_forwarded_and_the_command_decides() {
    let world = World::new();
    let script = "
        for signal in INT QUIT USR1 USR2 WINCH; do trap \"echo $signal >> got\" $signal; done
        trap 'exit 9' HUP
        echo > ready; while :; do sleep 0.02; done";
    let run = Running::start(&mut world.script(&[], script));
    content(&world.path("ready"));
    let signals = [Signal::INT, Signal::QUIT, Signal::USR1, Signal::USR2, Signal::WINCH];
    for (count, signal) in signals.into_iter().enumerate() {
        run.signal(signal);
        wait_until("the command has it", || world.lines("got").len() == count + 1);
    }
    assert_eq!(world.lines("got"), ["INT", "QUIT", "USR1", "USR2", "WINCH"]);
    run.signal(Signal::HUP);
    assert_eq!(run.finish().status.code(), Some(9));
}

#[test]
fn semrun_dies_of_the_signal_that_it_passed_on_and_that_ended_the_command() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT] {
        let world = World::new();
        let script = "ulimit -c 0; echo > ready; exec sleep 1000";
        let run = Running::start(&mut world.script(&[], script));
        content(&world.path("ready"));
        wait_until("the shell is sleep", || {
            let command = world.path("ready");
            command.exists() && children_of(run.pid()).iter().any(|name| name == "sleep")
        });
        run.signal(signal);
        died_of(&run.finish(), signal);
    }
}

/// The names of the processes that a semrun has started: where it is two, the other one has.
fn children_of(semrun: Pid) -> Vec<String> {
    let mut found = children(semrun);
    if let [(worker, name)] = &found[..]
        && name == "semrun"
    {
        found = children(*worker);
    }
    found.into_iter().map(|(_, name)| name).collect()
}

#[test]
fn nohup_keeps_its_meaning() {
    let world = World::with_details();
    let script = format!(
        "trap '' HUP; exec {} --name x -- sh -c 'echo > ready; while [ ! -e go ]; do sleep 0.02; done; echo survived'",
        super::support::SEMRUN
    );
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &script]).current_dir(world.path(".")).envs(world.environment());
    let run = Running::start(
        shell.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()),
    );
    content(&world.path("ready"));
    let command: Vec<_> = world.holders();
    run.signal(Signal::HUP);
    assert_eq!(command, [run.id()]);
    fs::write(world.path("go"), "").unwrap();
    shows(&run.finish(), 0, "survived\n", "");
}

#[test]
fn orphans_are_left_waited_for_or_killed_as_chosen() {
    let script = "(setsid sh -c 'echo $$ > daemon; while [ ! -e go ]; do sleep 0.02; done; echo > done' &) ; while [ ! -s daemon ]; do sleep 0.01; done; exit 3";
    // Left alone: semrun ends with the command, the permit is free, the daemon goes on.
    let world = World::new();
    shows(&Running::start(&mut world.script(&[], script)).finish(), 3, "", "");
    let daemon = Leftover(pid_in(&world.path("daemon")));
    assert!(is_alive(daemon.0));
    shows(&world.run(["-n", "true"]).output().unwrap(), 0, "", "");
    fs::write(world.path("go"), "").unwrap();
    content(&world.path("done"));

    // Waited for: the permit stays taken until the last of them has ended.
    let world = World::new();
    let run = Running::start(&mut world.script(&["--orphans", "wait"], script));
    let daemon = Leftover(pid_in(&world.path("daemon")));
    wait_until("the command has ended", || children_of(run.pid()) == ["sh"]);
    shows(&world.run(["-n", "true"]).output().unwrap(), 75, "", "");
    fs::write(world.path("go"), "").unwrap();
    shows(&run.finish(), 3, "", "");
    assert!(!is_alive(daemon.0));

    // Killed: nothing is left, and the code is the command's.
    let world = World::new();
    let run = Running::start(&mut world.script(&["--orphans", "kill"], script));
    shows(&run.finish(), 3, "", "");
    assert!(!is_alive(pid_in(&world.path("daemon"))));
}

#[test]
fn waiting_for_orphans_ends_with_term() {
    let world = World::new();
    let script = "(setsid sh -c 'echo $$ > daemon; exec sleep 1000' &) ; while [ ! -s daemon ]; do sleep 0.01; done";
    let run = Running::start(&mut world.script(&["--orphans", "wait"], script));
    let daemon = pid_in(&world.path("daemon"));
    wait_until("only the daemon is left", || children_of(run.pid()) == ["sleep"]);
    run.signal(Signal::TERM);
    shows(&run.finish(), 0, "", "semrun: got SIGTERM, stopping the command\n");
    assert!(!is_alive(daemon));
}

#[test]
fn a_stopped_command_can_be_ended() {
    let world = World::new();
    let run = Running::start(&mut world.script(&[], "echo $$ > command; exec sleep 1000"));
    let command = pid_in(&world.path("command"));
    kill_process(command, Signal::STOP).unwrap();
    wait_until("it is stopped", || state(command) == Some('T'));
    // Frozen from outside: that is no end, and the permit stays taken.
    shows(&world.run(["-n", "true"]).output().unwrap(), 75, "", "");
    run.signal(Signal::TERM);
    died_of(&run.finish(), Signal::TERM);
}

#[test]
fn the_signal_that_stops_orphans_can_be_chosen() {
    let world = World::new();
    let script = "(setsid sh -c 'trap \"echo hup > got; exit\" HUP; echo $$ > daemon; while :; do sleep 0.02; done' &) ; while [ ! -s daemon ]; do sleep 0.01; done";
    let run = Running::start(&mut world.script(&["--orphans", "kill", "-s", "HUP"], script));
    shows(&run.finish(), 0, "", "");
    assert_eq!(content(&world.path("got")), "hup");
}

#[test]
fn children_that_semrun_was_started_with_are_not_the_commands() {
    let world = World::new();
    let script = format!(
        "sleep 1000 & echo $! > stranger; exec {} --name x -c 'echo > ready; exec sleep 1000'",
        super::support::SEMRUN
    );
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &script]).current_dir(world.path(".")).envs(world.environment());
    let run = Running::start(&mut shell);
    let stranger = Leftover(pid_in(&world.path("stranger")));
    content(&world.path("ready"));
    run.signal(Signal::TERM);
    died_of(&run.finish(), Signal::TERM);
    assert!(is_alive(stranger.0));
}

#[test]
fn children_that_semrun_was_started_with_are_collected_whatever_it_does() {
    // One has ended before semrun begins, of which the kernel tells only once; one lives.
    const EXEC_WITH_CHILDREN: &str = "import os, sys
os.fork() or os._exit(0)
os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
if os.fork() == 0:
    open(sys.argv[1], 'w').write(f'{os.getpid()}\\n')
    os.execvp('sleep', ['sleep', '1000'])
os.execv(sys.argv[2], sys.argv[2:])";
    let world = World::new();
    let with_children = |name: &str, arguments: &[&str]| {
        let stranger = world.path(name);
        let mut python = std::process::Command::new("python3");
        python.args(["-c", EXEC_WITH_CHILDREN]).arg(&stranger);
        python.arg(super::support::SEMRUN).args(arguments);
        let run = Running::start(python.current_dir(world.path(".")).envs(world.environment()));
        (run, Leftover(pid_in(&stranger)))
    };
    let command = "echo > ready; exec sleep 1000";
    let holder = with_children("of the holder", &["--name", "x", "-c", command]);
    content(&world.path("ready"));
    let waiter = with_children("of the waiter", &["--name", "x", "-c", command]);
    world.is_queued(&waiter.0);
    let server = with_children("of the server", &["serve", "--listen", "127.0.0.1:0"]);
    for (run, stranger) in [holder, waiter, server] {
        let zombie = |pid: &Pid| state(*pid) == Some('Z');
        let zombies = || pids_of_children(run.pid()).iter().filter(|pid| zombie(pid)).count();
        wait_until("what ended before is collected", || zombies() == 0);
        kill_process(stranger.0, Signal::KILL).unwrap();
        wait_until("what ends later is collected", || !is_alive(stranger.0) && zombies() == 0);
        assert!(is_alive(run.pid()), "it has ended itself");
        run.signal(Signal::TERM);
        run.finish();
    }
}

#[test]
fn in_the_foreground_a_signal_to_the_whole_group_ends_semrun_as_it_ended_the_command() {
    use std::os::unix::process::CommandExt;
    for signal in [Signal::INT, Signal::TERM] {
        for _ in 0..5 {
            let world = World::new();
            let mut run = world.script(&["--foreground"], "echo > ready; exec sleep 1000");
            let run = Running::start(run.process_group(0));
            content(&world.path("ready"));
            rustix::process::kill_process_group(run.pid(), signal).unwrap();
            died_of(&run.finish(), signal);
        }
    }
}

#[test]
fn in_the_foreground_the_command_shares_semruns_process_group() {
    // A group of its own: the kernel hangs up one that has a stopped member, another test's say, when
    // such a command ends.
    use std::os::unix::process::CommandExt;
    let world = World::new();
    for (options, same) in [(&["--foreground"][..], true), (&[], false)] {
        let mut run = world.script(options, "ps -o pgid= -p $$");
        let run = Running::start(run.process_group(0));
        let group = run.pid().as_raw_nonzero().to_string();
        let stdout = String::from_utf8(run.finish().stdout).unwrap();
        assert_eq!(stdout.trim() == group, same, "{stdout}");
    }
    let mut run = world.script(&["--foreground"], &family(false));
    let run = Running::start(run.process_group(0));
    let members = members(&world);
    run.signal(Signal::TERM);
    died_of(&run.finish(), Signal::TERM);
    assert!(!members.iter().any(|pid| is_alive(*pid)));
}

#[test]
fn signals_that_were_blocked_at_the_start_are_heard_and_blocked_for_the_command() {
    let world = World::with_details();
    let start = |command: &[&str]| {
        let script = "import signal, os, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1])
os.execv(sys.argv[1], sys.argv[1:])";
        let mut block = std::process::Command::new("python3");
        block.args(["-c", script, super::support::SEMRUN, "--name", "x", "-k", "0.3", "--"]);
        block.args(command).envs(world.environment());
        Running::start(block.stdout(std::process::Stdio::piped()))
    };
    let output = start(&["grep", "SigBlk", "/proc/self/status"]).finish();
    assert_eq!(output.stdout, b"SigBlk:\t0000000000014200\n");
    let run = start(&["sleep", "1000"]);
    wait_until("the command runs", || {
        world.holders() == [run.id()] && children_of(run.pid()) == ["sleep"]
    });
    run.signal(Signal::TERM);
    // The command cannot hear that, and is killed after the grace time.
    assert_eq!(run.finish().status.code(), Some(137));
}

#[test]
fn the_first_process_of_a_container_ends_with_a_code() {
    let world = World::new();
    let script = format!(
        "mount -t proc proc /proc; exec {} --name x -- sh -c 'echo > ready; exec sleep 1000'",
        super::support::SEMRUN
    );
    let mut unshare = semrun_testkit::root::as_root("unshare");
    unshare.args(["--pid", "--mount", "--fork", "--kill-child", "sh", "-c", &script]);
    unshare.current_dir(world.path(".")).envs(world.environment());
    // In our process group, which has no number in there.
    let run = Running::start(&mut unshare);
    content(&world.path("ready"));
    kill_process(pids_of_children(run.pid())[0], Signal::TERM).unwrap();
    assert_eq!(run.finish().status.code(), Some(143));
}

#[test]
fn a_signal_that_came_through_semrun_is_not_spread_to_its_group() {
    let world = World::new();
    let script = format!(
        "trap 'echo spread' INT; timeout --foreground -s INT 0.3 {} --name x -- sleep 1000; echo $?",
        super::support::SEMRUN
    );
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &script]).envs(world.environment());
    shows(&shell.output().unwrap(), 0, "124\n", "");
}

#[test]
fn why_a_command_is_stopped_is_said_in_one_line() {
    for (options, signal, said) in [
        (&[][..], Signal::TERM, "semrun: got SIGTERM, stopping the command\n"),
        (&[], Signal::HUP, "semrun: got SIGHUP, stopping the command\n"),
        (&["-q"], Signal::TERM, ""),
        // The command decides what it does about it.
        (&[], Signal::INT, ""),
    ] {
        let world = World::new();
        let script = "echo $$ > command; exec sleep 1000";
        let run = Running::start(&mut world.script(options, script));
        content(&world.path("command"));
        run.signal(signal);
        let output = run.finish();
        died_of(&output, signal);
        assert_eq!(String::from_utf8_lossy(&output.stderr), said, "{options:?} {signal:?}");
    }
}
