use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::redis_server::RedisServer;
use super::support::{
    Leftover, Running, World, children, content, fails, is_alive, pid_in, shows, wait_until,
};

/// The shortest lease, which makes tests short.
const TTL: &str = "5s";
const OPTIONS: [&str; 2] = ["--ttl", TTL];

/// A command whose tree is hard to get rid of: a child, one in another session, and a daemon that
/// forked twice. All note their pids and ignore SIGTERM.
fn stubborn_family() -> String {
    let member = |name: &str| {
        format!("sh -c \"trap '' TERM HUP; echo \\$\\$ > {name}; while :; do sleep 0.05; done\"")
    };
    format!(
        "trap '' TERM HUP; {} & setsid {} & (setsid {} &) ; echo $$ > command; while :; do sleep 0.05; done",
        member("child"),
        member("session"),
        member("daemon"),
    )
}

fn family(world: &World) -> Vec<Pid> {
    ["command", "child", "session", "daemon"].map(|file| pid_in(&world.path(file))).into()
}

/// The second of the two processes of a semrun.
fn worker(semrun: &Running) -> Pid {
    let found = children(semrun.pid());
    let [(worker, name)] = &found[..] else { panic!("{found:?}") };
    assert_eq!(name, "semrun");
    *worker
}

/// What is left of the lease of the only holder, by the server's clock; 0 once it has ended.
fn lease_left(world: &World) -> i64 {
    let server = world.server();
    let (seconds, micros): (i64, i64) = server.ask(&["TIME"]);
    let expiry: Vec<(String, i64)> = server.ask(&["ZRANGE", "semrun-x", "0", "-1", "WITHSCORES"]);
    expiry.first().map_or(0, |(_, expiry)| expiry - (seconds * 1000 + micros / 1000))
}

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
fn a_lost_host_is_replaced_when_its_lease_ends() {
    let world = World::in_redis();
    let holder = Running::start(&mut world.script(&OPTIONS, &stubborn_family()));
    let members = family(&world);
    let script = format!("redis-cli -p {} TIME > time; echo ran", world.server().port());
    let waiter = world.waiter(&OPTIONS, &script);
    // All at once: semrun, its other half, the command and what it started.
    let all: Vec<_> = [worker(&holder), holder.pid()].into_iter().chain(members).collect();
    for pid in &all {
        kill_process(*pid, Signal::STOP).unwrap();
    }
    for pid in &all {
        kill_process(*pid, Signal::KILL).unwrap();
    }
    let (id, expiry): (String, i64) = {
        let members: Vec<(String, i64)> =
            world.server().ask(&["ZRANGE", "semrun-x", "0", "-1", "WITHSCORES"]);
        members.into_iter().next().unwrap()
    };
    assert_eq!(id.len(), 36);
    shows_last(&waiter.finish().stdout, "ran");
    let time = fs::read_to_string(world.path("time")).unwrap();
    let time: Vec<i64> = time.lines().map(|line| line.parse().unwrap()).collect();
    let late = time[0] * 1000 + time[1] / 1000 - expiry;
    // How late on a quiet machine, benches/takeover measures.
    assert!((0..2_000).contains(&late), "{late} ms after the end of the lease");
}

fn shows_last(stdout: &[u8], line: &str) {
    assert_eq!(String::from_utf8_lossy(stdout).lines().last(), Some(line));
}

#[test]
fn sigkill_of_either_process_ends_the_whole_tree_and_passes_the_permit_on() {
    for victim in ["visible", "other", "group"] {
        let world = World::in_redis();
        let script = stubborn_family();
        let mut holder = match victim {
            // timeout(1) signals its whole process group.
            "group" => {
                let mut timeout = Command::new("timeout");
                timeout.args(["-s", "KILL", "1", super::support::SEMRUN, "--name", "x", "--"]);
                timeout.args(["sh", "-c", &script]).envs(world.environment());
                Running::start(timeout.current_dir(world.path(".")))
            }
            _ => Running::start(&mut world.script(&[], &script)),
        };
        let members = family(&world);
        let waiter = world.waiter(&[], "echo ran");
        match victim {
            "visible" => holder.signal(Signal::KILL),
            "other" => kill_process(worker(&holder), Signal::KILL).unwrap(),
            _ => {}
        }
        let status = holder.wait().unwrap();
        if victim == "other" {
            assert_eq!(status.code(), Some(125));
        }
        // Long before the lease ends, and not before all of them are dead.
        shows_last(&waiter.finish().stdout, "ran");
        assert!(members.iter().all(|pid| !is_alive(*pid)), "{victim}");
    }
}

