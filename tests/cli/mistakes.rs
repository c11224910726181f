//! Typing mistakes, and habits from other programs: each gets an answer that helps.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::cloud_server::CloudServer;
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
    let rows: [Row; 20] = [
        ("statsu", 64, &["no subcommand 'statsu'", "did you mean 'semrun status'?", "-- statsu"]),
        ("stauts x", 64, &["did you mean 'semrun status'?"]),
        ("relase --permit x", 64, &["did you mean 'semrun release'?"]),
        ("docter", 64, &["did you mean 'semrun doctor'?"]),
        ("list", 64, &["no subcommand 'list'", "'semrun status'"]),
        ("version", 64, &["semrun --version"]),
        ("help statsu", 64, &["no subcommand 'statsu'", "'status'"]),
        ("man statsu", 64, &["no subcommand 'statsu'", "'status'"]),
        ("help nonsense", 64, &["no subcommand 'nonsense'", "acquire", "serve"]),
        ("man nonsense", 64, &["no subcommand 'nonsense'", "'semrun man --help'"]),
        ("ls", 64, &["no semaphore named", "-- ls", "did you mean 'semrun status'?"]),
        ("force-release x", 64, &["did you mean 'semrun release --force NAME'?"]),
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
    // Where other programs take a name.
    let rows: [Row; 3] = [
        ("deploy -- true", 127, &["no such command in PATH", "semrun --name deploy -- true"]),
        ("deploy -- touch ran", 127, &["semrun --name deploy -- touch"]),
        ("-- deploy -- touch ran", 127, &["semrun --name deploy -- touch"]),
    ];
    answers(&world, &set, &rows);
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
fn a_variable_that_is_nearly_ours_is_mentioned_and_another_is_not() {
    let world = World::on_this_machine();
    let warning =
        "semrun: warning: unknown variable 'SEMRUN_LIMITS'; did you mean 'SEMRUN_LIMIT'?\n";
    let lines: [&[&str]; 4] =
        [&["--name", "x", "true"], &["status", "x"], &["limit", "x", "--unpin"], &["doctor"]];
    for line in lines {
        let said = |variable: &str| {
            let output = world.semrun(line).env(variable, "3").output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{line:?}");
            String::from_utf8(output.stderr).unwrap()
        };
        // It has a line among the others there.
        assert_eq!(
            said("SEMRUN_LIMITS"),
            if line == ["doctor"] { "" } else { warning },
            "{line:?}"
        );
        for own in ["SEMRUN_VERSION", "SEMRUN_LEVEL", "SEMRUN_LIMIT", "SEMRUN_HELD", "SEMRUNLIMITS"]
        {
            assert_eq!(said(own), "", "{line:?} {own}");
        }
    }
    let mut quiet = world.semrun(["-q", "--name", "x", "true"]);
    assert_eq!(quiet.env("SEMRUN_LIMITS", "3").output().unwrap().stderr, b"");
    let mut acquire = world.semrun(["acquire", "--name", "x"]);
    let output = acquire.env("SEMRUN_TTLS", "30").output().unwrap();
    assert!(output.stderr.ends_with(b"did you mean 'SEMRUN_TTL'?\n"), "{output:?}");
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
        ("--json status", 64, &["semrun status --json", "'semrun status --help'"]),
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
fn dashes_that_are_too_few_or_no_hyphens() {
    let rows: [Row; 11] = [
        ("--label a -name x touch ran", 64, &["did you mean '--name'?"]),
        ("--name x -a find . -name ran", 64, &["unexpected argument '-a'"]),
        ("-name x touch ran", 64, &["unexpected argument '-name'", "'--name'"]),
        ("-name=x touch ran", 64, &["did you mean '--name'?"]),
        ("--name x -limit 3 touch ran", 64, &["did you mean '--limit'?"]),
        ("--name x -wait=5 touch ran", 64, &["did you mean '--wait'?"]),
        ("--name x -command 'touch ran'", 64, &["did you mean '--command'?"]),
        ("\u{2014}name x touch ran", 64, &["(U+2014)", "did you mean '--name'?"]),
        ("--name x \u{2212}n touch ran", 64, &["(U+2212)", "did you mean '-n'?"]),
        ("--name x -- -n touch ran", 127, &["no such command in PATH", "before the '--'"]),
        ("status -json", 64, &["did you mean '--json'?", "'semrun status --help'"]),
    ];
    answers(&World::on_this_machine(), &[], &rows);
}

#[test]
fn words_of_other_programs_and_values_that_fit_nowhere() {
    let rows: [Row; 14] = [
        ("--name x --host h touch ran", 64, &["that is --backend URL", "redis://USER@HOST"]),
        ("--name x --user u touch ran", 64, &["that is --backend URL"]),
        ("--name x --grace 3 touch ran", 64, &["that is --kill-after D"]),
        ("status --version", 64, &["that is semrun --version"]),
        ("release --force", 64, &["semrun release --force NAME", "'semrun release --help'"]),
        ("release --now x", 64, &["--now goes with --force"]),
        ("release", 64, &["--permit UUID@NAME", "--force NAME"]),
        ("serve x", 64, &["serve takes no operands", "'semrun serve --help'"]),
        ("serve --listen 127.0.0.1:99999", 64, &["from 0 to 65535"]),
        ("--name x --quarantine never touch ran", 64, &["'never'", "not auto", "30s"]),
        ("--name x --max-runtime 0 touch ran", 64, &["longer than 0"]),
        ("--name x --password-file empty --backend redis://h touch ran", 78, &["empty is empty"]),
        ("--name x --backend redis://127.0.0.1:1 -n touch ran", 69, &["Connection refused; is it"]),
        ("--name x --backend http://127.0.0.1:1 -w 0.1 touch ran", 69, &["refused; is it running"]),
    ];
    let world = World::on_this_machine();
    fs::write(world.path("empty"), "").unwrap();
    fs::set_permissions(world.path("empty"), fs::Permissions::from_mode(0o600)).unwrap();
    answers(&world, &[], &rows);
}

#[test]
fn a_secret_that_nothing_asks_for_is_a_warning() {
    let world = World::on_this_machine();
    for (option, wants) in [("--password-file", "a Redis"), ("--api-key-file", "http://HOST")] {
        let output = world.semrun(["--name", "x", option, "nowhere", "true"]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(said.contains(&format!("warning: {option} does nothing here")), "{said}");
        assert!(said.contains(wants), "{said}");
    }
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
        ("limit", 64, &["no semaphore named", "semrun limit NAME", "'semrun limit --help'"]),
        ("limit x 3 5", 64, &["unexpected argument '5'", "at most one number"]),
        ("limit x -5", 64, &["unexpected argument '-5'"]),
        ("doctor x", 64, &["semrun doctor --name x"]),
        ("completions tcsh", 64, &["'tcsh'", "bash, elvish, fish", "'semrun completions --help'"]),
        ("completions", 64, &["no shell named", "bash, elvish, fish"]),
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
    let rows: [Row; 13] = [
        ("--backend ./here status", 64, &["'./here'", "file:///PATH"]),
        ("--backend file:/srv/x status", 64, &["'file:/srv/x'", "file:///srv/x?"]),
        ("--backend localhost:6379/0 status", 64, &["redis://localhost:6379/0?"]),
        ("--backend unix:///run/redis.sock status", 64, &["did you mean redis+unix://?"]),
        ("--backend ftp://h status", 64, &["'ftp'", "file:///PATH", "redis://HOST"]),
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
    let rows: [Row; 12] = [
        ("--name x -- cd /tmp", 127, &["only a shell has it", "-c 'LINE'"]),
        ("--name x -- run touch ran", 127, &["needs no subcommand"]),
        ("--name x -- KEY=geheim touch ran", 127, &["cannot run KEY=…", "env KEY=… COMMAND"]),
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
