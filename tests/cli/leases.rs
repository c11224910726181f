//! Permits in `semrun serve`: a lease survives cut connections, and its command is dead before it
//! ends.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use semrun_testkit::cloud_server::{CloudServer, KEY};
use semrun_testkit::proxy::{Proxy, Weather};

use super::faults::{OPTIONS, TTL, family, stubborn_family};
use super::http::{Client, OURS, path};
use super::support::{Leftover, Running, World, content, fails, is_alive, shows, wait_until};

pub(crate) fn world() -> World {
    World::in_cloud(CloudServer::ours())
}

pub(crate) fn server(world: &mut World) -> &mut CloudServer {
    world.cloud.as_mut().unwrap()
}

pub(crate) fn client(world: &World) -> Client {
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
    dies_in_time(world, &["--backend", &url], "does not answer", |_| proxy.weather(Weather::Lost));
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
fn a_permit_that_another_client_gives_back_ends_the_command_at_once() {
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
    assert!(stderr.contains("another client gave the permit back"), "{stderr}");
    assert!(members.iter().all(|pid| !is_alive(*pid)));
    assert!(!world.path("told").exists(), "there was no time to be told");
}

#[test]
fn a_connection_that_is_cut_costs_no_client_its_permit_or_place() {
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
fn clients_of_the_original_are_alone_among_ours() {
    let world = world();
    let client = client(&world);
    let first = world.holder(&["-l", "3"]);
    let second = world.holder(&["-l", "3"]);
    let mut alone = client.attach("x");
    wait_until("it waits", || client.observe("x")["waiting"].as_array().unwrap().len() == 1);
    let third = world.waiter(&["-l", "3"], "echo ran");
    assert_eq!(client.observe("x")["running"], holder_of(&world), "the oldest holder");
    wait_until("all are known", || client.observe("x")["nodes"].as_object().unwrap().len() == 4);
    first.signal(Signal::TERM);
    first.finish();
    assert!(alone.wait.is_open(), "not beside another");
    second.signal(Signal::TERM);
    second.finish();
    assert_eq!(alone.wait.answer().status, 200);
    assert_eq!(world.waiters(), [third.id()], "no other waiter");
    let status = world.status();
    assert_eq!(status["semaphores"][0]["holders"][0]["foreign"], true);
    client.signal("x", &alone.id);
    assert!(third.finish().status.success());
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
        semrun_testkit::cloud_server::write_keys(&directory, "a-key-for-tests");
        let mut serve = semrun_testkit::cloud_server::serve(&directory, 0);
        fails(&serve.args(options).output().unwrap(), 78, &[words]);
    }
}

#[test]
fn a_wrong_key_a_wrong_server_and_none_at_all_are_69() {
    let world = world();
    let run = |key: &str| world.run(["true"]).env("SEMRUN_API_KEY", key).output().unwrap();
    let output = run("a-key-that-opens-nothing");
    fails(&output, 69, &["refused the API key", "--api-key-file"]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("opens-nothing"));
    fails(&run(""), 69, &["none was given", "--api-key-file"]);
    fails(&run("un\u{e4}cceptable"), 78, &["API key"]);
    let redis = semrun_testkit::redis_server::RedisServer::start();
    let url = format!("http://127.0.0.1:{}", redis.port());
    fails(&world.run(["--backend", &url, "true"]).output().unwrap(), 69, &["http://127.0.0.1"]);
    let nowhere = ["--backend", "http://127.0.0.1:1", "-w", "0.5", "true"];
    fails(&world.run(nowhere).output().unwrap(), 69, &["gave up waiting", "Connection refused"]);
}

#[test]
fn other_terms_than_those_in_force_are_said() {
    let world = world();
    let _holder = world.holder(&["-l", "2", "--ttl", "20s"]);
    let output = world.run(["-l", "3", "--ttl", "30s", "--", "echo", "ran"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("limit 2") && stderr.contains("TTL of 20s"), "{stderr}");
    let strict = ["--strict-limit", "-l", "2", "--ttl", "30s", "true"];
    fails(&world.run(strict).output().unwrap(), 78, &["a TTL of 20s", "--strict-limit"]);
}

#[test]
fn an_answer_of_the_original_is_no_concern_of_a_client_that_does_not_ask_for_more() {
    let world = world();
    let client = client(&world);
    let answer = client.get(&path("register", "x"), &[]);
    assert_eq!((answer.header("x-semrun"), answer.body.len()), (None, 36));
    let answer = client.get(&path("observe", "x"), &[OURS]);
    assert_eq!(answer.header("x-semrun"), Some("3"));
}

#[test]
fn a_client_of_the_original_is_known_by_the_label_of_its_key() {
    let world = world();
    let client = client(&world);
    let _held = client.wait_on_semaphore("x");
    let holder = &world.status()["semaphores"][0]["holders"][0];
    assert_eq!((&holder["foreign"], &holder["key"]), (&true.into(), &"first".into()), "{holder}");
    let output = world.semrun(["status", "x"]).output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("  foreign (key first)  "), "{table}");
    let output = world.run(["-w", "0.2", "true"]).output().unwrap();
    let words = "held by another program with the API key first";
    assert!(String::from_utf8_lossy(&output.stderr).contains(words), "{output:?}");
}