#[test]
fn the_permit_passes_on_only_when_the_whole_tree_is_dead() {
    let world = World::in_redis();
    let holder = Running::start(&mut world.script(&[], &stubborn_family()));
    let members = family(&world);
    let pids = members.iter().map(|pid| pid.as_raw_nonzero().to_string()).collect::<Vec<_>>();
    let alive = format!("kill -0 {} 2> /dev/null && echo alive; echo ran", pids.join(" "));
    // `kill` succeeds if one of them can be signalled; zombies can, so they must be collected too.
    let waiter = world.waiter(&["-q"], &alive);
    holder.signal(Signal::KILL);
    shows(&waiter.finish(), 0, "ran\n", "");
}

#[test]
fn a_semrun_that_is_stopped_for_too_long_loses_its_command_before_its_permit() {
    let world = World::in_redis();
    let holder = Running::start(&mut world.script(&OPTIONS, &stubborn_family()));
    let members = family(&world);
    let waiter = world.waiter(&OPTIONS, "echo ran");
    kill_process(worker(&holder), Signal::STOP).unwrap();
    wait_until("the tree is dead", || {
        let left = lease_left(&world);
        let dead = members.iter().all(|pid| !is_alive(*pid));
        assert!(dead || left > 0, "alive at the end of the lease");
        dead
    });
    let output = holder.finish();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(76), "{stderr}");
    assert!(stderr.contains("semrun was stopped for too long"), "{stderr}");
    shows_last(&waiter.finish().stdout, "ran");
}

#[test]
fn a_visible_process_that_is_stopped_changes_nothing() {
    let world = World::in_redis();
    let holder = Running::start(&mut world.script(&OPTIONS, "sleep 8; echo done"));
    wait_until("it holds", || world.holders() == [holder.id()]);
    holder.freeze();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(6) {
        assert!(lease_left(&world) > 1_000);
        std::thread::sleep(Duration::from_millis(100));
    }
    holder.signal(Signal::CONT);
    shows(&holder.finish(), 0, "done\n", "");
}

/// What goes wrong with a server, with the words that say so.
type Outage = fn(&mut World);
const OUTAGES: [(&str, Outage); 6] = [
    ("does not answer", |world| world.server().signal(Signal::STOP)),
    ("READONLY", |world| {
        let _: String = world.server().ask(&["REPLICAOF", "127.0.0.1", "1"]);
    }),
    // As with a full disk: it cannot write its snapshot, and refuses all changes.
    ("MISCONF", |world| {
        fs::remove_dir_all(world.server().path("")).unwrap();
        let _: String = world.server().ask(&["CONFIG", "SET", "save", "3600 1"]);
        let _: String = world.server().ask(&["BGSAVE"]);
        wait_until("its snapshot has failed", || {
            let info: String = world.server().ask(&["INFO", "persistence"]);
            info.contains("rdb_last_bgsave_status:err")
        });
    }),
    ("no connection", |world| {
        let mut only = world.server().connection();
        let mut ask = |words: &[&str]| {
            redis::cmd(words[0]).arg(&words[1..]).exec(&mut only).unwrap();
        };
        ask(&["CONFIG", "SET", "maxclients", "1"]);
        ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        std::mem::forget(only);
    }),
    ("Connection refused", |world| world.redis.as_mut().unwrap().kill()),
    // It comes back with what it had, but takes its time.
    ("LOADING", |world| {
        let server = world.redis.as_mut().unwrap();
        let _: String = server.ask(&["SAVE"]);
        server.kill();
        server.start_again();
    }),
];

/// A server whose data take ten seconds to load, which matters only when there are some.
fn slow_loader() -> RedisServer {
    let server = RedisServer::with(&[
        "--key-load-delay",
        "10000",
        "--loading-process-events-interval-bytes",
        "1024",
    ]);
    let mut filling = redis::pipe();
    for key in 0..1000 {
        filling.cmd("SET").arg(format!("filler{key}")).arg("x".repeat(2000));
    }
    filling.exec(&mut server.connection()).unwrap();
    server
}

