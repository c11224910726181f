use std::fs;
use std::os::unix::fs::PermissionsExt;

use rustix::process::Signal;

use super::cloud_server::CloudServer;
use super::support::{Running, World, is_alive, pid_in, shows, wait_until, worker_of};

/// A run that says how large a core file may be: that of its semrun, of the semrun above, and its own.
const LIMITS: &str =
    "core() { sed -n 's/Max core file size *\\([^ ]*\\).*/\\1/p' /proc/$1/limits; }
    above=$(sed -n 's/PPid:.//p' /proc/$PPID/status)
    core $PPID; core $above; core self";

#[test]
fn a_process_of_ours_that_has_a_secret_leaves_no_core_file_and_the_command_may() {
    let world = World::on_this_machine();
    let file = world.path("password");
    fs::write(&file, "a-password\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let config = world.path("config.toml");
    fs::write(&config, "password = \"a-password\"\n").unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    let (file, config) = (file.to_str().unwrap(), config.to_str().unwrap());
    let run = |variable: (&str, &str)| {
        let line =
            format!("ulimit -S -c 8; exec {} --name x -- sh -c \"$0\"", super::support::SEMRUN);
        let mut shell = std::process::Command::new("bash");
        shell.args(["-c", &line, LIMITS]).envs(world.environment()).env_remove("SEMRUN_API_KEY");
        shell.env(variable.0, variable.1).output().unwrap()
    };
    shows(&run(("NOTHING", "secret")), 0, "8192\n8192\n8192\n", "");
    for variable in [
        ("SEMRUN_API_KEY", "a-key-for-tests"),
        ("SEMRUN_PASSWORD", "a-password"),
        ("SEMRUN_CONFIG", config),
    ] {
        shows(&run(variable), 0, "1\n1\n8192\n", "");
    }
    let world = World::in_redis();
    let password = ["--password-file", file];
    let output = world.script(&password, LIMITS).env_remove("SEMRUN_API_KEY").output().unwrap();
    // What it does with a password that the server does not want is another matter.
    if output.status.success() {
        assert!(output.stdout.starts_with(b"1\n1\n"), "{output:?}");
    }
}

#[test]
fn none_is_left_by_a_signal() {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if pattern.starts_with(['/', '|']) {
        // Not in the directory of the process that dies, where it could be looked for.
        return;
    }
    // One at a time: they would write to the same file.
    for (secret, of_worker) in [(false, false), (false, true), (true, false), (true, true)] {
        let world = World::on_this_machine();
        let line = format!(
            "ulimit -S -c unlimited; exec {} --name x -- sh -c 'echo $$ > pid; exec sleep 100'",
            super::support::SEMRUN
        );
        let mut shell = std::process::Command::new("bash");
        shell.args(["-c", &line]).current_dir(world.path(".")).envs(world.environment());
        if !secret {
            shell.env_remove("SEMRUN_API_KEY");
        }
        let running = Running::start(&mut shell);
        let command = pid_in(&world.path("pid"));
        let process = if of_worker { worker_of(running.pid()) } else { running.pid() };
        rustix::process::kill_process(process, Signal::SEGV).unwrap();
        running.finish();
        wait_until("the other one has ended the command", || !is_alive(command));
        let files = fs::read_dir(world.path(".")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let left = names.filter(|name| name.starts_with("core")).count() > 0;
        assert_eq!(left, !secret, "secret: {secret}, of the worker: {of_worker}");
    }
}

#[test]
fn a_clean_environment_has_no_secret_of_ours() {
    let world = World::on_this_machine();
    let backend = world.backend();
    let show = "env | grep -E '^SEMRUN_(API_KEY|BACKEND|PASSWORD)=' | cut -d= -f1 | sort | xargs";
    let run = |options: &[&str], url: &str| {
        let mut run = world.script(&[&["--backend", &backend], options].concat(), show);
        run.env("SEMRUN_PASSWORD", "a-password").env("SEMRUN_BACKEND", url).output().unwrap()
    };
    let all = "SEMRUN_API_KEY SEMRUN_BACKEND SEMRUN_PASSWORD\n";
    shows(&run(&[], "redis://:p@h"), 0, all, "");
    for url in ["redis://:p@h", "redis+unix:///s?pass=p", "rediss://u:p@h:1/2"] {
        shows(&run(&["--clean-env"], url), 0, "\n", "");
    }
    // One without a password is no secret.
    shows(&run(&["--clean-env"], "redis://u@h"), 0, "SEMRUN_BACKEND\n", "");
}

#[test]
fn a_secret_that_others_can_read_is_said() {
    let world = World::on_this_machine();
    let run = |url: &str, options: &[&str]| {
        let mut run = world.semrun(["--name", "x", "-w", "0.1", "--backend", url]);
        let output = run.args(options).args(["--", "true"]).output().unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    let typed = "every user of this machine can see the password in --backend";
    let local = "redis://:hunter2@127.0.0.1:1";
    assert_eq!(run(local, &[]).matches(typed).count(), 1);
    assert!(!run(local, &["-q"]).contains(typed));
    assert!(!run("redis://127.0.0.1:1", &[]).contains("warning"));
    // Where it goes over the network, to an address that no host has.
    let (key, password) = ("the API key can be read", "the password can be read on the network");
    assert_eq!(run("http://192.0.2.1:1", &["-v"]).matches(key).count(), 1);
    assert_eq!(run("redis://:hunter2@192.0.2.1:1", &["-v"]).matches(password).count(), 1);
    for (url, options) in [
        ("http://192.0.2.1:1", &[][..]),
        ("https://192.0.2.1:1", &["-v"]),
        ("http://127.0.0.1:1", &["-v"]),
        ("http://[::1]:1", &["-v"]),
        ("redis://192.0.2.1:1", &["-v"]),
    ] {
        assert!(!run(url, options).contains("can be read"), "{url}");
    }
}

#[test]
fn a_server_that_others_reach_without_tls_says_so() {
    for (listen, said) in [("0.0.0.0:0", true), ("127.0.0.1:0", false)] {
        let mut server = CloudServer::ours_with(&["--listen", listen]);
        let log = String::from_utf8(server.stop().stderr).unwrap() + &server.log();
        assert_eq!(log.contains("can be read on the network"), said, "{listen}: {log}");
    }
}
