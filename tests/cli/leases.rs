use std::fmt::Write;
use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::cloud_server::{CloudServer, KEY};
use super::faults::{OPTIONS, Proxy, TTL, family, stubborn_family};
use super::http::{Client, path};
use super::support::{Leftover, Running, World, content, fails, is_alive, shows, wait_until};

fn world() -> World {
    World::in_cloud(CloudServer::ours())
}

/// One whose server remembers.
fn remembering() -> World {
    World::in_cloud(CloudServer::ours_with(&["--state-dir", "state"]))
}

fn server(world: &mut World) -> &mut CloudServer {
    world.cloud.as_mut().unwrap()
}

fn client(world: &World) -> Client {
    Client::new(world.cloud.as_ref().unwrap().port(), KEY)
}

/// The identity of the only holder.
fn holder_of(world: &World) -> String {
    let permit = world.status()["semaphores"][0]["holders"][0]["permit"].clone();
    permit.as_str().unwrap().strip_suffix("@x").unwrap().into()
}

/// What is left of its lease.
fn lease_left(world: &World) -> u64 {
    world.status()["semaphores"][0]["holders"][0]["lease_left_ms"].as_u64().unwrap_or(0)
}

/// The kernel is the judge of how many run at once; tokens and starts are noted.
fn judged(limit: u32, what: &str) -> String {
    let judges = (1..=limit).map(|judge| judge.to_string()).collect::<Vec<_>>().join(" ");
    format!(
        "for i in {judges}; do exec 9>judge.$i; flock -n 9 && judge=$i && break; done
         [ \"$judge\" ] || echo \"$SEMRUN_FENCING_TOKEN\" >> violations
         echo $SEMRUN_FENCING_TOKEN >> tokens
         {what}"
    )
}

fn tokens(world: &World) -> Vec<u64> {
    world.lines("tokens").iter().map(|line| line.parse().unwrap()).collect()
}

#[test]
fn a_command_is_dead_before_its_lease_ends_when_the_server_is_gone_or_silent() {
    type Outage = fn(&mut World);
    let outages: [(&str, Outage); 2] = [
        ("Connection refused", |world| server(world).kill()),
        ("does not answer", |world| server(world).signal(Signal::STOP)),
    ];
    let runs = outages.map(|(words, outage)| {
        std::thread::spawn(move || dies_in_time(world(), &[], words, outage))
    });
    let world = world();
    let proxy = Proxy::to(world.cloud.as_ref().unwrap().port());
    let url = format!("http://127.0.0.1:{}", proxy.port);
    dies_in_time(world, &["--backend", &url], "does not answer", |_| proxy.swallow());
    for run in runs {
        run.join().unwrap();
    }
}

/// Breaks something right after a renewal, when the end is as far away as it can be.
fn dies_in_time(mut world: World, options: &[&str], words: &str, outage: impl FnOnce(&mut World)) {
    let holder =
        Running::start(&mut world.script(&[&OPTIONS, options].concat(), &stubborn_family()));
    let members = family(&world);
    let mut left = lease_left(&world);
    wait_until("it is renewed", || {
        let before = std::mem::replace(&mut left, lease_left(&world));
        left > before
    });
    let end = Instant::now() + Duration::from_millis(left);
    outage(&mut world);
    wait_until("the tree is dead", || members.iter().all(|pid| !is_alive(*pid)));
    assert!(Instant::now() < end, "{words}: alive at the end of the lease");
    let output = holder.finish();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(76), "{stderr}");
    assert!(stderr.contains("the permit of 'x' cannot be kept"), "{stderr}");
    assert!(stderr.contains(words), "no {words:?} in {stderr}");
}

#[test]
fn a_lost_client_is_replaced_when_its_lease_ends() {
    let world = world();
    let holder = Running::start(&mut world.script(&OPTIONS, &stubborn_family()));
    let members = family(&world);
    let waiter = world.waiter(&["-q"], "echo ran");
    let both = [super::faults::worker(&holder), holder.pid()];
    let all: Vec<_> = both.into_iter().chain(members).map(Leftover).collect();
    for Leftover(pid) in &all {
        rustix::process::kill_process(*pid, Signal::STOP).unwrap();
    }
    let left = lease_left(&world);
    let started = Instant::now();
    shows(&waiter.finish(), 0, "ran\n", "");
    let late = started.elapsed().saturating_sub(Duration::from_millis(left));
    assert!(late < Duration::from_secs(2), "{late:?} after the end of the lease");
}

