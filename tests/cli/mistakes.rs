//! Typing mistakes, and habits from other programs: each gets an answer that helps.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use semrun_testkit::cloud_server::CloudServer;

use super::support::{World, shows};

/// What is typed after `semrun`, the exit code, and what has to be said about it.
type Row = (&'static str, i32, &'static [&'static str]);

/// Types each line, and reads what is said: one line, with those words, and never a tip of the library
/// that reads options.
fn answers(world: &World, variables: &[(&str, &str)], rows: &[Row]) {
    for (typed, code, words) in rows {
        let script = format!("exec semrun {typed}");
        let path = std::env::var("PATH").unwrap();
        let program = std::path::Path::new(super::support::SEMRUN).parent().unwrap();
        let mut shell = std::process::Command::new("sh");
        let output = shell
            .args(["-c", &script])
            .current_dir(world.path(""))
            .env_clear()
            .env("PATH", format!("{}:{path}", program.display()))
            .envs(world.environment())
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(*code), "{typed}: {said}");
        assert!(output.stdout.is_empty(), "{typed}");
        assert_eq!(said.lines().count(), 1, "{typed}: {said}");
        for word in *words {
            assert!(said.contains(word), "{typed}: no {word:?} in {said}");
        }
        for never in ["tip:", "as a value, use", "'-- -", "behind"] {
            assert!(!said.contains(never), "{typed}: {never:?} in {said}");
        }
    }
    assert!(!world.path("ran").exists(), "something ran");
}

#[test]
fn a_word_in_the_place_of_a_subcommand() {
    let rows: [Row; 17] = [
        ("statsu", 64, &["no subcommand 'statsu'", "did you mean 'semrun status'?", "-- statsu"]),
        ("stauts x", 64, &["did you mean 'semrun status'?"]),
        ("relase --permit x", 64, &["did you mean 'semrun release'?"]),
        ("docter", 64, &["did you mean 'semrun doctor'?"]),
        ("list", 64, &["no subcommand 'list'", "'semrun status'"]),
        ("version", 64, &["semrun --version"]),
        ("help statsu", 64, &["no subcommand 'statsu'", "'status'"]),
        ("man statsu", 64, &["no subcommand 'statsu'", "'status'"]),
        ("help nonsense", 64, &["no subcommand 'nonsense'", "acquire", "serve"]),
        ("unlock", 64, &["'semrun release'"]),
        ("run --name x -- touch ran", 64, &["'run'", "semrun --name NAME -- COMMAND"]),
        ("exec touch ran", 64, &["'exec'", "semrun --name NAME -- COMMAND"]),
        ("lock", 64, &["'lock'", "semrun --name NAME -- COMMAND"]),
        ("lock x -- touch ran", 64, &["no semaphore named", "semrun --name x -- touch"]),
        ("deploy -- touch ran", 64, &["semrun --name deploy -- touch"]),
        ("deploy touch ran", 64, &["semrun --name deploy -- COMMAND"]),
        (
            "-- touch ran",
            64,
            &["no semaphore named; give --name NAME: semrun --name NAME -- touch"],
        ),
    ];
    answers(&World::on_this_machine(), &[], &rows);
}

#[test]
fn a_slip_runs_nothing_where_a_variable_names_the_semaphore() {
    let world = World::on_this_machine();
    let set = [("SEMRUN_NAME", "x")];
    let rows: [Row; 3] = [
        ("statsu", 64, &["no subcommand 'statsu'", "'semrun status'", "--name NAME -- statsu"]),
        ("relase x", 64, &["'semrun release'"]),
        ("-n 3 touch ran", 64, &["-n takes no value", "-l 3"]),
    ];
    answers(&world, &set, &rows);
    assert!(!world.path("permits").exists(), "a permit was taken");
    // A program of that name is meant, and so is what comes after two dashes.
    fs::create_dir(world.path("bin")).unwrap();
    for name in ["statsu", "unmade"] {
        fs::write(world.path("bin").join(name), "#!/bin/sh\necho ran\n").unwrap();
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(world.path("bin").join(name), mode).unwrap();
    }
    let path = format!("{}:{}", world.path("bin").display(), std::env::var("PATH").unwrap());
    for line in [&["statsu"][..], &["--", "statsu"], &["unmade"]] {
        let mut semrun = world.semrun(line);
        let output = semrun.env("PATH", &path).envs(set).output().unwrap();
        shows(&output, 0, "ran\n", "");
    }
}

#[test]
fn options_in_the_wrong_place_or_with_a_wrong_value() {
    let rows: [Row; 33] = [
        ("--name x", 64, &["no command to run", "semrun --name x -- COMMAND"]),
        ("touch ran --name x", 64, &["'--name' came after 'touch'", "before it"]),
        ("touch --name=x ran", 64, &["'--name' came after 'touch'"]),
        ("-n 3 --name x -- touch ran", 64, &["-n takes no value", "-l 3"]),
        ("--name x -n 3 touch ran", 64, &["-n takes no value", "-l 3"]),
        ("--name x --no-wait 3 touch ran", 64, &["-n takes no value"]),
        ("--name x -n=3 -- touch ran", 64, &["-n takes no value", "-l 3"]),
        ("--name x --nonblock=3 -- touch ran", 64, &["--nonblock takes no value", "-l 3"]),
        ("--name x -v=1 -- touch ran", 64, &["-v takes no value"]),
        ("--name x --foreground=1 touch ran", 64, &["--foreground takes no value"]),
        ("--name x -w -5 touch ran", 64, &["'-5' for '--wait", "not a duration"]),
        ("--name x -k -5 touch ran", 64, &["'-5' for '--kill-after", "not a duration"]),
        ("--name x -nw -5 touch ran", 64, &["'-5' for '--wait"]),
        ("--name x --limit -3 touch ran", 64, &["'-3' for '--limit", "1 to 10,000"]),
        ("--name x --label -5 touch ran", 64, &["--label=-5"]),
        ("--nmae x touch ran", 64, &["unexpected argument '--nmae'", "'--name'"]),
        ("--lock x touch ran", 64, &["that is --name NAME"]),
        ("--name x --concurrency 3 touch ran", 64, &["that is --limit N"]),
        ("--name x -L 3 touch ran", 64, &["unexpected argument '-L'", "'-l'"]),
        ("--name x -Z touch ran", 64, &["unexpected argument '-Z'"]),
        ("--json status", 64, &["it goes after 'status': semrun status"]),
        ("--watch", 64, &["an option of status"]),
        ("-v status", 64, &["'-v, --verbose'", "'status'"]),
        ("-n status", 64, &["'-n, --nonblock' does nothing for 'status'", "--backend"]),
        ("-l 3 status", 64, &["'-l, --limit' goes after 'status'"]),
        ("-c echo hi", 64, &["quote it", "-c 'echo hi'"]),
        ("--name x -c echo hi", 64, &["quote it"]),
        ("--name x --orphans kil touch ran", 64, &["'kil' for '--orphans", "leave, wait, kill"]),
        ("--name x --wait", 64, &["a value is required for '--wait"]),
        ("--name x -s NOPE touch ran", 64, &["'NOPE'"]),
        ("--name x --config /nope touch ran", 78, &["--config: there is no file /nope"]),
        ("--name x -w 5 -n touch ran", 64, &["--wait", "cannot be used with"]),
        ("--name x --name y touch ran", 64, &["--name is given twice"]),
    ];
    let world = World::on_this_machine();
    answers(&world, &[], &rows);
    let rows: [Row; 2] = [
        ("--name x touch ran", 64, &["SEMRUN_NONBLOCK: 'yes' is not one of 1, 0, true, false"]),
        ("status -l 0", 64, &["1 to 10,000", "'semrun status --help'"]),
    ];
    answers(&world, &[("SEMRUN_NONBLOCK", "yes")], &rows);
}

#[test]
fn subcommands_with_operands_and_options_that_they_do_not_have() {
    let rows: [Row; 24] = [
        ("release x", 64, &["'x'", "--permit", "'semrun release --help'"]),
        ("release --name x", 64, &["unexpected argument '--name'", "'semrun release --help'"]),
        ("renew x", 64, &["--permit UUID@NAME", "'semrun renew --help'"]),
        ("renew", 64, &["no permit named", "'semrun renew --help'"]),
        ("acquire x", 64, &["semrun acquire --name x", "'semrun acquire --help'"]),
        ("acquire", 64, &["no semaphore named", "'semrun acquire --help'"]),
        ("acquire --name x touch ran", 64, &["acquire runs no command"]),
        ("acquire --name x --max-runtime 3", 64, &["an option of a run", "not of acquire"]),
        ("acquire --name x -w -5", 64, &["'-5' for '--wait", "'semrun acquire --help'"]),
        (
            "status --name x",
            64,
            &["the name is an operand: semrun status x", "'semrun status --help'"],
        ),
        ("status --name=x", 64, &["semrun status x"]),
        ("status -n x", 64, &["an option of a run", "'semrun status --help'"]),
        ("status --jsno", 64, &["did you mean '--json'?"]),
        ("status --shell", 64, &["an option of acquire, not of status"]),
        ("limit --name x 5", 64, &["semrun limit x", "'semrun limit --help'"]),
        ("limit", 64, &["<NAME>", "'semrun limit --help'"]),
        ("limit x 3 5", 64, &["unexpected argument '5'", "at most one number"]),
        ("limit x -5", 64, &["unexpected argument '-5'"]),
        ("doctor x", 64, &["semrun doctor --name x"]),
        ("completions tcsh", 64, &["'tcsh'", "bash, elvish, fish", "'semrun completions --help'"]),
        ("completions", 64, &["<SHELL>"]),
        ("serve --listen 3202", 64, &["'3202'", "127.0.0.1:3202", "'semrun serve --help'"]),
        ("serve --listen localhost", 64, &["localhost:3202"]),
        (
            "serve --port 3202",
            64,
            &["--listen HOST:PORT", "127.0.0.1:3202", "'semrun serve --help'"],
        ),
    ];
    answers(&World::on_this_machine(), &[], &rows);
}

#[test]
fn every_subcommand_names_its_own_help_and_no_option_is_an_operand() {
    let world = World::on_this_machine();
    let subcommands = [
        "status",
        "acquire",
        "renew",
        "release",
        "limit",
        "serve",
        "doctor",
        "completions",
        "man",
        "help",
    ];
    for subcommand in subcommands {
        for option in ["--nonsense", "-Z", "--nonsense=3"] {
            let output = world.semrun([subcommand, option]).output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(64), "{said}");
            let help = format!("try 'semrun {subcommand} --help'");
            assert!(said.contains(&help) && !said.contains("tip:"), "{said}");
        }
    }
}

