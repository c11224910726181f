use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use super::cloud_server::{CloudServer, KEY};
use super::faults::{family, stubborn_family, worker};
use super::http::Client;
use super::proxy::Proxy;
use super::support::{
    Leftover, Running, World, content, fails, is_alive, pid_in, shows, wait_until,
};

fn world() -> World {
    World::in_cloud(CloudServer::like_node())
}

fn server(world: &mut World) -> &mut CloudServer {
    world.cloud.as_mut().unwrap()
}

fn client(world: &World) -> Client {
    Client::new(world.cloud.as_ref().unwrap().port(), KEY)
}

fn running(world: &World) -> Option<String> {
    client(world).observe("x")["running"].as_str().map(String::from)
}

#[test]
fn what_it_cannot_do_is_78_and_nothing_starts_or_stays() {
    let world = world();
    let touch = world.path("ran");
    let output = world.run(["-l", "2", "touch"]).arg(&touch).output().unwrap();
    fails(&output, 78, &["one permit a name", "2 were asked for"]);
    fails(&world.semrun(["status"]).output().unwrap(), 78, &["does not tell its names"]);
    assert!(!touch.exists());
    assert_eq!(client(&world).get("/semaphore/observe?name=x", &[]).body, "");
}

#[test]
fn there_is_no_fencing_token_not_even_that_of_a_permit_around_it() {
    let world = world();
    let script = "echo \"[${SEMRUN_FENCING_TOKEN-unset}] $SEMRUN_PERMIT\"";
    let mut run = world.script(&[], script);
    let output = run.env("SEMRUN_FENCING_TOKEN", "7").output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.starts_with("[unset] ") && stdout.ends_with("@x\n"), "{stdout}");
}

#[test]
fn losing_the_connection_is_losing_the_permit_and_leaves_no_time() {
    type Loss = fn(&mut World);
    let losses: [(&str, Loss); 3] = [
        ("the server closed the connection", |world| server(world).kill()),
        ("the server closed the connection", |world| {
            server(world).kill();
            server(world).start_again();
        }),
        ("another client gave the permit back", |world| {
            let id = running(world).unwrap();
            assert_eq!(client(world).signal("x", &id).status, 200);
        }),
    ];
    for (words, lose) in losses {
        let mut world = world();
        // The signal that a command is stopped with comes first, where there is time for it.
        let script = format!("trap 'echo > told' USR1; {}", stubborn_family());
        let holder = Running::start(&mut world.script(&["-s", "USR1"], &script));
        let members = family(&world);
        lose(&mut world);
        let output = holder.finish();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(76), "{stderr}");
        assert!(stderr.contains(words), "no {words:?} in {stderr}");
        assert!(members.iter().all(|pid| !is_alive(*pid)));
        assert!(!world.path("told").exists());
    }
}

#[test]
fn a_cut_connection_ends_the_command_and_who_waits_begins_anew() {
    let world = world();
    let port = world.cloud.as_ref().unwrap().port();
    let proxies = [Proxy::to(port), Proxy::to(port)];
    let urls = proxies.each_ref().map(|proxy| format!("http://127.0.0.1:{}", proxy.port));
    let [through, beside] = urls.each_ref().map(|url| ["--backend", url]);
    let holder = Running::start(&mut world.script(&through, "echo > held; sleep 100"));
    content(&world.path("held"));
    let waiter = Running::start(&mut world.script(&beside, "echo ran"));
    wait_until("it waits", || world.waiters().len() == 1);
    let before = world.leftovers();
    proxies[1].cut();
    wait_until("it waits again", || world.waiters().len() == 1 && world.leftovers() != before);
    proxies[0].cut();
    assert_eq!(holder.finish().status.code(), Some(76));
    let output = waiter.finish();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert_eq!(output.stdout, b"ran\n", "{stderr}");
    let mut world = world;
    assert!(server(&mut world).is_running());
    assert_eq!(world.leftovers(), [""; 0]);
}

#[test]
fn what_descends_from_a_command_keeps_its_permit_when_all_of_semrun_is_killed() {
    let world = world();
    let script = "setsid sh -c 'echo $$ > daemon; exec sleep 100' & echo > held; exec sleep 100";
    let holder = Running::start(&mut world.script(&[], script));
    let daemon = Leftover(pid_in(&world.path("daemon")));
    content(&world.path("held"));
    let waiter = world.waiter(&["-q"], "echo ran");
    let both = [worker(&holder), holder.pid()];
    for signal in [Signal::STOP, Signal::KILL] {
        for pid in both {
            kill_process(pid, signal).unwrap();
        }
    }
    holder.finish();
    std::thread::sleep(Duration::from_millis(500));
    assert!(is_alive(daemon.0) && running(&world).is_some(), "taken as long as it lives");
    drop(daemon);
    shows(&waiter.finish(), 0, "ran\n", "");
}

#[test]
fn what_a_command_leaves_running_does_not_keep_the_permit() {
    let world = world();
    let script = "setsid sleep 100 > /dev/null 2>&1 & echo $! > daemon";
    shows(&world.script(&[], script).output().unwrap(), 0, "", "");
    let _daemon = Leftover(pid_in(&world.path("daemon")));
    shows(&world.run(["-n", "echo", "ran"]).output().unwrap(), 0, "ran\n", "");
}

#[test]
fn a_nested_run_goes_ahead_under_the_permit_around_it() {
    let world = world();
    let script = format!("{} --name x -- echo inner", super::support::SEMRUN);
    shows(&world.script(&[], &script).output().unwrap(), 0, "inner\n", "");
}