#[test]
fn a_permit_that_somebody_else_gives_back_ends_the_command_at_once() {
    let world = world();
    let options = ["--ttl", "1h", "--lost-exit-code", "9"];
    let script = format!(
        "trap 'echo > told' TERM; {}",
        stubborn_family().replace("trap '' TERM HUP; sh", "sh")
    );
    let holder = Running::start(&mut world.script(&options, &script));
    let members = family(&world);
    assert_eq!(client(&world).signal("x", &holder_of(&world)).status, 200);
    let output = holder.finish();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(9), "{stderr}");
    assert!(stderr.contains("somebody else gave the permit back"), "{stderr}");
    assert!(members.iter().all(|pid| !is_alive(*pid)));
    assert!(!world.path("told").exists(), "there was no time to be told");
}

#[test]
fn a_connection_that_is_cut_costs_nobody_permit_or_place() {
    let world = world();
    let proxy = Proxy::to(world.cloud.as_ref().unwrap().port());
    let url = format!("http://127.0.0.1:{}", proxy.port);
    let options = ["--backend", &url, "--ttl", TTL];
    let holder = Running::start(&mut world.script(&options, "sleep 7; echo done"));
    wait_until("it holds", || world.holders() == [holder.id()]);
    let waiters: Vec<_> =
        (0..3).map(|number| world.waiter(&options, &format!("echo {number} >> order"))).collect();
    let last = world.waiter(&[], "echo 3 >> order");
    for _ in 0..5 {
        proxy.cut();
        std::thread::sleep(Duration::from_millis(300));
    }
    wait_until("all are back", || world.waiters().len() == 4);
    shows(&holder.finish(), 0, "done\n", "");
    for waiter in waiters.into_iter().chain([last]) {
        assert!(waiter.finish().status.success());
    }
    assert_eq!(world.lines("order"), ["0", "1", "2", "3"]);
}

#[test]
fn with_a_state_directory_a_restart_stops_nobody_and_grants_nothing_twice() {
    const LIMIT: &str = "2";
    let mut world = remembering();
    let options = ["-l", LIMIT, "--ttl", TTL];
    let long = judged(2, "echo held >> holding; sleep 9; echo done");
    let holders: Vec<_> =
        (0..2).map(|_| Running::start(&mut world.script(&options, &long))).collect();
    wait_until("both hold", || world.lines("holding").len() == 2);
    let waiters: Vec<_> = (0..6)
        .map(|number| {
            world.waiter(&options, &judged(2, &format!("echo {number} >> order; sleep 0.1")))
        })
        .collect();
    for _ in 0..2 {
        server(&mut world).kill();
        std::thread::sleep(Duration::from_millis(500));
        server(&mut world).start_again();
        wait_until("all are back", || world.holders().len() == 2 && world.waiters().len() == 6);
    }
    let status = world.status();
    assert_eq!(status["semaphores"][0]["limit"], 2);
    for holder in holders {
        shows(&holder.finish(), 0, "done\n", "");
    }
    for waiter in waiters {
        assert!(waiter.finish().status.success());
    }
    assert_eq!(world.lines("violations"), [""; 0]);
    let tokens = tokens(&world);
    assert_eq!(tokens.len(), 8);
    assert!(tokens[..2].iter().max() < tokens[2..].iter().min(), "{tokens:?}");
    // Two run at a time, so neighbours may change places.
    let order = world.lines("order");
    for (place, number) in order.iter().enumerate() {
        let number: usize = number.parse().unwrap();
        assert!(number.abs_diff(place) <= 1, "{order:?}");
    }
    assert_eq!(world.leftovers(), [""; 0]);
}

#[test]
fn restarts_under_load_grant_nothing_twice_and_stop_nothing() {
    let mut world = remembering();
    fs::write(world.path("judged"), judged(3, "sleep 0.05; echo end >> ends")).unwrap();
    let ten = format!(
        "for i in 1 2 3 4 5 6 7 8 9 10; do
             {} --name x -l 3 -- sh ./judged 2>> errors || echo $? >> failures
         done",
        super::support::SEMRUN
    );
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &ten]).current_dir(world.path(".")).envs(world.environment());
    let children: Vec<_> = (0..6).map(|_| Running::start(&mut shell)).collect();
    for round in 1..=3 {
        wait_until("some have run", || world.lines("ends").len() >= round * 10);
        server(&mut world).kill();
        server(&mut world).start_again();
    }
    for child in children {
        assert!(child.finish().status.success());
    }
    let errors = fs::read_to_string(world.path("errors")).unwrap();
    assert_eq!((world.lines("failures"), world.lines("ends").len()), (vec![], 60), "{errors}");
    assert_eq!(world.lines("violations"), [""; 0]);
    let mut all = tokens(&world);
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 60, "no token twice");
    assert_eq!(world.leftovers(), [""; 0]);
}

