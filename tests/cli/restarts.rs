use std::fmt::Write;
use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::cloud_server::CloudServer;
use super::faults::{OPTIONS, TTL, family, stubborn_family};
use super::leases::{client, server, world};
use super::support::{Running, World, content, fails, is_alive, shows, wait_until};

/// One whose server remembers.
pub(crate) fn remembering() -> World {
    World::in_cloud(CloudServer::ours_with(&["--state-dir", "state"]))
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
fn with_a_state_directory_a_restart_stops_no_holder_and_grants_nothing_twice() {
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
    assert!(stderr.contains("another client may hold the permit"), "{stderr}");
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
    assert!(String::from_utf8_lossy(&output.stderr).contains("no permit is granted for"));
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
    assert_eq!(other.status.code(), Some(75), "not free for a later client");
    holder.finish();
    for waiter in waiters {
        shows(&waiter.finish(), 0, "", "");
    }
    assert_eq!(world.lines("order"), ["0", "1", "2", "3"]);
}

/// The original crashes when it is told of a client that it does not know.
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
