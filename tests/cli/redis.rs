use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use super::faults::{OPTIONS, TTL, worker};
use super::outages::lease_left;
use super::redis_server::RedisServer;
use super::support::{
    Leftover, Running, World, content, fails, is_alive, pid_in, shows, wait_until,
};

#[test]
fn it_shares_the_set_that_passbuddy_keeps() {
    let world = World::in_redis();
    let run = Running::start(&mut world.script(
        &["--prefix", "passbuddy", "-l", "3"],
        "echo $SEMRUN_PERMIT > permit; exec sleep 1000",
    ));
    let permit = content(&world.path("permit"));
    let (id, name) = permit.split_once('@').unwrap();
    assert_eq!(name, "x");
    let score: i64 = world.server().ask(&["ZSCORE", "passbuddy-x", id]);
    let (seconds, _): (i64, i64) = world.server().ask(&["TIME"]);
    let left = score - seconds * 1000;
    assert!((25_000..=31_000).contains(&left), "{left}");
    run.signal(Signal::TERM);
    run.finish();
    let members: i64 = world.server().ask(&["ZCARD", "passbuddy-x"]);
    assert_eq!(members, 0);
}

#[test]
fn a_lease_is_renewed_for_as_long_as_the_command_runs() {
    let world = World::in_redis();
    let run = Running::start(&mut world.script(&OPTIONS, "sleep 7; echo done"));
    wait_until("it holds", || world.holders() == [run.id()]);
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(6) {
        assert!(lease_left(&world) > 1_000, "renewed well before its end");
        std::thread::sleep(Duration::from_millis(50));
    }
    shows(&run.finish(), 0, "done\n", "");
}

#[test]
fn an_idle_waiter_asks_once_in_five_seconds() {
    let world = World::in_redis();
    let _holder = world.holder(&["--ttl", "60s"]);
    let waiters: Vec<_> = (0..3).map(|_| world.waiter(&["--ttl", "60s"], "")).collect();
    let asked = || -> u64 {
        let stats: String = world.server().ask(&["INFO", "commandstats"]);
        let calls = |name: &str| {
            let line = stats.lines().find_map(|line| line.strip_prefix(name)?.split_once("calls="));
            line.map_or(0, |(_, rest)| rest.split(',').next().unwrap().parse().unwrap())
        };
        ["cmdstat_evalsha:", "cmdstat_eval:", "cmdstat_blpop:"].into_iter().map(calls).sum()
    };
    std::thread::sleep(Duration::from_millis(500));
    let before = asked();
    std::thread::sleep(Duration::from_secs(16));
    let each = (asked() - before) / waiters.len() as u64;
    assert!(each <= 16 / 5, "{each} commands in 16 s");
}

#[test]
fn two_hundred_waiters_are_served_in_the_order_they_came() {
    const WAITERS: usize = 200;
    let world = World::in_redis();
    let holder = world.holder(&[]);
    let script = "echo $SEMRUN_PERMIT >> order";
    let mut runs = Vec::new();
    for _ in 0..WAITERS {
        runs.push(Running::start(&mut world.script(&["-q"], script)));
    }
    let waiting =
        || -> Vec<String> { world.server().ask(&["ZRANGE", "{semrun-x}:queue", "0", "-1"]) };
    wait_until("all are queued", || waiting().len() == WAITERS);
    let expected: Vec<_> = waiting().iter().map(|id| format!("{id}@x")).collect();
    holder.signal(Signal::TERM);
    for run in runs {
        shows(&run.finish(), 0, "", "");
    }
    assert_eq!(world.lines("order"), expected);
}

#[test]
fn another_ttl_is_warned_of_and_an_error_if_it_has_to_be_the_same() {
    let world = World::in_redis();
    let _holder = world.holder(&["--ttl", "10s", "-l", "2"]);
    let output = world.script(&["-l", "2", "--ttl", "7s"], "").output().unwrap();
    let warning = "semrun: warning: 'x' is in use with a TTL of 10s, which counts until it is \
                   idle; not the 7s asked for\n";
    shows(&output, 0, "", warning);
    let strict = ["-l", "2", "--ttl", "7s", "--strict-limit"];
    let output = world.script(&strict, "echo no").output().unwrap();
    fails(&output, 78, &["a limit of 2 and a TTL of 10s", "--strict-limit"]);
    assert_eq!(world.waiters(), [0; 0]);
}