/// Runs a command with a short lease, breaks something right after a renewal, when the end is as
/// far away as it can be, and sees that the tree is dead before.
fn dies_in_time(mut world: World, options: &[&str], words: &str, outage: impl FnOnce(&mut World)) {
    let options = [&OPTIONS, options].concat();
    let holder = Running::start(&mut world.script(&options, &stubborn_family()));
    let members = family(&world);
    let mut left = lease_left(&world);
    wait_until("it is renewed", || {
        let before = std::mem::replace(&mut left, lease_left(&world));
        left > before
    });
    let end = Instant::now() + Duration::from_millis(u64::try_from(left).unwrap());
    outage(&mut world);
    wait_until("the tree is dead", || members.iter().all(|pid| !is_alive(*pid)));
    assert!(Instant::now() < end, "{words}: alive at the end of the lease");
    let output = holder.finish();
    let _ = kill_process(world.server().pid(), Signal::CONT);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(76), "{stderr}");
    assert!(stderr.contains("the permit of 'x' cannot be kept"), "{stderr}");
    assert!(stderr.contains(words), "no {words:?} in {stderr}");
}

#[test]
fn without_its_server_a_command_is_dead_before_its_lease_ends() {
    let runs = OUTAGES.map(|(words, outage)| {
        std::thread::spawn(move || {
            dies_in_time(World::in_server(slow_loader()), &[], words, outage);
        })
    });
    for run in runs {
        run.join().unwrap();
    }
}

#[test]
fn a_network_that_swallows_everything_is_noticed_in_time() {
    let world = World::in_redis();
    let proxy = Proxy::to(world.server().port());
    let url = format!("redis://127.0.0.1:{}", proxy.port);
    dies_in_time(world, &["--backend", &url], "does not answer", |_| proxy.swallow());
}

/// Passes everything on to a server and back, until it is told to swallow it.
struct Proxy {
    port: u16,
    swallows: Arc<AtomicBool>,
}

impl Proxy {
    fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let swallows = Arc::new(AtomicBool::new(false));
        let swallowing = Arc::clone(&swallows);
        // These threads end with the process that the test runs in.
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let server = TcpStream::connect(("127.0.0.1", server)).unwrap();
                for (mut from, mut to) in
                    [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)]
                {
                    let swallowing = Arc::clone(&swallowing);
                    std::thread::spawn(move || {
                        let mut bytes = [0; 4096];
                        while let Ok(count @ 1..) = from.read(&mut bytes) {
                            if !swallowing.load(Ordering::Relaxed)
                                && to.write_all(&bytes[..count]).is_err()
                            {
                                break;
                            }
                        }
                    });
                }
            }
        });
        Self { port, swallows }
    }

    fn swallow(&self) {
        self.swallows.store(true, Ordering::Relaxed);
    }
}

#[test]
fn an_outage_that_is_over_in_time_changes_nothing() {
    let world = World::in_redis();
    let holder = Running::start(&mut world.script(&[], "sleep 14; echo done"));
    wait_until("it holds", || world.holders() == [holder.id()]);
    let _: i64 = world.server().ask(&["CLIENT", "KILL", "TYPE", "normal"]);
    // At the first renewal, 10 s on, nobody answers for a while.
    std::thread::sleep(Duration::from_secs(8));
    world.server().signal(Signal::STOP);
    std::thread::sleep(Duration::from_secs(4));
    world.server().signal(Signal::CONT);
    shows(&holder.finish(), 0, "done\n", "");
}

#[test]
fn a_full_memory_keeps_no_permit_from_being_kept() {
    let world = World::in_redis();
    let holder = Running::start(&mut world.script(&OPTIONS, "sleep 6; echo done"));
    wait_until("it holds", || world.holders() == [holder.id()]);
    let _: String = world.server().ask(&["CONFIG", "SET", "maxmemory", "1"]);
    shows(&holder.finish(), 0, "done\n", "");
}