#[test]
fn without_a_state_directory_a_restart_stops_what_runs_and_the_server_says_so_before() {
    let mut world = world();
    assert!(server(&mut world).log().contains("without --state-dir a restart forgets all permits"));
    let holder = Running::start(&mut world.script(&["--ttl", "1h"], &stubborn_family()));
    let members = family(&world);
    let before = tokens_of(&world);
    server(&mut world).kill();
    server(&mut world).start_again();
    let output = holder.finish();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(76), "{stderr}");
    assert!(stderr.contains("may be somebody else's by now"), "{stderr}");
    assert!(members.iter().all(|pid| !is_alive(*pid)));
    let _holder = world.holder(&[]);
    assert!(tokens_of(&world) > before, "tokens grow even so");
}

fn tokens_of(world: &World) -> u64 {
    world.status()["semaphores"][0]["holders"][0]["fencing_token"].as_u64().unwrap()
}

#[test]
fn after_another_boot_nothing_is_granted_until_the_longest_lease_is_over() {
    let mut world = remembering();
    shows(&world.run(["--ttl", "6s", "--", "echo", "ran"]).output().unwrap(), 0, "ran\n", "");
    server(&mut world).stop();
    let journal = server(&mut world).path("state/journal");
    let text = fs::read_to_string(&journal).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let mut changed = String::new();
    for line in text.lines() {
        let (_, json) = line.split_once(' ').unwrap();
        let json = json.replace(boot.trim(), "another");
        writeln!(changed, "{:08x} {json}", crc32(json.as_bytes())).unwrap();
    }
    assert_ne!(text, changed);
    fs::write(&journal, changed).unwrap();
    let started = Instant::now();
    server(&mut world).start_again();
    assert!(server(&mut world).log().contains("granting nothing for 5.9s, the longest lease"));
    let waiter = world.waiter(&[], "echo later");
    let output = waiter.finish();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "later\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("nobody is granted a permit for"));
    assert!(started.elapsed() > Duration::from_secs(5));
}

/// As zlib's.
fn crc32(bytes: &[u8]) -> u32 {
    let mut sum = !0_u32;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ (0xEDB8_8320 & 0_u32.wrapping_sub(sum & 1));
        }
    }
    !sum
}

#[test]
fn a_state_directory_that_cannot_be_used_is_said_at_the_start() {
    let directory = tempfile::TempDir::new().unwrap();
    super::cloud_server::write_keys(&directory, "a-key-for-tests");
    let state = directory.path().join("state");
    fs::write(&state, "").unwrap();
    let start = || {
        let mut serve = super::cloud_server::serve(&directory, 0);
        serve.arg("--state-dir").arg(&state).output().unwrap()
    };
    fails(&start(), 69, &["cannot use the state directory"]);
    fs::remove_file(&state).unwrap();
    fs::create_dir(&state).unwrap();
    fs::write(state.join("journal"), "00000000 {}\n").unwrap();
    fails(&start(), 69, &["journal", "line 1 is damaged"]);
}

#[test]
fn a_full_disk_grants_nothing_and_forgets_nothing() {
    let world = World::on_this_machine();
    fs::write(world.path("keys"), "a-key-for-tests\n").unwrap();
    let output = world.with_mounts(
        r#"chmod 600 keys
           mkdir state && mount -t tmpfs -o size=64k tmpfs state
           $semrun serve --listen 127.0.0.1:0 --api-key-file keys --state-dir state > line 2> log &
           server=$!
           trap 'kill $server' EXIT
           i=0; until grep -q port line; do sleep 0.01; i=$((i+1)); [ $i -lt 1000 ]; done
           export SEMRUN_BACKEND=http://127.0.0.1:$(sed 's/.* //' line) SEMRUN_API_KEY=a-key-for-tests
           $semrun --name x -- sh -c 'echo > held; while [ ! -e end ]; do sleep 0.05; done; echo first' &
           first=$!
           i=0; until [ -e held ]; do sleep 0.01; i=$((i+1)); [ $i -lt 1000 ]; done
           dd if=/dev/zero of=state/filler bs=1k 2> /dev/null || true
           # What the last block of the journal has room for is still granted.
           i=0 code=0
           while [ $code = 0 ] && [ $i -lt 100 ]; do i=$((i+1)); $semrun --name y -- true || code=$?; done
           echo "code $code"
           rm state/filler
           $semrun --name y -- echo second
           echo > end
           wait $first
           grep -c 'granting nothing' log"#,
    );
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(stdout, "code 69\nsecond\nfirst\n1\n", "{stderr}");
    assert!(stderr.contains("it cannot record a grant: No space left"), "{stderr}");
}

