use std::fs;
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use super::cloud_server::CloudServer;
use super::faults::{OPTIONS, TTL, family, stubborn_family, worker};
use super::proxy::{Proxy, Weather};
use super::redis_server::RedisServer;
use super::support::{Running, World, content, fails, is_alive, shows, wait_until};

/// What is left of the lease of the only holder, by the server's clock; 0 once it has ended.
pub(crate) fn lease_left(world: &World) -> i64 {
    let server = world.server();
    let (seconds, micros): (i64, i64) = server.ask(&["TIME"]);
    let expiry: Vec<(String, i64)> = server.ask(&["ZRANGE", "semrun-x", "0", "-1", "WITHSCORES"]);
    expiry.first().map_or(0, |(_, expiry)| expiry - (seconds * 1000 + micros / 1000))
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

/// One for each kind of server.
fn worlds() -> [World; 3] {
    let cloud = [CloudServer::ours(), CloudServer::like_node()].map(World::in_cloud);
    let [ours, original] = cloud;
    [World::in_redis(), ours, original]
}

#[test]
fn sigkill_of_either_process_ends_the_whole_tree_and_passes_the_permit_on() {
    let cases = ["visible", "other", "group"].map(|victim| worlds().map(|world| (victim, world)));
    for (victim, world) in cases.into_iter().flatten() {
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
    worlds().iter().for_each(passes_on_only_when_the_whole_tree_is_dead);
}

fn passes_on_only_when_the_whole_tree_is_dead(world: &World) {
    let holder = Running::start(&mut world.script(&[], &stubborn_family()));
    let members = family(world);
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

/// The command ends by itself meanwhile, which must not look as if all had been well.
#[test]
fn who_is_stopped_as_a_whole_until_the_lease_is_over_says_so() {
    let world = World::in_redis();
    let options = [OPTIONS.as_slice(), &["-l", "6"]].concat();
    let holders: Vec<_> = (0..6)
        .map(|_| world.script(&options, "echo >> begun; sleep 10; echo >> ended"))
        .map(|mut script| Running::start(&mut script))
        .collect();
    wait_until("all commands run", || world.lines("begun").len() == 6);
    let workers: Vec<_> = holders.iter().map(worker).collect();
    for (holder, worker) in holders.iter().zip(&workers) {
        kill_process(*worker, Signal::STOP).unwrap();
        holder.freeze();
    }
    wait_until("the commands have ended", || world.lines("ended").len() == 6);
    let both = holders.iter().map(Running::pid).zip(workers);
    for (holder, worker) in both {
        kill_process(worker, Signal::CONT).unwrap();
        kill_process(holder, Signal::CONT).unwrap();
    }
    for holder in holders {
        let output = holder.finish();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(76), "{stderr}");
        assert!(stderr.contains("semrun: the permit of 'x'"), "{stderr}");
    }
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
    ("max number of clients", |world| {
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
    dies_in_time(world, &["--backend", &url], "does not answer", |_| proxy.weather(Weather::Lost));
}

#[test]
fn an_outage_that_is_over_in_time_changes_nothing() {
    let world = World::in_redis();
    let holder = Running::start(&mut world.script(&[], "sleep 14; echo done"));
    wait_until("it holds", || world.holders() == [holder.id()]);
    let _: i64 = world.server().ask(&["CLIENT", "KILL", "TYPE", "normal"]);
    // At the first renewal, 10 s on, the server does not answer for a while.
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
    for code in [76, 3] {
        let options = ["--ttl", TTL, "--on-lost", "continue"];
        let script = format!("echo >> begun; sleep 6; echo done; exit {}", code % 76);
        let holder = Running::start(&mut world.script(&options, &script));
        content(&world.path("begun"));
        fs::remove_file(world.path("begun")).unwrap();
        let id: Vec<String> = world.server().ask(&["ZRANGE", "semrun-x", "0", "-1"]);
        let _: i64 = world.server().ask(&["ZREM", "semrun-x", &id[0]]);
        let output = holder.finish();
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(code), &b"done\n"[..]));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("is lost and another holder may have it"), "{stderr}");
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
    assert!(stderr.contains("another client may hold the permit"), "{stderr}");
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
    // A client that comes now knows of nothing either.
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
fn a_server_that_never_answers_is_unreachable_however_short_the_wait() {
    let world = World::in_redis();
    let proxy = Proxy::to(world.server().port());
    proxy.weather(Weather::Lost);
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