#[test]
fn who_leaves_is_forgotten_at_once() {
    let world = world();
    let _holder = world.holder(&[]);
    for _ in 0..5 {
        let output = world.run(["-n", "true"]).output().unwrap();
        shows(&output, 75, "", "");
        let output = world.run(["-q", "-w", "0.1", "true"]).output().unwrap();
        assert_eq!(output.status.code(), Some(75));
        assert_eq!(world.leftovers().len(), 1, "the holder alone");
    }
    let waiter = world.waiter(&["-q"], "echo no");
    waiter.signal(Signal::TERM);
    assert_eq!(waiter.finish().status.code(), Some(143));
    assert_eq!(world.leftovers().len(), 1);
}

/// It would end at once if it ever heard of an identity that it does not know.
#[test]
fn it_survives_clients_that_are_killed_at_any_moment_and_restarts_under_them() {
    let mut world = world();
    // Splitmix, for moments that differ and can be repeated.
    let mut state = 42_u64;
    let mut random = |below: u64| {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % below
    };
    // A process that is just ending closes its connection a moment before it gives up its locks.
    let judged = "exec 9>judge; flock -w 0.01 9 || echo >> violations; sleep 0.03";
    let started = Instant::now();
    let mut killed = 0;
    while started.elapsed() < Duration::from_secs(8) {
        let runs: Vec<_> =
            (0..4).map(|_| Running::start(&mut world.script(&["-q"], judged))).collect();
        std::thread::sleep(Duration::from_micros(random(40_000)));
        for run in &runs {
            if random(2) == 0 {
                let victims = super::support::children(run.pid());
                let victim = victims.first().map_or(run.pid(), |(pid, _)| *pid);
                let victim = if random(2) == 0 { victim } else { run.pid() };
                let _ = kill_process(victim, Signal::KILL);
                killed += 1;
            }
        }
        assert!(server(&mut world).is_running(), "{}", server(&mut world).log());
        if random(8) == 0 {
            // What runs then is killed, but not before another client can begin: the original knows
            // nothing of it.
            drop(runs);
            server(&mut world).kill();
            server(&mut world).start_again();
        } else {
            for run in runs {
                run.finish();
            }
        }
    }
    assert!(killed > 50, "{killed}");
    assert_eq!(world.lines("violations"), [""; 0]);
    wait_until("no client is left", || {
        let observed = client(&world).get("/semaphore/observe?name=x", &[]).body;
        observed.is_empty()
            || (observed.contains("\"waiting\": []") && observed.contains("\"running\": null"))
    });
}

#[test]
fn a_host_that_is_cut_off_kills_its_command() {
    let world = World::on_this_machine();
    std::fs::write(world.path("keys"), "a-key-for-tests\n").unwrap();
    let double = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/cloud_server.py");
    // Two hosts: network namespaces of this test's own, with a cable between them.
    let output = world.with_network(&format!(
        r#"chmod 600 keys
           python3 {double} 10.9.8.1:0 a-key-for-tests > line &
           server=$!
           $semrun serve --listen 10.9.8.1:0 --api-key-file keys > ours 2> /dev/null &
           ours=$!
           trap 'kill $server $ours' EXIT
           for file in line ours; do
               i=0; until grep -q port $file; do sleep 0.01; i=$((i+1)); [ $i -lt 1000 ]; done
           done
           export SEMRUN_API_KEY=a-key-for-tests
           original=http://10.9.8.1:$(sed 's/.* //' line) leases=http://10.9.8.1:$(sed 's/.* //' ours)
           there $semrun --backend $original --name x -- sh -c 'echo > one; sleep 100' 2> first &
           first=$!
           there $semrun --backend $leases --ttl 5s --name x -- sh -c 'trap "" TERM; echo $$ > two; sleep 100; sleep 100' 2> second &
           second=$!
           for file in one two; do
               i=0; until [ -e $file ]; do sleep 0.01; i=$((i+1)); [ $i -lt 1000 ]; done
           done
           $semrun --backend $leases -q --name x -- sh -c 'kill -0 $(cat two) 2> /dev/null && echo alive; echo next' > third &
           next=$!
           ip link set cable down
           wait $second || echo second $?
           wait $next
           cat third
           wait $first || echo first $?"#
    ));
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(stdout, "second 76\nnext\nfirst 76\n", "{stderr}");
}

#[test]
fn a_server_that_takes_the_place_of_the_original_for_a_while_ends_no_waiting() {
    let mut world = world();
    let _holder = world.holder(&[]);
    let waiter = world.waiter(&[], "echo ran");
    let port = world.cloud.as_ref().unwrap().port();
    server(&mut world).kill();
    // Something that knows nothing of semaphores.
    let mut other = std::process::Command::new("python3");
    other.args(["-m", "http.server", "--bind", "127.0.0.1", &port.to_string()]);
    other.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let other = Running::start(&mut other);
    wait_until("it listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    std::thread::sleep(Duration::from_millis(500));
    drop(other);
    server(&mut world).start_again();
    let output = waiter.finish();
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"ran\n"[..]));
}

#[test]
fn a_signal_at_any_moment_leaves_no_process_behind() {
    let world = world();
    for millis in 0..20 {
        let run = Running::start(&mut world.run(["-q", "--", "true"]));
        std::thread::sleep(Duration::from_micros(millis * 300));
        run.signal(Signal::TERM);
        run.finish();
    }
    wait_until("no client is known", || {
        let observed = client(&world).get("/semaphore/observe?name=x", &[]).body;
        observed.is_empty() || observed.contains("\"nodes\": {}")
    });
}