#[test]
fn clients_of_the_original_are_alone_among_ours() {
    let world = world();
    let client = client(&world);
    let first = world.holder(&["-l", "3"]);
    let second = world.holder(&["-l", "3"]);
    let mut alone = client.attach("x");
    wait_until("it waits", || client.observe("x")["waiting"].as_array().unwrap().len() == 1);
    let third = world.waiter(&["-l", "3"], "echo ran");
    let observed = client.observe("x");
    assert_eq!(observed["running"], holder_of(&world), "the oldest holder");
    assert_eq!(observed["nodes"].as_object().unwrap().len(), 4);
    first.signal(Signal::TERM);
    first.finish();
    assert!(alone.wait.is_open(), "not beside another");
    second.signal(Signal::TERM);
    second.finish();
    assert_eq!(alone.wait.answer().status, 200);
    assert_eq!(world.waiters(), [third.id()], "nobody beside it");
    let status = world.status();
    assert_eq!(status["semaphores"][0]["holders"][0]["foreign"], true);
    client.signal("x", &alone.id);
    assert!(third.finish().status.success());
}

#[test]
fn a_client_of_the_original_keeps_its_permit_for_a_while_after_a_restart() {
    for orderly in [true, false] {
        let mut world = remembering();
        let first = client(&world);
        let mut holder = first.attach("x");
        assert_eq!(holder.wait.answer().status, 200);
        if orderly {
            server(&mut world).stop();
        } else {
            server(&mut world).kill();
        }
        server(&mut world).start_again();
        // It is still at its work, and will say when that is done.
        let waiter = world.waiter(&["-q"], "echo ran");
        assert_eq!(client(&world).signal("x", &holder.id).status, 200);
        shows(&waiter.finish(), 0, "ran\n", "");
    }
}

#[test]
fn who_waits_comes_before_others_after_a_restart_even_if_the_permit_is_free_then() {
    let mut world = remembering();
    let holder = world.holder(&[]);
    let waiters: Vec<_> =
        (0..4).map(|number| world.waiter(&["-q"], &format!("echo {number} >> order"))).collect();
    server(&mut world).kill();
    holder.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(300));
    server(&mut world).start_again();
    let other = world.run(["-n", "--", "sh", "-c", "echo other >> order"]).output().unwrap();
    assert_eq!(other.status.code(), Some(75), "not free for one who comes later");
    holder.finish();
    for waiter in waiters {
        shows(&waiter.finish(), 0, "", "");
    }
    assert_eq!(world.lines("order"), ["0", "1", "2", "3"]);
}

#[test]
fn a_waiter_that_is_stopped_is_passed_over_and_keeps_its_place() {
    let world = world();
    let holder = world.holder(&[]);
    let stopped = world.waiter(&[], "echo stopped >> order");
    let second = world.waiter(&[], "echo second >> order; sleep 7");
    let third = world.waiter(&[], "echo third >> order");
    let frozen = super::faults::worker(&stopped);
    rustix::process::kill_process(frozen, Signal::STOP).unwrap();
    let started = Instant::now();
    holder.signal(Signal::TERM);
    holder.finish();
    wait_until("the next one runs", || world.lines("order").len() == 1);
    assert!(started.elapsed() < Duration::from_secs(8));
    rustix::process::kill_process(frozen, Signal::CONT).unwrap();
    for waiter in [stopped, second, third] {
        assert!(waiter.finish().status.success());
    }
    assert_eq!(world.lines("order"), ["second", "stopped", "third"]);
}

