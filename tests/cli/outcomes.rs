use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Output;

use super::support::{SEMRUN, World, fails, shows};

/// A command line of sh, with `semrun` in it.
fn line(world: &World, text: &str) -> Output {
    let mut shell = std::process::Command::new("sh");
    shell
        .args(["-c", &text.replace("semrun ", &format!("{SEMRUN} "))])
        .current_dir(world.path("."))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .envs(world.environment());
    shell.output().unwrap()
}

#[test]
fn what_cannot_be_printed_is_not_done() {
    World::everywhere(|world| {
        let cannot = ["cannot write to standard output"];
        for command in [
            "acquire --name x",
            "acquire --json --name x",
            "acquire --shell --name x",
            "limit x 5",
            "limit x --unpin",
            "limit x",
            "status",
            "status --watch",
            "status --json x",
            "doctor",
            "--version",
            "--help",
            "-h",
            "status --help",
            "completions bash",
            "man",
        ] {
            // Closed, and open for reading alone.
            for nowhere in [">&-", "1</dev/null"] {
                fails(&line(world, &format!("semrun {command} {nowhere}")), 125, &cannot);
            }
        }
        shows(&line(world, "semrun limit x"), 0, "x: idle; the next run sets the limit\n", "");
        assert_eq!(world.holders(), [0; 0]);
        // A command may have no use for it.
        shows(&line(world, "semrun --name x -- true >&-"), 0, "", "");
        let permit = line(world, "semrun acquire --name x");
        let permit = String::from_utf8(permit.stdout).unwrap();
        let permit = permit.trim();
        fails(&line(world, &format!("semrun release --force --permit {permit} >&-")), 125, &cannot);
        shows(&line(world, &format!("semrun renew --permit {permit} >&-")), 0, "", "");
        shows(&line(world, &format!("semrun release --permit {permit} >&-")), 0, "", "");
    });
}

#[test]
fn a_shell_that_is_none_is_not_used() {
    let world = World::on_this_machine();
    fs::copy("/bin/true", world.path("git-shell")).unwrap();
    symlink("/bin/false", world.path("nologin")).unwrap();
    fs::write(world.path("dash"), "#!/bin/sh\nexit 0\n").unwrap();
    let own = ["git-shell", "nologin", "dash", "bash"];
    let own = own.map(|name| world.path(name).to_str().unwrap().to_owned());
    let others = ["/usr/sbin/nologin", "/bin/false", "/bin/true", "sh", "./git-shell", "/"];
    for shell in own.iter().map(String::as_str).chain(others) {
        let mut run = world.run(["-c", "exit 7"]);
        shows(&run.env("SHELL", shell).output().unwrap(), 7, "", "");
        let output = world.run(["-v", "-c", "exit 7"]).env("SHELL", shell).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let note = format!("semrun: SHELL is '{shell}', ");
        assert!(stderr.contains(&note) && stderr.contains("; using /bin/sh"), "{stderr}");
    }
    let mut run = world.run(["-c", "exit 7"]);
    shows(&run.env("SHELL", "").output().unwrap(), 7, "", "");
}

#[test]
fn the_hint_for_a_command_that_cannot_run_is_one_that_helps() {
    let world = World::on_this_machine();
    fs::create_dir(world.path("directory")).unwrap();
    fs::write(world.path("script"), "#!/bin/sh\n").unwrap();
    fs::write(world.path("orphan"), "#!/bin/sh\r\n").unwrap();
    fs::set_permissions(world.path("orphan"), fs::Permissions::from_mode(0o755)).unwrap();
    for (command, code, hint) in [
        ("./directory", 126, "it is a directory"),
        ("./script", 126, "not executable (chmod +x makes it so)"),
        ("/dev/null", 126, "it is a pipe, a socket or a device"),
        ("./orphan", 126, "its first line ends with CRLF"),
        ("./nothing", 127, "there is no such file"),
        ("''", 127, "the name of the command is empty"),
    ] {
        let output = line(&world, &format!("semrun --name x -- {command}"));
        fails(&output, code, &["cannot run ", hint]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(stderr.contains("chmod"), hint.contains("chmod"), "{stderr}");
    }
    let output = world.with_mounts(
        "mkdir noexec
        mount -t tmpfs -o noexec tmpfs noexec
        cd noexec
        printf '#!/bin/sh\\n' > script
        chmod 755 script
        SEMRUN_CONFIG=/dev/null SEMRUN_BACKEND=file:///run/semrun-noexec $semrun --name x -- ./script || exit $?",
    );
    fails(&output, 126, &["its file system is mounted noexec"]);
}

#[test]
fn a_secret_is_the_same_whichever_way_it_comes() {
    let world = World::in_redis();
    let _: () = world.server().ask(&["CONFIG", "SET", "requirepass", "geheim"]);
    let secret = |name: &str, text: &str| {
        fs::write(world.path(name), text).unwrap();
        fs::set_permissions(world.path(name), fs::Permissions::from_mode(0o600)).unwrap();
        world.path(name).to_str().unwrap().to_owned()
    };
    for text in ["geheim", "geheim\n", "geheim\r\n", "\u{FEFF}geheim\n"] {
        let mut run = world.run(["true"]);
        shows(&run.env("SEMRUN_PASSWORD", text).output().unwrap(), 0, "", "");
        let mut run = world.run(["--password-file", &secret("password", text), "true"]);
        shows(&run.output().unwrap(), 0, "", "");
        let key = format!("password = {}\n", serde_json::to_string(text).unwrap());
        let mut run = world.run(["--config", &secret("config.toml", &key), "true"]);
        shows(&run.output().unwrap(), 0, "", "");
    }
    for end in ["", "\n", "\r\n"] {
        let url = format!("redis://:geheim@127.0.0.1:{}{end}", world.server().port());
        shows(&world.run(["true"]).env("SEMRUN_BACKEND", url).output().unwrap(), 0, "", "");
    }
    // A user is never passed over, and an empty password is none.
    let _: () = redis_as(&world, &["ACL", "SETUSER", "open", "on", "nopass", "~*", "+@all"]);
    let at = |who: &str| format!("redis://{who}127.0.0.1:{}", world.server().port());
    for who in ["open@", "open:@"] {
        shows(&world.run(["true"]).env("SEMRUN_BACKEND", at(who)).output().unwrap(), 0, "", "");
    }
    for who in ["unknown@", "default@", "default:@"] {
        let mut run = world.run(["true"]);
        fails(&run.env("SEMRUN_BACKEND", at(who)).output().unwrap(), 69, &["refused the user"]);
    }
    for who in ["", ":@"] {
        let mut run = world.run(["true"]);
        fails(&run.env("SEMRUN_BACKEND", at(who)).output().unwrap(), 69, &["wants a password"]);
    }
    let mut run = world.run(["--password-file", &secret("password", "\n"), "true"]);
    fails(&run.output().unwrap(), 78, &["is no password"]);
    let mut run = world.run(["true"]);
    fails(&run.env("SEMRUN_PASSWORD", "\n").output().unwrap(), 64, &["is no password"]);
}

fn redis_as<T: redis::FromRedisValue>(world: &World, words: &[&str]) -> T {
    let url = format!("redis://:geheim@127.0.0.1:{}", world.server().port());
    let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
    redis::cmd(words[0]).arg(&words[1..]).query(&mut connection).unwrap()
}