#[test]
fn max_attempts_bound_the_waiting_as_passbuddy_does() {
    let world = World::in_redis();
    let _holder = world.holder(&[]);
    let started = Instant::now();
    let options = ["-q", "--max-attempts", "5", "--retry-interval", "200ms"];
    shows(&world.script(&options, "echo no").output().unwrap(), 75, "", "");
    let waited = started.elapsed();
    assert!(waited >= Duration::from_secs(1) && waited < Duration::from_secs(5), "{waited:?}");
    shows(&world.script(&["--max-attempts", "0"], "echo no").output().unwrap(), 75, "", "");
}

#[test]
fn status_lists_what_is_under_the_prefix_and_shows_leases_tokens_and_foreign_holders() {
    let world = World::in_redis();
    let _holder = world.holder(&["-l", "2"]);
    let write = |words: &[&str]| world.server().ask::<redis::Value>(words);
    write(&["ZADD", "semrun-theirs", "9999999999999", "33333333-3333-4333-8333-333333333333"]);
    write(&["ZADD", "semrun*-other", "9999999999999", "33333333-3333-4333-8333-333333333333"]);
    write(&["SET", "semrun-no-semaphore", "1"]);
    let _: i64 = world.server().ask(&["ZADD", "semrun-x", "9999999999999", "f0"]);
    let status = |arguments: &[&str]| {
        let output = world.semrun([&["status"], arguments].concat()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, table) = status(&["-v"]);
    let headings: Vec<_> = table.lines().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(headings, ["theirs: 1 of 1 held, 0 waiting", "x: 2 of 2 held, 0 waiting"]);
    assert_eq!(code, Some(75));
    assert!(table.contains("TOKEN") && table.contains("LEASE LEFT"), "{table}");
    assert!(table.contains("  33333333-3333-4333-8333-333333333333@"), "{table}");
    assert_eq!(status(&["theirs", "-l", "2"]).0, Some(0));
    assert_eq!(status(&["theirs"]).0, Some(75));
    let document = world.status();
    let holders = document["semaphores"][0]["holders"].as_array().unwrap();
    assert!(holders[0]["lease_left_ms"].as_u64().unwrap() > 20_000);
    assert_eq!((&holders[0]["foreign"], &holders[1]["foreign"]), (&false.into(), &true.into()));
    assert_eq!(holders[1]["permit"], "f0@x");
}

#[test]
fn names_that_would_be_code_elsewhere_are_just_names() {
    let world = World::in_redis();
    for name in ["'; return 1 --", "\")", "a\\b", "$(id)", "*", "日本"] {
        let script = "printf %s \"$SEMRUN_PERMIT\"";
        let mut run = world.semrun(["--name", name, "--prefix", "it's", "--", "sh", "-c", script]);
        let output = run.output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert!(stdout.ends_with(&format!("@{name}")), "{stdout}");
    }
    let run = world.semrun(["--name", "a{b}", "true"]).output().unwrap();
    fails(&run, 64, &["braces"]);
}

#[test]
fn nothing_that_is_said_on_either_side_holds_a_secret() {
    let world = World::in_server(RedisServer::with(&["--requirepass", "geheim"]));
    let url = |password: &str| format!("redis://:{password}@127.0.0.1:{}", world.server().port());
    let right =
        world.run(["-v", "--backend", &url("geheim"), "--", "sh", "-c", "env"]).output().unwrap();
    assert_eq!(right.status.code(), Some(0));
    let said = [right.stdout, right.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("redis://:***@127.0.0.1") && !said.contains("geheim"), "{said}");
    for wrong in ["falsch", ""] {
        let mut run = world.run(["echo", "no"]);
        let output = run.env("SEMRUN_BACKEND", url(wrong)).output().unwrap();
        fails(&output, 69, &["password"]);
        assert!(!String::from_utf8_lossy(&output.stderr).contains("falsch"));
    }
    // A password from elsewhere.
    let plain = format!("redis://127.0.0.1:{}", world.server().port());
    let mut run = world.run(["--backend", &plain, "true"]);
    assert_eq!(run.env("SEMRUN_PASSWORD", "geheim").status().unwrap().code(), Some(0));
    let file = world.path("password");
    fs::write(&file, "geheim\nmore\n").unwrap();
    let mut run =
        world.run(["--backend", &plain, "--password-file", file.to_str().unwrap(), "true"]);
    shows_refused(&run.output().unwrap());
    chmod(&file, "600");
    assert_eq!(run.status().unwrap().code(), Some(0));
    assert_eq!(run.env("SEMRUN_PASSWORD", "falsch").status().unwrap().code(), Some(0));
    let mut status = world.semrun(["status", "--backend", &plain]);
    status.arg("--password-file").arg(&file);
    assert_eq!(status.status().unwrap().code(), Some(0));
}

fn shows_refused(output: &std::process::Output) {
    fails(output, 78, &["every user of this machine can read it"]);
}

fn chmod(file: &std::path::Path, mode: &str) {
    assert!(Command::new("chmod").arg(mode).arg(file).status().unwrap().success());
}

#[test]
fn a_server_that_will_not_do_is_one_line_and_the_command_never_starts() {
    let world = World::in_redis();
    let never = |what: &mut Command, code: i32, words: &[&str]| {
        let output = what.args(["--", "sh", "-c", "echo > started"]).output().unwrap();
        fails(&output, code, words);
        assert!(!world.path("started").exists());
    };
    // Another program's key.
    let _: String = world.server().ask(&["SET", "semrun-x", "1"]);
    never(&mut world.run([""; 0]), 69, &["holds something that is not a semaphore"]);
    // One that throws permits away.
    for policy in ["allkeys-lru", "volatile-ttl"] {
        let _: String = world.server().ask(&["CONFIG", "SET", "maxmemory-policy", policy]);
        let _: String = world.server().ask(&["CONFIG", "SET", "maxmemory", "100mb"]);
        never(&mut world.semrun(["--name", "y"]), 69, &["evict", policy, "--allow-eviction"]);
    }
    let run = world.semrun(["--name", "y", "--allow-eviction", "true"]).output().unwrap();
    shows(&run, 0, "", "");
    // No server there: retried for a while, but not longer than the user wants to wait.
    let started = Instant::now();
    let nowhere = ["--backend", "redis://127.0.0.1:1", "-w", "0.5"];
    never(&mut world.run(nowhere), 69, &["127.0.0.1:1", "Connection refused"]);
    assert!(started.elapsed() < Duration::from_secs(4));
    let started = Instant::now();
    never(&mut world.run(["--backend", "redis://127.0.0.1:1"]), 69, &["Connection refused"]);
    let tried = started.elapsed();
    assert!(tried > Duration::from_secs(3) && tried < Duration::from_secs(10), "{tried:?}");
    never(&mut world.run(["--backend", "redis://no.invalid", "-n"]), 69, &["no.invalid"]);
    let missing = format!("redis+unix://{}", world.path("missing.sock").display());
    never(&mut world.run(["--backend", &missing, "-n"]), 69, &["No such file"]);
    never(&mut world.run(["--backend", &format!("{}/99", world.backend())]), 69, &["no database"]);
}

#[test]
fn a_socket_and_another_database_work_as_well() {
    let directory = tempfile::TempDir::new().unwrap();
    let socket = directory.path().join("redis.sock");
    let server = RedisServer::with(&["--unixsocket", socket.to_str().unwrap()]);
    let world = World::in_server(server);
    let url = format!("redis+unix://{}?db=3", socket.display());
    let held = ["--backend", &url];
    let holder = Running::start(&mut world.script(&held, "echo > ready; exec sleep 1000"));
    content(&world.path("ready"));
    assert_eq!(world.holders(), [0; 0], "in another database");
    let third = format!("{}/3", world.backend());
    let output = world.run(["--backend", &third, "-n", "true"]).output().unwrap();
    shows(&output, 75, "", "");
    drop(holder);
}

#[test]
fn a_nested_run_goes_ahead_under_the_permit_around_it() {
    let world = World::in_redis();
    let semrun = super::support::SEMRUN;
    // x, then y, then x again: the innermost has x's permit and token, and takes none.
    let script = format!(
        "echo $SEMRUN_PERMIT $SEMRUN_FENCING_TOKEN > outer
         {semrun} --name y -- sh -c '
           echo $SEMRUN_HELD | wc -w
           {semrun} --name x -n -v -- sh -c \"
              echo \\$SEMRUN_PERMIT \\$SEMRUN_FENCING_TOKEN
              redis-cli -p {port} ZCARD semrun-x; redis-cli -p {port} ZCARD semrun-y
              exit 7\"'",
        port = world.server().port()
    );
    let output = world.script(&[], &script).output().unwrap();
    let outer = content(&world.path("outer"));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        format!("2\n{outer}\n1\n1\n"),
        "{stderr}"
    );
    assert_eq!(output.status.code(), Some(7));
    assert!(stderr.contains("going ahead under"), "{stderr}");
}

