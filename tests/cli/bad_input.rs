use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

use super::support::{Running, SEMRUN, World, fails};

/// Runs a command that must never start, against a backend.
fn never_starts(world: &World, backend: &str) -> Output {
    let mut command = world.run(["--backend", backend, "--", "touch", "started"]);
    let output = command.output().unwrap();
    assert!(!world.path("started").exists(), "the command started");
    output
}

fn in_directory(path: &Path) -> String {
    format!("file://{}", path.display())
}

#[test]
fn usage_errors_are_64_and_say_what_to_change() {
    let world = World::new();
    let long = "x".repeat(201);
    let cases: [(&[&str], &str); 16] = [
        (&["--name", "", "true"], "cannot be empty"),
        (&["--name", &long, "true"], "at most 200 bytes"),
        (&["--name", "a\tb", "true"], "control characters"),
        (&["--name", "x", "--limit", "0", "true"], "1 to 10,000"),
        (&["--name", "x", "-l", "10001", "true"], "1 to 10,000"),
        (&["--name", "x", "-j", "-1", "true"], "-1"),
        (&["--name", "x", "-w", "soon", "true"], "duration"),
        (&["--name", "x", "-w", "1y2", "true"], "duration"),
        (&["--name", "x", "-k", "-5", "true"], "-5"),
        (&["--name", "x", "-E", "256", "true"], "0 to 255"),
        (&["--name", "x", "-s", "NOPE", "true"], "signal"),
        (&["--name", "x", "--orphans", "eat", "true"], "leave, wait, kill"),
        (&["--name", "x", "--label", "a\nb", "true"], "control characters"),
        (&["--name", "x", "--backend", "ftp://h/", "true"], "unknown scheme"),
        (&["true"], "--name"),
        (&["--name", "x"], "command"),
    ];
    for (arguments, word) in cases {
        fails(&world.semrun(arguments).output().unwrap(), 64, &[word]);
    }
    fails(&world.semrun(["status", "a\tb"]).output().unwrap(), 64, &["control characters"]);
    fails(&world.semrun(["status", "--nope"]).output().unwrap(), 64, &["--nope"]);
    fails(&world.run(["true"]).env("SEMRUN_LIMIT", "0").output().unwrap(), 64, &["SEMRUN_LIMIT"]);
    assert!(!world.path("permits").exists(), "nothing was made");
}

#[test]
fn usage_errors_of_subcommands_are_64_as_well() {
    let world = World::on_this_machine();
    let cases: [(&[&str], &str); 21] = [
        (&["limit"], "semrun limit NAME"),
        (&["limit", "x", "0"], "1 to 10,000"),
        (&["limit", "x", "10001"], "1 to 10,000"),
        (&["limit", "x", "some"], "1 to 10,000"),
        (&["limit", "x", "3", "--unpin"], "cannot be used with"),
        (&["limit", ""], "cannot be empty"),
        (&["acquire"], "--name"),
        (&["acquire", "--name", "x", "true"], "unexpected"),
        (&["acquire", "--name", "x", "--ttl", "4.9"], "shorter than 5s"),
        (&["renew"], "--permit"),
        (&["renew", "--permit", "x"], "UUID@NAME"),
        (&["renew", "--while-pid", "0"], "number of a process"),
        (&["release"], "--permit"),
        (&["release", "--permit", "x@x"], "UUID@NAME"),
        (&["release", "--now"], "--force"),
        (&["status", "-l", "0"], "1 to 10,000"),
        (&["-n", "status"], "before 'status'"),
        (&["doctor", "x"], "unexpected"),
        (&["--backend", "file:///x", "serve"], "a server has no backend"),
        (&["completions", "csh"], "bash"),
        (&["man", "nope"], "no subcommand 'nope'"),
    ];
    for (arguments, word) in cases {
        fails(&world.semrun(arguments).output().unwrap(), 64, &[word]);
    }
    let mut serve = world.semrun(["serve"]);
    let output = serve.env_remove("SEMRUN_API_KEY").output().unwrap();
    fails(&output, 64, &["--api-key-file", "SEMRUN_API_KEY"]);
    assert!(!world.path("permits").exists(), "nothing was made");
}