#[test]
fn with_on_lost_continue_a_command_goes_on_and_semrun_says_so() {
    let world = World::in_redis();
    for (script, code) in [("sleep 6; echo done", 76), ("sleep 6; echo done; exit 3", 3)] {
        let options = ["--ttl", TTL, "--on-lost", "continue"];
        let holder = Running::start(&mut world.script(&options, script));
        wait_until("it holds", || world.holders() == [holder.id()]);
        let id: Vec<String> = world.server().ask(&["ZRANGE", "semrun-x", "0", "-1"]);
        let _: i64 = world.server().ask(&["ZREM", "semrun-x", &id[0]]);
        let output = holder.finish();
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(code), &b"done\n"[..]));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("is lost and somebody else may have it"), "{stderr}");
    }
}

#[test]
fn a_permit_that_is_taken_away_ends_the_command_at_once() {
    let world = World::in_redis();
    let options = ["--ttl", TTL, "--lost-exit-code", "9", "-k", "0"];
    let holder = Running::start(&mut world.script(&options, &stubborn_family()));
    let members = family(&world);
    let id: Vec<String> = world.server().ask(&["ZRANGE", "semrun-x", "0", "-1"]);
    let _: i64 = world.server().ask(&["ZREM", "semrun-x", &id[0]]);
    let output = holder.finish();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(9), "{stderr}");
    assert!(stderr.contains("somebody else's by now"), "{stderr}");
    assert!(members.iter().all(|pid| !is_alive(*pid)));
}

#[test]
fn a_server_that_forgets_everything_gets_its_permits_back_and_grants_none_before() {
    let mut world = World::in_redis();
    let options = ["-l", "2", "--ttl", TTL, "--quarantine", "4s"];
    // The kernel is the judge of how many run at once.
    let judged = |what: &str| {
        format!(
            "for i in 1 2; do exec 9>judge.$i; flock -n 9 && judge=$i && break; done
             [ \"$judge\" ] || echo \"$SEMRUN_FENCING_TOKEN\" >> violations
             echo $SEMRUN_FENCING_TOKEN >> tokens
             {what}"
        )
    };
    let long = judged("echo held >> holding; sleep 14; echo done");
    let holders: Vec<_> =
        (0..2).map(|_| Running::start(&mut world.script(&options, &long))).collect();
    wait_until("both hold", || world.lines("holding").len() == 2);
    let waiters: Vec<_> = (0..2).map(|_| world.waiter(&options, &judged("echo ran"))).collect();
    let server = world.redis.as_mut().unwrap();
    server.kill();
    server.start_again();
    wait_until("both are held again", || world.holders().len() == 2);
    let status = world.status();
    assert_eq!(status["semaphores"][0]["limit"], 2);
    assert_eq!(status["semaphores"][0]["ttl_ms"], 5_000);
    // Who comes now knows of nothing either.
    let late = world.waiter(&options, &judged("echo ran"));
    for holder in holders {
        let output = holder.finish();
        assert_eq!(output.status.code(), Some(0));
        shows_last(&output.stdout, "done");
    }
    for waiter in waiters.into_iter().chain([late]) {
        shows_last(&waiter.finish().stdout, "ran");
    }
    assert_eq!(world.lines("violations"), [""; 0]);
    let tokens: Vec<u64> = world.lines("tokens").iter().map(|line| line.parse().unwrap()).collect();
    assert!(tokens[..2].iter().max() < tokens[2..].iter().min(), "{tokens:?}");
    assert_eq!(tokens.len(), 5);
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
    let warning = "semrun: warning: 'x' is in use with a TTL of 10s, which counts until nobody \
                   uses it; not the 7s asked for\n";
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
    let (code, table) = status(&[]);
    let headings: Vec<_> = table.lines().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(headings, ["theirs: 1 of 1 held, 0 waiting", "x: 2 of 2 held, 0 waiting"]);
    assert_eq!(code, Some(75));
    assert!(table.contains("TOKEN") && table.contains("LEASE LEFT"), "{table}");
    assert!(table.contains("foreign 33333333-3333-4333-8333-333333333333"), "{table}");
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
fn a_command_that_a_lost_server_leaves_alone_for_the_rest_of_its_run_is_released_later() {
    let world = World::in_redis();
    let run = Running::start(&mut world.script(&[], "echo > ready; sleep 0.5; exit 3"));
    content(&world.path("ready"));
    world.server().signal(Signal::STOP);
    let output = run.finish();
    world.server().signal(Signal::CONT);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("the permit was not given back"), "{stderr}");
    assert!(stderr.contains("whose lease ends by itself in 2"), "{stderr}");
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
        let output = world.run(["--backend", &url(wrong), "echo", "no"]).output().unwrap();
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
    fails(output, 78, &["can be read by everybody"]);
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
    // Somebody else's key.
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
    // Nobody there: tried for a while, but not longer than somebody wants to wait.
    let started = Instant::now();
    let nobody = ["--backend", "redis://127.0.0.1:1", "-w", "0.5"];
    never(&mut world.run(nobody), 69, &["127.0.0.1:1", "Connection refused"]);
    assert!(started.elapsed() < Duration::from_secs(4));
    let started = Instant::now();
    never(&mut world.run(["--backend", "redis://127.0.0.1:1"]), 69, &["Connection refused"]);
    let tried = started.elapsed();
    assert!(tried > Duration::from_secs(3) && tried < Duration::from_secs(10), "{tried:?}");
    never(&mut world.run(["--backend", "redis://nobody.invalid", "-n"]), 69, &["nobody.invalid"]);
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
fn a_server_that_never_answers_is_unreachable_however_short_the_wait() {
    let world = World::in_redis();
    let proxy = Proxy::to(world.server().port());
    proxy.swallow();
    let url = format!("redis://127.0.0.1:{}", proxy.port);
    for wait in [&["-w", "1"][..], &["--max-attempts", "2"], &["-n"]] {
        let output = world.run(["--backend", &url]).args(wait).arg("true").output().unwrap();
        fails(&output, 69, &["127.0.0.1", "does not answer"]);
    }
}

#[test]
fn who_does_not_read_what_semrun_says_keeps_it_from_nothing() {
    let world = World::in_redis();
    // The shell itself would say that its child was terminated, and wait for the reader.
    let script = "exec 2> /dev/null; trap 'echo > told; exit' TERM; echo > ready; while :; do sleep 0.05; done";
    let (reader, writer) = std::io::pipe().unwrap();
    rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).unwrap();
    while (&writer).write(&[0; 4096]).is_ok() {}
    rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::empty()).unwrap();
    let mut holder = Running::start(world.script(&["--ttl", TTL, "-v"], script).stderr(writer));
    content(&world.path("ready"));
    world.server().signal(Signal::STOP);
    // Told to end and not just killed, and semrun ends as well.
    content(&world.path("told"));
    assert_eq!(holder.wait().unwrap().code(), Some(76));
    world.server().signal(Signal::CONT);
    drop(reader);
}

