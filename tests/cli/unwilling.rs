use std::io::{BufRead, BufReader};

use super::redis_server::RedisServer;
use super::support::{World, fails, shows};

/// Servers that do not grant a command, in the two ways in which that is said.
fn without(command: &str) -> [World; 2] {
    let forbidden = World::in_redis();
    let rule = format!("-{command}");
    let _: () = forbidden.server().ask(&["ACL", "SETUSER", "default", &rule]);
    let renamed = RedisServer::with(&["--rename-command", command, ""]);
    [forbidden, World::in_server(renamed)]
}

#[test]
fn what_is_not_granted_and_not_needed_is_done_without_and_said_once() {
    for world in without("INFO") {
        let output = world.run(["echo", "ran"]).output().unwrap();
        assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"ran\n"[..]));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(stderr.matches("does not answer INFO").count(), 1, "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        shows(&world.semrun(["status", "x"]).output().unwrap(), 0, "x: free\n", "");
        let doctor = world.semrun(["doctor"]).output().unwrap();
        let stdout = String::from_utf8_lossy(&doctor.stdout);
        assert!(doctor.status.success() && stdout.contains("does not answer INFO"), "{stdout}");
    }
    for command in ["CONFIG", "CLIENT"] {
        for world in without(command) {
            shows(&world.run(["echo", "ran"]).output().unwrap(), 0, "ran\n", "");
            let doctor = world.semrun(["doctor"]).output().unwrap();
            assert!(doctor.status.success(), "{command}: {doctor:?}");
        }
    }
}

#[test]
fn one_that_may_not_be_woken_says_so_and_gets_its_permit_all_the_same() {
    for world in without("BLPOP") {
        let holder = world.holder(&[]);
        let mut waiter = world.waiter(&["--ttl", "5s"], "echo ran");
        let lines = BufReader::new(waiter.stderr.take().unwrap()).lines();
        let mut told = lines.map(Result::unwrap).filter(|line| line.contains("BLPOP"));
        assert!(told.next().is_some_and(|line| line.contains("does not answer BLPOP")));
        drop(holder);
        let output = waiter.finish();
        assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"ran\n"[..]));
        assert_eq!(told.next(), None, "it is said once");
        let doctor = world.semrun(["doctor"]).output().unwrap();
        let stdout = String::from_utf8_lossy(&doctor.stdout);
        assert!(doctor.status.success() && stdout.contains("does not answer BLPOP"), "{stdout}");
    }
}

#[test]
fn what_is_needed_and_not_granted_is_said_in_the_servers_words() {
    for command in ["EVALSHA", "TIME"] {
        for world in without(command) {
            let output = world.run(["true"]).output().unwrap();
            fails(&output, 69, &["cannot take a permit of 'x'"]);
        }
    }
}

#[test]
fn a_redis_that_has_just_come_up_is_not_busy() {
    let world = World::in_redis();
    let fresh =
        |words: &[&str]| world.semrun(words).env("SEMRUN_QUARANTINE", "10m").output().unwrap();
    let looks_so = || {
        let output = fresh(&["status", "x"]);
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(
            stdout.starts_with("x: free in ") && stdout.ends_with("(quarantine)\n"),
            "{stdout}"
        );
        assert_eq!(output.status.code(), Some(75));
    };
    looks_so();
    let document = fresh(&["status", "--json", "x"]);
    let document: serde_json::Value = serde_json::from_slice(&document.stdout).unwrap();
    assert!(document["semaphores"][0]["paused_ms"].as_u64().is_some_and(|left| left > 500_000));
    let keys: Vec<String> = world.server().ask(&["KEYS", "*"]);
    assert_eq!(keys, [""; 0], "looking has written something");
    let words = "no permit is granted for ";
    fails(&fresh(&["--name", "x", "-n", "-E", "0", "true"]), 69, &[words, "--quarantine"]);
    let output = fresh(&["--name", "x", "-w", "0.3", "true"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{stderr}");
    assert!(stderr.contains("gave up waiting for 'x': no permit is granted"), "{stderr}");
    fails(&fresh(&["acquire", "--name", "x", "-n"]), 69, &[words]);
    looks_so();
}
