//! Many runs of one semaphore: they keep its limit and their order, and no waiter that is dead or
//! stopped holds up the others.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use super::support::{
    Leftover, Running, World, content, fails, is_alive, pid_in, shows, state, wait_until,
};

/// Notes its entry and exit, and complains if none of `limit` lock files is free: the kernel is
/// the judge of how many run at once.
fn judged(limit: u32, work: &str) -> String {
    format!(
        "for i in $(seq {limit}); do exec 9>judge.$i; flock -n 9 && judge=$i && break; done
         [ \"$judge\" ] || echo \"$SEMRUN_FENCING_TOKEN\" >> violations
         echo \"enter $1 $judge\" >> log
         {work}
         echo \"exit $1\" >> log"
    )
}

#[test]
fn thirty_runs_started_at_once_run_one_by_one_in_the_order_they_came() {
    let world = World::new();
    let holder = world.holder(&[]);
    let script = judged(1, "sleep 0.01");
    let runs: Vec<_> =
        (0..30).map(|_| Running::start(world.script(&[], &script).args(["sh", "run"]))).collect();
    wait_until("all are queued", || world.waiters().len() == 30);
    let order = world.waiters();
    drop(holder);
    let mut finished = Vec::new();
    for run in runs {
        assert!(run.finish().status.success());
    }
    assert_eq!(world.lines("violations"), [""; 0]);
    assert_eq!(world.lines("log").len(), 60);
    // In a second round each says who it is: its own semrun, above the process that started it.
    let holder = world.holder(&[]);
    let script = "cut -d ' ' -f 4 /proc/$PPID/stat >> order";
    let runs: Vec<_> = (0..30).map(|_| Running::start(&mut world.script(&[], script))).collect();
    wait_until("all are queued", || world.waiters().len() == 30);
    let expected = world.waiters();
    drop(holder);
    for run in runs {
        assert!(run.finish().status.success());
    }
    finished.extend(world.lines("order").iter().map(|pid| pid.parse::<u32>().unwrap()));
    assert_eq!(finished, expected);
    assert_eq!(order.len(), 30);
    assert_eq!(world.leftovers(), [""; 0]);
}

#[test]
fn with_a_limit_of_three_never_four_run_and_at_some_moment_three() {
    let world = World::new();
    let script = judged(3, "sleep 0.05");
    let runs: Vec<_> = (0..30)
        .map(|_| Running::start(world.script(&["-l", "3"], &script).args(["sh", "run"])))
        .collect();
    for run in runs {
        assert!(run.finish().status.success());
    }
    assert_eq!(world.lines("violations"), [""; 0]);
    let (mut running, mut most) = (0, 0);
    for line in world.lines("log") {
        running += if line.starts_with("enter") { 1 } else { -1 };
        most = most.max(running);
    }
    assert_eq!((running, most), (0, 3));
}

#[test]
fn an_idle_waiter_uses_no_processor_and_is_never_woken() {
    let world = World::new();
    let _holder = world.holder(&[]);
    let waiters: Vec<_> = (0..5).map(|_| world.waiter(&[], "")).collect();
    let switches = |waiter: &Running| {
        let status = fs::read_to_string(format!("/proc/{}/status", waiter.id())).unwrap();
        let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
        lines.map(String::from).collect::<Vec<_>>()
    };
    // Let them get to sleep: later ones may still be at the mutex.
    wait_until("all sleep", || waiters.iter().all(|waiter| state(waiter.pid()) == Some('S')));
    std::thread::sleep(Duration::from_millis(300));
    let before: Vec<_> = waiters.iter().map(switches).collect();
    std::thread::sleep(Duration::from_secs(3));
    let after: Vec<_> = waiters.iter().map(switches).collect();
    assert_eq!(before, after);
}

#[test]
fn a_killed_waiter_delays_no_other() {
    let world = World::new();
    let holder = world.holder(&[]);
    let mut waiters: Vec<_> =
        (0..6).map(|n| world.waiter(&[], &format!("echo {n} >> order"))).collect();
    for dead in [4, 3, 0] {
        let waiter = waiters.remove(dead);
        waiter.signal(Signal::KILL);
        drop(waiter);
    }
    drop(holder);
    for waiter in waiters {
        assert!(waiter.finish().status.success());
    }
    assert_eq!(world.lines("order"), ["1", "2", "5"]);
    assert_eq!(world.leftovers(), [""; 0]);
}

#[test]
fn a_killed_holders_permit_passes_on_and_its_command_dies_with_it() {
    let world = World::new();
    let holder = Running::start(&mut world.script(&[], "echo $$ > pid; exec sleep 1000"));
    let command = pid_in(&world.path("pid"));
    let waiter = world.waiter(&[], "echo ran");
    holder.signal(Signal::KILL);
    let output = waiter.finish();
    assert_eq!(output.stdout, b"ran\n");
    assert!(!is_alive(command));
    assert_eq!(world.leftovers(), [""; 0]);
}

#[test]
fn where_both_processes_die_at_once_a_descendant_that_lives_keeps_the_permit() {
    let world = World::on_this_machine();
    let script = "setsid sh -c 'echo $$ > descendant; exec sleep 1000' & echo $$ > pid; wait";
    let holder = Running::start(&mut world.script(&[], script));
    let descendant = Leftover(pid_in(&world.path("descendant")));
    let command = pid_in(&world.path("pid"));
    let waiter = world.waiter(&[], "echo ran");
    holder.kill_both();
    wait_until("the command died with semrun", || !is_alive(command));
    assert!(is_alive(descendant.0), "no process is left to kill it");
    shows(&world.script(&["-n"], "echo no").output().unwrap(), 75, "", "");
    assert_eq!(world.waiters(), [waiter.id()]);
    assert!(matches!(state(waiter.pid()), Some('S')));
    drop(descendant);
    assert_eq!(waiter.finish().stdout, b"ran\n");
    assert_eq!(world.leftovers(), [""; 0]);
}

#[test]
fn a_stopped_waiter_is_passed_over_and_takes_its_place_back() {
    let world = World::new();
    let mut holder = world.holder(&[]);
    let stopped: Vec<_> =
        ["a", "b"].map(|name| world.waiter(&[], &format!("echo {name} >> order"))).into();
    let second = world.waiter(&[], "echo second >> order; echo > second; exec sleep 1000");
    let third = world.waiter(&[], "echo third >> order");
    for waiter in &stopped {
        waiter.freeze();
    }
    holder.signal(Signal::TERM);
    holder.wait().unwrap();
    wait_until("the next one runs", || world.path("second").exists());
    // Both come back while others wait, and are before them again.
    for waiter in &stopped {
        waiter.signal(Signal::CONT);
    }
    // Waiters that were passed over are shown at their places before they have taken them back.
    let all_are_back = || world.leftovers().iter().all(|file| !file.starts_with("p."));
    wait_until("all wait in the old order", || {
        all_are_back() && world.waiters() == [stopped[0].id(), stopped[1].id(), third.id()]
    });
    second.signal(Signal::TERM);
    second.finish();
    for waiter in stopped.into_iter().chain([third]) {
        waiter.finish();
    }
    assert_eq!(world.lines("order"), ["second", "a", "b", "third"]);
    assert_eq!(world.leftovers(), [""; 0]);
}

#[test]
fn a_stopped_waiter_does_not_make_a_free_permit_busy_for_clients_that_do_not_wait() {
    let world = World::new();
    let mut holder = world.holder(&[]);
    let waiter = world.waiter(&[], "echo waited >> order");
    waiter.freeze();
    holder.signal(Signal::TERM);
    holder.wait().unwrap();
    shows(&world.script(&["-n"], "echo ran").output().unwrap(), 0, "ran\n", "");
    waiter.signal(Signal::CONT);
    assert!(waiter.finish().status.success());
}

#[test]
fn a_process_that_is_stopped_with_the_mutex_is_named_and_signals_are_obeyed_meanwhile() {
    let world = World::new();
    assert!(world.run(["true"]).status().unwrap().success());
    let mutex = world.path("permits/x/mutex");
    let mut culprit = std::process::Command::new("flock");
    culprit
        // One process, which ends with the test.
        .arg("--no-fork")
        .arg(&mutex)
        .args(["sh", "-c", "echo > locked; exec sleep 1000"])
        .current_dir(world.path("."));
    let culprit = Running::start(&mut culprit);
    content(&world.path("locked"));
    let waiter =
        Running::start(world.run(["true"]).stderr(fs::File::create(world.path("stderr")).unwrap()));
    let line = content(&world.path("stderr"));
    assert!(line.contains(&format!("process {}", culprit.id())), "{line}");
    // A client that does not want to wait is told so after a few seconds.
    let words = ["'x'", &format!("process {} keeps the files locked", culprit.id())];
    fails(&world.run(["-n", "true"]).output().unwrap(), 69, &words);
    fails(&world.semrun(["status", "x"]).output().unwrap(), 69, &words);
    waiter.signal(Signal::TERM);
    assert_eq!(waiter.finish().status.code(), Some(143));
}

#[test]
fn deleting_the_files_under_a_waiter_does_not_strand_it() {
    let world = World::new();
    let mut holder = world.holder(&[]);
    let waiter = world.waiter(&[], "echo ran");
    fs::remove_dir_all(world.path("permits")).unwrap();
    holder.signal(Signal::TERM);
    holder.wait().unwrap();
    assert_eq!(waiter.finish().stdout, b"ran\n");
    assert_eq!(world.leftovers(), [""; 0]);
}

#[test]
fn more_stopped_waiters_than_watch_are_passed_over_at_a_release() {
    let world = World::new();
    let mut holder = world.holder(&[]);
    let stopped: Vec<_> = (0..5).map(|_| world.waiter(&[], "")).collect();
    let waiter = world.waiter(&[], "echo ran");
    for one in &stopped {
        one.freeze();
    }
    holder.signal(Signal::TERM);
    holder.wait().unwrap();
    assert_eq!(waiter.finish().stdout, b"ran\n");
    for one in &stopped {
        one.signal(Signal::CONT);
    }
    for one in stopped {
        assert!(one.finish().status.success());
    }
}

#[test]
fn a_dead_waiter_does_not_hide_the_stopped_ones_behind_it() {
    let world = World::new();
    let mut holder = world.holder(&[]);
    let stopped: Vec<_> = (0..4).map(|_| world.waiter(&[], "")).collect();
    let waiter = world.waiter(&[], "echo ran");
    for one in &stopped {
        one.freeze();
    }
    stopped[0].signal(Signal::KILL);
    wait_until("it is dead", || !is_alive(stopped[0].pid()));
    holder.signal(Signal::TERM);
    holder.wait().unwrap();
    assert_eq!(waiter.finish().stdout, b"ran\n");
}

#[test]
fn after_a_killed_holder_the_next_client_wakes_waiters_after_stopped_ones() {
    let world = World::new();
    let holder = world.holder(&[]);
    let stopped: Vec<_> = (0..4).map(|_| world.waiter(&[], "")).collect();
    let waiter = world.waiter(&[], "echo ran");
    for one in &stopped {
        one.freeze();
    }
    holder.kill_both();
    wait_until("its command is dead as well", || world.holders().is_empty());
    // Does not wait, and does not go before waiters.
    shows(&world.script(&["-n"], "echo no").output().unwrap(), 75, "", "");
    assert_eq!(waiter.finish().stdout, b"ran\n");
}

#[test]
fn a_waiter_that_hangs_is_passed_over_too_and_no_waiter_spins() {
    let world = World::on_this_machine();
    // Neither stopped nor able to go on: frozen with its container.
    let script = "
        mkdir cg; mount -t cgroup2 none cg; box=cg/semrun-test-$$; mkdir $box
        export SEMRUN_BACKEND=file://$PWD/permits
        run() { $semrun -q --name x -- \"$@\"; }
        waiting() { $semrun status --json x | grep -c '\"place\"' || true; }
        run sh -c 'echo > held; while [ ! -e go ]; do sleep 0.01; done' & holder=$!
        while [ ! -e held ]; do sleep 0.01; done
        $semrun -q --name x -- sh -c 'echo hung >> order' & hung=$!
        while [ $(waiting) != 1 ]; do sleep 0.01; done
        echo $hung > $box/cgroup.procs; echo 1 > $box/cgroup.freeze
        while ! grep -q 'frozen 1' $box/cgroup.events; do sleep 0.01; done
        all=
        for i in $(seq 30); do run sh -c 'echo next >> order' & all=\"$all $!\"; done
        while [ $(waiting) != 31 ]; do sleep 0.01; done
        touch go; wait $holder
        for i in 1 2 3; do run sh -c 'echo late >> order' & all=\"$all $!\"; done
        for one in $all; do wait $one; done
        echo left $(waiting); echo 0 > $box/cgroup.freeze; wait $hung; uniq -c order
        rmdir $box; umount cg";
    let output = world.with_mounts(script);
    let stdout = String::from_utf8(output.stdout).unwrap();
    let words: Vec<_> = stdout.split_whitespace().collect();
    // No waiter overtakes another, and the one that hung finds its turn when it can go on.
    let expected = ["left", "1", "30", "next", "3", "late", "1", "hung"];
    assert_eq!(words, expected, "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_process_that_hangs_does_not_keep_the_mutex_that_a_thread_of_its_got() {
    let world = World::on_this_machine();
    // Waits for the mutex with a thread, and hangs when it wants to say so: its standard error is
    // on a file system that has gone away.
    let script = "
        mkdir real view; bindfs -f real view & server=$!
        while ! mountpoint -q view; do sleep 0.01; done
        export SEMRUN_BACKEND=file://$PWD/permits
        $semrun --name x -- true; exec 8< permits/x/mutex; flock 8
        $semrun --name x -- true 2> view/log & hung=$!
        while [ $(ls /proc/$hung/task | wc -l) != 2 ]; do sleep 0.01; done
        kill -STOP $server
        while ! grep -q request_wait /proc/$hung/wchan; do sleep 0.01; done
        flock -u 8; exec 8<&-; $semrun -q --name x -- echo ran
        kill -CONT $server; wait $hung; echo done
        umount view; wait";
    let output = world.with_mounts(script);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ran\ndone\n", "{stderr}");
}

/// A permit that is held until there is a file `go`, on a disk that `fill` fills, and then that script.
fn held_on_a_small_disk(script: &str) -> String {
    let held = "
        mkdir disk; mount -t tmpfs -o nr_inodes=40 none disk; chmod 700 disk
        export SEMRUN_BACKEND=file://$PWD/disk
        fill() { i=0; while touch disk/$i 2>/dev/null; do i=$((i+1)); done; }
        $semrun --name x -- sh -c 'echo > held; while [ ! -e go ]; do sleep 0.02; done' &
        while [ ! -e held ]; do sleep 0.02; done";
    format!("{held}{script}")
}

#[test]
fn a_full_disk_does_not_throw_waiters_out_of_the_queue() {
    let world = World::new();
    let script = "
        $semrun --name x -- echo waited 2>said & waiter=$!
        while ! grep -q waiting said; do sleep 0.02; done
        fill
        touch go
        # Nearly always: the files of the holder may be gone first, and make room.
        for i in $(seq 100); do grep -q 'retrying: No space left' said && break; sleep 0.02; done
        rm disk/[0-9]*; wait $waiter";
    let output = world.with_mounts(&held_on_a_small_disk(script));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "waited\n", "{output:?}");
}

#[test]
fn a_full_disk_does_not_cost_the_first_in_line_its_turn() {
    let world = World::new();
    let script = "
        for i in 1 2; do
            $semrun --name x -- echo $i 2>said.$i &
            while ! grep -q waiting said.$i; do sleep 0.02; done
        done
        fill
        $semrun limit x 2 >&2
        while ! grep -q 'retrying: No space left' said.1; do sleep 0.02; done
        # The second one would pass over one before it that does not hear, and try for itself.
        for i in $(seq 60); do ! grep 'retrying' said.2 || break; sleep 0.05; done
        rm disk/[0-9]*; while ! grep -q got said.2; do sleep 0.02; done; touch go; wait";
    let output = world.with_mounts(&held_on_a_small_disk(script));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n2\n", "{output:?}");
}