#[test]
fn what_is_no_url_is_shown_unless_it_may_hold_a_secret() {
    let rows: [Row; 8] = [
        ("--backend localhost status", 64, &["'localhost'", "redis://localhost"]),
        ("--backend /srv/x status", 64, &["'/srv/x'", "file:///srv/x"]),
        ("--backend 127.0.0.1:6379 status", 64, &["redis://127.0.0.1:6379"]),
        ("--backend cache:3202 status", 64, &["http://cache:3202"]),
        ("--backend redi://h status", 64, &["'redi'", "redis://"]),
        ("--backend postgres://h status", 64, &["unknown scheme 'postgres'"]),
        ("--backend file://relative status", 64, &["file:///srv/semrun"]),
        ("--name x --backend localhost touch ran", 64, &["redis://localhost"]),
    ];
    let world = World::on_this_machine();
    answers(&world, &[], &rows);
    for url in
        ["user:geheim@host", ":geheim@h", "postgres://u:geheim@h", "host:geheim", "//geheim@h"]
    {
        let output = world.semrun(["--backend", url, "status"]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(64) && !said.contains("geheim"), "{said}");
    }
}

#[test]
fn a_server_that_wants_a_key_tells_none_from_a_wrong_one() {
    let world = World::in_cloud(CloudServer::ours());
    let mut without = world.semrun(["status"]);
    let output = without.env_remove("SEMRUN_API_KEY").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains("none was given") && said.contains("SEMRUN_API_KEY"), "{said}");
    let mut wrong = world.semrun(["status"]);
    let output = wrong.env("SEMRUN_API_KEY", "not-this-key-at-all").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains("refused the API key") && !said.contains("not-this-key"), "{said}");
}