#[test]
fn what_this_version_cannot_do_is_78() {
    let world = World::new();
    for url in ["redis+cluster://u:geheim@h", "redis+sentinel://geheim@h"] {
        let output = never_starts(&world, url);
        fails(&output, 78, &["--backend", "not supported"]);
        assert!(!String::from_utf8_lossy(&output.stderr).contains("geheim"));
    }
}

#[test]
fn a_backend_that_cannot_be_reached_is_69_for_every_subcommand() {
    let world = World::on_this_machine();
    let permit = "1b4e28ba-2fa1-4d5e-883f-0016d3cca427@x";
    let lines: [&[&str]; 7] = [
        &["--name", "x", "true"],
        &["status"],
        &["status", "--watch", "x"],
        &["acquire", "--name", "x"],
        &["renew", "--permit", permit],
        &["release", "--permit", permit],
        &["limit", "x", "3"],
    ];
    let start = |line: &&[&str]| {
        let mut semrun = world.semrun(*line);
        Running::start(semrun.env("SEMRUN_BACKEND", "redis://:geheim@127.0.0.1:1"))
    };
    let started: Vec<_> = lines.iter().map(start).collect();
    for running in started {
        let output = running.finish();
        fails(&output, 69, &["redis://:***@127.0.0.1:1: ", "refused"]);
        assert!(!String::from_utf8_lossy(&output.stderr).contains("geheim"));
    }
}

#[test]
fn a_place_that_is_no_directory_of_ours_is_69() {
    let world = World::new();
    fs::write(world.path("file"), "").unwrap();
    fails(&never_starts(&world, &in_directory(&world.path("file"))), 69, &["not a directory"]);
    fs::create_dir(world.path("real")).unwrap();
    symlink(world.path("real"), world.path("link")).unwrap();
    for link in ["link", "link/"] {
        fails(&never_starts(&world, &in_directory(&world.path(link))), 69, &["symbolic link"]);
    }
    assert_eq!(fs::read_dir(world.path("real")).unwrap().count(), 0);
    let missing = in_directory(&world.path("no/such/place"));
    fails(&never_starts(&world, &missing), 69, &["/no/such/place", "cannot create"]);
    fs::create_dir(world.path("open")).unwrap();
    fs::set_permissions(world.path("open"), fs::Permissions::from_mode(0o777)).unwrap();
    fails(&never_starts(&world, &in_directory(&world.path("open"))), 69, &["chmod o-w"]);
}

#[test]
fn files_that_semrun_did_not_make_are_not_touched() {
    let world = World::new();
    assert!(world.run(["true"]).status().unwrap().success());
    let mutex = world.path("permits/x/mutex");
    fs::remove_file(&mutex).unwrap();
    fs::write(world.path("precious"), "precious").unwrap();
    symlink(world.path("precious"), &mutex).unwrap();
    fails(&never_starts(&world, &world.backend()), 69, &["'x'"]);
    fs::remove_file(&mutex).unwrap();
    fs::hard_link(world.path("precious"), &mutex).unwrap();
    fails(&never_starts(&world, &world.backend()), 69, &["mutex", "remove it"]);
    assert_eq!(fs::read_to_string(world.path("precious")).unwrap(), "precious");
    // A link in place of the semaphore's directory.
    fs::remove_dir_all(world.path("permits/x")).unwrap();
    fs::create_dir(world.path("elsewhere")).unwrap();
    symlink(world.path("elsewhere"), world.path("permits/x")).unwrap();
    fails(&never_starts(&world, &world.backend()), 69, &["'x'"]);
    assert_eq!(fs::read_dir(world.path("elsewhere")).unwrap().count(), 0);
}

#[test]
fn a_full_disk_is_69_and_leaves_nothing_behind() {
    let world = World::new();
    // Full of data, then of files: the first has no room for the state, the second for a FIFO.
    for fill in [
        "dd if=/dev/zero of=disk/fill 2>/dev/null",
        "i=0; while touch disk/$i 2>/dev/null; do i=$((i+1)); done",
    ] {
        let script = format!(
            "mkdir -p disk; mount -t tmpfs -o size=64k,nr_inodes=40 none disk; chmod 700 disk
             export SEMRUN_BACKEND=file://$PWD/disk
             $semrun --name made -- true
             {{ {fill}; }} || true
             for name in made new; do
                 $semrun --name $name -- touch started || echo code $?
                 $semrun status --json $name
             done
             test ! -e started
             ls disk/made; ls disk/new || true
             rm -f disk/fill disk/[0-9]*
             $semrun --name made -n -- true; $semrun --name new -n -- true"
        );
        let output = world.with_mounts(&script);
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{stdout}{stderr}");
        assert_eq!(stdout.matches("code 69").count(), 2, "{stdout}{stderr}");
        let errors: Vec<_> = stderr.lines().filter(|line| line.starts_with("semrun: ")).collect();
        assert_eq!(errors.len(), 2, "{stderr}");
        for error in errors {
            assert!(
                error.contains("No space left") && error.contains("free some space"),
                "{error}"
            );
        }
        assert!(!stdout.contains("s.0") && !stdout.contains("q.0"), "{stdout}");
        assert!(stdout.contains("mutex"), "{stdout}");
    }
}

