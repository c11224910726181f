use std::time::{Duration, Instant};

use super::support::World;

#[test]
fn a_foreign_release_is_noticed_soon_and_a_foreign_crash_after_two_ttls() {
    let world = World::in_redis();
    let server = world.server();
    let now = || {
        let (seconds, micros): (i64, i64) = server.ask(&["TIME"]);
        seconds * 1000 + micros / 1000
    };
    let foreign = "33333333-3333-4333-8333-333333333333";
    let _: i64 = server.ask(&["ZADD", "semrun-x", &(now() + 60_000).to_string(), foreign]);
    let waiter = world.waiter(&["--ttl", "5s"], "echo ran");
    let _: i64 = server.ask(&["ZREM", "semrun-x", foreign]);
    let released = Instant::now();
    assert_eq!(waiter.finish().stdout, b"ran\n");
    assert!(released.elapsed() < Duration::from_secs(2), "no waiter is woken, so it has to look");

    // Expired a second ago: PassBuddy counts it for four more.
    let _: i64 = server.ask(&["ZADD", "semrun-x", &(now() - 1_000).to_string(), foreign]);
    let end = now() + 4_000;
    let waiter = world.waiter(&["--ttl", "5s"], "echo ran");
    assert_eq!(waiter.finish().stdout, b"ran\n");
    assert!(now() >= end);
}

#[test]
fn who_does_not_name_the_ttl_is_told_of_foreign_holders_once() {
    let world = World::in_redis();
    let foreign = "33333333-3333-4333-8333-333333333333";
    let _: i64 = world.server().ask(&["ZADD", "semrun-x", "9999999999999", foreign]);
    let output = world.script(&["-l", "2"], "").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("other programs (PassBuddy?) hold permits of 'x'"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1);
    let output = world.script(&["-l", "2", "--ttl", "30s"], "").output().unwrap();
    assert_eq!(output.stderr, b"");
}