#[test]
fn a_nested_run_acquires_as_usual_where_the_permit_around_it_is_gone() {
    let world = World::in_redis();
    let permit = "33333333-3333-4333-8333-333333333333@x";
    let mut run = world.script(&["-n"], "echo $SEMRUN_PERMIT");
    let output = run.env("SEMRUN_HELD", format!("{}#{permit}", world.backend())).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.trim_end().ends_with("@x") && !stdout.contains(permit), "{stdout}");
}

#[test]
fn a_nested_run_does_not_wait_for_its_own_parent_when_the_server_forgot_that() {
    let mut world = World::in_redis();
    let options = ["--ttl", TTL, "--quarantine", "3s"];
    let semrun = super::support::SEMRUN;
    let script = format!(
        "echo > ready; while [ ! -e go ]; do sleep 0.02; done
         {semrun} --name x -q --ttl {TTL} --quarantine 3s -- echo inner"
    );
    let outer = Running::start(&mut world.script(&options, &script));
    content(&world.path("ready"));
    let server = world.redis.as_mut().unwrap();
    server.kill();
    server.start_again();
    fs::write(world.path("go"), "").unwrap();
    let output = outer.finish();
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"inner\n"[..]));
}

#[test]
fn a_waiter_that_is_killed_leaves_the_queue() {
    for visible in [true, false] {
        let world = World::in_redis();
        let _holder = world.holder(&[]);
        let waiter = world.waiter(&[], "echo no");
        let victim = if visible { waiter.pid() } else { worker(&waiter) };
        kill_process(victim, Signal::KILL).unwrap();
        wait_until("it has left", || world.waiters().is_empty());
        let _ = waiter.finish();
    }
}

#[test]
fn what_a_command_leaves_running_is_left_and_the_permit_is_free() {
    let world = World::in_redis();
    let script = "(setsid sh -c 'echo $$ > daemon; exec sleep 1000' &); while [ ! -s daemon ]; do sleep 0.01; done";
    shows(&Running::start(&mut world.script(&[], script)).finish(), 0, "", "");
    let daemon = Leftover(pid_in(&world.path("daemon")));
    assert!(is_alive(daemon.0));
    shows(&world.script(&["-n"], "").output().unwrap(), 0, "", "");
}

#[test]
fn the_command_inherits_no_descriptor_of_semruns() {
    let world = World::in_redis();
    let listing = |command: &mut Command| {
        let output = command.output().unwrap();
        let mut files: Vec<String> =
            String::from_utf8(output.stdout).unwrap().lines().map(String::from).collect();
        files.sort();
        files
    };
    let mut plain = Command::new("ls");
    let mut run = world.run(["--", "ls", "/proc/self/fd"]);
    assert_eq!(listing(&mut run), listing(plain.arg("/proc/self/fd")));
}