#[test]
fn a_command_that_is_not_there_and_what_may_be_meant() {
    let world = World::on_this_machine();
    fs::create_dir(world.path("directory")).unwrap();
    fs::write(world.path("job.sh"), "#!/bin/sh\n").unwrap();
    for (file, start) in [("bad", "#!/no/such/sh -e\n"), ("crlf", "#!/bin/sh\r\n")] {
        fs::write(world.path(file), start).unwrap();
        fs::set_permissions(world.path(file), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let rows: [Row; 9] = [
        ("--name x -- 'echo hi'", 127, &["cannot run echo hi", "-c 'LINE'"]),
        ("--name x -- './job.sh now'", 127, &["-c 'LINE'"]),
        ("--name x limit 3", 127, &["the subcommand goes first: semrun limit"]),
        ("--name x -- job.sh", 127, &["no such command in PATH", "./job.sh"]),
        ("--name x -- ./directory", 126, &["it is a directory"]),
        ("--name x -- ./nope.sh", 127, &["there is no such file"]),
        ("--name x -- ./bad", 126, &["the interpreter '/no/such/sh'", "no such file"]),
        ("--name x -- ./crlf", 126, &["CRLF"]),
        ("--name x -- ./job.sh", 126, &["chmod +x"]),
    ];
    answers(&world, &[], &rows);
}

#[test]
fn without_a_word_the_usage_is_shown() {
    let world = World::on_this_machine();
    for name in ["", "x"] {
        let none: [&str; 0] = [];
        let output = world.semrun(none).env("SEMRUN_NAME", name).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(64), 0), "{said}");
        assert!(said.starts_with("Usage: semrun [OPTIONS] --name NAME"), "{said}");
        assert!(said.contains("semrun status") && said.contains("semrun help"), "{said}");
    }
}

#[test]
fn help_is_there_for_all_and_for_each() {
    let world = World::on_this_machine();
    let printed = |line: &[&str]| {
        let output = world.semrun(line).output().unwrap();
        assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]), "{line:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(printed(&["help"]), printed(&["--help"]));
    for subcommand in ["status", "acquire", "renew", "release", "limit", "serve", "doctor", "help"]
    {
        let page = printed(&["help", subcommand]);
        assert_eq!(page, printed(&[subcommand, "--help"]));
        assert!(page.contains(&format!("Usage: semrun {subcommand}")), "{page}");
    }
}