#[test]
fn https_with_a_private_authority() {
    let directory = tempfile::TempDir::new().unwrap();
    super::tls::certificates(directory.path());
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (cert, key, authority) = (file("server.pem"), file("server.key"), file("ca.pem"));
    let server = CloudServer::ours_with(&["--tls-cert", &cert, "--tls-key", &key]);
    let url = format!("https://localhost:{}", server.port());
    let plain = server.url();
    let address = url.replace("localhost", "127.0.0.1");
    let world = World::in_cloud(server);
    let run = |url: &str, options: &[&str]| {
        let mut run = world.run(["--backend", url, "-n"]);
        run.args(options).args(["--", "echo", "ran"]).output().unwrap()
    };
    let known = ["--ca-file", &authority];
    shows(&run(&url, &known), 0, "ran\n", "");
    fails(&run(&url, &[]), 69, &["TLS", "--ca-file"]);
    fails(&run(&address, &known), 69, &["TLS", "certificate"]);
    fails(&run(&plain, &[]), 69, &[&plain]);
    let encrypted = ["--backend", &url, "--ca-file", &authority];
    let holder = Running::start(
        &mut world
            .script(&[&encrypted[..], &["--ttl", TTL]].concat(), "echo > held; sleep 6; echo done"),
    );
    content(&world.path("held"));
    let status = world.semrun([&["status", "x"], &encrypted[..]].concat()).output().unwrap();
    assert_eq!(status.status.code(), Some(75));
    shows(&holder.finish(), 0, "done\n", "");
    let keys = file("keys");
    for (options, words) in [
        (["--tls-cert", &cert, "--tls-key", &keys], "no private key in --tls-key"),
        (["--tls-cert", &key, "--tls-key", &key], "no certificate in --tls-cert"),
        (["--tls-cert", &authority, "--tls-key", &key], "do not fit"),
    ] {
        super::cloud_server::write_keys(&directory, "a-key-for-tests");
        let mut serve = super::cloud_server::serve(&directory, 0);
        fails(&serve.args(options).output().unwrap(), 78, &[words]);
    }
}

#[test]
fn a_wrong_key_a_wrong_server_and_none_at_all_are_69() {
    let world = world();
    let run = |key: &str| world.run(["true"]).env("SEMRUN_API_KEY", key).output().unwrap();
    for key in ["a-key-that-nobody-knows", ""] {
        let output = run(key);
        fails(&output, 69, &["refused the API key", "--api-key-file"]);
        assert!(!String::from_utf8_lossy(&output.stderr).contains("nobody"));
    }
    fails(&run("un\u{e4}cceptable"), 78, &["API key"]);
    let redis = super::redis_server::RedisServer::start();
    let url = format!("http://127.0.0.1:{}", redis.port());
    fails(&world.run(["--backend", &url, "true"]).output().unwrap(), 69, &["http://127.0.0.1"]);
    let nobody = ["--backend", "http://127.0.0.1:1", "-w", "0.5", "true"];
    fails(&world.run(nobody).output().unwrap(), 69, &["gave up waiting", "Connection refused"]);
}

#[test]
fn other_terms_than_those_in_force_are_said() {
    let world = world();
    let _holder = world.holder(&["-l", "2", "--ttl", "20s"]);
    let output = world.run(["-l", "3", "--ttl", "30s", "--", "echo", "ran"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("limit of 2") && stderr.contains("TTL of 20s"), "{stderr}");
    let strict = ["--strict-limit", "-l", "2", "--ttl", "30s", "true"];
    fails(&world.run(strict).output().unwrap(), 78, &["a TTL of 20s", "--strict-limit"]);
}

#[test]
fn an_answer_of_the_original_is_no_concern_of_one_who_does_not_ask_for_more() {
    let world = world();
    let client = client(&world);
    let answer = client.get(&path("register", "x"), &[]);
    assert_eq!((answer.header("x-semrun"), answer.body.len()), (None, 36));
    let answer = client.get(&path("observe", "x"), &[("x-semrun", "1")]);
    assert_eq!(answer.header("x-semrun"), Some("1"));
}

/// The original ends when it hears of somebody whom it does not know.
#[test]
fn a_server_of_the_other_kind_in_its_place_survives_our_holders() {
    let mut world = world();
    let holder = Running::start(&mut world.script(&OPTIONS, "echo > held; sleep 100"));
    content(&world.path("held"));
    server(&mut world).kill();
    server(&mut world).start_again_like_node();
    client(&world).register("x");
    let output = holder.finish();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(76), "{stderr}");
    assert!(server(&mut world).is_running(), "{}", server(&mut world).log());
}