#[test]
fn a_waiter_keeps_its_place_over_a_lost_connection_and_a_silent_server() {
    let world = World::in_redis();
    let holder = world.holder(&[]);
    let first = world.waiter(&[], "echo first >> order");
    let second = world.waiter(&[], "echo second >> order");
    for _ in 0..3 {
        let _: i64 = world.server().ask(&["CLIENT", "KILL", "TYPE", "normal"]);
        std::thread::sleep(Duration::from_millis(200));
    }
    // Not even a heartbeat notices: what was closed while idle is opened again at once.
    std::thread::sleep(Duration::from_secs(6));
    holder.signal(Signal::TERM);
    for waiter in [first, second] {
        let output = waiter.finish();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && !stderr.contains("warning"), "{stderr}");
    }
    assert_eq!(world.lines("order"), ["first", "second"]);
}

#[test]
fn waiting_ends_when_it_has_to_whatever_the_server_does() {
    let world = World::in_redis();
    let _holder = world.holder(&[]);
    let waiter = world.waiter(&[], "echo no");
    let limited = world.waiter(&["-w", "3"], "echo no");
    world.server().signal(Signal::STOP);
    // Away when the waiting ends: not busy, but unreachable.
    let output = limited.finish();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{stderr}");
    let started = Instant::now();
    waiter.signal(Signal::TERM);
    assert_eq!(waiter.finish().status.code(), Some(143));
    assert!(started.elapsed() < Duration::from_secs(4));
    world.server().signal(Signal::CONT);
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