#[test]
fn a_full_disk_does_not_keep_a_permit_from_passing_on() {
    let world = World::new();
    let script = "
        mkdir disk; mount -t tmpfs -o size=64k none disk; chmod 700 disk
        export SEMRUN_BACKEND=file://$PWD/disk
        $semrun --name x -- sh -c 'echo > held; while [ ! -e go ]; do sleep 0.02; done; echo first' &
        while [ ! -e held ]; do sleep 0.02; done
        dd if=/dev/zero of=disk/fill 2>/dev/null || true
        touch go; wait
        $semrun status x";
    let output = world.with_mounts(script);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "first\nx: free\n", "{output:?}");
}

#[test]
fn a_network_or_user_space_file_system_is_78() {
    let world = World::new();
    // A file system in user space that no process serves: the kernel answers statfs(2) of its root.
    let script = "
        mkdir remote; bindfs -o nonempty . remote >&2
        $semrun --name x --backend file://$PWD/remote -- touch started || echo code $?
        umount remote; test ! -e started; ls remote";
    let output = world.with_mounts(script);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "code 78\n", "{stderr}");
    assert!(stderr.contains("FUSE") && stderr.contains("--backend"), "{stderr}");
}

#[test]
fn too_few_open_files_is_a_one_line_error_whatever_is_missing() {
    let world = World::new();
    assert!(world.run(["true"]).status().unwrap().success());
    let mut codes = Vec::new();
    for limit in 3..40 {
        let script = format!("ulimit -n {limit}; exec {SEMRUN} --name x -- touch started");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).current_dir(world.path(".")).envs(world.environment());
        let output = shell.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let code = output.status.code().unwrap();
        codes.push(code);
        if code == 0 {
            assert!(world.path("started").exists());
            break;
        }
        // Below a handful not even the dynamic linker can open its files.
        assert!(!world.path("started").exists());
        if stderr.starts_with("semrun: ") {
            assert!(matches!(code, 69 | 125), "{code}: {stderr}");
            assert!(
                stderr.contains("ulimit -n") || stderr.contains("oo many open files"),
                "{stderr}"
            );
            assert_eq!(stderr.lines().count(), 1, "{stderr}");
        }
        assert_eq!(world.leftovers(), [""; 0], "{limit}: {stderr}");
    }
    assert!(codes.contains(&69) && codes.contains(&125) && codes.ends_with(&[0]), "{codes:?}");
}

#[test]
fn what_stands_for_a_closed_stream_has_to_be_there() {
    let world = World::new();
    // Otherwise what is opened next would be taken for the stream.
    let script = "
        export SEMRUN_BACKEND=file://$PWD/permits
        mkdir -m 700 permits; exec 3< /dev/null
        mount -t tmpfs tmpfs /dev
        $semrun --name x -- touch one <&3 || echo $?
        $semrun --name x -- touch two <&3 2>&- || echo $?
        ls one two 2>&3 || true";
    let output = world.with_mounts(script);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "125\none\n", "{stderr}");
}

#[test]
fn an_unusable_place_ends_the_waiting_of_no_other_client() {
    let world = World::new();
    let holder = world.holder(&[]);
    let waiter = world.waiter(&["-q"], "echo ran");
    // The directory becomes unreadable for a moment; holders and waiters do not care.
    let permits = world.path("permits");
    fs::set_permissions(&permits, fs::Permissions::from_mode(0o000)).unwrap();
    drop(holder);
    fs::set_permissions(&permits, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(waiter.finish().stdout, b"ran\n");
}
